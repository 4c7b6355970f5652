"""A target in its first frames, in which motion tells which of several objects is meant that its sentence may mean."""

import collections

import cv2
import numpy as np

from mqc_jax import ground, paths
from mqc_jax.checkpoint import Model
from mqc_jax.ground import Shot
from mqc_jax.rivals import Rivals
from mqc_jax.tile_search import Found
from mqc_jax.tiled_state import ChoiceState
from mqc_jax.tiling import Window
from mqc_jax.views import Seen, View


class Choice:
    """A target in the frames in which it is not decided yet which of the objects that its sentence may mean it is.

    Frames are held back as calibration holds them, and are then seen by the chosen object's view. What did not move yet
    stays known (`rivals`).

    Args:
      model: what the tracker inside the window uses; it calibrates.
      found: the objects, the likeliest first.
      odds: how many times likelier it is that what moves is meant than what does not (`moving.odds`); 1: the likeliest
        object is meant, and motion tells where it goes.

    Attributes:
      start: number of the target's first frame.
      frames: from that one on; fewer than `n_max` + 1 of them.
      results: none.
    """

    def __init__(self, model: Model, found: list[Found], odds: float, size: tuple[int, int], start: int) -> None:
        self.model, self.found, self.odds, self.size, self.start = model, found, odds, size, start
        self.frames: list[Shot] = []
        self.results: collections.deque[Seen] = collections.deque()

    @property
    def keeps(self) -> bool:
        """True: frames are held back."""
        return True

    @property
    def window(self) -> Window:
        """The likeliest object's."""
        return self.found[0].window

    def state(self) -> ChoiceState:
        """Everything that `of` needs."""
        return ChoiceState(self.found, self.frames)

    @classmethod
    def of(cls, model: Model, state: ChoiceState, odds: float, size: tuple[int, int], start: int) -> "Choice":
        """The choice that had this state."""
        choice = cls(model, state.found, odds, size, start)
        choice.frames = list(state.frames)
        return choice

    def push(self, shot: Shot) -> "View | Choice":
        """Takes the next frame, which must not be written to any more; gives what goes on from there."""
        self.frames.append(shot)
        return self._chosen() if len(self.frames) > self.model.config.tmcc.n_max else self

    def finish(self) -> View:
        """Chooses from the frames that there are."""
        return self._chosen().finish()

    def _chosen(self) -> View:
        config = self.model.config.tmcc
        grey = [cv2.cvtColor(shot.pixels, cv2.COLOR_RGB2GRAY) for shot in self.frames]
        # With all of them seen it is known better than when each came.
        poses = ground.poses(grey)
        frames = [Shot(shot.pixels, pose @ self.frames[0].pose) for shot, pose in zip(self.frames, poses, strict=True)]
        boxes = [found.box or found.window.box for found in self.found]
        seen = paths.follow(grey, poses, boxes, config.windows(config.n_max))
        weights = [paths.weight(self.odds, path.moves > 0, path.stands) for path in seen]
        chances = [found.chance * weight for found, weight in zip(self.found, weights, strict=True)]
        best = int(np.argmax(chances))
        view = View.chosen(self.model, self.found[best], seen[best], frames, self.size, self.start, len(seen))
        if self.odds > 1:
            rivals = Rivals.after(self.found, seen, best, self.odds, config, self.frames, poses)
            view.rivals = rivals if rivals.open else None
        return view
