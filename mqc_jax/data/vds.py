"""The Visual Discriminability Score (paper, eqs. 1-3), by which sequences are chosen for the benchmark."""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np

BAND = 5  # pixels around a target that count as its surroundings


@dataclasses.dataclass(frozen=True)
class Terms:
    """The raw terms of one sequence: contrast in grey levels / 255, density in instances a frame, sharpness (eq. 2)."""

    contrast: float
    density: float
    sharpness: float


@dataclasses.dataclass(frozen=True)
class Weights:
    """lambda_c, lambda_d and lambda_b of eq. 1. The paper does not give them."""

    contrast: float = 1.0
    density: float = 1.0
    blur: float = 1.0


def contrast(grey: np.ndarray, labels: np.ndarray, band: int = BAND) -> float:
    """C of eq. 1 on the first annotated frame, in [0, 1].

    For each target the difference between its mean intensity and that of the pixels at most `band` away (Euclidean)
    that belong to no target; the mean over the targets. A target without surroundings is left out.

    Args:
      grey: uint8 [H, W].
      labels: object ids [H, W], 0 is background.
    """
    disk = (np.hypot(*np.mgrid[-band : band + 1, -band : band + 1]) <= band).astype(np.uint8)
    ids = np.unique(labels)
    differences = []
    for number in ids[ids > 0]:
        target = (labels == number).view(np.uint8)
        x, y, width, height = cv2.boundingRect(target)
        window = np.s_[max(0, y - band) : y + height + band, max(0, x - band) : x + width + band]
        inside = np.ascontiguousarray(target[window])
        around = (cv2.dilate(inside, disk) > 0) & (labels[window] == 0)
        if around.any():
            levels = grey[window].astype(np.float64)
            differences.append(abs(levels[inside > 0].mean() - levels[around].mean()) / 255)
    return float(np.mean(differences)) if differences else 0.0


def sharpness(grey: np.ndarray) -> float:
    """One frame's term of eq. 2: the variance of the Laplacian of uint8 [H, W]."""
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


def normalised(values: Sequence[float]) -> np.ndarray:
    """To [0, 1] over all candidates; values that are all equal tell nothing apart and become 0."""
    array = np.asarray(values, np.float64)
    if not len(array):
        return array
    spread = array.max() - array.min()
    return (array - array.min()) / spread if spread > 0 else np.zeros_like(array)


def scores(terms: Sequence[Terms], weights: Weights = Weights()) -> np.ndarray:
    """Eqs. 1 and 3 for all candidates at once, float64 [N]."""
    c, d, s = (normalised([getattr(t, name) for t in terms]) for name in ("contrast", "density", "sharpness"))
    return weights.contrast * c - weights.density * d - weights.blur * (1 - s)
