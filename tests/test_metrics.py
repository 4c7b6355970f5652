"""J and F against a full-frame transcription of the benchmark's definition, and what is reported from them."""

import csv
import io
import math

import cv2
import numpy as np
import pytest
from scripts import script

from mqc_jax import metrics
from mqc_jax.errors import UserError
from mqc_jax.metrics import FrameScore, Scores, score_frame, score_trees


def naive_boundary(mask):
    """Pixel by pixel: differs from its east, south or south-east neighbour, as far as it has them."""
    height, width = mask.shape
    edge = np.zeros(mask.shape, bool)
    for y in range(height):
        for x in range(width):
            neighbours = []
            if x + 1 < width:
                neighbours.append(mask[y, x + 1])
            if y + 1 < height:
                neighbours.append(mask[y + 1, x])
            if x + 1 < width and y + 1 < height:
                neighbours.append(mask[y + 1, x + 1])
            edge[y, x] = any(neighbour != mask[y, x] for neighbour in neighbours)
    return edge


def naive_within(points, others, radius):
    """How many of `points` have one of `others` within `radius` pixels."""
    ys, xs = np.nonzero(others)
    return sum(bool(((ys - y) ** 2 + (xs - x) ** 2 <= radius**2).any()) for y, x in np.argwhere(points))


def naive(prediction, truth):
    """The whole frame, distances by comparison of all pairs."""
    union = int((prediction | truth).sum())
    j = int((prediction & truth).sum()) / union if union else 1.0
    radius = math.ceil(0.008 * math.hypot(*truth.shape))
    p, t = naive_boundary(prediction), naive_boundary(truth)
    n_p, n_t = int(p.sum()), int(t.sum())
    if n_p == 0 and n_t == 0:
        precision = recall = 1.0
    elif n_p == 0:
        precision, recall = 1.0, 0.0
    elif n_t == 0:
        precision, recall = 0.0, 1.0
    else:
        precision, recall = naive_within(p, t, radius) / n_p, naive_within(t, p, radius) / n_t
    f = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return FrameScore(j, f)


def blob(rng, size):
    """A random smooth region, often cut by the frame's edge."""
    noise = cv2.GaussianBlur(rng.normal(size=size).astype(np.float32), (0, 0), rng.uniform(0.5, 6))
    return noise > np.quantile(noise, rng.uniform(0.3, 0.999))


def special(size):
    """The cases in which a definition shows: empty, full, one pixel, corners, edges."""
    masks = [np.zeros(size, bool), np.ones(size, bool)]
    for y in (0, size[0] // 2, size[0] - 1):
        for x in (0, size[1] // 2, size[1] - 1):
            one = np.zeros(size, bool)
            one[y, x] = True
            masks.append(one)
    for window in (np.s_[-3:, :], np.s_[:, -3:], np.s_[:2, :], np.s_[:, :2], np.s_[1:-1, 1:-1], np.s_[-4:, -4:]):
        side = np.zeros(size, bool)
        side[window] = True
        masks.append(side)
    return masks


def test_equals_the_full_frame_transcription_on_random_masks():
    rng = np.random.default_rng(0)
    for _ in range(120):
        size = tuple(int(side) for side in rng.integers(5, 70, 2))
        truth = blob(rng, size)
        prediction = np.roll(truth, rng.integers(-3, 4, 2), (0, 1)) if rng.random() < 0.5 else blob(rng, size)
        assert score_frame(prediction, truth) == naive(prediction, truth)


@pytest.mark.parametrize("size", [(9, 13), (24, 17)])
def test_equals_the_full_frame_transcription_in_every_special_case(size):
    masks = special(size)
    for prediction in masks:
        for truth in masks:
            assert score_frame(prediction, truth) == naive(prediction, truth)


def test_equals_the_transcription_at_a_radius_above_one():
    rng = np.random.default_rng(1)
    size = (260, 300)
    assert metrics.boundary_radius(size) == 4
    for _ in range(5):
        truth, prediction = np.zeros(size, bool), np.zeros(size, bool)
        y, x = rng.integers(0, 230, 2)
        truth[y : y + 30, x : x + 40] = blob(rng, (30, 40))[: size[0] - y, : size[1] - x]
        prediction = np.roll(truth, rng.integers(-5, 6, 2), (0, 1))
        assert score_frame(prediction, truth) == naive(prediction, truth)


def test_the_neighbourhood_gives_what_the_whole_frame_gives_at_full_size():
    """1080p: radius 20, against OpenCV on the whole frame."""
    size = (1080, 2160)
    radius = metrics.boundary_radius(size)
    assert radius == 20
    disk = (np.hypot(*np.mgrid[-20:21, -20:21]) <= 20).astype(np.uint8)
    truth, prediction = np.zeros(size, bool), np.zeros(size, bool)
    cv2.ellipse(truth.view(np.uint8), (1500, 1060), (60, 40), 30, 0, 360, 1, -1)
    cv2.ellipse(prediction.view(np.uint8), (1480, 1040), (50, 45), 10, 0, 360, 1, -1)
    p, t = (whole_frame_boundary(mask) for mask in (prediction, truth))
    precision = (p & cv2.dilate(t, disk)).sum() / p.sum()
    recall = (t & cv2.dilate(p, disk)).sum() / t.sum()
    assert 0.2 < recall < 0.95
    assert score_frame(prediction, truth).f == 2 * precision * recall / (precision + recall)


def whole_frame_boundary(mask):
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    south_east = padded[1:, 1:].copy()
    south_east[-1], south_east[:, -1] = mask[-1], mask[:, -1]
    return ((mask ^ padded[:-1, 1:]) | (mask ^ padded[1:, :-1]) | (mask ^ south_east)).astype(np.uint8)


def test_known_values():
    truth = np.zeros((100, 100), bool)
    truth[20:40, 20:40] = True
    empty, half = np.zeros_like(truth), truth.copy()
    half[30:] = False
    assert score_frame(truth, truth) == (1, 1)
    assert score_frame(empty, empty) == (1, 1)
    assert score_frame(empty, truth) == (0, 0)
    assert score_frame(truth, empty) == (0, 0)
    assert score_frame(half, truth).j == 0.5
    assert score_frame(np.ones_like(truth), np.ones_like(truth)) == (1, 1)
    # A full frame has no boundary, so an empty prediction of it loses J but not F.
    assert score_frame(empty, np.ones_like(truth)) == (0, 1)


def test_any_non_zero_value_is_target():
    truth = np.zeros((20, 20), bool)
    truth[4:9, 4:9] = True
    assert score_frame(truth.astype(np.uint8) * 255, truth.astype(np.int32) * 7) == (1, 1)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="one shape"):
        score_frame(np.zeros((3, 4), bool), np.zeros((4, 3), bool))


def test_targets_weigh_the_same_however_long_they_are():
    scores = Scores()
    for t in range(3):
        scores.add_score("a", "0", f"{t:05d}", FrameScore(0.9, 0.5))
    scores.add_score("a", "1", "00000", FrameScore(0.3, 0.7))
    scores.add_score("b", "0", "00000", FrameScore(0.5, 0.51))
    summary = scores.summary()
    assert summary["J"] == pytest.approx((0.9 + 0.3 + 0.5) / 3)
    assert summary["F"] == pytest.approx((0.5 + 0.7 + 0.51) / 3)
    assert summary["J&F"] == pytest.approx((summary["J"] + summary["F"]) / 2)
    assert summary["J_recall"] == pytest.approx(1 / 3)  # 0.5 itself does not count
    assert summary["F_recall"] == pytest.approx(2 / 3)
    assert (summary["n_frames"], summary["n_targets"]) == (5, 3)
    assert list(summary["per_sequence"]) == ["a", "b"]
    assert summary["per_sequence"]["a"]["J"] == pytest.approx(0.6)
    assert summary["per_sequence"]["a"]["n_targets"] == 2


def test_only_frames_with_the_target_count():
    truth = np.zeros((10, 10), bool)
    scores = Scores()
    scores.add("a", "0", "00000", np.ones_like(truth), truth)
    assert scores.summary()["n_frames"] == 0
    assert scores.summary()["J"] is None
    truth[2:5, 2:5] = True
    scores.add("a", "0", "00001", truth, truth)
    assert scores.summary()["J"] == 1


def test_rows_are_ordered_and_keep_every_digit():
    scores = Scores()
    scores.add_score("b", "0", "00000", FrameScore(1 / 3, 2 / 3))
    scores.add_score("a", "0", "00001", FrameScore(0.25, 1.0))
    scores.add_score("a", "0", "00000", FrameScore(0.0, 0.0))
    rows = list(csv.DictReader(io.StringIO(scores.per_frame_csv())))
    assert list(rows[0]) == ["sequence", "expression", "frame", "J", "F"]
    assert [(row["sequence"], row["frame"]) for row in rows] == [("a", "00000"), ("a", "00001"), ("b", "00000")]
    assert float(rows[2]["J"]) == 1 / 3


@pytest.fixture
def trees(tmp_path):
    """Two sequences, three targets, predictions a pixel off."""
    rng = np.random.default_rng(2)
    for sequence, expression in (("a", "0"), ("a", "1"), ("b", "0")):
        for t in range(4):
            truth = np.zeros((40, 50), np.uint8)
            if t != 2:
                truth[5 + t : 15 + t, 10:22] = 255
            place = tmp_path / "truth" / sequence / expression / f"{t:05d}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(place), truth)
            place = tmp_path / "ours" / sequence / expression / f"{t:05d}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(place), np.roll(truth, rng.integers(-1, 2, 2), (0, 1)) // 255)
    return tmp_path


def test_trees_equal_frames_scored_one_by_one(trees):
    expected = Scores()
    for path in sorted((trees / "truth").glob("*/*/*.png")):
        sequence, expression, frame = path.relative_to(trees / "truth").parts
        ours = cv2.imread(str(trees / "ours" / sequence / expression / frame), cv2.IMREAD_UNCHANGED)
        truth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        expected.add(sequence, expression, frame.removesuffix(".png"), ours, truth)
    seen = []
    found = score_trees(trees / "ours", trees / "truth", progress=lambda *counts: seen.append(counts))
    assert found.summary() == expected.summary()
    assert found.per_frame_csv() == expected.per_frame_csv()
    assert found.summary()["n_frames"] == 9
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert score_trees(trees / "ours", trees / "truth", workers=1).per_frame_csv() == found.per_frame_csv()


def test_a_missing_prediction_is_named(trees):
    (trees / "ours" / "a" / "1" / "00001.png").unlink()
    with pytest.raises(UserError, match=r"a/1/00001\.png is missing"):
        score_trees(trees / "ours", trees / "truth")


def test_predictions_beyond_the_truth_do_not_count(trees):
    before = score_trees(trees / "ours", trees / "truth").per_frame_csv()
    (trees / "ours" / "b" / "0" / "00007.png").write_bytes(b"")
    assert score_trees(trees / "ours", trees / "truth").per_frame_csv() == before


def test_another_size_is_named(trees):
    cv2.imwrite(str(trees / "ours" / "b" / "0" / "00001.png"), np.zeros((40, 51), np.uint8))
    with pytest.raises(UserError, match=r"b/0/00001\.png is 51x40 but its truth is 50x40"):
        score_trees(trees / "ours", trees / "truth")


@pytest.mark.parametrize("tree", ["ours", "truth"])
@pytest.mark.parametrize("content", [b"", b"no picture", "half"])
def test_an_unreadable_mask_is_named(trees, tree, content):
    path = trees / tree / "a" / "0" / "00003.png"
    path.write_bytes(path.read_bytes()[:60] if content == "half" else content)
    with pytest.raises(UserError, match=rf"{tree}/a/0/00003\.png"):
        score_trees(trees / "ours", trees / "truth")


def test_missing_and_empty_folders_are_named(trees):
    with pytest.raises(UserError, match=r"nothing is not a folder"):
        score_trees(trees / "nothing", trees / "truth")
    (trees / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds no <sequence>"):
        score_trees(trees / "ours", trees / "empty")


def golden_pairs():
    """The masks that the recorded numbers belong to, from arithmetic alone: no generator that may change."""
    empty, full = np.zeros((90, 130), bool), np.ones((90, 130), bool)
    ys, xs = np.mgrid[:90, :130]
    disc = (ys - 40) ** 2 + (xs - 60) ** 2 < 25**2
    corner, edge = (ys < 20) & (xs < 30), (ys > 70) & (xs > 50) & (xs < 101)
    pixel, end = (ys == 30) & (xs == 31), (ys == 89) & (xs == 129)
    net = (ys * 7 + xs * 13) % 5 == 0
    wave = ys > 45 + 20 * ((xs // 16) % 2)
    big_y, big_x = np.mgrid[:720, :1000]
    big = (big_y - 300) ** 2 / 90**2 + (big_x - 500) ** 2 / 200**2 < 1
    moved = (big_y - 309) ** 2 / 84**2 + (big_x - 492) ** 2 / 207**2 < 1
    return {
        "both empty": (empty, empty),
        "no prediction": (empty, disc),
        "no truth": (disc, empty),
        "both full": (full, full),
        "full on empty": (full, empty),
        "full on disc": (full, disc),
        "disc on full": (disc, full),
        "disc moved": (np.roll(disc, (1, 2), (0, 1)), disc),
        "disc moved far": (np.roll(disc, (9, -4), (0, 1)), disc),
        "corner": (np.roll(corner, (2, 2), (0, 1)), corner),
        "corner and disc": (corner | disc, disc),
        "edge": (np.roll(edge, (-1, 3), (0, 1)), edge),
        "pixel": (pixel, pixel),
        "pixel beside": (np.roll(pixel, (1, 1), (0, 1)), pixel),
        "pixel away": (np.roll(pixel, 6, 1), pixel),
        "last pixel": (end, end),
        "last pixel missed": (pixel, end),
        "net": (net, disc),
        "net on net": (np.roll(net, 1, 0), net),
        "wave": (np.roll(wave, 5, 1), wave),
        "wave on full": (wave, full),
        "large": (moved, big),
        "large cut": (moved & (big_x > 500), big),
    }


# What the public davis2017-evaluation (db_eval_iou, db_eval_boundary) gives for them.
GOLDEN = {
    "both empty": (1.0, 1.0),
    "no prediction": (0.0, 0.0),
    "no truth": (0.0, 0.0),
    "both full": (1.0, 1.0),
    "full on empty": (0.0, 1.0),
    "full on disc": (0.16589743589743589, 0.0),
    "disc on full": (0.16589743589743589, 0.0),
    "disc moved": (0.8918128654970761, 0.9081632653061225),
    "disc moved far": (0.5988467874794069, 0.15816326530612246),
    "corner": (0.7241379310344828, 0.717948717948718),
    "corner and disc": (0.7638724911452184, 0.888888888888889),
    "edge": (0.8026565464895635, 0.4951433309642264),
    "pixel": (1.0, 1.0),
    "pixel beside": (0.0, 1.0),
    "pixel away": (0.0, 0.0),
    "last pixel": (1.0, 1.0),
    "last pixel missed": (0.0, 0.0),
    "net": (0.09881930184804928, 0.1207059140509228),
    "net on net": (0.0, 0.9999283205504982),
    "wave": (0.8347107438016529, 0.4482758620689655),
    "wave on full": (0.37948717948717947, 0.0),
    "large": (0.8655115095955271, 0.5988723358685853),
    "large cut": (0.4414816370094308, 0.38788073583108196),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_equals_the_numbers_recorded_from_the_public_code(name):
    found = score_frame(*golden_pairs()[name])
    assert found.j == pytest.approx(GOLDEN[name][0], abs=1e-12)
    assert found.f == pytest.approx(GOLDEN[name][1], abs=1e-12)


def test_equals_the_whole_frame_method_on_many_pairs():
    """The benchmark script's pairs and transcription; run with --davis it compares 10,000 with the public code."""
    rng = np.random.default_rng(5)
    with script("benchmarks/metrics.py") as benchmark:
        for _ in range(1500):
            pair = benchmark.random_pair(rng)
            assert score_frame(*pair) == pytest.approx(benchmark.whole_frame(*pair), abs=1e-12)


def means(value):
    return {"J&F": value, "J": value, "J_recall": float(value > 0.5), "F": value, "F_recall": 1.0}


def test_intervals_are_the_bootstraps_over_sequences():
    rng = np.random.default_rng(0)
    sequences = [[means(v) for v in rng.random(n)] for n in (1, 3, 2, 5, 1, 4)]
    found = metrics.confidence_interval(sequences, 0.9, 500, seed=3)
    drawn = np.random.default_rng(3).integers(0, 6, (500, 6))
    expected = sorted(np.mean([t["J"] for k in row for t in sequences[k]]) for row in drawn)
    assert found["J"] == pytest.approx(np.quantile(expected, [0.05, 0.95]), abs=1e-12)
    assert found["F_recall"] == [1.0, 1.0]
    assert metrics.confidence_interval(sequences, 0.9, 500, seed=3) == found
    assert (found["level"], found["resamples"]) == (0.9, 500)


def test_one_sequence_has_no_interval():
    assert metrics.confidence_interval([[means(0.3), means(0.6)]]) is None
    assert metrics.confidence_interval([]) is None


def test_the_interval_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        values = 0.6 + 0.1 * rng.standard_normal(30)
        low, high = metrics.confidence_interval([[means(v)] for v in values], resamples=300)["J"]
        hits += low <= 0.6 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_the_interval_does_not_depend_on_the_order_of_scoring():
    rows = [(s, e, FrameScore(0.1 * s, 0.05 * e)) for s in range(5) for e in range(3)]
    one, two = Scores(), Scores()
    for scores, order in ((one, rows), (two, rows[::-1])):
        for s, e, score in order:
            scores.add_score(str(s), str(e), "00000", score)
    assert one.summary()["confidence_interval"] == two.summary()["confidence_interval"]
