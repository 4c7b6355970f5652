"""Reading any video one frame at a time, and writing one that a browser plays.

Memory never grows with the video's length: a reader holds one frame, a writer holds what the encoder holds.
"""

import contextlib
import glob
import os
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from mqc_jax.errors import UserError, nearest

IMAGE_KINDS = {".jpg": "jpg", ".jpeg": "jpg", ".png": "png", ".tif": "tif", ".tiff": "tif"}
FOLDER_FPS = 10.0
"""Frames per second of a folder of frames, which does not tell; only the overlay's speed depends on it."""

STRETCH = (0.5, 99.5)
"""Percentiles of the first frame that become black and white where pixels are not 8-bit."""


class VideoReader:
    """Frames in order, uint8 RGB [H, W, 3], one at a time. Iterating again starts again at the first frame.

    Attributes:
      path: what was opened, as given.
      size: (height, width) of every frame.
      fps: frames per second.
      frame_count: frames there are as far as the container tells, or None; a damaged header may lie.
      names: file name of each frame for a folder or a pattern, else None.
      notes: sentences a reader of the results should know (conversions, repairs). May grow while frames are read.
    """

    path: str
    size: tuple[int, int]
    fps: float
    frame_count: int | None
    names: tuple[str, ...] | None = None

    def __init__(self) -> None:
        self.notes: list[str] = []

    def __iter__(self) -> Iterator[np.ndarray]:
        raise NotImplementedError

    def note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)


def open_video(path: str | os.PathLike) -> VideoReader:
    """Opens a video file, a folder of frames, one picture, or a pattern (`frames/*.png`, `frames/%05d.png`).

    The first frame is decoded here, so that what cannot be read fails before any work is done.

    Raises:
      UserError: nothing there, not a video, no frame in it, or a frame that cannot be read. While iterating: a file
        that ends early or is damaged, an unreadable picture, frames of differing sizes.
    """
    text = os.fspath(path)
    place = Path(text)
    if place.is_dir():
        return FrameFolder(text, _pictures_in(place))
    if place.is_file():
        return FrameFolder(text, [place]) if place.suffix.lower() in IMAGE_KINDS else VideoFile(text)
    if re.search(r"[*?\[]|%0?\d*d", text):
        # Everything but the number itself is taken literally in a printf pattern; in a glob nothing is.
        parts = re.split(r"%0?\d*d", text)
        found = glob.glob("[0-9]*".join(map(glob.escape, parts)) if len(parts) > 1 else text)
        pictures = [Path(name) for name in found if Path(name).suffix.lower() in IMAGE_KINDS]
        if not pictures:
            raise UserError(f"no jpg, png or tif picture matches the pattern {text}")
        return FrameFolder(text, _one_kind(pictures, text))
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
            first = next(self._decoded(container), None)
        if first is None:
            raise UserError(f"no frame could be decoded from the video {path}; is the file complete?")
        self.size = first.shape[:2]

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

    def __iter__(self) -> Iterator[np.ndarray]:
        with self._open() as container:
            for index, frame in enumerate(self._decoded(container)):
                if frame.shape[:2] != self.size:
                    raise UserError(
                        f"frames of differing sizes in {self.path}: frame 0 is {_size(self.size)} "
                        f"but frame {index} is {_size(frame.shape)}"
                    )
                yield frame

    def _decoded(self, container: av.container.InputContainer) -> Iterator[np.ndarray]:
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
                    yield _upright(frame)
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


class FrameFolder(VideoReader):
    """Pictures as frames. 8 bits are taken as they are; more are stretched with the first frame's percentiles."""

    def __init__(self, path: str, pictures: list[Path]) -> None:
        super().__init__()
        self.path, self.fps = path, FOLDER_FPS
        self._pictures = sorted(pictures, key=lambda picture: natural(picture.name))
        self.names = tuple(picture.name for picture in self._pictures)
        self.frame_count = len(self._pictures)
        self._stretch: tuple[float, float] | None = None
        self.size = self._read(self._pictures[0]).shape[:2]

    def __iter__(self) -> Iterator[np.ndarray]:
        for picture in self._pictures:
            frame = self._read(picture)
            if frame.shape[:2] != self.size:
                raise UserError(
                    f"frames of differing sizes in {self.path}: {self._pictures[0].name} is {_size(self.size)} "
                    f"but {picture.name} is {_size(frame.shape)}"
                )
            yield frame

    def _read(self, picture: Path) -> np.ndarray:
        image = read_image(picture)
        channels = image.shape[2]
        if channels > 4:
            raise UserError(f"{picture} has {channels} channels; frames need 1 to 4 (red, green, blue, anything)")
        if channels in (1, 2):
            if channels == 2:
                self.note("Frames have 2 channels; the first is shown as grey and the second is left out.")
            image = image[..., [0, 0, 0]]
        elif channels == 4:
            self.note("Frames have 4 channels; the first three are taken as red, green and blue.")
            image = image[..., :3]
        if image.dtype == np.uint8:
            return np.ascontiguousarray(image)
        return self._to_8_bit(image)

    def _to_8_bit(self, image: np.ndarray) -> np.ndarray:
        values = image.astype(np.float32)
        if self._stretch is None:
            finite = values[np.isfinite(values)]
            low, high = map(float, np.percentile(finite, STRETCH)) if finite.size else (0.0, 1.0)
            self._stretch = (low, high if high > low else low + 1.0)
            self.note(
                f"Frames are {image.dtype}; {self._stretch[0]:g} to {self._stretch[1]:g} (percentiles {STRETCH[0]:g} "
                f"and {STRETCH[1]:g} of the first frame) were stretched to 0..255 in every frame."
            )
        low, high = self._stretch
        values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
        return (np.clip((values - low) / (high - low), 0, 1) * 255 + 0.5).astype(np.uint8)


def read_image(path: str | os.PathLike) -> np.ndarray:
    """A picture [H, W, C] in RGB(A) order, at its own depth.

    Raises:
      UserError: it cannot be read, is cut off, or holds several pages.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"the picture {path} cannot be read ({error.strerror})") from error
    # The decoders fill the missing part of a cut picture with grey and only warn.
    marker = {b"\xff\xd8": b"\xff\xd9", b"\x89P": b"IEND"}.get(data[:2])
    if marker and marker not in data[-65536:]:
        raise UserError(f"the picture {path} is cut off; copy it again")
    buffer = np.frombuffer(data, np.uint8)
    image = None
    with contextlib.suppress(cv2.error):
        image = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED) if data else None
    if image is None:
        raise UserError(f"the picture {path} cannot be decoded; is it a jpg, png or tif?")
    if IMAGE_KINDS.get(path.suffix.lower()) == "tif" and cv2.imcount(os.fspath(path)) > 1:
        raise UserError(f"{path} holds {cv2.imcount(os.fspath(path))} pages; save each page as a picture of its own")
    if image.ndim == 2:
        return image[..., None]
    return image[..., [2, 1, 0, *range(3, image.shape[2])]] if image.shape[2] >= 3 else image


def natural(name: str) -> list:
    """Sort key under which frame2 comes before frame10."""
    return [int(part) if part.isdigit() else part.lower() for part in re.split(r"([0-9]+)", name)]


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
                raise ValueError(f"frame {self.frames} is {_size(frame.shape)}, the video is {_size(self._size)}")
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709")
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


def _pictures_in(folder: Path) -> list[Path]:
    def pictures(place: Path) -> list[Path]:
        entries = (entry for entry in place.iterdir() if not entry.name.startswith("."))
        return [entry for entry in entries if entry.suffix.lower() in IMAGE_KINDS and entry.is_file()]

    found = pictures(folder)
    if found:
        return _one_kind(found, os.fspath(folder))
    below = (place for depth in ("*", "*/*") for place in sorted(folder.glob(depth)) if place.is_dir())
    fullest = max(((len(pictures(place)), os.fspath(place)) for place in below), default=(0, ""))
    hint = f"; did you mean {fullest[1]}?" if fullest[0] else ""
    raise UserError(f"the folder {folder} holds no frame (jpg, png or tif){hint}")


def _one_kind(pictures: list[Path], where: str) -> list[Path]:
    kinds = sorted({IMAGE_KINDS[picture.suffix.lower()] for picture in pictures})
    if len(kinds) > 1:
        raise UserError(
            f"{where} holds pictures of {len(kinds)} kinds ({', '.join(kinds)}), and which are the frames is unclear; "
            f"give a pattern such as {os.path.join(where if os.path.isdir(where) else '.', '*.' + kinds[0])!r}"
        )
    return pictures


def _upright(frame: av.VideoFrame) -> np.ndarray:
    image = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def _reason(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or str(error)).rstrip(".").lower()


def _streams(container: av.container.InputContainer) -> str:
    return ", ".join(sorted({stream.type or "unknown" for stream in container.streams})) or "nothing"


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
