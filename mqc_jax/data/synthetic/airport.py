"""Airports: a runway, parallel taxiways joined by filleted connectors, concrete aprons, terminals and hangars."""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from mqc_jax.data.synthetic.canvas import ASPHALT, CONCRETE, GRASS, PAINT, SOIL, Canvas
from mqc_jax.data.synthetic.drawing import shade
from mqc_jax.data.synthetic.ground import building, car_park, dashes, grove, ramp, road
from mqc_jax.data.synthetic.motion import Path, fillet, rounded
from mqc_jax.data.synthetic.scene import Frame, Lane, Scene, Stand
from mqc_jax.data.synthetic.silhouettes import AIRCRAFT

_SEGMENTS = {  # strokes of runway numerals, on a cell of 1 x 2
    "0": [(0, 0), (1, 0), (1, 2), (0, 2), (0, 0)],
    "1": [(0.5, 0), (0.5, 2)],
    "2": [(0, 0), (1, 0), (1, 1), (0, 1), (0, 2), (1, 2)],
    "3": [(0, 0), (1, 0), (1, 1), (0.2, 1), (1, 1), (1, 2), (0, 2)],
    "5": [(1, 0), (0, 0), (0, 1), (1, 1), (1, 2), (0, 2)],
    "6": [(1, 0), (0, 0), (0, 2), (1, 2), (1, 1), (0, 1)],
    "7": [(0, 0), (1, 0), (0.4, 2)],
}


@dataclass
class Airport(Scene):
    """Across the runway (`v`, metres): runway at 0, taxiways, the apron with its lane and stands, buildings."""

    frame: Frame = field(default_factory=Frame)
    taxiways: tuple[float, ...] = ()
    connectors: tuple[tuple[float, float], ...] = ()
    apron: float = 0.0
    lane: float = 0.0
    rows: tuple[float, ...] = ()
    pitch: float = 60.0
    threshold: float = 0.0

    def paint(self, canvas: Canvas) -> None:
        rng = np.random.default_rng(self.seed)
        colours = ramp(rng, rng.uniform(0.2, 1.0))
        reach = self.radius + abs(self.frame.into([(0, 0)])[0, 0]) + 20
        canvas.everywhere(colours["grass"], GRASS)
        self._paint_grass(canvas, rng, colours, reach)
        tar = shade((74, 80, 86), rng.uniform(0.85, 1.12))
        self._paint_apron(canvas, rng, reach)
        self._paint_taxiways(canvas, rng, colours, tar, reach)
        self._paint_runway(canvas, rng, tar, reach)
        self._paint_buildings(canvas, rng, colours, reach)

    def _paint_grass(self, canvas, rng, colours, reach) -> None:
        f = self.frame
        for _ in range(14):  # mown strips and worn ground
            u, v = rng.uniform(-reach, reach), rng.uniform(-reach, self.apron)
            patch = rounded(f.rect(u, u + rng.uniform(60, 300), v, v + rng.uniform(15, 60)), 12)
            canvas.fill(patch, shade(colours["grass"], rng.uniform(0.9, 1.12)), GRASS)
        far = -rng.uniform(90, 160)
        road(canvas, f.out([(-reach, far), (reach, far)]), 5, (122, 118, 112), lines=False)
        for u in np.arange(-reach, reach, 60):
            if rng.random() < 0.5:
                grove(
                    canvas,
                    rng,
                    f.out([(u, far - rng.uniform(40, 160))])[0],
                    rng.uniform(15, 50),
                    colours["tree"],
                    self.sun,
                )

    def _paint_taxiways(self, canvas, rng, colours, tar, reach) -> None:
        f = self.frame
        last = self.taxiways[-1]
        canvas.fill(f.rect(-reach, reach, 0, last + 21), tar, ASPHALT)
        for u in np.arange(-reach, reach, 90):  # resurfaced stretches
            patch = f.rect(u, u + rng.uniform(30, 90), last - 15, last + 15)
            canvas.fill(patch, shade(tar, rng.uniform(0.9, 1.12)), ASPHALT)
        stations = (0.0, *self.taxiways)
        us = [(-reach - 200, 0.0), *self.connectors, (reach + 200, 0.0)]
        for low, high in pairwise(stations):
            v0, v1 = low + (31 if low == 0 else 17), high - 17
            for (ua, sa), (ub, sb) in pairwise(us):
                left, right = ua + 17, ub - 17
                island = [(left + sa * v0, v0), (right + sb * v0, v0), (right + sb * v1, v1), (left + sa * v1, v1)]
                if right - left < 20:
                    continue
                outline = rounded(f.out(island), 0.47 * (v1 - v0) if v1 - v0 < 70 else 38)
                canvas.fill(outline, shade(colours["grass"], rng.uniform(0.92, 1.08)), GRASS)
                canvas.stroke(outline, 1.3, shade(tar, 1.35), ASPHALT, closed=True)
                if high - low > 90:
                    worn = rounded(f.out(np.array(island) * 0.6 + np.mean(island, 0) * 0.4), 20)
                    bare = 0.6 * np.array(colours["grass"]) + 0.4 * np.array(colours["soil"])
                    canvas.fill(worn, bare * rng.uniform(0.86, 0.98), SOIL)
        line = (150, 142, 112)
        for v in self.taxiways:
            canvas.stroke(f.out([(-reach, v), (reach, v)]), 0.55, line, PAINT)
        top = self.lane
        for u, s in self.connectors:
            canvas.stroke(f.out([(u, 30), (u + s * last, last)]), 0.5, line, PAINT)
            for v in self.taxiways:
                for side in (-1, 1):
                    for end in (30 if v == self.taxiways[0] else self.taxiways[0], top if v == last else last):
                        turn = fillet([(u + s * v + side * 90, v), (u + s * v, v), (u + s * end, end)], 38)
                        canvas.stroke(f.out(turn), 0.45, line, PAINT)
            canvas.stroke(
                f.out([(u + s * 48 - 15, 48), (u + s * 48 + 15, 48)]), 0.9, (170, 160, 120), PAINT
            )  # hold short

    def _paint_runway(self, canvas, rng, tar, reach) -> None:
        f, white = self.frame, (206, 208, 206)
        canvas.fill(f.rect(-reach, reach, -30, 30), shade(tar, 1.16), ASPHALT)
        canvas.fill(f.rect(-reach, reach, -22.5, 22.5), shade(tar, 0.92), ASPHALT)
        canvas.fill(f.rect(-reach, reach, -12, 12), shade(tar, 0.82), ASPHALT)  # rubber
        canvas.fill(f.rect(-reach, reach, -6, 6), shade(tar, 0.72), ASPHALT)
        for side in (-1, 1):
            canvas.stroke(f.out([(-reach, side * 21.5), (reach, side * 21.5)]), 0.9, white, PAINT)
        dashes(canvas, f.out([(-reach, 0), (reach, 0)]), 0.9, white, 30, 20)
        u = self.threshold
        for v in np.arange(-19.5, 20, 3.6):  # threshold bars
            if abs(v) > 2:
                canvas.fill(f.rect(u, u + 30, v - 0.9, v + 0.9), white, PAINT)
        for k, digit in enumerate(str(rng.choice(["05", "23", "07", "25", "36", "02", "33"]))):
            strokes = (np.array(_SEGMENTS.get(digit, _SEGMENTS["0"])) - (0.5, 1)) * (5.5, 5.5)
            turned = np.stack([u + 46 - strokes[:, 1], -5 + 10 * k + strokes[:, 0]], 1)
            canvas.stroke(f.out(turned), 1.6, white, PAINT)
        for k, n in enumerate((3, 0, 2, 2, 1, 1)):  # touchdown zone, and the aiming point at 400 m
            at = u + 150 + 150 * k
            if n == 0:
                at, n = u + 400, 1
            for j in range(n):
                for side in (-1, 1):
                    v = side * (9 + 3 * j)
                    wide = 3.2 if at == u + 400 else 1.0
                    canvas.fill(f.rect(at, at + (45 if wide > 2 else 22.5), v - wide, v + wide), white, PAINT)

    def _paint_apron(self, canvas, rng, reach) -> None:
        f, v0 = self.frame, self.apron
        end = self.rows[-1] + self.pitch * 0.9
        pale = shade((158, 159, 160), rng.uniform(0.86, 1.08))
        canvas.fill(f.rect(-reach, reach, v0 - 4, end), pale, CONCRETE)
        for u in np.arange(-reach, reach, 22.5):  # bays poured in different years
            canvas.fill(f.rect(u, u + 22.5, v0, end), shade(pale, rng.uniform(0.9, 1.09)), CONCRETE)
        for _ in range(int(reach / 18)):
            u, v = rng.uniform(-reach, reach), rng.uniform(v0, end)
            w, h = rng.choice([7.5, 15, 30, 45]), rng.choice([7.5, 15, 22.5])
            canvas.fill(f.rect(u, u + w, v, v + h), shade(pale, rng.uniform(0.84, 1.1)), CONCRETE)
        joint = shade(pale, 0.86)
        for u in np.arange(-reach, reach, 7.5):
            canvas.stroke(f.out([(u, v0), (u, end)]), 0.3, joint, CONCRETE)
        for v in np.arange(v0, end, 7.5):
            canvas.stroke(f.out([(-reach, v), (reach, v)]), 0.3, joint, CONCRETE)
        if rng.random() < 0.6:  # an asphalt lane across the concrete
            canvas.fill(f.rect(-reach, reach, self.lane - 19, self.lane + 19), (96, 101, 107), ASPHALT)
        canvas.stroke(f.out([(-reach, self.lane), (reach, self.lane)]), 0.5, (148, 138, 104), PAINT)
        for stand in self.stands:
            u, v = f.into([(stand.x, stand.y)])[0]
            if v < v0:
                continue
            lead = fillet([(u - 60, self.lane), (u, self.lane), (u, v)], 30)
            canvas.stroke(f.out(lead), 0.4, (150, 140, 100), PAINT)
            for _ in range(3):  # oil and exhaust
                spot = f.out([(u + rng.normal(0, 7), v + rng.normal(0, 9))])[0]
                canvas.disk(spot, rng.uniform(0.8, 3.2), shade(pale, rng.uniform(0.7, 0.86)), CONCRETE)
            for _ in range(rng.integers(2, 7)):  # carts, steps and trucks
                w, h = rng.uniform(1.5, 5), rng.uniform(1.2, 2.4)
                spot = np.array(
                    [u + rng.choice([-1, 1]) * rng.uniform(0.32, 0.5) * self.pitch, v + rng.normal(0, 0.2 * self.pitch)]
                )
                body = f.rect(spot[0], spot[0] + w, spot[1], spot[1] + h)
                canvas.fill(body + np.asarray(self.sun) * 1.6, shade(pale, 0.6), CONCRETE)
                tone = ((210, 208, 200), (92, 96, 102), (168, 140, 84), (70, 84, 110))[rng.integers(4)]
                canvas.fill(body, tone, PAINT)

    def _paint_buildings(self, canvas, rng, colours, reach) -> None:
        f, sun = self.frame, self.sun
        v = self.rows[-1] + self.pitch * 0.62
        canvas.fill(f.rect(-reach, reach, v + 16, v + 26), (98, 100, 104), ASPHALT)
        u = -reach
        while u < reach:
            length, depth = rng.uniform(50, 190), rng.uniform(28, 55)
            building(
                canvas,
                rng,
                f.out([(u + length / 2, v + 30 + depth / 2)])[0],
                (length, depth),
                f.angle,
                rng.uniform(9, 22),
                sun,
            )
            u += length + rng.uniform(8, 60)
        back = v + 100
        road(canvas, f.out([(-reach, back), (reach, back)]), 12)
        for u in np.arange(-reach, reach, 95):
            centre = f.out([(u + 45, back + 45)])[0]
            kind = rng.random()
            if kind < 0.4:
                car_park(canvas, rng, centre, (80, rng.uniform(35, 60)), f.angle, sun)
            elif kind < 0.75:
                for k in range(3):
                    spot = f.out([(u + 18 + 28 * k, back + rng.uniform(25, 60))])[0]
                    building(canvas, rng, spot, rng.uniform(14, 30, 2), f.angle, rng.uniform(5, 14), sun)
            else:
                grove(canvas, rng, centre, 35, colours["tree"], sun)
        for u in np.arange(-reach, reach, 70):
            grove(canvas, rng, f.out([(u, back + rng.uniform(110, 260))])[0], rng.uniform(25, 60), colours["tree"], sun)


def plan_airport(rng: np.random.Generator, half: tuple[float, float], sun, category: str, room: float) -> Airport:
    """Lays out an airport around the frame, its stands wide enough for aircraft of `room` metres."""
    pitch = max(36.0, 1.12 * room)
    angle = rng.uniform(0, 2 * np.pi)
    taxiways = [rng.uniform(110, 165)]
    if rng.random() < 0.7:
        taxiways.append(taxiways[0] + rng.uniform(82, 100))
    apron = taxiways[-1] + rng.uniform(24, 40)
    lane = apron + 0.72 * pitch
    rows = [lane + 0.78 * pitch]
    near = min(half) / max(half) > 0.3 and rng.random() < 0.5
    # The view: between the first taxiway and the stands, so that both are in it.
    centre = rng.uniform(0.35, 0.75)
    v = taxiways[-1] + centre * (rows[0] - taxiways[-1])
    scene = Airport(half, sun, int(rng.integers(2**31)), kind="airport")
    scene.frame = Frame(angle, tuple(-Frame(angle).out([(0, v)])[0]))
    radius = scene.radius
    scene.taxiways, scene.apron, scene.lane, scene.rows, scene.pitch = tuple(taxiways), apron, lane, tuple(rows), pitch
    us, u = [], -radius + rng.uniform(0, 150)
    while u < radius:
        us.append((u, float(rng.choice([0, 0, 0, 0.25, -0.25]))))
        u += rng.uniform(145, 320)
    scene.connectors = tuple(us)
    scene.threshold = rng.uniform(-0.6, 0.6) * radius
    f = scene.frame
    for u in np.arange(-radius, radius, pitch):
        if rng.random() < 0.9:
            x, y = f.out([(u, rows[0])])[0]
            scene.stands.append(Stand(x, y, f.angle + np.pi / 2 + rng.normal(0, 0.03), room, AIRCRAFT))
    if near:  # remote stands between the taxiway and the lane, for smaller aircraft
        for u in np.arange(-radius, radius, 0.8 * pitch):
            if rng.random() < 0.4:
                x, y = f.out([(u, lane - 0.42 * pitch)])[0]
                scene.stands.append(Stand(x, y, f.angle - np.pi / 2 + rng.normal(0, 0.05), 0.55 * room, AIRCRAFT))
    far = radius + 150
    ways = [[(-far, v), (far, v)] for v in (*taxiways, lane)]
    for (ua, sa), (ub, sb) in pairwise(us):
        a, last = taxiways[0], taxiways[-1]
        ways.append([(-far, lane), (ua + sa * last, lane), (ua + sa * last, a), (ub + sb * last, a), (far, a)])
        ways.append([(ua + sa * -5, 0), (ua + sa * a, a), (far, a)])
        ways.append([(ub + sb * last, 0), (ub + sb * last, lane), (far, lane)])
    for way in ways:
        path = Path(f.out(fillet(way, 38)))
        scene.lanes.append(Lane(path if rng.random() < 0.5 else path.reversed(), AIRCRAFT))
    roll = Path(f.out([(-radius, 0), (radius, 0)]))
    scene.lanes.append(Lane(roll, AIRCRAFT, pace=rng.uniform(1.5, 3.0)))
    for v in (apron + 6, rows[0] + 0.62 * pitch + 20):
        way = Path(f.out([(-radius, v), (radius, v)]))
        scene.clutter += [Lane(way.shifted(2), ("large car",)), Lane(way.reversed().shifted(2), ("small car",))]
    return scene
