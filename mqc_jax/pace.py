"""Where the pixels of a target have gone from one frame to the next, before the model looks at it.

A window of 48 pixels in which a car of 8 makes 9 a frame shows it in another place each time, and soon not at all; what
is remembered of it was seen somewhere else. So the target's pixels are looked for in the next frame first, and the
window is moved along with them: the model sees its target where it saw it before. And where the model is not sure of a
target, that its pixels go on, unlike the ground's, says that it is still there.

Only the target's own pixels count, in their colours, so that the ground under a small target does not hold it back.
"""

from typing import NamedTuple

import cv2
import numpy as np

# Chosen on the 78 targets of seed 905 (docs/experiments.md).
_FOUND, _SURE, _BETTER = 0.5, 0.8, 0.15  # correlations
_PAD = 1  # pixels of ground around the target: its edge is what is seen best
_LEAST_SIDE, _LEAST_CONTRAST = 4, 1.0  # pixels and grey levels; there is no finding again what has less
_LARGEST = 128  # pixels; larger things are looked for in frames shrunk by a whole number


class Pattern(NamedTuple):
    """How a target looked when it was last seen.

    Attributes:
      pixels: uint8 RGB [h, w, 3], its box and a little ground.
      weight: uint8 [h, w], 1 on the target and its edge.
      corner: x, y of the first pixel in the frame.
      middle: x, y of the target's middle there, to which `Match.middle` is to be compared.
    """

    pixels: np.ndarray
    weight: np.ndarray
    corner: tuple[int, int]
    middle: tuple[float, float]

    @property
    def length(self) -> int:
        """Longer side of the box that was seen, in pixels."""
        return max(self.pixels.shape[:2]) - 2 * _PAD


class Match(NamedTuple):
    """Where a pattern was found again.

    Attributes:
      middle: x, y of the target's middle there.
      likeness: correlation of its pixels there, in [-1, 1].
      better: how much more that is than in the place where the target was.
    """

    middle: tuple[float, float]
    likeness: float
    better: float

    @property
    def found(self) -> bool:
        """Whether the window may keep pace with it."""
        return self.likeness >= _FOUND

    @property
    def sure(self) -> bool:
        """Whether it is the target, and moves; the ground would be as like it where the target was."""
        return self.likeness >= _SURE and self.better > _BETTER


def pattern(frame: np.ndarray, mask: np.ndarray, offset: tuple[int, int], box: tuple[int, ...]) -> Pattern | None:
    """A target's pattern, or None where it is too small or too even to be found again.

    Args:
      frame: uint8 RGB [H, W, 3].
      mask: bool [h, w], the target in a part of the frame.
      offset: x, y of that part.
      box: x0, y0, x1, y1 of the target in the frame, the latter two exclusive.
    """
    height, width = frame.shape[:2]
    x0, y0 = max(box[0] - _PAD, 0), max(box[1] - _PAD, 0)
    x1, y1 = min(box[2] + _PAD, width), min(box[3] + _PAD, height)
    pixels = frame[y0:y1, x0:x1]
    if min(pixels.shape[:2]) < _LEAST_SIDE or pixels.std() < _LEAST_CONTRAST:
        return None
    weight = np.zeros((y1 - y0, x1 - x0), np.uint8)
    left, top = box[0] - offset[0], box[1] - offset[1]
    part = mask[top : top + box[3] - box[1], left : left + box[2] - box[0]]
    weight[box[1] - y0 : box[3] - y0, box[0] - x0 : box[2] - x0] = part
    weight = cv2.dilate(weight, np.ones((2 * _PAD + 1, 2 * _PAD + 1), np.uint8))
    return Pattern(pixels.copy(), weight, (x0, y0), ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))


def find(
    known: Pattern, frame: np.ndarray, was: tuple[float, float], expected: tuple[float, float], reach: int
) -> Match | None:
    """Where a target's pixels are in a frame; None where they cannot be looked for.

    Args:
      frame: uint8 RGB [H, W, 3].
      was: x, y of the target's middle in the frame before.
      expected: x, y of its middle in this one.
      reach: pixels that it may be off in x and y.
    """
    height, width = known.pixels.shape[:2]
    shrink = -(-max(height, width) // _LARGEST)
    x, y = (round(corner + e - m) for corner, e, m in zip(known.corner, expected, known.middle, strict=True))
    left, top = max(x - reach, 0), max(y - reach, 0)
    part = frame[top : max(y + height + reach, 0), left : max(x + width + reach, 0)]
    pixels, weight = known.pixels, known.weight
    if shrink > 1:
        part, pixels, weight = (_shrunk(image, shrink) for image in (part, pixels, weight))
    height, width = pixels.shape[:2]
    if part.shape[0] < height or part.shape[1] < width:
        return None
    weight = np.repeat(weight[..., None].astype(np.float32), 3, axis=2)
    like = cv2.matchTemplate(np.ascontiguousarray(part), pixels, cv2.TM_CCOEFF_NORMED, mask=weight)
    like[~np.isfinite(like) | (np.abs(like) > 1.01)] = -1  # even ground, where the correlation is 0 / 0
    _, best, _, place = cv2.minMaxLoc(like)
    off = [start + p * shrink - corner for start, p, corner in zip((left, top), place, known.corner, strict=True)]
    column, row = (
        round((corner + w - m - start) / shrink)
        for corner, w, m, start in zip(known.corner, was, known.middle, (left, top), strict=True)
    )
    there = like[max(row - 1, 0) : max(row + 2, 0), max(column - 1, 0) : max(column + 2, 0)]
    in_place = float(there.max()) if there.size else -1.0
    return Match((known.middle[0] + off[0], known.middle[1] + off[1]), float(best), float(best) - in_place)


def _shrunk(image: np.ndarray, times: int) -> np.ndarray:
    height, width = image.shape[:2]
    if min(height, width) < times:
        return image[:0]
    return cv2.resize(image, (width // times, height // times), interpolation=cv2.INTER_AREA)
