"""How the ground lies in the picture, from frame to frame.

A satellite's picture drifts and shakes by a pixel or two a frame, as much as many targets move. What moves and what
stands can be told apart over the ground alone.

Some hundred corners of a frame are followed for sixteen frames, and the ground is what moves as those do that look as
they did. On open sea most corners are waves: they drift together, and from one frame to the next they are as good as
any; but they change as they go, and a roof does not. So it is from its frame of eight to sixteen frames before that a
frame is told where the ground lies, and errors do not add up from frame to frame.

`models.flow` fits the background to dense flow: that is made for a window of the model's size, and would cost seconds a
pair of whole frames.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

_SIDE = 1024  # pixels; the longest side at which frames are compared, which costs less than 0.05 pixels of accuracy
_POINTS, _POINTS_APART = 400, 12
_LIFE = 8  # frames until the next corners are taken; they serve from this age to twice
_RIPE = 4  # frames after which corners may serve early, where the older ones are lost
_RETURNS, _AGREES = 0.5, 1.0  # pixels: of a corner followed forth and back, and of a corner from the fit
LOOK = 15
"""Side in pixels of what a corner looks like."""
# Chosen on harbours and open water of seeds 905 and 911 (docs/tmcc.md).
_VOTE = 20  # power of a corner's likeness to what it was, over the twelfth best after one frame: what noise leaves
_BEST = 12
_CELLS = 8  # of the frame, along either side; the best corner of each votes: a large ship is no more than its cells
_LEAST, _COUNTS = 4.0, 1e-3  # votes; and of a corner, that it is looked at
_STEP, _STEADIER = 8.0, 0.3  # pixels from frame to frame, and share of the best's votes that suffice for no more
_TRIES, _PAIR_APART = 500, 40  # pairs of corners that are tried, and pixels between the two
_SCALES = 0.1  # largest change of scale
_LEANS = 0.03  # change of turn or scale from which looks are compared upright


class Shot(NamedTuple):
    """A frame, and where the ground lies in it.

    Attributes:
      pixels: uint8 RGB [H, W, 3].
      pose: float64 [3, 3], as `Ground.pose`.
    """

    pixels: np.ndarray
    pose: np.ndarray


class Marks(NamedTuple):
    """Corners of one frame, and where they are now.

    Attributes:
      pose: float64 [3, 3], that frame's, in pixels of the shrunk frames.
      age: frames since.
      first, now: float32 [n, 2], x and y of each corner in that frame, and in the last one.
      alive: bool [n], those that were found again in every frame.
      looks: uint8 [n, 15, 15], what was around each.
      fresh: the twelfth best likeness of a corner to its look after one frame, up to 1.
    """

    pose: np.ndarray
    age: int
    first: np.ndarray
    now: np.ndarray
    alive: np.ndarray
    looks: np.ndarray
    fresh: float = 1.0


class Ground:
    """The ground of a stream of frames.

    Attributes:
      grey: uint8 [h, w], the last frame, shrunk to at most 1024 pixels; None: none yet.
      pose: float64 [3, 3], what takes (x, y, 1) on the ground of the first frame to the last one. Only the way from one
        frame to another means something: `later.pose @ inv(earlier.pose)`.
      marks: corners of at most two frames, the older first.
    """

    def __init__(
        self, grey: np.ndarray | None = None, pose: np.ndarray | None = None, marks: Sequence[Marks] = ()
    ) -> None:
        self.grey, self.pose, self.marks = grey, np.eye(3) if pose is None else pose, list(marks)

    def push(self, frame: np.ndarray) -> np.ndarray:
        """Takes the next frame, RGB [H, W, 3] or grey [H, W], uint8, and gives its pose.

        It is the last frame's where too few corners agree.
        """
        grey, larger = _shrunk(frame)
        pose = np.linalg.inv(larger) @ self.pose @ larger
        if self.grey is not None:
            self.marks = [_followed(marks, self.grey, grey) for marks in self.marks]
            for k, marks in enumerate(self.marks):
                votes = _votes(marks, grey, pose @ np.linalg.inv(marks.pose))
                way = _way(marks, marks.now, votes, grey.shape, pose @ np.linalg.inv(marks.pose))
                if way is not None and (k == 0 or marks.age >= _RIPE):
                    pose = way @ marks.pose
                    break
        if not self.marks or self.marks[-1].age >= _LIFE:
            self.marks = [*self.marks, _marked(grey, pose)][-2:]
        self.grey, self.pose = grey, larger @ pose @ np.linalg.inv(larger)
        return self.pose


def poses(frames: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Where the ground lies in each of some frames, known when the last has been seen.

    What changes on its way is known after some frames, and from a stream's beginning on then.

    Args:
      frames: RGB [H, W, 3] or grey [H, W], uint8, at least one and at most some twenty.

    Returns:
      For each a pose, float64 [3, 3], as `Ground.pose`.
    """
    (before, larger), *_ = shrunk = [_shrunk(frame) for frame in frames]
    marks = _marked(before, np.eye(3))
    trail = [marks.now]
    for (before, _), (after, _) in itertools.pairwise(shrunk):
        marks = _followed(marks, before, after)
        trail.append(marks.now)
    last, shape = shrunk[-1][0], shrunk[-1][0].shape
    guess = _way(marks, marks.now, marks.alive.astype(float), shape)
    votes = _votes(marks, last, np.eye(3) if guess is None else guess)
    found = [np.eye(3)]
    for now in trail[1:]:
        way = _way(marks, now, votes, shape)
        found.append(found[-1] if way is None else way)
    return [larger @ pose @ np.linalg.inv(larger) for pose in found]


def _shrunk(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A frame as it is compared, grey, and what takes (x, y, 1) in it to the whole one, [3, 3]."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) if frame.ndim == 3 else frame
    scale = min(1.0, _SIDE / max(grey.shape))
    if scale < 1:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return grey, np.diag((1 / scale, 1 / scale, 1.0))


def _marked(grey: np.ndarray, pose: np.ndarray) -> Marks:
    points = cv2.goodFeaturesToTrack(grey, _POINTS, 0.01, _POINTS_APART)
    points = np.zeros((0, 2), np.float32) if points is None else points[:, 0]
    return Marks(pose, 0, points, points, np.ones(len(points), bool), _looks(grey, points))


def _followed(marks: Marks, before: np.ndarray, after: np.ndarray) -> Marks:
    """Marks one frame later: by Lucas and Kanade's method, forth and back."""
    age = marks.age + 1
    if marks.alive.any():
        start = marks.now[:, None]
        there, found, _ = cv2.calcOpticalFlowPyrLK(before, after, start, None)
        back, found_back, _ = cv2.calcOpticalFlowPyrLK(after, before, there, None)
        alive = marks.alive & (found & found_back)[:, 0].astype(bool) & (np.hypot(*(back - start)[:, 0].T) < _RETURNS)
        marks = marks._replace(now=np.where(alive[:, None], there[:, 0], marks.now), alive=alive)
    if age == 1 and marks.alive.sum() >= _BEST:
        marks = marks._replace(fresh=max(float(np.partition(likeness(marks, after, np.eye(3)), -_BEST)[-_BEST]), 1e-6))
    return marks._replace(age=age)


def _looks(grey: np.ndarray, points: np.ndarray, way: np.ndarray | None = None) -> np.ndarray:
    """What is around points, uint8 [n, 15, 15]; with the way to this frame, as it would look turned and scaled back."""
    if way is not None and abs(way[:2, :2] - np.eye(2)).max() > _LEANS:
        back = np.linalg.inv(way)
        grey = cv2.warpAffine(grey, back[:2], grey.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
        points = points @ back[:2, :2].T + back[:2, 2]
    looks = [cv2.getRectSubPix(grey, (LOOK, LOOK), (float(x), float(y))) for x, y in points]
    return np.array(looks, np.uint8).reshape(-1, LOOK, LOOK)


def likeness(marks: Marks, grey: np.ndarray, way: np.ndarray) -> np.ndarray:
    """How each corner's look correlates with what it was.

    Args:
      marks: followed to this frame.
      grey: uint8 [h, w], the frame, shrunk as `Ground.grey`.
      way: float [3, 3], a guess of how the ground went since the marks' frame, for its turn and scale.

    Returns:
      float [n] in [0, 1]; 0 of those that are lost.
    """
    looks = (looks.reshape(-1, LOOK**2).astype(np.float32) for looks in (marks.looks, _looks(grey, marks.now, way)))
    then, now = (look - look.mean(1, keepdims=True) for look in looks)
    norm = np.sqrt((then**2).sum(1) * (now**2).sum(1))
    return np.where(marks.alive, np.maximum((then * now).sum(1) / np.maximum(norm, 1e-6), 0.0), 0.0)


def _votes(marks: Marks, grey: np.ndarray, way: np.ndarray) -> np.ndarray:
    """How much each corner counts, float [n] in [0, 1]; `way` is a guess of how the ground went, [3, 3]."""
    return np.minimum(likeness(marks, grey, way) / marks.fresh, 1.0) ** _VOTE


def _way(
    marks: Marks, now: np.ndarray, votes: np.ndarray, shape: tuple[int, int], before: np.ndarray | None = None
) -> np.ndarray | None:
    """How the ground went from the marks' frame to the one in which they are there: turned, scaled and shifted.

    Args:
      before: float [3, 3], how it had gone to the frame before, if that is known: what agrees with it is preferred.

    Returns:
      float64 [3, 3]; None where too few agree.
    """
    if (votes > _COUNTS).sum() < 2:
        return None
    cells = (marks.first * _CELLS / shape[::-1]).astype(int)
    cells = cells[:, 1] * _CELLS + cells[:, 0]
    order = np.argsort(cells, kind="stable")
    order = order[votes[order] > _COUNTS]
    first, now, votes, cells = marks.first[order].astype(float), now[order].astype(float), votes[order], cells[order]
    pairs = np.random.default_rng(0).choice(len(first), (_TRIES, 2), p=votes / votes.sum())
    pairs = pairs[np.hypot(*(first[pairs[:, 0]] - first[pairs[:, 1]]).T) > _PAIR_APART]
    # Points as complex numbers: turned and scaled is one factor.
    p, q = first @ (1, 1j), now @ (1, 1j)
    factor = (q[pairs[:, 1]] - q[pairs[:, 0]]) / (p[pairs[:, 1]] - p[pairs[:, 0]])
    pairs, factor = pairs[abs(abs(factor) - 1) < _SCALES], factor[abs(abs(factor) - 1) < _SCALES]
    if not len(factor):
        return None
    shift = (q[pairs] - factor[:, None] * p[pairs]).mean(1)
    agrees = abs(factor[:, None] * p + shift[:, None] - q) < _AGREES
    starts = np.flatnonzero(np.r_[True, np.diff(cells) > 0])
    counted = np.maximum.reduceat(agrees * votes, starts, axis=1).sum(1)
    k = counted.argmax()
    if before is not None:
        # Waves that look as they did drift together; from them to land and back it would be a jump.
        middle = np.array(shape[::-1]) / 2 @ (1, 1j)
        there = complex(*(before @ (middle.real, middle.imag, 1))[:2])
        steady = np.where(abs(factor * middle + shift - there) <= _STEP, counted, 0)
        if steady.max() >= _STEADIER * counted[k]:
            k = steady.argmax()
    if counted[k] < _LEAST:
        return None
    a, b = factor[k], shift[k]
    for _ in range(3):
        agree = abs(a * p + b - q) < _AGREES
        if agree.sum() < 2:
            return None
        a, b = _fitted(p[agree], q[agree], votes[agree])
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag], [0, 0, 1]])


def _fitted(p: np.ndarray, q: np.ndarray, weight: np.ndarray) -> tuple[complex, complex]:
    """The a and b of the weighted least squares of a p + b - q."""
    mean_p, mean_q = np.average(p, weights=weight), np.average(q, weights=weight)
    p, q = p - mean_p, q - mean_q
    a = (weight * p.conj() * q).sum() / max((weight * abs(p) ** 2).sum(), 1e-9)
    return a, mean_q - a * mean_p
