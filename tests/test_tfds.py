"""Packages: built by the command itself where TensorFlow is missing, and read back as the folder reads."""

import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import _layouts
import numpy as np
import pytest
import tensorflow_datasets as tfds

from mqc_jax.data import packaging
from mqc_jax.data.clips import ClipDataset
from mqc_jax.data.rs_rvos_synth.rs_rvos_synth_dataset_builder import Builder
from mqc_jax.data.source import VideoSource, open_source
from mqc_jax.errors import UserError

ROOT = Path(__file__).parent.parent
# As on a machine without them, whatever this one has.
WITHOUT_TENSORFLOW = """
import importlib.machinery, sys

class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] in ("tensorflow", "mlcroissant")
        return None if hidden else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Finder
from mqc_jax.data.tfds_cli import main
sys.argv[0] = "tfds"
main()
assert "tensorflow" not in sys.modules
"""


def tfds_command(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=120)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    root = tmp_path_factory.mktemp("raw")
    _layouts.write_ref_youtube_vos(root, "train")
    _layouts.write_ref_youtube_vos(root, "test", sequences=2, n_frames=4)
    (root / "train" / "Annotations" / "video1" / "00003.png").unlink()
    return root


@pytest.fixture(scope="module")
def built(raw, tmp_path_factory):
    """Built by `tfds build` in a process of its own."""
    data_dir = tmp_path_factory.mktemp("data")
    done = tfds_command("build", "mqc_jax/data/rs_rvos_synth", "--data_dir", data_dir, "--manual_dir", raw)
    assert done.returncode == 0, done.stderr
    return data_dir


def build(data_dir, manual_dir=None):
    builder = Builder(data_dir=str(data_dir))
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual_dir))
    return builder


def assert_same(ours, theirs):
    assert ours.sequences == theirs.sequences
    for index, sequence in enumerate(theirs.sequences):
        for t in range(len(sequence.frame_names)):
            np.testing.assert_array_equal(ours.frame(index, t), theirs.frame(index, t))
            a, b = ours.labels(index, t), theirs.labels(index, t)
            assert (a is None) == (b is None)
            if b is not None:
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_package_equals_its_folder_pixel_for_pixel(built, raw, split):
    source = open_source("rs_rvos_synth", built, split)
    assert isinstance(source, VideoSource)
    assert_same(source, open_source("ref_youtube_vos", raw, split))


def test_unlabelled_frames_stay_unlabelled(built):
    assert open_source("rs_rvos_synth", built, "train").labels(1, 3) is None


def test_the_build_leaves_nothing_behind(built):
    left = {path.name for path in built.rglob("*") if path.is_file()}
    assert left == {
        "dataset_info.json",
        "features.json",
        "metadata.json",
        "rs_rvos_synth-train.array_record-00000-of-00001",
        "rs_rvos_synth-test.array_record-00000-of-00001",
    }


def test_tfds_reads_it_without_this_project(built):
    """One record a frame, in order, pictures and ids decoded by TFDS itself."""
    data = tfds.builder_from_directory(str(built / "rs_rvos_synth" / "1.0.0")).as_data_source(split="train")
    assert len(data) == 30
    record = data[12]
    assert (record["sequence"], record["frame"]) == (b"video1", b"00002")
    assert record["image"].shape == (50, 68, 3)
    np.testing.assert_array_equal(record["labels"][..., 0], _layouts.labels(1, 2, (50, 68)))


def test_a_frame_costs_one_record(built):
    source = open_source("rs_rvos_synth", built, "train")

    class Counting:
        def __init__(self, records):
            self.records, self.read = records, []

        def __getitem__(self, number):
            self.read.append(number)
            return self.records[number]

    source._records = counting = Counting(source._records)
    source.frame(1, 4)
    source.labels(1, 4)
    source.frame(2, 0)
    assert counting.read == [14, 20]


def test_clips_are_the_folders(built, raw):
    clips = [
        ClipDataset(open_source(name, folder, "train"), 32, 3, 2, seed=1)
        for name, folder in (("rs_rvos_synth", built), ("ref_youtube_vos", raw))
    ]
    for index in (0, 5, 11):
        a, b = (dataset[index] for dataset in clips)
        assert a["id"] == b["id"]
        np.testing.assert_array_equal(a["frames"], b["frames"])
        np.testing.assert_array_equal(a["masks"], b["masks"])


def test_a_source_survives_pickling(built):
    source = open_source("rs_rvos_synth", built, "train")
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again.frame(1, 3), source.frame(1, 3))


def test_frames_out_of_range(built):
    source = open_source("rs_rvos_synth", built, "train")
    for t in (-1, 10):
        with pytest.raises(IndexError, match="'video0' has no frame"):
            source.frame(0, t)


def test_shards_are_cut_between_sequences(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(packaging, "_SHARD_PIXELS", 40_000)
    build(tmp_path, raw)
    assert len(list((tmp_path / "rs_rvos_synth" / "1.0.0").glob("*-train.array_record-*-of-00002"))) == 2
    source = open_source("rs_rvos_synth", tmp_path, "train")
    assert_same(source, open_source("ref_youtube_vos", raw, "train"))


def test_pictures_are_read_when_their_record_is_written(raw):
    """TFDS holds a shard's examples until it is written: they must not hold its pictures."""
    source = open_source("ref_youtube_vos", raw, "train")
    reads = []
    source.frame_bytes = lambda index, t, read=source.frame_bytes: reads.append((index, t)) or read(index, t)
    examples = list(packaging._Shard(source, [0, 1], 0, "train")())
    assert [number for number, _ in examples] == list(range(20))
    assert not reads
    assert examples[13][1]["image"].read()[:2] == b"\xff\xd8"
    assert set(reads) == {(1, 3)}
    assert io.BytesIO(examples[13][1]["labels"].read()).read(4) == b"\x89PNG"


def test_the_newest_version_is_read(built, tmp_path):
    for version in ("9.0.0", "10.0.0", "11.0.0.incomplete"):
        target = tmp_path / "rs_rvos_synth" / version
        target.mkdir(parents=True)
        for path in (built / "rs_rvos_synth" / "1.0.0").iterdir():
            (target / path.name).write_bytes(path.read_bytes())
    assert open_source("rs_rvos_synth", tmp_path, "train")._folder.name == "10.0.0"


def test_errors_of_a_package(built, tmp_path):
    with pytest.raises(UserError, match=r"unknown dataset 'rs_rvos_bench'.*did you mean 'rs_rvos_synth'"):
        open_source("rs_rvos_bench", built, "train")
    with pytest.raises(UserError, match=r"no split 'val'; available: test, train"):
        open_source("rs_rvos_synth", built, "val")
    copy = tmp_path / "rs_rvos_synth" / "1.0.0"
    copy.mkdir(parents=True)
    for path in (built / "rs_rvos_synth" / "1.0.0").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    content = json.loads((copy / "metadata.json").read_text())
    (copy / "metadata.json").write_text(json.dumps({**content, "format": 99}))
    with pytest.raises(UserError, match=r"has format 99, this version reads 1"):
        open_source("rs_rvos_synth", tmp_path, "train")
    content["splits"]["train"].pop()
    (copy / "metadata.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"holds 30 frames of 20"):
        open_source("rs_rvos_synth", tmp_path, "train")
    (copy / "metadata.json").unlink()
    with pytest.raises(UserError, match=r"metadata\.json does not describe video sequences"):
        open_source("rs_rvos_synth", tmp_path, "train")


def damaged(raw, tmp_path, change):
    for path in raw.rglob("*"):
        if path.is_file():
            place = tmp_path / "raw" / path.relative_to(raw)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(path.read_bytes())
    change(tmp_path / "raw")
    return tmp_path / "raw"


def cut_frame(root):
    path = root / "train" / "JPEGImages" / "video2" / "00007.jpg"
    path.write_bytes(path.read_bytes()[:300])


def other_mask(root):
    path = root / "train" / "Annotations" / "video2" / "00007.png"
    _layouts.write_palette(path, np.zeros((5, 5), np.uint8))


def break_listing(root):
    (root / "meta_expressions" / "train" / "meta_expressions.json").write_text("{")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cut_frame, "video2/00007.jpg is truncated"),
        (other_mask, "video2/00007.png has 5x5 pixels"),
        (break_listing, "meta_expressions.json is not valid JSON"),
    ],
)
def test_bad_raw_data_is_one_sentence_and_leaves_no_package(raw, tmp_path, change, message):
    root = damaged(raw, tmp_path, change)
    done = tfds_command("build", "mqc_jax/data/rs_rvos_synth", "--data_dir", tmp_path / "d", "--manual_dir", root)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert message in last
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "d").rglob("*array_record*"))


def test_a_missing_manual_dir_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere given as --manual_dir does not exist"):
        build(tmp_path / "d", tmp_path / "nowhere")


def test_other_subcommands_say_what_they_need():
    done = tfds_command("convert_format")
    assert done.returncode == 1
    assert "needs tensorflow, which is not installed" in done.stderr.strip().splitlines()[-1]


def test_without_a_folder_it_generates_and_packages(tmp_path, monkeypatch):
    monkeypatch.setattr(Builder, "SEQUENCES", {"train": 2, "test": 1})
    monkeypatch.setattr(Builder, "GENERATOR", {"size": (128, 160), "frames": 3, "workers": 1})
    build(tmp_path)
    train, test = (open_source("rs_rvos_synth", tmp_path, split) for split in ("train", "test"))
    assert (len(train.sequences), len(test.sequences)) == (2, 1)
    for source in (train, test):
        for index, sequence in enumerate(source.sequences):
            assert sequence.size == (128, 160)
            assert len(sequence.frame_names) == 3
            assert sequence.expressions
            for expression in sequence.expressions:
                assert expression.mask(source.labels(index, 0)).any()
                assert sequence.categories[expression.object_ids[0]]
    assert not list(tmp_path.rglob("*scratch*"))


def test_the_default_is_the_papers_size():
    assert Builder.SEQUENCES == {"train": 82, "test": 29}
