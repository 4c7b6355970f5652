"""Position encodings against the public sam2 package."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from sam2.modeling.position_encoding import PositionEmbeddingSine, apply_rotary_enc, compute_axial_cis
from sam2.modeling.sam2_utils import get_1d_sine_pe

from mqc_jax.models.position import apply_rope, rope_2d, sine_1d, sine_2d


@pytest.mark.parametrize(("height", "width", "channels"), [(30, 30, 256), (7, 12, 64), (1, 2, 32)])
def test_sine_grid(height, width, channels):
    reference = PositionEmbeddingSine(channels)(torch.zeros(1, 3, height, width))[0].permute(1, 2, 0).numpy()
    assert np.abs(sine_2d(height, width, channels) - reference).max() < 1e-5


def test_sine_grid_is_not_the_common_one():
    """Other ports count from 0, or divide by the plain length or by length - 1: each is far from upstream's table."""
    size, channels = 30, 32
    reference = PositionEmbeddingSine(channels)(torch.zeros(1, 3, size, size))[0].permute(1, 2, 0).numpy()
    column = reference[0, :, channels // 2]  # the sine of the first frequency
    place = np.arange(1, size + 1)
    upstream = np.sin(2 * np.pi * place / (size + 1e-6))
    assert np.abs(sine_2d(size, size, channels)[0, :, channels // 2] - upstream).max() < 1e-5
    assert np.abs(column - upstream).max() < 1e-5
    assert np.abs(column - np.sin(2 * np.pi * (place - 1) / size)).max() > 0.1
    assert np.abs(column - np.sin(2 * np.pi * (place - 1) / (size - 1))).max() > 0.1


def test_sine_grid_epsilon_at_the_last_row():
    """On a grid of one row the whole turn is missed by 2 pi 1e-6, which float32 can show where sin is about 0."""
    reference = PositionEmbeddingSine(8)(torch.zeros(1, 3, 1, 1)).flatten()[0].item()
    ours = float(sine_2d(1, 1, 8)[0, 0, 0])
    without = float(np.sin(np.float32(2 * np.pi)))
    assert abs(ours - reference) < 1e-7
    assert abs(without - reference) > 3e-6


@pytest.mark.parametrize("channels", [64, 256])
def test_sine_of_a_scalar(channels):
    position = np.linspace(0, 1, 17, dtype=np.float32).reshape(1, 17) * 3
    reference = get_1d_sine_pe(torch.from_numpy(position), channels).numpy()
    assert np.abs(sine_1d(jnp.asarray(position), channels) - reference).max() < 1e-5


@pytest.mark.parametrize(("height", "width", "repeats"), [(30, 30, 1), (5, 8, 3)])
def test_rope(height, width, repeats):
    channels, tokens = 32, height * width
    rng = np.random.default_rng(0)
    query = rng.standard_normal((2, 3, tokens, channels)).astype(np.float32)
    key = rng.standard_normal((2, 3, tokens * repeats, channels)).astype(np.float32)
    reference = apply_rotary_enc(
        torch.from_numpy(query), torch.from_numpy(key), compute_axial_cis(channels, width, height), repeats > 1
    )
    cosines, sines = rope_2d(height, width, channels)
    assert np.abs(apply_rope(jnp.asarray(query), cosines, sines) - reference[0].numpy()).max() < 1e-4
    tiled = np.tile(cosines, (repeats, 1)), np.tile(sines, (repeats, 1))
    assert np.abs(apply_rope(jnp.asarray(key), *tiled) - reference[1].numpy()).max() < 1e-4

    # the trap: rows and columns exchanged
    swapped = np.roll(cosines, channels // 4, -1), np.roll(sines, channels // 4, -1)
    assert np.abs(apply_rope(jnp.asarray(query), *swapped) - reference[0].numpy()).max() > 0.1


def test_rope_turns_and_does_not_stretch():
    x = np.random.default_rng(1).standard_normal((1, 12, 16)).astype(np.float32)
    turned = np.asarray(apply_rope(jnp.asarray(x), *rope_2d(3, 4, 16)))
    assert np.allclose((turned**2).sum(-1), (x**2).sum(-1), rtol=1e-5)
    assert np.allclose(turned[:, 0], x[:, 0])  # the first token stays
    assert not np.allclose(turned[:, 1:], x[:, 1:], atol=0.1)


def test_bad_widths_are_refused():
    with pytest.raises(ValueError, match="multiple of 4"):
        sine_2d(4, 4, 6)
    with pytest.raises(ValueError, match="multiple of 4"):
        rope_2d(4, 4, 6)
    with pytest.raises(ValueError, match="even"):
        sine_1d(jnp.zeros(3), 5)
