"""Frame 0 of a large frame: in which window is the target that a sentence names?

1. Overlapping tiles of one and of two tile sides are grounded by the sentence without what it says of motion, which no
   frame shows (`moving`), and without its place, which would mean something else inside a tile; "leftmost" and its like
   would, too, and such a sentence asks for every object of its class. Pieces of all masks are listed, what several
   tiles show being one object (`listing`). How likely each is one of those meant is told by presence x predicted IoU x
   the coarse map's peak x how sure its mask is, over all tiles that have it inside, and by how well it agrees with the
   place in the sentence (`places.Place.weight`). Where nothing is likely, tiles of half a side take a closer look.
   Tiles that cannot agree with the place are not looked at, unless nothing is found in the others. The likeliest is
   chosen, or the likeliest leftmost; others that are nearly as likely come with it, for motion to choose among
   (`paths`).
2. Where no tile shows it whole, windows of one, two, four, ... tile sides around it are looked at. The target grows
   from window to window as long as the smaller one shows only a part of it; the first window from which it does not
   tells how long it is. The window to follow it in has `tiling.side_of` that length.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from mqc_jax import colours, imaging, listing, moving, places, trains
from mqc_jax.checkpoint import Model
from mqc_jax.config import SMALLEST_TILE
from mqc_jax.data.expressions import grid_cell, location
from mqc_jax.models import functional
from mqc_jax.models.mqc_sam import MQCSAM
from mqc_jax.tiling import Window, around, cover, main_part, side_of

MAP_SIDE = 1024
"""Longest side of a map over the whole frame."""

BATCH = 8
"""Windows that are grounded at once."""

SCALES = (1, 2)
"""Sides of the tiles searched, in tile sides. A target of half a tile looks best through the second."""

MOST = 8
"""Objects that a sentence may mean, at most."""

_SURE = 0.25  # score of an object for which no closer look is taken (132 sentences of seeds 904 and 905)
_UNLIKELY = 0.1  # tiles whose best point agrees less with the sentence's place are left for later
_SAME_EXTENT = 0.75
_NO_MASK = 1e-3  # weight of a tile in which only the coarse map has a peak


Box = tuple[int, int, int, int] | None
"""x0, y0, x1, y1 in the frame's pixels, or None where no mask showed anything."""


class Found(NamedTuple):
    """Where a target is: the window to follow it in, and the sentence that means it there.

    Attributes:
      map: float32 [h, w] in [0, 1], the coarse map over the whole frame, each point's largest of all tiles; 0 where
        none was looked at. Its longest side is at most `MAP_SIDE`.
      box: x0, y0, x1, y1 in the frame's pixels of what was chosen; None where only the coarse map shows something.
      chance: how likely it is what is meant, in [0, 1]; only its ratio to another's means something.
    """

    window: Window
    text: str
    map: np.ndarray
    box: Box
    chance: float


class _Sight(NamedTuple):
    """What one window showed: `box` of the mask's main part in the frame's pixels or None, `score` in [0, 1], and the
    coarse map and the mask's logits over the window."""

    window: Window
    box: tuple[int, int, int, int] | None
    point: tuple[float, float]
    score: float
    coarse: np.ndarray
    logits: np.ndarray


@functools.partial(jax.jit, static_argnums=0)
def _ground(net: MQCSAM, params, images: jax.Array, input_ids: jax.Array, mask: jax.Array):
    """uint8 [B, S, S, 3] and one sentence for each -> score [B], coarse map and mask logits [B, S/4, S/4]."""
    features = functional.encode_frame(net, params, images)
    output = functional.first(net, params, features, functional.encode_text(net, params, input_ids, mask))
    coarse = jax.nn.sigmoid(output.coarse_logits)
    quality = jnp.clip(output.ious.max(1), 0, 1) * coarse.max((1, 2))
    return jax.nn.sigmoid(output.presence_logits) * quality, coarse, output.mask_logits


def search(model: Model, frame: np.ndarray, text: str, tile: int) -> Found:
    """The window in which to follow what a sentence means, and what it means there.

    Args:
      frame: uint8 RGB [H, W, 3].
      text: the sentence, about the whole frame.
      tile: side of the smallest tiles, in pixels.
    """
    return candidates(model, frame, text, tile)[0]


def candidates(model: Model, frame: np.ndarray, text: str, tile: int, ratio: float = 1.0) -> list[Found]:
    """What a sentence may mean, the likeliest first: at least one, at most `MOST`.

    Args:
      frame, text, tile: as in `search`.
      ratio: how many times less likely than the first the others may be, at most.
    """
    size, heat = frame.shape[:2], Heat(frame.shape[:2])
    motion = moving.find(text)
    if motion is not None:
        text = motion.bare
    place = places.find(text)
    bare = text if place is None else place.bare
    extreme = places.extreme(bare)
    if extreme is not None:
        bare = extreme.bare
    colour = colours.find(bare)
    if colour is not None:
        bare = colour.bare
    asked = bare if extreme is None and colour is None else places.every(bare)
    agrees = lambda box: 1.0 if place is None else place.weight(box, size)  # noqa: E731

    tiles = dict.fromkeys(window for scale in SCALES for window in cover(scale * tile, size))
    halves = dict.fromkeys(cover(max(tile // 2, SMALLEST_TILE), size))
    near = {window for window in (*tiles, *halves) if agrees(window.box) >= _UNLIKELY}
    views, objects, hint = [], [], (-1.0, (0.0, 0.0))
    stages = (
        [window for window in tiles if window in near],
        [window for window in halves if window in near and window not in tiles],
        [window for window in tiles if window not in near],
    )
    for stage, windows in enumerate(stages):
        for sight in look(model, frame, windows, asked):
            heat.add(sight.window, sight.coarse)
            views.append((sight.window, listing.pieces(sight.window, sight.logits, sight.score, frame)))
            hint = max(hint, (sight.score * agrees(sight.point * 2), sight.point))
        objects = listing.objects(views)
        if trains.meant(asked):
            objects = trains.joined(objects)
        sure = max((one.score * agrees(one.middle * 2) for one in objects), default=0.0)
        if sure >= _SURE or (stage and objects):
            break

    def said(point: tuple[float, float], window: Window) -> str:
        return text if bare == text else _in_cell(bare, point, window)

    if not objects:
        window, box = _zoom(model, frame, hint[1], bare, tile)
        return [Found(window, said(hint[1], window), heat.map, box, 1.0)]
    chances = listing.likely(objects, [agrees(one.middle * 2) for one in objects])
    if colour is not None:
        chances = chances * colours.agreement([one.colour for one in objects], colour.name)
    if extreme is not None:
        chances = listing.chances(objects, chances, extreme.name)
    found = []
    for k in np.argsort(-chances, kind="stable")[:MOST]:
        if found and chances[k] * ratio <= found[0].chance:
            break
        chosen, point, box = objects[k], objects[k].middle, objects[k].box
        if chosen.whole:
            window = around(*point, side_of(max(box[2] - box[0], box[3] - box[1]), tile), size)
        else:
            window, larger = _zoom(model, frame, point, bare, tile)
            box = larger or box
        found.append(Found(window, said(point, window), heat.map, box, float(chances[k])))
    return found


def look(model: Model, frame: np.ndarray, windows: Sequence[Window], text: str) -> Iterator[_Sight]:
    """What each window shows when it is asked for `text`."""
    side = model.config.image_size
    tokens = model.tokenizer.encode([text] * BATCH, model.config.bert.max_tokens)
    for first in range(0, len(windows), BATCH):
        batch = windows[first : first + BATCH]
        images = np.zeros((BATCH, side, side, 3), np.uint8)
        for image, window in zip(images, batch, strict=False):
            image[:] = imaging.resize(window.cut(frame), side)
        scores, coarse, logits = map(np.asarray, _ground(model.net, model.params, images, *tokens))
        for window, *shown in zip(batch, scores, coarse, logits, strict=False):
            yield _sight(window, *shown)


def _sight(window: Window, score: np.ndarray, coarse: np.ndarray, logits: np.ndarray) -> _Sight:
    grid = logits.shape[0]
    across, down = window.width / grid, window.height / grid
    box = main_part(logits > 0)
    if box is None:
        y, x = np.unravel_index(coarse.argmax(), coarse.shape)
        point = window.x + (x + 0.5) * across, window.y + (y + 0.5) * down
        return _Sight(window, None, point, float(score) * _NO_MASK, coarse, logits)
    x0, x1 = (round(window.x + x * across) for x in box[::2])
    y0, y1 = (round(window.y + y * down) for y in box[1::2])
    return _Sight(window, (x0, y0, x1, y1), ((x0 + x1) / 2, (y0 + y1) / 2), float(score), coarse, logits)


def _zoom(model: Model, frame: np.ndarray, point: tuple[float, float], text: str, tile: int) -> tuple[Window, Box]:
    """The window around a point for the length that its target has in the windows that show all of it, and the target's
    box, or None where no window shows it."""
    size = frame.shape[:2]
    sides = [tile << k for k in range(BATCH) if tile << k < 2 * max(size)]
    windows = list(dict.fromkeys(around(*point, side, size) for side in sides))
    sights = list(look(model, frame, windows, text))
    chosen = 0
    while chosen + 1 < len(sights):
        share = 1.0 if _cut_off(sights[chosen], size) else _SAME_EXTENT
        if _extent(sights[chosen]) >= share * _extent(sights[chosen + 1]):
            break
        chosen += 1
    sight = sights[chosen]
    if sight.box is None:
        return windows[chosen], None
    return around(*sight.point, side_of(_extent(sight), tile), size), sight.box


def _cut_off(sight: _Sight, size: tuple[int, int]) -> bool:
    """Whether the shown target reaches an edge of the window that is not the frame's `(H, W)`."""
    if sight.box is None:
        return False
    (x0, y0, x1, y1), (left, top, right, bottom) = sight.box, sight.window.box
    return 0 < left >= x0 or 0 < top >= y0 or size[1] > right <= x1 or size[0] > bottom <= y1


def _extent(sight: _Sight) -> int:
    """Length of the shown target's box in pixels; 0 where none is."""
    return 0 if sight.box is None else max(sight.box[2] - sight.box[0], sight.box[3] - sight.box[1])


def _in_cell(bare: str, point: tuple[float, float], window: Window) -> str:
    """A sentence without a place, and the cell of the window that a point of the frame lies in."""
    cell = grid_cell(point[0] - window.x, point[1] - window.y, (window.height, window.width))
    return f"{bare} at the {location(cell)}"


class Heat:
    """Maps seen in windows, on one map over the whole frame `(H, W)`.

    Attributes:
      map: float32 [h, w], 0 where no window was; its longest side is at most `MAP_SIDE`.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self._scale = min(1.0, MAP_SIDE / max(size))
        self.map = np.zeros([max(1, round(side * self._scale)) for side in size], np.float32)

    def add(self, window: Window, values: np.ndarray) -> None:
        """Raises the map to the values [h, w] seen in a window."""
        x, y = (int(start * self._scale) for start in (window.x, window.y))
        across, down = (max(1, round(side * self._scale)) for side in (window.width, window.height))
        part = self.map[y : y + down, x : x + across]
        values = cv2.resize(values.astype(np.float32), part.shape[::-1], interpolation=cv2.INTER_AREA)
        np.maximum(part, values, out=part)
