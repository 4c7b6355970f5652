"""The table of variants: its numbers are the metric's own, its intervals hold, its references do what they say."""

import dataclasses
import shutil
import sys
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
import tiny

import mqc_jax
from mqc_jax.data.source import open_source
from mqc_jax.errors import UserError
from mqc_jax.metrics import FrameScore

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import variants


def frames(rng: np.random.Generator, sequences: int, gain: float = 0.0) -> list:
    found = []
    for s in range(sequences):
        level = rng.uniform(0.2, 0.7)
        found += [((f"s{s}", "0"), f"{t:05d}", FrameScore(level + gain, level + gain)) for t in range(4)]
    return found


def test_a_difference_is_drawn_pairwise():
    low = variants.summary(frames(np.random.default_rng(0), 12))
    high = variants.summary(frames(np.random.default_rng(0), 12, 0.05))
    # Sequences differ by far more than the gain, but each of them gains.
    np.testing.assert_allclose(variants.difference(high, low), [0.05] * 3, atol=1e-9)
    other = variants.summary(frames(np.random.default_rng(1), 12))
    mean, below, above = variants.difference(other, low)
    assert below < mean < above
    assert above - below > 0.05


def test_the_opencv_reference_moves_the_first_mask_with_its_box(tiny_model, monkeypatch):
    mask = np.zeros((1, 80, 100), bool)
    mask[0, 30:40, 20:34] = True

    class First(mqc_jax.Tracker):
        def push(self, frame):
            return [dataclasses.replace(out, masks=mask) for out in super().push(frame)]

    monkeypatch.setattr(variants, "tracker_of", First)
    tracker = variants.BoxTracker(tiny_model, ["the yacht at the left"])
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 255, (10, 14, 3), np.uint8)
    ground = cv2.GaussianBlur(rng.integers(60, 90, (80, 100, 3), np.uint8), (0, 0), 3)
    centres = []
    for t in range(8):
        frame = ground.copy()
        frame[30:40, 20 + 3 * t : 34 + 3 * t] = texture
        (out,) = tracker.push(frame)
        assert out.frame_index == t
        assert out.masks.sum() == mask.sum()
        centres.append(np.nonzero(out.masks[0])[1].mean())
    assert abs(centres[-1] - centres[0] - 21) <= 4
    assert tracker.finish() == []


@pytest.mark.parametrize(("x", "y", "width", "height"), [(40, 30, 3, 2), (98, 78, 2, 2), (0, 0, 1, 5), (20, 10, 30, 3)])
def test_the_opencv_reference_gets_a_box_that_it_can_follow(x, y, width, height):
    mask = np.zeros((80, 100), bool)
    mask[y : y + height, x : x + width] = True
    left, top, across, down = variants.BoxTracker._box(mask)
    assert min(across, down) >= 8  # it never came back from 3x2
    assert mask[top : top + down, left : left + across].sum() == mask.sum()
    assert 0 <= left <= 100 - across
    assert 0 <= top <= 80 - down


def test_targets_without_words_start_from_their_true_masks(tiny_dataset, tiny_model, tmp_path):
    source = open_source("ref_youtube_vos", tiny_dataset, "test")
    variants.compute("true_mask", tiny_model, variants.WithoutWords(source), tmp_path / "true_mask")
    first = [score for _, frame, score in variants.frames_of(tmp_path / "true_mask") if frame.endswith("00000")]
    assert min(score.j for score in first) > 0.35  # 30 pixels, seen on a grid of 16x16


def test_a_sequence_is_computed_once_or_when_it_is_asked_for(tiny_dataset, tiny_model, tmp_path, monkeypatch):
    source = open_source("ref_youtube_vos", tiny_dataset, "train")
    names, computed, evaluated = [s.name for s in source.sequences], [], variants.evaluate_model

    def told(one, *args, **kwargs):
        computed.extend(sequence.name for sequence in one.sequences)
        return evaluated(one, *args, **kwargs)

    monkeypatch.setattr(variants, "evaluate_model", told)
    whole = evaluated(source, variants.beginning("baseline", tiny_model), str(tmp_path / "whole"), even=False)
    variants.compute("baseline", tiny_model, source, tmp_path / "row")
    found = variants.frames_of(tmp_path / "row")
    assert computed == names
    assert len(names) > 1
    assert variants.summary(found)["J&F"] == pytest.approx(whole["J&F"], abs=1e-6)
    variants.compute("baseline", dataclasses.replace(tiny_model, path="moved"), source, tmp_path / "row")
    assert computed == names
    shutil.rmtree(tmp_path / "row" / names[1])
    variants.compute("baseline", tiny_model, source, tmp_path / "row")
    assert computed == [*names, names[1]]
    variants.compute("baseline", tiny_model, source, tmp_path / "row", again=names[:1])
    assert computed == [*names, names[1], names[0]]
    assert variants.frames_of(tmp_path / "row") == found
    other = dataclasses.replace(tiny_model, params=jax.tree.map(lambda leaf: leaf + 1, tiny_model.params))
    with pytest.raises(UserError, match="scores of another model"):
        variants.compute("baseline", other, source, tmp_path / "row")
    with pytest.raises(UserError, match="no sequence 'nobody' to compute again"):
        variants.compute("baseline", tiny_model, source, tmp_path / "row", again=["nobody"])


def test_sequences_to_compute_again_are_of_one_split_or_of_all():
    assert variants.again_of(["8/b", "a"], ["7", "8"]) == {"7": ["a"], "8": ["b", "a"]}
    with pytest.raises(UserError, match="'9/a' is of no split; there are 7, 8"):
        variants.again_of(["9/a"], ["7", "8"])


@pytest.mark.parametrize("row", ["baseline", "full", "true_mask"])
def test_rows_see_the_windows_that_are_asked_for(row, tiny_model):
    begin = variants.beginning(row, tiny_model.replace(tile=32))
    given = np.ones((1, 80, 100), bool) if row == "true_mask" else ["the yacht at the left"]
    tracker = begin(given)
    tracker.push(np.zeros((80, 100, 3), np.uint8))
    assert len(tracker.windows) == 1


def test_attributes_and_sizes_cover_every_target(tiny_dataset):
    source = open_source("ref_youtube_vos", tiny_dataset, "test")
    groups = variants.groups({"7": source})
    sizes = [groups[name] for _, _, name in variants.SIZES]
    everybody = {(f"7/{s.name}", e.id) for s in source.sequences for e in s.expressions}
    assert set().union(*sizes) == everybody
    assert sum(map(len, sizes)) == len(everybody)
    rng = np.random.default_rng(0)
    scored = {"baseline": [], "full": []}
    for target in sorted(everybody):
        level = rng.uniform(0.2, 0.6)
        scored["baseline"].append((target, "00000", FrameScore(level, level)))
        scored["full"].append((target, "00000", FrameScore(level + 0.1, level + 0.1)))
    text = variants.table(scored, {"7": source})
    assert text.count("| baseline |") == 2
    assert text.count("| full |") == 2


def test_the_sentence_on_every_frame_changes_later_frames_alone(tiny_model, tmp_path):
    pictures = tiny.frames(4)
    again = tiny_model.replace(text_every_frame=True)
    plain, repeated = (mqc_jax.Tracker(model, ["the yacht at the left"]) for model in (tiny_model, again))
    given = [mqc_jax.Tracker(model, masks=np.ones((1, 64, 64), bool)) for model in (tiny_model, again)]
    for t, picture in enumerate(pictures):
        a, b = plain.push(picture)[0], repeated.push(picture)[0]
        assert np.array_equal(a.mask_logits, b.mask_logits) == (t == 0)
        c, d = (tracker.push(picture)[0] for tracker in given)
        np.testing.assert_allclose(c.mask_logits, d.mask_logits, atol=1e-4)
        if t == 1:
            repeated.save(tmp_path / "state.npz")
    restored = mqc_jax.Tracker.restore(again, tmp_path / "state.npz")
    for picture, expected in zip(pictures[2:], (None, b), strict=True):
        out = restored.push(picture)[0]
        if expected is not None:
            np.testing.assert_array_equal(out.mask_logits, expected.mask_logits)
