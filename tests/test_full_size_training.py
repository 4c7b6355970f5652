"""The paper's config from converted weights: one full optimizer step, in a process whose memory is watched."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sam2_oracle
import tiny
import torch
import transformers
from jax.tree_util import tree_leaves_with_path

from mqc_jax import checkpoint
from mqc_jax.config import ModelConfig
from mqc_jax.models import functional
from mqc_jax.text import DEFAULT_VOCABULARY, Tokenizer

GIB = 2**30
LIMIT = 20 * GIB


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Path:
    """SAM 2.1 Hiera-L and BERT-base at their published sizes, randomly initialised, through the conversion command."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    torch.save({"model": sam2_oracle.build(ModelConfig()).state_dict()}, folder / "sam2.pt")
    transformers.BertModel(transformers.BertConfig()).save_pretrained(folder / "bert")
    words = DEFAULT_VOCABULARY.read_text().split("\n")[:-1]
    filler = [f"[unused{i}]" for i in range(transformers.BertConfig().vocab_size - len(words))]
    Tokenizer(words + filler).save(folder / "bert")
    line = [sys.executable, "tools/convert_sam2.py", "--sam2", folder / "sam2.pt", "--bert", folder / "bert"]
    subprocess.run([*line, "--output", folder / "checkpoint"], cwd=tiny.ROOT, check=True)
    return folder / "checkpoint"


@pytest.mark.slow
def test_hiera_l_takes_a_step_under_20_gib(converted, tmp_path):
    data = tiny.write_dataset(tmp_path / "data")
    workdir = tmp_path / "run"
    settings = {
        "init_from": converted,
        "model.bert.vocab": converted / "tokenizer",
        "data.dataset": "ref_youtube_vos",
        "data.data_dir": data,
        "data.clip_length": 2,
        "batch_size": 1,
        "steps": 1,
        "log_every": 1,
        "eval_every": 0,
    }
    line = [sys.executable, "-m", "mqc_jax.train", "--config", "configs/mqc_sam_hiera_l.py", "--workdir", str(workdir)]
    line += [f"--config.{name}={value}" for name, value in settings.items()]
    done = subprocess.run(
        line, cwd=tiny.ROOT, capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # The largest of all children so far: what is under the limit here was so in this one.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"peak resident {peak / GIB:.1f} GiB")
    assert peak < LIMIT
    values = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    assert np.isfinite(values["loss"])
    assert values["skipped"] == 0

    shapes = functional.shapes(functional.build(ModelConfig()))
    after = checkpoint.read_params(workdir / checkpoint.STEPS / "1" / checkpoint.PARAMS, shapes)
    before = checkpoint.load(converted).params
    frozen = moved = 0
    for (path, new), (_, old) in zip(
        tree_leaves_with_path(after["text_encoder"]), tree_leaves_with_path(before["text_encoder"]), strict=True
    ):
        np.testing.assert_array_equal(new, old, err_msg=str(path))
        frozen += 1
    for (_, new), (_, old) in zip(
        tree_leaves_with_path(after["image_encoder"]), tree_leaves_with_path(before["image_encoder"]), strict=True
    ):
        moved += bool(np.any(new != old))
    assert frozen > 100
    assert moved > 0.9 * len(tree_leaves_with_path(before["image_encoder"]))
