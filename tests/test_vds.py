"""VDS (eqs. 1-3): a plain transcription, and the order where one term alone differs."""

import cv2
import numpy as np
import pytest

from mqc_jax.data import vds
from mqc_jax.data.vds import Terms, Weights


def scene(level=160, ground=80, noise=20.0, blur=0.0, seed=0):
    """A square target on a noisy ground: grey uint8 [60, 80] and its labels."""
    rng = np.random.default_rng(seed)
    picture = ground + noise * rng.standard_normal((60, 80))
    labels = np.zeros((60, 80), np.uint8)
    labels[20:32, 30:44] = 1
    picture[labels == 1] += level - ground
    if blur:
        picture = cv2.GaussianBlur(picture, (0, 0), blur)
    return picture.clip(0, 255).astype(np.uint8), labels


def naive_contrast(grey, labels, band):
    """Pixel by pixel: all background pixels within `band` of any pixel of the target."""
    out = []
    for i in np.unique(labels)[1:]:
        inside = np.argwhere(labels == i)
        around = [
            grey[y, x]
            for y, x in np.argwhere(labels == 0)
            if (((inside - (y, x)) ** 2).sum(1) <= band**2).any()
        ]  # fmt: skip
        if around:
            out.append(abs(float(np.mean(grey[labels == i])) - float(np.mean(around))) / 255)
    return float(np.mean(out)) if out else 0.0


def naive_sharpness(grey):
    """The 4-neighbour Laplacian, the border mirrored about its outermost pixel."""
    p = np.pad(grey.astype(float), 1, mode="reflect")
    return float(np.var(p[:-2, 1:-1] + p[2:, 1:-1] + p[1:-1, :-2] + p[1:-1, 2:] - 4 * p[1:-1, 1:-1]))


@pytest.mark.parametrize("band", [1, 3, 5])
def test_contrast_equals_the_transcription(band):
    rng = np.random.default_rng(1)
    grey = rng.integers(0, 256, (40, 50), dtype=np.uint8)
    labels = np.zeros((40, 50), np.int32)
    labels[0:6, 0:5], labels[4:9, 6:20], labels[30:40, 44:50], labels[20, 20] = 1, 2, 300, 4
    assert vds.contrast(grey, labels, band) == pytest.approx(naive_contrast(grey, labels, band), abs=1e-12)


def test_contrast_without_targets_or_without_surroundings():
    grey = np.full((9, 9), 7, np.uint8)
    assert vds.contrast(grey, np.zeros((9, 9), np.uint8)) == 0
    assert vds.contrast(grey, np.ones((9, 9), np.uint8)) == 0


def test_sharpness_equals_the_transcription():
    grey = np.random.default_rng(2).integers(0, 256, (31, 27), dtype=np.uint8)
    assert vds.sharpness(grey) == pytest.approx(naive_sharpness(grey), rel=1e-12)


def test_scores_equal_equations_1_and_3():
    rng = np.random.default_rng(3)
    terms = [Terms(*rng.uniform(0, 9, 3)) for _ in range(7)]
    weights = Weights(0.5, 2.0, 3.0)
    found = vds.scores(terms, weights)
    for k, term in enumerate(terms):
        unit = {}
        for name in ("contrast", "density", "sharpness"):
            every = [getattr(t, name) for t in terms]
            unit[name] = (getattr(term, name) - min(every)) / (max(every) - min(every))
        expected = 0.5 * unit["contrast"] - 2.0 * unit["density"] - 3.0 * (1 - unit["sharpness"])
        assert found[k] == pytest.approx(expected, abs=1e-12)


def test_equal_terms_do_not_divide_by_zero():
    same = [Terms(0.3, 2.0, 5.0)] * 3
    assert np.array_equal(vds.scores(same), [-1.0, -1.0, -1.0])
    assert len(vds.scores([])) == 0


def measured(**change):
    grey, labels = scene(**change)
    return Terms(vds.contrast(grey, labels), 1.0, vds.sharpness(grey))


def test_more_contrast_scores_higher():
    terms = [measured(level=level) for level in (90, 120, 150, 200)]
    assert np.all(np.diff(vds.scores(terms, Weights(1, 0, 0))) > 0)


def test_more_blur_scores_lower():
    terms = [measured(blur=blur) for blur in (0, 0.7, 1.5, 3)]
    assert np.all(np.diff(vds.scores(terms, Weights(0, 0, 1))) < 0)


def test_more_targets_score_lower():
    terms = [Terms(0.2, density, 50.0) for density in (1, 2.5, 9)]
    assert np.all(np.diff(vds.scores(terms)) < 0)
