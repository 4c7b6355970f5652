"""The paper's Figures 6 to 10 from a computed table: each row a variant, each column a time, and what the gates did.

    python benchmarks/strips.py --table runs/table --seed 20260112 --sequence test_00017 --output strip.jpg
        [--expression 0] [--rows baseline,tmcc,dami,full] [--columns 6] [--from 0] [--to 40]

Each picture is cut to a square around the true target, as large in every column; the first row shows the truth. A
variant's picture carries its J, and with DAMI's memory what became of the frame: "short" and "prototype" say where it
was remembered, "anchor" that it is the first, which always is, "poor" that it was judged absent or its mask too poor,
"known" that no gate opened.
"""

import csv
from pathlib import Path

import cv2
import numpy as np
from absl import flags

from mqc_jax import viz
from mqc_jax.data.source import open_source
from mqc_jax.errors import UserError, run
from mqc_jax.files import write_atomic
from mqc_jax.metrics import read_prediction, score_frame

_TABLE = flags.DEFINE_string("table", None, "benchmarks/table.py's --output.")
_SEED = flags.DEFINE_string("seed", "20260112", "The split.")
_SEQUENCE = flags.DEFINE_string("sequence", None, "Its name.")
_EXPRESSION = flags.DEFINE_string("expression", None, "Its id; left out: the sequence's first.")
_ROWS = flags.DEFINE_list("rows", ["baseline", "tmcc", "dami", "full"], "Rows of the table, from top to bottom.")
_COLUMNS = flags.DEFINE_integer("columns", 6, "Times, evenly between --from and --to.", lower_bound=2)
_FROM = flags.DEFINE_integer("from", 0, "First frame.", lower_bound=0)
_TO = flags.DEFINE_integer("to", None, "Last frame; left out: the sequence's.")
_SIDE = flags.DEFINE_integer("side", 0, "Of the square in pixels; 0: three times the target's length.", lower_bound=0)
_OUTPUT = flags.DEFINE_string("output", None, "A .jpg or .png.")

_HEIGHT = 170
_TRUTH = 2  # the target number whose colour the truth has


def fate(line: dict[str, str] | None) -> str:
    """What became of a frame, from its row of memory.csv."""
    if line is None:
        return ""
    written = [name for name in ("short", "prototype") if int(line[f"{name}_slot"]) >= 0]
    return "+".join(written) or ("known" if int(line["visible"]) else "poor")


def cut(picture: np.ndarray, centre: tuple[float, float], side: int) -> np.ndarray:
    """A square of a picture [H, W, ...], moved inside it."""
    height, width = picture.shape[:2]
    side = min(side, height, width)
    x, y = (int(np.clip(round(c - side / 2), 0, most - side)) for c, most in zip(centre, (width, height), strict=True))
    return picture[y : y + side, x : x + side]


def main(argv: list[str]) -> None:
    for name, value in (("table", _TABLE.value), ("sequence", _SEQUENCE.value), ("output", _OUTPUT.value)):
        if not value:
            raise UserError(f"--{name} is missing; see the file's first lines")
    table = Path(_TABLE.value)
    source = open_source("ref_youtube_vos", table / "data" / _SEED.value, "test")
    names = [sequence.name for sequence in source.sequences]
    if _SEQUENCE.value not in names:
        raise UserError(f"no sequence {_SEQUENCE.value!r}; there are {names[0]} to {names[-1]}")
    number = names.index(_SEQUENCE.value)
    sequence = source.sequences[number]
    ids = {e.id: e for e in sequence.expressions}
    if _EXPRESSION.value not in (None, *ids):
        raise UserError(f"{sequence.name} has no expression {_EXPRESSION.value!r}; there are {', '.join(ids)}")
    expression = ids[_EXPRESSION.value] if _EXPRESSION.value else sequence.expressions[0]

    last = len(sequence.frame_names) - 1
    times = np.unique(np.linspace(_FROM.value, min(_TO.value or last, last), _COLUMNS.value).round().astype(int))
    truths = [expression.mask(source.labels(number, int(t))) for t in range(last + 1)]
    boxes = [viz.bounding_box(mask) if mask.any() else None for mask in truths]
    length = max(max(b[2] - b[0], b[3] - b[1]) for b in boxes if b)
    side = _SIDE.value or max(3 * length, 48)

    decisions = {
        row: _decisions(table / _SEED.value / row / sequence.name / "memory.csv", expression.id) for row in _ROWS.value
    }
    columns = []
    for t in map(int, times):
        # While the target is hidden the picture stays where it was last seen.
        box = next(b for b in [*boxes[t::-1], *boxes[t:]] if b)
        centre = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        frame = cut(source.frame(number, t), centre, side)
        larger = max(1, round(_HEIGHT / frame.shape[0]))
        pictures = [_picture(frame, cut(truths[t], centre, side), _TRUTH, larger, "truth" if t == times[0] else "")]
        for row in _ROWS.value:
            folder = table / _SEED.value / row / sequence.name / "masks" / sequence.name / expression.id
            mask = read_prediction(folder / f"{sequence.frame_names[t]}.png", sequence.size)
            score = f"J {score_frame(mask, truths[t]).j:.2f} " if truths[t].any() else ""
            fates = decisions[row]
            note = score + ("anchor" if fates and t == 0 else fate(fates.get(sequence.frame_names[t])))
            shown = cut(mask, centre, side)
            pictures.append(_picture(frame, shown, 0, larger, row if t == times[0] else "", note))
        columns.append(pictures)
    strip = viz.strip(columns, [f"frame {t}" for t in times], _HEIGHT)
    bar = np.full((34, strip.shape[1], 3), strip[0, 0], np.uint8)
    viz.write(bar, viz.shortened(f"{sequence.name}: {expression.text}", 18, bar.shape[1] - 12), 6, 24, 18)
    suffix = Path(_OUTPUT.value).suffix
    _, coded = cv2.imencode(suffix, np.vstack([bar, strip])[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    write_atomic(Path(_OUTPUT.value), coded.tobytes())


def _decisions(path: Path, expression: str) -> dict[str, dict[str, str]]:
    """Frame's name -> its row of memory.csv; nothing where there is no such file."""
    if not path.exists():
        return {}
    with open(path, newline="") as file:
        found = [x for x in csv.DictReader(file) if (x["sequence"], x["expression"]) == (_SEQUENCE.value, expression)]
    return {line["frame"]: line for line in found}


def _picture(frame, mask, target: int, larger: int, name: str, note: str = "") -> np.ndarray:
    grown = [np.repeat(np.repeat(x, larger, 0), larger, 1) for x in (frame, mask)]
    masks = np.zeros((target + 1, *grown[1].shape), bool)
    masks[target] = grown[1]
    picture = viz.overlay(grown[0], masks, 0.15, 1)
    px = max(11, picture.shape[0] // 12)
    if name:
        viz.write(picture, name, 4, px + 2, px, halo=True)
    if note:
        viz.write(picture, note.strip(), 4, picture.shape[0] - 5, px, halo=True)
    return picture


if __name__ == "__main__":
    run(main)
