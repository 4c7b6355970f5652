"""A train is a row of carriages: what lies in a line, of the views of pieces of it, is one object.

A train of 300 pixels is 10 wide, and in a window that holds it a cell of the mask's grid or two: of its carriages some
are outlined and others are not. No other class comes in pieces that stand in a row, while ships at a quay and aircraft
at a pier do so and are many. So only what a sentence calls a train is put together.
"""

import itertools
import re
from collections.abc import Sequence

import numpy as np

from mqc_jax.listing import Shown

# Chosen on the trains of seeds 904, 905 and 911 (docs/tiles.md).
_OFF_LINE = (0.75, 2.0)  # widths, and pixels, that a carriage may lie beside another's line
_GAP = 1.0  # lengths of the longer one that may be missing between two
_LONG = 2.0  # times as long as wide, a piece tells its direction
_PARALLEL = 0.4  # sine of the largest angle between the directions of two
_AS_LIKELY = 0.3  # times the score of the better one that the other must have

_BESIDE = r"\b(?:of|on|in|by|with|from|near|next|close|beside|behind|before|under|over|above|below|past|along|beyond)\b"
_TRAIN = re.compile(
    rf"^(?:(?!{_BESIDE}).)*?\btrains?\b(?! (?:station|track|line|yard|depot|bridge)s?\b)", re.IGNORECASE
)


def meant(text: str) -> bool:
    """Whether a sentence is about trains, and not about what is beside one."""
    return _TRAIN.search(text) is not None


def joined(objects: Sequence[Shown]) -> list[Shown]:
    """The list, and each row of carriages in it as one object more: the box around them, their areas' sum, the best
    one's colour, and as score the probability that not all of them are mistakes.

    The nearest are joined first, and what comes of each step is listed: of two trains on one track each is there, too,
    and the sentence's place tells which of these is meant. The carriages alone are fragments (`listing.likely`).
    """
    train_of = list(range(len(objects)))
    found = list(objects)
    pairs = [
        (gap, i, k) for i, k in itertools.combinations(train_of, 2) if (gap := _gap(objects[i], objects[k])) is not None
    ]
    for _, i, k in sorted(pairs):
        if train_of[i] != train_of[k]:
            train_of = [train_of[i] if which == train_of[k] else which for which in train_of]
            found.append(_train([one for one, which in zip(objects, train_of, strict=True) if which == train_of[i]]))
    return found


def _train(carriages: Sequence[Shown]) -> Shown:
    best = max(carriages, key=lambda one: one.score)
    x0, y0, x1, y1 = np.array([one.box for one in carriages]).T
    box = int(x0.min()), int(y0.min()), int(x1.max()), int(y1.max())
    score = 1.0 - float(np.prod([1.0 - min(one.score, 1.0) for one in carriages]))
    return best._replace(box=box, area=sum(one.area for one in carriages), score=score, whole=True)


def _gap(one: Shown, other: Shown) -> float | None:
    """Pixels between two pieces that can be of one train, negative where they overlap; None if they cannot be."""
    short, long = sorted((one, other), key=_length)
    if min(one.score, other.score) < _AS_LIKELY * max(one.score, other.score) or not _tells(long):
        return None
    x, y = long.along
    if _tells(short) and abs(x * short.along[1] - y * short.along[0]) > _PARALLEL:
        return None
    ahead, aside = (short.middle[k] - long.middle[k] for k in (0, 1))
    share, pixels = _OFF_LINE
    if abs(ahead * y - aside * x) > share * max(long.width, short.width) + pixels:
        return None
    gap = abs(ahead * x + aside * y) - (_length(long) + _length(short)) / 2
    return gap if gap <= _GAP * _length(long) else None


def _length(one: Shown) -> float:
    return float(np.hypot(one.box[2] - one.box[0], one.box[3] - one.box[1]))


def _tells(one: Shown) -> bool:
    return one.width > 0 and _length(one) >= _LONG * one.width
