"""Colours in sentences, and which of several things has one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqc_jax import colours
from mqc_jax.colours import Colour


@pytest.mark.parametrize(
    ("text", "name", "bare"),
    [
        ("the red small car", "red", "the small car"),
        ("The Blue speed boat that turns", "blue", "The speed boat that turns"),
        ("a gray ship", "grey", "a ship"),
        ("the dark blue car", "blue", "the car"),
        ("the dark car", "black", "the car"),
        ("every light-green boat", "green", "every boat"),
        ("find the silver-coloured truck near the red building", "silver", "find the truck near the red building"),
        ("the large white yacht", "white", "the large yacht"),
    ],
)
def test_a_targets_colour_is_taken_out_of_the_sentence(text, name, bare):
    assert colours.find(text) == Colour(name, bare)


@pytest.mark.parametrize(
    "text",
    [
        "the yacht",
        "the car beside the red truck",
        "the ship with a blue hull",
        "the boat passing white buoys",
        "the red and white boat",
        "the black or blue car",
        "the red-hulled freighter",
        "the one that is red",
        "the redder car",
        "the greyhound",
    ],
)
def test_what_is_not_the_targets_one_colour_is_none(text):
    assert colours.find(text) is None


def test_what_is_most_like_the_colour_agrees_best():
    seen = [(128, 120, 118), (135, 95, 92), (100, 110, 135), (190, 190, 188), (70, 72, 74)]
    for name, best in (("red", 1), ("blue", 2), ("white", 3), ("black", 4)):
        agreement = colours.agreement(seen, name)
        assert agreement.argmax() == best
        assert agreement[best] == 1
        assert (np.delete(agreement, best) < 0.6).all()


COLOUR = st.tuples(*[st.floats(0, 255)] * 3)


@given(st.lists(COLOUR, max_size=8), st.sampled_from(sorted(colours._COLOURS)))
def test_agreement_is_a_share_whatever_is_seen(seen, name):
    agreement = colours.agreement(seen, name)
    assert agreement.shape == (len(seen),)
    assert ((agreement >= 0) & (agreement <= 1)).all()
    if seen:
        assert agreement.max() == 1


HUES = sorted(name for name, colour in colours._COLOURS.items() if np.ptp(colour) >= 40)


@given(st.floats(0, 255), st.sampled_from(HUES))
def test_haze_that_is_alike_for_all_changes_no_order_of_hues(light, name):
    """A thing of the colour itself, and its negative, through the same haze."""
    own = np.array(colours._COLOURS[name], float)
    negative = 2 * own.mean() - own
    seen = [0.4 * c + 0.6 * light for c in (own, negative)]
    assert colours.agreement(seen, name).argmax() == 0
