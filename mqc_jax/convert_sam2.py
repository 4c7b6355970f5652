"""SAM2's PyTorch weights to Flax parameters: the official files and Hugging Face's, checked until the books balance.

Sizes are read from the tensors. What tensors cannot tell of the trunk (its heads, windows and global blocks) follows
from the published size that they show, or from Hugging Face's config.json where there is one. Nothing in a file is
executed.
"""

import dataclasses
import itertools
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mqc_jax.config import BertConfig, BridgeConfig, HieraConfig, ModelConfig, parse
from mqc_jax.convert import torch_to_flax
from mqc_jax.convert_bert import read_weights
from mqc_jax.errors import UserError
from mqc_jax.models import functional
from mqc_jax.models.hiera import HIERA_SIZES

LANGUAGE = ("text_encoder", "bridge")
"""Entries of the parameter tree that no SAM2 checkpoint fills."""

_SAFETENSORS = "model.safetensors"
_TRUNK, _HF_TRUNK = "image_encoder.trunk.", "vision_encoder.backbone."
_POSITION = "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
# Hugging Face keeps the matrix of the random position encoding twice.
_HF_POSITIONS = ("shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding")
HF_POINTS = "prompt_encoder.point_embed.weight"
"""Hugging Face's four point embeddings, which are one tensor there."""


def _third(start: int):
    """Numbers a layer's place in an upstream `nn.Sequential` of (convolution, norm, activation) triples."""
    return lambda match: f"{match[1]}{3 * (int(match[3]) - start) + (match[2] == 'layer_norm')}."


# Applied to a Hugging Face key one after the other; heads with `proj_in` are counted first (`_perceptrons`).
_RULES = (
    (r"^vision_encoder\.backbone\.", _TRUNK),
    (r"^vision_encoder\.neck\.convs\.(\d+)\.", r"image_encoder.neck.convs.\1.conv."),
    (r"patch_embed\.projection\.", "patch_embed.proj."),
    (r"^(prompt_encoder|mask_decoder)\.", r"sam_\1."),
    (r"(?<=^sam_prompt_encoder\.)()mask_embed\.(conv|layer_norm)(\d)\.", lambda m: "mask_downscaling." + _third(1)(m)),
    (r"(?<=^sam_mask_decoder\.)()upscale_(conv)(\d)\.", lambda m: "output_upscaling." + _third(1)(m)),
    (r"^sam_mask_decoder\.upscale_layer_norm\.", "sam_mask_decoder.output_upscaling.1."),
    (r"\.point_embed\.weight$", ".point_embeddings"),
    (r"mask_downsampler\.layers\.(\d+)\.(conv|layer_norm)\.", lambda m: _downsampler(int(m[1]), m[2])),
    (r"mask_downsampler\.final_conv\.", "mask_downsampler.encoder.12."),
    (r"^memory_encoder\.feature_projection\.", "memory_encoder.pix_feat_proj."),
    (r"^memory_encoder\.projection\.", "memory_encoder.out_proj."),
    (r"^memory_encoder\.memory_fuser\.(.+)\.scale$", r"memory_encoder.fuser.\1.gamma"),
    (r"^memory_encoder\.memory_fuser\.", "memory_encoder.fuser."),
    (r"\.depthwise_conv\.", ".dwconv."),
    (r"\.pointwise_conv", ".pwconv"),
    (r"\.layer_norm", ".norm"),
    (r"\.o_proj\.", ".out_proj."),
    (r"^no_memory_embedding$", "no_mem_embed"),
    (r"^no_memory_positional_encoding$", "no_mem_pos_enc"),
    (r"^memory_temporal_positional_encoding$", "maskmem_tpos_enc"),
    (r"^no_object_pointer$", "no_obj_ptr"),
    (r"^occlusion_spatial_embedding_parameter$", "no_obj_embed_spatial"),
    (r"^object_pointer_proj\.", "obj_ptr_proj."),
    (r"^temporal_positional_encoding_projection_layer\.", "obj_ptr_tpos_proj."),
)


def _downsampler(layer: int, kind: str) -> str:
    return f"mask_downsampler.encoder.{3 * layer + (kind == 'layer_norm')}."


# Where a field of `ModelConfig` shows in the tensors: (tensor, axis).
_PLACES = {
    "d_model": ("no_mem_embed", 2),
    "mem_dim": ("maskmem_tpos_enc", 3),
    "num_maskmem": ("maskmem_tpos_enc", 0),
    "memory_attention_ffn": ("memory_attention.layers.0.linear1.bias", 0),
    "decoder_mlp": ("sam_mask_decoder.transformer.layers.0.mlp.layers.0.bias", 0),
    "iou_head_hidden": ("sam_mask_decoder.iou_prediction_head.layers.0.bias", 0),
    "mask_in_chans": ("sam_prompt_encoder.mask_downscaling.3.bias", 0),
}
_COUNTS = {
    "memory_attention_layers": "memory_attention.layers.",
    "decoder_depth": "sam_mask_decoder.transformer.layers.",
    "iou_head_depth": "sam_mask_decoder.iou_prediction_head.layers.",
    "fuser_layers": "memory_encoder.fuser.layers.",
}
# What only SAM 2.1 has.
_ADDITIONS = {"no_obj_embed_spatial": "no_obj_embed_spatial", "obj_ptr_tpos": "obj_ptr_tpos_proj.weight"}

# Hugging Face's config.json leaves out what equals its defaults. (path, the value left out, our field)
_BACKBONE = "vision_config.backbone_config"
_HF_TRUNK_FIELDS = {
    "embed_dim": (f"{_BACKBONE}.hidden_size", 96),
    "num_heads": (f"{_BACKBONE}.num_attention_heads", 1),
    "stages": (f"{_BACKBONE}.blocks_per_stage", [1, 2, 7, 2]),
    "global_att_blocks": (f"{_BACKBONE}.global_attention_blocks", [5, 7, 9]),
    "window_pos_embed_bkg_spatial_size": (f"{_BACKBONE}.window_positional_embedding_background_size", [7, 7]),
    "window_spec": (f"{_BACKBONE}.window_size_per_stage", [8, 4, 14, 7]),
}
_HF_FIELDS = {
    "fpn_top_down_levels": ("vision_config.fpn_top_down_levels", [2, 3]),
    "decoder_heads": ("mask_decoder_config.num_attention_heads", 8),
    "max_obj_ptrs": ("max_object_pointers_in_encoder", 16),
    "sigmoid_scale_for_mem_enc": ("sigmoid_scale_for_mem_enc", 20.0),
    "sigmoid_bias_for_mem_enc": ("sigmoid_bias_for_mem_enc", -10.0),
}
# Another value would mean a model that ours does not compute.
_HF_REQUIRED = {
    f"{_BACKBONE}.query_stride": [2, 2],
    f"{_BACKBONE}.num_query_pool_stages": 3,
    f"{_BACKBONE}.hidden_act": "gelu",
    f"{_BACKBONE}.layer_norm_eps": 1e-6,
    "mask_decoder_config.attention_downsample_rate": 2,
    "mask_decoder_config.hidden_act": "gelu",
    "memory_attention_num_attention_heads": 1,
    "memory_attention_downsample_rate": 1,
    "memory_attention_feed_forward_hidden_act": "relu",
    "memory_fuser_hidden_act": "gelu",
    "mask_downsampler_hidden_act": "gelu",
    "rope_parameters.rope_theta": 10000.0,
    "memory_attention_rope_theta": 10000.0,
}


@dataclasses.dataclass(frozen=True)
class ConvertedSam2:
    """SAM2 read from PyTorch weights.

    Attributes:
      config: the fields of `ModelConfig` that the checkpoint determines.
      params: entries of the parameter tree, all but `LANGUAGE`; float32 numpy arrays.
      form: "official" or "Hugging Face".
      size: "tiny", "small", "base_plus", "large" or "custom".
      left_out: tensors of the file that are not part of the model.
    """

    config: dict[str, Any]
    params: dict[str, Any]
    form: str
    size: str
    left_out: tuple[str, ...]

    @property
    def version(self) -> str:
        """ "2.1", or "2.0", which lacks the no-object embedding and the pointers' time encoding."""
        return "2.1" if self.config["no_obj_embed_spatial"] and self.config["obj_ptr_tpos"] else "2.0"


def convert_sam2(source: str | os.PathLike, sizes: Mapping[str, Mapping[str, Any]] = HIERA_SIZES) -> ConvertedSam2:
    """Reads a SAM 2.0 or 2.1 checkpoint.

    Args:
      source: an official `.pt` file, a `.safetensors` file in Hugging Face's naming or the official one, or a folder
        with `model.safetensors` (and Hugging Face's `config.json`) or with one `.pt` file.
      sizes: trunks that are recognised without a config.json.

    Raises:
      UserError: the file is missing, damaged or would run code; it is not SAM2 with its memory; its trunk is of no
        known size; or the tensors do not fill the model exactly (the message lists every difference).
    """
    path, config_path = _locate(Path(source))
    facts = _read_config(config_path) if config_path else None
    state = read_weights(path, inside="model")
    form = "Hugging Face" if any(key.startswith(_HF_TRUNK) for key in state) else "official"
    names, left_out = {}, ()
    if form == "Hugging Face":
        state, names, left_out = _official(state, path)
    _check_kind(state, path)
    size, trunk = _trunk(state, path, facts, sizes)
    config = _architecture(state, path) | {"hiera": trunk} | (_fields(facts, _HF_FIELDS) if facts is not None else {})
    params = torch_to_flax(state, _template(config), names=names)
    return ConvertedSam2(config, params, form, size, left_out)


def _locate(source: Path) -> tuple[Path, Path | None]:
    """The weights and, beside Hugging Face's, its config."""
    if source.is_dir():
        weights = [source / _SAFETENSORS] if (source / _SAFETENSORS).is_file() else sorted(source.glob("*.pt"))
        if len(weights) != 1:
            raise UserError(
                f"{source} holds neither {_SAFETENSORS} nor exactly one .pt file; give the file with SAM2's weights"
            )
        path = weights[0]
    elif source.exists():
        path = source
    else:
        raise UserError(f"{source} does not exist; give SAM2's .pt file or a Hugging Face folder")
    config = path.parent / "config.json"
    return path, config if path.suffix == ".safetensors" and config.is_file() else None


def _read_config(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); download it again") from error
    if not isinstance(facts, dict) or facts.get("model_type") not in ("sam2_video", "sam2"):
        found = facts.get("model_type") if isinstance(facts, dict) else facts
        raise UserError(f"{path} says model_type={found!r}; only 'sam2_video' can be converted")
    for name, needed in _HF_REQUIRED.items():
        if (found := _at(facts, name, needed)) != needed:
            raise UserError(f"{path} says {name}={found!r}; only {needed!r} can be converted")
    return facts


def _at(facts: Mapping[str, Any], path: str, default: Any) -> Any:
    for name in path.split("."):
        facts = facts.get(name) if isinstance(facts, Mapping) else None
    return default if facts is None else facts


def _fields(facts: Mapping[str, Any], places: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    return {field: _at(facts, path, default) for field, (path, default) in places.items()}


# ---- names --------------------------------------------------------------------------------------------------------


def official_names(keys: Iterable[str]) -> dict[str, str]:
    """Hugging Face's key -> the official one, by rule; an unknown key stays as it is.

    `prompt_encoder.point_embed.weight` is the one tensor that the official form splits, in four: its name here is the
    four's common one.
    """
    renamed = {}
    for key, name in _perceptrons(list(keys)).items():
        for pattern, replacement in _RULES:
            name = re.sub(pattern, replacement, name)
        renamed[key] = _POSITION if key in _HF_POSITIONS else name
    return renamed


def _perceptrons(keys: list[str]) -> dict[str, str]:
    """Numbers the layers of `proj_in`, `layers.0`, ..., `proj_out` from 0 to the last."""
    depth = {key.split(".proj_in.")[0]: 2 for key in keys if ".proj_in." in key}
    for key in keys:
        module, layers, rest = key.rpartition(".layers.")
        if layers and module in depth:
            depth[module] = max(depth[module], int(rest.split(".")[0]) + 3)
    names = {}
    for key in keys:
        names[key] = key
        for part in (".proj_in.", ".proj_out.", ".layers."):
            module, found, rest = key.rpartition(part)
            if found and module in depth:
                number, rest = rest.split(".", 1) if part == ".layers." else ("0", rest)
                place = {".proj_in.": 0, ".proj_out.": depth[module] - 1, ".layers.": int(number) + 1}[part]
                names[key] = f"{module}.layers.{place}.{rest}"
    return names


def _official(
    state: dict[str, np.ndarray], path: Path
) -> tuple[dict[str, np.ndarray], dict[str, str], tuple[str, ...]]:
    """A Hugging Face state under official names, each name's key in the file, and what was left out."""
    official, names = {}, {}
    for key, name in sorted(official_names(state).items()):
        tensor = state[key]
        if key == HF_POINTS and tensor.ndim == 2:
            for i, row in enumerate(tensor):
                official[f"{name}.{i}.weight"], names[f"{name}.{i}.weight"] = row[None], f"{key}[{i}]"
        elif name not in official:
            official[name], names[name] = tensor, key
        elif not (key in _HF_POSITIONS and np.array_equal(official[name], tensor)):
            raise UserError(f"{path} holds {names[name]} and {key}, which must be one tensor; it is not one SAM2")
    left_out = tuple(key for key in _HF_POSITIONS if key in state and names[_POSITION] != key)
    return official, names, left_out


# ---- architecture -------------------------------------------------------------------------------------------------


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _check_kind(state: Mapping[str, np.ndarray], path: Path) -> None:
    if not any(key.startswith(_TRUNK) for key in state):
        raise UserError(
            f"{path} is not SAM2: no tensor is called {_TRUNK}* or {_HF_TRUNK}*; it holds {_listed(sorted(state))}"
        )
    needed = ("memory_attention.", "memory_encoder.", "maskmem_tpos_enc", "obj_ptr_proj.")
    absent = [name for name in needed if not any(key.startswith(name) for key in state)]
    if len(absent) == len(needed):
        raise UserError(
            f"{path} is an image-only SAM: it lacks {', '.join(name.rstrip('.') for name in absent)}; give a checkpoint"
            " of SAM 2 or 2.1 for video"
        )


def _need(state: Mapping[str, np.ndarray], places: Mapping[str, tuple[str, int]], path: Path) -> dict[str, int]:
    missing = sorted({key for key, axis in places.values() if key not in state or state[key].ndim <= axis})
    if missing:
        raise UserError(f"{path} is not a whole SAM2: it lacks {', '.join(missing)}, or has them in another form")
    return {name: int(state[key].shape[axis]) for name, (key, axis) in places.items()}


def _count(state: Mapping[str, np.ndarray], prefix: str) -> int:
    numbers = {int(m[1]) for key in state if (m := re.match(re.escape(prefix) + r"(\d+)\.", key))}
    return max(numbers, default=-1) + 1


def _architecture(state: Mapping[str, np.ndarray], path: Path) -> dict[str, Any]:
    """The fields of `ModelConfig`, the trunk apart, that the tensors show."""
    config: dict[str, Any] = _need(state, _PLACES, path)
    config |= {field: _count(state, prefix) for field, prefix in _COUNTS.items()}
    config |= {field: key in state for field, key in _ADDITIONS.items()}
    return config | {"calibration": "none", "memory": "sam2"}


def _trunk(
    state: Mapping[str, np.ndarray], path: Path, facts: dict[str, Any] | None, sizes: Mapping[str, Mapping[str, Any]]
) -> tuple[str, dict[str, Any]]:
    """The size's name and the fields of `HieraConfig`."""
    places = {
        "embed_dim": (f"{_TRUNK}patch_embed.proj.bias", 0),
        "height": (f"{_TRUNK}pos_embed", 2),
        "width": (f"{_TRUNK}pos_embed", 3),
        "window": (f"{_TRUNK}pos_embed_window", 2),
    }
    seen = _need(state, places, path)
    blocks = _count(state, f"{_TRUNK}blocks.")
    # A stage begins where the channels double, which takes a projection.
    starts = sorted({int(m[1]) for key in state if (m := re.match(rf"{re.escape(_TRUNK)}blocks\.(\d+)\.proj\.", key))})
    bounds = [0, *starts, blocks]
    stages = tuple(end - start for start, end in itertools.pairwise(bounds))
    shown = {"embed_dim": seen["embed_dim"], "stages": stages}
    size = next((name for name, s in sizes.items() if all(s[k] == v for k, v in shown.items())), "custom")
    known = dict(sizes[size]) if size != "custom" else None
    given = None
    if facts is not None:
        fields = parse(_fields(facts, _HF_TRUNK_FIELDS), HieraConfig, f"{path.parent / 'config.json'}: backbone")
        given = dataclasses.asdict(fields)
    if known is None and given is None:
        choices = "; ".join(f"{name}: {s['embed_dim']}, {s['stages']}" for name, s in sizes.items())
        raise UserError(
            f"{path} has a trunk of embed_dim={shown['embed_dim']} and stages={stages}, which is none of the known"
            f" sizes ({choices}); give one of those, or Hugging Face's folder with its config.json"
        )
    trunk = known or given
    differing = [f"{k}: {given[k]} and {v}" for k, v in {**shown, **(known or {})}.items() if given and given[k] != v]
    if differing:
        raise UserError(
            f"{path.parent / 'config.json'} and {path.name} describe different trunks ({'; '.join(differing)})"
        )
    return size, {**trunk, "stages": tuple(trunk["stages"])}


def _template(config: Mapping[str, Any]) -> dict[str, Any]:
    # The language side is dropped, so its size only costs time.
    small = {
        "bert": dataclasses.asdict(BertConfig(16, 8, 1, 1, 8, 16, max_tokens=8)),
        "bridge": dataclasses.asdict(BridgeConfig(num_prompts=1, num_layers=1, num_heads=1, ffn_dim=8)),
    }
    net = functional.build(parse({**config, **small}, ModelConfig, "model"))
    return {name: entry for name, entry in functional.shapes(net).items() if name not in LANGUAGE}
