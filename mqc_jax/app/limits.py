"""What one user may ask for, and the check of a file before anything else opens it."""

import dataclasses
import math
import os
from pathlib import Path

import av

from mqc_jax.errors import UserError
from mqc_jax.report import jpeg
from mqc_jax.video import open_video

# FFmpeg also reads playlists, which name other files and addresses: a user's "video" could make the server fetch them.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,ogg,flv,asf,h264,hevc,gif,apng"


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of one app.

    Attributes:
      megabytes: of an upload, in millions of bytes.
      frames: that are segmented of one video; the rest is left out, and the results say so.
      pixels: of one frame.
      targets: sentences in one job.
      jobs: that run at the same time.
      waiting: jobs that may wait, and unused uploads that are kept.
    """

    megabytes: int = 200
    frames: int = 1000
    pixels: int = 4_200_000
    targets: int = 8
    jobs: int = 1
    waiting: int = 20


@dataclasses.dataclass(frozen=True)
class Clip:
    """A video that can be used.

    Attributes:
      path: the file, or the folder of frames.
      name: what to call it before people; never part of a path.
      size: (height, width).
      frames: as far as the file tells, else None.
      fps: frames per second.
      token: the upload that it came from; "" for an example.
    """

    path: Path
    name: str
    size: tuple[int, int]
    frames: int | None
    fps: float
    token: str = ""

    def sentence(self, limits: Limits) -> str:
        """Size and length for people, and how much of it is used."""
        length = "" if self.frames is None else f", {self.frames:,} frames"
        text = f"{self.size[1]} × {self.size[0]} pixels{length}, {self.fps:.3g} frames/s"
        if self.frames is not None and self.frames > limits.frames:
            text += f"; only the first {limits.frames:,} frames are used here"
        return text


def open_clip(path: Path, name: str, limits: Limits, token: str = "") -> tuple[Clip, bytes]:
    """Checks a video that a user sent, and decodes its first frame.

    Args:
      path: the file.
      name: what the user calls it.
      limits: `pixels` is checked here.
      token: the upload's.

    Returns:
      The clip, and its first frame as JPEG, at most 1280 pixels wide.

    Raises:
      UserError: not a video, or too large a frame. `name` stands in the sentence where the file's path would.
    """
    try:
        if path.is_file():
            _check_container(path, name, limits)
        reader = open_video(path)
    except UserError as error:
        raise UserError(named(str(error), path, name)) from error
    first = next(iter(reader))
    return Clip(path, name, reader.size, reader.frame_count, reader.fps, token), jpeg(first, 1280)


def named(text: str, path: Path, name: str) -> str:
    """A sentence about a file in which people read its name instead of where it lies."""
    return text.replace(os.fspath(path), f"“{name}”")


def _check_container(path: Path, name: str, limits: Limits) -> None:
    """Looks at the header alone: a frame of too many pixels must not be decoded to find that out."""
    only = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
    try:
        with av.open(os.fspath(path), options=only) as container:
            sizes = [(stream.codec_context.width, stream.codec_context.height) for stream in container.streams.video]
    except (av.FFmpegError, OSError, ValueError) as error:
        raise UserError(f"“{name}” is not a video that can be read; send an mp4, webm, avi, mov or mkv file") from error
    if not sizes:
        raise UserError(f"“{name}” holds no picture, only sound or text; send an mp4, webm, avi, mov or mkv file")
    width, height = sizes[0]
    if width * height > limits.pixels:
        side = math.isqrt(limits.pixels)
        raise UserError(
            f"“{name}” has frames of {width} × {height} pixels, the limit here is {limits.pixels:,} pixels (such as "
            f"{side:,} × {side:,}); crop it around the target, or make it smaller"
        )
