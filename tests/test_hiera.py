"""The image encoder against the public sam2 package, every parameter randomised, and each trap put back once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from sam2.modeling.backbones.hieradet import Hiera as TorchHiera
from sam2.modeling.backbones.image_encoder import FpnNeck as TorchFpnNeck
from sam2.modeling.backbones.image_encoder import ImageEncoder as TorchImageEncoder
from sam2.modeling.position_encoding import PositionEmbeddingSine

from mqc_jax.convert import flax_to_torch, torch_to_flax
from mqc_jax.models import hiera
from mqc_jax.models.fpn import ImageEncoder
from mqc_jax.models.hiera import HIERA_SIZES, Hiera

TOLERANCE = 3e-5
SMALL = {
    "embed_dim": 16,
    "num_heads": 1,
    "stages": (1, 2, 3, 1),
    "global_att_blocks": (5,),
    "window_pos_embed_bkg_spatial_size": (7, 7),
    "window_spec": (8, 4, 14, 7),
}
D_MODEL = 32


def difference(a, b) -> float:
    """Largest absolute difference over the largest absolute value of the reference `b`."""
    a, b = np.asarray(a, np.float32), np.asarray(b)
    assert a.shape == b.shape
    return float(np.abs(a - b).max() / np.abs(b).max())


def randomised(model, shape, seed=0):
    """Every parameter drawn anew; matrices scaled by their inputs so that activations stay of order one."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        scale = np.prod(leaf.shape[:-1]) ** -0.5 if leaf.ndim in (2, 4) and leaf.shape[0] != 1 else 0.5
        return (scale * rng.standard_normal(leaf.shape)).astype(np.float32)

    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, np.float32))
    return jax.tree.map(draw, shapes["params"])


def torch_encoder(config, d_model) -> TorchImageEncoder:
    trunk = TorchHiera(**config)
    neck = TorchFpnNeck(
        PositionEmbeddingSine(d_model),
        d_model,
        trunk.channel_list,
        fpn_top_down_levels=[2, 3],
        fpn_interp_model="nearest",
    )
    return TorchImageEncoder(trunk, neck, scalp=1).eval()


def oracle(config, d_model, params, image):
    """Upstream's (stages, levels, positions) as channels-last arrays."""
    model = torch_encoder(config, d_model)
    model.load_state_dict({key: torch.from_numpy(value) for key, value in flax_to_torch(params).items()}, strict=True)
    with torch.no_grad():
        pixels = torch.from_numpy(image.transpose(0, 3, 1, 2).copy())
        stages, output = model.trunk(pixels), model(pixels)
    groups = stages, output["backbone_fpn"], output["vision_pos_enc"]
    return tuple([x.permute(0, 2, 3, 1).numpy() for x in group] for group in groups)


def random_image(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def assert_parity(config, d_model, shape):
    model = ImageEncoder(**config, d_model=d_model)
    params, image = randomised(model, shape), random_image(*shape)
    stages, levels, positions = oracle(config, d_model, params, image)
    apply = jax.jit(lambda p, x: model.apply({"params": p}, x, capture_intermediates=lambda m, _: isinstance(m, Hiera)))
    pyramid, captured = apply(params, image)
    (trunk,) = captured["intermediates"]["trunk"]["__call__"]
    assert len(pyramid.features) == len(pyramid.positions) == len(levels) == 3
    for ours, theirs in zip([*trunk, *pyramid.features], [*stages, *levels], strict=True):
        assert difference(ours, theirs) < TOLERANCE
    for ours, theirs in zip(pyramid.positions, positions, strict=True):
        assert difference(ours, theirs[0]) < 1e-5


# 160: 40, 20, 10 and 5 tokens a side, padded to 16, 14 or 7; 224: no padding; 96x160: upstream takes it as well
@pytest.mark.parametrize("shape", [(1, 160, 160, 3), (2, 224, 224, 3), (2, 96, 160, 3)])
def test_small_encoder_equals_upstream(shape):
    assert_parity(SMALL, D_MODEL, shape)


def test_no_global_block():
    assert_parity({**SMALL, "global_att_blocks": ()}, D_MODEL, (1, 96, 96, 3))


def test_tiny_at_480_equals_upstream():
    assert_parity(HIERA_SIZES["tiny"], 256, (1, 480, 480, 3))


@pytest.mark.parametrize("size", ["tiny", "small", "base_plus"])
def test_published_sizes_have_upstreams_parameters(size):
    shapes = jax.eval_shape(
        ImageEncoder(**HIERA_SIZES[size]).init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    )["params"]
    state = {
        key: np.zeros(x.shape, np.float32) for key, x in torch_encoder(HIERA_SIZES[size], 256).state_dict().items()
    }
    params = torch_to_flax(state, shapes)  # the books balance, or it raises
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, shapes)
    assert "trunk.blocks.0.attn.qkv.weight" in state
    assert "neck.convs.0.conv.weight" in state


def tanh_gelu(x):
    return jax.nn.gelu(x, approximate=True)


def renormalised_bicubic(x, size):
    return jax.image.resize(x, (x.shape[0], *size, x.shape[-1]), "bicubic", antialias=False)


def attention_without_padding(query, key, value):
    """Leaves out the keys that equal the last token of the last window, which is padding where there is any."""
    padding = (key == key[:, -1:, :, -1:]).all(-1)
    scores = jnp.einsum("...qd,...kd->...qk", query, key) * query.shape[-1] ** -0.5
    weights = jax.nn.softmax(jnp.where(padding[..., None, :], -jnp.inf, scores), -1)
    return jnp.einsum("...qk,...kd->...qd", weights, value)


@pytest.fixture(scope="module")
def faint():
    """(parameters, image, upstream's stages): features so faint that the norm's epsilon counts.

    The coarse embedding outweighs the rest, so that its resize counts as well.
    """
    shape = (1, 160, 160, 3)
    params, image = randomised(ImageEncoder(**SMALL, d_model=D_MODEL), shape), random_image(*shape)
    trunk = params["trunk"]
    trunk["patch_embed"]["proj"] = jax.tree.map(lambda x: 1e-2 * x, trunk["patch_embed"]["proj"])
    trunk["pos_embed_window"] *= 1e-2
    trunk["pos_embed"] *= 2e-2
    return trunk, image, oracle(SMALL, D_MODEL, params, image)[0]


@pytest.mark.parametrize(
    ("name", "trap"),
    [
        (None, None),
        ("gelu", tanh_gelu),
        ("TRUNK_EPSILON", 1e-5),
        ("resize_bicubic", renormalised_bicubic),
        ("attention", attention_without_padding),
    ],
)
def test_a_trap_put_back_breaks_parity(monkeypatch, faint, name, trap):
    params, image, stages = faint
    if trap is not None:
        monkeypatch.setattr(hiera, name, trap)
    ours = jax.jit(lambda p, x: Hiera(**SMALL).apply({"params": p}, x))(params, image)
    worst = max(difference(a, b) for a, b in zip(ours, stages, strict=True))
    assert worst < TOLERANCE if trap is None else worst > 3 * TOLERANCE


@pytest.mark.parametrize("remat", [False, True])
def test_gradients_equal_upstream(remat):
    # Of the third stage's blocks the last two are of one kind: with remat a loop.
    shape, config = (2, 96, 96, 3), {**SMALL, "stages": (1, 1, 4, 1), "global_att_blocks": (3,)}
    model = ImageEncoder(**config, d_model=D_MODEL, remat=remat)
    params, image = randomised(model, shape), random_image(*shape)

    @jax.jit
    @jax.grad
    def gradient(params):
        return sum((x**2).mean() for x in model.apply({"params": params}, image).features)

    ours = flax_to_torch(gradient(params))
    reference = torch_encoder(config, D_MODEL)
    reference.load_state_dict({key: torch.from_numpy(value) for key, value in flax_to_torch(params).items()})
    levels = reference(torch.from_numpy(image.transpose(0, 3, 1, 2).copy()))["backbone_fpn"]
    sum((x**2).mean() for x in levels).backward()
    largest = max(float(p.grad.abs().max()) for p in reference.parameters())
    for key, parameter in reference.named_parameters():
        # a key's bias shifts all scores alike, so its true gradient is 0 where nothing is padded: compare to the whole
        assert np.abs(ours[key] - parameter.grad.numpy()).max() < TOLERANCE * largest, key
        if key.endswith("weight"):
            assert difference(ours[key], parameter.grad.numpy()) < 1e-3, key


def test_bfloat16_stays_near():
    shape = (1, 96, 96, 3)
    model = ImageEncoder(**SMALL, d_model=D_MODEL, dtype=jnp.bfloat16)
    params, image = randomised(model, shape), random_image(*shape)
    exact = jax.jit(ImageEncoder(**SMALL, d_model=D_MODEL).apply)({"params": params}, image)
    half = jax.jit(model.apply)({"params": params}, image)
    for a, b in zip(half.features, exact.features, strict=True):
        assert a.dtype == jnp.bfloat16
        assert np.abs(np.asarray(a, np.float32) - b).mean() / np.abs(b).mean() < 0.03


@pytest.mark.parametrize("size", [(100, 96), (96, 112)])
def test_a_size_that_is_no_multiple_of_32_is_refused(size):
    with pytest.raises(ValueError, match="multiples of 32"):
        jax.eval_shape(Hiera(**SMALL).init, jax.random.key(0), jax.ShapeDtypeStruct((1, *size, 3), np.float32))


def test_a_pooled_window_of_odd_side_is_refused():
    config = {**SMALL, "window_spec": (8, 7, 14, 7)}
    with pytest.raises(ValueError, match="even side"):
        jax.eval_shape(Hiera(**config).init, jax.random.key(0), jax.ShapeDtypeStruct((1, 96, 96, 3), np.float32))
