"""The models behind the page: one set of parameters, under the switches that a user may set."""

import threading
from typing import Any, NamedTuple, Protocol

import numpy as np

from mqc_jax.config import CALIBRATIONS, MEMORIES


class Settings(NamedTuple):
    """What a user may switch: `model.calibration` and `model.memory`."""

    calibration: str
    memory: str


class Engine(Protocol):
    """Whatever makes trackers for the page; `ModelEngine` is the one there is, tests have their own.

    Attributes:
      default: the settings that the page begins with.
      calibrations, memories: the values that can be chosen.
    """

    default: Settings
    calibrations: tuple[str, ...]
    memories: tuple[str, ...]

    def is_warm(self, targets: int, settings: Settings) -> bool:
        """Whether a tracker of so many targets can start without compiling."""

    def warm(self, targets: int, settings: Settings) -> None:
        """Compiles what a tracker of so many targets needs. Called twice at once, the second waits for the first."""

    def tracker(self, texts: list[str], settings: Settings) -> Any:
        """An object with `Tracker`'s `push` and `finish`.

        Raises:
          UserError: a sentence is too long.
        """

    def facts(self, settings: Settings) -> dict[str, Any]:
        """What the report says about the model."""


class ModelEngine:
    """An `Engine` of a loaded `mqc_jax.Model`.

    Raises:
      UserError: the model cannot read sentences.
    """

    def __init__(self, model: Any) -> None:
        model.require_text()
        self.default = Settings(model.config.calibration, model.config.memory)
        self.calibrations = CALIBRATIONS
        # A model that was trained with DAMI's memory has no SAM2's to go back to.
        self.memories = (model.config.memory,) if model.config.memory == "dami" else MEMORIES
        self._models = {self.default: model}
        self._original = model
        self._warm: set[tuple[int, Settings]] = set()
        self._guard = threading.Lock()
        self._compiling: dict[tuple[int, Settings], threading.Lock] = {}

    def _model(self, settings: Settings) -> Any:
        with self._guard:
            if settings not in self._models:
                self._models[settings] = self._original.replace(**settings._asdict())
            return self._models[settings]

    def is_warm(self, targets: int, settings: Settings) -> bool:
        return (targets, settings) in self._warm

    def warm(self, targets: int, settings: Settings) -> None:
        key = (targets, settings)
        with self._guard:
            lock = self._compiling.setdefault(key, threading.Lock())
        with lock:
            if key in self._warm:
                return
            size = self._model(settings).config.image_size
            tracker = self.tracker(["the aircraft"] * targets, settings)
            still = np.full((size, size, 3), 128, np.uint8)
            # Nothing moves, so a calibration window runs to its end: every length that it may have is compiled.
            window = self._model(settings).config.tmcc.n_max if settings.calibration == "tmcc" else 0
            for _ in range(window + 2):
                tracker.push(still)
            tracker.finish()
            self._warm.add(key)

    def tracker(self, texts: list[str], settings: Settings) -> Any:
        from mqc_jax import Tracker

        return Tracker(self._model(settings), texts)

    def facts(self, settings: Settings) -> dict[str, Any]:
        from mqc_jax.predict import model_facts

        facts = model_facts(self._model(settings))
        # The report goes to whoever asks; where the server keeps its models is nobody's business.
        facts["checkpoint"] = facts["checkpoint"].rstrip("/").rsplit("/", 1)[-1]
        return facts
