"""The checkpoint that ships, through the demo's own command."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny

import mqc_jax
from mqc_jax.data.synthetic import Renderer, plan_sequence

ROOT = Path(__file__).parents[1]


def test_the_demo_runs_end_to_end_and_says_where_its_report_is(tmp_path):
    line = [sys.executable, "tools/demo.py", "--output", str(tmp_path / "demo")]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=600, env=tiny.users_environment())
    assert done.returncode == 0, done.stderr
    report = Path(done.stdout.strip().splitlines()[-1].removeprefix("report: "))
    assert report == tmp_path / "demo" / "result" / "report.html"
    assert report.stat().st_size > 10_000
    masks = sorted((report.parent / "masks" / "00").iterdir())
    assert len(masks) == 40
    # The right target, not just any mask: the demo's clip comes with its truth.
    clip = tmp_path / "demo" / "clip"
    listing = json.loads((clip / "meta_expressions" / "train" / "meta_expressions.json").read_text())["videos"]
    name, video = next(iter(listing.items()))
    from PIL import Image

    overlaps, hidden = [], []
    for path, frame in zip(masks, video["frames"], strict=True):
        labels = np.asarray(Image.open(clip / "train" / "Annotations" / name / f"{frame}.png"))
        truth = labels == int(video["expressions"]["0"]["obj_id"])
        found = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) > 0
        hidden.append(not truth.any())
        overlaps.append((truth & found).sum() / max((truth | found).sum(), 1))
    assert np.mean(np.array(overlaps)[~np.array(hidden)]) > 0.5, overlaps
    # It passes under a cloud, and is found again.
    assert 3 <= sum(hidden) < 20
    assert not hidden[-1]
    assert np.mean(overlaps[-8:]) > 0.5, overlaps


def labels_meant(sentences: list[str]) -> list[int]:
    """Which object of sequence 25 each sentence means, once motion has told."""
    plan = plan_sequence(20260112, 25, "test", rivals="moving")
    tracker = mqc_jax.Tracker(mqc_jax.load().replace(calibration="tmcc"), texts=sentences)
    renderer, outs = Renderer(plan), []
    for t in range(tracker.model.config.tmcc.n_max + 1):  # after these it is chosen
        outs += tracker.push(renderer.frame(t)[0])
    labels = renderer.frame(outs[-1].frame_index)[1]
    return [int(np.bincount(labels[mask & (labels > 0)]).argmax()) for mask in outs[-1].masks]


@pytest.mark.slow
def test_what_a_sentence_says_of_motion_tells_which_freighter_is_meant():
    """Two freighters lie at the bottom of a test sequence, and one sets out."""
    plan = plan_sequence(20260112, 25, "test", rivals="moving")
    said = "the freighter at the bottom"
    assert said in {phrase.text for phrase in plan.phrases}
    meant = tiny.alone(labels_meant, [said, "the moving freighter at the bottom", f"{said} that is not moving"])
    static = {actor.object_id: actor.is_static for actor in plan.actors}
    assert {plan.categories[i] for i in meant} == {"freighter"}
    assert [static[i] for i in meant] == [False, False, True]


@pytest.mark.slow
def test_what_sets_off_after_the_choice_is_followed_from_then_on():
    """Five boats fit the sentence, and none moves in the first 17 frames."""
    plan = plan_sequence(905, 3, "test", frames=60, rivals="moving")
    renderer = Renderer(plan)
    (phrase,) = plan.phrases
    tracker, outs = mqc_jax.Tracker(mqc_jax.load().replace(calibration="tmcc"), texts=[phrase.text]), []
    frames = [renderer.frame(t) for t in range(36)]
    for picture, _ in frames:
        outs += tracker.push(picture)
    changed = [t for t, out in enumerate(outs) if out.memory.get("rechosen", [False])[0]]
    assert changed == [28]
    for out, (_, labels) in zip(outs, frames, strict=True):
        overlap = (out.masks[0] & (labels == phrase.object_id)).sum() / out.masks[0].sum()
        assert overlap > 0.7 if out.frame_index >= 28 else overlap == 0


def test_the_shipped_checkpoint_is_small_and_complete():
    model = mqc_jax.load()
    folder = Path(model.path)
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 25e6
    ids, mask = model.tokenizer.encode(["the yacht at the bottom-right"], model.config.bert.max_tokens)
    assert mask.sum() >= 8
    assert ids.max() < model.config.bert.vocab_size
