"""A model that points at what is bright, for tests of where it is made to look."""

import cv2
import numpy as np

from mqc_jax import tile_search
from mqc_jax.results import FrameResult


def ground_on_brightness(monkeypatch) -> list:
    """Has the search ground every sentence on bright pixels; returns what gathers (token ids, images) of each batch."""
    seen = []

    def ground(net, params, images, ids, mask):
        small = np.stack([cv2.resize(image[..., 0], (16, 16), interpolation=cv2.INTER_AREA) for image in images])
        logits = (small.astype(np.float32) - 100) / 10
        coarse = 1 / (1 + np.exp(-logits))
        seen.append((tuple(ids[0]), images))
        return coarse.max((1, 2)) * (small > 100).any((1, 2)), coarse, logits

    monkeypatch.setattr(tile_search, "_ground", ground)
    return seen


def lights(*corners: tuple[int, int], side: int = 12, size: tuple[int, int] = (480, 640)) -> np.ndarray:
    """A dark frame with a bright square at each (x, y)."""
    frame = np.full((*size, 3), 20, np.uint8)
    for x, y in corners:
        frame[y : y + side, x : x + side] = 255
    return frame


class Brightness:
    """In `Tracker`'s place: a target is what is bright. Its first mask waits for `lag` frames, as if calibrated."""

    lag = 0
    # Numbers of frames whose masks a memory with gates holds for too large, and for larger, but not for too large.
    grown: frozenset[int] = frozenset()
    larger: frozenset[int] = frozenset()
    better: frozenset[int] = frozenset()  # of those that it holds for much better than the masks before
    faint: frozenset[int] = frozenset()  # of those in which it takes the target for absent, and shows a mask
    past: int = 64  # of how many masks it knows a target's size

    def __init__(self, model, texts=None, masks=None):
        self.looked, self.given, self.num_targets = [], 0, len(texts or masks)
        self.model, self.targets, self.expected = model, [0], []
        self.passed_over: list[int] = []  # numbers of frames

    def expect(self, places):
        self.expected.append(places)

    def _look(self, frame):
        self.looked.append(frame)
        return len(self.looked) > self.lag

    def _begin(self):
        return self._result(self.looked[0])

    def push(self, frame):
        return [self._result(frame)]

    def _memories(self):
        return self.given

    def _pass_over(self, result, before):
        assert before == result.frame_index
        self.passed_over.append(result.frame_index)
        return result

    def _result(self, frame):
        mask = frame[None, ..., 0] > 100
        self.given += 1
        facts = np.array([mask.any()])
        logits = np.zeros((1, 16, 16), np.float32)
        grown = np.array([self.given - 1 in self.grown])
        growth = np.array([2.0 if grown[0] else 1.4 if self.given - 1 in self.larger else 1.0])
        quality = np.array([1.3 if self.given - 1 in self.better else 1.0])
        memory = {"grown": grown, "growth": growth, "quality": quality, "past": np.array([self.past])}
        memory["visible"] = ~grown
        memory = memory if self.model.config.memory == "dami" else {}
        return FrameResult(
            self.given - 1,
            mask,
            logits,
            facts.astype(np.float32) * (0.4 if self.given - 1 in self.faint else 1),
            facts.astype(np.float32),
            memory,
            {},
            np.zeros(1, int),
            facts,
        )
