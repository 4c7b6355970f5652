"""What the platform, the air and the sensor do to the picture: jitter, illumination, haze, clouds, blur and noise.

Every quantity is drawn when a sequence is planned, so that any frame can be rendered on its own.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from mqc_jax.data.synthetic.canvas import fractal

_CLOUD = 160  # side of a cloud's texture in pixels
_NOISE = 384  # extra side of the noise field that each frame cuts its noise from


@dataclass(frozen=True)
class Cloud:
    """A drifting cloud: centre in metres at frame 0, metres per frame, radius in metres, greatest opacity in [0, 1]."""

    x: float
    y: float
    vx: float
    vy: float
    radius: float
    opacity: float
    stretch: float
    angle: float
    seed: int

    def texture(self) -> tuple[np.ndarray, np.ndarray]:
        """Opacity and brightness, uint8 `[_CLOUD, _CLOUD]`."""
        rng = np.random.default_rng(self.seed)
        n = _CLOUD
        y, x = (np.mgrid[:n, :n] - (n - 1) / 2) / (n / 2)
        detail = sum(
            fractal(rng, (n, n), (s,)) * w for s, w in ((52, 1.0), (26, 0.5), (12, 0.26), (6, 0.13), (3, 0.06))
        )
        level = 1.0 - 1.75 * np.hypot(x, y) + 0.29 * detail
        opacity = np.clip((level + 0.1) / 0.75, 0, 1)
        opacity = opacity * opacity * (3 - 2 * opacity) * self.opacity
        opacity *= np.clip((1 - np.maximum(abs(x), abs(y))) / 0.12, 0, 1)
        bright = 222 + 20 * np.clip(level - 0.4, -0.5, 1) + 7 * detail
        return np.uint8(255 * opacity), np.uint8(np.clip(bright, 0, 255))

    def to_frame(self, camera: np.ndarray, t: int) -> np.ndarray:
        """The `[2, 3]` matrix from texture pixels to frame pixels."""
        k = 2 * self.radius / _CLOUD
        c, s = np.cos(self.angle) * k, np.sin(self.angle) * k
        turn = np.array([[c * self.stretch, -s], [s * self.stretch, c]])
        mid = (_CLOUD - 1) / 2
        world = np.array([self.x + self.vx * t, self.y + self.vy * t]) - turn @ (mid, mid)
        return np.hstack([camera[:, :2] @ turn, (camera[:, :2] @ world + camera[:, 2])[:, None]])


def box_of(matrix: np.ndarray, side: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """The frame rectangle `x0, y0, x1, y1` that a `(rows, cols)` raster covers under `matrix`; None if outside."""
    rows, cols = side
    corners = np.array([(0, 0, 1), (cols, 0, 1), (cols, rows, 1), (0, rows, 1)]) @ matrix.T
    x0, y0 = np.maximum(np.floor(corners.min(0)) - 1, 0).astype(int)
    x1, y1 = np.minimum(np.ceil(corners.max(0)) + 2, size[::-1]).astype(int)
    return (int(x0), int(y0), int(x1), int(y1)) if x0 < x1 and y0 < y1 else None


def warp_into(raster: np.ndarray, matrix: np.ndarray, box, flags: int = cv2.INTER_LINEAR) -> np.ndarray:
    """Warps a raster by `matrix` and returns the part inside the frame rectangle `box`."""
    x0, y0, x1, y1 = box
    shifted = matrix - np.array([[0, 0, x0], [0, 0, y0]])
    return cv2.warpAffine(raster, shifted, (x1 - x0, y1 - y0), flags=flags)


def jitter(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Platform motion: shift x, y in pixels and roll in radians, float64 `[frames, 3]`: slow drift plus vibration."""
    t = np.arange(frames) / max(frames, 60)
    out = np.zeros((frames, 3))
    for axis, (slow, fast) in enumerate(((7.0, 0.35), (7.0, 0.35), (0.004, 0.0002))):
        phase, rate = rng.uniform(0, 2 * np.pi, 2), rng.uniform(0.4, 1.3, 2)
        drift = np.sin(2 * np.pi * rate[0] * t + phase[0]) + 0.5 * np.sin(4 * np.pi * rate[1] * t + phase[1])
        out[:, axis] = slow * rng.uniform(0.4, 1) * (drift - drift[0]) + fast * rng.standard_normal(frames)
    return out


def illumination(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Exposure gain per frame, float64 `[frames]`: a slow swing of up to a fifth around 1."""
    t = np.arange(frames) / max(frames, 40)
    swing = np.sin(2 * np.pi * (rng.uniform(0.3, 1.1) * t + rng.uniform()))
    return 1 + rng.uniform(0.06, 0.17) * swing + 0.006 * rng.standard_normal(frames)


@dataclass(frozen=True)
class Tone:
    """The sensor's response and the haze: contrast around `pivot`, lift, and a cast per channel."""

    contrast: float
    lift: float
    cast: tuple[float, float, float]
    gamma: float

    def table(self, gain: float) -> np.ndarray:
        """A lookup table, uint8 `[1, 256, 3]`, for a frame exposed with `gain`."""
        x = np.arange(256)[:, None] / 255
        y = 255 * x**self.gamma * self.contrast * gain * np.array(self.cast) + self.lift
        y = np.where(y > 225, 225 + 30 * np.tanh((y - 225) / 30), y)  # highlights roll off, they do not clip
        return np.uint8(np.clip(np.round(y), 0, 255))[None]


def noise_field(rng: np.random.Generator, size: tuple[int, int], sigma: float) -> np.ndarray:
    """A field of sensor noise, int8 `[H + pad, W + pad, 3]`, correlated as after demosaicing and compression."""
    rows, cols = size[0] + _NOISE, size[1] + _NOISE
    grey = rng.standard_normal((rows, cols), dtype=np.float32)
    field = np.repeat(cv2.GaussianBlur(grey, (0, 0), 0.6)[..., None], 3, 2)
    field /= float(field.std())
    small = rng.standard_normal((rows // 2 + 1, cols // 2 + 1, 3), dtype=np.float32)
    field += 0.5 * cv2.resize(small, (cols, rows), interpolation=cv2.INTER_LINEAR)
    return np.int8(np.clip(np.round(field * sigma), -127, 127))


def noise_window(entropy: int, t: int) -> tuple[int, int]:
    """Where frame `t` cuts its noise from the field: rows and columns, unrelated from frame to frame."""
    return tuple(int(v) for v in np.random.default_rng((entropy, t)).integers(0, _NOISE, 2))
