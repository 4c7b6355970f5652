"""A Hugging Face BERT folder to Flax parameters: config, weights and tokenizer, checked against each other.

Sizes are read from the tensors. `config.json` adds what tensors cannot tell (the number of heads, the epsilon) and must
agree about the rest. Nothing in the folder is executed: a pickled file is read as weights only.
"""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mqc_jax.convert import torch_to_flax
from mqc_jax.errors import UserError
from mqc_jax.models.bert import Bert
from mqc_jax.text import Tokenizer

_SAFETENSORS = "model.safetensors"
_PICKLED = "pytorch_model.bin"
_POSITION_IDS = "embeddings.position_ids"

# What checkpoints of the BERT family hold beside the encoder: heads of the pretraining tasks, and a buffer.
BESIDE_THE_ENCODER = (
    _POSITION_IDS,
    "pooler.dense.weight",
    "pooler.dense.bias",
    "cls.predictions.bias",
    "cls.predictions.transform.dense.weight",
    "cls.predictions.transform.dense.bias",
    "cls.predictions.transform.LayerNorm.weight",
    "cls.predictions.transform.LayerNorm.bias",
    "cls.predictions.decoder.weight",
    "cls.predictions.decoder.bias",
    "cls.seq_relationship.weight",
    "cls.seq_relationship.bias",
)

# What another value would mean: a model that `Bert` does not compute.
_REQUIRED = {"model_type": "bert", "hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}
_HF_DEFAULTS = {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False}


@dataclasses.dataclass(frozen=True)
class ConvertedBert:
    """A BERT encoder read from PyTorch weights.

    Attributes:
      config: attributes of `Bert` (sizes, heads, epsilon).
      params: its parameters, float32 numpy arrays.
      tokenizer: the vocabulary that the word embedding belongs to.
      left_out: tensors of the file that are not part of the encoder, each one of `BESIDE_THE_ENCODER`.
    """

    config: dict[str, Any]
    params: dict[str, Any]
    tokenizer: Tokenizer
    left_out: tuple[str, ...]


def convert_bert(folder: str | os.PathLike) -> ConvertedBert:
    """Reads a Hugging Face folder of a BERT-family encoder.

    Args:
      folder: holds `config.json`, `model.safetensors` or `pytorch_model.bin`, and `tokenizer.json` or `vocab.txt`.

    Raises:
      UserError: a file is missing, damaged or would run code; the model is not a BERT; or the tensors do not fill the
        encoder exactly (the message lists every difference).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give a Hugging Face folder with config.json and {_SAFETENSORS}")
    facts = _read_config(folder / "config.json")
    weights = next((folder / name for name in (_SAFETENSORS, _PICKLED) if (folder / name).is_file()), None)
    if weights is None:
        raise UserError(f"{folder} holds neither {_SAFETENSORS} nor {_PICKLED}; give the folder with BERT's weights")
    state, left_out = _encoder_only(_canonical(read_weights(weights), weights), weights)
    config = _architecture(state, facts, weights)
    template = _template(config)
    params = torch_to_flax(state, template)
    tokenizer = Tokenizer.from_huggingface(folder)
    if tokenizer.vocab_size > config["vocab_size"]:
        raise UserError(
            f"the tokenizer in {folder} has {tokenizer.vocab_size} pieces but {weights.name} embeds only"
            f" {config['vocab_size']}; the two files belong to different models"
        )
    return ConvertedBert(config, params, tokenizer, left_out)


def read_weights(path: str | os.PathLike, inside: str = "") -> dict[str, np.ndarray]:
    """Tensors of a `.safetensors` file or of a pickled PyTorch state dict, as numpy arrays; bfloat16 becomes float32.

    Args:
      path: the file.
      inside: the entry of a pickled file that the state dict may be wrapped in.

    Raises:
      UserError: the file cannot be opened, is damaged or not of its kind, or is a pickle that would run code.
    """
    path = Path(path)
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give a file that you may read") from error
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickled(path, inside)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, safe_open

    try:
        # The Flax flavour, because numpy alone has no bfloat16.
        with safe_open(path, framework="flax") as file:
            return {key: _plain(np.asarray(file.get_tensor(key))) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path} is not a complete safetensors file ({error}); download it again") from error


def _read_pickled(path: Path, inside: str) -> dict[str, np.ndarray]:
    import pickle

    try:
        import torch
    except ImportError as error:
        raise UserError(f"reading {path} needs PyTorch; run: pip install 'mqc_jax[convert]'") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds something other than plain tensors and would run code; it was not read"
            " (a damaged file can look like this too): use the safetensors file instead"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:  # all seen on files cut short
        raise UserError(f"{path} is not a complete PyTorch file; download it again") from error
    if isinstance(state, Mapping) and isinstance(state.get(inside), Mapping):
        state = state[inside]
    if not isinstance(state, Mapping) or not all(torch.is_tensor(tensor) for tensor in state.values()):
        raise UserError(f"{path} is not a state dict (names to tensors); give the model's own weights file")
    return {
        key: (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy() for key, tensor in state.items()
    }


def _plain(tensor: np.ndarray) -> np.ndarray:
    return tensor.astype(np.float32) if tensor.dtype == jnp.bfloat16 else tensor


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path} does not exist; give a Hugging Face folder with BERT's config.json and weights")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); download it again") from error
    if not isinstance(facts, dict):
        raise UserError(f"{path} holds no JSON object; give BERT's own config.json")
    for name, needed in _REQUIRED.items():
        found = facts.get(name, _HF_DEFAULTS.get(name))
        if found != needed:
            raise UserError(f"{path} says {name}={found!r}; only {name}={needed!r} can be converted")
    return facts


def _canonical(state: Mapping[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """Keys as `BertModel` has them: no `bert.` in front (task models), norms not in `gamma`/`beta` (old files)."""
    renamed: dict[str, str] = {}
    for key in state:
        name = key.removeprefix("bert.")
        name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
        name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
        if name in renamed:
            raise UserError(f"{path} holds {name} twice, as {renamed[name]} and as {key}; it is not one BERT model")
        renamed[name] = key
    return {name: state[key] for name, key in renamed.items()}


def _encoder_only(state: dict[str, np.ndarray], path: Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    ids = state.get(_POSITION_IDS)
    if ids is not None and not np.array_equal(ids.ravel(), np.arange(ids.size)):
        raise UserError(f"{path} numbers positions in an order of its own ({_POSITION_IDS} is not 0, 1, 2, ...)")
    left_out = tuple(key for key in BESIDE_THE_ENCODER if key in state)
    return {key: tensor for key, tensor in state.items() if key not in left_out}, left_out


def _architecture(state: dict[str, np.ndarray], facts: dict[str, Any], path: Path) -> dict[str, Any]:
    """The attributes of `Bert` from the tensors' shapes, with `config.json` in agreement."""
    places = {
        "vocab_size": ("embeddings.word_embeddings.weight", 0),
        "hidden_size": ("embeddings.word_embeddings.weight", 1),
        "intermediate_size": ("encoder.layer.0.intermediate.dense.weight", 0),
        "max_position_embeddings": ("embeddings.position_embeddings.weight", 0),
        "type_vocab_size": ("embeddings.token_type_embeddings.weight", 0),
    }
    missing = sorted({key for key, _ in places.values() if key not in state or state[key].ndim != 2})
    if missing:
        raise UserError(f"{path} is not a BERT encoder: it lacks the matrices {', '.join(missing)}")
    config = {name: int(state[key].shape[axis]) for name, (key, axis) in places.items()}
    numbers = [int(match[1]) for key in state if (match := re.match(r"encoder\.layer\.(\d+)\.", key))]
    config["num_hidden_layers"] = max(numbers) + 1

    differing = [f"{k}: {facts[k]} and {config[k]}" for k in config if k in facts and facts[k] != config[k]]
    if differing:
        raise UserError(
            f"{path.parent / 'config.json'} and {path.name} describe different models ({'; '.join(differing)})"
        )
    heads = facts.get("num_attention_heads")
    if type(heads) is not int or heads < 1 or config["hidden_size"] % heads:
        raise UserError(
            f"{path.parent / 'config.json'} says num_attention_heads={heads!r}; it must be a number that divides"
            f" hidden_size={config['hidden_size']}"
        )
    epsilon = facts.get("layer_norm_eps", 1e-12)
    if not isinstance(epsilon, int | float) or not 0 < epsilon < 1:
        raise UserError(f"{path.parent / 'config.json'} says layer_norm_eps={epsilon!r}; it must lie between 0 and 1")
    return config | {"num_attention_heads": heads, "layer_norm_eps": float(epsilon)}


def _template(config: dict[str, Any]) -> dict[str, Any]:
    tokens = jnp.zeros((1, 1), jnp.int32)
    return jax.eval_shape(lambda: Bert(**config).init(jax.random.key(0), tokens, tokens))["params"]
