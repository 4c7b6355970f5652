"""Dense displacement against OpenCV: milliseconds a pair and end-point errors.

    python benchmarks/flow.py [--side 480] [--frames 17] [--rounds 7] [--winsize 7] [--video FILE_OR_FOLDER ...]

The two take turns in one run. OpenCV is called pair by pair, as it is used, and from a pool of threads, one for each
core, as fast as the machine allows; it releases Python's lock. Without videos the frames are a moving texture, whose
true displacement is known, and only it is scored; with videos the difference from OpenCV is scored on each.
"""

import itertools
import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from mqc_jax.errors import UserError, run
from mqc_jax.models.farneback import FarnebackConfig
from mqc_jax.models.flow import flow

_SIDE = flags.DEFINE_integer("side", 480, "Side of the frames in pixels.", lower_bound=32)
_FRAMES = flags.DEFINE_integer("frames", 17, "Frames; one pair fewer.", lower_bound=2)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Rounds that are timed, after one that is not.", lower_bound=1)
_WINSIZE = flags.DEFINE_integer("winsize", FarnebackConfig.winsize, "Window of both in pixels.", lower_bound=2)
_LEVELS = flags.DEFINE_integer("levels", FarnebackConfig.levels, "Pyramid levels of both.", lower_bound=0)
_ITERATIONS = flags.DEFINE_integer("iterations", FarnebackConfig.iterations, "Iterations of both.", lower_bound=1)
_GAUSSIAN = flags.DEFINE_bool("gaussian", False, "A Gaussian window.")
_INCLUSIVE = flags.DEFINE_bool("inclusive", True, "The default border; --noinclusive has OpenCV's.")
_VIDEO = flags.DEFINE_multi_string("video", [], "Video files or folders of frames to score on; may be repeated.")
_STRIDE = flags.DEFINE_integer("stride", 1, "Every n-th frame of a video.", lower_bound=1)

MOTION = (2.6, -1.3)
"""Pixels per frame of the moving texture."""


def opencv_pair(pair: tuple[np.ndarray, np.ndarray], config: FarnebackConfig) -> np.ndarray:
    arguments = (config.pyr_scale, config.levels, config.winsize, config.iterations, config.poly_n, config.poly_sigma)
    return cv2.calcOpticalFlowFarneback(*pair, None, *arguments, cv2.OPTFLOW_FARNEBACK_GAUSSIAN * config.gaussian)


def texture(side: int, count: int) -> np.ndarray:
    """uint8 [count, side, side]."""
    margin = int(np.ceil(max(map(abs, MOTION)) * count)) + 8
    ground = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(side + 2 * margin,) * 2), (0, 0), 2)
    ground = (255 * (ground - ground.min()) / np.ptp(ground)).astype(np.float32)
    frames = []
    for t in range(count):
        shift = np.float32([[1, 0, margin - MOTION[0] * t], [0, 1, margin - MOTION[1] * t]])
        flags_ = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        frames.append(cv2.warpAffine(ground, shift, (side, side), flags=flags_))
    return np.rint(frames).clip(0, 255).astype(np.uint8)


def read(path: str, count: int, stride: int) -> np.ndarray:
    """Grey frames uint8 [T, H, W] at their own size."""
    if Path(path).is_dir():
        files = sorted(itertools.chain(Path(path).glob("*.jpg"), Path(path).glob("*.png")))
        frames = [cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) for file in files[::stride][:count]]
    else:
        video = cv2.VideoCapture(path)
        frames = []
        while len(frames) < count * stride and (read := video.read())[0]:
            frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2GRAY))
        frames = frames[::stride]
    if len(frames) < 2:
        raise UserError(f"{path} holds {len(frames)} readable frames, at least 2 are needed; give another video")
    return np.stack(frames)


def error(displacement: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return np.linalg.norm(np.asarray(displacement) - truth, axis=-1)


def main(_: list[str]) -> None:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("jax", "numpy", "opencv-python-headless"))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}")
    print(f"JAX on {jax.devices()[0].device_kind}; OpenCV with {cv2.getNumThreads()} threads")
    config = FarnebackConfig(
        winsize=_WINSIZE.value,
        levels=_LEVELS.value,
        iterations=_ITERATIONS.value,
        gaussian=_GAUSSIAN.value,
        inclusive=_INCLUSIVE.value,
    )
    print(config)
    frames = texture(_SIDE.value, _FRAMES.value)
    device = jax.block_until_ready(jnp.asarray(frames))
    pairs = list(itertools.pairwise(frames))
    started = time.perf_counter()
    ours = flow(device, config).block_until_ready()
    print(f"compilation and first run: {time.perf_counter() - started:.1f} s")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        work = {
            "mqc_jax": lambda: flow(device, config).block_until_ready(),
            "OpenCV": lambda: [opencv_pair(pair, config) for pair in pairs],
            "OpenCV, pairs in threads": lambda: list(pool.map(lambda pair: opencv_pair(pair, config), pairs)),
        }
        seconds = {name: [] for name in work}
        for turn in range(_ROUNDS.value + 1):
            for name, do in work.items():
                started = time.perf_counter(), time.process_time()
                do()
                if turn:
                    seconds[name].append((time.perf_counter() - started[0], time.process_time() - started[1]))
    print(f"{_SIDE.value}x{_SIDE.value}, {len(pairs)} pairs, medians of {_ROUNDS.value} rounds")
    print(f"{'':>26} {'ms a pair':>10} {'CPU ms':>8} {'fastest':>8} {'ratio':>6}")
    base = np.median(seconds["mqc_jax"], 0)[0]
    for name, values in seconds.items():
        wall, cpu = 1000 * np.median(values, 0) / len(pairs)
        fastest = 1000 * np.min(values, 0)[0] / len(pairs)
        print(f"{name:>26} {wall:>10.2f} {cpu:>8.2f} {fastest:>8.2f} {np.median(values, 0)[0] / base:>6.2f}")

    theirs = np.stack([opencv_pair(pair, config) for pair in pairs])
    inner = np.s_[:, 16:-16, 16:-16]
    print(f"end-point error in pixels {'':>22} {'median':>9} {'99 %':>9} {'mean':>9}")

    def row(name, values):
        print(
            f"{name:>48} {np.median(values):>9.2e} {np.quantile(values, 0.99):>9.2e} {values.mean():>9.2e}", flush=True
        )

    row("moving texture: mqc_jax against the truth", error(ours, MOTION)[inner])
    row("OpenCV against the truth", error(theirs, MOTION)[inner])
    row("mqc_jax against OpenCV", error(ours, theirs))
    for path in _VIDEO.value:
        frames = read(path, _FRAMES.value, _STRIDE.value)
        theirs = np.stack([opencv_pair(pair, config) for pair in itertools.pairwise(frames)])
        row(f"{Path(path).name} {frames.shape}", error(flow(frames, config), theirs))


if __name__ == "__main__":
    run(main)
