"""Where the outline that a target had when all of it was seen lies now.

A mask that has grown holds the target and what lies beside it, mostly a small cloud with a sharper edge than the
target's own. The memory does not take it in (`models.dami_bank`) where it has grown by much, nor does the window follow
it then; but it is what is shown. The target did not grow: of such a mask only that is the target which lies where the
target is.
"""

import numpy as np

from mqc_jax.models.registration import shows_more
from mqc_jax.tiling import Window, main_part

# Chosen on broken clouds, seeds 961 and 962 (docs/dami.md).
_LARGER, _LARGER_AT_FIRST = 1.3, 1.6  # times the usual area
_KNOWN = 10  # masks, of which the usual area is the median: first masks may be parts

_LEAST = 1 / 3  # of an outline: what covers less of it lies elsewhere, and so, it seems, does the target


def larger(memory: dict[str, np.ndarray]) -> bool:
    """Whether a mask is to be shown no larger than its target's outline. What is remembered may be larger.

    Args:
      memory: one target's `growth`, `quality` and `past`, as in `models.registration.Decision`.
    """
    growth, quality, past = (memory[name][0] for name in ("growth", "quality", "past"))
    limit = _LARGER if past >= _KNOWN else _LARGER_AT_FIRST
    return bool(growth > limit and not shows_more(growth, quality))


def of(mask: np.ndarray) -> np.ndarray:
    """The outline, bool [h, w], of a mask, bool [H, W], that is not empty: what its largest piece's box holds."""
    x0, y0, x1, y1 = main_part(mask)
    return mask[y0:y1, x0:x1].copy()


def at(outline: np.ndarray, middle: tuple[float, float], window: Window) -> np.ndarray:
    """The outline, bool [h, w], as a mask of the window, bool [H, W], with its middle at x, y in the frame's pixels."""
    height, width = outline.shape
    x, y = round(middle[0] - width / 2) - window.x, round(middle[1] - height / 2) - window.y
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + width, window.width), min(y + height, window.height)
    mask = np.zeros((window.height, window.width), bool)
    if left < right and top < bottom:
        mask[top:bottom, left:right] = outline[top - y : bottom - y, left - x : right - x]
    return mask


def within(
    mask: np.ndarray,
    outline: np.ndarray,
    expected: tuple[float, float],
    found: tuple[float, float] | None,
    window: Window,
) -> np.ndarray:
    """What a mask that has grown shows of the target.

    Args:
      mask: bool [H, W], over the window.
      outline: bool [h, w], from `of`.
      expected: x, y in the frame's pixels of where the target's middle is expected.
      found: of where its pixels were surely found again, which is believed first; None where they were not.
      window: the part of the frame that the mask is of.

    Returns:
      bool [H, W]. What of the mask lies inside the outline there. Where that is less than a third of the outline, the
      mask lies elsewhere: then the outline where its pixels were found, or else the mask.
    """
    there = at(outline, expected if found is None else found, window)
    inside = mask & there
    if np.count_nonzero(inside) >= _LEAST * np.count_nonzero(outline):
        return inside
    return mask if found is None else there
