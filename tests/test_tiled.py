"""The tracker of very large frames: exactly `Tracker` inside windows that move."""

import dataclasses
import json

import bright_model
import cv2
import numpy as np
import pytest
import tiny
from bright_model import Brightness, lights
from streams import assert_same, run

import mqc_jax
from mqc_jax import tile_search, tiled, views
from mqc_jax.errors import UserError
from mqc_jax.predict import model_facts
from mqc_jax.results import FrameResult
from mqc_jax.standing import Standing
from mqc_jax.tiled import TiledTracker

TEXTS = ["the yacht at the left", "a boat that overtakes the other"]
SIZE = (100, 140)


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


@pytest.fixture
def bright(tiny_model, monkeypatch):
    return tiny_model, bright_model.ground_on_brightness(monkeypatch)


@pytest.mark.parametrize("lag", [0, 6])
def test_a_window_follows_its_target_through_the_whole_frame(bright, monkeypatch, lag):
    model, _ = bright
    monkeypatch.setattr(views, "Tracker", type("Held", (Brightness,), {"lag": lag}))
    path = [(20 + 5 * t, 440 - 3 * t) for t in range(120)]
    gone = range(50, 70)  # it goes on by 117 pixels meanwhile, which is more than the window
    video = [lights(*([] if t in gone else [corner])) for t, corner in enumerate(path)]
    session = TiledTracker(model, texts=["the boat at the bottom-left"], tile=176)  # followed in 66 pixels
    places = {}
    for frame in video:
        outs = session.push(frame)
        for out in outs:
            truth = video[out.frame_index][..., 0] > 100
            x0, y0, x1, y1 = out.memory["view"][0]
            places[out.frame_index] = path[out.frame_index][0] - x0, path[out.frame_index][1] - y0
            np.testing.assert_array_equal(out.masks[0, y0:y1, x0:x1], truth[y0:y1, x0:x1])
            np.testing.assert_array_equal(out.masks[0], truth)
        assert len(session._views[0].results) == 0
        assert len(session._views[0].frames) <= lag
    assert session.frame_index == 119
    # The window keeps pace with it: the model sees it where it saw it before.
    seen = [t for t in range(2, 120) if t not in gone and t - 1 not in gone]
    assert sum(places[t] != places[t - 1] for t in seen) <= 3


def test_a_model_that_keeps_one_object_is_told_where_to_expect_it(bright, monkeypatch):
    model = bright[0].replace(one_object=True)
    monkeypatch.setattr(views, "Tracker", Brightness)
    session = TiledTracker(model, texts=["the boat"], tile=88)
    for t in range(40):
        (out,) = session.push(lights((300 + 5 * t, 200)))
        if t:  # told before the frame: where its pixels are in this one, in the window that this one is seen in
            x0, y0, x1, y1 = out.memory["view"][0]
            (place,) = session._views[0].tracker.expected[2 * t].values()
            middle = x0 + place[0] * (x1 - x0), y0 + place[1] * (y1 - y0)
            assert np.hypot(middle[0] - (306 + 5 * t), middle[1] - 206) < 1.5
            assert place[2] == pytest.approx(12 * np.sqrt(2) / (x1 - x0), abs=0.02)
    # Once before the first frame, and for each other one twice: where it was, and where its pixels have gone.
    assert len(session._views[0].tracker.expected) == 80


def test_targets_that_settle_at_different_times_come_together_and_in_order(bright, monkeypatch):
    model, _ = bright
    lags = iter([2, 5])
    plain = Brightness

    def make(*arguments, **prompts):
        tracker = plain(*arguments, **prompts)
        tracker.lag = next(lags)
        return tracker

    monkeypatch.setattr(views, "Tracker", make)
    session = TiledTracker(model, texts=["the boat at the left", "the boat at the right"])
    video = [lights((20 + t, 200), (600 - t, 230)) for t in range(8)]
    counts = [len(session.push(frame)) for frame in video]
    assert counts == [0, 0, 0, 0, 0, 6, 1, 1]


def calibrated_scene(tiny_model):
    """A model that calibrates, frames in which a square moves, and masks of the square and of a part of the ground."""
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
    return model, video, masks


def test_calibration_works_in_the_window(tiny_model):
    model, video, masks = calibrated_scene(tiny_model)
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


@pytest.mark.parametrize("size", [SIZE, (60, 64)])
def test_a_stream_continues_bit_for_bit(tiny_model, tmp_path, size):
    video = tiny.frames(5, size)
    whole = run(TiledTracker(tiny_model, texts=TEXTS), video)
    session = TiledTracker(tiny_model, texts=TEXTS)
    with pytest.raises(UserError, match="no frame has been pushed"):
        session.save(tmp_path / "stream")
    for frame in video[:2]:
        session.push(frame)
    session.save(tmp_path / "stream")
    again = TiledTracker.restore(tiny_model, tmp_path / "stream")
    assert (again.num_targets, again.frame_index, again.windows) == (2, 1, session.windows)
    for a, b in zip(run(again, video[2:]), whole[2:], strict=True):
        assert_same(a, b)


def test_what_is_known_of_a_target_and_where_the_ground_lies_survive_a_restart(tiny_model, tmp_path):
    video = tiny.frames(3, SIZE)
    session = TiledTracker(tiny_model, texts=TEXTS)
    for frame in video:
        session.push(frame)
    for i, view in session._views.items():
        view.standing = Standing()
        for t in (4, 11):
            view.standing.see(t, video[0], np.diag((1.0, 1.0, 1.0 + i)), (20.5 + i, 30.0), 17.0 + t, 48)
        assert view._outline is None  # SAM2's memory judges no mask
        view._outline = np.eye(3 + i, 4, dtype=bool) if i else None
    session.save(tmp_path / "stream")
    again = TiledTracker.restore(tiny_model, tmp_path / "stream")
    np.testing.assert_array_equal(again._ground.pose, session._ground.pose)
    np.testing.assert_array_equal(again._ground.grey, session._ground.grey)
    assert len(again._ground.marks) == 1
    for one, other in zip(again._ground.marks, session._ground.marks, strict=True):
        np.testing.assert_equal(one._asdict(), other._asdict())
    for i, view in session._views.items():
        np.testing.assert_array_equal(again._views[i]._outline, view._outline)
        restored = again._views[i].standing
        assert restored.length == view.standing.length == 28
        assert len(restored.kept) == 2
        for one, other in zip(restored.kept, view.standing.kept, strict=True):
            np.testing.assert_equal(dataclasses.asdict(one), dataclasses.asdict(other))


def test_a_stream_continues_inside_its_calibration(tiny_model, tmp_path):
    """One target's first frames are settled and wait for the other's."""
    model, video, masks = calibrated_scene(tiny_model)
    whole = run(TiledTracker(model, masks=masks), video)
    session = TiledTracker(model, masks=masks)
    for frame in video[:4]:
        assert session.push(frame) == []
    assert [(len(view.results), len(view.frames)) for view in session._views.values()] == [(4, 0), (0, 4)]
    session.save(tmp_path / "stream")
    again = TiledTracker.restore(model, tmp_path / "stream")
    for a, b in zip(run(again, video[4:]), whole, strict=True):
        assert_same(a, b)


def test_what_is_no_tiled_stream_is_refused(tiny_model, tmp_path):
    path = tmp_path / "stream"
    with pytest.raises(UserError, match="does not exist"):
        TiledTracker.restore(tiny_model, path)
    path.write_bytes(b"garbage")
    with pytest.raises(UserError, match=r"not a stream state written by Tracker\.save"):
        TiledTracker.restore(tiny_model, path)
    plain = mqc_jax.Tracker(tiny_model, texts=TEXTS)
    plain.push(tiny.frames(1)[0])
    plain.save(path)
    with pytest.raises(UserError, match="a model of another config or dtype"):
        TiledTracker.restore(tiny_model, path)
    session = TiledTracker(tiny_model, texts=TEXTS)
    session.push(tiny.frames(1, SIZE)[0])
    session.save(path)
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files if name != "tracker1"}
    with path.open("wb") as file:
        np.savez(file, **arrays)
    with pytest.raises(UserError, match="is damaged: 'tracker1' is missing"):
        TiledTracker.restore(tiny_model, path)
    for name, wrong in (("looks", lambda array: array[:-1]), ("now", lambda array: array.astype(float))):
        session.save(path)
        with np.load(path) as stored:
            arrays = dict(stored)
        with path.open("wb") as file:
            np.savez(file, **arrays | {f"marks0.{name}": wrong(arrays[f"marks0.{name}"])})
        with pytest.raises(UserError, match="the corners that the ground is known by do not fit each other"):
            TiledTracker.restore(tiny_model, path)
    session._views[1]._outline = np.ones(4, bool)
    session.save(path)
    with pytest.raises(UserError, match="the outline of target 1 is no mask"):
        TiledTracker.restore(tiny_model, path)
    session._views[1]._outline = None
    session.save(path)
    with pytest.raises(UserError, match="a model of another config or dtype"):
        TiledTracker.restore(tiny_model.replace(tile=48), path)
    with pytest.raises(UserError, match=r"not a stream state written by Tracker\.save"):
        mqc_jax.Tracker.restore(tiny_model, path)


def test_given_masks_choose_windows_for_the_targets_length(tiny_model):
    masks = np.zeros((3, 300, 400), bool)
    masks[0, 100:110, 200:220] = True
    masks[1, 100:160, 200:290] = True
    session = TiledTracker(tiny_model, masks=masks)
    session.push(tiny.frames(1, (300, 400))[0])
    small, large, nowhere = session.windows
    assert (small.width, large.width, nowhere.width) == (48, 126, 64)
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
        with pytest.raises(UserError, match=r"a tracker needs frames of one size|give uint8 RGB"):
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


# ---- which tracker --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trained", "asked", "side"),
    [(0, None, None), (48, None, 48), (48, 40, 40), (48, 0, 64), (48, -1, None), (0, 40, 40), (0, 0, 64)],
)
def test_a_checkpoint_says_in_which_windows_it_is_used(tiny_model, trained, asked, side):
    model = tiled.with_tile(tiny_model.replace(tile=trained), asked)
    session = mqc_jax.Tracker(model, TEXTS[:1])
    assert isinstance(session, TiledTracker) == (side is not None)
    assert model_facts(model).get("tile") == side
    if side is not None:
        assert session.tile == side


def test_tracker_of_a_model_of_windows_is_theirs_and_so_is_its_state(tiny_model, frames, results, tmp_path):
    model = tiny_model.replace(tile=64)
    session = mqc_jax.Tracker(model, texts=TEXTS)
    for frame, out in zip(frames[:3], results[:3], strict=True):
        assert_same(session.push(frame)[0], out)
    session.save(tmp_path / "stream")
    again = mqc_jax.Tracker.restore(model, tmp_path / "stream")
    assert isinstance(again, TiledTracker)
    assert_same(again.push(frames[3])[0], results[3])


# ---- targets come and go --------------------------------------------------------------------------------------------


def row(out: FrameResult, i: int) -> FrameResult:
    """Target i's part of a result."""
    one = np.flatnonzero(out.targets == i)
    names = ("masks", "mask_logits", "presence", "iou", "targets", "started")
    cut = {name: getattr(out, name)[one] for name in names}
    tables = {name: {k: v[one] for k, v in getattr(out, name).items()} for name in ("memory", "evidence")}
    return FrameResult(out.frame_index, **cut, **tables)


def test_a_target_that_comes_later_gets_what_a_tracker_of_its_own_would_give(tiny_model, frames, results, tmp_path):
    session = TiledTracker(tiny_model, texts=TEXTS[:1])
    mask = np.zeros((1, *SIZE), bool)
    mask[0, 60:80, 90:120] = True
    session.push(frames[0])
    assert session.add(masks=mask) == [1]
    assert (session.num_targets, len(session.windows)) == (2, 1)
    session.save(tmp_path / "stream")  # with a target that waits for its first frame
    for tracker in (session, TiledTracker.restore(tiny_model, tmp_path / "stream")):
        alone = run(TiledTracker(tiny_model, masks=mask), frames[1:])
        for t, frame in enumerate(frames[1:], 1):
            (out,) = tracker.push(frame)
            assert (out.frame_index, out.targets.tolist(), out.started.tolist()) == (t, [0, 1], [False, t == 1])
            np.testing.assert_array_equal(out.masks[0], results[t].masks[0])
            np.testing.assert_array_equal(out.masks[1], alone[t - 1].masks[0])
            np.testing.assert_array_equal(out.memory["view"][1], alone[t - 1].memory["view"][0])


def test_dropped_targets_leave_and_an_empty_stream_goes_on(tiny_model, frames, results):
    session = TiledTracker(tiny_model, texts=TEXTS)
    session.push(frames[0])
    session.drop(0)
    with pytest.raises(UserError, match="there is no target 0 to drop"):
        session.drop(0)
    (out,) = session.push(frames[1])
    assert_same(out, row(results[1], 1))
    session.drop([1])
    (out,) = session.push(frames[2])
    assert (out.frame_index, out.masks.shape, out.memory["view"].shape) == (2, (0, *SIZE), (0, 4))
    assert session.add(texts=TEXTS[:1]) == [2]
    (out,) = session.push(frames[3])
    assert (out.frame_index, out.targets.tolist(), out.started.tolist()) == (3, [2], [True])


def test_who_is_waited_for_holds_the_others_back_and_no_longer_when_dropped(tiny_model):
    model, video, masks = calibrated_scene(tiny_model)
    session = TiledTracker(model, masks=masks[:1])
    counts = [len(session.push(frame)) for frame in video[:4]]
    assert counts == [0, 0, 3, 1]
    session.add(masks=masks[1:])  # parked: its window is the longest
    assert [len(session.push(frame)) for frame in video[4:7]] == [0, 0, 0]
    session.drop(1)
    outs = session.push(video[7])
    assert [out.frame_index for out in outs] == [4, 5, 6, 7]
    whole = run(TiledTracker(model, masks=masks[:1]), video[:8])
    for a, b in zip(outs, whole[4:], strict=True):
        assert_same(a, b)


def test_facts_of_a_beginning_are_zero_for_those_who_began_before(tiny_model):
    model, video, masks = calibrated_scene(tiny_model)
    session = TiledTracker(model, masks=masks[:1])
    outs = [out for frame in video[:3] for out in session.push(frame)]
    session.add(masks=masks[1:])
    outs += [out for frame in video[3:] for out in session.push(frame)] + session.finish()
    assert [out.frame_index for out in outs] == list(range(9))
    assert outs[3].memory["window"].tolist() == [0, 4]  # the video ends before a sixth displacement
    assert outs[3].evidence["calibrated"].shape == (2, *SIZE)
    assert not outs[3].evidence["calibrated"][0].any()
    assert "window" not in outs[4].memory


def test_a_new_video_begins_as_the_first_did(tiny_model, frames, results):
    session = TiledTracker(tiny_model, texts=TEXTS)
    session.push(tiny.frames(1, (60, 64))[0])  # seen as a whole
    session.reset()
    for frame, out in zip(frames, results, strict=True):
        assert_same(session.push(frame)[0], out)
    session.reset()
    small = tiny.frames(2, (60, 64))
    for a, b in zip(run(session, small), run(TiledTracker(tiny_model, texts=TEXTS), small), strict=True):
        assert_same(a, b)


def test_impossible_windows_are_refused(tiny_model):
    with pytest.raises(UserError, match="tile=31 must be at least 32"):
        tiled.with_tile(tiny_model, 31)
    with pytest.raises(UserError, match=r"model\.tile=31 must be at least 32"):
        tiny_model.replace(tile=31)
