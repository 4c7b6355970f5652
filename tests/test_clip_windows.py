"""Which part of a frame a training clip shows, about which object, and what is said of it then."""

import dataclasses
from collections import Counter

import _layouts
import numpy as np
import pytest
from clip_sources import Drawn, Gradient, crowd, fleet, make, scene, tokenize

from mqc_jax.data import clips, expressions
from mqc_jax.data.clips import ClipDataset
from mqc_jax.data.source import open_source
from mqc_jax.imaging import resize, resize_mask
from mqc_jax.tiling import Window


def test_a_cut_clip_shows_one_window_and_says_what_is_true_of_it():
    labels = crowd()
    categories = {1: "yacht", 2: "yacht", 3: "ferry"}
    seen = []
    source = Gradient(np.stack([labels] * 3), "the yacht at the center", categories)
    dataset = ClipDataset(source, 96, 3, tokenize=lambda t: seen.append(t) or tokenize(t), min_crop=0.3, seed=1)
    windows = set()
    for i in range(60):
        clip = dataset[i]
        (top, left), (bottom, right) = ((clip["frames"][0, y, x, :2]).astype(int) for y, x in ((0, 0), (-1, -1)))
        rows, cols = bottom - top + 1, right - left + 1
        windows.add((top, left, rows, cols))
        assert 0.3 * 60 - 2 <= rows <= 60
        assert 0.3 * 90 - 2 <= cols <= 90
        part = labels[top : bottom + 1, left : right + 1]
        np.testing.assert_array_equal(clip["masks"][0, 0], resize_mask(part == 1, 96))
        assert 2 * np.count_nonzero(part == 1) > np.count_nonzero(labels == 1)
        names = {d.object_id: d.text for d in expressions.describe(part, categories)}
        assert seen[-1] == names[1]
        for k in (1, 2):  # one window for the whole clip
            np.testing.assert_array_equal(clip["frames"][k], clip["frames"][0])
            np.testing.assert_array_equal(clip["masks"][0, k], clip["masks"][0, 0])
    assert len(windows) > 40
    assert len({text.rpartition(" at the ")[2] for text in seen}) > 5


def test_a_free_sentence_keeps_its_whole_frame():
    source = Gradient(np.stack([crowd()] * 2), "the boat that overtakes the other", {1: "yacht", 2: "yacht"})
    for i in range(10):
        frame = ClipDataset(source, 32, 2, min_crop=0.3, seed=1)[i]["frames"][0].astype(int)
        np.testing.assert_array_equal(frame, resize(source.frame(0, 0), 32))


def test_a_cut_clip_of_a_reduced_frame_is_that_of_the_whole_one(tmp_path):
    root = _layouts.write_ref_youtube_vos(tmp_path, sequences=1, n_frames=2, size=(300, 420))
    source = open_source("ref_youtube_vos", root, "train")
    window = Window(40, 31, 280, 200)
    whole = resize(clips._cut(window, source.frame(0, 0), (300, 420)), 64).astype(int)
    reduced = resize(clips._cut(window, source.frame(0, 0, 2), (300, 420)), 64).astype(int)
    assert np.abs(whole - reduced).mean() < 2


def test_windows_stay_within_their_bounds():
    dataset = ClipDataset(scene(), 96, 1, min_crop=0.4, max_crop=0.5)
    for i in range(30):
        frame = dataset[i]["frames"][0]
        rows = int(frame[-1, 0, 0]) - int(frame[0, 0, 0]) + 1
        assert 0.4 * 60 - 2 <= rows <= 0.5 * 60 + 2 or rows == 60  # the whole frame where no sentence fits


@pytest.mark.parametrize("square", [False, True])
def test_windows_may_be_given_in_pixels(square):
    dataset = ClipDataset(scene(), 96, 1, min_crop=24, max_crop=30, square=square)
    seen = set()
    for i in range(30):
        frame = dataset[i]["frames"][0].astype(int)
        rows, cols = (frame[-1, -1, axis] - frame[0, 0, axis] + 1 for axis in (0, 1))
        seen.add((rows, cols) == (60, 90))  # the whole frame where no sentence fits
        assert (rows, cols) == (60, 90) or all(24 - 2 <= side <= 30 + 2 for side in (rows, cols))
    assert False in seen


def test_square_windows_have_the_shorter_sides_share():
    dataset = ClipDataset(scene(), 96, 1, min_crop=0.4, max_crop=0.5, square=True)
    for i in range(30):
        frame = dataset[i]["frames"][0].astype(int)
        rows, cols = (frame[-1, -1, axis] - frame[0, 0, axis] + 1 for axis in (0, 1))
        assert abs(rows - cols) <= 2 or (rows, cols) == (60, 90)


def test_windows_that_stray_ask_for_what_the_frame_shows_and_hold_what_the_window_shows_of_it():
    seen = []
    dataset = ClipDataset(
        scene(), 96, 1, tokenize=lambda t: seen.append(t) or tokenize(t), targets=3, every=0.5, stray=1.0, min_crop=20,
        max_crop=40, square=True,
    )  # fmt: skip
    told, empty, whole = set(), 0, np.zeros((3,), int)
    for i in range(60):
        seen.clear()
        clip = dataset[i]
        told.update(seen)
        np.testing.assert_array_equal(clip["present"][:, 0], clip["masks"][:, 0].any((1, 2)))
        empty += np.count_nonzero(~clip["present"])
        whole += clip["present"][:, 0]
    assert {text.removeprefix("every ").removeprefix("the ") for text in told} == {"yacht", "freighter", "small car"}
    assert {text.split()[0] for text in told} == {"every", "the"}
    assert empty > 90  # mostly nothing,
    assert whole.min() > 0  # not always


@pytest.mark.parametrize("start", ["first", "anywhere"])
def test_balanced_clips_are_about_any_object_and_every_class_as_often(start):
    source, seen = fleet(3), []
    categories, labels = source.sequences[0].categories, source.labels(0, 0)
    dataset = ClipDataset(
        source, 96, 1, tokenize=lambda t: seen.append(t) or tokenize(t), min_crop=20, max_crop=30, square=True,
        balance=1.0, start=start, seed=3,
    )  # fmt: skip
    about = Counter()
    for i in range(200):
        clip = dataset[i]
        (top, left), (bottom, right) = ((clip["frames"][0, y, x, :2]).astype(int) for y, x in ((0, 0), (-1, -1)))
        part = labels[top : bottom + 1, left : right + 1]
        assert max(part.shape) <= 30
        (named,) = (d.object_id for d in expressions.describe(part, categories) if d.text == seen[-1])
        np.testing.assert_array_equal(clip["masks"][0, 0], resize_mask(part == named, 96))
        assert clip["id"].split("/")[1] == f"object{named}"
        about[named] += 1
    assert 80 <= about.pop(1) <= 120  # one ferry is as much as 81 cars
    assert len(about) > 50


def test_balanced_clips_mix_with_those_of_the_datasets_sentences():
    ids = [
        make(fleet(), balance=balance, min_crop=20, max_crop=30)[i]["id"] for balance in (0.4, 0.0) for i in range(150)
    ]
    drawn = sum("/object" in name for name in ids[:150])
    assert 40 <= drawn <= 80
    assert not any("/object" in name for name in ids[150:])


@pytest.mark.parametrize("categories", [{}, {1: "yacht", 7: "yacht"}])
def test_without_another_object_to_draw_a_balanced_clip_is_the_sentences(categories):
    labels = np.zeros((2, 30, 30), np.uint8)
    labels[:, 4:6, 4:7] = 1  # too small for a clip of its own; object 7 is in no frame
    dataset = make(Drawn(labels, "the yacht at the top-left", categories), balance=1.0, min_crop=16, max_crop=20)
    for i in range(5):
        assert dataset[i]["id"].split("/")[1] == "0"
        assert dataset[i]["present"][0, 0]


def test_turned_clips_lie_in_eight_ways_and_their_sentences_are_true_of_what_is_seen():
    seen, ways = [], set()
    dataset = ClipDataset(scene(), 180, 3, tokenize=lambda t: seen.append(t) or tokenize(t), targets=3, turn=True)
    labels, categories = scene().labels(0, 0), scene().sequences[0].categories
    for i in range(60):
        seen.clear()
        clip = dataset[i]
        rows, cols = (clip["frames"][0, ..., axis].astype(int) for axis in (0, 1))
        # Each pixel says where in the frame it was taken.
        np.testing.assert_array_equal(clip["frames"][0, ..., :2], clip["frames"][2, ..., :2])
        lies = labels[rows, cols]
        way = next(
            (k, m) for k in range(4) for m in (False, True) if corners(labels, k, m) == tuple(lies_at(rows, cols))
        )
        ways.add(way)
        turned = np.rot90(labels[:, ::-1] if way[1] else labels, way[0])
        named = {d.text: d.object_id for d in expressions.describe(turned, categories)}
        assert set(seen) <= set(named)
        for row, text in enumerate(seen):
            mask = clip["masks"][row, 0].astype(bool)
            assert (mask != (lies == named[text])).mean() < 0.01  # resizing differs along borders
    assert len(ways) == 8


def lies_at(rows: np.ndarray, cols: np.ndarray) -> list[tuple[int, int]]:
    """Where in the frame the picture's corners are from: top-left, top-right, bottom-left."""
    return [(int(rows[y, x]), int(cols[y, x])) for y, x in ((0, 0), (0, -1), (-1, 0))]


def corners(labels: np.ndarray, quarters: int, mirrored: bool) -> tuple[tuple[int, int], ...]:
    """`lies_at` of a frame turned so."""
    rows, cols = np.indices(labels.shape)
    turn = lambda x: np.rot90(x[:, ::-1] if mirrored else x, quarters)  # noqa: E731
    return tuple(lies_at(turn(rows), turn(cols)))


def test_what_is_not_made_from_class_and_position_is_never_turned():
    told = Gradient(scene().labels(0, 0)[None], "the yacht that turns", {1: "yacht", 2: "yacht"})
    straight = ClipDataset(told, 90, 1)
    turned = dataclasses.replace(straight, turn=True)
    for i in range(10):
        np.testing.assert_array_equal(turned[i]["frames"], straight[i]["frames"])
