"""One object in each mask: against a transcription with SciPy, and in the tracker."""

import json

import jax
import numpy as np
import pytest
import tiny
from scipy import ndimage

from mqc_jax.errors import UserError
from mqc_jax.groups import Target
from mqc_jax.models.one_object import _CELLS, _GROW, _NEAR, _REACH, _SHRINK, _WHOLE, REMOVED, UNKNOWN, keep
from mqc_jax.stream_state import packed, unpacked
from mqc_jax.tracker import Tracker

SIDE = 24
keep_jit = jax.jit(keep)


def diagonal(mask: np.ndarray) -> float:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return float(np.hypot(rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1))


def transcription(logits: np.ndarray, place: tuple[float, float, float]) -> np.ndarray:
    """What `keep` says it does, piece by piece: the kept mask."""
    mask = logits > 0
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    if not count:
        return mask
    expected, length = np.array(place[:2]) * SIDE, place[2] * SIDE
    pieces = [np.argwhere(labels == i + 1)[:, ::-1] + 0.5 for i in range(count)]
    weights = []
    for i, points in enumerate(pieces):
        weight = (1 / (1 + np.exp(-logits[labels == i + 1]))).sum()
        if length:
            weight *= np.exp(-np.hypot(*(points.mean(0) - expected)) / (_NEAR * length + _CELLS))
        weights.append(weight)
    main = int(np.argmax(weights))
    middle, own = pieces[main].mean(0), diagonal(labels == main + 1)
    kept = labels == main + 1
    for i, points in enumerate(pieces):
        inside = np.hypot(*(points - middle).T) <= own / 2 + _CELLS
        if length and own < _WHOLE * length:
            inside |= np.hypot(*(points - expected).T) <= _REACH * length + _CELLS
        if inside.all():
            kept |= labels == i + 1
    return kept


@pytest.mark.parametrize("seed", range(150))
def test_it_equals_a_transcription(seed):
    rng = np.random.default_rng(seed)
    logits = ndimage.gaussian_filter(rng.normal(0, 1, (SIDE, SIDE)), rng.choice([0.5, 1.0, 2.0])).astype(np.float32)
    logits = ((logits / logits.std() - rng.choice([0.0, 1.0, 1.5])) * 3).astype(np.float32)
    place = UNKNOWN if seed % 5 == 0 else tuple(rng.uniform(0.1, 0.9, 3))
    found, seen = keep_jit(logits[None], np.array([place], np.float32))
    kept = transcription(logits, place)
    np.testing.assert_array_equal(found[0] > 0, kept)
    removed = (logits > 0) & ~kept
    assert (np.asarray(found[0])[removed] == REMOVED).all()
    np.testing.assert_array_equal(np.asarray(found[0])[~removed], logits[~removed])
    if kept.any():
        rows, columns = np.flatnonzero(kept.any(1)), np.flatnonzero(kept.any(0))
        length, before = diagonal(kept) / SIDE, place[2]
        share = _GROW if length > before else _SHRINK
        expected = (columns[0] + columns[-1] + 1) / 2 / SIDE, (rows[0] + rows[-1] + 1) / 2 / SIDE
        length = before + share * (length - before) if before else length
        np.testing.assert_allclose(seen[0], (*expected, length), rtol=1e-5)
        # What is one object stays one object.
        again, _ = keep_jit(found, np.array([place], np.float32))
        np.testing.assert_array_equal(again, found)


def test_an_empty_mask_leaves_the_place_as_it_was():
    place = np.array([[0.2, 0.7, 0.1]], np.float32)
    found, seen = keep_jit(np.full((1, SIDE, SIDE), -1024.0, np.float32), place)
    assert (np.asarray(found) == -1024).all()
    np.testing.assert_array_equal(seen, place)


def two_boxes() -> np.ndarray:
    """Logits of two boxes, the right one larger."""
    logits = np.full((1, SIDE, SIDE), -5.0, np.float32)
    logits[0, 8:14, 2:7] = logits[0, 8:15, 16:22] = 5
    return logits


def test_of_two_objects_the_expected_one_stays():
    left, right = two_boxes() > 0, two_boxes() > 0
    left[..., 12:], right[..., :12] = False, False
    expected = {(0.2, 0.45, 0.3): left, (0.8, 0.45, 0.3): right, UNKNOWN: right}
    for place, mask in expected.items():
        found, _ = keep_jit(two_boxes(), np.array([place], np.float32))
        np.testing.assert_array_equal(found > 0, mask)


def test_an_object_that_a_cloud_cuts_in_two_stays_one():
    logits = np.full((1, SIDE, SIDE), -5.0, np.float32)
    logits[0, 10:13, 3:20] = 5
    logits[0, :, 12:15] = -5
    whole, parts = np.array([[11.5 / SIDE, 0.48, 18 / SIDE]], np.float32), np.array([[0.3, 0.48, 9 / SIDE]], np.float32)
    found, _ = keep_jit(logits, whole)
    np.testing.assert_array_equal(found, logits)
    # Of an object that is known to be short the other half is a neighbour.
    found, _ = keep_jit(logits, parts)
    assert not (np.asarray(found)[..., 14:] > 0).any()


# ---- in the tracker -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def single(tiny_model):
    return tiny_model.replace(one_object=True)


def pieces(mask: np.ndarray) -> int:
    return ndimage.label(mask, np.ones((3, 3)))[1]


def test_masks_of_a_stream_hold_one_object_each_and_the_memory_what_was_kept(tiny_model, single):
    frames = tiny.frames(5)
    mask = np.zeros((1, *frames[0].shape[:2]), bool)
    mask[0, 20:40, 20:40] = True
    loose, tight = (Tracker(m, masks=mask) for m in (tiny_model, single))
    removed = 0
    for frame in frames:
        (a,), (b,) = loose.push(frame), tight.push(frame)
        kept = b.mask_logits > 0
        # A piece that is removed changes nothing else in its own frame, and, not being remembered, all later ones.
        # The two are programs of their own, alike to rounding.
        assert (np.abs(a.mask_logits - b.mask_logits)[kept].max() < 1e-5) == (removed < 1)
        removed += pieces(a.mask_logits[0] > 0) > pieces(b.mask_logits[0] > 0)
    assert removed > 1


def test_what_is_expected_decides_and_survives_a_restart(single, tmp_path):
    frames = tiny.frames(4)
    mask = np.zeros((1, *frames[0].shape[:2]), bool)
    mask[0, 20:40, 20:40] = True
    results = []
    for place in ((0.1, 0.1, 0.2), (0.9, 0.9, 0.2)):
        tracker = Tracker(single, masks=mask)
        tracker.push(frames[0])
        tracker.expect({0: place})
        tracker.save(tmp_path / "state.npz")
        again = Tracker.restore(single, tmp_path / "state.npz")
        for frame in frames[1:]:
            (a,), (b,) = tracker.push(frame), again.push(frame)
            np.testing.assert_array_equal(a.mask_logits, b.mask_logits)
        results.append(a.masks)
    assert not np.array_equal(*results)
    with pytest.raises(UserError, match="no target 3 to expect"):
        tracker.expect({3: (0.5, 0.5, 0.1)})


def test_a_target_that_waits_keeps_what_is_expected_of_it():
    targets = [Target(0, "a"), Target(2, "b", start=4, place=(0.25, 0.5, 0.125))]
    facts, arrays = packed(targets)
    assert unpacked(json.loads(json.dumps(facts)), arrays, (8, 8), 3) == targets


def test_a_new_video_expects_nothing(single):
    tracker = Tracker(single, texts=["a boat"])
    tracker.expect({0: (0.1, 0.1, 0.2)})
    assert tracker._targets[0].place == (0.1, 0.1, 0.2)
    tracker.reset()
    assert tracker._targets[0].place is None


def test_without_it_nothing_is_expected(tiny_model):
    tracker = Tracker(tiny_model, masks=np.ones((1, 64, 64), bool))
    tracker.push(tiny.frames(1, (64, 64))[0])
    tracker.expect({0: (0.1, 0.1, 0.2)})
    assert tracker._groups[0].bank.place is None
