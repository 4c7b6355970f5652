"""Where is a target lost? J&F of followed targets, and what was the matter in the frames in which they are not there.

    python benchmarks/lost.py --data_dir DATA --checkpoint RUN_OR_CHECKPOINT [--start text] [--remember truth]
        [--workers 2]

Every target starts from its true mask on frame 0, so that following alone is measured, or with `--start text` from its
sentence; those that frame 0 does not show are left out. With `--remember truth` SAM2's memory holds the true masks of
the frames that show the target, and nothing else (`true_memory.py`): the most that any memory could give. Frames that
show the target are told apart into

    followed    J is at least 0.5
    poor        J is from 0.1 to 0.5
    wrong       another thing has the mask, while the target is in the window
    unseen      predicted IoU x presence is below `course.MIN_IOU`, while the target is in the window
    led away    the target's middle is outside the window, and what has the mask is of that quality
    lost        the target's middle is outside the window, and nothing of that quality is seen

Means are over targets. The made data that this is meant for:

    python -m mqc_jax.data.synthetic --output data/follow --split test --sequences 60 --seed 905 --frames 60
"""

import concurrent.futures
import functools
import itertools
import json
import multiprocessing
from typing import Any

import numpy as np
from absl import flags
from true_memory import TrueMemory

import mqc_jax
from mqc_jax.course import MIN_IOU
from mqc_jax.data.source import open_source
from mqc_jax.errors import UserError, run
from mqc_jax.evaluate import tracker_of
from mqc_jax.files import write_atomic
from mqc_jax.metrics import score_frame

_DATA_DIR = flags.DEFINE_string("data_dir", None, "The dataset's folder.")
_DATASET = flags.DEFINE_string("dataset", "ref_youtube_vos", "A TFDS name or a layout.")
_SPLIT = flags.DEFINE_string("split", "test", "Split of the dataset.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Run or checkpoint; left out: the one that ships.")
_MEMORY = flags.DEFINE_string("memory", None, "sam2 or dami in place of the checkpoint's own.")
_CALIBRATION = flags.DEFINE_string("calibration", "none", "none or tmcc.")
_START = flags.DEFINE_enum("start", "mask", ["mask", "text"], "What a target starts from.")
_REMEMBER = flags.DEFINE_enum("remember", "own", ["own", "truth"], "Which masks are remembered.")
_WORKERS = flags.DEFINE_integer("workers", 2, "Processes, each with a share of the sequences.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for each target's numbers.")

KINDS = ("followed", "poor", "wrong", "unseen", "led away", "lost")
LENGTHS = (0, 16, 32, 48, 70, 10**6)


def kind(j: float, truth: np.ndarray, window: np.ndarray, sight: float) -> str:
    """What is the matter in a frame that shows the target."""
    if j >= 0.1:
        return "followed" if j >= 0.5 else "poor"
    rows, columns = np.nonzero(truth)
    x0, y0, x1, y1 = window
    inside = x0 <= columns.mean() <= x1 and y0 <= rows.mean() <= y1
    if sight >= MIN_IOU:
        return "wrong" if inside else "led away"
    return "unseen" if inside else "lost"


def follow(part: int, parts: int, asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Each target of every `parts`-th sequence: its J&F after frame 0, J of frame 0, and its frames by kind."""
    source = open_source(asked["dataset"], asked["data_dir"], asked["split"])
    model = mqc_jax.load(asked["checkpoint"]).replace(**asked["switches"])
    found = []
    for index in range(part, len(source.sequences), parts):
        sequence = source.sequences[index]
        frames = len(sequence.frame_names)
        labels = [source.labels(index, t) for t in range(frames)]
        expressions = [each for each in sequence.expressions if each.mask(labels[0]).any()]
        if not expressions:
            continue
        truths = [[expression.mask(each) for each in labels] for expression in expressions]
        if asked["remember"] == "truth":
            tracker = TrueMemory(model, truths)
        elif asked["start"] == "text":
            tracker = tracker_of(model, [expression.text for expression in expressions])
        else:
            tracker = tracker_of(model, np.stack([truth[0] for truth in truths]))
        results = []
        for t in range(frames):
            results += tracker.push(source.frame(index, t))
        results += tracker.finish()
        for i, (expression, truth) in enumerate(zip(expressions, truths, strict=True)):
            rows, columns = np.nonzero(truth[0])
            height, width = truth[0].shape
            length = max(np.ptp(rows), np.ptp(columns)) + 1
            scores, kinds, first = [], [], None
            for t, (real, result) in enumerate(zip(truth, results, strict=True)):
                if not real.any():
                    continue
                score = score_frame(result.masks[i], real)
                if t == 0:
                    first = score.j
                    continue
                window = result.memory["view"][i] if "view" in result.memory else (0, 0, width, height)
                scores.append((score.j + score.f) / 2)
                kinds.append(kind(score.j, real, window, float(result.iou[i] * result.presence[i])))
            if scores:
                shares = {name: kinds.count(name) / len(kinds) for name in KINDS}
                about = {"sequence": sequence.name, "expression": expression.id, "length": int(length), "first": first}
                found.append({**about, "J&F": float(np.mean(scores)), **shares})
    return found


def main(argv: list[str]) -> None:
    if not _DATA_DIR.value:
        raise UserError("--data_dir is missing; give the dataset's folder")
    if (_REMEMBER.value, _START.value) == ("truth", "text"):
        raise UserError("--remember truth remembers the true first mask, too; leave out --start text")
    switches = {"calibration": _CALIBRATION.value} | ({"memory": _MEMORY.value} if _MEMORY.value else {})
    asked = {
        "dataset": _DATASET.value,
        "data_dir": _DATA_DIR.value,
        "split": _SPLIT.value,
        "checkpoint": _CHECKPOINT.value,
        "start": _START.value,
        "remember": _REMEMBER.value,
        "switches": switches,
    }
    work = functools.partial(follow, parts=_WORKERS.value, asked=asked)
    with concurrent.futures.ProcessPoolExecutor(_WORKERS.value, multiprocessing.get_context("spawn")) as pool:
        targets = list(itertools.chain.from_iterable(pool.map(work, range(_WORKERS.value))))
    targets.sort(key=lambda target: (target["sequence"], target["expression"]))
    if _OUTPUT.value:
        write_atomic(_OUTPUT.value, json.dumps(targets, indent=1) + "\n")
    columns = ("J&F", *KINDS)
    print("| length in pixels | targets | " + " | ".join(columns) + " |")
    print("|" + "---|" * (len(columns) + 2))
    for low, high in [(0, LENGTHS[-1]), *itertools.pairwise(LENGTHS)]:
        chosen = [target for target in targets if low <= target["length"] < high]
        if chosen:
            name = (
                "all" if (low, high) == (0, LENGTHS[-1]) else f"{low} to {high - 1}" if high < 10**6 else f"from {low}"
            )
            means = " | ".join(f"{np.mean([target[c] for target in chosen]):.3f}" for c in columns)
            print(f"| {name} | {len(chosen)} | {means} |")


if __name__ == "__main__":
    run(main)
