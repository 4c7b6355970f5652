"""Which windows of frame 0 are looked at for a sentence, whatever the model sees in them."""

import numpy as np
import pytest

from mqc_jax import tile_search
from mqc_jax.tile_search import _sight

SIZE = (600, 800)


@pytest.fixture
def looked(monkeypatch):
    """Replaces the model by one that shows what is bright, as surely as `scores` says of a window's side."""
    seen, scores = [], {}

    def look(model, frame, windows, text):
        for window in windows:
            seen.append(window)
            part = window.cut(frame)[..., 0]
            rows, columns = (np.arange(64) * side // 64 for side in part.shape)
            logits = np.where(part[np.ix_(rows, columns)] > 128, 9.0, -9.0).astype(np.float32)
            yield _sight(window, np.float32(scores.get(window.width, 0.0)), 1 / (1 + np.exp(-logits)), logits)

    monkeypatch.setattr(tile_search, "look", look)
    return seen, scores


def shown(box: tuple[int, int, int, int]) -> np.ndarray:
    frame = np.zeros((*SIZE, 3), np.uint8)
    x0, y0, x1, y1 = box
    frame[y0:y1, x0:x1] = 255
    return frame


def sides(seen) -> set[int]:
    return {window.width for window in seen}


def test_tiles_are_not_asked_for_what_moves(monkeypatch):
    asked = []
    monkeypatch.setattr(tile_search, "look", lambda model, frame, windows, text: asked.append(text) or iter(()))
    monkeypatch.setattr(
        tile_search, "_zoom", lambda model, frame, point, text, tile: (tile_search.Window(0, 0, 9, 9), None)
    )
    found = tile_search.search(None, np.zeros((*SIZE, 3), np.uint8), "the moving yacht at the top-left", 128)
    assert set(asked) == {"the yacht"}
    assert found.text.startswith("the yacht at the ")
    found = tile_search.search(None, np.zeros((*SIZE, 3), np.uint8), "the yacht heading north", 128)
    assert found.text == "the yacht"


def test_what_is_surely_seen_needs_no_closer_look(looked):
    seen, scores = looked
    scores.update({128: 0.9, 256: 0.9})
    found = tile_search.search(None, shown((300, 200, 330, 220)), "the yacht", 128)
    np.testing.assert_allclose(found.box, (300, 200, 330, 220), atol=4)
    assert sides(seen) == {128, 256}


@pytest.mark.parametrize("scores_of_tiles", [0.0, 0.1])
def test_where_nothing_is_likely_halves_of_tiles_are_looked_at(looked, scores_of_tiles):
    seen, scores = looked
    scores.update({64: 0.9, 128: scores_of_tiles, 256: scores_of_tiles})
    found = tile_search.search(None, shown((300, 200, 306, 204)), "the small car", 128)
    np.testing.assert_allclose(found.box, (300, 200, 306, 204), atol=2)
    assert sides(seen) == {64, 128, 256}


def test_a_closer_look_is_taken_where_the_sentence_says_and_then_elsewhere(looked):
    seen, scores = looked
    scores.update({64: 0.9, 128: 0.9, 256: 0.9})
    frame = shown((700, 500, 730, 520))  # not at the top-left
    found = tile_search.search(None, frame, "the yacht at the top-left", 128)
    np.testing.assert_allclose(found.box, (700, 500, 730, 520), atol=4)
    halves = [window for window in seen if window.width == 64]
    assert halves
    assert all(window.x < SIZE[1] * 0.4 and window.y < SIZE[0] * 0.4 for window in halves)
    assert {window for window in seen if window.width == 128} >= set(tile_search.cover(128, SIZE))
