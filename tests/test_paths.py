"""What moves over the ground, and along which path: pictures whose truth is known."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenery import SIZE, ground

from mqc_jax import paths
from mqc_jax.ground import Ground

WINDOWS = (4, 8, 12, 16)
START = (140, 100)  # x, y of the thing's first corner
SIDE = 14


def video(
    seed: int,
    speed: tuple[float, float],
    camera: tuple[float, float] = (0, 0),
    noise: float = 3.0,
    frames: int = 17,
    side: int = SIDE,
):
    """A textured thing that moves at `speed` over the ground, seen by a camera that moves at `camera`."""
    rng, land = np.random.default_rng(seed + 1), ground(seed)
    thing = rng.integers(0, 255, (side, side), np.uint8)
    shown = []
    for t in range(frames):
        scene = land.copy()
        x, y = (round(60 + START[k] + speed[k] * t) for k in (0, 1))
        part = scene[max(y, 0) : y + side, max(x, 0) : x + side]
        part[:] = thing[: part.shape[0], : part.shape[1]]
        left, top = (60 + camera[k] * t for k in (0, 1))
        view = cv2.warpAffine(scene, np.float64([[1, 0, -left], [0, 1, -top]]), SIZE[::-1])
        shown.append(np.clip(view + rng.normal(0, noise, SIZE), 0, 255).astype(np.uint8))
    return shown


def follow(frames: list[np.ndarray], boxes: list[tuple[int, int, int, int]]) -> list[paths.Path]:
    whole = Ground()
    return paths.follow(frames, [whole.push(frame) for frame in frames], boxes, WINDOWS)


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
    (path,) = follow(shown, [thing()])
    assert path.moves in WINDOWS
    assert np.hypot(x, y) * path.moves > 2
    steps = np.arange(len(path.corners))[:, None]
    np.testing.assert_allclose(path.corners, START + steps * ((x, y) - np.array((across, down))), atol=1.6)


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 1000), across=st.floats(-2, 2), down=st.floats(-2, 2), noise=st.floats(0, 12))
def test_what_stands_under_a_camera_that_moves_does_not(seed, across, down, noise):
    shown = video(seed, (0, 0), (across, down), noise)
    (path,) = follow(shown, [thing()])
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
    (path,) = follow(shown, [(135, 76, 186, 105)])
    assert path.moves > 0
    np.testing.assert_allclose(path.corners[-1] - path.corners[0], np.array(last) - (160, 90), atol=5)


def _share_seen(speed: float) -> float:
    """Of 24 things of 5x5 pixels in much noise, whose frames' poses are known: what is seen to move."""
    found, side = [], 5
    for seed in range(24):
        course = seed * np.pi / 12
        way = speed * np.cos(course), speed * np.sin(course)
        shown = video(seed, way, (1, 1), noise=50, side=side)
        poses = [np.array([(1, 0, -t), (0, 1, -t), (0, 0, 1)], float) for t in range(len(shown))]
        (path,) = paths.follow(shown, poses, [(*START, START[0] + side, START[1] + side)], WINDOWS)
        found.append(path.moves > 0)
    return float(np.mean(found))


def test_a_few_noisy_pixels_are_found_on_a_line_where_one_frame_would_mislead(monkeypatch):
    seen = _share_seen(5)
    assert seen > 0.8
    assert _share_seen(0) == 0
    monkeypatch.setattr(paths, "_steady", lambda *_: paths._Course.of_nothing())
    assert _share_seen(5) < seen - 0.15  # begun frame by frame alone


def test_large_things_are_looked_for_in_smaller_frames(monkeypatch):
    shown, standing = video(4, (5, -3), (1, 1)), video(4, (0, 0), (1, 1))
    (whole,) = follow(shown, [thing()])
    monkeypatch.setattr(paths, "_LARGEST", 7)  # half the thing's side
    (path,) = follow(shown, [thing()])
    assert path.moves == whole.moves == 4
    np.testing.assert_allclose(path.corners, whole.corners[: len(path.corners)], atol=3)
    assert follow(standing, [thing()])[0].moves == 0


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
    found = follow(shown, [(x, y, x + SIDE, y + SIDE) for x, y in corners])
    assert [path.moves > 0 for path in found] == [False, True, False]


@pytest.mark.parametrize("covered", [2, 6, 12])
def test_what_a_cloud_covers_does_not_move(covered):
    shown = video(7, (0, 0))
    for frame in shown[covered:]:
        frame[80:140, 120:190] = 230
    assert follow(shown, [thing()])[0].moves == 0


@pytest.mark.parametrize("seed", range(3))
def test_the_edge_along_which_a_covered_thing_lies_does_not_move(seed, monkeypatch):
    """A car by a road: when a cloud has come, other parts of the edge are what is most like it, one after the other."""
    rng, shown = np.random.default_rng(seed), []
    land = np.clip(ground(seed)[: SIZE[0], : SIZE[1]] * 0.3, 0, 255)
    land[:104] += 110
    for t in range(17):
        frame = land.copy()
        frame[100:108, 140:154] += 15
        if t:
            frame[90:130, 130:170] = np.linspace(200, 230, 40)
        shown.append(np.clip(frame + rng.normal(0, 6, SIZE), 0, 255).astype(np.uint8))
    still = lambda: paths.follow(shown, [np.eye(3)] * 17, [(140, 100, 154, 108)], WINDOWS)[0]  # noqa: E731
    assert (still().moves, still().stands) == (0, False)
    monkeypatch.setattr(paths, "_CAME", -2.0)
    assert still().moves  # but for what was there before, it would


def test_what_a_cloud_covers_later_was_seen_to_move_before():
    shown = video(7, (3, 0))
    for frame in shown[6:]:
        frame[80:140, 150:] = 230
    assert follow(shown, [thing()])[0].moves == 4


def test_a_flat_patch_tells_nothing_and_one_frame_neither():
    shown = video(3, (4, 0))
    flat = [np.full_like(frame, 90) for frame in shown]
    assert follow(flat, [thing()])[0].moves == 0
    (path,) = follow(shown[:1], [thing()])
    assert (path.moves, path.corners.tolist()) == (0, [list(START)])


def test_what_leaves_the_frame_was_seen_to_move():
    shown = video(11, (12, 0))  # its frame ends after 13 steps
    (path,) = follow(shown, [thing()])
    assert path.moves == 4
    assert 12 <= len(path.corners) <= 15


def _at_sea(sea: tuple[int, int], boat: tuple[int, int] | None, wake: int = 0) -> list[np.ndarray]:
    """Waves that go one way, and a boat that goes another with a wake behind it; the ground stands."""
    waves, rng, shown = ground(21), np.random.default_rng(4), []
    thing, foam = (rng.integers(0, 255, (SIDE, SIDE), np.uint8) for _ in range(2))
    for t in range(17):
        left, top = (60 - speed * t for speed in sea)
        frame = waves[top : top + SIZE[0], left : left + SIZE[1]].copy()
        if boat is not None:
            x, y = (start + speed * t for start, speed in zip(START, boat, strict=True))
            frame[y : y + SIDE, x : x + SIDE] = thing
            if wake:  # on the left, as wide as three boats
                frame[y - SIDE : y + 2 * SIDE, x - wake - 1 : x - 1] = np.tile(foam, (3, 3))[:, :wake]
        shown.append(np.clip(frame + rng.normal(0, 3, SIZE), 0, 255).astype(np.uint8))
    return shown


def _still(frames: list[np.ndarray]) -> list[paths.Path]:
    return paths.follow(frames, [np.eye(3)] * len(frames), [thing()], WINDOWS)


@pytest.mark.parametrize("sea", [(2, 1), (0, -3), (-1, 1)])
def test_a_wave_among_waves_does_not_move_by_itself(sea, monkeypatch):
    shown = _at_sea(sea, None)
    (path,) = _still(shown)
    assert path.moves == 0
    np.testing.assert_allclose(path.corners, np.tile(START, (17, 1)), atol=1e-6)
    monkeypatch.setattr(paths, "_COMMON", 1.0)
    assert _still(shown)[0].moves  # but for what is around it, it would


@pytest.mark.parametrize("wake", [0, 24])
@pytest.mark.parametrize("boat", [(3, 0), (-2, -2), (0, 4)])
def test_a_boat_that_goes_its_own_way_among_waves_moves(boat, wake):
    (path,) = _still(_at_sea((1, 1), boat, wake))
    assert path.moves == 4
    np.testing.assert_allclose(path.corners[:9], START + np.arange(9)[:, None] * boat, atol=1.1)


@pytest.mark.parametrize("side", [5, 7, 9])
def test_what_is_not_there_any_more_does_not_move(side, monkeypatch):
    """Water that is another in each frame: some part of it always looks a little as a few of its pixels did."""
    corners = [(60 + 50 * k, 60 + 40 * j) for k in range(4) for j in range(3)]
    boxes = [(x, y, x + side, y + side) for x, y in corners]
    videos = [[ground(1000 * seed + t)[: SIZE[0], : SIZE[1]] for t in range(17)] for seed in range(4)]

    def share() -> float:
        found = [paths.follow(shown, [np.eye(3)] * 17, boxes, WINDOWS) for shown in videos]
        return float(np.mean([path.moves > 0 for each in found for path in each]))

    assert share() < 0.2
    monkeypatch.setattr(paths, "_SURE", -2.0)
    assert share() > 0.9  # found again where it looks best, mostly


# ---- what stands, and what is seen to do neither --------------------------------------------------------------------


def covered(shown: list[np.ndarray], first: int, last: int = 16) -> list[np.ndarray]:
    """The same with a smooth cloud over the thing's place in some frames."""
    x0, y0, x1, y1 = thing()
    for t in range(first, last + 1):
        shown[t] = shown[t].copy()
        part = shown[t][y0 - 12 : y1 + 12, x0 - 12 : x1 + 12]
        part[:] = np.linspace(190, 230, part.shape[1])
    return shown


@pytest.mark.parametrize("noise", [3.0, 40.0])
def test_what_is_in_its_place_in_the_end_stands(noise):
    shown = video(3, (0, 0), noise=noise)
    (path,) = follow(shown, [thing()])
    assert (path.moves, path.stands) == (0, True)
    assert follow(covered(shown, 5, 10), [thing()])[0].stands  # it was there all the time


@pytest.mark.parametrize("first", [1, 4, 11])
def test_what_a_cloud_covers_is_seen_neither_to_move_nor_to_stand(first):
    (path,) = follow(covered(video(3, (0, 0)), first), [thing()])
    assert (path.moves, path.stands) == (0, False)


def test_what_moves_does_not_stand():
    (path,) = follow(video(3, (2, 1)), [thing()])
    assert path.moves > 0
    assert not path.stands


@given(odds=st.floats(0.01, 100))
def test_what_is_seen_to_do_neither_weighs_as_much_beside_either(odds):
    moves, neither, stands = (paths.weight(odds, *seen) for seen in ((True, False), (False, False), (False, True)))
    assert (moves, stands) == (odds, 1)
    assert neither / stands == pytest.approx(moves / neither)
