"""The online session: the masks of the functions under it, at constant size, from a state that outlives a process."""

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from streams import assert_equal, calibrated, follow, moving_square
from streams import box as square

import mqc_jax
from mqc_jax import groups, imaging
from mqc_jax.errors import UserError
from mqc_jax.models import functional

TEXTS = ["the yacht at the left", "a boat that overtakes the other"]
LENGTH = 6


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    return tiny.frames(LENGTH, (72, 100))


@pytest.fixture(scope="module")
def results(tiny_model, frames):
    return follow(tiny_model, frames, texts=TEXTS)


def test_each_frame_gives_what_the_surface_promises(results):
    assert [out.frame_index for out in results] == list(range(LENGTH))
    for out in results:
        assert out.masks.shape == (2, 72, 100)
        assert out.masks.dtype == bool
        assert out.mask_logits.shape == (2, 16, 16)
        assert out.mask_logits.dtype == np.float32
        assert out.presence.shape == (2,)
        assert ((out.presence >= 0) & (out.presence <= 1)).all()
        np.testing.assert_array_equal(out.masks[1], imaging.mask_from_logits(out.mask_logits[1], 72, 100))
        assert out.memory["registered"].all()
        # The anchor's age is the frame's number; before it fills up, the memory holds every frame so far.
        assert out.memory["ages"][0][0] == out.frame_index
        assert sorted(out.memory["ages"][0][out.memory["ages"][0] >= 0]) == list(range(out.frame_index + 1))
    assert results[0].evidence["coarse"].shape == (2, 16, 16)
    assert all(not out.evidence for out in results[1:])
    # The model under test does something: masks differ between targets and frames, and are neither empty nor full.
    assert 0 < np.mean([out.masks for out in results]) < 1
    assert any((out.masks[0] != out.masks[1]).any() for out in results)


def test_the_tracker_is_a_shell_over_the_pure_functions(tiny_model, frames, results):
    net, params = tiny_model.net, tiny_model.params
    images = [jnp.asarray(imaging.resize(frame, 64)) for frame in frames]
    for n, text in enumerate(TEXTS):
        features = groups.encode(net, params, images[0])
        bank, output = groups.start(net, params, features, *tiny_model.tokenizer.encode([text], 16))
        np.testing.assert_array_equal(output.mask_logits[0], results[0].mask_logits[n])
        for image, out in zip(images[1:], results[1:], strict=True):
            bank, output = groups.step(net, params, bank, groups.encode(net, params, image))
            np.testing.assert_array_equal(output.mask_logits[0], out.mask_logits[n])


def test_a_later_frame_changes_nothing_earlier(tiny_model, frames, results):
    changed = [*frames[:4], *tiny.frames(LENGTH - 4, (72, 100), seed=9)]
    again = follow(tiny_model, changed, texts=TEXTS)
    for a, b in zip(again[:4], results[:4], strict=True):
        assert_equal(a, b)
    assert (again[4].mask_logits != results[4].mask_logits).any()


def test_the_text_is_never_read_after_the_first_frame(tiny_model, frames, results):
    session = mqc_jax.Tracker(tiny_model, texts=TEXTS)
    session.push(frames[0])
    session._targets = {i: dataclasses.replace(target, text="") for i, target in session._targets.items()}
    # Nor does the model look at its language parts: without their parameters a step still runs, to the same bits.
    blind = dict(tiny_model.params)
    for part in ("text_encoder", "bridge"):
        blind[part] = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), blind[part])
    session.model = dataclasses.replace(tiny_model, params=blind)
    for frame, out in zip(frames[1:4], results[1:4], strict=True):
        assert_equal(session.push(frame)[0], out)


def test_the_state_keeps_its_size_over_a_long_video(tiny_model):
    session = mqc_jax.Tracker(tiny_model, texts=TEXTS)
    form = None
    for t, frame in enumerate(tiny.frames(50)):
        out = session.push(frame)[0]
        now = [(x.shape, x.dtype) for x in jax.tree.leaves([group.bank for group in session._groups])]
        assert form in (None, now)
        form = now
        ages = out.memory["ages"][0]
        assert sorted(ages[ages >= 0]) == sorted({*range(min(t + 1, 6)), t})
    assert session.frame_index == 49


def box() -> np.ndarray:
    """One target's mask for the first frame."""
    return square(20, 10, 20, 40, (72, 100))[None]


def test_a_mask_starts_a_stream_without_text(tiny_model, frames):
    first = mqc_jax.Tracker(tiny_model, masks=box()).push(frames[0])[0]
    assert (first.masks & box()).sum() / (first.masks | box()).sum() > 0.75  # through a grid of 16x16 and back
    assert not first.evidence
    assert first.presence[0] > 0.99


RESTORE = """
import sys
import numpy as np
sys.path.insert(0, "tests")
import conftest, tiny
import mqc_jax
model = mqc_jax.load(sys.argv[1])
session = mqc_jax.Tracker.restore(model, sys.argv[2])
assert session.frame_index == 2, session.frame_index
outs = [session.push(f)[0] for f in tiny.frames(6, (72, 100))[3:]]
assert [o.frame_index for o in outs] == [3, 4, 5]
np.savez(sys.argv[3], masks=[o.masks for o in outs], logits=[o.mask_logits for o in outs])
"""


def test_a_stream_continues_bit_for_bit_in_another_process(tiny_model, tiny_checkpoint, frames, results, tmp_path):
    session = mqc_jax.Tracker(tiny_model, texts=TEXTS)
    for frame in frames[:3]:
        session.push(frame)
    session.save(tmp_path / "stream")
    line = [sys.executable, "-c", RESTORE, str(tiny_checkpoint), str(tmp_path / "stream"), str(tmp_path / "out.npz")]
    done = subprocess.run(line, cwd=tiny.ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out.npz") as stored:
        np.testing.assert_array_equal(stored["masks"], [out.masks for out in results[3:]])
        np.testing.assert_array_equal(stored["logits"], [out.mask_logits for out in results[3:]])
    # The one that was saved goes on too.
    assert_equal(session.push(frames[3])[0], results[3])


def test_a_stream_from_masks_continues_too(tiny_model, frames, tmp_path):
    whole = follow(tiny_model, frames[:3], masks=box())
    session = mqc_jax.Tracker(tiny_model, masks=box())
    session.push(frames[0])
    session.push(frames[1])
    session.save(tmp_path / "stream")
    again = mqc_jax.Tracker.restore(tiny_model, tmp_path / "stream")
    assert again.num_targets == 1
    assert_equal(again.push(frames[2])[0], whole[2])
    with pytest.raises(UserError, match="frame 3 is 64x64, the frames before it were 72x100"):
        again.push(tiny.frames(1)[0])


class Boom:
    """Pickle that would run code if anything unpickled it."""

    def __reduce__(self):
        return (pytest.fail, ("the pickle was read",))


def test_what_is_no_stream_is_refused(tiny_model, frames, tmp_path):
    path = tmp_path / "stream"
    with pytest.raises(UserError, match="does not exist"):
        mqc_jax.Tracker.restore(tiny_model, path)
    with pytest.raises(UserError, match="is not a stream state"):
        mqc_jax.Tracker.restore(tiny_model, tmp_path)
    for content in (b"garbage, and more of it", b"", b"PK\x03\x04" + bytes(64)):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"is not a stream state written by Tracker\.save"):
            mqc_jax.Tracker.restore(tiny_model, path)
    with path.open("wb") as file:
        np.savez(file, header=np.array([Boom()], object), allow_pickle=True)
    with pytest.raises(UserError, match="is not a stream state"):
        mqc_jax.Tracker.restore(tiny_model, path)
    with path.open("wb") as file:
        np.savez(file, header=np.frombuffer(b"[1]", np.uint8))
    with pytest.raises(UserError, match="is not a stream state"):
        mqc_jax.Tracker.restore(tiny_model, path)

    session = mqc_jax.Tracker(tiny_model, texts=TEXTS)
    with pytest.raises(UserError, match="no frame has been pushed"):
        session.save(path)
    session.push(frames[0])
    session.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="is not a stream state"):
        mqc_jax.Tracker.restore(tiny_model, path)
    path.write_bytes(whole)
    other = dataclasses.replace(tiny_model, config=dataclasses.replace(tiny_model.config, num_maskmem=5))
    with pytest.raises(UserError, match="was written with a model of another config"):
        mqc_jax.Tracker.restore(other, path)


@pytest.mark.parametrize(
    ("prompts", "sentence"),
    [
        ({}, "either texts or masks"),
        ({"texts": ["a boat"], "masks": np.ones((1, 64, 64))}, "either texts or masks"),
        ({"texts": []}, "texts is empty"),
        ({"texts": ["a boat", " "]}, "' ' is blank"),
        ({"texts": ["boat " * 30]}, "has 32 tokens and the limit is 16"),
        ({"masks": np.ones((64, 64))}, r"masks have shape \[64, 64\]; give \[targets, height, width\]"),
        ({"masks": np.ones((0, 64, 64))}, "at least one target"),
    ],
)
def test_prompts_of_the_wrong_form_are_refused(tiny_model, prompts, sentence):
    with pytest.raises(UserError, match=sentence):
        mqc_jax.Tracker(tiny_model, **prompts)


@pytest.mark.parametrize(
    ("frame", "sentence"),
    [
        (np.zeros((64, 64), np.uint8), r"a frame is uint8 \[64, 64\]; give uint8 RGB"),
        (np.zeros((64, 64, 4), np.uint8), "give uint8 RGB"),
        (np.zeros((64, 64, 3), np.float32), "a frame is float32"),
        (np.zeros((8, 64, 3), np.uint8), "a frame is 8x64, both sides must be at least 16"),
    ],
)
def test_frames_of_the_wrong_form_are_refused(tiny_model, frame, sentence):
    with pytest.raises(UserError, match=sentence):
        mqc_jax.Tracker(tiny_model, texts=TEXTS).push(frame)


def test_a_change_of_size_is_refused_and_the_stream_can_go_on(tiny_model, frames, results):
    session = mqc_jax.Tracker(tiny_model, texts=TEXTS)
    session.push(frames[0])
    with pytest.raises(UserError, match="frame 1 is 64x64, the frames before it were 72x100"):
        session.push(tiny.frames(1)[0])
    assert_equal(session.push(frames[1])[0], results[1])
    wrong = mqc_jax.Tracker(tiny_model, masks=np.ones((1, 20, 20)))
    with pytest.raises(UserError, match="masks are 20x20 but the first frame is 72x100"):
        wrong.push(frames[0])


def test_an_empty_first_mask_is_absent_and_harmless(tiny_model, frames):
    results = follow(tiny_model, frames[:3], masks=np.zeros((1, 72, 100), bool))
    assert results[0].presence[0] < 0.01
    assert not results[0].masks.any()
    assert all(np.isfinite(out.mask_logits).all() for out in results)


def test_streaming_equals_the_rollout_that_training_scans(tiny_model):
    net, params = tiny_model.net, tiny_model.params
    images = jnp.asarray(np.stack(tiny.frames(5)))
    ids, mask = tiny_model.tokenizer.encode(TEXTS, 16)
    bank, _ = groups.start(net, params, groups.encode(net, params, images[0]), ids, mask)

    @jax.jit
    def scanned(params, bank, images):
        features = functional.encode_frame(net, params, images)
        # Frames lead; behind them the axis of length 1 that all targets share.
        return functional.rollout(net, params, bank, jax.tree.map(lambda x: x[:, None], features))

    last, outputs = scanned(params, bank, images[1:])
    for t, image in enumerate(images[1:]):
        bank, output = groups.step(net, params, bank, groups.encode(net, params, image))
        for a, b in zip(jax.tree.leaves(output), jax.tree.leaves(outputs), strict=True):
            np.testing.assert_allclose(a, b[t], rtol=1e-5, atol=1e-5)
    for a, b in zip(jax.tree.leaves(bank), jax.tree.leaves(last), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


# ---- calibration ----------------------------------------------------------------------------------------------------


def test_a_moving_target_is_held_back_until_its_window_is_full_and_then_comes_in_order(tiny_model):
    video, mask = moving_square(9, 1)
    session = mqc_jax.Tracker(calibrated(tiny_model), masks=mask[None])
    counts = [len(session.push(frame)) for frame in video]
    assert counts == [0, 0, 3, 1, 1, 1, 1, 1, 1]
    assert session.finish() == []
    results = follow(calibrated(tiny_model), video, masks=mask[None])
    assert [out.frame_index for out in results] == list(range(9))
    assert results[0].memory["window"] == 2
    assert not results[0].memory["is_static"]
    assert results[0].evidence["calibrated"].shape == (1, 64, 64)
    assert not results[1].evidence


def test_what_a_target_vacates_is_seen_at_the_longest_windows_end(tiny_model):
    video, mask = moving_square(9, 1)
    model = calibrated(tiny_model, evidence="vacated")
    session = mqc_jax.Tracker(model, masks=mask[None])
    assert [len(session.push(frame)) for frame in video] == [0] * 6 + [7, 1, 1]
    results = follow(model, video, masks=mask[None])
    assert results[0].memory["window"] == 2  # its own, although longer was looked at
    assert not results[0].memory["is_static"]


def test_a_static_target_waits_for_the_longest_window_and_keeps_its_mask(tiny_model):
    video, mask = moving_square(9, 0)
    session = mqc_jax.Tracker(calibrated(tiny_model), masks=mask[None])
    counts = [len(session.push(frame)) for frame in video]
    assert counts == [0] * 6 + [7, 1, 1]
    plain = follow(tiny_model, video, masks=mask[None])
    found = follow(calibrated(tiny_model), video, masks=mask[None])
    assert found[0].memory["is_static"]
    np.testing.assert_array_equal(found[0].masks[0], mask)
    # Nothing was changed, so that nothing differs from the tracker without calibration.
    for a, b in zip(plain, found, strict=True):
        np.testing.assert_allclose(a.mask_logits, b.mask_logits, atol=1e-4)


def test_a_video_shorter_than_the_window_still_gets_its_masks(tiny_model):
    video, mask = moving_square(2, 1)
    for count in (1, 2):
        results = follow(calibrated(tiny_model), video[:count], masks=mask[None])
        assert [out.frame_index for out in results] == list(range(count))


def test_an_empty_first_mask_stays_empty(tiny_model):
    video, mask = moving_square(4, 1)
    results = follow(calibrated(tiny_model), video, masks=np.zeros_like(mask)[None])
    assert not results[0].masks.any()
    assert results[0].memory["is_static"]


def test_a_damaged_mask_is_repaired_before_it_is_remembered(tiny_model):
    video, mask = moving_square(8, 1)
    damaged = mask.copy()
    damaged[:, 27:] = False
    first = follow(calibrated(tiny_model), video, masks=damaged[None])[0].masks[0]
    assert (first & mask).sum() > 1.3 * (damaged & mask).sum()


def test_each_target_of_a_stream_has_its_own_window(tiny_model):
    video, mask = moving_square(9, 1)
    parked = np.zeros_like(mask)
    parked[50:60, 5:15] = True
    together = follow(calibrated(tiny_model), video, masks=np.stack([mask, parked]))
    np.testing.assert_array_equal(together[0].memory["window"], [2, 6])
    np.testing.assert_array_equal(together[0].memory["is_static"], [False, True])
    alone = follow(calibrated(tiny_model), video, masks=mask[None])
    np.testing.assert_array_equal(together[0].masks[0], alone[0].masks[0])


@pytest.mark.parametrize("memory", ["sam2", "dami"])
@pytest.mark.parametrize(("evidence", "settled"), [("background", 3), ("vacated", 7)])
def test_nothing_beyond_the_window_changes_a_settled_frame(tiny_model, memory, evidence, settled):
    """Frame 0 depends on the window, which has `settled` frames; any later one on the frames up to it."""
    model = calibrated(tiny_model.replace(memory=memory), evidence=evidence)
    video, mask = moving_square(9, 1)
    results = follow(model, video, masks=mask[None])
    for kept in (settled, settled + 1):
        changed = follow(model, [*video[:kept], *tiny.frames(9 - kept)], masks=mask[None])
        for a, b in zip(results[:kept], changed[:kept], strict=True):
            assert_equal(a, b)


@pytest.mark.parametrize("prompt", ["texts", "masks"])
def test_a_stream_restored_inside_its_window_goes_on_alike(tiny_model, tmp_path, prompt):
    video, mask = moving_square(8, 1)
    model = calibrated(tiny_model, n_start=4)
    prompts = {"texts": TEXTS} if prompt == "texts" else {"masks": mask[None]}
    whole = follow(model, video, **prompts)
    session = mqc_jax.Tracker(model, **prompts)
    early = [out for frame in video[:3] for out in session.push(frame)]
    assert early == []
    session.save(tmp_path / "stream")
    session = mqc_jax.Tracker.restore(model, tmp_path / "stream")
    rest = [out for frame in video[3:] for out in session.push(frame)] + session.finish()
    for a, b in zip(whole, rest, strict=True):
        assert_equal(a, b)
