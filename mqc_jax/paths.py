"""Which of several things in a video moves over the ground, and along which path.

Eq. 7 asks dense flow whether a region moves. In a window that enlarges its target fourfold, a target that makes its own
length in three frames moves farther in one than flow can follow, and leaves the window before eq. 7's is over. Here the
patch itself is looked for in the whole frames: where it would be if it stood on the ground, and, turned or not, where
it would be if it went on as it went. What is found better along its own path than in place moves.

Unless what is around it goes the same way: then it is a wave among waves, or a part of a cloud. And unless what is
around it is not found in place either, and the thing itself as well where nothing went: a few pixels of water are. And
unless its path led over what looked like it before it came: then it is hidden, and the edge goes on that it lay along.

What is not seen to move need not stand. It does if it is found in its place in the end; what a cloud has come over is
seen to do neither.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from mqc_jax import patches

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels of the frame, the latter two exclusive."""

# Chosen on 110 sequences of seed 202 (docs/tmcc.md).
_BETTER = 0.15  # mean correlation along the path above that in place
_FAR = 3.0  # pixels from its place over the ground, at least

# Set for one car of the test split, and borne out by seeds 971 and 972 (docs/tmcc.md).
_CAME = 0.1  # mean correlation along the path above that of what was there before

# Chosen on seeds 905 and 911, partly with 50 % more noise (docs/tmcc.md).
_STILL = 0.6  # mean correlation in place of what is around a thing, up to which that it is gone says nothing
_SURE = 0.1  # mean correlation along its path above that of searches where nothing went, then
_COMMON = 0.5  # of the patches around a thing that go with it, beyond which it does not move by itself
_LEAST_AROUND, _GAP = 16, 2  # pixels: the least side of such a patch, and how far it is from the thing

# Correlations with how it looked in its place: from which on it stands, and up to which something hides it. What has
# both noise and a small size never comes to the former.
STANDS, HIDDEN = 0.85, 0.5
_AS_EVER = 0.9  # of what that was in the first frames: from there on it stands as well, if nothing hides it
_FEW = 4  # frames, eq. 7's step: the first and the last, over which both are means, and those of a steady start

_PAD = 1  # pixels of ground around a patch: its edge is what is seen best
_LEAST_SIDE, _LEAST_CONTRAST = 4, 1.0  # pixels and grey levels; there is no finding again what has less
_LARGEST = 256  # pixels; larger things are looked for in frames shrunk by a whole number
_FAST = 16  # pixels that a thing may move in a frame, or half its length
_SPEED = 0.5  # pixels a frame, from one steady course that is tried to the next
_SLACK = (6, 3)  # pixels that it may be off its course: in the first frames, and later; and a twentieth of its length
_UNSURE = 4  # frames until its speed is known well
_TURNS = (0, -8, -4, 4, 8)  # degrees that it may turn in a frame


class Path(NamedTuple):
    """What became of a thing.

    Attributes:
      moves: the shortest of the windows, in displacements, in which it was seen to move; 0: it was not.
      corners: float [n, 2], x and y of its box's first corner in every frame in which it was looked for, frame 0 first:
        along its own path if it moves, else where the ground took it.
      along: its correlation along its path with how it looked in frame 0, in each later frame; empty where it stands.
      stands: it was found in its place in the end. What neither moves nor stands was not seen well enough to tell.
    """

    moves: int
    corners: np.ndarray
    along: Sequence[float] = ()
    stands: bool = False


def weight(odds: float, moves: bool, stands: bool) -> float:
    """How many times likelier a thing is meant than if it stands.

    Args:
      odds: that of what moves, above 0. What is seen to do neither has half of its logarithm: it may do either, and
        targets and other things are about as often seen to do neither (docs/tmcc.md).
    """
    return odds ** (1.0 if moves else 0.0 if stands else 0.5)


def follow(
    frames: Sequence[np.ndarray], poses: Sequence[np.ndarray], boxes: Sequence[Box], windows: Sequence[int]
) -> list[Path]:
    """What became of each thing of the first frame.

    Args:
      frames: grey uint8 [H, W], at least one.
      poses: float [3, 3], each frame's (`ground.Ground`).
      boxes: around the things in the first frame.
      windows: numbers of displacements after which it is asked whether a thing moves (eq. 7's), ascending.
    """
    to_frame = [pose @ np.linalg.inv(poses[0]) for pose in poses]
    return [_of_any_size(frames, to_frame, box, windows) for box in boxes]


def _of_any_size(frames: Sequence[np.ndarray], to_frame: list[np.ndarray], box: Box, windows: Sequence[int]) -> Path:
    """`_path`, of a large thing in smaller frames: what it costs grows with the square of a patch's area."""
    shrink = -(-max(box[2] - box[0], box[3] - box[1], 1) // _LARGEST)
    if shrink == 1:
        return _path(frames, to_frame, box, windows)
    size = [length // shrink for length in frames[0].shape[::-1]]
    frames = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames]
    larger = np.diag((shrink, shrink, 1.0))
    to_frame = [np.linalg.inv(larger) @ matrix @ larger for matrix in to_frame]
    path = _path(frames, to_frame, tuple(edge // shrink for edge in box), windows)
    return path._replace(corners=path.corners * shrink + np.array(box[:2]) % shrink)


def _path(frames: Sequence[np.ndarray], to_frame: list[np.ndarray], box: Box, windows: Sequence[int]) -> Path:
    x0, y0 = max(box[0] - _PAD, 0), max(box[1] - _PAD, 0)
    patch = frames[0][y0 : box[3] + _PAD, x0 : box[2] + _PAD]
    in_place = np.array([(matrix @ (x0, y0, 1.0))[:2] for matrix in to_frame])
    corner = np.array(box[:2], float)
    standing = Path(0, corner + in_place - in_place[0])
    if min(patch.shape) < _LEAST_SIDE or patch.std() < _LEAST_CONTRAST:
        return standing
    starts = _Course.of_nothing(), _steady(frames, in_place, patch, (x0, y0))
    course = max((_gone_on(frames, in_place, patch, (x0, y0), start) for start in starts), key=_Course.mean)
    moved, along, looks = course
    still = [patches.in_place(frames[n], patch, in_place[n]) for n in range(1, len(moved))]
    better = np.subtract(along, still)
    for n in windows:
        seen = min(n, len(better))
        way = moved[: seen + 1]
        moves = seen and np.mean(better[:seen]) > _BETTER and np.hypot(*way[-1]) > _FAR
        if not moves or np.mean(along[:seen]) - _before(frames[0], patch, (x0, y0), way) <= _CAME:
            continue
        common, found = _around_it(frames, to_frame, box, way)
        if common > _COMMON:
            continue
        if found > _STILL or np.mean(along[:seen]) - _chance(frames, in_place, looks, way) > _SURE:
            return Path(seen, corner + in_place[: len(moved)] - in_place[0] + moved, along)
    return standing._replace(stands=_in_place(still))


class _Course(NamedTuple):
    """Where a patch was found frame by frame.

    Attributes:
      moved: [2] each, how far from its place over the ground; zeros first.
      along: its correlation there, in each later frame.
      looks: the patches that were looked for, in each later frame.
    """

    moved: list[np.ndarray]
    along: list[float]
    looks: list[list[np.ndarray]]

    @classmethod
    def of_nothing(cls) -> "_Course":
        return cls([np.zeros(2)], [], [])

    def mean(self) -> float:
        return float(np.mean(self.along)) if self.along else -1.0


def _gone_on(
    frames: Sequence[np.ndarray], in_place: np.ndarray, patch: np.ndarray, corner: tuple[int, int], start: _Course
) -> _Course:
    """A course to the last frame, or until it leaves the frame: each step about as the ones before, turned or not."""
    moved, along, looks = (list(each) for each in start)
    angle = 0
    for n in range(len(moved), len(frames)):
        expected, reach = in_place[n] + _next(moved, n), _reach(n, patch)
        part, first = patches.around(frames[n], patch, expected, reach)
        if part is None or not patches.inside(expected, patch, frames[n]):
            break
        looks.append([patches.turned(frames[0], patch, corner, angle + turn) for turn in _TURNS])
        found = [(*patches.best(part, look), angle + turn) for look, turn in zip(looks[-1], _TURNS, strict=True)]
        value, place, angle = max(found, key=lambda one: one[0])
        along.append(value)
        moved.append(first + place - in_place[n])
    return _Course(moved, along, looks)


def _steady(frames: Sequence[np.ndarray], in_place: np.ndarray, patch: np.ndarray, corner: tuple[int, int]) -> _Course:
    """The first frames of the course, among all steady ones, on which a patch is found best.

    One frame alone may show a better likeness elsewhere, and a course that began there is lost. Of few pixels with
    noise that is usual; that several frames do so on one line is not.
    """
    fast, count = _fast(patch), min(_FEW, len(frames) - 1)
    speeds = np.arange(-fast, fast + _SPEED / 2, _SPEED)
    total, seen = np.zeros((len(speeds), len(speeds))), []
    for n in range(1, count + 1):
        found, origin = patches.everywhere(frames[n], patch, in_place[n], fast * n + 1)
        near = cv2.dilate(found, np.ones((3, 3)))  # it may be a pixel off
        columns, rows = (np.round(in_place[n][k] + speeds * n).astype(int) - origin[k] for k in (0, 1))
        total += near[np.ix_(rows, columns)]
        seen.append((found, origin))
    row, column = np.unravel_index(total.argmax(), total.shape)
    speed = np.array((speeds[column], speeds[row]))
    start = _Course.of_nothing()
    for n, (found, origin) in enumerate(seen, 1):
        left, top = np.maximum(np.round(in_place[n] + speed * n).astype(int) - origin - 1, 0)
        part = found[top : top + 3, left : left + 3]
        down, across = np.unravel_index(part.argmax(), part.shape)
        start.along.append(float(part.max()))
        start.moved.append(np.array((left + across, top + down)) + origin - in_place[n])
        start.looks.append([patches.turned(frames[0], patch, corner, turn) for turn in _TURNS])
    return start


def _in_place(still: list[float]) -> bool:
    """Whether a thing is in its place in the end, from its correlations there in all frames but the first."""
    if not still:
        return False
    first, last = np.mean(still[:_FEW]), np.mean(still[-_FEW:])
    return bool(last >= min(STANDS, max(HIDDEN, _AS_EVER * first)))


def _next(moved: list[np.ndarray], n: int) -> np.ndarray:
    """How far from its place a thing should be in frame `n` if it goes on as it went."""
    return moved[n - 1] * n / (n - 1) if n > 1 else np.zeros(2)


def _reach(n: int, patch: np.ndarray) -> int:
    """How far from there it is looked for."""
    return _fast(patch) if n == 1 else _SLACK[n >= _UNSURE] + max(patch.shape) // 20


def _fast(patch: np.ndarray) -> int:
    """How far it may move in a frame."""
    return max(_FAST, max(patch.shape) // 2)


def _chance(
    frames: Sequence[np.ndarray], in_place: np.ndarray, looks: list[list[np.ndarray]], way: list[np.ndarray]
) -> float:
    """The mean correlation that the same search has in places to which nothing went: the other way, and across."""
    found = []
    for n in range(1, len(way)):
        ahead, reach = _next(way, n), _reach(n, looks[n - 1][0])
        far = np.hypot(*ahead)
        x, y = ahead / far if far else (1.0, 0.0)
        for aside in ((-x, -y), (-y, x), (y, -x)):
            place = in_place[n] + max(far, 2 * reach + 2) * np.array(aside)
            part, _ = patches.around(frames[n], looks[n - 1][0], place, reach)
            if part is not None and patches.inside(place, looks[n - 1][0], frames[n]):
                found.append(max(patches.best(part, look)[0] for look in looks[n - 1]))
    return float(np.mean(found)) if found else 0.0


def _before(frame: np.ndarray, patch: np.ndarray, corner: tuple[int, int], way: list[np.ndarray]) -> float:
    """The mean correlation of a patch with what was along its path before it went there, in its own first frame."""
    found = [patches.in_place(frame, patch, np.add(corner, off)) for off in way[1:]]
    return float(np.mean(found))


def _around_it(
    frames: Sequence[np.ndarray], to_frame: list[np.ndarray], box: Box, way: list[np.ndarray]
) -> tuple[float, float]:
    """What the eight patches around a thing do meanwhile.

    A boat's wake goes with it, but on one side of it alone.

    Returns:
      The share of them that go its way over the ground, in [0, 1], and their mean correlation in place.
    """
    sides = np.maximum(np.subtract(box[2:], box[:2]), _LEAST_AROUND)
    first = np.add(box[:2], box[2:]) // 2 - sides // 2
    going, still = [], []
    for step in ((x, y) for y in (-1, 0, 1) for x in (-1, 0, 1) if x or y):
        x, y = corner = first + step * (sides + _GAP)
        patch = frames[0][max(y, 0) : y + sides[1], max(x, 0) : x + sides[0]]
        if patch.shape != tuple(sides[::-1]):  # it is not all in the frame
            continue
        seen = []
        for frame, matrix, off in zip(frames[1:], to_frame[1:], way[1:], strict=False):
            if ((np.add(box[:2], off) < corner + sides) & (np.add(box[2:], off) > corner)).all():
                continue  # the thing itself is there now, whatever was
            in_place = (matrix @ (*corner, 1.0))[:2]
            there, here = (patches.around(frame, patch, place, 1)[0] for place in (in_place + off, in_place))
            if there is not None and here is not None:
                seen.append((patches.best(there, patch)[0], patches.best(here, patch)[0]))
        along, here = np.mean(seen, 0) if seen else (0.0, 0.0)
        going.append(along - here > _BETTER)
        still += [here] if seen else []
    return float(np.mean(going)) if going else 0.0, float(np.mean(still)) if still else 0.0
