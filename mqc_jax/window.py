"""The calibration window of a stream: frames are held back until motion has verified the first masks (eq. 7).

Displacements are computed pair by pair as frames come. Whenever a window of eq. 7 is full, every group of targets is
asked if it has been seen to move; that settles its masks, however long another group's take. The window closes when all
are settled, or when the longest is over. Evidence "vacated" looks at all frames of the longest, which is waited for.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from mqc_jax.checkpoint import Model
from mqc_jax.config import CalibrationConfig
from mqc_jax.groups import Group, Part, Prompt, coarse, encode, kept
from mqc_jax.models import flow, functional, tmcc, torch_ops
from mqc_jax.models.mqc_sam import MQCSAM, Features, Output, logits_from_mask

CERTAIN = 10.0
"""Logit of a pixel that calibration took in or threw out, as of a given mask's; other pixels keep their own."""


@functools.partial(jax.jit, static_argnums=0)
def _first(net: MQCSAM, params, features: Features, input_ids: jax.Array, mask: jax.Array, place: jax.Array):
    output = functional.first(net, params, features, functional.encode_text(net, params, input_ids, mask))
    output = functional.single(net, params, output, place)
    size = (net.config.image_size, net.config.image_size)
    return output, torch_ops.resize_bilinear(output.mask_logits[..., None], size)[..., 0]


@functools.partial(jax.jit, static_argnums=0)
def _first_from_mask(net: MQCSAM, params, features: Features, masks: jax.Array):
    return functional.first_from_mask(net, params, features, masks), logits_from_mask(masks)


@jax.jit
def displacement(before: jax.Array, after: jax.Array) -> jax.Array:
    """How the pixels of one frame move to the next: uint8 RGB [S, S, 3] twice -> float32 [S, S, 2]."""
    return flow.flow(flow.grey(jnp.stack([before, after])))[0]


@functools.partial(jax.jit, static_argnames="config")
def _motion_maps(displacements: jax.Array, frames: jax.Array, config: CalibrationConfig) -> tmcc.MotionMaps:
    """[T, S, S, 2] and uint8 [T + 1, S, S, 3] -> `tmcc.motion_maps`, which all targets share."""
    return tmcc.motion_maps(displacements, flow.grey(frames), config)


@functools.partial(jax.jit, static_argnames=("windows", "config"))
def _calibrate(
    logits: jax.Array, maps: tmcc.MotionMaps, windows: tuple[int, ...], config: CalibrationConfig
) -> tmcc.Calibration:
    """[N, S, S] and `_motion_maps`'s -> a `Calibration` with a leading axis N."""
    return jax.lax.map(lambda p: tmcc.calibrate_on(p, maps, windows, config), jax.nn.sigmoid(logits))


@functools.partial(jax.jit, static_argnums=(0, 6))
def _settle(net: MQCSAM, params, features: Features, output: Output, logits: jax.Array, mask: jax.Array, given: bool):
    kept = jnp.where(mask == (logits > 0), logits, jnp.where(mask, CERTAIN, -CERTAIN))
    return *functional.start_calibrated(net, params, features, output, kept, given), kept


@dataclasses.dataclass
class _Beginning:
    """A group that waits: its first masks as the model or the user gave them.

    Attributes:
      ids: of its N targets.
      given: whether masks were given, not sentences.
      output: the model's, not remembered yet.
      logits: float32 [N, S, S].
      found: once motion has been asked for the last time.
    """

    ids: list[int]
    given: bool
    output: Output
    logits: jax.Array
    found: tmcc.Calibration | None = None

    def without(self, ids: set[int]) -> "_Beginning":
        rows = kept(self.ids, ids)
        state = jax.tree.map(lambda x: x[rows], (self.output, self.logits, self.found))
        return _Beginning([self.ids[row] for row in rows], self.given, *state)


class CalibrationWindow:
    """The held-back beginning of the targets that start in one frame.

    Args:
      model: the model.
      image: uint8 RGB [S, S, 3], their first frame at the model's size.
      prompts: one for each group.

    Attributes:
      features: of the first frame.
    """

    def __init__(self, model: Model, image: np.ndarray, prompts: list[Prompt]):
        self.model, self.config = model, model.config.tmcc
        net, params = model.net, model.params
        self.features = encode(net, params, image)
        self._images = [image]
        self._displacements: list[jax.Array] = []
        self._beginnings = []
        for prompt in prompts:
            given = prompt.tokens is None
            if given:
                output, logits = _first_from_mask(net, params, self.features, prompt.masks)
            else:
                output, logits = _first(net, params, self.features, *prompt.tokens, prompt.places)
            self._beginnings.append(_Beginning(prompt.ids, given, output, logits))

    @property
    def over(self) -> bool:
        """Whether every target's first mask is settled; more frames change nothing."""
        return all(beginning.found is not None for beginning in self._beginnings)

    def add(self, image: np.ndarray, moved: jax.Array) -> None:
        """Takes the next frame, uint8 RGB [S, S, 3], and the `displacement` of the one before it."""
        self._images.append(image)
        self._displacements.append(moved)
        length = len(self._displacements)
        windows = self.config.windows(self.config.n_max)
        if length in windows and (self.config.evidence != "vacated" or length == windows[-1]):
            self._ask(final=length == windows[-1])

    def drop(self, ids: set[int]) -> None:
        """Forgets some targets."""
        self._beginnings = [b.without(ids) for b in self._beginnings if not ids.issuperset(b.ids)]

    def _ask(self, final: bool) -> None:
        """Settles the groups that are seen to move, or, at last, all."""
        images, displacements = self._images, self._displacements
        if not displacements:  # a video of one frame: nothing moves
            images, displacements = images * 2, [jnp.zeros((*images[0].shape[:2], 2))]
        maps = _motion_maps(jnp.stack(displacements), np.stack(images), self.config)
        windows = self.config.windows(len(displacements))
        for beginning in self._beginnings:
            if beginning.found is None:
                found = _calibrate(beginning.logits, maps, windows, self.config)
                if final or not bool(found.is_static.any()):
                    beginning.found = found

    def settle(self) -> list[Part]:
        """Ends the window, if need be with the frames that there are: every group's first frame."""
        if not self.over:
            self._ask(final=True)
        return [self._part(beginning) for beginning in self._beginnings]

    def _part(self, beginning: _Beginning) -> Part:
        found = beginning.found
        bank, output, logits = _settle(
            self.model.net,
            self.model.params,
            self.features,
            beginning.output,
            beginning.logits,
            found.mask,
            beginning.given,
        )
        facts = {"window": np.asarray(found.window), "is_static": np.asarray(found.is_static)}
        evidence = ({} if beginning.given else coarse(output)) | _chain(beginning)
        return Part(Group(beginning.ids, bank), output, np.asarray(logits), facts, evidence, started=True)


def _chain(beginning: _Beginning) -> dict[str, np.ndarray]:
    """The chain from the first mask to the calibrated one, for people to look at: float32 or bool [N, S, S]."""
    found = beginning.found
    moved = np.asarray(found.displacement)
    peak = np.maximum(moved.max((1, 2), keepdims=True), 1e-6)
    chain = {name: np.asarray(getattr(found, name)) for name in ("moving", "expanded", "refined", "motion")}
    first = np.asarray(jax.nn.sigmoid(beginning.logits))
    return {"first": first, "displacement": moved / peak, **chain, "calibrated": np.asarray(found.mask)}
