"""Opening any video, reading video files one frame at a time, and writing one that a browser plays.

Memory never grows with the video's length: a reader holds one frame, a writer holds what the encoder holds.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from mqc_jax.errors import UserError, nearest
from mqc_jax.pictures import IMAGE_KINDS, FrameFolder, pictures_in, pictures_like
from mqc_jax.reader import Excerpt, Stretch, VideoReader, size_text
from mqc_jax.stream import LiveStream, is_live

_DEEP = re.compile(r"(gray|ya|rgb|bgr|rgba|bgra|gbrp|gbrap)(9|1\d|48|64)(le|be)?")
"""FFmpeg's names of pixel formats that measure more than 8 bits and do not come from a camera's colour coding."""


def open_video(
    path: str | os.PathLike, start: int = 0, end: int | None = None, fps: float | None = None
) -> VideoReader:
    """Opens whatever `predict` takes, or a part of it.

    A video file; a folder of frames; one picture; a pattern (`frames/*.png`, `frames/%05d.png`); a camera's number or
    a stream's address. The first frame is decoded here, so that what cannot be read fails before any work is done.

    Args:
      path: what to open.
      start: number of the first frame to give, counted from 0.
      end: number of the first frame not to give any more; None: all there are.
      fps: frames per second to thin the input out to; for pictures, which have no rate, the rate that is written.

    Raises:
      UserError: nothing there, not a video, no frame in it, a frame that cannot be read, numbers that make no sense.
        While iterating: a file that ends early or is damaged, an unreadable picture, frames of differing sizes.
    """
    reader = _open(os.fspath(path))
    return reader if (start, end, fps) == (0, None, None) else Excerpt(reader, start, end, fps)


def _open(text: str) -> VideoReader:
    place = Path(text)
    if is_live(text):
        return LiveStream(text)
    if place.is_dir():
        return FrameFolder(text, pictures_in(place))
    if place.is_file():
        return FrameFolder(text, [place]) if place.suffix.lower() in IMAGE_KINDS else VideoFile(text)
    pictures = pictures_like(text)
    if pictures is not None:
        return FrameFolder(text, pictures)
    siblings = [entry.name for entry in place.parent.iterdir()] if place.parent.is_dir() else []
    raise UserError(f"there is no video at {text}{nearest(place.name, siblings)}")


class VideoFile(VideoReader):
    """A video file in any container and codec FFmpeg decodes, upright as its rotation tag asks."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        first = None
        with self._open() as container:
            stream = container.streams.video[0]
            rate = stream.average_rate or stream.guessed_rate
            self.fps = float(rate) if rate else 25.0
            self.frame_count = stream.frames or None
            first = next(self._decoded(container, 0), None)
        if first is None:
            raise UserError(f"no frame could be decoded from the video {path}; is the file complete?")
        self.size = first[1].shape[:2]

    @contextlib.contextmanager
    def _open(self) -> Iterator[av.container.InputContainer]:
        try:
            container = av.open(self.path)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise UserError(
                f"{self.path} is not a video that can be read ({_reason(error)}); "
                "give a video file (mp4, avi, webm, ...) that plays, or a folder of frames"
            ) from error
        with container:
            if not container.streams.video:
                raise UserError(f"{self.path} holds no video stream, only {_streams(container)}")
            container.streams.video[0].thread_type = "AUTO"
            yield container

    def numbered(self, start: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        # Frames before `start` are decoded too: seeking lands where the container says, which need not be that frame.
        stretch = Stretch()
        with self._open() as container:
            for index, image in self._decoded(container, start):
                if image.shape[:2] != self.size:
                    raise UserError(
                        f"frames of differing sizes in {self.path}: frame 0 is {size_text(self.size)} "
                        f"but frame {index} is {size_text(image.shape)}"
                    )
                if image.dtype != np.uint8:
                    image = stretch(image)
                    self.note(stretch.sentence)
                    image = image if image.ndim == 3 else np.stack([image] * 3, -1)
                yield index, image

    def _decoded(self, container: av.container.InputContainer, start: int) -> Iterator[tuple[int, np.ndarray]]:
        """(number, frame) from `start` on: uint8 RGB [H, W, 3], or uint16 [H, W] or [H, W, 3] of deep pixels."""
        stream = container.streams.video[0]
        count, end, damaged = 0, 0.0, False
        try:
            for packet in container.demux(stream):
                # FFmpeg's readers flag the packet that a cut file ends in, and then report a normal end.
                if packet.is_corrupt:
                    raise UserError(self._damaged(count, "the data is cut off or overwritten there"))
                for frame in packet.decode():
                    if frame.is_corrupt and not damaged:
                        damaged = True
                        self.note(f"{self.path} is damaged from frame {count} on; the decoder guessed missing parts.")
                    if count >= start:
                        yield count, _upright(frame)
                    count += 1
                    end = max(end, frame.time or 0.0)
        except av.FFmpegError as error:
            raise UserError(self._damaged(count, _reason(error))) from error
        if count and len(container.streams) == 1 and container.duration:
            # Matroska and WebM do not flag a cut; their header still tells the length they were meant to have.
            promised = container.duration / av.time_base
            if end + 1 / self.fps < 0.9 * promised - 0.5:
                raise UserError(
                    f"the video {self.path} ends at {end:.1f} s although its header says {promised:.1f} s; the file is "
                    "cut off: copy it again, or re-encode what is left with `ffmpeg -i IN OUT.mp4`"
                )

    def _damaged(self, index: int, reason: str) -> str:
        return (
            f"the video {self.path} cannot be decoded beyond frame {index} ({reason}); copy it again, "
            "or re-encode what is left with `ffmpeg -i IN OUT.mp4`"
        )


class VideoWriter:
    """Writes RGB frames as H.264 in mp4 (yuv420p, index in front), which every browser plays.

    Used as a context manager: the file appears under its name when the block ends, and not at all if it raises.
    Odd sizes are padded to even ones by repeating the last row or column.

    Raises:
      OSError: the disk is full or refuses the write.
    """

    def __init__(self, path: str | os.PathLike, fps: float) -> None:
        self.path = Path(path)
        self._temporary = self.path.with_name(f".partial-{self.path.name}")
        self._rate = Fraction(fps).limit_denominator(1001) or Fraction(1)
        self._container = None
        self._stream = None
        self.frames = 0

    def __enter__(self) -> "VideoWriter":
        return self

    def write(self, frame: np.ndarray) -> None:
        """Appends one uint8 RGB frame [H, W, 3]; every frame has the first one's size."""
        height, width = frame.shape[:2]
        if height % 2 or width % 2:
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        with _os_errors(self.path):
            if self._container is None:
                self._start(*frame.shape[:2])
            if frame.shape[:2] != (self._stream.height, self._stream.width):
                raise ValueError(
                    f"frame {self.frames} is {size_text(frame.shape)}, the video is {size_text(self._size)}"
                )
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709", threads=1)
            picture.pts, picture.time_base = self.frames, 1 / self._rate
            self._container.mux(self._stream.encode(picture))
        self.frames += 1

    def _start(self, height: int, width: int) -> None:
        self._size = (height, width)
        self._container = av.open(os.fspath(self._temporary), "w", format="mp4", options={"movflags": "faststart"})
        stream = self._container.add_stream("libx264", rate=self._rate, options={"crf": "22", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        # 1 is BT.709 in the standard's tables: without the tags players guess the matrix from the size.
        context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1
        self._stream = stream

    def __exit__(self, kind, error, trace) -> None:
        try:
            if self._container is not None:
                with _os_errors(self.path):
                    if kind is None:
                        self._container.mux(self._stream.encode(None))
                    self._container.close()
            if kind is None and self.frames:
                os.replace(self._temporary, self.path)
        except BaseException:
            if kind is None:  # else the first error is the one to tell
                raise
        finally:
            self._temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _os_errors(path: Path) -> Iterator[None]:
    """FFmpeg's errors as the OSError they stand for, so that a full disk reads like one."""
    try:
        yield
    except av.FFmpegError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def _upright(frame: av.VideoFrame) -> np.ndarray:
    deep = _DEEP.fullmatch(frame.format.name)
    # swscale would keep the top 8 of 16 bits, which are black in a recording that uses the lower 12.
    shape = "rgb24" if not deep else "gray16le" if deep[1] in ("gray", "ya") else "rgb48le"
    # In several threads swscale now and then leaves a wrong row of chroma (seen with PyAV 18, 32 rows, 10 bits).
    image = frame.to_ndarray(format=shape, threads=1)
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def _reason(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or str(error)).rstrip(".").lower()


def _streams(container: av.container.InputContainer) -> str:
    return ", ".join(sorted({stream.type or "unknown" for stream in container.streams})) or "nothing"
