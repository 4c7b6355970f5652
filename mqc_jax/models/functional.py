"""The model as pure functions over explicit parameters and an explicit state.

    net = functional.build(config)
    features = functional.encode_frame(net, params, image)
    bank, output = functional.start(net, params, features, functional.encode_text(net, params, input_ids, mask))
    bank, output = functional.step(net, params, bank, functional.encode_frame(net, params, next_image))

Each is `jax.jit`-able with `net` static, exports, vmaps and differentiates. Training scans the same `step`.
"""

import functools

import jax
import jax.numpy as jnp

from mqc_jax.config import ModelConfig
from mqc_jax.models import layers
from mqc_jax.models.memory_bank import MemoryBank
from mqc_jax.models.mqc_sam import MQCSAM, Features, Output, Text

Params = dict


def build(config: ModelConfig, dtype: str = "float32") -> MQCSAM:
    """The module; `dtype` is that of the computation, parameters stay float32."""
    return MQCSAM(config, jnp.dtype(dtype))


def _init(net: MQCSAM, seed: int) -> Params:
    size, length = net.config.image_size, net.config.bert.max_tokens
    image = jnp.zeros((1, size, size, 3), jnp.uint8)
    tokens, mask = jnp.zeros((1, length), jnp.int32), jnp.ones((1, length), bool)
    # Hundreds of separate draws: with JAX's default generator compiling them takes minutes on a CPU.
    key = jax.random.key(seed, impl="unsafe_rbg")
    return net.init(key, image, tokens, mask, method="everything")["params"]


def init(net: MQCSAM, seed: int = 0) -> Params:
    """Fresh parameters, float32; a function of the seed alone on a given kind of device."""
    # Runs once and does next to no arithmetic, so optimising it would only cost time.
    fast = {"xla_backend_optimization_level": 0}
    return jax.jit(lambda: _init(net, seed)).lower().compile(compiler_options=fast)()


def shapes(net: MQCSAM) -> Params:
    """The parameter tree as `jax.ShapeDtypeStruct`s, without computing anything."""
    return jax.tree.map(lambda leaf: leaf, _shapes(net))  # nobody's changes to the tree are another's


@functools.cache
def _shapes(net: MQCSAM) -> Params:
    """Kept, since tracing the whole model takes seconds, and whoever loads two checkpoints asks twice."""
    with layers.undrawn():
        return jax.eval_shape(lambda: _init(net, 0))


def encode_frame(net: MQCSAM, params: Params, image: jax.Array) -> Features:
    """uint8 RGB [B, S, S, 3] -> features of B frames."""
    return net.apply({"params": params}, image, method="encode_frame")


def classify(net: MQCSAM, params: Params, features: Features) -> jax.Array:
    """Logits of the class at each place of B encoded frames, [B, S/4, S/4, classes + 1]."""
    return net.apply({"params": params}, features, method="classify")


def encode_text(net: MQCSAM, params: Params, input_ids: jax.Array, mask: jax.Array) -> Text:
    """int32 [N, L], bool [N, L] -> encoded sentences."""
    return net.apply({"params": params}, input_ids, mask, method="encode_text")


def start(
    net: MQCSAM, params: Params, features: Features, text: Text, place: jax.Array | None = None
) -> tuple[MemoryBank, Output]:
    """Frame 0 from N sentences. `place`: where the targets are known to be, [N, 3] (`models.one_object`)."""
    return net.apply({"params": params}, features, text, place, method="start")


def start_from_mask(net: MQCSAM, params: Params, features: Features, masks: jax.Array) -> tuple[MemoryBank, Output]:
    """Frame 0 from N masks, [N, S, S]."""
    return net.apply({"params": params}, features, masks, method="start_from_mask")


def first(net: MQCSAM, params: Params, features: Features, text: Text) -> Output:
    """Frame 0 from N sentences, not remembered yet."""
    return net.apply({"params": params}, features, text, method="first")


def single(net: MQCSAM, params: Params, output: Output, place: jax.Array | None = None) -> Output:
    """An output with one object in each mask, if the model is to keep one."""
    return net.apply({"params": params}, output, place, method="single")


def first_from_mask(net: MQCSAM, params: Params, features: Features, masks: jax.Array) -> Output:
    """Frame 0 from N masks, [N, S, S], not remembered yet."""
    return net.apply({"params": params}, features, masks, method="output_from_mask")


def start_calibrated(
    net: MQCSAM, params: Params, features: Features, output: Output, logits: jax.Array, given: bool = False
) -> tuple[MemoryBank, Output]:
    """Frame 0 with calibrated masks: logits [N, S, S]. `given`: they go back to masks, not to a sentence, and are
    remembered as 0 and 1."""
    return net.apply({"params": params}, features, output, logits, given, method="start_calibrated")


def step(net: MQCSAM, params: Params, bank: MemoryBank, features: Features) -> tuple[MemoryBank, Output]:
    """One later frame."""
    return net.apply({"params": params}, bank, features, method="step")


def rollout(
    net: MQCSAM, params: Params, bank: MemoryBank, features: Features, remat: bool = False
) -> tuple[MemoryBank, Output]:
    """`step` scanned over time: every leaf of `features` and of the returned outputs has a leading axis T."""

    def body(carry: MemoryBank, frame: Features) -> tuple[MemoryBank, Output]:
        return step(net, params, carry, frame)

    return jax.lax.scan(jax.checkpoint(body) if remat else body, bank, features)
