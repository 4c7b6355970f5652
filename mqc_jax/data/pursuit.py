"""Windows into training clips as a tracker's are: made for the target's length, and moved after it.

A memory that is to be read in windows must be trained in them. In a window that stays where it is, a small target is
gone after a few frames, and what is learned is to say so.
"""

import numpy as np

from mqc_jax.course import Course
from mqc_jax.tiling import MARGIN, Window, around, follow, inside, main_part, side_of

_SIDES = (0.75, 1.35)  # of the side that the true length asks for: a tracker goes by a mask of its own


def first_window(rng: np.random.Generator, mask: np.ndarray, tile: int) -> Window:
    """A window in which a tracker might follow what a mask, bool [H, W], shows.

    Its side is near `tiling.side_of` the target's length; the target may be anywhere in it where `tiling.follow` would
    leave it, as after some frames.

    Args:
      tile: side in pixels of the tiles that the tracker searches.
    """
    x0, y0, x1, y1 = main_part(mask)
    length = max(x1 - x0, y1 - y0)
    low, high = np.log(_SIDES)
    side = max(length + 2, round(side_of(length, tile) * float(np.exp(rng.uniform(low, high)))))
    spare = [(side - extent) / 2 for extent in (x1 - x0, y1 - y0)]
    slack = [min(max(room - MARGIN * side, MARGIN * side), room - 1) for room in spare]
    x, y = (middle + rng.uniform(-s, s) for middle, s in zip(((x0 + x1) / 2, (y0 + y1) / 2), slack, strict=True))
    return around(float(x), float(y), side, mask.shape)


class Pursuit:
    """Moves a clip's window after its target, as `views.View` does with a target's masks.

    It does not keep pace with the target's pixels: in training the memory is to learn from a target that moves.

    Attributes:
      window: what is seen of the next frame.
    """

    def __init__(self, window: Window, size: tuple[int, int], stride: int) -> None:
        """`size`: (H, W) of the frames. `stride`: video frames from one of the clip's frames to the next."""
        self.window, self._size, self._stride = window, size, stride
        self._course, self._time = Course(), 0

    def after(self, mask: np.ndarray | None) -> Window:
        """The next frame's window, given what is seen in this one: bool [H, W], None where that is not known."""
        box = None if mask is None else main_part(mask)
        seen = box is not None and self._course.see(self._time, box, 1.0)
        self._time += self._stride
        # Between two frames of the clip a video's own frames are left out: a target that is seen is not lost.
        expected = box if seen else self._course.box(self._time)
        if expected is not None:
            self.window = follow(self.window, inside(expected, self._size), self._size)
        return self.window
