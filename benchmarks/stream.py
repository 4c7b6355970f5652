"""Whether a stream's cost depends on how long it has run: milliseconds a frame and resident memory, along the way.

    python benchmarks/stream.py [--frames 2000] [--memory dami] [--checkpoint DIR]

Frames are a bright patch that wanders over noise, made anew each time, so nothing is kept but the tracker's own state.
"""

import platform
import resource
import time
from pathlib import Path

import jax
import numpy as np
from absl import flags

import mqc_jax
from mqc_jax.config import MEMORIES
from mqc_jax.errors import run

_FRAMES = flags.DEFINE_integer("frames", 2000, "Frames to track.", lower_bound=200)
_MEMORY = flags.DEFINE_enum("memory", None, MEMORIES, "Overrides the checkpoint's memory.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Left out: the one that ships.")
PARTS = 8


def frame(t: int, side: int = 256) -> np.ndarray:
    """uint8 RGB [side, side, 3]; the patch is hidden in every fifth hundred of frames."""
    picture = np.random.default_rng(t % 7).integers(60, 110, (side, side, 3)).astype(np.uint8)
    if t // 100 % 5 != 4:
        y, x = (int(side * (0.45 + 0.35 * f(t / 60))) for f in (np.sin, np.cos))
        picture[y : y + 14, x : x + 24] = 220
    return picture


def resident() -> float:
    """Resident megabytes now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def main(argv: list[str]) -> None:
    model = mqc_jax.load(_CHECKPOINT.value).replace(tile=0)
    if _MEMORY.value:
        model = model.replace(memory=_MEMORY.value)
    tracker = mqc_jax.Tracker(model, texts=["the yacht at the right"])
    print(f"{platform.machine()}, jax {jax.__version__}, {jax.devices()[0].device_kind}; memory {model.config.memory}")
    for t in range(20):  # compilation
        tracker.push(frame(t))
    part = (_FRAMES.value - 20) // PARTS
    print(f"{'frames':>14} {'median ms':>10} {'p10 ms':>8} {'RSS MB':>8} {'state kB':>9}")
    rows = []
    for k in range(PARTS):
        times = []
        for t in range(20 + k * part, 20 + (k + 1) * part):
            picture = frame(t)
            started = time.perf_counter()
            tracker.push(picture)
            times.append(time.perf_counter() - started)
        state = sum(x.nbytes for x in jax.tree.leaves([group.bank for group in tracker._groups])) / 1e3
        rows.append((np.median(times) * 1e3, np.percentile(times, 10) * 1e3, resident()))
        typical, fast, megabytes = rows[-1]
        where = f"{20 + k * part:>6} to {20 + (k + 1) * part:<5}"
        print(f"{where} {typical:>10.1f} {fast:>8.1f} {megabytes:>8.1f} {state:>9.0f}", flush=True)
    for name, values in zip(("median time", "fastest tenth", "resident memory"), np.array(rows).T, strict=True):
        print(f"{name}: last part / first {values[-1] / values[0]:.3f}, any part against the first {_range(values)}")


def _range(values: np.ndarray) -> str:
    """The smallest and the largest change from the first value, in per cent."""
    change = 100 * (values / values[0] - 1)
    return f"{change.min():+.1f} to {change.max():+.1f} %"


if __name__ == "__main__":
    run(main)
