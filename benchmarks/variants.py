"""The rows of the table of variants: what runs in each, and how their scores become one table."""

import csv
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np
from tqdm import tqdm

import mqc_jax
from mqc_jax.checkpoint import SHIPPED, Model
from mqc_jax.data.source import VideoSource
from mqc_jax.errors import UserError
from mqc_jax.evaluate import evaluate_model, tracker_of
from mqc_jax.metrics import CONFIDENCE, RESAMPLES, FrameScore, Scores
from mqc_jax.predict import model_facts
from mqc_jax.results import FrameResult
from mqc_jax.tiled import with_tile

BENCHMARK_SEED = 20260112
FULL = str(SHIPPED)
"""DAMI's memory: the checkpoint that ships as the default."""
BASELINE = str(SHIPPED.with_name("baseline"))
"""SAM2's memory, with the same parameters but for the memory's. Without `FULL` DAMI's gates run on it untrained."""

ROWS = ("baseline", "tmcc", "dami", "full", "every_frame", "true_mask", "opencv")
NUMBERS = ("J&F", "J", "J_recall", "F", "F_recall")
TAGS = ("occlusion", "look_alikes", "weak_saliency", "late_start", "static")
SIZES = ((0.0, 0.0003, "< 0.03 %"), (0.0003, 0.001, "0.03-0.1 %"), (0.001, 1.0, "> 0.1 %"))


class WithoutWords:
    """A source whose targets are given by their true first masks."""

    def __init__(self, source: VideoSource):
        self._source = source
        mute = lambda s: tuple(dataclasses.replace(e, text="") for e in s.expressions)  # noqa: E731
        self.sequences = tuple(dataclasses.replace(s, expressions=mute(s)) for s in source.sequences)

    def frame(self, sequence: int, t: int, reduce: int = 1) -> np.ndarray:
        return self._source.frame(sequence, t, reduce)

    def labels(self, sequence: int, t: int) -> np.ndarray | None:
        return self._source.labels(sequence, t)


class One:
    """A source's one sequence."""

    def __init__(self, source: VideoSource, position: int):
        self._source, self._position = source, position
        self.sequences = source.sequences[position : position + 1]

    def frame(self, sequence: int, t: int, reduce: int = 1) -> np.ndarray:
        return self._source.frame(self._position, t, reduce)

    def labels(self, sequence: int, t: int) -> np.ndarray | None:
        return self._source.labels(self._position, t)


class BoxTracker:
    """The baseline's first masks, moved along with the boxes that OpenCV's MIL tracker follows."""

    def __init__(self, model: Model, texts: list[str]):
        self._tracker = tracker_of(model, texts)
        self._first: FrameResult | None = None
        self._followers: list[Any] = []
        self._places: list[tuple[int, int] | None] = []

    def push(self, frame: np.ndarray) -> list[FrameResult]:
        """The frame's result at once."""
        if self._first is None:
            (self._first,) = self._tracker.push(frame)
            self._latest = self._first
            for mask in self._first.masks:
                follower = None
                if mask.any():
                    follower = cv2.TrackerMIL.create()
                    follower.init(frame, self._box(mask))
                self._followers.append(follower)
            return [self._first]
        masks = np.stack([self._moved(frame, *row) for row in zip(self._followers, self._first.masks, strict=True)])
        self._latest = dataclasses.replace(self._first, frame_index=self._latest.frame_index + 1, masks=masks)
        return [self._latest]

    def finish(self) -> list[FrameResult]:
        """Nothing is held back."""
        return []

    @staticmethod
    def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
        """x, y, width and height around a mask, at least 8 pixels: in one of 4x4 OpenCV seeks features for ever."""
        x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
        more_x, more_y = max(8 - width, 0), max(8 - height, 0)
        x, y = (
            min(max(v - more // 2, 0), side - 8)
            for v, more, side in ((x, more_x, mask.shape[1]), (y, more_y, mask.shape[0]))
        )
        return x, y, width + more_x, height + more_y

    @staticmethod
    def _moved(frame: np.ndarray, follower: Any, mask: np.ndarray) -> np.ndarray:
        if follower is None:
            return mask
        found, box = follower.update(frame)
        if not found:
            return np.zeros_like(mask)
        x, y, _, _ = BoxTracker._box(mask)
        move = np.array([[1, 0, box[0] - x], [0, 1, box[1] - y]], np.float32)
        moved = cv2.warpAffine(mask.astype(np.uint8), move, mask.shape[::-1], flags=cv2.INTER_NEAREST)
        return moved.astype(bool)


def models(baseline: str, full: str | None, size: int | None, tile: int | None = None) -> dict[str, Model]:
    """Row -> the model that it runs, from two checkpoints (`full` None: the baseline's).

    `size` replaces their own, and `tile` is `tiled.with_tile`'s.
    """
    switches = {"image_size": size} if size else {}
    plain = {"calibration": "none", **switches}
    of_sam2, of_dami = (with_tile(mqc_jax.load(path), tile) for path in (baseline, full or baseline))
    return {
        "baseline": of_sam2.replace(**plain),
        "tmcc": of_sam2.replace(calibration="tmcc", **switches),
        "dami": of_dami.replace(memory="dami", **plain),
        "full": of_dami.replace(memory="dami", calibration="tmcc", **switches),
        "every_frame": of_sam2.replace(text_every_frame=True, **plain),
        "true_mask": of_sam2.replace(**plain),
        "opencv": of_sam2.replace(**plain),
    }


def beginning(row: str, model: Model) -> Callable[[Any], Any]:
    """What `evaluate_model` calls to begin a sequence."""
    return functools.partial(BoxTracker if row == "opencv" else tracker_of, model)


def compute(row: str, model: Model, source: VideoSource, folder: Path, again: Collection[str] = ()) -> None:
    """Writes the row's scores, each sequence's into a folder of its own, unless they are there and of the same model.

    Args:
      again: names of sequences that are computed whether they are there or not: those that new code does otherwise.

    Raises:
      UserError: the folder holds another model's, or there is no such sequence.
    """
    known = [sequence.name for sequence in source.sequences]
    for name in again:
        if name not in known:
            raise UserError(f"no sequence {name!r} to compute again; there are {known[0]} to {known[-1]}")
    facts = {"row": row, "weights": _digest(model), **model_facts(model)}
    given, begin = WithoutWords(source) if row == "true_mask" else source, beginning(row, model)
    missing = [k for k, name in enumerate(known) if name in again or not _holds(folder / name, facts)]
    for k in tqdm(missing, unit="sequence", desc=row):
        evaluate_model(One(given, k), begin, str(folder / known[k]), facts=facts, progress=False, even=False)


def again_of(names: list[str], seeds: list[str]) -> dict[str, list[str]]:
    """Each split's sequences, of names that are SEED/NAME or, in all splits, NAME.

    Raises:
      UserError: a seed is that of no split.
    """
    found: dict[str, list[str]] = {seed: [] for seed in seeds}
    for name in names:
        seed, _, sequence = name.rpartition("/")
        if seed and seed not in found:
            raise UserError(f"--again {name!r} is of no split; there are {', '.join(seeds)}")
        for split in [seed] if seed else seeds:
            found[split].append(sequence)
    return found


def _digest(model: Model) -> str:
    """Of a model's parameters, whatever folder they were read from."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(model.params):
        found.update(jax.tree_util.keystr(path).encode())
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()[:16]


def _holds(part: Path, facts: dict[str, Any]) -> bool:
    """Whether a sequence's scores are there."""
    done = part / "metrics.json"
    if not done.exists():
        return False
    there = json.loads(done.read_text())["model"]
    if {**there, "checkpoint": ""} != {**json.loads(json.dumps(facts)), "checkpoint": ""}:
        raise UserError(f"{part} holds the scores of another model or size; give another --output")
    return True


Frames = list[tuple[tuple[str, str], str, FrameScore]]
"""((sequence, expression), frame, score) of every frame in which a target is seen."""


def frames_of(folder: Path) -> Frames:
    """What `compute` wrote."""
    frames = []
    for path in sorted(folder.glob("*/per_frame.csv")):
        with open(path, newline="") as file:
            frames += [
                ((line["sequence"], line["expression"]), line["frame"], FrameScore(float(line["J"]), float(line["F"])))
                for line in csv.DictReader(file)
            ]
    return frames


def summary(frames: Frames, chosen: set[tuple[str, str]] | None = None) -> dict[str, Any]:
    """`Scores.summary` of some targets' frames."""
    scores = Scores()
    for target, frame, score in frames:
        if chosen is None or target in chosen:
            scores.add_score(*target, frame, score)
    return scores.summary()


def record(scored: dict[str, Frames], models: dict[str, Model]) -> dict[str, Any]:
    """What a table can be checked against later: each row's model and its J&F, in all and of every sequence."""
    rows = {}
    for row, frames in scored.items():
        total = summary(frames)
        sequences = {name: round(part["J&F"], 5) for name, part in total["per_sequence"].items()}
        facts = {k: v for k, v in model_facts(models[row]).items() if k not in ("checkpoint", "device")}
        rows[row] = {**facts, "J&F": round(total["J&F"], 5), "sequences": sequences}
    return rows


def difference(one: dict[str, Any], other: dict[str, Any], seed: int = 0) -> tuple[float, float, float]:
    """J&F of `one` less that of `other`, and the bounds of its paired bootstrap over sequences."""
    names = sorted(one["per_sequence"])
    counts = np.array([one["per_sequence"][n]["n_targets"] for n in names])
    gains = np.array([one["per_sequence"][n]["J&F"] - other["per_sequence"][n]["J&F"] for n in names]) * counts
    drawn = np.random.default_rng(seed).integers(0, len(names), (RESAMPLES, len(names)))
    means = gains[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(gains.sum() / counts.sum()), float(low), float(high)


def groups(sources: dict[str, VideoSource]) -> dict[str, set[tuple[str, str]]]:
    """Attribute -> its targets, named as in `frames_of` with the split's seed in front of the sequence."""
    found: dict[str, set[tuple[str, str]]] = {name: set() for name in (*TAGS, *(name for _, _, name in SIZES))}
    for seed, source in sources.items():
        for position, sequence in enumerate(source.sequences):
            labels = source.labels(position, 0)
            for expression in sequence.expressions:
                target = (f"{seed}/{sequence.name}", expression.id)
                for tag in set(sequence.tags) & set(TAGS):
                    found[tag].add(target)
                share = expression.mask(labels).mean()
                name = next(name for low, high, name in SIZES if low <= share < high)
                found[name].add(target)
    return found


def table(scored: dict[str, Frames], sources: dict[str, VideoSource]) -> str:
    """The rows as Markdown."""
    totals = {row: summary(frames) for row, frames in scored.items()}
    lines = ["| row | J&F (95 %) | J | J-recall | F | F-recall | against the baseline (95 %) |", "|" + "---|" * 7]
    for row, total in totals.items():
        interval = total["confidence_interval"]
        bounds = f" ({interval['J&F'][0]:.3f} to {interval['J&F'][1]:.3f})" if interval else ""
        gain = ""
        if row != "baseline" and "baseline" in totals and interval:
            gain = "{:+.3f} ({:+.3f} to {:+.3f})".format(*difference(total, totals["baseline"]))
        numbers = " | ".join(f"{total[name]:.3f}" for name in NUMBERS[1:])
        lines.append(f"| {row} | {total['J&F']:.3f}{bounds} | {numbers} | {gain} |")
    by_attribute = groups(sources)
    lines += ["", "| J&F of targets | " + " | ".join(f"{n} ({len(t)})" for n, t in by_attribute.items()) + " |"]
    lines.append("|" + "---|" * (len(by_attribute) + 1))
    for row, frames in scored.items():
        parts = [summary(frames, chosen)["J&F"] if chosen else None for chosen in by_attribute.values()]
        lines.append(f"| {row} | " + " | ".join("" if x is None else f"{x:.3f}" for x in parts) + " |")
    return "\n".join(lines)
