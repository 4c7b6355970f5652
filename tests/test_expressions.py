"""Expressions from a first frame (eq. 4): wording, the grid, and that each fits one object only."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqc_jax.data.expressions import centroids, class_phrase, describe, grid_cell, location

SPOKEN = {
    "wide_bodied_aircraft": "wide-bodied aircraft",
    "narrow_bodied_aircraft": "narrow-bodied aircraft",
    "cruise": "cruise ship",
    "naval_vessels": "naval vessel",
}
CATEGORIES = ("wide_bodied_aircraft", "yacht", "speed_boat", "small car")


def draw(objects: dict[int, tuple[int, int, int]], size=(90, 120)) -> np.ndarray:
    """A label map with squares: id -> (x, y, half side)."""
    labels = np.zeros(size, np.uint8)
    for i, (x, y, r) in objects.items():
        labels[max(0, y - r) : y + r + 1, max(0, x - r) : x + r + 1] = i
    return labels


@pytest.mark.parametrize(
    ("x", "y", "name"),
    [
        (5, 5, "top-left"), (60, 5, "top"), (115, 5, "top-right"),
        (5, 45, "left"), (60, 45, "center"), (115, 45, "right"),
        (5, 85, "bottom-left"), (60, 85, "bottom"), (115, 85, "bottom-right"),
    ],
)  # fmt: skip
def test_location_is_the_cell_of_the_centroid(x, y, name):
    assert location(grid_cell(x, y, (90, 120))) == name


@pytest.mark.parametrize(
    ("category", "words"),
    [
        ("wide_bodied_aircraft", "wide-bodied aircraft"),
        ("four_engine_aircraft", "four engine aircraft"),
        ("naval_vessels", "naval vessel"),
        ("small car", "small car"),
    ],
)
def test_class_wording(category, words):
    assert class_phrase(category) == words


def test_wording_of_the_paper():
    labels = draw({1: (10, 10, 4), 2: (110, 80, 3)})
    texts = [d.text for d in describe(labels, {1: "wide_bodied_aircraft", 2: "yacht"})]
    assert texts == ["the wide-bodied aircraft at the top-left", "the yacht at the bottom-right"]


def test_the_same_class_in_another_cell_needs_no_attribute():
    labels = draw({1: (10, 10, 3), 2: (110, 10, 3)})
    assert [d.attribute for d in describe(labels, {1: "yacht", 2: "yacht"})] == ["", ""]


def test_two_of_a_class_in_a_cell_are_told_apart_by_place():
    labels = draw({1: (8, 10, 3), 2: (30, 10, 3)})
    texts = [d.text for d in describe(labels, {1: "yacht", 2: "yacht"})]
    assert texts == ["the leftmost yacht at the top-left", "the rightmost yacht at the top-left"]


def test_colour_comes_first_where_it_is_known_of_all_and_unlike():
    labels = draw({1: (8, 10, 3), 2: (30, 10, 3)})
    known = describe(labels, {1: "small car", 2: "small car"}, {1: "red", 2: "white"})
    assert known[0].text == "the red small car at the top-left"
    partly = describe(labels, {1: "small car", 2: "small car"}, {1: "red"})
    assert partly[0].attribute == "leftmost"
    same = describe(labels, {1: "small car", 2: "small car"}, {1: "red", 2: "red"})
    assert same[0].attribute == "leftmost"


def test_size_tells_apart_what_stands_close_together():
    labels = np.zeros((900, 900), np.uint8)
    labels[100:110, 100:110], labels[100:105, 112:117] = 1, 2
    assert [d.attribute for d in describe(labels, {1: "yacht", 2: "yacht"})] == ["largest", "smallest"]


def test_what_nothing_tells_apart_is_dropped():
    labels = draw({1: (20, 14, 2), 2: (21, 20, 2)}, (900, 900))
    assert describe(labels, {1: "yacht", 2: "yacht"}) == ()


def test_objects_without_a_class_and_empty_maps():
    assert describe(np.zeros((9, 9), np.uint8), {1: "yacht"}) == ()
    labels = draw({1: (10, 10, 3), 255: (60, 45, 9)})
    assert [d.object_id for d in describe(labels, {1: "yacht"})] == [1]


def test_wide_integer_label_maps():
    labels = draw({1: (10, 10, 3)}).astype(np.uint16)
    labels[labels == 1] = 700
    assert describe(labels, {700: "yacht"})[0].object_id == 700


def matches(text: str, labels: np.ndarray, categories: dict) -> set[int]:
    """Reads an expression back: the ids of every object that it fits. Written against the words, not the generator."""
    words, _, place = text.removeprefix("the ").rpartition(" at the ")
    rows, cols = labels.shape
    fits = {}
    for i, category in categories.items():
        ys, xs = np.where(labels == i)
        if not len(xs):
            continue
        vertical = ["top", "", "bottom"][int((ys.mean() + 0.5) * 3 // rows)]
        horizontal = ["left", "", "right"][int((xs.mean() + 0.5) * 3 // cols)]
        here = "-".join(w for w in (vertical, horizontal) if w) or "center"
        if here == place and words.endswith(SPOKEN.get(category, category.replace("_", " "))):
            fits[i] = (xs.mean(), ys.mean(), len(xs))
    order = {
        "leftmost": (0, 1),
        "rightmost": (0, -1),
        "topmost": (1, 1),
        "bottommost": (1, -1),
        "smallest": (2, 1),
        "largest": (2, -1),
    }
    first = words.split()[0]
    if first in order and fits:
        axis, sign = order[first]
        best = min(sign * v[axis] for v in fits.values())
        return {i for i, v in fits.items() if sign * v[axis] == best}
    return set(fits)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(3, 116), st.integers(3, 86), st.integers(0, 5), st.sampled_from(CATEGORIES)), max_size=14
    )
)
def test_every_expression_fits_exactly_its_object(objects):
    labels = draw({i + 1: o[:3] for i, o in enumerate(objects)})
    categories = {i + 1: o[3] for i, o in enumerate(objects)}
    for d in describe(labels, categories):
        assert matches(d.text, labels, categories) == {d.object_id}


def test_centroids_against_moments():
    labels = draw({3: (50, 40, 4), 7: (20, 70, 2)})
    assert centroids(labels) == {3: (50, 40, 81), 7: (20, 70, 25)}
