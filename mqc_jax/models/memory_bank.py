"""SAM2's memory as a state with fixed slots: what is remembered, since when, and which slot the next frame takes.

A Python list that grows cannot be compiled once and streamed for ever. Here every entry has a slot, `valid` says
whether it counts and `age` how many frames ago it was written; a masked softmax over the slots equals attention over
the shorter list. All functions are pure; N is the number of targets.
"""

import jax
import jax.numpy as jnp
from flax import struct

ANCHOR = 0
"""Slot of the first frame's memory; `write` never touches it."""


@struct.dataclass
class Slots:
    """K entries for each of N targets.

    Attributes:
      value: float [N, K, ...].
      valid: bool [N, K].
      age: int32 [N, K], frames since the entry was written; meaningless where not valid.
    """

    value: jax.Array
    valid: jax.Array
    age: jax.Array

    @classmethod
    def empty(cls, targets: int, slots: int, shape: tuple[int, ...], dtype=jnp.float32) -> "Slots":
        return cls(
            jnp.zeros((targets, slots, *shape), dtype),
            jnp.zeros((targets, slots), bool),
            jnp.zeros((targets, slots), jnp.int32),
        )


def put(slots: Slots, entry: jax.Array, where: jax.Array) -> Slots:
    """Writes `entry` [N, ...] with age 0 into the slots marked in `where`, bool [N, K]."""
    mark = where.reshape(where.shape + (1,) * (slots.value.ndim - 2))
    return Slots(
        jnp.where(mark, entry[:, None].astype(slots.value.dtype), slots.value),
        slots.valid | where,
        jnp.where(where, 0, slots.age),
    )


def anchor(slots: Slots, entry: jax.Array) -> Slots:
    """Writes the first frame's entry [N, ...] into its own slot."""
    return put(slots, entry, jnp.broadcast_to(jnp.arange(slots.valid.shape[1]) == ANCHOR, slots.valid.shape))


def write(slots: Slots, entry: jax.Array, when: jax.Array) -> Slots:
    """First in, first out: `entry` [N, ...] takes a free slot, else the oldest entry's; the anchor is never replaced.

    Args:
      when: bool [N]; a target whose gate is closed keeps its slots as they are.
    """
    rank = jnp.where(slots.valid, slots.age, jnp.iinfo(jnp.int32).max)
    rank = rank.at[:, ANCHOR].set(-1)
    chosen = jnp.arange(rank.shape[1]) == jnp.argmax(rank, axis=1, keepdims=True)
    return put(slots, entry, chosen & when[:, None])


def tick(slots: Slots) -> Slots:
    """One frame passes."""
    return slots.replace(age=slots.age + 1)


@struct.dataclass
class MemoryBank:
    """What a target's past is to the model.

    Attributes:
      feature: memory-encoder output, [N, num_maskmem, h, w, mem_dim].
      pointer: object pointers, [N, max_obj_ptrs, d_model].
      text: the sentences, if they are read again on every frame (`model.text_every_frame`): `input_ids` int32 [N, L],
        their mask bool [N, L] (all False: there is none), plain words [N, L, text width]; else None.
      place: float32 [N, 3], where each target is expected in the next frame (`models.one_object`), if that is asked;
        else None.
    """

    feature: Slots
    pointer: Slots
    text: tuple[jax.Array, jax.Array, jax.Array] | None = struct.field(default=None, kw_only=True)
    place: jax.Array | None = struct.field(default=None, kw_only=True)
