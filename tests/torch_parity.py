"""What the parity tests share: PyTorch modules with every parameter randomised, and their Flax twins."""

import functools

import jax
import numpy as np
import torch

from mqc_jax.convert import torch_to_flax

TOLERANCE = 1e-4
"""Largest difference allowed, relative to the largest magnitude of the reference; float32."""


def randomise(module: torch.nn.Module, seed: int = 0, std: float = 0.2) -> torch.nn.Module:
    """Draws every parameter and buffer anew: zeros, ones and 1e-6 layer scales hide mistakes.

    Weights get a variance of 1 / fan-in and embeddings of 1; vectors keep their initial value and get noise added.
    """
    generator = torch.Generator().manual_seed(seed)
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, torch.nn.Embedding)}
    embeddings |= {id(buffer) for buffer in module.buffers()}
    with torch.no_grad():
        for tensor in module.state_dict(keep_vars=True).values():
            noise = torch.randn(tensor.shape, generator=generator)
            if id(tensor) in embeddings:
                tensor.copy_(noise)
            elif tensor.ndim > 1:
                tensor.copy_(noise / tensor[0].numel() ** 0.5)
            else:
                # PyTorch draws the initial biases; 1 and 0 of norms and 1e-6 of layer scales are kept
                start = tensor.flatten()[0] if (tensor == tensor.flatten()[0]).all() else 0.0
                tensor.copy_(start + std * noise)
    return module.eval()


def ported(module: torch.nn.Module, flax_module, *args, **kwargs) -> dict:
    """Flax variables with the PyTorch module's numbers; `args` are what the Flax module is called with."""
    template = jax.eval_shape(lambda: flax_module.init(jax.random.key(0), *args, **kwargs))["params"]
    return {"params": torch_to_flax({k: v.numpy() for k, v in module.state_dict().items()}, template)}


def compiled(module, **static):
    """`module.apply` under `jit` with `static` keyword arguments: much faster than operation by operation."""
    return jax.jit(lambda variables, *args, **kwargs: module.apply(variables, *args, **static, **kwargs))


jitted = functools.cache(compiled)
"""`compiled`, once per module and static arguments. Not for code that a test has patched."""


def to_torch(x) -> torch.Tensor:
    """Channels last to channels first for maps [N, h, w, C]; anything else as it is."""
    x = np.asarray(x)
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2) if x.ndim == 4 else x))


def relative(actual, expected) -> float:
    """max |actual - expected| / max |expected|; PyTorch maps [N, C, h, w] are turned to channels last first."""
    if isinstance(expected, torch.Tensor):
        expected = expected.detach().numpy()
        expected = expected.transpose(0, 2, 3, 1) if expected.ndim == 4 else expected
    actual = np.asarray(actual, np.float32)
    assert actual.shape == expected.shape
    assert np.isfinite(actual).all()
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def normal(seed: int, *shape: int, std: float = 1.0) -> np.ndarray:
    return (std * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)
