"""Sources and loaders for the tests of training clips."""

import itertools
from collections import Counter

import numpy as np

from mqc_jax.data.batches import batches
from mqc_jax.data.clips import ClipDataset
from mqc_jax.data.source import Expression, Sequence


def tokenize(text: str) -> dict:
    """A stand-in with the tokenizer's interface: code points, padded to 40."""
    codes = [ord(letter) for letter in text][:40]
    return {
        "input_ids": codes + [0] * (40 - len(codes)),
        "attention_mask": [1] * len(codes) + [0] * (40 - len(codes)),
    }


def make(source, **changes) -> ClipDataset:
    return ClipDataset(
        source, **{"image_size": 32, "clip_length": 3, "max_stride": 3, "tokenize": tokenize, "seed": 5, **changes}
    )


def take(n, *args, **kwargs):
    stream = batches(*args, **kwargs)
    found = list(itertools.islice(stream, n))
    stream.close()
    return found


class Spy:
    """Counts what is decoded."""

    def __init__(self, source):
        self._source, self.sequences = source, source.sequences
        self.frames, self.annotations = Counter(), Counter()

    def frame(self, sequence, t, reduce=1):
        self.frames[sequence, t] += 1
        return self._source.frame(sequence, t, reduce)

    def labels(self, sequence, t):
        self.annotations[sequence, t] += 1
        return self._source.labels(sequence, t)


class Drawn:
    """A source made of arrays, for cases that files would only hide."""

    def __init__(self, labels, text="the thing", categories=None, frames=None):
        self._labels, self._frames = labels, frames
        n, height, width = len(labels), *labels[0].shape
        names = tuple(f"{t:05d}" for t in range(n))
        expression = Expression("0", text, (1,))
        self.sequences = (Sequence("s", names, (height, width), (expression,), categories or {}),)

    def frame(self, sequence, t, reduce=1):
        height, width = self._labels[t].shape
        return np.full((-(-height // reduce), -(-width // reduce), 3), t, np.uint8)

    def labels(self, sequence, t):
        return self._labels[t]


def crowd() -> np.ndarray:
    """Labels [60, 90]: a yacht in the middle, one at the right, a ferry below."""
    labels = np.zeros((60, 90), np.uint8)
    labels[28:32, 40:46] = 1
    labels[12:16, 70:76] = 2
    labels[44:56, 40:60] = 3
    return labels


class Gradient(Drawn):
    """Frames that say where each pixel was: red is the row, green the column."""

    def frame(self, sequence, t, reduce=1):
        rows, cols = np.indices(self._labels[t].shape)
        return np.stack([rows, cols, np.zeros_like(rows)], -1).astype(np.uint8)


def scene() -> Gradient:
    """Four objects that can be told apart, in 3 frames; object 2 leaves."""
    labels = np.zeros((3, 60, 90), np.uint8)
    labels[:, 5:13, 5:15], labels[:2, 5:13, 70:80], labels[:, 45:53, 40:50], labels[:, 25:33, 70:80] = 1, 2, 3, 4
    return Gradient(labels, "the yacht at the top-left", {1: "yacht", 2: "yacht", 3: "freighter", 4: "small car"})


def fleet(frames: int = 1) -> Gradient:
    """Nine cars in each ninth of the frame, none of which the others leave a sentence, and one ferry with one."""
    labels = np.zeros((frames, 180, 180), np.uint8)
    for k in range(81):
        row, column = 5 + 20 * (k // 9), 5 + 20 * (k % 9)
        labels[:, row : row + 4, column : column + 4] = 2 + k
    labels[:, 92:98, 82:98] = 1
    categories = {1: "ferry"} | dict.fromkeys(range(2, 83), "small car")
    return Gradient(labels, "the ferry at the center", categories)
