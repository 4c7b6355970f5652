"""What is remembered of a video for its report: curves, gaps and pictures, in bounded memory however long it runs."""

import dataclasses
import itertools

import numpy as np

MAX_BUCKETS = 480
MAX_GAPS = 12


class Series:
    """A curve along frames in at most `MAX_BUCKETS` buckets, each `stride` frames long.

    Attributes:
      stride: frames a bucket; doubles whenever the buckets run out.
      buckets: [smallest, sum, largest, count] of each bucket.
    """

    def __init__(self) -> None:
        self.stride = 1
        self.count = 0
        self.buckets: list[list[float]] = []

    def add(self, value: float) -> None:
        """Appends the next frame's value."""
        if self.count % self.stride == 0:
            if len(self.buckets) == MAX_BUCKETS:
                pairs = zip(self.buckets[::2], self.buckets[1::2], strict=True)
                self.buckets = [[min(a[0], b[0]), a[1] + b[1], max(a[2], b[2]), a[3] + b[3]] for a, b in pairs]
                self.stride *= 2
            self.buckets.append([value, 0.0, value, 0])
        bucket = self.buckets[-1]
        bucket[0], bucket[2] = min(bucket[0], value), max(bucket[2], value)
        bucket[1] += value
        bucket[3] += 1
        self.count += 1

    def curve(self) -> np.ndarray:
        """float64 [buckets, 4]: first frame of the bucket, smallest, mean and largest value."""
        rows = [(i * self.stride, b[0], b[1] / b[3], b[2]) for i, b in enumerate(self.buckets)]
        return np.array(rows, np.float64).reshape(-1, 4)

    @property
    def largest(self) -> float:
        """The largest value so far, 0 when there is none."""
        return max((bucket[2] for bucket in self.buckets), default=0.0)


@dataclasses.dataclass
class TargetHistory:
    """One target along the video. A target is visible in a frame when its mask there has a pixel.

    Frames are told by their numbers in the input, which need not be consecutive.

    Attributes:
      text: its sentence.
      presence: the model's probability that it is visible.
      area: share of the frame its mask covers, in [0, 1].
      gaps: (first frame without it, first frame with it again, or None) of the first `MAX_GAPS` gaps.
      num_gaps: how many gaps there were.
      found_late: whether the first frame was without it, and a later one was not.
      stood_frames, first_stood: in how many frames, and first in which, its mask was of something that had stood there
        when it was elsewhere (`standing`).
      trimmed_frames, first_trimmed: likewise, of those whose mask had grown and is shown no larger than it was
        (`outline`).
      changes: frames from which on another object was followed (`rivals`); each of those that a sentence may mean sets
        off once at most, so that they are few.
    """

    text: str
    presence: Series = dataclasses.field(default_factory=Series)
    area: Series = dataclasses.field(default_factory=Series)
    gaps: list[tuple[int, int | None]] = dataclasses.field(default_factory=list)
    num_gaps: int = 0
    frames: int = 0
    visible_frames: int = 0
    first_visible: int | None = None
    last_visible: int | None = None
    first_area_px: int = 0
    found_late: bool = False
    stood_frames: int = 0
    first_stood: int | None = None
    trimmed_frames: int = 0
    first_trimmed: int | None = None
    changes: list[int] = dataclasses.field(default_factory=list)
    _is_lost: bool = False

    def add(
        self,
        presence: float,
        area_px: int,
        frame_px: int,
        number: int | None = None,
        stood: bool = False,
        trimmed: bool = False,
        rechosen: bool = False,
    ) -> None:
        """Appends the next frame, whose number is how many there were where none is given."""
        number = self.frames if number is None else number
        if rechosen:
            self.changes.append(number)
        if stood:
            self.stood_frames += 1
            self.first_stood = number if self.first_stood is None else self.first_stood
        if trimmed:
            self.trimmed_frames += 1
            self.first_trimmed = number if self.first_trimmed is None else self.first_trimmed
        if self.frames == 0:
            self.first_area_px = area_px
        if area_px > 0:
            if self._is_lost and self.num_gaps <= MAX_GAPS:
                self.gaps[-1] = (self.gaps[-1][0], number)
            if self.first_visible is None:
                self.first_visible = number
                self.found_late = self.frames > 0
            self.last_visible = number
            self.visible_frames += 1
            self._is_lost = False
        elif self.last_visible is not None and not self._is_lost:
            self._is_lost = True
            self.num_gaps += 1
            if self.num_gaps <= MAX_GAPS:
                self.gaps.append((number, None))
        self.presence.add(float(presence))
        self.area.add(area_px / frame_px)
        self.frames += 1

    def sentences(self) -> list[str]:
        """What a user should know, in at most one sentence: not found, found late, lost and found again, changed."""
        name = f"“{self.text}”"
        if self.first_visible is None:
            return [f"{name}: no target found in any frame."]
        told = []
        if self.found_late:
            told.append(f"no target found in the first frame, a mask first appears at frame {self.first_visible}")
        for lost, found in self.gaps:
            again = "and not found again" if found is None else f"found again at {found}"
            told.append(f"{'target ' if not told else ''}lost at frame {lost}, {again}")
        if self.num_gaps > len(self.gaps):
            told.append(f"{self.num_gaps - len(self.gaps)} further gaps are not listed")
        if self.stood_frames:
            told.append(
                f"in {_frames(self.stood_frames)}, first in {self.first_stood}, the mask is of something that had "
                "stood there before, which was not followed"
            )
        if self.trimmed_frames:
            told.append(
                f"in {_frames(self.trimmed_frames)}, first in {self.first_trimmed}, the mask had taken in something "
                "beside the target, and is shown no larger than it was"
            )
        if self.changes:
            told.append(
                f"from frame {' and again from '.join(map(str, self.changes))} on, another object is followed, which "
                "fits the sentence as well and set off then"
            )
        return [f"{name}: {'; '.join(told)}."] if told else []

    def summary(self) -> dict:
        """Numbers for result.json."""
        area = self.area.curve()
        return {
            "text": self.text,
            "frames": self.frames,
            "visible_frames": self.visible_frames,
            "first_visible": self.first_visible,
            "last_visible": self.last_visible,
            "gaps": [list(gap) for gap in self.gaps],
            "num_gaps": self.num_gaps,
            "stood_frames": self.stood_frames,
            "trimmed_frames": self.trimmed_frames,
            "changes": self.changes,
            "mean_area": float(sum(bucket[1] for bucket in self.area.buckets) / max(self.frames, 1)),
            "max_area": float(area[:, 3].max()) if len(area) else 0.0,
        }


def _frames(count: int) -> str:
    return f"{count} frames" if count > 1 else "one frame"


class Gallery:
    """At most `capacity` pictures spread evenly over a video whose length is not known beforehand.

    Attributes:
      pictures: (number, encoded picture), in order.
    """

    def __init__(self, capacity: int = 16) -> None:
        self.capacity, self.stride = capacity, 1
        self.pictures: list[tuple[int, bytes]] = []

    def wants(self, index: int) -> bool:
        """Whether the frame would be kept, the `index`-th of those looked at; ask before encoding it."""
        return index % self.stride == 0

    def add(self, index: int, picture: bytes, number: int | None = None) -> None:
        """Keeps a frame that `wants` said yes to, under its number, or else its index."""
        if len(self.pictures) == self.capacity:
            self.stride *= 2
            self.pictures = self.pictures[::2]
            if not self.wants(index):
                return
        self.pictures.append((index if number is None else number, picture))

    def spread(self, count: int) -> list[tuple[int, bytes]]:
        """Up to `count` of the pictures, evenly, the first and the last among them."""
        if len(self.pictures) <= count:
            return self.pictures
        places = np.linspace(0, len(self.pictures) - 1, count).round().astype(int)
        return [self.pictures[place] for place in places]


def same_thing(masks: np.ndarray, texts: list[str]) -> list[str]:
    """A sentence for every pair of targets whose first masks, bool [N, H, W], are nearly one."""
    told = []
    for (i, a), (j, b) in itertools.combinations(enumerate(masks), 2):
        shared, either = np.count_nonzero(a & b), np.count_nonzero(a | b)
        if shared > 0.8 * either:
            told.append(
                f"“{texts[i]}” and “{texts[j]}” were taken for the same thing: their first masks overlap by "
                f"{shared / either:.0%}."
            )
    return told
