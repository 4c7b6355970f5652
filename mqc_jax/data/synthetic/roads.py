"""Roads and rail: a dual carriageway, streets and blocks or open country, a railway, and an overpass across both."""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from mqc_jax.data.synthetic.canvas import ASPHALT, CONCRETE, FOREST, GRASS, GRAVEL, PAINT, SMOOTH, Canvas
from mqc_jax.data.synthetic.drawing import shade
from mqc_jax.data.synthetic.ground import building, car_park, dashes, fields, grove, ramp, road, trees
from mqc_jax.data.synthetic.motion import Path
from mqc_jax.data.synthetic.scene import Frame, Lane, Scene, Stand
from mqc_jax.data.synthetic.silhouettes import CARS, TRAINS

_LANE = 3.7
_TRACK = 4.6


@dataclass
class Roads(Scene):
    """The carriageway runs along `u` at `v = 0` with a gentle bend; the railway is beside it (metres)."""

    frame: Frame = field(default_factory=Frame)
    bend: float = 0.0
    lanes_a_side: int = 2
    median: float = 4.0
    rail: float | None = None
    tracks: int = 2
    streets: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())
    rural: bool = False
    overpass: float | None = None
    deck: float = 14.0

    def curve(self, v: float, u0: float | None = None, u1: float | None = None) -> np.ndarray:
        """The way at `v` metres from the carriageway's middle, in world metres."""
        reach = self.radius + 30
        u = np.arange(-reach if u0 is None else u0, reach if u1 is None else u1, 8.0)
        middle = self.bend * u**2
        slope = 2 * self.bend * u
        norm = np.sqrt(1 + slope**2)
        return self.frame.out(np.stack([u - v * slope / norm, middle + v / norm], 1))

    @property
    def half_width(self) -> float:
        return self.median / 2 + self.lanes_a_side * _LANE

    def paint(self, canvas: Canvas) -> None:
        rng = np.random.default_rng(self.seed)
        colours = ramp(rng, rng.uniform(0.0, 1.0))
        canvas.everywhere(colours["grass"], GRASS)
        reach = self.radius + 20
        if self.rural:
            fields(canvas, rng, reach, colours, self.frame.angle + rng.normal(0, 0.3))
            for _ in range(12):
                spot = rng.uniform(-reach, reach, 2)
                grove(canvas, rng, spot, rng.uniform(10, 45), colours["tree"], self.sun)
        else:
            self._paint_blocks(canvas, rng, colours, reach)
        for u in self.streets[0]:
            road(canvas, self.frame.out([(u, -reach), (u, reach)]), 9.0, shade((100, 102, 105), rng.uniform(0.9, 1.1)))
        for v in self.streets[1]:
            road(canvas, self.curve(v), 9.0, shade((100, 102, 105), rng.uniform(0.9, 1.1)))
        self._paint_verge(canvas, rng, colours)
        if self.rail is not None:
            self._paint_rail(canvas, rng)
        self._paint_carriageway(canvas, rng, colours)
        if self.overpass is not None:
            self._paint_overpass(canvas, rng, reach)

    def _reserved(self, u: float, v: float, room: float) -> bool:
        """Whether something of radius `room` metres would stand on the carriageway, the railway or the overpass."""
        v -= self.bend * u**2
        high = self.half_width if self.rail is None else self.rail + self.tracks * _TRACK
        crossing = self.overpass is not None and abs(u - self.overpass) < self.deck / 2 + 8 + room
        return -self.half_width - 8 - room < v < high + 8 + room or crossing

    def _paint_blocks(self, canvas, rng, colours, reach) -> None:
        f, sun = self.frame, self.sun
        us, vs = ([-reach, *s, reach] for s in self.streets)
        for u0, u1 in pairwise(us):
            for v0, v1 in pairwise(vs):
                middle = f.out([((u0 + u1) / 2, (v0 + v1) / 2)])[0]
                if np.hypot(*middle) > reach + 0.7 * max(u1 - u0, v1 - v0):
                    continue
                use = rng.random()
                inner = (u0 + 9, u1 - 9, v0 + 9, v1 - 9)
                ground = colours["grass"] if use < 0.5 else shade((124, 121, 116), rng.uniform(0.85, 1.08))
                canvas.fill(f.rect(u0 + 6, u1 - 6, v0 + 6, v1 - 6), ground, GRASS if use < 0.5 else CONCRETE)
                if use < 0.42:
                    self._houses(canvas, rng, colours, inner)
                elif use < 0.5:
                    for _ in range(int((u1 - u0) * (v1 - v0) / 1500)):
                        at = (rng.uniform(*inner[:2]), rng.uniform(*inner[2:]))
                        if not self._reserved(*at, 16):
                            grove(canvas, rng, f.out([at])[0], rng.uniform(8, 18), colours["tree"], sun)
                else:
                    self._works(canvas, rng, colours, inner)

    def _houses(self, canvas, rng, colours, inner) -> None:
        u0, u1, v0, v1 = inner
        roof = ((140, 116, 104), (124, 124, 126), (150, 138, 126), (110, 112, 118))[rng.integers(4)]
        for v in np.arange(v0 + 8, v1 - 6, 25):
            for u in np.arange(u0 + 8, u1 - 6, rng.uniform(17, 22)):
                at = np.array([u, v]) + rng.normal(0, 1.2, 2)
                if self._reserved(*at, 8):
                    continue
                if rng.random() < 0.85:
                    size = (rng.uniform(9, 14), rng.uniform(7.5, 11))
                    building(
                        canvas, rng, self.frame.out([at])[0], size, self.frame.angle, rng.uniform(4, 8), self.sun, roof
                    )
                n = rng.integers(1, 5)
                spots = self.frame.out(at + rng.uniform(-10, 10, (n, 2)) + (0, 11))
                trees(canvas, rng, spots, (1.6, 4.2), colours["tree"], self.sun)

    def _works(self, canvas, rng, colours, inner) -> None:
        u0, u1, v0, v1 = inner
        u = u0 + 3
        while u < u1 - 18:
            length = min(rng.uniform(22, 62), u1 - u - 3)
            v = v0 + 3
            while v < v1 - 14:
                depth = min(rng.uniform(16, 42), v1 - v - 3)
                spot = self.frame.out([(u + length / 2, v + depth / 2)])[0]
                use = 0.9 if self._reserved(u + length / 2, v + depth / 2, max(length, depth) / 2) else rng.random()
                if use == 0.9:
                    pass
                elif use < 0.68:
                    tall = rng.uniform(6, 14) if use < 0.5 else rng.uniform(18, 40)
                    building(canvas, rng, spot, (length, depth), self.frame.angle, tall, self.sun)
                elif use < 0.86:
                    car_park(canvas, rng, spot, (length, depth), self.frame.angle, self.sun, rng.uniform(0.2, 0.8))
                else:
                    grove(canvas, rng, spot, 0.4 * depth, colours["tree"], self.sun)
                v += depth + rng.uniform(3, 9)
            u += length + rng.uniform(4, 10)

    def _paint_verge(self, canvas, rng, colours) -> None:
        wide = 2 * self.half_width
        canvas.lit_along(self.curve(0), wide + 26)
        canvas.stroke(self.curve(0), wide + 26, shade(colours["grass"], 0.95), GRASS)
        for side in (-1, 1):
            line = self.curve(side * (self.half_width + 8.5))
            spots = line[rng.random(len(line)) < 0.45] + rng.normal(0, 1.5, 2)
            trees(canvas, rng, spots, (1.8, 3.6), colours["tree"], self.sun)

    def _paint_carriageway(self, canvas, rng, colours) -> None:
        half, white = self.half_width, (196, 197, 193)
        tar = shade((98, 101, 105), rng.uniform(0.82, 1.18))
        canvas.stroke(self.curve(0), 2 * half + 5, shade(tar, 1.12), ASPHALT)
        canvas.stroke(self.curve(0), 2 * half + 0.5, tar, ASPHALT)
        for side in (-1, 1):
            for k in range(self.lanes_a_side):  # worn wheel tracks
                v = side * (self.median / 2 + (k + 0.5) * _LANE)
                canvas.stroke(self.curve(v), 2.2, shade(tar, 0.93), ASPHALT)
            for k in range(1, self.lanes_a_side):
                dashes(canvas, self.curve(side * (self.median / 2 + k * _LANE)), 0.3, white, 6, 9)
            canvas.stroke(self.curve(side * half), 0.35, white, PAINT)
            canvas.stroke(self.curve(side * self.median / 2), 0.35, white, PAINT)
        canvas.stroke(self.curve(0), 0.8 * self.median, shade(colours["dark"], 1.15), FOREST)

    def _paint_rail(self, canvas, rng) -> None:
        middle, bed = self.rail + 0.5 * (self.tracks - 1) * _TRACK, self.tracks * _TRACK
        canvas.lit_along(self.curve(middle), bed + 9)
        canvas.stroke(self.curve(middle), bed + 9, (104, 104, 88), GRASS)  # cleared embankment
        canvas.stroke(self.curve(middle), bed + 2.6, (134, 127, 120), GRAVEL)
        for k in range(self.tracks):
            v = self.rail + k * _TRACK
            canvas.stroke(self.curve(v), 2.7, (86, 79, 75), GRAVEL)  # sleepers, stained by brakes
            for side in (-0.72, 0.72):
                canvas.stroke(self.curve(v + side), 0.3, (170, 168, 166), SMOOTH)
        masts = self.curve(self.rail - 3.4)[::6]
        for xy in masts:
            canvas.stroke([xy, xy + np.asarray(self.sun) * 7], 0.4, (74, 74, 74), SMOOTH)

    def _paint_overpass(self, canvas, rng, reach) -> None:
        f, u, w, sun = self.frame, self.overpass, self.deck / 2, np.asarray(self.sun)
        deck = f.rect(u - w, u + w, -reach, reach)
        span = self.decks[0]
        canvas.fill(f.rect(u - w - 5, u + w + 5, -reach, reach), (112, 112, 96), GRASS)
        self._open_under(canvas, span)
        canvas.shadow(span + sun * self.deck_height, 0.55)
        canvas.lit(deck)
        canvas.fill(deck, (166, 164, 158), CONCRETE)
        canvas.fill(
            f.rect(u - w + 1.2, u + w - 1.2, -reach, reach), shade((104, 106, 109), rng.uniform(0.9, 1.2)), ASPHALT
        )
        canvas.stroke(f.out([(u, -reach), (u, reach)]), 0.5, (190, 186, 160), PAINT)
        for side in (-0.5, 0.5):
            dashes(canvas, f.out([(u + side * w, -reach), (u + side * w, reach)]), 0.3, (186, 186, 180), 6, 9)

    def _open_under(self, canvas, span) -> None:
        """Redraws the ways that pass below the deck over its embankment."""
        low, high = self.overpass - self.deck / 2 - 8, self.overpass + self.deck / 2 + 8
        canvas.stroke(self.curve(0, low, high), 2 * self.half_width + 3, (98, 101, 105), ASPHALT)
        if self.rail is not None:
            for k in range(self.tracks):
                canvas.stroke(self.curve(self.rail + k * _TRACK, low, high), 5.2, (112, 105, 99), GRAVEL)


def plan_roads(
    rng: np.random.Generator, half: tuple[float, float], sun, category: str, room: float, bridge: bool | None = None
) -> Roads:
    """Lays out roads around the frame; `bridge` asks for an overpass (True), forbids it, or leaves it to chance."""
    scene = Roads(half, sun, int(rng.integers(2**31)), kind="roads")
    short = min(half)
    scene.rural = rng.random() < (0.55 if category in TRAINS else 0.25)
    train = category in TRAINS
    if train or rng.random() < 0.35:
        scene.tracks = int(rng.integers(2, 5)) if train else 2
        scene.rail = rng.uniform(35, 60)
        scene.kind = "roads_and_rail"
    offset = scene.rail * 0.8 if train else rng.uniform(-0.3, 0.3) * short
    angle = rng.uniform(0, 2 * np.pi)
    scene.frame = f = Frame(angle, tuple(-Frame(angle).out([(0, offset)])[0]))
    radius = scene.radius
    scene.bend = rng.uniform(-1, 1) * 0.07 / radius
    scene.lanes_a_side = int(rng.integers(2, 4))
    scene.median = rng.uniform(3, 9)
    clear = scene.half_width + 22
    if not scene.rural:
        rail_side = (scene.rail or 0) + scene.tracks * _TRACK
        scene.streets = (
            _spread(rng, radius, 85, 150),
            tuple(v for v in _spread(rng, radius, 70, 130) if not -clear - 10 < v < max(clear, rail_side + 16)),
        )
    has_bridge = bridge is True or (bridge is None and rng.random() < 0.45)
    if has_bridge:
        scene.overpass = rng.uniform(-0.4, 0.4) * short
        scene.deck = rng.uniform(10, 19)
        scene.deck_height = rng.uniform(6, 9)
        scene.streets = (tuple(u for u in scene.streets[0] if abs(u - scene.overpass) > 40), scene.streets[1])
        top = clear if scene.rail is None else scene.rail + scene.tracks * _TRACK + 6
        w = scene.deck / 2
        bend = scene.bend * scene.overpass**2
        scene.decks.append(f.rect(scene.overpass - w, scene.overpass + w, -clear + bend, top + bend))

    # Streets on the ground stop at the carriageway: traffic uses the ways along it, and the deck over it.
    def lane(points, classes, level=0, pace=1.0):
        path = Path(points)
        crossings = ()
        if has_bridge and level == 0:
            s = np.arange(0, path.length, 1.0)
            side = f.into(path.at(s))[:, 0] - scene.overpass
            crossings = tuple(float(x) for x in s[1:][side[1:] * side[:-1] <= 0])
        scene.lanes.append(Lane(path, classes, crossings, level, pace))

    for k in range(scene.lanes_a_side):
        v = scene.median / 2 + (k + 0.5) * _LANE
        lane(scene.curve(v), CARS, pace=1.1)
        lane(scene.curve(-v)[::-1], CARS, pace=1.1)
    if scene.rail is not None:
        for k in range(min(2, scene.tracks)):
            points = scene.curve(scene.rail + k * _TRACK)
            lane(points if k % 2 == 0 else points[::-1], TRAINS)
        for k in range(2, scene.tracks):  # sidings
            points = scene.curve(scene.rail + k * _TRACK)
            for at in rng.uniform(0.25, 0.75, 2) if k % 2 else rng.uniform(0.4, 0.6, 1):
                i = int(at * (len(points) - 2))
                step = points[i + 1] - points[i]
                x, y = points[i]
                scene.stands.append(Stand(x, y, float(np.arctan2(step[1], step[0])), 25.0, TRAINS))
    if has_bridge:
        for side in (-1, 1):
            u = scene.overpass + side * scene.deck / 4
            ends = [(u, -radius), (u, radius)]
            lane(f.out(ends[::-side]), CARS, level=1, pace=0.8)
    for v in scene.streets[1]:
        for side in (-1, 1):
            points = scene.curve(v + side * 1.9)
            lane(points if side > 0 else points[::-1], CARS, pace=0.6)
        _kerb(rng, scene, scene.curve(v), 5.6, room, has_bridge)
    for u in scene.streets[0]:
        _kerb(rng, scene, f.out(np.stack([np.full(60, u), np.linspace(-radius, radius, 60)], 1)), 5.6, room, has_bridge)
    _kerb(rng, scene, scene.curve(0), scene.half_width + 1.4, room, has_bridge, 0.03)
    return scene


def _spread(rng, radius, low, high) -> tuple[float, ...]:
    out, x = [], -radius + rng.uniform(0, low)
    while x < radius:
        out.append(x)
        x += rng.uniform(low, high)
    return tuple(out)


def _kerb(
    rng, scene: Roads, line: np.ndarray, offset: float, room: float, bridged: bool, density: float = 0.035
) -> None:
    """Parked cars along both sides of a way, clear of the carriageway and of the deck."""
    path = Path(line)
    for side in (-1, 1):
        beside = path.shifted(side * offset)
        s = np.arange(4, beside.length - 4, room + 1.5)
        s = s[rng.random(len(s)) < density * (room + 1.5)]
        for (x, y), ahead in zip(beside.at(s), beside.at(s + 1) - beside.at(s - 1), strict=True):
            u, v = scene.frame.into([(x, y)])[0]
            close = abs(v - scene.bend * u**2) < scene.half_width + 5 and offset < scene.half_width
            if close or (bridged and abs(u - scene.overpass) < scene.deck / 2 + 8):
                continue
            heading = float(np.arctan2(ahead[1], ahead[0])) + (np.pi if side > 0 else 0.0)
            scene.stands.append(Stand(x, y, heading, room, CARS))
