"""Whether a listed box is the target's."""

from mqc_jax.paths import Box

SAME = 0.3
"""IoU of a listed box with the target's from which on it is the target."""


def iou(one: Box, other: Box) -> float:
    across, down = (max(min(one[k + 2], other[k + 2]) - max(one[k], other[k]), 0) for k in (0, 1))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return across * down / (areas - across * down)
