"""Frames per second of the synthetic generator on one core, with and without writing files.

    python -m benchmarks.synthetic [--sequences 5] [--sizes 512x512,1080x2160]

For each size it plans, paints and renders sequences of the test split, then prints medians over the sequences.
"""

import os
import platform
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from absl import flags

from mqc_jax.data.synthetic import Renderer, plan_sequence
from mqc_jax.data.synthetic.card import VERSION
from mqc_jax.data.synthetic.layouts import write_image, write_palette_png, write_ref_youtube_vos
from mqc_jax.errors import run

_SEQUENCES = flags.DEFINE_integer("sequences", 6, "sequences per size", lower_bound=1)
_FRAMES = flags.DEFINE_integer("frames", 60, "frames per sequence", lower_bound=2)
_SIZES = flags.DEFINE_list("sizes", ["512x512", "1080x2160"], "HxW")


def _processor() -> str:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return names[0].partition(":")[2].strip() if names else platform.processor()


def measure(size: tuple[int, int], index: int, frames: int) -> dict[str, float]:
    """Seconds of `plan` and `paint`, and a frame: of `render`, of `write`, of `all` with planning and painting."""
    start = time.perf_counter()
    plan = plan_sequence(0, index, "test", size, frames)
    planned = time.perf_counter()
    renderer = Renderer(plan)
    painted = time.perf_counter()
    rendered = wrote = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for t in range(frames):
            t0 = time.perf_counter()
            frame, labels = renderer.frame(t)
            t1 = time.perf_counter()
            write_image(Path(folder) / f"{t}.jpg", frame)
            write_palette_png(Path(folder) / f"{t}.png", labels)
            rendered, wrote = rendered + t1 - t0, wrote + time.perf_counter() - t1
        t0 = time.perf_counter()
        write_ref_youtube_vos(plan_sequence(0, index, "test", size, frames), Path(folder) / "root")
        whole = time.perf_counter() - t0
    return {
        "plan": planned - start,
        "paint": painted - planned,
        "render": rendered / frames,
        "write": wrote / frames,
        "all": whole / frames,
    }


def main(argv: list[str]) -> None:
    del argv
    cv2.setNumThreads(1)
    print(f"{_processor()}, {os.cpu_count()} cores, one used; Python {platform.python_version()}, "
          f"numpy {np.__version__}, opencv {cv2.__version__}, generator {VERSION}")  # fmt: skip
    print(f"medians over {_SEQUENCES.value} sequences of {_FRAMES.value} frames")
    print("size (HxW)   plan s  paint s  render ms/frame  write ms/frame  frames/s with everything")
    for text in _SIZES.value:
        size = tuple(map(int, text.split("x")))
        rows = [measure(size, i, _FRAMES.value) for i in range(_SEQUENCES.value)]
        m = {k: float(np.median([row[k] for row in rows])) for k in rows[0]}
        speed = f"{1e3 * m['render']:16.1f} {1e3 * m['write']:15.1f} {1 / m['all']:25.1f}"
        print(f"{text:12s} {m['plan']:6.2f} {m['paint']:8.2f} {speed}")


if __name__ == "__main__":
    run(main)
