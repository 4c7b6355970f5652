"""Very large frames: windows that cover, follow and never leave the frame; the search; the tracker around `Tracker`."""

import itertools
import json
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

import mqc_jax
from mqc_jax import places, tile_search, tiled, tiling
from mqc_jax.data.expressions import location
from mqc_jax.errors import UserError
from mqc_jax.results import FrameResult
from mqc_jax.tiled import TiledTracker
from mqc_jax.tiling import Window

# ---- places in sentences --------------------------------------------------------------------------------------------


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


def test_the_main_part_is_the_largest_piece():
    mask = np.zeros((20, 30), bool)
    assert tiling.main_part(mask) is None
    mask[2:5, 3:9] = mask[10, 20:25] = True
    assert tiling.main_part(mask) == (3, 2, 9, 5)


# ---- the search, with a model that points at what is bright ---------------------------------------------------------


@pytest.fixture
def bright(tiny_model, monkeypatch):
    """The tiny model, grounding every sentence on bright pixels. `seen` gathers (sentence, images that were shown)."""
    seen = []

    def ground(net, params, images, ids, mask):
        small = np.stack([cv2.resize(image[..., 0], (16, 16), interpolation=cv2.INTER_AREA) for image in images])
        logits = (small.astype(np.float32) - 100) / 10
        coarse = 1 / (1 + np.exp(-logits))
        seen.append((tuple(ids[0]), images))
        return coarse.max((1, 2)) * (small > 100).any((1, 2)), coarse, logits

    monkeypatch.setattr(tile_search, "_ground", ground)
    return tiny_model, seen


def lights(*corners: tuple[int, int], side: int = 12, size: tuple[int, int] = (480, 640)) -> np.ndarray:
    """A dark frame with a bright square at each (x, y)."""
    frame = np.full((*size, 3), 20, np.uint8)
    for x, y in corners:
        frame[y : y + side, x : x + side] = 255
    return frame


@pytest.mark.parametrize(("text", "corner"), [("the boat at the top-left", 0), ("the boat in the south-east", 1)])
def test_the_place_in_the_sentence_chooses_among_equals(bright, text, corner):
    model, seen = bright
    corners = [(90, 70), (540, 400)]
    found = tile_search.search(model, lights(*corners), text, 64)
    x, y = corners[corner]
    x0, y0, x1, y1 = found.window.box
    assert (found.window.width, found.window.height) == (64, 64)
    assert abs((x0 + x1) / 2 - x - 6) <= 4
    assert abs((y0 + y1) / 2 - y - 6) <= 4
    assert found.text == "the boat at the center"
    assert {ids for ids, _ in seen} == {tuple(model.tokenizer.encode(["the boat"], 16)[0][0])}
    # One ninth of the frame and its surroundings, not all of it.
    tiles = sum(len(tiling.cover(side, (480, 640))) for side in (64, 128))
    assert len(seen) * tile_search.BATCH < 0.6 * tiles
    assert found.map.shape == (480, 640)
    assert found.map[y + 6, x + 6] > 0.9


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
    assert found.window == Window(0, 0, 64, 64)
    assert found.text == "the boat at the top-left"


def test_a_target_larger_than_a_tile_gets_a_larger_window(bright):
    model, _ = bright
    found = tile_search.search(model, lights((200, 150), side=150), "the ship", 64)
    assert found.window.width == 256
    x0, y0, x1, y1 = found.window.box
    assert x0 <= 200
    assert y0 <= 150
    assert x1 >= 350
    assert y1 >= 350 - 50


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


# ---- the tracker ----------------------------------------------------------------------------------------------------

TEXTS = ["the yacht at the left", "a boat that overtakes the other"]
SIZE = (100, 140)


def run(session, frames) -> list[FrameResult]:
    return [out for frame in frames for out in session.push(frame)] + session.finish()


def assert_same(a: FrameResult, b: FrameResult) -> None:
    for name in ("frame_index", "masks", "mask_logits", "presence", "targets", "started"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    for name in ("memory", "evidence"):
        own, other = getattr(a, name), getattr(b, name)
        assert own.keys() == other.keys()
        for key, values in own.items():
            np.testing.assert_array_equal(values, other[key], err_msg=key)


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    return tiny.frames(5, SIZE)


@pytest.fixture(scope="module")
def results(tiny_model, frames):
    return run(TiledTracker(tiny_model, texts=TEXTS), frames)


@pytest.mark.parametrize("size", [(64, 64), (40, 64)])
def test_a_frame_of_one_tile_is_seen_as_the_plain_tracker_sees_it(tiny_model, size):
    video = tiny.frames(3, size)
    session = TiledTracker(tiny_model, texts=TEXTS)
    for a, b in zip(run(session, video), run(mqc_jax.Tracker(tiny_model, texts=TEXTS), video), strict=True):
        assert_same(a, b)
    assert session.windows == []
    assert (session.num_targets, session.frame_index) == (2, 2)


def test_each_target_gets_exactly_what_a_tracker_sees_in_its_window(tiny_model, frames, results):
    assert [out.frame_index for out in results] == list(range(5))
    for n, text in enumerate(TEXTS):
        found = tile_search.search(tiny_model, frames[0], text, 64)
        alone = mqc_jax.Tracker(tiny_model, texts=[found.text])
        for frame, out in zip(frames, results, strict=True):
            x0, y0, x1, y1 = out.memory["view"][n]
            (own,) = alone.push(np.ascontiguousarray(frame[y0:y1, x0:x1]))
            np.testing.assert_array_equal(out.masks[n, y0:y1, x0:x1], own.masks[0])
            assert out.masks[n].sum() == own.masks[0].sum()  # nothing outside the window
            np.testing.assert_array_equal(out.mask_logits[n], own.mask_logits[0])
            assert out.presence[n] == own.presence[0]
    assert all(out.masks.shape == (2, *SIZE) and out.masks.dtype == bool for out in results)
    assert any(out.masks.any() for out in results)
    assert results[0].started.all()
    assert not results[1].started.any()
    assert results[0].evidence["coarse"].shape == (2, *SIZE)


def test_a_later_frame_changes_nothing_earlier(tiny_model, frames, results):
    changed = run(TiledTracker(tiny_model, texts=TEXTS), [*frames[:3], *tiny.frames(2, SIZE, seed=9)])
    for a, b in zip(changed[:3], results[:3], strict=True):
        assert_same(a, b)


class Brightness:
    """In `Tracker`'s place: a target is what is bright. Holds its first `lag` frames back, as a calibration does."""

    lag = 0

    def __init__(self, model, texts=None, masks=None):
        self.held, self.given, self.num_targets = [], 0, len(texts or masks)

    def push(self, frame):
        self.held.append(frame)
        return self.finish() if self.given or len(self.held) > self.lag else []

    def finish(self):
        held, self.held = self.held, []
        return [self._result(frame) for frame in held]

    def _result(self, frame):
        mask = frame[None, ..., 0] > 100
        self.given += 1
        facts = np.array([mask.any()])
        logits = np.zeros((1, 16, 16), np.float32)
        return FrameResult(self.given - 1, mask, logits, facts.astype(np.float32), {}, {}, np.zeros(1, int), facts)


@pytest.mark.parametrize("lag", [0, 6])
def test_a_window_follows_its_target_through_the_whole_frame(bright, monkeypatch, lag):
    model, _ = bright
    monkeypatch.setattr(tiled, "Tracker", type("Held", (Brightness,), {"lag": lag}))
    path = [(20 + 5 * t, 440 - 3 * t) for t in range(120)]
    gone = range(60, 63)
    video = [lights(*([] if t in gone else [corner])) for t, corner in enumerate(path)]
    session = TiledTracker(model, texts=["the boat at the bottom-left"])
    moves = 0
    for t, frame in enumerate(video):
        before = session.windows
        outs = session.push(frame)
        if t in gone:
            assert not outs[0].masks.any()
            assert session.windows == before  # waited for where it was last seen
        moves += session.windows != before
        for out in outs:
            truth = video[out.frame_index][..., 0] > 100
            x0, y0, x1, y1 = out.memory["view"][0]
            np.testing.assert_array_equal(out.masks[0, y0:y1, x0:x1], truth[y0:y1, x0:x1])
            # It comes back at the window's edge, and is in the window's middle one frame later.
            if out.frame_index not in (60, 61, 62, 63):
                np.testing.assert_array_equal(out.masks[0], truth)
        assert len(session._views[0].results) == 0
        assert len(session._views[0]._seen) <= lag
    assert session.frame_index == 119
    assert 5 < moves < 60  # it moves when it must, not always


def test_targets_that_settle_at_different_times_come_together_and_in_order(bright, monkeypatch):
    model, _ = bright
    lags = iter([0, 2, 5])
    plain = Brightness

    def make(*arguments, **prompts):
        tracker = plain(*arguments, **prompts)
        tracker.lag = next(lags)
        return tracker

    monkeypatch.setattr(tiled, "Tracker", make)
    session = TiledTracker(model, texts=["the boat at the left", "the boat at the right"])
    video = [lights((20 + t, 200), (600 - t, 230)) for t in range(8)]
    counts = [len(session.push(frame)) for frame in video]
    assert counts == [0, 0, 0, 0, 0, 6, 1, 1]


def test_calibration_works_in_the_window(tiny_model):
    rng = np.random.default_rng(3)
    ground, square = rng.integers(60, 110, (*SIZE, 3), np.uint8), rng.integers(130, 250, (14, 14, 3), np.uint8)
    video = []
    for t in range(9):
        video.append(ground.copy())
        video[-1][44:58, 70 + t : 84 + t] = square
    masks = np.zeros((2, *SIZE), bool)
    masks[0, 44:58, 70:84] = True
    masks[1, 80:90, 5:15] = True  # parked
    windows = {"n_start": 2, "n_step": 2, "n_max": 6, "evidence": "background", "remove_background": False}
    model = tiny_model.replace(calibration="tmcc", tmcc=windows)
    session = TiledTracker(model, masks=masks)
    counts = [len(session.push(frame)) for frame in video]
    assert counts == [0] * 6 + [7, 1, 1]
    first = run(TiledTracker(model, masks=masks), video)[0]
    np.testing.assert_array_equal(first.memory["window"], [2, 6])
    np.testing.assert_array_equal(first.memory["is_static"], [False, True])
    assert first.evidence["calibrated"].shape == (2, *SIZE)
    ((x0, y0, x1, y1), _) = first.memory["view"]
    alone = mqc_jax.Tracker(model, masks=masks[:1, y0:y1, x0:x1])
    own = run(alone, [frame[y0:y1, x0:x1] for frame in video[:3]])[0]
    np.testing.assert_array_equal(first.masks[0, y0:y1, x0:x1], own.masks[0])


def test_given_masks_choose_windows_twice_as_long_as_the_target(tiny_model):
    masks = np.zeros((3, 300, 400), bool)
    masks[0, 100:110, 200:220] = True
    masks[1, 100:160, 200:290] = True
    session = TiledTracker(tiny_model, masks=masks)
    session.push(tiny.frames(1, (300, 400))[0])
    small, large, nowhere = session.windows
    assert (small.width, large.width, nowhere.width) == (64, 256, 64)
    assert session.num_targets == 3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"texts": TEXTS, "tile": 8}, "tile=8 must be at least 32 pixels, or 0"),
        ({"texts": TEXTS, "tile": -1}, "tile=-1 must be at least 32"),
        ({"texts": []}, "texts is empty"),
        ({}, "give exactly one"),
        ({"masks": np.ones((4, 4))}, r"masks have shape \[4, 4\]"),
    ],
)
def test_what_is_asked_wrongly_is_refused(tiny_model, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        TiledTracker(tiny_model, **arguments)


@pytest.mark.parametrize(
    ("frame", "sentence"),
    [
        (np.zeros((200, 200), np.uint8), "give uint8 RGB"),
        (np.zeros((200, 200, 3), np.float32), "a frame is float32"),
        (np.zeros((8, 200, 3), np.uint8), "both sides must be at least 16"),
    ],
)
def test_a_first_frame_that_is_none_is_refused(tiny_model, frame, sentence):
    with pytest.raises(UserError, match=sentence):
        TiledTracker(tiny_model, texts=TEXTS).push(frame)


def test_masks_of_another_size_are_refused(tiny_model):
    with pytest.raises(UserError, match="masks are 90x90 but the first frame is 200x200"):
        TiledTracker(tiny_model, masks=np.ones((1, 90, 90))).push(np.zeros((200, 200, 3), np.uint8))


def test_a_later_frame_of_another_form_is_refused_and_the_stream_can_go_on(tiny_model, frames, results):
    session = TiledTracker(tiny_model, texts=TEXTS)
    session.push(frames[0])
    for wrong in (frames[1][:90], frames[1].astype(np.float32), frames[1][..., 0]):
        with pytest.raises(UserError, match="a tracker needs frames of one size"):
            session.push(wrong)
    assert_same(session.push(frames[1])[0], results[1])


def test_predict_takes_tiles(tiny_checkpoint, tmp_path):
    (tmp_path / "frames").mkdir()
    for t, frame in enumerate(tiny.frames(3, SIZE)):
        cv2.imwrite(str(tmp_path / "frames" / f"{t:02d}.png"), frame)
    asked = ["--video", tmp_path / "frames", "--text", "a boat", "--tile", 0]
    done = tiny.command("mqc_jax.predict", "--checkpoint", tiny_checkpoint, *asked, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    masks = sorted((tmp_path / "out" / "masks" / "00").iterdir())
    assert [cv2.imread(str(mask), cv2.IMREAD_UNCHANGED).shape for mask in masks] == [SIZE] * 3
    assert json.loads((tmp_path / "out" / "result.json").read_text())["model"]["tile"] == 64
