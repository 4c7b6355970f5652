"""What a mask that has grown shows of a target whose outline is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqc_jax import outline
from mqc_jax.tiling import Window

SIZE = 40
SEEDS = st.integers(0, 2**32 - 1)


def shape_of(seed: int) -> np.ndarray:
    """A connected shape that touches all sides of its box."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 12, 2)
    shape = rng.random((height, width)) < 0.6
    shape[height // 2], shape[:, width // 2] = True, True
    return shape


@given(SEEDS, st.integers(-20, 50), st.integers(-20, 50), st.integers(0, 300), st.integers(0, 300))
def test_an_outline_is_put_where_it_is_expected(seed, x, y, left, top):
    shape, window = shape_of(seed), Window(left, top, SIZE, SIZE)
    height, width = shape.shape
    padded = np.zeros((SIZE + 120, SIZE + 120), bool)
    padded[60 + y : 60 + y + height, 60 + x : 60 + x + width] = shape
    there, middle = padded[60 : 60 + SIZE, 60 : 60 + SIZE], (left + x + width / 2, top + y + height / 2)
    np.testing.assert_array_equal(outline.at(shape, middle, window), there)
    everything = np.ones((SIZE, SIZE), bool)
    inside = outline.within(everything, shape, middle, None, window)
    np.testing.assert_array_equal(inside, there if 3 * there.sum() >= shape.sum() else everything)


@given(SEEDS, st.floats(-20, 60), st.floats(-20, 60), st.floats(0, 1))
def test_nothing_is_added_and_doing_it_twice_changes_nothing(seed, x, y, share):
    mask, shape, window = np.random.default_rng(seed).random((SIZE, SIZE)) < share, shape_of(seed), Window(0, 0, 40, 40)
    before = mask.copy()
    once = outline.within(mask, shape, (x, y), None, window)
    assert not (once & ~mask).any()
    assert once.any() == mask.any()
    np.testing.assert_array_equal(outline.within(once, shape, (x, y), None, window), once)
    np.testing.assert_array_equal(mask, before)


@pytest.mark.parametrize("shared", range(7))
@pytest.mark.parametrize("seen", [False, True])
def test_of_a_mask_that_lies_elsewhere_nothing_is_shown_if_the_target_is_seen(seen, shared):
    shape, window = np.ones((6, 9), bool), Window(100, 50, SIZE, SIZE)
    mask = np.zeros((SIZE, SIZE), bool)
    mask[10:30, 20:35] = True
    there, away = (100 + 20 - 9 + shared + 4.5, 50 + 12 + 3), (100 + 27, 50 + 20)
    # Where its pixels are found again, it matters no more where it was expected.
    shown = outline.within(mask, shape, away if seen else there, there if seen else None, window)
    if shared >= 3:
        np.testing.assert_array_equal(shown, mask & outline.at(shape, there, window))
        assert shown.sum() == 6 * shared
    else:
        np.testing.assert_array_equal(shown, outline.at(shape, there, window) if seen else mask)


@pytest.mark.parametrize("speck", [False, True])
def test_an_outline_is_that_of_the_largest_piece(speck):
    shape, mask = shape_of(3), np.zeros((SIZE, SIZE), bool)
    height, width = shape.shape
    mask[10 : 10 + height, 20 : 20 + width] = shape
    mask[35, 2] = speck
    known = outline.of(mask)
    np.testing.assert_array_equal(known, shape)
    mask[:] = True
    np.testing.assert_array_equal(known, shape)  # a copy
