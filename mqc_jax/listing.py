"""All objects that a sentence may mean, listed from what windows showed, and which of them is the leftmost or largest.

What several windows show is one object, and what most of them show that could is one rather than a mistake. A window
shows a part of a frame, so that its leftmost yacht need not be the leftmost: then windows are asked for "every yacht",
and that object is most likely the leftmost which is likely a yacht while none farther left is.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from mqc_jax.tiling import Window

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels of the frame, the latter two exclusive."""

_SAME = 0.4  # IoU of the boxes of two windows' views of one object
_INSIDE = 0.5  # share of a piece that is cut off by its window's edge that lies in the object that it is a part of
_CUT = 0.25  # how much the box of such a piece counts
_USUAL = (0.03, 0.35)  # lengths of what windows of a size should show, as a share of their side
_UNSEEN = 0.02  # what a size of windows that shows nothing counts as
_LEAST_CELLS = 6  # of a mask's grid that a piece has; smaller ones are mostly noise
_FRAGMENT_AREA, _FRAGMENT_INSIDE = 0.6, 0.8  # a fragment's area in the object's, and how much of its box lies in it
_FRAGMENT_OF, _FRAGMENT_WEIGHT = 0.4, 0.25  # how likely the object is beside its fragment, and what that counts then
_FRAGMENT = 0.5  # of the likely ones' area: what is smaller is more likely a fragment or noise than one of them
_CONTRAST = 1.5  # scores are no probabilities: by how much more likely the better ones are
_SURE = 0.95  # the likeliest may still be none
_EDGE = 6  # pixels from a window's edge, where it is not expected to show what is there


class Shown(NamedTuple):
    """An object as one window, or the best of several, showed it.

    Attributes:
      box: around it.
      area: in pixels.
      score: how likely it is one that was asked for, in [0, 1].
      whole: whether it ends before the window does, or where the frame does.
      colour: RGB in [0, 255], the mean of the half of it that is shown most surely.
      along: x, y of the unit vector of its longer axis.
      width: pixels across that, for `trains`.
    """

    box: Box
    area: float
    score: float
    whole: bool
    colour: tuple[float, float, float] = (0.0, 0.0, 0.0)
    along: tuple[float, float] = (1.0, 0.0)
    width: float = 0.0

    @property
    def middle(self) -> tuple[float, float]:
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


def pieces(window: Window, logits: np.ndarray, score: float, frame: np.ndarray) -> list[Shown]:
    """The connected pieces of a window's mask.

    Args:
      logits: float [h, w] over the window.
      score: how good the window's mask is, in [0, 1]; a piece's is that times its mean probability.
      frame: uint8 RGB [H, W, 3].
    """
    rows, columns = logits.shape
    size = frame.shape[:2]
    across, down = window.width / columns, window.height / rows
    count, labels, facts, _ = cv2.connectedComponentsWithStats((logits > 0).view(np.uint8), connectivity=8)
    left, top, right, bottom = window.box
    colours = cv2.resize(window.cut(frame), (columns, rows), interpolation=cv2.INTER_AREA) if count > 1 else None
    found = []
    for i in range(1, count):
        x, y, width, height, cells = map(int, facts[i])
        if cells < _LEAST_CELLS:
            continue
        box = tuple(
            round(value)
            for value in (left + x * across, top + y * down, left + (x + width) * across, top + (y + height) * down)
        )
        of_piece = logits[labels == i].astype(np.float32)
        sure = (1 / (1 + np.exp(-of_piece))).mean()
        colour = colours[labels == i][of_piece >= np.median(of_piece)].mean(0)
        cut = (x == 0 < left) or (y == 0 < top) or (x + width == columns and right < size[1])
        cut = cut or (y + height == rows and bottom < size[0])
        along, thick = _axis(labels == i, across, down)
        found.append(
            Shown(box, cells * across * down, float(score * sure), not cut, tuple(map(float, colour)), along, thick)
        )
    return found


def _axis(mask: np.ndarray, across: float, down: float) -> tuple[tuple[float, float], float]:
    """The unit vector of a piece's longer axis, and its width in pixels: of the rectangle with the same moments.

    Args:
      across, down: pixels of the frame in a cell of the mask.
    """
    rows, columns = np.nonzero(mask)
    moments = np.cov([columns * across, rows * down], bias=True) + np.diag([across**2, down**2]) / 12
    variances, axes = np.linalg.eigh(moments)
    return (float(axes[0, 1]), float(axes[1, 1])), float(np.sqrt(12 * variances[0]))


def objects(views: Sequence[tuple[Window, list[Shown]]]) -> list[Shown]:
    """What several windows showed as one list of objects.

    Two pieces are of one object where their boxes are alike, or one of them is cut off by its window's edge and lies
    mostly in the other. A piece that is whole and lies in a larger one stays a thing of its own: it may be a fragment
    of it, or the boat beside the quay that was outlined with it.

    Args:
      views: each window, also those that showed nothing, and its `pieces`.

    Returns:
      For each object the view that the others agree with best, a whole one if there is one. Its score is half of that
      of the size of windows that shows it best, a small target not being seen in a large window, and half of all sizes'
      in which it should be seen, for which see `_agreed`: what one window alone shows is mostly a mistake.
    """
    found: list[
        tuple[list[Shown], dict[int, float]]
    ] = []  # its views, the best first, and the best score in each window
    every = [(piece, k) for k, (_, pieces_of) in enumerate(views) for piece in pieces_of]
    for piece, k in sorted(every, key=lambda one: (one[0].whole, one[0].score), reverse=True):
        for members, scores in found:
            if _alike(piece.box, members[0].box) >= _SAME or (
                not piece.whole and _overlap(piece.box, members[0].box) >= _INSIDE
            ):
                members.append(piece)
                scores[k] = max(scores.get(k, 0.0), piece.score)
                break
        else:
            found.append(([piece], {k: piece.score}))
    windows = [window for window, _ in views]
    best = [(_middle_view(members), scores) for members, scores in found]
    return [one._replace(score=_agreed(one, scores, windows)) for one, scores in best]


def _middle_view(views: Sequence[Shown]) -> Shown:
    """The view whose box is most like the others', the better ones counting more."""
    trust = np.array([one.score * (1.0 if one.whole else _CUT) for one in views])
    alike = np.array([[_alike(one.box, other.box) for other in views] for one in views])
    return views[int(np.argmax(alike @ trust * [1.0 if one.whole else _CUT for one in views]))]


def _agreed(one: Shown, scores: dict[int, float], windows: Sequence[Window]) -> float:
    """An object's score, from its score in each window that shows it.

    Of one size of windows it is the mean over those that have it well inside, 0 counting for those that did not show
    it. The sizes are put together as the mean of the best of them and of the geometric mean of those in which its
    length is a usual one.
    """
    x, y = one.middle
    by_size: dict[int, list[float]] = {}
    for k, window in enumerate(windows):
        left, top, right, bottom = window.box
        if k in scores or (left + _EDGE <= x < right - _EDGE and top + _EDGE <= y < bottom - _EDGE):
            by_size.setdefault(max(window[2:]), []).append(scores.get(k, 0.0))
    means = {side: float(np.mean(of_size)) for side, of_size in by_size.items()}
    length, best = max(one.box[2] - one.box[0], one.box[3] - one.box[1]), max(means.values())
    usual = [mean for side, mean in means.items() if _USUAL[0] <= length / side <= _USUAL[1]]
    if not usual:
        return best
    return (best + float(np.exp(np.mean(np.log(np.array(usual) + _UNSEEN)))) - _UNSEEN) / 2


def _overlap(one: Box, other: Box) -> float:
    """What the boxes share, as a part of the smaller."""
    return _shared(one, other) / max(min(_area(one), _area(other)), 1)


def _alike(one: Box, other: Box) -> float:
    """What the boxes share, as a part of what either covers (IoU)."""
    shared = _shared(one, other)
    return shared / max(_area(one) + _area(other) - shared, 1)


def _shared(one: Box, other: Box) -> int:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0) * max(height, 0)


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def likely(objects: Sequence[Shown], agreement: Sequence[float]) -> np.ndarray:
    """How likely each object is one of those meant, float [n] in [0, 0.95]; the likeliest has 0.95.

    Objects of one class in one frame are of one size, more or less, while pieces of an object and of the ground are
    smaller. What is smaller than half of the likely ones counts the less, and so does what lies in a larger one that is
    nearly as likely: it is a fragment of it.

    Args:
      agreement: how well each agrees with the sentence's place, in [0, 1].
    """
    scores = np.array([min(one.score, 1.0) for one in objects])
    values = scores * np.asarray(agreement, float)
    if not values.any():  # all are far from the place
        values = scores
    if not values.any():
        return values
    values = values * np.where(_fragments(objects, values), _FRAGMENT_WEIGHT, 1.0)
    values = values / values.max()  # far from the place they are so small that their squares would all be 0
    area = np.array([one.area for one in objects])
    typical = np.exp(np.average(np.log(area), weights=values**2))
    values = values * np.minimum(1.0, area / (_FRAGMENT * typical))
    return _SURE * (values / values.max()) ** _CONTRAST


def _fragments(objects: Sequence[Shown], values: np.ndarray) -> np.ndarray:
    """Which objects lie in a larger one that is nearly as likely: bool [n]."""
    return np.array(
        [
            any(
                one.area < _FRAGMENT_AREA * other.area
                and _area(one.box) < _area(other.box)
                and _overlap(one.box, other.box) >= _FRAGMENT_INSIDE
                and theirs >= _FRAGMENT_OF * value
                for other, theirs in zip(objects, values, strict=True)
            )
            for one, value in zip(objects, values, strict=True)
        ]
    )


def chances(objects: Sequence[Shown], likely: Sequence[float], name: str) -> np.ndarray:
    """How likely each object is the most extreme of those that are meant: float [n].

    Args:
      likely: how likely each is one of them at all, in [0, 1].
      name: a key of `places.EXTREMES`.
    """
    key = {
        "leftmost": lambda s: s.middle[0],
        "rightmost": lambda s: -s.middle[0],
        "topmost": lambda s: s.middle[1],
        "bottommost": lambda s: -s.middle[1],
        "largest": lambda s: -s.area,
        "smallest": lambda s: s.area,
    }[name]
    found, none_before = np.zeros(len(objects)), 1.0
    for i in sorted(range(len(objects)), key=lambda i: key(objects[i])):
        found[i] = likely[i] * none_before
        none_before *= 1 - likely[i]
    return found
