"""The update rule: its schedule in closed form, and what freezing, multipliers and weight decay do to parameters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from mqc_jax.config import OptimConfig
from mqc_jax.errors import UserError
from mqc_jax.models import functional
from mqc_jax.train import optim

BUFFER = "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"


def tree() -> dict:
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(0, 1, shape), jnp.float32)  # noqa: E731
    return {
        "text_encoder": {"kernel": draw(3, 4), "bias": draw(4)},
        "image_encoder": {"trunk": {"kernel": draw(4, 2), "scale": draw(2)}, "neck": {"kernel": draw(2, 2)}},
        "bridge": {"kernel": draw(2, 3)},
    }


def update(config: OptimConfig, params: dict, grads: dict, steps: int = 10) -> dict:
    """The change of each parameter in one update."""
    tx = optim.optimizer(config, steps, params)
    return jax.jit(tx.update)(grads, tx.init(params), params)[0]


def flat(params: dict) -> dict[str, np.ndarray]:
    return {optim.path_name(k): np.asarray(v) for k, v in jax.tree_util.tree_leaves_with_path(params)}


PLAIN = OptimConfig(learning_rate=1e-2, weight_decay=0.0, clip_norm=0.0)


@pytest.mark.parametrize("end", [0.0, 1e-6])
@pytest.mark.parametrize("step", [0, 1, 500, 999, 1000, 2000])
def test_the_rate_falls_polynomially_to_its_end(step, end):
    rate = optim.schedule(OptimConfig(learning_rate=5e-5, power=0.9, end_learning_rate=end), 1000)
    expected = (5e-5 - end) * (1 - min(step, 1000) / 1000) ** 0.9 + end
    np.testing.assert_allclose(rate(step), expected, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("step", [0, 50, 100, 550, 1000])
def test_a_warm_up_rises_linearly_and_the_decay_takes_the_rest(step):
    rate = optim.schedule(OptimConfig(learning_rate=1e-3, warmup_steps=100), 1000)
    expected = 1e-3 * step / 100 if step < 100 else 1e-3 * (1 - (step - 100) / 900) ** 0.9
    np.testing.assert_allclose(rate(step), expected, rtol=1e-4, atol=1e-12)


def test_the_first_update_is_adams_sign_times_the_rate():
    params = tree()
    grads = jax.tree.map(lambda x: jnp.where(x > 0, 3.0, -0.2), params)
    for name, change in flat(update(PLAIN, params, grads)).items():
        np.testing.assert_allclose(change, -1e-2 * np.sign(flat(grads)[name]), rtol=1e-4, err_msg=name)


def test_frozen_parameters_keep_every_bit_and_have_no_state():
    params = tree()
    config = OptimConfig(learning_rate=0.1, weight_decay=0.5, freeze=("text_encoder", r"image_encoder\.trunk"))
    tx = optim.optimizer(config, 10, params)
    state, moved = tx.init(params), params
    step = jax.jit(tx.update)
    for _ in range(3):
        updates, state = step(jax.tree.map(jnp.ones_like, params), state, moved)
        moved = optax.apply_updates(moved, updates)
    before, after = flat(params), flat(moved)
    for name in before:
        frozen = name.startswith(("text_encoder.", "image_encoder.trunk."))
        assert (before[name].tobytes() == after[name].tobytes()) == frozen, name
    live = sum(v.size for n, v in before.items() if not n.startswith(("text_encoder.", "image_encoder.trunk.")))
    assert sum(x.size for x in jax.tree.leaves(state) if x.ndim) == 2 * live


def test_a_multiplier_scales_the_update_and_the_first_match_counts():
    params = tree()
    grads = jax.tree.map(jnp.ones_like, params)
    plain = flat(update(PLAIN, params, grads))
    rules = ((r"image_encoder\.trunk", 0.1), ("image_encoder", 0.5), (r".*bias", 4.0))
    scaled = flat(
        update(OptimConfig(learning_rate=1e-2, weight_decay=0.0, clip_norm=0.0, multipliers=rules), params, grads)
    )
    factors = {
        "text_encoder.kernel": 1.0,
        "text_encoder.bias": 4.0,
        "image_encoder.trunk.kernel": 0.1,
        "image_encoder.trunk.scale": 0.1,
        "image_encoder.neck.kernel": 0.5,
        "bridge.kernel": 1.0,
    }
    assert plain.keys() == factors.keys()
    for name, factor in factors.items():
        np.testing.assert_allclose(scaled[name], factor * plain[name], rtol=1e-6, err_msg=name)


def test_each_groups_rate_is_the_configs_from_start_to_end():
    """Adam's update under a constant gradient is its sign times the rate: of every group, at every step."""
    params, steps = tree(), 20
    grads = jax.tree.map(lambda x: jnp.where(x > 0, 2.0, -2.0), params)
    rules = ((r"image_encoder\.trunk", 0.1), ("bridge", 2.0))
    config = OptimConfig(
        learning_rate=5e-5, weight_decay=0.0, clip_norm=0.0, power=0.9, freeze=("text_encoder",), multipliers=rules
    )
    tx = optim.optimizer(config, steps, params)
    state, step = tx.init(params), jax.jit(tx.update)
    for t in range(steps + 1):
        updates, state = step(grads, state, params)
        if t not in (0, steps // 2, steps - 1, steps):
            continue
        rate = 5e-5 * (1 - t / steps) ** 0.9
        for name, change in flat(updates).items():
            factor = 0.0 if name.startswith("text") else 0.1 if "trunk" in name else 2.0 if "bridge" in name else 1.0
            expected = -factor * rate * np.sign(flat(grads)[name])
            np.testing.assert_allclose(change, expected, rtol=1e-4, atol=1e-11, err_msg=f"{name} at {t}")


def test_weight_decay_touches_matrices_alone():
    params = tree()
    grads = jax.tree.map(jnp.ones_like, params)
    plain = flat(update(PLAIN, params, grads))
    decayed = flat(update(OptimConfig(learning_rate=1e-2, weight_decay=0.1, clip_norm=0.0), params, grads))
    for name, value in flat(params).items():
        decay = 1e-2 * 0.1 * value if value.ndim > 1 else 0.0
        np.testing.assert_allclose(decayed[name], plain[name] - decay, rtol=1e-5, atol=1e-9, err_msg=name)


def test_the_clipped_norm_ignores_frozen_gradients():
    params = tree()
    grads = jax.tree.map(lambda x: 1e-9 * jnp.ones_like(x), params)
    huge = {**grads, "text_encoder": jax.tree.map(lambda x: 1e9 * jnp.ones_like(x), params["text_encoder"])}
    # With so small gradients Adam's epsilon makes the update's size follow the gradient's, and so any clipping.
    config = OptimConfig(learning_rate=1e-2, weight_decay=0.0, clip_norm=1.0, freeze=("text_encoder",))
    for a, b in zip(*(flat(update(config, params, g)).values() for g in (grads, huge)), strict=True):
        np.testing.assert_array_equal(a, b)


MUON = dataclasses.replace(PLAIN, rule="muon")


def layers() -> dict:
    rng = np.random.default_rng(1)
    draw = lambda *shape: jnp.asarray(rng.normal(0, 1, shape), jnp.float32)  # noqa: E731
    return {
        "wide": {"kernel": draw(12, 40), "bias": draw(40)},
        "tall": {"kernel": draw(30, 9)},
        "conv": {"kernel": draw(3, 3, 4, 16)},
        "depthwise": {"kernel": draw(7, 7, 1, 16)},
        "head": {"kernel": draw(40, 1)},
        "words": {"embedding": draw(50, 12)},
    }


MATRICES = ("wide.kernel", "tall.kernel", "conv.kernel")


def test_muon_moves_matrices_by_orthogonal_ones_as_large_as_adams_and_the_rest_as_adam():
    params = layers()
    grads = jax.tree.map(lambda x: jnp.where(x > 0, 3.0, -0.2) + x, params)
    adam, muon = (flat(update(config, params, grads)) for config in (PLAIN, MUON))
    for name, change in muon.items():
        if name not in MATRICES:
            np.testing.assert_allclose(change, adam[name], rtol=1e-5, err_msg=name)
            continue
        rows, columns = np.prod(change.shape[:-1]), change.shape[-1]
        moved = change.reshape(rows, columns) / (-1e-2 * 0.2 * max(rows, columns) ** 0.5)
        assert np.all(abs(np.linalg.svd(moved, compute_uv=False) - 0.95) < 0.35), name
        # The nearest orthogonal matrix to the gradient (whose running mean it is at first): U V^T.
        u, _, v = np.linalg.svd(flat(grads)[name].reshape(rows, columns), full_matrices=False)
        assert (moved * (u @ v)).sum() / np.linalg.norm(moved) / np.linalg.norm(u @ v) > 0.97, name
        size = np.sqrt((change**2).mean())
        assert 0.1 * 1e-2 < size < 0.3 * 1e-2, name


def test_muon_obeys_freezing_multipliers_clipping_and_weight_decay():
    params = layers()
    grads = jax.tree.map(jnp.sin, params)
    plain = flat(update(MUON, params, grads))
    rules = dataclasses.replace(MUON, freeze=("wide",), multipliers=(("tall", 0.5),), weight_decay=0.1, clip_norm=1.0)
    for name, change in flat(update(rules, params, grads)).items():
        if name.startswith("wide"):
            assert not change.any(), name
        elif name in MATRICES:  # a first gradient's length is nothing to Muon
            expected = plain[name] - 1e-2 * 0.1 * flat(params)[name]
            factor = 0.5 if name.startswith("tall") else 1.0
            np.testing.assert_allclose(change, factor * expected, rtol=1e-3, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("field", ["freeze", "multipliers"])
def test_a_pattern_that_matches_nothing_or_is_none_is_refused(field):
    make = lambda pattern: (pattern,) if field == "freeze" else ((pattern, 0.1),)  # noqa: E731
    with pytest.raises(UserError, match=r"'txt_encoder' matches no parameter.*text_encoder"):
        optim.multipliers(OptimConfig(**{field: make("txt_encoder")}), tree())
    with pytest.raises(UserError, match="is not a regular expression"):
        optim.multipliers(OptimConfig(**{field: make("text(")}), tree())


def test_sam2s_position_matrix_is_never_trained():
    shapes = functional.shapes(functional.build(tiny.MODEL))
    names = flat(jax.tree.map(lambda x: np.zeros(x.shape, np.int8), shapes))
    assert BUFFER in names
    for config in (OptimConfig(), OptimConfig(multipliers=((".*", 3.0),))):
        frozen = {n for n, f in flat(optim.multipliers(config, shapes)).items() if f == 0}
        assert frozen == {BUFFER}
