"""The feature pyramid and the whole image encoder (upstream `sam2.modeling.backbones.image_encoder`)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax.typing import DTypeLike

from mqc_jax.models import layers
from mqc_jax.models.hiera import Hiera
from mqc_jax.models.position import sine_2d
from mqc_jax.models.torch_ops import Conv1x1


@struct.dataclass
class Pyramid:
    """Maps of one image batch, finest first.

    features: [B, H / 4, W / 4, d_model], [B, H / 8, ...], [B, H / 16, ...], the compute dtype.
    positions: [H / 4, W / 4, d_model], ..., float32; the same for every image.
    """

    features: tuple[jax.Array, ...]
    positions: tuple[jax.Array, ...]


class FpnNeck(layers.Module):
    """Lateral 1x1 convolutions, and top-down sums (nearest neighbour, in float32) into `fpn_top_down_levels`.

    With `drop_coarsest` (upstream's `scalp`) the last levels still feed the sums and are not returned.
    """

    d_model: int
    fpn_top_down_levels: tuple[int, ...] = (2, 3)
    drop_coarsest: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, stages: list[jax.Array]) -> Pyramid:
        last = len(stages) - 1
        features: list[Any] = [None] * len(stages)
        for level in range(last, -1, -1):
            # upstream numbers the convolutions from the coarsest level
            lateral = Conv1x1(self.d_model, dtype=self.dtype, name=f"convs.{last - level}.conv")(stages[level])
            if level in self.fpn_top_down_levels and level < last:
                above = features[level + 1].astype(jnp.float32)
                lateral = (lateral + above.repeat(2, axis=-3).repeat(2, axis=-2)).astype(lateral.dtype)
            features[level] = lateral
        features = features[: len(features) - self.drop_coarsest]
        positions = tuple(jnp.asarray(sine_2d(*x.shape[-3:-1], self.d_model)) for x in features)
        return Pyramid(features=tuple(features), positions=positions)


class ImageEncoder(layers.Module):
    """Trunk and neck: `ImageEncoder(**HIERA_SIZES["tiny"])`; the trunk's attributes are those of `Hiera`.

    A caller that needs the trunk's own stages too calls `trunk` and `neck` one after the other.
    """

    embed_dim: int
    num_heads: int
    stages: tuple[int, ...]
    global_att_blocks: tuple[int, ...]
    window_pos_embed_bkg_spatial_size: tuple[int, int]
    window_spec: tuple[int, ...]
    d_model: int = 256
    fpn_top_down_levels: tuple[int, ...] = (2, 3)
    remat: bool = False
    dtype: DTypeLike = jnp.float32

    def setup(self):
        self.trunk = Hiera(
            embed_dim=self.embed_dim,
            num_heads=self.num_heads,
            stages=self.stages,
            global_att_blocks=self.global_att_blocks,
            window_pos_embed_bkg_spatial_size=self.window_pos_embed_bkg_spatial_size,
            window_spec=self.window_spec,
            remat=self.remat,
            dtype=self.dtype,
        )
        self.neck = FpnNeck(self.d_model, self.fpn_top_down_levels, dtype=self.dtype)

    def __call__(self, image: jax.Array) -> Pyramid:
        """[B, H, W, 3], normalised, H and W multiples of 32 -> levels of strides 4, 8 and 16."""
        return self.neck(self.trunk(image))
