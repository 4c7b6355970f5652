"""One target's part of a tiled stream: the window that moves with it."""

import collections
import dataclasses
from typing import Any, NamedTuple

import numpy as np

from mqc_jax import outline, pace, paths, tile_search
from mqc_jax.checkpoint import Model
from mqc_jax.course import Box, Course, Moved
from mqc_jax.ground import Shot
from mqc_jax.models.memory_bank import MemoryBank
from mqc_jax.results import FrameResult
from mqc_jax.rivals import Change, Rivals
from mqc_jax.standing import Standing
from mqc_jax.tile_search import Found
from mqc_jax.tiled_state import ViewState
from mqc_jax.tiling import Window, around, follow, inside, main_part, side_of
from mqc_jax.tracker import Tracker

# Pixels that a target may be off where it is expected, and shares of its length: once its speed is known, and before.
_SLACK, _SLACK_AT_FIRST = (6, 0.1), (16, 0.5)
_SLACK_UNSEEN, _SLACK_LOST = 2, 10  # more pixels for each frame in which it was not seen, and at most

# What lies where the target's own pixels were found again is the target, whatever stood there before: so much of its
# length away at most, or so many pixels, and at least so like it.
_THERE, _THERE_PIXELS, _OWN = 0.25, 1.5, 0.7


class Seen(NamedTuple):
    """What a target's tracker gave for a frame, and the window that it saw it in."""

    result: FrameResult
    window: Window


class View:
    """One target's window and tracker.

    Attributes:
      window: the part of the next frame that the tracker will see.
      course: where the target was, by its tracker's frame numbers.
      standing: what was around it.
      start: number of the target's first frame.
      results: what the tracker gave and the other targets' trackers did not yet.
      frames: those held back until the first mask is settled.
      facts: what else `FrameResult.memory` is to hold of the target's first frame.
      rivals: the other objects that its sentence may mean, as long as it may turn out that one of them is meant.
    """

    def __init__(
        self, tracker: Tracker, window: Window, size: tuple[int, int], start: int, searched: np.ndarray | None = None
    ) -> None:
        self.tracker, self.window, self.size, self.start = tracker, window, size, start
        self.results: collections.deque[Seen] = collections.deque()
        self.frames: list[Shot] = []
        self.course, self.standing = Course(), Standing()
        self.facts: dict[str, Any] = {}
        self.rivals: Rivals | None = None
        self._searched = searched
        self._pattern: pace.Pattern | None = None  # how the target looked at its last sight
        self._outline: np.ndarray | None = None  # of its last mask that was fit to be remembered
        self._number = -1  # of the last result, in the tracker's frames; -1: none yet

    @classmethod
    def found(cls, model: Model, found: Found, size: tuple[int, int], start: int, calibrated: bool = True) -> "View":
        """The view of what a search found.

        Args:
          calibrated: False: the first mask is taken as it is, even by a model that calibrates.
        """
        tracker = Tracker(model, texts=[found.text])
        if not calibrated:
            tracker._calibrates = False
        view = cls(tracker, found.window, size, start, found.map)
        view.expect(found.box)
        if found.box is not None:
            view.standing.length = _longer_side(found.box)
        return view

    @classmethod
    def chosen(
        cls,
        model: Model,
        found: Found,
        path: paths.Path,
        shots: list[Shot],
        size: tuple[int, int],
        start: int,
        candidates: int,
    ) -> "View":
        """The view of an object that motion chose, after the frames in which it did.

        Args:
          found: the object, in the first of the frames.
          path: where it went in them.
          shots: the frames.
          candidates: among how many objects it was chosen.
        """
        # Eqs. 7 to 15 look at one place for all of a window. What leaves it meanwhile is followed at once.
        stays = _stays(path, found.box or found.window.box, found.window)
        view = cls.found(model, found, size, start, calibrated=stays)
        view.facts = {"candidates": np.int32(candidates), "moves": path.moves > 0}
        if not stays:
            view.facts |= {"window": np.int32(path.moves), "is_static": path.moves == 0}
        # What is seen to move in a longer window alone may be covered meanwhile: its path would be the cloud's.
        if 0 < path.moves <= model.config.tmcc.n_start:
            view.course.path = [(float(x), float(y)) for x, y in path.corners[: path.moves + 1]]
        for shot in shots:
            view.push(shot)
        return view

    @classmethod
    def given(cls, model: Model, mask: np.ndarray, tile: int, start: int) -> "View":
        """The view of a mask, bool [H, W]; in the middle of the frame where there is nothing in it."""
        box = main_part(mask)
        if box is None:
            window = around(mask.shape[1] / 2, mask.shape[0] / 2, tile, mask.shape)
        else:
            side = side_of(_longer_side(box), tile)
            window = around((box[0] + box[2]) / 2, (box[1] + box[3]) / 2, side, mask.shape)
        view = cls(Tracker(model, masks=window.cut(mask)[None]), window, mask.shape, start)
        if box is not None:
            view.standing.length = _longer_side(box)
        return view

    def state(self) -> ViewState:
        """Everything that `of` needs."""
        results, frames = list(self.results), list(self.frames)
        return ViewState(
            tracker=self.tracker,
            window=self.window,
            course=self.course,
            standing=self.standing,
            frames=frames,
            results=results,
            searched=self._searched,
            pattern=self._pattern,
            outline=self._outline,
            number=self._number,
            rivals=self.rivals,
        )

    @classmethod
    def of(cls, state: ViewState, size: tuple[int, int], start: int) -> "View":
        """The view that had this state."""
        view = cls(state.tracker, state.window, size, start, state.searched)
        view.rivals = state.rivals
        view.course, view.standing, view.frames = state.course, state.standing, list(state.frames)
        view._pattern, view._outline, view._number = state.pattern, state.outline, state.number
        view.results.extend(Seen(*one) for one in state.results)
        return view

    @property
    def waits(self) -> bool:
        """Whether the first mask is not settled yet, so that frames are held back."""
        return self._number < 0

    @property
    def keeps(self) -> bool:
        """Whether frames are kept, so that they must not be written to any more."""
        return self.waits or self.rivals is not None

    def expect(self, box: Box | None) -> None:
        """Tells the tracker where in the frame the target is to be expected, if that is known."""
        if box is not None and self.tracker.model.config.one_object:
            x0, y0, x1, y1 = box
            window, side = self.window, max(self.window.width, self.window.height)
            middle = ((x0 + x1) / 2 - window.x) / window.width, ((y0 + y1) / 2 - window.y) / window.height
            (target,) = self.tracker.targets
            self.tracker.expect({target: (*middle, float(np.hypot(x1 - x0, y1 - y0)) / side)})

    def push(self, shot: Shot) -> "View":
        """Takes the next frame, which must not be written to if the view `keeps` it; gives what goes on from there."""
        if not self.waits:
            self._advance(shot)
            return self._reconsidered(shot)
        # A calibration looks at one place; what follows is seen in windows that move, as without one.
        self.frames.append(shot)
        if self.tracker._look(self._cut(shot.pixels)):
            self._begin()
        return self

    def finish(self) -> "View":
        """Takes the end of the video."""
        if self.frames:
            self._begin()
        return self

    def _begin(self) -> None:
        """Settles the first mask, and follows it through the frames held back."""
        (first, *others), self.frames = self.frames, []
        self.course.over(0, first.pose)
        self._keep(first, self.tracker._begin(), None)
        for shot in others:
            self._advance(shot)

    def _reconsidered(self, shot: Shot) -> "View":
        """The view that goes on after a frame: this one, or that of a rival that has set off."""
        if self.rivals is None:
            return self
        rivals, last = self.rivals, self.course.last
        change = rivals.push(shot, last[1:] if last is not None and last[0] == self._number else None)
        view = self if change is None else self._left_for(change, len(rivals.known))
        view.rivals = rivals if rivals.open else None
        return view

    def _left_for(self, change: Change, among: int) -> "View":
        """The view of what is followed instead, from this frame on; frames before keep their results."""
        view = View.chosen(self.tracker.model, *change, self.size, self.start, among).finish()
        result, window = view.results[-1]
        result = dataclasses.replace(result, memory={**result.memory, "rechosen": np.array([True])})
        view.results = collections.deque([*list(self.results)[:-1], Seen(result, window)])
        return view

    def _advance(self, shot: Shot) -> None:
        """Follows the target into the next frame."""
        number, last = self._number + 1, self.course.last
        self.course.over(number, shot.pose)
        if last is not None and last[0] < self._number:
            self._follow(number)
        match = None if self._pattern is None else self._keep_pace(shot.pixels, last)
        before = self.tracker._memories() if self._controlled and self.course.last is not None else None
        (result,) = self.tracker.push(self._cut(shot.pixels))
        self._keep(shot, result, match, before)

    @property
    def _controlled(self) -> bool:
        """Whether the memory chooses what it remembers."""
        return self.tracker.model.config.memory == "dami"

    def _cut(self, frame: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(self.window.cut(frame))

    def _keep(
        self, shot: Shot, result: FrameResult, match: pace.Match | None, before: list[MemoryBank] | None = None
    ) -> None:
        """Keeps a frame's result, and moves the window after the target.

        Args:
          match: where the target's pixels were found again, if they were looked for.
          before: what was remembered before the frame, if its memory chooses what it remembers.
        """
        window, course, number = self.window, self.course, result.frame_index
        # After the first, a mask of a target that is hardly there (`shown_presence`) does not tell where it is.
        box = main_part(result.masks[0]) if number == 0 or result.presence[0] > 0.5 else None
        if box is not None:
            box = box[0] + window.x, box[1] + window.y, box[2] + window.x, box[3] + window.y
        stood = box is not None and course.last is not None and self._stood(shot, number, box, match)
        if stood and before is not None:
            result = self.tracker._pass_over(result, before)
        if result.evidence:
            result = dataclasses.replace(result, evidence=self._on_frame(result.evidence, window))
        # What has taken in its neighbour, or the cloud that comes, does not tell where the target went.
        grown = before is not None and result.memory["grown"][0]
        mask = shown = result.masks[0]
        if self._outline is not None and before is not None and outline.larger(result.memory):
            found = match.middle if self._surely(match, number) else None
            if found is not None or course.known:
                shown = outline.within(mask, self._outline, course.ahead(number), found, window)
        if self._controlled and not stood and box is not None and (before is None or result.memory["visible"][0]):
            self._outline = outline.of(mask)
        facts = {"stood": stood, "trimmed": bool((shown != mask).any()), **self.facts}
        facts, self.facts = {name: np.array([value]) for name, value in facts.items()}, {}
        result = dataclasses.replace(result, masks=shown[None], memory={**result.memory, **facts})
        self.results.append(Seen(result, window))
        self._number = number
        followed = match is not None and course.last[0] == number - 1
        if box is not None and not stood and not grown:
            course.see(number, box, float(result.iou[0] * result.presence[0]), self._moved(match, number))
        if course.last is not None and course.last[0] == number:
            longest, side = max(*course.size, course.length), max(window.width, window.height)
            self.standing.see(number, shot.pixels, shot.pose, course.last[1:], longest, side)
            pattern = pace.pattern(shot.pixels, mask, window.box[:2], box)
            self._pattern = pattern and pattern._replace(middle=course.last[1:])
        elif followed and self._surely(match, number):
            course.carry(number, match.middle)
        self._follow(number + 1)

    def _surely(self, match: pace.Match | None, number: int) -> bool:
        """Whether the target's pixels were surely found again, and where it is expected."""
        return match is not None and match.sure and self.course.agrees(number, match.middle)

    def _moved(self, match: pace.Match | None, number: int) -> Moved | None:
        """How far the target's pixels have moved since its sight in the frame before; None: that is not known."""
        seen, *was = self.course.last or (-1,)
        if match is None or not match.found or seen != number - 1:
            return None
        way = (now - then for now, then in zip(match.middle, was, strict=True))
        return Moved(*way, match.sure, match.better)

    def _stood(self, shot: Shot, number: int, box: tuple[int, int, int, int], match: pace.Match | None) -> bool:
        """Whether what has the mask was there when the target was elsewhere."""
        if match is not None and match.likeness > _OWN:
            (x0, y0, x1, y1), _ = self.course.full(number, box, self._moved(match, number))
            off = np.hypot((x0 + x1) / 2 - match.middle[0], (y0 + y1) / 2 - match.middle[1])
            if off < max(_THERE * max(*self.course.size, self.course.length), _THERE_PIXELS):
                return False
        return self.standing.stood(number, shot.pixels, shot.pose, box)

    def _keep_pace(self, frame: np.ndarray, last: tuple[float, float, float]) -> pace.Match | None:
        """Moves the window as far as the target's pixels have moved to this frame, and says where they are.

        Args:
          last: (frame, x, y) of its last sight, in the picture before.
        """
        course, number = self.course, self._number + 1
        unseen = number - course.last[0]
        was, size = course.last[1:], course.size
        speed = course.speed if course.known else (0.0, 0.0)
        expected = tuple(w + s * unseen for w, s in zip(was, speed, strict=True))
        slack, share = _SLACK if course.known else _SLACK_AT_FIRST
        # Of a train the mask may show one coach, and the next one is as like it.
        reach = max(slack, int(share * self._pattern.length)) + min(_SLACK_UNSEEN * (unseen - 1), _SLACK_LOST)
        match = pace.find(self._pattern, frame, was, expected, reach)
        # Of what is hidden, what looks like its last pixels is mostly what hides it.
        if match is not None and match.found and (unseen == 1 or course.agrees(number, match.middle)):
            place = match.middle
        elif course.known and unseen == 1:
            place = expected
        else:
            return match
        if unseen == 1:  # what is remembered was seen in the same place of the window
            window = self.window
            x, y = (now - then for now, then in zip(place, last[1:], strict=True))
            middle = window.x + window.width / 2 + x, window.y + window.height / 2 + y
            self.window = around(*middle, max(window.width, window.height), self.size)
        box = place[0] - size[0] / 2, place[1] - size[1] / 2, place[0] + size[0] / 2, place[1] + size[1] / 2
        self.window = follow(self.window, inside(box, self.size), self.size)
        self.expect(box)
        return match

    def _follow(self, number: int) -> None:
        """Moves the window to where the target is expected in a frame."""
        box = self.course.box(number)
        if box is not None:
            self.window = follow(self.window, inside(box, self.size), self.size)
            self.expect(box)

    def _on_frame(self, evidence: dict[str, np.ndarray], window: Window) -> dict[str, np.ndarray]:
        """Maps over the window as maps over the frame."""
        placed = {}
        for name, (values,) in evidence.items():
            heat = tile_search.Heat(self.size)
            heat.add(window, values)
            placed[name] = heat.map[None]
        if self._searched is not None and "coarse" in placed:
            placed["coarse"] = self._searched[None]
            self._searched = None
        return placed


def _longer_side(box: tuple[int, int, int, int]) -> int:
    return max(box[2] - box[0], box[3] - box[1])


def _stays(path: paths.Path, box: tuple[int, int, int, int], window: Window) -> bool:
    """Whether a thing's middle is inside a window in all frames."""
    middles = path.corners + (np.array(box[2:]) - box[:2]) / 2
    x0, y0, x1, y1 = window.box
    return bool(((middles >= (x0, y0)) & (middles <= (x1, y1))).all())
