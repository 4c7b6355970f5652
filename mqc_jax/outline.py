"""Where the outline that a target had when all of it was seen lies now.

A mask that has grown holds the target and what lies beside it, mostly a small cloud with a sharper edge than the
target's own. The memory does not take it in (`models.dami_bank`), and the window does not follow it; but it is what is
shown. The target did not grow: of such a mask only that is the target which lies where the target is expected.
"""

import numpy as np

from mqc_jax.tiling import Window, main_part

# Chosen on broken clouds, seeds 961 and 962 (docs/dami.md).
_LEAST = 1 / 3  # of an outline: what covers less of it lies elsewhere, and so, it seems, does the target


def of(mask: np.ndarray) -> np.ndarray | None:
    """The outline, bool [h, w], of a mask, bool [H, W]: its largest connected piece's box; None of an empty mask."""
    box = main_part(mask)
    return None if box is None else mask[box[1] : box[3], box[0] : box[2]].copy()


def within(mask: np.ndarray, outline: np.ndarray, middle: tuple[float, float], window: Window) -> np.ndarray:
    """What of a mask lies inside an outline, bool [H, W]; all of it where that is less than a third of the outline.

    Args:
      mask: bool [H, W], over the window.
      outline: bool [h, w], from `of`.
      middle: x, y in the frame's pixels of where the outline's middle is expected.
      window: the part of the frame that the mask is of.
    """
    height, width = outline.shape
    x, y = round(middle[0] - width / 2) - window.x, round(middle[1] - height / 2) - window.y
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + width, mask.shape[1]), min(y + height, mask.shape[0])
    inside = np.zeros_like(mask)
    if left < right and top < bottom:
        expected = outline[top - y : bottom - y, left - x : right - x]
        inside[top:bottom, left:right] = mask[top:bottom, left:right] & expected
    return inside if np.count_nonzero(inside) >= _LEAST * np.count_nonzero(outline) else mask
