"""Where in the frame a sentence says that its target is, and the sentence without that.

    find("the yacht at the bottom-right")  ->  Place(row=2, column=2, bare="the yacht")
    extreme("the leftmost yacht")          ->  Extreme(name="leftmost", bare="the yacht")
    every("the yacht")                     ->  "every yacht"

Sentences of this field place their target in the cells of a 3x3 grid on the first frame (`data.expressions`); people
also write "in the upper left corner", "in the north-west" or "the top-left plane". Only such places are understood. A
direction of travel ("turning left", "heading north") or a place beside something ("left of the runway") is none.
"""

import math
import re
from dataclasses import dataclass

_ROWS = ({"top", "upper", "north", "northern"}, {"bottom", "lower", "south", "southern"})
_COLUMNS = ({"left", "west", "western"}, {"right", "east", "eastern"})
_MIDDLE = {"center", "centre", "middle", "central"}

_WORD = "|".join(sorted({*_ROWS[0], *_ROWS[1], *_COLUMNS[0], *_COLUMNS[1], *_MIDDLE}, key=len, reverse=True))
_NAME = rf"(?P<a>{_WORD})(?:(?:[- ]|(?=west|east))(?P<b>{_WORD}))?"
_PART = r"corner|edge|side|part|area|region|half|third|end|border"
_WHOLE = r"(?:image|frame|picture|scene|view|video|screen|photo|map)"
# What may follow a place; "on the left side of the road" or "in the right lane" goes on otherwise.
_ENDS = r"(?= *$| *[,.;:!?)]| (?:and|with|that|which|who|near|by|beside|next|behind|under|in|on|at)\b| \w+ing\b)"
_LOCATED = re.compile(
    rf"[, ]*\b(?:(?:that|which) (?:is|are) )?(?:at|in|on|near|towards?|within|along|from) (?:the )?"
    rf"(?:(?:far|very|extreme) )?{_NAME}\b(?:[- ]?hand\b)?+(?:[- ](?:{_PART})\b)?+"
    rf"(?: of (?:the )?{_WHOLE}\b)?+{_ENDS}",
    re.IGNORECASE,
)
_ADJECTIVE = re.compile(rf"\b{_NAME}(?:most)?\b(?= [a-z])", re.IGNORECASE)
_TRAVEL = re.compile(
    r"\b(?:mov|head|turn|go|sail|fly|driv|fac|point|travel|steer|drift|taxi|com|pass|cross)(?:ing|s|es|ed)?"
    r"(?: (?:in|on|to|towards?|from|at|its|the|further))* ?$",
    re.IGNORECASE,
)

ELSEWHERE = (
    "of|near|beside|behind|before|with|without|by|next|to|on|in|at|under|over|above|below|from|between|and|or|than"
)
"""What begins the part of a sentence that is about something else than its target; alternatives of a pattern."""

EXTREMES = {
    "leftmost": ("leftmost", "westernmost"),
    "rightmost": ("rightmost", "easternmost"),
    "topmost": ("topmost", "uppermost", "northernmost"),
    "bottommost": ("bottommost", "lowermost", "southernmost"),
    "largest": ("largest", "biggest"),
    "smallest": ("smallest", "tiniest"),
}
"""What tells an object apart from others of its class -> how that is said; the first is the template's word."""

_EXTREME_OF = {word: name for name, words in EXTREMES.items() for word in words}
_EXTREME = re.compile(rf"\b(?P<word>{'|'.join(_EXTREME_OF)}) (?=\w)", re.IGNORECASE)
_ARTICLE = re.compile(r"\b(?:the|an?|this|that) (?:one )?", re.IGNORECASE)

# Chosen on sequences of seeds 904, 905 and 911 (docs/tiles.md). A centroid is found to some pixels, so that what lies
# beside its cell is most likely not meant; but people draw no grid, and of two that do so the nearer one is meant.
_SPREAD, _LOOSE = 0.004, 0.03  # of the frame's side: how far off is a centroid beside its cell, if that is an error
_LOOSELY = 0.15  # and if it is a manner of speaking; how likely that is
_SAME_THIRD = 0.2  # "at the left" is the middle cell of the left column, but people mean the whole column too


@dataclass(frozen=True)
class Place:
    """A place on a 3x3 grid over the frame.

    Attributes:
      row, column: 0 to 2 from the top and from the left.
      bare: the sentence without its place.
    """

    row: int
    column: int
    bare: str

    def weight(self, box: tuple[float, float, float, float], size: tuple[int, int]) -> float:
        """How well a part of a frame `(H, W)` agrees with the place, in [0, 1]: that of its best point.

        Args:
          box: x0, y0, x1, y1 in pixels; a point where x0 = x1 and y0 = y1.
        """
        height, width = size
        x, y = (box[0] / width, box[2] / width), (box[1] / height, box[3] / height)
        off_x, off_y = (
            _outside(*x, self.column / 3, (self.column + 1) / 3),
            _outside(*y, self.row / 3, (self.row + 1) / 3),
        )
        weight = _likely(off_x, off_y)
        if self.row == 1 and self.column != 1:
            weight = max(weight, _SAME_THIRD * _likely(off_x, 0.0))
        elif self.column == 1 and self.row != 1:
            weight = max(weight, _SAME_THIRD * _likely(0.0, off_y))
        return weight


def _outside(low: float, high: float, first: float, last: float) -> float:
    return max(0.0, first - high, low - last)


def _likely(off_x: float, off_y: float) -> float:
    exact, loose = (math.exp(-(off_x**2 + off_y**2) / (2 * spread**2)) for spread in (_SPREAD, _LOOSE))
    return (1 - _LOOSELY) * exact + _LOOSELY * loose


def find(text: str) -> Place | None:
    """The place that a sentence names; None where it names none, or one that is not understood."""
    for match in [*_LOCATED.finditer(text), *_ADJECTIVE.finditer(text)]:
        adjective = match.re is _ADJECTIVE
        if adjective and not match["b"]:
            continue  # "the left ship", "the lower deck": left or lower than what?
        cell = _cell(match["a"], match["b"])
        if cell is None or _TRAVEL.search(text[: match.start()]):
            continue
        bare = " ".join(f"{text[: match.start()]} {text[match.end() :]}".split()).strip(" ,")
        if bare:
            return Place(*cell, re.sub(r" ([,.;])", r"\1", bare))
    return None


@dataclass(frozen=True)
class Extreme:
    """That a target is the outermost or the largest or smallest of those that a sentence could mean.

    Attributes:
      name: a key of `EXTREMES`.
      bare: the sentence without that.
    """

    name: str
    bare: str


def extreme(text: str) -> Extreme | None:
    """What a sentence says that its target is the most of; None where it says nothing of the kind."""
    match = _EXTREME.search(text)
    if match is None:
        return None
    return Extreme(_EXTREME_OF[match["word"].lower()], text[: match.start()] + text[match.end() :])


def every(text: str) -> str:
    """The sentence for all objects of which the given one means one: "find the yacht" -> "find every yacht"."""
    said, found = _ARTICLE.subn("every ", text, count=1)
    return said if found else f"every {text}"


def _cell(*words: str | None) -> tuple[int, int] | None:
    """The cell that one or two words name; None where they contradict each other."""
    row = column = None
    for word in (word.lower() for word in words if word):
        if word in _MIDDLE:
            continue
        for axis in (_ROWS, _COLUMNS):
            for number, names in zip((0, 2), axis, strict=True):
                if word in names:
                    if (row if axis is _ROWS else column) is not None:
                        return None
                    row, column = (number, column) if axis is _ROWS else (row, number)
    return 1 if row is None else row, 1 if column is None else column
