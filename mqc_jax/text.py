"""Sentences to fixed-length token arrays, with a BERT WordPiece vocabulary that lives in the checkpoint's own folder.

The tokenizer itself is `transformers`' BERT tokenizer. It is imported when the first tokenizer is made, because that
import takes a second or two; nothing here needs torch or a model hub.
"""

import json
import os
import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from mqc_jax.errors import UserError
from mqc_jax.files import write_atomic

# transformers advises to install torch, which this project neither needs nor wants at run time.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

PAD, UNKNOWN, START, END, MASK = SPECIAL_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
DEFAULT_VOCABULARY = Path(__file__).parent / "assets" / "vocab.txt"

_VOCABULARY_FILE = "vocab.txt"
_OPTIONS_FILE = "tokenizer_config.json"
_OPTIONS = {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True}
_LONGEST_WORD = 100  # BERT's WordPiece gives up on longer ones
_ENDING_LENGTHS = range(2, 6)
_ENDING_USES = 3


class Tokenizer:
    """BERT's WordPiece tokenizer over a given vocabulary.

    Args:
      pieces: the vocabulary; a piece's id is its place. `##` marks a continuation. Holds every `SPECIAL_PIECES`.
      options: `do_lower_case`, `strip_accents` and `tokenize_chinese_chars` as `transformers` names them; a field left
        out takes BERT's (uncased) default.

    Raises:
      UserError: a special piece is missing, a piece stands twice, or an option is unknown.
    """

    def __init__(self, pieces: Sequence[str], options: dict[str, bool | None] | None = None) -> None:
        self.pieces = tuple(pieces)
        self.options = _OPTIONS | (options or {})
        missing = [piece for piece in SPECIAL_PIECES if piece not in self.pieces]
        if missing:
            raise UserError(f"the vocabulary lacks {', '.join(missing)}; a BERT vocabulary holds all special pieces")
        if len(set(self.pieces)) != len(self.pieces):
            twice = [piece for piece, count in Counter(self.pieces).items() if count > 1]
            raise UserError(f"the vocabulary holds {twice[0]!r} more than once; remove the repetition")
        unknown = sorted(self.options.keys() - _OPTIONS.keys())
        if unknown:
            raise UserError(f"unknown tokenizer option {unknown[0]!r}; known are {', '.join(_OPTIONS)}")

        from transformers import BertTokenizer

        self._tokenizer = BertTokenizer(vocab={piece: i for i, piece in enumerate(self.pieces)}, **self.options)
        self._pad = self.pieces.index(PAD)
        self._unknown = self.pieces.index(UNKNOWN)

    @property
    def vocab_size(self) -> int:
        """Rows that a word embedding for this tokenizer has."""
        return len(self.pieces)

    @classmethod
    def default(cls) -> "Tokenizer":
        """The small vocabulary that ships with the package; every ASCII text tokenizes without an unknown piece."""
        return cls(_read_pieces(DEFAULT_VOCABULARY))

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "Tokenizer":
        """Reads what `save` wrote.

        Raises:
          UserError: the folder lacks the files, or they do not hold a BERT vocabulary.
        """
        folder = Path(folder)
        options = _read_json(folder / _OPTIONS_FILE)
        return cls(_read_pieces(folder / _VOCABULARY_FILE), {k: v for k, v in options.items() if k in _OPTIONS})

    @classmethod
    def from_huggingface(cls, folder: str | os.PathLike) -> "Tokenizer":
        """The BERT tokenizer of a Hugging Face model folder (`tokenizer.json` or `vocab.txt`), read without a hub.

        Raises:
          UserError: the folder holds no tokenizer, or one that is not BERT's WordPiece.
        """
        folder = Path(folder)
        # Without either file transformers makes an empty tokenizer and says nothing.
        if not any((folder / name).is_file() for name in ("tokenizer.json", _VOCABULARY_FILE)):
            raise UserError(f"{folder} holds neither tokenizer.json nor vocab.txt; give a folder with BERT's tokenizer")
        from transformers import BertTokenizer

        try:
            loaded = BertTokenizer.from_pretrained(str(folder), local_files_only=True)
            parts = json.loads(loaded.backend_tokenizer.to_str())
        except Exception as error:  # the library raises its own bare Exception on a damaged tokenizer.json
            raise UserError(f"cannot read the tokenizer in {folder}: {_first_line(error)}") from error
        kinds = (parts["model"]["type"], (parts["normalizer"] or {}).get("type"))
        if kinds != ("WordPiece", "BertNormalizer"):
            raise UserError(f"the tokenizer in {folder} is {kinds[0]} with {kinds[1]}, not BERT's WordPiece")
        by_id = {i: piece for piece, i in loaded.get_vocab().items()}
        if sorted(by_id) != list(range(len(by_id))):
            raise UserError(f"the vocabulary in {folder} has gaps: {len(by_id)} pieces, largest id {max(by_id)}")
        normalizer = parts["normalizer"]
        options = {
            "do_lower_case": normalizer["lowercase"],
            "strip_accents": normalizer["strip_accents"],
            "tokenize_chinese_chars": normalizer["handle_chinese_chars"],
        }
        return cls([by_id[i] for i in range(len(by_id))], options)

    def save(self, folder: str | os.PathLike) -> None:
        """Writes `vocab.txt` and `tokenizer_config.json` (BERT's classic layout); the same bytes every time."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / _VOCABULARY_FILE, "".join(f"{piece}\n" for piece in self.pieces))
        options = {"tokenizer_class": "BertTokenizer"} | self.options
        write_atomic(folder / _OPTIONS_FILE, json.dumps(options, indent=2, sort_keys=True) + "\n")

    def encode(self, texts: Sequence[str], max_length: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokenizes N sentences to a fixed length.

        Args:
          texts: the sentences. A special piece spelled out in one (`[SEP]`) is ordinary text.
          max_length: L, the tokens of the result, [CLS] and [SEP] included.

        Returns:
          input_ids int32 `[N, L]` and attention_mask bool `[N, L]`; padding comes last.

        Raises:
          UserError: no text; a text that is blank, too long, or has no word that the vocabulary can spell.
        """
        if isinstance(texts, str):
            raise UserError(f"texts must be a list of sentences, not the one sentence {texts!r}; put it in a list")
        if not texts:
            raise UserError("no text was given; give at least one sentence, such as 'the yacht at the bottom-right'")
        ids = np.full((len(texts), max_length), self._pad, np.int32)
        mask = np.zeros((len(texts), max_length), bool)
        for i, text in enumerate(texts):
            tokens = self._encode_one(text, max_length)
            ids[i, : len(tokens)] = tokens
            mask[i, : len(tokens)] = True
        return ids, mask

    def _encode_one(self, text: str, max_length: int) -> list[int]:
        # Without truncation: a sentence that loses its end silently would describe another target.
        tokens = self._tokenizer(text, padding=False, truncation=False, split_special_tokens=True, verbose=False)
        tokens = tokens["input_ids"]
        words = tokens[1:-1]
        if not words:
            raise UserError(f"the text {text!r} is blank; describe the target, such as 'the yacht at the bottom-right'")
        if all(token == self._unknown for token in words):
            raise UserError(
                f"the text {_shortened(text)!r} has no word that the vocabulary can spell; write it in English"
            )
        if len(tokens) > max_length:
            raise UserError(
                f"the text {_shortened(text)!r} has {len(tokens)} tokens and the limit is {max_length}; shorten it"
            )
        return tokens


def build_vocab(sentences: Iterable[str]) -> list[str]:
    """A small WordPiece vocabulary that spells every ASCII text.

    It holds the special pieces, every printable ASCII character, a continuation for each letter and digit, the endings
    that several words share ("##ing", "##boat"), and every word of the sentences.

    Args:
      sentences: text in English; case does not matter, and words are runs of ASCII letters.

    Returns:
      The pieces in the order of their ids: special, characters, then words, then continuations, each sorted. The same
      for the same set of words, whatever the order or number of the sentences.
    """
    words = {word for sentence in sentences for word in re.findall(r"[a-z]+", sentence.lower())}
    words = {word for word in words if len(word) <= _LONGEST_WORD}
    letters = string.ascii_lowercase + string.digits
    characters = sorted(set(letters + string.punctuation))
    endings = Counter(word[-n:] for word in words for n in _ENDING_LENGTHS if len(word) > n + 1)
    continuations = set(letters) | {ending for ending, uses in endings.items() if uses >= _ENDING_USES}
    return [*SPECIAL_PIECES, *characters, *sorted(words - set(letters)), *(f"##{c}" for c in sorted(continuations))]


def _read_pieces(path: Path) -> list[str]:
    try:
        # Bytes, because text mode would also break lines at a piece that is itself a carriage return.
        return path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the vocabulary {path}: {_first_line(error)}") from error


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the tokenizer's options {path}: {_first_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"the tokenizer's options {path} hold no JSON object; give a complete checkpoint")
    return content


def _first_line(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.strip().splitlines()[0]


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
