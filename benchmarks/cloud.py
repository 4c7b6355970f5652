"""What a cloud leaves in DAMI's memory, with every good mask remembered, and as it is: one target from its true mask.

    python -m mqc_jax.data.synthetic --split test --sequences 18 --frames 225 --seed 931 --output data/long
    python benchmarks/cloud.py --data_dir data/long --sequence test_00010 --frames 62,74,80,86,95,101,125,150
        [--expression 0] [--picture cloud.jpg]

The first memory has no `dami.min_usual_quality`.

Each line is a frame: how much of the target is visible, then for either memory the mask's pixels, whether the frame was
remembered, the predicted IoU and J. The picture has a column for each frame, and the memories below each other.
"""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
from absl import flags

import mqc_jax
from mqc_jax import viz
from mqc_jax.data.source import open_source
from mqc_jax.errors import UserError, run
from mqc_jax.evaluate import tracker_of
from mqc_jax.files import write_atomic
from mqc_jax.metrics import score_frame

_DATA_DIR = flags.DEFINE_string("data_dir", None, "A dataset's folder, in Ref-YouTube-VOS layout.")
_SPLIT = flags.DEFINE_string("split", "test", "Its split.")
_SEQUENCE = flags.DEFINE_string("sequence", None, "Name of a sequence.")
_EXPRESSION = flags.DEFINE_integer("expression", 0, "Which of its sentences' targets.", lower_bound=0)
_FRAMES = flags.DEFINE_list("frames", None, "Numbers of frames.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "With DAMI's memory; left out: the one that ships.")
_PICTURE = flags.DEFINE_string("picture", None, "A .jpg or .png.")

_HEIGHT = 170


def square(picture: np.ndarray, middle: np.ndarray, side: int) -> np.ndarray:
    """A square of a picture [H, W, ...], moved inside it."""
    y, x = (
        int(np.clip(round(m - side / 2), 0, most - side)) for m, most in zip(middle, picture.shape[:2], strict=True)
    )
    return picture[y : y + side, x : x + side]


def drawn(frame: np.ndarray, mask: np.ndarray, middle: np.ndarray, side: int, note: str) -> np.ndarray:
    """A mask around a place, and a note."""
    larger = max(1, round(_HEIGHT / side))
    frame, mask = (square(x, middle, side).repeat(larger, 0).repeat(larger, 1) for x in (frame, mask))
    picture = viz.overlay(frame, mask[None], 0.15, 1)
    viz.write(picture, note, 4, picture.shape[0] - 6, max(11, picture.shape[0] // 12), halo=True)
    return picture


def main(argv: list[str]) -> None:
    for name, value in (("data_dir", _DATA_DIR.value), ("sequence", _SEQUENCE.value), ("frames", _FRAMES.value)):
        if not value:
            raise UserError(f"--{name} is missing; see the file's first lines")
    source = open_source("ref_youtube_vos", _DATA_DIR.value, _SPLIT.value)
    names = [sequence.name for sequence in source.sequences]
    if _SEQUENCE.value not in names:
        raise UserError(f"no sequence {_SEQUENCE.value!r}; there are {names[0]} to {names[-1]}")
    index = names.index(_SEQUENCE.value)
    count, target = len(source.sequences[index].frame_names), source.sequences[index].expressions[_EXPRESSION.value]
    truths = [target.mask(source.labels(index, t)) for t in range(count)]
    model = mqc_jax.load(_CHECKPOINT.value)
    known, runs = dataclasses.asdict(model.config.dami), []
    for switches in ({"min_usual_quality": 0.0}, {}):
        tracker = tracker_of(model.replace(dami=known | switches), truths[0][None])
        runs.append([out for t in range(count) for out in tracker.push(source.frame(index, t))] + tracker.finish())
    heading = "frame, visible pixels; mask, predicted IoU, J with every good mask remembered; and as it is"
    print(f"{names[index]} {target.text!r}: {heading}")
    scores = [[score_frame(out.masks[0], truth) for out, truth in zip(outs, truths, strict=True)] for outs in runs]
    rows, columns, titles, middle = np.argwhere(truths[0]), [], [], None
    side = int(min(3 * np.ptp(rows, 0).max(), *truths[0].shape))
    for t in range(count):
        middle = np.argwhere(truths[t]).mean(0) if truths[t].any() else middle
        if str(t) not in _FRAMES.value:
            continue
        line, column = f"| {t} | {truths[t].sum()} |", []
        for outs, score in zip(runs, scores, strict=True):
            mask, kept = outs[t].masks[0], t == 0 or bool(outs[t].memory["registered"][0])
            j = f"{score[t].j:.2f}" if truths[t].any() else ""
            line += f" {mask.sum()}{', remembered' if kept else ''} | {float(outs[t].iou[0]):.2f} | {j} |"
            note = f"{'J ' + j + ' ' if j else ''}{'remembered' if kept else ''}"
            column.append(drawn(source.frame(index, t), mask, middle, side, note))
        print(line)
        columns.append(column)
        titles.append(f"frame {t}")
    later = [t for t in range(1, count) if truths[t].any()]
    print("J&F after frame 0: " + ", ".join(f"{np.mean([(s[t].j + s[t].f) / 2 for t in later]):.3f}" for s in scores))
    if _PICTURE.value:
        strip = viz.strip(columns, titles, _HEIGHT)
        _, coded = cv2.imencode(Path(_PICTURE.value).suffix, strip[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
        write_atomic(Path(_PICTURE.value), coded.tobytes())


if __name__ == "__main__":
    run(main)
