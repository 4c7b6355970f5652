"""SAM2's training losses: focal, dice, predicted-IoU and presence terms, with the best of three hypotheses.

Every function works on one target in one frame at a time along leading axes; `B` stands for them all.
"""

import jax
import jax.numpy as jnp
import optax

from mqc_jax.config import LossConfig
from mqc_jax.models import registration, torch_ops
from mqc_jax.models.mqc_sam import Output

_SLIVER, _NOTHING = 1 / 1024, 1 / 64  # of a frame's pixels


def focal(logits: jax.Array, target: jax.Array, config: LossConfig) -> jax.Array:
    """Sigmoid focal loss (Lin et al. 2017): float [B, H, W], target in {0, 1} -> [B].

    The mean over pixels (SAM2) makes a target of 0.1 % of the frame count a thousandth of what surrounds it; the sum
    over pixels divided by the target's (Lin et al.'s own normalisation) gives targets of all sizes one voice. What is
    smaller than `_SLIVER` of the frame counts as if it were as large, and a frame without the target as if it had one
    of `_NOTHING` of it, or its few wrong pixels would count a thousand times less than those beside a target.
    """
    cross_entropy = optax.sigmoid_binary_cross_entropy(logits, target)
    probability = jax.nn.sigmoid(logits)
    missed = probability + target - 2 * probability * target  # 1 - p_t
    weight = config.focal_alpha * target + (1 - config.focal_alpha) * (1 - target)
    values = weight * missed**config.focal_gamma * cross_entropy
    if config.focal_per == "pixel":
        return values.mean((-2, -1))
    pixels, frame = target.sum((-2, -1)), values.shape[-2] * values.shape[-1]
    return values.sum((-2, -1)) / jnp.where(pixels > 0, jnp.maximum(pixels, _SLIVER * frame), _NOTHING * frame)


def dice(logits: jax.Array, target: jax.Array) -> jax.Array:
    """1 - soft Dice with one pixel of smoothing: float [B, H, W] -> [B]."""
    probability = jax.nn.sigmoid(logits)
    overlap = (probability * target).sum((-2, -1))
    return 1 - (2 * overlap + 1) / (probability.sum((-2, -1)) + target.sum((-2, -1)) + 1)


def iou(logits: jax.Array, target: jax.Array) -> jax.Array:
    """IoU of the thresholded mask with the target, 1 where both are empty: [B, H, W] -> [B]."""
    predicted, truth = logits > 0, target > 0.5
    union = (predicted | truth).sum((-2, -1))
    return jnp.where(union > 0, (predicted & truth).sum((-2, -1)) / jnp.maximum(union, 1), 1.0)


def upsample(logits: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Bilinear, as the model upsamples its masks for the memory: float [..., h, w] -> [..., *size]."""
    return torch_ops.resize_bilinear(logits[..., None], size)[..., 0]


def class_map_loss(logits: jax.Array, classes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Focal cross-entropy of naming what is at each place, over the number of places with something in each frame.

    Args:
      logits: float32 [B, h, w, K + 1].
      classes: integers [B, h, w] in 0..K, 0 = nothing.

    Returns:
      The mean over B, where a frame with fewer than 16 places that show something counts as if it had so many; and the
      share of all places with something that are named rightly.
    """
    log_share = jax.nn.log_softmax(logits)
    right = jnp.take_along_axis(log_share, classes[..., None].astype(jnp.int32), axis=-1)[..., 0]
    something = classes > 0
    weight = jnp.where(something, 1.0, 0.5) * (1 - jnp.exp(right)) ** 2
    loss = (-(weight * right).sum((1, 2)) / jnp.maximum(something.sum((1, 2)), 16)).mean()
    named = (logits.argmax(-1) == classes) & something
    return loss, named.sum() / jnp.maximum(something.sum(), 1)


def frame_loss(
    output: Output, target: jax.Array, labelled: jax.Array, config: LossConfig, coarse: bool = False
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """One frame of B clips.

    Args:
      output: the model's output for B targets.
      target: float [B, S, S] in {0, 1}; all zero where the target is absent, which turns the mask terms off.
      labelled: float [B], 0 where the frame has no annotation, which turns every term off.
      coarse: whether the bridge's coarse mask is scored too (frame 0).

    Returns:
      The mean loss over B, and its terms with `J`'s sum and count (for the mean over frames with a target).
    """
    size = target.shape[-2:]
    present = (target.sum((-2, -1)) > 0).astype(jnp.float32)
    hypotheses = upsample(output.hypotheses, size)  # [B, 3, S, S]
    truth = target[:, None]
    focals = focal(hypotheses, truth, config)
    dices = dice(hypotheses, truth)
    best = jnp.argmin(config.focal * focals + config.dice * dices, axis=1)[:, None]
    pick = lambda values: jnp.take_along_axis(values, best, axis=1)[:, 0]  # noqa: E731
    quality = jnp.abs(output.ious - jax.lax.stop_gradient(iou(hypotheses, truth))).mean(1)
    terms = {
        "focal": config.focal * pick(focals) * present,
        "dice": config.dice * pick(dices) * present,
        "iou": config.iou * quality * present,
        "objectness": config.objectness * optax.sigmoid_binary_cross_entropy(output.presence_logits, present),
    }
    if coarse:
        full = upsample(output.coarse_logits, size)
        # Where the sentence names nothing that is there, the bridge must light up nothing; the decoder's masks are then
        # left to the presence score, as in SAM2.
        terms["coarse"] = config.coarse * (
            config.focal * focal(full, target, config) + config.dice * present * dice(full, target)
        )
    predicted = upsample(output.mask_logits, size)
    overlap = iou(predicted, target)
    if output.decision is not None:
        # Frame 0 is remembered whatever it scores, and an empty mask where nothing is has no quality to learn.
        judged = ((predicted > 0).any((-2, -1)) | (present > 0)) & (not coarse)
        terms["scorer"] = config.scorer * judged * registration.score_loss(output.decision.score, overlap)
    means = {name: (value * labelled).mean() for name, value in terms.items()}
    scores = {"J_sum": (overlap * present).sum(), "J_count": present.sum()}
    return sum(means.values()), {**means, **scores}
