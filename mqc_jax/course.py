"""Where a target that is followed in a window goes, and where it is to be expected while it cannot be seen.

What is under a cloud comes out somewhere else, and the mask of a target that is nearly covered, or that was mistaken
for its neighbour, would lead the window away. So a mask counts as a sight of the target only where the decoder itself
holds it for good and where the target can have come to; after a frame without one, the window goes on with the speed of
the sights before.

Two things would make that speed a wrong one. The picture drifts and shakes, so it is a speed over the ground. And of
what is being covered, the middle of what is left to be seen moves otherwise: an edge that no cloud has reached tells
where the whole of it is.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

MIN_IOU, MIN_IOU_ALIKE = 0.3, 0.1
"""Predicted IoU x presence from which a mask is a sight: of any mask, and of one as large as the target.

Of wrong masks three quarters have less than the former, and so have right ones of what the model is never sure of
(docs/experiments.md).
"""

_WHOLE_IOU, _WHOLE_AREA = 0.4, 0.65  # a sight of all of the target: of this quality, and so like in area to the others
_ALIKE = 0.5  # so like in area to the others that less quality will do
_COVERED = 0.9  # less of its usual width or height, and an edge of it is not seen
_NEAR = 4.0  # pixels that its own edge may be off where it is expected
_STEADY = 0.15  # so much of its width and height may change between two frames for its middle to say how it moved
_SIGHTS = 16  # remembered: masks of small targets are off by a pixel or two, which fewer would take for speed
_SETTLES = 0.05  # share of a covered width or height that the usual one becomes of it: it may have turned, after all
_SPECK = 0.15  # less like in area, a mask is no sight of what was not seen in the frame before
_BEGUN = 5  # sights up to which its pixels' motion may stand in for that of a middle
_FEW = 3  # sights from which on a speed is believed
_SLACK = 3.0  # pixels that a sight may be off, beside half the target's length
_GROWTH = (0.06, 2.0, 0.15)  # more slack for each frame unseen: lengths, pixels, and share of the speed
_STRAY = (0.3, 2.0)  # shares of its speed, and pixels, that its pixels may go astray without a mask that shows it
_STEPS, _ALIKE_STEPS = 4, 2.0  # frames, eq. 7's step, in which what sets off goes alike, to so many pixels
_SETS_OFF = 1.0  # pixels a frame, from which on it goes, and below which it stood
_BETTER = 0.04  # mean correlation of its pixels where they went above that in place, then
_FAST = 8.0  # pixels a frame that a target of unknown speed may have

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels, the latter two exclusive."""


class Moved(NamedTuple):
    """How far a target's pixels have moved since its sight in the frame before.

    Attributes:
      x, y: in pixels.
      sure: whether they can be nothing that stands (`pace.Match.sure`).
      better: how much more alike they are there than where they were, as a correlation.
    """

    x: float
    y: float
    sure: bool = True
    better: float = 0.0


@dataclasses.dataclass
class Course:
    """One target's sights. All numbers are in pixels of the latest picture and in frames.

    Attributes:
      whole: (frame, x, y) of its latest middles: of boxes that showed all of it, or of which an edge told where all of
        it was, and, among the first ones, of what was covered meanwhile, as far as its pixels had moved.
      areas: of the latest boxes; of those that showed a part, nearly what was expected.
      extents: (width, height) of the latest boxes that showed all of it.
      length: of its box's longer side, a running mean.
      last: (frame, x, y) of the last sight, with `size`, its box's width and height, of all of it as far as that can be
        told; None: none yet.
      path: x and y in its first frames, as far as motion told them before it was followed: in place of the middles of
        its first sights.
      steps: (frame, x, y, better, x, y) of the latest motions of its pixels (`Moved`), the latter two as far as its
        sight did not follow them.
      pose: of the latest picture, 3 x 3 (`ground.Ground`); None: the ground is not known.
    """

    whole: list[tuple[float, float, float]] = dataclasses.field(default_factory=list)
    areas: list[float] = dataclasses.field(default_factory=list)
    extents: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    length: float = 0.0
    last: tuple[float, float, float] | None = None
    size: tuple[float, float] = (0.0, 0.0)
    path: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    steps: list[tuple[float, ...]] = dataclasses.field(default_factory=list)
    pose: list[list[float]] | None = None

    def over(self, frame: int, pose: np.ndarray) -> None:
        """Takes everything along to the next picture, as the ground has moved there.

        Args:
          frame: its number.
          pose: float [3, 3], the picture's.
        """
        if self.pose is not None:
            way = pose @ np.linalg.inv(self.pose)
            moved = lambda *point: tuple(map(float, (way @ (*point, 1.0))[:2]))  # noqa: E731
            self.whole = [(seen, *moved(x, y)) for seen, x, y in self.whole]
            self.last = self.last and (self.last[0], *moved(*self.last[1:]))
            self.path = [moved(*point) if k < frame else point for k, point in enumerate(self.path)]
        self.pose = pose.tolist()

    def see(self, frame: int, box: Box, iou: float, moved: Moved | None = None) -> bool:
        """Takes a mask's box for a sight of the target, if it can be one.

        Args:
          frame: its number, larger than those before.
          iou: the quality that the decoder gives its mask, in [0, 1].
          moved: how far its pixels have moved, if it had a sight in the frame before and they were found again. It
            counts for a target that is covered: the middle of what is left of it moves otherwise. The sights of all of
            it tell its speed better.

        Returns:
          Whether it was taken. The first always is.
        """
        width, height = box[2] - box[0], box[3] - box[1]
        x, y, area = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, width * height
        usual = float(np.median(self.areas)) if self.areas else area
        alike = min(area / usual, usual / area)
        least = MIN_IOU_ALIKE if alike >= _ALIKE else MIN_IOU
        if self.last is not None:
            hidden = frame - self.last[0] > 1
            if iou < least or (hidden and alike < _SPECK) or not self._can_be(frame, x, y):
                return False
        whole = len(self.areas) < _FEW or (alike >= _WHOLE_AREA and iou >= _WHOLE_IOU)
        # A target that comes nearer or turns changes its area for good, but slowly.
        self.areas = [*self.areas, area if whole else usual * (0.97 if area < usual else 1.03)][-_SIGHTS:]
        changes = [abs(a - b) > _STEADY * max(a, b) for a, b in zip((width, height), self.size, strict=True)]
        full, told = self.full(frame, box, moved)
        self.size = full[2] - full[0], full[3] - full[1]
        middle = (full[0] + full[2]) / 2, (full[1] + full[3]) / 2
        if moved is not None:
            behind = (way - (now - was) for way, now, was in zip(moved[:2], middle, self.last[1:], strict=True))
            self.steps = [*self.steps, (frame, moved.x, moved.y, moved.better, *behind)][1 - _STEPS :]
        self.last = (frame, *middle)
        begun = self.begun and self.whole[-1][0] == frame - 1
        known = begun and frame < len(self.path)
        if known:
            moved = Moved(*np.subtract(self.path[frame], self.path[frame - 1]).tolist())
        if known or (begun and moved is not None and (any(changes) or not whole)):
            _, before_x, before_y = self.whole[-1]
            self.whole = [*self.whole, (frame, before_x + moved.x, before_y + moved.y)][-_SIGHTS:]
        elif told and whole:
            self.whole = [*self.whole, self.last][-_SIGHTS:]
        if whole:
            longest = max(self.size)
            self.length = 0.9 * self.length + 0.1 * longest if len(self.whole) > 1 else longest
            pairs = zip(self.size, (width, height), strict=True)
            self.extents = [*self.extents, tuple((1 - _SETTLES) * a + _SETTLES * b for a, b in pairs)][-_SIGHTS:]
        return True

    def full(self, frame: int, box: Box, moved: Moved | None = None) -> tuple[Box, bool]:
        """The box of all of the target, by one that may show a part, and whether something tells where it is.

        Where the part is narrower than usual, one edge may be the target's own, and lies where it is expected, as its
        pixels surely moved or the target went; the other one is that of what covers it. (Half a target and a cloud's
        edge are most like themselves where that edge is: such pixels tell no more than a known speed.) If neither lies
        there, though the part is in the box that is expected, as one coach of a train is, all of it has moved as its
        pixels did. But what is wider than usual one way has turned.

        Args:
          frame, box, moved: as `see`'s.
        """
        if not self.whole or not self.extents:
            return box, True
        usually, now = np.median(self.extents, axis=0), np.subtract(box[2:], box[:2])
        # What turns gains one way what it loses the other; a mask that is a little too wide as well shows a part.
        if any(now * _COVERED > usually) and np.hypot(*now) >= _COVERED * np.hypot(*usually):
            return box, True
        seen, *middle = self.whole[-1]
        ahead = np.add(middle, np.multiply(self.speed, frame - seen))
        pixels = ahead if moved is None else np.add(self.last[1:], moved[:2])
        way = None if moved is None else self._sets_off(frame, moved)
        if way is not None:
            ahead = pixels = np.add(self.last[1:], way)
        elif moved is not None and (moved.sure or self.begun):
            ahead = pixels
        sides, told = [], True
        for low, high, middle, there, usual in zip(box[:2], box[2:], ahead, pixels, usually, strict=True):
            if high - low < _COVERED * usual:
                expected = middle - usual / 2
                edge = min((low, high - usual), key=lambda start: abs(start - expected))
                hidden = high - usual < expected < low and abs(edge - expected) > _NEAR
                low = there - usual / 2 if hidden else edge
                high, told = low + usual, told and not (hidden and moved is None)
            sides.append((float(low), float(high)))
        (x0, x1), (y0, y1) = sides
        return (x0, y0, x1, y1), told

    def _sets_off(self, frame: int, moved: Moved) -> np.ndarray | None:
        """x, y from its last place of a target that stood and goes, if its pixels say so in several frames together.

        In any one of them that is not sure. And of what sets off behind an edge, the mask ends there in each, as if it
        stood: when that is noticed, it has gone on for some frames.
        """
        steps = np.array([*self.steps, (frame, moved.x, moved.y, moved.better, moved.x, moved.y)])
        if np.hypot(*self.speed) >= _SETS_OFF or len(steps) < _STEPS or frame - steps[0, 0] >= _STEPS:
            return None
        way = np.median(steps[:, 1:3], axis=0)
        apart = np.hypot(*(steps[:, 1:3] - way).T).max()
        goes = np.hypot(*way) >= _SETS_OFF and apart <= _ALIKE_STEPS and steps[:, 3].mean() > _BETTER
        return steps[:, 4:].sum(axis=0) if goes else None

    def agrees(self, frame: int, middle: tuple[float, float]) -> bool:
        """Whether pixels that were found again at a place go as the target went.

        Those of a target that a cloud is covering are soon the cloud's, and would take it along.
        """
        share, pixels = _STRAY
        x, y = self.ahead(frame)
        off = np.hypot(middle[0] - x, middle[1] - y)
        return not self.known or bool(off <= pixels + share * np.hypot(*self.speed))

    def carry(self, frame: int, middle: tuple[float, float]) -> None:
        """Takes it that the target is at a place where its pixels were found again, though no mask shows it."""
        self.last = (frame, *middle)
        self.whole = [*self.whole, self.last][-_SIGHTS:]

    def box(self, frame: int) -> Box | None:
        """The box that the target is expected to have in a frame after the last sight; None where there was none.

        In the frame right after a sight it is where it was then.
        """
        if self.last is None:
            return None
        x, y = self.ahead(frame) if frame - self.last[0] > 1 else self.last[1:]
        width, height = self.size
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2

    def ahead(self, frame: int) -> tuple[float, float]:
        """x, y of the target's middle in a frame, if it goes on from its last sight as it went; there must be one."""
        seen, x, y = self.last
        across, down = self.speed
        return x + across * (frame - seen), y + down * (frame - seen)

    def _can_be(self, frame: int, x: float, y: float) -> bool:
        """Whether the target can be at a place, coming from its last sight or going on as it went."""
        unseen = frame - self.last[0]
        lengths, pixels, share = _GROWTH
        drift = pixels + share * np.hypot(*self.speed) if self.known else _FAST
        slack = self.length / 2 + _SLACK + unseen * (lengths * self.length + drift)
        return min(np.hypot(x - px, y - py) for px, py in (self.ahead(frame), self.last[1:])) <= slack

    @property
    def known(self) -> bool:
        """Whether there were sights enough for its speed to be believed."""
        return len(self.whole) >= _FEW

    @property
    def begun(self) -> bool:
        """Whether there were so few sights that its pixels' motion may stand in for that of a middle."""
        return 0 < len(self.whole) < _BEGUN

    @property
    def speed(self) -> tuple[float, float]:
        """Pixels a frame: the median over pairs of sights (Theil-Sen), which some bad ones do not move."""
        if len(self.whole) < 2:
            return 0.0, 0.0
        sights = np.array(self.whole)
        first, second = np.triu_indices(len(sights), 1)
        steps = sights[second] - sights[first]
        apart = steps[:, 0] >= (3 if len(sights) >= 5 else 1)
        across, down = np.median(steps[apart, 1:] / steps[apart, :1], axis=0)
        return float(across), float(down)
