"""Position encodings of SAM2: sine grids, sine of a scalar, and two-dimensional rotary encoding.

The tables depend on shapes alone and are made in numpy, so that under `jit` they are constants.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

TEMPERATURE = 10000.0


def _frequencies(count: int, temperature: float) -> np.ndarray:
    """float32 [count]: the divisors of a sine encoding, equal in pairs (one for the sine, one for the cosine)."""
    exponent = np.float32(2) * (np.arange(count) // 2).astype(np.float32) / np.float32(count)
    return np.float32(temperature) ** exponent


@functools.lru_cache(maxsize=64)
def sine_2d(height: int, width: int, channels: int, temperature: float = TEMPERATURE) -> np.ndarray:
    """The fixed encoding of an image grid (upstream `PositionEmbeddingSine`, normalised).

    Row r is at (r + 1) / (height + 1e-6) of a full turn, so the last row falls just short of 2 pi; likewise columns.

    Returns:
      float32 [height, width, channels]: the first half encodes the row, the second the column; sines and cosines
      alternate. Read-only.
    """
    half = channels // 2
    if channels % 4:
        raise ValueError(f"channels={channels} must be a multiple of 4")
    divisors = _frequencies(half, temperature)

    def encode(length: int) -> np.ndarray:
        place = np.arange(1, length + 1, dtype=np.float32)
        angle = place / (place[-1] + np.float32(1e-6)) * np.float32(2 * math.pi)
        angle = angle[:, None] / divisors
        return np.stack([np.sin(angle[:, 0::2]), np.cos(angle[:, 1::2])], -1).reshape(length, half)

    rows = np.broadcast_to(encode(height)[:, None], (height, width, half))
    columns = np.broadcast_to(encode(width)[None], (height, width, half))
    table = np.concatenate([rows, columns], -1)
    table.setflags(write=False)
    return table


def sine_1d(position: jax.Array, channels: int, temperature: float = TEMPERATURE) -> jax.Array:
    """The encoding of an object pointer's age (upstream `get_1d_sine_pe`).

    Args:
      position: [...], any real number; upstream divides the age in frames by the largest one first.
      channels: even; the result's last dimension.

    Returns:
      float32 [..., channels]: all sines, then all cosines.
    """
    if channels % 2:
        raise ValueError(f"channels={channels} must be even")
    angle = jnp.asarray(position, jnp.float32)[..., None] / _frequencies(channels // 2, temperature)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)


@functools.lru_cache(maxsize=64)
def rope_2d(height: int, width: int, channels: int, theta: float = TEMPERATURE) -> tuple[np.ndarray, np.ndarray]:
    """Rotation angles of an image grid (upstream `compute_axial_cis`).

    Args:
      channels: one head's width, a multiple of 4. Channels turn in neighbouring pairs; the first half of the pairs
        turns with the column, the second half with the row.

    Returns:
      (cosines, sines), each float32 [height * width, channels // 2]; tokens in row-major order. Read-only.
    """
    if channels % 4:
        raise ValueError(f"channels={channels} must be a multiple of 4")
    speed = np.float32(1) / np.float32(theta) ** (np.arange(0, channels, 4, dtype=np.float32) / np.float32(channels))
    token = np.arange(height * width)
    column, row = (token % width).astype(np.float32), (token // width).astype(np.float32)
    angle = np.concatenate([column[:, None] * speed, row[:, None] * speed], -1)
    tables = np.cos(angle), np.sin(angle)
    for table in tables:
        table.setflags(write=False)
    return tables


def apply_rope(x: jax.Array, cosines: jax.Array, sines: jax.Array) -> jax.Array:
    """Turns each pair of neighbouring channels by its token's angle (upstream `apply_rotary_enc`, one operand).

    Keys of several memories, one after the other, are turned alike by passing tables tiled along the tokens;
    object-pointer tokens are not turned at all and must be left out by the caller.

    Args:
      x: [..., T, C], one head in the last dimension.
      cosines: [T, C // 2] from `rope_2d`.
      sines: [T, C // 2] from `rope_2d`.

    Returns:
      [..., T, C], x's dtype; computed in float32.
    """
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    real, imaginary = pairs[..., 0], pairs[..., 1]
    turned = jnp.stack([real * cosines - imaginary * sines, real * sines + imaginary * cosines], -1)
    return turned.reshape(x.shape).astype(x.dtype)
