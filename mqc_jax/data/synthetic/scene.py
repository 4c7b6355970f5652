"""What a scene offers to the casting: lanes to travel on, stands to rest at, bridges that hide what passes below."""

from dataclasses import dataclass, field

import numpy as np

from mqc_jax.data.synthetic.canvas import Canvas
from mqc_jax.data.synthetic.motion import Path, rotate


@dataclass(frozen=True)
class Lane:
    """A way that objects of some classes travel.

    Attributes:
      path: the centre line, in metres.
      classes: fine classes that may use it.
      crossings: arc lengths in metres at which it passes under the middle of a bridge.
      level: 0 on the ground or the water, 1 on a bridge (never hidden by one).
      pace: factor on the class's usual speed.
    """

    path: Path
    classes: tuple[str, ...]
    crossings: tuple[float, ...] = ()
    level: int = 0
    pace: float = 1.0


@dataclass(frozen=True)
class Stand:
    """A place to rest: centre in metres, heading in radians, the longest object that fits, the classes that belong."""

    x: float
    y: float
    heading: float
    room: float
    classes: tuple[str, ...]


@dataclass
class Scene:
    """A planned place. Subclasses paint it; planning draws nothing.

    Attributes:
      half: half the frame's extent in metres `(x, y)`.
      sun: metres of shadow per metre of height `(x, y)`.
      decks: polygons `[K, 2]` in metres of what objects on the ground pass under.
      seed: seeds the painting, which is no part of the plan.
    """

    half: tuple[float, float]
    sun: tuple[float, float]
    seed: int
    lanes: list[Lane] = field(default_factory=list)
    stands: list[Stand] = field(default_factory=list)
    decks: list[np.ndarray] = field(default_factory=list)
    clutter: list[Lane] = field(default_factory=list)  # ways of vehicles that are too small to be annotated here
    kind: str = ""
    deck_height: float = 9.0

    def paint(self, canvas: Canvas) -> None:
        raise NotImplementedError

    @property
    def radius(self) -> float:
        """A disk of this radius in metres around the origin covers the frame with room for platform drift."""
        return 1.12 * float(np.hypot(*self.half)) + 40


@dataclass(frozen=True)
class Frame:
    """A local frame of reference: `u` along, `v` across, turned by `angle` and placed at `origin` in metres."""

    angle: float = 0.0
    origin: tuple[float, float] = (0.0, 0.0)

    def out(self, points) -> np.ndarray:
        return rotate(points, self.angle) + np.asarray(self.origin)

    def into(self, points) -> np.ndarray:
        return rotate(np.asarray(points, np.float64) - np.asarray(self.origin), -self.angle)

    def rect(self, u0: float, u1: float, v0: float, v1: float) -> np.ndarray:
        return self.out([(u0, v0), (u1, v0), (u1, v1), (u0, v1)])
