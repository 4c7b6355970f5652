"""Synthetic satellite video: determinism, truth, tags, switches, make-up of the splits."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from test_expressions import matches

from mqc_jax import moving
from mqc_jax.data.synthetic import DIFFICULTIES, Renderer, plan_sequence, render, render_frame
from mqc_jax.data.synthetic.masks import Masks
from mqc_jax.data.synthetic.planning import TINY
from mqc_jax.data.synthetic.silhouettes import SUPERCLASS, draw
from mqc_jax.errors import UserError

SEED = 5


@pytest.fixture(scope="module")
def hard():
    """Plans of a whole test split at its default number of sequences."""
    return [plan_sequence(SEED, i, "test") for i in range(29)]


def actor(plan, object_id):
    return next(a for a in plan.actors if a.object_id == object_id)


def share(plans, *tags):
    found = [bool(set(tags) & set(p.object_tags[i])) for p in plans for i in p.targets]
    return sum(found) / len(found)


# The make-up of the splits, from plans alone.


def test_make_up_of_the_test_split(hard):
    assert all(60 <= p.frames <= 150 for p in hard)
    sizes = {p.size for p in hard}
    assert len(sizes) >= 5
    assert {(512, 502), (1080, 2160)} <= sizes
    assert all(500 <= h <= 1080 and 502 <= w <= 2160 for h, w in sizes)
    areas = [np.median(a[a > 0]) / (p.size[0] * p.size[1]) for p in hard for a in p.areas.values()]
    assert np.median(areas) <= 0.003
    assert share(hard, "look_alikes") >= 0.5
    assert share(hard, "occlusion") >= 0.4
    assert share(hard, "late_start", "static") >= 0.25
    assert share(hard, "leaves_frame") >= 0.1
    assert share(hard, "late_start") > 0
    assert share(hard, "static") > 0


def test_the_test_split_shows_every_superclass_and_scene(hard):
    assert {SUPERCLASS[p.categories[i]] for p in hard for i in p.targets} == {"airplane", "ship", "car", "train"}
    assert {p.scene.kind.split("_")[0] for p in hard} == {"airport", "harbour", "open", "roads"}
    assert {t for p in hard for t in p.tags} == set(DIFFICULTIES) | {"occlusion"}


def test_make_up_of_the_train_split():
    plans = [plan_sequence(SEED, i, "train") for i in range(12)]
    areas = [np.median(a[a > 0]) / (p.size[0] * p.size[1]) for p in plans for a in p.areas.values()]
    assert all(24 <= p.frames <= 80 for p in plans)
    assert 5e-4 < np.median(areas) < 0.01
    assert max(areas) < 0.03


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_expression_names_one_object_of_the_first_frame(split, hard):
    plans = hard[:12] if split == "test" else [plan_sequence(SEED, i) for i in range(12)]
    for plan in plans:
        assert plan.phrases
        labels = Masks(plan).labels(0)
        colours = {a.object_id: a.colour for a in plan.actors}
        for phrase in plan.phrases:
            adjective = phrase.text.split()[1]
            fits = matches(phrase.text, labels, plan.categories)
            if adjective in set(colours.values()):
                fits = {i for i in fits if colours[i] == adjective}
            assert fits == {phrase.object_id}, phrase


def test_with_moving_rivals_a_sentence_may_fit_what_stands_and_nothing_else():
    changed = 0
    for index in (0, 4, 7, 14):
        plan, plain = plan_sequence(20260112, index, "test", rivals="moving"), plan_sequence(20260112, index, "test")
        np.testing.assert_array_equal(Masks(plan).labels(0), Masks(plain).labels(0))
        assert plan.targets == plain.targets
        labels = Masks(plan).labels(0)
        for phrase, before in zip(plan.phrases, plain.phrases, strict=True):
            fits = matches(phrase.text, labels, plan.categories)
            assert phrase.object_id in fits
            if phrase.text != before.text:
                changed += 1
                assert len(fits) > 1
                assert not actor(plan, phrase.object_id).is_static
                assert all(actor(plan, i).is_static for i in fits - {phrase.object_id})
    assert changed == 3


def test_broken_clouds_pass_over_what_one_cloud_would_and_over_nothing_else():
    for index, hidden in ((0, False), (1, True), (5, True), (7, True)):
        plan = plan_sequence(20260112, index, "test", frames=60, clouds="broken")
        plain = plan_sequence(20260112, index, "test", frames=60)
        assert plan.phrases == plain.phrases
        np.testing.assert_array_equal(Masks(plan).labels(0), Masks(plain).labels(0))
        assert ("occlusion" in plan.object_tags[1]) == hidden
        if not hidden:
            assert plan.clouds == plain.clouds
            continue
        covered = plan.areas[1] < 0.75 * np.median(plan.areas[1])
        assert not covered[0]
        begins = np.flatnonzero(np.diff(covered.astype(int)) == 1)
        assert len(begins) >= 3
        assert (~covered).mean() > 0.5
        wind = {(round(c.vx, 9), round(c.vy, 9)) for c in plan.clouds if c.radius < min(plain.scene.half) * 0.2}
        assert len(wind) == 1


def test_motion_words_say_what_moves():
    plan, plain = plan_sequence(20260112, 3, "test", motion_words=True), plan_sequence(20260112, 3, "test")
    said = {p.object_id: p.text for p in plan.phrases}
    assert len(said) == 3
    for phrase in plain.phrases:
        motion = moving.find(said[phrase.object_id])
        assert motion == moving.Motion(not actor(plan, phrase.object_id).is_static, phrase.text)


# Determinism.


def test_a_layout_that_is_hard_to_find_is_found():
    # Seed 204 needs 109 layouts here; giving up sooner lost a long run of the generator at its hundredth sequence.
    assert plan_sequence(204, 112, "test", frames=14).phrases


def test_equal_arguments_give_equal_frames_and_others_do_not():
    first, again = ([*render(plan_sequence(3, 1, size=(192, 256), frames=4))] for _ in range(2))
    for (frame, labels), (frame2, labels2) in zip(first, again, strict=True):
        np.testing.assert_array_equal(frame, frame2)
        np.testing.assert_array_equal(labels, labels2)
    for seed, index, split in ((4, 1, "train"), (3, 2, "train"), (3, 1, "test")):
        other = render_frame(plan_sequence(seed, index, split, size=(192, 256), frames=4), 0)[0]
        assert (other != first[0][0]).mean() > 0.5


def test_frames_do_not_depend_on_the_order_of_rendering():
    plan = plan_sequence(3, 3, size=(192, 256), frames=6)
    in_order = [*render(plan)]
    renderer = Renderer(plan)
    for t in (4, 0, 5, 4):
        for a, b in zip(renderer.frame(t), in_order[t], strict=True):
            np.testing.assert_array_equal(a, b)


def test_labels_without_rendering_equal_those_of_the_frames(hard):
    plan = hard[1]
    renderer, masks = Renderer(plan), Masks(plan)
    for t in (0, plan.frames // 2):
        frame, labels = renderer.frame(t)
        assert frame.shape == (*plan.size, 3)
        assert frame.dtype == labels.dtype == np.uint8
        np.testing.assert_array_equal(masks.labels(t), labels)


# Truth and tags.


def test_nothing_under_a_bridge_is_labelled(hard):
    seen = 0
    for plan in hard:
        crossing = [i for i in plan.targets if plan.scene.decks and actor(plan, i).level == 0 and not plan.clouds]
        if not crossing or "occlusion" not in plan.object_tags[crossing[0]]:
            continue
        masks, open_air = Masks(plan), Masks(replace(plan, scene=replace(plan.scene, decks=[])))
        below = [a.object_id for a in plan.actors if a.level == 0 and a.object_id]
        area = plan.areas[crossing[0]]
        hidden = 0
        for t in range(0, plan.frames, 5):
            deck = np.zeros(plan.size, np.uint8)
            place = plan.to_frame(t)
            for polygon in plan.scene.decks:
                corners = np.clip(polygon @ place[:, :2].T + place[:, 2], -30000, 30000)
                cv2.fillPoly(deck, [np.round(corners * 16).astype(np.int32)], 1, shift=4)
            deck = cv2.erode(deck, np.ones((5, 5), np.uint8), borderValue=1)
            labels = masks.labels(t)
            assert not np.isin(labels[deck > 0], below).any()
            without = open_air.labels(t)
            hidden += int((without[deck > 0] == crossing[0]).sum())
            assert (labels == crossing[0]).sum() <= area[t]  # less only where another object lies over it
        seen += hidden > 0
    assert seen >= 1, "no sequence of the split has a target under a bridge at a sampled frame"


def test_a_cloud_empties_the_mask(hard):
    plan = next(p for p in hard if p.clouds and not p.scene.decks and (p.areas[1] == 0).any())
    t = int(np.flatnonzero(plan.areas[1] == 0)[0])
    clear = Masks(replace(plan, clouds=())).labels(t)
    assert (clear == 1).sum() > 0
    frame, labels = Renderer(plan).frame(t)
    assert (labels == 1).sum() == 0
    assert plan.areas[1][0] > 0  # yet it is visible where it is named
    # What the picture shows there is the cloud: brighter than the same place without it.
    bare = Renderer(replace(plan, clouds=())).frame(t)[0]
    place = clear == 1
    assert np.abs(frame[place].astype(int) - bare[place]).mean() > 5


def test_tags_of_the_targets_mean_what_they_say(hard):
    for plan in hard[:14]:
        free = Masks(replace(plan, clouds=(), scene=replace(plan.scene, decks=[])))
        first = set(np.unique(Masks(plan).labels(0)).tolist())
        for i in plan.targets:
            tags, who, area = set(plan.object_tags[i]), actor(plan, i), plan.areas[i]
            k = plan.actors.index(who)
            moved = np.array([who.track.pose(t, 1.0)[:2] for t in range(plan.frames)])
            step = np.linalg.norm(np.diff(moved, axis=0), axis=1)
            assert ("static" in tags) == (step.max() < 1e-9)
            assert ("late_start" in tags) == (step[:8].max() < 1e-9 < step.max())
            whole = np.array([sum(int(m.sum()) for _, m, _ in free.visible(k, t)) for t in range(plan.frames)])
            assert ("leaves_frame" in tags) == bool((whole[1:] == 0).any())
            assert ("occlusion" in tags) == bool(((whole >= 4) & (area <= 0.75 * whole)).any())
            assert ("tiny" in tags) == (np.median(area[area > 0]) <= TINY * plan.size[0] * plan.size[1])
            kin = [a for a in plan.actors if a.object_id in first - {0, i} and a.category == who.category]
            assert ("look_alikes" in tags) == any(a.is_static for a in kin)
            assert area[0] > 0


def test_an_object_in_the_open_never_vanishes(hard):
    index = next(p.index for p in hard if p.scene.kind.startswith("roads"))
    plan = plan_sequence(SEED, index, "test", disable=["occlusion"])
    masks, checked = Masks(plan), 0
    for t in (0, plan.frames // 2, plan.frames - 1):
        labels = masks.labels(t)
        place = plan.to_frame(t)
        for a in plan.actors:
            x, y = place[:, :2] @ a.track.pose(t, 0.5 * a.length)[:2] + place[:, 2]
            if a.object_id and 3 < x < plan.size[1] - 4 and 3 < y < plan.size[0] - 4:
                assert (labels == a.object_id).any(), a
                checked += SUPERCLASS[a.category] == "car"
    assert checked > 5


def test_weak_saliency_lowers_the_contrast_of_a_target(hard):
    def contrast(plan):
        frame, labels = Renderer(plan).frame(0)
        target = labels == plan.targets[0]
        ring = cv2.dilate(target.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool) & ~target
        return np.abs(frame[target].mean(0) - frame[ring].mean(0)).mean()

    weak = [p for p in hard if "weak_saliency" in p.tags and p.size[0] < 700][:3]
    assert len(weak) == 3
    for plan in weak:
        tone = replace(plan.tone, contrast=0.9, lift=15.0)
        assert contrast(plan) < 0.75 * contrast(replace(plan, saliency=1.0, tone=tone))


@pytest.mark.parametrize("difficulty", [*DIFFICULTIES, "occlusion"])
def test_each_difficulty_can_be_switched_off(difficulty):
    plans = [plan_sequence(SEED, i, "train", size=(320, 320), frames=30, disable=[difficulty]) for i in range(6)]
    gone = {"occlusion", "bridges", "clouds"} if difficulty == "occlusion" else {difficulty}
    for plan in plans:
        assert not gone & set(plan.tags)
        assert not gone & {t for i in plan.targets for t in plan.object_tags[i]}
    plain = {
        "clouds": lambda p: not p.clouds,
        "bridges": lambda p: not p.scene.decks,
        "blur": lambda p: p.blur == 0,
        "noise": lambda p: p.noise == 0,
        "illumination": lambda p: np.ptp(p.exposure) == 0,
        "jitter": lambda p: not p.camera.any(),
        "weak_saliency": lambda p: p.saliency == 1,
    }
    assert all(plain.get(difficulty, lambda p: True)(p) for p in plans)


def test_without_noise_jitter_and_illumination_still_ground_stays_equal():
    off = ["noise", "jitter", "illumination", "occlusion", "moving_distractors"]
    plan = plan_sequence(SEED, 0, "train", size=(256, 256), frames=20, disable=off)
    assert plan.scene.kind.startswith(("airport", "roads"))
    renderer = Renderer(plan)
    change = np.abs(renderer.frame(0)[0].astype(int) - renderer.frame(19)[0]).max(-1)
    assert (change == 0).mean() > 0.8
    noisy = Renderer(replace(plan, noise=3.0))
    assert (np.abs(noisy.frame(0)[0].astype(int) - noisy.frame(19)[0]).max(-1) == 0).mean() < 0.3


def test_silhouettes_have_real_proportions():
    for category in SUPERCLASS:
        drawing = draw(category, np.random.default_rng(0))
        reach = np.concatenate([p for p, _ in drawing.shapes])
        size = np.ptp(reach, axis=0)
        assert size[0] == pytest.approx(drawing.length, rel=0.12)
        ratio = size[0] / size[1]
        low, high = (0.8, 1.6) if SUPERCLASS[category] == "airplane" else (2.0, 9.0)
        assert low < ratio < high, category
    spans = {c: draw(c, np.random.default_rng(0)).width for c in SUPERCLASS}
    assert spans["wide_bodied_aircraft"] > 1.5 * spans["narrow_bodied_aircraft"] > 1.5 * spans["corporate_aircraft"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"split": "valid"}, "unknown split 'valid'"),
        ({"seed": -1}, "must not be negative"),
        ({"disable": ["cloud"]}, "did you mean 'clouds'"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(UserError, match=words):
        plan_sequence(**({"seed": 0, "index": 0} | arguments))
