"""DAVIS 2017, Ref-DAVIS17 and MeViS as their authors ship them, with their oddities, and packaged."""

import json
import pickle
import re

import _layouts
import numpy as np
import pytest
import tensorflow_datasets as tfds

from mqc_jax.data.layouts import decode_runs
from mqc_jax.data.mevis.mevis_dataset_builder import Builder as MevisBuilder
from mqc_jax.data.ref_davis17.ref_davis17_dataset_builder import Builder as DavisBuilder
from mqc_jax.data.ref_youtube_vos.ref_youtube_vos_dataset_builder import Builder as YoutubeBuilder
from mqc_jax.data.rs_rvos_bench.rs_rvos_bench_dataset_builder import Builder as BenchBuilder
from mqc_jax.data.source import Expression, VideoSource, open_source
from mqc_jax.errors import UserError

SIZE = (48, 64)


@pytest.fixture
def davis(tmp_path):
    return _layouts.write_davis(tmp_path)


@pytest.fixture
def ref_davis(tmp_path):
    return _layouts.write_ref_davis17(tmp_path)


@pytest.fixture
def mevis(tmp_path):
    return _layouts.write_mevis(tmp_path)


def test_davis_has_a_target_for_each_object_and_no_void(davis):
    source = open_source("davis", davis, "val")
    assert isinstance(source, VideoSource)
    assert [s.name for s in source.sequences] == ["bike", "judo"]
    assert source.sequences[1].expressions == (Expression("1", "", (1,)), Expression("2", "", (2,)))
    for k in range(2):
        for t in range(3):
            np.testing.assert_array_equal(source.labels(k, t), _layouts.labels(k, t, SIZE))
            assert source.frame(k, t).shape == (*SIZE, 3)


def test_davis_without_public_truth(davis):
    for path in davis.glob("Annotations/480p/*/*.png"):
        path.unlink()
    source = open_source("davis", davis, "val")
    assert source.sequences[0].expressions == ()
    assert source.labels(0, 0) is None


def test_davis_at_full_resolution(davis):
    for kind in ("JPEGImages", "Annotations"):
        (davis / kind / "480p").rename(davis / kind / "Full-Resolution")
    assert open_source("davis", davis, "val").labels(0, 2) is not None


def test_ref_davis17_has_both_annotators_and_both_kinds(ref_davis):
    bike, car = open_source("ref_davis17", ref_davis, "val").sequences
    assert bike.expressions == (
        Expression("1_annot1", "a red bike", (1,)),
        Expression("1_annot1_full_video", "a bike that jumps", (1,)),
        Expression("1_annot2", "a café bike", (1,)),
        Expression("1_annot2_full_video", 'it \\"flies\\', (1,)),
        Expression("2_annot1", "a man", (2,)),
    )
    assert car.expressions == (Expression("2_annot2", "an old car", (2,)),)


def test_mevis_unites_annotations_and_knows_absence(mevis):
    source = open_source("mevis", mevis, "valid_u")
    for k, sequence in enumerate(source.sequences):
        assert [e.object_ids for e in sequence.expressions] == [(1,), (1, 3), (2,)]
        for t in range(3):
            big, small, other = _layouts.mevis_masks(k, t, SIZE).values()
            small = np.zeros(SIZE, np.uint8) if small is None else small
            expected = (big, big | other, small)
            for expression, mask in zip(sequence.expressions, expected, strict=True):
                np.testing.assert_array_equal(source.target(k, t, expression), mask > 0)
            labels = source.labels(k, t)
            np.testing.assert_array_equal(labels, np.where(small, 2, np.where(big, 1, 3 * other)))


def test_mevis_without_truth(mevis):
    (mevis / "valid_u" / "mask_dict.json").unlink()
    source = open_source("mevis", mevis, "valid_u")
    assert source.sequences[0].expressions[1].object_ids == ()
    assert source.labels(0, 0) is None
    assert source.target(0, 0, source.sequences[0].expressions[0]) is None


def test_mevis_frames_may_be_left_out_of_the_listing(mevis):
    edit(mevis / "valid_u" / "meta_expressions.json", lambda c: [v.pop("frames") for v in c["videos"].values()])
    assert len(open_source("mevis", mevis, "valid_u").sequences[0].frame_names) == 3


def test_run_lengths_of_random_masks():
    from pycocotools import mask as coco

    rng = np.random.default_rng(0)
    for _ in range(200):
        mask = rng.random(tuple(rng.integers(1, 60, 2))) < rng.random()
        runs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        np.testing.assert_array_equal(decode_runs({**runs, "counts": runs["counts"].decode()}, "x"), mask)


@pytest.mark.parametrize(
    "runs",
    [
        {"size": [4, 4], "counts": "42"},
        {"size": [4, 4], "counts": [3, 14]},
        {"size": [4, 4], "counts": [-1, 17]},
        {"size": [4, 4], "counts": "P"},
        {"size": [4, 4], "counts": "é"},
        {"size": [4, 4], "counts": "`0" * 9},
        {"size": [0, 4], "counts": ""},
        {"size": [10**6, 10**6], "counts": "0"},
        {"counts": "0"},
        "0",
        7,
    ],
)
def test_malformed_run_lengths_are_refused(runs):
    with pytest.raises(UserError, match="the mask is not a run-length mask"):
        decode_runs(runs, "the mask")


@pytest.mark.parametrize(("write", "name", "split"), [
    (_layouts.write_davis, "davis", "val"),
    (_layouts.write_ref_davis17, "ref_davis17", "val"),
    (_layouts.write_mevis, "mevis", "valid_u"),
])  # fmt: skip
def test_a_source_survives_pickling(tmp_path, write, name, split):
    source = open_source(name, write(tmp_path), split)
    again = pickle.loads(pickle.dumps(source))
    assert again.sequences == source.sequences
    np.testing.assert_array_equal(again.labels(1, 2), source.labels(1, 2))


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def fails(dataset, root, split, match, read=False):
    def use():
        source = open_source(dataset, root, split)
        if read:
            for t in range(3):
                source.frame(0, t)
                source.labels(0, t)

    with pytest.raises(UserError, match=match) as caught:
        use()
    assert "\n" not in str(caught.value)


def test_errors_of_davis(davis):
    fails("davis", davis, "vall", r"no split 'vall'.*did you mean 'val'")
    listing = davis / "ImageSets" / "2017" / "val.txt"
    path = davis / "Annotations" / "480p" / "bike" / "00001.png"
    _layouts.write_palette(path, np.zeros((5, 5), np.uint8))
    fails("davis", davis, "val", r"bike/00001\.png has 5x5 pixels", read=True)
    path.write_bytes(path.read_bytes()[:50])
    fails("davis", davis, "val", r"bike/00001\.png is truncated", read=True)
    listing.write_text("../bike\n")
    fails("davis", davis, "val", r"val\.txt: the name '\.\./bike' cannot be")
    listing.write_text("nothing\n")
    fails("davis", davis, "val", r"nothing is missing")
    listing.write_text("\n")
    fails("davis", davis, "val", r"val\.txt lists no sequence")
    fails("davis", davis / "JPEGImages", "val", r"is not a DAVIS 2017 root")


def test_errors_of_ref_davis17(ref_davis):
    texts = ref_davis / "davis_text_annotations"
    for line, match in (
        ('bike 7 "a dog"', r"annot1\.txt: line 1 is about object 7.*it has 1, 2"),
        ("bike 1", r"annot1\.txt: line 1 is not: sequence object"),
        ('bike one "a dog"', r"annot1\.txt: line 1 is not"),
    ):
        (texts / "Davis17_annot1.txt").write_text(line)
        fails("ref_davis17", ref_davis, "val", match)
    for path in texts.iterdir():
        path.unlink()
    fails("ref_davis17", ref_davis, "val", r"holds no Davis17_annot1\.txt")


def test_errors_of_mevis(mevis):
    folder = mevis / "valid_u"
    kept = {name: (folder / name).read_bytes() for name in ("mask_dict.json", "meta_expressions.json")}

    def case(name, change, match, read=False):
        edit(folder / name, change)
        fails("mevis", mevis, "valid_u", match, read)
        (folder / name).write_bytes(kept[name])

    case("mask_dict.json", lambda c: c.pop("13"), r"mask_dict\.json: anno_id 13 of video 'aa11' is not there")
    case("mask_dict.json", lambda c: c["13"].pop(), r"anno_id 13 of video 'aa11' has 2 frames; the video has 3")
    case("mask_dict.json", lambda c: c["12"][1].update(counts="0"), r"frame 1 of anno_id 12 is not a run", read=True)
    small = {"size": [2, 2], "counts": [4]}
    case("mask_dict.json", lambda c: c["12"].__setitem__(1, small), r"anno_id 12 has 2x2 pixels", read=True)

    def rename(content):
        content["videos"]["../up"] = content["videos"].pop("aa11")

    case("meta_expressions.json", rename, r"name '\.\./up' cannot be")

    def other(content):
        content["videos"]["aa11"]["expressions"]["0"]["anno_id"] = ["x"]

    case("meta_expressions.json", other, r"expression '0' of video 'aa11' has anno_id \['x'\]")
    (folder / "mask_dict.json").write_text("{")
    fails("mevis", mevis, "valid_u", r"mask_dict\.json is not valid JSON")
    (folder / "mask_dict.json").write_text("[]")
    fails("mevis", mevis, "valid_u", r"mask_dict\.json must be an object")


def test_an_expression_about_an_object_that_is_not_there(tmp_path):
    root = _layouts.write_ref_youtube_vos(tmp_path)
    listing = root / "meta_expressions" / "train" / "meta_expressions.json"
    edit(listing, lambda c: c["videos"]["video1"]["expressions"]["0"].update(obj_id="9"))
    fails(
        "ref_youtube_vos", root, "train", r"meta_expressions\.json: expression '0' of video 'video1' is about object 9"
    )


def write_youtube(root):
    return _layouts.write_ref_youtube_vos(root, sequences=2, n_frames=3)


@pytest.mark.parametrize(
    ("builder", "write", "layout", "split"),
    [
        (BenchBuilder, write_youtube, "ref_youtube_vos", "train"),
        (YoutubeBuilder, write_youtube, "ref_youtube_vos", "train"),
        (DavisBuilder, _layouts.write_ref_davis17, "ref_davis17", "val"),
        (MevisBuilder, _layouts.write_mevis, "mevis", "valid_u"),
    ],
)
def test_a_package_equals_its_folder(tmp_path, builder, write, layout, split):
    root = write(tmp_path / "raw")
    made = builder(data_dir=str(tmp_path / "data"))
    made.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=root))
    ours, theirs = open_source(made.name, tmp_path / "data", split), open_source(layout, root, split)
    assert ours.sequences == theirs.sequences
    for k, sequence in enumerate(theirs.sequences):
        for t in range(len(sequence.frame_names)):
            np.testing.assert_array_equal(ours.labels(k, t), theirs.labels(k, t))
            np.testing.assert_array_equal(ours.frame(k, t), theirs.frame(k, t))


def test_builders_of_the_users_data_ask_for_it(tmp_path):
    with pytest.raises(UserError, match="give its folder with --manual_dir"):
        BenchBuilder(data_dir=str(tmp_path)).download_and_prepare()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has none of the splits train, test"):
        BenchBuilder(data_dir=str(tmp_path / "d")).download_and_prepare(
            download_config=tfds.download.DownloadConfig(manual_dir=tmp_path / "empty")
        )


def test_a_package_cannot_name_a_way_out_of_a_folder(tmp_path):
    root = write_youtube(tmp_path / "raw")
    BenchBuilder(data_dir=str(tmp_path / "data")).download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=root)
    )
    (path,) = (tmp_path / "data").rglob("metadata.json")
    edit(path, lambda c: c["splits"]["train"][0].update(name="../../up"))
    with pytest.raises(UserError, match=re.escape("names '../../up'")):
        open_source("rs_rvos_bench", tmp_path / "data", "train")
