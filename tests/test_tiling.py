"""Windows that cover a frame, follow a target and never leave the frame; the search for the first of them."""

import itertools
from typing import NamedTuple

import bright_model
import cv2
import numpy as np
import pytest
import tiny
from bright_model import lights
from hypothesis import given, settings
from hypothesis import strategies as st

import mqc_jax
from mqc_jax import tile_search, tiling
from mqc_jax.tiling import Window

# ---- windows --------------------------------------------------------------------------------------------------------

SIDES = st.integers(1, 400)
SIZES = st.tuples(SIDES, SIDES)


def is_inside(window: Window, size: tuple[int, int]) -> bool:
    x0, y0, x1, y1 = window.box
    return 0 <= x0 < x1 <= size[1] and 0 <= y0 < y1 <= size[0]


@settings(deadline=None, max_examples=60)
@given(st.integers(16, 300), SIZES, st.sampled_from([0.0, 0.25, 0.5]))
def test_tiles_cover_the_frame_and_overlap(side, size, overlap):
    windows = tiling.cover(side, size, overlap)
    seen = np.zeros(size, bool)
    for window in windows:
        assert is_inside(window, size)
        assert (window.height, window.width) == (min(side, size[0]), min(side, size[1]))
        window.cut(seen)[:] = True
    assert seen.all()
    for starts in (sorted({w.x for w in windows}), sorted({w.y for w in windows})):
        assert all(b - a <= max(1, side * (1 - overlap)) + 1 for a, b in itertools.pairwise(starts))


class Scene(NamedTuple):
    size: tuple[int, int]
    window: Window
    box: tuple[int, int, int, int]


@st.composite
def scenes(draw) -> Scene:
    """A frame, a window in it, and a target inside that window or beside it, but no larger."""
    size = draw(SIZES)
    side = draw(st.integers(1, 300))
    window = tiling.around(draw(st.integers(0, size[1])), draw(st.integers(0, size[0])), side, size)
    box = []
    for length, limit in ((window.width, size[1]), (window.height, size[0])):
        long = draw(st.integers(1, length))
        low = draw(st.integers(0, limit - long))
        box.append((low, low + long))
    (x0, x1), (y0, y1) = box
    return Scene(size, window, (x0, y0, x1, y1))


@settings(deadline=None)
@given(scenes())
def test_a_window_stays_in_the_frame_keeps_its_size_and_holds_its_target(scene):
    moved = tiling.follow(scene.window, scene.box, scene.size)
    assert is_inside(moved, scene.size)
    assert moved[2:] == scene.window[2:]
    x0, y0, x1, y1 = moved.box
    assert x0 <= scene.box[0]
    assert scene.box[2] <= x1
    assert y0 <= scene.box[1]
    assert scene.box[3] <= y1


@settings(deadline=None)
@given(scenes())
def test_a_window_rests_after_it_moved_and_while_its_target_is_inside(scene):
    moved = tiling.follow(scene.window, scene.box, scene.size)
    assert tiling.follow(moved, scene.box, scene.size) == moved
    margins = [tiling.MARGIN * scene.window.width, tiling.MARGIN * scene.window.height] * 2
    x0, y0, x1, y1 = scene.window.box
    gaps = (scene.box[0] - x0, scene.box[1] - y0, x1 - scene.box[2], y1 - scene.box[3])
    if all(gap >= margin for gap, margin in zip(gaps, margins, strict=True)):
        assert moved == scene.window


@settings(deadline=None)
@given(st.floats(-50, 450), st.floats(-50, 450), SIDES, SIZES)
def test_a_window_around_a_point_is_as_near_as_the_frame_lets_it_be(x, y, side, size):
    window = tiling.around(x, y, side, size)
    assert is_inside(window, size)
    if window.width / 2 <= x <= size[1] - window.width / 2:
        assert abs(window.x + window.width / 2 - x) <= 0.5


@given(st.integers(0, 400), st.integers(32, 512))
def test_a_targets_window_grows_with_it_and_has_room_around_it(length, tile):
    side = tiling.side_of(length, tile)
    assert side >= max(7 * length // 5, 3 * tile // 8)
    assert side >= min(3 * length, 3 * tile // 4)
    assert side <= tiling.side_of(length + 1, tile)
    assert tiling.side_of(0, tile) == 3 * tile // 8  # the tiniest are seen the largest


def test_the_main_part_is_the_largest_piece():
    mask = np.zeros((20, 30), bool)
    assert tiling.main_part(mask) is None
    mask[2:5, 3:9] = mask[10, 20:25] = True
    assert tiling.main_part(mask) == (3, 2, 9, 5)


@settings(deadline=None)
@given(st.integers(1, 24), st.integers(1, 24), st.floats(0, 0.6), st.integers(0, 2**32 - 1))
def test_the_main_part_is_that_of_the_whole_frame(height, width, share, seed):
    """It is looked for in the mask's own box; OpenCV on the whole mask knows the answer."""
    mask = np.random.default_rng(seed).random((height, width)) < share
    count, _, facts, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count == 1:
        assert tiling.main_part(mask) is None
        return
    x, y, columns, rows, _ = facts[1 + facts[1:, cv2.CC_STAT_AREA].argmax()]
    assert tiling.main_part(mask) == (x, y, x + columns, y + rows)


# ---- the search, with a model that points at what is bright ---------------------------------------------------------


@pytest.fixture
def bright(tiny_model, monkeypatch):
    return tiny_model, bright_model.ground_on_brightness(monkeypatch)


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("the leftmost boat", 0),
        ("show me the easternmost boat", 2),
        ("the uppermost boat", 1),
        ("the rightmost boat at the top", 1),  # the one farther right is not at the top
    ],
)
def test_the_most_extreme_of_all_that_a_sentence_could_mean_is_chosen(bright, text, chosen):
    model, seen = bright
    corners = [(60, 300), (330, 40), (590, 410)]
    found = tile_search.search(model, lights(*corners), text, 64)
    x, y = corners[chosen]
    x0, y0, x1, y1 = found.window.box
    assert x0 <= x < x + 12 <= x1
    assert y0 <= y < y + 12 <= y1
    assert "most" not in found.text
    assert found.text.endswith("at the center")
    asked = "show me every boat" if text.startswith("show") else "every boat"
    assert seen[0][0] == tuple(model.tokenizer.encode([asked], 16)[0][0])


@pytest.mark.parametrize(("text", "corner"), [("the boat at the top-left", 0), ("the boat in the south-east", 1)])
def test_the_place_in_the_sentence_chooses_among_equals(bright, text, corner):
    model, seen = bright
    corners = [(90, 70), (540, 400)]
    found = tile_search.search(model, lights(*corners), text, 64)
    x, y = corners[corner]
    x0, y0, x1, y1 = found.window.box
    assert (found.window.width, found.window.height) == (48, 48)  # three quarters of a tile
    assert abs((x0 + x1) / 2 - x - 6) <= 4
    assert abs((y0 + y1) / 2 - y - 6) <= 4
    assert found.text == "the boat at the center"
    assert {ids for ids, _ in seen} == {tuple(model.tokenizer.encode(["the boat"], 16)[0][0])}
    # One ninth of the frame and its surroundings, not all of it.
    tiles = sum(len(tiling.cover(side, (480, 640))) for side in (64, 128))
    assert len(seen) * tile_search.BATCH < 0.6 * tiles
    assert found.map.shape == (480, 640)
    assert found.map[y + 6, x + 6] > 0.9


@pytest.mark.parametrize(
    ("text", "chosen"), [("the red boat", 0), ("the blue boat", 1), ("the leftmost blue boat at the bottom", 2)]
)
def test_the_colour_in_the_sentence_chooses_among_equals(bright, text, chosen):
    model, seen = bright
    corners = [(300, 60), (480, 260), (200, 400), (430, 420)]
    frame = lights(*corners)
    for (x, y), colour in zip(corners, [(200, 70, 60), (140, 150, 220), (140, 150, 220), (140, 150, 220)], strict=True):
        frame[y : y + 12, x : x + 12] = colour
    if chosen == 1:
        frame[400:] = 20
    found = tile_search.search(model, frame, text, 64)
    x, y = corners[chosen]
    assert np.abs(np.subtract(found.box, (x, y, x + 12, y + 12))).max() <= 4
    assert found.text == "the boat at the center"
    every = model.tokenizer.encode(["every boat"], model.config.bert.max_tokens)[0][0]
    assert {ids for ids, _ in seen} == {tuple(every)}  # the model is asked for all, the pixels tell the colour


def test_where_nothing_is_found_the_other_tiles_are_searched_too(bright):
    model, _ = bright
    found = tile_search.search(model, lights((540, 400)), "the boat at the top-left", 64)
    assert found.window.x <= 540
    assert found.window.box[2] >= 552


def test_a_sentence_without_a_place_is_asked_as_it_is(bright):
    model, seen = bright
    found = tile_search.search(model, lights((300, 200)), "the boat", 64)
    assert found.text == "the boat"
    assert len({ids for ids, _ in seen}) == 1


def test_a_target_at_the_frames_edge_is_placed_where_it_is_in_the_window(bright):
    model, _ = bright
    found = tile_search.search(model, lights((0, 0), side=10), "the boat at the top-left", 64)
    side = found.window.width
    assert found.window == Window(0, 0, side, side)
    assert side == 36  # three times its length, which is 12 on a grid of 16 cells
    assert found.text == "the boat at the top-left"


def test_a_target_larger_than_a_tile_gets_a_larger_window(bright):
    model, _ = bright
    found = tile_search.search(model, lights((200, 150), side=150), "the ship", 64)
    assert 200 <= found.window.width <= 225  # 1.4 times as long
    x0, y0, x1, y1 = found.window.box
    assert x0 <= 200
    assert y0 <= 150
    assert x1 >= 350
    assert y1 >= 300


def test_an_empty_frame_gives_some_window_inside_it(bright):
    model, _ = bright
    assert is_inside(tile_search.search(model, lights(), "the ship at the bottom", 64).window, (480, 640))


def test_the_real_grounding_gives_what_one_window_by_itself_gives(tiny_model):
    frame = tiny.frames(1, (100, 130))[0]
    windows = tiling.cover(64, (100, 130))
    assert len(windows) == 6
    together = list(tile_search.look(tiny_model, frame, windows, "a boat"))
    for window, sight in zip(windows, together, strict=True):
        alone = mqc_jax.Tracker(tiny_model, texts=["a boat"]).push(window.cut(frame))[0]
        np.testing.assert_allclose(sight.coarse, alone.evidence["coarse"][0], atol=1e-5)
        assert sight.window == window
        assert 0 <= sight.score <= 1
