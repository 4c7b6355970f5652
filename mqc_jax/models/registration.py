"""DAMI's quality control (eqs. 19-24): what may enter the memory, what it replaces, and why.

Pure functions over fixed shapes. N is the number of targets, S the slots of one memory; every threshold at time t comes
from frames before t alone. Gates are decisions, not functions to differentiate: what they weigh carries no gradient.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax.typing import DTypeLike

from mqc_jax.models import layers

_FLOOR = 1e-6
"""Least probability of a pixel before a map is normalised: eq. 22 divides by the alternative's."""

DAM4SAM_BOX_IOU, DAM4SAM_IOU, DAM4SAM_AREA, DAM4SAM_FRAMES = 0.7, 0.8, 0.2, 5
"""DAM4SAM (CVPR 2025): largest box IoU of target and target-plus-alternative, least predicted IoU, largest change of
area against the recent median, least frames since the last entry."""


# ---- the past, of which thresholds are percentiles -----------------------------------------------------------------


@struct.dataclass
class Past:
    """The newest H values of a running sequence, for each of N targets.

    Attributes:
      value: float32 [N, H], a ring.
      count: int32 [N], how many values were ever noted.
    """

    value: jax.Array
    count: jax.Array

    @classmethod
    def empty(cls, targets: int, size: int) -> "Past":
        return cls(jnp.zeros((targets, size), jnp.float32), jnp.zeros(targets, jnp.int32))


def note(past: Past, value: jax.Array, when: jax.Array) -> Past:
    """Appends `value` [N] where `when`, bool [N], in place of the oldest if there is no room."""
    here = jnp.arange(past.value.shape[1]) == (past.count % past.value.shape[1])[:, None]
    value = jnp.where(here & when[:, None], value[:, None].astype(jnp.float32), past.value)
    return Past(value, past.count + when)


def percentile(past: Past, percent: float) -> jax.Array:
    """float32 [N]: the `percent`-th percentile, linear between ranks as NumPy's; -inf where nothing was noted yet."""
    size = past.value.shape[1]
    known = jnp.minimum(past.count, size)
    ordered = jnp.sort(jnp.where(jnp.arange(size) < known[:, None], past.value, jnp.inf), axis=1)
    rank = percent / 100 * jnp.maximum(known - 1, 0).astype(jnp.float32)
    low = jnp.floor(rank).astype(jnp.int32)
    high = jnp.minimum(low + 1, jnp.maximum(known - 1, 0))
    at = lambda place: jnp.take_along_axis(ordered, place[:, None], axis=1)[:, 0]  # noqa: E731
    # Without a past the infinite padding must not meet itself: inf - inf would be NaN.
    below, above = (jnp.where(known > 0, at(place), 0.0) for place in (low, high))
    return jnp.where(known > 0, below + (above - below) * (rank - low), -jnp.inf)


# ---- slots ----------------------------------------------------------------------------------------------------------


def recency(valid: jax.Array, age: jax.Array) -> jax.Array:
    """Place of each slot in the queue, newest first: bool and int32 [N, S] -> int32 [N, S]; eq. 18's i."""
    return ((age[:, None, :] < age[:, :, None]) & valid[:, None, :]).sum(-1)


def oldest(valid: jax.Array, age: jax.Array) -> jax.Array:
    """The slot that the queue gives up: a free one, else the oldest. bool and int32 [N, S] -> int32 [N]."""
    return jnp.argmax(jnp.where(valid, age, jnp.iinfo(jnp.int32).max), axis=1)


def worst(valid: jax.Array, score: jax.Array, age: jax.Array) -> jax.Array:
    """The slot that the pool gives up: a free one, else that of the lowest score, the oldest of equals.

    Args:
      valid: bool [N, S].
      score: float [N, S], eq. 23's at the time of writing.
      age: int32 [N, S].

    Returns:
      int32 [N].
    """
    score = jnp.where(valid, score, -jnp.inf)
    lowest = score == score.min(axis=1, keepdims=True)
    return jnp.argmax(jnp.where(lowest, jnp.where(valid, age, jnp.iinfo(jnp.int32).max), -1), axis=1)


# ---- short-term memory (eqs. 19-21) ---------------------------------------------------------------------------------


def predict(entries: jax.Array, valid: jax.Array, age: jax.Array, eta: float, otherwise: jax.Array) -> jax.Array:
    """Eq. 19: the entry that the short-term memory leads one to expect.

    Args:
      entries: float [N, S, ...].
      valid: bool [N, S].
      age: int32 [N, S], t - k in frames.
      eta: decay per frame.
      otherwise: float [N, ...], the expectation where no entry is valid.

    Returns:
      float32 [N, ...]: the mean of the valid entries, weighted by exp(-eta * age).
    """
    weight = jnp.exp(-eta * (age - jnp.where(valid, age, jnp.iinfo(jnp.int32).max).min(1, keepdims=True)))
    weight = jnp.where(valid, weight, 0.0)
    weight = weight / jnp.maximum(weight.sum(1, keepdims=True), _FLOOR)
    mean = jnp.einsum("ns,ns...->n...", weight, entries.astype(jnp.float32))
    known = valid.any(1).reshape(-1, *(1,) * (mean.ndim - 1))
    return jnp.where(known, mean, otherwise.astype(jnp.float32))


def novelty(entry: jax.Array, expected: jax.Array) -> jax.Array:
    """Eq. 20: mean over places of the distance between channels, [N, h, w, C] twice -> float32 [N]."""
    gap = entry.astype(jnp.float32) - expected.astype(jnp.float32)
    return jnp.sqrt((gap * gap).sum(-1)).mean((1, 2))


def confidence_map(mask_logits: jax.Array, presence_logits: jax.Array, grid: tuple[int, int], kind: str) -> jax.Array:
    """Eq. 21's C_t on the memory's grid: the presence score times how sure the decoder is of each pixel.

    Args:
      mask_logits: float [N, H, W], before the presence score hides them.
      presence_logits: float [N].
      grid: (h, w), divisors of H and W.
      kind: "certainty": |2 p - 1|, which trusts sure background as much as sure target; "probability": p, which keeps
        the target alone; "none": no weighting.

    Returns:
      float32 [N, h, w] in [0, 1].
    """
    n, height, width = mask_logits.shape
    if kind == "none":
        return jnp.ones((n, *grid), jnp.float32)
    sure = jax.nn.sigmoid(mask_logits.astype(jnp.float32))
    if kind == "certainty":
        sure = jnp.abs(2 * sure - 1)
    sure = sure.reshape(n, grid[0], height // grid[0], grid[1], width // grid[1]).mean((2, 4))
    return sure * jax.nn.sigmoid(presence_logits.astype(jnp.float32))[:, None, None]


# ---- discriminative memory (eqs. 22-24) -----------------------------------------------------------------------------


def ranked(hypotheses: jax.Array, ious: jax.Array) -> jax.Array:
    """Hypotheses [N, 3, H, W] as probabilities, the highest predicted IoU [N, 3] first."""
    order = jnp.argsort(-ious, axis=1)
    return jax.nn.sigmoid(jnp.take_along_axis(hypotheses, order[:, :, None, None], axis=1).astype(jnp.float32))


def divergence(main: jax.Array, alternative: jax.Array) -> jax.Array:
    """Eq. 22, KL(P_main || P_alt) in nats: maps [N, H, W] in [0, 1], each normalised over its pixels -> float32 [N]."""
    p, q = ((x + _FLOOR) / (x + _FLOOR).sum((1, 2), keepdims=True) for x in (main, alternative))
    return (p * (jnp.log(p) - jnp.log(q))).sum((1, 2))


def divergence_elsewhere(main: jax.Array, alternatives: jax.Array, radius: int) -> jax.Array:
    """Eq. 22 with P_alt the hypothesis outside the main mask; low: an equally convincing look-alike elsewhere.

    As distributions over pixels two masks in different places always diverge, whatever they claim. So each stands for
    how convincing it is where it claims to be: P = (c, 1 - c), c the mean probability of its pixels weighted by itself.

    Args:
      main: float [N, H, W] in [0, 1].
      alternatives: float [N, A, H, W] in [0, 1]; at each pixel the strongest counts.
      radius: pixels around the main mask that are not "elsewhere": hypotheses of one object differ along its border.

    Returns:
      float32 [N], nats.
    """
    side = 2 * radius + 1
    near = jax.lax.reduce_window(main, -jnp.inf, jax.lax.max, (1, side, side), (1, 1, 1), "SAME")
    outside = alternatives.max(1) * (1 - near)

    def convincing(claim: jax.Array) -> jax.Array:
        mean = (claim * claim).sum((1, 2)) / jnp.maximum(claim.sum((1, 2)), _FLOOR)
        return jnp.clip(mean, _FLOOR, 1 - _FLOOR)

    p, q = convincing(main), convincing(outside)
    return p * jnp.log(p / q) + (1 - p) * jnp.log((1 - p) / (1 - q))


def box_overlap(main: jax.Array, alternatives: jax.Array) -> jax.Array:
    """DAM4SAM's sign of a distractor: the smallest IoU of the boxes of target and target-plus-alternative.

    Args:
      main: float [N, H, W] in [0, 1]; a mask is what exceeds 0.5.
      alternatives: float [N, A, H, W] in [0, 1].

    Returns:
      float32 [N] in [0, 1]; 1 where all masks are empty.
    """

    def box_area(mask: jax.Array) -> jax.Array:
        def extent(line: jax.Array) -> jax.Array:
            place = jnp.arange(line.shape[-1])
            last = jnp.where(line, place, -1).max(-1)
            first = jnp.where(line, place, line.shape[-1]).min(-1)
            return jnp.maximum(last - first + 1, 0)

        return (extent(mask.any(-1)) * extent(mask.any(-2))).astype(jnp.float32)

    target = main[:, None] > 0.5
    both = box_area(target | (alternatives > 0.5))
    # The target's box lies within the other, so their overlap is the target's own area.
    return jnp.where(both > 0, box_area(target) / jnp.maximum(both, 1.0), 1.0).min(1)


def ambiguity(hypotheses: jax.Array, ious: jax.Array, kind: str, radius: int) -> jax.Array:
    """How far the alternative is from confusing the target, float32 [N]; the lower, the more ambiguous.

    Args:
      hypotheses: float [N, 3, H, W], the decoder's logits.
      ious: float [N, 3], predicted.
      kind: "paper": `divergence` of the best and the second-best hypothesis; "elsewhere": `divergence_elsewhere`;
        "dam4sam": `box_overlap`.
      radius: of "elsewhere", in pixels of the hypotheses.
    """
    maps = ranked(hypotheses, ious)
    if kind == "paper":
        return divergence(maps[:, 0], maps[:, 1])
    if kind == "elsewhere":
        return divergence_elsewhere(maps[:, 0], maps[:, 1:], radius)
    return box_overlap(maps[:, 0], maps[:, 1:])


def area(mask_logits: jax.Array) -> jax.Array:
    """Share of the frame that the mask covers: [N, H, W] -> float32 [N] in [0, 1]."""
    return (mask_logits > 0).mean((1, 2), dtype=jnp.float32)


_BETTER, _ALL = 1.25, 2.5  # times the usual quality, at least, and the usual area, at most (docs/dami.md)


def shows_more(growth: jax.Array, quality: jax.Array) -> jax.Array:
    """Whether a mask that is larger than this target's were shows more of the target, and not of what is beside it.

    Where first masks were parts, the model was unsure of them, and is surer of the whole. Of a target and its neighbour
    it is no surer than of the target, unless it was of neither.

    Args:
      growth, quality: [N], `Decision`'s.

    Returns:
      bool [N].
    """
    return (quality >= _BETTER) & (growth <= _ALL)


def area_change(now: jax.Array, before: jax.Array) -> jax.Array:
    """Eq. 23's Delta A_t: difference over the larger area, float32 [N] in [0, 1]; 0 where both are empty."""
    return jnp.abs(now - before) / jnp.maximum(jnp.maximum(now, before), _FLOOR)


def pooled(entry: jax.Array, mask_logits: jax.Array) -> jax.Array:
    """The target's mean feature: [N, h, w, C] weighted by the mask's probability [N, H, W] -> float32 [N, C]."""
    n, h, w, _ = entry.shape
    weight = jax.nn.sigmoid(mask_logits.astype(jnp.float32))
    weight = weight.reshape(n, h, weight.shape[1] // h, w, weight.shape[2] // w).mean((2, 4))
    weight = weight / jnp.maximum(weight.sum((1, 2), keepdims=True), _FLOOR)
    return jnp.einsum("nhw,nhwc->nc", weight, entry.astype(jnp.float32))


class RobustnessScorer(layers.Module):
    """Eq. 23: s_t, the mask's IoU with the truth as far as it can be told without it.

    It learns a correction, in the logit, of the decoder's own estimate: before any training it is about that estimate,
    so that a memory without a trained scorer is still a sensible one. Its inputs carry no gradient: judging a frame
    must not change what is judged.
    """

    hidden_dim: int = 32
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, feature: jax.Array, confidence: jax.Array, change: jax.Array) -> jax.Array:
        """float [N, C], [N] in [0, 1], [N] in [0, 1] -> float32 [N] in (0, 1)."""
        x = jnp.concatenate([feature, confidence[:, None], change[:, None]], axis=1)
        x = jax.lax.stop_gradient(x).astype(self.dtype)
        x = nn.relu(layers.Dense(self.hidden_dim, dtype=self.dtype, name="layers.0")(x))
        x = layers.Dense(1, kernel_init=nn.initializers.normal(1e-3), dtype=self.dtype, name="layers.1")(x)
        known = jnp.clip(jax.lax.stop_gradient(confidence).astype(jnp.float32), 1e-3, 1 - 1e-3)
        return nn.sigmoid(jnp.log(known) - jnp.log1p(-known) + x[:, 0].astype(jnp.float32))


def score_loss(score: jax.Array, true_iou: jax.Array) -> jax.Array:
    """What trains the scorer, float [...]: |s_t - IoU|, as SAM2's predicted IoU is trained."""
    return jnp.abs(score - jax.lax.stop_gradient(true_iou))


# ---- the record -----------------------------------------------------------------------------------------------------


WRITTEN = ("short_slot", "short_evicted", "prototype_slot", "prototype_evicted")
"""Fields of `Decision` that are -1 where nothing was written."""


@struct.dataclass
class Decision:
    """What each gate saw and did in one frame, for N targets; everything has a leading axis N.

    Attributes:
      novelty: float32, eq. 20; `novelty_threshold`: tau_gain, -inf where there is no past to judge by.
      divergence: float32, eq. 22 (or a box IoU, see `ambiguity`); `divergence_threshold`: tau_amb(t), -inf likewise.
      score: float32 in (0, 1), eq. 23; `score_threshold`: tau_reg, -inf where other signs than the score decide.
      quality: float32, presence times predicted IoU over the median of the good frames before, or itself.
      growth: float32, the mask's area over the median of the good frames before, or 1; `grown`: bool, it is so good and
        so much larger that it has taken in something else, unless it `shows_more`.
      past: int32, how many frames that median of areas is of.
      visible: bool, the target was judged present, and its mask good, also beside those before, to be remembered at
        all.
      novel, ambiguous, reliable: bool, the gates of eqs. 20, 22 and 24.
      confidence: float32 in [0, 1], the mean of eq. 21's map.
      short_slot, prototype_slot: int32, the slot written in each memory (of all slots, the anchor's is 0); -1: none.
      short_evicted, prototype_evicted: int32, age in frames of the entry that gave way; -1: none.
      mass: float32 [N, 3], the share of what was read that came from the semantic anchor, the short-term memory and
        the prototypes; 0 where a memory was empty.
    """

    novelty: jax.Array
    novelty_threshold: jax.Array
    divergence: jax.Array
    divergence_threshold: jax.Array
    score: jax.Array
    score_threshold: jax.Array
    quality: jax.Array
    growth: jax.Array
    grown: jax.Array
    past: jax.Array
    visible: jax.Array
    novel: jax.Array
    ambiguous: jax.Array
    reliable: jax.Array
    confidence: jax.Array
    short_slot: jax.Array
    short_evicted: jax.Array
    prototype_slot: jax.Array
    prototype_evicted: jax.Array
    mass: jax.Array

    @classmethod
    def none(cls, targets: int) -> "Decision":
        """Frame 0's: no gate was asked."""
        number, no = jnp.zeros(targets, jnp.float32), jnp.zeros(targets, bool)
        nowhere, never = jnp.full(targets, -1, jnp.int32), jnp.full(targets, -jnp.inf, jnp.float32)
        return cls(
            novelty=number,
            novelty_threshold=never,
            divergence=number,
            divergence_threshold=never,
            score=number,
            score_threshold=never,
            quality=jnp.ones(targets, jnp.float32),
            growth=jnp.ones(targets, jnp.float32),
            grown=no,
            past=jnp.zeros(targets, jnp.int32),
            visible=no,
            novel=no,
            ambiguous=no,
            reliable=no,
            confidence=number,
            short_slot=nowhere,
            short_evicted=nowhere,
            prototype_slot=nowhere,
            prototype_evicted=nowhere,
            mass=jnp.zeros((targets, 3), jnp.float32),
        )
