"""Where a hidden target is awaited: how far off it is when it is whole again.

    python benchmarks/awaited.py --data_dir DATA[,DATA...] [--edges PIXELS]

Courses alone, without a model: `course.Course` sees the boxes of the true masks, of what is visible, over the ground
(`ground.Ground`) and, for comparison, over the picture. A target is hidden from where less than a twentieth of its
usual area is to be seen; where at least four fifths are again, at least four frames later, the middle of the box that
its course expects is compared with the true one. Masks of a model are not true: with --edges the boxes that a course
sees are off by so much. The made data that this is meant for:

    python -m mqc_jax.data.synthetic --output data/long --split test --sequences 18 --seed 931 --frames 225
"""

from typing import NamedTuple

import numpy as np
from absl import flags

from mqc_jax.course import Course
from mqc_jax.data.source import open_source
from mqc_jax.errors import UserError, run
from mqc_jax.ground import Ground
from mqc_jax.tiling import main_part

_DATA_DIR = flags.DEFINE_list("data_dir", [], "The datasets' folders.")
_DATASET = flags.DEFINE_string("dataset", "ref_youtube_vos", "A TFDS name or a layout.")
_SPLIT = flags.DEFINE_string("split", "test", "Split of the dataset.")
_EDGES = flags.DEFINE_float("edges", 0.0, "Pixels, standard deviation, that each edge of a box is off.", lower_bound=0)

_HIDDEN, _WHOLE, _GAP = 0.05, 0.8, 4  # shares of the usual area, and frames
_LEAST = 8  # pixels of a mask that counts as seen
_PART = 4  # times --edges: as far more may an edge be off of what shows a part


class Wait(NamedTuple):
    """One time that a target was hidden: frames, pixels between the place awaited and its own, and its length."""

    frames: int
    off: float
    length: float


def waits(areas: list[int], boxes: list, poses: list[np.ndarray] | None, edges: float = 0.0) -> list[Wait]:
    """Every time that one target was hidden.

    Args:
      areas: of its visible mask, in pixels, in each frame.
      boxes: `tiling.main_part` of each.
      poses: of each frame (`ground.Ground`); None: the picture stands for the ground.
      edges: pixels, the standard deviation of the error with which the course sees each edge of a box; of one that
        shows less than `_WHOLE` of the target, up to `_PART` times as much is added, either way.
    """
    course, found, last, hidden = Course(), [], 0, False
    usual = np.median([area for area in areas if area])
    rng = np.random.default_rng(0)  # the same errors over the ground and over the picture

    def seen(box: tuple, share: float) -> tuple:
        more = 0.0 if share >= _WHOLE else _PART * edges
        x0, y0, x1, y1 = np.add(box, rng.normal(0, edges, 4) + rng.uniform(-more, more, 4))
        return min(x0, x1 - 1), min(y0, y1 - 1), x1, y1

    for t, (area, box) in enumerate(zip(areas, boxes, strict=True)):
        if poses is not None:
            course.over(t, poses[t])
        share = area / usual
        if share < _HIDDEN or area < _LEAST:
            hidden = True
        elif not hidden:
            course.see(t, seen(box, share), 0.9 if share > 0.5 else 0.6)
            last = t
        elif share >= _WHOLE:
            middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
            if t - last >= _GAP:
                x0, y0, x1, y1 = course.box(t)
                off = float(np.hypot((x0 + x1) / 2 - middle[0], (y0 + y1) / 2 - middle[1]))
                found.append(Wait(t - last, off, max(box[2] - box[0], box[3] - box[1])))
            # It is followed from here on, wherever it was awaited.
            if not course.see(t, seen(box, share), 0.9):
                course.last = (t, *middle)
            hidden, last = False, t
    return found


def measure(folder: str) -> tuple[list[Wait], list[Wait]]:
    """Over the ground, and over the picture: the waits of all targets that frame 0 shows."""
    source, ground, picture = open_source(_DATASET.value, folder, _SPLIT.value), [], []
    for index, sequence in enumerate(source.sequences):
        frames, terrain = len(sequence.frame_names), Ground()
        poses = [terrain.push(source.frame(index, t)) for t in range(frames)]
        labels = [source.labels(index, t) for t in range(frames)]
        for expression in sequence.expressions:
            masks = [expression.mask(each) for each in labels]
            if masks[0].any():
                areas, boxes = [int(mask.sum()) for mask in masks], [main_part(mask) for mask in masks]
                ground += waits(areas, boxes, poses, _EDGES.value)
                picture += waits(areas, boxes, None, _EDGES.value)
    return ground, picture


def main(argv: list[str]) -> None:
    if not _DATA_DIR.value:
        raise UserError("--data_dir is missing; give the datasets' folders")
    every = [measure(folder) for folder in _DATA_DIR.value]
    print("| | times hidden | off, pixels: median | mean | off, lengths: median | mean | more than half a length |")
    print("|---|---|---|---|---|---|---|")
    for name, found in zip(("over the ground", "over the picture"), map(list, zip(*every, strict=True)), strict=True):
        found = [wait for part in found for wait in part]
        if not found:
            raise UserError("no target was hidden and whole again in --data_dir; give longer videos")
        off, shares = np.array([wait.off for wait in found]), np.array([wait.off / wait.length for wait in found])
        print(
            f"| {name} | {len(found)} | {np.median(off):.1f} | {off.mean():.1f} | {np.median(shares):.2f} "
            f"| {shares.mean():.2f} | {(shares > 0.5).mean():.2f} |"
        )


if __name__ == "__main__":
    run(main)
