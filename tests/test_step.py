"""A training step computes what the streaming model computes, for any number of targets of a clip."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mqc_jax.models import functional
from mqc_jax.train import losses
from mqc_jax.train.loop import batch_shapes
from mqc_jax.train.step import _accumulated, _gradient, forward

CLIPS, TARGETS = 4, 2


def config(**data):
    run = tiny.config(batch_size=CLIPS, model=dataclasses.replace(tiny.MODEL, classes=3))
    return dataclasses.replace(run, data=dataclasses.replace(run.data, targets=TARGETS, **data))


def random_batch(run) -> dict:
    rng = np.random.default_rng(0)
    high = {"frames": 256, "input_ids": 100, "classes": 4}
    shapes = batch_shapes(run)
    arrays = {n: rng.integers(0, high.get(n, 2), f.shape).astype(f.dtype) for n, f in shapes.items()}
    return {n: jnp.asarray(x) for n, x in (arrays | {"labelled": np.ones_like(arrays["labelled"])}).items()}


@pytest.fixture(scope="module")
def net_and_params():
    model = config().model
    return functional.build(model), tiny.parameters(model)


def test_targets_of_a_clip_are_as_many_clips_of_the_same_frames(net_and_params):
    net, params = net_and_params
    batch = random_batch(config())
    apart = batch | {"frames": jnp.repeat(batch["frames"], TARGETS, axis=0)}
    forced = jnp.arange(CLIPS * TARGETS) % 3 == 0
    run = jax.jit(lambda data: forward(net, params, data, forced)[0])
    for a, b in zip(jax.tree.leaves(run(batch)), jax.tree.leaves(run(apart)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_parts_of_a_batch_give_its_gradient(net_and_params):
    net, params = net_and_params
    run = config(clip_length=1)
    batch = random_batch(run)
    forced = jnp.zeros(CLIPS * TARGETS, bool)
    whole = jax.jit(lambda p: _gradient(net, run, p, batch, forced)[1])(params)
    halves = dataclasses.replace(run, accumulate=2)
    parts = jax.jit(lambda p: _accumulated(net, halves, p, batch, forced)[1])(params)
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(whole))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * largest)


@pytest.fixture(scope="module")
def classes_alone(net_and_params):
    """A run without targets, its batch, and the gradient that this gives."""
    net, params = net_and_params
    run = config(clip_length=1)
    run = dataclasses.replace(run, data=dataclasses.replace(run.data, targets=0))
    batch = random_batch(run)
    return run, batch, jax.jit(lambda p: _gradient(net, run, p, batch, jnp.zeros(0, bool))[1])(params)


def test_without_targets_the_class_map_teaches_the_encoder_alone(classes_alone):
    _, batch, grads = classes_alone
    assert "input_ids" not in batch
    moved = {name for name in grads if any(bool((x != 0).any()) for x in jax.tree.leaves(grads[name]))}
    assert moved == {"image_encoder", "class_head"}


def test_frozen_parameters_have_no_gradient_and_change_no_others(net_and_params, classes_alone):
    net, params = net_and_params
    run, batch, free = classes_alone
    frozen = dataclasses.replace(run, optim=dataclasses.replace(run.optim, freeze=("image_encoder",)))
    rest = jax.jit(lambda p: _gradient(net, frozen, p, batch, jnp.zeros(0, bool))[1])(params)
    assert any(x.any() for x in jax.tree.leaves(free["image_encoder"]))
    assert not any(x.any() for x in jax.tree.leaves(rest["image_encoder"]))
    for a, b in zip(jax.tree.leaves(free["class_head"]), jax.tree.leaves(rest["class_head"]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_the_class_maps_loss_and_recall():
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 2, (2, 5, 6, 4)).astype(np.float32)
    classes = rng.integers(0, 4, (2, 5, 6))
    classes[1, :, 1:] = 0
    share = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = []
    for one, truth in zip(share, classes, strict=True):
        total = 0.0
        for y, x in np.ndindex(5, 6):
            p = one[y, x, truth[y, x]]
            total -= (1.0 if truth[y, x] else 0.5) * (1 - p) ** 2 * np.log(p)
        expected.append(total / max((truth > 0).sum(), 16))
    loss, recall = losses.class_map_loss(jnp.asarray(logits), jnp.asarray(classes))
    np.testing.assert_allclose(loss, np.mean(expected), rtol=1e-5)
    there = classes > 0
    np.testing.assert_allclose(recall, (logits.argmax(-1) == classes)[there].mean(), rtol=1e-6)
