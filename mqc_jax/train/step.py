"""One optimizer step on a batch of clips: the streaming model, scanned over time, and its gradient."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from mqc_jax.config import Config, LossConfig
from mqc_jax.models import functional
from mqc_jax.models.mqc_sam import MQCSAM, Output, for_each
from mqc_jax.train import losses, optim


@struct.dataclass
class TrainState:
    """`step` counts finished optimizer steps; `average` is the running mean of `params`, None where there is none."""

    step: jax.Array
    params: Any
    opt_state: Any
    average: Any = None

    @property
    def learned(self) -> Any:
        """The parameters that are judged and handed on."""
        return self.params if self.average is None else self.average


def teacher_forcing(config: LossConfig, steps: int, step: jax.Array) -> jax.Array:
    """Probability that a clip's memory starts from frame 0's true mask at this step."""
    span = config.teacher_forcing_steps or steps
    return config.teacher_forcing * jnp.clip(1 - step / span, 0, 1)


def forward(
    net: MQCSAM, params: Any, batch: dict[str, jax.Array], forced: jax.Array | None = None
) -> tuple[Output | None, jax.Array | None]:
    """Runs B clips of T frames with R targets, as many in each clip.

    Args:
      batch: `data.clips`' arrays: `frames` uint8 [B, T, S, S, 3], `masks` uint8 [R, T, S, S], `labelled` bool [R, T],
        `input_ids` int32 [R, L], `attention_mask` int or bool [R, L].
      forced: bool [R], targets whose memory starts from frame 0's true mask; None: none does.

    Returns:
      Outputs with leading axes [T, R], None where R = 0; and, where the model has them, logits of the class at each
      place of the first frames.
    """
    frames = batch["frames"]
    size, length = frames.shape[:2]
    # All frames go through the trunk in one batch: the products are larger, and only the memory is sequential. A
    # clip's frames stay neighbours, so that a batch which is spread over devices stays so.
    flat = functional.encode_frame(net, params, frames.reshape(size * length, *frames.shape[2:]))
    features = jax.tree.map(lambda x: jnp.swapaxes(x.reshape(size, length, *x.shape[1:]), 0, 1), flat)
    first = jax.tree.map(lambda x: x[0], features)
    named = functional.classify(net, params, first) if net.config.classes else None
    targets = batch["masks"].shape[0]
    if not targets:
        return None, named
    text = functional.encode_text(net, params, batch["input_ids"], batch["attention_mask"].astype(bool))
    bank, output = functional.start(net, params, first, text)
    outputs = jax.tree.map(lambda x: x[None], output)
    if length == 1:
        return outputs, named
    if forced is not None:
        truth, _ = functional.start_from_mask(net, params, first, batch["masks"][:, 0].astype(jnp.float32))
        choose = lambda a, b: jnp.where(forced.reshape(-1, *(1,) * (a.ndim - 1)), a, b)  # noqa: E731
        bank = jax.tree.map(choose, truth, bank)
    rest = jax.vmap(lambda x: for_each(x, targets))(jax.tree.map(lambda x: x[1:], features))
    _, later = functional.rollout(net, params, bank, rest, remat=net.config.remat)
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), outputs, later), named


def clip_loss(
    outputs: Output | None, named: jax.Array | None, batch: dict[str, jax.Array], config: LossConfig
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Mean over frames of `losses.frame_loss`; outputs and `named` are `forward`'s.

    Returns:
      The loss, and its terms with `J_sum` and `J_count`.
    """
    if outputs is None:
        loss, recall = losses.class_map_loss(named, batch["classes"])
        loss = config.classes * loss
        return loss, {"classes": loss, "class_recall": recall, "J_sum": jnp.zeros(()), "J_count": jnp.zeros(())}
    targets = jnp.swapaxes(batch["masks"], 0, 1).astype(jnp.float32)
    labelled = jnp.swapaxes(batch["labelled"], 0, 1).astype(jnp.float32)
    first = jax.tree.map(lambda x: x[0], outputs)
    total, terms = losses.frame_loss(first, targets[0], labelled[0], config, coarse=True)
    length = targets.shape[0]
    if length > 1:
        rest = jax.tree.map(lambda x: x[1:], outputs)
        per_frame = jax.vmap(lambda *frame: losses.frame_loss(*frame, config))(rest, targets[1:], labelled[1:])
        later_total, later_terms = jax.tree.map(lambda x: x.sum(0), per_frame)
        total = total + later_total
        terms = {name: value + later_terms.get(name, 0.0) for name, value in terms.items()}
    counts = {name: terms.pop(name) for name in ("J_sum", "J_count")}
    total, terms = jax.tree.map(lambda x: x / length, (total, terms))
    if named is not None:
        loss, terms["class_recall"] = losses.class_map_loss(named, batch["classes"])
        terms["classes"] = config.classes * loss
        total = total + terms["classes"]
    return total, {**terms, **counts}


def _gradient(
    net: MQCSAM, config: Config, params: Any, batch: dict[str, jax.Array], forced: jax.Array
) -> tuple[dict[str, jax.Array], Any]:
    """Loss with its terms, and the gradient, of one batch; frozen parameters' is zero, and not computed."""
    factors = optim.multipliers(config.optim, params)

    def objective(params: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        live = jax.tree.map(lambda x, factor: x if factor else jax.lax.stop_gradient(x), params, factors)
        return clip_loss(*forward(net, live, batch, forced), batch, config.loss)

    (loss, terms), grads = jax.value_and_grad(objective, has_aux=True)(params)
    return {"loss": loss, **terms}, grads


def _accumulated(
    net: MQCSAM, config: Config, params: Any, batch: dict[str, jax.Array], forced: jax.Array
) -> tuple[dict[str, jax.Array], Any]:
    """`_gradient` in `config.accumulate` parts, one after the other: their mean is the whole batch's."""
    parts = config.accumulate
    if parts == 1:
        return _gradient(net, config, params, batch, forced)
    size = batch["frames"].shape[0]

    def split(x: jax.Array) -> jax.Array:
        """Part i takes every parts-th clip: on each device a share of its own rows, whatever the number of devices."""
        rows = x.shape[0] // size  # of one clip
        apart = jnp.swapaxes(x.reshape(size // parts, parts, rows, *x.shape[1:]), 0, 1)
        return apart.reshape(parts, size // parts * rows, *x.shape[1:])

    divided = jax.tree.map(split, (batch, forced))

    one = functools.partial(_gradient, net, config)

    def body(total: Any, part: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, one(params, *part)), None

    form = jax.eval_shape(one, params, *jax.tree.map(lambda x: x[0], divided))
    summed, _ = jax.lax.scan(body, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), form), divided)
    terms, grads = jax.tree.map(lambda x: x / parts, summed)
    return terms, grads


def _averaged(average: Any, params: Any, decay: float, step: jax.Array) -> Any:
    """The running mean after another step. It forgets faster at first, so that the start soon counts for little."""
    keep = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda mean, new: mean + (1 - keep) * (new - mean), average, params)


def train_step(
    net: MQCSAM, tx: optax.GradientTransformation, config: Config, state: TrainState, batch: dict[str, jax.Array]
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update. Deterministic: every random choice comes from (config.seed, step).

    Where the loss or the gradient is not finite, only `step` moves on, and the metric `skipped` is 1.
    """
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    probability = teacher_forcing(config.loss, config.steps, state.step)
    forced = jax.random.bernoulli(key, probability, batch["masks"].shape[:1])
    terms, grads = _accumulated(net, config, state.params, batch, forced)
    norm = optax.global_norm(grads)
    finite = jnp.isfinite(terms["loss"]) & jnp.isfinite(norm)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = _averaged(state.average, params, config.optim.average, state.step) if config.optim.average else None
    moved, kept = (params, opt_state, average), (state.params, state.opt_state, state.average)
    params, opt_state, average = jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, kept)
    overlap = terms.pop("J_sum") / jnp.maximum(terms.pop("J_count"), 1)
    metrics = {**terms, "J": overlap, "grad_norm": norm, "skipped": 1.0 - finite}
    return TrainState(state.step + 1, params, opt_state, average), metrics
