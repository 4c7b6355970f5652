"""Curves along a video's frames as inline SVG, for pages without scripts."""

import html
import math
from collections.abc import Sequence

import numpy as np

from mqc_jax import viz
from mqc_jax.history import Series

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _UPPER, _LOWER = 480, 220, 64, 14, 12, 34


def plot(
    title: str,
    curves: Sequence[tuple[str, int, Series]],
    top: float,
    percent: bool,
    span: tuple[int, int] | None = None,
    gaps: Sequence[tuple[int, int, int | None]] = (),
) -> str:
    """The mean as a line and, where buckets span several frames, the range as a band.

    Args:
      title: what the vertical axis is.
      curves: (name, target, series) each.
      top: value at the upper edge; the lower edge is 0.
      percent: label values as percentages.
      span: numbers of the first and the last frame; left out: frames count from 0.
      gaps: (target, number of the first frame, number of the first frame after it or None) of stretches to shade.
    """
    frames = max((series.count for _, _, series in curves), default=1)
    first, last = span or (0, frames - 1)
    across = (_WIDTH - _LEFT - _RIGHT) / max(frames - 1, 1)
    up = (_HEIGHT - _UPPER - _LOWER) / top

    def x(place: float) -> str:
        """Of the `place`-th frame that was looked at."""
        return f"{_LEFT + place * across:.1f}"

    def at(number: float) -> float:
        """The place of a frame by its number: where frames were left out, they were so evenly."""
        return (number - first) * (frames - 1) / max(last - first, 1)

    def y(value: float) -> str:
        return f"{_HEIGHT - _LOWER - min(value, top) * up:.1f}"

    parts = []
    for target, lost, found in gaps:
        left, right = at(lost), frames - 1 if found is None else at(found)
        wide = max((right - left) * across, 2.0)
        parts.append(
            f"<rect x='{x(left)}' y='{_UPPER}' width='{wide:.1f}' height='{_HEIGHT - _UPPER - _LOWER}' "
            f"fill='{_rgb(target)}' class='gap'/>"
        )
    for step in range(3):
        value = top * step / 2
        text = f"{value * 100:.3g} %" if percent else f"{value:.1f}"
        parts.append(f"<line x1='{_LEFT}' x2='{_WIDTH - _RIGHT}' y1='{y(value)}' y2='{y(value)}' class='grid'/>")
        parts.append(f"<text x='{_LEFT - 7}' y='{float(y(value)) + 5:.1f}' class='tick end'>{text}</text>")
    for number in _ticks(first, last):
        parts.append(f"<text x='{x(at(number))}' y='{_HEIGHT - 11}' class='tick mid'>{number}</text>")
    for order, (_, target, series) in enumerate(curves):
        parts += _curve(series, _rgb(target), ("", "7 3", "2 3", "9 3 2 3")[order % 4], x, y)
    label = html.escape(f"{title} along {frames} frames for {', '.join(name for name, _, _ in curves)}", quote=True)
    shaded = "; shaded: no mask" if gaps else ""
    return (
        f"<figure class='plot'><svg viewBox='0 0 {_WIDTH} {_HEIGHT}' role='img' aria-label='{label}'>"
        f"{''.join(parts)}</svg><figcaption>{html.escape(title)}, by frame{shaded}</figcaption></figure>"
    )


def _curve(series: Series, tint: str, dash: str, x, y) -> list[str]:
    parts = []
    curve = series.curve()
    middle = curve[:, 0] + (series.stride - 1) / 2
    if series.stride > 1:
        edge = [f"{x(f)},{y(v)}" for f, v in zip(middle, curve[:, 3], strict=True)]
        edge += [f"{x(f)},{y(v)}" for f, v in zip(middle[::-1], curve[::-1, 1], strict=True)]
        parts.append(f"<polygon points='{' '.join(edge)}' fill='{tint}' opacity='0.3'/>")
    points = " ".join(f"{x(f)},{y(v)}" for f, v in zip(middle, curve[:, 2], strict=True))
    if len(curve) == 1:
        parts.append(f"<circle cx='{x(middle[0])}' cy='{y(curve[0, 2])}' r='3' fill='{tint}'/>")
    parts.append(f"<polyline points='{points}' class='curve' stroke='{tint}' stroke-dasharray='{dash}'/>")
    return parts


def round_up(value: float) -> float:
    """The next 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * digit for digit in (1, 2, 5, 10) if power * digit >= value * (1 - 1e-9))


def _ticks(first: int, last: int) -> list[int]:
    if last - first < 1:
        return [first]
    step = max(1, int(round_up((last - first) / 6)))
    return [int(number) for number in np.arange(-(-first // step) * step, last + 1, step)]


def _rgb(target: int) -> str:
    return "rgb({},{},{})".format(*viz.colour(target))
