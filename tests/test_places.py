"""Places in sentences: the project's own words for cells, people's, and what is no place."""

import itertools

import pytest

from mqc_jax import places
from mqc_jax.data.expressions import location


@pytest.mark.parametrize("cell", itertools.product(range(3), range(3)))
def test_every_cell_that_expressions_name_is_understood(cell):
    assert places.find(f"the naval vessel at the {location(cell)}") == places.Place(*cell, "the naval vessel")


@pytest.mark.parametrize(
    ("text", "cell", "bare"),
    [
        ("a ship in the upper left corner of the image", (0, 0), "a ship"),
        ("The Ship In The North-West", (0, 0), "The Ship"),
        ("the northwest plane", (0, 0), "the plane"),
        ("the top-left plane that taxis", (0, 0), "the plane that taxis"),
        ("the boat in the middle", (1, 1), "the boat"),
        ("the yacht in the middle left", (1, 0), "the yacht"),
        ("the ship on the right-hand side", (1, 2), "the ship"),
        ("the train at the bottom centre", (2, 1), "the train"),
        ("the red car which is at the far right, with a trailer", (1, 2), "the red car, with a trailer"),
        ("the ship in the lower part of the picture with a wake", (2, 1), "the ship with a wake"),
        ("the leftmost yacht at the top", (0, 1), "the leftmost yacht"),
    ],
)
def test_places_in_peoples_words(text, cell, bare):
    assert places.find(text) == places.Place(*cell, bare)


@pytest.mark.parametrize(
    "text",
    [
        "the white ship",
        "the car turning left",
        "the ship that heads to the north",
        "the plane flying towards the south-east",
        "the plane left of the runway",
        "the yacht at the left of the bridge",
        "the car on the left side of the road",
        "the bus in the right lane",
        "the ship at the top bottom",
        "at the center",
    ],
)
def test_a_direction_or_a_relation_is_no_place(text):
    assert places.find(text) is None


def test_a_cell_agrees_with_itself_best():
    size = (300, 600)
    for row, column in itertools.product(range(3), range(3)):
        place = places.Place(row, column, "")
        weights = {
            (r, c): place.weight((200 * c + 100, 100 * r + 50) * 2, size)
            for r, c in itertools.product(range(3), range(3))
        }
        assert weights[row, column] == 1
        assert all(weight <= 0.5 for cell, weight in weights.items() if cell != (row, column))
        assert place.weight((0, 0, 600, 300), size) == 1


def test_beside_its_cell_the_nearer_agrees_more_and_what_is_well_beside_it_little():
    place, size = places.Place(0, 0, ""), (300, 1000)
    beside = [place.weight((1000 / 3 + off, 50) * 2, size) for off in (0, 3, 10, 30, 60)]
    assert beside == sorted(beside, reverse=True)
    assert beside[0] == pytest.approx(1)
    assert beside[1] > 0.7  # a centroid is found to some pixels
    assert 0.05 < beside[2] < 0.25  # people draw no grid
    assert 0 < beside[4] < 0.05


@pytest.mark.parametrize(
    ("text", "name", "bare", "all_of_them"),
    [
        ("the leftmost yacht", "leftmost", "the yacht", "every yacht"),
        ("show me the biggest jet", "largest", "show me the jet", "show me every jet"),
        ("Northernmost freighter", "topmost", "freighter", "every freighter"),
        ("this one tiniest truck of the scene", "smallest", "this one truck of the scene", "every truck of the scene"),
    ],
)
def test_what_is_the_most_of_its_kind_is_told_from_its_kind(text, name, bare, all_of_them):
    found = places.extreme(text)
    assert (found.name, found.bare) == (name, bare)
    assert places.every(found.bare) == all_of_them


@pytest.mark.parametrize("text", ["the yacht", "the largeship", "the one on the left", "the leftmost"])
def test_what_is_no_extreme_is_left_alone(text):
    assert places.extreme(text) is None


def test_template_and_tracker_know_the_same_extremes():
    for name in places.EXTREMES:
        assert places.extreme(f"the {name} yacht").name == name
