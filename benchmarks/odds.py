"""How many times likelier is what moves to be meant? `tmcc.motion_odds`, from sentences and what they may mean.

    python benchmarks/odds.py --data_dir DATA [--data_dir MORE] [--split test] [--checkpoint RUN_OR_CHECKPOINT]

Every sentence whose target the first frame shows is searched as the tracker searches it, and all that it may mean is
followed through eq. 7's longest window. For each of some odds: the mean log-likelihood of the target among what was
listed, and the share of sentences whose target comes first; sentences whose target is not listed count in the latter.
Sentences that name the most of something ("the leftmost car") have a table of their own; of these the tracker lets
motion settle nothing (`moving.odds`), and the table shows what it would.
"""

import platform
from typing import NamedTuple

import cv2
import jax
import numpy as np
from absl import flags
from boxes import SAME, iou

import mqc_jax
from mqc_jax import ground, moving, paths, tile_search
from mqc_jax.data.source import open_source
from mqc_jax.errors import UserError, run
from mqc_jax.tiling import main_part

_DATA_DIR = flags.DEFINE_multi_string("data_dir", None, "A dataset's folder, in Ref-YouTube-VOS layout.")
_SPLIT = flags.DEFINE_string("split", "test", "Its split.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Run or checkpoint; left out: the one that ships.")

ODDS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 64)


class Listed(NamedTuple):
    """What a sentence may mean: each one's chance, whether it moves or stands, and the target; -1: it is not listed.

    Attributes:
      extreme: the sentence names the most of something.
    """

    extreme: bool
    chances: np.ndarray
    moves: np.ndarray
    stands: np.ndarray
    target: int


def listed(model: mqc_jax.Model, grey: list[np.ndarray], frame: np.ndarray, text: str, target: paths.Box) -> Listed:
    tile, config = model.config.tile, model.config.tmcc
    found = tile_search.candidates(model, frame, text, tile, ratio=max(ODDS))
    boxes = [one.box or one.window.box for one in found]
    seen = paths.follow(grey, ground.poses(grey), boxes, config.windows(config.n_max))
    same = [iou(box, target) for box in boxes]
    best = int(np.argmax(same))
    moves = np.array([path.moves > 0 for path in seen])
    stands = np.array([path.stands for path in seen])
    chances = np.array([one.chance for one in found])
    return Listed(moving.odds(text, 2.0) == 1, chances, moves, stands, best if same[best] >= SAME else -1)


def sentences(model: mqc_jax.Model, folder: str) -> list[Listed]:
    source, found = open_source("ref_youtube_vos", folder, _SPLIT.value), []
    for index, sequence in enumerate(source.sequences):
        labels, most = source.labels(index, 0), model.config.tmcc.n_max + 1
        held = [source.frame(index, t) for t in range(min(most, len(sequence.frame_names)))]
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in held]
        for expression in sequence.expressions:
            box = main_part(expression.mask(labels))
            if box is not None:
                one = listed(model, grey, held[0], expression.text, box)
                about = f"{sequence.name} {expression.text!r}: {len(one.chances)} listed, {one.moves.sum()} move"
                there = one.target >= 0
                print(f"{about}; the target is {one.target if there else 'not listed'}", end="")
                print(" and moves" if there and one.moves[one.target] else "", flush=True)
                found.append(one)
    return found


def report(found: list[Listed], name: str) -> None:
    there = [one for one in found if one.target >= 0]
    if not there:
        print(f"{len(found)} {name}, none of which lists its target")
        return
    several = [one for one in there if len(one.chances) > 1]
    shares = {}
    for what in ("moves", "stands"):
        of_target = np.mean([getattr(one, what)[one.target] for one in there])
        of_others = np.concatenate([np.delete(getattr(one, what), one.target) for one in there])
        others = f"{of_others.mean():.3f} of {len(of_others)}" if len(of_others) else "none of no"
        shares[what] = f"{of_target:.3f} of the targets, {others} other things"
    print(f"{len(found)} {name}, {len(there)} of which list their target, {len(several)} and something else")
    print(f"seen to move: {shares['moves']}; to stand: {shares['stands']}")
    print("| odds | log-likelihood | target first |")
    print("|---|---|---|")
    for odds in ODDS:
        likely, first = [], 0
        for one in there:
            seen = zip(one.moves, one.stands, strict=True)
            chances = one.chances * [paths.weight(odds, moves, stands) for moves, stands in seen]
            likely.append(np.log(chances[one.target] / chances.sum()))
            first += int(np.argmax(chances)) == one.target
        print(f"| {odds} | {np.mean(likely):.4f} | {first / len(found):.3f} |")


def main(argv: list[str]) -> None:
    if not _DATA_DIR.value:
        raise UserError("--data_dir is missing; give the dataset's folder")
    print(f"{platform.machine()}, {jax.devices()[0].device_kind}, jax {jax.__version__}, OpenCV {cv2.__version__}")
    model = mqc_jax.load(_CHECKPOINT.value)
    found = [one for folder in _DATA_DIR.value for one in sentences(model, folder)]
    for extreme, name in ((False, "sentences"), (True, "sentences that name the most of something")):
        report([one for one in found if one.extreme == extreme], name)


if __name__ == "__main__":
    run(main)
