"""Checkpoints: a folder that holds everything a model needs, and nothing that runs code when it is read.

    DIR/config.json     format, the model's config, compute dtype, what was trained
    DIR/params/         the parameters (Orbax)
    DIR/tokenizer/      the text encoder's vocabulary

A training run keeps such folders under `WORKDIR/checkpoints/<step>/`, with the optimizer's state and, where the run
keeps one, the parameters' running mean (`average/`) beside `params`, and `config.json` and `tokenizer/` at the top of
WORKDIR; `load` takes either kind of folder.
"""

import dataclasses
import functools
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from mqc_jax import __version__, files
from mqc_jax.config import ModelConfig, check_dtype, parse, to_dict
from mqc_jax.errors import UserError
from mqc_jax.models import dami, functional
from mqc_jax.models.mqc_sam import MQCSAM
from mqc_jax.text import Tokenizer

FORMAT = 1
CONFIG, PARAMS, TOKENIZER, STEPS = "config.json", "params", "tokenizer", "checkpoints"
AVERAGE = "average"
SHIPPED = Path(__file__).parent / "assets" / "checkpoint"

logging.getLogger("absl").setLevel(logging.WARNING)


@dataclasses.dataclass(frozen=True)
class Model:
    """A loaded model.

    Attributes:
      config: sizes and switches.
      params: parameter tree, float32; without "bridge" where the checkpoint was converted and not trained.
      tokenizer: sentences to token ids; None where no text encoder was converted.
      net: the Flax module for `config`.
      path: where it came from.
    """

    config: ModelConfig
    params: Any
    tokenizer: Tokenizer | None
    net: MQCSAM
    path: str

    def replace(self, **switches: Any) -> "Model":
        """The same parameters under other switches, e.g. `calibration="none"`.

        With `memory="dami"` a checkpoint that was trained with SAM2's memory gets DAMI's gates without any training:
        its one cross-attention reads the three memories together (`dami.fusion` becomes "joint"), and a frame's
        robustness is the decoder's own confidence.

        Raises:
          UserError: a switch is unknown or impossible, or the parameters cannot serve it.
        """
        config = parse({**to_dict(self.config), **switches}, ModelConfig, "model")
        params = self.params
        if (self.config.memory, config.memory) == ("dami", "sam2"):
            raise UserError(
                f"the checkpoint {self.path} was trained with memory='dami' and has no memory='sam2' to go back to; "
                "use the checkpoint that it was trained from"
            )
        if self.config.memory != config.memory:
            config = dataclasses.replace(config, dami=dataclasses.replace(config.dami, fusion="joint"))
        net = MQCSAM(config, self.net.dtype)
        if self.config.memory != config.memory:
            wanted = functional.shapes(net)
            scorer = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), wanted["robustness_scorer"])
            params = {**_decoupled(wanted, params), "robustness_scorer": scorer}
        return dataclasses.replace(self, config=config, net=net, params=params)

    def require_text(self) -> None:
        """Raises `UserError` unless this model can read a sentence."""
        if "bridge" not in self.params:
            raise UserError(
                f"checkpoint {self.path} has no trained bridge from text to vision, so it tracks from masks only; train"
                f" one with python -m mqc_jax.train --config CONFIG --workdir DIR --config.init_from={self.path}"
            )


def load(path: str | Path | None = None, dtype: str | None = None) -> Model:
    """Reads a checkpoint.

    Args:
      path: a checkpoint folder, or a training run's folder (its newest checkpoint). None: the one that ships.
      dtype: dtype of the computation; None: what the checkpoint's config says.

    Raises:
      UserError: nothing there, not a checkpoint of this project, or parameters that do not fit its own config.
    """
    root = Path(path) if path is not None else SHIPPED
    facts = read_config(root)
    params_dir = params_folder(root)
    absent = _absent(facts, root)
    config = parse(facts["model"], ModelConfig, "model")
    dtype = dtype or facts.get("dtype", "float32")
    check_dtype(dtype, "dtype")
    net = functional.build(config, dtype)
    params = read_params(params_dir, {k: v for k, v in functional.shapes(net).items() if k not in absent})
    tokenizer = None if "text_encoder" in absent else Tokenizer.load(root / TOKENIZER)
    return Model(config, params, tokenizer, net, str(root))


def _absent(facts: dict[str, Any], root: Path) -> tuple[str, ...]:
    """The modules that a checkpoint need not hold: none, or, freshly converted, the bridge and perhaps BERT."""
    parts = facts.get("parts")
    if parts is None:
        return ()
    if not isinstance(parts, list) or "sam2" not in parts:
        raise UserError(
            f"{root} holds no SAM2, only {parts!r} (the field parts of its {CONFIG}), so it cannot track; convert SAM2"
            " with it: python tools/convert_sam2.py --sam2 FILE_OR_DIR --bert DIR --output DIR"
        )
    return ("bridge",) if "text_encoder" in parts else ("bridge", "text_encoder")


def read_config(root: Path) -> dict[str, Any]:
    """The contents of a checkpoint's config.json, checked for being one."""
    if not root.exists():
        raise UserError(f"checkpoint {root} does not exist; give a checkpoint folder or a training run's folder")
    if not (root / CONFIG).is_file():
        raise UserError(f"{root} is not a checkpoint of mqc_jax: it has no {CONFIG}")
    try:
        facts = json.loads((root / CONFIG).read_text())
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{root / CONFIG} is not valid JSON ({error}); the checkpoint is damaged") from error
    if not isinstance(facts, dict) or not isinstance(facts.get("mqc_jax"), dict) or "model" not in facts:
        raise UserError(f"{root} is not a checkpoint of mqc_jax: its {CONFIG} does not say so")
    if facts["mqc_jax"].get("format") != FORMAT:
        raise UserError(
            f"{root} has checkpoint format {facts['mqc_jax'].get('format')!r}, this version reads {FORMAT}; "
            f"it was written by mqc_jax {facts['mqc_jax'].get('version')}, use that one"
        )
    return facts


def params_folder(root: Path) -> Path:
    """Where a checkpoint's or a training run's newest parameters lie: their running mean, if the run kept one."""
    if (root / PARAMS).is_dir():
        return root / PARAMS
    steps = sorted(
        (int(p.name) for p in (root / STEPS).glob("*") if p.name.isdigit() and (p / PARAMS).is_dir()), reverse=True
    )
    if not steps:
        raise UserError(f"{root} holds no parameters yet: neither {PARAMS}/ nor a finished step under {STEPS}/")
    newest = root / STEPS / str(steps[0])
    return newest / (AVERAGE if (newest / AVERAGE).is_dir() else PARAMS)


def _flat(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {".".join(str(k.key) for k in path): tuple(leaf.shape) for path, leaf in leaves}


def _listing(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def compare(found: Any, expected: Any) -> str:
    """What differs between two parameter trees, as one sentence; empty when nothing does."""
    a, b = _flat(found), _flat(expected)
    parts = []
    if missing := sorted(b.keys() - a.keys()):
        parts.append(f"{len(missing)} parameters are missing ({_listing(missing)})")
    if extra := sorted(a.keys() - b.keys()):
        parts.append(f"{len(extra)} are not part of the model ({_listing(extra)})")
    if wrong := sorted(k for k in a.keys() & b.keys() if a[k] != b[k]):
        shapes = [f"{k} is {list(a[k])}, the model needs {list(b[k])}" for k in wrong]
        parts.append(f"{len(wrong)} have another shape ({_listing(shapes)})")
    return "; ".join(parts)


def read_params(folder: Path, expected: Any) -> Any:
    """Restores float32 parameters and checks them against the model's shapes."""
    with ocp.StandardCheckpointer() as checkpointer:
        try:
            found = checkpointer.metadata(folder.absolute()).item_metadata
            found = getattr(found, "tree", found)
            if found is None:
                raise ValueError("it holds no parameter tree")
            if difference := compare(found, expected):
                raise UserError(f"the parameters in {folder} do not fit the model of its config: {difference}")
            device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
            target = jax.tree.map(lambda x, y: jax.ShapeDtypeStruct(x.shape, y.dtype, sharding=device), expected, found)
            restored = checkpointer.restore(folder.absolute(), target)
        except UserError:
            raise
        except Exception as error:  # Orbax and its storage raise many kinds for a damaged folder
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(
                f"the parameters in {folder} cannot be read ({first[:200]}); the checkpoint is damaged"
            ) from error
    # In NumPy, and together: each shape would be a program of its own to compile.
    return jax.device_put(jax.tree.map(lambda x, y: np.asarray(x).astype(y.dtype), restored, expected))


def describe(config: ModelConfig, dtype: str, **facts: Any) -> str:
    """The text of config.json."""
    head = {"mqc_jax": {"format": FORMAT, "version": __version__}, "dtype": dtype, **facts}
    return json.dumps({**head, "model": to_dict(config)}, indent=2) + "\n"


def narrow(params: Any, dtype: str) -> Any:
    """Parameters as they are stored: matrices in `dtype`, scalars and vectors as they are."""
    return jax.tree.map(lambda x: x.astype(dtype) if x.ndim > 1 else x, params)


def save(
    output: str | Path,
    config: ModelConfig,
    params: Any,
    tokenizer: Tokenizer,
    dtype: str = "float32",
    params_dtype: str = "float32",
    **facts: Any,
) -> None:
    """Writes a checkpoint folder, whole or not at all.

    Args:
      output: the folder; it may hold an older checkpoint, which is replaced.
      params_dtype: of the stored parameters; "bfloat16" halves the folder. Scalars and vectors stay float32.
      facts: further entries of config.json, e.g. how it was trained.
    """
    with files.staged(output) as staging:
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save((staging / PARAMS).absolute(), narrow(params, params_dtype))
        # It says where the folder was written, which is nobody else's business.
        (staging / PARAMS / "commit_success.txt").unlink(missing_ok=True)
        tokenizer.save(staging / TOKENIZER)
        (staging / CONFIG).write_text(describe(config, dtype, **facts))
        # Orbax's files are named by content: an older folder must go, not be merged into.
        shutil.rmtree(Path(output) / PARAMS, ignore_errors=True)


def _decoupled(params: Any, found: Any) -> Any:
    """`found` with the memory attention in the form that `params` has: SAM2's becomes DAMI's."""
    here, there = (tree.get("memory_attention", {}).get("layers.0", {}) for tree in (params, found))
    if "p_rel" not in here or "cross_attn_image" not in there:
        return found
    fusion = "joint" if "joint_attn" in here else "sum"
    attention = dami.from_sam2(found["memory_attention"], here["p_rel"].shape[0], fusion)
    return {**found, "memory_attention": attention}


def init_from(path: str | Path, params: Any, tokenizer: Tokenizer | None = None) -> tuple[Any, str]:
    """Starts a run from another checkpoint's parameters.

    Every parameter of the checkpoint must exist here with the same shape; parameters that it lacks (a bridge, say,
    where only SAM2 was converted) keep their fresh values. Where this model has DAMI's memory and the checkpoint
    SAM2's, each of its attentions starts as SAM2's cross-attention.

    Args:
      path: the other checkpoint, or a training run's folder.
      params: fresh parameters of this run's model.
      tokenizer: this run's; where the checkpoint brings a text encoder, its own must be the same.

    Returns:
      The parameters, and one sentence on what was taken.

    Raises:
      UserError: the checkpoint is not one, does not fit this model, or was made with another tokenizer.
    """
    root = Path(path)
    read_config(root)
    if tokenizer is not None and (root / TOKENIZER).is_dir():
        _check_tokenizer(Tokenizer.load(root / TOKENIZER), tokenizer, root)
    folder = params_folder(root)
    with ocp.StandardCheckpointer() as checkpointer:
        found = checkpointer.metadata(folder.absolute()).item_metadata
        found = getattr(found, "tree", found)
    start = functools.partial(_decoupled, params)
    here, there = _flat(params), _flat(start(found))
    wrong = sorted(k for k in here.keys() & there.keys() if here[k] != there[k])
    # What names classes teaches the image encoder and is no part of a model that is used.
    dropped = {k for k in there.keys() - here.keys() if k.startswith("class_head")}
    extra = sorted(there.keys() - here.keys() - dropped)
    if wrong or extra:
        parts = (
            [_listing([f"{k} is {list(there[k])}, this model needs {list(here[k])}" for k in wrong])] if wrong else []
        )
        parts += [f"not part of the model: {_listing(extra)}"] if extra else []
        raise UserError(f"config.init_from={str(path)!r} does not fit this model: {'; '.join(parts)}")
    loaded = dict(jax.tree_util.tree_leaves_with_path(start(read_params(folder, found))))
    flat, tree = jax.tree_util.tree_flatten_with_path(params)
    merged = [np.asarray(loaded[p], np.float32) if p in loaded else x for p, x in flat]
    fresh = sorted(here.keys() - there.keys())
    note = f"took {len(there) - len(dropped)} of {len(here)} parameters from {path}"
    return jax.tree.unflatten(tree, merged), note + (f"; fresh: {_listing(fresh)}" if fresh else "")


def _check_tokenizer(there: Tokenizer, here: Tokenizer, root: Path) -> None:
    if (there.pieces, there.options) == (here.pieces, here.options):
        return
    raise UserError(
        f"the text encoder in config.init_from={str(root)!r} knows {there.vocab_size} pieces by their places in its own"
        f" vocabulary, and this run's vocabulary is another one, of {here.vocab_size}; set"
        f" --config.model.bert.vocab={root / TOKENIZER}"
    )
