"""The calibration on synthetic satellite clips: equal to the transcription, and of use to damaged first masks."""

import functools
import sys

import jax
import numpy as np
import pytest
import tiny
from test_tmcc import steadied, transcription

from mqc_jax import CalibrationConfig, calibrate
from mqc_jax.config import ModelConfig
from mqc_jax.models import tmcc
from mqc_jax.models.flow import flow, grey

sys.path.append(str(tiny.ROOT / "benchmarks"))
from tmcc_scenes import DAMAGES, damaged, iou, scene

LENGTH = CalibrationConfig.n_max
LITERAL = CalibrationConfig(evidence="none", expansion="single")
MODEL = ModelConfig().tmcc


@functools.cache
def cases(indices: tuple[int, ...], side: int) -> list[tuple]:
    """(frames, displacement, target, damage, probability) of targets in sequences of the test split."""
    found = []
    for index in indices:
        frames, targets = scene(index, side, LENGTH)
        shown = np.asarray(grey(frames))
        displacement = np.asarray(flow(shown))
        rng = np.random.default_rng(index)
        found += [
            (shown, displacement, target, kind, damaged(target, kind, rng)) for target in targets for kind in DAMAGES
        ]
    return found


@pytest.mark.parametrize(
    "config", [LITERAL, CalibrationConfig(), MODEL], ids=["the paper's letter", "default", "the model's default"]
)
def test_masks_equal_the_transcription(config):
    moved, steady = 0, {}
    for shown, displacement, _, kind, probability in cases((3, 12, 24), 160):
        ours = calibrate(probability, displacement, config, frames=shown)
        if config.remove_background and id(shown) not in steady:
            steady[id(shown)] = steadied(displacement, shown)
        plain = transcription(probability, displacement, shown, config, steady.get(id(shown)))
        moved += not plain["is_static"]
        assert bool(ours.is_static) == plain["is_static"], kind
        np.testing.assert_array_equal(ours.mask, plain["mask"], err_msg=kind)
    assert moved > 5


SCENES = ((0, 5, 7, 8), 320)
"""Three airports, and a harbour in which drifting water fills most of the frame."""


def test_static_targets_lose_no_more_than_to_morphology():
    phi = jax.jit(lambda first: tmcc.morphology(first, MODEL))
    static = [case for case in cases(*SCENES) if not case[2].moving]
    assert len(static) >= 36
    for shown, displacement, target, kind, probability in static:
        found = np.asarray(calibrate(probability, displacement, MODEL, frames=shown).mask)
        assert iou(found, target.truth) >= iou(np.asarray(phi(probability > 0.5)), target.truth), kind


def test_damaged_masks_of_moving_targets_gain():
    gains = [
        iou(np.asarray(calibrate(probability, displacement, MODEL, frames=shown).mask), target.truth)
        - iou(probability > 0.5, target.truth)
        for shown, displacement, target, kind, probability in cases(*SCENES)
        if target.moving and kind != "intact"
    ]
    assert len(gains) >= 15
    assert np.mean(gains) > 0.05
