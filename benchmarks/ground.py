"""What it costs to know the ground: its registration, and to ask what stood there, beside a tracked frame.

    python benchmarks/ground.py [--sizes 720x1280,1080x2160,3000x4000] [--rounds 12]

The checkpoint that ships follows one target in a window; frames are synthetic. The ground is registered once a frame
for all targets, and each target whose mask has pixels is asked once whether that stood there. All take each frame in
turn. A tracked frame has both in it.
"""

import platform
import time

import cv2
import jax
import numpy as np
from absl import flags

import mqc_jax
from mqc_jax.data.synthetic.planning import plan_sequence
from mqc_jax.data.synthetic.render import Renderer
from mqc_jax.data.synthetic.write import parse_size
from mqc_jax.errors import run
from mqc_jax.ground import Ground
from mqc_jax.standing import Standing

_SIZES = flags.DEFINE_list("sizes", ["720x1280", "1080x2160", "3000x4000"], "Frames, height x width.")
_ROUNDS = flags.DEFINE_integer("rounds", 12, "Frames that are timed, after two that compile.", lower_bound=1)
_BOX = 30  # pixels; side of what has the mask


def timed(seconds: list[float], call, *arguments):
    started = time.perf_counter()
    result = call(*arguments)
    seconds.append(time.perf_counter() - started)
    return result


def main(argv: list[str]) -> None:
    model = mqc_jax.load()
    device = jax.devices()[0].device_kind
    print(f"{platform.machine()}, {device}, jax {jax.__version__}, OpenCV {cv2.__version__}; {model.path}")
    print(f"{'':>12} {'tracked frame':>14} {'ground':>10} {'share':>6} {'stood':>10}")
    for text in _SIZES.value:
        size = parse_size(text)
        count = 2 + _ROUNDS.value
        plan = plan_sequence(1, 0, "train", size, max(count, 24))
        renderer = Renderer(plan)
        shown = [renderer.frame(t) for t in range(count)]
        frames, labels = [image for image, _ in shown], shown[0][1]
        mask = labels == plan.targets[0]
        tracker = mqc_jax.Tracker(model, masks=mask[None])
        ground, standing = Ground(), Standing()
        tracked, registered, asked = [], [], []
        for t, frame in enumerate(frames):
            timed(tracked, tracker.push, frame)
            pose = timed(registered, ground.push, frame)
            standing.see(6 * t, frame, pose, (size[1] / 2, size[0] / 2), _BOX, 3 * _BOX)
            x, y = size[1] // 2 + 100, size[0] // 2
            timed(asked, standing.stood, frame, pose, (x, y, x + _BOX, y + _BOX))
        whole, part, each = (1000 * float(np.median(times[2:])) for times in (tracked, registered, asked))
        print(f"{text:>12} {whole:>11.1f} ms {part:>7.1f} ms {part / whole:>6.2f} {each:>7.2f} ms")


if __name__ == "__main__":
    run(main)
