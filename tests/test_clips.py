"""The loader: a clip is a function of (seed, index), a batch of (seed, step), and only its own frames are decoded."""

import _layouts
import numpy as np
import pytest
from clip_sources import Drawn, Spy, make, scene, take, tokenize

from mqc_jax.data import clips, expressions, paraphrases
from mqc_jax.data.batches import batches
from mqc_jax.data.clips import ClipDataset
from mqc_jax.data.source import open_source
from mqc_jax.errors import UserError
from mqc_jax.imaging import resize, resize_mask


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = _layouts.write_ref_youtube_vos(tmp_path_factory.mktemp("data"))
    return open_source("ref_youtube_vos", root, "train")


def assert_equal(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.ids == b.ids
        assert a.arrays.keys() == b.arrays.keys()
        for name in a.arrays:
            np.testing.assert_array_equal(a.arrays[name], b.arrays[name], err_msg=name)


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
