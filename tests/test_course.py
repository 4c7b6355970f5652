"""Where a target is expected while it cannot be seen, and which masks are sights of it."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqc_jax.course import MIN_IOU, MIN_IOU_ALIKE, Course, Moved


def square(x: float, y: float, side: float = 20.0) -> tuple[float, float, float, float]:
    return x - side / 2, y - side / 2, x + side / 2, y + side / 2


def seen(speed: tuple[float, float], frames: int, side: float = 20.0, noise=None) -> Course:
    """The course of a target that starts in (200, 200) and is seen in frames 0 .. `frames` - 1."""
    course = Course()
    for t in range(frames):
        dx, dy = noise[t] if noise is not None else (0, 0)
        assert course.see(t, square(200 + speed[0] * t + dx, 200 + speed[1] * t + dy, side), 0.8)
    return course


SPEEDS = st.tuples(st.floats(-6, 6), st.floats(-6, 6))


@settings(deadline=None)
@given(SPEEDS, st.integers(3, 12), st.integers(2, 40))
def test_an_unseen_target_goes_on_as_it_went(speed, frames, unseen):
    course = seen(speed, frames)
    t = frames - 1 + unseen
    assert course.box(t) == pytest.approx(square(200 + speed[0] * t, 200 + speed[1] * t), abs=1e-6)
    # Where it comes out again it is taken for what it is.
    assert course.see(t, square(200 + speed[0] * t, 200 + speed[1] * t), 0.8)


@settings(deadline=None)
@given(SPEEDS, st.integers(0, 2**32 - 1))
def test_a_few_bad_sights_do_not_turn_it(speed, seed):
    rng = np.random.default_rng(seed)
    noise = np.zeros((8, 2))
    # After a third sight that is off by more, where the target truly is may be farther off than it can have come.
    noise[rng.choice(np.arange(1, 8), 1)] = rng.uniform(-7, 7, 2)
    x0, y0, x1, y1 = seen(speed, 8, noise=noise).box(8 + 9)
    off = np.hypot((x0 + x1) / 2 - 200 - 17 * speed[0], (y0 + y1) / 2 - 200 - 17 * speed[1])
    assert off <= np.hypot(7, 7) + 10  # the last sight's own error, and at most a pixel a frame


def test_right_after_a_sight_the_target_is_where_it_was():
    course = seen((4, 0), 6)
    assert course.box(6) == square(220, 200)
    assert Course().box(0) is None


@pytest.mark.parametrize(
    ("box", "iou"),
    [
        (square(320, 200), 0.9),
        (square(224, 200), MIN_IOU_ALIKE - 0.01),
        (square(224, 200, 13), MIN_IOU - 0.01),
        (square(224, 200, 30), MIN_IOU - 0.01),
    ],
    ids=["far away", "of low quality", "a doubtful piece", "doubtful and too large"],
)
def test_a_mask_that_is_none_of_it_changes_nothing(box, iou):
    course = seen((4, 0), 6)
    before = dataclasses.replace(course)
    assert not course.see(6, box, iou)
    assert course == before
    assert course.box(7) == square(228, 200)


@settings(deadline=None)
@given(SPEEDS, st.floats(3.2, 4.0), st.integers(2, 30))
def test_what_is_covered_before_its_speed_is_known_goes_on_as_its_pixels_went(speed, covers, unseen):
    """From the left a cloud covers more of it in each frame: the middle of the rest moves otherwise than the target."""
    course = Course()
    for t in range(5):
        x0, y0, x1, y1 = square(200 + speed[0] * t, 200 + speed[1] * t)
        assert course.see(t, (x0 + covers * t, y0, x1, y1), 0.8, Moved(*speed) if t else None)
    x0, y0, x1, y1 = course.box(4 + unseen)
    off = (x0 + x1) / 2 - 200 - speed[0] * (4 + unseen), (y0 + y1) / 2 - 200 - speed[1] * (4 + unseen)
    # Of a width that is not known well the right edge tells the middle to half of what is covered in a frame.
    assert abs(off[0]) <= covers / 2 + 1e-6
    assert off[1] == pytest.approx(0, abs=1e-6)
    assert course.speed == pytest.approx(speed, abs=1e-6)


@settings(deadline=None)
@given(SPEEDS, st.floats(0.5, 4.0), st.integers(2, 30))
def test_what_motion_told_before_counts_among_the_first_sights(speed, covers, unseen):
    """Whatever a cloud leaves to be seen of it."""
    course = Course(path=[(50 + speed[0] * t, 70 + speed[1] * t) for t in range(5)])
    for t in range(5):
        x0, y0, x1, y1 = square(200 + speed[0] * t, 200 + speed[1] * t)
        assert course.see(t, (x0 + covers * t, y0, x1, y1), 0.8)
    assert course.speed == pytest.approx(speed, abs=1e-6)
    x0, _, x1, _ = course.box(4 + unseen)
    off = (x0 + x1) / 2 - 200 - speed[0] * (4 + unseen)
    assert -1e-6 <= off <= (covers if covers >= 1 else 2 * covers) + 1e-6  # the middle of the rest is 2 covers off


def test_a_speck_is_no_sight_of_what_was_hidden():
    course = seen((4, 0), 6)
    assert course.see(6, square(224, 200, 7), 0.8)  # it is being covered: from frame to frame a small rest is a sight
    hidden = seen((4, 0), 6)
    assert not hidden.see(7, square(228, 200, 7), 0.8)
    assert hidden.box(20) == square(200 + 4 * 20, 200)
    assert hidden.see(7, square(228, 200, 12), 0.8)


def test_of_what_the_model_is_never_sure_a_mask_as_large_as_the_target_is_a_sight():
    course = seen((4, 0), 6)
    for t in range(6, 20):
        assert course.see(t, square(200 + 4 * t, 200, 17), MIN_IOU_ALIKE)
    x0, y0, x1, y1 = course.box(20)
    assert ((x0 + x1) / 2, (y0 + y1) / 2) == pytest.approx((200 + 4 * 19, 200), abs=1.5)
    assert (x1 - x0, y1 - y0) == (20, 20)  # of so little quality, a mask does not say that it is smaller than it was


def test_what_was_carried_on_without_a_mask_is_where_its_pixels_were():
    course = seen((4, 0), 6)
    for t in range(6, 18):  # it speeds up
        course.carry(t, (220 + 7 * (t - 5), 200))
    assert course.box(18) == square(304, 200)
    assert course.speed[0] > 6
    assert course.box(21) == pytest.approx(square(304 + 4 * course.speed[0], 200))


@settings(deadline=None)
@given(SPEEDS, st.integers(3, 12), st.floats(0, 2 * np.pi), st.floats(0, 12))
def test_pixels_that_go_another_way_than_the_target_are_not_its_own(speed, frames, direction, off):
    course = seen(speed, frames)
    x, y = 200 + speed[0] * frames, 200 + speed[1] * frames
    limit = 2 + 0.3 * np.hypot(*speed)
    astray = x + off * np.cos(direction), y + off * np.sin(direction)
    if abs(off - limit) > 1e-6:
        assert course.agrees(frames, astray) == (off < limit)


def test_of_a_target_whose_speed_is_not_known_any_pixels_may_be_its_own():
    assert seen((0, 0), 2).agrees(2, (230, 200))


def test_an_edge_of_what_is_covered_tells_where_all_of_it_is():
    course = seen((4, 0), 8)
    assert course.see(8, (222, 190, 228, 210), 0.5)  # a cloud covers all but its left third
    assert course.box(9) == square(232, 200)
    assert course.speed == (4, 0)
    assert course.box(12) == square(232 + 4 * 4, 200)


@settings(deadline=None)
@given(SPEEDS, st.sampled_from([(0, 1), (1, 1), (0, -1), (1, -1)]), st.floats(1.0, 4.0), st.integers(2, 30))
def test_what_a_cloud_comes_over_goes_on_as_it_went(speed, side, covers, unseen):
    """From one side more of it is covered in each frame: the middle of what is left to be seen moves otherwise."""
    (axis, sign), course, t = side, seen(speed, 8), 7
    while (left := 20 - covers * (t - 6)) > 3:
        t += 1
        box = list(square(200 + speed[0] * t, 200 + speed[1] * t))
        box[axis if sign > 0 else axis + 2] += sign * (20 - left)
        course.see(t, tuple(box), 0.8)
    x0, y0, x1, y1 = course.box(course.last[0] + unseen)
    t = course.last[0] + unseen
    off = (x0 + x1) / 2 - 200 - speed[0] * t, (y0 + y1) / 2 - 200 - speed[1] * t
    assert off[1 - axis] == pytest.approx(0, abs=1e-6)
    # A tenth of its length may be covered before that is noticed: its middle is half of that off, and its speed little.
    assert abs(off[axis]) <= 1.1 + 0.05 * unseen


@settings(deadline=None)
@given(SPEEDS, st.integers(0, 2**32 - 1), st.integers(2, 30))
def test_a_shaking_picture_takes_what_is_unseen_along(speed, seed, unseen):
    """What goes straight over the ground is expected where it is, however the picture shifts and turns meanwhile."""
    rng, course = np.random.default_rng(seed), Course()
    for t in range(8 + unseen):
        turn, scale = rng.uniform(-0.2, 0.2), rng.uniform(0.9, 1.1)
        a, b = scale * np.cos(turn), scale * np.sin(turn)
        pose = np.array([[a, -b, rng.uniform(-50, 50)], [b, a, rng.uniform(-50, 50)], [0, 0, 1]])
        x, y, _ = pose @ (200 + speed[0] * t, 200 + speed[1] * t, 1)
        course.over(t, pose)
        if t < 8:
            assert course.see(t, square(x, y), 0.8)
    assert course.box(t) == pytest.approx(square(x, y), abs=1e-6)


@settings(deadline=None)
@given(SPEEDS, st.integers(6, 14), st.integers(2, 30))
def test_what_is_seen_between_two_clouds_is_where_it_is_expected(speed, left, unseen):
    """Neither edge of the strip is its own. The strip is not in its middle."""
    course = seen(speed, 8)
    for t in range(8, 14):
        x0, y0, x1, y1 = square(200 + speed[0] * t, 200 + speed[1] * t)
        assert course.see(t, (x0 + (20 - left) * 0.7, y0, x1 - (20 - left) * 0.3, y1), 0.8)
    t = 13 + unseen
    x0, y0, x1, y1 = course.box(t)
    off = (x0 + x1) / 2 - 200 - speed[0] * t, (y0 + y1) / 2 - 200 - speed[1] * t
    assert off[1] == pytest.approx(0, abs=1e-6)
    assert off[0] == pytest.approx(0, abs=1e-6) or 0.3 * (20 - left) <= 4


def test_of_what_comes_in_pieces_any_piece_is_a_part():
    """Of a long ship that lies still, each frame's mask shows one end or the other."""
    off = []
    for seed in range(40):
        rng, course = np.random.default_rng(seed), Course()
        for t in range(20):
            first, last = (rng.integers(0, 60), rng.integers(0, 60)) if t else (0, 0)
            course.see(t, (190, 100 + first, 210, 300 - last), 0.8)
        off.append(abs(course.box(40)[1] - 100))
    assert np.median(off) < 15  # by the middles of the pieces it is 47
    assert max(off) < 60


@pytest.mark.parametrize(("sure", "top"), [(False, 176), (True, 182)], ids=["perhaps", "surely"])
def test_pixels_that_did_not_surely_move_tell_no_edge(sure, top):
    """A ship of 20 x 40 goes up by 3; what its pixels are likest to comes down, as the edge of the cloud above does."""
    course = Course()
    for t in range(8):
        assert course.see(t, (0, 200 - 3 * t, 20, 240 - 3 * t), 0.9)
    assert course.see(8, (0, 182, 20, 216), 0.9, Moved(0, 3, sure))
    assert course.box(9) == pytest.approx((0, top, 20, top + 40))


def test_a_train_of_which_one_coach_is_seen_has_moved_as_its_pixels_did():
    course = Course()
    for t in range(8):
        assert course.see(t, (5 * t, 0, 100 + 5 * t, 10), 0.9)
    assert course.see(8, (80, 0, 110, 10), 0.9, Moved(7, 0, False))
    assert course.box(9) == pytest.approx((42, 0, 142, 10))


@settings(deadline=None)
@given(SPEEDS, st.integers(1, 6), st.floats(0.4, 0.8), st.integers(2, 30))
def test_a_part_whose_mask_takes_in_some_of_the_cloud_shows_no_turn(speed, smeared, left, unseen):
    """It is wider one way than it was, but loses the other way what no turn would take."""
    course = Course()
    for t in range(14):
        x, y = 200 + speed[0] * t, 200 + speed[1] * t
        part = left if t >= 8 else 1.0
        wider = smeared if t >= 8 else 0
        assert course.see(t, (x + 40 - 80 * part, y - 10 - wider / 2, x + 40, y + 10 + wider / 2), 0.8)
    t = 13 + unseen
    x0, y0, x1, y1 = course.box(t)
    assert ((x0 + x1) / 2, (y0 + y1) / 2) == pytest.approx((200 + speed[0] * t, 200 + speed[1] * t), abs=1e-6)


def test_what_turns_has_another_width_after_a_while():
    course = seen((0, 0), 30)
    for t in range(30, 400):
        width = max(20 - 0.05 * (t - 30), 10)
        course.see(t, (200 - width / 2, 190, 200 + width / 2, 210), 0.8)
    x0, _, x1, _ = course.box(400)
    assert x1 - x0 < 12
    assert (x0 + x1) / 2 == pytest.approx(200, abs=1)


def test_a_path_is_told_over_the_ground():
    """The picture moves by (10, -5) a frame, what is followed by (4, 0) over the ground, as its path has it."""
    course = Course(path=[(50 + 14 * t, 70 - 5 * t) for t in range(4)])
    for t in range(4):
        course.over(t, np.array([[1, 0, 10 * t], [0, 1, -5 * t], [0, 0, 1]]))
        x0, y0, x1, y1 = square(200 + 14 * t, 200 - 5 * t)
        assert course.see(t, (x0 + 3 * t, y0, x1, y1), 0.8)
    assert course.speed == pytest.approx((4, 0))


def test_a_target_may_set_off_from_rest_between_two_sights():
    course = seen((0, 0), 8)
    for t in range(8, 20):
        assert course.see(t, square(200 + 5 * (t - 7), 200), 0.8)
    assert course.box(25) == pytest.approx(square(200 + 5 * 18, 200), abs=6)


def later(left: float, right: float, better: float, speed: float = 0.0, frames: int = 12) -> Course:
    """A ship of 60 x 30 that goes by `speed` for ten frames; then its pixels are likest 3 farther left in each frame.

    Args:
      left, right: how far the edges of its mask move in each frame then.
      better: how much more alike its pixels are where they are likest than in place.
    """
    course = Course()
    for t in range(10):
        assert course.see(t, (300 + speed * t, 200, 360 + speed * t, 230), 0.9)
    for t in range(1, frames + 1):
        box = 300 + speed * 9 + left * t, 200, 360 + speed * 9 + right * t, 230
        assert course.see(9 + t, box, 0.9, Moved(-3, 0, False, better))
    return course


def test_what_sets_off_behind_an_edge_goes_as_its_pixels_went():
    """A bridge ends a moored ship's mask on the left, and there it goes."""
    course = later(0, -3, better=0.08)
    x0, _, x1, _ = course.box(22)
    assert (x0 + x1) / 2 == pytest.approx(330 - 12 * 3, abs=1.5)


@pytest.mark.parametrize("better", [-0.1, 0.0])
def test_what_stands_while_a_cloud_comes_over_it_stands(better):
    """Its last pixels are likest where the cloud's edge goes, but no more than where they were."""
    assert later(0, -3, better).box(22) == pytest.approx((300, 200, 360, 230), abs=1)


def test_what_went_before_goes_on_as_it_went_whatever_its_last_pixels_do():
    x0, _, x1, _ = later(2, -1, better=0.08, speed=2).box(22)
    assert (x0 + x1) / 2 == pytest.approx(330 + 2 * 21, abs=3)


@pytest.mark.parametrize("narrower", [0, 3, 8])
def test_what_sets_off_in_plain_sight_is_where_it_is_seen(narrower):
    """By what its pixels went in the frames before, of which its sights know already, it is no farther."""
    course = later(-3, -3, better=0.08, frames=3)
    assert course.see(13, (288 + narrower, 200, 348, 230), 0.9, Moved(-3, 0, False, 0.08))
    assert course.box(14) == pytest.approx((288, 200, 348, 230), abs=4)


def test_the_longer_it_is_unseen_the_farther_off_it_may_be():
    near, far = seen((2, 0), 8), seen((2, 0), 8)
    assert not near.see(9, square(218 + 30, 200), 0.8)
    assert far.see(27, square(254 + 30, 200), 0.8)


def test_it_survives_being_written():
    course = seen((3, -1), 9)
    course.over(9, np.array([[1, 0, 3.5], [0, 1, 2], [0, 0, 1]]))
    assert course.see(9, square(230.5, 193), 0.7, Moved(3, -1, False, 0.1))
    again = Course(**json.loads(json.dumps(dataclasses.asdict(course))))
    assert again.steps[0][:3] == [9, 3, -1]
    for one in (course, again):
        one.see(10, square(230.5, 192), 0.7)
    assert again.box(15) == course.box(15)
    assert not again.see(16, square(400, 100), 0.9)
