"""What stands in a row is one train, and only where a sentence is about trains."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqc_jax import listing, trains
from mqc_jax.listing import Shown
from mqc_jax.tiling import Window


def row(angle: float, *places: tuple[float, float], wide: float = 8.0, aside: float = 0.0, score=0.5) -> list[Shown]:
    """Carriages on a line through (500, 500), each from one place on it to another, in pixels."""
    x, y = np.cos(angle), np.sin(angle)
    found = []
    for first, last in places:
        corners = [
            (500 + x * s - y * (aside + side), 500 + y * s + x * (aside + side))
            for s in (first, last)
            for side in (-wide / 2, wide / 2)
        ]
        xs, ys = zip(*corners, strict=True)
        box = tuple(map(round, (min(xs), min(ys), max(xs), max(ys))))
        found.append(Shown(box, (last - first) * wide, score, True, along=(x, y), width=wide))
    return found


def around_all(pieces) -> tuple[int, ...]:
    x0, y0, x1, y1 = np.array([one.box for one in pieces]).T
    return x0.min(), y0.min(), x1.max(), y1.max()


@settings(deadline=None, max_examples=60)
@given(
    st.floats(0, np.pi),
    st.lists(st.tuples(st.floats(25, 60), st.floats(-5, 20)), min_size=2, max_size=6),
    st.randoms(use_true_random=False),
)
def test_a_row_of_carriages_is_one_object_more_in_any_direction_and_order(angle, lengths, random):
    places, start = [], -100.0
    for length, gap in lengths:
        places.append((start, start + length))
        start += length + gap
    carriages = row(angle, *places)
    random.shuffle(carriages)
    found = trains.joined(carriages)
    assert found[: len(carriages)] == carriages
    assert len(found) == 2 * len(carriages) - 1  # each step joins two
    assert found[-1].box == around_all(carriages)
    assert found[-1].whole
    assert found[-1].area == pytest.approx(sum(one.area for one in carriages))
    assert found[-1].score == pytest.approx(1 - 0.5 ** len(carriages))


@pytest.mark.parametrize(
    "others",
    [
        row(0.3, (60, 100), aside=20),  # another track
        row(0.3, (160, 200)),  # farther away than it is long
        row(0.3, (50, 90), score=0.1),  # hardly there
        row(1.3, (50, 90)),  # elsewhere
    ],
)
def test_what_is_beside_a_train_is_no_part_of_it(others):
    pieces = row(0.3, (0, 40)) + others
    assert trains.joined(pieces) == pieces


def test_one_across_the_track_is_no_part_of_it():
    (crossing,) = row(0.3, (50, 58), wide=60)
    crossing = crossing._replace(along=(-np.sin(0.3), np.cos(0.3)), width=8.0)
    pieces = [*row(0.3, (0, 40)), crossing]
    assert trains.joined(pieces) == pieces


def test_of_two_trains_on_one_track_each_is_listed():
    first, second = row(0.2, (0, 40), (45, 85)), row(0.2, (105, 150), (152, 190))
    found = [one.box for one in trains.joined(first + second)]
    assert {around_all(first), around_all(second)} <= set(found)
    assert found[-1] == around_all(first + second)


def test_the_carriages_of_a_train_are_fragments_of_it():
    carriages = row(0.4, (0, 40), (50, 80), (95, 130))
    listed = trains.joined(carriages)
    chances = listing.likely(listed, np.ones(len(listed)))
    assert chances.argmax() == len(listed) - 1
    assert max(chances[:3]) < 0.3 * chances.max()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("the train", True),
        ("every Passenger Train", True),
        ("I want to follow that train under the bridge", True),
        ("the trainer jet", False),
        ("the truck beside the train", False),
        ("the train station", False),
        ("", False),
    ],
)
def test_only_sentences_about_trains_are_meant(text, meant):
    assert trains.meant(text) is meant


@pytest.mark.parametrize("angle", [0.0, 0.5, 1.2, 2.5])
def test_a_piece_tells_its_direction_and_width(angle):
    rows, columns = np.indices((64, 64)) * 2 + 1.0
    x, y = np.cos(angle), np.sin(angle)
    along = (columns - 64) * x + (rows - 64) * y
    aside = -(columns - 64) * y + (rows - 64) * x
    logits = np.where((abs(along) < 40) & (abs(aside) < 6), 5.0, -5.0)
    (piece,) = listing.pieces(Window(0, 0, 128, 128), logits, 1.0, np.zeros((128, 128, 3), np.uint8))
    assert abs(piece.along[0] * x + piece.along[1] * y) > 0.999
    assert piece.width == pytest.approx(12, abs=1)
