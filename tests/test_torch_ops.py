"""Each numeric convention against torch, and each against the convention it is easily confused with."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mqc_jax.models import torch_ops

RNG = np.random.default_rng(0)


def difference(a, b) -> float:
    """Largest absolute difference over the largest absolute value of the reference `b`."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.abs(b).max())


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def to_torch(x: np.ndarray) -> torch.Tensor:
    """[B, H, W, C] -> [B, C, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(x), -1, 1)))


def from_torch(x: torch.Tensor) -> np.ndarray:
    return np.moveaxis(x.detach().numpy(), 1, -1)


def test_gelu_is_the_exact_one():
    x = np.linspace(-8, 8, 4001, dtype=np.float32)
    reference = F.gelu(torch.from_numpy(x)).numpy()
    assert difference(torch_ops.gelu(jnp.asarray(x)), reference) < 1e-6
    assert difference(jax.nn.gelu(jnp.asarray(x), approximate=True), reference) > 5e-5


def test_attention_and_its_gradients():
    query, key, value = 6 * normal(2, 3, 7, 8), normal(2, 3, 11, 8), normal(2, 3, 11, 5)
    cotangent = normal(2, 3, 7, 5)
    output, pullback = jax.vjp(jax.jit(torch_ops.attention), query, key, value)
    inputs = [torch.from_numpy(x).requires_grad_() for x in (query, key, value)]
    reference = F.scaled_dot_product_attention(*inputs)
    reference.backward(torch.from_numpy(cotangent))
    assert difference(output, reference.detach()) < 1e-5
    for gradient, tensor in zip(pullback(jnp.asarray(cotangent)), inputs, strict=True):
        assert difference(gradient, tensor.grad) < 1e-5


def test_attention_does_not_overflow():
    query = jnp.full((1, 2, 4), 200.0)
    assert np.array_equal(torch_ops.attention(query, query, jnp.ones((1, 2, 3))), np.ones((1, 2, 3)))


@pytest.mark.parametrize("epsilon", [torch_ops.TRUNK_EPSILON, torch_ops.HEAD_EPSILON])
def test_layer_norm_epsilon_and_variance(epsilon):
    small = 3e-3 * normal(6, 32)  # a variance of 1e-5, where the epsilon shows
    shifted = normal(6, 32) + 3000.0  # a mean that makes E[x^2] - E[x]^2 cancel
    norm = torch_ops.LayerNorm(epsilon=epsilon)
    params = norm.init(jax.random.key(0), small)
    reference = {id(x): F.layer_norm(torch.from_numpy(x), (32,), eps=epsilon).numpy() for x in (small, shifted)}
    assert difference(norm.apply(params, small), reference[id(small)]) < 1e-5
    assert difference(norm.apply(params, shifted), reference[id(shifted)]) < 1e-3

    other = torch_ops.HEAD_EPSILON if epsilon == torch_ops.TRUNK_EPSILON else torch_ops.TRUNK_EPSILON
    assert difference(torch_ops.LayerNorm(epsilon=other).apply(params, small), reference[id(small)]) > 1e-2
    assert difference(nn.LayerNorm(epsilon=epsilon).apply(params, shifted), reference[id(shifted)]) > 1e-2


@pytest.mark.parametrize("size", [(8, 12), (9, 13)])
def test_max_pool(size):
    x = normal(2, *size, 3)
    assert np.array_equal(torch_ops.max_pool2x2(jnp.asarray(x)), from_torch(F.max_pool2d(to_torch(x), 2)))


@pytest.mark.parametrize(("size_in", "size_out"), [((7, 7), (40, 24)), ((14, 14), (9, 30)), ((5, 6), (5, 6))])
def test_bicubic_resize(size_in, size_out):
    x = normal(1, *size_in, 4)
    reference = from_torch(F.interpolate(to_torch(x), size=size_out, mode="bicubic"))
    assert difference(torch_ops.resize_bicubic(x, size_out), reference) < 1e-5
    if size_in != size_out:
        plain = jax.image.resize(x, (1, *size_out, 4), "bicubic", antialias=False)
        assert difference(plain, reference) > 0.02


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize(("size_in", "size_out"), [((30, 30), (120, 90)), ((41, 64), (16, 16)), ((8, 20), (12, 10))])
def test_bilinear_resize(size_in, size_out, antialias):
    x = normal(2, *size_in, 3)
    reference = from_torch(F.interpolate(to_torch(x), size=size_out, mode="bilinear", antialias=antialias))
    assert difference(torch_ops.resize_bilinear(x, size_out, antialias), reference) < 1e-5


def test_resize_keeps_the_dtype():
    assert torch_ops.resize_bilinear(jnp.ones((4, 4, 1), jnp.bfloat16), (8, 8)).dtype == jnp.bfloat16


@pytest.mark.parametrize("kernel_size", [3, 7])
def test_depthwise_conv_and_its_gradients(kernel_size):
    x, cotangent = normal(2, 9, 12, 5), normal(2, 9, 12, 5)
    params = {"kernel": normal(kernel_size, kernel_size, 1, 5), "bias": normal(5)}
    module = torch_ops.DepthwiseConv(kernel_size)
    output, pullback = jax.vjp(jax.jit(lambda p, x: module.apply({"params": p}, x)), params, x)
    gradients, gradient_x = pullback(jnp.asarray(cotangent))

    torch_x = to_torch(x).requires_grad_()
    weight = torch.from_numpy(params["kernel"].transpose(3, 2, 0, 1).copy()).requires_grad_()
    bias = torch.from_numpy(params["bias"]).requires_grad_()
    reference = F.conv2d(torch_x, weight, bias, padding=kernel_size // 2, groups=5)
    reference.backward(to_torch(cotangent))
    assert difference(output, from_torch(reference)) < 1e-5
    assert difference(gradient_x, from_torch(torch_x.grad)) < 1e-5
    assert difference(gradients["kernel"], weight.grad.numpy().transpose(2, 3, 1, 0)) < 1e-5
    assert difference(gradients["bias"], bias.grad.numpy()) < 1e-5


@pytest.mark.parametrize("kind", ["dense", "conv1x1"])
def test_products_and_their_gradients(kind):
    x, cotangent, kernel, bias = normal(2, 5, 6, 4), normal(2, 5, 6, 7), normal(4, 7), normal(7)
    module = torch_ops.Dense(7) if kind == "dense" else torch_ops.Conv1x1(7)
    params = {"kernel": kernel if kind == "dense" else kernel[None, None], "bias": bias}
    output, pullback = jax.vjp(jax.jit(lambda p, x: module.apply({"params": p}, x)), params, x)
    gradients, gradient_x = pullback(jnp.asarray(cotangent))

    inputs = [torch.from_numpy(a.copy()).requires_grad_() for a in (x, kernel.T, bias)]
    reference = F.linear(*inputs)
    reference.backward(torch.from_numpy(cotangent))
    assert difference(output, reference.detach()) < 1e-5
    assert difference(gradient_x, inputs[0].grad) < 1e-5
    assert difference(gradients["kernel"].reshape(4, 7), inputs[1].grad.T) < 1e-5
    assert difference(gradients["bias"], inputs[2].grad) < 1e-5


def test_transposed_convolution_is_not_mirrored():
    x, weight, bias = normal(2, 5, 6, 4), normal(4, 3, 2, 2), normal(3)  # torch's [in, out, rows, columns]
    reference = from_torch(F.conv_transpose2d(to_torch(x), torch.from_numpy(weight), torch.from_numpy(bias), stride=2))
    params = {"transposed_kernel": weight.transpose(0, 2, 3, 1), "bias": bias}
    assert difference(torch_ops.ConvTranspose2x2(3).apply({"params": params}, x), reference) < 1e-5

    mirrored = {**params, "transposed_kernel": params["transposed_kernel"][:, ::-1, ::-1]}
    assert difference(torch_ops.ConvTranspose2x2(3).apply({"params": mirrored}, x), reference) > 0.1
