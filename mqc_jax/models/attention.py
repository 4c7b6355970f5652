"""SAM's attention layers and MLP, shared by the mask decoder and the memory attention."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mqc_jax.models import layers
from mqc_jax.models.position import apply_rope, rope_2d


class MLP(layers.Module):
    """`sam2.modeling.sam2_utils.MLP`: `num_layers` linear layers with ReLU between them.

    [..., C] -> [..., out_dim], in (0, 1) with `sigmoid_output`.
    """

    hidden_dim: int
    out_dim: int
    num_layers: int
    sigmoid_output: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.num_layers - 1):
            x = nn.relu(layers.Dense(self.hidden_dim, dtype=self.dtype, name=f"layers.{i}")(x))
        x = layers.Dense(self.out_dim, dtype=self.dtype, name=f"layers.{self.num_layers - 1}")(x)
        return nn.sigmoid(x) if self.sigmoid_output else x


def split_heads(x: jax.Array, num_heads: int) -> jax.Array:
    """[N, T, H * C] -> [N, H, T, C]."""
    return x.reshape(*x.shape[:2], num_heads, -1).swapaxes(1, 2)


def merge_heads(x: jax.Array) -> jax.Array:
    """[N, H, T, C] -> [N, T, H * C]."""
    return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)


TILE = {"cpu": 3 << 19, "default": 1 << 27}
"""Logits computed at once; more are computed in tiles, which bounds the memory of a read (470 MB an object at 1024 px
otherwise) and of its backward pass. A CPU's limit is small for its cache's sake: a read alone at 480 px was faster in
tiles, a whole memory attention not measurably. Accelerators want few large operations."""


def _attend(q: jax.Array, k: jax.Array, v: jax.Array, key_valid: jax.Array | None = None) -> jax.Array:
    """`read` for one entry of the batch: q [H, Q, C], k [H, K, C], v [H, K, E], key_valid [K] -> [H, Q, E]."""
    # The queries are the smaller factor: scaling them costs less than scaling the [Q, K] matrix.
    q = q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
    logits = jnp.einsum("hqc,hkc->hqk", q, k, preferred_element_type=jnp.float32)
    if key_valid is not None:
        logits = jnp.where(key_valid, logits, -jnp.inf)
    peak = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    # With no valid key the peak is -inf, and -inf minus -inf would be NaN.
    weight = jnp.exp(logits - jnp.where(jnp.isfinite(peak), peak, 0.0))
    total = weight.sum(-1, keepdims=True)
    value = jnp.einsum("hqk,hke->hqe", weight.astype(v.dtype), v, preferred_element_type=jnp.float32)
    # Dividing after the product with the values saves a pass over the [Q, K] matrix.
    return (value / jnp.where(total > 0, total, 1.0)).astype(v.dtype)


def _tiled(limit: int, q: jax.Array, k: jax.Array, v: jax.Array, key_valid: jax.Array | None = None) -> jax.Array:
    """`read` with at most `limit` logits at a time (one query's at least), which the backward pass computes again."""
    n, heads, queries, width = q.shape
    valid = () if key_valid is None else (key_valid,)
    if n * heads * queries * k.shape[2] <= limit:
        return jax.vmap(_attend)(q, k, v, *valid)
    most = max(1, limit // (heads * k.shape[2]))
    rows = next(size for size in range(min(most, queries), 0, -1) if queries % size == 0)

    def one(entry: tuple[jax.Array, ...]) -> jax.Array:
        q, *rest = entry
        tile = jax.checkpoint(lambda q: _attend(q, *rest))
        if rows == queries:
            return tile(q)
        tiles = jax.lax.map(tile, q.reshape(heads, queries // rows, rows, width).swapaxes(0, 1))
        return tiles.swapaxes(0, 1).reshape(heads, queries, -1)

    return jax.lax.map(one, (q, k, v, *valid))


def read(q: jax.Array, k: jax.Array, v: jax.Array, key_valid: jax.Array | None = None) -> jax.Array:
    """Scaled dot-product attention whose masked form equals attention over the valid keys alone.

    The softmax is computed in float32.

    Args:
      q: [N or 1, H, Q, C].
      k: [N or 1, H, K, C]. An axis of one is shared by all N.
      v: [N or 1, H, K, E].
      key_valid: bool [N or 1, K]; keys that are False take no part. They must be finite. None: all take part.

    Returns:
      [N, H, Q, E], v's dtype; exactly zero, with zero gradients, where no key is valid.
    """
    args = (q, k, v) if key_valid is None else (q, k, v, key_valid)
    batch = max(x.shape[0] for x in args)
    args = [jnp.broadcast_to(x, (batch, *x.shape[1:])) for x in args]
    if batch * q.shape[1] * q.shape[2] * k.shape[2] <= min(TILE.values()):
        return jax.vmap(_attend)(*args)
    return jax.lax.platform_dependent(
        *args, **{platform: functools.partial(_tiled, limit) for platform, limit in TILE.items()}
    )


class Attention(layers.Module):
    """`sam2.modeling.sam.transformer.Attention`: attention in `embed_dim // downsample_rate` channels.

    The steps are methods, so that a variant can recombine them: `q_proj`, `k_proj`, `v_proj`, `read`, `finish`.
    """

    embed_dim: int
    num_heads: int = 1
    downsample_rate: int = 1
    dtype: DTypeLike = jnp.float32

    def setup(self):
        inner = self.embed_dim // self.downsample_rate
        if inner % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} must divide the attention's {inner} channels")
        self.q_proj = layers.Dense(inner, dtype=self.dtype)
        self.k_proj = layers.Dense(inner, dtype=self.dtype)
        self.v_proj = layers.Dense(inner, dtype=self.dtype)
        self.out_proj = layers.Dense(self.embed_dim, dtype=self.dtype)

    def finish(self, x: jax.Array, key_valid: jax.Array | None) -> jax.Array:
        """[N, Q, inner] -> [N, Q, embed_dim]; all zero, the bias included, where `key_valid` [N, K] has no True."""
        x = self.out_proj(x)
        return x if key_valid is None else jnp.where(key_valid.any(-1)[:, None, None], x, 0)

    def __call__(self, q: jax.Array, k: jax.Array, v: jax.Array, key_valid: jax.Array | None = None) -> jax.Array:
        """q [N or 1, Q, embed_dim], k and v [N or 1, K, C], key_valid bool [N, K] or None -> [N, Q, embed_dim]."""
        q, k, v = (
            split_heads(proj(x), self.num_heads) for proj, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )
        return self.finish(merge_heads(read(q, k, v, key_valid)), key_valid)


class RoPEAttention(Attention):
    """`sam2.modeling.sam.transformer.RoPEAttention`: queries and keys are rotated by their place in an h x w grid.

    The rotation is built for the grid at hand, per head, and repeated when the keys are several frames of that grid.
    """

    rope_theta: float = 10000.0

    def rotate(self, x: jax.Array, grid: tuple[int, int], num_exclude: int = 0) -> jax.Array:
        """Rotates [N, H, r * h * w + num_exclude, C], all but the last `num_exclude` tokens, r frames alike."""
        n, heads, tokens, width = x.shape
        cells = grid[0] * grid[1]
        frames, rest = divmod(tokens - num_exclude, cells)
        if rest or tokens < num_exclude:
            raise ValueError(
                f"{tokens} tokens less {num_exclude} without rotation are not a multiple of {grid[0]} x {grid[1]}"
            )
        cos, sin = rope_2d(*grid, width, theta=self.rope_theta)
        spatial = x[:, :, : tokens - num_exclude].reshape(n, heads, frames, cells, width)
        spatial = apply_rope(spatial, cos, sin).reshape(n, heads, frames * cells, width)
        return jnp.concatenate([spatial, x[:, :, tokens - num_exclude :]], axis=2) if num_exclude else spatial

    def __call__(
        self,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        grid: tuple[int, int],
        num_k_exclude_rope: int = 0,
        key_valid: jax.Array | None = None,
    ) -> jax.Array:
        """As `Attention`, with Q = h * w for `grid` = (h, w) and K = r * h * w + `num_k_exclude_rope`."""
        q = self.rotate(split_heads(self.q_proj(q), self.num_heads), grid)
        k = self.rotate(split_heads(self.k_proj(k), self.num_heads), grid, num_k_exclude_rope)
        # The weights of a row sum to one, so projecting the values after the read gives the same result. Memory has a
        # quarter of the channels, so this makes the product with the values four times smaller.
        if self.num_heads == 1 and v.shape[-1] < self.embed_dim // self.downsample_rate:
            x = self.v_proj(read(q, k, v[:, None].astype(self.dtype), key_valid)[:, 0])
        else:
            x = merge_heads(read(q, k, split_heads(self.v_proj(v), self.num_heads), key_valid))
        return self.finish(x, key_valid)
