"""Targets that come and go mid-video: each gets what a tracker of its own would give, restarts included."""

import dataclasses
import json
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from streams import assert_equal, box, calibrated, follow, moving_square

import mqc_jax
from mqc_jax import checkpoint, groups, stream_state
from mqc_jax.errors import UserError
from mqc_jax.groups import Group, Target
from mqc_jax.models import functional
from mqc_jax.stream_state import StreamState
from mqc_jax.text import Tokenizer

TEXTS = ["the yacht at the left", "a boat that overtakes the other", "the truck at the top"]


@pytest.fixture(scope="module")
def video() -> list[np.ndarray]:
    return moving_square(14, 1)[0]


@pytest.fixture(scope="module")
def dami(tiny_model):
    return tiny_model.replace(memory="dami")


@pytest.fixture(scope="module", params=["sam2", "dami"])
def model(request, tiny_model, dami):
    return tiny_model if request.param == "sam2" else dami


def check_equal(out, own, target: int) -> None:
    """One target's rows of a result against a result of its own tracker, the record and the evidence included."""
    row = out.targets.tolist().index(target)
    assert_equal(out, own, rows=slice(row, row + 1))
    assert out.started[row] == own.started[0]
    for ours, theirs in ((out.memory, own.memory), (out.evidence, own.evidence)):
        assert ours.keys() >= theirs.keys()
        for name, rows in ours.items():
            np.testing.assert_array_equal(rows[row], theirs[name][0] if name in theirs else 0, err_msg=name)


def test_targets_together_equal_each_alone(model, video):
    together = follow(model, video[:8], texts=TEXTS)
    for n, text in enumerate(TEXTS):
        for out, own in zip(together, follow(model, video[:8], texts=[text]), strict=True):
            check_equal(out, own, n)
    masks = np.stack([box(24, 20), box(4, 40), np.zeros((64, 64), bool)])
    together = follow(model, video[:8], masks=masks)
    for n, mask in enumerate(masks):
        for out, own in zip(together, follow(model, video[:8], masks=mask[None]), strict=True):
            check_equal(out, own, n)


def test_a_stream_with_additions_and_drops_is_deterministic_and_leaves_the_others_alone(model, video):
    def run() -> list:
        session = mqc_jax.Tracker(model, texts=TEXTS[:1])
        results = [out for frame in video[:3] for out in session.push(frame)]
        assert session.add(masks=box(24, 23)[None]) == [1]
        assert session.add(texts=TEXTS[1:]) == [2, 3]
        assert session.num_targets == 4
        results += [out for frame in video[3:6] for out in session.push(frame)]
        session.drop([0, 3])
        assert session.targets == [1, 2]
        return results + [out for frame in video[6:9] for out in session.push(frame)]

    results, again = run(), run()
    for a, b in zip(results, again, strict=True):
        assert_equal(a, b)
    assert [out.targets.tolist() for out in results] == [[0]] * 3 + [[0, 1, 2, 3]] * 3 + [[1, 2]] * 3
    assert [out.started.tolist() for out in results[2:5]] == [[False], [False, True, True, True], [False] * 4]
    own = {
        0: follow(model, video[:6], texts=TEXTS[:1]),
        1: follow(model, video[3:9], masks=box(24, 23)[None]),
        2: follow(model, video[3:9], texts=TEXTS[1:2]),
        3: follow(model, video[3:6], texts=TEXTS[2:]),
    }
    for target, alone in own.items():
        there = [out for out in results if target in out.targets]
        for out, one in zip(there, alone, strict=True):
            check_equal(out, one, target)


def test_adding_before_the_first_frame_and_dropping_a_target_that_never_started(tiny_model, video):
    session = mqc_jax.Tracker(tiny_model, texts=TEXTS[:1])
    assert session.add(texts=TEXTS[1]) == [1]
    assert session.add(masks=box(24, 20)[None]) == [2]
    session.drop(1)
    out = session.push(video[0])[0]
    assert out.targets.tolist() == [0, 2]
    assert out.started.all()
    # Only one of the two has a sentence's evidence.
    assert out.evidence["coarse"][0].any()
    assert not out.evidence["coarse"][1].any()


def test_without_targets_frames_still_count_and_ids_are_never_given_twice(model, video):
    session = mqc_jax.Tracker(model, texts=TEXTS[:2])
    first = session.push(video[0])[0]
    session.drop(range(2))
    out = session.push(video[1])[0]
    assert (out.frame_index, session.num_targets, out.targets.tolist()) == (1, 0, [])
    for name in ("masks", "mask_logits", "presence", "targets", "started"):
        a, b = getattr(out, name), getattr(first, name)
        assert (a.shape, a.dtype) == ((0, *b.shape[1:]), b.dtype), name
    for name, rows in first.memory.items():
        a = out.memory[name]
        assert (a.shape, a.dtype) == ((0, *rows.shape[1:]), rows.dtype), name
    assert session.add(texts=TEXTS[2:]) == [2]
    check_equal(session.push(video[2])[0], follow(model, video[2:3], texts=TEXTS[2:])[0], 2)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: s.drop(7), r"there is no target 7 to drop; those that are followed are \[0, 1\]"),
        (lambda s: s.drop([0, -1]), "there is no target -1 to drop"),
        (lambda s: s.drop("0"), r"ids to drop are '0'; give one of \[0, 1\]"),
        (lambda s: s.drop(0.0), "ids to drop are 0.0"),
        (lambda s: s.add(), "either texts or masks"),
        (lambda s: s.add(texts=["a boat"], masks=np.ones((1, 64, 64))), "either texts or masks"),
        (lambda s: s.add(texts=[]), "texts is empty"),
        (lambda s: s.add(texts=["a boat", " "]), "' ' is blank"),
        (lambda s: s.add(masks=np.ones((64, 64))), r"masks have shape \[64, 64\]"),
        (lambda s: s.add(masks=np.ones((1, 64, 65))), "masks are 64x65 but the frames are 64x64"),
    ],
)
def test_a_change_that_is_refused_changes_nothing(tiny_model, video, change, sentence):
    session = mqc_jax.Tracker(tiny_model, texts=TEXTS[:2])
    session.push(video[0])
    with pytest.raises(UserError, match=sentence):
        change(session)
    assert session.targets == [0, 1]
    assert session.add(texts=TEXTS[2:]) == [2]


def test_a_mask_of_the_wrong_size_can_be_dropped_before_the_first_frame(tiny_model, video):
    session = mqc_jax.Tracker(tiny_model, masks=box(24, 20)[None])
    session.add(masks=np.ones((1, 20, 20), bool))
    with pytest.raises(UserError, match="masks are 20x20 but the first frame is 64x64"):
        session.push(video[0])
    session.drop(1)
    assert_equal(session.push(video[0])[0], follow(tiny_model, video[:1], masks=box(24, 20)[None])[0])


@pytest.mark.parametrize("calibration", ["none", "tmcc"])
def test_a_reset_begins_anew_with_the_same_targets(tiny_model, video, calibration):
    model = calibrated(tiny_model) if calibration == "tmcc" else tiny_model
    session = mqc_jax.Tracker(model, texts=TEXTS[:1])
    for frame in video[:4]:
        session.push(frame)
    session.add(texts=TEXTS[1:2])
    session.push(video[4])
    session.drop(0)
    session.add(texts=TEXTS[2:])
    session.reset()
    assert session.frame_index == -1
    with pytest.raises(UserError, match="no frame has been pushed"):
        session.save("never")
    other = tiny.frames(7, (40, 90))
    again = [out for frame in other for out in session.push(frame)] + session.finish()
    for out, fresh in zip(again, follow(model, other, texts=TEXTS[1:]), strict=True):
        assert out.targets.tolist() == [1, 2]
        assert_equal(out, fresh)


def test_masks_are_kept_for_a_reset_across_a_restart(tiny_model, video, tmp_path):
    session = mqc_jax.Tracker(tiny_model, masks=np.stack([box(24, 20), box(3, 5, 9, 11)]))
    first = session.push(video[0])[0]
    session.save(tmp_path / "stream")
    session = mqc_jax.Tracker.restore(tiny_model, tmp_path / "stream")
    session.reset()
    assert_equal(session.push(video[0])[0], first)
    session.reset()
    with pytest.raises(UserError, match="masks are 64x64 but the first frame is 40x90"):
        session.push(tiny.frames(1, (40, 90))[0])


# ---- nothing is compiled again --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def traced() -> list[str]:
    """Grows with everything that JAX traces or compiles."""
    events: list[str] = []

    def note(event: str, duration: float, **facts: object) -> None:
        if event in ("/jax/core/compile/jaxpr_trace_duration", "/jax/core/compile/backend_compile_duration"):
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    return events


@pytest.mark.parametrize("calibration", ["none", "tmcc"])
def test_no_frame_size_and_no_number_of_targets_compiles_anything_again(tiny_model, traced, calibration):
    model = calibrated(tiny_model) if calibration == "tmcc" else tiny_model

    def run(size: tuple[int, int], seed: int) -> None:
        frames = tiny.frames(9, size, seed)
        session = mqc_jax.Tracker(model, texts=TEXTS[:1])
        for frame in frames[:2]:
            session.push(frame)
        session.add(masks=np.ones((1, *size), bool))
        for frame in frames[2:]:
            session.push(frame)
        session.finish()

    run((64, 64), 0)
    jax.jit(lambda x: x + 1)(1)
    assert traced  # what comes now would be noticed
    for size in ((200, 90), (16, 16), (72, 100)):
        traced.clear()
        run(size, 0)
        assert not traced, size
    traced.clear()
    follow(model, tiny.frames(9, (50, 60)), texts=TEXTS)
    assert not traced


def test_the_state_does_not_grow_as_targets_come_and_go(tiny_model, tmp_path):
    session = mqc_jax.Tracker(tiny_model, texts=TEXTS[:1])
    sizes = set()
    for t, frame in enumerate(tiny.frames(30)):
        added = session.add(texts=TEXTS[1:2])
        session.push(frame)
        session.drop(added)
        leaves = jax.tree.leaves([group.bank for group in session._groups])
        sizes.add((sum(x.nbytes for x in leaves), len(session._targets), len(session._windows), len(session._held)))
        assert added == [t + 1]
    assert len(sizes) == 1


# ---- calibration ----------------------------------------------------------------------------------------------------


def test_a_target_added_mid_video_holds_all_back_for_its_own_window(tiny_model, video):
    model = calibrated(tiny_model)
    first, later, parked = box(24, 20), box(24, 24), box(48, 5, 10, 10)
    session = mqc_jax.Tracker(model, masks=first[None])
    counts, results = [], []

    def push(frames) -> None:
        for frame in frames:
            out = session.push(frame)
            counts.append(len(out))
            results.extend(out)

    push(video[:4])
    session.add(masks=later[None])
    push(video[4:8])
    session.add(masks=parked[None])
    push(video[8:])
    # Windows of 2 displacements for what moves, of the longest for what does not.
    assert counts == [0, 0, 3, 1, *(0, 0, 3, 1), *[0] * 5, 0]
    results += session.finish()
    assert [out.frame_index for out in results] == list(range(14))
    for target, start, mask in ((0, 0, first), (1, 4, later), (2, 8, parked)):
        for out, own in zip(results[start:], follow(model, video[start:], masks=mask[None]), strict=True):
            check_equal(out, own, target)
    np.testing.assert_array_equal(results[8].memory["window"], [0, 0, 4])
    np.testing.assert_array_equal(results[8].memory["is_static"], [False, False, True])


def test_a_window_that_opens_inside_another_lets_the_earlier_frames_go(tiny_model, video):
    model = calibrated(tiny_model)
    session = mqc_jax.Tracker(model, masks=box(48, 5, 10, 10)[None])  # static: the longest window, 6 displacements
    counts = [len(session.push(frame)) for frame in video[:3]]
    session.add(masks=box(48, 50, 10, 10)[None])
    counts += [len(session.push(frame)) for frame in video[3:11]]
    #          0  1  2  3  4  5  6, then the frames before the second target's first, then the rest
    assert counts == [0, 0, 0, 0, 0, 0, 3, 0, 0, 7, 1]


def test_dropping_what_is_waited_for_lets_the_frames_go(tiny_model, video):
    model = calibrated(tiny_model)
    session = mqc_jax.Tracker(model, masks=np.stack([box(24, 20), box(48, 5, 10, 10)]))
    assert [len(session.push(frame)) for frame in video[:4]] == [0] * 4
    session.drop(1)
    results = [out for frame in video[4:7] for out in session.push(frame)]
    assert [out.targets.tolist() for out in results] == [[0]] * 7
    for out, own in zip(results, follow(model, video[:7], masks=box(24, 20)[None]), strict=True):
        check_equal(out, own, 0)
    # All dropped: the frames come all the same, without rows.
    session = mqc_jax.Tracker(model, masks=box(48, 5, 10, 10)[None])
    session.push(video[0])
    session.drop(0)
    assert [out.masks.shape for out in session.finish()] == [(0, 64, 64)]


# ---- surviving a restart --------------------------------------------------------------------------------------------


def begin(model, video) -> mqc_jax.Tracker:
    """Frame 9 is due; a target runs, two windows are open, one target was dropped inside its own, one never started."""
    session = mqc_jax.Tracker(model, masks=box(24, 20)[None])
    for frame in video[:5]:
        session.push(frame)
    session.add(masks=np.stack([box(48, 5, 10, 10), box(4, 4)]))
    session.push(video[5])
    session.add(texts=TEXTS[:1])
    for frame in video[6:9]:
        assert session.push(frame) == []
    session.drop(2)
    session.add(masks=box(24, 29)[None])
    return session


RESTORE = """
import sys
import numpy as np
sys.path.insert(0, "tests")
import conftest, tiny
from streams import moving_square
import mqc_jax
model = mqc_jax.load(sys.argv[1])
session = mqc_jax.Tracker.restore(model, sys.argv[2])
assert (session.frame_index, session.targets) == (4, [0, 1, 3, 4])
outs = [out for frame in moving_square(14, 1)[0][9:] for out in session.push(frame)] + session.finish()
np.savez(sys.argv[3], **{f"{name}{out.frame_index}": getattr(out, name) for out in outs
                         for name in ("masks", "mask_logits", "targets", "presence")})
"""


def test_a_stream_with_open_windows_continues_bit_for_bit_in_another_process(tiny_model, video, tmp_path):
    model = calibrated(tiny_model)
    checkpoint.save(tmp_path / "model", model.config, model.params, Tokenizer.default())
    session = begin(model, video)
    session.save(tmp_path / "stream")
    line = [sys.executable, "-c", RESTORE, *(str(tmp_path / name) for name in ("model", "stream", "out.npz"))]
    done = subprocess.run(line, cwd=tiny.ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rest = [out for frame in video[9:] for out in session.push(frame)] + session.finish()
    assert [out.frame_index for out in rest] == list(range(5, 14))
    with np.load(tmp_path / "out.npz") as stored:
        assert len(stored.files) == 4 * len(rest)
        for out in rest:
            for name in ("masks", "mask_logits", "targets", "presence"):
                np.testing.assert_array_equal(stored[f"{name}{out.frame_index}"], getattr(out, name), err_msg=name)


def test_a_bfloat16_memory_survives_and_another_dtype_is_refused(tiny_model, tmp_path):
    model = dataclasses.replace(tiny_model, net=functional.build(tiny.MODEL, "bfloat16"))
    rng = np.random.default_rng(0)
    bank = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), groups.form(model, 2)[0])
    assert "bfloat16" in {x.dtype.name for x in jax.tree.leaves(bank)}
    targets = [Target(3, text="a boat", start=5), Target(4, mask=box(2, 3), start=6), Target(9, text="a ship")]
    state = StreamState(7, (64, 64, 3), 12, targets, [Group([3, 4], bank)], tiny.frames(2))
    stream_state.write(tmp_path / "stream", model, state)
    again = stream_state.read(tmp_path / "stream", model)
    for ours, theirs in zip(jax.tree.leaves(bank), jax.tree.leaves(again.groups[0].bank), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(again.held, state.held)
    np.testing.assert_array_equal(again.targets[1].mask, targets[1].mask)
    for name in ("frame_index", "frame_shape", "next_id"):
        assert getattr(again, name) == getattr(state, name)
    assert [(t.id, t.text, t.start) for t in again.targets] == [(t.id, t.text, t.start) for t in targets]
    with pytest.raises(UserError, match="of another config or dtype"):
        stream_state.read(tmp_path / "stream", tiny_model)


def test_a_damaged_state_says_what_is_wrong(tiny_model, video, tmp_path):
    session = mqc_jax.Tracker(tiny_model, masks=box(24, 20)[None])
    session.push(video[0])
    session.save(tmp_path / "stream")
    with np.load(tmp_path / "stream") as stored:
        whole = dict(stored)

    def damaged(**changes) -> str:
        arrays = {name: value for name, value in {**whole, **changes}.items() if value is not None}
        with (tmp_path / "damaged").open("wb") as file:
            np.savez(file, **arrays)
        with pytest.raises(UserError) as caught:
            mqc_jax.Tracker.restore(tiny_model, tmp_path / "damaged")
        return str(caught.value)

    def header(**changes) -> dict:
        facts = {**json.loads(bytes(whole["header"])), **changes}
        return {"header": np.frombuffer(json.dumps(facts).encode(), np.uint8)}

    assert "is damaged: 'mask0' is missing" in damaged(mask0=None)
    assert "is damaged: group0.0 is float32 [2] where float32 [1, 7, 4, 4, 8] is needed" in damaged(
        **{"group0.0": np.zeros(2, np.float32)}
    )
    assert "targets and their memories do not fit" in damaged(**header(groups=[[1]]))
    assert "its targets do not fit each other" in damaged(**header(next_id=0))
    assert "is damaged: 'held0' is missing" in damaged(**header(held=1))
    assert f"is a stream state of format 1, this version reads {stream_state.FORMAT}" in damaged(
        **header(mqc_jax_stream=1)
    )


# ---- in a batch, as on accelerators ---------------------------------------------------------------------------------


def test_targets_computed_in_one_batch_equal_each_alone_to_rounding(tiny_model, video, monkeypatch):
    masks = np.stack([box(24, 20), box(4, 40), box(40, 4)])
    alone = [follow(tiny_model, video[:10], masks=mask[None]) for mask in masks]
    monkeypatch.setitem(groups.LARGEST, "cpu", 2)
    session = mqc_jax.Tracker(tiny_model, masks=masks)
    results = [out for frame in video[:8] for out in session.push(frame)]
    assert [group.ids for group in session._groups] == [[0, 1], [2]]
    session.drop(0)
    assert [group.ids for group in session._groups] == [[1], [2]]
    results += [out for frame in video[8:10] for out in session.push(frame)]
    for t, out in enumerate(results):
        for row, target in enumerate(out.targets):
            own = alone[target][t]
            np.testing.assert_allclose(out.mask_logits[row], own.mask_logits[0], atol=2e-4)
            np.testing.assert_allclose(out.presence[row], own.presence[0], atol=1e-6)
    assert [out.targets.tolist() for out in results] == [[0, 1, 2]] * 8 + [[1, 2]] * 2


def test_dropping_one_of_a_batch_inside_its_window_leaves_the_other(tiny_model, video, monkeypatch):
    model = calibrated(tiny_model)
    alone = follow(model, video[:5], masks=box(24, 20)[None])
    monkeypatch.setitem(groups.LARGEST, "cpu", 2)
    session = mqc_jax.Tracker(model, masks=np.stack([box(48, 5, 10, 10), box(24, 20)]))
    session.push(video[0])
    session.drop(0)
    results = [out for frame in video[1:5] for out in session.push(frame)]
    for out, own in zip(results, alone, strict=True):
        np.testing.assert_allclose(out.mask_logits, own.mask_logits, atol=2e-4)


# ---- any order of events --------------------------------------------------------------------------------------------


EVENTS = st.lists(
    st.one_of(
        st.just("push"),
        st.just("push"),
        st.tuples(st.just("text"), st.integers(0, 2)),
        st.tuples(st.just("mask"), st.integers(0, 40), st.integers(0, 40)),
        st.tuples(st.just("drop"), st.integers(0, 3)),
        st.just("restart"),
        st.just("finish"),
    ),
    min_size=4,
    max_size=14,
)


@pytest.mark.parametrize("calibration", ["none", "tmcc"])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=EVENTS)
def test_whatever_happens_each_target_gets_what_its_own_tracker_gives(dami, video, tmp_path, calibration, events):
    model = calibrated(dami) if calibration == "tmcc" else dami
    session = mqc_jax.Tracker(model, texts=TEXTS[:1])
    # Each target has a tracker of its own, which is pushed whenever the session is, from the target's first frame on.
    own = {0: mqc_jax.Tracker(model, texts=TEXTS[:1])}
    start, due, pushed, alive = {}, 0, 0, {0}
    expected: dict[int, list] = {0: []}
    given: list = []

    def take(results, references) -> None:
        nonlocal due
        for target, new in references.items():
            expected[target] += new
        for out in results:
            assert out.frame_index == due
            due += 1
            followed = sorted(i for i in alive if start.get(i, pushed) <= out.frame_index)
            assert out.targets.tolist() == followed
            given.append(out)

    for event in [*events, "push", "finish"]:
        kind, *values = (event,) if isinstance(event, str) else event
        if kind == "push":
            for target in alive:
                start.setdefault(target, pushed)
            frame = video[pushed % len(video)]
            pushed += 1
            take(session.push(frame), {i: own[i].push(frame) for i in alive})
            assert pushed - due <= (6 if calibration == "tmcc" else 0)
        elif kind == "finish":
            take(session.finish(), {i: own[i].finish() for i in alive})
            assert due == pushed
        elif kind == "drop":
            if alive:
                target = sorted(alive)[values[0] % len(alive)]
                session.drop(target)
                alive.discard(target)
        elif kind == "restart":
            if pushed:
                session.save(tmp_path / "stream")
                session = mqc_jax.Tracker.restore(model, tmp_path / "stream")
        elif len(alive) < 4:
            prompt = {"texts": [TEXTS[values[0]]]} if kind == "text" else {"masks": box(*values)[None]}
            (target,) = session.add(**prompt)
            assert target == len(own)
            own[target], expected[target] = mqc_jax.Tracker(model, **prompt), []
            alive.add(target)
    for out in given:
        for target in out.targets:
            check_equal(out, expected[target][out.frame_index - start[target]], target)


def test_what_the_page_on_streams_shows_runs(tiny_model, tmp_path, monkeypatch, capsys):
    page = (tiny.ROOT / "docs" / "streaming.md").read_text()
    first, second = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.setattr(mqc_jax, "load", lambda: tiny_model, raising=False)
    monkeypatch.chdir(tmp_path)
    names = {"frames": tiny.frames(14, (40, 60))}
    exec(first, names)
    assert capsys.readouterr().out.splitlines()[0] == "0 [0] (1, 40, 60)"
    exec(second, names)
    assert capsys.readouterr().out.splitlines() == ["12 [0 1]", "13 [0 1]"]
