"""The text bridge's parts: shapes, what each reads, what padding must not change, and where it starts from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from mqc_jax.models import crobim

N, LENGTH, PROMPTS, WIDTH = 2, 5, 3, 16
SIZES, CHANNELS = (16, 8, 4, 2), (4, 8, 16, 32)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def draw(rng, *shape) -> jax.Array:
    return jnp.asarray(rng.normal(0, 1, shape), jnp.float32)


def pyramid(rng, batch: int = 1) -> tuple[jax.Array, ...]:
    return tuple(draw(rng, batch, size, size, width) for size, width in zip(SIZES, CHANNELS, strict=True))


def initialised(module, rng, *inputs):
    """Random parameters for the module, and its function of them and its inputs."""

    def value(leaf) -> jax.Array:
        noise = rng.normal(0, 1, leaf.shape) / np.prod(leaf.shape[:-1]) ** 0.5
        return jnp.asarray(noise if leaf.ndim > 1 else 1 + 0.1 * rng.normal(0, 1, leaf.shape), jnp.float32)

    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    return jax.tree.map(value, shapes), jax.jit(module.apply)


@pytest.mark.parametrize("queries", [7, 3])  # more than there are keys, and fewer
def test_attention_equals_pytorchs(rng, queries):
    module = crobim.CrossAttention(WIDTH, 4)
    x, context = draw(rng, N, queries, WIDTH), draw(rng, N, LENGTH, WIDTH)
    mask = jnp.asarray([[True] * 5, [True, True, True, False, False]])
    params, apply = initialised(module, rng, x, context, mask)
    oracle = torch.nn.MultiheadAttention(WIDTH, 4, batch_first=True)
    p = params["params"]
    t = lambda a: torch.from_numpy(np.array(a))  # noqa: E731
    with torch.no_grad():
        names = ("q_proj", "k_proj", "v_proj")
        oracle.in_proj_weight.copy_(torch.cat([t(p[name]["kernel"]).T for name in names]))
        oracle.in_proj_bias.copy_(torch.cat([t(p[name]["bias"]) for name in names]))
        oracle.out_proj.weight.copy_(t(p["out_proj"]["kernel"]).T)
        oracle.out_proj.bias.copy_(t(p["out_proj"]["bias"]))
        expected, _ = oracle(t(x), t(context), t(context), key_padding_mask=~t(mask))
    np.testing.assert_allclose(apply(params, x, context, mask), expected.numpy(), atol=1e-5)


def test_average_pool_is_pytorchs(rng):
    x = draw(rng, 2, 8, 12, 3)
    expected = torch.nn.functional.avg_pool2d(torch.from_numpy(np.array(x)).permute(0, 3, 1, 2), 4)
    np.testing.assert_allclose(crobim.average_pool(x, 4), expected.permute(0, 2, 3, 1).numpy(), atol=1e-6)
    np.testing.assert_array_equal(crobim.average_pool(x, 1), x)


def test_context_prompts_read_every_level_of_the_pyramid(rng):
    module = crobim.ContextPrompts(PROMPTS, 24, 4, WIDTH)
    levels = pyramid(rng)
    params, apply = initialised(module, rng, levels)
    prompts = np.asarray(apply(params, levels))
    assert prompts.shape == (1, PROMPTS, 24)
    for i in range(4):
        other = [x + draw(rng, *x.shape) if i == k else x for k, x in enumerate(levels)]
        assert np.abs(np.asarray(apply(params, tuple(other))) - prompts).max() > 1e-3, i
    # They enter BERT beside embeddings of scale 0.02 to 0.05 and must not drown them at the start.
    assert 0 < np.asarray(apply(module.init(jax.random.key(0), levels), levels)).std() < 0.5


def test_aggregation_reads_words_and_levels_but_no_padding(rng):
    levels, words = pyramid(rng), draw(rng, N, LENGTH, WIDTH)
    mask = jnp.asarray([[True] * 5, [True, True, True, False, False]])
    module = crobim.LanguageGuidedAggregation(WIDTH, 4, 8)
    params, apply = initialised(module, rng, levels, words, mask)
    fused, residual = apply(params, levels, words, mask)
    assert fused.shape == (N, 8, 8, WIDTH)
    assert residual.shape == (N, 16, 16, WIDTH)
    padding = jnp.where(mask[..., None], words, 100.0)
    for a, b in zip(apply(params, levels, padding, mask), (fused, residual), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (np.asarray(apply(params, levels, words + 1, mask)[0]) != np.asarray(fused)).any()
    for i in range(4):
        other = [x + draw(rng, *x.shape) if i == k else x for k, x in enumerate(levels)]
        assert np.abs(np.asarray(apply(params, tuple(other), words, mask)[0] - fused)).max() > 1e-3, i


@pytest.mark.parametrize("stride", [4, 16])
def test_the_fused_map_takes_any_of_its_strides(rng, stride):
    module = crobim.LanguageGuidedAggregation(WIDTH, 4, stride)
    args = (pyramid(rng), draw(rng, N, LENGTH, WIDTH), jnp.ones((N, LENGTH), bool))
    fused = jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), *args)[0])[0]
    assert fused.shape == (N, 64 // stride, 64 // stride, WIDTH)


def test_the_compensation_returns_what_the_scale_attention_turned_down(rng):
    """Where one level takes all attention, the others are seen through the compensation alone."""
    levels, words = pyramid(rng), draw(rng, 1, LENGTH, WIDTH)
    mask = jnp.ones((1, LENGTH), bool)
    module = crobim.LanguageGuidedAggregation(WIDTH, 4, 8)
    params, apply = initialised(module, rng, levels, words, mask)
    # Levels have unit variance behind their norm; a huge score weight makes the attention all or nothing.
    p = params["params"]
    p = {**p, "scale_attention": jax.tree.map(lambda x: x * 1e4, p["scale_attention"])}
    without = {**p, "compensation": jax.tree.map(jnp.zeros_like, p["compensation"])}

    def influence(parameters) -> np.ndarray:
        plain = apply({"params": parameters}, levels, words, mask)[0]
        moved = [tuple(x + draws[i] if i == k else x for k, x in enumerate(levels)) for i in range(4)]
        return np.array([float(jnp.abs(apply({"params": parameters}, x, words, mask)[0] - plain).sum()) for x in moved])

    draws = [0.01 * draw(rng, *x.shape) for x in levels]
    blind, seeing = influence(without), influence(p)
    # The winner of a place is seen either way; a level that wins nowhere only through the compensation.
    assert (seeing > blind).all()
    assert blind.min() < 0.2 * seeing.min()


@pytest.fixture
def decoder(rng):
    module = crobim.InteractionDecoder(WIDTH, 2, 4, 32)
    inputs = {
        "fused": draw(rng, N, 8, 8, WIDTH),
        "residual": draw(rng, N, 16, 16, WIDTH),
        "language": draw(rng, N, PROMPTS + LENGTH, WIDTH),
        "mask": jnp.asarray([[True] * 8, [True] * 5 + [False] * 3]),
        "embedding": draw(rng, 1, 4, 4, WIDTH),
    }
    return (inputs, module, *initialised(module, rng, *inputs.values()))


def test_grounding_has_the_forms_that_the_decoder_takes(decoder):
    inputs, _, params, apply = decoder
    found = apply(params, *inputs.values())
    assert found.prompts.shape == (N, PROMPTS + LENGTH, WIDTH)
    assert found.coarse_logits.shape == (N, 16, 16)
    assert found.coarse_logits.dtype == jnp.float32
    assert found.embedding.shape == (N, 4, 4, WIDTH)
    np.testing.assert_array_equal(found.prompt_mask, inputs["mask"])


def test_grounding_reads_everything_but_padding(decoder):
    inputs, _, params, apply = decoder
    plain = np.asarray(apply(params, *inputs.values()).coarse_logits)
    for name in ("fused", "residual", "language"):
        other = {**inputs, name: inputs[name] + 1.0 * (jnp.arange(WIDTH) % 2)}
        assert np.abs(np.asarray(apply(params, *other.values()).coarse_logits) - plain).max() > 1e-3, name
    padded = {**inputs, "language": jnp.where(inputs["mask"][..., None], inputs["language"], 50.0)}
    found = apply(params, *padded.values())
    np.testing.assert_array_equal(found.coarse_logits, plain)


def test_a_fresh_bridge_leaves_sam2s_embedding_alone_and_expects_a_small_target(decoder):
    inputs, module, _, apply = decoder
    found = apply(module.init(jax.random.key(0), *inputs.values()), *inputs.values())
    np.testing.assert_array_equal(found.embedding, np.repeat(inputs["embedding"], N, 0))
    assert jax.nn.sigmoid(found.coarse_logits).mean() < 0.1


def test_gradients_reach_every_parameter(decoder):
    inputs, _, params, apply = decoder

    @jax.jit
    @jax.grad
    def gradient(p):
        found = apply(p, *inputs.values())
        return (found.coarse_logits**2).sum() + (found.prompts**3).sum() + (found.embedding**2).sum()

    for path, value in jax.tree_util.tree_leaves_with_path(gradient(params)):
        name = jax.tree_util.keystr(path)
        if "k_proj" in name and "bias" in name:
            continue  # adds the same to every score; softmax does not see it
        assert np.isfinite(value).all(), name
        assert np.abs(np.asarray(value)).max() > 0, name
