"""The one definition of how a frame becomes the model's input and how its logits become a mask of the frame's size."""

import cv2
import numpy as np


def resize_frame(frame: np.ndarray, size: int) -> np.ndarray:
    """uint8 RGB [H, W, 3] -> uint8 [size, size, 3].

    Averages areas when both sides shrink, since a tiny target aliases away otherwise; interpolates linearly else.
    """
    if frame.shape[:2] == (size, size):
        return frame
    shrinks = frame.shape[0] >= size and frame.shape[1] >= size
    return cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def mask_from_logits(logits: np.ndarray, height: int, width: int) -> np.ndarray:
    """float32 [h, w] -> bool [height, width]: bilinear (pixel centres, as the model's own upsampling), then > 0."""
    return cv2.resize(logits, (width, height), interpolation=cv2.INTER_LINEAR) > 0


def resize_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """bool [H, W] -> float32 [size, size] in {0, 1}: covered by at least half.

    A target that is there never vanishes: if no pixel is half covered, the one that is covered most stays.
    """
    if mask.shape == (size, size):
        return mask.astype(np.float32)
    shrinks = mask.shape[0] >= size and mask.shape[1] >= size
    coverage = cv2.resize(
        mask.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    kept = coverage >= 0.5
    if mask.any() and not kept.any():
        kept.flat[coverage.argmax()] = True
    return kept.astype(np.float32)
