"""evaluate on anyone's masks and on the field's layouts: three ways to the same numbers."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import _layouts
import cv2
import numpy as np
import pytest

from mqc_jax.data.source import open_source
from mqc_jax.errors import UserError
from mqc_jax.evaluate import evaluate_model, mask_names, score_predictions, score_trees

ROOT = Path(__file__).parents[1]


def write_trees(source, truth, predictions):
    """The truth as a tree, and predictions that are it moved by two pixels."""
    for k, sequence in enumerate(source.sequences):
        for t, name in enumerate(mask_names(sequence)):
            labels = source.labels(k, t)
            for expression in sequence.expressions:
                exact = getattr(source, "target", None)
                mask = exact(k, t, expression) if exact else expression.mask(labels)
                for root, moved in ((truth, 0), (predictions, 2)):
                    path = root / sequence.name / expression.id / f"{name}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    cv2.imwrite(str(path), np.roll(mask, moved, 1).astype(np.uint8) * 255)


@pytest.mark.parametrize(
    ("write", "layout", "split"),
    [
        (_layouts.write_ref_youtube_vos, "ref_youtube_vos", "train"),
        (_layouts.write_davis, "davis", "val"),
        (_layouts.write_ref_davis17, "ref_davis17", "val"),
        (_layouts.write_mevis, "mevis", "valid_u"),
    ],
)
def test_a_dataset_and_a_tree_of_its_truth_score_the_same(tmp_path, write, layout, split):
    source = open_source(layout, write(tmp_path / "data"), split)
    write_trees(source, tmp_path / "truth", tmp_path / "ours")
    a = score_predictions(source, tmp_path / "ours", tmp_path / "a", progress=False)
    b = score_trees(tmp_path / "ours", tmp_path / "truth", tmp_path / "b", progress=False)
    assert 0.05 < a["J"] < 0.95
    for name in b:
        assert a[name] == b[name]
    assert (tmp_path / "a" / "per_frame.csv").read_bytes() == (tmp_path / "b" / "per_frame.csv").read_bytes()


def test_classes_tags_and_intervals(tmp_path):
    root = _layouts.write_ref_youtube_vos(tmp_path / "data")
    source = open_source("ref_youtube_vos", root, "train")
    write_trees(source, tmp_path / "truth", tmp_path / "ours")
    done = subprocess.run(
        [sys.executable, "-m", "mqc_jax.evaluate", f"--predictions={tmp_path / 'ours'}", f"--data_dir={root}",
         "--dataset=ref_youtube_vos", "--split=train", f"--output={tmp_path / 'out'}"],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    with open(tmp_path / "out" / "per_frame.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == found["n_frames"]
    for name, expression in (("yacht", "0"), ("cruise", "1")):
        by_target = {}
        for row in rows:
            if row["expression"] == expression:
                by_target.setdefault(row["sequence"], []).append(float(row["J"]))
        assert found["per_class"][name]["J"] == pytest.approx(np.mean([np.mean(js) for js in by_target.values()]))
        assert found["per_class"][name]["n_targets"] == 3
    assert found["per_tag"]["occlusion"]["J"] == found["J"]
    for group in (found, found["per_class"]["yacht"]):
        low, high = group["confidence_interval"]["J"]
        assert low <= group["J"] <= high


def test_missing_and_misfitting_predictions_are_named(tmp_path):
    source = open_source("davis", _layouts.write_davis(tmp_path / "data"), "val")
    write_trees(source, tmp_path / "truth", tmp_path / "ours")
    path = tmp_path / "ours" / "judo" / "2" / "00001.png"
    cv2.imwrite(str(path), np.zeros((3, 4), np.uint8))
    with pytest.raises(UserError, match=r"judo/2/00001\.png is 4x3 but its truth is 64x48"):
        score_predictions(source, tmp_path / "ours", tmp_path / "out", progress=False)
    path.unlink()
    with pytest.raises(UserError, match=r"judo/2/00001\.png is missing"):
        score_predictions(source, tmp_path / "ours", tmp_path / "out", progress=False)
    with pytest.raises(UserError, match="nowhere is not a folder"):
        score_predictions(source, tmp_path / "nowhere", tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


class Still:
    """A tracker that keeps the masks it was given."""

    def __init__(self, given):
        assert isinstance(given, np.ndarray)
        assert given.dtype == bool
        self.masks, self.index = given, -1

    def push(self, frame):
        self.index += 1
        return [SimpleNamespace(frame_index=self.index, masks=self.masks, memory={})]

    def finish(self):
        return []


def test_plain_davis_gives_the_model_the_first_frames_masks(tmp_path):
    source = open_source("davis", _layouts.write_davis(tmp_path / "data"), "val")
    shapes = []

    def make(given):
        shapes.append(given.shape)
        return Still(given)

    summary = evaluate_model(source, make, tmp_path / "out", targets_at_once=2, progress=False)
    assert set(shapes) == {(2, 48, 64)}
    with open(tmp_path / "out" / "per_frame.csv") as file:
        rows = list(csv.DictReader(file))
    assert {float(row["J"]) for row in rows if row["frame"] == "00000"} == {1.0}
    assert summary["n_targets"] == 4


def test_plain_davis_without_truth_has_nothing_to_follow(tmp_path):
    root = _layouts.write_davis(tmp_path / "data")
    for path in root.glob("Annotations/480p/*/*.png"):
        path.unlink()
    source = open_source("davis", root, "val")
    with pytest.raises(UserError, match="no sentence"):
        evaluate_model(source, Still, tmp_path / "out", progress=False)


def test_overlapping_truth_is_scored_whole(tmp_path):
    """MeViS: the label map hides a part of the larger object, the score does not."""
    source = open_source("mevis", _layouts.write_mevis(tmp_path / "data"), "valid_u")
    for k, sequence in enumerate(source.sequences):
        for t, name in enumerate(mask_names(sequence)):
            for expression in sequence.expressions:
                path = tmp_path / "ours" / sequence.name / expression.id / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), source.target(k, t, expression).astype(np.uint8))
    assert score_predictions(source, tmp_path / "ours", tmp_path / "out", progress=False)["J"] == 1
