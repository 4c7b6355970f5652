"""Windows of training clips that are placed as a tracker places its own."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqc_jax.data.clips import ClipDataset
from mqc_jax.data.pursuit import Pursuit, first_window
from mqc_jax.data.source import Expression, Sequence
from mqc_jax.errors import UserError
from mqc_jax.tiling import MARGIN, Window, around, side_of

TILE = 64
SIZE = (200, 240)


def drawn(x: float, y: float, width: int = 10, height: int = 6) -> np.ndarray:
    """A mask of a box with its middle at (x, y)."""
    mask = np.zeros(SIZE, bool)
    left, top = round(x - width / 2), round(y - height / 2)
    mask[max(top, 0) : top + height, max(left, 0) : left + width] = True
    return mask


class Moving:
    """A video in which the yacht goes `speed` pixels to the right a frame, and whose pixels say where they are."""

    def __init__(self, speed: int, frames: int = 9, hidden: tuple[int, ...] = ()):
        self.speed, self.hidden = speed, hidden
        self.looked: list[int] = []
        names = tuple(f"{t:05d}" for t in range(frames))
        expression = Expression("0", "the yacht at the left", (1,))
        self.sequences = (Sequence("s", names, SIZE, (expression,), {1: "yacht"}),)

    def frame(self, sequence: int, t: int, reduce: int = 1) -> np.ndarray:
        self.looked.append(t)
        rows, columns = np.indices(SIZE)
        return np.stack([rows, columns, np.zeros_like(rows)], -1).astype(np.uint8)[::reduce, ::reduce]

    def labels(self, sequence: int, t: int) -> np.ndarray:
        return drawn(60 + self.speed * t, 100).astype(np.uint8) if t not in self.hidden else np.zeros(SIZE, np.uint8)


def windows(clip: dict) -> list[tuple[int, int, int, int]]:
    """Top, left, bottom and right of what each frame of a `Moving` clip shows, to a pixel."""
    corners = np.concatenate([clip["frames"][:, 0, 0, :2], clip["frames"][:, -1, -1, :2]], 1).astype(int)
    return [tuple(row) for row in corners.tolist()]


def clip_of(source: Moving, index: int = 0, **changes) -> dict:
    return ClipDataset(source, 96, **{"clip_length": 6, "follow": 1.0, "tile": TILE, "square": True, **changes})[index]


@given(
    seed=st.integers(0, 2**32 - 1), x=st.integers(20, 220), y=st.integers(20, 180), w=st.integers(2, 60),
    h=st.integers(2, 30),
)  # fmt: skip
def test_a_first_window_holds_its_target_as_a_trackers_would(seed, x, y, w, h):
    mask = drawn(x, y, w, h)
    rows, columns = np.nonzero(mask)
    length = max(np.ptp(rows), np.ptp(columns)) + 1
    window = first_window(np.random.default_rng(seed), mask, TILE)
    assert window.width == window.height
    assert 0.74 * side_of(length, TILE) <= window.width <= 1.36 * side_of(length, TILE) or window.width == length + 2
    assert window.cut(mask).sum() == mask.sum()
    inside_frame = window.x > 0 and window.y > 0 and window.box[2] < SIZE[1] and window.box[3] < SIZE[0]
    if inside_frame:  # at the frame's edge a window may have to be nearer to the target than to its middle
        for low, high, start in (
            (columns.min(), columns.max() + 1, window.x), (rows.min(), rows.max() + 1, window.y),
        ):  # fmt: skip
            slack = max((window.width - (high - low)) / 2 - MARGIN * window.width, MARGIN * window.width)
            assert abs((low + high) / 2 - start - window.width / 2) <= slack + 1


def test_first_windows_differ_in_side_and_place():
    mask, rng = drawn(120, 100), np.random.default_rng(0)
    found = [first_window(rng, mask, TILE) for _ in range(50)]
    assert len({window.width for window in found}) > 10
    assert len({window.x for window in found}) > 10


def test_a_target_that_leaves_its_first_window_stays_in_the_clip():
    fixed = clip_of(Moving(7), min_crop=24, max_crop=30, follow=0.0)
    assert not fixed["present"][0, -1]
    for index in range(20):
        source = Moving(7)
        clip = clip_of(source, index)
        assert clip["present"].all()
        seen = windows(clip)
        assert {(bottom - top, right - left) for top, left, bottom, right in seen} == {
            (seen[0][2] - seen[0][0], seen[0][3] - seen[0][1])
        }
        assert seen[-1][1] > seen[0][1]
        first = clip["masks"][0, 0].sum()
        # A window is placed by the frame before, so that the target may be cut by its edge, not more.
        assert (clip["masks"][0].sum((1, 2)) > 0.5 * first).all()


def test_a_target_that_stands_is_seen_through_one_window():
    for index in range(10):
        assert len(set(windows(clip_of(Moving(0), index)))) == 1


def test_a_hidden_target_is_waited_for_where_it_goes():
    pursuit = Pursuit(around(60, 100, 24, SIZE), SIZE, stride=1)
    for t in range(5):
        pursuit.after(drawn(60 + 6 * t, 100))
    for t in range(5, 9):
        window = pursuit.after(None if t == 6 else np.zeros(SIZE, bool))
    assert abs(window.x + window.width / 2 - (60 + 6 * 9)) <= 24 * (0.5 - MARGIN) + 1


def test_frames_left_out_between_two_of_a_clip_do_not_lose_the_target():
    pursuit = Pursuit(around(40, 100, 24, SIZE), SIZE, stride=3)
    for t in range(0, 12, 3):
        window = pursuit.after(drawn(40 + 8 * t, 100))
        assert window.cut(drawn(40 + 8 * t, 100)).sum() == 60


@pytest.mark.parametrize("speed", [0, 1, 7])
def test_played_forth_and_back_the_target_is_followed_in_every_frame(speed):
    """Also where a frame comes again in the same window, and is not decoded again."""
    for index in range(10):
        source = Moving(speed, frames=3)
        clip = clip_of(source, index, clip_length=9)
        assert set(source.looked) == {0, 1, 2}
        assert clip["present"].all()
        top, left, bottom, right = windows(clip)[0]
        pursuit = Pursuit(Window(left, top, right - left + 1, bottom - top + 1), SIZE, stride=1)
        expected = [pursuit.window]
        for t in (0, 1, 2, 1, 0, 1, 2, 1):
            expected.append(pursuit.after(source.labels(0, t).astype(bool)))
        np.testing.assert_allclose([row[:2] for row in windows(clip)], [(w.y, w.x) for w in expected], atol=1)


def test_a_window_needs_a_tile_to_go_by():
    with pytest.raises(UserError, match="tile=0 must be at least"):
        clip_of(Moving(1), tile=0)
    with pytest.raises(UserError, match=r"follow=1\.5 must lie in"):
        clip_of(Moving(1), follow=1.5)


def test_a_free_sentence_keeps_its_whole_frame():
    source = Moving(3)
    told = (Expression("0", "the one that overtakes", (1,)),)
    source.sequences = tuple(dataclasses.replace(sequence, expressions=told) for sequence in source.sequences)
    (seen,) = set(windows(clip_of(source)))
    np.testing.assert_allclose(seen, (0, 0, SIZE[0] - 1, SIZE[1] - 1), atol=1)


def test_windows_are_whole_pixels():
    window = first_window(np.random.default_rng(1), drawn(100, 100), TILE)
    assert isinstance(window, Window)
    assert all(isinstance(value, int) for value in window)
