"""How the ground lies in the picture, from frame to frame.

A satellite's picture drifts and shakes by a pixel or two a frame, as much as many targets move. What moves and what
stands can be told apart over the ground alone.

`models.flow` fits the background to dense flow: that is made for a window of the model's size, and would cost seconds a
pair of whole frames. Here some hundred corners are followed.
"""

from typing import NamedTuple

import cv2
import numpy as np

_SIDE = 1024  # pixels; the longest side at which frames are compared, which costs less than 0.05 pixels of accuracy
_POINTS, _POINTS_APART, _FEWEST_POINTS = 400, 12, 12
_RETURNS, _AGREES = 0.5, 0.7  # pixels: of a point followed forth and back, and of a point from the fit


class Shot(NamedTuple):
    """A frame, and where the ground lies in it.

    Attributes:
      pixels: uint8 RGB [H, W, 3].
      pose: float64 [3, 3], as `Ground.pose`.
    """

    pixels: np.ndarray
    pose: np.ndarray


def motion(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """How the ground moves from one frame to the next: turned, scaled and shifted.

    Corners are followed by Lucas and Kanade's method forth and back, and fitted by RANSAC.

    Args:
      before, after: grey uint8 [H, W].

    Returns:
      float [2, 3], what takes (x, y, 1) to the next frame; standing still where too few corners are found again.
    """
    still = np.eye(2, 3)
    points = cv2.goodFeaturesToTrack(before, _POINTS, 0.01, _POINTS_APART)
    if points is None or len(points) < _FEWEST_POINTS:
        return still
    there, found, _ = cv2.calcOpticalFlowPyrLK(before, after, points, None)
    back, found_back, _ = cv2.calcOpticalFlowPyrLK(after, before, there, None)
    good = (found & found_back)[:, 0].astype(bool) & (np.hypot(*(back - points)[:, 0].T) < _RETURNS)
    if good.sum() < _FEWEST_POINTS:
        return still
    fit, _ = cv2.estimateAffinePartial2D(points[good], there[good], ransacReprojThreshold=_AGREES)
    return still if fit is None else fit


class Ground:
    """The ground of a stream of frames.

    Attributes:
      grey: uint8 [h, w], the last frame, shrunk to at most 1024 pixels; None: none yet.
      pose: float64 [3, 3], what takes (x, y, 1) on the ground of the first frame to the last one. Only the way from one
        frame to another means something: `later.pose @ inv(earlier.pose)`.
    """

    def __init__(self, grey: np.ndarray | None = None, pose: np.ndarray | None = None) -> None:
        self.grey, self.pose = grey, np.eye(3) if pose is None else pose

    def push(self, frame: np.ndarray) -> np.ndarray:
        """Takes the next frame, RGB [H, W, 3] or grey [H, W], uint8, and gives its pose."""
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) if frame.ndim == 3 else frame
        scale = min(1.0, _SIDE / max(grey.shape))
        if scale < 1:
            grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        if self.grey is not None:
            moved = motion(self.grey, grey)
            moved[:, 2] /= scale
            self.pose = np.vstack([moved, (0, 0, 1)]) @ self.pose
        self.grey = grey
        return self.pose
