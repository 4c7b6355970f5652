"""From a plan to frames and label maps."""

from collections.abc import Iterator

import cv2
import numpy as np

from mqc_jax.data.synthetic.canvas import Canvas
from mqc_jax.data.synthetic.degradations import box_of, noise_field, noise_window, warp_into
from mqc_jax.data.synthetic.masks import Masks, draw_order, warp_fine
from mqc_jax.data.synthetic.plan import MARGIN, SequencePlan
from mqc_jax.data.synthetic.silhouettes import SUPERCLASS
from mqc_jax.data.synthetic.water import Sea, wake

_CLOUD_BASE = 150.0  # metres: how far off a cloud's shadow falls
_SHADOW = 0.52  # share of the light that a cast shadow takes


class Renderer:
    """Renders the frames of a plan in any order. The background is painted once, when the renderer is made.

    Equal plans give equal bytes, frame by frame, whatever was rendered before.
    """

    def __init__(self, plan: SequencePlan):
        self.plan = plan
        self.masks = Masks(plan)
        size = tuple(n + 2 * MARGIN for n in plan.size)
        streams = np.random.SeedSequence(plan.entropy).spawn(3)
        canvas = Canvas(size, plan.gsd, np.random.default_rng(streams[0]))
        plan.scene.paint(canvas)
        self.background, wet = canvas.finish()
        self._sea = Sea(np.random.default_rng(streams[1]), plan, wet) if wet.any() else None
        self._noise = noise_field(np.random.default_rng(streams[2]), plan.size, plan.noise) if plan.noise else None
        self._clouds = [(c, *c.texture()) for c in plan.clouds]
        self._wakes = {}
        if self._sea is not None:
            for k, actor in enumerate(plan.actors):
                if SUPERCLASS[actor.category] == "ship" and not actor.is_static:
                    width = self.masks.sprites(k)[0][0].alpha.shape[0] / self.masks.sprites(k)[0][0].ppm
                    self._wakes[k] = wake(np.random.default_rng(actor.seed), actor.length, width, plan.gsd)

    def frame(self, t: int) -> tuple[np.ndarray, np.ndarray]:
        """Frame `t` in `[0, plan.frames)`: uint8 RGB `[H, W, 3]` and its label map, uint8 `[H, W]`."""
        plan = self.plan
        rows, cols = plan.size
        place = plan.canvas_to_frame(t)
        picture = cv2.warpAffine(
            self.background, place, (cols, rows), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
        )
        if self._sea is not None:
            self._sea.add(picture, t, place)
        labels = np.zeros(plan.size, np.uint8)
        for k in draw_order(plan):
            if k in self._wakes:
                self._add_wake(picture, k, t)
            self._add_actor(picture, labels, k, t)
        self._add_clouds(picture, t)
        if plan.blur:
            picture = cv2.GaussianBlur(picture, (0, 0), plan.blur)
        picture = cv2.LUT(picture, plan.tone.table(float(plan.exposure[t])))
        if self._noise is not None:
            y, x = noise_window(plan.entropy, t)
            picture = cv2.add(picture, self._noise[y : y + rows, x : x + cols], dtype=cv2.CV_8U)
        return picture, labels

    def _add_actor(self, picture: np.ndarray, labels: np.ndarray, k: int, t: int) -> None:
        plan, actor = self.plan, self.plan.actors[k]
        for sprite, fine, matrix, box in self.masks.parts(k, t):
            x0, y0, x1, y1 = box
            patch = picture[y0:y1, x0:x1]
            above = self.masks.occluded(actor, t, box, clouds=False)
            if above is not None and above.min() == 255:
                continue
            free = None if above is None else (255 - above).astype(np.float32) / 255
            cover = warp_fine(sprite.alpha, matrix, box, fine).astype(np.float32) / 255
            if free is not None:
                cover *= free
            self._cast_shadow(picture, sprite, fine, matrix, actor, free is not None, t)
            colour = warp_fine(sprite.rgb, matrix, box, fine).astype(np.float32)
            if free is not None:
                colour *= free[..., None]
            ground = patch.astype(np.float32)
            if plan.saliency < 1 and actor.object_id:
                base = cv2.mean(patch)[:3]
                colour = plan.saliency * colour + (1 - plan.saliency) * cover[..., None] * np.float32(base)
            ground *= 1 - cover[..., None]
            ground += colour
            patch[:] = cv2.convertScaleAbs(ground)
        if actor.object_id:
            for (x0, y0, x1, y1), mask, _ in self.masks.visible(k, t):
                labels[y0:y1, x0:x1][mask] = actor.object_id

    def _cast_shadow(self, picture, sprite, fine, matrix, actor, bridged: bool, t: int) -> None:
        plan = self.plan
        height = max(0.6, 0.08 * actor.length if SUPERCLASS[actor.category] == "ship" else 0.11 * actor.length)
        height = min(height, 16.0) if SUPERCLASS[actor.category] != "car" else 1.8
        height = 4.0 if SUPERCLASS[actor.category] == "train" else height
        shift = plan.to_frame(t)[:, :2] @ np.asarray(plan.scene.sun) * height
        moved = matrix + np.array([[0, 0, shift[0]], [0, 0, shift[1]]])
        box = box_of(moved, sprite.alpha.shape, plan.size)
        if box is None:
            return
        x0, y0, x1, y1 = box
        dark = warp_fine(sprite.alpha, moved, box, fine)
        if bridged:
            above = self.masks.occluded(actor, t, box, clouds=False)
            if above is not None:
                dark = cv2.multiply(dark, 255 - above, scale=1 / 255)
        depth = _SHADOW * (plan.saliency if actor.object_id else 1.0)
        patch = picture[y0:y1, x0:x1]
        light = 1 - depth / 255 * cv2.blur(dark, (2, 2)).astype(np.float32)
        patch[:] = cv2.convertScaleAbs(patch * light[..., None])

    def _add_wake(self, picture: np.ndarray, k: int, t: int) -> None:
        actor, plan = self.plan.actors[k], self.plan
        since = t - actor.track.start_frame
        if since <= 0 and actor.track.start_frame:
            return
        foam, ppm = self._wakes[k]
        x, y, heading = actor.track.pose(t, 0.5 * actor.length)
        heading += plan.camera[t, 2]
        px, py = plan.to_frame(t)[:, :2] @ (x, y) + plan.to_frame(t)[:, 2]
        scale = 1 / plan.gsd / ppm
        cos, sin = np.cos(heading) * scale, np.sin(heading) * scale
        # The foam's raster has the ship's middle at its right edge less half a length, on its centre line.
        mx, my = foam.shape[1] - 1 - 0.55 * actor.length * ppm, (foam.shape[0] - 1) / 2
        matrix = np.array([[cos, -sin, px - cos * mx + sin * my], [sin, cos, py - sin * mx - cos * my]])
        box = box_of(matrix, foam.shape, plan.size)
        if box is None:
            return
        x0, y0, x1, y1 = box
        bright = warp_into(foam, matrix, box).astype(np.float32)
        if actor.track.start_frame:
            bright *= min(1.0, since / 25)
        above = self.masks.occluded(actor, t, box, clouds=False)
        if above is not None:
            bright *= (255 - above).astype(np.float32) / 255
        patch = picture[y0:y1, x0:x1]
        share = bright[..., None] * (0.72 * plan.saliency / 255)
        patch[:] = cv2.convertScaleAbs(patch + share * (np.float32((214, 220, 220)) - patch))

    def _add_clouds(self, picture: np.ndarray, t: int) -> None:
        camera = self.plan.to_frame(t)
        away = camera[:, :2] @ np.asarray(self.plan.scene.sun) * _CLOUD_BASE
        for cloud, opacity, _ in self._clouds:
            matrix = cloud.to_frame(camera, t)
            matrix[:, 2] += away
            box = box_of(matrix, opacity.shape, self.plan.size)
            if box is not None:
                x0, y0, x1, y1 = box
                light = 255 - warp_into(opacity, matrix, box) // 3
                patch = picture[y0:y1, x0:x1]
                patch[:] = cv2.multiply(patch, cv2.merge([light] * 3), scale=1 / 255)
        for cloud, opacity, bright in self._clouds:
            matrix = cloud.to_frame(camera, t)
            box = box_of(matrix, opacity.shape, self.plan.size)
            if box is None:
                continue
            x0, y0, x1, y1 = box
            patch = picture[y0:y1, x0:x1]
            share = cv2.merge([warp_into(opacity, matrix, box)] * 3)
            white = cv2.merge([warp_into(bright, matrix, box)] * 3)
            kept = cv2.multiply(patch, cv2.bitwise_not(share), scale=1 / 255)
            patch[:] = cv2.add(kept, cv2.multiply(white, share, scale=1 / 255))


def render(plan: SequencePlan) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields each frame of a plan in turn: uint8 RGB `[H, W, 3]` and its label map, uint8 `[H, W]`."""
    renderer = Renderer(plan)
    for t in range(plan.frames):
        yield renderer.frame(t)


def render_frame(plan: SequencePlan, t: int) -> tuple[np.ndarray, np.ndarray]:
    """One frame of a plan. Keep a `Renderer` to render several: most of the cost is the background, painted once."""
    return Renderer(plan).frame(t)
