"""Region operations equal SciPy's and OpenCV's, exactly, on random and on adversarial masks."""

import re

import cv2
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mqc_jax.models import regions

SHAPE = (29, 37)
RADII = (0, 1, 2, 3, 5)


def spiral(height: int, width: int) -> np.ndarray:
    """One component, as long as the picture allows, one pixel wide."""
    mask = np.zeros((height, width), bool)
    top, left, bottom, right = 0, 0, height - 1, width - 1
    while top <= bottom and left <= right:
        mask[top, max(left - 2, 0) : right + 1] = True
        mask[top : bottom + 1, right] = True
        mask[bottom, left : right + 1] = True
        mask[min(top + 2, bottom) : bottom + 1, left] = True
        top, left, bottom, right = top + 2, left + 2, bottom - 2, right - 2
    return mask


def adversarial() -> dict[str, np.ndarray]:
    height, width = SHAPE
    y, x = np.mgrid[:height, :width]
    comb = (x % 2 == 0) | (y == height - 1)
    snake = (y % 2 == 0) | ((x == width - 1) & (y % 4 == 1)) | ((x == 0) & (y % 4 == 3))
    single = np.zeros(SHAPE, bool)
    single[7, 11] = True
    corner = np.zeros(SHAPE, bool)
    corner[-1, -1] = True
    frame = np.ones(SHAPE, bool)
    frame[1:-1, 1:-1] = False
    rings = (np.maximum(abs(y - 14), abs(x - 18)) % 4) < 2
    masks = {
        "empty": np.zeros(SHAPE, bool),
        "full": np.ones(SHAPE, bool),
        "checkerboard": (x + y) % 2 == 0,
        "stripes": (x + y) % 3 == 0,
        "comb": comb,
        "snake": snake,
        "spiral": spiral(*SHAPE),
        "single": single,
        "corner": corner,
        "frame": frame,
        "rings": rings,
        "dots": (x % 3 == 0) & (y % 3 == 0),
    }
    return masks | {f"not {name}": ~mask for name, mask in masks.items()}


def random_masks(count: int, seed: int) -> list[np.ndarray]:
    """From scattered pixels to blobs, at every density."""
    rng = np.random.default_rng(seed)
    masks = []
    for _ in range(count):
        noise = rng.random(SHAPE)
        if rng.random() < 0.6:
            noise = ndimage.gaussian_filter(noise, rng.uniform(0.5, 3))
        masks.append(noise < np.quantile(noise, rng.uniform(0, 1)))
    return masks


def disk(radius: int) -> np.ndarray:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return x * x + y * y <= radius * radius


label = {c: jax.jit(lambda m, c=c: regions._components(m, c)) for c in (4, 8)}
distance, fill, edge = (jax.jit(f) for f in (regions.squared_distance, regions.fill_holes, regions.boundary))
morphology = {
    (f.__name__, r): jax.jit(lambda m, f=f, r=r: f(m, r))
    for f in (regions.dilate, regions.erode, regions.close)
    for r in RADII
}


def check(mask: np.ndarray) -> None:
    for connectivity, structure in ((4, ndimage.generate_binary_structure(2, 1)), (8, np.ones((3, 3)))):
        labels, _ = label[connectivity](mask)
        expected, number = ndimage.label(mask, structure)
        first = np.full(number + 1, mask.size)
        flat = expected.ravel()
        for i in range(1, number + 1):
            first[i] = np.argmax(flat == i)
        first[0] = mask.size
        np.testing.assert_array_equal(labels, first[expected])
        assert regions.count(labels) == number
    if mask.any():
        exact = np.rint(ndimage.distance_transform_edt(~mask) ** 2)
        np.testing.assert_array_equal(distance(mask), exact)
    else:
        assert (np.asarray(distance(mask)) >= 2**29).all()
    np.testing.assert_array_equal(fill(mask), ndimage.binary_fill_holes(mask))
    np.testing.assert_array_equal(edge(mask), mask & ~ndimage.binary_erosion(mask))
    image = mask.astype(np.uint8)
    for r in RADII:
        kernel = disk(r).astype(np.uint8)
        outside = {"borderType": cv2.BORDER_CONSTANT, "borderValue": 0}
        np.testing.assert_array_equal(morphology["dilate", r](mask), cv2.dilate(image, kernel, **outside) > 0)
        np.testing.assert_array_equal(morphology["erode", r](mask), cv2.erode(image, kernel, **outside) > 0)
        padded = np.pad(mask, 2 * r)
        expected = ndimage.binary_closing(padded, disk(r))[2 * r : 2 * r + SHAPE[0], 2 * r : 2 * r + SHAPE[1]]
        np.testing.assert_array_equal(morphology["close", r](mask), expected)


@pytest.mark.parametrize("name", adversarial())
def test_adversarial_masks_equal_scipy_and_opencv(name):
    check(adversarial()[name])


def test_a_thousand_random_masks_equal_scipy_and_opencv():
    for mask in random_masks(1000, seed=0):
        check(mask)


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=135, max_size=135))
def test_any_mask_equals_scipy_and_opencv(data):
    bits = np.unpackbits(np.frombuffer(data, np.uint8))[: SHAPE[0] * SHAPE[1]]
    check(bits.reshape(SHAPE).astype(bool))


def test_labels_take_few_sweeps_however_long_the_component():
    for side in (32, 64, 128, 256):
        mask = spiral(side, side)
        labels, sweeps = regions._components(mask, 4)
        assert regions.count(labels) == ndimage.label(mask)[1]
        # The spiral is about side**2 / 2 pixels long: one pixel a sweep would take thousands.
        assert sweeps <= 3 * np.log2(side * side)


def test_many_masks_at_once_equal_one_by_one():
    masks = np.stack(random_masks(6, seed=1))
    for function in (regions.components, regions.squared_distance, regions.fill_holes):
        together = jax.vmap(function)(masks)
        for mask, found in zip(masks, together, strict=True):
            np.testing.assert_array_equal(function(mask), found)


def test_component_sums_and_minima_equal_scipy():
    rng = np.random.default_rng(3)
    for mask in random_masks(20, seed=2):
        values = rng.integers(0, 1000, SHAPE).astype(np.int32)
        labels = np.asarray(regions.components(mask))
        expected, number = ndimage.label(mask, np.ones((3, 3)))
        roots = [np.argmax(expected.ravel() == i) for i in range(1, number + 1)]
        numbers = range(1, number + 1)
        np.testing.assert_array_equal(
            regions.component_sums(labels, values)[np.array(roots, int)], ndimage.sum(values, expected, numbers)
        )
        np.testing.assert_array_equal(
            regions.component_minima(labels, values)[np.array(roots, int)], ndimage.minimum(values, expected, numbers)
        )


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_everything_exports_without_a_callback(platform):
    def every(mask: jax.Array) -> tuple:
        return regions.components(mask), regions.squared_distance(mask), regions.close(regions.fill_holes(mask), 2)

    exported = jax.export.export(jax.jit(every), platforms=[platform])(jax.ShapeDtypeStruct(SHAPE, bool))
    # Names of functions and tests stand in the text too.
    assert not re.search(r"custom_call @\w*callback", exported.mlir_module())
