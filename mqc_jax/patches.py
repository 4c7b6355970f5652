"""Looking for a patch of one grey frame in others: how alike it is, and where it is most alike.

Frames and patches are grey uint8 [H, W] and [h, w]; places are x and y in pixels of a patch's first corner. How alike
two of one size are is their correlation, in [-1, 1], which exposure does not change.
"""

import cv2
import numpy as np


def inside(corner: np.ndarray, patch: np.ndarray, frame: np.ndarray) -> bool:
    """Whether a patch at a place lies in the frame, but for a pixel."""
    last = np.subtract(frame.shape, patch.shape)[::-1]
    return bool((corner >= -1).all() and (corner <= last + 1).all())


def turned(frame: np.ndarray, patch: np.ndarray, corner: tuple[int, int], angle: float) -> np.ndarray:
    """A patch of a frame, as it looks when it is turned by so many degrees about its middle."""
    if not angle:
        return patch
    height, width = patch.shape
    turn = cv2.getRotationMatrix2D((corner[0] + (width - 1) / 2, corner[1] + (height - 1) / 2), angle, 1.0)
    turn[:, 2] -= corner
    return cv2.warpAffine(frame, turn, (width, height), borderMode=cv2.BORDER_REPLICATE)


def around(
    frame: np.ndarray, patch: np.ndarray, corner: np.ndarray, reach: int
) -> tuple[np.ndarray | None, np.ndarray]:
    """The part of a frame in which a patch's corner may be so far off a place, and where it begins; None outside."""
    x, y = np.round(corner).astype(int)
    height, width = patch.shape
    left, top = max(x - reach, 0), max(y - reach, 0)
    part = frame[top : max(y + height + reach, 0), left : max(x + width + reach, 0)]
    return part if part.shape[0] >= height and part.shape[1] >= width else None, np.array((left, top))


def best(part: np.ndarray, patch: np.ndarray) -> tuple[float, np.ndarray]:
    """The best correlation of a patch with a part of a frame, in [-1, 1], and where in it: x and y."""
    _, value, _, place = cv2.minMaxLoc(cv2.matchTemplate(part, patch, cv2.TM_CCOEFF_NORMED))
    return float(value), np.array(place, float)


def in_place(frame: np.ndarray, patch: np.ndarray, place: np.ndarray) -> float:
    """A patch's correlation with a frame where it stood, but for a pixel."""
    part, _ = around(frame, patch, place, 1)
    return -1.0 if part is None else best(part, patch)[0]


def everywhere(frame: np.ndarray, patch: np.ndarray, corner: np.ndarray, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """A patch's correlations wherever its corner is so far off a place, -1 outside of the frame, and the first's place.

    Returns:
      float32 [2 reach + 1, 2 reach + 1] and int [2], x and y.
    """
    origin = np.round(corner).astype(int) - reach
    found = np.full((2 * reach + 1, 2 * reach + 1), -1, np.float32)
    part, first = around(frame, patch, corner, reach)
    if part is not None:
        values = cv2.matchTemplate(part, patch, cv2.TM_CCOEFF_NORMED)
        left, top = first - origin
        found[top : top + values.shape[0], left : left + values.shape[1]] = values
    return found, origin
