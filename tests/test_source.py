"""Datasets read from a folder: what is read, and a sentence with the file's name for whatever is wrong."""

import json
import pickle

import _layouts
import cv2
import numpy as np
import pytest
from PIL import Image

from mqc_jax.data.images import decode_labels, decode_mask, encode_labels
from mqc_jax.data.source import Expression, VideoSource, open_source
from mqc_jax.errors import UserError


@pytest.fixture
def root(tmp_path):
    return _layouts.write_ref_youtube_vos(tmp_path)


def listing_of(root):
    return root / "meta_expressions" / "train" / "meta_expressions.json"


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_sequences(root):
    source = open_source("ref_youtube_vos", root, "train")
    assert isinstance(source, VideoSource)
    assert [s.name for s in source.sequences] == ["video0", "video1", "video2"]
    sequence = source.sequences[1]
    assert sequence.size == (50, 68)
    assert sequence.frame_names == tuple(f"{t:05d}" for t in range(10))
    assert sequence.expressions == (
        Expression("0", "the yacht at the left", (1,)),
        Expression("1", "a boat that overtakes the other", (2,)),
    )
    assert sequence.categories == {1: "yacht", 2: "cruise"}
    assert sequence.tags == ("occlusion",)


def test_frames_and_labels(root):
    source = open_source("ref_youtube_vos", root, "train")
    for index in range(3):
        for t in (0, 4, 9):
            size = source.sequences[index].size
            np.testing.assert_array_equal(source.labels(index, t), _layouts.labels(index, t, size))
            frame = source.frame(index, t)
            assert frame.dtype == np.uint8
            # RGB in this order: swapped channels would differ by far more than the compression does.
            assert np.abs(frame.astype(int) - _layouts.frame(index, t, size)).mean() < 12
            assert source.frame(index, t, 2).shape == (-(-size[0] // 2), -(-size[1] // 2), 3)


def test_a_source_survives_pickling(root):
    source = open_source("ref_youtube_vos", root, "train")
    again = pickle.loads(pickle.dumps(source))
    assert again.sequences == source.sequences
    np.testing.assert_array_equal(again.frame(1, 3), source.frame(1, 3))


def test_frames_may_be_left_out_of_the_listing(tmp_path):
    root = _layouts.write_ref_youtube_vos(tmp_path, list_frames=False)
    assert open_source("ref_youtube_vos", root, "train").sequences[0].frame_names[-1] == "00009"


def test_a_split_without_truth_reads(root):
    """The public validation split: no obj_id, no annotation, no meta.json."""

    def strip(content):
        for video in content["videos"].values():
            for expression in video["expressions"].values():
                del expression["obj_id"]

    edit(listing_of(root), strip)
    (root / "train" / "meta.json").unlink()
    for path in (root / "train" / "Annotations").glob("*/*.png"):
        path.unlink()
    source = open_source("ref_youtube_vos", root, "train")
    assert source.sequences[0].expressions[0].object_ids == ()
    assert source.labels(0, 0) is None


def test_an_unlabelled_frame_has_no_labels(root):
    (root / "train" / "Annotations" / "video0" / "00003.png").unlink()
    source = open_source("ref_youtube_vos", root, "train")
    assert source.labels(0, 3) is None
    assert source.labels(0, 2) is not None


def test_several_objects_are_united():
    labels = np.array([[0, 1], [2, 3]], np.uint8)
    np.testing.assert_array_equal(Expression("0", "both", (1, 3)).mask(labels), [[False, True], [False, True]])


def test_labels_keep_their_ids_however_they_are_stored(tmp_path):
    ids = np.arange(12, dtype=np.uint8).reshape(3, 4) % 4
    _layouts.write_palette(tmp_path / "palette.png", ids)
    for data in ((tmp_path / "palette.png").read_bytes(), encode_labels(ids)):
        np.testing.assert_array_equal(decode_labels(data, "x.png"), ids)
        np.testing.assert_array_equal(decode_mask(data, "x.png"), ids > 0)
    many = ids.astype(np.uint16) * 1000
    np.testing.assert_array_equal(decode_labels(encode_labels(many), "x.png"), many)
    Image.fromarray(ids > 0).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(decode_labels((tmp_path / "bits.png").read_bytes(), "x.png"), ids > 0)


def test_colour_pictures_are_no_labels_but_can_be_masks(tmp_path):
    colour = np.zeros((4, 5, 3), np.uint8)
    colour[1, 2] = (0, 0, 9)
    cv2.imwrite(str(tmp_path / "c.png"), colour)
    data = (tmp_path / "c.png").read_bytes()
    with pytest.raises(UserError, match=r"c\.png is stored in mode 'RGB'"):
        decode_labels(data, "c.png")
    assert decode_mask(data, "c.png").sum() == 1
    opaque = np.dstack([colour, np.full((4, 5), 255, np.uint8)])
    cv2.imwrite(str(tmp_path / "a.png"), opaque)
    assert decode_mask((tmp_path / "a.png").read_bytes(), "a.png").sum() == 1


def fails(root, match, dataset="ref_youtube_vos", split="train", read=False):
    def use():
        source = open_source(dataset, root, split)
        if read:
            source.frame(0, 1)
            source.labels(0, 1)

    with pytest.raises(UserError, match=match) as caught:
        use()
    assert "\n" not in str(caught.value)


def test_missing_folder(tmp_path):
    fails(tmp_path / "nowhere", r"nowhere does not exist")


def test_folder_of_something_else(tmp_path):
    fails(tmp_path, r"meta_expressions is missing")


def test_unknown_dataset(root):
    fails(root, r"unknown dataset 'ref_youtube_vis'.*did you mean 'ref_youtube_vos'", dataset="ref_youtube_vis")


@pytest.mark.parametrize("name", ["../x", "..", "", "a/../../b"])
def test_a_dataset_name_cannot_leave_the_folder(root, name):
    fails(root, r"unknown dataset", dataset=name)


def test_unknown_split(root):
    fails(root, r"no split 'trian'.*did you mean 'train'.*available: train", split="trian")


def test_empty_split(root):
    listing_of(root).write_text('{"videos": {}}')
    fails(root, r"meta_expressions\.json lists no video, so the split 'train' is empty")


def test_a_video_without_frames(tmp_path):
    root = _layouts.write_ref_youtube_vos(tmp_path, sequences=1, list_frames=False)
    for path in (root / "train" / "JPEGImages" / "video0").iterdir():
        path.unlink()
    fails(root, r"video0 holds no frame")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ('{"videos": {', r"meta_expressions\.json is not valid JSON: .* at line 1"),
        ("[]", r"meta_expressions\.json must be an object"),
        ('{"videos": {"v": 3}}', r"meta_expressions\.json must be an object"),
        (b"\xff\xfe", r"meta_expressions\.json is not valid JSON"),
        ('{"videos": {"../v": {"expressions": {}}}}', r"name '\.\./v' cannot be"),
    ],
)
def test_malformed_listing(root, content, match):
    listing_of(root).write_bytes(content if isinstance(content, bytes) else content.encode())
    fails(root, match)


@pytest.mark.parametrize(
    ("expression", "match"),
    [
        ({"obj_id": "1"}, r"'0' of video 'video0' has no text"),
        ({"exp": "  ", "obj_id": "1"}, r"has no text"),
        ({"exp": "it", "obj_id": "one"}, r"obj_id 'one'"),
        ("it", r"has no text"),
    ],
)
def test_malformed_expression(root, expression, match):
    edit(listing_of(root), lambda c: c["videos"]["video0"]["expressions"].update({"0": expression}))
    fails(root, match)


def test_malformed_fields(root):
    edit(listing_of(root), lambda c: c["videos"]["video0"].update(frames="00000"))
    fails(root, r"'frames' of video 'video0' must be a list, got str")


def test_malformed_meta(root):
    (root / "train" / "meta.json").write_text('{"videos": {"video0": {"objects": {"x": {"category": "yacht"}}}}}')
    fails(root, r"meta\.json: the objects of video 'video0'")


def test_missing_files(root):
    images = root / "train" / "JPEGImages"
    (images / "video0" / "00004.jpg").unlink()
    fails(root, r"video0/00004\.jpg is listed but missing")
    listing_of(root).unlink()
    fails(root, r"meta_expressions\.json is missing")


def test_a_mask_of_another_size(root):
    path = root / "train" / "Annotations" / "video0" / "00001.png"
    _layouts.write_palette(path, np.zeros((48, 60), np.uint8))
    fails(root, r"video0/00001\.png has 48x60 pixels .* its frame has 48x64", read=True)


def test_a_frame_of_another_size(root):
    cv2.imwrite(str(root / "train" / "JPEGImages" / "video0" / "00001.jpg"), np.zeros((48, 60, 3), np.uint8))
    fails(root, r"video0/00001\.jpg has 48x60 pixels .* first frame .* 48x64", read=True)


@pytest.mark.parametrize("kind", ["JPEGImages", "Annotations"])
@pytest.mark.parametrize("keep", [0, 0.1, 0.5, 0.95])
def test_truncated_files(root, kind, keep):
    path = next((root / "train" / kind / "video0").glob("00001.*"))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    fails(root, rf"{kind}/video0/00001\.\w+ is (truncated|empty|not a readable)", read=True)


def test_a_long_trailer_is_no_damage(root):
    """Cameras append previews and padding after the picture's end."""
    path = root / "train" / "JPEGImages" / "video0" / "00001.jpg"
    expected = open_source("ref_youtube_vos", root, "train").frame(0, 1)
    path.write_bytes(path.read_bytes() + b"\0" * 5000)
    np.testing.assert_array_equal(open_source("ref_youtube_vos", root, "train").frame(0, 1), expected)


def test_text_instead_of_a_picture(root):
    (root / "train" / "JPEGImages" / "video0" / "00000.jpg").write_text("hello")
    fails(root, r"00000\.jpg is not a readable image")
