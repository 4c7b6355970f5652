"""DAMI's memory in the whole model: what its gates let in, what is read, and that it looks at the past alone."""

import csv
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

import mqc_jax
from mqc_jax import checkpoint, viz_memory
from mqc_jax.checkpoint import Model
from mqc_jax.config import DamiConfig, LossConfig
from mqc_jax.errors import UserError
from mqc_jax.evaluate import evaluate_model
from mqc_jax.memory_log import COLUMNS, MemoryHistory
from mqc_jax.metrics import Reacquisition
from mqc_jax.models import dami, dami_bank, functional, memory_bank, registration
from mqc_jax.predict import predict
from mqc_jax.text import Tokenizer
from mqc_jax.train.step import clip_loss, forward

TEXTS = ["the yacht at the left", "a boat that overtakes the other"]
CONFIG = dataclasses.replace(tiny.MODEL, memory="dami")


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(CONFIG, tiny.parameters(CONFIG), Tokenizer.default(), functional.build(CONFIG), "tiny")


def follow(model, frames, texts=TEXTS):
    tracker = mqc_jax.Tracker(model, texts=texts)
    return [out for frame in frames for out in tracker.push(frame)] + tracker.finish()


def assert_same(ours, theirs):
    np.testing.assert_array_equal(ours.mask_logits, theirs.mask_logits)
    assert ours.memory.keys() == theirs.memory.keys()
    for name, value in ours.memory.items():
        np.testing.assert_array_equal(value, theirs.memory[name], err_msg=name)


# ---- what reaches what ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0, 2, 5])
def test_no_later_frame_changes_an_earlier_output(model, t):
    frames = tiny.frames(8)
    other = [*frames[: t + 1], *tiny.frames(7 - t, seed=9)]
    for ours, theirs in zip(follow(model, frames)[: t + 1], follow(model, other)[: t + 1], strict=True):
        assert_same(ours, theirs)


def test_the_sentence_is_never_read_after_frame_0(model):
    frames = tiny.frames(5)
    one, other = (mqc_jax.Tracker(model, texts=TEXTS) for _ in range(2))
    assert_same(one.push(frames[0])[0], other.push(frames[0])[0])
    other._targets = {i: dataclasses.replace(t, text="the ferry at the right") for i, t in other._targets.items()}
    for frame in frames[1:]:
        assert_same(one.push(frame)[0], other.push(frame)[0])


def test_a_stream_goes_on_where_it_was_saved(model, tmp_path):
    frames = tiny.frames(8)
    tracker = mqc_jax.Tracker(model, texts=TEXTS)
    for frame in frames[:5]:
        tracker.push(frame)
    tracker.save(tmp_path / "state.npz")
    again = mqc_jax.Tracker.restore(model, tmp_path / "state.npz")
    for frame in frames[5:]:
        assert_same(tracker.push(frame)[0], again.push(frame)[0])


def test_streaming_equals_the_rollout_that_training_scans(model):
    frames = tiny.frames(6)
    streamed = follow(model, frames)[1:]

    @jax.jit
    def run(params, images, ids, mask):
        features = functional.encode_frame(model.net, params, images)
        at = lambda s: jax.tree.map(lambda x: x[s], features)  # noqa: E731
        bank, _ = functional.start(
            model.net, params, at(slice(0, 1)), functional.encode_text(model.net, params, ids, mask)
        )
        rest = jax.tree.map(lambda x: x[:, None], at(slice(1, None)))
        return functional.rollout(model.net, params, bank, rest)[1]

    scanned = run(model.params, np.stack(frames), *model.tokenizer.encode(TEXTS, 16))
    for t, out in enumerate(streamed):
        np.testing.assert_allclose(scanned.mask_logits[t], out.mask_logits, atol=2e-4)
        np.testing.assert_array_equal(scanned.decision.short_slot[t], out.memory["short_slot"])


def test_the_state_never_grows(model):
    tracker = mqc_jax.Tracker(model, texts=TEXTS)
    shapes = set()
    for frame in tiny.frames(25):
        tracker.push(frame)
        shapes.add(str(jax.tree.map(lambda x: (x.shape, x.dtype), tracker._groups[0].bank)))
    assert len(shapes) == 1


# ---- equal to SAM2's memory where it is told to be ------------------------------------------------------------------


IMITATION = DamiConfig(
    fusion="joint",
    short=5,
    prototypes=1,
    gain_percentile=0.0,
    confidence="none",
    min_presence=0.0,
    min_quality=0.0,
    min_usual_quality=0.0,
    max_usual_area=0.0,
    reliability=1.0,
)


def test_with_its_switches_set_so_it_is_sam2s_memory(tiny_model):
    ours = dataclasses.replace(
        tiny_model.replace(memory="dami"),
        config=dataclasses.replace(CONFIG, dami=IMITATION),
        net=functional.build(dataclasses.replace(CONFIG, dami=IMITATION)),
    )
    layer = {**ours.params["memory_attention"]["layers.0"], "p_rel": np.zeros(5, np.float32)}
    attention = {**ours.params["memory_attention"], "layers.0": layer}
    ours = dataclasses.replace(ours, params={**ours.params, "memory_attention": attention})
    frames = tiny.frames(6)  # 1 + 5 entries: as many as both hold
    for theirs, mine in zip(follow(tiny_model, frames), follow(ours, frames), strict=True):
        np.testing.assert_allclose(mine.mask_logits, theirs.mask_logits, rtol=1e-5, atol=1e-5)
        assert mine.memory["registered"].all()


def test_a_checkpoint_of_sam2s_memory_serves_without_training_but_not_the_other_way(tiny_model, model):
    found = follow(tiny_model.replace(memory="dami"), tiny.frames(4))
    for out in found[1:]:
        assert ((out.memory["score"] > 0) & (out.memory["score"] < 1)).all()
        np.testing.assert_allclose(out.memory["mass"].sum(1), 1, atol=1e-5)
    with pytest.raises(UserError, match="trained with memory='dami'"):
        model.replace(memory="sam2")


def test_a_frame_that_is_passed_over_leaves_no_trace_but_its_time(model):
    always = DamiConfig(
        gain_percentile=0.0, min_presence=0.0, min_quality=0.0, min_usual_quality=0.0, max_usual_area=0.0
    )
    config = dataclasses.replace(CONFIG, dami=always)
    model, video = dataclasses.replace(model, config=config, net=functional.build(config)), tiny.frames(8)
    tracker = mqc_jax.Tracker(model, texts=TEXTS)
    for frame in video[:6]:
        tracker.push(frame)
    before = tracker._memories()
    (written,) = tracker.push(video[6])
    assert written.memory["registered"].all()
    passed = tracker._pass_over(written, before)
    assert not passed.memory["registered"].any()
    for name in registration.WRITTEN:
        assert (written.memory[name] >= 0).all() or name.startswith("prototype")
        assert (passed.memory[name] == -1).all()
    for now, then in zip(tracker._memories(), before, strict=True):
        older = then.replace(feature=memory_bank.tick(then.feature), pointer=memory_bank.tick(then.pointer))
        jax.tree.map(np.testing.assert_array_equal, now, older)
    # What is not about the memory stays, and the stream goes on.
    np.testing.assert_array_equal(passed.masks, written.masks)
    (after,) = tracker.push(video[7])
    assert after.memory["registered"].all()


# ---- the gates ------------------------------------------------------------------------------------------------------


def beside_usual(values: np.ndarray, good: np.ndarray, config: DamiConfig) -> np.ndarray:
    """Each frame's value over the median of the good ones before it, of one target, in plain words."""
    before, found = [], [1.0]
    for now, counts in zip(values[1:], good[1:], strict=True):
        usual = np.median(before[-config.history :]) if before else now
        found.append(now / max(usual, 1e-9))
        if counts:
            before.append(now)
    return np.array(found)


def growths(
    areas: np.ndarray, good: np.ndarray, beside: np.ndarray, config: DamiConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Each frame's area over the usual one, and whether that is too much, of one target, in plain words."""
    before, ratios, grown, row = [], [1.0], [False], 0
    for now, counts, quality in zip(areas[1:], good[1:], beside[1:], strict=True):
        usual = np.median(before[-config.history :]) if before else now
        ratios.append(now / max(usual, 1e-9))
        larger = bool(counts and config.max_usual_area and ratios[-1] > config.max_usual_area)
        larger &= not (quality >= 1.25 and ratios[-1] <= 2.5)
        if counts:
            row = row + 1 if larger else 0
        grown.append(larger and row <= config.history // 2)
        if counts and not grown[-1]:
            before.append(max(now, 0.97 * usual))
    return np.array(ratios), np.array(grown)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("ambiguity", "confidence"), [("paper", "certainty"), ("elsewhere", "none"), ("dam4sam", "probability")]
)
def test_five_hundred_frames_of_any_kind_leave_a_sound_memory(seed, ambiguity, confidence):
    rng = np.random.default_rng(seed)
    config = DamiConfig(
        ambiguity=ambiguity,
        confidence=confidence,
        gain_percentile=float(rng.choice([0, 50, 90])),
        ambiguity_percentile=float(rng.choice([10, 100])),
        reliability=float(rng.choice([0.0, 0.5])),
        min_usual_quality=float(rng.choice([0.0, 0.85])),
        max_usual_area=float(rng.choice([0.0, 1.1])),
    )
    steps, n, grid, size = 500, 2, 2, 8
    # Empty, full, faint and enormous; present and absent in bursts.
    scale = rng.choice([0.0, 1e-3, 1.0, 1e3], (steps, n)).astype(np.float32)
    present = np.repeat(rng.random((steps // 10, n)) < 0.6, 10, 0)
    entry = rng.normal(size=(steps, n, grid, grid, 4)).astype(np.float32) * scale[..., None, None, None]
    masks = rng.normal(size=(steps, n, 3, size, size)).astype(np.float32) * 10 * scale[..., None, None, None]
    seen = dami_bank.Seen(
        entry=entry,
        pointer=entry[..., 0, 0, :],
        mask_logits=np.where(present[..., None, None], masks[:, :, 0], -1024.0),
        hypotheses=masks,
        ious=rng.random((steps, n, 3)).astype(np.float32),
        presence_logits=np.where(present, 8.0, -8.0).astype(np.float32),
    )

    def scorer(feature, confidence, change):
        return jax.nn.sigmoid(feature.mean(-1) + confidence - change)

    @jax.jit
    def run(seen):
        first = jax.tree.map(lambda x: x[0], seen)
        bank = dami_bank.begin(config, first.entry, first.pointer, first.mask_logits)

        def body(bank, one):
            bank = bank.replace(feature=memory_bank.tick(bank.feature), pointer=memory_bank.tick(bank.pointer))
            bank, decision = dami_bank.register(config, bank, one, scorer, jnp.zeros((n, 3)))
            return bank, (decision, bank.feature.valid, bank.feature.age)

        return bank, *jax.lax.scan(body, bank, jax.tree.map(lambda x: x[1:], seen))

    start, end, (decision, valid, age) = jax.device_get(run(seen))
    for leaf in jax.tree.leaves(end):
        assert np.isfinite(leaf).all()
    for name in ("novelty", "divergence", "score", "confidence"):
        assert np.isfinite(getattr(decision, name)).all(), name
    # Only what is there and well seen is remembered.
    shown = (seen.mask_logits > 0).any((2, 3))
    quality = np.where(shown, seen.ious.max(-1) / (1 + np.exp(-seen.presence_logits)), 0)
    good = present & (quality >= config.min_quality)
    assert (present & ~good).any()
    area = (seen.mask_logits > 0).mean((2, 3))
    beside = np.stack([beside_usual(quality[:, k], good[:, k], config) for k in range(n)], 1)
    ratios, grown = (
        np.stack(x, 1)
        for x in zip(*(growths(area[:, k], good[:, k], beside[:, k], config) for k in range(n)), strict=True)
    )
    assert (good & ~grown & (ratios > 1.1) & (beside >= 1.25)).any()
    np.testing.assert_allclose(decision.growth, ratios[1:], rtol=1e-5)
    np.testing.assert_array_equal(decision.grown, grown[1:])
    fit = (good & ~grown)[1:]
    np.testing.assert_array_equal(decision.past, np.minimum(np.cumsum(fit, 0) - fit, config.history))
    assert grown.any() == bool(config.max_usual_area)
    np.testing.assert_allclose(decision.quality, beside[1:], rtol=1e-5)
    good &= beside >= config.min_usual_quality
    good &= ~grown
    np.testing.assert_array_equal(decision.visible, good[1:])
    # The anchor is what it was; nothing unseen is remembered; what is written is where the record says, and new.
    np.testing.assert_array_equal(end.feature.value[:, 0], start.feature.value[:, 0])
    assert valid[:, :, 0].all()
    assert not ((decision.short_slot >= 0) | (decision.prototype_slot >= 0))[~good[1:]].any()
    for slot, places in ((decision.short_slot, range(1, 5)), (decision.prototype_slot, range(5, 7))):
        assert set(np.unique(slot)) <= {-1, *places}
        written = slot >= 0
        assert (np.take_along_axis(age, np.maximum(slot, 0)[..., None], 2)[..., 0][written] == 0).all()
        assert (np.take_along_axis(valid, np.maximum(slot, 0)[..., None], 2)[..., 0][written]).all()
    assert ((age == 0).any(2) == ((decision.short_slot >= 0) | (decision.prototype_slot >= 0))).all()
    assert (decision.short_slot >= 0).any()
    # A gate opens exactly when its numbers say so.
    if config.gain_percentile:
        np.testing.assert_array_equal(decision.novel, decision.novelty > decision.novelty_threshold)
    np.testing.assert_array_equal(decision.ambiguous, decision.divergence < decision.divergence_threshold)
    np.testing.assert_array_equal(
        decision.prototype_slot >= 0, decision.ambiguous & decision.reliable & decision.visible
    )


def remembered(
    ious: list[float], empty: tuple[int, ...] = (), columns: list[int] | None = None, **switches: float
) -> np.ndarray:
    """Which of a target's frames after the first may be remembered; its masks have these predicted IoUs.

    `empty` are the frames whose mask has no pixel; the others' have 20 rows of `columns` pixels, or of 20.
    """
    config = DamiConfig(**switches)
    logits = np.full((len(ious), 1, 64, 64), -10.0, np.float32)
    for t in set(range(len(ious))) - set(empty):
        logits[t, 0, 10:30, 10 : 10 + (columns[t] if columns else 20)] = 10.0
    entry = np.zeros((len(ious), 1, 4, 4, 2), np.float32)
    sure = np.full((len(ious), 1), 9.0, np.float32)
    three = np.array(ious, np.float32)[:, None, None].repeat(3, 2)
    seen = dami_bank.Seen(entry, entry[..., 0, 0, :], logits, logits[:, :, None].repeat(3, 2), three, sure)
    bank, kept = dami_bank.begin(config, seen.entry[0], seen.pointer[0], seen.mask_logits[0]), []
    for t in range(1, len(ious)):
        one = jax.tree.map(lambda x, t=t: x[t], seen)
        bank, decision = dami_bank.register(config, bank, one, lambda _, confidence, __: confidence, jnp.zeros((1, 3)))
        kept.append(bool(decision.visible[0]))
    return np.array(kept)


def test_a_mask_that_is_worse_than_this_targets_masks_are_is_not_remembered():
    # A good one that slips, or that a cloud leaves a part of; one of which the model was never sure; one that stays
    # as it has become.
    slips = [0.84] * 20 + [0.8, 0.74, 0.7, 0.69, 0.6, 0.3, 0.2, 0.75] + [0.84] * 5
    kept = remembered(slips)
    np.testing.assert_array_equal(kept, np.array(slips[1:]) >= 0.85 * 0.84)
    np.testing.assert_array_equal(remembered(slips, min_usual_quality=0.0), np.array(slips[1:]) >= 0.25)
    assert remembered([0.35, 0.4, 0.36] * 10).all()
    late = remembered([0.9] * 30 + [0.6] * 90)
    assert not late[29:58].any()
    assert late[60:].all()


def test_a_mask_that_has_grown_is_not_remembered_unless_it_stays_so():
    # It takes in what lies beside it, whose edge is the sharper one; a part is for the quality to tell.
    sides = [20] * 20 + [21, 26, 32, 33, 46, 20, 10, 4, 20]
    ious = [0.8] * 22 + [0.85] * 3 + [0.8] * 4
    np.testing.assert_array_equal(remembered(ious, columns=sides), np.array(sides[1:]) <= 32)
    assert remembered(ious, columns=sides, max_usual_area=0.0).all()
    # Nor do the parts that a cloud leaves become the usual size.
    assert remembered([0.8] * 80, columns=[20] * 20 + [4] * 40 + [20] * 20).all()
    # What comes out from where it was hidden at first is larger for good, and what comes nearer grows slowly.
    late = remembered([0.8] * 120, columns=[20] * 30 + [40] * 90)
    assert not late[29:61].any()
    assert late[61:].all()
    often = remembered([0.8] * 120, columns=([20] * 10 + [40] * 20) * 4)
    np.testing.assert_array_equal(often, [t % 30 < 10 for t in range(1, 120)])
    assert remembered([0.8] * 160, columns=[10 + t // 4 for t in range(160)]).all()


def test_a_mask_that_has_grown_and_is_much_better_shows_what_was_shown_in_part():
    parts, whole = [20] * 6, [40] * 20
    first = [0.5] * 6
    assert remembered([*first, *[0.7] * 20], columns=parts + whole).all()
    # Hardly better, or so large that there must be something else in it.
    assert not remembered([*first, *[0.6] * 20], columns=parts + whole)[5:].any()
    assert not remembered([*first, *[0.7] * 20], columns=[14] * 6 + whole)[5:].any()


def test_an_empty_mask_is_not_remembered_however_sure_the_decoder_is():
    np.testing.assert_array_equal(remembered([0.9] * 8, empty=(3, 4)), [True, True, False, False, True, True, True])
    assert not remembered([0.9] * 4, empty=(0, 1, 2, 3)).any()
    always = {"min_quality": 0.0, "min_usual_quality": 0.0, "max_usual_area": 0.0}
    assert remembered([0.9] * 4, empty=(1, 2), **always).all()


def test_an_absent_target_is_not_remembered(model):
    params = jax.tree.map(lambda x: x, model.params)
    params["sam_mask_decoder"]["pred_obj_score_head"]["layers.2"]["bias"] -= 1e3
    gone = dataclasses.replace(model, params=params)
    for out in follow(gone, tiny.frames(4))[1:]:
        assert not out.memory["registered"].any()
        assert not out.memory["visible"].any()


# ---- training -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def learning(tiny_checkpoint):
    """Parameters begun from a checkpoint of SAM2's memory, what was said of them, and a batch's loss and gradient."""
    open_gates = DamiConfig(
        gain_percentile=0.0,
        ambiguity_percentile=100.0,
        reliability=0.0,
        min_presence=0.0,
        min_quality=0.0,
        min_usual_quality=0.0,
        max_usual_area=0.0,
    )
    net = functional.build(dataclasses.replace(CONFIG, dami=open_gates))
    params, note = checkpoint.init_from(tiny_checkpoint, functional.init(net))
    rng = np.random.default_rng(0)
    masks = np.zeros((2, 6, 64, 64), np.uint8)
    masks[:, :, 20:40, 10:40] = 1
    ids, mask = Tokenizer.default().encode(TEXTS, 16)
    batch = {
        "frames": rng.integers(0, 256, (2, 6, 64, 64, 3), dtype=np.uint8),
        "masks": masks,
        "labelled": np.ones((2, 6), bool),
        "input_ids": ids,
        "attention_mask": mask,
    }

    # A tiny model: half of the time went into optimising what then runs for a second.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    @jax.value_and_grad
    def gradient(params):
        return clip_loss(*forward(net, params, batch), batch, LossConfig())[0]

    return params, note, gradient


def test_training_begins_with_sam2s_values(tiny_model, learning):
    params, note, _ = learning
    theirs = tiny_model.params["memory_attention"]["layers.0"]["cross_attn_image"]
    layer = params["memory_attention"]["layers.0"]
    for name in dami.ATTENTIONS:
        jax.tree.map(np.testing.assert_array_equal, layer[name], theirs)
    np.testing.assert_array_equal(layer["omega"], [1, 1, 1])
    np.testing.assert_array_equal(layer["p_rel"], np.zeros(4))
    assert "robustness_scorer" in note


def test_gradients_reach_every_part_and_the_loss_falls(learning):
    params, _, gradient = learning
    tx = optax.adam(3e-3)
    state = tx.init(params)
    losses, reached = [], None
    for _ in range(12):
        loss, grads = gradient(params)
        losses.append(float(loss))
        sizes = jax.tree.map(lambda g: float(jnp.abs(g).max()), grads)
        reached = sizes if reached is None else jax.tree.map(max, reached, sizes)
        updates, state = tx.update(grads, state)
        params = optax.apply_updates(params, updates)
    layer = reached["memory_attention"]["layers.0"]
    for name in dami.ATTENTIONS:
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            assert layer[name][part]["kernel"] > 0, (name, part)
    assert layer["omega"] > 0
    assert layer["p_rel"] > 0
    assert min(jax.tree.leaves(reached["robustness_scorer"])) > 0
    assert losses[-1] < 0.9 * losses[0]


# ---- what people see ------------------------------------------------------------------------------------------------


def test_predict_shows_every_decision(model, tmp_path):
    import cv2

    video = tmp_path / "video"
    video.mkdir()
    for t, frame in enumerate(tiny.frames(6)):
        cv2.imwrite(str(video / f"{t}.png"), frame)
    out = tmp_path / "out"
    predict(str(video), TEXTS, str(out), lambda texts: mqc_jax.Tracker(model, texts), progress=False)
    with open(out / "memory.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert tuple(rows[0]) == COLUMNS
    assert [(int(r["frame"]), int(r["target"])) for r in rows] == [(t, i) for t in range(6) for i in range(2)]
    expected = follow(model, [cv2.imread(str(p))[..., ::-1] for p in sorted(video.iterdir())])
    for row in rows:
        memory, target = expected[int(row["frame"])].memory, int(row["target"])
        assert float(row["novelty"]) == pytest.approx(float(memory["novelty"][target]), rel=1e-5)
        assert int(row["short_slot"]) == memory["short_slot"][target]
        threshold = memory["novelty_threshold"][target]
        assert row["novelty_threshold"] == "" if not np.isfinite(threshold) else float(row["novelty_threshold"])
    page = (out / "report.html").read_text()
    assert "What was remembered, and why" in page
    assert page.count("Every number is in memory.csv") >= 2


def test_evaluate_stores_every_decision(model, tiny_dataset, tmp_path):
    from mqc_jax.data.source import open_source

    source = open_source("ref_youtube_vos", tiny_dataset, "test")
    summary = evaluate_model(
        source, lambda texts: mqc_jax.Tracker(model, texts), str(tmp_path / "out"), max_sequences=1, progress=False
    )
    assert summary["reacquired"]["within"] == 5
    with open(tmp_path / "out" / "memory.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    sequence = source.sequences[0]
    names = {(sequence.name, e.id, f"{int(f):05d}") for e in sequence.expressions for f in sequence.frame_names}
    assert {(r["sequence"], r["expression"], r["frame"]) for r in rows} == names
    assert len(rows) == len(names)


def test_sam2s_memory_leaves_no_table(tiny_model, tiny_dataset, tmp_path):
    from mqc_jax.data.source import open_source

    source = open_source("ref_youtube_vos", tiny_dataset, "test")
    evaluate_model(source, lambda t: mqc_jax.Tracker(tiny_model, t), str(tmp_path / "out"), 1, progress=False)
    assert not (tmp_path / "out" / "memory.csv").exists()


@pytest.mark.parametrize("frames", [1, 2, 7, 1500])
def test_the_picture_of_a_memory_keeps_its_size(frames):
    rng = np.random.default_rng(frames)
    record = MemoryHistory()
    for t in range(frames):
        decision = registration.Decision.none(1) if t == 0 else None
        memory = (
            {k: np.asarray(v) for k, v in vars(decision).items()}
            if decision
            else {
                **{name: rng.random(1) for name in ("novelty", "divergence", "score", "confidence")},
                **{f"{name}_threshold": rng.random(1) for name in ("novelty", "divergence", "score")},
                "short_slot": rng.integers(-1, 2, 1),
                "prototype_slot": rng.integers(-1, 2, 1),
                "mass": rng.random((1, 3)),
            }
        )
        record.add(memory, 0)
    pictures = [
        (t, np.full((40, 60, 3), 128, np.uint8)) for t in np.linspace(0, frames - 1, min(frames, 8)).astype(int)
    ]
    picture = viz_memory.memory_strip(pictures, record, "the yacht at the left")
    assert picture.dtype == np.uint8
    assert picture.shape[1:] == (viz_memory.WIDTH, 3)
    assert picture.shape[0] < 1000
    assert record.frames == frames


def test_reacquisition_counts_gaps_between_appearances():
    hidden = None
    scores = Reacquisition()
    for j in (hidden, 0.9, hidden, hidden, 0.1, 0.2, 0.6, hidden, 0.4, 0.4, 0.4, 0.4, 0.4, 0.9, hidden):
        scores.add("a", j)
    for j in (0.8, 0.8):
        scores.add("b", j)
    assert scores.summary() == {"share": 0.5, "gaps": 2, "within": 5}
    assert Reacquisition().summary() == {"share": None, "gaps": 0, "within": 5}
