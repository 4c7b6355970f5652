"""Vector drawings of objects seen from above, and their rasters at a given number of pixels per metre."""

from dataclasses import dataclass, field

import cv2
import numpy as np

_SHIFT = 4
_HAZE = 0.25  # share of its colour that an object loses on the way through the air


@dataclass
class Drawing:
    """An object at the origin, heading along +x, in metres (y to its right).

    Attributes:
      length, width: the size of its bounding box in metres.
      height: what throws its shadow, in metres.
      colour: the colour's name where it tells objects of one class apart, else "".
      shapes: filled polygons `(points [K, 2], RGB)`, painted in order; their union is the silhouette.
    """

    length: float
    width: float
    height: float
    colour: str = ""
    shapes: list = field(default_factory=list)

    def add(self, points, rgb, mirror: bool = False) -> None:
        points = np.asarray(points, np.float64)
        self.shapes.append((points, tuple(rgb)))
        if mirror:
            self.shapes.append((points * (1, -1), tuple(rgb)))

    def box(self, x0: float, x1: float, half: float, rgb, y: float = 0.0) -> None:
        self.add([(x0, y - half), (x1, y - half), (x1, y + half), (x0, y + half)], rgb)

    def oval(self, x: float, y: float, a: float, b: float, rgb, mirror: bool = False) -> None:
        t = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        self.add(np.stack([x + a * np.cos(t), y + b * np.sin(t)], 1), rgb, mirror)

    @property
    def area(self) -> float:
        """Silhouette area in square metres, to about one percent."""
        sprite = rasterise(self, 4.0 if self.length < 30 else 200 / self.length)
        return float(sprite.alpha.sum(dtype=np.float64) / 255 / sprite.ppm**2)


@dataclass(frozen=True)
class Sprite:
    """A raster of a drawing: premultiplied uint8 RGB `[h, w, 3]`, coverage uint8 `[h, w]`, pixels per metre.

    The object's origin is the middle of the raster.
    """

    rgb: np.ndarray
    alpha: np.ndarray
    ppm: float


def rasterise(drawing: Drawing, ppm: float) -> Sprite:
    """Rasters a drawing with anti-aliasing at `ppm` pixels per metre, with a margin of two pixels."""
    reach = np.max([np.abs(p).max(0) for p, _ in drawing.shapes], axis=0)
    cols, rows = (2 * int(np.ceil(r * ppm) + 2) for r in reach)
    rgb = np.zeros((rows, cols, 3), np.uint8)
    alpha = np.zeros((rows, cols), np.uint8)
    middle = np.array([cols, rows]) / 2 - 0.5
    for points, colour in drawing.shapes:
        colour = np.add(colour, _HAZE * (np.mean(colour) - colour))
        xy = [np.round((points * ppm + middle) * (1 << _SHIFT)).astype(np.int32)]
        cv2.fillPoly(rgb, xy, tuple(float(c) for c in np.clip(colour, 0, 255)), cv2.LINE_AA, _SHIFT)
        cv2.fillPoly(alpha, xy, 255.0, cv2.LINE_AA, _SHIFT)
    return Sprite(rgb, alpha, ppm)


def shade(rgb, factor: float) -> tuple[float, float, float]:
    return tuple(float(np.clip(c * factor, 0, 255)) for c in rgb)
