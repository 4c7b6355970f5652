"""Very large frames: plain resize and `--tile` on synthetic sequences of 4,000 x 3,000 pixels.

    python benchmarks/tiles.py [--sequences 16] [--frames 12] [--picture docs/images/tiles.jpg]

The scenes are `mqc_jax.data.synthetic`'s at that size, without the difficulties that the shipped checkpoint was not
trained on; a target keeps the pixels that it has in a small frame. Each is followed from its sentence, once in the
whole frame shrunk to the model's size and once in tiles, and from its true first mask in both ways, which tells losing
from not finding. Last comes what moving the window costs: the same targets from true masks in windows that stand
still, or jump by a share of their side, or are centred on the target in every frame.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from absl import flags

import mqc_jax
from mqc_jax import viz
from mqc_jax.checkpoint import Model
from mqc_jax.data.synthetic import Renderer, plan_sequence
from mqc_jax.errors import run
from mqc_jax.tiled import with_tile
from mqc_jax.tiling import Window, around

_SEQUENCES = flags.DEFINE_integer("sequences", 16, "Sequences, one target each.", lower_bound=1)
_FRAMES = flags.DEFINE_integer("frames", 12, "Frames in each.", lower_bound=2)
_SEED = flags.DEFINE_integer("seed", 7, "Of the sequences.")
_SPLIT = flags.DEFINE_string("split", "test", "Kind of scenes.")
_SIZE = flags.DEFINE_list("size", ["3000", "4000"], "Height and width of a frame.")
_TILE = flags.DEFINE_integer("tile", 0, "As predict's.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Left out: the one that ships.")
_PICTURE = flags.DEFINE_string("picture", None, "JPEG to draw the last frame of the sequence that gained most to.")

EASY = ("late_start", "leaves_frame", "occlusion", "look_alikes", "moving_distractors", "weak_saliency", "jitter")
FOUND = 0.1  # J of the first frame from which on the target counts as found: no other object reaches it


@dataclass
class Scores:
    """One way's results: J of every frame, a list a sequence; seconds of first and later frames."""

    j: list[list[float]] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    later: list[float] = field(default_factory=list)

    def line(self) -> str:
        n = len(self.j)
        found = sum(j[0] >= FOUND for j in self.j)
        kept = sum(j[0] >= FOUND and j[-1] >= FOUND for j in self.j)
        everything = [x for j in self.j for x in j]
        followed = [x for j in self.j if j[0] >= FOUND for x in j]
        return (
            f"found {found}/{n}, still there in the last frame {kept}/{n}, J {np.mean(everything):.3f}, "
            f"of those found {np.mean(followed) if followed else 0:.3f}, frames with J >= 0.5 "
            f"{np.mean(np.array(everything) >= 0.5):.2f}; {np.median(self.first):.2f} s on frame 0, "
            f"{np.median(self.later):.3f} s a later frame"
        )


def similarity(mask: np.ndarray, truth: np.ndarray) -> float:
    """J of two masks, NaN-free: an empty pair agrees."""
    union = np.count_nonzero(mask | truth)
    return np.count_nonzero(mask & truth) / union if union else 1.0


def follow(tracker, frames: list[np.ndarray], truths: list[np.ndarray], scores: Scores) -> list:
    """Runs a tracker over a sequence and adds its scores."""
    results, seconds = [], []
    for frame in frames:
        started = time.perf_counter()
        results += tracker.push(frame)
        seconds.append(time.perf_counter() - started)
    results += tracker.finish()
    scores.j.append([similarity(result.masks[0], truth) for result, truth in zip(results, truths, strict=True)])
    scores.first.append(seconds[0])
    scores.later += seconds[1:]
    return results


def middle(truth: np.ndarray) -> tuple[float, float]:
    """The centre of a mask's box."""
    x0, y0, x1, y1 = viz.bounding_box(truth)
    return (x0 + x1) / 2, (y0 + y1) / 2


def moved(share: float) -> Callable[[list[np.ndarray], int], Iterator[Window]]:
    """Windows that stay for three frames, then jump by a share of their side, alternately there and back."""

    def windows(truths: list[np.ndarray], side: int) -> Iterator[Window]:
        x, y = middle(truths[0])
        for t in range(len(truths)):
            yield around(x + share * side * (t // 3 % 2), y, side, truths[0].shape)

    return windows


def centred(truths: list[np.ndarray], side: int) -> Iterator[Window]:
    """Windows with the target in their middle in every frame."""
    for truth in truths:
        yield around(*middle(truth), side, truth.shape)


MOVES = {
    "stands still": moved(0),
    "jumps by 1/8": moved(1 / 8),
    "jumps by 1/4": moved(1 / 4),
    "jumps by 1/4, whole strides off": moved(1 / 4 + 5 / 256),
    "centred in every frame": centred,
}


def follow_in(model: Model, frames: list[np.ndarray], truths: list[np.ndarray], windows: Iterator[Window]) -> float:
    """Mean J after frame 0 from the true mask, where the target is seen through given windows."""
    tracker, scores = None, []
    for frame, truth, window in zip(frames, truths, windows, strict=True):
        tracker = tracker or mqc_jax.Tracker(model, masks=window.cut(truth)[None])
        (result,) = tracker.push(window.cut(frame))
        mask = np.zeros_like(truth)
        window.cut(mask)[:] = result.masks[0]
        scores.append(similarity(mask, truth))
    return float(np.mean(scores[1:]))


def picture(frame: np.ndarray, masks: np.ndarray, window: Window, plain: np.ndarray, j: tuple[float, float]):
    """The whole frame with the window, the window, and what the model sees there without tiles; uint8 RGB."""
    height = 900
    scale = height / frame.shape[0]
    whole = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    x0, y0, x1, y1 = (round(v * scale) for v in window.box)
    cv2.rectangle(whole, (x0, y0), (x1, y1), (255, 255, 255), 3)
    side = height // 2 - 5
    zoomed = [
        cv2.resize(viz.overlay(window.cut(frame).copy(), window.cut(masks[0])[None]), (side, side)),
        cv2.resize(window.cut(plain), (side, side), interpolation=cv2.INTER_NEAREST),
    ]
    captions = (f"the window, with the mask: J {j[0]:.2f}", f"what a plain resize leaves of it: J {j[1]:.2f}")
    for part, caption in zip(zoomed, captions, strict=True):
        viz.write(part, caption, 12, 32, 22, halo=True)
    gap = np.full((height, 10, 3), 255, np.uint8)
    right = np.concatenate([zoomed[0], np.full((10, side, 3), 255, np.uint8), zoomed[1]])
    viz.write(whole, f"{frame.shape[1]} x {frame.shape[0]} pixels", 12, 38, 26, halo=True)
    return np.concatenate([whole, gap, right], axis=1)


def main(_: list[str]) -> None:
    model = mqc_jax.load(_CHECKPOINT.value)
    size = tuple(int(side) for side in _SIZE.value)
    shrunk, tiled = model.replace(tile=0), with_tile(model, _TILE.value)
    side = tiled.config.tile
    ways = {
        "plain resize, sentence": lambda text, mask: mqc_jax.Tracker(shrunk, texts=[text]),
        "tiles, sentence": lambda text, mask: mqc_jax.Tracker(tiled, texts=[text]),
        "plain resize, true mask": lambda text, mask: mqc_jax.Tracker(shrunk, masks=mask[None]),
        "tiles, true mask": lambda text, mask: mqc_jax.Tracker(tiled, masks=mask[None]),
    }
    scores = {name: Scores() for name in ways}
    moves = {name: [] for name in MOVES}
    changes, gain = 0, -1.0
    # Compiled before anything is timed.
    small = np.zeros((2 * side, 2 * side, 3), np.uint8)
    for make in ways.values():
        tracker = make("the yacht", np.ones(small.shape[:2], bool))
        for _ in range(2):
            tracker.push(small)
    for index in range(_SEQUENCES.value):
        plan = plan_sequence(_SEED.value, index, _SPLIT.value, size=size, frames=_FRAMES.value, disable=EASY)
        renderer, phrase = Renderer(plan), plan.phrases[0]
        frames, labels = zip(*(renderer.frame(t) for t in range(plan.frames)), strict=True)
        truths = [label == phrase.object_id for label in labels]
        del labels, renderer
        results = {}
        for name, make in ways.items():
            results[name] = follow(make(phrase.text, truths[0]), frames, truths, scores[name])
            if not (name == "tiles, sentence" and _PICTURE.value):
                results[name] = [result.memory for result in results[name]]
        views = [memory["view"][0] for memory in results["tiles, true mask"]]
        changes += sum(any(a != b) for a, b in itertools.pairwise(views))
        x0, y0, x1, y1 = viz.bounding_box(truths[0])
        own = [scores[name].j[-1] for name in ways]
        print(
            f"{index:3d} {phrase.text!r}: {max(x1 - x0, y1 - y0)} pixels long, {np.count_nonzero(truths[0])} in all; "
            + ", ".join(f"{name} {j[0]:.2f} -> {j[-1]:.2f}" for name, j in zip(ways, own, strict=True)),
            flush=True,
        )
        if 2 * max(x1 - x0, y1 - y0) <= side:
            for name, windows in MOVES.items():
                moves[name].append(follow_in(model, frames, truths, windows(truths, side)))
        better = np.mean(own[1]) - np.mean(own[0])
        if _PICTURE.value and better > gain:
            gain = better
            result = results["tiles, sentence"][-1]
            shrunk = cv2.resize(frames[-1], (model.config.image_size,) * 2, interpolation=cv2.INTER_AREA)
            plain = cv2.resize(shrunk, size[::-1], interpolation=cv2.INTER_NEAREST)
            x, y, right, bottom = map(int, result.memory["view"][0])
            drawn = picture(
                frames[-1], result.masks, Window(x, y, right - x, bottom - y), plain, (own[1][-1], own[0][-1])
            )
            Path(_PICTURE.value).write_bytes(
                cv2.imencode(".jpg", drawn[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
            )
    print(f"\n{_SEQUENCES.value} sequences of {_FRAMES.value} frames, {size[1]}x{size[0]}, tile {side}:")
    for name, own in scores.items():
        print(f"{name:<26} {own.line()}")
    print(f"windows moved {changes} times in {_SEQUENCES.value * (_FRAMES.value - 1)} frames")
    for name, own in moves.items():
        if own:
            print(f"window {name:<34} J after frame 0: {np.mean(own):.3f} ({len(own)} targets)")


if __name__ == "__main__":
    run(main)
