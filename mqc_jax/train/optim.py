"""AdamW or Muon with polynomial decay, frozen parts and learning-rate multipliers by regular expression."""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon

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

    Weight decay leaves biases, norms and other vectors alone, as SAM2's recipe does. With Muon the gradient's norm is
    clipped for the matrices and for all else apart.
    """
    factors = multipliers(config, params)

    def label(path: tuple, leaf: Any, factor: float) -> str:
        if not factor:
            return "frozen"
        return "matrix" if config.rule == "muon" and is_matrix(path_name(path), leaf.shape) else "train"

    def scaled(updates: Any, _: Any) -> Any:
        return _live(lambda u, factor: u * factor, updates, factors)

    def chain(*direction: optax.GradientTransformation) -> optax.GradientTransformation:
        return optax.chain(
            *([optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []),
            *direction,
            optax.add_decayed_weights(
                config.weight_decay, mask=lambda tree: _live(lambda x: x.ndim > 1, tree, off=False)
            ),
            optax.scale_by_learning_rate(schedule(config, steps)),
            optax.stateless(scaled),
        )

    rules = {"train": chain(optax.scale_by_adam(config.b1, config.b2)), "frozen": optax.set_to_zero()}
    if config.rule == "muon":
        muon = scale_by_muon(weight_dimension_numbers=lambda tree: _live(_rows_and_columns, tree))
        rules["matrix"] = chain(muon, optax.stateless(lambda updates, _: _live(_as_adams, updates)))
    return optax.partition(rules, jax.tree_util.tree_map_with_path(label, params, factors))


_LEAST_SIDE = 8  # of a matrix that is worth to be made orthogonal
_ADAMS_SIZE = 0.2  # root mean square of Adam's updates, by which Muon's are scaled (Liu et al. 2025, arXiv 2502.16982)


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """Whether Muon takes a parameter: a linear layer's kernel, or that of a convolution that mixes channels.

    Embeddings, position codes and what has a few channels only are left to Adam.
    """
    if not name.endswith(".kernel") or len(shape) not in (2, 4) or (len(shape) == 4 and shape[2] == 1):
        return False
    return min(math.prod(shape[:-1]), shape[-1]) >= _LEAST_SIDE


def _rows_and_columns(leaf: Any) -> MuonDimensionNumbers:
    return MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), (leaf.ndim - 1,))


def _as_adams(update: jax.Array) -> jax.Array:
    return update * _ADAMS_SIZE * max(math.prod(update.shape[:-1]), update.shape[-1]) ** 0.5


def _live(function: Any, tree: Any, *others: Any, **off: Any) -> Any:
    """Maps over the leaves that a part of `optax.partition` has; the others stay as they are, or become `off`."""
    masked = lambda x: isinstance(x, optax.MaskedNode)  # noqa: E731
    each = lambda x, *rest: off.get("off", x) if masked(x) else function(x, *rest)  # noqa: E731
    return jax.tree.map(each, tree, *others, is_leaf=masked)
