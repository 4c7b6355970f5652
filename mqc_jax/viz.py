"""Pictures for people: masks over frames, heat maps, strips along time.

All pictures are uint8 RGB [H, W, 3]. Colours are Okabe and Ito's, which stay apart under colour blindness.
"""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np

COLOURS = ((230, 159, 0), (86, 180, 233), (240, 228, 66), (204, 121, 167), (0, 158, 115), (213, 94, 0), (0, 114, 178))
TINY = 0.002
"""Share of the frame below which a target gets a ring and a magnified inset."""

_INK, _QUIET, _BAR = (255, 255, 255), (165, 175, 186), (24, 28, 34)
_FILL = 0.35
_LINES = 4


def colour(target: int) -> tuple[int, int, int]:
    """The RGB colour of a target, the same in every picture."""
    return COLOURS[target % len(COLOURS)]


@dataclasses.dataclass
class _Lens:
    """What the magnified inset of one target looks at; kept from frame to frame so that it does not jitter."""

    centre: tuple[float, float]
    side: float
    seen: bool = True


class Painter:
    """Draws one video's overlays: translucent masks with outlines, a caption bar, insets of tiny targets.

    It keeps the insets' places between frames. Every picture of one painter has the same size: the frame scaled so
    that its long side lies in `long_side` (browsers stop at 4096 pixels, captions need some), plus the caption bar.

    Args:
      size: (H, W) of the frames.
      texts: one caption a target.
      long_side: (smallest, largest) long side of the picture, in pixels.
    """

    def __init__(self, size: tuple[int, int], texts: Sequence[str], long_side: tuple[int, int] = (640, 1280)) -> None:
        self.texts = [" ".join(text.split()) for text in texts]
        self.scale = min(max(long_side[0] / max(size), 1.0), long_side[1] / max(size))
        self.height, self.width = (max(2, round(side * self.scale)) for side in size)
        self.unit = max(self.height, self.width) / 1000  # sizes below are in thousandths of the picture's long side
        self._font_px = max(12, round(17 * self.unit))
        self._line = round(self._font_px * 1.55)
        self._lens: dict[int, _Lens] = {}
        self._corner: int | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of every picture."""
        lines = min(len(self.texts), _LINES) + (len(self.texts) > _LINES)
        height = self.height + lines * self._line + self._line // 2
        return height + height % 2, self.width + self.width % 2, 3

    def paint(self, frame: np.ndarray, masks: np.ndarray, presence: Sequence[float], index: int) -> np.ndarray:
        """Draws one frame.

        Args:
          frame: uint8 RGB [H, W, 3].
          masks: bool [N, H, W].
          presence: N probabilities that the target is visible.
          index: the frame's index, shown in the caption.
        """
        shrinks = self.scale < 1
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR if self.scale < 3 else cv2.INTER_NEAREST
        picture = cv2.resize(frame, (self.width, self.height), interpolation=method)
        shares = [np.count_nonzero(mask) / mask.size for mask in masks]
        contours = [_contours(mask, self.scale) for mask in masks]
        for i in range(len(masks)):
            if 0 < shares[i] < TINY:  # any more than a hairline would hide what is under it
                _draw_mask(picture, contours[i], colour(i), 1, fill=0.0, halo=0)
            else:
                _draw_mask(picture, contours[i], colour(i), max(1, round(1.6 * self.unit)), fill=_FILL)
        self._insets(picture, frame, masks, shares)
        canvas = np.full(self.shape, _BAR, np.uint8)
        canvas[: self.height, : self.width] = picture
        self._caption(canvas, shares, presence, index)
        return canvas

    def _insets(self, picture, frame, masks, shares) -> None:
        """Rings around tiny targets and, in the emptiest corner, a magnified view of the first few of them."""
        for i, mask in enumerate(masks):
            x0, y0, x1, y1 = bounding_box(mask) if shares[i] else (0, 0, 0, 0)
            # A few specks far apart cover little too, but a ring around them would point at nothing.
            if 0 < shares[i] < TINY and max(x1 - x0, y1 - y0) < 0.12 * max(mask.shape):
                side = max(x1 - x0, y1 - y0) * 2.5
                old = self._lens.get(i)
                side = max(side, 16.0) if old is None or not 0.5 < side / old.side < 1.6 else old.side
                self._lens[i] = _Lens(((x0 + x1) / 2, (y0 + y1) / 2), side)
                centre = (round((x0 + x1) / 2 * self.scale), round((y0 + y1) / 2 * self.scale))
                radius = round(max(max(x1 - x0, y1 - y0) * self.scale * 0.9, 14 * self.unit))
                _ring(picture, centre, radius, colour(i), max(1, round(1.8 * self.unit)))
            elif shares[i] > 0:
                self._lens.pop(i, None)
            elif i in self._lens:
                self._lens[i].seen = False
        shown = sorted(self._lens)[:3]
        if not shown:
            return
        edge = round(min(self.height, self.width) * (0.32 if len(shown) == 1 else 0.27))
        gap = round(8 * self.unit)
        self._corner = self._free_corner(edge + 2 * gap, (edge + gap) * len(shown) + gap)
        for row, i in enumerate(shown):
            top = gap + row * (edge + gap)
            if self._corner in (2, 3):
                top = self.height - top - edge
            left = gap if self._corner in (0, 2) else self.width - gap - edge
            if top < 0 or top + edge > self.height or left < 0:
                continue
            lens = self._lens[i]
            view = self._magnified(lens, frame, masks[i], edge, colour(i))
            picture[top : top + edge, left : left + edge] = view
            tint = colour(i) if lens.seen else _QUIET
            thick = max(1, round(2 * self.unit))
            cv2.rectangle(picture, (left - 1, top - 1), (left + edge, top + edge), (0, 0, 0), thick + 2, cv2.LINE_AA)
            cv2.rectangle(picture, (left - 1, top - 1), (left + edge, top + edge), tint, thick, cv2.LINE_AA)
            label = f"x{edge / lens.side / self.scale:.1f}" if lens.seen else "last seen here"
            write(picture, label, left + gap // 2, top + edge - gap // 2, max(11, round(13 * self.unit)), halo=True)

    def _magnified(self, lens: _Lens, frame: np.ndarray, mask: np.ndarray, edge: int, tint) -> np.ndarray:
        # A view inside the frame where one fits, else padded by repetition.
        zoom = edge / lens.side
        half = lens.side / 2
        height, width = mask.shape
        x = min(max(lens.centre[0], half), width - half) if width > lens.side else width / 2
        y = min(max(lens.centre[1], half), height - half) if height > lens.side else height / 2
        place = np.array([[zoom, 0, (half - x) * zoom], [0, zoom, (half - y) * zoom]])
        # warpAffine counts from pixel centres, the place above from pixel corners.
        shifted = place.copy()
        shifted[:, 2] += 0.5 * zoom - 0.5
        view = cv2.warpAffine(frame, shifted, (edge, edge), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        outline = [np.rint(c * zoom + place[:, 2]).astype(np.int32) for c in _contours(mask, 1.0)]
        _draw_mask(view, outline, tint, 1, fill=0.0, halo=0)
        return view

    def _free_corner(self, across: int, down: int) -> int:
        """0..3: top left, top right, bottom left, bottom right. The corner used before stays while it is free."""
        corners = []
        for corner in range(4):
            left = 0 if corner in (0, 2) else self.width - across
            top = 0 if corner in (0, 1) else self.height - down
            distances = []
            for lens in self._lens.values():
                x, y = lens.centre[0] * self.scale, lens.centre[1] * self.scale
                dx = max(left - x, 0, x - left - across)
                dy = max(top - y, 0, y - top - down)
                distances.append(float(np.hypot(dx, dy)))
            corners.append(min(distances))
        clear = 0.03 * max(self.width, self.height)
        if self._corner is not None and corners[self._corner] > clear:
            return self._corner
        return int(np.argmax(corners))

    def _caption(self, canvas: np.ndarray, shares: Sequence[float], presence: Sequence[float], index: int) -> None:
        px, pad = self._font_px, round(self._font_px * 0.6)
        place = f"frame {index}"
        place_width = text_width(place, px)
        for row, text in enumerate(self.texts[:_LINES]):
            base = self.height + self._line // 4 + (row + 1) * self._line - round(0.45 * px)
            cv2.rectangle(canvas, (pad, base - round(0.72 * px)), (pad + round(0.72 * px), base), colour(row), -1)
            left = pad + round(1.3 * px)
            state = f"visible {presence[row]:.2f}" if shares[row] > 0 else f"not visible {presence[row]:.2f}"
            state_left = self.width - pad - text_width("not visible 0.00", px) - place_width - 2 * pad
            write(canvas, shortened(text, px, state_left - left - pad), left, base, px)
            write(canvas, state, state_left, base, px, _INK if shares[row] > 0 else _QUIET)
            if row == 0:
                write(canvas, place, self.width - pad - place_width, base, px, _QUIET)
        if len(self.texts) > _LINES:
            base = self.height + self._line // 4 + (_LINES + 1) * self._line - round(0.45 * px)
            write(canvas, f"and {len(self.texts) - _LINES} more targets", pad, base, px, _QUIET)


def overlay(frame: np.ndarray, masks: np.ndarray, fill: float = _FILL, thickness: int = 1) -> np.ndarray:
    """`frame` with the outlines and translucent fills of `masks` (bool [N, H, W]), at the frame's size, no captions."""
    picture = frame.copy()
    for i, mask in enumerate(masks):
        _draw_mask(picture, _contours(mask, 1.0), colour(i), thickness, fill)
    return picture


def heat_map(frame: np.ndarray, values: np.ndarray) -> np.ndarray:
    """`values` in [0, 1], [h, w] of any size, as colours over a greyed `frame`; 0 leaves the frame dark."""
    height, width = frame.shape[:2]
    values = cv2.resize(np.clip(values, 0, 1).astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    colours = cv2.applyColorMap((values * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1].astype(np.float32)
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32) * 0.6
    weight = (0.15 + 0.75 * values)[..., None]
    return np.clip(grey * (1 - weight) + colours * weight, 0, 255).astype(np.uint8)


def strip(columns: Sequence[Sequence[np.ndarray]], labels: Sequence[str], height: int = 180) -> np.ndarray:
    """Pictures side by side, each column one time with its label above and its pictures below one another.

    Args:
      columns: for every time the same number of pictures; all are scaled to `height`.
      labels: one a column.
      height: of each picture, in pixels.
    """
    if len(columns) != len(labels) or not columns or len({len(column) for column in columns}) != 1:
        raise ValueError("a strip needs one label a column and columns of equal length")
    px, gap = max(12, height // 12), max(3, height // 50)
    head = round(px * 1.8)
    built = []
    for column, label in zip(columns, labels, strict=True):
        scaled = [_scaled_to(picture, height) for picture in column]
        width = max(picture.shape[1] for picture in scaled)
        tile = np.full((head + len(scaled) * (height + gap), width + gap, 3), _BAR, np.uint8)
        write(tile, shortened(label, px, width - gap), gap, head - round(0.55 * px), px)
        for row, picture in enumerate(scaled):
            top = head + row * (height + gap)
            tile[top : top + height, : picture.shape[1]] = picture
        built.append(tile)
    return np.concatenate(built, axis=1)


def bounding_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of a mask with at least one pixel; x1 and y1 are exclusive."""
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _scaled_to(picture: np.ndarray, height: int) -> np.ndarray:
    width = max(1, round(picture.shape[1] * height / picture.shape[0]))
    method = cv2.INTER_AREA if height < picture.shape[0] else cv2.INTER_NEAREST
    return cv2.resize(picture, (width, height), interpolation=method)


def _contours(mask: np.ndarray, scale: float) -> list[np.ndarray]:
    """Outlines of a mask, float32 [n, 1, 2] (x, y), scaled, running along the pixels' outer edges."""
    if not mask.any():
        return []
    # Doubling puts the outline of even a single pixel around it instead of through its centre.
    x0, y0, x1, y1 = bounding_box(mask)
    fine = np.repeat(np.repeat(mask[y0:y1, x0:x1].astype(np.uint8), 4, 0), 4, 1)
    found, _ = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return [((c.astype(np.float32) + 0.5) / 4 + (x0, y0)).astype(np.float32) * np.float32(scale) for c in found]


def _draw_mask(picture: np.ndarray, contours: list, tint, thickness: int, fill: float, halo: int = 2) -> None:
    if not contours:
        return
    points = [np.rint(c).astype(np.int32) for c in contours]
    if fill:
        _tint_inside(picture, points, tint, fill)
    # A dark line outside the coloured one keeps it legible on bright ground.
    if halo:
        cv2.drawContours(picture, points, -1, (0, 0, 0), thickness + halo, cv2.LINE_AA)
    cv2.drawContours(picture, points, -1, tint, thickness, cv2.LINE_AA)


def _tint_inside(picture: np.ndarray, points: list[np.ndarray], tint, fill: float) -> None:
    everything = np.concatenate(points).reshape(-1, 2)
    x0, y0 = np.maximum(everything.min(0), 0)
    x1, y1 = np.minimum(everything.max(0) + 1, picture.shape[1::-1])
    if x0 >= x1 or y0 >= y1:
        return
    part = picture[y0:y1, x0:x1]
    inside = np.zeros(part.shape[:2], np.uint8)
    cv2.drawContours(inside, points, -1, 1, cv2.FILLED, offset=(-int(x0), -int(y0)))
    weight = (inside * np.float32(fill))[..., None]
    part[:] = (part * (1 - weight) + np.array(tint, np.float32) * weight + 0.5).astype(np.uint8)


def _ring(picture: np.ndarray, centre: tuple[int, int], radius: int, tint, thickness: int) -> None:
    cv2.circle(picture, centre, radius, (0, 0, 0), thickness + 2, cv2.LINE_AA)
    cv2.circle(picture, centre, radius, tint, thickness, cv2.LINE_AA)


_FONTS: dict[str, cv2.FontFace] = {}


def _font() -> cv2.FontFace:
    # Built on first use: it unpacks a whole Unicode font, and sentences come in any script.
    if "sans" not in _FONTS:
        _FONTS["sans"] = cv2.FontFace("sans")
    return _FONTS["sans"]


def text_width(text: str, px: int) -> int:
    """Columns that `write` would take."""
    return cv2.getTextSize((0, 0), text, (0, 0), _font(), px, 400)[2]


def shortened(text: str, px: int, width: int) -> str:
    """`text`, or as much of it as fits in `width` columns, with an ellipsis."""
    if text_width(text, px) <= width:
        return text
    fits, fails = 0, len(text)
    while fails - fits > 1:
        middle = (fits + fails) // 2
        fits, fails = (middle, fails) if text_width(text[:middle] + "…", px) <= width else (fits, middle)
    return text[:fits].rstrip() + "…" if fits else ""


def write(picture: np.ndarray, text: str, x: int, y: int, px: int, ink=_INK, halo: bool = False) -> None:
    """Writes into `picture`, the base line's left end at (x, y), letters `px` high."""
    if halo:
        for dx, dy in ((-1, 0), (1, 0), (0, -1), (0, 1)):
            cv2.putText(picture, text, (x + dx, y + dy), (0, 0, 0), _font(), px, 500)
    cv2.putText(picture, text, (x, y), ink, _font(), px, 500 if halo else 400)
