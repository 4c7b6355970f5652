"""Training as a user meets it: it can be killed at any moment, it refuses what it cannot continue, and it learns."""

import dataclasses
import functools
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from mqc_jax import checkpoint
from mqc_jax.config import BridgeConfig, Config, DataConfig, HieraConfig, LossConfig, OptimConfig
from mqc_jax.data.synthetic.planning import DIFFICULTIES
from mqc_jax.data.synthetic.write import write_split
from mqc_jax.errors import UserError
from mqc_jax.models import functional
from mqc_jax.text import Tokenizer
from mqc_jax.train import loop, step
from mqc_jax.train.run_folder import RunFolder

STEPS, EVERY = 12, 3


def run_config(data_dir: Path) -> Config:
    optim = OptimConfig(learning_rate=1e-3, average=0.8)
    return tiny.config(data_dir, steps=STEPS, checkpoint_every=EVERY, optim=optim)


def lines(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def compiled_steps() -> set[str]:
    """Training steps that the compilation cache holds."""
    return {path.name for path in Path(jax.config.jax_compilation_cache_dir).glob("jit_train_step-*-cache")}


def assert_same_bits(a, b) -> None:
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes(), jax.tree_util.keystr(path)


@pytest.fixture(scope="module")
def uninterrupted(tiny_dataset, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "uninterrupted"
    loop.train(run_config(tiny_dataset), str(workdir))
    return workdir


def test_each_logged_step_has_its_loss_terms_rate_and_speed(uninterrupted):
    logged = lines(uninterrupted)
    assert [line["step"] for line in logged] == list(range(1, STEPS + 1))
    for line in logged:
        terms = [line[name] for name in ("focal", "dice", "iou", "objectness", "coarse")]
        np.testing.assert_allclose(line["loss"], sum(terms), rtol=1e-4)
        assert 0 <= line["J"] <= 1
        assert line["clips_per_s"] > 0
        assert 0 <= line["data_wait"] <= 1
        np.testing.assert_allclose(line["lr"], 1e-3 * (1 - (line["step"] - 1) / STEPS) ** 0.9, rtol=1e-3)
    assert list((uninterrupted / "tensorboard").glob("events*"))


@functools.cache
def shapes():
    return functional.shapes(functional.build(tiny.MODEL))


def stored(workdir: Path, name: str):
    """Parameters of a run's last step, as they are stored under a name."""
    return checkpoint.read_params(workdir / checkpoint.STEPS / str(STEPS) / name, shapes())


def test_a_runs_folder_loads_as_the_running_mean_in_its_newest_checkpoint(uninterrupted):
    model = checkpoint.load(uninterrupted)
    newest = uninterrupted / checkpoint.STEPS / str(STEPS) / checkpoint.AVERAGE
    assert checkpoint.params_folder(uninterrupted) == newest
    assert_same_bits(model.params, stored(uninterrupted, checkpoint.AVERAGE))
    assert model.config == tiny.MODEL
    last, mean = (jax.tree.leaves(stored(uninterrupted, x)) for x in (checkpoint.PARAMS, checkpoint.AVERAGE))
    apart = max(float(abs(a - b).max()) for a, b in zip(last, mean, strict=True))
    assert 0 < apart < 1e-3 * STEPS


def test_the_running_mean_forgets_as_its_decay_says():
    rng = np.random.default_rng(0)
    values, mean, expected = rng.normal(0, 1, (60, 3)).astype(np.float32), jnp.full(3, 7.0), np.full(3, 7.0)
    for k, value in enumerate(values):
        mean = step._averaged(mean, jnp.asarray(value), 0.8, jnp.asarray(k))
        keep = min(0.8, (1 + k) / (10 + k))
        expected = keep * expected + (1 - keep) * value
        np.testing.assert_allclose(mean, expected, atol=1e-5)
    weights = 0.8 ** np.arange(30)[::-1]
    np.testing.assert_allclose(mean, (weights[:, None] * values[-30:]).sum(0) / weights.sum(), atol=5e-3)


@pytest.mark.parametrize("twice", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_killed_at_any_moment_training_ends_with_the_same_bits(twice, uninterrupted, tiny_dataset, tmp_path, request):
    """After some step, or while it compiles as well."""
    workdir = tmp_path / "killed"
    config = tiny.write_config(tmp_path / "config.py", run_config(tiny_dataset))
    line = [sys.executable, "-m", "mqc_jax.train", "--config", str(config), "--workdir", str(workdir)]
    dice = random.Random()
    programs = compiled_steps()

    def start() -> subprocess.Popen:
        process = subprocess.Popen(line, cwd=tiny.ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        request.addfinalizer(process.kill)
        return process

    def kill_when(ready) -> None:
        process = start()
        deadline = time.monotonic() + 600
        while not ready():
            assert process.poll() is None, process.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(dice.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL

    def last_step() -> int:
        try:
            return sum(1 for _ in (workdir / "metrics.jsonl").open())
        except FileNotFoundError:
            return 0

    if twice:  # before there is any checkpoint
        kill_when((workdir / "config.json").exists)
        assert last_step() == 0
    after = dice.randint(EVERY + 1, STEPS - 6)
    kill_when(lambda: last_step() >= after and any((workdir / checkpoint.STEPS).glob("[0-9]*")))
    done = start()
    _, messages = done.communicate(timeout=600)
    assert done.returncode == 0, messages.decode()

    assert [x["step"] for x in lines(workdir)] == list(range(1, STEPS + 1)), f"killed after step {after}"
    for name in ("loss", "grad_norm", "J"):
        assert [x[name] for x in lines(workdir)] == [x[name] for x in lines(uninterrupted)], name
    for name in (checkpoint.PARAMS, checkpoint.AVERAGE):
        assert_same_bits(stored(uninterrupted, name), stored(workdir, name))
    assert not list(workdir.glob(".partial-*"))
    # A resumed run is the very program of a fresh one: nothing was compiled again.
    assert compiled_steps() == programs


def test_a_finished_run_started_again_changes_nothing(uninterrupted, tiny_dataset):
    before = {p: p.read_bytes() for p in (uninterrupted / checkpoint.STEPS).rglob("*") if p.is_file()}
    logged = lines(uninterrupted)
    loop.train(run_config(tiny_dataset), str(uninterrupted))
    assert {p: p.read_bytes() for p in (uninterrupted / checkpoint.STEPS).rglob("*") if p.is_file()} == before
    assert lines(uninterrupted) == logged


def test_a_workdir_of_another_config_is_refused_by_the_fields_name(uninterrupted, tiny_dataset):
    base = run_config(tiny_dataset)
    for changed, field in (
        (dataclasses.replace(base, seed=5), r"config\.seed was 0, is now 5"),
        (dataclasses.replace(base, optim=OptimConfig(learning_rate=0.5)), r"config\.optim\.learning_rate was 0\.001"),
    ):
        with pytest.raises(UserError, match=field):
            loop.train(changed, str(uninterrupted))
    # How often it speaks and who reads the data is nothing that a run's result depends on.
    for same in (
        dataclasses.replace(base, log_every=7),
        dataclasses.replace(base, data=dataclasses.replace(base.data, num_threads=3, num_workers=2)),
    ):
        RunFolder(uninterrupted, same, Tokenizer.default()).close()


def test_a_folder_of_something_else_is_left_alone(tiny_dataset, tiny_checkpoint, tmp_path):
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty and not a training run"):
        RunFolder(tmp_path, run_config(tiny_dataset), Tokenizer.default())
    assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]
    with pytest.raises(UserError, match="holds a checkpoint but no training run"):
        RunFolder(tiny_checkpoint, run_config(tiny_dataset), Tokenizer.default())


@pytest.mark.parametrize("allowed", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_loss_that_is_no_number_stops_the_run_and_names_the_clips(allowed, uninterrupted, tiny_dataset, tmp_path):
    """At once, or when more updates than allowed would have been left out."""
    poisoned = jax.tree.map(lambda x: np.full(x.shape, np.nan, np.float32), checkpoint.load(uninterrupted).params)
    checkpoint.save(tmp_path / "nan", tiny.MODEL, poisoned, Tokenizer.default())
    config = dataclasses.replace(
        run_config(tiny_dataset), init_from=str(tmp_path / "nan"), skip_nonfinite=allowed, checkpoint_every=2
    )
    said = rf"the loss is nan, .* at step {allowed + 1}, on video\d/\d/0/\d, video.*lower the learning rate"
    with pytest.raises(UserError, match=rf"{said}.*\(now {allowed}\)"):
        loop.train(config, str(tmp_path / "run"))


def test_a_restart_drops_what_was_logged_after_the_checkpoint(tiny_dataset, tmp_path):
    folder = RunFolder(tmp_path / "run", run_config(tiny_dataset), Tokenizer.default())
    log = tmp_path / "run" / "metrics.jsonl"
    log.write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 2.0}\n{"step": 3, "loss": 3.0}\n{"step": 4, "lo')
    folder.open_log(2)
    folder.log(3, {"loss": 4.0})
    folder.close()
    assert [(x["step"], x["loss"]) for x in lines(tmp_path / "run")] == [(1, 1.0), (2, 2.0), (3, 4.0)]


@pytest.mark.parametrize(("at", "expected"), [(0, 0.5), (5, 0.25), (10, 0.0), (50, 0.0)])
def test_teacher_forcing_falls_linearly_to_zero(at, expected):
    config = LossConfig(teacher_forcing=0.5, teacher_forcing_steps=10)
    np.testing.assert_allclose(step.teacher_forcing(config, 1000, jnp.asarray(at)), expected, atol=1e-6)
    whole = dataclasses.replace(config, teacher_forcing_steps=0)
    np.testing.assert_allclose(step.teacher_forcing(whole, 1000, jnp.asarray(500)), 0.25, atol=1e-6)


def test_a_vocabulary_larger_than_the_word_embedding_is_refused():
    with pytest.raises(UserError, match=r"model\.bert\.vocab_size=100 is smaller than the vocabulary 'small'"):
        loop.make_tokenizer(dataclasses.replace(tiny.MODEL.bert, vocab_size=100))


@pytest.mark.slow
def test_training_overfits_four_clips(tmp_path):
    data, size, steps = tmp_path / "data", 192, 300
    write_split(data, 4, seed=3, size=(128, 128), frames=4, disable=DIFFICULTIES, workers=1, progress=False)
    model = dataclasses.replace(
        tiny.MODEL,
        image_size=size,
        hiera=HieraConfig(
            embed_dim=16,
            num_heads=1,
            stages=(1, 1, 2, 1),
            global_att_blocks=(3,),
            window_pos_embed_bkg_spatial_size=(8, 8),
            window_spec=(8, 4, 12, 6),
        ),
        bert=dataclasses.replace(tiny.MODEL.bert, hidden_size=32, intermediate_size=64),
        bridge=BridgeConfig(num_prompts=2, num_layers=1, num_heads=2, ffn_dim=64, stride=8),
        d_model=64,
        mem_dim=32,
        memory_attention_ffn=64,
        decoder_depth=2,
        decoder_heads=4,
        decoder_mlp=64,
        iou_head_hidden=32,
    )
    clip = DataConfig(
        dataset="ref_youtube_vos",
        data_dir=str(data),
        train_split="train",
        eval_split="train",
        clip_length=3,
        max_stride=1,
    )
    config = Config(
        steps=steps,
        batch_size=4,
        log_every=25,
        checkpoint_every=steps,
        eval_every=100,
        eval_clips=4,
        picture_every=steps,
        model=model,
        data=clip,
        optim=OptimConfig(learning_rate=2e-3, warmup_steps=50, weight_decay=0.0),
        loss=LossConfig(teacher_forcing=0.5, teacher_forcing_steps=steps // 2),
    )
    workdir = tmp_path / "run"
    loop.train(config, str(workdir))
    # No teacher forcing here: memory comes from predictions alone, from a sentence on.
    curve = {x["step"]: x["held_out_J"] for x in lines(workdir) if "held_out_J" in x}
    print(curve)
    assert list(curve) == [0, 100, 200, 300]
    assert curve[0] < 0.1
    assert curve[steps] >= 0.9
