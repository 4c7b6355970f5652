"""Scores a model on a dataset, or anyone's masks against the truth: J, F and their recalls.

    python -m mqc_jax.evaluate --checkpoint DIR --data_dir DIR --dataset ref_youtube_vos --split test --output DIR
    python -m mqc_jax.evaluate --predictions DIR --ground_truth DIR --output DIR
    python -m mqc_jax.evaluate --predictions DIR --data_dir DIR --dataset ref_youtube_vos --split test --output DIR

All write `metrics.json` and `per_frame.csv` under `--output`; the first also writes
`masks/<sequence>/<expression>/<frame:05d>.png` (0 or 255, every frame), which the others can score again. Where a
dataset gives the truth, metrics.json further has `per_class`, `per_tag` and `reacquired` (the share of targets that are
found again within 5 frames of coming back); the first form adds `speed`, and with DAMI's memory `memory.csv`, a row for
each frame and target with every gate's numbers. Plain DAVIS
(`--dataset davis`) has no sentences: the model gets the first frame's masks instead.
"""

import contextlib
import functools
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from tqdm import tqdm

from mqc_jax import groups, metrics
from mqc_jax.checkpoint import Model
from mqc_jax.config import CALIBRATIONS, MEMORIES
from mqc_jax.data.source import Expression, Sequence, VideoSource, open_source
from mqc_jax.errors import UserError, run
from mqc_jax.files import staged
from mqc_jax.memory_log import DecisionTable
from mqc_jax.metrics import FrameScore, Reacquisition, Scores, in_threads, read_prediction, score_frame
from mqc_jax.predict import MAX_HELD, WARM_UP, write_mask
from mqc_jax.tiled import with_tile
from mqc_jax.tracker import Tracker

TARGETS_AT_ONCE = 4
"""Sentences in one tracker. They share the image encoding; a fixed number keeps it to one compilation."""


class _Grouped:
    """Scores of all targets, and again of each class and tag."""

    def __init__(self) -> None:
        self.all = Scores()
        self.reacquired = Reacquisition()
        self.groups: dict[str, dict[str, Scores]] = {"per_class": {}, "per_tag": {}}

    def add(self, sequence: Sequence, expression: Any, frame: str, score: FrameScore | None) -> None:
        """An annotated frame's score, in the order of the frames; None where the target is not there."""
        self.reacquired.add((sequence.name, expression.id), score and score.j)
        if score is None:
            return
        self.all.add_score(sequence.name, expression.id, frame, score)
        classes = {sequence.categories[i] for i in expression.object_ids if i in sequence.categories}
        for kind, names in (("per_class", classes), ("per_tag", set(sequence.tags))):
            for name in names:
                scores = self.groups[kind].setdefault(name, Scores())
                scores.add_score(sequence.name, expression.id, frame, score)

    def summary(self) -> dict[str, Any]:
        summary = {**self.all.summary(), "reacquired": self.reacquired.summary()}
        for kind, members in self.groups.items():
            if members:
                summary[kind] = {name: _without_sequences(scores) for name, scores in sorted(members.items())}
        return summary


def _without_sequences(scores: Scores) -> dict[str, Any]:
    return {key: value for key, value in scores.summary().items() if key != "per_sequence"}


def evaluate_model(
    source: VideoSource,
    make_tracker: Callable[[list[str] | np.ndarray], Any],
    output: str,
    max_sequences: int | None = None,
    targets_at_once: int = TARGETS_AT_ONCE,
    facts: dict[str, Any] | None = None,
    progress: bool = True,
    even: bool = True,
) -> dict[str, Any]:
    """Runs a tracker over every sequence of a split with all its sentences, writes masks and scores.

    Args:
      source: from `open_source`.
      make_tracker: called with exactly `targets_at_once` sentences, or fewer where no sequence has more; returns an
        object with `Tracker`'s `push` and `finish`. Where a dataset has no sentences it is called with the first
        frame's masks instead, bool [N, H, W].
      output: folder to write; masks of an earlier run in it are replaced.
      max_sequences: only the first so many.
      targets_at_once: sentences in one tracker. A group that is not full is filled by repeating its last sentence,
        and the repetitions' masks are dropped, so that every tracker has one shape, unless `even` is False.
      facts: stored in metrics.json under `model`.
      progress: show a progress bar on stderr.
      even: whether the tracker wants groups of one size; on a CPU it follows targets one by one (`groups.largest`).

    Returns:
      What metrics.json holds.

    Raises:
      UserError: nothing to evaluate, or no truth to score against.
    """
    sequences = source.sequences[:max_sequences]
    most = max((len(sequence.expressions) for sequence in sequences), default=0)
    if not most:
        raise UserError("the split holds no sentence, so there is nothing to evaluate")
    per_group = min(targets_at_once, most)
    scores = _Grouped()
    seconds, images, masks = 0.0, 0, 0
    total = sum(len(s.frame_names) * -(-len(s.expressions) // per_group) for s in sequences)
    with (
        staged(output) as staging,
        contextlib.closing(DecisionTable(staging / "memory.csv", ("sequence", "expression"))) as decisions,
        tqdm(total=total, unit="frame", disable=not progress, mininterval=_interval(), desc="evaluating") as bar,
    ):
        for position, sequence in enumerate(sequences):
            bar.set_postfix_str(sequence.name)
            names = mask_names(sequence)
            for group in _groups(sequence.expressions, per_group):
                folders = [staging / "masks" / sequence.name / expression.id for expression in group]
                for folder in folders:
                    folder.mkdir(parents=True)
                filling = group[-1:] * (per_group - len(group)) if even else ()
                tracker = make_tracker(_prompts(source, position, [*group, *filling]))
                timer = _Timer()
                for t, out in _follow(source, position, sequence, tracker, timer):
                    truth = source.labels(position, t)
                    for row, (expression, folder) in enumerate(zip(group, folders, strict=True)):
                        mask = np.asarray(out.masks[row], bool)
                        write_mask(folder / f"{names[t]}.png", mask)
                        decisions.add(names[t], row, out.memory, (sequence.name, expression.id))
                        if truth is None or not expression.object_ids:
                            continue
                        target = _target(source, position, t, expression, truth)
                        score = score_frame(mask, target) if target.any() else None
                        scores.add(sequence, expression, names[t], score)
                    bar.update()
                seconds += timer.seconds
                images += len(names)
                masks += len(names) * len(group)
        summary = scores.summary()
        if not summary["n_frames"]:
            raise UserError(
                "the split has no annotated frame with a target in it, so there is nothing to score against"
            )
        speed = images / max(seconds, 1e-9)
        summary["speed"] = {"frames_per_second": speed, "masks_per_second": masks / max(seconds, 1e-9)}
        if facts:
            summary["model"] = facts
        _write(staging, summary, scores.all)
        shutil.rmtree(Path(output) / "masks", ignore_errors=True)
    return summary


def _prompts(source: VideoSource, position: int, group: list[Expression]) -> list[str] | np.ndarray:
    """The group's sentences, or its masks in the first frame where it has none."""
    if all(expression.text for expression in group):
        return [expression.text for expression in group]
    first = source.labels(position, 0)
    if first is None:
        raise UserError(
            f"sequence {source.sequences[position].name!r} has neither sentences nor an annotated first frame, so "
            "nothing says what to follow"
        )
    return np.stack([_target(source, position, 0, expression, first) for expression in group])


def _target(source: VideoSource, position: int, t: int, expression: Expression, labels: np.ndarray) -> np.ndarray:
    """The true mask, bool [H, W]: from the source where its objects may overlap, else from the label map."""
    exact = getattr(source, "target", None)
    return expression.mask(labels) if exact is None else exact(position, t, expression)


def score_predictions(
    source: VideoSource, predictions: str, output: str, max_sequences: int | None = None, progress: bool = True
) -> dict[str, Any]:
    """Scores any system's masks, `<sequence>/<expression>/<frame:05d>.png`, against a dataset, by class and tag too.

    Returns:
      What metrics.json holds.

    Raises:
      UserError: as `metrics.score_trees`, or the dataset has no public truth.
    """
    root = Path(predictions)
    if not root.is_dir():
        raise UserError(f"--predictions {root} is not a folder; give a tree of <sequence>/<expression>/<frame>.png")
    jobs = [
        (position, t) for position, s in enumerate(source.sequences[:max_sequences]) for t in range(len(s.frame_names))
    ]
    names = [mask_names(sequence) for sequence in source.sequences]

    def score(job: tuple[int, int]) -> list[tuple[Expression, FrameScore | None]]:
        position, t = job
        sequence, truth = source.sequences[position], source.labels(*job)
        found = []
        for expression in sequence.expressions if truth is not None else ():
            target = _target(source, position, t, expression, truth)
            path = root / sequence.name / expression.id / f"{names[position][t]}.png"
            present = target.any()
            found.append((expression, score_frame(read_prediction(path, target.shape), target) if present else None))
        return found

    scores = _Grouped()
    with staged(output) as staging:
        results = tqdm(
            in_threads(score, jobs), total=len(jobs), unit="frame", disable=not progress, mininterval=_interval()
        )
        for (position, t), found in zip(jobs, results, strict=True):
            for expression, value in found:
                scores.add(source.sequences[position], expression, names[position][t], value)
        summary = scores.summary()
        if not summary["n_frames"]:
            raise UserError(
                "the split has no annotated frame with a target in it, so there is nothing to score against"
            )
        _write(staging, summary, scores.all)
    return summary


def score_trees(predictions: str, ground_truth: str, output: str, progress: bool = True) -> dict[str, Any]:
    """Writes the scores that `metrics.score_trees` gives; its rules and errors are that function's.

    Returns:
      What metrics.json holds.
    """
    with (
        staged(output) as staging,
        tqdm(unit="target", disable=not progress, mininterval=_interval(), desc="scoring") as bar,
    ):

        def tell(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        scores = metrics.score_trees(predictions, ground_truth, progress=tell)
        summary = scores.summary()
        _write(staging, summary, scores)
    return summary


def mask_names(sequence: Sequence) -> list[str]:
    """The file names, without suffix, of a sequence's masks: the frames' own numbers, five digits wide.

    Frames whose names are not numbers, or not distinct ones, are counted from 0.
    """
    numbers = [int(name) for name in sequence.frame_names if name.isascii() and name.isdigit()]
    if len(numbers) != len(sequence.frame_names) or len(set(numbers)) != len(numbers):
        numbers = range(len(sequence.frame_names))
    return [f"{number:05d}" for number in numbers]


class _Timer:
    """Seconds spent in the tracker; frames that may be compiled for count as much as the mean of the others."""

    def __init__(self) -> None:
        self.spent: list[float] = []

    def __call__(self, call: Callable, *arguments: Any) -> Any:
        started = time.perf_counter()
        result = call(*arguments)
        self.spent.append(time.perf_counter() - started)
        return result

    @property
    def seconds(self) -> float:
        later = self.spent[WARM_UP:]
        return sum(later) * len(self.spent) / len(later) if later else sum(self.spent)


def _follow(
    source: VideoSource, position: int, sequence: Sequence, tracker: Any, timer: _Timer
) -> Iterator[tuple[int, Any]]:
    """Yields (t, what the tracker says of it) of each frame in order and checks that none is left out."""
    due = 0
    for t in range(len(sequence.frame_names) + 1):
        last = t == len(sequence.frame_names)
        outputs = timer(tracker.finish) if last else timer(tracker.push, source.frame(position, t))
        for out in outputs:
            if out.frame_index != due:
                raise RuntimeError(f"{sequence.name}: the tracker gave frame {out.frame_index} where {due} was due")
            yield due, out
            due += 1
        if t - due > MAX_HELD:
            raise RuntimeError(f"{sequence.name}: the tracker holds back more than {MAX_HELD} frames")
    if due != len(sequence.frame_names):
        raise RuntimeError(f"{sequence.name}: the tracker gave {due} of {len(sequence.frame_names)} frames")


def _groups(expressions: tuple, size: int) -> Iterator[tuple]:
    for start in range(0, len(expressions), size):
        yield expressions[start : start + size]


def _write(folder: Path, summary: dict[str, Any], scores: Scores) -> None:
    (folder / "metrics.json").write_text(json.dumps(summary, indent=2) + "\n")
    (folder / "per_frame.csv").write_text(scores.per_frame_csv())


def _interval() -> float:
    return 0.2 if sys.stderr.isatty() else 5.0


def _define_flags() -> None:
    flags.DEFINE_string("checkpoint", None, "Checkpoint or training run's folder; left out: the one that ships.")
    flags.DEFINE_string("data_dir", None, "The dataset's folder, or the one TFDS builds into.")
    flags.DEFINE_string("dataset", None, "A TFDS name, or a layout read from the folder, such as ref_youtube_vos.")
    flags.DEFINE_string("split", "test", "Split of the dataset.")
    flags.DEFINE_enum("calibration", None, CALIBRATIONS, "Overrides the checkpoint's model.calibration.")
    flags.DEFINE_enum("memory", None, MEMORIES, "Overrides the checkpoint's model.memory.")
    flags.DEFINE_integer("max_sequences", None, "Evaluate only the first so many sequences.", lower_bound=1)
    flags.DEFINE_integer("tile", None, "As predict's.")
    flags.DEFINE_integer("targets_at_once", TARGETS_AT_ONCE, "Sentences that share one image encoding.", lower_bound=1)
    flags.DEFINE_string("predictions", None, "Masks to score: <sequence>/<expression>/<frame:05d>.png.")
    flags.DEFINE_string("ground_truth", None, "True masks, in the same form.")
    flags.DEFINE_string("output", None, "Folder to write results to.")


_MODEL_FLAGS = ("checkpoint", "data_dir", "dataset", "calibration", "memory", "tile", "max_sequences")
_DATA_FLAGS = ("data_dir", "dataset", "max_sequences")
_TREE_FLAGS = ("predictions", "ground_truth")


def main(argv: list[str]) -> None:
    values = flags.FLAGS
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; every option has a name, see --help")
    of_model = [name for name in _MODEL_FLAGS if getattr(values, name) is not None]
    of_trees = [name for name in _TREE_FLAGS if getattr(values, name) is not None]
    forms = (
        "--data_dir and --dataset to run a model, or --predictions with --ground_truth (or --data_dir and --dataset) "
        "to score masks"
    )
    of_dataset = of_trees == ["predictions"] and values.data_dir and values.dataset
    if of_model and of_trees and not (of_dataset and set(of_model) <= set(_DATA_FLAGS)):
        clash = next((name for name in of_model if name not in _DATA_FLAGS or not of_dataset), of_model[0])
        raise UserError(f"--{clash} and --{of_trees[0]} do not go together: give either {forms}")
    if not of_model and not of_trees:
        raise UserError(f"nothing to evaluate: give either {forms}, and --output")
    required = (*_TREE_FLAGS, "output") if of_trees and not of_dataset else ("data_dir", "dataset", "output")
    for name in required:
        if not getattr(values, name):
            form = "--predictions and --ground_truth" if of_trees else "--data_dir and --dataset"
            raise UserError(f"--{name} is missing; give {form} and --output, see --help")
    if of_dataset:
        source = open_source(values.dataset, values.data_dir, values.split)
        summary = score_predictions(source, values.predictions, values.output, values.max_sequences)
    elif of_trees:
        summary = score_trees(values.predictions, values.ground_truth, values.output)
    else:
        summary = _run_model(values)
    line = ", ".join(f"{name} {summary[name]:.4f}" for name in ("J&F", "J", "J_recall", "F", "F_recall"))
    print(f"{line} over {summary['n_frames']} frames of {summary['n_targets']} targets: {values.output}")


def tracker_of(model: Model, given: list[str] | np.ndarray) -> Tracker:
    """A tracker of sentences, or of first masks bool [N, H, W]."""
    return Tracker(model, **{"texts" if isinstance(given, list) else "masks": given})


def _run_model(values: flags.FlagValues) -> dict[str, Any]:
    import mqc_jax
    from mqc_jax.predict import model_facts

    source = open_source(values.dataset, values.data_dir, values.split)
    model = mqc_jax.load(values.checkpoint)
    if any(expression.text for sequence in source.sequences for expression in sequence.expressions):
        model.require_text()
    switches = {name: getattr(values, name) for name in ("calibration", "memory") if getattr(values, name)}
    if switches:
        model = model.replace(**switches)
    model = with_tile(model, values.tile)
    return evaluate_model(
        source,
        functools.partial(tracker_of, model),
        values.output,
        max_sequences=values.max_sequences,
        targets_at_once=values.targets_at_once,
        facts=model_facts(model),
        even=groups.largest() > 1,
    )


if __name__ == "__main__":
    _define_flags()
    run(main)
