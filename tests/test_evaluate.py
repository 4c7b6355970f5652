"""evaluate's numbers are the benchmark's, its two forms agree, and its tracker has one shape."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from colour_tracker import ColourTracker

from mqc_jax.data.source import Expression, Sequence
from mqc_jax.errors import UserError
from mqc_jax.evaluate import evaluate_model, mask_names, score_trees
from mqc_jax.metrics import score_frame

ROOT = Path(__file__).parents[1]
SIZE = (40, 60)
TEXTS = {1: "the red box", 2: "the green box", 3: "the blue box"}
COLOURS = {1: (255, 0, 0), 2: (0, 255, 0), 3: (0, 0, 255)}


class BoxSource:
    """Coloured boxes whose truth is one column narrower than they look, so that no score is 1; object 1 leaves."""

    def __init__(self, objects=((1, 2, 3), (1,)), frames=6, annotated=lambda t: True):
        self.annotated = annotated
        self.sequences = tuple(
            Sequence(
                name=f"seq{i}",
                frame_names=tuple(f"{t * 5:05d}" for t in range(frames)),
                size=SIZE,
                expressions=tuple(Expression(f"e{o}", TEXTS[o], (o,)) for o in ids),
                categories={1: "ship", 2: "train", 3: "ship"},
                tags=("occlusion",) if i == 0 else ("tiny", "occlusion"),
            )
            for i, ids in enumerate(objects)
        )

    def _boxes(self, t):
        for o in (1, 2, 3):
            if o != 1 or t < 4:
                yield o, 3 + 11 * (o - 1), 4 + 2 * t

    def frame(self, position, t, reduce=1):
        picture = np.full((*SIZE, 3), 90, np.uint8)
        for o, top, left in self._boxes(t):
            picture[top : top + 8, left : left + 10] = COLOURS[o]
        return picture

    def labels(self, position, t):
        if not self.annotated(t):
            return None
        found = np.zeros(SIZE, np.uint8)
        for o, top, left in self._boxes(t):
            found[top : top + 8, left : left + 9] = o
        return found


def run_model(source, output, lag=0, **options):
    made = []

    def make(texts):
        made.append(list(texts))
        return ColourTracker(texts, lag)

    return evaluate_model(source, make, str(output), progress=False, **options), made


def write_truth(source, root: Path) -> Path:
    for i, sequence in enumerate(source.sequences):
        for expression in sequence.expressions:
            folder = root / sequence.name / expression.id
            folder.mkdir(parents=True)
            for t, name in enumerate(mask_names(sequence)):
                cv2.imwrite(str(folder / f"{name}.png"), expression.mask(source.labels(i, t)).astype(np.uint8) * 255)
    return root


@pytest.mark.parametrize("lag", [0, 3, 100])
def test_numbers_masks_and_rows(tmp_path, lag):
    source = BoxSource()
    summary, _ = run_model(source, tmp_path / "out", lag)
    expected = score_frame(source.frame(0, 0)[..., 0] == 255, source.labels(0, 0) == 1)
    assert expected.j == pytest.approx(0.9)
    assert summary["J"] == pytest.approx(0.9)
    assert summary["F"] == pytest.approx(expected.f)
    assert summary["J&F"] == pytest.approx((0.9 + expected.f) / 2)
    assert (summary["J_recall"], summary["F_recall"]) == (1.0, 1.0)
    assert (summary["n_targets"], summary["n_frames"]) == (4, 4 + 6 + 6 + 4)
    assert set(summary["per_sequence"]) == {"seq0", "seq1"}
    stored = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert stored["J"] == summary["J"]
    with open(tmp_path / "out" / "per_frame.csv") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["sequence", "expression", "frame", "J", "F"]
    assert len(rows) == summary["n_frames"]
    assert [row["frame"] for row in rows[:4]] == ["00000", "00005", "00010", "00015"]
    masks = sorted((tmp_path / "out" / "masks" / "seq0" / "e1").iterdir())
    assert [mask.name for mask in masks] == [f"{5 * t:05d}.png" for t in range(6)], "absent frames have masks too"
    first = cv2.imread(str(masks[0]), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(first == 255, (source.frame(0, 0) == (255, 0, 0)).all(-1))


def test_classes_and_tags_have_their_own_means(tmp_path):
    summary, _ = run_model(BoxSource(), tmp_path / "out")
    assert {name: group["n_targets"] for name, group in summary["per_class"].items()} == {"ship": 3, "train": 1}
    assert {name: group["n_targets"] for name, group in summary["per_tag"].items()} == {"occlusion": 4, "tiny": 1}
    assert summary["per_class"]["ship"]["n_frames"] == 4 + 6 + 4
    assert "per_sequence" not in summary["per_class"]["ship"]


@pytest.mark.parametrize("at_once", [1, 2, 3, 4])
def test_every_tracker_has_one_shape_and_the_numbers_do_not_depend_on_it(tmp_path, at_once):
    summary, made = run_model(BoxSource(), tmp_path / "out", targets_at_once=at_once)
    assert {len(texts) for texts in made} == {min(at_once, 3)}
    assert summary["J"] == pytest.approx(0.9)
    assert summary["n_targets"] == 4
    assert sorted(p.name for p in (tmp_path / "out" / "masks" / "seq0").iterdir()) == ["e1", "e2", "e3"]


def test_the_second_form_scores_the_firsts_masks_alike(tmp_path):
    source = BoxSource()
    first, _ = run_model(source, tmp_path / "out")
    truth = write_truth(source, tmp_path / "truth")
    second = score_trees(str(tmp_path / "out" / "masks"), str(truth), str(tmp_path / "again"), progress=False)
    for name in ("J&F", "J", "J_recall", "F", "F_recall", "n_frames", "n_targets", "per_sequence"):
        assert second[name] == first[name]
    files = [(tmp_path / place / "per_frame.csv").read_bytes() for place in ("out", "again")]
    assert files[0] == files[1]


def test_frames_without_annotation_are_not_scored(tmp_path):
    summary, _ = run_model(BoxSource(annotated=lambda t: t % 2 == 0), tmp_path / "out")
    assert summary["n_frames"] == 2 + 3 + 3 + 2
    assert len(list((tmp_path / "out" / "masks" / "seq0" / "e2").iterdir())) == 6


def test_max_sequences(tmp_path):
    summary, _ = run_model(BoxSource(), tmp_path / "out", max_sequences=1)
    assert list(summary["per_sequence"]) == ["seq0"]


def test_nothing_to_score_is_said(tmp_path):
    with pytest.raises(UserError, match="no sentence"):
        run_model(BoxSource(objects=((),)), tmp_path / "out")
    with pytest.raises(UserError, match="no annotated frame"):
        run_model(BoxSource(annotated=lambda t: False), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_mask_names_are_the_frames_numbers():
    def named(*names):
        return mask_names(Sequence("s", names, SIZE, (), {}))

    assert named("00000", "00005") == ["00000", "00005"]
    assert named("000001", "000002") == ["00001", "00002"]
    assert named("img1", "img2") == ["00000", "00001"]
    assert named("1", "01") == ["00000", "00001"]


@pytest.fixture
def trees(tmp_path):
    source = BoxSource(objects=((1, 2),))
    return write_truth(source, tmp_path / "p"), write_truth(source, tmp_path / "t"), tmp_path / "out"


def test_perfect_predictions_score_one(trees):
    summary = score_trees(*map(str, trees), progress=False)
    assert (summary["J"], summary["F"]) == (1.0, 1.0)
    assert "per_class" not in summary


def test_any_nonzero_value_is_target(trees):
    predicted, _, _ = trees
    for place in predicted.glob("*/*/*.png"):
        cv2.imwrite(str(place), (cv2.imread(str(place), 0) > 0).astype(np.uint8))
    assert score_trees(*map(str, trees), progress=False)["J"] == 1.0


def _remove_frame(predicted, true):
    (predicted / "seq0" / "e1" / "00005.png").unlink()


def _remove_target(predicted, true):
    for place in (predicted / "seq0" / "e2").iterdir():
        place.unlink()
    (predicted / "seq0" / "e2").rmdir()


def _resize(predicted, true):
    cv2.imwrite(str(predicted / "seq0" / "e1" / "00000.png"), np.zeros((20, 30), np.uint8))


def _cut(predicted, true):
    place = predicted / "seq0" / "e1" / "00000.png"
    place.write_bytes(place.read_bytes()[: place.stat().st_size // 2])


def _empty(predicted, true):
    for place in true.glob("*/*/*.png"):
        cv2.imwrite(str(place), np.zeros(SIZE, np.uint8))


def _foreign(predicted, true):
    for place in true.glob("*/*/*.png"):
        place.rename(true / place.name)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (_remove_frame, r"prediction .*seq0/e1/00005.png is missing"),
        (_remove_target, r"1 of the 2 targets .* the first is seq0/e2"),
        (_resize, r"00000.png is 30x20 but its truth is 60x40"),
        (_cut, r"00000.png is truncated"),
        (_empty, "nothing to score against"),
        (_foreign, "is it another layout"),
    ],
)
def test_bad_trees_are_refused_in_one_sentence(trees, damage, sentence):
    damage(*trees[:2])
    with pytest.raises(UserError, match=sentence):
        score_trees(*map(str, trees), progress=False)
    assert not trees[2].exists()


def test_a_missing_tree_is_named(trees):
    with pytest.raises(UserError, match="--predictions /nowhere is not a folder"):
        score_trees("/nowhere", str(trees[1]), str(trees[2]), progress=False)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "nothing to evaluate: give either --data_dir and --dataset"),
        (["--predictions", "a", "--dataset", "b"], "--dataset and --predictions do not go together"),
        (["--predictions", "a", "--output", "OUT"], "--ground_truth is missing"),
        (["--dataset", "b", "--output", "OUT"], "--data_dir is missing"),
        (["--dataset", "ref_youtube_vo", "--data_dir", "HERE", "--output", "OUT"], "did you mean 'ref_youtube_vos'"),
    ],
)
def test_the_command_refuses_in_one_sentence(tmp_path, arguments, sentence):
    places = {"OUT": str(tmp_path / "out"), "HERE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "mqc_jax.evaluate", *[places.get(a, a) for a in arguments]],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode != 0
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert sentence in done.stderr
    assert not (tmp_path / "out").exists()
