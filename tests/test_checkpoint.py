"""Checkpoints: what is written comes back, and everything else gets a sentence that says what is wrong."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import mqc_jax
from mqc_jax import checkpoint
from mqc_jax.errors import UserError


def pairs(a, b):
    flat = zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True)
    return [(jax.tree_util.keystr(path), np.asarray(x), np.asarray(y)) for (path, x), y in flat]


@pytest.fixture
def copy(tiny_checkpoint, tmp_path) -> Path:
    """A checkpoint that a test may damage."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))


def edit_config(folder: Path, change) -> None:
    facts = json.loads((folder / checkpoint.CONFIG).read_text())
    change(facts)
    (folder / checkpoint.CONFIG).write_text(json.dumps(facts))


def test_float32_parameters_come_back_bit_for_bit(tiny_model, tmp_path):
    checkpoint.save(tmp_path / "a", tiny_model.config, tiny_model.params, tiny_model.tokenizer, note="why")
    again = mqc_jax.load(tmp_path / "a")
    for name, x, y in pairs(tiny_model.params, again.params):
        assert x.dtype == y.dtype == np.float32, name
        assert x.tobytes() == y.tobytes(), name
    assert again.config == tiny_model.config
    assert again.tokenizer.pieces == tiny_model.tokenizer.pieces
    assert json.loads((tmp_path / "a" / "config.json").read_text())["note"] == "why"


def test_bfloat16_halves_matrices_and_keeps_vectors(tiny_model, tmp_path):
    checkpoint.save(tmp_path / "a", tiny_model.config, tiny_model.params, tiny_model.tokenizer, params_dtype="bfloat16")
    for name, x, y in pairs(tiny_model.params, mqc_jax.load(tmp_path / "a").params):
        assert y.dtype == np.float32, name
        expected = x.astype(ml_dtypes.bfloat16).astype(np.float32) if x.ndim > 1 else x
        assert expected.tobytes() == y.tobytes(), name


def test_saving_over_a_checkpoint_replaces_it(tiny_model, copy):
    twice = jax.tree.map(lambda x: x * 2, tiny_model.params)
    checkpoint.save(copy, tiny_model.config, twice, tiny_model.tokenizer)
    for name, x, y in pairs(twice, mqc_jax.load(copy).params):
        assert np.asarray(x).tobytes() == y.tobytes(), name
    assert not list(copy.glob(".partial-*"))


def test_switches_and_the_dtype_of_the_computation_are_kept_or_replaced(tiny_model, tiny_checkpoint):
    assert tiny_model.net.dtype == jnp.float32
    assert mqc_jax.load(tiny_checkpoint, dtype="bfloat16").net.dtype == jnp.bfloat16
    assert tiny_model.replace(calibration="none").params is tiny_model.params
    with pytest.raises(UserError, match=r"model\.memory='sam3' must be one of sam2, dami"):
        tiny_model.replace(memory="sam3")


def not_there(folder):
    shutil.rmtree(folder)


def no_config(folder):
    (folder / "config.json").unlink()


def foreign_json(folder):
    (folder / "config.json").write_text('{"architectures": ["Sam2Model"]}')


def a_list(folder):
    (folder / "config.json").write_text("[1, 2]")


def no_json(folder):
    (folder / "config.json").write_text("{")


def binary(folder):
    (folder / "config.json").write_bytes(b"\xff\xfe\x00garbage")


def other_format(folder):
    edit_config(folder, lambda facts: facts["mqc_jax"].update(format=99, version="9.0"))


def odd_header(folder):
    edit_config(folder, lambda facts: facts.update(mqc_jax="yes"))


def unknown_field(folder):
    edit_config(folder, lambda facts: facts["model"].update(imagesize=64))


def unknown_dtype(folder):
    edit_config(folder, lambda facts: facts.update(dtype="float7"))


def other_shape(folder):
    edit_config(folder, lambda facts: facts["model"].update(mem_dim=4))


def fewer_layers(folder):
    edit_config(folder, lambda facts: facts["model"].update(memory_attention_layers=2))


def no_params(folder):
    shutil.rmtree(folder / "params")


def empty_params(folder):
    shutil.rmtree(folder / "params")
    (folder / "params").mkdir()


def truncated(folder):
    files = [p for p in (folder / "params").rglob("*") if p.is_file() and p.stat().st_size > 4096]
    assert files
    for path in files:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


def no_vocabulary(folder):
    shutil.rmtree(folder / "tokenizer")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (not_there, "does not exist; give a checkpoint folder"),
        (no_config, r"is not a checkpoint of mqc_jax: it has no config\.json"),
        (foreign_json, r"is not a checkpoint of mqc_jax: its config\.json does not say so"),
        (a_list, "is not a checkpoint of mqc_jax"),
        (odd_header, "is not a checkpoint of mqc_jax"),
        (no_json, "is not valid JSON .*damaged"),
        (binary, "is not valid JSON .*damaged"),
        (other_format, r"has checkpoint format 99, this version reads 1; it was written by mqc_jax 9\.0"),
        (unknown_field, r"unknown config field model\.imagesize; did you mean 'image_size'"),
        (unknown_dtype, "dtype.*float7"),
        (
            other_shape,
            r"do not fit the model of its config: .*maskmem_tpos_enc is \[7, 1, 1, 8\].*needs \[7, 1, 1, 4\]",
        ),
        (fewer_layers, r"parameters are missing \(memory_attention\.layers\.1\..* and \d+ more\)"),
        (no_params, "holds no parameters yet"),
        (empty_params, "cannot be read .*damaged"),
        (truncated, "cannot be read .*damaged"),
        (no_vocabulary, "cannot read the tokenizer's options"),
    ],
)
def test_what_cannot_be_loaded_says_why(copy, damage, sentence):
    damage(copy)
    with pytest.raises(UserError, match=sentence) as caught:
        mqc_jax.load(copy)
    assert "\n" not in str(caught.value)


def test_a_run_without_a_finished_step_says_so(copy):
    shutil.rmtree(copy / "params")
    (copy / "checkpoints" / "5.orbax-checkpoint-tmp" / "params").mkdir(parents=True)
    with pytest.raises(UserError, match="holds no parameters yet"):
        mqc_jax.load(copy)


def test_a_runs_newest_step_is_taken_by_number(copy):
    for step in ("9", "10", "100.orbax-checkpoint-tmp"):
        (copy / "checkpoints" / step / "params").mkdir(parents=True)
    shutil.rmtree(copy / "params")
    assert checkpoint.params_folder(copy) == copy / "checkpoints" / "10" / "params"


def test_a_run_starts_from_another_checkpoints_parameters(tiny_model, tiny_checkpoint):
    fresh = jax.tree.map(jnp.zeros_like, tiny_model.params)
    merged, note = checkpoint.init_from(tiny_checkpoint, fresh)
    for name, x, y in pairs(tiny_model.params, merged):
        assert x.tobytes() == y.tobytes(), name
    count = len(jax.tree.leaves(fresh))
    assert note == f"took {count} of {count} parameters from {tiny_checkpoint}"


def test_parts_that_the_checkpoint_lacks_stay_fresh(tiny_model, tmp_path):
    kept = {k: v for k, v in tiny_model.params.items() if k != "bridge"}
    checkpoint.save(tmp_path / "sam2", tiny_model.config, kept, tiny_model.tokenizer)
    fresh = jax.tree.map(lambda x: jnp.full_like(x, 7), tiny_model.params)
    merged, note = checkpoint.init_from(tmp_path / "sam2", fresh)
    assert all((np.asarray(x) == 7).all() for x in jax.tree.leaves(merged["bridge"]))
    for name, x, y in pairs(kept, {k: v for k, v in merged.items() if k != "bridge"}):
        assert x.tobytes() == y.tobytes(), name
    assert "fresh: bridge." in note
    with pytest.raises(UserError, match=r"parameters are missing \(bridge\."):
        mqc_jax.load(tmp_path / "sam2")


def test_parameters_that_do_not_fit_are_named(tiny_model, tiny_checkpoint):
    other = dict(tiny_model.params)
    del other["bridge"]
    other["no_mem_embed"] = jnp.zeros((1, 1, 4))
    with pytest.raises(UserError, match=r"no_mem_embed is \[1, 1, 16\], this model needs \[1, 1, 4\]") as caught:
        checkpoint.init_from(tiny_checkpoint, other)
    assert "not part of the model: bridge." in str(caught.value)


def test_a_full_disk_leaves_no_checkpoint(tiny_model, tmp_path, monkeypatch):
    import errno
    import os

    from mqc_jax import text

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(text.Tokenizer, "save", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(tmp_path / "a", tiny_model.config, tiny_model.params, tiny_model.tokenizer)
    assert not list(tmp_path.iterdir())
