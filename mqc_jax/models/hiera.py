"""Hiera, SAM2's hierarchical image trunk (upstream `sam2.modeling.backbones.hieradet`)."""

import functools
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from mqc_jax.models import layers
from mqc_jax.models.torch_ops import (
    TRUNK_EPSILON,
    Dense,
    LayerNorm,
    attention,
    gelu,
    matmul,
    max_pool2x2,
    resize_bicubic,
)

PATCH_STRIDE = 4

HIERA_SIZES = {
    "tiny": {
        "embed_dim": 96,
        "num_heads": 1,
        "stages": (1, 2, 7, 2),
        "global_att_blocks": (5, 7, 9),
        "window_pos_embed_bkg_spatial_size": (7, 7),
        "window_spec": (8, 4, 14, 7),
    },
    "small": {
        "embed_dim": 96,
        "num_heads": 1,
        "stages": (1, 2, 11, 2),
        "global_att_blocks": (7, 10, 13),
        "window_pos_embed_bkg_spatial_size": (7, 7),
        "window_spec": (8, 4, 14, 7),
    },
    "base_plus": {
        "embed_dim": 112,
        "num_heads": 2,
        "stages": (2, 3, 16, 3),
        "global_att_blocks": (12, 16, 20),
        "window_pos_embed_bkg_spatial_size": (14, 14),
        "window_spec": (8, 4, 14, 7),
    },
    "large": {
        "embed_dim": 144,
        "num_heads": 2,
        "stages": (2, 6, 36, 4),
        "global_att_blocks": (23, 33, 43),
        "window_pos_embed_bkg_spatial_size": (7, 7),
        "window_spec": (8, 4, 16, 8),
    },
}
"""Constructor arguments of `Hiera` for the four published sizes (upstream `configs/sam2.1/*.yaml`)."""


def to_windows(x: jax.Array, window: int) -> jax.Array:
    """Cuts a map into square windows, each a list of tokens, heads in front: the layout that attention wants.

    Args:
      x: [B, H, W, ..., N, D]. Below and to the right it is padded with zeros to whole windows.
      window: side in tokens; 0 makes the whole map one window.

    Returns:
      [..., B, windows, N, tokens, D]; windows and tokens in row-major order.
    """
    batch, height, width, *extra, heads, depth = x.shape
    rows, columns = (window, window) if window else (height, width)
    down, across = -(-height // rows), -(-width // columns)
    padding = [(0, 0), (0, down * rows - height), (0, across * columns - width)] + [(0, 0)] * (x.ndim - 3)
    x = jnp.pad(x, padding).reshape(batch, down, rows, across, columns, *extra, heads, depth)
    n = len(extra)
    x = x.transpose(*range(5, 5 + n), 0, 1, 3, 5 + n, 2, 4, 6 + n)
    return x.reshape(*extra, batch, down * across, heads, rows * columns, depth)


def from_windows(x: jax.Array, window: int, size: tuple[int, int]) -> jax.Array:
    """Inverse of `to_windows` without extra dimensions: [B, windows, N, tokens, D] -> [B, *size, N * D]."""
    batch, _, heads, _, depth = x.shape
    height, width = size
    rows, columns = (window, window) if window else size
    down, across = -(-height // rows), -(-width // columns)
    x = x.reshape(batch, down, across, heads, rows, columns, depth).transpose(0, 1, 4, 2, 5, 3, 6)
    return x.reshape(batch, down * rows, across * columns, heads * depth)[:, :height, :width]


class WindowedProjection(layers.Module):
    """`torch.nn.Linear` to queries, keys and values, whose result is cut into windows.

    Upstream pads the normalised map with zeros and projects afterwards, so a padded token's query, key and value are
    the bias. Padding between the product and the bias gives the same and multiplies nothing for padded tokens.
    """

    features: int
    heads: int
    window: int
    pool_query: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """[B, H, W, C] -> query, key, value [B, windows, heads, tokens, features // heads]; a pooled query has a
        quarter of the tokens."""
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], 3 * self.features))
        bias = self.param("bias", nn.initializers.zeros_init(), (3 * self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        # s: query, key or value; n: head
        bias = bias.reshape(3, 1, 1, self.heads, 1, -1)
        product = matmul(x, kernel).reshape(*x.shape[:3], 3, self.heads, -1)
        if not self.pool_query:
            query, key, value = to_windows(product, self.window) + bias
            return query, key, value
        query = max_pool2x2(product[:, :, :, 0].reshape(*x.shape[:3], self.features))
        query = to_windows(query.reshape(*query.shape[:3], self.heads, -1), self.window // 2) + bias[0]
        key, value = to_windows(product[:, :, :, 1:], self.window) + bias[1:]
        return query, key, value


class MultiScaleAttention(layers.Module):
    """Attention inside windows, over [B, H, W, C]; with `pool_query` the result has half the height and width."""

    features: int
    heads: int
    window: int
    pool_query: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        project = WindowedProjection(
            self.features, self.heads, self.window, self.pool_query, dtype=self.dtype, name="qkv"
        )
        attended = attention(*project(x))
        shrink = 2 if self.pool_query else 1
        attended = from_windows(attended, self.window // shrink, (x.shape[1] // shrink, x.shape[2] // shrink))
        return Dense(self.features, dtype=self.dtype, name="proj")(attended)


class MLP(layers.Module):
    """Two dense layers with the exact GELU between; four times as wide inside."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = gelu(Dense(4 * x.shape[-1], dtype=self.dtype, name="layers.0")(x))
        return Dense(x.shape[-1], dtype=self.dtype, name="layers.1")(hidden)


class MultiScaleBlock(layers.Module):
    """Pre-norm transformer block on a map [B, H, W, C]; `pool` halves the height and the width."""

    features: int
    heads: int
    window: int
    pool: bool
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        normed = LayerNorm(epsilon=TRUNK_EPSILON, dtype=self.dtype, name="norm1")(x)
        if x.shape[-1] != self.features:
            x = Dense(self.features, dtype=self.dtype, name="proj")(normed)
            x = max_pool2x2(x) if self.pool else x
        x = x + MultiScaleAttention(self.features, self.heads, self.window, self.pool, dtype=self.dtype, name="attn")(
            normed
        )
        normed = LayerNorm(epsilon=TRUNK_EPSILON, dtype=self.dtype, name="norm2")(x)
        return x + MLP(dtype=self.dtype, name="mlp")(normed)


class PatchEmbed(layers.Module):
    """Overlapping 7x7 patches every 4 pixels: [B, H, W, 3] -> [B, H / 4, W / 4, features]."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        stride, padding = (PATCH_STRIDE, PATCH_STRIDE), ((3, 3), (3, 3))
        return layers.Conv(self.features, (7, 7), stride, padding, dtype=self.dtype, name="proj")(x)


class Hiera(layers.Module):
    """The trunk: an image to one map for each stage.

    `stages` counts the blocks of each stage. After a stage channels and heads double; at the first `q_pool` changes
    the height and the width halve, by pooling the queries. `window_spec` is each stage's window side in tokens (the
    first block of a stage still uses its predecessor's), `global_att_blocks` lists the blocks that see the whole map.
    `remat` recomputes each block in the backward pass, which trades about a third more time for memory.

    Upstream's stochastic depth (off in its inference configs) is not part of this module.
    """

    embed_dim: int
    num_heads: int
    stages: tuple[int, ...]
    global_att_blocks: tuple[int, ...]
    window_pos_embed_bkg_spatial_size: tuple[int, int]
    window_spec: tuple[int, ...]
    q_pool: int = 3
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array) -> list[jax.Array]:
        """Maps an image to the stages' outputs.

        Args:
          image: [B, H, W, 3], normalised; H and W multiples of 32.

        Returns:
          One map a stage: [B, H / 4, W / 4, embed_dim], then half the size and twice the channels each.

        Raises:
          ValueError: H or W is not a multiple of 32, or a pooled window has an odd side.
        """
        stride = PATCH_STRIDE * 2**self.q_pool
        # the window embedding is tiled over the patch grid, and pooled windows must stay whole
        stride = int(np.lcm(stride, PATCH_STRIDE * self.window_spec[0]))
        if image.shape[1] % stride or image.shape[2] % stride:
            raise ValueError(f"an image of {image.shape[1:3]} pixels: both sides must be multiples of {stride}")
        if any(window % 2 for window in self.window_spec[: self.q_pool]):
            raise ValueError(f"window_spec={self.window_spec}: windows whose queries are pooled need an even side")
        x = PatchEmbed(self.embed_dim, dtype=self.dtype, name="patch_embed")(image)
        x = x + self._position(x.shape[1], x.shape[2]).astype(x.dtype)

        outputs, index = [], 0
        features, heads = self.embed_dim, self.num_heads
        for stage, depth in enumerate(self.stages):
            kinds = []
            for position in range(depth):
                entering = stage > 0 and position == 0
                if entering:
                    features, heads = 2 * features, 2 * heads
                at = index + position
                window = 0 if at in self.global_att_blocks else self.window_spec[stage - entering]
                pool = entering and stage <= self.q_pool
                kinds.append({"features": features, "heads": heads, "window": window, "pool": pool})
            for kind, run in itertools.groupby(range(depth), key=kinds.__getitem__):
                x = self._blocks([index + position for position in run], kind, x)
            index += depth
            outputs.append(x)
        return outputs

    def _blocks(self, indices: list[int], kind: dict[str, Any], x: jax.Array) -> jax.Array:
        """Blocks of one kind, one after the other.

        With `remat` they are one loop over their stacked parameters: XLA's CPU compiler merges a block's second
        computation with its first again unless a loop separates them (measured on Hiera-L: the intermediates of all 36
        blocks of stage 3 stayed alive), and a loop is compiled once for all of them.
        """
        if self.remat and len(indices) > 1 and not self.is_initializing():
            own = self.variables["params"]
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(own[f"blocks.{index}"] for index in indices))
            block = MultiScaleBlock(**kind, dtype=self.dtype, parent=None)

            @functools.partial(jax.checkpoint, prevent_cse=False)
            def one(x: jax.Array, params: Any) -> tuple[jax.Array, None]:
                return block.apply({"params": params}, x), None

            return jax.lax.scan(one, x, stacked)[0]
        block_type = nn.remat(MultiScaleBlock) if self.remat else MultiScaleBlock
        for index in indices:
            x = block_type(**kind, dtype=self.dtype, name=f"blocks.{index}")(x)
        return x

    def _position(self, height: int, width: int) -> jax.Array:
        """[1, height, width, embed_dim]: a coarse embedding of the whole map, resized, plus one repeated window."""
        side, zeros = self.window_spec[0], nn.initializers.zeros_init()
        # bare parameters keep torch's layout, channels before rows
        whole = self.param("pos_embed", zeros, (1, self.embed_dim, *self.window_pos_embed_bkg_spatial_size))
        window = self.param("pos_embed_window", zeros, (1, self.embed_dim, side, side))
        whole, window = jnp.moveaxis(whole, 1, -1), jnp.moveaxis(window, 1, -1)
        return resize_bicubic(whole, (height, width)) + jnp.tile(window, (1, height // side, width // side, 1))
