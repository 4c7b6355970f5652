"""Short streams for tests of the tracker: what is pushed, what comes back, and a model that calibrates early."""

import numpy as np

import mqc_jax
from mqc_jax.tracker import FrameResult


def run(session, frames) -> list[FrameResult]:
    """All results of one video, of a tracker that is there already."""
    return [out for frame in frames for out in session.push(frame)] + session.finish()


def assert_same(a: FrameResult, b: FrameResult) -> None:
    """Two results are one, to the bit."""
    for name in ("frame_index", "masks", "mask_logits", "presence", "targets", "started"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    for name in ("memory", "evidence"):
        own, other = getattr(a, name), getattr(b, name)
        assert own.keys() == other.keys()
        for key, values in own.items():
            np.testing.assert_array_equal(values, other[key], err_msg=key)


def follow(model, frames, **prompts) -> list[FrameResult]:
    """All results of one video."""
    return run(mqc_jax.Tracker(model, **prompts), frames)


def assert_equal(a, b, rows=slice(None)) -> None:
    """Rows of one result are all of another's, to the bit."""
    for name in ("masks", "mask_logits", "presence"):
        np.testing.assert_array_equal(getattr(a, name)[rows], getattr(b, name), err_msg=name)


def calibrated(model, **fields):
    """The model with TMCC that closes its window as soon as it can; windows of 2, 4 and 6 displacements."""
    windows = {"n_start": 2, "n_step": 2, "n_max": 6, "evidence": "background", "remove_background": False}
    return model.replace(calibration="tmcc", tmcc={**windows, **fields})


def moving_square(count: int, speed: int, seed: int = 3) -> tuple[list[np.ndarray], np.ndarray]:
    """Frames of 64x64 in which a textured square moves over still ground, and the square in frame 0."""
    rng = np.random.default_rng(seed)
    ground, square = rng.integers(60, 110, (64, 64, 3), np.uint8), rng.integers(130, 250, (14, 14, 3), np.uint8)
    shown = []
    for t in range(count):
        frame = ground.copy()
        x = min(20 + speed * t, 50)
        frame[24:38, x : x + 14] = square
        shown.append(frame)
    mask = np.zeros((64, 64), bool)
    mask[24:38, 20:34] = True
    return shown, mask


def box(top: int, left: int, height: int = 14, width: int = 14, size: tuple[int, int] = (64, 64)) -> np.ndarray:
    """One target's mask, bool [H, W]."""
    mask = np.zeros(size, bool)
    mask[top : top + height, left : left + width] = True
    return mask
