"""J and F of a frame: this project beside the benchmark's own way, and that both give the same numbers.

    python benchmarks/metrics.py [--davis DIR] [--frames 1000] [--pairs 10000]

`--davis` is a checkout of github.com/davisvideochallenge/davis2017-evaluation; without it a transcription of what that
code does (boundary maps and dilations of whole frames) stands in. Both score the same masks in the same number of
threads; the other way is also timed in one thread, and the faster of the two counts.
"""

import importlib.util
import math
import os
import platform
import sys
import time
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
from absl import flags

from mqc_jax.errors import UserError, run
from mqc_jax.metrics import score_frame

_DAVIS = flags.DEFINE_string("davis", None, "Checkout of davis2017-evaluation.")
_FRAMES = flags.DEFINE_integer("frames", 1000, "Frames of each size.", lower_bound=20)
_PAIRS = flags.DEFINE_integer("pairs", 10000, "Random pairs that both must agree on.", lower_bound=0)

SIZES = ((1080, 2160), (480, 480))
AREAS = (0.001, 0.05)  # of the frame: a satellite target, and a large one
DISTINCT = 10  # different pairs of masks; more would not fit in memory
ROUNDS = 3

Score = Callable[[np.ndarray, np.ndarray], tuple[float, float]]


def disk(radius: float) -> np.ndarray:
    offset = np.arange(-radius, radius + 1)
    return (offset[:, None] ** 2 + offset[None, :] ** 2 <= radius**2).astype(np.uint8)


def whole_frame(prediction: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """The definition, on whole frames."""
    union = np.sum(prediction | truth)
    j = np.sum(prediction & truth) / union if union else 1.0
    tolerance = math.ceil(0.008 * np.linalg.norm(truth.shape))
    p, t = boundary(prediction), boundary(truth)
    near_p, near_t = (cv2.dilate(edge.astype(np.uint8), disk(tolerance)) for edge in (p, t))
    n_p, n_t = p.sum(), t.sum()
    if not n_p or not n_t:
        return float(j), float(n_p == n_t)
    precision, recall = (p * near_t).sum() / n_p, (t * near_p).sum() / n_t
    return float(j), float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def boundary(mask: np.ndarray) -> np.ndarray:
    east, south, both = (np.zeros_like(mask) for _ in range(3))
    east[:, :-1], south[:-1], both[:-1, :-1] = mask[:, 1:], mask[1:], mask[1:, 1:]
    edge = mask ^ east | mask ^ south | mask ^ both
    edge[-1], edge[:, -1] = mask[-1] ^ east[-1], mask[:, -1] ^ south[:, -1]
    edge[-1, -1] = False
    return edge


def davis_code(folder: Path) -> Score:
    """The public code's two functions; it takes its disk from scikit-image, which need not be there."""
    path = folder / "davis2017" / "metrics.py"
    if not path.is_file():
        raise UserError(f"--davis {folder} has no davis2017/metrics.py; give a checkout of davis2017-evaluation")
    if importlib.util.find_spec("skimage") is None:
        morphology = types.ModuleType("skimage.morphology")
        morphology.disk = disk
        sys.modules |= {"skimage": types.ModuleType("skimage"), "skimage.morphology": morphology}
    spec = importlib.util.spec_from_file_location("davis2017_metrics", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def score(prediction: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
        with np.errstate(invalid="ignore"):  # it divides before it looks whether both are empty
            return float(module.db_eval_iou(truth, prediction)), float(module.db_eval_boundary(truth, prediction))

    return score


def random_pair(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Discs, boxes, noise, single pixels, full and empty frames of 1 to 120 pixels a side, often at the border."""
    size = tuple(int(n) for n in rng.integers(1, 121, 2))

    def one() -> np.ndarray:
        mask = np.zeros(size, bool)
        kind = rng.integers(0, 8)
        if kind == 0:
            return mask
        if kind == 1:
            return ~mask
        if kind == 2:
            return rng.random(size) < rng.random()
        y, x = rng.integers(0, size[0]), rng.integers(0, size[1])
        if kind == 3:
            mask[y, x] = True
            return mask
        for _ in range(rng.integers(1, 4)):
            y, x = rng.integers(-5, size[0] + 5), rng.integers(-5, size[1] + 5)
            h, w = rng.integers(1, 40, 2)
            ys, xs = np.ogrid[: size[0], : size[1]]
            mask |= (abs(ys - y) < h) & (abs(xs - x) < w) if kind < 6 else ((ys - y) / h) ** 2 + ((xs - x) / w) ** 2 < 1
        return mask

    truth = one()
    return (np.roll(truth, rng.integers(-4, 5, 2), (0, 1)) if rng.random() < 0.5 else one()), truth


def video(size: tuple[int, int], area: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ellipses of the given share of the frame, and predictions of them that are a little off."""
    rng = np.random.default_rng(0)
    out = []
    for _ in range(DISTINCT):
        a = math.sqrt(area * size[0] * size[1] / math.pi)
        axes = (max(1, round(1.4 * a)), max(1, round(a / 1.4)))
        centre = [int(rng.uniform(0.15, 0.85) * n) for n in size[::-1]]
        masks = []
        for shift in ((0, 0), rng.integers(-3, 4, 2)):
            mask = np.zeros(size, np.uint8)
            cv2.ellipse(mask, tuple(int(c + s) for c, s in zip(centre, shift, strict=True)), axes, 30, 0, 360, 1, -1)
            masks.append(mask.astype(bool))
        out.append((masks[1], masks[0]))
    return out


def seconds(score: Score, pairs: list, threads: int, frames: int) -> float:
    """For `frames` frames, from at least `DISTINCT` of them."""
    jobs = [pairs[k % len(pairs)] for k in range(frames)]
    started = time.perf_counter()
    if threads == 1:
        for job in jobs:
            score(*job)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda job: score(*job), jobs))
    return time.perf_counter() - started


def main(_: list[str]) -> None:
    cores = len(os.sched_getaffinity(0))
    other = davis_code(Path(_DAVIS.value)) if _DAVIS.value else whole_frame
    name = "davis2017-evaluation" if _DAVIS.value else "whole frames (a transcription)"
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in ("numpy", "opencv-python-headless"))
    print(f"{platform.machine()}, {cores} cores, Python {platform.python_version()}, {versions}; beside: {name}")
    rng = np.random.default_rng(0)
    worst = 0.0
    for _ in range(_PAIRS.value):
        pair = random_pair(rng)
        worst = max(worst, *(abs(a - b) for a, b in zip(score_frame(*pair), other(*pair), strict=True)))
    print(f"{_PAIRS.value} random pairs: largest difference of J or F {worst:.2g}")
    print(f"{'frames':>10} {'target':>7} {'ours, frames/s':>15} {'theirs':>8} {'ratio':>6}")
    for size in SIZES:
        for area in AREAS:
            pairs = video(size, area)
            ours, theirs = [], []
            fewer = max(DISTINCT, _FRAMES.value // 10)  # the slow side is timed on a tenth
            for _ in range(ROUNDS):
                ours.append(seconds(score_frame, pairs, cores, _FRAMES.value) / _FRAMES.value)
                theirs.append(min(seconds(other, pairs, threads, fewer) for threads in (1, cores)) / fewer)
            a, b = float(np.median(ours)), float(np.median(theirs))
            label = f"{size[1]}x{size[0]}"
            print(f"{label:>10} {100 * area:>5.1f} % {1 / a:>15.0f} {1 / b:>8.1f} {b / a:>6.1f}", flush=True)


if __name__ == "__main__":
    run(main)
