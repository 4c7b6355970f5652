"""benchmarks/true_memory.py: what is remembered is what a user's mask would have been remembered as."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from mqc_jax import groups, imaging
from mqc_jax.errors import UserError
from mqc_jax.models.memory_bank import ANCHOR

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from true_memory import TrueMemory


def newest(slots, row: int = 0) -> np.ndarray:
    """The latest written entry but the anchor's."""
    age = np.where(np.asarray(slots.valid[row]), np.asarray(slots.age[row]), 10**6)
    age[ANCHOR] = 10**6
    return np.asarray(slots.value[row, age.argmin()])


def test_each_frame_that_shows_the_target_is_remembered_by_its_true_mask_and_no_other(tiny_model):
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (5, 100, 140, 3), np.uint8)
    truth = np.zeros((5, 100, 140), bool)
    for t in (0, 1, 2, 4):
        truth[t, 40 + t : 52 + t, 50:70] = True
    model = tiny_model.replace(tile=48)
    tracker, shown = TrueMemory(model, [truth]), 1
    for t, frame in enumerate(video):
        (view,) = tracker._tracker._views.values() if t else (None,)
        before = jax.device_get(view.tracker._groups[0].bank) if t else None
        (result,) = tracker.push(frame)
        if t:
            bank = jax.device_get(view.tracker._groups[0].bank)
            assert bank.feature.age[0, ANCHOR] == t
            x0, y0, x1, y1 = result.memory["view"][0]
            size = model.config.image_size
            features = groups.encode(model.net, model.params, imaging.resize(frame[y0:y1, x0:x1], size))
            mask = imaging.resize_mask(truth[t, y0:y1, x0:x1], size)[None].astype(np.float32)
            given, _ = groups.start_from_mask(model.net, model.params, features, mask)
            shown += int(mask.any())
            for name in ("feature", "pointer"):
                slots, old = getattr(bank, name), getattr(before, name)
                if mask.any():
                    np.testing.assert_array_equal(newest(slots), getattr(given, name).value[0, ANCHOR])
                else:
                    np.testing.assert_array_equal(slots.value, old.value)
                    np.testing.assert_array_equal(slots.age[slots.valid], old.age[old.valid] + 1)
    assert 2 < shown < 5  # frame 3 shows nothing, and the window may lose the target
    assert bank.feature.valid[0].sum() == shown


def test_other_memories_and_whole_frames_are_refused(tiny_model):
    truth = np.ones((2, 40, 40), bool)
    with pytest.raises(UserError, match="memory 'dami'"):
        TrueMemory(tiny_model.replace(tile=48, memory="dami"), [truth])
    with pytest.raises(UserError, match="40x40 are seen whole"):
        TrueMemory(tiny_model.replace(tile=48), [truth]).push(np.zeros((40, 40, 3), np.uint8))
