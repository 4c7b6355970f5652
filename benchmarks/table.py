"""Table II on the project's own benchmark: four variants and three references, on one split, by one command.

    python benchmarks/table.py --output runs/table [--seeds 20260112,7,8] [--sequences 29] [--size 640] [--noise 1]

    baseline    SAM2's memory, the first mask as the model made it
    tmcc        the same, with the first mask calibrated by motion
    dami        three decoupled, gated memories
    full        both
    every_frame the sentence prompts every frame, not the first alone (what the paper says drifts)
    true_mask   full, from the true first mask instead of a sentence: the upper bound of calibration
    opencv      OpenCV's MIL tracker from the box of the baseline's first mask, which moves along with the box

A row that lies under --output already is not computed again, so that an interrupted table goes on. Intervals are
bootstraps over sequences; a difference to the baseline is drawn pairwise, over the same sequences.
"""

import csv
import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from absl import flags

import mqc_jax
from mqc_jax.checkpoint import Model
from mqc_jax.data.source import VideoSource, open_source
from mqc_jax.data.synthetic.write import write_split
from mqc_jax.errors import UserError, run
from mqc_jax.evaluate import evaluate_model, new_tracker
from mqc_jax.metrics import CONFIDENCE, RESAMPLES, FrameScore, Scores
from mqc_jax.predict import model_facts
from mqc_jax.results import FrameResult

BENCHMARK_SEED = 20260112
ROWS = ("baseline", "tmcc", "dami", "full", "every_frame", "true_mask", "opencv")
NUMBERS = ("J&F", "J", "J_recall", "F", "F_recall")
TAGS = ("occlusion", "look_alikes", "weak_saliency", "late_start", "static")
SIZES = ((0.0, 0.0003, "< 0.03 %"), (0.0003, 0.001, "0.03-0.1 %"), (0.001, 1.0, "> 0.1 %"))

_OUTPUT = flags.DEFINE_string("output", None, "Folder for the data, the masks and the table.")
_BASELINE = flags.DEFINE_string("baseline", None, "Checkpoint with SAM2's memory; left out: the one that ships.")
_FULL = flags.DEFINE_string("full", None, "Checkpoint with DAMI's memory; left out: the one that ships.")
_SEEDS = flags.DEFINE_list("seeds", [str(BENCHMARK_SEED)], "Seeds of the generated test splits.")
_SEQUENCES = flags.DEFINE_integer("sequences", 29, "Sequences of each split.", lower_bound=1)
_FRAME_SIZE = flags.DEFINE_string("frame_size", None, "HxW of every frame in place of the split's own sizes.")
_FRAMES = flags.DEFINE_integer("frames", None, "Frames of every sequence in place of the split's own lengths.")
_NOISE = flags.DEFINE_float("noise", 1.0, "Factor on the sensor noise.")
_SIZE = flags.DEFINE_integer("size", None, "Side that frames are resized to; left out: the checkpoint's own.")
_TILE = flags.DEFINE_integer("tile", None, "Search and follow in windows of so many pixels, as evaluate does.")
_ROWS = flags.DEFINE_list("rows", list(ROWS), f"Rows to compute, of: {', '.join(ROWS)}.")


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


class BoxTracker:
    """The baseline's first masks, moved along with the boxes that OpenCV's MIL tracker follows."""

    def __init__(self, model: Model, tile: int | None, texts: list[str]):
        self._tracker = new_tracker(model, tile, texts)
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
                    follower.init(frame, cv2.boundingRect(mask.astype(np.uint8)))
                self._followers.append(follower)
            return [self._first]
        masks = np.stack([self._moved(frame, *row) for row in zip(self._followers, self._first.masks, strict=True)])
        self._latest = dataclasses.replace(self._first, frame_index=self._latest.frame_index + 1, masks=masks)
        return [self._latest]

    def finish(self) -> list[FrameResult]:
        """Nothing is held back."""
        return []

    @staticmethod
    def _moved(frame: np.ndarray, follower: Any, mask: np.ndarray) -> np.ndarray:
        if follower is None:
            return mask
        found, box = follower.update(frame)
        if not found:
            return np.zeros_like(mask)
        x, y, _, _ = cv2.boundingRect(mask.astype(np.uint8))
        move = np.array([[1, 0, box[0] - x], [0, 1, box[1] - y]], np.float32)
        moved = cv2.warpAffine(mask.astype(np.uint8), move, mask.shape[::-1], flags=cv2.INTER_NEAREST)
        return moved.astype(bool)


def models() -> dict[str, Model]:
    """Row -> the model that it runs."""
    size = {"image_size": _SIZE.value} if _SIZE.value else {}
    full = mqc_jax.load(_FULL.value)
    baseline = mqc_jax.load(_BASELINE.value or str(Path(mqc_jax.__file__).parent / "assets" / "checkpoint_baseline"))
    plain = {"calibration": "none", **size}
    return {
        "baseline": baseline.replace(**plain),
        "tmcc": baseline.replace(calibration="tmcc", **size),
        "dami": full.replace(memory="dami", **plain),
        "full": full.replace(memory="dami", calibration="tmcc", **size),
        "every_frame": baseline.replace(text_every_frame=True, **plain),
        "true_mask": full.replace(memory="dami", **plain),
        "opencv": baseline.replace(**plain),
    }


def tracker_of(row: str, model: Model) -> Callable[[Any], Any]:
    """What `evaluate_model` calls to begin a sequence."""
    if row == "opencv":
        return functools.partial(BoxTracker, model, _TILE.value)
    return lambda given: (
        mqc_jax.Tracker(model, given) if isinstance(given, list) else mqc_jax.Tracker(model, masks=given)
    )


def compute(row: str, model: Model, source: VideoSource, folder: Path) -> None:
    """Writes the row's scores, unless they are there and of the same model."""
    facts = {"row": row, "tile": _TILE.value, **model_facts(model)}
    done = folder / "metrics.json"
    if done.exists():
        if json.loads(done.read_text())["model"] == json.loads(json.dumps(facts)):
            return
        raise UserError(f"{folder} holds the scores of another model or size; give another --output")
    given = WithoutWords(source) if row == "true_mask" else source
    evaluate_model(given, tracker_of(row, model), str(folder), facts=facts, even=False)


Frames = list[tuple[tuple[str, str], str, FrameScore]]
"""((sequence, expression), frame, score) of every frame in which a target is seen."""


def frames_of(folder: Path) -> Frames:
    with open(folder / "per_frame.csv", newline="") as file:
        return [
            ((line["sequence"], line["expression"]), line["frame"], FrameScore(float(line["J"]), float(line["F"])))
            for line in csv.DictReader(file)
        ]


def summary(frames: Frames, chosen: set[tuple[str, str]] | None = None) -> dict[str, Any]:
    """`Scores.summary` of some targets' frames."""
    scores = Scores()
    for target, frame, score in frames:
        if chosen is None or target in chosen:
            scores.add_score(*target, frame, score)
    return scores.summary()


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


def split_of(seed: str, output: Path) -> VideoSource:
    """The generated test split of a seed, made where it is not there yet."""
    folder = output / "data" / seed
    if not (folder / "meta_expressions" / "test").is_dir():
        size = tuple(map(int, _FRAME_SIZE.value.split("x"))) if _FRAME_SIZE.value else None
        write_split(folder, _SEQUENCES.value, int(seed), "test", size=size, frames=_FRAMES.value, noise=_NOISE.value)
    return open_source("ref_youtube_vos", folder, "test")


def renamed(frames: Iterable, seed: str) -> Frames:
    return [((f"{seed}/{sequence}", expression), frame, score) for (sequence, expression), frame, score in frames]


def main(argv: list[str]) -> None:
    if not _OUTPUT.value:
        raise UserError("--output is missing; give the folder for the data, the masks and the table")
    for row in _ROWS.value:
        if row not in ROWS:
            raise UserError(f"unknown row {row!r}; known: {', '.join(ROWS)}")
    output = Path(_OUTPUT.value)
    sources = {seed: split_of(seed, output) for seed in _SEEDS.value}
    known = models()
    scored: dict[str, Frames] = {row: [] for row in _ROWS.value}
    for row, (seed, source) in itertools.product(_ROWS.value, sources.items()):
        folder = output / seed / row
        compute(row, known[row], source, folder)
        scored[row] += renamed(frames_of(folder), seed)
    text = table(scored, sources)
    (output / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    run(main)
