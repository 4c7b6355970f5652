"""What else a sentence may mean, watched after motion has chosen: a car that waits longer than eq. 7's longest window.

What is meant mostly moves, but need not from the first frame on. So what was not seen to move when one of several
objects was chosen stays known by its place on the ground. As long as it is found there it stands; when it is not, its
path from the last frame in which it was is asked as that of every object was in the first frames (`paths`), in eq. 7's
windows. When the odds then are for another object than the one that is followed, that one is followed from there.
"""

import collections
import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from mqc_jax import paths
from mqc_jax.config import CalibrationConfig
from mqc_jax.ground import Shot
from mqc_jax.paths import HIDDEN, STANDS, Box, Path
from mqc_jax.tile_search import Found
from mqc_jax.tiling import around

_SEEN = 0.6  # mean correlation over the last frames of its path: the edge of a cloud that hides it goes its way, too
_PAD = 1  # pixels of ground around a look: the edge is what is seen best
_LEAST_CONTRAST = 1.0  # grey levels; there is no finding again what has less
_OFF = 1  # pixels that it may be off its place: the ground is known to some tenths
_GONE = 3.0  # pixels, beside half its length, that what is followed has left its place when it goes by itself


@dataclasses.dataclass
class Rival:
    """One of the objects that a sentence may mean.

    Attributes:
      found: as the search found it, in the target's first frame.
      area: where it was when it was last known to stand: its box and a pixel around it.
      number: of that frame.
      pose: float [3, 3], that frame's.
      look: uint8 [h, w], grey: what was there.
      moves: it was seen to move since.
      stands: it was found in its place. What neither moves nor stands has not been seen well enough to tell.
    """

    found: Found
    area: Box
    number: int
    pose: np.ndarray
    look: np.ndarray
    moves: bool = False
    stands: bool = False

    def place(self, pose: np.ndarray) -> np.ndarray:
        """x, y of its area's first corner in a frame of a pose, if it stands."""
        return (pose @ np.linalg.inv(self.pose) @ (*self.area[:2], 1.0))[:2]

    @property
    def box(self) -> Box:
        """x0, y0, x1, y1 in the frame in which it was last known to stand."""
        x0, y0, x1, y1 = self.area
        return x0 + _PAD, y0 + _PAD, x1 - _PAD, y1 - _PAD

    @property
    def half(self) -> np.ndarray:
        """Half its area's width and height."""
        return np.subtract(self.area[2:], self.area[:2]) / 2

    @property
    def _contrast(self) -> bool:
        return bool(self.look.size) and self.look.std() >= _LEAST_CONTRAST

    def likeness(self, grey: np.ndarray, pose: np.ndarray) -> tuple[float, tuple[int, int]]:
        """The best correlation of its look within a pixel of its place in a frame, and x, y there; -1 outside."""
        x, y = (round(float(at)) for at in self.place(pose))
        height, width = self.look.shape
        left, top = max(x - _OFF, 0), max(y - _OFF, 0)
        part = grey[top : max(y + height + _OFF, 0), left : max(x + width + _OFF, 0)]
        if part.shape[0] < height or part.shape[1] < width or not self._contrast:
            return -1.0, (x, y)
        _, value, _, (column, row) = cv2.minMaxLoc(cv2.matchTemplate(part, self.look, cv2.TM_CCOEFF_NORMED))
        return float(value), (left + column, top + row)


class Change(NamedTuple):
    """Another object is meant.

    Attributes:
      found: the object, in the first of `shots`.
      path: where it went in these.
      shots: from the last frame in which it stood to this one.
    """

    found: Found
    path: Path
    shots: list[Shot]


class Rivals:
    """The objects that a sentence may mean, one of which is followed.

    Attributes:
      known: the objects; what moved from the beginning has its place of then.
      followed: index of the one that is followed.
      number: of the last frame.
      shots: the latest frames, as many as eq. 7's longest window has.
    """

    def __init__(
        self,
        known: list[Rival],
        followed: int,
        odds: float,
        config: CalibrationConfig,
        number: int,
        shots: Sequence[Shot],
    ) -> None:
        self.known, self.followed, self.odds, self.config = known, followed, odds, config
        self.number, self.shots = number, collections.deque(shots, config.n_max + 1)

    @classmethod
    def after(
        cls, found: list[Found], seen: list[Path], followed: int, odds: float, config: CalibrationConfig,
        shots: list[Shot], poses: Sequence[np.ndarray],
    ) -> "Rivals":  # fmt: skip
        """What is left to be watched after a choice.

        Args:
          found: the objects, in the first frame.
          seen: what became of each in these frames.
          followed: index of what was chosen.
          odds: how many times likelier it is that what moves is meant.
          shots: the frames that the choice was made in.
          poses: theirs, from the first frame on, as they are known after the last.
        """
        known, grey = [], _grey(shots[0])
        for one, path in zip(found, seen, strict=True):
            area = _area(one, grey.shape)
            look = grey[area[1] : area[3], area[0] : area[2]].copy()
            known.append(Rival(one, area, 0, poses[0], look, path.moves > 0))
        rivals = cls(known, followed, odds, config, len(shots) - 1, shots)
        for number in range(config.n_step, len(shots), config.n_step):
            grey = _grey(shots[number])
            for rival in known:
                value, place = (0.0, None) if rival.moves else rival.likeness(grey, poses[number])
                if value >= STANDS:
                    _stands(rival, number, poses[number], grey, place)
        for rival, path in zip(known, seen, strict=True):
            rival.stands = path.stands  # as it was chosen by, whatever was found in between
            # From here on poses are the stream's; only the way from one frame to another means something.
            rival.pose = shots[rival.number].pose
        return rivals

    @property
    def open(self) -> bool:
        """Whether there is another object that would be followed if it moved."""
        least, others = self._weight(self.followed), [r for k, r in enumerate(self.known) if k != self.followed]
        return any(not other.moves and other.found.chance * self.odds > least for other in others)

    def push(self, shot: Shot, middle: tuple[float, float] | None) -> Change | None:
        """Takes the next frame.

        Args:
          middle: x, y of what is followed, where this frame shows it.

        Returns:
          Another object that is to be followed from now on; None: it stays as it is.
        """
        self.number += 1
        self.shots.append(shot)
        if self.number % self.config.n_step:
            return None
        grey, paths_seen = _grey(shot), {}
        for k, rival in enumerate(self.known):
            if not rival.moves:
                path = self._asked(rival, grey, shot.pose)
                if path is not None and path.moves and np.mean(path.along[-self.config.n_step :]) > _SEEN:
                    rival.moves, paths_seen[k] = True, path
        own = self.known[self.followed]
        if middle is not None and not own.moves:
            own.moves = self._left(own, middle, shot.pose)
        best = int(np.argmax([self._weight(k) for k in range(len(self.known))]))
        if best == self.followed or best not in paths_seen:
            return None
        self.followed = best
        rival, path = self.known[best], paths_seen[best]
        if middle is not None and len(path.corners) and self._same(rival, path, middle):
            return None
        shots = list(self.shots)[rival.number - self.number - 1 :]
        return Change(_moved(rival, shot.pixels.shape[:2]), path, shots)

    def _weight(self, k: int) -> float:
        rival = self.known[k]
        return rival.found.chance * paths.weight(self.odds, rival.moves, rival.stands)

    def _asked(self, rival: Rival, grey: np.ndarray, pose: np.ndarray) -> Path | None:
        """What became of an object since it last stood; None: it stands, or that cannot be told."""
        value, place = rival.likeness(grey, pose)
        if value >= STANDS:
            _stands(rival, self.number, pose, grey, place)
            return None
        since = self.number - rival.number
        if since > self.config.n_max or since >= len(self.shots):
            if value >= HIDDEN:
                _stands(rival, self.number, pose, grey, place)
            return None
        shots = list(self.shots)[-since - 1 :]
        greys, poses = [_grey(s) for s in shots], [s.pose for s in shots]
        (path,) = paths.follow(greys, poses, [rival.box], self.config.windows(since))
        if not path.moves and since == self.config.n_max and value >= HIDDEN:
            _stands(rival, self.number, pose, grey, place)
        return path

    def _left(self, rival: Rival, middle: tuple[float, float], pose: np.ndarray) -> bool:
        """Whether what is followed as an object has left its place."""
        return bool(np.hypot(*(rival.place(pose) + rival.half - middle)) > _GONE + rival.half.max())

    def _same(self, rival: Rival, path: Path, middle: tuple[float, float]) -> bool:
        """Whether an object is where what is followed is: it is followed already, as another."""
        return bool(np.hypot(*(path.corners[-1] - _PAD + rival.half - middle)) < rival.half.max())


def _stands(rival: Rival, number: int, pose: np.ndarray, grey: np.ndarray, place: tuple[int, int]) -> None:
    x, y = place
    height, width = rival.look.shape
    rival.area = x, y, x + width, y + height
    rival.number, rival.pose, rival.look = number, pose, grey[y : y + height, x : x + width].copy()
    rival.stands = True


def _area(found: Found, size: tuple[int, int]) -> Box:
    x0, y0, x1, y1 = found.box or found.window.box
    return max(x0 - _PAD, 0), max(y0 - _PAD, 0), min(x1 + _PAD, size[1]), min(y1 + _PAD, size[0])


def _moved(rival: Rival, size: tuple[int, int]) -> Found:
    """An object as it would have been found where it last stood."""
    window = rival.found.window
    off = [now - then for now, then in zip(rival.area[:2], _area(rival.found, size)[:2], strict=True)]
    middle = window.x + window.width / 2 + off[0], window.y + window.height / 2 + off[1]
    box = rival.found.box and rival.box
    return rival.found._replace(window=around(*middle, max(window.width, window.height), size), box=box)


def _grey(shot: Shot) -> np.ndarray:
    return cv2.cvtColor(shot.pixels, cv2.COLOR_RGB2GRAY)
