"""Training clips a second from JPEG frames on disk, by threads and by worker processes.

    python benchmarks/loader.py [--side 480] [--clip 8] [--batch 4] [--batches 8]

Frames are written to a temporary folder first: a smooth ground with fine noise, about 0.15 bytes a pixel, and a small
target in every annotation. The numbers are medians over batches after the first two.
"""

import itertools
import json
import os
import platform
import tempfile
import time
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
from absl import flags

from mqc_jax.data.batches import batches
from mqc_jax.data.clips import ClipDataset
from mqc_jax.data.source import open_source
from mqc_jax.errors import run

_SIDE = flags.DEFINE_integer("side", 480, "Side of the clips' frames in pixels.", lower_bound=32)
_CLIP = flags.DEFINE_integer("clip", 8, "Frames in a clip.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 4, "Clips in a batch.", lower_bound=1)
_BATCHES = flags.DEFINE_integer("batches", 8, "Batches that are timed.", lower_bound=1)

SIZES = ((512, 512), (1080, 1920))
WORKERS = ((0, 0), (1, 0), (2, 0), (4, 0), (1, 1), (1, 2))  # threads a process, processes beside this one
WARM = 2


def write_dataset(root: Path, size: tuple[int, int], sequences: int = 2, n_frames: int = 16) -> None:
    """A Ref-YouTube-VOS split with one moving target a sequence."""
    rng = np.random.default_rng(0)
    videos = {}
    for index in range(sequences):
        name = f"video{index}"
        images, annotations = root / "train/JPEGImages" / name, root / "train/Annotations" / name
        images.mkdir(parents=True)
        annotations.mkdir(parents=True)
        ground = cv2.resize(rng.integers(60, 180, (12, 16, 3)).astype(np.float32), size[::-1])
        for t in range(n_frames):
            frame = (ground + rng.normal(0, 4, (*size, 1))).clip(0, 255).astype(np.uint8)
            labels = np.zeros(size, np.uint8)
            labels[size[0] // 2 :, 20 + 4 * t :][:12, :20] = 1
            cv2.imwrite(str(images / f"{t:05d}.jpg"), frame)
            cv2.imwrite(str(annotations / f"{t:05d}.png"), labels)
        videos[name] = {"expressions": {"0": {"exp": "the moving target", "obj_id": "1"}}}
    listing = root / "meta_expressions/train/meta_expressions.json"
    listing.parent.mkdir(parents=True)
    listing.write_text(json.dumps({"videos": videos}))


def clips_per_second(dataset: ClipDataset, threads: int, processes: int) -> float:
    """The median over batches."""
    seconds = []
    stream = batches(dataset, _BATCH.value, num_threads=threads, num_workers=processes)
    last = time.perf_counter()
    for _ in itertools.islice(stream, WARM + _BATCHES.value):
        now = time.perf_counter()
        seconds.append(now - last)
        last = now
    stream.close()
    return _BATCH.value / float(np.median(seconds[WARM:]))


def main(_: list[str]) -> None:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("grain", "numpy", "opencv-python-headless"))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}")
    print(f"clips of {_CLIP.value} frames at {_SIDE.value}x{_SIDE.value}, batches of {_BATCH.value}")
    print(f"{'frames':>10} {'threads':>8} {'processes':>10} {'clips/s':>8} {'frames/s':>9}")
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            write_dataset(Path(folder), size)
            dataset = ClipDataset(open_source("ref_youtube_vos", folder, "train"), _SIDE.value, _CLIP.value)
            for threads, processes in WORKERS:
                speed = clips_per_second(dataset, threads, processes)
                name = f"{size[1]}x{size[0]}"
                print(f"{name:>10} {threads:>8} {processes:>10} {speed:>8.2f} {speed * _CLIP.value:>9.1f}", flush=True)


if __name__ == "__main__":
    run(main)
