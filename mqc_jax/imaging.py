"""The one definition of how a frame becomes the model's input and how its logits become a mask of the frame's size."""

from typing import NamedTuple

import cv2
import numpy as np


class Turn(NamedTuple):
    """One of the eight ways in which a picture seen from above can lie: mirrored or not, then turned by quarters."""

    quarters: int = 0
    mirrored: bool = False

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The turned view of an image [H, W, ...]; nothing is copied."""
        return np.rot90(image[:, ::-1] if self.mirrored else image, self.quarters)


def resize(image: np.ndarray, side: int) -> np.ndarray:
    """[H, W, ...] to [side, side, ...], each axis by area where it shrinks and linearly where it grows."""
    height, width = image.shape[:2]
    shrunk = (min(height, side), min(width, side))
    if shrunk != (height, width):
        image = cv2.resize(image, shrunk[::-1], interpolation=cv2.INTER_AREA)
    if shrunk != (side, side):
        image = cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR)
    return image


def resize_mask(mask: np.ndarray, side: int) -> np.ndarray:
    """A mask bool [H, W] to uint8 0/1 [side, side]: pixels at least half covered.

    A target too small to half cover any pixel keeps the pixel that it covers most: a present target is never lost.
    """
    coverage = resize(mask.astype(np.float32), side)
    # Sums of float32 weights may fall an ulp short of an exact half.
    small = (coverage >= 0.5 - 1e-6).view(np.uint8)
    if not small.any():
        peak = coverage.argmax()
        if coverage.flat[peak] > 0:
            small.flat[peak] = 1
    return small


def mask_from_logits(logits: np.ndarray, height: int, width: int) -> np.ndarray:
    """float32 [h, w] -> bool [height, width]: bilinear (pixel centres, as the model's own upsampling), then > 0."""
    return cv2.resize(logits, (width, height), interpolation=cv2.INTER_LINEAR) > 0
