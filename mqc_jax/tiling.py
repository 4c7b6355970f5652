"""Windows into a large frame: which ones cover it, and how one follows a target. Whole pixels, pure functions."""

from typing import NamedTuple

import cv2
import numpy as np

MARGIN = 1 / 8
"""Share of a window's side that a target may not touch without the window being moved."""


def side_of(length: int, tile: int) -> int:
    """Side of the window in which a target of so many pixels is followed, where tiles of a given side are searched.

    A target is outlined best where it is large, and needs room to move and to come back after an occlusion: three times
    its length up to three quarters of a tile. What is longer is mostly thin, and gets 1.4 times its length; a tiny one
    gets three eighths of a tile.
    """
    return max(3 * tile // 8, min(3 * length, 3 * tile // 4), 7 * length // 5)


class Window(NamedTuple):
    """A part of a frame: the columns x to x + width - 1 and the rows y to y + height - 1."""

    x: int
    y: int
    width: int
    height: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1; the latter two are exclusive."""
        return self.x, self.y, self.x + self.width, self.y + self.height

    def cut(self, frame: np.ndarray) -> np.ndarray:
        """That part of an array [H, W, ...], as a view."""
        return frame[self.y : self.y + self.height, self.x : self.x + self.width]


def around(x: float, y: float, side: int, size: tuple[int, int]) -> Window:
    """The window of a given side whose middle is as near to a point as the frame `(H, W)` lets it be.

    Where the frame is narrower or lower than `side`, so is the window.
    """
    height, width = min(side, size[0]), min(side, size[1])
    return Window(_place(x, width, size[1]), _place(y, height, size[0]), width, height)


def _place(middle: float, length: int, limit: int) -> int:
    return min(max(round(middle - length / 2), 0), limit - length)


def cover(side: int, size: tuple[int, int], overlap: float = 0.25) -> list[Window]:
    """Windows of a given side that cover a frame `(H, W)` evenly; neighbours share at least `overlap` of their side."""
    height, width = min(side, size[0]), min(side, size[1])
    rows, columns = (_starts(length, limit, overlap) for length, limit in ((height, size[0]), (width, size[1])))
    return [Window(x, y, width, height) for y in rows for x in columns]


def _starts(length: int, limit: int, overlap: float) -> list[int]:
    step = max(1, int(length * (1 - overlap)))
    count = 1 - (length - limit) // step  # rounded up
    return [round(k * (limit - length) / max(1, count - 1)) for k in range(count)]


def follow(window: Window, box: tuple[int, int, int, int], size: tuple[int, int]) -> Window:
    """The window for the next frame, given where in the frame `(H, W)` the target is in this one.

    A window stays where it is as long as it can, since what is remembered was seen through it. In each direction it
    moves, then so that the target is in its middle, when the target comes nearer to its edge than `MARGIN`. Of a target
    too long for that, the middle may be off the window's middle by `MARGIN`.

    Args:
      box: x0, y0, x1, y1 of the target, the latter two exclusive; not larger than the window.
    """
    x = _follow(window.x, window.width, box[0], box[2], size[1])
    y = _follow(window.y, window.height, box[1], box[3], size[0])
    return Window(x, y, window.width, window.height)


def _follow(start: int, length: int, low: int, high: int, limit: int) -> int:
    margin = MARGIN * length
    middle = (low + high) / 2
    slack = max((length - (high - low)) / 2 - margin, margin)
    moved = _place(middle, length, limit)
    inside = start <= low and high <= start + length
    return start if inside and abs(middle - start - length / 2) <= slack else moved


def inside(box: tuple[float, float, float, float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The whole pixels of a box whose middle is brought into the frame `(H, W)`, if it has left it."""
    (x0, y0, x1, y1), (height, width) = box, size
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    dx, dy = min(max(x, 0), width) - x, min(max(y, 0), height) - y
    return round(x0 + dx), round(y0 + dy), round(x1 + dx), round(y1 + dy)


def main_part(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """Box of a bool mask's largest connected piece, x0, y0, x1, y1, the latter two exclusive; None for an empty one."""
    rows = np.flatnonzero(mask.any(1))
    if not len(rows):
        return None
    top, bottom = rows[0], rows[-1] + 1
    columns = np.flatnonzero(mask[top:bottom].any(0))
    left, right = columns[0], columns[-1] + 1
    # Pieces are looked for in the mask's own box: in a frame of a million pixels a target has some hundred.
    part = np.ascontiguousarray(mask[top:bottom, left:right]).view(np.uint8)
    _, _, facts, _ = cv2.connectedComponentsWithStats(part, connectivity=8)
    x, y, width, height, _ = map(int, facts[1 + facts[1:, cv2.CC_STAT_AREA].argmax()])
    return int(left) + x, int(top) + y, int(left) + x + width, int(top) + y + height
