"""A tracker that remembers the true masks: what any rule for SAM2's memory could bring at most.

`lost.py --remember truth` follows with it. Whatever a gate lets in or keeps out, and whatever becomes of a mask before
it is remembered, no memory knows the target better than one that holds its true masks, of the frames that show it, and
nothing else. Masks, windows and courses stay the model's own.
"""

import numpy as np

from mqc_jax import groups, imaging
from mqc_jax.checkpoint import Model
from mqc_jax.errors import UserError
from mqc_jax.models import memory_bank
from mqc_jax.models.memory_bank import ANCHOR, MemoryBank
from mqc_jax.results import FrameResult
from mqc_jax.tiled import TiledTracker


class TrueMemory:
    """`Tracker` from true first masks, whose memory is written anew after each frame.

    Args:
      model: with SAM2's memory, and without calibration.
      truths: of each target, bool [T, H, W].

    Raises:
      UserError: another memory, a calibration, a model that sees whole frames, or frames so small that it does.
    """

    def __init__(self, model: Model, truths: list[np.ndarray]):
        kind = model.config.memory, model.config.calibration, bool(model.config.tile)
        if kind != ("sam2", "none", True):
            raise UserError(
                f"memory {kind[0]!r} with calibration {kind[1]!r}, tile {model.config.tile}: the true masks can be "
                "remembered by SAM2's memory in windows, without calibration"
            )
        self._tracker = TiledTracker(model, masks=np.stack([truth[0] for truth in truths]))
        self._truths = truths

    def push(self, frame: np.ndarray) -> list[FrameResult]:
        """As `Tracker.push`."""
        views = list(self._tracker._views.values())
        before = [view.tracker._memories()[0] for view in views]
        results = self._tracker.push(frame)
        if not self._tracker.windows:
            raise UserError(f"frames of {frame.shape[0]}x{frame.shape[1]} are seen whole; give larger ones")
        (result,) = results
        # In frame 0 there were no views yet, and its true masks are remembered already.
        for row, (view, bank) in enumerate(zip(views, before, strict=True)):
            (group,) = view.tracker._groups
            x0, y0, x1, y1 = result.memory["view"][row]
            shown, truth = (x[y0:y1, x0:x1] for x in (frame, self._truths[row][result.frame_index]))
            group.bank = self._remembered(view.tracker.model, bank, group.bank, shown, truth)
        return results

    def finish(self) -> list[FrameResult]:
        """As `Tracker.finish`."""
        return self._tracker.finish()

    @staticmethod
    def _remembered(
        model: Model, before: MemoryBank, after: MemoryBank, shown: np.ndarray, truth: np.ndarray
    ) -> MemoryBank:
        """The memory after a frame, with the true mask, if there is one, in place of the model's own.

        Args:
          shown, truth: what the window showed, uint8 RGB [h, w, 3] and bool [h, w].
        """
        size = model.config.image_size
        mask = imaging.resize_mask(truth, size)[None].astype(np.float32)
        features = groups.encode(model.net, model.params, imaging.resize(shown, size))
        given, _ = groups.start_from_mask(model.net, model.params, features, mask)
        there = mask.any(axis=(1, 2))
        write = lambda old, new: memory_bank.write(memory_bank.tick(old), new.value[:, ANCHOR], there)  # noqa: E731
        return after.replace(feature=write(before.feature, given.feature), pointer=write(before.pointer, given.pointer))
