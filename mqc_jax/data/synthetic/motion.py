"""Where things go: smooth paths in metres, and how far along them an object is at each frame."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


def rotate(points, angle: float) -> np.ndarray:
    """Rotates `[..., 2]` points about the origin by `angle` radians (clockwise on the screen, where y points down)."""
    c, s = np.cos(angle), np.sin(angle)
    return np.asarray(points, np.float64) @ np.array([[c, s], [-s, c]])


def fillet(points, radius: float, step: float = 4.0) -> np.ndarray:
    """Rounds the corners of a polyline `[K, 2]` with circular arcs of the given radius, as a centre line is laid out.

    The radius shrinks where the legs are too short for it. Returns a denser polyline `[M, 2]`.
    """
    points = np.asarray(points, np.float64)
    out = [points[0]]
    for before, corner, after in zip(points[:-2], points[1:-1], points[2:], strict=True):
        a, b = before - corner, after - corner
        la, lb = np.linalg.norm(a), np.linalg.norm(b)
        a, b = a / la, b / lb
        half = 0.5 * np.arccos(np.clip(a @ b, -1, 1))
        if half > np.pi / 2 - 0.01 or half < 0.05:  # nearly straight, or a hairpin that no arc rounds
            out.append(corner)
            continue
        reach = min(radius / np.tan(half), 0.48 * la, 0.48 * lb)
        r = reach * np.tan(half)
        bisector = (a + b) / np.linalg.norm(a + b)
        centre = corner + bisector * r / np.sin(half)
        start, end = corner + a * reach - centre, corner + b * reach - centre
        sweep = np.arctan2(start[0] * end[1] - start[1] * end[0], start @ end)
        n = max(3, int(abs(sweep) * r / step) + 2)
        out.extend(centre + rotate(start, t) for t in np.linspace(0, sweep, n))
    out.append(points[-1])
    return np.array(out)


def rounded(points, radius: float) -> np.ndarray:
    """A closed polygon with rounded corners."""
    points = np.asarray(points, np.float64)
    middle = (points[0] + points[-1]) / 2
    return fillet(np.vstack([middle, points, middle]), radius)[:-1]


def meander(
    rng: np.random.Generator, start, heading: float, length: float, bend: float, step: float = 6.0
) -> np.ndarray:
    """A gently winding course of the given length in metres; `bend` is its typical curvature in radians per 100 m."""
    n = max(4, int(length / step))
    knots = rng.standard_normal(max(4, int(length / 150) + 3)) * bend * step / 100
    turn = np.interp(np.linspace(0, len(knots) - 1, n), np.arange(len(knots)), knots)
    angle = heading + np.cumsum(turn) - 0.5 * turn.sum() * np.linspace(0, 1, n)
    return np.asarray(start, np.float64) + np.cumsum(np.stack([np.cos(angle), np.sin(angle)], 1) * step, 0)


@dataclass(frozen=True)
class Path:
    """A polyline `[K, 2]` in metres that knows its arc length; it continues straight beyond both ends."""

    points: np.ndarray

    @cached_property
    def arc(self) -> np.ndarray:
        return np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(self.points, axis=0), axis=1))])

    @property
    def length(self) -> float:
        return float(self.arc[-1])

    def at(self, s) -> np.ndarray:
        """Positions `[..., 2]` at arc lengths `s` in metres."""
        s, arc, p = np.asarray(s, np.float64), self.arc, self.points
        inside = np.clip(s, 0, arc[-1])
        place = np.stack([np.interp(inside, arc, p[:, 0]), np.interp(inside, arc, p[:, 1])], -1)
        first, last = p[1] - p[0], p[-1] - p[-2]
        first, last = first / np.linalg.norm(first), last / np.linalg.norm(last)
        return place + np.minimum(s, 0)[..., None] * first + np.maximum(s - arc[-1], 0)[..., None] * last

    def shifted(self, offset: float) -> "Path":
        """The parallel path `offset` metres to the right of the direction of travel."""
        tangent = np.gradient(self.points, axis=0)
        tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
        return Path(self.points + offset * np.stack([-tangent[:, 1], tangent[:, 0]], 1))

    def reversed(self) -> "Path":
        return Path(self.points[::-1].copy())


@dataclass(frozen=True)
class Track:
    """How far along its path an object is: at rest until `start_frame`, then speeding up over `ramp` frames.

    Args:
      path: where it goes.
      origin: arc length in metres at frame 0.
      speed: metres per frame when under way; 0 for what never moves.
    """

    path: Path
    origin: float
    speed: float
    start_frame: int = 0
    ramp: int = 0

    def arc_at(self, t) -> np.ndarray:
        """Arc length in metres at frames `t`."""
        since = np.maximum(np.asarray(t, np.float64) - self.start_frame, 0)
        if self.ramp:
            since = np.where(since < self.ramp, since**2 / (2 * self.ramp), since - self.ramp / 2)
        return self.origin + self.speed * since

    def pose(self, t: float, base: float, behind: float = 0.0) -> tuple[float, float, float]:
        """x, y in metres and heading in radians at frame `t`.

        The heading is that of a chord of `base` metres (the wheelbase), so that a long vehicle turns smoothly.
        `behind` is the distance along the path to a towed part.
        """
        s = float(self.arc_at(t)) - behind
        rear, front = self.path.at(np.array([s - base / 2, s + base / 2]))
        x, y = (rear + front) / 2
        return float(x), float(y), float(np.arctan2(front[1] - rear[1], front[0] - rear[0]))


def parked(x: float, y: float, heading: float) -> Track:
    """A track that never moves."""
    ahead = np.array([np.cos(heading), np.sin(heading)])
    here = np.array([x, y])
    return Track(Path(np.stack([here, here + ahead])), 0.0, 0.0)
