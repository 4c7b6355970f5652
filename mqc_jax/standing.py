"""What stood on the ground while the target was somewhere else, and is therefore not the target.

A cloud or a bridge hides a moving target, and where it should come out a parked look-alike has the mask, or the edge of
a quay, or a mark on the road; or a target passes its double and leaves the mask to it. Nothing in one picture tells
these from the target. But they were there all the time. So the surroundings of the target are kept as they looked at
some of its sights, and a mask is asked whether its pixels were in the same place on the ground then, with the target
elsewhere.
"""

import dataclasses

import cv2
import numpy as np

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels of the frame, the latter two exclusive."""

# Chosen on seeds 905, 911 and the roads of 921 and 922 (docs/experiments.md).
_SAME = 0.85  # correlation of what stands, with what was there
_STAYS = 0.5  # IoU of the boxes of what stood, and of what has the mask in the frame after
_APART = 5.0  # pixels from the target, then, at least, and either's length: else it may be a part of it
_EVERY, _KEPT = 6, 4  # frames from one picture of the surroundings to the next, and how many are kept
_SIDE, _SIDES = 512, 3  # of that picture, in pixels, and at least so many windows
_PAD = 1  # pixels of ground around what has the mask: its edge is what is seen best
_LEAST_SIDE, _LEAST_CONTRAST = 4, 1.0  # pixels and grey levels; there is no finding again what has less


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What was around a target at one of its sights.

    Attributes:
      grey: uint8 [h, w], a part of the frame.
      corner: x, y of that part.
      pose: float [3, 3], the frame's (`ground.Ground`).
      frame: the frame's number.
      middle: x, y of the target's middle in the frame.
    """

    grey: np.ndarray
    corner: tuple[int, int]
    pose: np.ndarray
    frame: int
    middle: tuple[float, float]


@dataclasses.dataclass
class Standing:
    """What is known of a target's surroundings.

    Attributes:
      kept: the latest, oldest first.
      length: of the target's longer side in pixels, the largest so far, and of what it was given as. Of a long one, of
        which the mask shows now this part and now that, every part is near the whole.
      still: (frame, x, y, width, height) of what stood and had the mask until that frame: its middle on the ground, and
        its size in pixels; None: nothing yet.
    """

    kept: list[Surroundings] = dataclasses.field(default_factory=list)
    length: float = 0.0
    still: tuple[int, float, float, float, float] | None = None

    def see(
        self, number: int, frame: np.ndarray, pose: np.ndarray, middle: tuple[float, float], length: float, side: int
    ) -> None:
        """Takes a sight of the target.

        Args:
          number: of the frame, larger than those before.
          frame: uint8 RGB [H, W, 3].
          pose: float [3, 3], the frame's.
          middle: x, y of the target's middle.
          length: of its longer side, in pixels.
          side: of the window that it was seen in, in pixels.
        """
        self.length = max(self.length, length)
        if self.kept and number - self.kept[-1].frame < _EVERY:
            return
        half = max(_SIDE, _SIDES * side) // 2
        x, y = (max(round(at) - half, 0) for at in middle)
        part = frame[y : max(round(middle[1]) + half, 0), x : max(round(middle[0]) + half, 0)]
        if part.size:
            grey = cv2.cvtColor(np.ascontiguousarray(part), cv2.COLOR_RGB2GRAY)
            self.kept = [*self.kept, Surroundings(grey, (x, y), pose.copy(), number, middle)][-_KEPT:]

    def stood(self, number: int, frame: np.ndarray, pose: np.ndarray, box: Box) -> bool:
        """Whether what is in a box was there already when the target was elsewhere.

        What stood in the frame before, and has not moved, stands: a cloud may have come over it.

        Args:
          number: of the frame, larger than those before.
          frame: uint8 RGB [H, W, 3].
          pose: float [3, 3], the frame's.
          box: of what has the mask, inside the frame.
        """
        middle, size = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), (box[2] - box[0], box[3] - box[1])
        if self._was_there(frame, pose, box):
            self.still = (number, *map(float, _moved(np.linalg.inv(pose), middle)), *map(float, size))
            return True
        if self.still is None or self.still[0] != number - 1:
            return False
        away = np.abs(_moved(pose, self.still[1:3]) - middle)
        common = np.clip((np.add(self.still[3:], size)) / 2 - away, 0, np.minimum(self.still[3:], size)).prod()
        if common < _STAYS * (np.prod(self.still[3:]) + np.prod(size) - common):
            return False
        self.still = (number, *self.still[1:])
        return True

    def _was_there(self, frame: np.ndarray, pose: np.ndarray, box: Box) -> bool:
        height, width = frame.shape[:2]
        x0, y0 = max(box[0] - _PAD, 0), max(box[1] - _PAD, 0)
        patch = frame[y0 : min(box[3] + _PAD, height), x0 : min(box[2] + _PAD, width)]
        if min(patch.shape[:2]) < _LEAST_SIDE:
            return False
        patch = cv2.cvtColor(np.ascontiguousarray(patch), cv2.COLOR_RGB2GRAY)
        if patch.std() < _LEAST_CONTRAST:
            return False
        middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        apart = max(self.length, box[2] - box[0], box[3] - box[1], _APART)
        return any(
            np.hypot(*(_moved(pose @ np.linalg.inv(then.pose), then.middle) - middle)) >= apart
            and _likeness(patch, then, _moved(then.pose @ np.linalg.inv(pose), (x0, y0))) > _SAME
            for then in self.kept
        )


def _moved(pose: np.ndarray, point: tuple[float, float]) -> np.ndarray:
    return (pose @ (*point, 1.0))[:2]


def _likeness(patch: np.ndarray, then: Surroundings, corner: np.ndarray) -> float:
    """The best correlation of a patch with what was within a pixel of a place, in [-1, 1]; -1 where nothing is kept."""
    x, y = np.round(corner).astype(int) - then.corner
    height, width = patch.shape
    part = then.grey[max(y - 1, 0) : max(y + height + 1, 0), max(x - 1, 0) : max(x + width + 1, 0)]
    if part.shape[0] < height or part.shape[1] < width:
        return -1.0
    return float(cv2.matchTemplate(part, patch, cv2.TM_CCOEFF_NORMED).max())
