"""Flax's layers, traced without their initializers: the same parameters, the same values, the same refusals."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax.errors import ScopeParamShapeError

from mqc_jax.models import functional, layers

PAIRS = [
    (layers.Dense(5), nn.Dense(5), jnp.ones((2, 3))),
    (layers.Conv(4, (3, 3), strides=2), nn.Conv(4, (3, 3), strides=2), jnp.ones((1, 6, 6, 2))),
    (layers.Embed(7, 3), nn.Embed(7, 3), jnp.arange(4)),
    (layers.LayerNorm(epsilon=1e-3), nn.LayerNorm(epsilon=1e-3), jnp.arange(6.0).reshape(2, 3)),
]


@pytest.mark.parametrize(("ours", "flaxs", "x"), PAIRS, ids=lambda p: type(p).__name__)
def test_a_layer_is_flaxs(ours, flaxs, x):
    key = jax.random.key(0)
    params, theirs = ours.init(key, x), flaxs.init(key, x)
    jax.tree.map(np.testing.assert_array_equal, params, theirs)
    np.testing.assert_array_equal(ours.apply(params, x), flaxs.apply(theirs, x))


def test_no_initializer_is_traced_where_its_parameter_is_there():
    def never(*_):
        raise AssertionError

    params = layers.Dense(5).init(jax.random.key(0), jnp.ones((2, 3)))
    layers.Dense(5, kernel_init=never, bias_init=never).apply(params, jnp.ones((2, 3)))
    with layers.undrawn():
        shapes = jax.eval_shape(layers.Dense(5, kernel_init=never).init, jax.random.key(0), jnp.ones((2, 3)))
    assert jax.tree.map(lambda x: x.shape, shapes) == jax.tree.map(jnp.shape, params)


def test_a_parameter_of_another_shape_is_refused():
    params = layers.Dense(5).init(jax.random.key(0), jnp.ones((2, 3)))
    with pytest.raises(ScopeParamShapeError):
        layers.Dense(5).apply(params, jnp.ones((2, 4)))


def test_the_models_shapes_are_those_of_its_fresh_parameters():
    net = functional.build(tiny.MODEL)
    drawn = jax.eval_shape(lambda: functional._init(net, 0))
    assert functional.shapes(net) == drawn
    assert jax.tree.leaves(drawn)
