"""The training losses against a plain NumPy reading and, where PyTorch has them, against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from mqc_jax.config import LossConfig
from mqc_jax.models.mqc_sam import Output
from mqc_jax.train import losses, step

CONFIG = LossConfig()
SIDE = 16
# Compiled whole: one by one, the operations take longer to compile.
FRAME_LOSS = jax.jit(losses.frame_loss, static_argnames=("config", "coarse"))


def gradients(output: Output, target, labelled, config: LossConfig = CONFIG, coarse: bool = True) -> Output:
    """d(loss) / d(output)."""
    return _GRADIENT(output, target, labelled, config, coarse)


_GRADIENT = jax.jit(jax.grad(lambda output, *rest: losses.frame_loss(output, *rest)[0]), static_argnums=(3, 4))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def numpy_focal(logits: np.ndarray, target: np.ndarray, alpha: float = 0.25, gamma: float = 2.0) -> float:
    """Lin et al. 2017, eq. 5, pixel by pixel in float64."""
    p = sigmoid(logits.astype(np.float64))
    p_t = np.where(target > 0, p, 1 - p)
    alpha_t = np.where(target > 0, alpha, 1 - alpha)
    return float((-alpha_t * (1 - p_t) ** gamma * np.log(p_t)).mean())


def numpy_dice(logits: np.ndarray, target: np.ndarray) -> float:
    p = sigmoid(logits.astype(np.float64))
    return float(1 - (2 * (p * target).sum() + 1) / (p.sum() + target.sum() + 1))


def numpy_iou(logits: np.ndarray, target: np.ndarray) -> float:
    a, b = logits > 0, target > 0
    return float((a & b).sum() / (a | b).sum()) if (a | b).any() else 1.0


def upsampled(logits: np.ndarray) -> np.ndarray:
    x = torch.from_numpy(logits.copy())
    return torch.nn.functional.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False).numpy()


def make_output(rng: np.random.Generator, targets: int) -> Output:
    quarter = SIDE // 4
    draw = lambda *shape: jnp.asarray(rng.normal(0, 2, shape), jnp.float32)  # noqa: E731
    hypotheses = draw(targets, 3, quarter, quarter)
    return Output(
        mask_logits=hypotheses[:, 0],
        hypotheses=hypotheses,
        ious=jnp.asarray(rng.random((targets, 3)), jnp.float32),
        presence_logits=draw(targets),
        coarse_logits=draw(targets, quarter, quarter),
        pointer=draw(targets, 8),
    )


def make_target(rng: np.random.Generator, targets: int) -> np.ndarray:
    masks = np.zeros((targets, SIDE, SIDE), np.float32)
    for mask in masks:
        top, left = rng.integers(0, SIDE - 6, 2)
        mask[top : top + 6, left : left + 5] = 1
    return masks


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_focal_dice_and_iou_equal_a_plain_reading(rng):
    logits = rng.normal(0, 3, (5, SIDE, SIDE)).astype(np.float32)
    target = make_target(rng, 5)
    np.testing.assert_allclose(
        losses.focal(logits, target, LossConfig()),
        [numpy_focal(*x) for x in zip(logits, target, strict=True)],
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        losses.dice(logits, target), [numpy_dice(*x) for x in zip(logits, target, strict=True)], rtol=1e-5
    )
    np.testing.assert_allclose(
        losses.iou(logits, target), [numpy_iou(*x) for x in zip(logits, target, strict=True)], rtol=1e-6
    )


def test_focal_equals_pytorch_built_from_its_cross_entropy(rng):
    logits = rng.normal(0, 5, (3, SIDE, SIDE)).astype(np.float32)
    target = make_target(rng, 3)
    x, y = torch.from_numpy(logits).requires_grad_(), torch.from_numpy(target)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(x, y, reduction="none")
    p_t = torch.exp(-entropy)
    expected = ((0.25 * y + 0.75 * (1 - y)) * (1 - p_t) ** 2 * entropy).mean((1, 2))
    expected.sum().backward()
    np.testing.assert_allclose(losses.focal(logits, target, LossConfig()), expected.detach(), rtol=1e-5)
    gradient = jax.grad(lambda z: losses.focal(z, target, LossConfig()).sum())(jnp.asarray(logits))
    np.testing.assert_allclose(gradient, x.grad, rtol=1e-4, atol=1e-8)


def test_iou_of_two_empty_masks_is_one_and_of_one_empty_mask_zero():
    nothing, something = np.zeros((1, 4, 4), np.float32), np.eye(4, dtype=np.float32)[None]
    assert losses.iou(nothing - 1, nothing) == 1
    assert losses.iou(nothing - 1, something) == 0
    assert losses.iou(something, nothing) == 0


def expected_terms(output: Output, target: np.ndarray) -> dict[str, list[float]]:
    """Each term of each target, from the NumPy functions above."""
    hypotheses, coarse = upsampled(np.asarray(output.hypotheses)), upsampled(np.asarray(output.coarse_logits)[:, None])
    terms = {name: [] for name in ("focal", "dice", "iou", "objectness", "coarse")}
    for n, truth in enumerate(target):
        present = float(truth.any())
        focals = [20 * numpy_focal(h, truth) for h in hypotheses[n]]
        dices = [numpy_dice(h, truth) for h in hypotheses[n]]
        best = int(np.argmin(np.add(focals, dices)))
        gaps = [abs(float(i) - numpy_iou(h, truth)) for i, h in zip(output.ious[n], hypotheses[n], strict=True)]
        logit = torch.tensor(float(output.presence_logits[n]))
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(logit, torch.tensor(present))
        rough = 20 * numpy_focal(coarse[n, 0], truth) + present * numpy_dice(coarse[n, 0], truth)
        values = (focals[best] * present, dices[best] * present, np.mean(gaps) * present, entropy, rough)
        for name, value in zip(terms, values, strict=True):
            terms[name].append(float(value))
    return terms


def test_a_frames_loss_is_sam2s_sum_with_the_best_of_three(rng):
    output, target = make_output(rng, 6), make_target(rng, 6)
    target[4] = 0  # absent
    expected = expected_terms(output, target)
    total, terms = FRAME_LOSS(output, jnp.asarray(target), jnp.ones(6), CONFIG, coarse=True)
    for name, values in expected.items():
        np.testing.assert_allclose(terms[name], np.mean(values), rtol=2e-5, err_msg=name)
    np.testing.assert_allclose(total, sum(np.mean(v) for v in expected.values()), rtol=2e-5)


def test_the_best_hypothesis_counts_wherever_it_stands(rng):
    target = make_target(rng, 1)
    good = torch.nn.functional.avg_pool2d(torch.from_numpy(target)[:, None], 4)[:, 0].numpy() * 12 - 6
    found = []
    for place in range(3):
        hypotheses = np.full((1, 3, SIDE // 4, SIDE // 4), 5.0, np.float32)
        hypotheses[:, place] = good
        output = make_output(rng, 1).replace(hypotheses=jnp.asarray(hypotheses))
        _, terms = FRAME_LOSS(output, jnp.asarray(target), jnp.ones(1), CONFIG)
        found.append((float(terms["focal"]), float(terms["dice"])))
    assert found[0] == found[1] == found[2]
    assert found[0][1] < 0.6
    # Only the chosen hypothesis gets a gradient from the mask terms.
    config = LossConfig(iou=0.0, objectness=0.0)
    gradient = gradients(output, jnp.asarray(target), jnp.ones(1), config, coarse=False)
    moved = np.abs(np.asarray(gradient.hypotheses)).sum((0, 2, 3)) > 0
    assert moved.tolist() == [False, False, True]


def test_an_absent_target_leaves_only_the_presence_term_and_an_empty_coarse_mask(rng):
    output = make_output(rng, 2)
    nothing = jnp.zeros((2, SIDE, SIDE))
    total, terms = FRAME_LOSS(output, nothing, jnp.ones(2), CONFIG, coarse=True)
    assert [float(terms[name]) for name in ("focal", "dice", "iou")] == [0, 0, 0]
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.from_numpy(np.asarray(output.presence_logits).copy()), torch.zeros(2)
    )
    np.testing.assert_allclose(total, float(entropy) + float(terms["coarse"]), rtol=1e-6)
    assert terms["J_count"] == 0
    gradient = gradients(output, nothing, jnp.ones(2))
    assert not np.asarray(gradient.hypotheses).any()
    assert (np.asarray(gradient.coarse_logits) >= 0).all()  # nowhere does it pay to light up
    assert np.asarray(gradient.coarse_logits).any()
    assert np.asarray(gradient.presence_logits).all()


def test_an_unlabelled_frame_turns_every_term_and_gradient_off(rng):
    output, target = make_output(rng, 2), jnp.asarray(make_target(rng, 2))
    labelled = jnp.asarray([1.0, 0.0])
    gradient = gradients(output, target, labelled)
    for name in ("hypotheses", "ious", "presence_logits", "coarse_logits"):
        values = np.asarray(getattr(gradient, name))
        assert values[0].any(), name
        assert not values[1].any(), name
    alone = jax.tree.map(lambda x: jnp.stack([x[0], x[0]]), output)
    both, twice = target, jnp.stack([target[0], target[0]])
    total = FRAME_LOSS(output, both, labelled, CONFIG, coarse=True)[0]
    np.testing.assert_allclose(total, FRAME_LOSS(alone, twice, labelled, CONFIG, coarse=True)[0], rtol=1e-6)


def test_the_gradient_stays_finite_at_extreme_logits(rng):
    target = jnp.asarray(make_target(rng, 2))
    for size in (0.0, 1e3, -1e3, 1e6):
        output = jax.tree.map(lambda x, size=size: jnp.full_like(x, size), make_output(rng, 2))
        total = FRAME_LOSS(output, target, jnp.ones(2), CONFIG, coarse=True)[0]
        gradient = gradients(output, target, jnp.ones(2))
        assert np.isfinite(total), size
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient)), size


def test_weights_scale_their_own_term(rng):
    output, target = make_output(rng, 3), jnp.asarray(make_target(rng, 3))
    _, plain = FRAME_LOSS(output, target, jnp.ones(3), CONFIG, coarse=True)
    heavy = LossConfig(iou=3.0, objectness=5.0, coarse=7.0)
    _, terms = FRAME_LOSS(output, target, jnp.ones(3), heavy, coarse=True)
    for name, factor in (("focal", 1), ("dice", 1), ("iou", 3), ("objectness", 5), ("coarse", 7)):
        np.testing.assert_allclose(terms[name], factor * plain[name], rtol=1e-5, err_msg=name)


def test_a_clips_loss_is_the_mean_of_its_frames(rng):
    frames = [make_output(rng, 2) for _ in range(3)]
    targets = np.stack([make_target(rng, 2) for _ in range(3)])
    targets[1] = 0  # absent, and without a truth: the loader gives an empty mask for either
    labelled = np.array([[1, 1], [1, 0], [1, 1]], np.float32)
    outputs = jax.tree.map(lambda *x: jnp.stack(x), *frames)
    batch = {"masks": targets.swapaxes(0, 1).astype(np.uint8), "labelled": labelled.T.astype(bool)}
    total, terms = jax.jit(step.clip_loss, static_argnums=3)(outputs, None, batch, CONFIG)
    each = [
        FRAME_LOSS(o, jnp.asarray(t), jnp.asarray(k), CONFIG, coarse=i == 0)
        for i, (o, t, k) in enumerate(zip(frames, targets, labelled, strict=True))
    ]
    np.testing.assert_allclose(total, np.mean([float(x) for x, _ in each]), rtol=1e-6)
    for name in ("focal", "dice", "iou", "objectness", "coarse"):
        expected = np.sum([float(t.get(name, 0.0)) for _, t in each]) / 3
        np.testing.assert_allclose(terms[name], expected, rtol=1e-5, err_msg=name)
    # J: the mean over frames that show the target.
    shown = [(t, n) for t in range(3) for n in range(2) if targets[t, n].any()]
    ious = [
        numpy_iou(upsampled(np.asarray(frames[t].mask_logits)[n][None, None])[0, 0], targets[t, n]) for t, n in shown
    ]
    np.testing.assert_allclose(terms["J_sum"] / terms["J_count"], np.mean(ious), rtol=1e-5)


def test_focal_per_target_is_the_sum_over_the_targets_size(rng):
    logits, target = rng.normal(0, 3, (3, 64, 64)).astype(np.float32), np.zeros((3, 64, 64), np.float32)
    target[0, 10:20, 30:50] = 1
    target[1, 5, 7] = 1  # a sliver of what lies outside the frame
    per_target = losses.focal(logits, target, LossConfig(focal_per="target"))
    size = np.array([200, 64 * 64 / 1024, 64 * 64 / 64])
    expected = np.array([numpy_focal(*x) for x in zip(logits, target, strict=True)]) * 64 * 64 / size
    np.testing.assert_allclose(per_target, expected, rtol=1e-5)
