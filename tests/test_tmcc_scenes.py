"""The calibration on synthetic satellite clips: equal to the transcription, and of use to damaged first masks."""

import sys

import jax
import numpy as np
import pytest
import tiny
from test_tmcc import transcription

from mqc_jax import CalibrationConfig, calibrate
from mqc_jax.models import tmcc
from mqc_jax.models.flow import flow, grey

sys.path.append(str(tiny.ROOT / "benchmarks"))
from tmcc_scenes import DAMAGES, damaged, iou, scene  # noqa: E402

LENGTH, SIDE = CalibrationConfig.n_max, 160
LITERAL = CalibrationConfig(evidence="none", expansion="single", selection="best", remove_background=False)


@pytest.fixture(scope="module")
def cases():
    """(frames, displacement, target, damage, probability) of targets in three sequences of the test split."""
    found = []
    for index in (3, 8, 14):
        frames, targets = scene(index, SIDE, LENGTH)
        shown = grey(frames)
        displacement = np.asarray(flow(shown))
        rng = np.random.default_rng(index)
        found += [
            (np.asarray(shown), displacement, target, kind, damaged(target, kind, rng))
            for target in targets
            for kind in DAMAGES
        ]
    return found


@pytest.mark.parametrize("config", [LITERAL, CalibrationConfig()], ids=["the paper's letter", "default"])
def test_masks_equal_the_transcription(cases, config):
    assert {case[2].moving for case in cases} == {True, False}
    moved = 0
    for shown, displacement, _, kind, probability in cases:
        ours = calibrate(probability, displacement, config, frames=shown)
        plain = transcription(probability, displacement, shown, config)
        moved += not plain["is_static"]
        assert bool(ours.is_static) == plain["is_static"], kind
        np.testing.assert_array_equal(ours.mask, plain["mask"], err_msg=kind)
    assert moved > 5


def test_static_targets_lose_no_more_than_to_morphology(cases):
    config = CalibrationConfig()
    phi = jax.jit(lambda first: tmcc.morphology(first, config))
    for shown, displacement, target, kind, probability in cases:
        if not target.moving:
            found = np.asarray(calibrate(probability, displacement, config, frames=shown).mask)
            plain = np.asarray(phi(probability > 0.5))
            assert iou(found, target.truth) >= iou(plain, target.truth), kind
