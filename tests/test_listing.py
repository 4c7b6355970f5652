"""Objects listed from what windows showed, and the most extreme of them."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqc_jax import listing, places
from mqc_jax.listing import Shown
from mqc_jax.tiling import Window, cover

SIZE = (200, 300)
FRAME = np.zeros((*SIZE, 3), np.uint8)


def logits(window: Window, boxes, grid: int = 32) -> np.ndarray:
    """What a perfect model shows of some boxes of a frame in a window."""
    frame = np.full(SIZE, -5.0, np.float32)
    for x0, y0, x1, y1 in boxes:
        frame[y0:y1, x0:x1] = 5.0
    part = window.cut(frame)
    rows, columns = (np.arange(grid) * side // grid for side in part.shape)
    return part[np.ix_(rows, columns)]


def test_each_object_is_listed_once_whatever_windows_showed_of_it():
    boxes = [(20, 20, 40, 36), (130, 90, 150, 110), (260, 150, 290, 190)]
    windows = cover(64, SIZE) + cover(128, SIZE)
    views = [(window, listing.pieces(window, logits(window, boxes), 0.9, FRAME)) for window in windows]
    found = sorted(listing.objects(views), key=lambda s: s.box)
    assert sum(len(pieces) for _, pieces in views) > len(found) == 3
    for one, box in zip(found, boxes, strict=True):
        assert one.whole
        np.testing.assert_allclose(one.box, box, atol=4)
        assert one.area == pytest.approx((box[2] - box[0]) * (box[3] - box[1]), rel=0.3)
        assert one.score == pytest.approx(0.9, abs=0.02)


def test_a_piece_at_the_windows_edge_is_not_whole_unless_the_frame_ends_there():
    for window, box, whole in [
        (Window(0, 0, 64, 64), (0, 20, 10, 30), True),
        (Window(10, 0, 64, 64), (0, 20, 20, 30), False),
        (Window(236, 136, 64, 64), (280, 180, 300, 200), True),
        (Window(200, 100, 64, 64), (250, 120, 280, 140), False),
    ]:
        (one,) = listing.pieces(window, logits(window, [box]), 1.0, FRAME)
        assert one.whole is whole
    assert listing.pieces(Window(0, 0, 64, 64), np.full((32, 32), -5.0), 1.0, FRAME) == []


def test_a_better_view_of_a_part_does_not_replace_the_whole():
    whole, part = Shown((10, 10, 50, 30), 800, 0.4, True), Shown((30, 10, 50, 30), 400, 0.9, False)
    one, two = Window(0, 0, 64, 64), Window(30, 0, 64, 64)
    (found,) = listing.objects([(two, [part]), (one, [whole])])
    assert found == whole._replace(score=pytest.approx(0.65))


def test_what_few_of_the_windows_that_have_it_inside_show_scores_low():
    one = Shown((30, 30, 40, 40), 100, 0.8, True)
    windows = [Window(x, 0, 64, 64) for x in (0, 10, 20, 200)]
    (found,) = listing.objects([(windows[0], [one]), *((window, []) for window in windows[1:])])
    assert found.score == pytest.approx(0.8 / 3)
    seen = [*((window, [one]) for window in windows[:3]), (windows[3], [])]
    # Windows in which it is too small to be seen do not count against it,
    large = [(Window(0, 0, 400, 400), []), (Window(10, 10, 400, 400), [])]
    (found,) = listing.objects([*seen, *large])
    assert found.score == pytest.approx(0.8)
    # those of a size that should show it do.
    larger = [(Window(0, 0, 128, 128), []), (Window(10, 10, 128, 128), [])]
    (found,) = listing.objects([*seen, *larger])
    assert 0.4 < found.score < 0.5
    assert listing.objects(larger) == []


def test_a_fragment_does_not_stand_for_what_it_lies_in():
    window, other = Window(0, 0, 128, 128), Window(20, 0, 128, 128)
    aircraft = Shown((30, 30, 70, 70), 700, 0.6, True)
    tail = Shown((60, 44, 68, 54), 60, 0.7, True)
    found = listing.objects([(window, [tail]), (other, [aircraft]), (window, [aircraft])])
    assert {one.box for one in found} == {aircraft.box, tail.box}


@given(st.permutations(range(3)))
def test_an_objects_box_is_that_of_the_view_that_others_agree_with(order):
    windows = [Window(x, 0, 128, 128) for x in (0, 10, 20)]
    odd = Shown((30, 30, 54, 50), 400, 0.7, True)
    pieces = [odd, Shown((30, 30, 70, 50), 800, 0.6, True), Shown((31, 30, 71, 50), 800, 0.65, True)]
    (found,) = listing.objects([(windows[k], [pieces[k]]) for k in order])
    assert found.box != odd.box


@pytest.mark.parametrize(("score", "first"), [(0.6, 0), (0.2, 1)])
def test_a_fragment_counts_less_than_the_likely_object_that_it_lies_in(score, first):
    aircraft, tail = Shown((30, 30, 70, 70), 700, score, True), Shown((60, 44, 68, 54), 60, 0.7, True)
    cars = [Shown((x, 100, x + 8, 110), 60, 0.6, True) for x in range(0, 100, 20)]  # so that small things are usual
    likely = listing.likely([aircraft, tail, *cars], [1.0] * 7)
    assert np.argmax(likely[:2]) == first
    assert (likely[2:] > 0.5).all()


SHOWN = st.lists(st.tuples(st.floats(0, 1), st.integers(1, 10_000), st.floats(0, 1)), min_size=1, max_size=8)


@settings(deadline=None)
@given(SHOWN)
def test_the_likelier_of_two_of_one_size_scores_better_and_agrees_better_with_the_place(given_objects):
    shown = [Shown((0, 0, 10, 10), 1.0 * area, score, True) for score, area, _ in given_objects]
    agreement = [a for *_, a in given_objects]
    found = listing.likely(shown, agreement)
    assert found.shape == (len(shown),)
    assert np.all((found >= 0) & (found <= 0.95 + 1e-9))
    values = np.array([one.score * a for one, a in zip(shown, agreement, strict=True)])
    if values.max() > 1e-100:
        assert found.max() == pytest.approx(0.95)
    for i, j in itertools.combinations(range(len(shown)), 2):
        if shown[i].area == shown[j].area and values[i] > values[j]:
            assert found[i] >= found[j]
    # Neither the scores' level nor the unit of area matters.
    half = [one._replace(score=one.score / 2, area=7 * one.area) for one in shown]
    if values.max() > 1e-100:
        np.testing.assert_allclose(listing.likely(half, agreement), found, atol=1e-6)


def test_far_from_the_place_the_nearest_is_likeliest_and_where_none_agrees_the_best():
    shown = [Shown((0, 0, 10, 10), 100.0, score, True) for score in (0.2, 0.9, 0.5)]
    assert listing.likely(shown, [1e-250, 1e-300, 0.0]).argmax() == 0
    assert listing.likely(shown, [0.0, 0.0, 0.0]).argmax() == 1
    assert not listing.likely([one._replace(score=0.0) for one in shown], [1.0, 1.0, 1.0]).any()


def test_fragments_count_less_than_objects_and_larger_ones_as_much():
    shown = [Shown((0, 0, 10, 10), area, 0.5, True) for area in (100.0, 100.0, 100.0, 10.0, 1000.0)]
    found = listing.likely(shown, [1.0] * 5)
    np.testing.assert_allclose(found[[0, 1, 2, 4]], 0.95)
    assert 0 < found[3] < 0.2


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 250), st.integers(0, 150)), min_size=1, max_size=6))
def test_chances_are_those_of_drawing_each_object_by_itself(objects):
    """By counting: over all ways in which some objects are meant, how often is each the most extreme of them?"""
    shown = [Shown((x, y, x + 10 + k, y + 10), 10.0 * (10 + k), p, True) for k, (p, x, y) in enumerate(objects)]
    likely = [p for p, _, _ in objects]
    keys = {
        "leftmost": lambda s: s.middle[0], "rightmost": lambda s: -s.middle[0], "topmost": lambda s: s.middle[1],
        "bottommost": lambda s: -s.middle[1], "largest": lambda s: -s.area, "smallest": lambda s: s.area,
    }  # fmt: skip
    assert set(keys) == set(places.EXTREMES)
    for name, key in keys.items():
        if len({key(s) for s in shown}) < len(shown):
            continue  # ties go either way
        expected = np.zeros(len(shown))
        for meant in itertools.product([False, True], repeat=len(shown)):
            chance = np.prod([p if there else 1 - p for p, there in zip(likely, meant, strict=True)])
            those = [i for i, there in enumerate(meant) if there]
            if those:
                expected[min(those, key=lambda i: key(shown[i]))] += chance
        np.testing.assert_allclose(listing.chances(shown, likely, name), expected, atol=1e-9)
