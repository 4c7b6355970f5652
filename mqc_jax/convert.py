"""PyTorch state dicts to Flax parameters and back, by kind of leaf and without a table of names.

The models name their modules as PyTorch does, so a parameter's path joined with "." is its PyTorch key but for the last
part. That part is the leaf's kind, and the kind says how the numbers lie:

| Flax leaf | PyTorch leaf | PyTorch layout | Flax layout |
|---|---|---|---|
| `kernel`, 2-D | `weight` | [out, in] | [in, out] |
| `kernel`, 4-D | `weight` | [out, in / groups, kh, kw] | [kh, kw, in / groups, out] |
| `transposed_kernel` | `weight` | [in, out, kh, kw] | [in, kh, kw, out] |
| `scale`, `embedding` | `weight` | as it is | as it is |
| anything else | the same name | as it is | as it is |
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from mqc_jax.errors import UserError

_WEIGHT_KINDS = ("kernel", "transposed_kernel", "scale", "embedding")
# PyTorch's axes in Flax's order
_ORDERS = {("kernel", 2): (1, 0), ("kernel", 4): (2, 3, 1, 0), ("transposed_kernel", 4): (0, 2, 3, 1)}


def torch_key(path: tuple[str, ...]) -> str:
    """The PyTorch key of a Flax parameter: `("blocks.0", "norm1", "scale")` -> `blocks.0.norm1.weight`."""
    leaf = "weight" if path[-1] in _WEIGHT_KINDS else path[-1]
    return ".".join((*path[:-1], leaf))


def _order(leaf: str, dimensions: int) -> tuple[int, ...]:
    return _ORDERS.get((leaf, dimensions), tuple(range(dimensions)))


def _differences(kind: str, lines: list[str]) -> str:
    return f"\n{kind} ({len(lines)}):\n" + "\n".join(f"  {line}" for line in lines) if lines else ""


def torch_to_flax(
    state: Mapping[str, np.ndarray], template: Mapping[str, Any], prefix: str = "", names: Mapping[str, str] = {}
) -> dict[str, Any]:
    """Fills a parameter tree from a PyTorch state dict; the books must balance.

    Args:
      state: PyTorch key -> array. Every key that starts with `prefix` must be used.
      template: nested dict of parameters; only the leaves' `shape` and `dtype` are read, so `jax.eval_shape` will do.
      prefix: what to put before the template's keys, with its final dot; keys without it are ignored.
      names: what the file itself calls a key, where it was renamed; only for messages.

    Returns:
      A tree like `template` of numpy arrays in the template's dtypes.

    Raises:
      UserError: a tensor is not used, a parameter is not filled, a shape differs or a number is not finite. The
        message lists every one of them.
    """
    params: dict[tuple[str, ...], np.ndarray] = {}
    unused = {key for key in state if key.startswith(prefix)}
    unfilled, reshaped, broken, claimed = [], [], [], {}
    for path, leaf in traverse_util.flatten_dict(dict(template)).items():
        key = prefix + torch_key(path)
        if key in claimed:
            # `scale` and `kernel` side by side would both read `weight`
            unfilled.append(f"{'.'.join(path)}: {key} already fills {'.'.join(claimed[key])}")
            continue
        if key not in state:
            unfilled.append(f"{key} {_in_torch_order(path[-1], leaf.shape)}")
            continue
        claimed[key] = path
        unused.discard(key)
        tensor = np.asarray(state[key])
        expected = _in_torch_order(path[-1], leaf.shape)
        if tensor.shape != expected:
            reshaped.append(f"{_called(key, names)}: the file has {tensor.shape}, the model {expected}")
        elif wrong := np.count_nonzero(~np.isfinite(tensor.astype(np.float32))):
            broken.append(f"{_called(key, names)}: {wrong} of {tensor.size} numbers")
        else:
            params[path] = np.ascontiguousarray(tensor.transpose(_order(path[-1], tensor.ndim)), dtype=leaf.dtype)
    problems = (
        _differences(
            "tensors that the model does not have",
            sorted(f"{_called(key, names)} {np.shape(state[key])}" for key in unused),
        )
        + _differences("parameters that no tensor fills", sorted(unfilled))
        + _differences("different shapes", sorted(reshaped))
        + _differences("not finite", sorted(broken))
    )
    if problems:
        count = len(unused) + len(unfilled) + len(reshaped) + len(broken)
        raise UserError(
            f"the weights do not fit the model ({count} differences); check its size and version:{problems}"
        )
    return traverse_util.unflatten_dict(params)


def _called(key: str, names: Mapping[str, str]) -> str:
    return f"{key} (in the file {names[key]})" if names.get(key, key) != key else key


def _in_torch_order(leaf: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A Flax leaf's shape as PyTorch has it."""
    inverse = np.argsort(_order(leaf, len(shape)))
    return tuple(int(shape[axis]) for axis in inverse)


def flax_to_torch(params: Mapping[str, Any], prefix: str = "") -> dict[str, np.ndarray]:
    """Inverse of `torch_to_flax`: PyTorch key -> numpy array in PyTorch's layout and the parameter's dtype."""
    state = {}
    for path, leaf in traverse_util.flatten_dict(dict(params)).items():
        leaf = np.asarray(leaf)
        inverse = tuple(np.argsort(_order(path[-1], leaf.ndim)))
        state[prefix + torch_key(path)] = np.ascontiguousarray(leaf.transpose(inverse))
    return state
