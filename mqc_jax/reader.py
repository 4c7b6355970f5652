"""What every input of `predict` is to the rest: numbered frames, one at a time; and parts of it.

A frame's number is its place in the input, counted from 0. It stays the frame's number in every output, whichever part
of the input is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from mqc_jax.errors import UserError

if TYPE_CHECKING:
    from mqc_jax.geo import GeoReference

STRETCH = (0.5, 99.5)
"""Percentiles of the first frame that become black and white where pixels are not 8-bit."""


class VideoReader:
    """Frames in order, uint8 RGB [H, W, 3], one at a time. Iterating again starts again at the first frame.

    Attributes:
      path: what was opened, as given, without a password that was in it.
      size: (height, width) of every frame.
      fps: frames per second.
      frame_count: frames that iterating gives as far as the container tells, or None; a damaged header may lie.
      names: file name of each frame for a folder or a pattern, by number; else None.
      timed: whether `fps` is the input's own. A folder of frames has none, and `fps` is the overlay's.
      endless: whether the input ends only when somebody ends it: a camera, a stream.
      notes: sentences a reader of the results should know (conversions, repairs). May grow while frames are read.
    """

    path: str
    size: tuple[int, int]
    fps: float
    frame_count: int | None
    names: tuple[str, ...] | None = None
    timed = True
    endless = False

    def __init__(self) -> None:
        self.notes: list[str] = []

    def __iter__(self) -> Iterator[np.ndarray]:
        return (frame for _, frame in self.numbered())

    def numbered(self, start: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        """(number, frame) of the frames from number `start` on, where there are any."""
        raise NotImplementedError

    def reference(self, number: int) -> GeoReference | None:
        """Where the frame of that number lies on Earth; None where it does not say."""
        return None

    def end(self) -> None:
        """Ends an endless input: iterating ends as if the input had. May be called by a signal's handler."""

    def close(self) -> None:
        """Ends an endless input and waits until nothing reads from it any more. Not for a signal's handler."""

    def note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)


class Excerpt(VideoReader):
    """Frames `start` to `end - 1` of another reader, thinned out to at most `fps` frames per second.

    Of each 1/fps seconds the first frame is taken; times are numbers divided by the input's rate. An input without a
    rate of its own is not thinned out: there `fps` is the overlay's.

    Raises:
      UserError: a number makes no sense, or `start` is beyond the end; the latter while iterating where the input's
        length is not known beforehand.
    """

    def __init__(self, inner: VideoReader, start: int = 0, end: int | None = None, fps: float | None = None) -> None:
        if start < 0:
            raise UserError(f"start is {start}; frames count from 0")
        if end is not None and end <= start:
            raise UserError(
                f"end is {end} and start is {start}, so no frame is left; end is the first frame that is left out, "
                f"and must be at least {start + 1}"
            )
        if fps is not None and not (math.isfinite(fps) and fps > 0):
            raise UserError(f"fps is {fps:g}; give frames per second above 0, such as 5")
        self.inner, self._start, self._end = inner, start, end
        self.path, self.size, self.names = inner.path, inner.size, inner.names
        self.timed, self.endless, self.notes = inner.timed, inner.endless, inner.notes
        thin = fps is not None and inner.timed
        self._share = min(fps / inner.fps, 1.0) if thin else 1.0
        self.fps = fps if fps is not None and (not thin or fps < inner.fps) else inner.fps
        self.frame_count = None
        last = inner.frame_count
        if last is not None:
            self._within(last)
            self.frame_count = self._period(min(last, end or last) - 1) + 1
        elif end is not None and inner.endless:
            self.frame_count = self._period(end - 1) + 1
        if self._share < 1:
            self.note(
                f"Of {inner.fps:g} frames a second {self.fps:g} were looked at (fps); frames keep their numbers in the "
                "input."
            )

    def numbered(self, start: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        first = max(start, self._start)
        number, taken = first - 1, -1
        for number, frame in self.inner.numbered(first):
            if self._end is not None and number >= self._end:
                return
            if self._period(number) > taken:
                taken = self._period(number)
                yield number, frame
            if self._end is not None and number + 1 >= self._end:
                return
        if self.endless:
            return
        if number < first:
            self._within(0)
        if self._end is not None:
            self.note(f"The input ends after frame {number}, before the end that was asked for, {self._end}.")

    def _period(self, number: int) -> int:
        # The guard keeps a ratio such as 1/3, which no float is, from landing below the whole number that it means.
        return math.floor((number - self._start) * self._share + 1e-9)

    def _within(self, count: int) -> None:
        if self._start >= count:
            there = f"has only {count} frames, 0 to {count - 1}" if count else "ends before that frame"
            raise UserError(f"start is {self._start} but {self.path} {there}; choose an earlier start")

    def reference(self, number: int) -> GeoReference | None:
        return self.inner.reference(number)

    def end(self) -> None:
        self.inner.end()

    def close(self) -> None:
        self.inner.close()


class Stretch:
    """Pixels of any depth to 8 bits: the first image's percentiles become black and white, in every image alike.

    Attributes:
      sentence: what was done, once an image has been.
    """

    def __init__(self) -> None:
        self.sentence = ""
        self._range: tuple[float, float] | None = None

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Real numbers of any shape to uint8; what is masked or not a number does not count, and becomes black."""
        values = np.ma.filled(image.astype(np.float32), np.nan)
        if self._range is None:
            finite = values[np.isfinite(values)]
            low, high = map(float, np.percentile(finite, STRETCH)) if finite.size else (0.0, 1.0)
            self._range = (low, high if high > low else low + 1.0)
            self.sentence = (
                f"Frames are {image.dtype}; {self._range[0]:g} to {self._range[1]:g} (percentiles {STRETCH[0]:g} "
                f"and {STRETCH[1]:g} of the first frame) were stretched to 0..255 in every frame."
            )
        low, high = self._range
        values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
        return (np.clip((values - low) / (high - low), 0, 1) * 255 + 0.5).astype(np.uint8)


def size_text(shape: tuple[int, ...]) -> str:
    """A shape (H, W, ...) as people write it: WxH."""
    return f"{shape[1]}x{shape[0]}"
