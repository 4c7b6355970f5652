"""benchmarks/awaited.py: where a hidden target is awaited."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import awaited


def moving(hidden: range) -> tuple[list[int], list, list[np.ndarray]]:
    """A target of 20 x 10 pixels that goes (3, 1) over the ground; the picture drifts by (-5, 2), and shakes much."""
    rng, areas, boxes, poses = np.random.default_rng(0), [], [], []
    for t in range(40):
        pose = np.eye(3)
        pose[:2, 2] = np.array([-5, 2]) * t + rng.integers(-6, 7, 2)
        x, y, _ = pose @ (300 + 3 * t, 200 + t, 1)
        areas.append(0 if t in hidden else 200)
        boxes.append(None if t in hidden else (x, y, x + 20, y + 10))
        poses.append(pose)
    return areas, boxes, poses


def test_over_the_ground_it_is_awaited_where_it_goes():
    (wait,) = awaited.waits(*moving(range(15, 30)))
    assert wait == (16, pytest.approx(0, abs=1e-6), pytest.approx(20))
    areas, boxes, _ = moving(range(15, 30))
    (wait,) = awaited.waits(areas, boxes, None)
    assert wait.off > 2


def test_what_is_hidden_for_three_frames_or_to_the_end_is_not_awaited():
    assert awaited.waits(*moving(range(15, 17))) == []
    assert awaited.waits(*moving(range(15, 40))) == []


def test_edges_that_are_off_tell_the_place_worse():
    every = [awaited.waits(*moving(range(15, 30)), edges)[0].off for edges in (0.0, 0.1, 2.0)]
    assert every[0] < 1e-6 < every[1] < 1 < every[2] < 20
