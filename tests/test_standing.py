"""What stood on the ground before is no target that went there: pictures whose truth is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenery import SIZE, ground

from mqc_jax.standing import Standing

SIDE = 14
AT, PARKED = (60, 100), (150, 100)  # x, y of first corners


def thing(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(60, 255, (SIDE, SIDE), np.uint8)


def shot(seed: int, moved: int, shift: tuple[int, int] = (0, 0), noise: float = 3.0, parked: bool = True, light=1.0):
    """A frame in which a thing has moved to the right and its double is parked, and the frame's pose."""
    frame = ground(seed)[60 : 60 + SIZE[0], 60 : 60 + SIZE[1]].astype(float)
    frame[AT[1] : AT[1] + SIDE, AT[0] + moved : AT[0] + moved + SIDE] = thing(seed)
    if parked:
        frame[PARKED[1] : PARKED[1] + SIDE, PARKED[0] : PARKED[0] + SIDE] = thing(seed)
    frame = np.roll(frame, shift[::-1], (0, 1)) * light + np.random.default_rng(moved + 7).normal(0, noise, SIZE)
    pose = np.eye(3)
    pose[:2, 2] = shift
    return np.repeat(np.clip(frame, 0, 255).astype(np.uint8)[..., None], 3, 2), pose


def box(x: int, y: int, shift: tuple[int, int] = (0, 0)) -> tuple[int, int, int, int]:
    return x + shift[0], y + shift[1], x + shift[0] + SIDE, y + shift[1] + SIDE


def seen(standing: Standing, number: int, seed: int, moved: int, shift: tuple[int, int] = (0, 0)) -> None:
    middle = AT[0] + moved + SIDE / 2 + shift[0], AT[1] + SIDE / 2 + shift[1]
    standing.see(number, *shot(seed, moved, shift), middle, SIDE, 48)


SHIFTS = st.tuples(st.integers(-9, 9), st.integers(-9, 9))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), shift=SHIFTS, light=st.floats(0.7, 1.1))
def test_what_is_parked_stood_and_what_moves_did_not(seed, shift, light):
    standing = Standing()
    seen(standing, 0, seed, 0)
    seen(standing, 6, seed, 12)
    later = shot(seed, 40, shift, light=light)
    assert standing.stood(12, *later, box(*PARKED, shift))
    assert not standing.stood(12, *later, box(AT[0] + 40, AT[1], shift))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), shift=SHIFTS)
def test_the_bare_ground_stood(seed, shift):
    """A mask of a mark on the road, or of a quay's edge."""
    standing = Standing()
    seen(standing, 0, seed, 0)
    assert standing.stood(12, *shot(seed, 40, shift), box(200, 180, shift))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), shift=SHIFTS)
def test_what_stood_stands_when_a_cloud_comes_over_it(seed, shift):
    standing = Standing()
    seen(standing, 0, seed, 0)
    seen(standing, 6, seed, 12)
    assert standing.stood(12, *shot(seed, 40), box(*PARKED))
    (frame, pose), (x0, y0, x1, y1) = shot(seed, 40, shift), box(*PARKED, shift)
    frame[y0:y1, x0 + 4 :] = 255
    assert standing.stood(13, frame, pose, (x0, y0, x1, y1))
    assert standing.stood(14, frame, pose, (x0, y0, x1 - 4, y1))  # what is left of it
    assert not standing.stood(15, frame, pose, (x0 + 9, y0, x1 + 9, y1))  # another thing, beside it
    assert not standing.stood(16, frame, pose, (x0, y0, x1, y1))  # it did not have the mask in the frame before


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), shift=SHIFTS)
def test_a_target_that_stands_is_not_known_from_the_ground(seed, shift):
    standing = Standing()
    for t in range(0, 60, 6):
        seen(standing, t, seed, 0)
    assert not standing.stood(12, *shot(seed, 0, shift), box(*AT, shift))


def test_what_came_to_stand_where_the_target_never_was_did_not_stand():
    standing = Standing()
    standing.see(0, *shot(3, 0, parked=False), (AT[0] + SIDE / 2, AT[1] + SIDE / 2), SIDE, 48)
    assert not standing.stood(12, *shot(3, 40), box(*PARKED))


def test_every_part_of_a_long_target_is_near_the_whole():
    standing = Standing()
    standing.see(0, *shot(4, 0), (AT[0] + SIDE / 2, AT[1] + SIDE / 2), 120, 180)
    seen(standing, 6, 4, 0)  # its mask is a part of it now
    assert standing.length == 120
    assert not standing.stood(12, *shot(4, 40), box(*PARKED))
    assert standing.stood(12, *shot(4, 40), box(220, 180))
    standing = Standing()
    seen(standing, 0, 4, 0)  # its mask was a part of it at first
    assert standing.stood(12, *shot(4, 40), (120, 90, 180, 110))
    assert not standing.stood(12, *shot(4, 40), (40, 90, 180, 110))


def test_only_some_pictures_are_kept_and_those_of_the_last_sights():
    standing = Standing()
    for t in range(100):
        seen(standing, t, 5, 0)
    assert [one.frame for one in standing.kept] == [78, 84, 90, 96]
    assert all(max(one.grey.shape) <= 512 for one in standing.kept)


def test_pictures_are_as_large_as_the_window_asks():
    standing, frame = Standing(), np.zeros((1200, 1300, 3), np.uint8)
    standing.see(0, frame, np.eye(3), (20, 600), 90, 300)
    assert standing.kept[0].grey.shape == (900, 470)
    assert standing.kept[0].corner == (0, 150)


@pytest.mark.parametrize("where", [(0, 0, 2, 2), (318, 0, 340, 20)])
def test_what_is_too_small_or_outside_tells_nothing(where):
    standing = Standing()
    seen(standing, 0, 6, 0)
    assert not standing.stood(12, *shot(6, 40), where)


def test_even_ground_and_no_sight_tell_nothing():
    flat = np.full((*SIZE, 3), 90, np.uint8)
    standing = Standing()
    assert not standing.stood(12, flat, np.eye(3), (50, 50, 70, 70))
    standing.see(0, flat, np.eye(3), (200, 200), SIDE, 48)
    assert not standing.stood(12, flat, np.eye(3), (50, 50, 70, 70))


def test_a_target_far_outside_its_frame_leaves_no_picture():
    standing = Standing()
    seen(standing, 0, 8, 0)
    standing.see(9, *shot(8, 0), (-900, -900), SIDE, 48)
    assert len(standing.kept) == 1
