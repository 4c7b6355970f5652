"""Things that stand on or cover the ground in every scene: buildings, trees, car parks, fields."""

from itertools import pairwise

import cv2
import numpy as np

from mqc_jax.data.synthetic.canvas import ASPHALT, FIELD, FOREST, GRASS, PAINT, ROOF, SMOOTH, SOIL, Canvas
from mqc_jax.data.synthetic.drawing import shade
from mqc_jax.data.synthetic.motion import rotate

ROOFS = (
    (168, 168, 166), (150, 150, 152), (188, 188, 186), (126, 124, 124), (204, 205, 206), (150, 132, 118),
    (140, 118, 108), (124, 132, 142), (108, 108, 110), (178, 172, 160),
)  # fmt: skip
CARS = ((205, 206, 208), (150, 154, 158), (58, 60, 64), (96, 100, 106), (128, 62, 58), (70, 84, 112), (222, 222, 220))


def ramp(rng: np.random.Generator, dry: float) -> dict[str, tuple[float, float, float]]:
    """The season's vegetation colours; `dry` in [0, 1] goes from green to brown."""
    green, brown = np.array([84, 90, 74.0]), np.array([106, 99, 90.0])
    base = green + (brown - green) * dry + rng.normal(0, 3, 3)
    return {
        "grass": tuple(base),
        "dark": tuple(base * (0.62, 0.68, 0.66)),
        "tree": tuple(base * (0.5, 0.6, 0.52)),
        "soil": tuple(np.array([122, 119, 107.0]) + rng.normal(0, 4, 3)),
    }


def swept(points, offset) -> np.ndarray:
    """The convex outline of a convex polygon swept along `offset`: the shadow of a prism."""
    both = np.vstack([points, np.asarray(points) + offset]).astype(np.float32)
    return cv2.convexHull(both)[:, 0].astype(np.float64)


def building(
    canvas: Canvas, rng: np.random.Generator, centre, size, angle: float, height: float, sun, roof=None
) -> None:
    """A block with a roof, its shadow, a lit parapet and roof furniture. `size` is (length, width) in metres."""
    a, b = size[0] / 2, size[1] / 2
    corners = np.array([(-a, -b), (a, -b), (a, b), (-a, b)])
    place = rotate(corners, angle) + centre
    roof = shade(ROOFS[rng.integers(len(ROOFS))] if roof is None else roof, rng.uniform(0.85, 1.1))
    canvas.shadow(swept(place, np.asarray(sun) * height), 0.58)
    canvas.lit(place)
    canvas.fill(place, shade(roof, 1.12), ROOF)
    rim = min(0.8, 0.1 * min(a, b))
    canvas.fill(rotate(corners * ((a - rim) / a, (b - rim) / b), angle) + centre, roof, ROOF)
    kind = rng.random()
    if kind < 0.3 and min(a, b) < 12:  # a ridge: one slope is in the light
        half = rotate([(-a, 0), (a, 0), (a, b), (-a, b)], angle) + centre
        canvas.fill(half, shade(roof, 0.8), ROOF)
    elif kind < 0.55 and a > 8:  # ribs or skylights
        for x in np.arange(-a + 3, a - 2, rng.uniform(4, 9)):
            canvas.stroke(rotate([(x, -0.85 * b), (x, 0.85 * b)], angle) + centre, 0.8, shade(roof, 0.87), ROOF)
    if min(a, b) > 5:
        for _ in range(int(rng.integers(1, 3 + int(a * b / 60)))):
            w, h = rng.uniform(0.8, 3.2, 2)
            x, y = rng.uniform(-0.8, 0.8, 2) * (a, b)
            box = rotate(np.array([(-w, -h), (w, -h), (w, h), (-w, h)]) / 2 + (x, y), angle) + centre
            canvas.fill(box + np.asarray(sun) * 1.5, shade(roof, 0.55), ROOF)
            canvas.fill(box, shade(roof, rng.uniform(0.75, 1.25)), ROOF)


def trees(canvas: Canvas, rng: np.random.Generator, places: np.ndarray, radius: tuple[float, float], rgb, sun) -> None:
    """Crowns at `places` `[N, 2]`: a cast shadow, a dark side and a lit side."""
    light = -np.asarray(sun) / (np.linalg.norm(sun) + 1e-6)
    radii = rng.uniform(*radius, len(places))
    tones = rng.uniform(0.75, 1.25, len(places))
    for xy, r in zip(places, radii, strict=True):
        canvas.shadow_disk(xy + np.asarray(sun) * r * 1.3, r, 0.5)
    for xy, r, tone in zip(places, radii, tones, strict=True):
        canvas.disk(xy, r, shade(rgb, 0.72 * tone), FOREST)
        canvas.disk(xy + light * 0.3 * r, 0.62 * r, shade(rgb, 1.12 * tone), FOREST)


def grove(canvas: Canvas, rng: np.random.Generator, centre, spread: float, rgb, sun) -> None:
    """A clump of trees with a ragged outline."""
    n = int(np.clip(0.02 * spread**2, 6, 220))
    angle = rng.uniform(0, 2 * np.pi, n)
    lobes = 1 + 0.35 * np.sin(angle * rng.integers(2, 5) + rng.uniform(0, 6))
    distance = spread * np.sqrt(rng.uniform(0, 1, n)) * lobes
    places = np.asarray(centre) + np.stack([np.cos(angle), np.sin(angle)], 1) * distance[:, None]
    trees(canvas, rng, places, (2.2, 5.0), rgb, sun)


def car_park(canvas: Canvas, rng: np.random.Generator, centre, size, angle: float, sun, full: float = 0.6) -> None:
    """A paved lot with rows of small cars that are texture here, not annotated objects."""
    a, b = size[0] / 2, size[1] / 2
    place = lambda p: rotate(p, angle) + centre  # noqa: E731
    canvas.fill(place([(-a, -b), (a, -b), (a, b), (-a, b)]), (104, 106, 110), ASPHALT)
    for v in np.arange(-b + 4, b - 2, 8.5):
        for u in np.arange(-a + 3, a - 2, 2.9):
            if rng.random() < full:
                rgb = CARS[rng.integers(len(CARS))]
                box = np.add([(-0.9, -2.2), (0.9, -2.2), (0.9, 2.2), (-0.9, 2.2)], (u, v))
                canvas.fill(place(box) + np.asarray(sun) * 1.2, (66, 68, 72), ASPHALT)
                canvas.fill(place(box), rgb, SMOOTH)
                canvas.fill(place(0.5 * (box + np.array([u, v]))), shade(rgb, 0.62), SMOOTH)


def road(canvas: Canvas, points, width: float, rgb=(96, 98, 102), lines: bool = True) -> None:
    """A paved way with a pale verge and, where it is wide enough, lane markings."""
    canvas.stroke(points, width + 2.4, shade(rgb, 1.18), SOIL)
    canvas.stroke(points, width, rgb, ASPHALT)
    if lines and width > 6:
        dashes(canvas, points, 0.35, (186, 186, 178), 6, 9)


def dashes(canvas: Canvas, points, width: float, rgb, on: float, off: float, material=PAINT) -> None:
    """A dashed line along a polyline: `on` metres drawn, `off` metres left out."""
    points = np.asarray(points, np.float64)
    arc = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    for s in np.arange(0, arc[-1] - on, on + off):
        at = np.linspace(s, s + on, 3)
        xy = np.stack([np.interp(at, arc, points[:, 0]), np.interp(at, arc, points[:, 1])], 1)
        canvas.stroke(xy, width, rgb, material)


def fields(canvas: Canvas, rng: np.random.Generator, radius: float, colours: dict, angle: float) -> None:
    """A patchwork of fields and meadows with furrows and hedges, over the whole disk of `radius` metres."""
    edges = []
    for _ in range(2):
        steps = rng.uniform(70, 190, int(2.4 * radius / 70) + 2)
        edges.append(np.cumsum(steps) - 1.2 * radius)
    kinds = [
        colours["grass"],
        colours["soil"],
        colours["dark"],
        shade(colours["grass"], 1.15),
        shade(colours["soil"], 0.85),
    ]
    for u0, u1 in pairwise(edges[0]):
        for v0, v1 in pairwise(edges[1]):
            if max(abs(u0), abs(v0)) > 1.3 * radius or min(abs(u0), abs(v0)) > 1.3 * radius:
                continue
            rgb = shade(kinds[rng.integers(len(kinds))], rng.uniform(0.88, 1.1))
            corners = rotate(np.array([(u0, v0), (u1, v0), (u1, v1), (u0, v1)]) + rng.normal(0, 5, (4, 2)), angle)
            canvas.fill(corners, rgb, FIELD if rng.random() < 0.7 else GRASS)
            along = rng.random() < 0.5
            if rng.random() < 0.75:  # furrows
                low, high, s0, s1 = (v0, v1, u0, u1) if along else (u0, u1, v0, v1)
                for s in np.arange(low + 4, high - 3, rng.uniform(3.5, 8)):
                    line = [(s0 + 4, s), (s1 - 4, s)] if along else [(s, s0 + 4), (s, s1 - 4)]
                    canvas.stroke(rotate(line, angle), 1.1, shade(rgb, rng.uniform(0.86, 1.08)), FIELD)
            if rng.random() < 0.5:
                canvas.stroke(corners[:2], rng.uniform(1.5, 4), shade(colours["tree"], 1.1), FOREST)
