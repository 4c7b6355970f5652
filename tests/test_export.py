"""The model lowers for cpu, cuda and tpu: nothing in it calls back to Python or is bound to one kind of device."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mqc_jax.config import ModelConfig
from mqc_jax.models import attention, functional

PLATFORMS = ("cpu", "cuda", "tpu")


def programs(config: ModelConfig, targets: int = 2):
    """(name, function, shapes of its arguments) of everything that a stream runs."""
    net = functional.build(config)
    side, length = config.image_size, config.bert.max_tokens
    shape = jax.ShapeDtypeStruct

    def start(params, image, ids, mask):
        features = functional.encode_frame(net, params, image)
        return functional.start(net, params, features, functional.encode_text(net, params, ids, mask))

    def start_from_mask(params, image, masks):
        return functional.start_from_mask(net, params, functional.encode_frame(net, params, image), masks)

    def step(params, bank, image):
        return functional.step(net, params, bank, functional.encode_frame(net, params, image))

    params, image = functional.shapes(net), shape((1, side, side, 3), jnp.uint8)
    words = shape((targets, length), jnp.int32), shape((targets, length), jnp.bool_)
    masks = shape((targets, side, side), jnp.float32)
    bank, _ = jax.eval_shape(start_from_mask, params, image, masks)
    yield "start", start, (params, image, *words)
    yield "start_from_mask", start_from_mask, (params, image, masks)
    yield "step", step, (params, bank, image)


@pytest.mark.parametrize("memory", ["sam2", "dami"])
def test_a_stream_lowers_for_every_platform_without_a_callback(monkeypatch, memory):
    # So low that the attention over the memory takes its tiled form, which depends on the platform.
    monkeypatch.setattr(attention, "TILE", {"cpu": 16, "default": 32})
    for name, function, shapes in programs(dataclasses.replace(tiny.MODEL, memory=memory)):
        exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(*shapes)
        module = exported.mlir_module()
        assert exported.platforms == PLATFORMS
        assert not re.search(r"custom_call @\w*callback", module), name
        # One branch for the CPU and one for the rest.
        assert "stablehlo.case" in module, name


def test_the_published_size_lowers_for_every_platform():
    for name, function, shapes in programs(ModelConfig(), targets=1):
        if name == "step":
            exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(*shapes)
            assert exported.out_avals
            assert not re.search(r"custom_call @\w*callback", exported.mlir_module())


def test_an_exported_step_computes_the_same(tiny_model):
    (_, start, _), _, (_, step, shapes) = programs(tiny.MODEL)
    frames = np.stack(tiny.frames(2))[:, None]
    tokens = tiny_model.tokenizer.encode(["the yacht at the left", "the ferry"], tiny.MODEL.bert.max_tokens)
    bank, _ = jax.jit(start)(tiny_model.params, frames[0], *tokens)
    # The bank is a Python class of ours: it travels as a list of arrays.
    leaves, tree = jax.tree.flatten(bank)
    flat = lambda params, leaves, image: jax.tree.leaves(step(params, jax.tree.unflatten(tree, leaves), image))  # noqa: E731
    exported = jax.export.export(jax.jit(flat))(shapes[0], jax.tree.leaves(shapes[1]), shapes[2])
    again = jax.export.deserialize(exported.serialize())
    ours = again.call(tiny_model.params, leaves, frames[1])
    for a, b in zip(ours, jax.jit(flat)(tiny_model.params, leaves, frames[1]), strict=True):
        np.testing.assert_array_equal(a, b)
