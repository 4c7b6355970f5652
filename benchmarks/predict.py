"""What predict costs beside the model: reading, drawing, encoding and writing masks, in milliseconds a frame.

    python benchmarks/predict.py [--frames 60] [--targets 1]

Frames are noise moving over a gradient, a hard case for the encoder; the target covers 0.1 % of the frame.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
from absl import flags

from mqc_jax import viz
from mqc_jax.errors import run
from mqc_jax.predict import write_mask
from mqc_jax.video import VideoWriter, open_video

_FRAMES = flags.DEFINE_integer("frames", 60, "Frames of each size.", lower_bound=1)
_TARGETS = flags.DEFINE_integer("targets", 1, "Targets in every frame.", lower_bound=1)

SIZES = ((240, 360), (512, 512), (600, 800), (1080, 2160))


def frames_of(size: tuple[int, int], count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    height, width = size
    ground = np.linspace(60, 160, width + count)[None, :, None] + rng.normal(0, 12, (height, width + count, 3))
    ground = ground.clip(0, 255).astype(np.uint8)
    return [np.ascontiguousarray(ground[:, t : t + width]) for t in range(count)]


def masks_of(size: tuple[int, int], targets: int, t: int) -> np.ndarray:
    height, width = size
    side = max(2, round((0.001 * height * width) ** 0.5))
    masks = np.zeros((targets, height, width), bool)
    for i in range(targets):
        top = (height * (i + 1)) // (targets + 1)
        masks[i, top : top + side, 10 + t : 10 + t + side] = True
    return masks


def measure(size: tuple[int, int], count: int, targets: int, folder: Path) -> dict[str, float]:
    """Milliseconds a frame of each stage."""
    frames = frames_of(size, count)
    stages = {}

    def timed(name, work):
        started = time.perf_counter()
        result = work()
        stages[name] = (time.perf_counter() - started) * 1000 / count
        return result

    def encode(pictures, path):
        with VideoWriter(path, 10) as writer:
            for picture in pictures:
                writer.write(picture)

    encode(frames, folder / "in.mp4")
    timed("read", lambda: sum(1 for _ in open_video(folder / "in.mp4")))
    masks = [masks_of(size, targets, t) for t in range(count)]
    painter = viz.Painter(size, ["the yacht at the bottom-right"] * targets)
    pairs = list(zip(frames, masks, strict=True))
    presence = [0.9] * targets
    drawn = timed("draw", lambda: [painter.paint(f, m, presence, t) for t, (f, m) in enumerate(pairs)])
    timed("encode", lambda: encode(drawn, folder / "out.mp4"))
    timed("masks", lambda: [write_mask(folder / f"{i}.png", mask) for m in masks for i, mask in enumerate(m)])
    return stages


def main(argv: list[str]) -> None:
    stages = ("read", "draw", "encode", "masks")
    print(f"{'size':>10} " + " ".join(f"{stage:>7}" for stage in stages) + f"   ms a frame, {_TARGETS.value} target(s)")
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            spent = measure(size, _FRAMES.value, _TARGETS.value, Path(folder))
        print(f"{size[1]:>5}x{size[0]:<4} " + " ".join(f"{spent[stage]:7.2f}" for stage in stages))


if __name__ == "__main__":
    run(main)
