"""Referring expressions from the first frame alone (eq. 4): the cell of a 3x3 grid, and the fine class.

Two objects of one class in one cell need a further attribute that the first frame shows: a colour, or being the
left-most, right-most, top-most, bottom-most, largest or smallest of them. An object that none of these tells apart
gets no expression.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_ROWS, _COLUMNS = ("top", "center", "bottom"), ("left", "center", "right")
_WORDING = {
    "wide_bodied_aircraft": "wide-bodied aircraft",
    "narrow_bodied_aircraft": "narrow-bodied aircraft",
    "cruise": "cruise ship",
    "naval_vessels": "naval vessel",
}


@dataclass(frozen=True)
class Description:
    """An expression and the one object that it names.

    Attributes:
      attribute: the further attribute used, or "".
      phrase: the class as it is spoken.
      place: the cell's name.
    """

    object_id: int
    text: str
    attribute: str = ""
    phrase: str = ""
    place: str = ""


def class_phrase(category: str) -> str:
    """How a fine class is spoken: `"naval_vessels"` -> `"naval vessel"`."""
    return _WORDING.get(category, category.replace("_", " ").strip())


def grid_cell(x: float, y: float, size: tuple[int, int]) -> tuple[int, int]:
    """Row and column, each 0..2, of the cell of the 3x3 grid on a frame `(H, W)` that holds a pixel position."""
    rows, cols = size
    return min(2, max(0, int(3 * (y + 0.5) / rows))), min(2, max(0, int(3 * (x + 0.5) / cols)))


def location(cell: tuple[int, int]) -> str:
    """A cell's name: "top-left", "top", "left", "center", ..."""
    row, column = _ROWS[cell[0]], _COLUMNS[cell[1]]
    if row == column:
        return "center"
    if "center" in (row, column):
        return column if row == "center" else row
    return f"{row}-{column}"


def centroids(labels: np.ndarray) -> dict[int, tuple[float, float, int]]:
    """Centroid x, y in pixels and area of every object of a label map `[H, W]` (0 is background)."""
    # Of a bool array, flattened: NumPy finds what is not zero in it ten times faster than in integers of two axes.
    places = np.flatnonzero(labels != 0)
    ys, xs = np.divmod(places, labels.shape[1])
    ids = labels[ys, xs].astype(np.int64)
    if not len(ids):
        return {}
    area = np.bincount(ids)
    x, y = np.bincount(ids, xs), np.bincount(ids, ys)
    return {int(i): (x[i] / area[i], y[i] / area[i], int(area[i])) for i in np.flatnonzero(area)}


def describe(
    labels: np.ndarray, categories: Mapping[int, str], colours: Mapping[int, str] | None = None
) -> tuple[Description, ...]:
    """Eq. 4. Names the objects of a first frame, each so that it fits no other object visible in it.

    Args:
      labels: the first frame's visible masks, integers `[H, W]`, pixel = object id, 0 = background.
      categories: the fine class of each object id. Objects of the map without a class (255 as void) are left out.
      colours: names of colours that a viewer can see, where known; "" or missing means unknown.

    Returns:
      One description for each object that can be told apart, by ascending id.
    """
    colours = colours or {}
    size = labels.shape
    seen = {i: v for i, v in centroids(labels).items() if i in categories}
    groups: dict[tuple, list[int]] = {}
    for i, (x, y, _) in seen.items():
        groups.setdefault((class_phrase(categories[i]), grid_cell(x, y, size)), []).append(i)
    out = []
    for (phrase, cell), members in groups.items():
        for i in members:
            attribute = "" if len(members) == 1 else _attribute(i, members, seen, colours, size)
            if attribute is not None:
                words = f"{attribute} {phrase}" if attribute else phrase
                place = location(cell)
                out.append(Description(i, f"the {words} at the {place}", attribute, phrase, place))
    return tuple(sorted(out, key=lambda d: d.object_id))


def _attribute(i: int, members, seen, colours, size: tuple[int, int]) -> str | None:
    """What sets object `i` apart from the other `members` of its class and cell; None if nothing does."""
    others = [j for j in members if j != i]
    colour = colours.get(i, "")
    if colour and all(colours.get(j, "") not in ("", colour) for j in others):
        return colour
    x, y, area = seen[i]
    # A person must see the difference: 4 % of the frame, or half as much area again.
    gap_x, gap_y = max(3.0, 0.04 * size[1]), max(3.0, 0.04 * size[0])
    if all(x <= seen[j][0] - gap_x for j in others):
        return "leftmost"
    if all(x >= seen[j][0] + gap_x for j in others):
        return "rightmost"
    if all(y <= seen[j][1] - gap_y for j in others):
        return "topmost"
    if all(y >= seen[j][1] + gap_y for j in others):
        return "bottommost"
    if all(area >= 1.5 * seen[j][2] for j in others):
        return "largest"
    if all(1.5 * area <= seen[j][2] for j in others):
        return "smallest"
    return None
