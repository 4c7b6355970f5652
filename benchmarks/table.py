"""Table II on the project's own benchmark: four variants and three references, on one split, by one command.

    python benchmarks/table.py --output runs/table [--seeds 20260112,7,8] [--sequences 29] [--size 640] [--noise 1]
        [--scenes roads] [--rivals moving] [--motion_words] [--clouds broken] [--again test_00002,test_00016]

    baseline    SAM2's memory, the first mask as the model made it
    tmcc        the same, with the first mask calibrated by motion
    dami        three decoupled, gated memories
    full        both
    every_frame the sentence prompts every frame, not the first alone (what the paper says drifts)
    true_mask   the baseline from the true first mask instead of a sentence: the upper bound of calibration
    opencv      OpenCV's MIL tracker from the box of the baseline's first mask, which moves along with the box

What lies under --output already is not computed again, sequence by sequence, so that an interrupted table goes on; but
for the sequences of --again, where some code has changed that touches no others. Intervals are bootstraps over
sequences; a difference to the baseline is drawn pairwise, over the same sequences.
"""

import itertools
import json
from collections.abc import Iterable
from pathlib import Path

from absl import flags
from variants import (
    BASELINE,
    BENCHMARK_SEED,
    FULL,
    ROWS,
    Frames,
    again_of,
    compute,
    frames_of,
    models,
    record,
    table,
)

from mqc_jax.data.source import VideoSource, open_source
from mqc_jax.data.synthetic.planning import SCENES
from mqc_jax.data.synthetic.write import parse_size, write_split
from mqc_jax.errors import UserError, run

_OUTPUT = flags.DEFINE_string("output", None, "Folder for the data, the masks and the table.")
_BASELINE = flags.DEFINE_string("baseline", None, "Checkpoint with SAM2's memory; left out: the one that ships.")
_FULL = flags.DEFINE_string(
    "full", None, "Checkpoint with DAMI's memory; left out: that of --baseline, else the one that ships."
)
_SEEDS = flags.DEFINE_list("seeds", [str(BENCHMARK_SEED)], "Seeds of the generated test splits.")
_SEQUENCES = flags.DEFINE_integer("sequences", 29, "Sequences of each split.", lower_bound=1)
_FRAME_SIZE = flags.DEFINE_string("frame_size", None, "HxW of every frame in place of the split's own sizes.")
_FRAMES = flags.DEFINE_integer("frames", None, "Frames of every sequence in place of the split's own lengths.")
_NOISE = flags.DEFINE_float("noise", 1.0, "Factor on the sensor noise.")
_SCENES = flags.DEFINE_list("scenes", list(SCENES), "Scenes of the generated splits, as the generator's.")
_RIVALS = flags.DEFINE_string("rivals", "all", "Whom sentences tell their object from, as the generator's.")
_WORDS = flags.DEFINE_bool("motion_words", False, "Sentences say what moves, as the generator's.")
_CLOUDS = flags.DEFINE_string("clouds", "one", "What passes over a target that clouds hide, as the generator's.")
_SIZE = flags.DEFINE_integer("size", None, "Side that frames are resized to; left out: the checkpoint's own.")
_TILE = flags.DEFINE_integer("tile", None, "As predict's.")
_ROWS = flags.DEFINE_list("rows", list(ROWS), f"Rows to compute, of: {', '.join(ROWS)}.")
_AGAIN = flags.DEFINE_list("again", [], "Sequences to compute though they are there; of one split SEED/NAME.")


def split_of(seed: str, output: Path) -> VideoSource:
    """The generated test split of a seed, made where it is not there yet."""
    folder = output / "data" / seed
    options = {"size": parse_size(_FRAME_SIZE.value) if _FRAME_SIZE.value else None, "frames": _FRAMES.value}
    options |= {"noise": _NOISE.value, "rivals": _RIVALS.value, "motion_words": _WORDS.value, "clouds": _CLOUDS.value}
    card = folder / "test" / "card.json"
    if not card.is_file():
        write_split(folder, _SEQUENCES.value, int(seed), "test", scenes=_SCENES.value, **options)
    made = json.loads(card.read_text())["options"]
    for name, default in (("noise", 1.0), ("rivals", "all"), ("motion_words", False), ("clouds", "one")):
        if made.get(name, default) != options[name]:
            there = made.get(name, default)
            raise UserError(f"{folder} was made with {name}={there}, not {options[name]}; give another --output")
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
    again = again_of(_AGAIN.value, list(sources))
    full = _FULL.value or _BASELINE.value or FULL
    known = models(_BASELINE.value or BASELINE, full, _SIZE.value, _TILE.value)
    scored: dict[str, Frames] = {row: [] for row in _ROWS.value}
    for row, (seed, source) in itertools.product(_ROWS.value, sources.items()):
        folder = output / seed / row
        compute(row, known[row], source, folder, again[seed])
        scored[row] += renamed(frames_of(folder), seed)
    text = table(scored, sources)
    (output / "table.md").write_text(text + "\n")
    (output / "table.json").write_text(json.dumps(record(scored, known), indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    run(main)
