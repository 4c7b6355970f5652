"""Pictures as the frames of a video: folders, patterns, single files; jpg, png, tif and GeoTIFF."""

import contextlib
import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from mqc_jax import geo
from mqc_jax.errors import UserError
from mqc_jax.reader import Stretch, VideoReader, size_text

IMAGE_KINDS = {".jpg": "jpg", ".jpeg": "jpg", ".png": "png", ".tif": "tif", ".tiff": "tif"}
FOLDER_FPS = 10.0
"""Frames per second of a folder of frames, which does not tell; only the overlay's speed depends on it."""


class FrameFolder(VideoReader):
    """Pictures as frames. 8 bits are taken as they are; more are stretched with the first frame's percentiles.

    Args:
      path: what was opened, for messages.
      pictures: the files; their order is that of the numbers in their names.
    """

    timed = False

    def __init__(self, path: str, pictures: list[Path]) -> None:
        super().__init__()
        self.path, self.fps = path, FOLDER_FPS
        self._pictures = sorted(pictures, key=lambda picture: natural(picture.name))
        self.names = tuple(picture.name for picture in self._pictures)
        self.frame_count = len(self._pictures)
        self.size = self._read(self._pictures[0]).shape[:2]

    def numbered(self, start: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        stretch = Stretch()
        for number, picture in enumerate(self._pictures[start:], start):
            image = self._read(picture)
            if image.shape[:2] != self.size:
                raise UserError(
                    f"frames of differing sizes in {self.path}: {self._pictures[0].name} is {size_text(self.size)} "
                    f"but {picture.name} is {size_text(image.shape)}"
                )
            if image.dtype != np.uint8:
                image = stretch(image)
                self.note(stretch.sentence)
            yield number, image[..., [0, 0, 0]] if image.shape[2] == 1 else np.ascontiguousarray(image)

    def reference(self, number: int) -> geo.GeoReference | None:
        picture = self._pictures[number]
        return geo.read_reference(picture) if geo.is_geotiff(picture) else None

    def _read(self, picture: Path) -> np.ndarray:
        """[H, W, 1 or 3] at its own depth."""
        if geo.is_geotiff(picture):
            image, notes = geo.read_frame(picture)
            for sentence in notes:
                self.note(sentence)
            return image
        image = read_image(picture)
        channels = image.shape[2]
        if channels > 4:
            raise UserError(f"{picture} has {channels} channels; frames need 1 to 4 (red, green, blue, anything)")
        if channels == 2:
            self.note("Frames have 2 channels; the first is shown as grey and the second is left out.")
        elif channels == 4:
            self.note("Frames have 4 channels; the first three are taken as red, green and blue.")
        return image[..., :1] if channels < 3 else image[..., :3]


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


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of one kind that a folder holds.

    Raises:
      UserError: there is none, or there are several kinds.
    """

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


def pictures_like(pattern: str) -> list[Path] | None:
    """The pictures that a pattern (`frames/*.png`, `frames/%05d.png`) names; None where `pattern` is none.

    Raises:
      UserError: no picture matches, or pictures of several kinds do.
    """
    if not re.search(r"[*?\[]|%0?\d*d", pattern):
        return None
    # Everything but the number itself is taken literally in a printf pattern; in a glob nothing is.
    parts = re.split(r"%0?\d*d", pattern)
    found = glob.glob("[0-9]*".join(map(glob.escape, parts)) if len(parts) > 1 else pattern)
    pictures = [Path(name) for name in found if Path(name).suffix.lower() in IMAGE_KINDS]
    if not pictures:
        raise UserError(f"no jpg, png or tif picture matches the pattern {pattern}")
    return _one_kind(pictures, pattern)


def _one_kind(pictures: list[Path], where: str) -> list[Path]:
    kinds = sorted({IMAGE_KINDS[picture.suffix.lower()] for picture in pictures})
    if len(kinds) > 1:
        raise UserError(
            f"{where} holds pictures of {len(kinds)} kinds ({', '.join(kinds)}), and which are the frames is unclear; "
            f"give a pattern such as {os.path.join(where if os.path.isdir(where) else '.', '*.' + kinds[0])!r}"
        )
    return pictures
