"""The calibration window of a stream: frames are held back until motion has verified the first mask (eq. 7).

Displacements are computed pair by pair as frames come. Whenever a window of eq. 7 is full, every target is asked if it
has been seen to move; the window closes when all have, or when the longest is over. A target's own window is the
shortest that shows its motion, however long another target's takes. Evidence "vacated" looks at all frames of the
longest, which is waited for.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mqc_jax.config import CalibrationConfig
from mqc_jax.models import flow, functional, tmcc, torch_ops
from mqc_jax.models.memory_bank import MemoryBank
from mqc_jax.models.mqc_sam import MQCSAM, Features, Output, logits_from_mask

CERTAIN = 10.0
"""Logit of a pixel that calibration took in or threw out, as of a given mask's; other pixels keep their own."""


@functools.partial(jax.jit, static_argnums=0)
def _first(net: MQCSAM, params, image: jax.Array, input_ids: jax.Array, mask: jax.Array):
    features = functional.encode_frame(net, params, image[None])
    output = functional.first(net, params, features, functional.encode_text(net, params, input_ids, mask))
    size = image.shape[:2]
    return features, output, torch_ops.resize_bilinear(output.mask_logits[..., None], size)[..., 0]


@functools.partial(jax.jit, static_argnums=0)
def _first_from_mask(net: MQCSAM, params, image: jax.Array, masks: jax.Array):
    features = functional.encode_frame(net, params, image[None])
    return features, functional.first_from_mask(net, params, features, masks), logits_from_mask(masks)


@jax.jit
def _displacement(before: jax.Array, after: jax.Array) -> jax.Array:
    """uint8 RGB [S, S, 3] twice -> [S, S, 2]."""
    return flow.flow(flow.grey(jnp.stack([before, after])))[0]


@functools.partial(jax.jit, static_argnames="config")
def _calibrate(
    logits: jax.Array, displacement: jax.Array, frames: jax.Array, config: CalibrationConfig
) -> tmcc.Calibration:
    """[N, S, S], [T, S, S, 2], uint8 [T + 1, S, S, 3] -> a `Calibration` with a leading axis N."""
    maps = tmcc.motion_maps(displacement, flow.grey(frames), config)
    windows = config.windows(displacement.shape[0])
    return jax.lax.map(lambda p: tmcc.calibrate_on(p, maps, windows, config), jax.nn.sigmoid(logits))


@functools.partial(jax.jit, static_argnums=(0, 6))
def _settle(net: MQCSAM, params, features: Features, output: Output, logits: jax.Array, mask: jax.Array, given: bool):
    kept = jnp.where(mask == (logits > 0), logits, jnp.where(mask, CERTAIN, -CERTAIN))
    return *functional.start_calibrated(net, params, features, output, kept, given), kept


class CalibrationWindow:
    """The held-back beginning of a stream.

    Args:
      net: the model, with parameters `params`.
      image: uint8 RGB [S, S, 3], frame 0 at the model's size.
      tokens: the sentences' (input_ids, mask), or None where `masks` float32 [N, S, S] are given.

    Attributes:
      images: all frames so far at the model's size; at most `config.tmcc.n_max + 1`.
    """

    def __init__(self, net: MQCSAM, params, image: np.ndarray, tokens: tuple | None, masks: np.ndarray | None):
        self.net, self.params, self.config = net, params, net.config.tmcc
        self.images = [image]
        self._given = masks is not None
        self._displacements: list[jax.Array] = []
        if masks is None:
            self._features, self._output, self._logits = _first(net, params, image, *tokens)
        else:
            self._features, self._output, self._logits = _first_from_mask(net, params, image, masks)
        self._found: tmcc.Calibration | None = None

    def add(self, image: np.ndarray) -> bool:
        """Takes the next frame; whether the window is over."""
        self._displacements.append(_displacement(self.images[-1], image))
        self.images.append(image)
        length = len(self._displacements)
        windows = self.config.windows(self.config.n_max)
        if length not in windows or (self.config.evidence == "vacated" and length < windows[-1]):
            return False
        self._found = self._ask()
        return length == windows[-1] or not bool(self._found.is_static.any())

    def _ask(self) -> tmcc.Calibration:
        images, displacements = self.images, self._displacements
        if not displacements:  # a video of one frame: nothing moves
            images, displacements = images * 2, [jnp.zeros((*images[0].shape[:2], 2))]
        return _calibrate(self._logits, jnp.stack(displacements), np.stack(images), self.config)

    def settle(self) -> tuple[MemoryBank, Output, np.ndarray, tmcc.Calibration]:
        """Ends the window: memory, frame 0's output, its mask logits [N, S, S], and how they came about."""
        if self._found is None or len(self._displacements) not in self.config.windows(self.config.n_max):
            self._found = self._ask()
        bank, output, logits = _settle(
            self.net, self.params, self._features, self._output, self._logits, self._found.mask, self._given
        )
        return bank, output, np.asarray(logits), self._found

    def evidence(self, found: tmcc.Calibration) -> dict[str, np.ndarray]:
        """The chain from the first mask to the calibrated one, for people to look at: float32 or bool [N, S, S]."""
        moved = np.asarray(found.displacement)
        peak = np.maximum(moved.max((1, 2), keepdims=True), 1e-6)
        chain = {name: np.asarray(getattr(found, name)) for name in ("moving", "expanded", "refined", "motion")}
        first = np.asarray(jax.nn.sigmoid(self._logits))
        return {"first": first, "displacement": moved / peak, **chain, "calibrated": np.asarray(found.mask)}
