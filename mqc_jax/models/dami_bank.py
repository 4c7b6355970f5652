"""DAMI's memory as a state with fixed slots, and the one place where its gates meet: `register`.

Slots are in the order anchor, short-term queue, prototypes. A frame is written into the queue where it is novel
(eq. 20) and into the prototypes where it is ambiguous and reliable (eq. 24); the anchor is written once.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from mqc_jax.config import DamiConfig
from mqc_jax.models import memory_bank, registration
from mqc_jax.models.memory_bank import MemoryBank, Slots
from mqc_jax.models.registration import Decision, Past

_LEAST_SHARE = 0.97  # of the usual area, which therefore shrinks by that much in half of the history at most


@struct.dataclass
class DecoupledBank(MemoryBank):
    """`feature` and `pointer` have the same K = 1 + short + prototypes slots and are written together.

    Attributes:
      score: float32 [N, K], eq. 23's when a prototype was written.
      novelty, divergence: what thresholds are percentiles of.
      quality: presence times predicted IoU of every frame whose mask was good.
      areas: shares of the frame that such masks covered, if not too large, and at least nearly the median before.
      grown: int32 [N], how many of the latest such masks were too large.
      last_area: float32 [N], of the frame before this one.
    """

    score: jax.Array
    novelty: Past
    divergence: Past
    quality: Past
    areas: Past
    grown: jax.Array
    last_area: jax.Array


@struct.dataclass
class Seen:
    """What one decoded frame offers to the memory.

    Attributes:
      entry: [N, h, w, mem_dim], the memory encoder's output.
      pointer: [N, D].
      mask_logits: float32 [N, H, W], the chosen mask after the presence score.
      hypotheses: float32 [N, 3, H, W].
      ious: float32 [N, 3].
      presence_logits: float32 [N].
    """

    entry: jax.Array
    pointer: jax.Array
    mask_logits: jax.Array
    hypotheses: jax.Array
    ious: jax.Array
    presence_logits: jax.Array


def begin(config: DamiConfig, entry: jax.Array, pointer: jax.Array, mask_logits: jax.Array) -> DecoupledBank:
    """A memory that holds frame 0 alone: its entry (eq. 17), pointer and mask, in `entry`'s dtype."""
    n, slots = entry.shape[0], 1 + config.short + config.prototypes
    values = [Slots.empty(n, slots, x.shape[1:], entry.dtype) for x in (entry, pointer)]
    return DecoupledBank(
        feature=memory_bank.anchor(values[0], entry),
        pointer=memory_bank.anchor(values[1], pointer),
        score=jnp.zeros((n, slots), jnp.float32),
        novelty=Past.empty(n, config.history),
        divergence=Past.empty(n, config.history),
        quality=Past.empty(n, config.history),
        areas=Past.empty(n, config.history),
        grown=jnp.zeros(n, jnp.int32),
        last_area=registration.area(mask_logits),
    )


def passed_over(before: DecoupledBank, after: DecoupledBank) -> DecoupledBank:
    """The memory after a frame that, as it turned out, is not to be remembered: as before it, and a frame older.

    Args:
      before: the memory that the frame read.
      after: the memory that came of it, of which only the place where the target is expected is kept.
    """
    return before.replace(
        feature=memory_bank.tick(before.feature), pointer=memory_bank.tick(before.pointer), place=after.place
    )


def register(
    config: DamiConfig,
    bank: DecoupledBank,
    seen: Seen,
    scorer: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    mass: jax.Array,
) -> tuple[DecoupledBank, Decision]:
    """Judges one frame and writes it where its gates are open (eqs. 19-24).

    Args:
      bank: after `memory_bank.tick`, so that an entry of the frame before has age 1.
      scorer: eq. 23, (feature, confidence, area change) -> score.
      mass: float32 [N, 3], only passed on into the record.
    """
    short = slice(1, 1 + config.short)
    pool = slice(1 + config.short, None)
    valid, age = bank.feature.valid, bank.feature.age
    presence = jax.nn.sigmoid(seen.presence_logits.astype(jnp.float32))
    maps = jax.lax.stop_gradient(seen)
    best = maps.ious.max(1).astype(jnp.float32)
    now = registration.area(maps.mask_logits)
    quality = jnp.where(now > 0, best * presence, 0.0)  # an empty mask is the mask of nothing
    good = (presence > config.min_presence) & (quality >= config.min_quality)

    # Where the mask is worse than this target's masks are, it has begun to slip, or a cloud leaves a part of it alone:
    # news, too, and in every frame.
    median = registration.percentile(bank.quality, 50.0)
    usual_quality = jnp.where(bank.quality.count > 0, median, quality)
    beside = quality / jnp.maximum(usual_quality, 1e-9)
    # And a target does not grow: a mask that does has taken in what lies beside it, whose edge may be the sharper one.
    # What stays so is its size after all: it came out from where it was hidden.
    usual_area = jnp.where(bank.areas.count > 0, registration.percentile(bank.areas, 50.0), now)
    growth = now / jnp.maximum(usual_area, 1e-9)
    larger = good & (growth > config.max_usual_area) & (config.max_usual_area > 0)
    larger &= ~registration.shows_more(growth, beside)
    in_a_row = jnp.where(good, jnp.where(larger, bank.grown + 1, 0), bank.grown)
    grown = larger & (in_a_row <= config.history // 2)
    visible = good & (quality >= config.min_usual_quality * usual_quality) & ~grown

    # Short-term: an entry is compared as it would be stored, so that what eq. 21 fades out is no news.
    chosen = jnp.take_along_axis(maps.hypotheses, maps.ious.argmax(1)[:, None, None, None], axis=1)[:, 0]
    trust = registration.confidence_map(chosen, maps.presence_logits, seen.entry.shape[1:3], config.confidence)
    weighted = (seen.entry * trust[..., None]).astype(seen.entry.dtype)  # eq. 21
    stored = jax.lax.stop_gradient(bank.feature.value)
    expected = registration.predict(
        stored[:, short], valid[:, short], age[:, short], config.eta, stored[:, memory_bank.ANCHOR]
    )
    novelty = registration.novelty(jax.lax.stop_gradient(weighted), expected)
    tau_gain = registration.percentile(bank.novelty, config.gain_percentile)
    novel = (novelty > tau_gain) | (config.gain_percentile <= 0)
    write_short = novel & visible

    # Discriminative: how close an alternative comes, and whether this mask is good enough to learn from.
    score = scorer(
        registration.pooled(maps.entry, maps.mask_logits),
        quality,
        registration.area_change(now, bank.last_area),
    )
    divergence = registration.ambiguity(maps.hypotheses, maps.ious, config.ambiguity, config.elsewhere_radius)
    if config.ambiguity == "dam4sam":
        tau_amb = jnp.full_like(divergence, registration.DAM4SAM_BOX_IOU)
        recent = registration.percentile(bank.areas, 50.0)
        since = jnp.where(valid[:, pool], age[:, pool], registration.DAM4SAM_FRAMES).min(1)
        tau_reg = jnp.full_like(score, -jnp.inf)
        reliable = (
            (best > registration.DAM4SAM_IOU)
            & (jnp.abs(now - recent) <= registration.DAM4SAM_AREA * recent)
            & (since >= registration.DAM4SAM_FRAMES)
        )
    else:
        tau_amb = registration.percentile(bank.divergence, config.ambiguity_percentile)
        tau_reg = jnp.full_like(score, config.reliability)
        reliable = score > tau_reg
    ambiguous = divergence < tau_amb
    write_pool = ambiguous & reliable & visible

    place_short = 1 + registration.oldest(valid[:, short], age[:, short])
    place_pool = 1 + config.short + registration.worst(valid[:, pool], bank.score[:, pool], age[:, pool])
    slots = jnp.arange(valid.shape[1])
    where_short = (slots == place_short[:, None]) & write_short[:, None]
    where_pool = (slots == place_pool[:, None]) & write_pool[:, None]
    evicted = lambda where: jnp.where(where & valid, age, -1).max(1)  # noqa: E731
    decision = Decision(
        novelty=novelty,
        novelty_threshold=tau_gain,
        divergence=divergence,
        divergence_threshold=tau_amb,
        score=score,
        score_threshold=tau_reg,
        quality=beside,
        growth=growth,
        grown=grown,
        past=jnp.minimum(bank.areas.count, config.history),
        visible=visible,
        novel=novel,
        ambiguous=ambiguous,
        reliable=reliable,
        confidence=trust.mean((1, 2)),
        short_slot=jnp.where(write_short, place_short, -1),
        short_evicted=evicted(where_short),
        prototype_slot=jnp.where(write_pool, place_pool, -1),
        prototype_evicted=evicted(where_pool),
        mass=mass,
    )
    # Hidden frames leave no trace in the past either: while the target is gone everything looks new.
    return bank.replace(
        feature=memory_bank.put(memory_bank.put(bank.feature, weighted, where_short), seen.entry, where_pool),
        pointer=memory_bank.put(bank.pointer, seen.pointer, where_short | where_pool),
        score=jnp.where(where_pool, jax.lax.stop_gradient(score)[:, None], bank.score),
        novelty=registration.note(bank.novelty, novelty, visible),
        divergence=registration.note(bank.divergence, divergence, visible),
        quality=registration.note(bank.quality, quality, good),
        # A part must not become the usual size: under a cloud there are many.
        areas=registration.note(bank.areas, jnp.maximum(now, _LEAST_SHARE * usual_area), good & ~grown),
        grown=in_a_row,
        last_area=now,
    ), decision
