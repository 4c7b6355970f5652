"""What a sentence may mean besides what is followed: made pictures whose truth is known."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqc_jax.config import CalibrationConfig
from mqc_jax.ground import Shot
from mqc_jax.paths import Path
from mqc_jax.rivals import Rivals
from mqc_jax.tile_search import Found
from mqc_jax.tiling import Window

CONFIG = CalibrationConfig(motion_odds=5.0)
AT = (100, 120), (180, 60), (40, 40)  # x, y of each thing
CHANCES = (0.5, 0.4, 0.3)
SIDE = 12


def shots(offs: dict[int, list[tuple[int, int]]], count: int, seed: int = 0, noise: float = 0.0) -> list[Shot]:
    """A textured ground that drifts by (1, 0) every other frame, with three things on it.

    Args:
      offs: of some of the things, how far each is from its place in each frame.
    """
    rng = np.random.default_rng(seed)
    ground = rng.integers(60, 120, (220, 300), np.uint8)
    looks = [rng.integers(0, 256, (SIDE, SIDE), np.uint8) for _ in AT]
    video = []
    for t in range(count):
        drift, picture = t // 2, ground.copy()
        for k, (x, y) in enumerate(AT):
            across, down = offs.get(k, [(0, 0)] * count)[t]
            picture[y + down : y + down + SIDE, x + across : x + across + SIDE] = looks[k]
        picture = np.roll(picture, drift, 1) + noise * rng.normal(size=picture.shape)
        pose = np.eye(3)
        pose[0, 2] = drift
        video.append(Shot(np.repeat(picture.clip(0, 255).astype(np.uint8)[..., None], 3, 2), pose))
    return video


def started(video: list[Shot], followed: int = 0, moves: tuple[int, ...] = (0, 0, 0)) -> Rivals:
    """After a choice in the first 17 frames."""
    boxes = [(x, y, x + SIDE, y + SIDE) for x, y in AT]
    searched = np.zeros((1, 1), np.float32)
    found = [
        Found(Window(x - 20, y - 20, 50, 50), "", searched, (x, y, x1, y1), chance)
        for (x, y, x1, y1), chance in zip(boxes, CHANCES, strict=True)
    ]
    poses = [shot.pose for shot in video[:17]]
    seen = [
        Path(n, np.array([(pose @ (*box[:2], 1.0))[:2] for pose in poses]), stands=not n)
        for n, box in zip(moves, boxes, strict=True)
    ]
    return Rivals.after(found, seen, followed, CONFIG.motion_odds, CONFIG, video[:17], poses)


def changes(rivals: Rivals, video: list[Shot]) -> list[tuple[int, int]]:
    """(frame, which is followed from then on)."""
    found = []
    for t, shot in enumerate(video[17:], 17):
        if rivals.push(shot, None) is not None:
            found.append((t, rivals.followed))
    return found


def going(begin: int, speed: tuple[int, int], count: int) -> list[tuple[int, int]]:
    return [tuple(v * max(t - begin, 0) for v in speed) for t in range(count)]


def test_what_stands_stays_known_by_its_place_however_long():
    video = shots({}, 150)
    rivals = started(video)
    assert changes(rivals, video) == []
    assert rivals.open
    assert len(rivals.shots) == 17
    for rival, (x, y) in zip(rivals.known, AT, strict=True):
        assert rival.number == 148
        assert rival.box[:2] == (x + 74, y)


@settings(deadline=None, max_examples=15)
@given(begin=st.integers(13, 60), across=st.integers(-2, 2), down=st.integers(-2, 2), seed=st.integers(0, 9))
def test_what_sets_off_is_followed_from_where_it_stood(begin, across, down, seed):
    if not (across or down):
        return
    video = shots({1: going(begin, (across, down), begin + 17)}, begin + 17, seed)
    rivals = started(video)
    ((t, chosen),) = changes_with(rivals, video)
    assert begin < t <= begin + 12
    stood = rivals.known[1].number
    gone = max(stood - begin, 0)  # by a pixel at most, which is no reason not to be in place
    assert chosen.found.box[:2] == (AT[1][0] + stood // 2 + gone * across, AT[1][1] + gone * down)
    assert rivals.followed == 1
    assert gone <= 1
    assert len(chosen.shots) == t - stood + 1


def changes_with(rivals, video):
    pushed = [(t, rivals.push(shot, None)) for t, shot in enumerate(video[17:], 17)]
    return [(t, change) for t, change in pushed if change is not None]


def test_the_likelier_of_two_that_move_is_followed():
    count = 80
    video = shots({0: going(50, (1, 1), count), 1: going(20, (-2, 0), count), 2: going(35, (1, 0), count)}, count)
    # The second sets off, then the third, which is less likely, then the first.
    found = changes(started(video), video)
    assert [k for _, k in found] == [1, 0]
    # What is followed has left its place: it moves, and the others may set off.
    rivals, kept = started(video), []
    for t, shot in enumerate(video[17:], 17):
        kept.append(rivals.push(shot, (AT[0][0] + 40, AT[0][1])) is not None)
        if t > 24:
            assert not rivals.open
    assert not any(kept)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("contrast", [0.0, 20.0])
def test_what_a_cloud_covers_has_not_set_off(seed, contrast):
    count = 70
    video = shots({}, count, seed)
    look = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=(110, 110)), (0, 0), 3)
    look = (200 + contrast * look / look.std()).clip(0, 255).astype(np.uint8)[..., None]
    for t in range(25, 45):
        down = 4 * (t - 25)
        video[t].pixels[30 : 30 + down, 150:260] = look[len(look) - down :]
    assert changes(started(video), video) == []


@pytest.mark.parametrize("noise", [10.0, 25.0])
def test_noise_sets_nothing_off_and_hides_nothing(noise):
    count = 60
    still = shots({}, count, noise=noise)
    assert changes(started(still), still) == []
    moving = shots({1: going(30, (2, 1), count)}, count, noise=noise)
    ((t, k),) = changes(started(moving), moving)
    assert k == 1
    assert 31 <= t <= 44


def test_what_moved_from_the_beginning_is_not_watched():
    video = shots({}, 20)
    assert not started(video, followed=0, moves=(4, 0, 0)).open
    assert started(video, followed=1, moves=(0, 4, 0)).open  # the first is likelier, if it moves as well
    assert not started(video, followed=1, moves=(4, 4, 4)).open


def test_where_a_sentence_means_one_thing_nothing_is_watched():
    video = shots({}, 17)
    rivals = started(video)
    rivals.known = rivals.known[:1]
    assert not rivals.open


def test_what_is_followed_already_is_not_changed_to():
    count = 40
    video = shots({1: going(20, (2, 0), count)}, count)
    rivals = started(video)
    for t, shot in enumerate(video[17:], 17):
        middle = AT[1][0] + 2 * max(t - 20, 0) + t // 2 + SIDE / 2, AT[1][1] + SIDE / 2
        rivals.known[0].moves = False  # whatever its own place says
        assert rivals.push(shot, middle) is None
