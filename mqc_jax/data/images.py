"""Encoded pictures to arrays. Whatever is damaged is refused by its name; nothing is filled in silently."""

import io

import cv2
import numpy as np
from PIL import Image

from mqc_jax.errors import UserError

# The project's own limit is its memory, not Pillow's guess at a decompression bomb.
MAX_PIXELS = 256 * 1024 * 1024

_REDUCED = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}
_JPEG, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_TAIL = 64  # bytes in which a whole file's end marker is looked for: some cameras pad a few behind it


def image_size(data: bytes, name: str) -> tuple[int, int]:
    """(height, width) in pixels from the file's header alone.

    Raises:
      UserError: not a picture, or more than `MAX_PIXELS`.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{name} is not a readable image: {_reason(error)}") from error
    if width * height > MAX_PIXELS:
        raise UserError(f"{name} has {width}x{height} pixels; the limit is {MAX_PIXELS}")
    return height, width


def decode_frame(data: bytes, name: str, reduce: int = 1) -> np.ndarray:
    """An encoded frame as uint8 RGB [ceil(H/reduce), ceil(W/reduce), 3]; `name` is what errors call it.

    With `reduce` 2 or 4 a JPEG is decoded at that fraction of its size, which averages over blocks in the transform
    and so costs a half to a third; other formats have no such short cut and are averaged after decoding.
    A rotation tag is ignored: masks are drawn on the stored grid.

    Raises:
      UserError: the data is no image, or is truncated (OpenCV alone would fill the rest with grey).
    """
    _require_whole(data, name)
    is_jpeg = data.startswith(_JPEG)
    flags = (_REDUCED[reduce] if is_jpeg else cv2.IMREAD_COLOR) | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise UserError(f"{name} is not a readable image: {error.err}") from error
    if image is None:
        raise UserError(f"{name} is not a readable image: its data does not decode")
    if reduce > 1 and not is_jpeg:
        height, width = image.shape[:2]
        image = cv2.resize(image, (-(-width // reduce), -(-height // reduce)), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def decode_labels(data: bytes, name: str) -> np.ndarray:
    """An encoded annotation as object ids, uint8 or uint16 [H, W].

    Palette files give their index, not their colour; so do grey ones. A three-channel picture has no ids.

    Raises:
      UserError: the data is no image, is truncated, or is in colour.
    """
    mode, pixels = _stored_pixels(data, name)
    if mode == "1":
        return (pixels > 0).astype(np.uint8)
    if mode in ("P", "L"):
        return pixels
    if mode.startswith("I") and pixels.size and pixels.min() >= 0 and pixels.max() <= 65535:
        return pixels.astype(np.uint16)
    raise UserError(
        f"{name} is stored in mode {mode!r}; a mask must be a palette or grey PNG whose pixel is an object id"
    )


def decode_mask(data: bytes, name: str) -> np.ndarray:
    """An encoded binary mask as bool [H, W]: any non-zero index, grey value or colour channel is target.

    Raises:
      UserError: the data is no image or is truncated.
    """
    mode, pixels = _stored_pixels(data, name)
    if mode in ("LA", "PA", "RGBA"):
        pixels = pixels[..., :-1]  # Opacity says nothing about the target.
    return pixels.any(axis=-1) if pixels.ndim == 3 else pixels != 0


def _stored_pixels(data: bytes, name: str) -> tuple[str, np.ndarray]:
    """Pillow's name for how the pixels are stored, and the pixels: indices, not colours, where there is a palette."""
    _require_whole(data, name)
    if data.startswith(_PNG) and data[24:26] in (b"\x08\x00", b"\x10\x00"):  # 8 or 16 bits of grey: OpenCV is faster
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)  # and lets other threads run.
        if pixels is not None and pixels.ndim == 2:
            return ("L" if pixels.dtype == np.uint8 else "I;16"), pixels
    try:
        with Image.open(io.BytesIO(data)) as image:
            mode = image.mode
            if mode == "1":
                image = image.convert("L")
            pixels = np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{name} is not a readable mask: {_reason(error)}") from error
    return mode, pixels


def encode_labels(labels: np.ndarray) -> bytes:
    """Object ids uint8/uint16 [H, W] as a grey PNG, which every PNG reader returns as ids (a palette is not)."""
    return cv2.imencode(".png", np.ascontiguousarray(labels), (cv2.IMWRITE_PNG_COMPRESSION, 6))[1].tobytes()


def _require_whole(data: bytes, name: str) -> None:
    if not data:
        raise UserError(f"{name} is empty")
    if data.startswith(_PNG) and _PNG_END not in data:
        raise UserError(f"{name} is truncated: the PNG has no end marker")
    if data.startswith(_JPEG) and _JPEG_END not in data[-_TAIL:]:
        try:  # A long trailer is legal, so the slow decoder that does report truncation has the last word.
            with Image.open(io.BytesIO(data)) as image:
                image.load()
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(f"{name} is truncated: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    text = str(error)
    return "its format is unknown" if "cannot identify image file" in text else text
