"""How the ground moves under a camera that drifts and shakes: pictures whose truth is known."""

import cv2
import numpy as np
import pytest
from scenery import SIZE, ground

from mqc_jax.ground import Ground


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
    frames = [ground(6)[k : SIZE[0] + k, : SIZE[1]] for k in range(4)]
    whole = Ground()
    poses = [whole.push(frame) for frame in frames]
    half = Ground()
    for frame in frames[:2]:
        half.push(frame)
    rest = Ground(half.grey, half.pose)
    for k, frame in enumerate(frames[2:], 2):
        np.testing.assert_array_equal(rest.push(frame), poses[k])
        np.testing.assert_allclose(poses[k], [[1, 0, 0], [0, 1, -k], [0, 0, 1]], atol=0.05)
