"""AdamW with polynomial decay, frozen parts and learning-rate multipliers by regular expression."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mqc_jax.config import OptimConfig
from mqc_jax.errors import UserError

BUFFERS = ("sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",)
"""Parameters that SAM2 draws once and never trains (buffers in its code); they are always frozen."""


def path_name(path: tuple) -> str:
    """A parameter's path as "a.b.c", the form that the config's regular expressions match from the start."""
    return ".".join(str(getattr(entry, "key", entry)) for entry in path)


def schedule(config: OptimConfig, steps: int) -> optax.Schedule:
    """Learning rate over optimizer steps: linear warm-up (off by default), then (1 - t)^power to the end value."""
    length = max(1, steps - config.warmup_steps)

    def decay(count: jax.Array) -> jax.Array:
        # As optax.polynomial_schedule, which under jit may end a hair below 0, whose power is not a number.
        share = jnp.clip(1 - count / length, 0, 1)
        return (config.learning_rate - config.end_learning_rate) * share**config.power + config.end_learning_rate

    if config.warmup_steps == 0:
        return decay
    warmup = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
    return optax.join_schedules([warmup, decay], [config.warmup_steps])


def _matcher(pattern: str, field: str) -> re.Pattern:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"config.optim.{field}: {pattern!r} is not a regular expression ({error})") from error


def multipliers(config: OptimConfig, params: Any) -> Any:
    """The learning-rate factor of every parameter; 0 means frozen, as `BUFFERS` always are.

    Raises:
      UserError: a pattern that matches no parameter, since that is nearly always a misspelling.
    """
    freeze = [_matcher(pattern, "freeze") for pattern in config.freeze]
    scaled = [(_matcher(pattern, "multipliers"), factor) for pattern, factor in config.multipliers]
    names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for rule in [*freeze, *(rule for rule, _ in scaled)]:
        if not any(rule.match(name) for name in names):
            parts = ", ".join(sorted({name.split(".")[0] for name in names}))
            raise UserError(f"config.optim pattern {rule.pattern!r} matches no parameter; its parts are {parts}")

    def factor(path: tuple, _: Any) -> float:
        name = path_name(path)
        if name in BUFFERS or any(rule.match(name) for rule in freeze):
            return 0.0
        return next((value for rule, value in scaled if rule.match(name)), 1.0)

    return jax.tree_util.tree_map_with_path(factor, params)


def optimizer(config: OptimConfig, steps: int, params: Any) -> optax.GradientTransformation:
    """The update rule. Frozen parameters have no optimizer state, no gradient norm and no weight decay.

    Weight decay leaves biases, norms and other vectors alone, as SAM2's recipe does.
    """
    factors = multipliers(config, params)
    labels = jax.tree.map(lambda factor: "train" if factor else "frozen", factors)
    parts = []
    if config.clip_norm:
        parts.append(optax.clip_by_global_norm(config.clip_norm))
    parts += [
        optax.scale_by_adam(config.b1, config.b2),
        optax.add_decayed_weights(config.weight_decay, mask=lambda tree: jax.tree.map(_decays, tree)),
        optax.scale_by_learning_rate(schedule(config, steps)),
        optax.stateless(
            lambda updates, _: jax.tree.map(
                lambda u, f: u if isinstance(u, optax.MaskedNode) else u * f,
                updates,
                factors,
                is_leaf=lambda x: isinstance(x, optax.MaskedNode),
            )
        ),
    ]
    return optax.partition({"train": optax.chain(*parts), "frozen": optax.set_to_zero()}, labels)


def _decays(leaf: Any) -> bool:
    return not isinstance(leaf, optax.MaskedNode) and leaf.ndim > 1
