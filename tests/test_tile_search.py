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


def test_of_several_things_each_is_looked_at_from_nearer(monkeypatch):
    """Tiles show the left one better, windows of their own the right one, and what is not seen there stays possible."""
    boxes = {(100, 200, 120, 216): (0.8, 0.2), (400, 200, 420, 216): (0.7, 0.9), (250, 220, 262, 232): (0.6, 0.0)}
    seen = []

    def look(model, frame, windows, text):
        for window in windows:
            seen.append((window, text))
            logits, score = np.full((64, 64), -9.0, np.float32), 0.0
            for box, (in_tiles, near) in boxes.items():
                x0, x1 = (np.array(box[::2]) - window.x) * 64 // window.width
                y0, y1 = (np.array(box[1::2]) - window.y) * 64 // window.height
                likely = in_tiles if window.width >= 128 else near
                if likely > score and min(x0, y0) > 0 and max(x1, y1) < 64:
                    logits[:] = -9.0
                    logits[y0:y1, x0:x1], score = 9.0, likely
            yield _sight(window, np.float32(score), 1 / (1 + np.exp(-logits)), logits)

    monkeypatch.setattr(tile_search, "look", look)
    ask = lambda ratio: tile_search.candidates(None, np.zeros((*SIZE, 3), np.uint8), "the big jet", 128, ratio)  # noqa: E731
    (alone,) = ask(1.0)
    np.testing.assert_allclose(alone.box, (100, 200, 120, 216), atol=4)
    assert {window.width for window, _ in seen} == {128, 256}  # where nothing is to be weighed, nothing more is asked
    seen.clear()
    found = ask(5.0)
    for one, box in zip(found, [(400, 200, 420, 216), (100, 200, 120, 216), (250, 220, 262, 232)], strict=True):
        np.testing.assert_allclose(one.box, box, atol=4)
    assert found[2].chance > 0
    assert [(one.window, "the big jet") for one in sorted(found, key=lambda one: -boxes_score(boxes, one))] == seen[-3:]


def boxes_score(boxes, one) -> float:
    return max(score for box, (score, _) in boxes.items() if abs(box[0] - one.box[0]) < 5)


def test_what_needs_a_tile_or_more_is_not_asked_again(looked):
    seen, scores = looked
    scores.update({128: 0.9, 256: 0.9, 512: 0.9, 1024: 0.9})
    frame = shown((300, 200, 500, 215)) | shown((100, 400, 120, 416))
    found = tile_search.candidates(None, frame, "the train", 128, 50.0)
    assert len(found) > 1
    assert max(one.window.width for one in found) >= 128
    assert not {one.window for one in found if one.window.width < 128} & set(seen)
