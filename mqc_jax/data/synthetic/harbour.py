"""Harbours and open water: a quay with jetties and warehouses, a channel, a bridge, or nothing but the sea."""

from dataclasses import dataclass, field

import numpy as np

from mqc_jax.data.synthetic.canvas import ASPHALT, CONCRETE, GRASS, PAINT, SMOOTH, SOIL, WATER, Canvas
from mqc_jax.data.synthetic.drawing import shade
from mqc_jax.data.synthetic.ground import building, car_park, dashes, grove, ramp, road, swept
from mqc_jax.data.synthetic.motion import Path, meander
from mqc_jax.data.synthetic.scene import Frame, Lane, Scene, Stand
from mqc_jax.data.synthetic.silhouettes import SHIPS

_BOXES = ((128, 70, 60), (70, 90, 118), (96, 108, 90), (158, 122, 78), (150, 152, 154))


@dataclass
class Harbour(Scene):
    """Along the shore is `u`; the water is at `v < 0`, the quay at `v > 0` (metres). Open water has no shore."""

    frame: Frame = field(default_factory=Frame)
    open_water: bool = False
    jetties: tuple[tuple[float, float], ...] = ()  # (u, length)
    far_bank: float = 0.0  # 0: none
    bridge: float | None = None
    deck: float = 20.0

    def paint(self, canvas: Canvas) -> None:
        rng = np.random.default_rng(self.seed)
        colours = ramp(rng, rng.uniform(0.1, 0.9))
        water = (np.array((58, 78, 84)), np.array((48, 70, 92)), np.array((78, 88, 80)), np.array((40, 58, 72)))[
            rng.integers(4)
        ]
        canvas.everywhere(water * rng.uniform(0.85, 1.15), WATER)
        if not self.open_water:
            reach = self.radius + 20
            self._paint_shallows(canvas, rng, water, reach)
            self._paint_quay(canvas, rng, colours, reach)
            if self.far_bank:
                self._paint_far_bank(canvas, rng, colours, reach)
        if self.bridge is not None:
            self._paint_bridge(canvas, rng)

    def _paint_shallows(self, canvas, rng, water, reach) -> None:
        for k in range(5):
            v = -4.0 * (5 - k)
            canvas.fill(self.frame.rect(-reach, reach, v, 5), np.asarray(water) * (1 + 0.025 * k), WATER)

    def _paint_quay(self, canvas, rng, colours, reach) -> None:
        f, sun = self.frame, self.sun
        edge = shade((150, 148, 142), rng.uniform(0.85, 1.1))
        canvas.shadow(swept(f.rect(-reach, reach, 0, 8), np.asarray(sun) * 3), 0.45)
        canvas.lit(f.rect(-reach, reach, 0, reach))
        canvas.fill(f.rect(-reach, reach, 0, reach), shade(edge, 0.86), CONCRETE)
        canvas.fill(f.rect(-reach, reach, 0, 3), shade(edge, 1.15), CONCRETE)
        for u in np.arange(-reach, reach, 24):
            canvas.fill(f.rect(u, u + 24, 3, 46), shade(edge, rng.uniform(0.78, 0.98)), CONCRETE)
        for u, length in self.jetties:
            jetty = f.rect(u - 2.2, u + 2.2, -length, 2)
            canvas.shadow(swept(jetty, np.asarray(sun) * 2), 0.4)
            canvas.lit(jetty)
            canvas.fill(jetty, shade((150, 142, 128), rng.uniform(0.9, 1.1)), CONCRETE)
            for v in np.arange(-length + 3, 0, 9):
                canvas.stroke(f.out([(u - 6, v), (u + 6, v)]), 0.9, (138, 132, 120), CONCRETE)
        industrial = rng.random() < 0.6
        if industrial:
            self._paint_yard(canvas, rng, reach)
        back = 60 if industrial else 30
        road(canvas, f.out([(-reach, back + 8), (reach, back + 8)]), 10)
        u = -reach
        while u < reach:
            v, size = back + 18, rng.uniform(30, 95)
            kind = rng.random()
            if kind < 0.55:
                depth = rng.uniform(22, 60)
                building(
                    canvas,
                    rng,
                    f.out([(u + size / 2, v + depth / 2)])[0],
                    (size, depth),
                    f.angle,
                    rng.uniform(7, 18),
                    sun,
                )
            elif kind < 0.75:
                car_park(canvas, rng, f.out([(u + size / 2, v + 22)])[0], (size, 40), f.angle, sun)
            else:
                canvas.fill(f.rect(u, u + size, v, v + 60), colours["grass"], GRASS)
                grove(canvas, rng, f.out([(u + size / 2, v + 30)])[0], 0.4 * size, colours["tree"], sun)
            u += size + rng.uniform(5, 25)
        deep = back + 90
        road(canvas, f.out([(-reach, deep), (reach, deep)]), 8)
        canvas.fill(f.rect(-reach, reach, deep + 10, deep + reach), colours["grass"], GRASS)
        for u in np.arange(-reach, reach, 42):
            for v in np.arange(deep + 26, min(deep + reach, 1.2 * reach), 46):
                spot = f.out([(u + rng.uniform(0, 15), v)])[0]
                if rng.random() < 0.55:
                    building(canvas, rng, spot, rng.uniform(10, 32, 2), f.angle, rng.uniform(5, 16), sun)
                else:
                    grove(canvas, rng, spot, 20, colours["tree"], sun)

    def _paint_yard(self, canvas, rng, reach) -> None:
        f, sun = self.frame, self.sun
        for u in np.arange(-reach, reach, 75):
            kind = rng.random()
            if kind < 0.55:  # container stacks
                for v in np.arange(18, 46, 3.0):
                    for k in range(8):
                        if rng.random() < 0.75:
                            box = f.rect(u + 6.6 * k, u + 6.6 * k + 6.1, v, v + 2.5)
                            canvas.fill(box + np.asarray(sun) * 2.4, (86, 88, 90), SMOOTH)
                            canvas.fill(box, shade(_BOXES[rng.integers(len(_BOXES))], rng.uniform(0.8, 1.15)), SMOOTH)
            elif kind < 0.75:  # heaps of ore and sand
                for _ in range(3):
                    spot = f.out([(u + rng.uniform(5, 60), rng.uniform(22, 44))])[0]
                    tone = ((104, 92, 84), (150, 138, 112), (76, 76, 78))[rng.integers(3)]
                    canvas.disk(spot, rng.uniform(6, 12), shade(tone, 0.8), SOIL)
                    canvas.disk(spot - np.asarray(sun) * 2.5, rng.uniform(3, 7), shade(tone, 1.12), SOIL)
            if rng.random() < 0.4:  # a gantry crane reaching over the water
                arm = [(u + 30, 26), (u + 30, -22)]
                canvas.shadow(swept(f.rect(u + 28, u + 32, -20, 26), np.asarray(sun) * 25)[:4], 0.3)
                canvas.stroke(f.out(arm), 3.0, (160, 108, 64), SMOOTH)
                canvas.fill(f.rect(u + 22, u + 38, 4, 8), (170, 120, 74), SMOOTH)

    def _paint_far_bank(self, canvas, rng, colours, reach) -> None:
        f, v = self.frame, self.far_bank
        shore = [(u, v + 5 * np.sin(u / 37 + 1) + rng.normal(0, 1.5)) for u in np.arange(-reach, reach + 30, 15)]
        canvas.fill(f.out([*shore, (reach, v - reach), (-reach, v - reach)]), shade(colours["soil"], 0.95), SOIL)
        canvas.fill(
            f.out([*(np.array(shore) - (0, 7)), (reach, v - reach), (-reach, v - reach)]), colours["grass"], GRASS
        )
        road(canvas, f.out([(-reach, v - 30), (reach, v - 30)]), 7, lines=False)
        for u in np.arange(-reach, reach, 38):
            spot = f.out([(u, v - rng.uniform(50, 150))])[0]
            if rng.random() < 0.5:
                grove(canvas, rng, spot, rng.uniform(12, 34), colours["tree"], self.sun)
            else:
                building(canvas, rng, spot, rng.uniform(10, 30, 2), f.angle, rng.uniform(5, 12), self.sun)

    def _paint_bridge(self, canvas, rng) -> None:
        f, u, w, sun = self.frame, self.bridge, self.deck / 2, np.asarray(self.sun)
        reach = self.radius + 20
        deck = f.rect(u - w, u + w, -reach, reach)
        height = self.deck_height
        canvas.shadow(deck + sun * height, 0.5)
        for v in np.arange(-reach, reach, 45):  # piers
            canvas.fill(f.rect(u - w - 2, u + w + 2, v - 2.5, v + 2.5), (132, 130, 124), CONCRETE)
        canvas.lit(deck)
        canvas.fill(deck, (158, 156, 150), CONCRETE)
        canvas.fill(f.rect(u - w + 2, u + w - 2, -reach, reach), shade((96, 99, 103), rng.uniform(0.9, 1.2)), ASPHALT)
        for side in (-1, 1):
            canvas.stroke(
                f.out([(u + side * (w - 0.5), -reach), (u + side * (w - 0.5), reach)]), 0.8, (186, 184, 178), SMOOTH
            )
        canvas.stroke(f.out([(u, -reach), (u, reach)]), 0.9, (176, 172, 150), PAINT)
        for side in (-0.5, 0.5):
            dashes(canvas, f.out([(u + side * w, -reach), (u + side * w, reach)]), 0.4, (186, 186, 180), 6, 9)


def plan_harbour(
    rng: np.random.Generator, half: tuple[float, float], sun, category: str, room: float, bridge: bool | None = None
) -> Harbour:
    """Lays out a harbour around the frame; `bridge` asks for one (True), forbids it (False) or leaves it to chance."""
    angle = rng.uniform(0, 2 * np.pi)
    short = min(half)
    open_water = bridge is not True and rng.random() < 0.3
    scene = Harbour(half, sun, int(rng.integers(2**31)), kind="open_water" if open_water else "harbour")
    scene.open_water = open_water
    shore = 0.0 if open_water else rng.uniform(0.25, 0.65) * short
    scene.frame = f = Frame(angle, tuple(Frame(angle).out([(0.0, shore)])[0]))
    radius = scene.radius
    if not open_water and rng.random() < 0.35:
        scene.far_bank = -(shore + rng.uniform(0.75, 1.2) * short) - 40
    low = scene.far_bank + 0.2 * room + 12 if scene.far_bank else -radius - shore
    has_bridge = not open_water and (bridge is True or (bridge is None and rng.random() < 0.4))
    if has_bridge:
        scene.bridge = rng.uniform(-0.35, 0.35) * short
        scene.deck = rng.uniform(14, 30)
        scene.deck_height = rng.uniform(8, 18)
        w = scene.deck / 2
        scene.decks.append(f.rect(scene.bridge - w, scene.bridge + w, -2 * radius, 2 * radius))
    top = -0.2 * room - 8
    if not open_water:
        top = _plan_berths(rng, scene, room, top)
    else:
        for _ in range(int(np.clip(np.prod(half) / (1.6 * room) ** 2, 4, 26))):  # at anchor, all swung the same way
            x, y = rng.uniform(-1, 1, 2) * half
            scene.stands.append(Stand(x, y, angle + rng.normal(0, 0.15), room, SHIPS))
        top = radius
    for _ in range(9):
        v = rng.uniform(min(low, top - 20), top)
        slant = 0.0 if scene.far_bank or has_bridge else rng.normal(0, 0.25)
        if open_water:
            slant = rng.uniform(0, 2 * np.pi)
        course = meander(
            rng, (-1.3 * radius * np.cos(slant), v - 1.3 * radius * np.sin(slant)), slant, 2.6 * radius, 0.12
        )
        course[:, 1] = np.minimum(course[:, 1], top) if not open_water else course[:, 1]
        if rng.random() < 0.5:
            course = course[::-1]
        crossings = ()
        if has_bridge:
            s = np.arange(0, Path(course).length, 2.0)
            side = Path(course).at(s)[:, 0] - scene.bridge
            crossings = tuple(float(x) for x in s[1:][side[1:] * side[:-1] <= 0])
        scene.lanes.append(Lane(Path(f.out(course)), SHIPS, crossings))
    if has_bridge:
        for offset in (-0.55, 0.55):
            u = scene.bridge + offset * scene.deck / 2
            ends = [(u, -1.2 * radius - abs(shore)), (u, 1.2 * radius)]
            way = Path(f.out(ends if offset > 0 else ends[::-1]))
            scene.clutter.append(Lane(way, ("small car",), level=1))
            scene.clutter.append(Lane(way, ("large car",), level=1))
    return scene


def _plan_berths(rng, scene: Harbour, room: float, top: float) -> float:
    """Adds jetties or berths along the quay. Returns the `v` beyond which nothing may sail."""
    f, radius = scene.frame, scene.radius
    blocked = lambda u: scene.bridge is not None and abs(u - scene.bridge) < scene.deck / 2 + 0.6 * room  # noqa: E731
    if room < 60:
        length = rng.uniform(2.0, 3.2) * room
        jetties = []
        for u in np.arange(-radius, radius, 2.9 * room):
            if blocked(u):
                continue
            jetties.append((u, length))
            for v in np.arange(-length + 0.3 * room, -0.3 * room, 0.42 * room):
                for side in (-1, 1):
                    if rng.random() < 0.6:
                        x, y = f.out([(u + side * (0.58 * room + 2.5), v)])[0]
                        turn = np.pi if side > 0 else 0.0
                        scene.stands.append(Stand(x, y, f.angle + turn + rng.normal(0, 0.03), room, SHIPS))
        scene.jetties = tuple(jetties)
        top = -length - 0.5 * room - 4
    else:
        for u in np.arange(-radius, radius, 1.15 * room):
            if not blocked(u) and rng.random() < 0.8:
                turn = np.pi * rng.integers(2)
                x, y = f.out([(u, -0.085 * room - 3)])[0]
                scene.stands.append(Stand(x, y, f.angle + turn, room, SHIPS))
        top = -0.4 * room - 10
    for _ in range(7):  # at anchor off the channel
        u, v = rng.uniform(-0.8, 0.8) * radius, top - rng.uniform(0.3, 1.6) * room
        if not blocked(u) and (not scene.far_bank or v > scene.far_bank + 0.6 * room):
            x, y = f.out([(u, v)])[0]
            scene.stands.append(Stand(x, y, f.angle + rng.normal(0, 0.2), room, SHIPS))
    return top
