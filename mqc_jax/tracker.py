"""The online session: push frames from anywhere, get masks as soon as they are settled.

A thin shell over `models.functional`: it resizes, calls the compiled step and resizes back. Everything that must
survive a restart is one pytree of fixed shapes, so memory does not grow with the video.
"""

import dataclasses
import functools
import io
import json
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mqc_jax import files, imaging
from mqc_jax.checkpoint import Model
from mqc_jax.errors import UserError
from mqc_jax.models import functional
from mqc_jax.models.memory_bank import MemoryBank
from mqc_jax.models.mqc_sam import MQCSAM, Output
from mqc_jax.models.registration import Decision
from mqc_jax.window import CalibrationWindow

_MIN_SIDE = 16


@dataclasses.dataclass(frozen=True)
class FrameResult:
    """What the tracker says about one frame, for N targets.

    Attributes:
      frame_index: 0 for the first frame pushed.
      masks: bool [N, H, W] at the frame's own size.
      mask_logits: float32 [N, S/4, S/4], the decoder's grid; -1024 everywhere where the target is judged absent.
      presence: float32 [N] in [0, 1], the probability that the target is visible.
      memory: what the memory did: `registered` bool [N] (was this frame written), `ages` int32 [N, slots] (frames since
        each slot was written, -1: empty); with DAMI's memory also every field of `models.registration.Decision`.
        With calibration "tmcc" on frame 0 also `window` int32 [N], the displacements that were needed (eq. 7), and
        `is_static` bool [N]: motion could not verify the first mask.
      evidence: on frame 0 the maps in [0, 1] that led to the first mask: from a sentence `coarse` float32
        [N, S/4, S/4]; with calibration "tmcc" `first`, `displacement` (eq. 8, its largest value being 1), `moving`,
        `expanded`, `refined`, `motion` and `calibrated`, [N, S, S].
    """

    frame_index: int
    masks: np.ndarray
    mask_logits: np.ndarray
    presence: np.ndarray
    memory: dict[str, np.ndarray]
    evidence: dict[str, np.ndarray]


@functools.partial(jax.jit, static_argnums=0)
def _start(net: MQCSAM, params, image: jax.Array, input_ids: jax.Array, mask: jax.Array):
    features = functional.encode_frame(net, params, image[None])
    return functional.start(net, params, features, functional.encode_text(net, params, input_ids, mask))


@functools.partial(jax.jit, static_argnums=0)
def _start_from_mask(net: MQCSAM, params, image: jax.Array, masks: jax.Array):
    return functional.start_from_mask(net, params, functional.encode_frame(net, params, image[None]), masks)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _step(net: MQCSAM, params, bank: MemoryBank, image: jax.Array):
    return functional.step(net, params, bank, functional.encode_frame(net, params, image[None]))


def _record(output: Output) -> dict[str, np.ndarray]:
    if output.decision is None:
        return {}
    return {field.name: np.asarray(getattr(output.decision, field.name)) for field in dataclasses.fields(Decision)}


class Tracker:
    """Follows N targets through a video, frame by frame.

    Args:
      model: from `mqc_jax.load`.
      texts: one sentence a target, about the first frame.
      masks: instead of texts, bool [N, H, W] at the first frame's size.

    Raises:
      UserError: neither or both given, an empty or over-long sentence, masks of the wrong form.
    """

    def __init__(self, model: Model, texts: list[str] | None = None, masks: np.ndarray | None = None):
        if (texts is None) == (masks is None):
            raise UserError("a tracker takes either texts or masks for the first frame; give exactly one of them")
        self.model = model
        self.frame_index = -1
        self._bank: MemoryBank | None = None
        self._window: CalibrationWindow | None = None
        self._frame_shape: tuple[int, ...] | None = None
        self._texts = [texts] if isinstance(texts, str) else texts
        self._masks = None
        if masks is not None:
            masks = np.asarray(masks)
            if masks.ndim != 3 or not len(masks):
                raise UserError(
                    f"masks have shape {list(masks.shape)}; give [targets, height, width] with at least one target"
                )
            self._masks = masks.astype(bool)
        elif not self._texts:
            raise UserError("texts is empty; give at least one sentence")
        else:
            model.require_text()
            self._tokens = model.tokenizer.encode(self._texts, model.config.bert.max_tokens)

    @property
    def num_targets(self) -> int:
        """How many targets are followed."""
        return len(self._masks) if self._masks is not None else len(self._texts)

    def push(self, frame: np.ndarray) -> list[FrameResult]:
        """Takes the next frame, uint8 RGB [H, W, 3], and returns the frames that are settled by it.

        Raises:
          UserError: not an RGB frame, or another size than the frames before.
        """
        frame = self._check(frame)
        fresh = self._bank is None and self._window is None
        if fresh and self._masks is not None and self._masks.shape[1:] != frame.shape[:2]:
            raise UserError(
                f"masks are {self._masks.shape[1]}x{self._masks.shape[2]} but the first frame is "
                f"{frame.shape[0]}x{frame.shape[1]}; give masks of the frame's size"
            )
        return self._take(imaging.resize(frame, self.model.config.image_size))

    def _take(self, image: np.ndarray) -> list[FrameResult]:
        """The next frame at the model's size, uint8 [S, S, 3]."""
        net, params = self.model.net, self.model.params
        if self._bank is not None:
            self._bank, output = _step(net, params, self._bank, image)
            return [self._result(output)]
        if self._window is not None:
            return self._settle() if self._window.add(image) else []
        resized = None
        if self._masks is not None:
            resized = np.stack([imaging.resize_mask(mask, image.shape[0]) for mask in self._masks]).astype(np.float32)
        tokens = None if resized is not None else self._tokens
        if self.model.config.calibration == "tmcc":
            self._window = CalibrationWindow(net, params, image, tokens, resized)
            return []
        if resized is not None:
            self._bank, output = _start_from_mask(net, params, image, resized)
        else:
            self._bank, output = _start(net, params, image, *tokens)
        evidence = {} if resized is not None else {"coarse": np.asarray(jax.nn.sigmoid(output.coarse_logits))}
        return [self._result(output, evidence=evidence)]

    def _settle(self) -> list[FrameResult]:
        """Ends the calibration window: the frames held back are done in order."""
        window, self._window = self._window, None
        self._bank, output, logits, found = window.settle()
        evidence = {} if self._masks is not None else {"coarse": np.asarray(jax.nn.sigmoid(output.coarse_logits))}
        evidence |= window.evidence(found)
        facts = {"window": np.asarray(found.window), "is_static": np.asarray(found.is_static)}
        results = [self._result(output, logits, facts, evidence)]
        for image in window.images[1:]:
            results += self._take(image)
        return results

    @property
    def _due(self) -> int:
        """The number of the next frame to be pushed."""
        return self.frame_index + 1 + (len(self._window.images) if self._window is not None else 0)

    def finish(self) -> list[FrameResult]:
        """The frames still held back when the video ends: of one that is shorter than the calibration window."""
        return self._settle() if self._window is not None else []

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
        self._frame_shape = frame.shape
        return frame

    def _result(
        self,
        output: Output,
        full_logits: np.ndarray | None = None,
        facts: dict[str, np.ndarray] | None = None,
        evidence: dict[str, np.ndarray] | None = None,
    ) -> FrameResult:
        """The next frame's result; `full_logits` [N, S, S] are finer than the output's where there are any."""
        self.frame_index += 1
        logits = np.asarray(output.mask_logits)
        slots = self._bank.feature
        ages = np.where(np.asarray(slots.valid), np.asarray(slots.age), -1)
        height, width = self._frame_shape[:2]
        return FrameResult(
            frame_index=self.frame_index,
            masks=np.stack(
                [imaging.mask_from_logits(x, height, width) for x in (logits if full_logits is None else full_logits)]
            ),
            mask_logits=logits,
            presence=np.asarray(jax.nn.sigmoid(output.presence_logits)),
            memory={"registered": (ages == 0).any(1), "ages": ages, **_record(output), **(facts or {})},
            evidence=evidence or {},
        )

    # ---- surviving a restart --------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Writes the stream's state, so that `restore` continues after the last pushed frame.

        Raises:
          UserError: no frame has been pushed yet.
        """
        if self._bank is None and self._window is None:
            raise UserError("nothing to save: no frame has been pushed yet")
        held = [] if self._window is None else self._window.images
        header = {
            "mqc_jax_stream": 1,
            "frame_index": self.frame_index,
            "frame_shape": list(self._frame_shape),
            "texts": self._texts,
            "targets": self.num_targets,
            "held_back": len(held),
            "model": dataclasses.asdict(self.model.config),
        }
        buffer = io.BytesIO()
        # While frames are held back they are the state: everything else follows from them.
        arrays = jax.tree.leaves(self._bank) if self._window is None else [np.stack(held), *self._given()]
        leaves = {f"leaf{i}": np.asarray(x) for i, x in enumerate(arrays)}
        np.savez(buffer, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **leaves)
        files.write_atomic(path, buffer.getvalue())

    def _given(self) -> list[np.ndarray]:
        return [] if self._masks is None else [self._masks]

    @classmethod
    def restore(cls, model: Model, path: str | Path) -> "Tracker":
        """The tracker that `save` wrote.

        Raises:
          UserError: not such a file, or written with a model of another config.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                header = json.loads(bytes(stored["header"]))
                leaves = [stored[f"leaf{i}"] for i in range(len(stored.files) - 1)]
            if header["mqc_jax_stream"] != 1:
                raise KeyError("mqc_jax_stream")
        except FileNotFoundError as error:
            raise UserError(f"stream state {path} does not exist") from error
        except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is not a stream state written by Tracker.save") from error
        if header["model"] != json.loads(json.dumps(dataclasses.asdict(model.config))):
            raise UserError(f"{path} was written with a model of another config; load the checkpoint that it came from")
        if header.get("held_back"):
            return cls._restore_window(model, path, header, leaves)
        empty = np.zeros((header["targets"], *header["frame_shape"][:2]), bool)
        tracker = cls(model, texts=header["texts"], masks=None if header["texts"] else empty)
        begin = functools.partial(_start_from_mask, model.net)
        shapes = jax.eval_shape(begin, model.params, *cls._shapes(model, header["targets"]))[0]
        expected = jax.tree.leaves(shapes)
        if [x.shape for x in leaves] != [x.shape for x in expected]:
            raise UserError(f"{path} is damaged: its arrays do not have the shapes of this model's memory")
        arrays = [jnp.asarray(x, y.dtype) for x, y in zip(leaves, expected, strict=True)]
        tracker._bank = jax.tree.unflatten(jax.tree.structure(shapes), arrays)
        tracker.frame_index = header["frame_index"]
        tracker._frame_shape = tuple(header["frame_shape"])
        return tracker

    @classmethod
    def _restore_window(cls, model: Model, path: str | Path, header: dict, leaves: list[np.ndarray]) -> "Tracker":
        """A tracker whose calibration window is open: the frames held back are taken again."""
        size, texts = model.config.image_size, header["texts"]
        given = (header["targets"], *header["frame_shape"][:2])
        expected = [(header["held_back"], size, size, 3), *([] if texts else [given])]
        if [x.shape for x in leaves] != expected or leaves[0].dtype != np.uint8:
            raise UserError(f"{path} is damaged: its arrays do not have the shapes of this model's frames")
        tracker = cls(model, texts=texts, masks=None if texts else leaves[1])
        tracker._frame_shape = tuple(header["frame_shape"])
        for image in leaves[0]:
            tracker._take(image)
        return tracker

    @staticmethod
    def _shapes(model: Model, targets: int) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
        size = model.config.image_size
        return (
            jax.ShapeDtypeStruct((size, size, 3), jnp.uint8),
            jax.ShapeDtypeStruct((targets, size, size), jnp.float32),
        )
