"""Where a patch is looked for, against NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqc_jax import patches


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), x=st.integers(-30, 70), y=st.integers(-30, 60), reach=st.integers(0, 12))
def test_correlations_everywhere_are_those_place_by_place(seed, x, y, reach):
    rng = np.random.default_rng(seed)
    frame, patch = (rng.integers(0, 255, shape, np.uint8) for shape in ((40, 50), (6, 5)))
    found, origin = patches.everywhere(frame, patch, np.array((x, y)) + 0.3, reach)
    assert found.shape == (2 * reach + 1, 2 * reach + 1)
    for row, column in np.ndindex(found.shape):
        left, top = np.array((column, row)) + origin
        part = frame[max(top, 0) : max(top + 6, 0), max(left, 0) : max(left + 5, 0)]
        expected = np.corrcoef(part.ravel(), patch.ravel())[0, 1] if part.shape == patch.shape else -1
        assert found[row, column] == pytest.approx(expected, abs=1e-3)
