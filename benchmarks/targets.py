"""What more targets cost: a tracked frame with one and with several, which share one encoding of the frame.

    python benchmarks/targets.py [--targets 8] [--rounds 6] [--shipped]

Hiera-L at 480 px with random parameters and SAM2's memory (the defaults of `ModelConfig`), started from masks; or, with
`--shipped`, the checkpoint of the package. The trackers take each frame in turn, so that all see the machine alike. The
last one computes its targets in one batch, as accelerators do.
"""

import platform
import resource
import time
from collections.abc import Callable

import jax
import numpy as np
from absl import flags

import mqc_jax
from mqc_jax import groups, imaging
from mqc_jax.checkpoint import Model
from mqc_jax.config import ModelConfig
from mqc_jax.errors import run
from mqc_jax.models import functional

_TARGETS = flags.DEFINE_integer("targets", 8, "How many targets are several.", lower_bound=2)
_ROUNDS = flags.DEFINE_integer("rounds", 6, "Frames that are timed, after two that compile.", lower_bound=1)
_SHIPPED = flags.DEFINE_bool("shipped", False, "The checkpoint of the package in place of Hiera-L.")
SIDE = 480


def load() -> Model:
    if _SHIPPED.value:
        return mqc_jax.load().replace(tile=0)
    config = ModelConfig()
    net = functional.build(config)
    return Model(config, functional.init(net), None, net, "benchmark")


def scene(t: int, targets: int) -> tuple[np.ndarray, np.ndarray]:
    """A frame of noise with bright squares that move to the right, and their masks."""
    frame = np.random.default_rng(t).integers(60, 110, (SIDE, SIDE, 3)).astype(np.uint8)
    masks = np.zeros((targets, SIDE, SIDE), bool)
    for n, mask in enumerate(masks):
        top = (2 * n + 1) * SIDE // (2 * targets)
        mask[top - 10 : top + 10, 40 + 3 * t : 60 + 3 * t] = True
        frame[mask] = 200 + 5 * n
    return frame, masks


def tracker(model: Model, targets: int, together: int | None = None) -> mqc_jax.Tracker:
    """A tracker after its first frame; `together`: targets in one batch, None: as the platform has it."""
    frame, masks = scene(0, _TARGETS.value)
    usual = dict(groups.LARGEST)
    if together is not None:
        groups.LARGEST[jax.default_backend()] = together
    session = mqc_jax.Tracker(model, masks=masks[:targets])
    session.push(frame)
    groups.LARGEST.clear()
    groups.LARGEST.update(usual)
    return session


def timed(call: Callable, *arguments: object) -> float:
    started = time.perf_counter()
    jax.block_until_ready(call(*arguments))
    return time.perf_counter() - started


def main(argv: list[str]) -> None:
    model, several = load(), _TARGETS.value
    trackers = {
        "1 target": tracker(model, 1),
        f"{several} targets": tracker(model, several),
        f"{several} targets in one batch": tracker(model, several, several),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ["the image encoder alone", *trackers]}
    for t in range(1, 2 + _ROUNDS.value):
        frame, _ = scene(t, several)
        image = imaging.resize(frame, model.config.image_size)
        seconds["the image encoder alone"].append(timed(groups.encode, model.net, model.params, image))
        for name, session in trackers.items():
            seconds[name].append(timed(session.push, frame))
    device = jax.devices()[0].device_kind
    print(f"{platform.machine()}, {device}, jax {jax.__version__}; {model.path} at {model.config.image_size} px")
    print(f"{'':>28} {'median':>8} {'ratio':>6} {'fastest':>9} {'ratio':>6}")
    rows = {name: (float(np.median(times[1:])), min(times[1:])) for name, times in seconds.items()}
    typical, fastest = rows["1 target"]
    for name, (middle, least) in rows.items():
        print(f"{name:>28} {middle:>6.2f} s {middle / typical:>5.2f}x {least:>7.2f} s {least / fastest:>5.2f}x")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")


if __name__ == "__main__":
    run(main)
