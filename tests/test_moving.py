"""Words for what moves and what stands: people's, and the project's own sentences, which have none."""

import numpy as np
import pytest

from mqc_jax import moving
from mqc_jax.data import paraphrases


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("the moving car at the top", "the car at the top"),
        ("The Moving Car", "The Car"),
        ("moving ship in the north-west", "ship in the north-west"),
        ("the slowly moving train", "the train"),
        ("the fast-moving boat", "the boat"),
        ("the jet taxiing at the bottom", "the jet at the bottom"),
        ("the yacht heading north", "the yacht"),
        ("the yacht heading north-east at the left", "the yacht at the left"),
        ("the red car driving towards the top, with a trailer", "the red car, with a trailer"),
        ("the car turning left of the bridge", "the car left of the bridge"),
        ("the truck driving on the bridge", "the truck on the bridge"),
        ("the plane that is moving at the center", "the plane at the center"),
        ("the plane at the top-left that taxis", "the plane at the top-left"),
        ("the plane in the upper left corner, moving to the right", "the plane in the upper left corner"),
        ("follow the ship which is under way", "follow the ship"),
        ("the freighter in motion", "the freighter"),
    ],
)
def test_what_moves(text, bare):
    assert moving.find(text) == moving.Motion(True, bare)


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("the parked airliner at the left", "the airliner at the left"),
        ("the airliner that is parked", "the airliner"),
        ("a moored yacht in the middle", "a yacht in the middle"),
        ("the car that is not moving at the top", "the car at the top"),
        ("the car that isn't moving", "the car"),
        ("the train that does not move", "the train"),
        ("the ship at anchor", "the ship"),
        ("the stationary truck next to the moving car", "the truck next to the moving car"),
        ("the truck standing still at the top", "the truck at the top"),
    ],
)
def test_what_stands(text, bare):
    assert moving.find(text) == moving.Motion(False, bare)


@pytest.mark.parametrize(
    "text",
    [
        "the yacht at the bottom-right",
        "the sailing yacht at the top",
        "the yacht beside the moving ship",
        "the car next to the parked truck",
        "the plane with a taxiing jet behind it",
        "the speed boat",
        "the removing van",
        "the self-driving car",
        "moving",
        "stationary!",
        "the fast boat",
    ],
)
def test_nothing_said_of_the_target(text):
    assert moving.find(text) is None


@pytest.mark.parametrize(
    ("text", "odds"),
    [
        ("the boat at the left", 5.0),
        ("the leftmost boat", 1.0),
        ("the biggest ship at the top", 1.0),
        ("the northernmost car in the upper left corner", 1.0),
        ("the top-leftmost car", 5.0),  # a place
        ("the moving boat", 20.0),
        ("the largest moving boat", 20.0),
        ("the smallest parked car", 1 / 20),
    ],
)
def test_odds_of_what_moves(text, odds):
    assert moving.odds(text, 5.0) == odds
    assert moving.odds(text, 1.0) == 1.0  # motion does not choose


def test_no_sentence_of_the_training_s_says_it():
    rng, names = np.random.default_rng(0), [n for names in paraphrases._FINE.values() for n in names]
    names += [word for _, words in paraphrases._COARSE for word in words]
    forms = (*paraphrases._SENTENCES, *paraphrases._HELD_OUT_SENTENCES)
    for name in names:
        for form in forms:
            for place in ("", "center", "top-left", "right", "bottom"):
                where = str(rng.choice(paraphrases._places(place)))
                assert moving.find(form.format(what=name, where=where)) is None
