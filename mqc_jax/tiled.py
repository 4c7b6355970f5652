"""Very large frames: the target is searched in tiles, and followed in a window that moves with it.

A frame of 4,000 pixels that is shrunk to the model's few hundred shows nothing of a target of 20 pixels. Here the model
sees a window of about its own number of pixels: `tile_search` chooses one for each target on frame 0, an ordinary
`Tracker` follows the target inside it, and the window keeps pace with the target's pixels (`pace`), or goes where the
target is expected (`course`). With calibration, motion has a say in which of the objects is meant that a sentence may
mean (`paths`).
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mqc_jax import archive, groups, moving, tile_search, tiled_state
from mqc_jax.checkpoint import Model
from mqc_jax.choice import Choice
from mqc_jax.config import SMALLEST_TILE
from mqc_jax.errors import UserError
from mqc_jax.ground import Ground, Shot
from mqc_jax.groups import Target
from mqc_jax.results import FrameResult, assemble, rows
from mqc_jax.tiled_state import ChoiceState, TiledState
from mqc_jax.tiling import Window
from mqc_jax.tracker import Tracker
from mqc_jax.views import Seen, View

WHOLE_FRAMES = -1
"""As `--tile`: the whole frame is shrunk to the model's size, whatever the model was trained to see."""


def with_tile(model: Model, tile: int | None) -> Model:
    """The model as `--tile` asks for it: `Tracker` then sees windows of that side, or whole frames.

    Args:
      tile: None: as the model was trained (`config.tile`); 0: the model's own number of pixels; `WHOLE_FRAMES`; else
        the windows' side in pixels.

    Raises:
      UserError: the tile is too small.
    """
    if tile is None:
        return model
    side = {0: model.config.image_size, WHOLE_FRAMES: 0}.get(tile, tile)
    if side and side < SMALLEST_TILE:
        raise UserError(
            f"tile={tile} must be at least {SMALLEST_TILE} pixels, 0 for the model's own size, or {WHOLE_FRAMES} for "
            "whole frames"
        )
    return model.replace(tile=side)


class TiledTracker(Tracker):
    """Follows targets through a video of very large frames, frame by frame.

    `Tracker` gives it for a model that was trained to see windows, and it is used alike. Every target has a window and
    a tracker of its own, so that cost grows with their number; where the whole frame fits into one tile it is seen as a
    whole. Sentences are read on a target's first frame only: a target that is lost is waited for where its course
    leads.

    Args:
      model: from `mqc_jax.load`.
      texts: one sentence a target, about the whole first frame.
      masks: instead of texts, bool [N, H, W] at the first frame's size.
      tile: side in pixels of the windows that targets are searched in; they are followed in windows from three eighths
        of it on (`tiling.side_of`). 0: `model.config.tile`, or where that is 0 the model's own number of
        pixels, `image_size`.

    Attributes:
      frame_index: number of the last frame whose result was given; -1: none yet.

    Raises:
      UserError: neither or both of texts and masks given, or of the wrong form; a tile that is too small.
    """

    def __init__(
        self, model: Model, texts: list[str] | None = None, masks: np.ndarray | None = None, tile: int = 0
    ) -> None:
        super().__init__(_tiled(model, tile), texts, masks)

    def _clear(self, model: Model) -> None:
        self._within = model.replace(tile=0)
        super()._clear(model)

    def _forget(self) -> None:
        super()._forget()
        self._views: dict[int, View | Choice] = {}  # by target, those that have started
        self._pushed = 0
        self._ground = Ground()

    @property
    def tile(self) -> int:
        """Side in pixels of the windows that targets are searched in."""
        return self.model.config.tile

    @property
    def windows(self) -> list[Window]:
        """Each started target's window in the next frame, unless its pixels move; none where whole frames are seen."""
        return [view.window for view in self._views.values()]

    @property
    def _windowed(self) -> bool:
        """Whether frames are larger than a tile; not known before the first."""
        sides = self._frame_shape and self._frame_shape[:2]
        return bool(sides) and min(sides) >= SMALLEST_TILE and max(sides) > self.tile

    @property
    def _due(self) -> int:
        return self._pushed if self._windowed else super()._due

    def drop(self, ids: int | Iterable[int]) -> None:
        """As `Tracker.drop`."""
        super().drop(ids)
        self._views = {i: view for i, view in self._views.items() if i in self._targets}

    # ---- frames -----------------------------------------------------------------------------------------------------

    def push(self, frame: np.ndarray) -> list[FrameResult]:
        """Takes the next frame, uint8 RGB [H, W, 3], and returns the frames that are settled by it, in order.

        Results are those of `Tracker`, with these differences where frames are larger than a tile: `mask_logits` is
        what each target's window showed; `memory` also holds `view`, int32 [N, 4], that window as x0, y0, x1, y1 in
        pixels, `stood`, bool [N]: what has the mask stood there when the target was elsewhere (`standing`), so that the
        window does not follow it, and DAMI's memory does not take it in, and `trimmed`, bool [N]: by DAMI's `growth`
        the mask is larger than the target, and `masks` has what it shows of the target where that is (`outline`); maps
        in `evidence` are [N, h, w] over the whole frame, their longest side at most 1024, and `coarse` is that of all
        tiles that were looked at.

        Raises:
          UserError: not an RGB frame, or another size than the frames before. The stream goes on as if it had not come.
        """
        frame = self._check(frame)
        if not self._windowed:
            return super().push(frame)
        waiting = [target for target in self._targets.values() if target.start is None]
        begun = {target.id: self._begin(frame, target) for target in waiting}
        self._views |= begun
        self._targets |= {target.id: dataclasses.replace(target, start=self._pushed) for target in waiting}
        self._pushed += 1
        if any(view.keeps for view in self._views.values()):
            frame = frame.copy()  # it is kept
        shot = Shot(frame, self._ground.push(frame))
        for i, view in self._views.items():
            self._views[i] = view.push(shot)
        return self._settled()

    def finish(self) -> list[FrameResult]:
        """The frames still held back when the video ends: windows are closed with the frames that there are."""
        for i, view in self._views.items():
            self._views[i] = view.finish()
        return self._settled(ending=True)

    def _begin(self, frame: np.ndarray, target: Target) -> View | Choice:
        """The window and the tracker of a target that this frame's sentence or mask is about."""
        size = frame.shape[:2]
        if target.mask is None:
            odds = self._odds(target) if self._calibrates else 1.0
            found = tile_search.candidates(self.model, frame, target.text, self.tile, max(odds, 1 / odds))
            if self._calibrates and self.model.config.tmcc.motion_odds > 1:
                return Choice(self._within, found, odds, size, self._pushed)  # of one, too: motion tells its course
            return View.found(self._within, found[0], size, self._pushed)
        return View.given(self._within, target.mask, self.tile, self._pushed)

    def _odds(self, target: Target) -> float:
        """Those of what moves, of a target that a sentence names."""
        return moving.odds(target.text, self.model.config.tmcc.motion_odds)

    def _settled(self, ending: bool = False) -> list[FrameResult]:
        """The frames that every target which is followed in them has a result for."""
        if not self._windowed:
            return super()._settled(ending)
        results = []
        while self.frame_index + 1 < self._pushed:
            number = self.frame_index + 1
            views = {i: view for i, view in self._views.items() if view.start <= number}
            if not all(view.results for view in views.values()):
                break
            results.append(self._together(number, {i: view.results.popleft() for i, view in views.items()}))
            self.frame_index = number
        return results

    def _together(self, number: int, seen: dict[int, Seen]) -> FrameResult:
        """One frame's result at the frame's size, from each target's in its window."""
        size, views = self._frame_shape[:2], np.array([s.window.box for s in seen.values()], np.int32).reshape(-1, 4)
        if not seen:
            empty = assemble(number, size, [groups.nobody(self._within)])
            return dataclasses.replace(empty, memory={**empty.memory, "view": views})
        masks = np.zeros((len(seen), *size), bool)
        for mask, (result, window) in zip(masks, seen.values(), strict=True):
            window.cut(mask)[:] = result.masks[0]
        own, counts = [s.result for s in seen.values()], [1] * len(seen)
        join = lambda name: np.concatenate([getattr(result, name) for result in own])  # noqa: E731
        return FrameResult(
            frame_index=number,
            masks=masks,
            mask_logits=join("mask_logits"),
            presence=join("presence"),
            iou=join("iou"),
            memory={**rows([result.memory for result in own], counts), "view": views},
            evidence=rows([result.evidence for result in own], counts),
            targets=np.array(list(seen), np.int64),
            started=join("started"),
        )

    # ---- surviving a restart ----------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Writes the stream's state, so that `restore` continues after the last pushed frame.

        Raises:
          UserError: no frame has been pushed yet.
        """
        if not self._windowed:
            super().save(path)
            return
        views = {i: view.state() for i, view in self._views.items()}
        targets = list(self._targets.values())
        state = TiledState(
            self.frame_index, self._pushed, self._frame_shape, self._next_id, targets, views, self._ground
        )
        tiled_state.write(path, self.model, state)

    @classmethod
    def restore(cls, model: Model, path: str | Path) -> "TiledTracker":
        """The tracker that `save` wrote.

        Args:
          model: as the tracker's own, `tracker.model`.

        Raises:
          UserError: not such a file, or written with a model of another config.
        """
        model = _tiled(model)
        if tiled_state.KEY not in archive.read(path)[0]:
            return super().restore(model, path)
        session = object.__new__(cls)
        session._clear(model)
        state = tiled_state.read(path, model, session._within)
        session.frame_index, session._pushed, session._frame_shape = state.frame_index, state.pushed, state.frame_shape
        session._ground = state.ground
        session._next_id, session._targets = state.next_id, {target.id: target for target in state.targets}
        size = state.frame_shape[:2]
        session._views = {
            i: Choice.of(session._within, view, session._odds(session._targets[i]), size, session._targets[i].start)
            if isinstance(view, ChoiceState)
            else View.of(view, size, session._targets[i].start)
            for i, view in state.views.items()
        }
        return session


def _tiled(model: Model, tile: int = 0) -> Model:
    """A model that sees windows."""
    side = tile or model.config.tile or model.config.image_size
    return model if side == model.config.tile else model.replace(tile=side)
