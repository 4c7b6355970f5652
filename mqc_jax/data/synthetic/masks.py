"""The truth: which pixels show which object, after bridges, clouds, the frame's edge and other objects."""

import cv2
import numpy as np

from mqc_jax.data.synthetic.canvas import coverage
from mqc_jax.data.synthetic.degradations import box_of, warp_into
from mqc_jax.data.synthetic.drawing import Sprite, rasterise
from mqc_jax.data.synthetic.plan import MARGIN, Actor, SequencePlan
from mqc_jax.data.synthetic.silhouettes import draw
from mqc_jax.data.synthetic.vehicles import TRAIN_CAR

_HALF = 128


def supersampling(length: float, gsd: float) -> int:
    """Samples per pixel and axis for an object: fine for small ones, where a fraction of a pixel shows."""
    pixels = length / gsd
    return 3 if pixels < 130 else 2 if pixels < 360 else 1


class Masks:
    """Visible masks of a plan's objects, at any frame and without rendering the picture."""

    def __init__(self, plan: SequencePlan):
        self.plan = plan
        self._sprites: dict[int, list[tuple[Sprite, int]]] = {}
        self._clouds = [(c, c.texture()[0]) for c in plan.clouds]
        self.deck = self._rasterise_decks()

    def _rasterise_decks(self) -> np.ndarray | None:
        """Coverage of the decks, uint8, on the background's grid."""
        plan = self.plan
        if not plan.scene.decks:
            return None
        return coverage(plan.scene.decks, tuple(n + 2 * MARGIN for n in plan.size), plan.gsd)

    def sprites(self, k: int) -> list[tuple[Sprite, int]]:
        """Sprites of actor `k`, front part first, each with its supersampling."""
        if k not in self._sprites:
            actor, gsd = self.plan.actors[k], self.plan.gsd
            fine = supersampling(actor.length, gsd)
            rng = np.random.default_rng(actor.seed)
            first = rasterise(draw(actor.category, rng), fine / gsd)
            # A train's cars are alike, but for every third.
            other = rasterise(draw(actor.category, rng), fine / gsd) if actor.cars > 1 else first
            self._sprites[k] = [(other if c % 3 == 2 else first, fine) for c in range(actor.cars)]
        return self._sprites[k]

    def parts(self, k: int, t: int):
        """Yields `(sprite, samples a pixel, matrix from sprite to frame pixels, box)` of the parts in the frame."""
        plan, actor = self.plan, self.plan.actors[k]
        camera = plan.to_frame(t)
        for c, (sprite, fine) in enumerate(self.sprites(k)):
            x, y, heading = actor.track.pose(t, 0.5 * actor.length, c * TRAIN_CAR)
            px, py = camera[:, :2] @ (x, y) + camera[:, 2]
            turn = heading + plan.camera[t, 2]
            cos, sin = np.cos(turn) / fine, np.sin(turn) / fine
            rows, cols = sprite.alpha.shape
            mx, my = (cols - 1) / 2, (rows - 1) / 2
            matrix = np.array([[cos, -sin, px - cos * mx + sin * my], [sin, cos, py - sin * mx - cos * my]])
            box = box_of(matrix, (rows, cols), plan.size)
            if box is not None:
                yield sprite, fine, matrix, box

    def occluded(self, actor: Actor, t: int, box, clouds: bool = True) -> np.ndarray | None:
        """Opacity of what lies above the actor in a frame rectangle, uint8, or None where nothing does."""
        above = None
        if self.deck is not None and actor.level == 0:
            above = warp_into(self.deck, self.plan.canvas_to_frame(t), box)
        hidden = self._clouded(t, box) if clouds else None
        if hidden is None:
            return above
        return hidden if above is None else np.maximum(above, hidden)

    def _clouded(self, t: int, box) -> np.ndarray | None:
        total = None
        camera = self.plan.to_frame(t)
        for cloud, texture in self._clouds:
            matrix = cloud.to_frame(camera, t)
            reach = box_of(matrix, texture.shape, self.plan.size)
            if reach is None or reach[0] >= box[2] or reach[2] <= box[0] or reach[1] >= box[3] or reach[3] <= box[1]:
                continue
            opacity = warp_into(texture, matrix, box)
            total = opacity if total is None else np.maximum(total, opacity)
        return total

    def visible(self, k: int, t: int) -> list[tuple[tuple[int, int, int, int], np.ndarray, int]]:
        """Visible masks of actor `k` at frame `t`: `(box, bool patch, unoccluded pixels)` for each part in view."""
        actor, out = self.plan.actors[k], []
        for sprite, fine, matrix, box in self.parts(k, t):
            cover = warp_fine(sprite.alpha, matrix, box, fine)
            peak = int(cover.max(initial=0))
            if peak < 24:
                continue
            # What is thinner than a pixel everywhere still has a most covered pixel: it must not vanish from rounding.
            mask = cover >= min(_HALF, max(24, peak // 2 + 1) if peak < _HALF else _HALF)
            whole = int(mask.sum())
            above = self.occluded(actor, t, box)
            if above is not None:
                mask &= above < _HALF
            out.append((box, mask, whole))
        return out

    def labels(self, t: int) -> np.ndarray:
        """The label map of frame `t`, uint8 `[H, W]`: 0 is background, an object's visible pixels hold its id."""
        out = np.zeros(self.plan.size, np.uint8)
        for k in draw_order(self.plan):
            actor = self.plan.actors[k]
            for (x0, y0, x1, y1), mask, _ in self.visible(k, t):
                out[y0:y1, x0:x1][mask] = actor.object_id
        return out


def draw_order(plan: SequencePlan) -> list[int]:
    """Actor numbers from the lowest to the highest, as painted."""
    return sorted(range(len(plan.actors)), key=lambda k: plan.actors[k].level)


def warp_fine(raster: np.ndarray, matrix: np.ndarray, box, fine: int) -> np.ndarray:
    """`warp_into` with `fine` x `fine` samples averaged for each pixel."""
    if fine == 1:
        return warp_into(raster, matrix, box)
    x0, y0, x1, y1 = box
    grid = matrix * fine
    grid[:, 2] += (fine - 1) / 2 - np.array([x0, y0]) * fine
    cols, rows = x1 - x0, y1 - y0
    samples = cv2.warpAffine(raster, grid, (cols * fine, rows * fine), flags=cv2.INTER_LINEAR)
    return cv2.resize(samples, (cols, rows), interpolation=cv2.INTER_AREA)
