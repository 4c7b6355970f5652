"""Moving water: two wave fields that drift through each other, their glint, and the wakes of ships."""

import cv2
import numpy as np

from mqc_jax.data.synthetic.canvas import fractal

_TILE = 512


def wave_tile(rng: np.random.Generator, gsd: float, heading: float) -> np.ndarray:
    """A periodic field of wind waves travelling along `heading`, uint8 `[_TILE, _TILE]`, mean 128, deviation 32."""
    freq = np.fft.fftfreq(_TILE)
    fy, fx = np.meshgrid(freq, freq, indexing="ij")
    k = np.hypot(fx, fy) + 1e-9
    length = gsd / k  # wavelength in metres
    spread = np.cos(np.arctan2(fy, fx) - heading) ** 2
    swell = np.exp(-((np.log(length / 16.0) / 0.6) ** 2)) + 0.55 * np.exp(-((np.log(length / 5.0) / 0.5) ** 2))
    power = (0.12 + spread**2) * swell * k**-0.3
    power[0, 0] = 0
    phase = rng.uniform(0, 2 * np.pi, k.shape)
    field = np.fft.ifft2(power * np.exp(1j * phase)).real
    return np.uint8(np.clip(128 + 32 * field / field.std(), 0, 255))


class Sea:
    """Adds waves and glint to the watery part of a frame."""

    def __init__(self, rng: np.random.Generator, plan, wet: np.ndarray):
        self._size = plan.size
        rows, cols = plan.size
        heading = rng.uniform(0, 2 * np.pi)
        copies = (rows // _TILE + 2, cols // _TILE + 2)
        self._tiles, self._flow = [], []
        for lean, pace in ((-0.35, 3.2), (0.45, 2.2)):  # metres per second
            self._tiles.append(np.tile(wave_tile(rng, plan.gsd, heading + lean), copies))
            way = pace * plan.seconds_per_frame / plan.gsd
            self._flow.append(way * np.array([np.cos(heading + lean), np.sin(heading + lean)]))
        calm = np.clip(0.55 + 0.22 * fractal(rng, wet.shape, (90 / plan.gsd, 260 / plan.gsd)), 0.12, 1)
        sun = np.asarray(plan.scene.sun)
        y, x = np.mgrid[: wet.shape[0], : wet.shape[1]].astype(np.float32)
        toward = (x / wet.shape[1] - 0.5) * -sun[0] + (y / wet.shape[0] - 0.5) * -sun[1]
        calm = calm * (1 + 0.5 * np.clip(toward, -0.7, 1))
        self._strength = np.uint8(np.clip(wet * calm, 0, 255))
        rough, glint = rng.uniform(0.12, 0.26), rng.uniform(0.5, 2.4) * (rng.random() < 0.75)
        level = np.arange(256) - 128.0
        self._table = np.int16(np.round(rough * level + glint * np.maximum(level - 42, 0)))

    def add(self, picture: np.ndarray, t: int, place: np.ndarray) -> None:
        rows, cols = self._size
        shifts = []
        for tile, flow in zip(self._tiles, self._flow, strict=True):
            dx, dy = flow * t - place[:, 2]
            x, y = dx % _TILE, dy % _TILE
            cut = tile[int(y) : int(y) + rows, int(x) : int(x) + cols]
            shifts.append(cut)
        mixed = cv2.addWeighted(shifts[0], 0.7, shifts[1], 0.7, -51.2)
        strength = cv2.warpAffine(self._strength, place, (cols, rows))
        change = cv2.multiply(cv2.LUT(mixed, self._table), strength.astype(np.int16), scale=1 / 255)
        cv2.add(picture, cv2.merge([change] * 3), dst=picture, dtype=cv2.CV_8U)


def wake(rng: np.random.Generator, length: float, width: float, gsd: float) -> tuple[np.ndarray, float]:
    """Foam behind a ship under way: brightness, uint8 `[h, w]`, and its pixels per metre.

    The bow is near the right edge; a turbulent trail widens to the left between two faint arms.
    """
    ppm = min(2 / gsd, 600 / (5 * length))
    long, half = int((4.2 if length < 60 else 2.6) * length * ppm) + 8, int(max(1.5 * width, 0.55 * length) * ppm) + 4
    x = np.arange(long, dtype=np.float32)[::-1][None] / ppm - 0.05 * length  # metres behind the bow
    y = (np.arange(2 * half + 1, dtype=np.float32)[:, None] - half) / ppm
    shape = (2 * half + 1, long)
    noise = fractal(rng, shape, (3, 7)) if min(shape) > 8 else np.zeros(shape, np.float32)
    behind = np.maximum(x, 0)
    fade = np.exp(-behind / (1.5 * length)) * (x > 0)
    trail_half = 0.32 * width + 0.035 * behind
    trail = np.exp(-((y / trail_half) ** 2)) * (x > 0.75 * length) * fade * 1.9
    arm_at = 0.32 * width + 0.2 * behind
    arm_half = 0.10 * width + 0.018 * behind + 0.5 / ppm
    arms = np.exp(-(((np.abs(y) - arm_at) / arm_half) ** 2)) * fade * 0.55 * (behind < 2.6 * length)
    foam = np.clip((trail + arms) * (0.72 + 0.33 * noise), 0, 1)
    return np.uint8(255 * foam), float(ppm)
