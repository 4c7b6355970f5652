"""A background in metres: flat colours and material roughness are drawn twice as fine, then textured once.

Drawing colour and roughness side by side keeps every primitive cheap (no full-frame blending), and the noise that makes
surfaces look photographed is applied to the whole picture in a single pass at the end.
"""

from dataclasses import dataclass

import cv2
import numpy as np

_SHIFT = 4  # fractional bits of cv2's sub-pixel drawing
_SUPERSAMPLE = 2
_HAZE = 0.2  # share of its colour that a surface loses on the way through the air


@dataclass(frozen=True)
class Material:
    """How rough a surface looks: relative amplitudes of noise at three scales, and of a shift in tint."""

    fine: float
    mid: float
    coarse: float
    tint: float
    water: bool = False

    @property
    def amplitudes(self) -> tuple[float, float, float, float]:
        return tuple(min(255.0, 255 * v) for v in (self.fine, self.mid, self.coarse, self.tint))


GRASS = Material(0.06, 0.10, 0.13, 0.14)
FIELD = Material(0.05, 0.07, 0.10, 0.09)
FOREST = Material(0.20, 0.18, 0.12, 0.10)
ASPHALT = Material(0.04, 0.05, 0.09, 0.03)
CONCRETE = Material(0.03, 0.035, 0.05, 0.03)
ROOF = Material(0.04, 0.04, 0.04, 0.03)
PAINT = Material(0.06, 0.12, 0.05, 0.02)
SOIL = Material(0.07, 0.10, 0.12, 0.08)
GRAVEL = Material(0.13, 0.08, 0.07, 0.05)
WATER = Material(0.015, 0.02, 0.06, 0.06, water=True)
SMOOTH = Material(0.02, 0.02, 0.03, 0.01)


def fractal(rng: np.random.Generator, shape: tuple[int, int], scales: tuple[float, ...]) -> np.ndarray:
    """Sum of smooth random fields with the given feature sizes in pixels. Returns float32 `[H, W]`, unit variance."""
    total = np.zeros(shape, np.float32)
    for scale in scales:
        rows, cols = (int(np.ceil(n / scale)) + 3 for n in shape)
        grid = rng.standard_normal((rows, cols), dtype=np.float32)
        # A random phase of the grid against the picture keeps the knots of several scales from coinciding.
        dy, dx = rng.uniform(0, 1, 2)
        place = np.float32([[1 / scale, 0, dx + 0.5], [0, 1 / scale, dy + 0.5]])
        total += cv2.warpAffine(
            grid, place, shape[::-1], flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT
        )
    return total / (float(total.std()) + 1e-6)


def fine_pixels(points, size: tuple[int, int], gsd: float) -> np.ndarray:
    """Points in metres as cv2's fixed-point coordinates on the twice finer grid of a picture of `size` pixels."""
    centre = np.array(size[::-1], np.float64) * _SUPERSAMPLE / 2
    xy = np.asarray(points, np.float64).reshape(-1, 2) * (_SUPERSAMPLE / gsd) + centre - 0.5
    # Far outside the picture cv2's coordinates would overflow.
    return np.round(np.clip(xy, -30000, 30000) * (1 << _SHIFT)).astype(np.int32)


def coverage(polygons, size: tuple[int, int], gsd: float) -> np.ndarray:
    """Share of each pixel, uint8 `[H, W]`, that lies in any of the polygons (metres)."""
    mask = np.zeros(tuple(_SUPERSAMPLE * n for n in size), np.uint8)
    for polygon in polygons:
        cv2.fillPoly(mask, [fine_pixels(polygon, size, gsd)], 255.0, cv2.LINE_AA, _SHIFT)
    return cv2.resize(mask, size[::-1], interpolation=cv2.INTER_AREA)


class Canvas:
    """A picture with its origin at the centre, in metres: x to the right, y down.

    Args:
      size: `(H, W)` in pixels of the finished picture.
      gsd: metres per pixel.
      rng: drawn from when texturing.
    """

    def __init__(self, size: tuple[int, int], gsd: float, rng: np.random.Generator):
        self.size, self.gsd, self._rng = size, gsd, rng
        rows, cols = (n * _SUPERSAMPLE for n in size)
        self.colour = np.zeros((rows, cols, 3), np.uint8)
        self.rough = np.zeros((rows, cols, 4), np.uint8)
        self.wet = np.zeros((rows, cols), np.uint8)
        self.shade = np.full((rows, cols), 255, np.uint8)

    @property
    def extent(self) -> float:
        """Radius in metres of a disk around the origin that covers the picture."""
        return 0.5 * self.gsd * float(np.hypot(*self.size))

    def _pixels(self, points) -> np.ndarray:
        return fine_pixels(points, self.size, self.gsd)

    def _layers(self, colour, material: Material):
        yield self.colour, tuple(float(c) for c in np.clip(colour, 0, 255))
        yield self.rough, material.amplitudes
        yield self.wet, 255.0 if material.water else 0.0

    def everywhere(self, colour, material: Material) -> None:
        for layer, value in self._layers(colour, material):
            layer[:] = value

    def fill(self, points, colour, material: Material = SMOOTH) -> None:
        """Fills a polygon `[K, 2]` in metres."""
        xy = [self._pixels(points)]
        for layer, value in self._layers(colour, material):
            cv2.fillPoly(layer, xy, value, cv2.LINE_AA, _SHIFT)

    def stroke(self, points, width: float, colour, material: Material = SMOOTH, closed: bool = False) -> None:
        """Draws a polyline of the given width in metres with round joints.

        A line thinner than the finest pixel is drawn fainter instead: it is mixed with what lies under its middle.
        """
        thickness = width * _SUPERSAMPLE / self.gsd
        xy = self._pixels(points)
        if thickness < 1:
            colour = self._faded(xy, colour, thickness)
        for layer, value in self._layers(colour, material):
            if layer is self.wet and thickness < 1:
                continue
            cv2.polylines(layer, [xy], closed, value, max(1, round(thickness)), cv2.LINE_AA, _SHIFT)

    def _faded(self, xy: np.ndarray, colour, share: float):
        at = np.clip(xy[len(xy) // 2] >> _SHIFT, 0, np.array(self.colour.shape[1::-1]) - 1)
        under = self.colour[at[1], at[0]].astype(np.float64)
        return under + (np.asarray(colour, np.float64) - under) * share

    def disk(self, centre, radius: float, colour, material: Material = SMOOTH) -> None:
        (x, y) = self._pixels(centre)[0]
        r = max(1, round(radius * _SUPERSAMPLE / self.gsd * (1 << _SHIFT)))
        for layer, value in self._layers(colour, material):
            cv2.circle(layer, (int(x), int(y)), r, value, -1, cv2.LINE_AA, _SHIFT)

    def shadow(self, points, depth: float) -> None:
        """Darkens a polygon to the share `1 - depth` of its light. Overlapping shadows do not add up."""
        cv2.fillPoly(self.shade, [self._pixels(points)], 255.0 * (1 - depth), cv2.LINE_AA, _SHIFT)

    def shadow_disk(self, centre, radius: float, depth: float) -> None:
        (x, y) = self._pixels(centre)[0]
        r = max(1, round(radius * _SUPERSAMPLE / self.gsd * (1 << _SHIFT)))
        cv2.circle(self.shade, (int(x), int(y)), r, 255.0 * (1 - depth), -1, cv2.LINE_AA, _SHIFT)

    def lit(self, points) -> None:
        """Removes shadows from a polygon: what stands above the ground is not in its neighbour's ground shadow."""
        cv2.fillPoly(self.shade, [self._pixels(points)], 255.0, cv2.LINE_AA, _SHIFT)

    def lit_along(self, points, width: float) -> None:
        """Removes shadows from a strip of the given width in metres along a polyline."""
        thickness = max(1, round(width * _SUPERSAMPLE / self.gsd))
        cv2.polylines(self.shade, [self._pixels(points)], False, 255.0, thickness, cv2.LINE_AA, _SHIFT)

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Applies texture and shadow. Returns the picture, uint8 RGB `[H, W, 3]`, and its share of water, uint8."""
        rows, cols = self.size
        small = [
            cv2.resize(a, (cols, rows), interpolation=cv2.INTER_AREA) for a in (self.colour, self.rough, self.shade)
        ]
        colour, rough, shade = small
        wet = cv2.resize(self.wet, (cols, rows), interpolation=cv2.INTER_AREA)
        rng, gsd = self._rng, self.gsd
        fine = fractal(rng, self.size, (1.1, 2.2))
        mid = fractal(rng, self.size, tuple(max(1.5, m / gsd) for m in (3.0, 7.0, 16.0)))
        coarse = fractal(rng, self.size, tuple(m / gsd for m in (35.0, 80.0, 170.0)))
        tint = fractal(rng, self.size, tuple(m / gsd for m in (14.0, 50.0, 120.0)))
        rough = cv2.multiply(rough, (1 / 255,) * 4, dtype=cv2.CV_32F)
        gain = rough[..., 0] * fine
        gain += rough[..., 1] * mid
        gain += rough[..., 2] * coarse
        # Log-normal-like gains would brighten speckles; a soft clip keeps the histogram as smooth as a real sensor's.
        gain = 1 + 0.55 * np.tanh(gain / 0.55)
        gain *= cv2.GaussianBlur(shade, (0, 0), 0.7).astype(np.float32) / 255
        lean = rough[..., 3] * tint
        picture = np.empty((rows, cols, 3), np.float32)
        for channel, weight in enumerate((0.45, 0.08, -0.5)):
            picture[..., channel] = colour[..., channel] * (gain * (1 + 0.4 * weight * lean))
        grey = picture.mean(-1, keepdims=True)
        picture += _HAZE * (grey - picture)
        return cv2.convertScaleAbs(picture), wet
