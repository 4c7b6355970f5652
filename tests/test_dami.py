"""DAMI's three attentions against SAM2's one, and against a plain NumPy reading of eqs. 16 and 18."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from sam2.modeling.memory_attention import MemoryAttention as TorchMemoryAttention
from sam2.modeling.memory_attention import MemoryAttentionLayer as TorchMemoryAttentionLayer
from sam2.modeling.sam.transformer import RoPEAttention as TorchRoPEAttention
from torch_parity import normal, ported, randomise, relative

from mqc_jax.models import dami
from mqc_jax.models.dami import ATTENTIONS, DecoupledLayer, DecoupledMemoryAttention
from mqc_jax.models.memory_attention import MemoryAttention, MemoryAttentionLayer
from mqc_jax.models.position import rope_2d

N, SIDE, DIM, MEM, SHORT, POOL, PARTS = 2, 3, 16, 8, 3, 2, 2
SLOTS, CELLS = 1 + SHORT + POOL, SIDE * SIDE


def attention(kind=DecoupledMemoryAttention, layers=2, heads=1, **layer):
    if kind is DecoupledMemoryAttention:
        layer = {"layer": functools.partial(DecoupledLayer, short_slots=SHORT, **layer)}
    return kind(DIM, layers, 24, MEM, num_heads=heads, **layer)


def slots(valid=None, seed=0):
    """A memory of all slots, as `pack` takes it."""
    valid = np.ones((N, SLOTS), bool) if valid is None else np.asarray(valid)
    return {
        "feature": normal(seed + 1, N, SLOTS, CELLS, MEM),
        "feature_pos": normal(seed + 2, N, SLOTS, CELLS, MEM),
        "pointer": normal(seed + 3, N, SLOTS, PARTS, MEM),
        "pointer_pos": normal(seed + 4, N, SLOTS, PARTS, MEM),
        "valid": np.broadcast_to(valid, (N, SLOTS)),
        "age": np.array([[9, 2, 5, 1, 7, 3], [9, 3, 1, 2, 8, 4]], np.int32),
    }


def pack(memory):
    return dami.pack(**memory, short_slots=SHORT)


CURRENT = normal(0, N, SIDE, SIDE, DIM), normal(9, SIDE, SIDE, DIM)


@functools.cache
def compiled(fusion="sum", layers=2, heads=1):
    ours = attention(layers=layers, fusion=fusion, heads=heads)
    return jax.jit(lambda p, memory: ours.apply({"params": p}, *CURRENT, pack(memory)))


@functools.cache
def torch_sam2():
    common = {"embedding_dim": DIM, "num_heads": 1, "downsample_rate": 1, "feat_sizes": (SIDE, SIDE)}
    layer = TorchMemoryAttentionLayer(
        activation="relu",
        cross_attention=TorchRoPEAttention(**common, rope_k_repeat=True, kv_in_dim=MEM),
        d_model=DIM,
        dim_feedforward=24,
        dropout=0.1,
        pos_enc_at_attn=False,
        pos_enc_at_cross_attn_keys=True,
        pos_enc_at_cross_attn_queries=False,
        self_attention=TorchRoPEAttention(**common),
    )
    return randomise(TorchMemoryAttention(DIM, pos_enc_at_input=True, layer=layer, num_layers=2))


@functools.cache
def sam2_params():
    tokens = normal(0, N, SLOTS * (CELLS + PARTS), MEM)
    return ported(torch_sam2(), attention(MemoryAttention), *CURRENT, tokens, tokens, num_obj_ptr_tokens=SLOTS * PARTS)[
        "params"
    ]


def sam2_tokens(memory, which=slice(None)):
    """Slots as SAM2's one memory: all places, then all pointers."""
    flat = lambda a, b: np.concatenate([memory[x][:, which].reshape(N, -1, MEM) for x in (a, b)], 1)  # noqa: E731
    return flat("feature", "pointer"), flat("feature_pos", "pointer_pos")


def drawn(fusion="sum", layers=2, heads=1, seed=5):
    """Every parameter moved off its initial value."""
    template = jax.eval_shape(
        lambda: attention(layers=layers, fusion=fusion, heads=heads).init(jax.random.key(0), *CURRENT, pack(slots()))
    )["params"]
    leaves, tree = jax.tree.flatten(template)
    rng = np.random.default_rng(seed)
    width = [x.shape[0] ** -0.5 if x.ndim > 1 else 0.5 for x in leaves]
    return jax.tree.unflatten(
        tree, [(rng.normal(0, w, x.shape)).astype(np.float32) for w, x in zip(width, leaves, strict=True)]
    )


# ---- against SAM2 ----------------------------------------------------------------------------------------------------


def test_one_softmax_over_all_entries_is_sam2s_cross_attention():
    """SAM2's parameters, every entry there, no age bias: the same read, to rounding, as ours and as the public one."""
    memory = slots()
    found, mass = compiled("joint")(dami.from_sam2(sam2_params(), SHORT, "joint"), memory)
    tokens, position = sam2_tokens(memory)
    apply = jax.jit(lambda p, *x: attention(MemoryAttention).apply({"params": p}, *x, num_obj_ptr_tokens=SLOTS * PARTS))
    assert relative(found, np.asarray(apply(sam2_params(), *CURRENT, tokens, position))) < 1e-5
    flat = lambda x: torch.from_numpy(np.array(np.broadcast_to(x, (N, SIDE, SIDE, DIM)))).reshape(N, CELLS, DIM)  # noqa: E731
    with torch.no_grad():
        theirs = torch_sam2()(
            curr=flat(CURRENT[0]).transpose(0, 1),
            curr_pos=flat(CURRENT[1]).transpose(0, 1),
            memory=torch.from_numpy(tokens).transpose(0, 1),
            memory_pos=torch.from_numpy(position).transpose(0, 1),
            num_obj_ptr_tokens=SLOTS * PARTS,
        )
    assert relative(found, theirs.transpose(0, 1).reshape(N, SIDE, SIDE, DIM).numpy()) < 1e-5
    np.testing.assert_allclose(np.asarray(mass).sum(1), 1, rtol=1e-5)
    assert (np.asarray(mass) > 0.01).all()


def test_some_valid_entries_are_sam2s_memory_of_those_alone():
    """Invalid slots hold anything; the first target's queue and pool are partly filled, and so are the second's."""
    memory = slots([True, True, False, True, False, True])
    memory["feature"][:, [2, 4]] = 1e4
    found, _ = compiled("joint")(dami.from_sam2(sam2_params(), SHORT, "joint"), memory)
    tokens, position = sam2_tokens(memory, [0, 1, 3, 5])
    apply = jax.jit(lambda p, *x: attention(MemoryAttention).apply({"params": p}, *x, num_obj_ptr_tokens=4 * PARTS))
    assert relative(found, np.asarray(apply(sam2_params(), *CURRENT, tokens, position))) < 1e-5


def test_from_sam2_gives_every_attention_sam2s_projections():
    params = sam2_params()
    before = jax.tree.map(np.array, params)
    template = jax.eval_shape(lambda: attention().init(jax.random.key(0), *CURRENT, pack(slots())))["params"]
    converted = dami.from_sam2(params, SHORT)
    assert jax.tree.map(lambda x: x.shape, converted) == jax.tree.map(lambda x: x.shape, template)
    for i in range(2):
        layer = converted[f"layers.{i}"]
        for name in ATTENTIONS:
            jax.tree.map(np.testing.assert_array_equal, layer[name], before[f"layers.{i}"]["cross_attn_image"])
        assert layer["omega"].tolist() == [1, 1, 1]
        assert layer["p_rel"].tolist() == [0] * SHORT
    jax.tree.map(np.testing.assert_array_equal, params, before)


# ---- eqs. 16 and 18 by hand ------------------------------------------------------------------------------------------


def numpy_attention(p, x, tokens, position, bias):
    """Softmax(q k / sqrt(d) + bias) v of one target; x [Q, D]; tokens as (places [K, hw, C], pointers [K, R, C])."""
    dense = lambda name, y: y @ np.float64(p[name]["kernel"]) + p[name]["bias"]  # noqa: E731
    cos, sin = (np.float64(t) for t in rope_2d(SIDE, SIDE, DIM))

    def rotate(y):
        even, odd = y[..., 0::2], y[..., 1::2]
        return np.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(y.shape)

    q = rotate(dense("q_proj", x))
    keys = [t.astype(np.float64) + s for t, s in zip(tokens, position, strict=True)]
    k = np.concatenate([rotate(dense("k_proj", keys[0])).reshape(-1, DIM), dense("k_proj", keys[1]).reshape(-1, DIM)])
    v = np.concatenate([dense("v_proj", t.astype(np.float64)).reshape(-1, DIM) for t in tokens])
    logits = q @ k.T / np.sqrt(DIM) + np.concatenate([np.repeat(bias, CELLS), np.repeat(bias, PARTS)])
    weight = np.exp(logits - logits.max(1, keepdims=True))
    return dense("out_proj", weight / weight.sum(1, keepdims=True) @ v)


def layer_and_input(heads=1):
    params = drawn(layers=1, heads=heads)["layers.0"]
    return params, normal(7, N, CELLS, DIM)


@functools.cache
def change(heads=1):
    layer = DecoupledLayer(DIM, 24, heads, short_slots=SHORT)
    apply = functools.partial(layer.apply, method="attend_memory")
    return jax.jit(lambda p, x, memory: apply({"params": p}, x, (SIDE, SIDE), pack(memory)))


def by_hand(params, x, memory, part):
    """One term of eq. 16 without its omega."""
    mean, std = x.mean(-1, keepdims=True), np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    normed = (x - mean) / std * params["norm2"]["scale"] + params["norm2"]["bias"]
    where = [np.arange(1), np.arange(1, 1 + SHORT), np.arange(1 + SHORT, SLOTS)][part]
    result = np.zeros((N, CELLS, DIM))
    for n in range(N):
        own = [k for k in where if memory["valid"][n, k]]
        if not own:
            continue
        newest_first = sorted(own, key=lambda k: memory["age"][n, k])
        bias = np.array([params["p_rel"][newest_first.index(k)] if part == 1 else 0.0 for k in own])
        pair = lambda a, b: (memory[a][n, own], memory[b][n, own])  # noqa: E731, B023
        tokens, position = pair("feature", "pointer"), pair("feature_pos", "pointer_pos")
        result[n] = numpy_attention(params[ATTENTIONS[part]], np.float64(normed[n]), tokens, position, bias)
    return result


PATTERNS = {
    "full": [[True] * 6] * 2,
    "first frame": [[True] + [False] * 5] * 2,
    "partly": [[True, False, True, True, False, False], [True, True, False, False, True, True]],
    "nothing": [[False] * 6, [True] * 6],
}


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("omega", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.5, -2, 1.5)])
def test_the_fused_read_equals_a_plain_reading(omega, pattern):
    params, x = layer_and_input()
    params = {**params, "omega": np.float32(omega)}
    memory = slots(PATTERNS[pattern])
    found, share = change()(params, x, memory)
    terms = [w * by_hand(params, x, memory, i) for i, w in enumerate(omega)]
    np.testing.assert_allclose(found, sum(terms), atol=2e-5)
    sizes = np.stack([np.linalg.norm(term, axis=-1).sum(1) for term in terms], 1)
    total = sizes.sum(1, keepdims=True)
    np.testing.assert_allclose(share, np.divide(sizes, total, where=total > 0, out=np.zeros_like(sizes)), atol=1e-5)
    if pattern == "nothing":
        assert not np.asarray(found[0]).any()


def test_one_memory_alone_is_sam2s_layer_over_its_entries():
    """omega = (1, 0, 0) and (0, 0, 1) against the layer that is tested against PyTorch; also with two heads."""
    for heads in (1, 2):
        params, x = layer_and_input(heads)
        memory = slots()
        theirs = MemoryAttentionLayer(DIM, 24, heads)
        for i, which in ((0, slice(0, 1)), (2, slice(1 + SHORT, None))):
            omega = np.eye(3, dtype=np.float32)[i]
            found, _ = change(heads)({**params, "omega": omega}, x, memory)
            packed = pack(memory).all[i]
            sam2 = {"norm2": params["norm2"], "cross_attn_image": params[ATTENTIONS[i]]}
            expected = theirs.apply({"params": sam2}, x, (SIDE, SIDE), packed, method="attend_memory")
            np.testing.assert_allclose(found, expected, atol=1e-6)
            assert packed.tokens.shape[1] == len(range(SLOTS)[which]) * (CELLS + PARTS)


def test_the_age_bias_belongs_to_places_in_the_queue_not_to_slots():
    params, x = layer_and_input()
    memory = slots()
    order = [0, 3, 1, 2, 4, 5]
    moved = {name: value[:, order] for name, value in memory.items()}
    np.testing.assert_allclose(change()(params, x, memory)[0], change()(params, x, moved)[0], atol=1e-5)
    # A common shift cancels in the softmax; moving one entry does not.
    shifted = {**params, "p_rel": params["p_rel"] + 3}
    np.testing.assert_allclose(change()(params, x, memory)[0], change()(shifted, x, memory)[0], atol=1e-5)
    raised = {**params, "p_rel": params["p_rel"] + np.eye(3, dtype=np.float32)[0]}
    assert np.abs(np.asarray(change()(params, x, memory)[0] - change()(raised, x, memory)[0])).max() > 1e-3


def test_a_strong_age_bias_reads_the_newest_entry_alone():
    params, x = layer_and_input()
    params = {**params, "omega": np.float32([0, 1, 0]), "p_rel": np.float32([40, 0, 0])}
    memory = slots()
    newest = {**memory, "valid": memory["valid"] & (memory["age"] == 1)}
    np.testing.assert_allclose(change()(params, x, memory)[0], change()(params, x, newest)[0], atol=1e-5)


# ---- emptiness and gradients -----------------------------------------------------------------------------------------


@functools.cache
def gradients(fusion):
    ours = attention(fusion=fusion)

    def loss(params, feature, memory):
        out, _ = ours.apply({"params": params}, *CURRENT, pack({**memory, "feature": feature}))
        return jnp.sin(out).sum()

    return jax.jit(jax.grad(loss, argnums=(0, 1)))


@pytest.mark.parametrize("fusion", ["sum", "joint"])
def test_gradients_reach_what_was_read_and_nothing_else(fusion):
    params = drawn(fusion)
    grads, into = gradients(fusion)(params, slots()["feature"], slots())
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        name = jax.tree_util.keystr(path)
        # A bias of the keys shifts all logits of a query alike, which a softmax ignores; rotation breaks that.
        assert np.isfinite(leaf).all(), name
        assert (np.abs(np.asarray(leaf)) > 0).any(), name
    assert (np.abs(into).max((2, 3)) > 0).all()
    for pattern in PATTERNS.values():
        memory = slots(pattern)
        grads, into = gradients(fusion)(params, memory["feature"], memory)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
        np.testing.assert_array_equal(np.abs(into).max((2, 3)) > 0, memory["valid"])


@pytest.mark.parametrize("fusion", ["sum", "joint"])
def test_every_pattern_of_emptiness_is_finite_and_an_empty_memory_is_exactly_nothing(fusion):
    params = drawn(fusion)
    for bits in range(2**SLOTS):
        valid = np.array([bits >> k & 1 for k in range(SLOTS)], bool)
        memory = slots([valid, valid[::-1]])
        out, share = compiled(fusion)(params, memory)
        assert np.isfinite(out).all()
        groups = [memory["valid"][:, :1], memory["valid"][:, 1 : 1 + SHORT], memory["valid"][:, 1 + SHORT :]]
        np.testing.assert_array_equal(np.asarray(share) > 0, np.stack([g.any(1) for g in groups], 1))
        np.testing.assert_allclose(np.asarray(share).sum(1), memory["valid"].any(1), rtol=1e-5)


def test_gradients_of_empty_memories_are_exactly_zero():
    params = drawn()
    memory = slots([True] + [False] * 5)
    grads, _ = gradients("sum")(params, memory["feature"], memory)
    for layer in grads.values():
        if "omega" not in layer:
            continue
        assert layer["omega"][0] != 0
        for part in (layer["omega"][1:], layer["p_rel"], layer["short_attn"], layer["discriminative_attn"]):
            assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(part))
