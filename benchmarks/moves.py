"""Is the ground known, and is what stands told from what moves? Against the truth of synthetic sequences.

    python benchmarks/moves.py [--seed 905] [--sequences 40] [--scenes harbour] [--frames 33] [--noise 1.5]

For each sequence, in pixels of the frame, the worst of nine places: how far off `ground.Ground` is over 12 frames, from
the stream's first frame and later, and `ground.poses` of the first frames; and of all objects that lie whole in the
first frame, how many of those that stand (less than 1.5 pixels over the ground in 12 displacements) and of those that
move (more than 4) `paths.follow` calls moving, with the poses of `ground.poses` and with true ones; and, with the
former, how many spots of harbours that are no object: the brightest, mostly waves' crests, and some drawn at random.
In brackets: what would be called so if neither chance nor what is around were asked, and with the true poses.

    python benchmarks/moves.py --seed 905 --picture docs/images/ground.jpg --index 12

draws the corners of one sequence's first frame instead, one and twelve frames later, by how alike they still are.
"""

import platform
from importlib import metadata

import cv2
import numpy as np
from absl import flags

from mqc_jax import CalibrationConfig, ground, paths, viz
from mqc_jax.data.synthetic.planning import SCENES, SequencePlan, plan_sequence, scene_of
from mqc_jax.data.synthetic.render import Renderer
from mqc_jax.errors import run

_SEED = flags.DEFINE_integer("seed", 905, "The sequences' seed.")
_SEQUENCES = flags.DEFINE_integer("sequences", 40, "How many are drawn.", lower_bound=1)
_SCENES = flags.DEFINE_list("scenes", list(SCENES), "Those of them that are looked at, as the generator's.")
_FRAMES = flags.DEFINE_integer("frames", 33, "Frames of each.", lower_bound=21)
_NOISE = flags.DEFINE_float("noise", 1.0, "Factor on their sensor noise.")
_PICTURE = flags.DEFINE_string("picture", None, "JPEG to draw the corners of one sequence to.")
_INDEX = flags.DEFINE_integer("index", 12, "That sequence.")
_SPAN = 12  # frames, over which the ground's error is taken
_ALIKE = 0.9  # correlation from which a corner is as it was
_STANDS, _MOVES = 1.5, 4.0  # pixels over the ground meanwhile
_LEAST, _WHOLE = 20, 0.9  # pixels of an object, and the share of them that must still be seen
_SPOTS, _BRIGHT, _RANDOM = 30, 9, 5  # spots of either kind in a frame, and pixels of their sides


def error(found: np.ndarray, true: np.ndarray, size: tuple[int, int]) -> float:
    """How far two motions are apart, in pixels, at the worst of nine places of the frame."""
    height, width = size
    places = np.array([(x * width, y * height, 1.0) for x in (0.1, 0.5, 0.9) for y in (0.1, 0.5, 0.9)])
    return float(np.hypot(*((found - true) @ places.T)[:2]).max())


def objects(plan: SequencePlan, labels: list[np.ndarray], poses: list[np.ndarray]) -> list[tuple[paths.Box, bool]]:
    """The boxes of the first frame's objects, and whether each moves."""
    found = []
    way = poses[_SPAN] @ np.linalg.inv(poses[0])
    for k in np.unique(labels[0][labels[0] > 0]):
        (y, x), later = np.nonzero(labels[0] == k), np.nonzero(labels[_SPAN] == k)
        box = (x.min(), y.min(), x.max() + 1, y.max() + 1)
        whole = min(box[:2]) > 0 and box[2] < plan.size[1] and box[3] < plan.size[0] and len(x) >= _LEAST
        if whole and len(later[0]) >= _WHOLE * len(x):
            off = np.hypot(*((later[1].mean(), later[0].mean()) - (way @ (x.mean(), y.mean(), 1.0))[:2]))
            if off < _STANDS or off > _MOVES:
                found.append((tuple(int(edge) for edge in box), bool(off > _MOVES)))
    return found


def spots(grey: np.ndarray, labels: np.ndarray, seed: int) -> tuple[list[paths.Box], list[paths.Box]]:
    """Boxes around spots of a frame that are no object and not beside one: the brightest, and some drawn at random."""
    near = cv2.dilate((labels > 0).astype(np.uint8), np.ones((25, 25), np.uint8)) > 0
    for edge in (near[:_BRIGHT], near[-_BRIGHT:], near[:, :_BRIGHT], near[:, -_BRIGHT:]):
        edge[:] = True
    bright = cv2.blur(grey.astype(np.float32), (3, 3)) - cv2.blur(grey.astype(np.float32), (25, 25))
    bright[near] = -np.inf
    brightest = []
    while len(brightest) < _SPOTS and bright.max() > 0:
        y, x = np.unravel_index(int(np.argmax(bright)), bright.shape)
        brightest.append((y, x))
        bright[y - _BRIGHT : y + _BRIGHT, x - _BRIGHT : x + _BRIGHT] = -np.inf
    drawn = np.random.default_rng(seed).permutation(np.argwhere(~near))[:_SPOTS]

    def boxes(middles, side):
        return [
            (int(x) - side // 2, int(y) - side // 2, int(x) + side // 2 + 1, int(y) + side // 2 + 1) for y, x in middles
        ]

    return boxes(brightest, _BRIGHT), boxes(drawn, _RANDOM)


def moving(
    grey: list[np.ndarray], poses: list[np.ndarray], boxes: list[paths.Box], plainly: bool = False
) -> np.ndarray:
    """Which things `paths.follow` calls moving, bool [n]."""
    windows, usual = CalibrationConfig().windows(CalibrationConfig.n_max), (paths._SURE, paths._COMMON)
    if plainly:
        paths._SURE, paths._COMMON = -2.0, 1.0
    try:
        return np.array([path.moves > 0 for path in paths.follow(grey, poses, boxes, windows)], bool)
    finally:
        paths._SURE, paths._COMMON = usual


def picture(index: int) -> np.ndarray:
    """The corners of a sequence's first frame, after one frame and after `_SPAN`, uint8 RGB."""
    plan = plan_sequence(seed=_SEED.value, index=index, split="test")
    renderer, stream, panels = Renderer(plan), ground.Ground(), []
    for t in range(_SPAN + 1):
        frame = renderer.frame(t)[0]
        stream.push(frame)
        if t in (1, _SPAN):
            marks, scale = stream.marks[0], frame.shape[1] / stream.grey.shape[1]
            alike = ground.likeness(marks, stream.grey, np.eye(3))
            panel = frame.copy()
            for (x, y), value in zip(marks.now * scale, alike, strict=True):
                tint = cv2.applyColorMap(np.full((1, 1), 255 * value**3, np.uint8), cv2.COLORMAP_VIRIDIS)[0, 0, ::-1]
                cv2.circle(panel, (round(float(x)), round(float(y))), 5, (0, 0, 0), -1, cv2.LINE_AA)
                cv2.circle(panel, (round(float(x)), round(float(y))), 4, [int(v) for v in tint], -1, cv2.LINE_AA)
            said = f"{t} frames later" if t > 1 else "one frame later"
            viz.write(panel, f"{said}: {(alike > _ALIKE).sum()} of {len(alike)} as they were", 12, 32, 22, halo=True)
            panels.append(panel)
    return np.concatenate([panels[0], np.full((len(panels[0]), 10, 3), 255, np.uint8), panels[1]], axis=1)


def counted(grey: list[np.ndarray], known: list[np.ndarray], true: list[np.ndarray], boxes: list) -> tuple[int, ...]:
    """How many things are called moving, would be plainly and over the true ground, and how many there are."""
    called = moving(grey, known, boxes), moving(grey, known, boxes, plainly=True), moving(grey, true, boxes)
    return *(int(which.sum()) for which in called), len(boxes)


def said(counts: list[tuple[int, ...]]) -> str:
    """A line of what `counted` gave for each kind."""
    kinds = ("stand", "move", "bright", "random")
    return "".join(
        f"   {kind} {called}/{things} ({plainly}, {surely})"
        for kind, (called, plainly, surely, things) in zip(kinds, counts, strict=True)
    )


def main(_: list[str]) -> None:
    if _PICTURE.value:
        cv2.imwrite(_PICTURE.value, cv2.cvtColor(picture(_INDEX.value), cv2.COLOR_RGB2BGR))
        return
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("numpy", "opencv-python-headless"))
    print(f"{platform.machine()}, Python {platform.python_version()}, {versions}")
    print(f"{'':>4} {'scene':>8} {'first':>6} {'later':>6} {'poses':>6}   called moving")
    errors, counts = [], []
    for index in range(_SEQUENCES.value):
        if scene_of(index) not in _SCENES.value:
            continue
        plan = plan_sequence(seed=_SEED.value, index=index, split="test", noise=_NOISE.value)
        renderer = Renderer(plan)
        shown = [renderer.frame(t) for t in range(_FRAMES.value)]
        grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image, _ in shown]
        true = [np.vstack([plan.to_frame(t)[:2], (0, 0, 1)]) for t in range(_FRAMES.value)]
        stream = ground.Ground()
        online = [stream.push(frame) for frame in grey]
        held = CalibrationConfig.n_max + 1
        known = ground.poses(grey[:held])

        def off(poses, first, true=true, plan=plan):
            way, truth = (p[first + _SPAN] @ np.linalg.inv(p[first]) for p in (poses, true))
            return error(way, truth, plan.size)

        errors.append((off(online, 0), off(online, _FRAMES.value - 1 - _SPAN), off(known, 0)))
        there = objects(plan, [labels for _, labels in shown[: _SPAN + 1]], true)
        bright, drawn = spots(grey[0], shown[0][1], index) if scene_of(index) == "harbour" else ([], [])
        things = (*([box for box, goes in there if goes == moves] for moves in (False, True)), bright, drawn)
        counts.append([counted(grey[:held], known, true[:held], boxes) for boxes in things])
        facts = " ".join(f"{e:>6.2f}" for e in errors[-1]) + said(counts[-1])
        print(f"{index:>4} {scene_of(index):>8} {facts}", flush=True)
    errors, totals = np.array(errors), np.sum(counts, 0)
    for name, column in zip(("first", "later", "poses"), errors.T, strict=True):
        print(f"{name}: median {np.median(column):.3f}, over 1 pixel {(column > 1).sum()} of {len(column)}")
    print("called moving:" + said(totals))


if __name__ == "__main__":
    run(main)
