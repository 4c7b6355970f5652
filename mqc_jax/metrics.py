"""J and F of the DAVIS 2017 benchmark (paper, eqs. 25-28), computed only where the masks are.

Everything beyond one pixel around the two masks' common bounding box is background in both and contributes nothing to
either number, so both are computed in that box. A satellite target covers a few hundredths of a per cent of its frame.
"""

import collections
import csv
import dataclasses
import io
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from mqc_jax.data.images import decode_mask
from mqc_jax.errors import UserError

BOUNDARY_TOLERANCE = 0.008  # of the frame's diagonal
RECALL_THRESHOLD = 0.5  # tau_rec of eq. 28
REACQUIRE_WITHIN = 5  # frames
CONFIDENCE = 0.95
RESAMPLES = 1000
PER_FRAME_COLUMNS = ("sequence", "expression", "frame", "J", "F")
_NAMES = ("J&F", "J", "J_recall", "F", "F_recall")
_CHUNK = 16  # frames that a thread scores at a time


class FrameScore(NamedTuple):
    """One frame's region similarity and contour accuracy, both in [0, 1]."""

    j: float
    f: float


def score_frame(prediction: np.ndarray, truth: np.ndarray) -> FrameScore:
    """J and F of one frame.

    J is the intersection over the union, 1 if both masks are empty. F is the harmonic mean of the share of predicted
    boundary pixels within ceil(0.008 * diagonal) pixels of a true one, and the reverse; a boundary that is missing on
    one side alone gives 0, on both sides 1 (a mask that fills the frame has no boundary either).

    Args:
      prediction: bool or uint8 [H, W], non-zero is target.
      truth: the same shape.
    """
    if prediction.shape != truth.shape or prediction.ndim != 2:
        raise ValueError(f"masks must be two [H, W] arrays of one shape, got {prediction.shape} and {truth.shape}")
    predicted, true, radius = _crop(_binary(prediction), _binary(truth))
    union = cv2.countNonZero(predicted | true)
    j = cv2.countNonZero(predicted & true) / union if union else 1.0
    return FrameScore(j, _contour_accuracy(_boundary(predicted), _boundary(true), radius))


def boundary_radius(size: tuple[int, int]) -> int:
    """The matching distance in pixels for a frame of (height, width)."""
    return math.ceil(BOUNDARY_TOLERANCE * float(np.linalg.norm(size)))


def _binary(mask: np.ndarray) -> np.ndarray:
    mask = np.ascontiguousarray(mask)
    return mask.view(np.uint8) if mask.dtype == bool else (mask != 0).view(np.uint8)


def _crop(predicted: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Both masks within their common box and one pixel around it (the boundary map looks one pixel ahead)."""
    height, width = true.shape
    boxes = [box for box in (cv2.boundingRect(predicted), cv2.boundingRect(true)) if box[2]]
    radius = boundary_radius(true.shape)
    if not boxes:
        return predicted[:0, :0], true[:0, :0], radius
    left, top = (max(min(box[axis] for box in boxes) - 1, 0) for axis in (0, 1))
    right = min(max(box[0] + box[2] for box in boxes) + 1, width)
    bottom = min(max(box[1] + box[3] for box in boxes) + 1, height)
    window = np.s_[top:bottom, left:right]
    return np.ascontiguousarray(predicted[window]), np.ascontiguousarray(true[window]), radius


def _boundary(mask: np.ndarray) -> np.ndarray:
    """The benchmark's boundary map (seg2bmap): 1 where a pixel differs from its east, south or south-east neighbour.

    In the last row only east counts, in the last column only south. Rows and columns that a crop has cut off are
    background, and so is the crop's own rim on those sides, so a crop's map is the frame's.
    """
    edge = np.zeros_like(mask)
    if not mask.size:
        return edge
    edge[:-1, :-1] = (
        (mask[:-1, :-1] ^ mask[:-1, 1:]) | (mask[:-1, :-1] ^ mask[1:, :-1]) | (mask[:-1, :-1] ^ mask[1:, 1:])
    )
    edge[-1, :-1] = mask[-1, :-1] ^ mask[-1, 1:]
    edge[:-1, -1] = mask[:-1, -1] ^ mask[1:, -1]
    return edge


def _contour_accuracy(predicted: np.ndarray, true: np.ndarray, radius: int) -> float:
    n_predicted, n_true = cv2.countNonZero(predicted), cv2.countNonZero(true)
    if not n_predicted or not n_true:
        return float(n_predicted == n_true)
    precision = _near(predicted, true, radius) / n_predicted
    recall = _near(true, predicted, radius) / n_true
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _near(points: np.ndarray, others: np.ndarray, radius: int) -> int:
    """How many pixels of `points` have one of `others` within `radius`, as a dilation by a disk would find them.

    A distance map costs the same for every radius; a disk of radius 20 has 1257 pixels.
    """
    distance = cv2.distanceTransform(others ^ 1, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # Distances are roots of integers, so the next above `radius` is 1 / (2 radius) further: rounding cannot reach it.
    return cv2.countNonZero(points & (distance <= radius + 1e-3).view(np.uint8))


@dataclasses.dataclass
class TargetScore:
    """Sums over one target's frames, divided only when read; V of eq. 25 is the frames added."""

    n_frames: int = 0
    j: float = 0.0
    f: float = 0.0
    j_hits: int = 0
    f_hits: int = 0

    def add(self, score: FrameScore) -> None:
        """Counts one frame in which the target is present."""
        self.n_frames += 1
        self.j += score.j
        self.f += score.f
        self.j_hits += score.j > RECALL_THRESHOLD
        self.f_hits += score.f > RECALL_THRESHOLD

    def means(self) -> dict[str, float]:
        """`J&F`, `J`, `J_recall`, `F`, `F_recall` in [0, 1] over this target's frames."""
        j, f = self.j / self.n_frames, self.f / self.n_frames
        return {
            "J&F": (j + f) / 2,
            "J": j,
            "J_recall": self.j_hits / self.n_frames,
            "F": f,
            "F_recall": self.f_hits / self.n_frames,
        }


class Scores:
    """Collects a dataset's frames and reports it.

    A target is one (sequence, expression). Each target weighs the same, however long its sequence: its sums are divided
    once, then the targets are averaged, as the benchmark does. A target that is never present has no V and is left out.
    """

    def __init__(self) -> None:
        self._targets: dict[tuple[str, str], TargetScore] = {}
        self._rows: list[tuple[str, str, str, float, float]] = []

    def add(self, sequence: str, expression: str, frame: str, prediction: np.ndarray, truth: np.ndarray) -> None:
        """Scores one frame (masks [H, W], non-zero is target); frames without the target are not counted."""
        if np.any(truth):
            self.add_score(sequence, expression, frame, score_frame(prediction, truth))

    def add_score(self, sequence: str, expression: str, frame: str, score: FrameScore) -> None:
        """Counts a frame that was scored elsewhere, for example in another process."""
        self._targets.setdefault((sequence, expression), TargetScore()).add(score)
        self._rows.append((sequence, expression, frame, score.j, score.f))

    def summary(self) -> dict[str, Any]:
        """The content of `metrics.json`: numbers in [0, 1], `n_frames`, `n_targets` and `per_sequence`, which holds the
        same numbers for each sequence's targets. Without any frame the numbers are None.

        `confidence_interval` has the bounds of each number, see `confidence_interval`."""
        by_sequence: dict[str, list[TargetScore]] = {}
        for (sequence, _), target in sorted(self._targets.items()):
            by_sequence.setdefault(sequence, []).append(target)
        return {
            **_average(self._targets.values()),
            "confidence_interval": confidence_interval([[t.means() for t in ts] for ts in by_sequence.values()]),
            "per_sequence": {name: _average(targets) for name, targets in sorted(by_sequence.items())},
        }

    def rows(self) -> Iterator[dict[str, Any]]:
        """The lines of `per_frame.csv` in order of sequence, expression and frame."""
        for row in sorted(self._rows, key=lambda row: row[:3]):
            yield dict(zip(PER_FRAME_COLUMNS, row, strict=True))

    def per_frame_csv(self) -> str:
        """`per_frame.csv` as text; numbers with every digit, so that reading them back gives the same floats."""
        text = io.StringIO()
        writer = csv.DictWriter(text, PER_FRAME_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows())
        return text.getvalue()


class Reacquisition:
    """How soon targets are found again after they were hidden or away.

    A gap is one or more annotated frames without the target between frames with it. It counts as recovered if J is at
    least `RECALL_THRESHOLD` in one of the first `REACQUIRE_WITHIN` annotated frames after it.
    """

    def __init__(self) -> None:
        self._gaps: dict[Any, list[list[float]]] = {}
        self._present: dict[Any, bool] = {}

    def add(self, target: Any, j: float | None) -> None:
        """The next annotated frame of a target (any hashable name): its J, or None where the target is not there."""
        before = self._present.get(target)
        gaps = self._gaps.setdefault(target, [])
        if j is None:
            # Before its first appearance nothing was lost.
            self._present[target] = False if before is not None else None
            return
        if before is False:
            gaps.append([])
        if gaps and len(gaps[-1]) < REACQUIRE_WITHIN:
            gaps[-1].append(j)
        self._present[target] = True

    def summary(self) -> dict[str, Any]:
        """`share` in [0, 1] (None without a gap), the number of `gaps`, and `within`, in frames."""
        gaps = [after for found in self._gaps.values() for after in found]
        recovered = sum(max(after) >= RECALL_THRESHOLD for after in gaps)
        return {"share": recovered / len(gaps) if gaps else None, "gaps": len(gaps), "within": REACQUIRE_WITHIN}


def confidence_interval(
    sequences: Iterable[Iterable[Mapping[str, float]]],
    level: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any] | None:
    """Percentile bootstrap over sequences: frames and targets of one sequence are too alike to be drawn apart.

    Args:
      sequences: for each sequence the means of its targets.
      level: share of the resampled means between the bounds.
      resamples: how often as many sequences are drawn, with replacement.
      seed: of the draws; the same scores always give the same bounds.

    Returns:
      `level`, `resamples` and [low, high] for each of the five numbers; None with fewer than two sequences.
    """
    rows = [[[target[name] for name in _NAMES] for target in targets] for targets in sequences]
    if len(rows) < 2:
        return None
    sums = np.array([np.sum(targets, axis=0) for targets in rows])
    counts = np.array([len(targets) for targets in rows])
    drawn = np.random.default_rng(seed).integers(0, len(rows), (resamples, len(rows)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)[:, None]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    bounds = {name: [float(a), float(b)] for name, a, b in zip(_NAMES, low, high, strict=True)}
    return {"level": level, "resamples": resamples, **bounds}


def score_trees(
    predictions: str | os.PathLike,
    ground_truth: str | os.PathLike,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Scores any system's masks: both folders are `<sequence>/<expression>/<frame>.png`, non-zero is target.

    The truth says which frames there are; every one in which the target is present needs a prediction. Predictions of
    frames or targets beyond the truth's are not looked at.

    Threads read and score a few frames at a time (decoding and the metric run outside Python's lock); no more than one
    frame a thread is held. `workers` defaults to the cores; `progress(done, total)` is told about finished targets.

    Raises:
      UserError: a folder is missing or is none of this kind, a prediction is missing, has another size than its truth
        or does not decode, or no truth has a target in it. The sentence names the file.
    """
    predictions, ground_truth = Path(predictions), Path(ground_truth)
    for name, root in (("predictions", predictions), ("ground_truth", ground_truth)):
        if not root.is_dir():
            raise UserError(f"--{name} {root} is not a folder; give a tree of <sequence>/<expression>/<frame>.png")
    targets = _targets_of(ground_truth)
    if not targets:
        raise UserError(
            f"--ground_truth {ground_truth} holds no <sequence>/<expression>/<frame>.png; is it another layout?"
        )
    absent = ["/".join(target) for target in targets if not predictions.joinpath(*target).is_dir()]
    if absent:
        raise UserError(
            f"{len(absent)} of the {len(targets)} targets in {ground_truth} have no folder in {predictions}, "
            f"the first is {absent[0]}; predictions lie in <sequence>/<expression>/<frame>.png"
        )
    scores = Scores()

    def score_chunk(job: tuple[tuple[str, str], list[str]]) -> list[tuple[str, FrameScore]]:
        target, frames = job
        found = []
        for frame in frames:
            truth = read_mask(ground_truth.joinpath(*target, frame))
            if truth.any():
                prediction = read_prediction(predictions.joinpath(*target, frame), truth.shape)
                found.append((Path(frame).stem, score_frame(prediction, truth)))
        return found

    jobs = [(t, names[k : k + _CHUNK]) for t, names in targets.items() for k in range(0, len(names), _CHUNK)]
    left = collections.Counter(target for target, _ in jobs)
    for (target, _), found in zip(jobs, in_threads(score_chunk, jobs, workers), strict=True):
        for frame, score in found:
            scores.add_score(*target, frame, score)
        left[target] -= 1
        if progress and not left[target]:
            progress(sum(not n for n in left.values()), len(targets))
    if not scores.summary()["n_frames"]:
        raise UserError(f"no mask under {ground_truth} has a target in it, so there is nothing to score against")
    return scores


def _targets_of(root: Path) -> dict[tuple[str, str], list[str]]:
    """(sequence, expression) to the names of its PNG files, everything in order."""
    targets = {}
    for folder in sorted(root.glob("*/*/")):
        names = sorted(entry.name for entry in folder.iterdir() if entry.suffix.lower() == ".png")
        if names:
            targets[folder.parent.name, folder.name] = names
    return targets


def in_threads(work: Callable[[Any], Any], jobs: Iterable[Any], workers: int | None = None) -> Iterator[Any]:
    """The results of `work` in the jobs' order, on all cores; the first error ends it."""
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        try:
            yield from pool.map(work, jobs)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def read_mask(path: Path) -> np.ndarray:
    """A mask file as bool [H, W]; a `UserError` names a file that does not decode."""
    return decode_mask(path.read_bytes(), str(path))


def read_prediction(path: Path, size: tuple[int, int]) -> np.ndarray:
    """A predicted mask, bool [H, W]; a `UserError` names one that is missing or has another size than its truth."""
    if not path.is_file():
        raise UserError(f"the prediction {path} is missing; every frame with a target in it needs one")
    prediction = read_mask(path)
    if prediction.shape != size:
        raise UserError(
            f"{path} is {prediction.shape[1]}x{prediction.shape[0]} but its truth is {size[1]}x{size[0]} (width x "
            "height); predictions need the frame's size"
        )
    return prediction


def _average(targets: Iterable[TargetScore]) -> dict[str, Any]:
    targets = list(targets)
    means: list[Mapping[str, float]] = [target.means() for target in targets]
    return {
        **{name: math.fsum(mean[name] for mean in means) / len(means) if means else None for name in _NAMES},
        "n_frames": sum(target.n_frames for target in targets),
        "n_targets": len(targets),
    }
