"""Synthetic test scenes for the calibration: true first masks of moving and static targets, and ways to damage them."""

import itertools
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from mqc_jax import CalibrationConfig, imaging
from mqc_jax.data.synthetic import plan_sequence, render

SEED = 20260112
DAMAGES = ("intact", "eroded", "shifted", "look-alike", "half", "half + look-alike")
LEAST = 24
"""Pixels at the model's size under which a target is left out: damage would leave nothing of it."""


class Target(NamedTuple):
    """Truth bool [S, S] in frame 0, a static object beside it to be confused with, and whether it moves."""

    truth: np.ndarray
    other: np.ndarray
    moving: bool


def disk(radius: int) -> np.ndarray:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= radius * radius).astype(np.uint8)


def damaged(target: Target, kind: str, rng: np.random.Generator) -> np.ndarray:
    """The first mask's probability, float32 [S, S]."""
    truth = target.truth
    size = np.sqrt(truth.sum())
    kept, extra = truth, np.zeros_like(truth)
    if kind == "eroded":
        away = ndimage.distance_transform_edt(truth)
        kept = away > np.quantile(away[truth], 0.5)
    if kind == "shifted":
        angle = rng.uniform(0, 2 * np.pi)
        dy, dx = np.rint(0.4 * size * np.array([np.sin(angle), np.cos(angle)])).astype(int)
        kept = ndimage.shift(truth.astype(np.uint8), (dy, dx), order=0) > 0
    if kind.startswith("half"):
        y, x = np.nonzero(truth)
        angle = rng.uniform(0, 2 * np.pi)
        along = np.cos(angle) * x + np.sin(angle) * y
        kept = np.zeros_like(truth)
        kept[y, x] = along <= np.median(along)
    if kind.endswith("look-alike"):
        extra = target.other & ~truth
    if not kept.any():  # too thin to erode, or shifted out of the frame
        kept = truth
    depth = ndimage.distance_transform_edt(kept)
    core = kept & (depth >= np.quantile(depth[kept], 0.6))
    probability = np.where(core, 0.9, np.where(kept | extra, 0.6, 0.1))
    return probability.astype(np.float32)


def scene(index: int, side: int, length: int) -> tuple[np.ndarray, list[Target]]:
    """uint8 RGB [length + 1, side, side, 3] of one test sequence, and its targets."""
    plan = plan_sequence(seed=SEED, index=index, split="test")
    rendered = list(itertools.islice(render(plan), length + 1))
    frames = np.stack([imaging.resize(picture, side) for picture, _ in rendered])
    labels = rendered[0][1]
    steady = plan.to_frame(0)
    scale = np.array([side / plan.size[1], side / plan.size[0]])
    masks, speeds = [], []
    for actor in plan.actors:
        truth = imaging.resize_mask(labels == actor.object_id, side) > 0 if actor.object_id else None
        if truth is None or truth.sum() < LEAST:
            continue
        places = [np.array(actor.track.pose(t, 0.5 * actor.length)[:2]) for t in (0, length)]
        shift = (steady[:, :2] @ (places[1] - places[0])) * scale
        masks.append(truth)
        speeds.append(np.linalg.norm(shift) / length)
    chosen = {True: [], False: []}
    still = [k for k, speed in enumerate(speeds) if speed == 0]
    for k, speed in enumerate(speeds):
        moves = speed > CalibrationConfig.tau_motion
        if not (moves or speed == 0) or len(chosen[moves]) == 2:
            continue
        others = [i for i in still if i != k]
        if others:
            gap = [abs(masks[i].sum() - masks[k].sum()) for i in others]
            other = masks[others[int(np.argmin(gap))]]
        else:  # a patch of ground of the same shape
            other = np.roll(masks[k], (side // 3, side // 4), (0, 1))
        chosen[moves].append(Target(masks[k], other, bool(moves)))
    return frames, chosen[True] + chosen[False]


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))
