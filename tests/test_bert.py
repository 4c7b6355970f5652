"""`Bert` equals `transformers`' BertModel with every parameter moved off its initial value, and takes prompts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from mqc_jax.convert import flax_to_torch, torch_to_flax
from mqc_jax.models.bert import Bert

SIZES = {
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 20,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-2,  # large enough that its place in the formula shows
}
LENGTHS = (9, 6, 2)
L, P, D = 9, 3, SIZES["hidden_size"]
NET = Bert(**SIZES, add_pooler=True)


@functools.cache
def oracle() -> transformers.BertModel:
    config = transformers.BertConfig(**SIZES, attn_implementation="eager")
    model = transformers.BertModel(config, add_pooling_layer=True).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + 0.1)
    return model


def tokens() -> tuple[np.ndarray, np.ndarray]:
    ids = np.random.default_rng(1).integers(1, SIZES["vocab_size"], (len(LENGTHS), L)).astype(np.int32)
    return ids, np.arange(L) < np.asarray(LENGTHS)[:, None]


def template(net: Bert) -> dict:
    ids, mask = tokens()
    return jax.eval_shape(lambda: net.init(jax.random.key(0), ids, mask))["params"]


@functools.cache
def parameters() -> dict:
    state = {key: tensor.detach().numpy() for key, tensor in oracle().named_parameters()}
    return {"params": torch_to_flax(state, template(NET))}


@functools.partial(jax.jit, static_argnames="method")
def apply(*arguments, method="__call__"):
    return NET.apply(parameters(), *arguments, method=method)


def relative(a, b) -> float:
    a, b = np.asarray(a), np.asarray(b)
    return float(np.abs(a - b).max() / np.abs(b).max())


def prompts() -> np.ndarray:
    return np.random.default_rng(2).normal(size=(len(LENGTHS), P, D)).astype(np.float32)


def test_every_layer_equals_torch_on_padded_sentences():
    ids, mask = tokens()
    layers, returned = apply(ids, mask, method="layers")
    with torch.no_grad():
        expected = oracle()(
            input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask).long(), output_hidden_states=True
        )
    assert len(layers) == len(expected.hidden_states) == SIZES["num_hidden_layers"] + 1
    for ours, theirs in zip(layers, expected.hidden_states, strict=True):
        assert relative(ours, theirs.numpy()) < 1e-5
    hidden, _ = apply(ids, mask)
    assert relative(hidden, expected.last_hidden_state.numpy()) < 1e-5
    assert relative(apply(hidden, method="pool"), expected.pooler_output.numpy()) < 1e-5
    np.testing.assert_array_equal(returned, mask)


def test_prompts_equal_torch_fed_with_the_joined_embeddings():
    ids, mask = tokens()
    extra = prompts()
    hidden, joined = apply(ids, mask, extra)
    words = apply(ids, method="embed_words")
    embeds = np.concatenate([words[:, :1], extra, words[:, 1:]], axis=1)
    expected_mask = np.concatenate([mask[:, :1], np.ones((len(ids), P), bool), mask[:, 1:]], axis=1)
    with torch.no_grad():
        expected = oracle()(
            inputs_embeds=torch.tensor(embeds), attention_mask=torch.tensor(expected_mask).long()
        ).last_hidden_state.numpy()
    np.testing.assert_array_equal(joined, expected_mask)
    assert relative(hidden, expected) < 1e-5


def test_word_embeddings_are_the_rows_of_the_table():
    ids, _ = tokens()
    table = oracle().embeddings.word_embeddings.weight.detach().numpy()
    np.testing.assert_array_equal(apply(ids, method="embed_words"), table[ids])


def test_masked_out_prompts_change_nothing():
    ids, mask = tokens()
    plain, _ = apply(ids, mask)
    hidden, joined = apply(ids, mask, prompts(), np.zeros((len(ids), P), bool))
    assert not np.asarray(joined[:, 1 : 1 + P]).any()
    assert relative(hidden[:, :1], plain[:, :1]) < 1e-6
    for i, length in enumerate(LENGTHS):
        assert relative(hidden[i, 1 + P : P + length], plain[i, 1:length]) < 1e-6


def test_valid_prompts_change_the_words_and_move_them_on():
    ids, mask = tokens()
    first_only = np.arange(P)[None] < np.ones((len(ids), 1))
    with_one, _ = apply(ids, mask, prompts()[:, :1])
    masked_to_one, _ = apply(ids, mask, prompts(), first_only)
    plain, _ = apply(ids, mask)
    assert relative(with_one[:, 0], plain[:, 0]) > 1e-2
    assert relative(masked_to_one[0, 1 + P :], with_one[0, 2:]) < 1e-6


def test_gradients_reach_every_valid_prompt_and_no_masked_one():
    ids, mask = tokens()
    valid = np.ones((len(ids), P), bool)
    valid[1, 2] = False

    def words_only(extra):
        hidden, _ = apply(ids, mask, extra, valid)
        return (hidden[:, 0] * jnp.arange(D)).sum()

    norms = np.linalg.norm(jax.jit(jax.grad(words_only))(prompts()), axis=-1)
    assert (norms[valid] > 1e-3).all()
    assert norms[1, 2] == 0


def test_padding_never_reaches_a_token():
    ids, mask = tokens()
    other = np.where(mask, ids, 7).astype(np.int32)
    a, _ = apply(ids, mask)
    b, _ = apply(other, mask)
    np.testing.assert_array_equal(np.asarray(a)[mask], np.asarray(b)[mask])
    alone, _ = apply(ids[1:2, : LENGTHS[1]], mask[1:2, : LENGTHS[1]])
    assert relative(a[1, : LENGTHS[1]], alone[0]) < 1e-6


def test_a_row_of_padding_is_finite_with_finite_gradients():
    ids, mask = tokens()
    mask = mask & (np.arange(len(ids)) != 1)[:, None]
    gradients = jax.jit(jax.grad(lambda p: NET.apply(p, ids, mask)[0].sum()))(parameters())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_parameter_paths_are_torchs_keys():
    zeros = functools.partial(jax.tree.map, lambda leaf: np.zeros(leaf.shape, leaf.dtype))
    state = flax_to_torch(zeros(template(NET)))
    assert {key: value.shape for key, value in state.items()} == {
        key: tuple(value.shape) for key, value in oracle().named_parameters()
    }
    without = flax_to_torch(zeros(template(Bert(**SIZES))))
    assert state.keys() - without.keys() == {"pooler.dense.weight", "pooler.dense.bias"}


def test_bfloat16_computes_in_bfloat16_and_stays_close():
    ids, mask = tokens()
    exact, _ = apply(ids, mask)
    rounded, _ = Bert(**SIZES, add_pooler=True, dtype=jnp.bfloat16).apply(parameters(), ids, mask)
    assert rounded.dtype == jnp.bfloat16
    assert 0 < relative(rounded.astype(jnp.float32), exact) < 0.05


@pytest.mark.parametrize(
    ("change", "length", "message"),
    [
        ({"num_attention_heads": 5}, L, "hidden_size=24 must be a multiple of num_attention_heads=5"),
        ({"hidden_act": "relu"}, L, "hidden_act='relu'"),
        ({}, 18, "21 tokens, prompts included, exceed max_position_embeddings=20"),
    ],
)
def test_wrong_sizes_are_refused(change, length, message):
    ids = np.zeros((1, length), np.int32)
    with pytest.raises(ValueError, match=message):
        Bert(**{**SIZES, **change}).init(jax.random.key(0), ids, ids, np.zeros((1, P, D), np.float32))


def test_prompts_of_another_width_are_refused():
    ids, mask = tokens()
    with pytest.raises(ValueError, match="width 5, not hidden_size=24"):
        apply(ids, mask, np.zeros((len(ids), P, 5), np.float32))
