"""How fast the benchmark is built from SAT-MTB's layout, and what memory a worker takes.

    python benchmarks/bench.py [--sequences 4] [--frames 24] [--size 1080,2160]

Synthetic sequences are written in the raw layout first, then built with one worker and with one a core, each into a
folder of its own. A build decodes every frame twice (scoring, writing) and encodes it once as JPEG.
"""

import os
import platform
import resource
import tempfile
import time
from importlib import metadata
from pathlib import Path

from absl import flags

from mqc_jax.data.build_bench import Options, build
from mqc_jax.data.synthetic.write import write_split
from mqc_jax.errors import run

_SEQUENCES = flags.DEFINE_integer("sequences", 4, "Sequences.", lower_bound=1)
_FRAMES = flags.DEFINE_integer("frames", 24, "Frames in each.", lower_bound=2)
_SIZE = flags.DEFINE_list("size", ["1080", "2160"], "Height and width of a frame.")
_ROUNDS = 3


def main(_: list[str]) -> None:
    cores = len(os.sched_getaffinity(0))
    height, width = (int(side) for side in _SIZE.value)
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("numpy", "opencv-python-headless"))
    print(f"{platform.machine()}, {cores} cores, Python {platform.python_version()}, {versions}")
    frames = _SEQUENCES.value * _FRAMES.value
    print(f"{_SEQUENCES.value} sequences of {_FRAMES.value} frames, {width}x{height}")
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw"
        write_split(raw, _SEQUENCES.value, layout="sat_mtb", size=(height, width), frames=_FRAMES.value)
        seconds: dict[int, list[float]] = {1: [], cores: []}
        for k in range(_ROUNDS):
            for workers, taken in seconds.items():
                started = time.perf_counter()
                build(raw, Path(folder) / f"out{k}-{workers}", Options(), workers, progress=False)
                taken.append(time.perf_counter() - started)
    for workers, taken in seconds.items():
        print(f"{workers} workers: {frames / sorted(taken)[len(taken) // 2]:.1f} frames/s")
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
    print(f"largest process: {peak:.0f} MB, the libraries included")


if __name__ == "__main__":
    run(main)
