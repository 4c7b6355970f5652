"""The calibration on synthetic satellite clips: equal to the transcription, and of use to damaged first masks."""

import functools
import sys
from typing import NamedTuple

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


class Outcome(NamedTuple):
    """A damaged first mask and what became of it; IoU with the truth before, after morphology, after calibration."""

    moving: bool
    kind: str
    damaged: float
    closed: float
    calibrated: float


def outcomes() -> list[Outcome]:
    phi = jax.jit(lambda first: tmcc.morphology(first, MODEL))
    found = []
    for shown, displacement, target, kind, probability in cases(*SCENES):
        masks = (
            probability > 0.5,
            np.asarray(phi(probability > 0.5)),
            np.asarray(calibrate(probability, displacement, MODEL, frames=shown).mask),
        )
        found.append(Outcome(target.moving, kind, *(float(iou(mask, target.truth)) for mask in masks)))
    return found


@pytest.fixture(scope="module")
def calibrated() -> list[Outcome]:
    return tiny.alone(outcomes)


def test_static_targets_lose_no_more_than_to_morphology(calibrated):
    static = [case for case in calibrated if not case.moving]
    assert len(static) >= 36
    for case in static:
        assert case.calibrated >= case.closed, case.kind


def test_damaged_masks_of_moving_targets_gain(calibrated):
    gains = [case.calibrated - case.damaged for case in calibrated if case.moving and case.kind != "intact"]
    assert len(gains) >= 15
    assert np.mean(gains) > 0.05
