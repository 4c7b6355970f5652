"""Very large frames: the target is searched in tiles, and followed in a window that moves with it.

A frame of 4,000 pixels that is shrunk to the model's few hundred shows nothing of a target of 20 pixels. Here the model
sees a window of about its own number of pixels: `tile_search` chooses one for each target on frame 0, an ordinary
`Tracker` follows the target inside it, and `tiling.follow` moves it when the target nears its edge.
"""

import collections
import dataclasses
from pathlib import Path

import numpy as np

from mqc_jax import tile_search, tiled_state
from mqc_jax.checkpoint import Model
from mqc_jax.config import SMALLEST_TILE
from mqc_jax.errors import UserError
from mqc_jax.results import FrameResult
from mqc_jax.tiled_state import TiledState, ViewState
from mqc_jax.tiling import Window, around, follow, main_part
from mqc_jax.tracker import Tracker

WHOLE_FRAMES = -1
"""As `tile`: the whole frame is shrunk to the model's size, whatever the model was trained to see."""


def window_side(model: Model, tile: int | None = None) -> int | None:
    """The side of the windows that targets are searched and followed in, in pixels; None: whole frames.

    Args:
      tile: None: as the model was trained (`config.tile`); 0: the model's own number of pixels; `WHOLE_FRAMES`.

    Raises:
      UserError: the tile is too small.
    """
    side = (model.config.tile or WHOLE_FRAMES) if tile is None else (tile or model.config.image_size)
    if side == WHOLE_FRAMES:
        return None
    if side < SMALLEST_TILE:
        raise UserError(
            f"tile={side} must be at least {SMALLEST_TILE} pixels, 0 for the model's own size, or {WHOLE_FRAMES} for "
            "whole frames"
        )
    return side


def new_tracker(
    model: Model, texts: list[str] | None = None, masks: np.ndarray | None = None, tile: int | None = None
) -> "Tracker | TiledTracker":
    """The tracker that predict, evaluate and the app use: of windows or of whole frames, as `window_side` says.

    Raises:
      UserError: as `TiledTracker`'s.
    """
    side = window_side(model, tile)
    return Tracker(model, texts, masks) if side is None else TiledTracker(model, texts, masks, side)


class TiledTracker:
    """Follows targets through a video of very large frames, frame by frame.

    Used as `Tracker` is. Every target has a window and a tracker of its own, so that cost grows with their number;
    where the whole frame fits into one tile there is one `Tracker` for all of them, which sees the whole frame.
    Sentences are read on frame 0 only: a target that is lost is waited for in the window that it was last seen in.

    Args:
      model: from `mqc_jax.load`.
      texts: one sentence a target, about the whole first frame.
      masks: instead of texts, bool [N, H, W] at the first frame's size.
      tile: side of the smallest windows in pixels; 0: the model's own number of pixels, `image_size`.

    Attributes:
      frame_index: number of the last frame whose result was given; -1: none yet.

    Raises:
      UserError: neither or both of texts and masks given, or of the wrong form; a tile that is too small.
    """

    def __init__(
        self, model: Model, texts: list[str] | None = None, masks: np.ndarray | None = None, tile: int = 0
    ) -> None:
        if tile and tile < SMALLEST_TILE:
            raise UserError(f"tile={tile} must be at least {SMALLEST_TILE} pixels, or 0 for the model's own size")
        self.model = model
        self.tile = tile or model.config.image_size
        self.frame_index = -1
        # A tracker of whole frames, which checks what is asked for; replaced by one for each target if need be.
        self._whole: Tracker | None = Tracker(model, texts, masks)
        self._texts = [texts] if isinstance(texts, str) else texts and list(texts)
        self._masks = masks if masks is None else np.asarray(masks).astype(bool)
        self._size: tuple[int, int] | None = None
        self._views: list[_View] = []

    @property
    def num_targets(self) -> int:
        """How many targets are followed."""
        return self._whole.num_targets if self._whole is not None else len(self._views)

    @property
    def windows(self) -> list[Window]:
        """Each target's window in the next frame; empty before the first frame, and where the whole frame is seen."""
        return [view.window for view in self._views]

    def push(self, frame: np.ndarray) -> list[FrameResult]:
        """Takes the next frame, uint8 RGB [H, W, 3], and returns the frames that are settled by it, in order.

        Results are those of `Tracker`, with these differences where frames are larger than a tile: `mask_logits` is
        what each target's window showed; `memory` also holds `view`, int32 [N, 4], that window as x0, y0, x1, y1 in
        pixels; maps in `evidence` are [N, h, w] over the whole frame, their longest side at most 1024, and
        `coarse` is that of all tiles that were looked at.

        Raises:
          UserError: not an RGB frame, or another size than the frames before.
        """
        frame = np.asarray(frame)
        if self._whole is not None:
            if self._size is not None or not self._needs_windows(frame):
                results = self._whole.push(frame)
                self._size = frame.shape[:2]
                return self._count(results)
            self._begin(frame)
        elif frame.shape != (*self._size, 3) or frame.dtype != np.uint8:
            raise UserError(
                f"a frame is {frame.dtype} {list(frame.shape)}, the frames before it were uint8 "
                f"{[*self._size, 3]}; a tracker needs frames of one size"
            )
        for view in self._views:
            view.push(frame)
        return self._count(self._settled())

    def finish(self) -> list[FrameResult]:
        """The frames still held back when the video ends: windows are closed with the frames that there are."""
        if self._whole is not None:
            return self._count(self._whole.finish())
        for view in self._views:
            view.take(view.tracker.finish())
        return self._count(self._settled())

    # ---- surviving a restart --------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Writes the stream's state, so that `restore` continues after the last pushed frame.

        Raises:
          UserError: no frame has been pushed yet.
        """
        if self._size is None:
            raise UserError("nothing to save: no frame has been pushed yet")
        views = [view.state() for view in self._views]
        if self._whole is not None:
            views = [ViewState(self._whole, Window(0, 0, *self._size[::-1]), [], [], None)]
        tiled_state.write(path, TiledState(self.tile, self.frame_index, self._size, self._whole is None, views))

    @classmethod
    def restore(cls, model: Model, path: str | Path) -> "TiledTracker":
        """The tracker that `save` wrote.

        Raises:
          UserError: not such a file, or written with a model of another config.
        """
        state = tiled_state.read(path, model)
        session = cls.__new__(cls)
        session.model, session.tile = model, state.tile
        session.frame_index, session._size = state.frame_index, state.size
        session._texts = session._masks = None  # frame 0 is over
        session._whole = None if state.windows else state.views[0].tracker
        session._views = [_View.of(view, state.size) for view in state.views] if state.windows else []
        return session

    # ---- frames -----------------------------------------------------------------------------------------------------

    def _count(self, results: list[FrameResult]) -> list[FrameResult]:
        self.frame_index += len(results)
        return results

    def _needs_windows(self, frame: np.ndarray) -> bool:
        """Not for what is no frame, or not that of the masks: `Tracker` says what is wrong with it."""
        valid = frame.ndim == 3 and frame.shape[2] == 3 and frame.dtype == np.uint8
        valid = valid and (self._masks is None or self._masks.shape[1:] == frame.shape[:2])
        return valid and min(frame.shape[:2]) >= SMALLEST_TILE and max(frame.shape[:2]) > self.tile

    def _begin(self, frame: np.ndarray) -> None:
        """Frame 0: a window and a tracker for each target."""
        size = frame.shape[:2]
        if self._masks is None:
            found = [tile_search.search(self.model, frame, text, self.tile) for text in self._texts]
            self._views = [_View(Tracker(self.model, texts=[f.text]), f.window, size, f.map) for f in found]
        else:
            windows = [self._around_mask(mask) for mask in self._masks]
            pairs = zip(self._masks, windows, strict=True)
            self._views = [_View(Tracker(self.model, masks=w.cut(mask)[None]), w, size) for mask, w in pairs]
        self._whole, self._size = None, size

    def _around_mask(self, mask: np.ndarray) -> Window:
        """The smallest window in which a given target is at most half as long as the window."""
        box, side = main_part(mask), self.tile
        if box is None:
            return around(mask.shape[1] / 2, mask.shape[0] / 2, side, mask.shape)
        while side < 2 * max(box[2] - box[0], box[3] - box[1]):
            side *= 2
        return around((box[0] + box[2]) / 2, (box[1] + box[3]) / 2, side, mask.shape)

    def _settled(self) -> list[FrameResult]:
        """The frames that every target has a result for."""
        results = []
        while all(view.results for view in self._views):
            results.append(_together([view.results.popleft() for view in self._views], self._size))
        return results


class _View:
    """One target's window and tracker.

    Attributes:
      window: the part of the next frame that the tracker will see.
      results: what the tracker gave and the other targets' trackers did not yet, with the window it was seen in.
    """

    def __init__(self, tracker: Tracker, window: Window, size: tuple[int, int], searched: np.ndarray | None = None):
        self.tracker, self.window, self.size = tracker, window, size
        self.results: collections.deque[tuple[FrameResult, Window]] = collections.deque()
        self._searched = searched
        self._seen: collections.deque[Window] = collections.deque()  # of frames that wait for the tracker's answer

    def state(self) -> ViewState:
        """Everything that `of` needs."""
        return ViewState(self.tracker, self.window, list(self._seen), list(self.results), self._searched)

    @classmethod
    def of(cls, state: ViewState, size: tuple[int, int]) -> "_View":
        """The view that had this state."""
        view = cls(state.tracker, state.window, size, state.searched)
        view._seen.extend(state.seen)
        view.results.extend(state.results)
        return view

    def push(self, frame: np.ndarray) -> None:
        self._seen.append(self.window)
        self.take(self.tracker.push(np.ascontiguousarray(self.window.cut(frame))))

    def take(self, results: list[FrameResult]) -> None:
        """Keeps the tracker's results, and moves the window after the target in the last one."""
        for result in results:
            window = self._seen.popleft()
            if result.evidence:
                result = dataclasses.replace(result, evidence=self._on_frame(result.evidence, window))
            self.results.append((result, window))
        if results and not self._seen:  # else the calibration looks at one place for a while
            box = main_part(results[-1].masks[0])
            if box is not None:
                x, y = window.x, window.y
                self.window = follow(window, (box[0] + x, box[1] + y, box[2] + x, box[3] + y), self.size)

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


def _together(parts: list[tuple[FrameResult, Window]], size: tuple[int, int]) -> FrameResult:
    """One frame's result at the frame's size, from each target's in its window."""
    own = [result for result, _ in parts]
    masks = np.zeros((len(parts), *size), bool)
    for mask, (result, window) in zip(masks, parts, strict=True):
        window.cut(mask)[:] = result.masks[0]
    rows = lambda name: np.concatenate([getattr(result, name) for result in own])  # noqa: E731
    merge = lambda dicts: {name: np.concatenate([d[name] for d in dicts]) for name in dicts[0]}  # noqa: E731
    view = np.array([window.box for _, window in parts], np.int32)
    return FrameResult(
        frame_index=own[0].frame_index,
        masks=masks,
        mask_logits=rows("mask_logits"),
        presence=rows("presence"),
        memory={**merge([result.memory for result in own]), "view": view},
        evidence=merge([result.evidence for result in own]),
        targets=np.arange(len(parts), dtype=np.int64),
        started=rows("started"),
    )
