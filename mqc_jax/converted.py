"""The folder that `tools/convert_sam2.py` writes: a checkpoint, of which some parts may not be there yet.

    DIR/config.json   {"mqc_jax": {"format", "version"}, "dtype": "float32", "params_dtype": "float32",
                       "parts": ["sam2", "text_encoder"],
                       "model": {"hiera": {"embed_dim": 96, ...}, "bert": {...}, ...}, "converted_from": {...}}
    DIR/params/       Orbax; the parts' modules under their names in the model, the text bridge not among them
    DIR/tokenizer/    vocab.txt and tokenizer_config.json, where the text encoder is one of the parts

Layout and names are a training checkpoint's (`mqc_jax.checkpoint`), so that `init_from` reads either. `model` holds the
fields that the weights determine and nothing else.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from mqc_jax import __version__
from mqc_jax.checkpoint import CONFIG, FORMAT, PARAMS, TOKENIZER, narrow
from mqc_jax.errors import UserError
from mqc_jax.files import staged, write_atomic
from mqc_jax.text import Tokenizer


@dataclasses.dataclass(frozen=True)
class Part:
    """What one PyTorch checkpoint gave.

    Attributes:
      name: "sam2" or "text_encoder".
      config: fields of the checkpoint's `model`, nested as they are there.
      params: parameters, nested dict of float32 arrays; its top level holds modules of `MQCSAM` by name.
      source: where the weights came from and what was left out, for config.json.
      tokenizer: of a text encoder.
    """

    name: str
    config: dict[str, Any]
    params: dict[str, Any]
    source: dict[str, Any]
    tokenizer: Tokenizer | None = None


def check_output(output: str | os.PathLike) -> None:
    """Refuses a folder that already holds a checkpoint, before any work is done.

    Raises:
      UserError: it does.
    """
    found = [name for name in (CONFIG, PARAMS, TOKENIZER) if (Path(output) / name).exists()]
    if found:
        raise UserError(f"{output} already holds {', '.join(found)}; give a new folder so that nothing is overwritten")


def write(output: str | os.PathLike, parts: list[Part], params_dtype: str = "float32") -> None:
    """Writes the folder, whole or not at all. The parts' `model` fields and modules must not overlap.

    Args:
      output: a folder without a checkpoint.
      parts: what it shall hold.
      params_dtype: of the stored matrices; "bfloat16" halves the folder. Scalars and vectors stay float32.

    Raises:
      UserError: `output` already holds a checkpoint, or cannot be written to.
    """
    check_output(output)
    facts = {
        "mqc_jax": {"format": FORMAT, "version": __version__},
        "dtype": "float32",
        "params_dtype": params_dtype,
        "parts": [part.name for part in parts],
        "model": {name: value for part in parts for name, value in part.config.items()},
        "converted_from": {part.name: part.source for part in parts},
    }
    with staged(output) as staging:
        with ocp.StandardCheckpointer() as checkpointer:
            params = {name: entry for part in parts for name, entry in part.params.items()}
            checkpointer.save((staging / PARAMS).absolute(), narrow(params, params_dtype))
        for part in parts:
            if part.tokenizer is not None:
                part.tokenizer.save(staging / TOKENIZER)
        write_atomic(staging / CONFIG, json.dumps(facts, indent=2) + "\n")
