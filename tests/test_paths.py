"""What moves over the ground, and along which path: pictures whose truth is known."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqc_jax import paths

WINDOWS = (4, 8, 12, 16)
SIZE = (240, 320)
START = (140, 100)  # x, y of the thing's first corner
SIDE = 14


def ground(seed: int) -> np.ndarray:
    """Grey uint8, of patches of several sizes; larger than a frame by 60 pixels on each side."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((SIZE[0] + 120, SIZE[1] + 120), np.float32)
    for cell in (4, 12, 40):
        coarse = rng.normal(0, 18, [length // cell + 2 for length in picture.shape]).astype(np.float32)
        picture += cv2.resize(coarse, picture.shape[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(picture + 110, 0, 255).astype(np.uint8)


def video(seed: int, speed: tuple[float, float], camera: tuple[float, float] = (0, 0), noise: float = 3.0, frames=17):
    """A textured thing that moves at `speed` over the ground, seen by a camera that moves at `camera`."""
    rng, land = np.random.default_rng(seed + 1), ground(seed)
    thing = rng.integers(0, 255, (SIDE, SIDE), np.uint8)
    shown = []
    for t in range(frames):
        scene = land.copy()
        x, y = (round(60 + START[k] + speed[k] * t) for k in (0, 1))
        part = scene[max(y, 0) : y + SIDE, max(x, 0) : x + SIDE]
        part[:] = thing[: part.shape[0], : part.shape[1]]
        left, top = (60 + camera[k] * t for k in (0, 1))
        view = cv2.warpAffine(scene, np.float64([[1, 0, -left], [0, 1, -top]]), SIZE[::-1])
        shown.append(np.clip(view + rng.normal(0, noise, SIZE), 0, 255).astype(np.uint8))
    return shown


def thing() -> tuple[int, int, int, int]:
    return *START, START[0] + SIDE, START[1] + SIDE


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 1000),
    x=st.floats(-7, 7),
    y=st.floats(-7, 7),
    across=st.floats(-2, 2),
    down=st.floats(-2, 2),
)
def test_what_moves_is_seen_to_move_and_where_it_goes(seed, x, y, across, down):
    if np.hypot(x, y) < 0.5:
        x += 1
    shown = video(seed, (x, y), (across, down))
    (path,) = paths.follow(shown, [thing()], WINDOWS)
    assert path.moves in WINDOWS
    assert np.hypot(x, y) * path.moves > 2
    steps = np.arange(len(path.corners))[:, None]
    np.testing.assert_allclose(path.corners, START + steps * ((x, y) - np.array((across, down))), atol=1.6)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 1000), across=st.floats(-2, 2), down=st.floats(-2, 2), noise=st.floats(0, 12))
def test_what_stands_under_a_camera_that_moves_does_not(seed, across, down, noise):
    shown = video(seed, (0, 0), (across, down), noise)
    (path,) = paths.follow(shown, [thing()], WINDOWS)
    assert path.moves == 0
    steps = np.arange(17)[:, None]
    np.testing.assert_allclose(path.corners, START - steps * np.array((across, down)), atol=1.0)


@pytest.mark.parametrize("rate", [-7, 6])
def test_what_turns_as_it_goes_is_followed(rate):
    """A cross of two unequal bars, 50 pixels long, as an aircraft that taxies round a bend."""
    rng, land = np.random.default_rng(0), ground(9)[: SIZE[0], : SIZE[1]]
    shown, heading, x, y = [], 0.0, 160.0, 90.0
    for _ in range(17):
        frame = land.copy()
        for angle, length in ((heading, 25), (heading + 90, 14)):
            across, down = np.cos(np.deg2rad(angle)) * length, np.sin(np.deg2rad(angle)) * length
            ends = [(round(x + k * across), round(y + k * down)) for k in (-1, 1)]
            cv2.line(frame, *ends, 235, 5)
        shown.append(np.clip(frame + rng.normal(0, 3, SIZE), 0, 255).astype(np.uint8))
        last = x, y
        heading += rate
        x, y = x + 4 * np.cos(np.deg2rad(heading)), y + 4 * np.sin(np.deg2rad(heading))
    (path,) = paths.follow(shown, [(135, 76, 186, 105)], WINDOWS)
    assert path.moves > 0
    np.testing.assert_allclose(path.corners[-1] - path.corners[0], np.array(last) - (160, 90), atol=5)


def test_large_things_are_looked_for_in_smaller_frames(monkeypatch):
    shown, standing = video(4, (5, -3), (1, 1)), video(4, (0, 0), (1, 1))
    (whole,) = paths.follow(shown, [thing()], WINDOWS)
    monkeypatch.setattr(paths, "_LARGEST", 7)  # half the thing's side
    (path,) = paths.follow(shown, [thing()], WINDOWS)
    assert path.moves == whole.moves == 4
    np.testing.assert_allclose(path.corners, whole.corners[: len(path.corners)], atol=3)
    assert paths.follow(standing, [thing()], WINDOWS)[0].moves == 0


def test_one_among_its_look_alikes():
    """Three equal things in a row, of which the middle one moves past the others."""
    rng, land = np.random.default_rng(0), ground(5)[: SIZE[0], : SIZE[1]]
    like, shown = rng.integers(0, 255, (SIDE, SIDE), np.uint8), []
    corners = [(100, 60), (140, 100), (180, 140)]
    for t in range(17):
        frame = land.copy()
        for k, (x, y) in enumerate(corners):
            x += 3 * t * (k == 1)
            frame[y : y + SIDE, x : x + SIDE] = like
        shown.append(np.clip(frame + rng.normal(0, 3, SIZE), 0, 255).astype(np.uint8))
    found = paths.follow(shown, [(x, y, x + SIDE, y + SIDE) for x, y in corners], WINDOWS)
    assert [path.moves > 0 for path in found] == [False, True, False]


@pytest.mark.parametrize("covered", [2, 6, 12])
def test_what_a_cloud_covers_does_not_move(covered):
    shown = video(7, (0, 0))
    for frame in shown[covered:]:
        frame[80:140, 120:190] = 230
    assert paths.follow(shown, [thing()], WINDOWS)[0].moves == 0


def test_what_a_cloud_covers_later_was_seen_to_move_before():
    shown = video(7, (3, 0))
    for frame in shown[6:]:
        frame[80:140, 150:] = 230
    assert paths.follow(shown, [thing()], WINDOWS)[0].moves == 4


def test_a_flat_patch_tells_nothing_and_one_frame_neither():
    shown = video(3, (4, 0))
    flat = [np.full_like(frame, 90) for frame in shown]
    assert paths.follow(flat, [thing()], WINDOWS)[0].moves == 0
    (path,) = paths.follow(shown[:1], [thing()], WINDOWS)
    assert (path.moves, path.corners.tolist()) == (0, [list(START)])


def test_what_leaves_the_frame_was_seen_to_move():
    shown = video(11, (12, 0))  # its frame ends after 13 steps
    (path,) = paths.follow(shown, [thing()], WINDOWS)
    assert path.moves == 4
    assert 12 <= len(path.corners) <= 15


@pytest.mark.parametrize("scale", [1, 9])
def test_the_grounds_motion_is_found(scale):
    turn = cv2.getRotationMatrix2D((160, 120), 1.5, 1.01)
    turn[:, 2] += (3.3, -2.1)
    before = ground(2)[: SIZE[0], : SIZE[1]]
    after = cv2.warpAffine(before, turn, SIZE[::-1], borderMode=cv2.BORDER_REFLECT)
    before, after = (cv2.resize(f, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC) for f in (before, after))
    found = paths.ground_motion(before, after)
    middle = np.array([[60, 60, 1], [250, 60, 1], [160, 200, 1]], float)
    middle[:, :2] *= scale
    there = middle.copy()
    there[:, :2] = (np.array([[60, 60, 1], [250, 60, 1], [160, 200, 1]]) @ turn.T) * scale
    np.testing.assert_allclose(middle @ found.T, there[:, :2], atol=0.4 * scale)


def test_ground_without_corners_stands():
    flat = np.full(SIZE, 90, np.uint8)
    np.testing.assert_array_equal(paths.ground_motion(flat, flat), np.eye(2, 3))
