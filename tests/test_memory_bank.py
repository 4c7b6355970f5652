"""The fixed slots against SAM2's own rule, written as the growing Python lists that it is stated in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqc_jax.models import memory_bank
from mqc_jax.models.memory_bank import Slots

WRITE = jax.jit(memory_bank.write)
TICK = jax.jit(memory_bank.tick)


class ListMemory:
    """SAM2's rule for one target: the first frame's entry for ever, and the newest `slots` - 1 others."""

    def __init__(self, slots: int, first: float):
        self.first, self.others, self.room = first, [], slots - 1
        self.now = 0

    def advance(self, value: float | None) -> None:
        self.now += 1
        if value is not None:
            self.others.append((self.now, value))

    def contents(self) -> set[tuple[int, float]]:
        """(frames since it was written, value) of everything remembered."""
        return {(self.now - t, v) for t, v in [(0, self.first), *self.others[-self.room :]]}


def contents(slots: Slots, target: int) -> set[tuple[int, float]]:
    valid, age, value = (np.asarray(x[target]) for x in (slots.valid, slots.age, slots.value))
    found = [(int(a), float(v[0])) for ok, a, v in zip(valid, age, value, strict=True) if ok]
    assert len(found) == len(set(found)), "one entry stands in two slots"
    return set(found)


@settings(max_examples=60, deadline=None)
@given(
    slots=st.sampled_from([2, 7, 16]),
    gates=st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=40),
)
def test_slots_hold_what_sam2s_lists_hold_whatever_the_gates_do(slots, gates):
    first = jnp.asarray([[1.0], [2.0], [3.0]])
    state = memory_bank.anchor(Slots.empty(3, slots, (1,)), first)
    lists = [ListMemory(slots, float(v)) for v in first[:, 0]]
    for t, gate in enumerate(gates, 1):
        values = jnp.asarray([[10.0 * t + n] for n in range(3)])
        state = WRITE(TICK(state), values, jnp.asarray(gate))
        for n, memory in enumerate(lists):
            memory.advance(float(values[n, 0]) if gate[n] else None)
            assert contents(state, n) == memory.contents()
        assert np.asarray(state.value[:, memory_bank.ANCHOR]).tolist() == first.tolist()


@pytest.mark.parametrize(("slots", "kept"), [(7, 6), (16, 15)])
def test_open_gates_keep_the_first_and_the_last_frames(slots, kept):
    state = memory_bank.anchor(Slots.empty(1, slots, (1,)), jnp.zeros((1, 1)))
    for t in range(1, 31):
        state = WRITE(TICK(state), jnp.full((1, 1), float(t)), jnp.ones(1, bool))
    frames = {v for _, v in contents(state, 0)}
    assert frames == {0.0, *(float(t) for t in range(31 - kept, 31))}


def test_an_entry_is_stored_in_the_memorys_dtype_and_shape():
    state = Slots.empty(2, 3, (4, 5), jnp.bfloat16)
    state = memory_bank.anchor(state, jnp.ones((2, 4, 5), jnp.float32))
    assert state.value.dtype == jnp.bfloat16
    assert state.value.shape == (2, 3, 4, 5)
    assert np.asarray(state.valid).tolist() == [[True, False, False]] * 2


def test_an_empty_memory_has_no_valid_slot():
    state = Slots.empty(2, 5, (3,))
    assert not np.asarray(state.valid).any()
    assert contents(memory_bank.tick(state), 0) == set()
