"""The online session: push frames from anywhere, get masks as soon as they are settled.

A thin shell over `models.functional`: it resizes, calls the compiled programs for each group of targets, and resizes
back. What must survive a restart has a size that does not grow with the video: each group's memory, what was asked for,
and the frames that a calibration window holds back.
"""

import collections
import dataclasses
import operator
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mqc_jax import groups, imaging, stream_state, window
from mqc_jax.checkpoint import Model
from mqc_jax.errors import UserError
from mqc_jax.groups import Group, Target
from mqc_jax.models import dami_bank
from mqc_jax.models.memory_bank import MemoryBank
from mqc_jax.results import FrameResult, assemble, passed_over
from mqc_jax.stream_state import StreamState
from mqc_jax.window import CalibrationWindow

__all__ = ["FrameResult", "Tracker"]

_MIN_SIDE = 16


class Tracker:
    """Follows targets through a video, frame by frame; they may be added and dropped at any time.

    What a target gets does not depend on the others: the same, bit for bit, as from a tracker of its own that starts
    with its first frame. (On accelerators, where targets added together are computed in one batch, to rounding.)

    A model that was trained to see windows (`model.config.tile`) gets a `tiled.TiledTracker`, which is used alike;
    `model.replace(tile=0)` sees whole frames, shrunk to its size.

    Args:
      model: from `mqc_jax.load`.
      texts: one sentence a target, about the first frame.
      masks: instead of texts, bool [N, H, W] at the first frame's size.

    Attributes:
      frame_index: number of the last frame whose result was given; -1: none yet.

    Raises:
      UserError: neither or both given, an empty or over-long sentence, masks of the wrong form.
    """

    def __new__(cls, model: Model, *prompts: Any, **named: Any) -> "Tracker":
        """Of the kind that the model asks for."""
        return object.__new__(cls._kind(model))

    @classmethod
    def _kind(cls, model: Model) -> type["Tracker"]:
        if cls is not Tracker or not model.config.tile:
            return cls
        from mqc_jax.tiled import TiledTracker  # which is made of this class

        return TiledTracker

    def __init__(self, model: Model, texts: list[str] | None = None, masks: np.ndarray | None = None):
        self._clear(model)
        self.add(texts, masks)

    def _clear(self, model: Model) -> None:
        """No targets, no video."""
        self.model = model
        self._calibrates = model.config.calibration == "tmcc"
        self._targets: dict[int, Target] = {}
        self._next_id = 0
        self._forget()

    def _forget(self) -> None:
        """No video."""
        self.frame_index = -1
        self._frame_shape: tuple[int, ...] | None = None
        self._groups: list[Group] = []
        self._held: collections.deque[np.ndarray] = collections.deque()  # from frame `frame_index` + 1 on
        self._windows: dict[int, CalibrationWindow] = {}  # by the number of their first frame

    @property
    def num_targets(self) -> int:
        """How many targets are followed, those included that wait for their first frame."""
        return len(self._targets)

    @property
    def targets(self) -> list[int]:
        """Their ids, in order of adding."""
        return list(self._targets)

    @property
    def _due(self) -> int:
        """The number of the next frame to be pushed."""
        return self.frame_index + 1 + len(self._held)

    # ---- who is followed --------------------------------------------------------------------------------------------

    def add(self, texts: list[str] | None = None, masks: np.ndarray | None = None) -> list[int]:
        """Follows more targets from the next pushed frame on, which their sentences or masks are about.

        Args:
          texts: one sentence a target.
          masks: instead of texts, bool [N, H, W] at the frames' size.

        Returns:
          The new targets' ids. Ids count up from 0 and are never given twice.

        Raises:
          UserError: neither or both given, an empty or over-long sentence, masks of the wrong form. Nothing was added.
        """
        if (texts is None) == (masks is None):
            raise UserError("targets are given by either texts or masks; give exactly one of them")
        if masks is None:
            prompts = [{"text": text} for text in self._checked_texts(texts)]
        else:
            prompts = [{"mask": mask} for mask in self._checked_masks(masks)]
        added = [Target(self._next_id + k, **prompt) for k, prompt in enumerate(prompts)]
        self._targets |= {target.id: target for target in added}
        self._next_id += len(added)
        return [target.id for target in added]

    def drop(self, ids: int | Iterable[int]) -> None:
        """Follows some targets no longer; frames that are still held back come without them.

        A frame that waited for them alone comes with the next `push` or `finish`. When no target is left, frames still
        give results, without rows.

        Raises:
          UserError: an id that is not followed. Nothing was dropped.
        """
        try:
            dropped = {operator.index(i) for i in (ids if isinstance(ids, Iterable) else [ids])}
        except TypeError as error:
            raise UserError(f"ids to drop are {ids!r}; give one of {self.targets}, or several") from error
        for i in sorted(dropped):
            if i not in self._targets:
                raise UserError(f"there is no target {i} to drop; those that are followed are {self.targets}")
        for i in dropped:
            del self._targets[i]
        self._groups = [group.without(dropped) for group in self._groups if not dropped.issuperset(group.ids)]
        for opened in self._windows.values():
            opened.drop(dropped)

    def reset(self) -> None:
        """Begins a new video, of any frame size, with the same targets under the same ids.

        Everything seen is forgotten, frames that are still held back included. Sentences are about the new first frame;
        a target that was given as a mask starts from the same mask.
        """
        self._forget()
        self._targets = {i: dataclasses.replace(target, start=None, place=None) for i, target in self._targets.items()}

    def expect(self, places: dict[int, tuple[float, float, float]]) -> None:
        """Says where targets are to be expected in the next frame, for a model that keeps one object in each mask.

        Without it a target is expected where it was last seen, and on its first frame anywhere.

        Args:
          places: by id, the x and y of the target's middle as shares of the frame's width and height, and its box's
            diagonal as a share of the frame's longer side. A target that was seen before keeps the length that it had.

        Raises:
          UserError: an id that is not followed.
        """
        for i, place in places.items():
            if i not in self._targets:
                raise UserError(f"there is no target {i} to expect; those that are followed are {self.targets}")
            if self._targets[i].start is None:
                self._targets[i] = dataclasses.replace(self._targets[i], place=tuple(map(float, place)))
            for group in self._groups:
                if group.bank.place is not None and i in group.ids:
                    known = np.array(group.bank.place)
                    row = known[group.ids.index(i)]
                    row[:] = *place[:2], row[2] or place[2]
                    group.bank = group.bank.replace(place=known)

    def _checked_texts(self, texts: list[str]) -> list[str]:
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts:
            raise UserError("texts is empty; give at least one sentence")
        self.model.require_text()
        self.model.tokenizer.encode(texts, self.model.config.bert.max_tokens)
        return texts

    def _checked_masks(self, masks: np.ndarray) -> np.ndarray:
        masks = np.asarray(masks)
        if masks.ndim != 3 or not len(masks):
            raise UserError(
                f"masks have shape {list(masks.shape)}; give [targets, height, width] with at least one target"
            )
        if self._frame_shape is not None:
            self._check_mask_size(masks.shape[1:], self._frame_shape)
        return masks.astype(bool)

    # ---- frames -----------------------------------------------------------------------------------------------------

    def push(self, frame: np.ndarray) -> list[FrameResult]:
        """Takes the next frame, uint8 RGB [H, W, 3], and returns the frames that are settled by it, in order.

        With calibration "tmcc" a frame in which targets start, and every later one, is held back for all targets until
        the new targets' windows are over, which is at most `n_max` frames.

        Raises:
          UserError: not an RGB frame, or another size than the frames before. The stream goes on as if it had not come.
        """
        frame = self._check(frame)
        self._take(imaging.resize(frame, self.model.config.image_size))
        return self._settled()

    def finish(self) -> list[FrameResult]:
        """The frames still held back when the video ends: windows are closed with the frames that there are."""
        return self._settled(ending=True)

    def _look(self, frame: np.ndarray) -> bool:
        """Takes a frame for the first one's calibration alone; whether the first mask is settled by it."""
        frame = self._check(frame)
        self._take(imaging.resize(frame, self.model.config.image_size))
        opened = self._windows.get(self.frame_index + 1)
        return opened is None or opened.over

    def _begin(self) -> FrameResult:
        """The first frame's result; what was looked at after it is forgotten, and is to be pushed now."""
        result = self._next()
        self._held.clear()
        return result

    def _memories(self) -> list[MemoryBank]:
        """Copies of what is remembered, for `_pass_over`: the next frame uses the memory up."""
        return [jax.tree.map(lambda x: x.copy(), group.bank) for group in self._groups]

    def _pass_over(self, result: FrameResult, before: list[MemoryBank]) -> FrameResult:
        """Takes the latest frame out of DAMI's memory again.

        Args:
          result: the frame's.
          before: `_memories` before it came.
        """
        for group, bank in zip(self._groups, before, strict=True):
            group.bank = dami_bank.passed_over(bank, group.bank)
        return passed_over(result, [group.bank for group in self._groups])

    def _take(self, image: np.ndarray) -> None:
        """Holds the next frame, uint8 [S, S, 3]; open windows look at it, and waiting targets start in it."""
        number = self._due
        watching = [opened for opened in self._windows.values() if not opened.over]
        if watching:
            moved = window.displacement(self._held[-1], image)
            for opened in watching:
                opened.add(image, moved)
        waiting = [target for target in self._targets.values() if target.start is None]
        self._targets |= {target.id: dataclasses.replace(target, start=number) for target in waiting}
        if waiting and self._calibrates:
            self._windows[number] = CalibrationWindow(self.model, image, list(groups.prompts(self.model, waiting)))
        self._held.append(image)

    def _settled(self, ending: bool = False) -> list[FrameResult]:
        """Follows everybody through the held frames up to the first that waits for a window; none does at the end."""
        results = []
        while self._held:
            opened = self._windows.get(self.frame_index + 1)
            if opened is not None and not (opened.over or ending):
                break
            results.append(self._next())
        return results

    def _next(self) -> FrameResult:
        """Follows everybody into the next held frame."""
        number, image = self.frame_index + 1, self._held.popleft()
        opened = self._windows.pop(number, None)
        starting = [] if opened else [target for target in self._targets.values() if target.start == number]
        parts = []
        if opened or starting or self._groups:
            features = opened.features if opened else groups.encode(self.model.net, self.model.params, image)
            parts = [groups.follow(self.model, features, group) for group in self._groups]
            if opened:
                parts += opened.settle()
            else:
                parts += [groups.begin(self.model, features, p) for p in groups.prompts(self.model, starting)]
        self._groups = [part.group for part in parts]
        self.frame_index = number
        return assemble(number, self._frame_shape[:2], parts or [groups.nobody(self.model)])

    def _check(self, frame: np.ndarray) -> np.ndarray:
        frame = np.asarray(frame)
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise UserError(f"a frame is {frame.dtype} {list(frame.shape)}; give uint8 RGB [height, width, 3]")
        if min(frame.shape[:2]) < _MIN_SIDE:
            raise UserError(
                f"a frame is {frame.shape[0]}x{frame.shape[1]}, both sides must be at least {_MIN_SIDE} pixels"
            )
        if self._frame_shape is not None and frame.shape != self._frame_shape:
            raise UserError(
                f"frame {self._due} is {frame.shape[0]}x{frame.shape[1]}, the frames before it were "
                f"{self._frame_shape[0]}x{self._frame_shape[1]}; a tracker needs frames of one size"
            )
        if self._frame_shape is None:
            for target in self._targets.values():
                if target.mask is not None:
                    self._check_mask_size(target.mask.shape, frame.shape)
        self._frame_shape = frame.shape
        return frame

    def _check_mask_size(self, mask: tuple[int, ...], frame: tuple[int, ...]) -> None:
        if mask != frame[:2]:
            which = "the first frame is" if self._frame_shape is None else "the frames are"
            raise UserError(
                f"masks are {mask[0]}x{mask[1]} but {which} {frame[0]}x{frame[1]}; give masks of the frame's size"
            )

    # ---- surviving a restart ----------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Writes the stream's state, so that `restore` continues after the last pushed frame.

        Raises:
          UserError: no frame has been pushed yet.
        """
        if not self._due:
            raise UserError("nothing to save: no frame has been pushed yet")
        state = StreamState(
            self.frame_index,
            self._frame_shape,
            self._next_id,
            list(self._targets.values()),
            self._groups,
            list(self._held),
        )
        stream_state.write(path, self.model, state)

    @classmethod
    def restore(cls, model: Model, path: str | Path) -> "Tracker":
        """The tracker that `save` wrote. What it gives from then on is what the saved one would have given.

        Raises:
          UserError: not such a file, or written with a model of another config.
        """
        kind = cls._kind(model)
        return kind._of(model, stream_state.read(path, model)) if kind is cls else kind.restore(model, path)

    @classmethod
    def _of(cls, model: Model, state: StreamState) -> "Tracker":
        """The tracker that had this state."""
        tracker = object.__new__(cls)
        tracker._clear(model)
        tracker.frame_index, tracker._frame_shape = state.frame_index, state.frame_shape
        tracker._groups, tracker._next_id = state.groups, state.next_id
        # The held frames are taken again, and with them the targets start that started in them.
        starts = collections.defaultdict(dict)  # by frame
        for target in state.targets:
            if target.start is not None and target.start <= state.frame_index:
                tracker._targets[target.id] = target
            else:
                starts[target.start][target.id] = dataclasses.replace(target, start=None)
        for image in state.held:
            tracker._targets |= starts[tracker._due]
            tracker._take(image)
        tracker._targets |= starts[None]
        return tracker
