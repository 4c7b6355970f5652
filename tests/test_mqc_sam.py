"""The model as a whole: what a frame reads and writes, and how absence, the memory's size and the dtype show."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mqc_jax import groups
from mqc_jax.models import functional, memory_bank
from mqc_jax.models.memory_bank import MemoryBank
from mqc_jax.models.mqc_sam import NO_OBJECT_LOGIT

TEXTS = ["the yacht at the left", "a boat that overtakes the other"]


@pytest.fixture(scope="module")
def started(tiny_model):
    """(images, bank, output) after frame 0."""
    images = jnp.asarray(np.stack(tiny.frames(4)))
    ids, mask = tiny_model.tokenizer.encode(TEXTS, 16)
    return images, *groups.start(tiny_model.net, tiny_model.params, encode(tiny_model, images[0]), ids, mask)


def encode(model, image):
    return groups.encode(model.net, model.params, image)


def step(model, bank, image, params=None):
    params = model.params if params is None else params
    # A step uses the bank up; the fixtures' must survive.
    return groups.step(model.net, params, jax.tree.map(jnp.copy, bank), groups.encode(model.net, params, image))


def changed(params, path: str, change):
    """`params` with one leaf replaced."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(params)
    names = [".".join(str(k.key) for k in p) for p, _ in leaves]
    assert names.count(path) == 1, path
    return jax.tree.unflatten(tree, [change(x) if n == path else x for n, (_, x) in zip(names, leaves, strict=True)])


def test_frame_0_writes_the_anchor_alone(tiny_model, started):
    _, bank, output = started
    grid = tiny.MODEL.image_size // 16
    assert bank.feature.value.shape == (2, 7, grid, grid, tiny.MODEL.mem_dim)
    assert bank.pointer.value.shape == (2, 16, tiny.MODEL.d_model)
    for slots in (bank.feature, bank.pointer):
        valid = np.asarray(slots.valid)
        assert valid[:, memory_bank.ANCHOR].all()
        assert valid.sum() == 2
    np.testing.assert_array_equal(bank.pointer.value[:, 0], output.pointer)


def test_a_step_keeps_the_anchor_and_adds_one_entry(tiny_model, started):
    images, bank, _ = started
    later, output = step(tiny_model, bank, images[1])
    np.testing.assert_array_equal(later.feature.value[:, 0], bank.feature.value[:, 0])
    assert np.asarray(later.feature.valid).sum() == 4
    assert (np.asarray(later.feature.age)[:, :2] == [1, 0]).all()
    np.testing.assert_array_equal(later.pointer.value[:, 1], output.pointer)
    assert not np.asarray(output.coarse_logits).any()


def test_the_memory_changes_what_is_seen(tiny_model, started):
    images, bank, _ = started
    _, output = step(tiny_model, bank, images[1])
    for part in ("feature", "pointer"):
        slots = getattr(bank, part)
        other = bank.replace(**{part: slots.replace(value=slots.value + 1.0)})
        _, moved = step(tiny_model, other, images[1])
        assert (np.asarray(moved.mask_logits) != np.asarray(output.mask_logits)).any(), part


def test_what_lies_in_invalid_slots_is_never_seen(tiny_model, started):
    images, bank, _ = started
    _, output = step(tiny_model, bank, images[1])

    def poison(slots):
        hole = ~np.asarray(slots.valid)
        mark = jnp.asarray(hole.reshape(hole.shape + (1,) * (slots.value.ndim - 2)))
        return slots.replace(value=jnp.where(mark, 1e3, slots.value), age=jnp.where(hole, 77, slots.age))

    _, again = step(tiny_model, MemoryBank(poison(bank.feature), poison(bank.pointer)), images[1])
    np.testing.assert_array_equal(again.mask_logits, output.mask_logits)


def test_slots_may_stand_in_any_order(tiny_model, started):
    images, bank, _ = started
    bank, _ = step(tiny_model, bank, images[1])
    bank, _ = step(tiny_model, bank, images[2])
    order = lambda slots: jax.tree.map(lambda x: x[:, jnp.asarray([0, 2, 1, *range(3, x.shape[1])])], slots)  # noqa: E731
    _, output = step(tiny_model, bank, images[3])
    _, again = step(tiny_model, MemoryBank(order(bank.feature), order(bank.pointer)), images[3])
    np.testing.assert_allclose(again.mask_logits, output.mask_logits, atol=2e-5)


def test_a_slots_age_is_part_of_what_is_read(tiny_model, started):
    images, bank, _ = started
    bank, _ = step(tiny_model, bank, images[1])
    _, output = step(tiny_model, bank, images[2])
    for part in ("feature", "pointer"):
        slots = getattr(bank, part)
        older = bank.replace(**{part: slots.replace(age=slots.age + 3)})
        _, moved = step(tiny_model, older, images[2])
        assert (np.asarray(moved.mask_logits) != np.asarray(output.mask_logits)).any(), part


@pytest.mark.parametrize("memory", ["sam2", "dami"])
def test_a_target_that_is_hardly_there_is_shown_and_not_remembered(tiny_model, memory):
    """Below a presence of a half SAM2 shows nothing; what is shown all the same changes no later frame."""
    model = tiny_model.replace(memory=memory)
    config = dataclasses.replace(model.config, one_object=True)
    images = [encode(model, image) for image in tiny.frames(3)]
    ids, mask = model.tokenizer.encode(TEXTS, 16)
    last = "sam_mask_decoder.pred_obj_score_head.layers.2.bias"
    found, ahead = {}, jax.jit(functional.step, static_argnums=0)
    for least in (0.5, 0.1):
        net = functional.build(dataclasses.replace(config, shown_presence=least))
        bank, _ = groups.start(net, model.params, images[0], ids, mask)
        _, plain = ahead(net, model.params, bank, images[1])
        shift = -1.0 - float(plain.presence_logits.max())  # a presence of 0.27 at most
        faint = changed(model.params, last, lambda x, shift=shift: x + shift)
        later, output = ahead(net, faint, bank, images[1])
        found[least] = output, later, ahead(net, model.params, later, images[2])[1]
    (hidden, bank, after), (shown, same_bank, same_after) = found[0.5], found[0.1]
    assert (np.asarray(hidden.mask_logits) == NO_OBJECT_LOGIT).all()
    likely = np.asarray(shown.presence_logits) > np.log(0.1 / 0.9)
    assert likely.any()
    assert ((np.asarray(shown.mask_logits) > NO_OBJECT_LOGIT).any((1, 2)) == likely).all()
    jax.tree.map(np.testing.assert_array_equal, bank, same_bank)
    np.testing.assert_array_equal(after.mask_logits, same_after.mask_logits)


def test_an_absent_target_gives_no_mask_and_its_own_pointer(tiny_model, started):
    images, bank, _ = started
    last = "sam_mask_decoder.pred_obj_score_head.layers.2.bias"
    gone = changed(tiny_model.params, last, lambda x: x - 1e3)
    later, output = step(tiny_model, bank, images[1], gone)
    assert (np.asarray(output.presence_logits) < 0).all()
    assert (np.asarray(output.mask_logits) == NO_OBJECT_LOGIT).all()
    np.testing.assert_array_equal(output.pointer, np.repeat(tiny_model.params["no_obj_ptr"], 2, 0))
    # The hypotheses stay as they were: the loss scores them, and the absence only hides them.
    assert (np.asarray(output.hypotheses) != NO_OBJECT_LOGIT).any()
    # The memory is told of the absence by an embedding of its own, added everywhere.
    shifted = changed(gone, "no_obj_embed_spatial", lambda x: x + 1.0)
    moved, _ = step(tiny_model, bank, images[1], shifted)
    np.testing.assert_allclose(moved.feature.value[:, 1], later.feature.value[:, 1] + 1.0, atol=1e-5)


def test_the_chosen_mask_is_the_hypothesis_of_the_highest_predicted_iou(tiny_model, started):
    _, _, output = started
    best = np.asarray(output.ious).argmax(1)
    assert (np.asarray(output.presence_logits) > 0).all()
    np.testing.assert_array_equal(output.mask_logits, np.asarray(output.hypotheses)[np.arange(2), best])


def test_the_sentence_decides_the_first_mask(started):
    _, _, output = started
    assert np.abs(np.asarray(output.coarse_logits[0] - output.coarse_logits[1])).max() > 1e-3
    assert np.abs(np.asarray(output.mask_logits[0] - output.mask_logits[1])).max() > 1e-3


def test_padding_of_a_sentence_is_never_read(tiny_model, started):
    images, _, output = started
    ids, mask = tiny_model.tokenizer.encode(TEXTS, 16)
    features = encode(tiny_model, images[0])
    _, again = groups.start(tiny_model.net, tiny_model.params, features, np.where(mask, ids, 55), mask)
    np.testing.assert_array_equal(again.mask_logits, output.mask_logits)
    np.testing.assert_array_equal(again.coarse_logits, output.coarse_logits)


def test_parameters_are_float32_whatever_the_dtype_and_a_function_of_the_seed():
    net = functional.build(tiny.MODEL, "bfloat16")
    assert {x.dtype for x in jax.tree.leaves(functional.shapes(net))} == {jnp.dtype("float32")}
    a, b = (functional.init(functional.build(tiny.MODEL), seed=0) for _ in range(2))
    assert all((x == y).all() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_bfloat16_keeps_its_outputs_form(tiny_model):
    net = functional.build(tiny.MODEL, "bfloat16")
    image = jax.ShapeDtypeStruct((64, 64, 3), jnp.uint8)
    ids, mask = jax.ShapeDtypeStruct((2, 16), jnp.int32), jax.ShapeDtypeStruct((2, 16), bool)
    params = tiny_model.params
    features = jax.eval_shape(lambda *x: groups.encode(net, *x), params, image)
    bank, first = jax.eval_shape(lambda *x: groups.start(net, *x), params, features, ids, mask)
    again, later = jax.eval_shape(lambda *x: groups.step(net, *x), params, bank, features)
    form = lambda tree: [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]  # noqa: E731
    assert form(bank) == form(again)
    assert form(first) == form(later)
    assert later.mask_logits.dtype == later.presence_logits.dtype == jnp.float32
    assert bank.feature.value.dtype == jnp.bfloat16


def test_sam_2_0_lacks_two_parameters():
    old = functional.shapes(
        functional.build(dataclasses.replace(tiny.MODEL, no_obj_embed_spatial=False, obj_ptr_tpos=False))
    )
    new = functional.shapes(functional.build(tiny.MODEL))
    assert new.keys() - old.keys() == {"no_obj_embed_spatial", "obj_ptr_tpos_proj"}
    assert not old.keys() - new.keys()
