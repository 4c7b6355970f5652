"""What motion makes of damaged first masks, for every evidence and expansion; and what calibration costs.

    python benchmarks/tmcc.py [--sequences 29] [--side 480] [--damage_seed 0]
    python benchmarks/tmcc.py --speed [--rounds 9]
    python benchmarks/tmcc.py --picture docs/images/tmcc_chain.png

Scenes are the synthetic test split's (the fixed seed of `rs_rvos_synth`), their first n_max + 1 frames; up to two
moving and two static objects of each, named or not. A target is moving if the truth moves it by more than tau_motion
pixels a frame at the model's size, static if not at all. First masks are truth, damaged on purpose; the core of what is
left of the target is certain (0.9), the rest of the mask is likely (0.6).

`--speed` compares with the same work written with OpenCV and SciPy, alternating in one run.
"""

import functools
import itertools
import os
import platform
import re
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import metadata

import cv2
import jax
import numpy as np
from absl import flags
from scipy import ndimage
from tmcc_scenes import DAMAGES, damaged, disk, iou, scene

from mqc_jax import CalibrationConfig, viz
from mqc_jax.config import EVIDENCE, ModelConfig
from mqc_jax.errors import run
from mqc_jax.models import tmcc
from mqc_jax.models.farneback import FarnebackConfig
from mqc_jax.models.flow import flow, grey

_SEQUENCES = flags.DEFINE_integer("sequences", 29, "Sequences of the test split.", lower_bound=1)
_SIDE = flags.DEFINE_integer("side", 480, "Side of the model's input.", lower_bound=64)
_DAMAGE_SEED = flags.DEFINE_integer("damage_seed", 0, "Seed of the damages.")
_ROWS = flags.DEFINE_string("rows", "", "Only the rows whose name this regular expression finds.")
_SPEED = flags.DEFINE_bool("speed", False, "Time it instead.")
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Rounds that are timed, after one that is not.", lower_bound=1)
_PICTURE = flags.DEFINE_string("picture", None, "Draw the chain of one target into this file instead.")


def rows() -> dict[str, CalibrationConfig]:
    """Every choice; the first is the paper's letter."""
    base = CalibrationConfig()
    found = {}
    for background, selection, evidence, expansion in itertools.product(
        (False, True),
        ("best", "anchored"),
        EVIDENCE,
        ("single", "geodesic"),
    ):
        name = f"{evidence}, {expansion}, {selection}{', less background' if background else ''}"
        found[name] = replace(
            base, evidence=evidence, expansion=expansion, selection=selection, remove_background=background
        )
    for rim in (1, 3, 6):
        name = f"vacated, geodesic, anchored, less background, rim {rim}"
        found[name] = replace(base, selection="anchored", remove_background=True, rim=rim)
    return found


def quality() -> None:
    configs = {name: config for name, config in rows().items() if re.search(_ROWS.value, name)}
    length = CalibrationConfig.n_max
    windows = CalibrationConfig().windows(length)
    slots = 4 * len(DAMAGES)
    maps_of = jax.jit(tmcc.motion_maps, static_argnums=2)
    many = jax.jit(
        lambda p, maps, config: jax.lax.map(lambda one: tmcc.calibrate_on(one, maps, windows, config), p),
        static_argnums=2,
    )
    phi = jax.jit(jax.vmap(lambda p: tmcc.morphology(p > 0.5, CalibrationConfig())))
    scores = defaultdict(list)  # (row, moving, damage) -> J
    static_called = defaultdict(list)
    rng = np.random.default_rng(_DAMAGE_SEED.value)
    for index in range(_SEQUENCES.value):
        frames, targets = scene(index, _SIDE.value, length)
        if not targets:
            continue
        cases = [(target, kind) for target in targets for kind in DAMAGES]
        firsts = np.zeros((slots, *frames.shape[1:3]), np.float32)
        for k, (target, kind) in enumerate(cases):
            firsts[k] = damaged(target, kind, rng)
        plain = np.asarray(phi(firsts))
        for k, (target, kind) in enumerate(cases):
            scores["before", target.moving, kind].append(iou(firsts[k] > 0.5, target.truth))
            scores["morphology alone", target.moving, kind].append(iou(plain[k], target.truth))
        shown = grey(frames)
        displacement = flow(shown)
        maps = {}
        for name, config in configs.items():
            key = config.evidence, config.remove_background
            if key not in maps:
                maps[key] = maps_of(
                    displacement, shown, replace(CalibrationConfig(), evidence=key[0], remove_background=key[1])
                )
            found = many(firsts, maps[key], config)
            masks, is_static = np.asarray(found.mask), np.asarray(found.is_static)
            for k, (target, kind) in enumerate(cases):
                scores[name, target.moving, kind].append(iou(masks[k], target.truth))
                static_called[name, target.moving].append(is_static[k])
    for moving in (True, False):
        count = len(scores["before", moving, DAMAGES[0]])
        print(f"\n{'moving' if moving else 'static'} targets: {count}; mean J of the calibrated first mask")
        print(f"{'':<52}" + "".join(f"{kind:>18}" for kind in DAMAGES) + f"{'mean':>8} {'worst':>7} {'static':>7}")
        reference = np.array([scores["morphology alone", moving, kind] for kind in DAMAGES])
        for name in ("before", "morphology alone", *configs):
            values = np.array([scores[name, moving, kind] for kind in DAMAGES])
            # `worst`: the largest loss of one target against morphology alone.
            called = f"{np.mean(static_called[name, moving]):>7.2f}" if name in configs else ""
            print(
                f"{name:<52}"
                + "".join(f"{v:>18.3f}" for v in values.mean(1))
                + f"{values.mean():>8.3f} {(values - reference).min():>7.2f} {called}"
            )


def trusted(
    before: np.ndarray, after: np.ndarray, flow: np.ndarray, across: np.ndarray, down: np.ndarray, cell: int = 16
) -> np.ndarray:
    """Of each cell the pixel whose displacement is most to be trusted, and of these the best fifth: float32 [P, 2]."""
    corner = cv2.cornerMinEigenVal(before, 10)
    left = cv2.remap(
        after, across + flow[..., 0], down + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    trust = corner / (cv2.blur((left - before) ** 2, (10, 10)) + 1)
    rows, columns = (size // cell for size in trust.shape)
    cells = (
        trust[: rows * cell, : columns * cell].reshape(rows, cell, columns, cell).swapaxes(1, 2).reshape(-1, cell**2)
    )
    best = np.argsort(-cells.max(1))[: max(len(cells) // 5, 6)]
    inside = cells[best].argmax(1)
    return np.stack([best % columns * cell + inside % cell, best // columns * cell + inside // cell], 1).astype(
        np.float32
    )


def refound(frames: np.ndarray, flows: list[np.ndarray], windows: tuple[int, ...], c: CalibrationConfig) -> np.ndarray:
    """Whether what frame 0 shows is seen where displacement took it, at the end of any window, less whether it is seen
    as far on the other side; every second pixel."""
    y, x = (axis[::2, ::2].astype(np.float32) for axis in np.mgrid[: frames.shape[1], : frames.shape[2]])
    v, u, first, found = y, x, frames[0][::2, ::2], np.zeros((2, *y.shape), bool)
    look = lambda image, u, v: cv2.remap(image, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)  # noqa: E731
    for t, field in enumerate(flows, 1):
        step = look(field, u, v)
        u, v = u + step[..., 0], v + step[..., 1]
        if t in windows:
            changed = np.abs(frames[t][::2, ::2] - first)
            for k, place in enumerate([(u, v), (2 * x - u, 2 * y - v)]):
                left = np.abs(look(frames[t], *place) - first)
                found[k] |= (changed > c.evidence_floor) & (left < changed / 2) & (left < 2 * c.evidence_floor)
    found = found[0].astype(np.float32) - found[1]
    return np.repeat(np.repeat(found, 2, 0), 2, 1)[: frames.shape[1], : frames.shape[2]]


def steadied(frames: np.ndarray, flows: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Frames and displacements less the background's motion, in frame 0's coordinates, and where they are seen."""
    height, width = frames.shape[1:]
    across, down = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    place, pictures, left, seen = np.eye(3), [], [], []

    def warp(image: np.ndarray, border: int) -> np.ndarray:
        mode = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(image, place[:2], (width, height), flags=mode, borderMode=border)

    for t, frame in enumerate(frames):
        pictures.append(warp(frame, cv2.BORDER_REPLICATE))
        seen.append(warp(np.ones_like(frame), cv2.BORDER_CONSTANT) > 0.99)
        if t < len(flows):
            points = trusted(frame, frames[t + 1], flows[t], across, down)
            moved = points + flows[t][tuple(points.astype(int).T[::-1])]
            step = cv2.estimateAffine2D(points, moved, ransacReprojThreshold=0.5)[0]
            own = [(step[k, 0] * across + step[k, 1] * down + step[k, 2]).astype(np.float32) for k in range(2)]
            left.append(warp(flows[t] - np.stack([own[0] - across, own[1] - down], -1), cv2.BORDER_REPLICATE))
            place = np.vstack([step, [0, 0, 1]]) @ place
    return np.stack(pictures), left, np.stack(seen)


def classical(
    probability: np.ndarray,
    c: CalibrationConfig,
    d_of: Callable[[int], tuple[np.ndarray, np.ndarray]],
    windows: tuple[int, ...],
) -> np.ndarray:
    """Equations 7 and 9 to 15 with OpenCV and SciPy, as one would write them for speed.

    `d_of` gives eq. 8, and the same where what moves is found again.
    """
    r0 = probability > 0.5
    anchor = probability > c.tau_sem
    anchor = anchor if anchor.any() else r0
    number, regions = cv2.connectedComponents(r0.astype(np.uint8), connectivity=8)
    static = True
    for n in windows:
        d, verified = d_of(n)
        if number > 1:
            shown, found = (ndimage.mean(values, regions, range(1, number)) for values in (d, verified))
            if ((found > c.tau_motion) & (found > shown * tmcc.VERIFIED)).any():
                static = False
                break

    def phi(mask: np.ndarray) -> np.ndarray:
        room = 2 * c.closing + 1
        grown = cv2.copyMakeBorder(mask.astype(np.uint8), room, room, room, room, cv2.BORDER_CONSTANT)
        closed = cv2.morphologyEx(grown, cv2.MORPH_CLOSE, disk(c.closing))[room:-room, room:-room]
        return ndimage.binary_fill_holes(closed)

    if static:
        return phi(r0)
    moving = r0 & (d > c.tau_motion)
    mean, std = d[moving].mean(), max(d[moving].std(), c.sigma_floor)
    away = np.abs(d - mean)
    consistent = (away < c.alpha * std) & (d > c.tau_motion)
    expanded, kernel = moving, disk(c.neighbourhood)
    while True:
        grown = expanded | ((cv2.dilate(expanded.astype(np.uint8), kernel) > 0) & consistent)
        if c.expansion == "single" or (grown == expanded).all():
            expanded = grown
            break
        expanded = grown
    refined = expanded & ~(away > c.beta * std)
    count, parts = cv2.connectedComponents(refined.astype(np.uint8), connectivity=8)
    edge = lambda mask: mask & ~ndimage.binary_erosion(mask)  # noqa: E731
    to_anchor = cv2.distanceTransform((~edge(anchor)).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    motion = np.zeros_like(r0)
    if count > 1:
        size = np.bincount(parts.ravel(), minlength=count)[1:]
        shared = np.bincount(parts[anchor], minlength=count)[1:]
        near = ndimage.minimum(to_anchor, np.where(edge(refined), parts, 0), range(1, count))
        score = shared / np.minimum(size, anchor.sum()) + c.lam * np.exp(-near / c.sigma_s)
        taken = np.arange(1, count)[np.arange(count - 1) == np.argmax(score)]
        if c.selection == "anchored":
            taken = np.union1d(taken, np.arange(1, count)[shared > 0])
        motion = np.isin(parts, taken)
    return phi(anchor | motion)


def maps_with_opencv(
    frames: np.ndarray, flows: list[np.ndarray], c: CalibrationConfig
) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    """Eq. 8 for a window of n displacements, computed when it is asked for; evidence "vacated"."""
    frames, flows, seen = steadied(frames, flows)
    gone = np.ones(frames.shape[1:], bool)
    stride = max(1, min(gone.shape) // 64)
    for part in (frames, frames[-(len(frames) // 3) :]):
        difference = np.abs(frames[0] - np.median(part, 0))
        spread = 1.4826 * np.median(difference[::stride, ::stride])
        gone &= difference > max(c.evidence_sigmas * spread, c.evidence_floor)

    again = refound(frames, flows, c.windows(len(flows)), c)

    @functools.cache
    def d_of(n: int) -> tuple[np.ndarray, np.ndarray]:
        lengths = (cv2.magnitude(f[..., 0], f[..., 1]) * (seen[t] & seen[t + 1]) for t, f in enumerate(flows[:n]))
        d = sum(lengths) * gone / n
        return d, d * again

    return d_of


def farneback(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    f = FarnebackConfig()
    arguments = (f.pyr_scale, f.levels, f.winsize, f.iterations, f.poly_n, f.poly_sigma)
    return cv2.calcOpticalFlowFarneback(before, after, None, *arguments, cv2.OPTFLOW_FARNEBACK_GAUSSIAN * f.gaussian)


def speed() -> None:
    config = ModelConfig().tmcc
    windows = config.windows(config.n_max)
    frames = targets = None
    for index in range(_SEQUENCES.value):
        frames, targets = scene(index, _SIDE.value, config.n_max)
        if targets and targets[0].moving:
            break
    rng = np.random.default_rng(0)
    one = np.stack([damaged(targets[0], "half", rng)])
    apart = np.stack([damaged(targets[0], "half + look-alike", rng)])  # does not fit into one cut
    eight = np.stack([damaged(targets[k % len(targets)], DAMAGES[k % len(DAMAGES)], rng) for k in range(8)])

    @jax.jit
    def ours(probability, pictures):
        shown = grey(pictures)
        maps = tmcc.motion_maps(flow(shown), shown, config)
        return jax.lax.map(lambda p: tmcc.calibrate_on(p, maps, windows, config).mask, probability)

    shared = jax.jit(lambda pictures: tmcc.motion_maps(flow(grey(pictures)), grey(pictures), config))
    alone = jax.jit(lambda p, maps: jax.lax.map(lambda q: tmcc.calibrate_on(q, maps, windows, config).mask, p))
    shown = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    stack = np.asarray(grey(frames))
    pairs = list(itertools.pairwise(shown))
    device = jax.device_put(frames)
    with ThreadPoolExecutor(os.cpu_count()) as pool:

        def theirs(p, flows):
            d_of = maps_with_opencv(stack, flows, config)
            return [classical(q, config, d_of, windows) for q in p]

        plain = lambda: [farneback(*pair) for pair in pairs]  # noqa: E731
        threads = lambda: list(pool.map(lambda pair: farneback(*pair), pairs))  # noqa: E731
        maps, flows = shared(device), plain()
        work = {
            "1 target": lambda: ours(one, device).block_until_ready(),
            "1 target, look-alike far away": lambda: ours(apart, device).block_until_ready(),
            "8 targets": lambda: ours(eight, device).block_until_ready(),
            "OpenCV + SciPy, 1 target": lambda: theirs(one, plain()),
            "OpenCV in threads + SciPy, 1 target": lambda: theirs(one, threads()),
            "OpenCV + SciPy, 8 targets": lambda: theirs(eight, plain()),
            "  of this: flow and motion maps": lambda: jax.block_until_ready(shared(device)),
            "  of this: calibration of 1": lambda: alone(one, maps).block_until_ready(),
            "  of this: calibration of 8": lambda: alone(eight, maps).block_until_ready(),
            "  OpenCV + SciPy: maps, calibration of 1": lambda: theirs(one, flows),
        }
        seconds = defaultdict(list)
        for turn in range(_ROUNDS.value + 1):
            for name, do in work.items():
                started = time.perf_counter()
                do()
                if turn:
                    seconds[name].append(time.perf_counter() - started)
    same = iou(np.asarray(ours(one, device))[0], theirs(one, flows)[0])
    print(f"{_SIDE.value}x{_SIDE.value}, {config.n_max} displacements, medians of {_ROUNDS.value} rounds")
    base = np.median(seconds["1 target"])
    for name, values in seconds.items():
        print(f"{name:>40} {1000 * np.median(values):>9.1f} ms {np.median(values) / base:>6.2f}x")
    print(f"IoU of the two results for one target: {same:.4f} (the background's motion is fitted otherwise)")
    print(f"programs compiled: {ours._cache_size()} (for 1 and for 8 targets)")


def chain() -> None:
    """One target, half missing and a parked one taken for it, from the first mask to the calibrated one."""
    config = ModelConfig().tmcc
    for index in range(_SEQUENCES.value):
        frames, targets = scene(index, _SIDE.value, config.n_max)
        if any(target.moving for target in targets):
            break
    target = max((target for target in targets if target.moving), key=lambda target: target.truth.sum())
    first = damaged(target, "half + look-alike", np.random.default_rng(1))
    shown = grey(frames)
    found = tmcc.calibrate(first, flow(shown), config, frames=shown)
    y, x = np.nonzero(target.truth | (first > 0.5))
    middle = [int((v.min() + v.max()) / 2) for v in (y, x)]
    half = int(max(np.ptp(y), np.ptp(x)) / 2 + 14)
    top, left = (int(np.clip(m - half, 0, max(_SIDE.value - 2 * half, 0))) for m in middle)
    window = np.s_[top : top + 2 * half, left : left + 2 * half]
    d = np.asarray(found.displacement)
    pictures = {
        "first mask R0": first > 0.5,
        "motion D (8)": d / d.max(),
        "moving (9)": found.moving,
        "expanded (10)": found.expanded,
        "refined (11)": found.refined,
        "motion-verified (13)": found.motion,
        "calibrated (15)": found.mask,
        "truth": target.truth,
    }
    columns = []
    for values in pictures.values():
        values = np.asarray(values)[window]
        frame = frames[0][window]
        big = cv2.resize(frame, (320, 320), interpolation=cv2.INTER_CUBIC)
        grown = cv2.resize(values.astype(np.float32), (320, 320), interpolation=cv2.INTER_LINEAR)
        columns.append(viz.overlay(big, (grown > 0.5)[None]) if values.dtype == bool else viz.heat_map(big, grown))
    half_way = len(columns) // 2
    names = list(pictures)
    lines = [
        viz.strip([[picture] for picture in part], labels, height=320)
        for part, labels in ((columns[:half_way], names[:half_way]), (columns[half_way:], names[half_way:]))
    ]
    picture = np.concatenate(lines)
    cv2.imwrite(_PICTURE.value, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    print(f"J {iou(first > 0.5, target.truth):.2f} -> {iou(np.asarray(found.mask), target.truth):.2f}")


def main(_: list[str]) -> None:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("jax", "scipy", "opencv-python-headless"))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}")
    if _PICTURE.value:
        chain()
    elif _SPEED.value:
        speed()
    else:
        quality()


if __name__ == "__main__":
    run(main)
