"""Other words for the same object: they stay true of it alone, and the held-out ones are never trained on."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqc_jax.data import paraphrases
from mqc_jax.data.expressions import Description, class_phrase, location
from mqc_jax.data.paraphrases import CLASSES, describe_freely, reword
from mqc_jax.data.synthetic.silhouettes import SUPERCLASS
from mqc_jax.text import Tokenizer

PLACES = sorted({location(cell) for cell in itertools.product(range(3), repeat=2)})
PHRASES = [*map(class_phrase, CLASSES), "ship", "airliner"]


def said(place: str, phrase: str, held_out: bool, count: int = 200) -> set[str]:
    rng = np.random.default_rng(0)
    return {reword(Description(1, "", "", phrase, place), rng, held_out) for _ in range(count)}


def test_the_classes_are_the_generators_and_called_as_the_template_does():
    assert set(CLASSES) == set(SUPERCLASS)
    assert all(names[0] == class_phrase(name) for name, names in paraphrases._FINE.items())


@pytest.mark.parametrize("phrase", PHRASES)
def test_no_held_out_sentence_is_ever_said_in_training(phrase):
    for place in PLACES:
        assert not said(place, phrase, False) & said(place, phrase, True)


def test_the_templates_words_are_among_those_that_are_said():
    assert "the yacht at the bottom-right" in said("bottom-right", "yacht", False, 2000)


def words_of(place: str) -> set[str]:
    """Directions that a cell's names may contain."""
    row, _, column = place.partition("-")
    column = column or row
    found = {"top": {"top", "upper", "north"}, "bottom": {"bottom", "lower", "south"}}.get(row, set())
    return found | {"left": {"left", "west"}, "right": {"right", "east"}}.get(column, set())


@given(place=st.sampled_from(PLACES), phrase=st.sampled_from(PHRASES), held_out=st.booleans(), seed=st.integers(0, 999))
@settings(deadline=None)
def test_a_sentence_never_names_another_direction(place, phrase, held_out, seed):
    text = reword(Description(1, "", "", phrase, place), np.random.default_rng(seed), held_out)
    directions = {"top", "upper", "north", "bottom", "lower", "south", "left", "west", "right", "east"}
    assert set(re.findall(r"[a-z]+", text)) & directions <= words_of(place)
    assert text.count("  ") == 0


def test_every_word_is_known_to_the_vocabulary():
    tokenizer = Tokenizer.default()
    rng = np.random.default_rng(1)
    for phrase, place, held_out in itertools.product(PHRASES, PLACES, (False, True)):
        for attribute in ("", "leftmost", "largest"):
            text = reword(Description(1, "", attribute, phrase, place), rng, held_out)
            ids, mask = tokenizer.encode([text], 24)
            assert tokenizer.pieces.index("[UNK]") not in ids[0][mask[0].astype(bool)], text


def test_a_word_for_several_classes_still_fits_one_object():
    labels = np.zeros((90, 90), np.uint8)
    labels[5:9, 5:9], labels[15:19, 5:9], labels[70:74, 70:74], labels[70:74, 5:9] = 1, 2, 3, 4
    categories = {1: "yacht", 2: "freighter", 3: "cruise", 4: "train"}
    coarse = {word for _, words in paraphrases._COARSE for word in words}
    found = set()
    for seed in range(200):
        for one in describe_freely(labels, categories, np.random.default_rng(seed), coarse=1.0):
            assert one.phrase in coarse
            members = next(c for c, words in paraphrases._COARSE if one.phrase in words)
            assert categories[one.object_id] in members
            found.add((one.object_id, one.phrase, one.attribute))
    # Two ships share the top-left cell: "ship" alone would fit both, "boat" fits the yacht.
    assert {attribute for i, phrase, attribute in found if i == 1 and phrase == "ship"} == {"topmost"}
    assert {attribute for i, phrase, attribute in found if i == 1 and phrase == "boat"} == {""}


@pytest.mark.parametrize("free", [False, True])
def test_every_means_all_objects_of_what_it_names(free):
    labels = np.zeros((40, 40), np.int32)
    for i in range(1, 6):
        labels[6 * i : 6 * i + 3, 5:9] = i
    categories = {1: "yacht", 2: "yacht", 3: "freighter", 4: "large car", 5: "speed_boat"}
    rng = np.random.default_rng(0)
    told: dict[tuple, set[str]] = {}
    for _ in range(400):
        said, ids = paraphrases.every(labels, categories, rng, free)
        assert "every " in said
        told.setdefault(ids, set()).add(said)
    assert {(1, 2), (3,), (4,), (5,), ()} <= set(told)
    assert "every yacht" in told[1, 2]
    assert told[()].isdisjoint(set().union(*(sentences for ids, sentences in told.items() if ids)))
    words = {(1, 2, 5), (1, 2, 3, 5)}  # boats, ships
    assert (words & set(told) == words) is free
