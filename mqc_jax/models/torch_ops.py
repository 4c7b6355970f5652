"""The numerics in which PyTorch and Flax differ, each written so that it equals PyTorch and is fast on every backend.

All arrays are channels last. Weights live in the layouts that `mqc_jax.convert` produces from PyTorch's.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from mqc_jax.models import layers

TRUNK_EPSILON = 1e-6
"""LayerNorm epsilon in Hiera and in SAM's LayerNorm2d (`sam2.modeling.sam2_utils.LayerNorm2d`)."""

HEAD_EPSILON = 1e-5
"""LayerNorm epsilon of `torch.nn.LayerNorm`'s default: mask decoder and memory attention."""

# Flax's default variance, E[x^2] - E[x]^2, cancels for features with a large mean; torch subtracts the mean first.
LayerNorm = functools.partial(layers.LayerNorm, use_fast_variance=False)


def gelu(x: jax.Array) -> jax.Array:
    """`torch.nn.GELU()`: x * Phi(x) with the error function, not the tanh approximation. Any shape, float."""
    half = jnp.asarray(0.5, x.dtype)
    return half * x * (1 + jax.lax.erf(x * jnp.asarray(np.sqrt(0.5), x.dtype)))


def attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """`F.scaled_dot_product_attention`: softmax(q k^T / sqrt(D)) v, the softmax in float32.

    The division by the softmax's sum comes after the product with the values, where it touches D numbers a query
    instead of one for each key; on a CPU this halves the time of the usual order.

    Args:
      query: [..., Q, D].
      key: [..., K, D].
      value: [..., K, E].

    Returns:
      [..., Q, E], value's dtype.
    """
    query = query * jnp.asarray(query.shape[-1] ** -0.5, query.dtype)
    scores = jnp.einsum("...qd,...kd->...qk", query, key, preferred_element_type=jnp.float32)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    summed = jnp.einsum("...qk,...ke->...qe", weights.astype(value.dtype), value, preferred_element_type=jnp.float32)
    return (summed / weights.sum(-1, keepdims=True)).astype(value.dtype)


def max_pool2x2(x: jax.Array) -> jax.Array:
    """`torch.nn.MaxPool2d(2)`: [..., H, W, C] -> [..., H // 2, W // 2, C]; an odd last row or column is dropped."""
    *lead, height, width, channels = x.shape
    x = x[..., : height // 2 * 2, : width // 2 * 2, :]
    return x.reshape(*lead, height // 2, 2, width // 2, 2, channels).max((-4, -2))


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel with torch's a = -0.75 (OpenCV's as well; Pillow and JAX's default use -0.5)."""
    a, t = -0.75, np.abs(distance)
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * (t**3 - 5 * t**2 + 8 * t - 4)
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


@functools.lru_cache(maxsize=128)
def _resize_matrix(size_in: int, size_out: int, kind: str) -> np.ndarray:
    """float32 [size_out, size_in]: each output sample as a weighted sum of input samples (align_corners=False)."""
    scale = size_in / size_out
    centre = (np.arange(size_out) + 0.5) * scale  # in the input's pixel-edge coordinates
    weights = np.zeros((size_out, size_in))
    rows = np.arange(size_out)
    if kind == "bilinear_antialias":
        # A triangle as wide as an output pixel; only samples inside the image count and are renormalised.
        width = max(scale, 1.0)
        distance = np.arange(size_in)[None] + 0.5 - centre[:, None]
        weights = np.maximum(0.0, 1.0 - np.abs(distance) / width)
        weights /= weights.sum(1, keepdims=True)
        return weights.astype(np.float32)
    # Without antialiasing torch repeats the border sample; JAX's resize renormalises instead, which differs.
    position = centre - 0.5
    if kind == "bilinear":
        first, taps = np.floor(position).astype(int), (0, 1)
        kernel = lambda distance: np.maximum(0.0, 1.0 - np.abs(distance))  # noqa: E731
    else:
        first, taps = np.floor(position).astype(int), (-1, 0, 1, 2)
        kernel = _cubic
    for tap in taps:
        np.add.at(weights, (rows, np.clip(first + tap, 0, size_in - 1)), kernel(position - (first + tap)))
    return weights.astype(np.float32)


def _resize(x: ArrayLike, size: tuple[int, int], kind: str) -> jax.Array:
    x = jnp.asarray(x)
    rows = _resize_matrix(x.shape[-3], size[0], kind)
    columns = _resize_matrix(x.shape[-2], size[1], kind)
    highest = jax.lax.Precision.HIGHEST
    y = jnp.einsum("yh,...hwc->...ywc", rows, x.astype(jnp.float32), precision=highest)
    return jnp.einsum("xw,...ywc->...yxc", columns, y, precision=highest).astype(x.dtype)


def resize_bicubic(x: ArrayLike, size: tuple[int, int]) -> jax.Array:
    """`F.interpolate(mode="bicubic", align_corners=False)`: [..., H, W, C] -> [..., *size, C], computed in float32."""
    return _resize(x, size, "bicubic")


def resize_bilinear(x: ArrayLike, size: tuple[int, int], antialias: bool = False) -> jax.Array:
    """`F.interpolate(mode="bilinear", align_corners=False, antialias=...)`: [..., H, W, C] -> [..., *size, C]."""
    return _resize(x, size, "bilinear_antialias" if antialias else "bilinear")


@jax.custom_vjp
def depthwise_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Depthwise convolution with stride 1 and "same" zero padding, as a sum of shifted products.

    XLA's own grouped convolution is about 20 times slower on a CPU. The gradient is written out, since a CPU takes more
    than twice as long for the one that JAX derives.

    Args:
      x: [..., H, W, C].
      kernel: [k, k, 1, C] with k odd, the layout of `nn.Conv(feature_group_count=C)`.

    Returns:
      [..., H, W, C], x's dtype.
    """
    size, height, width = kernel.shape[0], x.shape[-3], x.shape[-2]
    margin = size // 2
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(margin, margin), (margin, margin), (0, 0)])
    return sum(
        padded[..., i : i + height, j : j + width, :] * kernel[i, j, 0] for i in range(size) for j in range(size)
    )


def _depthwise_forward(x, kernel):
    return depthwise_conv(x, kernel), (x, kernel)


def _depthwise_backward(saved, cotangent):
    x, kernel = saved
    size, channels, rows, width = kernel.shape[0], x.shape[-1], x.ndim - 3, x.shape[-2]
    margin = size // 2
    padded = jnp.pad(x, [(0, 0)] * rows + [(margin, margin), (margin, margin), (0, 0)])

    def weights(i: jax.Array) -> jax.Array:
        """The gradient of one row of weights, [k, C]."""
        seen = jax.lax.dynamic_slice_in_dim(padded, i, x.shape[rows], axis=rows)
        products = [seen[..., j : j + width, :] * cotangent for j in range(size)]
        return jnp.stack([product.reshape(-1, channels).sum(0) for product in products])

    gradient = jax.lax.map(weights, jnp.arange(size))
    return depthwise_conv(cotangent, kernel[::-1, ::-1]), gradient[:, :, None].astype(kernel.dtype)


depthwise_conv.defvjp(_depthwise_forward, _depthwise_backward)


class DepthwiseConv(layers.Module):
    """`torch.nn.Conv2d(C, C, k, padding=k // 2, groups=C)`: [..., H, W, C] -> the same shape.

    Parameters: `kernel` [k, k, 1, C], `bias` [C].
    """

    kernel_size: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (self.kernel_size, self.kernel_size, 1, channels))
        bias = self.param("bias", nn.initializers.zeros_init(), (channels,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        return depthwise_conv(x, kernel) + bias


@jax.custom_vjp
def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """[..., K] @ [K, N] -> [..., N], with the kernel's gradient as one product over all leading dimensions.

    JAX's own rule forms the gradient's transpose; on a CPU, XLA then copies the cotangent into another layout first,
    about a seventh of the CPU time of a training step of Hiera.
    """
    return x @ kernel


def _matmul_forward(x, kernel):
    return x @ kernel, (x, kernel)


def _matmul_backward(saved, cotangent):
    x, kernel = saved
    # One contracted dimension: with several, XLA first transposes x into a copy of its own, in a single thread.
    rows, columns = x.reshape(-1, x.shape[-1]), cotangent.reshape(-1, cotangent.shape[-1])
    return cotangent @ kernel.T, jax.lax.dot_general(rows, columns, (((0,), (0,)), ((), ())))


matmul.defvjp(_matmul_forward, _matmul_backward)


class Dense(layers.Module):
    """`torch.nn.Linear`: [..., C] -> [..., features]; as `nn.Dense`, with `matmul`'s faster gradient.

    Parameters: `kernel` [C, features], `bias` [features].
    """

    features: int
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,)) if self.use_bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = matmul(x, kernel)
        return y if bias is None else y + bias


class Conv1x1(layers.Module):
    """`torch.nn.Conv2d(C, features, 1)` as a matrix product: [..., H, W, C] -> [..., H, W, features].

    Parameters: `kernel` [1, 1, C, features] (the layout of `nn.Conv`), `bias` [features].
    """

    features: int
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (1, 1, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,)) if self.use_bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = matmul(x, kernel[0, 0])
        return y if bias is None else y + bias


class ConvTranspose2x2(layers.Module):
    """`torch.nn.ConvTranspose2d(C, features, 2, stride=2)`: [..., H, W, C] -> [..., 2H, 2W, features].

    Stride equals kernel size, so output patches do not overlap and each is one matrix product. Unlike
    `nn.ConvTranspose` the kernel is not mirrored.

    Parameters: `transposed_kernel` [C, 2, 2, features], `bias` [features].
    """

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        *lead, height, width, channels = x.shape
        init = nn.initializers.lecun_normal(in_axis=0, out_axis=(1, 2, 3))
        kernel = self.param("transposed_kernel", init, (channels, 2, 2, self.features))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        # i, j: the row and the column inside the 2x2 patch that one input pixel becomes
        y = jnp.einsum("...hwc,cijo->...hiwjo", x, kernel) + bias
        return y.reshape(*lead, 2 * height, 2 * width, self.features)
