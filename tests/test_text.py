"""Sentences become the tokens that BERT's tokenizer makes, offline and without torch; bad ones are refused."""

import json
import os
import string
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from mqc_jax.errors import UserError
from mqc_jax.text import DEFAULT_VOCABULARY, SPECIAL_PIECES, Tokenizer, build_vocab

ROOT = Path(__file__).parents[1]
SENTENCES = ["the wide-bodied aircraft at the top-left", "The Yacht, near the QUAY!", "seaplane no. 42"]
UNKNOWN = SPECIAL_PIECES.index("[UNK]")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.default()


def spelled(tokenizer: Tokenizer, text: str) -> list[str]:
    ids, mask = tokenizer.encode([text], 300)
    return [tokenizer.pieces[i] for i in ids[0][mask[0]]]


def in_subprocess(code: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HOME": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_encoding_has_fixed_length_and_padding_last(tokenizer):
    ids, mask = tokenizer.encode(SENTENCES, 24)
    assert ids.shape == mask.shape == (3, 24)
    assert ids.dtype == np.int32
    assert mask.dtype == bool
    assert (np.diff(mask.astype(int), axis=1) <= 0).all()
    assert (ids[~mask] == tokenizer.pieces.index("[PAD]")).all()
    assert [tokenizer.pieces[i] for i in ids[0][mask[0]]] == [
        *("[CLS]", "the", "wide", "-", "bodied", "aircraft", "at", "the", "top", "-", "left", "[SEP]")
    ]


def test_tokens_are_those_of_transformers(tokenizer):
    theirs = transformers.BertTokenizer(vocab=str(DEFAULT_VOCABULARY))
    expected = theirs(SENTENCES, padding="max_length", max_length=30, return_tensors="np")
    ids, mask = tokenizer.encode(SENTENCES, 30)
    np.testing.assert_array_equal(ids, expected["input_ids"])
    np.testing.assert_array_equal(mask, expected["attention_mask"])


@settings(max_examples=100, deadline=None)
@given(st.text(string.printable, min_size=1, max_size=80).filter(lambda text: text.strip(string.whitespace)))
def test_no_printable_ascii_is_unknown(text):
    tokenizer = _shared()
    assert "[UNK]" not in spelled(tokenizer, text + " x")


def _shared(cache: list = []) -> Tokenizer:  # noqa: B006  hypothesis does not take module-scoped fixtures
    if not cache:
        cache.append(Tokenizer.default())
    return cache[0]


def test_fine_classes_and_positions_are_whole_words(tokenizer):
    classes = (
        "wide bodied narrow rear engine four corporate aircraft speed boat yacht cruise freighter naval vessels ship"
    )
    positions = (
        "top left bottom right centre center middle north west upper lower corner jet plane lorry truck car train"
    )
    for word in f"{classes} {positions} large small".split():
        assert spelled(tokenizer, word) == ["[CLS]", word, "[SEP]"]


def test_special_pieces_in_a_sentence_are_plain_text(tokenizer):
    assert spelled(tokenizer, "ship [SEP] [PAD]").count("[SEP]") == 1
    assert "[PAD]" not in spelled(tokenizer, "ship [SEP] [PAD]")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "no text was given"),
        ([""], "is blank"),
        (["the ship", " \t\n"], "is blank"),
        (["\x00\x01"], "is blank"),
        ("the ship", "must be a list of sentences"),
        (["飞机"], "no word that the vocabulary can spell"),
        (["ship " * 11], r"has 13 tokens and the limit is 12; shorten it"),
    ],
)
def test_bad_texts_are_refused_with_a_sentence(tokenizer, texts, message):
    with pytest.raises(UserError, match=message):
        tokenizer.encode(texts, 12)


def test_a_text_of_exactly_the_limit_is_taken_whole(tokenizer):
    ids, mask = tokenizer.encode(["ship " * 10], 12)
    assert mask.all()
    assert tokenizer.pieces[ids[0, -1]] == "[SEP]"


def test_save_is_deterministic_and_load_gives_the_same_tokenizer(tmp_path, tokenizer):
    cased = Tokenizer([*tokenizer.pieces, "Ship"], {"do_lower_case": False})
    cased.save(tmp_path / "a")
    loaded = Tokenizer.load(tmp_path / "a")
    loaded.save(tmp_path / "b")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["tokenizer_config.json", "vocab.txt"]
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert loaded.vocab_size == tokenizer.vocab_size + 1
    assert spelled(loaded, "Ship ship") == ["[CLS]", "Ship", "ship", "[SEP]"]
    assert (
        transformers.BertTokenizer.from_pretrained(str(tmp_path / "a"))("Ship")["input_ids"][1] == loaded.vocab_size - 1
    )


def test_incomplete_or_damaged_folders_are_refused(tmp_path, tokenizer):
    with pytest.raises(UserError, match=r"cannot read the tokenizer's options .*tokenizer_config.json"):
        Tokenizer.load(tmp_path)
    tokenizer.save(tmp_path)
    (tmp_path / "vocab.txt").write_text("ship\nboat\n")
    with pytest.raises(UserError, match=r"lacks \[PAD\]"):
        Tokenizer.load(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL_PIECES, "ship", "ship"]))
    with pytest.raises(UserError, match="'ship' more than once"):
        Tokenizer.load(tmp_path)
    (tmp_path / "vocab.txt").unlink()
    with pytest.raises(UserError, match="cannot read the vocabulary"):
        Tokenizer.load(tmp_path)
    with pytest.raises(UserError, match=r"neither tokenizer.json nor vocab.txt"):
        Tokenizer.from_huggingface(tmp_path)


def test_huggingface_folder_with_truncation_keeps_the_whole_sentence(tmp_path, tokenizer):
    theirs = transformers.BertTokenizer(vocab=str(DEFAULT_VOCABULARY), do_lower_case=False)
    theirs.backend_tokenizer.enable_truncation(4)
    theirs.backend_tokenizer.enable_padding(length=4)
    theirs.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    loaded = Tokenizer.from_huggingface(tmp_path)
    assert loaded.pieces == tokenizer.pieces
    assert loaded.options["do_lower_case"] is False
    assert len(spelled(loaded, "the ship at the top")) == 7


def test_a_tokenizer_of_another_kind_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{broken")
    with pytest.raises(UserError, match="cannot read the tokenizer"):
        Tokenizer.from_huggingface(tmp_path)


def test_build_vocab_depends_on_the_words_alone():
    first = build_vocab(["the ship", "a Boat sails"])
    assert first == build_vocab(["sails the a", "ship boat", "the the"])
    assert first[: len(SPECIAL_PIECES)] == list(SPECIAL_PIECES)
    assert len(first) == len(set(first))
    assert {"ship", "boat", "sails", "##a", "##9", "!"} <= set(first)
    assert "##ing" in build_vocab(["moving", "sailing", "turning"])
    assert "##ing" not in build_vocab(["moving", "sailing"])


def test_the_shipped_vocabulary_is_what_the_command_writes(tmp_path):
    output = tmp_path / "vocab.txt"
    command = [sys.executable, str(ROOT / "tools" / "build_vocab.py"), "--output", str(output)]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert output.read_bytes() == DEFAULT_VOCABULARY.read_bytes()


def test_encoding_needs_neither_torch_nor_a_hub():
    code = """
import socket, sys
def refuse(*a, **k): raise AssertionError("network")
socket.socket.connect = refuse
import mqc_jax.text
before = "transformers" in sys.modules
ids, mask = mqc_jax.text.Tokenizer.default().encode(["the yacht at the bottom-right"], 16)
print(before, "torch" in sys.modules, int(mask.sum()))
"""
    assert in_subprocess(code) == "False False 9"
