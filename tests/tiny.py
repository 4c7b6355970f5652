"""The model at a size that compiles in seconds, and the folders that its commands need."""

import concurrent.futures
import dataclasses
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from _layouts import write_ref_youtube_vos

from mqc_jax import checkpoint
from mqc_jax.config import BertConfig, BridgeConfig, Config, DataConfig, HieraConfig, ModelConfig, OptimConfig
from mqc_jax.models import functional
from mqc_jax.text import Tokenizer

ROOT = Path(__file__).parents[1]

MODEL = ModelConfig(
    image_size=64,
    hiera=HieraConfig(
        embed_dim=8,
        num_heads=1,
        stages=(1, 1, 1, 1),
        global_att_blocks=(2,),
        window_pos_embed_bkg_spatial_size=(4, 4),
        window_spec=(8, 4, 4, 2),
    ),
    bert=BertConfig(
        vocab_size=1152,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        max_tokens=16,
    ),
    bridge=BridgeConfig(num_prompts=2, num_layers=1, num_heads=2, ffn_dim=16, stride=8),
    d_model=16,
    mem_dim=8,
    memory_attention_layers=1,
    memory_attention_ffn=16,
    decoder_depth=1,
    decoder_heads=2,
    decoder_mlp=16,
    iou_head_depth=2,
    iou_head_hidden=16,
    fuser_layers=1,
)


def config(data_dir: str | Path = "", **fields) -> Config:
    """A run of the tiny model on a folder that `write_dataset` made; `fields` replace top-level ones."""
    data = DataConfig(dataset="ref_youtube_vos", data_dir=str(data_dir), clip_length=3, max_stride=2)
    base = Config(steps=6, batch_size=2, log_every=1, checkpoint_every=2, picture_every=1000, model=MODEL, data=data)
    return dataclasses.replace(base, **{"optim": OptimConfig(learning_rate=1e-3), **fields})


def parameters(model: ModelConfig = MODEL, seed: int = 1):
    """Random parameters, all of them: initial values would hide what zeros and tiny layer scales switch off."""
    rng = np.random.default_rng(seed)

    def draw(path: tuple, leaf) -> np.ndarray:
        noise = rng.normal(0, 1, leaf.shape)
        name = path[-1].key
        if name.endswith("kernel"):
            noise /= np.prod(leaf.shape[:-1]) ** 0.5
        elif name in ("scale", "gamma"):
            noise = 1 + 0.1 * noise
        elif name == "bias":
            noise *= 0.1
        return noise.astype(np.float32)

    params = jax.tree_util.tree_map_with_path(draw, functional.shapes(functional.build(model)))
    # Without a push some targets would be judged absent, and their masks would be one constant.
    params["sam_mask_decoder"]["pred_obj_score_head"]["layers.2"]["bias"] += 5.0
    return params


def write_checkpoint(folder: Path) -> None:
    """A checkpoint of random parameters."""
    checkpoint.save(folder, MODEL, parameters(), Tokenizer.default())


def write_dataset(root: Path) -> Path:
    """Videos of 10 frames, about 48x64."""
    write_ref_youtube_vos(root, "train", sequences=2)
    return write_ref_youtube_vos(root, "test", sequences=1)


def write_config(path: Path, run: Config) -> Path:
    """A config file whose `get_config` returns `run`."""
    path.write_text(
        "from mqc_jax import config\n"
        "from mqc_jax.config import *\n\n\n"
        f"def get_config():\n    return config.to_config_dict({run!r})\n"
    )
    return path


def frames(count: int, size: tuple[int, int] = (64, 64), seed: int = 0) -> list[np.ndarray]:
    """Pictures of noise, uint8 RGB."""
    rng = np.random.default_rng(seed)
    return list(rng.integers(0, 256, (count, *size, 3), dtype=np.uint8))


def users_environment() -> dict[str, str]:
    """The environment without what `make test` compiles with."""
    return {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}


def alone(function: Callable, *arguments: object, as_users: bool = True) -> object:
    """What a module's function gives in a process of its own, which compiles as a user's does, or as tests do."""
    flags = os.environ.pop("XLA_FLAGS", None) if as_users else None
    try:
        with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            return process.submit(function, *arguments).result()
    finally:
        if flags is not None:
            os.environ["XLA_FLAGS"] = flags


def command(module: str, *arguments: object, timeout: float = 120) -> subprocess.CompletedProcess:
    """Runs `python -m module` to its end."""
    line = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=timeout)


def refusal(done: subprocess.CompletedProcess) -> str:
    """The sentence of a command that refused its input: a status, one `error: ` line, no traceback."""
    assert done.returncode not in (0, None), done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    # A progress bar ends its lines with a carriage return.
    lines = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert done.stderr.strip().splitlines()[-1].endswith(lines[0]), done.stderr
    return lines[0].removeprefix("error: ")
