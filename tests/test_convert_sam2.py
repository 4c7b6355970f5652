"""Official and Hugging Face's SAM2 become parameters that compute the same; anything else is refused whole."""

import dataclasses
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import sam2_oracle
import torch
from absl import flags
from absl.testing import flagsaver
from safetensors.torch import load_file, save_file
from scripts import script
from test_convert_bert import encoder_state, write_folder
from test_video_parity import TINY, moving_scene
from torch_parity import randomise, relative

import mqc_jax
from mqc_jax import checkpoint, convert_sam2, converted, verify_sam2
from mqc_jax.config import ModelConfig, parse
from mqc_jax.convert import flax_to_torch
from mqc_jax.errors import UserError
from mqc_jax.models import functional
from mqc_jax.models.hiera import HIERA_SIZES
from mqc_jax.models.mqc_sam import IMAGE_MEAN, IMAGE_STD
from mqc_jax.text import DEFAULT_VOCABULARY, Tokenizer

ROOT = Path(__file__).parents[1]
# transformers' memories have 64 channels at any size; upstream has no output projection where that equals d_model
CONFIG = dataclasses.replace(TINY, d_model=128, mem_dim=64)
SAM20 = dataclasses.replace(CONFIG, no_obj_embed_spatial=False, obj_ptr_tpos=False)


@pytest.fixture(autouse=True)
def mini_is_a_known_size(monkeypatch):
    monkeypatch.setitem(HIERA_SIZES, "mini", dataclasses.asdict(CONFIG.hiera))


def oracle(config: ModelConfig) -> torch.nn.Module:
    torch.manual_seed(0)
    return randomise(sam2_oracle.build(config))


@pytest.fixture(scope="module")
def upstream():
    return oracle(CONFIG)


@pytest.fixture(scope="module")
def official(upstream, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("official") / "mini.pt"
    torch.save({"model": upstream.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def sam2(official):
    return convert_sam2.convert_sam2(official, {"mini": dataclasses.asdict(CONFIG.hiera)})


@pytest.fixture(scope="module")
def huggingface(sam2, tmp_path_factory) -> Path:
    """The same weights as `transformers` writes them."""
    folder = tmp_path_factory.mktemp("huggingface")
    verify_sam2.torch_model(CONFIG, sam2.params).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tool():
    with script("tools/convert_sam2.py") as module:
        flags.FLAGS.mark_as_parsed()
        yield module


def command(tool, **values) -> None:
    """The command in this process, as a start of Python takes seconds."""
    with flagsaver.flagsaver(**{name: str(v) if isinstance(v, Path) else v for name, v in values.items()}):
        tool.main(["convert_sam2.py"])


@pytest.fixture(scope="module")
def folder(sam2, tool, tmp_path_factory) -> Path:
    """The checkpoint of SAM2 alone. Do not write to it."""
    output = tmp_path_factory.mktemp("converted") / "out"
    converted.write(output, [tool.sam2_part("mini.pt", sam2)])
    return output


def subprocess_of(*arguments: object) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    line = [sys.executable, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)


# ---- what converts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [CONFIG, SAM20], ids=["2.1", "2.0"])
def test_the_architecture_is_read_from_the_tensors(config, tmp_path):
    torch.save({"model": oracle(config).state_dict()}, tmp_path / "a.pt")
    found = convert_sam2.convert_sam2(tmp_path)
    fields = dataclasses.asdict(config)
    assert found.config == {name: fields[name] for name in found.config}
    assert found.config.keys() >= {"hiera", "d_model", "mem_dim", "no_obj_embed_spatial", "obj_ptr_tpos"}
    assert (found.form, found.size) == ("official", "mini")
    assert found.version == ("2.1" if config is CONFIG else "2.0")


def test_there_and_back_is_bit_identical(upstream, sam2):
    back = flax_to_torch(sam2.params)
    state = upstream.state_dict()
    assert back.keys() == state.keys()
    for key, tensor in state.items():
        assert back[key].tobytes() == tensor.numpy().tobytes(), key


def test_both_forms_give_the_same_parameters(sam2, huggingface, tmp_path):
    from_folder = convert_sam2.convert_sam2(huggingface)
    assert from_folder.form == "Hugging Face"
    assert from_folder.left_out == ("shared_image_embedding.positional_embedding",)
    shutil.copy(huggingface / "model.safetensors", tmp_path / "alone.safetensors")
    alone = convert_sam2.convert_sam2(tmp_path / "alone.safetensors")
    for other in (from_folder, alone):
        jax.tree.map(np.testing.assert_array_equal, other.params, sam2.params)
        assert {name: other.config[name] for name in sam2.config} == sam2.config
    assert from_folder.config["decoder_heads"] == 8


def test_huggingfaces_model_computes_what_ours_computes(sam2):
    differences = verify_sam2.verify(sam2.config, sam2.params, CONFIG.image_size)
    assert list(differences) == ["image embedding", "memory features", "mask logits"]
    assert max(differences.values()) < 1e-4, differences


def test_a_config_makes_an_unknown_size_known(huggingface, monkeypatch, tmp_path):
    monkeypatch.delitem(HIERA_SIZES, "mini")
    found = convert_sam2.convert_sam2(huggingface)
    assert found.size == "custom"
    assert parse({"hiera": found.config["hiera"]}, ModelConfig, "model").hiera == CONFIG.hiera
    shutil.copy(huggingface / "model.safetensors", tmp_path / "alone.safetensors")
    with pytest.raises(UserError, match=r"embed_dim=16 and stages=\(1, 2, 2, 1\).*tiny: 96.*large: 144"):
        convert_sam2.convert_sam2(tmp_path / "alone.safetensors")


def test_half_precision_files_are_read_to_their_last_bit(upstream, tmp_path):
    state = {key: tensor.to(torch.bfloat16) for key, tensor in upstream.state_dict().items()}
    torch.save({"model": state}, tmp_path / "half.pt")
    back = flax_to_torch(convert_sam2.convert_sam2(tmp_path / "half.pt").params)
    assert all(np.array_equal(back[key], tensor.float().numpy()) for key, tensor in state.items())


# ---- what is refused ----------------------------------------------------------------------------------------------

NECK = "image_encoder.neck.convs.1.conv.weight"
HF_NECK = "vision_encoder.neck.convs.1.weight"


def renamed(state):
    state["memory_encoder.out_proj.offset"] = state.pop("memory_encoder.out_proj.bias")


def reshaped(state):
    state[NECK] = state[NECK].flatten(1)
    state["obj_ptr_tpos_proj.weight"] = state["obj_ptr_tpos_proj.weight"].T


def missing(state):
    del state["memory_attention.layers.1.norm2.bias"]


def a_missing_size(state):
    del state["maskmem_tpos_enc"]


def extra(state):
    state["sam_mask_decoder.another.weight"] = torch.zeros(3)


def not_finite(state):
    state["no_obj_ptr"][0, :2] = torch.nan
    state["image_encoder.trunk.blocks.4.mlp.layers.0.weight"][0, 0] = torch.inf


def another_width(state):
    state["image_encoder.trunk.patch_embed.proj.bias"] = torch.zeros(24)


def another_depth(state):
    for key in [key for key in state if ".trunk.blocks.5." in key]:
        state[key.replace("blocks.5.", "blocks.6.")] = state[key]


def without_memory(state):
    for key in list(state):
        if key.startswith(("mem", "obj_ptr", "mask", "no_")):
            del state[key]


def first_sam(state):
    weights = {key.replace(".trunk.", "."): tensor for key, tensor in state.items()}
    state.clear()
    state.update(weights)


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (renamed, ["2 differences", "memory_encoder.out_proj.offset (64,)", "memory_encoder.out_proj.bias (64,)"]),
        (
            reshaped,
            [
                f"{NECK}: the file has (128, 64), the model (128, 64, 1, 1)",
                "obj_ptr_tpos_proj.weight: the file has (128, 64), the model (64, 128)",
            ],
        ),
        (missing, ["no tensor fills", "memory_attention.layers.1.norm2.bias (128,)"]),
        (a_missing_size, ["not a whole SAM2: it lacks maskmem_tpos_enc"]),
        (extra, ["the model does not have", "sam_mask_decoder.another.weight (3,)"]),
        (not_finite, ["not finite (2)", "no_obj_ptr: 2 of 128", "trunk.blocks.4.mlp.layers.0.weight: 1 of"]),
        (another_width, ["embed_dim=24 and stages=(1, 2, 2, 1)", "tiny: 96", "base_plus: 112", "large: 144"]),
        (another_depth, ["embed_dim=16 and stages=(1, 2, 2, 1, 1)", "tiny: 96", "small: 96"]),
        (without_memory, ["image-only SAM", "memory_attention, memory_encoder, maskmem_tpos_enc, obj_ptr_proj"]),
        (first_sam, ["is not SAM2", "image_encoder.trunk.*", "image_encoder.blocks.0.attn.proj.bias"]),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_an_official_file_that_does_not_fit_is_refused_by_name(upstream, tool, tmp_path, change, messages):
    state = {key: tensor.clone() for key, tensor in upstream.state_dict().items()}
    change(state)
    torch.save({"model": state}, tmp_path / "a.pt")
    with pytest.raises(UserError) as caught:
        command(tool, sam2=tmp_path / "a.pt", output=tmp_path / "out")
    for message in messages:
        assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def hf_renamed(state):
    state[HF_NECK + "s"] = state.pop(HF_NECK)


def hf_reshaped(state):
    state[HF_NECK] = state[HF_NECK].flatten(1)


def hf_not_finite(state):
    state["prompt_encoder.point_embed.weight"][2] = torch.nan


def hf_two_positions(state):
    state["prompt_encoder.shared_embedding.positional_embedding"] += 1


def hf_without_memory(state):
    for key in list(state):
        if not key.startswith(("vision_encoder", "prompt_encoder", "mask_decoder", "shared", "no_memory_embedding")):
            del state[key]


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (hf_renamed, [f"{NECK}s (in the file {HF_NECK}s) (128, 64, 1, 1)", f"{NECK} (128, 64, 1, 1)"]),
        (hf_reshaped, [f"{NECK} (in the file {HF_NECK}): the file has (128, 64), the model (128, 64, 1, 1)"]),
        (hf_not_finite, ["point_embeddings.2.weight (in the file prompt_encoder.point_embed.weight[2]): 128 of 128"]),
        (hf_two_positions, ["shared_image_embedding.positional_embedding", "must be one tensor"]),
        (hf_without_memory, ["image-only SAM", "memory_attention"]),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_a_huggingface_folder_that_does_not_fit_is_refused_by_name(huggingface, tool, tmp_path, change, messages):
    state = load_file(huggingface / "model.safetensors")
    change(state)
    shutil.copytree(huggingface, tmp_path / "in")
    save_file(state, tmp_path / "in" / "model.safetensors")
    with pytest.raises(UserError) as caught:
        command(tool, sam2=tmp_path / "in", output=tmp_path / "out")
    for message in messages:
        assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def _set(facts: dict, path: str, value: object) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        facts = facts[parent]
    facts[name] = value


BACKBONE = "vision_config.backbone_config"


@pytest.mark.parametrize(
    ("field", "value", "messages"),
    [
        (f"{BACKBONE}.global_attention_blocks", [3], ["different trunks", "global_att_blocks: (3,) and (4,)"]),
        (f"{BACKBONE}.blocks_per_stage", [1, 2, 1, 2], ["stages: (1, 2, 1, 2) and (1, 2, 2, 1)"]),
        (f"{BACKBONE}.num_attention_heads", "one", ["num_heads='one'"]),
        (f"{BACKBONE}.query_stride", [4, 4], ["query_stride=[4, 4]", "[2, 2]"]),
        ("memory_attention_num_attention_heads", 2, ["memory_attention_num_attention_heads=2"]),
        ("model_type", "edgetam_video", ["model_type='edgetam_video'", "sam2_video"]),
    ],
)
def test_a_config_that_says_something_else_is_refused(huggingface, tool, tmp_path, field, value, messages):
    shutil.copytree(huggingface, tmp_path / "in")
    facts = json.loads((huggingface / "config.json").read_text())
    _set(facts, field, value)
    (tmp_path / "in" / "config.json").write_text(json.dumps(facts))
    with pytest.raises(UserError) as caught:
        command(tool, sam2=tmp_path / "in", output=tmp_path / "out")
    for message in messages:
        assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.999])
@pytest.mark.parametrize("form", ["pt", "safetensors"])
def test_truncated_files_are_refused(official, huggingface, tool, tmp_path, form, kept):
    whole = official if form == "pt" else huggingface / "model.safetensors"
    path = tmp_path / f"cut.{form}"
    path.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * kept)])
    with pytest.raises(UserError, match=r"cut\.\w+ .*(not a complete|damaged)"):
        command(tool, sam2=path, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


class _Payload:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("form", ["zip", "pickle"])
def test_a_pickle_with_code_is_refused_and_not_run(upstream, tool, tmp_path, form):
    trace, path = tmp_path / "executed", tmp_path / "a.pt"
    value = {"model": {**upstream.state_dict(), "no_obj_ptr": _Payload(trace)}}
    torch.save(value, path) if form == "zip" else path.write_bytes(pickle.dumps({"model": _Payload(trace)}, protocol=2))
    with pytest.raises(UserError, match="would run code; it was not read"):
        command(tool, sam2=path, output=tmp_path / "out")
    assert not trace.exists()
    assert not (tmp_path / "out").exists()


def test_missing_input_and_an_existing_checkpoint_are_refused(official, folder, tool, tmp_path):
    with pytest.raises(UserError, match=r"no\.pt does not exist"):
        command(tool, sam2=tmp_path / "no.pt", output=tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"neither model\.safetensors nor exactly one \.pt"):
        command(tool, sam2=tmp_path / "empty", output=tmp_path / "out")
    with pytest.raises(UserError, match=r"add --sam2 FILE_OR_DIR, --bert DIR or both"):
        command(tool, output=tmp_path / "out")
    with pytest.raises(UserError, match=r"already holds config\.json, params"):
        command(tool, sam2=official, output=folder)
    assert not (tmp_path / "out").exists()


# ---- what the folder can do ---------------------------------------------------------------------------------------


def test_verify_passes_and_a_defect_fails_it_with_nothing_written(official, tool, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tool, "verify", lambda config, params: verify_sam2.verify(config, params, CONFIG.image_size))
    command(tool, sam2=official, output=tmp_path / "good", verify=True)
    assert capsys.readouterr().out.count("largest difference from PyTorch") == 3
    assert (tmp_path / "good" / "config.json").is_file()
    # Keys and values of the memory exchanged: every shape still fits.
    steps = [("v_proj", "held"), ("k_proj", "v_proj"), ("held", "k_proj")]
    swap = tuple((rf"cross_attn_image\.{a}\.", f"cross_attn_image.{b}.") for a, b in steps)
    monkeypatch.setattr(convert_sam2, "_RULES", convert_sam2._RULES + swap)
    with pytest.raises(UserError, match=r"mask logits differs from PyTorch by .*the limit is 1e-03; nothing was"):
        command(tool, sam2=official, output=tmp_path / "bad", verify=True)
    assert not (tmp_path / "bad").exists()


@pytest.fixture(scope="module")
def loaded(folder):
    return mqc_jax.load(folder)


def test_a_checkpoint_of_sam2_alone_tracks_as_upstream_does(upstream, loaded):
    model = loaded.replace(image_size=CONFIG.image_size)
    assert "bridge" not in model.params
    assert model.tokenizer is None
    frames, mask = moving_scene(3, CONFIG.image_size)
    pixels = (frames / np.float32(255) - np.float32(IMAGE_MEAN)) / np.float32(IMAGE_STD)
    theirs = sam2_oracle.track(
        upstream, torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), torch.from_numpy(mask)[None, None]
    )
    tracker = mqc_jax.Tracker(model, masks=mask[None] > 0)
    ours = [result for frame in frames for result in tracker.push(frame)] + tracker.finish()
    for one, other in zip(ours, theirs, strict=True):
        assert relative(one.mask_logits, other["pred_masks"][:, 0]) < 1e-3


def test_without_a_trained_bridge_text_is_refused(folder, loaded, tmp_path):
    sentence = r"has no trained bridge .*masks only.*mqc_jax\.train .*--config\.init_from="
    with pytest.raises(UserError, match=sentence):
        mqc_jax.Tracker(loaded, texts=["a ship"])
    (tmp_path / "video").mkdir()
    cv2.imwrite(str(tmp_path / "video" / "0.png"), np.zeros((64, 64, 3), np.uint8))
    options = ("--checkpoint", folder, "--video", tmp_path / "video", "--text", "a ship", "--output", tmp_path / "out")
    done = subprocess_of("-m", "mqc_jax.predict", *options)
    assert done.returncode == 1
    assert "has no trained bridge" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory) -> Path:
    state = {**encoder_state(), "embeddings.position_embeddings.weight": torch.ones(64, 16)}
    return write_folder(tmp_path_factory.mktemp("bert"), state, max_position_embeddings=64)


def test_the_command_joins_sam2_and_bert_in_bfloat16(huggingface, sam2, bert_folder, tmp_path):
    output = tmp_path / "out"
    options = ("--sam2", huggingface, "--bert", bert_folder, "--output", output, "--dtype", "bfloat16")
    done = subprocess_of(ROOT / "tools" / "convert_sam2.py", *options)
    assert done.returncode == 0, done.stderr
    facts = checkpoint.read_config(output)
    assert facts["parts"] == ["sam2", "text_encoder"]
    assert facts["params_dtype"] == "bfloat16"
    assert facts["converted_from"]["sam2"]["version"] == "2.1"
    with ocp.StandardCheckpointer() as checkpointer:
        stored = checkpointer.restore(checkpoint.params_folder(output).absolute())
    assert {x.dtype.name for x in jax.tree.leaves(stored) if x.ndim > 1} == {"bfloat16"}
    assert {x.dtype.name for x in jax.tree.leaves(stored) if x.ndim < 2} == {"float32"}

    model = mqc_jax.load(output)
    assert model.tokenizer.vocab_size == model.config.bert.vocab_size
    expected = checkpoint.narrow(sam2.params, "bfloat16")
    jax.tree.map(
        lambda x, y: np.testing.assert_array_equal(x, y.astype(np.float32)),
        {name: model.params[name] for name in expected},
        expected,
    )
    with pytest.raises(UserError, match="has no trained bridge"):
        mqc_jax.Tracker(model, texts=["a ship"])

    # Training starts from it, with a fresh bridge.
    fresh = jax.tree.map(lambda x: np.full(x.shape, 7, np.float32), functional.shapes(model.net))
    merged, note = checkpoint.init_from(output, fresh, Tokenizer.load(output / checkpoint.TOKENIZER))
    assert all((x == 7).all() for x in jax.tree.leaves(merged["bridge"]))
    jax.tree.map(np.testing.assert_array_equal, {k: merged[k] for k in model.params}, dict(model.params))
    assert "fresh: bridge." in note
    pieces = DEFAULT_VOCABULARY.read_text().split("\n")[:-1]
    other = Tokenizer([*pieces[:-1], "##another"])
    with pytest.raises(UserError, match=r"set --config\.model\.bert\.vocab=.*out/tokenizer"):
        checkpoint.init_from(output, fresh, other)


def test_a_checkpoint_of_bert_alone_cannot_be_loaded(bert_folder, tool, tmp_path):
    command(tool, bert=bert_folder, output=tmp_path / "out")
    with pytest.raises(
        UserError, match=r"holds no SAM2, only \['text_encoder'\] \(the field parts of its config\.json\)"
    ):
        mqc_jax.load(tmp_path / "out")


@pytest.mark.slow
def test_the_published_tiny_size_converts_and_verifies(tmp_path):
    config = dataclasses.replace(ModelConfig(), hiera=parse(HIERA_SIZES["tiny"], type(TINY.hiera), "hiera"))
    model = oracle(config)
    torch.save({"model": model.state_dict()}, tmp_path / "tiny.pt")
    options = ("--sam2", tmp_path / "tiny.pt", "--output", tmp_path / "out", "--dtype", "bfloat16", "--verify")
    done = subprocess_of(ROOT / "tools" / "convert_sam2.py", *options)
    assert done.returncode == 0, done.stderr
    assert "SAM 2.1, size tiny, official naming" in done.stdout
    assert done.stdout.count("largest difference from PyTorch") == 3
    size = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert size < 0.55 * (tmp_path / "tiny.pt").stat().st_size
    loaded = mqc_jax.load(tmp_path / "out")
    assert loaded.config.hiera == config.hiera
