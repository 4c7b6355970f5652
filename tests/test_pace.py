"""Where a target's pixels have gone: pictures whose truth is known."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqc_jax import pace

SIZE = (160, 200)
START = (90, 70)  # x, y of the target's first pixel


def ground(seed: int) -> np.ndarray:
    """uint8 RGB, of patches of several sizes."""
    rng = np.random.default_rng(seed)
    picture = np.full((*SIZE, 3), 110, np.float32)
    for cell in (4, 12, 40):
        coarse = rng.normal(0, 14, (SIZE[0] // cell + 2, SIZE[1] // cell + 2, 3)).astype(np.float32)
        picture += cv2.resize(coarse, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(picture, 0, 255).astype(np.uint8)


def disk(side: int) -> np.ndarray:
    """bool [side, side], a target that leaves the corners of its box to the ground."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return np.hypot(y, x) <= side / 2


def shown(seed: int, side: int, at: tuple[int, int], noise: float = 2.0) -> np.ndarray:
    """A frame with a textured disk whose box begins at x, y; the same disk and ground for the same seed."""
    rng = np.random.default_rng(seed)
    thing = rng.integers(0, 255, (side, side, 3)).astype(np.uint8)
    frame = ground(seed)
    x, y = at
    part = frame[max(y, 0) : y + side, max(x, 0) : x + side]
    cut = slice(max(-y, 0), max(-y, 0) + part.shape[0]), slice(max(-x, 0), max(-x, 0) + part.shape[1])
    part[disk(side)[cut]] = thing[cut][disk(side)[cut]]
    return np.clip(frame + np.random.default_rng((seed, *map(abs, at))).normal(0, noise, frame.shape), 0, 255).astype(
        np.uint8
    )


def known(seed: int, side: int, offset: tuple[int, int] = (0, 0)) -> pace.Pattern:
    """The pattern of the disk at `START`, from a mask of the part of the frame that begins at `offset`."""
    mask = np.zeros(SIZE, bool)
    mask[START[1] : START[1] + side, START[0] : START[0] + side] = disk(side)
    part = mask[offset[1] :, offset[0] :]
    return pace.pattern(shown(seed, side, START), part, offset, (*START, START[0] + side, START[1] + side))


MOVES = st.integers(-14, 14)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 500), side=st.integers(6, 40), x=MOVES, y=MOVES)
def test_what_moved_is_found_where_it_went(seed, side, x, y):
    pattern = known(seed, side)
    match = pace.find(pattern, shown(seed, side, (START[0] + x, START[1] + y)), pattern.middle, pattern.middle, 16)
    assert np.subtract(match.middle, pattern.middle).tolist() == [x, y]
    assert match.found
    if max(abs(x), abs(y)) > 3:
        assert match.sure  # there is nothing like it where it was
    if (x, y) == (0, 0):
        assert not match.sure  # what stands needs no window that moves


@pytest.mark.parametrize("seed", range(5))
def test_the_ground_under_it_does_not_hold_it_back(seed):
    """A thin bar across its box, on ground of strong contrast that stays."""
    rng = np.random.default_rng(seed)
    land = rng.integers(0, 255, (*SIZE, 3)).astype(np.uint8)
    bar = np.abs(np.subtract(*np.mgrid[:24, :24])) <= 4
    colours = rng.integers(0, 255, (24, 24, 3)).astype(np.uint8)

    def with_bar(x: int, y: int) -> np.ndarray:
        frame = land.copy()
        frame[y : y + 24, x : x + 24][bar] = colours[bar]
        return frame

    pattern = pace.pattern(with_bar(*START), bar, START, (*START, START[0] + 24, START[1] + 24))
    after = with_bar(START[0] + 7, START[1] - 4)
    match = pace.find(pattern, after, pattern.middle, pattern.middle, 10)
    assert np.subtract(match.middle, pattern.middle).tolist() == [7, -4]
    everything = pattern._replace(weight=np.ones_like(pattern.weight))
    assert pace.find(everything, after, pattern.middle, pattern.middle, 10).middle == pattern.middle


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 500), side=st.integers(6, 30))
def test_what_is_covered_is_not_surely_anywhere(seed, side):
    pattern = known(seed, side)
    frame = shown(seed, side, START)
    frame[START[1] - 4 : START[1] + side + 4, START[0] - 4 : START[0] + side + 4] = 230  # a cloud
    match = pace.find(pattern, frame, pattern.middle, pattern.middle, 12)
    assert not match.sure


def test_a_mask_of_a_part_of_the_frame_gives_the_same_pattern():
    whole, part = known(3, 12), known(3, 12, offset=(60, 50))
    np.testing.assert_array_equal(whole.weight, part.weight)
    np.testing.assert_array_equal(whole.pixels, part.pixels)
    assert whole[2:] == part[2:]


def test_it_is_looked_for_where_it_is_expected():
    pattern = known(5, 10)
    frame = shown(5, 10, (START[0] + 40, START[1] - 30))
    ahead = pattern.middle[0] + 37, pattern.middle[1] - 28
    match = pace.find(pattern, frame, pattern.middle, ahead, 4)
    assert match.middle == (pattern.middle[0] + 40, pattern.middle[1] - 30)
    assert match.sure
    assert not pace.find(pattern, frame, pattern.middle, pattern.middle, 4).sure


@pytest.mark.parametrize(("side", "x", "y"), [(130, 10, 6), (200, -12, 18)])
def test_large_things_are_found_in_smaller_frames(side, x, y):
    big = cv2.resize(ground(8), (800, 640), interpolation=cv2.INTER_CUBIC)
    thing = cv2.resize(np.random.default_rng(1).integers(0, 255, (20, 20, 3)).astype(np.uint8), (side, side))
    before, after = big.copy(), big.copy()
    before[200 : 200 + side, 300 : 300 + side] = thing
    after[200 + y : 200 + y + side, 300 + x : 300 + x + side] = thing
    pattern = pace.pattern(before, np.ones((side, side), bool), (300, 200), (300, 200, 300 + side, 200 + side))
    match = pace.find(pattern, after, pattern.middle, pattern.middle, 40)
    assert np.abs(np.subtract(match.middle, pattern.middle) - (x, y)).max() <= 1
    assert match.sure


@pytest.mark.parametrize("at", [(1, 1), (187, 3), (3, 147), (187, 147)])
def test_it_is_found_up_to_the_frames_edge_and_not_looked_for_beyond(at):
    pattern = known(2, 12)
    place = at[0] + 6, at[1] + 6
    match = pace.find(pattern, shown(2, 12, at), pattern.middle, (place[0] - 3, place[1] + 2), 6)
    assert match.middle == place
    assert match.found
    assert pace.find(pattern, shown(2, 12, at), pattern.middle, (-100.0, -100.0), 6) is None


def test_what_is_too_small_or_too_even_is_not_looked_for():
    frame, mask = shown(1, 12, START), np.ones((2, 2), bool)
    assert pace.pattern(frame, mask[:1, :1], (5, 5), (5, 5, 6, 6)) is None
    assert pace.pattern(frame * 0 + 7, np.ones((9, 9), bool), (5, 5), (5, 5, 14, 14)) is None


def test_even_ground_is_not_like_anything():
    pattern = known(4, 12)
    match = pace.find(pattern, np.full((*SIZE, 3), 128, np.uint8), pattern.middle, pattern.middle, 10)
    assert not match.found
