"""SAM2's memory encoder: a frame's features and its mask, fused into what the memory stores."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mqc_jax.models import layers
from mqc_jax.models.position import sine_2d
from mqc_jax.models.torch_ops import TRUNK_EPSILON, Conv1x1, DepthwiseConv, LayerNorm, gelu


def _taps(x: jax.Array) -> list[jax.Array]:
    """What each weight of a 3x3 kernel with stride 2 and padding 1 sees: [N, 2h, 2w, C] -> nine of [N, h, w, C]."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 0), (1, 0), (0, 0)))
    return [padded[:, i : i + height : 2, j : j + width : 2] for i in range(3) for j in range(3)]


def _untaps(y: jax.Array) -> jax.Array:
    """The transpose of `_taps`: [N, h, w, 3, 3, C] -> [N, 2h, 2w, C].

    An even row was seen by the middle weights alone, an odd one by the last weights and the first of the row below.
    Rows and columns are woven together, where the transpose that JAX derives adds up nine arrays full of zeros.
    """
    for axis in (1, 2):  # y is [N, h, w, 3, 3, C], then [N, 2h, w, 3, C]: the weights of an axis are always at 3
        first, middle, last = (jax.lax.index_in_dim(y, tap, 3, keepdims=False) for tap in range(3))
        below = jax.lax.slice_in_dim(first, 1, None, axis=axis)
        odd = last + jnp.pad(below, [(0, int(i == axis)) for i in range(first.ndim)])
        y = jnp.stack([middle, odd], axis + 1)
        y = y.reshape(*y.shape[:axis], -1, *y.shape[axis + 2 :])
    return y


@jax.custom_vjp
def strided_conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[N, 2h, 2w, C] and [3, 3, C, F] -> [N, h, w, F], with gradients that are one matrix product each.

    In the body of a loop over time a CPU takes so long for XLA's own gradient of the kernel that a training step on
    clips takes twice as long.
    """
    if x.shape[-1] > 1:
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (2, 2), [(1, 1), (1, 1)], dimension_numbers=dimensions)
    # On the mask itself XLA's forward convolution is 20 times slower on a CPU than the nine shifted products; from
    # 16 channels on XLA's is the faster one.
    return sum(tap * kernel[i // 3, i % 3, 0] for i, tap in enumerate(_taps(x)))


def _conv_forward(x, kernel):
    return strided_conv3x3(x, kernel), (x, kernel)


def _conv_backward(saved, cotangent):
    x, kernel = saved
    flat = kernel.reshape(-1, kernel.shape[-1])
    patches = jnp.concatenate(_taps(x), -1)
    rows, columns = patches.reshape(-1, flat.shape[0]), cotangent.reshape(-1, flat.shape[1])
    gradient = jax.lax.dot_general(rows, columns, (((0,), (0,)), ((), ())))
    seen = (cotangent @ flat.T).reshape(*cotangent.shape[:3], *kernel.shape[:3])
    return _untaps(seen), gradient.reshape(kernel.shape)


strided_conv3x3.defvjp(_conv_forward, _conv_backward)


class StridedConv3x3(layers.Module):
    """`torch.nn.Conv2d(C, features, 3, stride=2, padding=1)`: [N, 2h, 2w, C] -> [N, h, w, features].

    Parameters: `kernel` [3, 3, C, features], `bias` [features].
    """

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        return strided_conv3x3(x, kernel) + bias


class MaskDownSampler(layers.Module):
    """`sam2.modeling.memory_encoder.MaskDownSampler`, kernel 3 and stride 2, four times: 1, 4, 16, 64, 256 channels."""

    embed_dim: int
    total_stride: int = 16
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, mask: jax.Array) -> jax.Array:
        """[N, 16h, 16w, 1] -> [N, h, w, embed_dim]."""
        x = mask.astype(self.dtype)
        steps = self.total_stride.bit_length() - 1
        for i in range(steps):
            x = StridedConv3x3(4 * x.shape[-1], self.dtype, name=f"encoder.{3 * i}")(x)
            x = LayerNorm(epsilon=TRUNK_EPSILON, dtype=self.dtype, name=f"encoder.{3 * i + 1}")(x)
            x = gelu(x)
        return Conv1x1(self.embed_dim, dtype=self.dtype, name=f"encoder.{3 * steps}")(x)


class CXBlock(layers.Module):
    """`sam2.modeling.memory_encoder.CXBlock`: ConvNeXt's block, [N, h, w, C] -> the same shape."""

    kernel_size: int
    layer_scale_init: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dim = x.shape[-1]
        gamma = self.param("gamma", nn.initializers.constant(self.layer_scale_init), (dim,))
        y = DepthwiseConv(self.kernel_size, self.dtype, name="dwconv")(x)
        y = LayerNorm(epsilon=TRUNK_EPSILON, dtype=self.dtype, name="norm")(y)
        y = gelu(layers.Dense(4 * dim, dtype=self.dtype, name="pwconv1")(y))
        y = layers.Dense(dim, dtype=self.dtype, name="pwconv2")(y)
        return x + gamma.astype(y.dtype) * y


class Fuser(layers.Module):
    """`sam2.modeling.memory_encoder.Fuser`: a stack of `CXBlock`."""

    num_layers: int
    kernel_size: int
    layer_scale_init: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.num_layers):
            x = CXBlock(self.kernel_size, self.layer_scale_init, self.dtype, name=f"layers.{i}")(x)
        return x


class MemoryEncoder(layers.Module):
    """`sam2.modeling.memory_encoder.MemoryEncoder`.

    Attributes:
      in_dim: channels D of the image features.
      out_dim: channels of the memory (64 in SAM2, not D).
      fuser_layers: ConvNeXt blocks.
      kernel_size: of their depthwise convolution, odd.
      layer_scale_init: initial value of their layer scale.
      dtype: compute dtype.
    """

    in_dim: int
    out_dim: int
    fuser_layers: int = 2
    kernel_size: int = 7
    layer_scale_init: float = 1e-6
    dtype: DTypeLike = jnp.float32

    def setup(self):
        self.mask_downsampler = MaskDownSampler(self.in_dim, dtype=self.dtype)
        self.pix_feat_proj = Conv1x1(self.in_dim, dtype=self.dtype)
        self.fuser = Fuser(self.fuser_layers, self.kernel_size, self.layer_scale_init, self.dtype)
        self.out_proj = Conv1x1(self.out_dim, dtype=self.dtype)

    def __call__(self, pix_feat: jax.Array, masks: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Encodes a frame as N objects see it.

        Args:
          pix_feat: [N or 1, h, w, in_dim], the stride-16 features before memory attention.
          masks: [N, 16h, 16w, 1], the mask for memory; its sigmoid, scale and bias are the caller's.

        Returns:
          features [N, h, w, out_dim] and their position encoding [1, h, w, out_dim].
        """
        x = self.pix_feat_proj(pix_feat) + self.mask_downsampler(masks)
        x = self.out_proj(self.fuser(x))
        return x, jnp.asarray(sine_2d(x.shape[1], x.shape[2], self.out_dim), x.dtype)[None]
