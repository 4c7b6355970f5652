"""The loader: a clip is a function of (seed, index), a batch of (seed, step), and only its own frames are decoded."""

import dataclasses
import itertools
from collections import Counter

import _layouts
import numpy as np
import pytest

from mqc_jax.data import clips, expressions, paraphrases
from mqc_jax.data.batches import batches
from mqc_jax.data.clips import ClipDataset
from mqc_jax.data.source import Expression, Sequence, open_source
from mqc_jax.errors import UserError
from mqc_jax.imaging import resize, resize_mask
from mqc_jax.tiling import Window


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = _layouts.write_ref_youtube_vos(tmp_path_factory.mktemp("data"))
    return open_source("ref_youtube_vos", root, "train")


def tokenize(text: str) -> dict:
    """A stand-in with the tokenizer's interface: code points, padded to 40."""
    codes = [ord(letter) for letter in text][:40]
    return {
        "input_ids": codes + [0] * (40 - len(codes)),
        "attention_mask": [1] * len(codes) + [0] * (40 - len(codes)),
    }


def make(source, **changes) -> ClipDataset:
    return ClipDataset(
        source, **{"image_size": 32, "clip_length": 3, "max_stride": 3, "tokenize": tokenize, "seed": 5, **changes}
    )


def take(n, *args, **kwargs):
    stream = batches(*args, **kwargs)
    found = list(itertools.islice(stream, n))
    stream.close()
    return found


def assert_equal(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.ids == b.ids
        assert a.arrays.keys() == b.arrays.keys()
        for name in a.arrays:
            np.testing.assert_array_equal(a.arrays[name], b.arrays[name], err_msg=name)


class Spy:
    """Counts what is decoded."""

    def __init__(self, source):
        self._source, self.sequences = source, source.sequences
        self.frames, self.annotations = Counter(), Counter()

    def frame(self, sequence, t, reduce=1):
        self.frames[sequence, t] += 1
        return self._source.frame(sequence, t, reduce)

    def labels(self, sequence, t):
        self.annotations[sequence, t] += 1
        return self._source.labels(sequence, t)


class Drawn:
    """A source made of arrays, for cases that files would only hide."""

    def __init__(self, labels, text="the thing", categories=None, frames=None):
        self._labels, self._frames = labels, frames
        n, height, width = len(labels), *labels[0].shape
        names = tuple(f"{t:05d}" for t in range(n))
        expression = Expression("0", text, (1,))
        self.sequences = (Sequence("s", names, (height, width), (expression,), categories or {}),)

    def frame(self, sequence, t, reduce=1):
        height, width = self._labels[t].shape
        return np.full((-(-height // reduce), -(-width // reduce), 3), t, np.uint8)

    def labels(self, sequence, t):
        return self._labels[t]


def test_shapes_dtypes_and_ranges(source):
    (batch,) = take(1, make(source), 4)
    shapes = {name: (array.shape, array.dtype) for name, array in batch.arrays.items()}
    assert shapes == {
        "frames": ((4, 3, 32, 32, 3), np.uint8),
        "masks": ((4, 3, 32, 32), np.uint8),
        "present": ((4, 3), bool),
        "labelled": ((4, 3), bool),
        "input_ids": ((4, 40), np.int32),
        "attention_mask": ((4, 40), np.int32),
    }
    assert set(np.unique(batch.arrays["masks"])) == {0, 1}
    assert batch.arrays["present"][:, 0].all()
    np.testing.assert_array_equal(batch.arrays["present"], batch.arrays["masks"].any(axis=(2, 3)))


def test_a_clip_is_a_function_of_seed_and_index(source):
    one, other = make(source), make(source)
    other[3]
    for index in (0, 7, 40):
        a, b = one[index], other[index]
        assert a["id"] == b["id"]
        np.testing.assert_array_equal(a["frames"], b["frames"])
    ids = [make(source)[i]["id"] for i in range(12)]
    assert ids != [make(source, seed=6)[i]["id"] for i in range(12)]


def test_each_epoch_visits_each_expression_once_in_its_own_order(source):
    dataset = make(source)
    n = dataset.clips_per_epoch
    assert n == 6
    epochs = [[dataset[e * n + i]["id"].rsplit("/", 2)[0] for i in range(n)] for e in range(4)]
    assert all(len(set(epoch)) == n for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


@pytest.mark.parametrize("options", [{"num_threads": 1}, {"num_threads": 4}, {"num_threads": 0}])
def test_batches_do_not_depend_on_threads(source, options):
    for balance in (0.0, 0.5):
        dataset = make(source, balance=balance)
        assert_equal(take(3, dataset, 4, **options), take(3, dataset, 4))


def test_batches_do_not_depend_on_processes(source):
    expected = take(4, make(source), 3, start_step=2)
    for workers in (1, 2):
        assert_equal(take(4, make(source), 3, start_step=2, num_workers=workers), expected)


@pytest.mark.parametrize("step", [1, 2, 5])
def test_resume_at_any_step(source, step):
    whole = take(step + 2, make(source, start="anywhere"), 4)
    assert_equal(take(2, make(source, start="anywhere"), 4, start_step=step), whole[step:])


def test_shards_partition_the_batch(source):
    whole = take(3, make(source), 4, start_step=1)
    shards = [take(3, make(source), 4, start_step=1, shard=(k, 2)) for k in range(2)]
    for step, batch in enumerate(whole):
        assert batch.ids == shards[0][step].ids + shards[1][step].ids
        joined = np.concatenate([shards[k][step].arrays["frames"] for k in range(2)])
        np.testing.assert_array_equal(batch.arrays["frames"], joined)


def test_only_the_clips_own_frames_are_decoded(source):
    spy = Spy(source)
    clip = make(spy)[0]
    _, _, first, stride = clip["id"].split("/")
    times = [int(first) + k * int(stride) for k in range(3)]
    assert sorted(t for _, t in spy.frames) == times
    assert set(spy.frames.values()) == {1}
    assert spy.annotations == spy.frames


def test_clips_start_at_frame_0_with_the_given_sentence(source):
    dataset = make(source)
    for i in range(dataset.clips_per_epoch):
        clip = dataset[i]
        name, key, first, stride = clip["id"].split("/")
        assert first == "0"
        assert 1 <= int(stride) <= 3
        sequence = next(s for s in source.sequences if s.name == name)
        text = next(e.text for e in sequence.expressions if e.id == key)
        np.testing.assert_array_equal(clip["input_ids"][0], tokenize(text)["input_ids"])


def test_a_clip_starts_where_the_target_first_appears():
    labels = np.zeros((6, 16, 16), np.uint8)
    labels[2:, 4:8, 4:8] = 1
    clip = ClipDataset(Drawn(labels), 16, 2)[0]
    assert clip["id"] == "s/0/2/1"
    np.testing.assert_array_equal(clip["masks"][0, 0], labels[2])


def test_a_target_that_never_appears_is_named():
    with pytest.raises(UserError, match=r"'the thing'.*none of its 3 frames"):
        ClipDataset(Drawn(np.zeros((3, 8, 8), np.uint8)), 8, 2)[0]


def test_anywhere_rewrites_position_words_from_the_frame_it_starts_in():
    labels = np.zeros((9, 30, 30), np.uint8)
    for t in range(9):
        labels[t, 13:17, 3 * t : 3 * t + 4] = 1
    categories = {1: "yacht"}
    seen = []

    def remember(text):
        seen.append(text)
        return tokenize(text)

    source = Drawn(labels, "the yacht at the left", categories)
    dataset = ClipDataset(source, 30, 1, tokenize=remember, start="anywhere", seed=3)
    starts = [int(dataset[i]["id"].split("/")[2]) for i in range(40)]
    assert len(set(starts)) > 4
    for start, text in zip(starts, seen, strict=True):
        assert text == expressions.describe(labels[start], categories)[0].text
    assert {"the yacht at the left", "the yacht at the center", "the yacht at the right"} == set(seen)


def test_anywhere_leaves_free_sentences_alone():
    labels = np.zeros((9, 30, 30), np.uint8)
    labels[:, 20:24, 20:24] = 1
    seen = []
    source = Drawn(labels, "a boat that turns", {1: "yacht"})
    dataset = ClipDataset(source, 30, 1, tokenize=lambda t: seen.append(t) or tokenize(t), start="anywhere")
    for i in range(5):
        dataset[i]
    assert set(seen) == {"a boat that turns"}


def crowd() -> np.ndarray:
    """Labels [60, 90]: a yacht in the middle, one at the right, a ferry below."""
    labels = np.zeros((60, 90), np.uint8)
    labels[28:32, 40:46] = 1
    labels[12:16, 70:76] = 2
    labels[44:56, 40:60] = 3
    return labels


class Gradient(Drawn):
    """Frames that say where each pixel was: red is the row, green the column."""

    def frame(self, sequence, t, reduce=1):
        rows, cols = np.indices(self._labels[t].shape)
        return np.stack([rows, cols, np.zeros_like(rows)], -1).astype(np.uint8)


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


def test_a_short_sequence_is_played_forth_and_back():
    labels = np.ones((3, 8, 8), np.uint8)
    clip = ClipDataset(Drawn(labels), 8, 7, max_stride=4)[0]
    assert clip["frames"][:, 0, 0, 0].tolist() == [0, 1, 2, 1, 0, 1, 2]
    single = ClipDataset(Drawn(labels[:1]), 8, 3)[0]
    assert single["frames"][:, 0, 0, 0].tolist() == [0, 0, 0]


def test_unlabelled_frames_are_marked():
    labels = [np.ones((8, 8), np.uint8), None, np.ones((8, 8), np.uint8)]
    source = Drawn(labels)
    source.frame = lambda sequence, t, reduce=1: np.zeros((8, 8, 3), np.uint8)
    clip = ClipDataset(source, 8, 3)[0]
    assert clip["labelled"][0].tolist() == [True, False, True]
    assert clip["present"][0].tolist() == [True, False, True]


@pytest.mark.parametrize("size", [(40, 40), (37, 90), (20, 90), (1080, 2160), (10, 12)])
def test_a_present_target_is_never_lost(size):
    mask = np.zeros(size, bool)
    assert not resize_mask(mask, 32).any()
    mask[size[0] // 2, size[1] // 3] = True
    assert resize_mask(mask, 32).any()
    mask[:] = True
    assert resize_mask(mask, 32).all()


def test_masks_shrink_by_coverage():
    mask = np.zeros((8, 8), bool)
    mask[:2, :1] = True  # half of a 2x2 block
    mask[4, 4] = True  # a quarter
    np.testing.assert_array_equal(np.argwhere(resize_mask(mask, 4)), [[0, 0]])


def test_reduced_decoding_hardly_changes_the_frame(tmp_path):
    root = _layouts.write_ref_youtube_vos(tmp_path, sequences=1, n_frames=2, size=(300, 420))
    source = open_source("ref_youtube_vos", root, "train")
    assert clips._reduction((300, 420), 64) == 4
    assert clips._reduction((300, 420), 76) == 2
    assert clips._reduction((300, 420), 151) == 1
    whole = resize(source.frame(0, 0), 64).astype(int)
    for reduce in (2, 4):
        reduced = resize(source.frame(0, 0, reduce), 64).astype(int)
        assert np.abs(whole - reduced).mean() < 1.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clip_length": 0}, "clip_length=0"),
        ({"max_stride": 0}, "max_stride=0"),
        ({"start": "middle"}, "start='middle'"),
        ({"min_crop": 0.0}, r"min_crop=0\.0"),
        ({"min_crop": 0.5, "max_crop": 0.4}, r"max_crop=0\.4"),
        ({"targets": -1}, "targets=-1"),
        ({"absent": 1.5}, r"absent=1\.5"),
        ({"balance": -0.1}, r"balance=-0\.1"),
        ({"min_crop": 1.5}, r"min_crop=1\.5 must be a share .* or at least 16 pixels"),
        ({"min_crop": 0.5, "max_crop": 40}, "max_crop=40 must lie between .* and 1"),
        ({"min_crop": 40, "max_crop": 1.0}, "max_crop=1.0 must lie between min_crop=40 and any more"),
    ],
)
def test_bad_values_are_sentences(source, changes, message):
    with pytest.raises(UserError, match=message):
        make(source, **changes)


def test_batch_size_must_divide_among_shards(source):
    with pytest.raises(UserError, match="batch_size=3"):
        next(batches(make(source), 3, shard=(0, 2)))


def test_a_broken_frame_stops_the_stream_by_name(tmp_path):
    root = _layouts.write_ref_youtube_vos(tmp_path, sequences=1)
    path = root / "train" / "JPEGImages" / "video0" / "00000.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"video0/00000\.jpg is truncated"):
        take(1, make(open_source("ref_youtube_vos", root, "train")), 2)


def scene() -> Gradient:
    """Four objects that can be told apart, in 3 frames; object 2 leaves."""
    labels = np.zeros((3, 60, 90), np.uint8)
    labels[:, 5:13, 5:15], labels[:2, 5:13, 70:80], labels[:, 45:53, 40:50], labels[:, 25:33, 70:80] = 1, 2, 3, 4
    return Gradient(labels, "the yacht at the top-left", {1: "yacht", 2: "yacht", 3: "freighter", 4: "small car"})


def test_several_sentences_share_a_clips_frames():
    seen = []
    dataset = ClipDataset(scene(), 96, 3, tokenize=lambda t: seen.append(t) or tokenize(t), targets=4, seed=2)
    clip = dataset[0]
    assert clip["frames"].shape == (3, 96, 96, 3)
    assert clip["masks"].shape == (4, 3, 96, 96)
    named = {d.text: d.object_id for d in expressions.describe(scene().labels(0, 0), scene().sequences[0].categories)}
    assert seen[0] == "the yacht at the top-left"
    assert sorted(seen) == sorted(named)
    for row, text in enumerate(seen):
        for t in range(3):
            np.testing.assert_array_equal(clip["masks"][row, t], resize_mask(scene().labels(0, t) == named[text], 96))
        assert clip["present"][row].tolist() == [True, True, named[text] != 2]
    (batch,) = take(1, dataset, 2)
    assert batch.arrays["frames"].shape[0] == 2
    assert batch.arrays["masks"].shape[0] == batch.arrays["input_ids"].shape[0] == 8
    np.testing.assert_array_equal(batch.arrays["masks"][:4], clip["masks"])


def test_a_sentence_about_nothing_names_what_is_not_there():
    seen = []
    dataset = ClipDataset(scene(), 96, 1, tokenize=lambda t: seen.append(t) or tokenize(t), targets=5, absent=1.0)
    there = {d.text for d in expressions.describe(scene().labels(0, 0), scene().sequences[0].categories)}
    for i in range(40):
        seen.clear()
        clip = dataset[i]
        assert clip["present"][:, 0].tolist() == [True, *[False] * 4]
        assert not clip["masks"][1:].any()
        assert clip["labelled"].all()
        assert not set(seen[1:]) & there


def test_reworded_sentences_are_about_the_same_target():
    seen = []
    dataset = ClipDataset(scene(), 96, 1, tokenize=lambda t: seen.append(t) or tokenize(t), reword=1.0)
    for i in range(60):
        np.testing.assert_array_equal(dataset[i]["masks"][0, 0], resize_mask(scene().labels(0, 0) == 1, 96))
    assert len(set(seen)) > 30


def test_a_class_map_says_what_covers_most_of_each_cell():
    clip = ClipDataset(scene(), 360, 1, targets=0, class_map=True)[0]
    assert clip["masks"].shape == (0, 1, 360, 360)
    labels, categories = scene().labels(0, 0), scene().sequences[0].categories
    big = np.kron(labels, np.ones((6, 4), labels.dtype))  # 60x90 to 360x360
    expected = np.zeros((90, 90), np.uint8)
    for name in set(categories.values()):
        members = [i for i, category in categories.items() if category == name]
        coverage = np.isin(big, members).reshape(90, 4, 90, 4).mean((1, 3))
        expected[coverage > 0.4] = paraphrases.CLASSES.index(name) + 1
        assert not ((clip["classes"] == paraphrases.CLASSES.index(name) + 1) & (coverage < 0.3)).any()
    where = expected > 0
    np.testing.assert_array_equal(clip["classes"][where], expected[where])


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


def test_splits_are_read_one_after_the_other(tmp_path):
    root = _layouts.write_ref_youtube_vos(tmp_path, "train", sequences=2)
    _layouts.write_ref_youtube_vos(tmp_path, "test", sequences=1)
    parts = [open_source("ref_youtube_vos", root, split) for split in ("train", "test")]
    both = open_source("ref_youtube_vos", root, "train+test")
    assert both.sequences == (*parts[0].sequences, *parts[1].sequences)
    np.testing.assert_array_equal(both.frame(2, 1), parts[1].frame(0, 1))
    np.testing.assert_array_equal(both.labels(1, 1), parts[0].labels(1, 1))
    with pytest.raises(UserError, match="no split 'trian'"):
        open_source("ref_youtube_vos", root, "test+trian")


def test_a_sentence_without_a_place_fits_one_object_of_the_frame():
    seen = []
    dataset = ClipDataset(
        scene(), 96, 1, tokenize=lambda t: seen.append(t) or tokenize(t), targets=4, placeless=1.0, absent=0.3
    )
    labels, categories = scene().labels(0, 0), scene().sequences[0].categories
    placeless = set()
    for i in range(60):
        seen.clear()
        clip = dataset[i]
        for row, text in enumerate(seen):
            if " at the " in text:
                continue
            placeless.add(text)
            members = [k for k, name in categories.items() if f"the {expressions.class_phrase(name)}" == text]
            assert len(members) <= 1
            expected = labels == members[0] if members else np.zeros_like(labels, bool)
            np.testing.assert_array_equal(clip["masks"][row, 0], resize_mask(expected, 96))
    assert {"the freighter", "the small car"} < placeless
    assert "the yacht" not in placeless  # there are two
    assert len(placeless) > 6  # and others that the frame does not show


def test_square_windows_have_the_shorter_sides_share():
    dataset = ClipDataset(scene(), 96, 1, min_crop=0.4, max_crop=0.5, square=True)
    for i in range(30):
        frame = dataset[i]["frames"][0].astype(int)
        rows, cols = (frame[-1, -1, axis] - frame[0, 0, axis] + 1 for axis in (0, 1))
        assert abs(rows - cols) <= 2 or (rows, cols) == (60, 90)


def test_unheard_words_are_those_kept_from_training():
    texts = {}
    for unheard in (False, True):
        seen = texts.setdefault(unheard, set())
        dataset = ClipDataset(
            scene(), 96, 1, tokenize=lambda t, s=seen: s.add(t) or tokenize(t), targets=4, reword=1.0, unheard=unheard
        )
        for i in range(40):
            dataset[i]
    assert not texts[False] & texts[True]


def test_further_sentences_may_mean_all_of_a_class():
    seen = []
    dataset = ClipDataset(scene(), 96, 1, tokenize=lambda t: seen.append(t) or tokenize(t), targets=4, every=1.0)
    members = {"every yacht": (1, 2), "every freighter": (3,), "every small car": (4,)}
    told = set()
    for i in range(20):
        seen.clear()
        clip = dataset[i]
        assert not seen[0].startswith("every")
        for row, text in enumerate(seen[1:], 1):
            told.add(text)
            shown = np.isin(scene().labels(0, 0), members.get(text, ()))
            np.testing.assert_array_equal(clip["masks"][row, 0], resize_mask(shown, 96))
    assert set(members) < told


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


def fleet(frames: int = 1) -> Gradient:
    """Nine cars in each ninth of the frame, none of which the others leave a sentence, and one ferry with one."""
    labels = np.zeros((frames, 180, 180), np.uint8)
    for k in range(81):
        row, column = 5 + 20 * (k // 9), 5 + 20 * (k % 9)
        labels[:, row : row + 4, column : column + 4] = 2 + k
    labels[:, 92:98, 82:98] = 1
    categories = {1: "ferry"} | dict.fromkeys(range(2, 83), "small car")
    return Gradient(labels, "the ferry at the center", categories)


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
