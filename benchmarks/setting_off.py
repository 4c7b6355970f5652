"""Does watching the other objects that a sentence may mean find what sets off late? The choices alone, no tracking.

    python benchmarks/setting_off.py --data_dir DATA [--data_dir MORE] [--split test] [--checkpoint RUN_OR_CHECKPOINT]

Every sentence whose target the first frame shows is searched as the tracker searches it, motion chooses as in the
tracker, and what else is listed is watched through the rest of the video (`rivals`). Printed are each change, whether
to the target or away from it, and how many sentences are right after the choice and at the end. What is followed is
taken to be followed without a fault. Made data to try it on:

    python -m mqc_jax.data.synthetic --output data/late --split test --sequences 40 --seed 905 --frames 60 \
        --rivals moving
"""

import platform
import time

import cv2
import jax
import numpy as np
from absl import flags
from boxes import SAME, iou

import mqc_jax
from mqc_jax import ground, moving, paths, tile_search
from mqc_jax.data.source import VideoSource, open_source
from mqc_jax.errors import UserError, run
from mqc_jax.ground import Ground, Shot
from mqc_jax.rivals import Rivals
from mqc_jax.tiling import main_part

_DATA_DIR = flags.DEFINE_multi_string("data_dir", None, "A dataset's folder, in Ref-YouTube-VOS layout.")
_SPLIT = flags.DEFINE_string("split", "test", "Its split.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Run or checkpoint; left out: the one that ships.")


def watched(model: mqc_jax.Model, source: VideoSource, index: int, expression) -> tuple[bool, bool, str, float]:
    """Whether a sentence's target is chosen, and whether it is followed at the end; what happened; seconds a frame."""
    config = model.config.tmcc
    target = main_part(expression.mask(source.labels(index, 0)))
    odds = moving.odds(expression.text, config.motion_odds)
    frames, stream = len(source.sequences[index].frame_names), Ground()
    shots = []
    for t in range(min(config.n_max + 1, frames)):
        frame = source.frame(index, t)
        shots.append(Shot(frame, stream.push(frame)))
    found = tile_search.candidates(model, shots[0].pixels, expression.text, model.config.tile, max(odds, 1 / odds))
    boxes = [one.box or one.window.box for one in found]
    meant = [iou(box, target) >= SAME for box in boxes]
    grey = [cv2.cvtColor(shot.pixels, cv2.COLOR_RGB2GRAY) for shot in shots]
    poses = ground.poses(grey)
    seen = paths.follow(grey, poses, boxes, config.windows(config.n_max))
    weights = [paths.weight(odds, path.moves > 0, path.stands) for path in seen]
    best = int(np.argmax([one.chance * weight for one, weight in zip(found, weights, strict=True)]))
    first, told = meant[best], f"{len(found)} listed, {sum(meant)} meant, {sum(p.moves > 0 for p in seen)} move"
    rivals = Rivals.after(found, seen, best, odds, config, shots, poses)
    spent, asked = 0.0, 0
    for t in range(len(shots), frames):
        if odds <= 1 or not rivals.open:
            break
        frame = source.frame(index, t)
        shot, before = Shot(frame, stream.push(frame)), rivals.followed
        middle = None
        if rivals.known[before].moves and meant[before]:
            box = main_part(expression.mask(source.labels(index, t)))
            middle = box and ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        start = time.perf_counter()
        rivals.push(shot, middle)
        spent, asked = spent + time.perf_counter() - start, asked + 1
        if rivals.followed != before:
            told += f"; {t}: from {'the target' if meant[before] else 'another'}"
            told += f" to {'the target' if meant[rivals.followed] else 'another'}"
    return first, meant[rivals.followed], told, spent / max(asked, 1)


def main(argv: list[str]) -> None:
    if not _DATA_DIR.value:
        raise UserError("--data_dir is missing; give the dataset's folder")
    print(f"{platform.machine()}, {jax.devices()[0].device_kind}, jax {jax.__version__}, OpenCV {cv2.__version__}")
    model, outcomes, costs = mqc_jax.load(_CHECKPOINT.value), [], []
    for folder in _DATA_DIR.value:
        source = open_source("ref_youtube_vos", folder, _SPLIT.value)
        for index, sequence in enumerate(source.sequences):
            labels = source.labels(index, 0)
            for expression in sequence.expressions:
                if main_part(expression.mask(labels)) is None:
                    continue
                first, last, told, cost = watched(model, source, index, expression)
                outcomes.append((first, last))
                costs += [cost] if cost else []
                print(f"{sequence.name}/{expression.id} {expression.text!r}: {told}", flush=True)
    first, last = np.array(outcomes).sum(0)
    print(f"{len(outcomes)} sentences: right after the choice {first}, at the end {last}")
    print(f"righted {sum(not a and b for a, b in outcomes)}, lost {sum(a and not b for a, b in outcomes)}")
    median, most = 1e3 * np.median(costs), 1e3 * max(costs)
    print(f"{len(costs)} sentences watched; ms a frame, median {median:.1f}, most {most:.0f}")


if __name__ == "__main__":
    run(main)
