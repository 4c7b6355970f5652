"""A tracker without a model: a target is what has the colour that its sentence names."""

import dataclasses
import time

import numpy as np

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


@dataclasses.dataclass
class Result:
    frame_index: int
    masks: np.ndarray
    presence: np.ndarray
    memory: dict
    evidence: dict


class ColourTracker:
    """Has `Tracker`'s push and finish. Like a calibration window, it holds back the first `lag` frames."""

    made: list[list[str]]

    def __init__(self, texts: list[str], lag: int = 0, pause: float = 0.0):
        self.colours = np.array([next(COLOURS[word] for word in text.split() if word in COLOURS) for text in texts])
        self.lag, self.pause = lag, pause
        self.held: list[np.ndarray] = []
        self.given = 0

    def push(self, frame: np.ndarray) -> list[Result]:
        time.sleep(self.pause)
        self.held.append(frame)
        return self.finish() if len(self.held) > self.lag or self.given else []

    def finish(self) -> list[Result]:
        results = [self._result(frame) for frame in self.held]
        self.held = []
        return results

    def _result(self, frame: np.ndarray) -> Result:
        distance = np.abs(frame[None].astype(int) - self.colours[:, None, None]).max(-1)
        masks = distance < 90
        evidence = {"coarse": (1 - distance[:, ::4, ::4] / 255).astype(np.float32)} if not self.given else {}
        self.given += 1
        presence = np.where(masks.any((1, 2)), 0.95, 0.05).astype(np.float32)
        return Result(self.given - 1, masks, presence, {}, evidence)


def clip(frames: int = 12, size: tuple[int, int] = (40, 60), hidden: tuple[int, ...] = ()) -> list[np.ndarray]:
    """A red box that moves right (gone in the `hidden` frames) and a green one that stands, on grey."""
    pictures = []
    for t in range(frames):
        picture = np.full((*size, 3), 90, np.uint8)
        picture[25:33, 40:50] = COLOURS["green"]
        if t not in hidden:
            picture[5:13, 2 + t : 12 + t] = COLOURS["red"]
        pictures.append(picture)
    return pictures
