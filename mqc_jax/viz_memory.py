"""The memory along a video as one picture: frames above, and below them, on the same time axis, what each gate saw.

uint8 RGB [H, W, 3], as all pictures of `viz`.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from mqc_jax import viz
from mqc_jax.history import Series
from mqc_jax.memory_log import MemoryHistory

WIDTH = 1280
_LEFT, _RIGHT, _PANEL, _GAP, _HEAD = 64, 20, 104, 10, 24
_BAR, _PAPER, _GRID = (24, 28, 34), (33, 38, 46), (62, 70, 82)
_INK, _QUIET = (240, 243, 246), (165, 175, 186)
_NOVELTY, _AMBIGUITY, _SCORE, _CONFIDENCE = (86, 180, 233), (204, 121, 167), (240, 228, 66), (150, 160, 172)
_MASS = ((0, 158, 115), (86, 180, 233), (204, 121, 167))
_MASS_NAMES = ("first frame", "short-term", "prototypes")


def memory_strip(
    pictures: Sequence[tuple[int, np.ndarray]],
    record: MemoryHistory,
    text: str,
    span: tuple[int, int] | None = None,
) -> np.ndarray:
    """Draws one target's memory.

    Args:
      pictures: (frame number, picture) in order, evenly spread; each is drawn above its frame, as wide as fits.
      record: the target's decisions.
      text: its sentence.
      span: numbers of the first and the last frame; left out: frames count from 0.
    """
    short, prototype = record.written()
    axis = _Axis(record.frames, span)
    rows = [
        _caption(text),
        *([_frames(pictures, axis)] if pictures else []),
        _panel(
            axis,
            f"Novelty (eq. 20) and what it has to exceed, dashed; dots: taken into the short-term memory ({short})",
            ((record.novelty, _NOVELTY, False), (record.novelty_threshold, _INK, True)),
            record.short,
        ),
        _panel(
            axis,
            f"Divergence from the alternative (eq. 22) and what it has to stay below, dashed; dots: made a prototype"
            f" ({prototype})",
            ((record.divergence, _AMBIGUITY, False), (record.divergence_threshold, _INK, True)),
            record.prototype,
        ),
        _panel(
            axis,
            "Robustness (eq. 23) and what a prototype has to exceed, dashed; grey: confidence (eq. 21)",
            (
                (record.score, _SCORE, False),
                (record.confidence, _CONFIDENCE, False),
                (record.score_threshold, _INK, True),
            ),
            top=1.0,
        ),
        _shares(axis, record.mass),
        _ticks(axis),
    ]
    return np.concatenate(rows)


class _Axis:
    """Frames to columns, the same in every row."""

    def __init__(self, frames: int, span: tuple[int, int] | None = None) -> None:
        self.last = max(frames - 1, 1)
        self.span = span or (0, self.last)

    def x(self, frame: float) -> int:
        """Column of a frame, counted from the first one that was looked at."""
        return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * min(frame / self.last, 1.0))

    def x_of(self, number: float) -> int:
        """Column of a frame by its number."""
        first, last = self.span
        return self.x((number - first) * self.last / max(last - first, 1))


def _blank(height: int) -> np.ndarray:
    return np.full((height, WIDTH, 3), _BAR, np.uint8)


def _caption(text: str) -> np.ndarray:
    row = _blank(36)
    viz.write(row, viz.shortened(" ".join(text.split()), 17, WIDTH - 2 * _RIGHT), _RIGHT, 25, 17, _INK)
    return row


def _frames(pictures: Sequence[tuple[int, np.ndarray]], axis: _Axis) -> np.ndarray:
    """Pictures centred above their frames, pushed inwards at both ends, with a line down to the exact place."""
    room = (WIDTH - 2 * _GAP) / len(pictures) - 4
    shapes = [picture.shape for _, picture in pictures]
    height = round(min(min(room * s[0] / s[1] for s in shapes), 200))
    row = _blank(height + 18)
    for place, (frame, picture) in enumerate(pictures):
        width = max(1, round(picture.shape[1] * height / picture.shape[0]))
        method = cv2.INTER_AREA if height < picture.shape[0] else cv2.INTER_NEAREST
        small = cv2.resize(picture, (width, height), interpolation=method)
        slot = _GAP + (room + 4) * place
        left = int(np.clip(axis.x_of(frame) - width / 2, slot, slot + max(room - width, 0)))
        row[:height, left : left + width] = small[:, : WIDTH - left]
        cv2.line(row, (left + width // 2, height + 3), (axis.x_of(frame), height + 16), _QUIET, 1, cv2.LINE_AA)
    return row


def _panel(
    axis: _Axis,
    title: str,
    curves: Sequence[tuple[Series, tuple[int, int, int], bool]],
    events: Series | None = None,
    top: float | None = None,
) -> np.ndarray:
    """Curves over frames; `events` above 0 are dots along the upper edge."""
    row = _blank(_HEAD + _PANEL + _GAP)
    viz.write(row, title, _LEFT, _HEAD - 7, 13, _QUIET)
    cv2.rectangle(row, (_LEFT, _HEAD), (WIDTH - _RIGHT, _HEAD + _PANEL), _PAPER, -1)
    high = top or max(series.largest for series, _, _ in curves) or 1.0

    def y(value: float) -> int:
        return round(_HEAD + _PANEL - (_PANEL - 14) * min(max(value / high, 0.0), 1.0))

    for value in (0.0, high / 2, high):
        cv2.line(row, (_LEFT, y(value)), (WIDTH - _RIGHT, y(value)), _GRID, 1)
        viz.write(row, f"{value:.3g}", 8, y(value) + 5, 12, _QUIET)
    for series, tint, dashed in curves:
        curve = series.curve()
        # The first frame passed no gate; its zeros say nothing.
        curve = curve[1:] if len(curve) > 1 and series.stride == 1 else curve
        middle = curve[:, 0] + (series.stride - 1) / 2
        line = np.array([[axis.x(f), y(v)] for f, v in zip(middle, curve[:, 2], strict=True)], np.int32)
        if dashed:
            _dashed(row, line, tint)
        else:
            cv2.polylines(row, [line], False, tint, 2, cv2.LINE_AA)
    for first, _, _, largest in events.curve() if events is not None else ():
        if largest > 0:
            cv2.circle(row, (axis.x(first + (events.stride - 1) / 2), _HEAD + 7), 3, curves[0][1], -1, cv2.LINE_AA)
    return row


def _dashed(row: np.ndarray, line: np.ndarray, tint, dash: int = 7) -> None:
    walked = 0.0
    for a, b in zip(line[:-1].astype(float), line[1:].astype(float), strict=True):
        length = float(np.hypot(*(b - a)))
        at = 0.0
        while at < length:
            step = min(dash - walked % dash, length - at)
            if int(walked // dash) % 2 == 0:
                ends = [tuple(int(v) for v in np.rint(a + (b - a) * k / length)) for k in (at, at + step)]
                cv2.line(row, *ends, tint, 1, cv2.LINE_AA)
            at, walked = at + step, walked + step


def _shares(axis: _Axis, mass: Sequence[Series]) -> np.ndarray:
    """The three memories' shares, one above the other, and a legend."""
    row = _blank(_HEAD + _PANEL + _GAP)
    viz.write(row, "What is read, by memory", _LEFT, _HEAD - 7, 13, _QUIET)
    left = _LEFT + 190
    for name, tint in zip(_MASS_NAMES, _MASS, strict=True):
        cv2.rectangle(row, (left, _HEAD - 17), (left + 11, _HEAD - 6), tint, -1)
        viz.write(row, name, left + 17, _HEAD - 7, 13, _QUIET)
        left += 120
    cv2.rectangle(row, (_LEFT, _HEAD), (WIDTH - _RIGHT, _HEAD + _PANEL), _PAPER, -1)
    curves = [series.curve() for series in mass]
    if len(curves[0]):
        middle = curves[0][:, 0] + (mass[0].stride - 1) / 2
        edges = np.cumsum([np.zeros(len(middle)), *(curve[:, 2] for curve in curves)], axis=0)
        known = edges[-1] > 0
        edges, middle = edges[:, known] / np.where(known, edges[-1], 1)[known], middle[known]
        across = [axis.x(frame) for frame in middle]
        down = lambda share: [round(_HEAD + _PANEL * (1 - v)) for v in share]  # noqa: E731
        for k, tint in enumerate(_MASS):
            if len(across) > 1:
                low, high = (list(zip(across, down(edges[i]), strict=True)) for i in (k, k + 1))
                cv2.fillPoly(row, [np.array(low + high[::-1], np.int32)], tint)
    for value, name in ((0.0, "0 %"), (0.5, "50 %"), (1.0, "100 %")):
        viz.write(row, name, 8, round(_HEAD + _PANEL * (1 - value)) + 5, 12, _QUIET)
    return row


def _ticks(axis: _Axis) -> np.ndarray:
    row = _blank(26)
    first, last = axis.span
    for frame in sorted({round(first + (last - first) * k / 8) for k in range(9)}):
        text = str(frame)
        width = viz.text_width(text, 12)
        viz.write(row, text, min(axis.x_of(frame) - width // 2, WIDTH - width - 4), 13, 12, _QUIET)
    viz.write(row, "frame", 8, 13, 12, _QUIET)
    return row
