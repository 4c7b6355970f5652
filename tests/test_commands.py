"""What the commands answer to bad input: one sentence, a status that is not zero, and nothing half-written."""

import dataclasses
import errno
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny

from mqc_jax import predict
from mqc_jax.config import OptimConfig
from mqc_jax.text import Tokenizer
from mqc_jax.train.run_folder import RunFolder

TEXT = "the yacht at the left"


@pytest.fixture(scope="module")
def config_file(tiny_dataset, tmp_path_factory) -> Path:
    return tiny.write_config(tmp_path_factory.mktemp("config") / "tiny.py", tiny.config(tiny_dataset))


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """A folder of four frames."""
    folder = tmp_path_factory.mktemp("video")
    for t, frame in enumerate(tiny.frames(4, (72, 100))):
        cv2.imwrite(str(folder / f"{t:05d}.png"), frame)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ---- training: before anything is read ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "--config.optim.learning_rat=1",
            "unknown config field config.optim.learning_rat; did you mean 'learning_rate'",
        ),
        ("--config.model.hiera.stage=(1,)", "config.model.hiera.stage; did you mean 'stages'?"),
        ("--config.optim.learning_rate=fast", "config.optim.learning_rate=fast: could not convert string to float"),
        ("--config.steps=2.5", "config.steps=2.5: invalid literal for int()"),
        (
            "--config.model.image_size=500",
            "model.image_size=500 must be a multiple of 32, at least 64; nearest: 480 or 512",
        ),
        ("--config.steps=0", "config.steps=0 must be at least 1"),
        ("stray", "unexpected argument 'stray'"),
    ],
)
def test_training_refuses_an_override(config_file, tmp_path, override, sentence):
    done = tiny.command("mqc_jax.train", "--config", config_file, "--workdir", tmp_path / "run", override)
    assert sentence in tiny.refusal(done)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            "from mqc_jax.config import *\n"
            "def get_config(): return to_config_dict(Config(optim=OptimConfig(lerning_rate=1.0)))",
            "unknown config field lerning_rate of OptimConfig in the config file; did you mean 'learning_rate'?",
        ),
        (
            "import ml_collections\n"
            "def get_config(): return ml_collections.ConfigDict({'optim': {'learning_rat': 1.0}})",
            "unknown config field config.optim.learning_rat; did you mean 'learning_rate'?",
        ),
        (
            "import ml_collections\ndef get_config(): return ml_collections.ConfigDict({'steps': 'many'})",
            "config.steps='many' must be of type int, not str",
        ),
        ("def get_config(:", "the config file fails: SyntaxError"),
        ("import no_such_module", "the config file fails: ModuleNotFoundError: No module named 'no_such_module'"),
        ("def get_config(): return 1 / 0", "the config file fails: ZeroDivisionError"),
        ("x = 1", "the config file fails: AttributeError"),
    ],
)
def test_training_refuses_a_config_file(tmp_path, content, sentence):
    (tmp_path / "config.py").write_text(content)
    done = tiny.command("mqc_jax.train", "--config", tmp_path / "config.py", "--workdir", tmp_path / "run")
    assert sentence in tiny.refusal(done)
    assert not (tmp_path / "run").exists()


def test_training_refuses_to_start_without_its_parts(config_file, tmp_path):
    workdir = ("--workdir", tmp_path / "run")
    assert "--config is missing" in tiny.refusal(tiny.command("mqc_jax.train", *workdir))
    assert "--workdir is missing" in tiny.refusal(tiny.command("mqc_jax.train", "--config", config_file))
    for more in ((), ("--config.steps=3",)):
        done = tiny.command("mqc_jax.train", "--config", tmp_path / "no.py", *workdir, *more)
        assert "the config file cannot be read: [Errno 2]" in tiny.refusal(done)
    assert not list(tmp_path.iterdir())


# ---- training: data and folders -------------------------------------------------------------------------------------


def test_training_refuses_data_that_is_not_there(config_file, tiny_dataset, tmp_path):
    line = ("mqc_jax.train", "--config", config_file, "--workdir", tmp_path / "run")
    assert "does not exist" in tiny.refusal(tiny.command(*line, f"--config.data.data_dir={tmp_path / 'no'}"))
    assert "val" in tiny.refusal(tiny.command(*line, "--config.data.train_split=val"))
    empty = Path(shutil.copytree(tiny_dataset, tmp_path / "empty"))
    listing = empty / "meta_expressions" / "train" / "meta_expressions.json"
    listing.write_text(json.dumps({"videos": {}}))
    tiny.refusal(tiny.command(*line, f"--config.data.data_dir={empty}"))
    assert not (tmp_path / "run").exists()


def test_training_refuses_a_folder_that_it_cannot_write(config_file, tmp_path):
    (tmp_path / "file").write_text("mine")
    for workdir in (tmp_path / "file" / "run", tmp_path / "file", "/proc/run"):
        done = tiny.command("mqc_jax.train", "--config", config_file, "--workdir", workdir)
        assert f"cannot write to the workdir {workdir}" in tiny.refusal(done)
    assert contents(tmp_path) == {"file": b"mine"}


def test_training_refuses_a_workdir_of_another_config(config_file, tiny_dataset, tmp_path):
    other = dataclasses.replace(tiny.config(tiny_dataset), optim=OptimConfig(learning_rate=0.25))
    RunFolder(tmp_path / "run", other, Tokenizer.default()).close()
    before = contents(tmp_path)
    done = tiny.command("mqc_jax.train", "--config", config_file, "--workdir", tmp_path / "run")
    assert "config.optim.learning_rate was 0.25, is now 0.001" in tiny.refusal(done)
    assert contents(tmp_path) == before


def test_a_dry_run_tells_sizes_and_writes_nothing(config_file, tmp_path):
    # The encoder's stage: of all steps the one that compiles soonest.
    stage = [f"--config.{x}" for x in ("data.targets=0", "data.clip_length=1", "model.classes=3", "batch_size=64")]
    line = ("--config", config_file, *stage, "--config.dry_run", "--workdir", tmp_path / "run")
    done = tiny.command("mqc_jax.train", *line, timeout=300)
    assert done.returncode == 0, done.stderr
    total = next(line.split() for line in done.stdout.splitlines() if line.startswith("all "))
    whole, trained = (int(x.replace(",", "")) for x in total[1:])
    assert whole - trained == 2 * 8  # SAM2's fixed position matrix
    assert "mesh: data 1 x fsdp 1" in done.stdout
    assert float(re.search(r"work space ([\d.]+) GiB", done.stdout)[1]) > 0
    assert not (tmp_path / "run").exists()


# ---- prediction -----------------------------------------------------------------------------------------------------


def refused_prediction(tmp_path: Path, video: object, checkpoint: object, *texts: str) -> str:
    output = tmp_path / "out"
    more = [part for text in texts for part in ("--text", text)]
    line = ("--checkpoint", checkpoint, "--video", video, "--output", output, *more)
    sentence = tiny.refusal(tiny.command("mqc_jax.predict", *line))
    assert not output.exists()
    return sentence


def test_prediction_refuses_a_checkpoint(tmp_path, video, tiny_checkpoint):
    assert "does not exist" in refused_prediction(tmp_path, video, tmp_path / "no", TEXT)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text('{"architectures": ["Sam2Model"]}')
    assert "is not a checkpoint of mqc_jax" in refused_prediction(tmp_path, video, foreign, TEXT)
    other = Path(shutil.copytree(tiny_checkpoint, tmp_path / "other"))
    facts = json.loads((other / "config.json").read_text())
    facts["model"]["mem_dim"] = 4
    (other / "config.json").write_text(json.dumps(facts))
    assert "maskmem_tpos_enc is [7, 1, 1, 8], the model needs [7, 1, 1, 4]" in refused_prediction(
        tmp_path, video, other, TEXT
    )


def test_prediction_refuses_a_text(tmp_path, video, tiny_checkpoint):
    assert "--text" in refused_prediction(tmp_path, video, tiny_checkpoint)
    refused_prediction(tmp_path, video, tiny_checkpoint, TEXT, "  ")
    long = "the yacht " * 20
    assert "has 42 tokens and the limit is 16" in refused_prediction(tmp_path, video, tiny_checkpoint, long)


def test_prediction_refuses_a_video(tmp_path, video, tiny_checkpoint):
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "nothing").mkdir()
    mixed = Path(shutil.copytree(video, tmp_path / "mixed"))
    cv2.imwrite(str(mixed / "00002.png"), tiny.frames(1, (64, 64))[0])
    torn = Path(shutil.copytree(video, tmp_path / "torn"))
    (torn / "00003.png").write_bytes((torn / "00003.png").read_bytes()[:200])
    for path, word in (
        (tmp_path / "no.mp4", "no.mp4"),
        (tmp_path / "noise.mp4", "noise.mp4"),
        (tmp_path / "nothing", "nothing"),
        (mixed, "64x64"),
        (torn, "00003.png"),
    ):
        assert word in refused_prediction(tmp_path, path, tiny_checkpoint, TEXT), path


def test_prediction_refuses_an_output_that_it_cannot_write(tmp_path, video, tiny_checkpoint):
    (tmp_path / "file").write_text("mine")
    for output in (tmp_path / "file" / "out", "/proc/out"):
        line = ("--checkpoint", tiny_checkpoint, "--video", video, "--text", TEXT, "--output", output)
        assert f"cannot write to the output folder {output}" in tiny.refusal(tiny.command("mqc_jax.predict", *line))
    assert contents(tmp_path) == {"file": b"mine"}


# ---- evaluation -----------------------------------------------------------------------------------------------------


def test_evaluation_refuses_what_it_cannot_use(tmp_path, tiny_dataset, tiny_checkpoint):
    output = tmp_path / "out"

    def refused(checkpoint=tiny_checkpoint, data=tiny_dataset, dataset="ref_youtube_vos", split="test", to=output):
        line = ("--checkpoint", checkpoint, "--data_dir", data, "--dataset", dataset, "--split", split, "--output", to)
        sentence = tiny.refusal(tiny.command("mqc_jax.evaluate", *line))
        assert not output.exists()
        return sentence

    assert "does not exist" in refused(checkpoint=tmp_path / "no")
    assert "does not exist" in refused(data=tmp_path / "no")
    assert "did you mean 'ref_youtube_vos'" in refused(dataset="ref_youtube_vis")
    assert "valid" in refused(split="valid")
    (tmp_path / "file").write_text("mine")
    assert "cannot write to the output folder" in refused(to=tmp_path / "file" / "out")
    empty = Path(shutil.copytree(tiny_dataset, tmp_path / "empty"))
    (empty / "meta_expressions" / "test" / "meta_expressions.json").write_text(json.dumps({"videos": {}}))
    refused(data=empty)


# ---- a full disk ----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 KiB, where the system lets one be mounted; else None."""
    disk = tmp_path / "disk"
    disk.mkdir()
    line = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk]
    mounted = shutil.which("mount") and subprocess.run(line, capture_output=True).returncode == 0
    yield disk if mounted else None
    if mounted:
        subprocess.run(["umount", disk], check=True)


def test_a_full_disk_ends_prediction_with_nothing_half_written(
    small_disk, video, tiny_checkpoint, tmp_path, monkeypatch
):
    if small_disk is None:  # no right to mount: the same error, raised where the report is written

        def full(path, *_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

        monkeypatch.setattr(predict, "write_report", full)
        import mqc_jax

        model = mqc_jax.load(tiny_checkpoint)
        with pytest.raises(OSError, match="No space left"):
            predict.predict(str(video), [TEXT], str(tmp_path / "out"), lambda t: mqc_jax.Tracker(model, t))
        assert not (tmp_path / "out").exists()
        return
    line = ("--checkpoint", tiny_checkpoint, "--video", video, "--text", TEXT, "--output", small_disk / "out")
    assert "no space left on the disk" in tiny.refusal(tiny.command("mqc_jax.predict", *line)).lower()
    assert not list(small_disk.iterdir())


def test_a_full_disk_ends_training_with_a_sentence(small_disk, config_file, tiny_dataset, tmp_path, monkeypatch):
    if small_disk is None:
        from mqc_jax import files
        from mqc_jax.errors import UserError

        def full(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(files.os, "fsync", full)
        with pytest.raises(UserError, match="No space left"):
            RunFolder(tmp_path / "run", tiny.config(tiny_dataset), Tokenizer.default())
        return
    (small_disk / "ballast").write_bytes(bytes(60 * 1024))
    done = tiny.command("mqc_jax.train", "--config", config_file, "--workdir", small_disk / "run")
    assert "no space left" in tiny.refusal(done).lower()
    assert not [p for p in (small_disk / "run").rglob("*") if p.name == "config.json" or ".partial" in p.name]
