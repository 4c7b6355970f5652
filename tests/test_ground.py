"""How the ground moves under a camera that drifts and shakes: pictures whose truth is known."""

import cv2
import numpy as np
import pytest
from scenery import SIZE, ground

from mqc_jax.data.synthetic.water import wave_tile
from mqc_jax.ground import Ground, Marks, _way, poses


@pytest.mark.parametrize("scale", [1, 9])
def test_the_grounds_motion_is_found(scale):
    turn = cv2.getRotationMatrix2D((160, 120), 1.5, 1.01)
    turn[:, 2] += (3.3, -2.1)
    before = ground(2)[: SIZE[0], : SIZE[1]]
    after = cv2.warpAffine(before, turn, SIZE[::-1], borderMode=cv2.BORDER_REFLECT)
    before, after = (cv2.resize(f, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC) for f in (before, after))
    stream = Ground()
    stream.push(before)
    found = stream.push(after)
    middle = np.array([[60, 60, 1], [250, 60, 1], [160, 200, 1]], float)
    middle[:, :2] *= scale
    there = middle.copy()
    there[:, :2] = (np.array([[60, 60, 1], [250, 60, 1], [160, 200, 1]]) @ turn.T) * scale
    np.testing.assert_allclose((middle @ found.T)[:, :2], there[:, :2], atol=0.4 * scale)


def test_ground_without_corners_stands():
    flat = np.full(SIZE, 90, np.uint8)
    stream = Ground()
    for _ in range(2):
        np.testing.assert_array_equal(stream.push(flat), np.eye(3))


def test_a_colour_frame_is_seen_as_its_grey_one():
    grey = [ground(4)[20 * k : SIZE[0] + 20 * k, : SIZE[1]] for k in range(2)]
    whole, colour = Ground(), Ground()
    for frame in grey:
        np.testing.assert_array_equal(colour.push(np.repeat(frame[..., None], 3, 2)), whole.push(frame))


def test_a_stream_goes_on_from_its_last_frame():
    frames = [ground(6)[k : SIZE[0] + k, : SIZE[1]] for k in range(14)]
    whole = Ground()
    found = [whole.push(frame) for frame in frames]
    half = Ground()
    for frame in frames[:11]:
        half.push(frame)
    assert len(half.marks) == 2
    rest = Ground(half.grey, half.pose, half.marks)
    for k, frame in enumerate(frames[11:], 11):
        np.testing.assert_array_equal(rest.push(frame), found[k])
        np.testing.assert_allclose(found[k], [[1, 0, 0], [0, 1, -k], [0, 0, 1]], atol=0.05)


def harbour(count: int, shore: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Grey frames of two wave fields that drift through each other, and of a shore as wide; and each frame's pose."""
    rng = np.random.default_rng(3)
    fields = [wave_tile(rng, 1.0, heading).astype(np.float32) for heading in (0.3, 1.1)]
    land, turns = ground(5), rng.uniform(-1.5, 1.5, (count, 2)).round().astype(int)
    frames = []
    for t, (x, y) in enumerate(turns):
        drifted = [np.roll(field, (-y, 3 * t - x), (0, 1)) for field in fields[:1]]
        drifted += [np.roll(field, (2 * t - y, -x), (0, 1)) for field in fields[1:]]
        frame = sum(drifted)[: SIZE[0], : SIZE[1]] / 2
        frame[:, : max(shore - x, 0)] = land[30 + y :, 30 + x :][: SIZE[0], : max(shore - x, 0)]
        frames.append(frame.clip(0, 255).astype(np.uint8))
    return frames, [np.array([[1, 0, -x], [0, 1, -y], [0, 0, 1.0]]) for x, y in turns]


@pytest.mark.parametrize("shore", [30, 90])
def test_waves_are_not_the_ground_however_many(shore):
    frames, truth = harbour(33, shore)
    stream = Ground()
    found = [stream.push(frame) for frame in frames]
    for a, b in ((0, 8), (0, 16), (8, 20), (16, 32)):
        way, true = (pose[b] @ np.linalg.inv(pose[a]) for pose in (found, truth))
        np.testing.assert_allclose(way[:2, 2], true[:2, 2], atol=0.5)


def test_from_a_streams_beginning_the_ground_is_known_once_waves_have_changed():
    frames, truth = harbour(13, 50)
    for pose, true in zip(poses(frames), truth, strict=True):
        np.testing.assert_allclose(
            (pose @ (160, 120, 1))[:2], (true @ np.linalg.inv(truth[0]) @ (160, 120, 1))[:2], atol=0.4
        )


def test_open_sea_stands():
    frames, _ = harbour(17, 0)
    np.testing.assert_array_equal(poses(frames)[-1], np.eye(3))


def test_a_ship_alone_at_sea_is_not_the_ground():
    """What fills few cells of the frame has no more votes than those."""
    frames, _ = harbour(17, 0)
    ship = ground(8)[:24, :70]
    for t, frame in enumerate(frames):
        frame[100:124, 80 + 3 * t : 150 + 3 * t] = ship
    np.testing.assert_array_equal(poses(frames)[-1], np.eye(3))


def test_a_camera_that_turns_is_followed():
    picture = ground(9)
    turns = [cv2.getRotationMatrix2D((220, 180), 2.5 * t, 1 + 0.005 * t) for t in range(13)]
    frames = [cv2.warpAffine(picture, turn, picture.shape[::-1])[60:-60, 60:-60] for turn in turns]
    stream, corner = Ground(), np.array([[1, 0, -60], [0, 1, -60], [0, 0, 1.0]])
    for frame, turn, pose in zip(frames, turns, poses(frames), strict=True):
        true = corner @ np.vstack([turn, (0, 0, 1)]) @ np.linalg.inv(corner)
        for found in (stream.push(frame), pose):
            for place in ((60, 60, 1), (250, 60, 1), (160, 200, 1)):
                np.testing.assert_allclose((found @ place)[:2], (true @ place)[:2], atol=0.25)


def test_the_poses_of_one_frame_and_of_flat_ones_are_none():
    for frames in ([ground(1)], [np.full(SIZE, 90, np.uint8)] * 3):
        for pose in poses(frames):
            np.testing.assert_array_equal(pose, np.eye(3))


@pytest.mark.parametrize(("still", "stays"), [(90, True), (40, True), (15, False)])
def test_waves_that_drift_together_do_not_take_the_ground_along(still, stays):
    """Of 160 corners the others have drifted by 30 pixels since the marks; the frame before agreed with the land."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(16), np.arange(10)), -1).reshape(-1, 2)
    first = (grid * 40 + rng.uniform(5, 35, grid.shape)).astype(np.float32)
    waves = np.arange(len(first)) >= still
    first = first[rng.permutation(len(first))]
    now = first + np.where(waves[:, None], [30, 0], [0, 0])
    marks = Marks(np.eye(3), 9, first, now, np.ones(len(first), bool), np.zeros((len(first), 15, 15), np.uint8))
    way = _way(marks, now, np.ones(len(first)), (400, 640), np.eye(3))
    assert way[0, 2] == pytest.approx(0 if stays else 30, abs=0.5)
