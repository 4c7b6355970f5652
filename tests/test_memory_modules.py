import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from sam2.modeling.memory_attention import MemoryAttention as TorchMemoryAttention
from sam2.modeling.memory_attention import MemoryAttentionLayer as TorchMemoryAttentionLayer
from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler
from sam2.modeling.memory_encoder import MemoryEncoder as TorchMemoryEncoder
from sam2.modeling.position_encoding import PositionEmbeddingSine
from sam2.modeling.sam.transformer import RoPEAttention as TorchRoPEAttention
from sam2.modeling.sam2_utils import LayerNorm2d
from torch_parity import TOLERANCE, compiled, jitted, normal, ported, randomise, relative, to_torch

from mqc_jax.convert import torch_to_flax
from mqc_jax.models import attention, memory_attention, memory_encoder
from mqc_jax.models.memory_attention import MemoryAttention
from mqc_jax.models.memory_encoder import MemoryEncoder

# d_model, mem_dim, heads, layers, dim_feedforward, side of the grid, slots, object-pointer tokens
SIZES = {
    "small": (32, 16, 1, 2, 48, 5, 3, 4),
    "two heads": (32, 16, 2, 2, 48, 5, 3, 4),
    "sam2": (256, 64, 1, 4, 2048, 8, 7, 64),
}


# ---- memory encoder -----------------------------------------------------------------------------------------------


def make_encoder(dim, out_dim, layers=2):
    theirs = TorchMemoryEncoder(
        out_dim=out_dim,
        mask_downsampler=MaskDownSampler(dim, kernel_size=3, stride=2, padding=1),
        fuser=Fuser(CXBlock(dim), num_layers=layers),
        position_encoding=PositionEmbeddingSine(num_pos_feats=out_dim),
        in_dim=dim,
    )
    return randomise(theirs), MemoryEncoder(dim, out_dim, layers)


def encoder_inputs(dim, n=2, h=5, w=4):
    return normal(0, n, h, w, dim), 20 / (1 + np.exp(-normal(1, n, 16 * h, 16 * w, 1, std=3))) - 10


@functools.cache
def small_encoder():
    theirs, ours = make_encoder(32, 16, layers=1)
    return theirs, ours, ported(theirs, ours, *encoder_inputs(32))


@pytest.mark.parametrize(("dim", "out_dim"), [(32, 16), (96, 32), (256, 64)])
def test_encoder_equals_torch(dim, out_dim):
    theirs, ours = make_encoder(dim, out_dim)
    inputs = encoder_inputs(dim)
    with torch.no_grad():
        expected = theirs(*map(to_torch, inputs), skip_mask_sigmoid=True)
    features, position = jitted(ours)(ported(theirs, ours, *inputs), *inputs)
    assert relative(features, expected["vision_features"]) < TOLERANCE
    assert features.shape[-1] == out_dim
    assert relative(position, expected["vision_pos_enc"][0][:1]) < TOLERANCE


def test_encoder_gradients_equal_torch():
    theirs, ours, variables = small_encoder()
    theirs.zero_grad()
    inputs = encoder_inputs(32)
    tensors = [to_torch(x).requires_grad_() for x in inputs]
    theirs(*tensors, skip_mask_sigmoid=True)["vision_features"].sin().sum().backward()
    loss = lambda v, feat, mask: jnp.sin(ours.apply(v, feat, mask)[0]).sum()  # noqa: E731
    grads, *inner = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(variables, *inputs)
    for ours_grad, tensor in zip(inner, tensors, strict=True):
        assert relative(ours_grad, tensor.grad) < TOLERANCE
    flat = {k: v.grad.numpy() for k, v in theirs.named_parameters()}
    expected = {"params": torch_to_flax(flat, variables["params"])}  # gradients convert as parameters do
    for ours_grad, expected_grad in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
        assert relative(ours_grad, expected_grad) < TOLERANCE


def test_one_image_serves_all_masks():
    _, ours, variables = small_encoder()
    feat, masks = encoder_inputs(32)
    shared = jitted(ours)(variables, feat[:1], masks)[0]
    assert relative(shared, np.asarray(jitted(ours)(variables, np.repeat(feat[:1], 2, 0), masks)[0])) < 1e-5


@pytest.mark.parametrize("trap", ["tanh gelu", "layer norm epsilon"])
def test_encoder_traps_are_seen(monkeypatch, trap):
    theirs, ours = make_encoder(32, 16, layers=1)
    feat, masks = encoder_inputs(32)
    if trap == "tanh gelu":
        monkeypatch.setattr(memory_encoder, "gelu", jax.nn.gelu)
        # The two differ most, beside their own size, some way below zero: there the encoder's activations are put.
        for layer in theirs.mask_downsampler.encoder:
            if isinstance(layer, LayerNorm2d):
                layer.weight.data *= 0.3
                layer.bias.data -= 2.5
        theirs.mask_downsampler.encoder[-1].weight.data *= 100  # and nothing else may drown them
        theirs.mask_downsampler.encoder[-1].bias.data.zero_()
    else:
        monkeypatch.setattr(memory_encoder, "TRUNK_EPSILON", 1e-5)
        masks = 1e-2 * masks
        theirs.mask_downsampler.encoder[0].bias.data.zero_()
    with torch.no_grad():
        expected = theirs(to_torch(feat), to_torch(masks), skip_mask_sigmoid=True)["vision_features"]
    variables = ported(theirs, ours, feat, masks)
    assert relative(compiled(ours)(variables, feat, masks)[0], expected) > 10 * TOLERANCE
    monkeypatch.undo()
    assert relative(jitted(ours)(variables, feat, masks)[0], expected) < TOLERANCE


# ---- memory attention ---------------------------------------------------------------------------------------------


def make_attention(size):
    dim, mem_dim, heads, layers, feedforward, side, *_ = SIZES[size]
    common = {"embedding_dim": dim, "num_heads": heads, "downsample_rate": 1, "feat_sizes": (side, side)}
    layer = TorchMemoryAttentionLayer(
        activation="relu",
        cross_attention=TorchRoPEAttention(**common, rope_k_repeat=True, kv_in_dim=mem_dim),
        d_model=dim,
        dim_feedforward=feedforward,
        dropout=0.1,
        pos_enc_at_attn=False,
        pos_enc_at_cross_attn_keys=True,
        pos_enc_at_cross_attn_queries=False,
        self_attention=TorchRoPEAttention(**common),
    )
    theirs = randomise(TorchMemoryAttention(dim, pos_enc_at_input=True, layer=layer, num_layers=layers))
    return theirs, MemoryAttention(dim, layers, feedforward, mem_dim, num_heads=heads)


def attention_inputs(size, n=2, side=None):
    dim, mem_dim, *_, grid, slots, pointers = SIZES[size]
    side = side or grid
    m = slots * side * side + pointers
    return {
        "curr": normal(0, n, side, side, dim),
        "curr_pos": normal(1, side, side, dim),
        "memory": normal(2, n, m, mem_dim),
        "memory_pos": normal(3, n, m, mem_dim),
    }


def run_torch(theirs, inputs, pointers):
    n, h, w, dim = inputs["curr"].shape
    flat = lambda x: torch.from_numpy(np.array(np.broadcast_to(x, (n, h, w, dim)))).reshape(n, h * w, dim)  # noqa: E731
    with torch.no_grad():
        out = theirs(
            curr=flat(inputs["curr"]).transpose(0, 1),
            curr_pos=flat(inputs["curr_pos"]).transpose(0, 1),
            memory=torch.from_numpy(inputs["memory"]).transpose(0, 1),
            memory_pos=torch.from_numpy(inputs["memory_pos"]).transpose(0, 1),
            num_obj_ptr_tokens=pointers,
        )
    return out.transpose(0, 1).reshape(n, h, w, dim).permute(0, 3, 1, 2)


@functools.cache
def small_attention(size="small"):
    theirs, ours = make_attention(size)
    return theirs, ours, ported(theirs, ours, **attention_inputs(size), num_obj_ptr_tokens=SIZES[size][-1])


@pytest.mark.parametrize("side", [None, 6])
@pytest.mark.parametrize("size", SIZES)
def test_attention_equals_torch(size, side):
    theirs, ours, variables = small_attention(size)
    inputs, pointers = attention_inputs(size, side=side), SIZES[size][-1]
    actual = jitted(ours, num_obj_ptr_tokens=pointers)(variables, **inputs)
    assert relative(actual, run_torch(theirs, inputs, pointers)) < TOLERANCE


def test_memory_without_pointers_equals_torch():
    theirs, ours, variables = small_attention()
    inputs = attention_inputs("small")
    for name in ("memory", "memory_pos"):
        inputs[name] = inputs[name][:, : -SIZES["small"][-1]]
    assert relative(jitted(ours)(variables, **inputs), run_torch(theirs, inputs, 0)) < TOLERANCE


def test_masked_tokens_equal_the_shorter_list():
    theirs, ours, variables = small_attention()
    inputs = attention_inputs("small")
    keep = np.ones(inputs["memory"].shape[1], bool)
    keep[25:50] = keep[-2:] = False  # the second of three slots and the last two of four pointer tokens
    inputs["memory"][:, ~keep] = 1e4  # whatever a stale slot holds
    valid = np.broadcast_to(keep, (2, len(keep)))
    masked = jitted(ours, num_obj_ptr_tokens=4)(variables, **inputs, memory_valid=valid)
    short = {**inputs, **{k: np.ascontiguousarray(inputs[k][:, keep]) for k in ("memory", "memory_pos")}}
    assert relative(masked, np.asarray(jitted(ours, num_obj_ptr_tokens=2)(variables, **short))) < 1e-5
    assert relative(masked, run_torch(theirs, short, 2)) < TOLERANCE


def test_each_object_has_its_own_validity():
    _, ours, variables = small_attention()
    inputs = attention_inputs("small")
    valid = np.ones(inputs["memory"].shape[:2], bool)
    valid[1, :25] = False
    together = jitted(ours, num_obj_ptr_tokens=4)(variables, **inputs, memory_valid=valid)
    for i in range(2):
        alone = {k: v if k == "curr_pos" else v[i : i + 1] for k, v in inputs.items()}
        alone = jitted(ours, num_obj_ptr_tokens=4)(variables, **alone, memory_valid=valid[i : i + 1])
        assert relative(together[i : i + 1], np.asarray(alone)) < 1e-5


def test_empty_memory_contributes_exactly_zero():
    _, ours, variables = small_attention()
    inputs = attention_inputs("small")
    nothing = np.zeros(inputs["memory"].shape[:2], bool)

    def contribution(variables, memory):
        layer = ours.bind(variables).layers[0]
        tokens = inputs["curr"].reshape(2, 25, 32)
        packed = memory_attention.Memory(memory, inputs["memory_pos"], nothing, 4)
        return layer.attend_memory(tokens, (5, 5), packed)

    np.testing.assert_array_equal(jax.jit(contribution)(variables, inputs["memory"]), 0.0)
    loss = lambda v, m: jnp.sin(contribution(v, m) + 1.0).sum()  # noqa: E731
    grads = jax.jit(jax.grad(loss, argnums=(0, 1)))(variables, inputs["memory"])
    for leaf in jax.tree.leaves(grads):
        np.testing.assert_array_equal(leaf, 0.0)


def test_gradients_do_not_reach_masked_tokens():
    _, ours, variables = small_attention()
    inputs = attention_inputs("small")
    valid = np.ones(inputs["memory"].shape[:2], bool)
    valid[0] = False
    valid[1, 3:9] = False

    def loss(variables, memory):
        out = ours.apply(variables, **{**inputs, "memory": memory}, memory_valid=valid, num_obj_ptr_tokens=4)
        return jnp.sin(out).sum()

    grads, reached = jax.jit(jax.grad(loss, argnums=(0, 1)))(variables, inputs["memory"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    np.testing.assert_array_equal(np.abs(reached).max(-1) > 0, valid)


def test_attention_gradients_equal_torch():
    theirs, ours, variables = small_attention()
    inputs = attention_inputs("small")
    theirs.zero_grad()
    memory = torch.from_numpy(inputs["memory"]).requires_grad_()
    n, h, w, dim = inputs["curr"].shape
    curr_pos = torch.from_numpy(np.repeat(inputs["curr_pos"].reshape(1, h * w, dim), n, 0))
    theirs(
        curr=torch.from_numpy(inputs["curr"].reshape(n, h * w, dim)).transpose(0, 1),
        curr_pos=curr_pos.transpose(0, 1),
        memory=memory.transpose(0, 1),
        memory_pos=torch.from_numpy(inputs["memory_pos"]).transpose(0, 1),
        num_obj_ptr_tokens=4,
    ).sin().sum().backward()

    def loss(variables, memory):
        return jnp.sin(ours.apply(variables, **{**inputs, "memory": memory}, num_obj_ptr_tokens=4)).sum()

    grads, reached = jax.jit(jax.grad(loss, argnums=(0, 1)))(variables, inputs["memory"])
    assert relative(reached, memory.grad) < TOLERANCE
    cross = theirs.layers[0].cross_attn_image
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        expected = getattr(cross, name).weight.grad.T
        assert relative(grads["params"]["layers.0"]["cross_attn_image"][name]["kernel"], expected) < TOLERANCE


def without_rotation(self, x, grid, num_exclude=0):
    return x


def rotation_across_heads(self, x, grid, num_exclude=0):
    """One rotation over all heads' channels together, as if there were a single head."""
    merged = attention.merge_heads(x)[:, None]
    return attention.split_heads(TRUE_ROTATE(self, merged, grid, num_exclude)[:, 0], x.shape[1])


def rotation_of_the_training_grid(self, x, grid, num_exclude=0):
    """Tables of a fixed larger grid, cut to the number of tokens."""
    cells = grid[0] * grid[1]
    tables = attention.rope_2d(64, 64, x.shape[-1])
    place = np.arange(x.shape[2] - num_exclude) % cells
    rotated = attention.apply_rope(x[:, :, : len(place)], *(table[place] for table in tables))
    return jnp.concatenate([rotated, x[:, :, len(place) :]], axis=2)


TRUE_ROTATE = attention.RoPEAttention.rotate


@pytest.mark.parametrize("trap", [without_rotation, rotation_across_heads, rotation_of_the_training_grid])
def test_rotation_traps_are_seen(monkeypatch, trap):
    theirs, ours, variables = small_attention("two heads")
    inputs = attention_inputs("two heads")
    monkeypatch.setattr(attention.RoPEAttention, "rotate", trap)
    actual = compiled(ours, num_obj_ptr_tokens=4)(variables, **inputs)
    assert relative(actual, run_torch(theirs, inputs, 4)) > 10 * TOLERANCE


def test_rotating_pointer_tokens_is_seen():
    """25 pointer tokens fill a whole grid, so a port that rotates them runs without an error and is wrong."""
    theirs, ours, variables = small_attention()
    inputs = attention_inputs("small")
    for name in ("memory", "memory_pos"):
        inputs[name] = np.ascontiguousarray(inputs[name][:, :75])
    expected = run_torch(theirs, inputs, 25)
    assert relative(jitted(ours, num_obj_ptr_tokens=25)(variables, **inputs), expected) < TOLERANCE
    assert relative(compiled(ours, num_obj_ptr_tokens=0)(variables, **inputs), expected) > 10 * TOLERANCE


@pytest.mark.parametrize("trap", ["layer norm epsilon", "fast variance"])
def test_norm_traps_are_seen(monkeypatch, trap):
    theirs, ours = make_attention("small")
    inputs = attention_inputs("small")
    if trap == "layer norm epsilon":
        inputs["curr"] *= 1e-2  # faint features: their variance is of the order of the epsilon
        inputs["curr_pos"] *= 1e-2
        monkeypatch.setattr(memory_attention, "HEAD_EPSILON", 1e-6)
    else:
        inputs["curr"] += 300  # a large mean cancels in E[x^2] - E[x]^2
        monkeypatch.setattr(
            memory_attention, "LayerNorm", lambda **kw: memory_attention.nn.LayerNorm(use_fast_variance=True, **kw)
        )
    expected = run_torch(theirs, inputs, 4)
    variables = ported(theirs, ours, **inputs, num_obj_ptr_tokens=4)
    assert relative(compiled(ours, num_obj_ptr_tokens=4)(variables, **inputs), expected) > 2 * TOLERANCE
    monkeypatch.undo()
    assert relative(jitted(ours, num_obj_ptr_tokens=4)(variables, **inputs), expected) < TOLERANCE


def test_wrong_memories_are_refused():
    _, ours, variables = small_attention()
    inputs = attention_inputs("small")
    with pytest.raises(ValueError, match="multiple of 5 x 5"):
        jitted(ours, num_obj_ptr_tokens=3)(variables, **inputs)
    inputs["memory"] = np.concatenate([inputs["memory"]] * 2, -1)
    with pytest.raises(ValueError, match="memory has 32 channels, the memory attention reads 16"):
        jitted(ours, num_obj_ptr_tokens=4)(variables, **inputs)


@pytest.mark.parametrize("limit", [4, 40, 70])
def test_tiles_equal_the_whole_read(monkeypatch, limit):
    """One query, several queries and one entry of the batch at a time, with gradients; the second entry is empty."""
    q, k, v = normal(0, 2, 1, 6, 4), normal(1, 2, 1, 10, 4), normal(2, 2, 1, 10, 3)
    valid = np.array([[True] * 7 + [False] * 3, [False] * 10])

    def loss(q, k, v):
        out = attention.read(q, k, v, valid)
        return jnp.sin(out + 1).sum(), out

    whole = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(q, k, v)
    monkeypatch.setattr(attention, "TILE", {"cpu": limit, "default": limit})
    tiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)
    for a, b in zip(jax.tree.leaves(tiled), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(tiled[0][1][1], 0.0)
