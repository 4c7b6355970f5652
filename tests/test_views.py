"""Motion chooses: which of the objects that a sentence may mean, in frames that are held back meanwhile."""

import bright_model
import numpy as np
import pytest
import tiny
from streams import assert_same, run

from mqc_jax import choice, course, rivals, views
from mqc_jax.errors import UserError
from mqc_jax.tiled import TiledTracker

TEXTS = ["the yacht at the left", "a boat that overtakes the other"]
SIZE = (100, 140)
CHOOSES = {"n_start": 2, "n_step": 2, "n_max": 6, "motion_odds": 8.0}


def two_boats(frames: int, size: tuple[int, int] = (480, 640)) -> list[np.ndarray]:
    """Rippled water, a large bright boat that stands at (100, 300), and a smaller one that sails on from (300, 200)."""
    rng = np.random.default_rng(0)
    water = rng.integers(20, 60, (*size, 3), np.uint8)
    video = []
    for t in range(frames):
        frame = water.copy()
        frame[300:330, 100:130] = 255
        frame[200 + 3 * t : 218 + 3 * t, 300 + 6 * t : 318 + 6 * t] = 190
        video.append(frame)
    return video


@pytest.mark.parametrize(("odds", "sails"), [(1.0, False), (8.0, True)])
def test_of_several_boats_that_may_be_meant_the_one_that_sails_is(tiny_model, monkeypatch, odds, sails):
    bright_model.ground_on_brightness(monkeypatch)
    monkeypatch.setattr(views, "Tracker", bright_model.Brightness)
    model = tiny_model.replace(calibration="tmcc", tmcc={**CHOOSES, "motion_odds": odds})
    session, video = TiledTracker(model, texts=["the boat"], tile=88), two_boats(20)
    buffer = np.empty_like(video[0])  # as a camera's: written to again and again
    counts, outs = [], []
    for frame in video:
        buffer[:] = frame
        outs += session.push(buffer)
        counts.append(len(outs))
    assert counts[:8] == ([0] * 6 + [7, 8] if odds > 1 else list(range(1, 9)))
    assert [out.frame_index for out in outs] == list(range(20))
    for out in outs:
        truth = video[out.frame_index][..., 0] > 100
        truth[:, :200] &= not sails
        truth[:, 200:] &= sails
        np.testing.assert_array_equal(out.masks[0], truth)
    if odds > 1:
        facts = outs[0].memory
        assert (facts["candidates"].tolist(), facts["moves"].tolist()) == ([2], [True])
        # It leaves its window of some 60 pixels within 6 frames, so that its first mask cannot be calibrated there.
        assert (facts["window"].tolist(), facts["is_static"].tolist()) == ([2], [False])
    assert "candidates" not in outs[1].memory


@pytest.mark.parametrize(
    ("text", "odds", "sails"),
    [
        ("the boat", 8.0, True),
        ("the moored boat", 8.0, False),
        ("the boat", 1.001, False),
        ("the boat that is under way", 1.001, True),
        ("the boat that is under way", 1.0, False),
        ("the largest boat", 8.0, False),
        ("the leftmost boat", 8.0, False),
    ],
)
def test_what_a_sentence_says_of_motion_decides(tiny_model, monkeypatch, tmp_path, text, odds, sails):
    bright_model.ground_on_brightness(monkeypatch)
    monkeypatch.setattr(views, "Tracker", bright_model.Brightness)
    model = tiny_model.replace(calibration="tmcc", tmcc={**CHOOSES, "motion_odds": odds})
    session, video = TiledTracker(model, texts=[text], tile=88), two_boats(9)
    for t, frame in enumerate(video):
        session.push(frame)
        if t == 4 and odds > 1:  # what was said survives a restart
            session.save(tmp_path / "stream")
            session = TiledTracker.restore(session.model, tmp_path / "stream")
    (view,) = session._views.values()
    assert (view.course.last[1] > 200) == sails


@pytest.mark.parametrize(
    ("text", "other", "sails"), [("the boat", 99, True), ("the boat", 15, False), ("the moored boat", 99, False)]
)
def test_what_sets_off_later_is_followed_from_then_on(tiny_model, monkeypatch, text, other, sails):
    """The smaller boat waits for longer than the longest window. If the larger one sets off as well, it stays that."""
    bright_model.ground_on_brightness(monkeypatch)
    monkeypatch.setattr(views, "Tracker", bright_model.Brightness)
    model = tiny_model.replace(calibration="tmcc", tmcc=CHOOSES)
    session, outs, truths = TiledTracker(model, texts=[text], tile=88), [], []
    for t in range(40):
        frame, at = two_boats(1)[0], max(t - 15, 0)
        frame[200:218, 300:318] = frame[100:118, 300:318]
        frame[300:330, 100:130] = frame[400:430, 100:130]
        frame[200 + 2 * at : 218 + 2 * at, 300 + 3 * at : 318 + 3 * at] = 190
        ahead = 4 * max(t - other, 0)
        frame[300:330, 100 + ahead : 130 + ahead] = 255
        truths.append(frame[..., 0] > 100)
        outs += session.push(frame)
    assert [out.frame_index for out in outs] == list(range(40))
    changed = [t for t, out in enumerate(outs) if out.memory.get("rechosen", [False])[0]]
    assert len(changed) == sails
    if sails:
        assert 16 <= changed[0] <= 20
    for t, (out, truth) in enumerate(zip(outs, truths, strict=True)):
        first = not sails or t < changed[0]
        truth[:, :290] &= first
        truth[:, 290:] &= not first
        np.testing.assert_array_equal(out.masks[0], truth)
    (view,) = session._views.values()
    assert view.rivals is None or sails


def test_a_chosen_targets_course_is_told_where_it_was_seen_to_go(tiny_model, monkeypatch):
    """A cloud comes over it from the left meanwhile, so that the middle of what is left to be seen goes otherwise."""
    bright_model.ground_on_brightness(monkeypatch)
    monkeypatch.setattr(views, "Tracker", bright_model.Brightness)
    rng = np.random.default_rng(1)
    water, boat = rng.integers(20, 60, (480, 640, 3), np.uint8), rng.integers(150, 255, (18, 30, 3), np.uint8)
    model = tiny_model.replace(calibration="tmcc", tmcc=CHOOSES)
    session = TiledTracker(model, texts=["the boat"], tile=88)
    for t in range(7):
        frame = water.copy()
        frame[200:218, 300 + 4 * t : 330 + 4 * t] = boat
        frame[:, : 300 + 6 * t] = 60
        session.push(frame)
    (view,) = session._views.values()
    assert np.diff(view.course.path, axis=0) == pytest.approx(np.tile([4, 0], (len(view.course.path) - 1, 1)), abs=0.6)
    assert len(view.course.path) == 3
    assert view.course.last[1] - 315 == pytest.approx(4 * 6, abs=2)  # the middle of what is left to be seen is at 30
    first = view.course.whole[0]
    assert [x - first[1] for _, x, _ in view.course.whole[1:3]] == pytest.approx([4, 8], abs=0.6)


@pytest.mark.parametrize(("moves", "told"), [(0, 0), (2, 3), (4, 0)])
def test_a_path_that_only_a_longer_window_shows_is_not_told(tiny_model, monkeypatch, moves, told):
    bright_model.ground_on_brightness(monkeypatch)
    monkeypatch.setattr(views, "Tracker", bright_model.Brightness)
    corners = np.full((7, 2), 300.0)
    found = [views.paths.Path(moves, corners)] * 2
    monkeypatch.setattr(choice.paths, "follow", lambda frames, poses, boxes, windows: found)
    session = TiledTracker(tiny_model.replace(calibration="tmcc", tmcc=CHOOSES), texts=["the boat"], tile=88)
    for frame in two_boats(7):
        session.push(frame)
    (view,) = session._views.values()
    assert len(view.course.path) == told


def test_what_was_chosen_gets_what_a_tracker_in_its_window_gives(tiny_model):
    """One candidate that stands: the same as if there had been no choice."""
    model = tiny_model.replace(calibration="tmcc", tmcc=CHOOSES)
    video = [tiny.frames(1, SIZE)[0]] * 9
    plain = run(TiledTracker(model.replace(tmcc={**CHOOSES, "motion_odds": 1.0}), texts=TEXTS[:1]), video)
    session = TiledTracker(model.replace(tmcc={**CHOOSES, "motion_odds": 1.0001}), texts=TEXTS[:1])
    for a, b in zip(run(session, video), plain, strict=True):
        for name in ("candidates", "moves"):
            a.memory.pop(name, None)
        assert_same(a, b)


@pytest.mark.parametrize("saved", [1, 4, 6, 8])
def test_a_stream_continues_inside_its_choice(tiny_model, tmp_path, saved):
    model = tiny_model.replace(calibration="tmcc", tmcc=CHOOSES)
    video = tiny.frames(10, SIZE)

    def go_on(session, first):
        outs = []
        for t in range(first, 10):
            if t == 3:
                session.add(texts=["a boat"])
            outs += session.push(video[t])
        return outs + session.finish()

    session = TiledTracker(model, texts=TEXTS)
    whole = go_on(session, 0)
    session = TiledTracker(model, texts=TEXTS)
    given = 0
    for t in range(saved):
        if t == 3:
            session.add(texts=["a boat"])
        given += len(session.push(video[t]))
    session.save(tmp_path / "stream")
    again = TiledTracker.restore(model, tmp_path / "stream")
    assert again.windows == session.windows
    rest = go_on(again, saved)
    assert [out.frame_index for out in rest] == list(range(given, 10))
    for a, b in zip(rest, whole[given:], strict=True):
        assert_same(a, b)


@pytest.mark.parametrize("saved", [9, 13, 18])
def test_a_stream_continues_while_what_may_set_off_is_watched(tiny_model, monkeypatch, tmp_path, saved):
    bright_model.ground_on_brightness(monkeypatch)
    # Random parameters leave their boat, and what has left its place needs no rival that moves.
    monkeypatch.setattr(rivals.Rivals, "_left", lambda *_: False)
    model = tiny_model.replace(calibration="tmcc", tmcc=CHOOSES)
    video = [two_boats(1)[0] for _ in range(22)]
    for t, frame in enumerate(video):
        frame[200:218, 300:318] = frame[100:118, 300:318]
        frame[200:218, 300 + 4 * max(t - 11, 0) : 318 + 4 * max(t - 11, 0)] = 190
    session = TiledTracker(model, texts=["the boat"], tile=88)
    whole = run(session, video)
    changed = [t for t, out in enumerate(whole) if out.memory.get("rechosen", [False])[0]]
    assert len(changed) == 1
    assert 12 <= changed[0] <= 16
    session = TiledTracker(model, texts=["the boat"], tile=88)
    given = sum(len(session.push(frame)) for frame in video[:saved])
    session.save(tmp_path / "stream")
    again = TiledTracker.restore(session.model, tmp_path / "stream")
    (before,), (after,) = session._views.values(), again._views.values()
    # The larger one may set off yet.
    assert before.rivals is not None
    assert after.rivals is not None
    rest = [out for frame in video[saved:] for out in again.push(frame)] + again.finish()
    assert [out.frame_index for out in rest] == list(range(given, 22))
    for a, b in zip(rest, whole[given:], strict=True):
        assert_same(a, b)


def test_a_choice_ends_with_the_video_or_with_its_target(tiny_model, tmp_path):
    model = tiny_model.replace(calibration="tmcc", tmcc=CHOOSES)
    session = TiledTracker(model, texts=TEXTS)
    video = tiny.frames(4, SIZE)
    assert [session.push(frame) for frame in video[:3]] == [[], [], []]
    session.save(tmp_path / "stream")
    with np.load(tmp_path / "stream") as stored:
        arrays = {name: stored[name] for name in stored.files if name != "held0.2"}
    with (tmp_path / "short").open("wb") as file:
        np.savez(file, **arrays)
    with pytest.raises(UserError, match=r"is damaged: 'held0\.2' is missing"):
        TiledTracker.restore(model, tmp_path / "short")
    session.drop(1)
    outs = session.finish()
    assert [out.frame_index for out in outs] == [0, 1, 2]
    assert outs[0].targets.tolist() == [0]
    session.drop(0)
    assert [out.frame_index for out in session.push(video[3])] == [3]


@pytest.mark.parametrize("noticed", [True, False])
def test_a_moored_ship_that_leaves_under_a_bridge_is_followed(tiny_model, monkeypatch, noticed):
    """Its mask ends at the bridge from the frame on in which it sets off, as if it stood."""
    bright_model.ground_on_brightness(monkeypatch)
    monkeypatch.setattr(views, "Tracker", bright_model.Brightness)
    if not noticed:
        monkeypatch.setattr(course, "_BETTER", 2.0)
    rng = np.random.default_rng(2)
    water, ship = rng.integers(20, 60, (480, 640, 3), np.uint8), rng.integers(180, 220, (20, 66, 3), np.uint8)
    session = TiledTracker(tiny_model, texts=["the ship at the center"], tile=96)
    for t in range(60):
        frame, left = water.copy(), 352 - 3 * max(t - 12, 0)
        frame[220:240, left : left + 66] = ship
        frame[:, 316:350] = 60
        (out,) = session.push(frame)
    assert out.masks[0, 220:240, left : left + 66].all() == noticed


@pytest.mark.parametrize("memory", ["sam2", "dami"])
def test_a_double_that_stood_there_before_does_not_lead_the_window_away(tiny_model, monkeypatch, memory):
    """A boat passes under a bridge beside which its double is moored; a memory that chooses does not take it in."""
    bright_model.ground_on_brightness(monkeypatch)
    monkeypatch.setattr(views, "Tracker", bright_model.Brightness)
    rng = np.random.default_rng(2)
    water, boat = rng.integers(20, 60, (480, 640, 3), np.uint8), rng.integers(150, 255, (18, 18, 3), np.uint8)
    model, stood = tiny_model.replace(memory=memory), []
    session = TiledTracker(model, texts=["the boat at the left"], tile=88)
    for t in range(50):
        frame = water.copy()
        frame[200:218, 100 + 5 * t : 118 + 5 * t] = boat
        frame[190:219, 190:270] = 60
        frame[220:236, 225:241] = boat[:16, :16]
        (out,) = session.push(frame)
        stood.append(bool(out.memory["stood"][0]))
        (view,) = session._views.values()
        if not 170 < 100 + 5 * t < 280:
            assert out.masks[0, 200:218, 100 + 5 * t : 118 + 5 * t].all()
            assert not stood[-1]
    assert any(stood[14:34])
    assert view.tracker.passed_over == ([t for t in range(50) if stood[t]] if memory == "dami" else [])
    assert view.course.last == (49, 100 + 5 * 49 + 9, 209)


@pytest.mark.parametrize("memory", ["sam2", "dami"])
def test_what_the_gates_hold_for_too_large_does_not_lead_the_window_away(tiny_model, monkeypatch, memory):
    """A boat passes under a bridge, off which a cloud drifts; a memory with gates says that the masks have grown."""
    bright_model.ground_on_brightness(monkeypatch)
    monkeypatch.setattr(views, "Tracker", bright_model.Brightness)
    monkeypatch.setattr(bright_model.Brightness, "grown", frozenset(range(14, 34)))
    rng = np.random.default_rng(5)
    water, boat = rng.integers(20, 60, (480, 640, 3), np.uint8), rng.integers(150, 255, (18, 18, 3), np.uint8)
    session = TiledTracker(tiny_model.replace(memory=memory), texts=["the boat at the left"], tile=88)
    for t in range(50):
        frame = water.copy()
        frame[200:218, 100 + 5 * t : 118 + 5 * t] = boat
        if 14 <= t < 34:
            frame[190:232, 160:280] = 60
            frame[204 + 3 * (t - 14) : 222 + 3 * (t - 14), 175:193] = 160 + t
        (out,) = session.push(frame)
    (view,) = session._views.values()
    follows = out.masks[0, 200:218, 100 + 5 * 49 : 118 + 5 * 49].all()
    assert follows == (memory == "dami")
    assert not follows or view.course.last == (49, 100 + 5 * 49 + 9, 209)


def test_what_a_cloud_hides_is_awaited_where_it_goes_over_the_ground(tiny_model, monkeypatch):
    """The picture drifts and shakes, and a cloud comes over the boat from the left: its rest moves otherwise."""
    bright_model.ground_on_brightness(monkeypatch)
    monkeypatch.setattr(views, "Tracker", bright_model.Brightness)
    rng = np.random.default_rng(3)
    land = np.kron(rng.integers(0, 90, (70, 90), np.uint8), np.ones((10, 10), np.uint8))
    session, shift = TiledTracker(tiny_model, texts=["the boat"], tile=88), np.cumsum(rng.integers(-4, 3, (60, 2)), 0)
    for t in range(60):
        ground = np.repeat(land[..., None], 3, 2)
        ground[300:320, 300 + 4 * t : 330 + 4 * t] = 255
        hidden = 15 <= t < 45
        if hidden:
            ground[280:340, 345 : 345 + 16 * (t - 14)] = 60
        y, x = 150 + shift[t]
        frame = ground[y : y + 480, x : x + 640]
        session.push(np.ascontiguousarray(frame))
        (view,) = session._views.values()
        x0, y0, x1, y1 = view.course.box(t + 1)
        assert abs((x0 + x1) / 2 - (315 + 4 * t - x)) < 8
        assert abs((y0 + y1) / 2 - (310 - y)) < 4


def test_what_looks_like_the_last_pixels_of_what_is_hidden_does_not_lead_the_window_away(tiny_model, monkeypatch):
    """Under a bridge goes a boat; beside it floats what has its colours, but too dark to have the mask."""
    bright_model.ground_on_brightness(monkeypatch)
    monkeypatch.setattr(views, "Tracker", bright_model.Brightness)
    rng = np.random.default_rng(4)
    water, boat = rng.integers(20, 60, (480, 640, 3), np.uint8), rng.integers(120, 255, (12, 12, 3), np.uint8)
    session = TiledTracker(tiny_model, texts=["the boat at the left"], tile=48)
    for t in range(60):
        frame = water.copy()
        frame[200:212, 100 + 3 * t : 112 + 3 * t] = boat
        if 20 <= t < 50:
            frame[190:222, 140:260] = 60
            frame[215:227, 102 + 3 * t : 114 + 3 * t] = boat // (3, 1, 1)
        (out,) = session.push(frame)
        x0, y0, x1, y1 = out.memory["view"][0]
        assert t == 0 or abs((x0 + x1) / 2 - (106 + 3 * t)) <= 14
        assert t == 0 or abs((y0 + y1) / 2 - 206) <= 4


@pytest.mark.parametrize(("memory", "held_for"), [("sam2", "grown"), ("dami", "grown"), ("dami", "larger")])
def test_what_has_grown_is_shown_no_larger_than_it_was(tiny_model, monkeypatch, memory, held_for):
    """A cloud as bright as the boat lies beside it for ten frames; what was remembered of both is the target."""
    bright_model.ground_on_brightness(monkeypatch)
    monkeypatch.setattr(views, "Tracker", bright_model.Brightness)
    beside = frozenset(range(14, 24))
    monkeypatch.setattr(bright_model.Brightness, held_for, beside)
    rng = np.random.default_rng(5)
    water, boat = rng.integers(20, 60, (480, 640, 3), np.uint8), rng.integers(150, 255, (18, 18, 3), np.uint8)
    session = TiledTracker(tiny_model.replace(memory=memory), texts=["the boat at the left"], tile=88)
    for t in range(30):
        frame, place = water.copy(), np.zeros((480, 640), bool)
        place[200:218, 100 + 3 * t : 118 + 3 * t] = True
        if t in beside:
            frame[206:230, 112 + 3 * t : 140 + 3 * t] = 200
        frame[place] = boat.reshape(-1, 3)
        (out,) = session.push(frame)
        bright = frame[..., 0] > 100
        cut = memory == "dami" and (t in beside if held_for == "grown" else t == 14)
        assert bool(out.memory["trimmed"][0]) == cut
        np.testing.assert_array_equal(out.masks[0], bright & place if cut else bright)


@pytest.mark.parametrize(("better", "past"), [(False, 64), (True, 64), (False, 9)])
def test_what_has_grown_is_shown_as_it_is_if_it_is_much_better_or_few_were_seen(tiny_model, monkeypatch, better, past):
    bright_model.ground_on_brightness(monkeypatch)
    monkeypatch.setattr(views, "Tracker", bright_model.Brightness)
    monkeypatch.setattr(bright_model.Brightness, "larger", frozenset({14}))
    monkeypatch.setattr(bright_model.Brightness, "better", frozenset({14} if better else ()))
    monkeypatch.setattr(bright_model.Brightness, "past", past)
    rng = np.random.default_rng(5)
    water, boat = rng.integers(20, 60, (480, 640, 3), np.uint8), rng.integers(150, 255, (24, 18, 3), np.uint8)
    session = TiledTracker(tiny_model.replace(memory="dami"), texts=["the boat at the left"], tile=88)
    for t in range(16):
        frame, rows = water.copy(), 18 if t < 14 else 24
        frame[200 : 200 + rows, 100 + 3 * t : 118 + 3 * t] = boat[:rows]
        (out,) = session.push(frame)
        trimmed = t == 14 and not better and past == 64
        assert bool(out.memory["trimmed"][0]) == trimmed
        assert (out.masks[0].sum() < 18 * rows) == trimmed


def test_what_is_shown_of_what_has_grown_changes_nothing_else(tiny_model, monkeypatch):
    """The same boat and cloud, its masks held for larger and not: window, course and pattern are the same."""
    bright_model.ground_on_brightness(monkeypatch)
    monkeypatch.setattr(views, "Tracker", bright_model.Brightness)
    rng = np.random.default_rng(5)
    water, boat = rng.integers(20, 60, (480, 640, 3), np.uint8), rng.integers(150, 255, (18, 18, 3), np.uint8)
    kept, trimmed = [], []
    for larger in (frozenset(), frozenset(range(14, 24))):
        monkeypatch.setattr(bright_model.Brightness, "larger", larger)
        session, seen = TiledTracker(tiny_model.replace(memory="dami"), texts=["the boat at the left"], tile=88), []
        for t in range(30):
            frame = water.copy()
            if t in range(14, 24):
                frame[206:230, 112 + 3 * t : 124 + 3 * t] = 200
            frame[200:218, 100 + 3 * t : 118 + 3 * t] = boat
            (out,) = session.push(frame)
            (view,) = session._views.values()
            seen.append((view.window, view.course.last, view.course.speed, view._pattern.weight.tobytes()))
            trimmed.append(bool(out.memory["trimmed"][0]))
        kept.append(seen)
    assert kept[0] == kept[1]
    assert not any(trimmed[:30])
    assert any(trimmed[30:])


@pytest.mark.parametrize("faint", [False, True])
def test_no_window_goes_after_what_is_shown_of_a_target_that_is_hardly_there(tiny_model, monkeypatch, faint):
    """The boat is gone, and beside its place something bright drifts away."""
    bright_model.ground_on_brightness(monkeypatch)
    monkeypatch.setattr(views, "Tracker", bright_model.Brightness)
    after = frozenset(range(14, 20))
    # Its first mask tells where it is, whatever its presence.
    monkeypatch.setattr(bright_model.Brightness, "faint", frozenset({0, *(after if faint else ())}))
    rng = np.random.default_rng(5)
    water, boat = rng.integers(20, 60, (480, 640, 3), np.uint8), rng.integers(150, 255, (18, 18, 3), np.uint8)
    session = TiledTracker(tiny_model.replace(memory="dami"), texts=["the boat at the left"], tile=88)
    for t in range(20):
        frame = water.copy()
        if t in after:
            frame[205 + t : 221 + t, 100 + 3 * t : 116 + 3 * t] = 200
        else:
            frame[200:218, 100 + 3 * t : 118 + 3 * t] = boat
        (out,) = session.push(frame)
        assert out.masks[0].any()
        (view,) = session._views.values()
        assert t in after or view.course.last[0] == t
    assert view.course.last[0] == (13 if faint else 19)


def test_what_has_left_its_target_for_a_cloud_is_shown_where_the_target_is_seen(tiny_model, monkeypatch):
    """In a cloud's shadow the boat is too dark for the mask, which is of the cloud alone; its pixels are found."""
    bright_model.ground_on_brightness(monkeypatch)
    monkeypatch.setattr(views, "Tracker", bright_model.Brightness)
    beside = frozenset(range(14, 18))
    monkeypatch.setattr(bright_model.Brightness, "grown", beside)
    rng = np.random.default_rng(5)
    water, boat = rng.integers(20, 60, (480, 640, 3), np.uint8), rng.integers(150, 255, (18, 18, 3), np.uint8)
    session = TiledTracker(tiny_model.replace(memory="dami"), texts=["the boat at the left"], tile=88)
    for t in range(22):
        frame, place = water.copy(), np.zeros((480, 640), bool)
        place[200:218, 100 + 3 * t : 118 + 3 * t] = True
        frame[place] = boat.reshape(-1, 3) if t not in beside else boat.reshape(-1, 3) // 3
        if t in beside:
            frame[230:260, 90 + 3 * t : 120 + 3 * t] = 200
        (out,) = session.push(frame)
        assert bool(out.memory["trimmed"][0]) == (t in beside)
        np.testing.assert_array_equal(out.masks[0], place)
