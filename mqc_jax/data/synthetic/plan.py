"""A sequence as a plan: everything that decides its pixels, and nothing that needs pixels."""

from dataclasses import dataclass, field

import numpy as np

from mqc_jax.data.synthetic.degradations import Cloud, Tone
from mqc_jax.data.synthetic.motion import Track
from mqc_jax.data.synthetic.scene import Scene

MARGIN = 40  # pixels of background beyond the frame on every side, for jitter


@dataclass(frozen=True)
class Actor:
    """An object of a fine class.

    Attributes:
      object_id: its value in the label maps, 1..255; 0 for clutter that is painted but not annotated.
      category: the fine class.
      seed: seeds its drawing.
      track: where it is at each frame.
      length: metres; of one car for a train.
      cars: parts that follow one another along the track.
      level: 1 for what is on a bridge and never hidden by one.
      colour: the colour's name where it tells objects of one class apart, else "".
    """

    object_id: int
    category: str
    seed: int
    track: Track
    length: float
    cars: int = 1
    level: int = 0
    colour: str = ""

    @property
    def is_static(self) -> bool:
        return self.track.speed == 0


@dataclass(frozen=True)
class Phrase:
    """A referring expression and the object that it names."""

    text: str
    object_id: int


@dataclass
class SequencePlan:
    """See `plan_sequence`. Lengths in metres, times in frames, `size` is `(H, W)` in pixels.

    `object_tags` maps every object id to its tags; `tags` are those of the objects that an expression names and of the
    sequence itself. `areas` maps the ids of the named objects to their visible pixels in each frame, int64 `[frames]`.
    """

    name: str
    split: str
    seed: int
    index: int
    entropy: int
    size: tuple[int, int]
    frames: int
    gsd: float
    scene: Scene
    actors: tuple[Actor, ...]
    camera: np.ndarray  # [frames, 3]: shift x, y in pixels, roll in radians
    exposure: np.ndarray  # [frames]
    tone: Tone
    clouds: tuple[Cloud, ...]
    blur: float  # standard deviation of the point-spread function in pixels; 0: none
    noise: float  # grey levels; 0: none
    saliency: float  # share of an object's contrast with its ground that is kept
    seconds_per_frame: float
    phrases: tuple[Phrase, ...] = ()
    tags: tuple[str, ...] = ()
    object_tags: dict[int, tuple[str, ...]] = field(default_factory=dict)
    areas: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def categories(self) -> dict[int, str]:
        """The fine class of every annotated object."""
        return {a.object_id: a.category for a in self.actors if a.object_id}

    @property
    def targets(self) -> tuple[int, ...]:
        """Ids of the objects that an expression names."""
        return tuple(dict.fromkeys(p.object_id for p in self.phrases))

    def to_frame(self, t: int) -> np.ndarray:
        """The `[2, 3]` matrix from metres to pixel coordinates (pixel centres at integers) of frame `t`."""
        dx, dy, roll = self.camera[t]
        c, s = np.cos(roll) / self.gsd, np.sin(roll) / self.gsd
        rows, cols = self.size
        return np.array([[c, -s, (cols - 1) / 2 + dx], [s, c, (rows - 1) / 2 + dy]])

    def canvas_to_frame(self, t: int) -> np.ndarray:
        """The `[2, 3]` matrix from background pixels (the frame plus `MARGIN` on each side) to frame pixels."""
        metres = self.to_frame(t)
        rows, cols = self.size
        middle = np.array([(cols - 1) / 2 + MARGIN, (rows - 1) / 2 + MARGIN])
        turn = metres[:, :2] * self.gsd
        return np.hstack([turn, (metres[:, 2] - turn @ middle)[:, None]])
