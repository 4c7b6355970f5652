"""Training clips by number: clip i of seed s is the same everywhere, on any machine, worker and restart.

Nothing is iterated and nothing is remembered: a clip is a function of (seed, index). `batches` streams them.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from mqc_jax.config import SMALLEST_TILE
from mqc_jax.data import paraphrases
from mqc_jax.data.expressions import class_phrase
from mqc_jax.data.pursuit import Pursuit, first_window
from mqc_jax.data.source import Expression, VideoSource
from mqc_jax.data.speech import Speech, is_positional, text_at
from mqc_jax.errors import UserError
from mqc_jax.imaging import Turn, resize, resize_mask
from mqc_jax.tiling import Window

_SMALLEST_CROP = 16  # pixels
_LEAST_AREA = 8  # pixels of an object that no sentence names, for a clip to be about it
_TRIES = 8  # random starts tried before the first frame that shows the target is taken


@dataclasses.dataclass
class ClipDataset:
    """Random access to clips of `clip_length` frames around referred targets.

    Every epoch visits each (sequence, expression) once, in an order drawn from the seed; the stride is drawn per clip
    from 1..`max_stride`, less where the sequence is too short for it. A sequence too short even for stride 1 is played
    forth and back.

    Attributes:
      source: where frames and truth come from; expressions without a known object are left out.
      image_size: side S in pixels of the square that frames are resized to.
      clip_length: frames T in a clip.
      max_stride: the largest step between two frames of a clip.
      tokenize: sentence to a mapping with `input_ids` and `attention_mask` (fixed length), or None for clips without
        text. It must survive pickling if worker processes are used.
      seed: what all choices are drawn from.
      start: "first": clips begin where the sentence was written, in the sequence's first frame (the first that shows
        the target). "anywhere": in any frame that shows the target. A sentence made from class and position is then
        made again from that frame, because "at the top-left" may have ceased to be true; any other stays.
      min_crop: the smallest window that a clip may be cut to before the resize, as a share of the frame's sides; its
        side is drawn between this and `max_crop`, even in the logarithm, and it holds most of the target in the first
        frame; 1: never cut. Small targets become larger and steps cheaper at the same scale. The sentence is made again
        from what the window shows; a clip whose sentence is not made from class and position is never cut.
        Above 1 it is a side in the frame's own pixels, as `--tile` is, whatever the frame's size.
      max_crop: the largest such window, unless no sentence fits it; of the same kind.
      square: windows are square, with a side that is a share of the frame's shorter one, as `tiled.TiledTracker` cuts
        them; else they have the frame's shape.
      turn: whether clips are turned by quarters and mirrored, all eight ways being as likely, since from above there is
        no up. The sentence is made again from what is seen; a clip whose sentence is not made from class and position,
        or that would have none when turned, is left as it is.
      targets: sentences N of a clip, which share its frames. Beyond the expression's own they are made, as eq. 4 makes
        them, from other objects of the first frame, in random order, and again from the start where there are fewer.
        0: clips without targets, of which `class_map` is what there is to learn.
      reword: probability that a sentence made from class and position is said in other words (`paraphrases`).
      unheard: whether those other words are the ones kept from training, to score with.
      placeless: probability that a sentence leaves its place out, where one class alone tells which object is meant.
      absent: probability that a further sentence names a class that is not at the place it names, or nowhere in the
        frame if it leaves its place out: nothing is there.
      every: probability that a further sentence of those that name something means all objects of a class ("every
        yacht"), which a tiled search asks for.
      stray: probability that a clip's window lies anywhere in its frame, as most windows of a tiled search do, rather
        than on the target. Its sentences ask for classes of the sequence: all objects of one, or the only one; mostly
        the window shows none. Nothing strays where windows are not cut.
      class_map: whether clips hold `classes`, what is where in their first frame.
      follow: probability that a clip is seen as `tiled.TiledTracker` would see it (`pursuit`): its window is about as
        large as the target's length asks for, and moves after the target. A clip whose sentence is not made from class
        and position is never cut.
      tile: side in pixels of the tiles that such a tracker searches, which its windows go by.
      balance: probability that a clip is about any object that has a class, named by a sentence of the dataset or not,
        rather than about the target of the epoch's next sentence. Its class is drawn first, all being as likely, since
        what is common in a frame is rarely named: of many cars in one ninth of it no sentence singles one out, though
        one does in a window.

    Raises:
      UserError: no expression has a known object, or a field is out of range.
    """

    source: VideoSource
    image_size: int
    clip_length: int
    max_stride: int = 1
    tokenize: Callable[[str], Mapping[str, Any]] | None = None
    seed: int = 0
    start: str = "first"
    min_crop: float = 1.0
    max_crop: float = 1.0
    square: bool = False
    turn: bool = False
    targets: int = 1
    reword: float = 0.0
    unheard: bool = False
    placeless: float = 0.0
    absent: float = 0.0
    every: float = 0.0
    stray: float = 0.0
    class_map: bool = False
    follow: float = 0.0
    tile: int = 0
    balance: float = 0.0

    def __post_init__(self) -> None:
        for field, least in (("image_size", 1), ("clip_length", 1), ("max_stride", 1), ("targets", 0)):
            if getattr(self, field) < least:
                raise UserError(f"{field}={getattr(self, field)} must be at least {least}")
        for field in ("reword", "placeless", "absent", "every", "stray", "follow", "balance"):
            if not 0 <= getattr(self, field) <= 1:
                raise UserError(f"{field}={getattr(self, field)} must lie in [0, 1], since it is a probability")
        if self.follow and self.tile < SMALLEST_TILE:
            raise UserError(
                f"tile={self.tile} must be at least {SMALLEST_TILE} pixels where follow={self.follow} is not 0, since "
                "the window goes by it"
            )
        if self.start not in ("first", "anywhere"):
            raise UserError(f'start={self.start!r} must be "first" or "anywhere"')
        if not (0 < self.min_crop <= 1 or self.min_crop >= _SMALLEST_CROP):
            raise UserError(
                f"min_crop={self.min_crop} must be a share of the frame's sides, above 0 and at most 1, or at least "
                f"{_SMALLEST_CROP} pixels"
            )
        if not self.min_crop <= self.max_crop or self.max_crop > 1 >= self.min_crop:
            most = "1" if self.min_crop <= 1 else "any more pixels"
            raise UserError(f"max_crop={self.max_crop} must lie between min_crop={self.min_crop} and {most}")
        self._pairs = [
            (index, expression)
            for index, sequence in enumerate(self.source.sequences)
            for expression in sequence.expressions
            if expression.object_ids
        ]
        if not self._pairs:
            raise UserError("no expression of the split names an object, so there is nothing to train on")
        self._by_class: dict[str, list[tuple[int, int]]] = {}
        if self.balance:
            for index, sequence in enumerate(self.source.sequences):
                for number, name in sorted(sequence.categories.items()):
                    self._by_class.setdefault(name, []).append((index, number))
        self._speech = Speech(self.targets, self.reword, self.unheard, self.placeless, self.absent, self.every)
        self._order = functools.lru_cache(maxsize=4)(self._shuffled)

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    @property
    def clips_per_epoch(self) -> int:
        """How many (sequence, expression) pairs one epoch visits."""
        return len(self._pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Clip `index` of the endless stream, 0 <= index.

        Returns:
          `frames` uint8 [T, S, S, 3] RGB; `masks` uint8 [N, T, S, S] 0/1, never empty where the target is present;
          `present` bool [N, T]; `labelled` bool [N, T], False where the dataset has no annotation for the frame (mask
          zero and present False mean nothing there); with `tokenize` also `input_ids` and `attention_mask` int32
          [N, L]; with `class_map` also `classes` uint8 [S/4, S/4], the class in `paraphrases.CLASSES` counted from 1
          that covers most of each cell of the first frame, 0 where none does; `id`.

        Raises:
          UserError: a file does not decode, or the target is in no annotated frame of its sequence.
        """
        epoch, position = divmod(int(index), len(self._pairs))
        rng = np.random.default_rng((self.seed, 1, int(index)))
        scene = None
        if self.balance and rng.random() < self.balance and self._by_class:
            scene = next(filter(None, (self._scene(rng, *self._draw(rng), drawn=True) for _ in range(_TRIES))), None)
        if scene is None:
            scene = self._scene(rng, *self._pairs[self._order(epoch)[position]])
        return self._shown(scene)

    def _draw(self, rng: np.random.Generator) -> tuple[int, Expression]:
        """Any object, its class first: its sequence's number, and an expression whose sentence is still to be made."""
        name = sorted(self._by_class)[rng.integers(len(self._by_class))]
        which, number = self._by_class[name][rng.integers(len(self._by_class[name]))]
        return which, Expression(f"object{number}", f"the {class_phrase(name)} at the center", (number,))

    def _scene(
        self, rng: np.random.Generator, which: int, expression: Expression, drawn: bool = False
    ) -> "_Scene | None":
        """Everything that is drawn of a clip about an expression's target.

        Args:
          drawn: whether its sentence is none of the dataset's; then None where no window has a sentence for it.
        """
        sequence = self.source.sequences[which]
        n_frames = len(sequence.frame_names)
        start = self._any_start(rng, which, expression) if drawn else self._choose_start(rng, which, expression)
        if start is None:
            return None
        first, labels, text = start
        longest = (n_frames - 1 - first) // max(self.clip_length - 1, 1)
        stride = int(rng.integers(1, max(min(self.max_stride, longest), 1) + 1))
        turn, text = self._choose_turn(rng, labels, expression, sequence.categories, text)
        labels = turn(labels)
        size = labels.shape
        positional = is_positional(expression, sequence.categories)
        follows = bool(self.follow) and rng.random() < self.follow and positional
        strays = not follows and self.stray and rng.random() < self.stray and positional
        if strays and self.min_crop != 1:
            rows, cols = self._window_sides(rng, size)
            top, left = int(rng.integers(size[0] - rows + 1)), int(rng.integers(size[1] - cols + 1))
            window = Window(left, top, cols, rows)
            part = window.cut(labels)
            targets = [self._speech.anywhere(rng, part, labels, sequence.categories) for _ in range(self.targets)]
        else:
            window, text = self._choose_window(rng, labels, expression, sequence.categories, text, follows)
            if text is None:
                return None
            targets = self._speech.asked(rng, window.cut(labels), expression, sequence.categories, text)
        return _Scene(which, expression, first, stride, turn, labels, window, targets, follows)

    def _shown(self, scene: "_Scene") -> dict[str, Any]:
        """The clip of a scene, as `__getitem__` gives it."""
        which, expression, first, stride, turn, labels, window, targets, follows = scene
        sequence, size = self.source.sequences[which], labels.shape
        n_frames = len(sequence.frame_names)
        times = _forth_and_back(first, stride, self.clip_length, n_frames)
        reduce = _reduction((window.height, window.width), self.image_size)
        side, count = self.image_size, len(targets)
        clip: dict[str, Any] = {
            "frames": np.empty((self.clip_length, side, side, 3), np.uint8),
            "masks": np.zeros((count, self.clip_length, side, side), np.uint8),
            "present": np.zeros((count, self.clip_length), bool),
            "labelled": np.zeros((count, self.clip_length), bool),
        }
        chase = Pursuit(window, size, stride) if follows else None
        maps: dict[int, np.ndarray | None] = {first: labels}
        done: dict[tuple[int, Window], int] = {}
        for k, t in enumerate(times):
            if t not in maps:
                found = self.source.labels(which, t)
                maps[t] = None if found is None else turn(found)
            if (t, window) in done:  # Forth and back: a frame is decoded once.
                clip["frames"][k] = clip["frames"][done[t, window]]
                for name in ("masks", "present", "labelled"):
                    clip[name][:, k] = clip[name][:, done[t, window]]
            else:
                done[t, window] = k
                clip["frames"][k] = resize(_cut(window, turn(self.source.frame(which, t, reduce)), size), side)
                if maps[t] is not None:
                    shown = window.cut(maps[t])
                    for row, (target, _) in enumerate(targets):
                        mask = target.mask(shown)
                        clip["labelled"][row, k] = True
                        clip["present"][row, k] = mask.any()
                        clip["masks"][row, k] = resize_mask(mask, side)
            if chase is not None:
                window = chase.after(None if maps[t] is None else expression.mask(maps[t]))
        if self.tokenize is not None and targets:
            tokens = [self.tokenize(sentence) for _, sentence in targets]
            for name in ("input_ids", "attention_mask"):
                clip[name] = np.stack([np.asarray(row[name], np.int32).reshape(-1) for row in tokens])
        if self.class_map:
            clip["classes"] = _class_map(scene.window.cut(labels), sequence.categories, side // 4)
        clip["id"] = f"{sequence.name}/{expression.id}/{first}/{stride}"
        return clip

    def _choose_turn(
        self,
        rng: np.random.Generator,
        labels: np.ndarray,
        expression: Expression,
        categories: Mapping[int, str],
        text: str | None,
    ) -> tuple[Turn, str | None]:
        """How the clip is turned, and the sentence that is true of the first frame then."""
        if self.turn and is_positional(expression, categories):
            turn = Turn(int(rng.integers(4)), bool(rng.integers(2)))
            found = text_at(turn(labels), expression, categories)
            if found is not None or text is None:
                return turn, found
        return Turn(), text

    def _choose_window(
        self,
        rng: np.random.Generator,
        labels: np.ndarray,
        expression: Expression,
        categories: Mapping[int, str],
        text: str | None,
        follows: bool,
    ) -> tuple[Window, str | None]:
        """Where the clip is cut to, and the sentence that is true of the first frame's part."""
        height, width = labels.shape
        if (follows or self.min_crop != 1) and is_positional(expression, categories):
            mask = expression.mask(labels)
            points = np.flatnonzero(mask)
            for _ in range(_TRIES):
                if follows:
                    window = first_window(rng, mask, self.tile)
                else:
                    rows, cols = self._window_sides(rng, labels.shape)
                    # Any window that holds one of the target's pixels is as likely: all cells of the grid are named.
                    y, x = divmod(int(points[rng.integers(len(points))]), width)
                    top = int(rng.integers(max(0, y - rows + 1), min(y, height - rows) + 1))
                    left = int(rng.integers(max(0, x - cols + 1), min(x, width - cols) + 1))
                    window = Window(left, top, cols, rows)
                part = window.cut(labels)
                if 2 * np.count_nonzero(expression.mask(part)) > np.count_nonzero(mask):
                    found = text_at(part, expression, categories)
                    if found is not None:
                        return window, found
        return Window(0, 0, width, height), text

    def _any_start(
        self, rng: np.random.Generator, which: int, expression: Expression
    ) -> tuple[int, np.ndarray, str | None] | None:
        """The first frame of a clip about an object that no sentence may name: one that shows enough of it."""
        last = max(len(self.source.sequences[which].frame_names) - self.clip_length, 0)
        for t in (0,) if self.start == "first" else rng.integers(0, last + 1, size=2):
            labels = self.source.labels(which, int(t))
            if labels is not None and np.count_nonzero(expression.mask(labels)) >= _LEAST_AREA:
                return int(t), labels, text_at(labels, expression, self.source.sequences[which].categories)
        return None

    def _window_sides(self, rng: np.random.Generator, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of a window into a frame of `size` (H, W)."""
        height, width = size
        drawn = self.max_crop * (self.min_crop / self.max_crop) ** rng.uniform()
        if self.min_crop <= 1:
            rows, cols = max(1, round(drawn * height)), max(1, round(drawn * width))
        else:
            rows, cols = min(round(drawn), height), min(round(drawn), width)
        return (min(rows, cols),) * 2 if self.square else (rows, cols)

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, 0, epoch)).permutation(len(self._pairs))

    def _choose_start(
        self, rng: np.random.Generator, which: int, expression: Expression
    ) -> tuple[int, np.ndarray, str]:
        """The clip's first frame, its labels, and the sentence that is true of it."""
        sequence = self.source.sequences[which]
        n_frames = len(sequence.frame_names)
        if self.start == "anywhere":
            # Leave room for the clip at stride 1; the stride takes what is left.
            for t in rng.integers(0, max(n_frames - self.clip_length, 0) + 1, size=_TRIES):
                labels = self.source.labels(which, int(t))
                if labels is not None and expression.mask(labels).any():
                    text = expression.text if t == 0 else text_at(labels, expression, sequence.categories)
                    if text is not None:
                        return int(t), labels, text
        for t in range(n_frames):
            labels = self.source.labels(which, t)
            if labels is not None and expression.mask(labels).any():
                return t, labels, expression.text
        raise UserError(
            f"sequence {sequence.name!r}: the object {expression.object_ids} of expression {expression.id!r} "
            f"({expression.text!r}) is in none of its {n_frames} frames"
        )


class _Scene(NamedTuple):
    """What is drawn of a clip before its frames are decoded; `labels` are the first frame's, turned, and `window` is
    that frame's."""

    which: int
    expression: Expression
    first: int
    stride: int
    turn: Turn
    labels: np.ndarray
    window: Window
    targets: list[tuple[Expression, str]]
    follows: bool


def _cut(window: Window, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The window's part of `image`, which shows a frame of `size` (H, W) and may have been decoded smaller."""
    rows, cols = image.shape[0] / size[0], image.shape[1] / size[1]
    x0, y0, x1, y1 = window.box
    return image[round(y0 * rows) : round(y1 * rows), round(x0 * cols) : round(x1 * cols)]


def _reduction(size: tuple[int, int], side: int) -> int:
    """The largest reduction at which a JPEG may be decoded and still be no smaller than `side` on both axes.

    What is left is done by area averaging, as without it. The decoder's reduced transform averages over whole blocks
    too: on a real satellite frame stored at 1920x1080 and brought to 480, half-size decoding takes a third of the time
    and changes the result by 0.26 grey levels on average, 8 at most.
    """
    return next(reduce for reduce in (4, 2, 1) if reduce == 1 or min(size) >= reduce * side)


def _forth_and_back(first: int, stride: int, length: int, n_frames: int) -> list[int]:
    """`length` frame numbers from `first` on; the direction turns at the sequence's end, and again at `first`."""
    last = n_frames - 1 - first
    if last == 0:
        return [first] * length
    period = 2 * last
    return [first + min(step % period, period - step % period) for step in range(0, length * stride, stride)]


def _class_map(labels: np.ndarray, categories: Mapping[int, str], side: int) -> np.ndarray:
    """Object ids [H, W] to uint8 [side, side]: the number of the class that covers most of a cell, if it is a third."""
    best = np.full((side, side), 0.33, np.float32)
    out = np.zeros((side, side), np.uint8)
    there = {categories[i] for i in np.unique(labels).tolist() if i in categories}
    for number, name in enumerate(paraphrases.CLASSES, 1):
        if name in there:
            members = [i for i, category in categories.items() if category == name]
            coverage = resize(np.isin(labels, members).astype(np.float32), side)
            out[coverage > best] = number
            np.maximum(best, coverage, out=best)
    return out
