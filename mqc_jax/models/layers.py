"""Flax's module and layers, traced without what only drawing parameters needs.

Whenever a module is applied, Flax traces each of its initializers again, to compare shapes. That was two fifths of the
time it takes to trace a frame's step, and most of what it takes to learn a model's shapes before a checkpoint is read.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from flax import errors
from jax.typing import DTypeLike

_undrawn: contextvars.ContextVar[bool] = contextvars.ContextVar("undrawn", default=False)


@contextlib.contextmanager
def undrawn() -> Iterator[None]:
    """Inside, new parameters are zeros of their shape and dtype: for `jax.eval_shape`."""
    before = _undrawn.set(True)
    try:
        yield
    finally:
        _undrawn.reset(before)


class Module(nn.Module):
    """As Flax's, with parameters that cost nothing to trace once they are there."""

    def param(
        self, name: str, init_fn: Callable, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32, **options: Any
    ) -> Any:
        """As Flax's, of an initializer that takes a key, a shape and a dtype.

        Raises:
          flax.errors.ScopeParamShapeError: the parameter is there, and has another shape.
        """
        if not self.has_variable("params", name):
            if not _undrawn.get():
                return super().param(name, init_fn, shape, dtype, **options)
            self.put_variable("params", name, jnp.zeros(shape, dtype))
        value = self.get_variable("params", name)
        if np.shape(value) != tuple(shape):
            raise errors.ScopeParamShapeError(name, self.scope.path_text, np.shape(value), tuple(shape))
        return value


class Dense(Module, nn.Dense):
    """Flax's."""


class Conv(Module, nn.Conv):
    """Flax's."""


class Embed(Module, nn.Embed):
    """Flax's."""


class LayerNorm(Module, nn.LayerNorm):
    """Flax's."""
