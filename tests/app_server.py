"""The app in a process of its own, with trackers that need no model.

python tests/app_server.py WORK PORT PAUSE [field=value ...]

PAUSE is how many seconds a frame takes; the fields are those of `Limits`.
"""

import sys
import threading
import time

import numpy as np
from colour_tracker import COLOURS, ColourTracker

from mqc_jax.app.engine import Settings
from mqc_jax.app.limits import Limits
from mqc_jax.app.serve import listen, serve
from mqc_jax.app.work import WorkFolder
from mqc_jax.errors import UserError
from mqc_jax.memory_log import FIELDS


class Deciding(ColourTracker):
    """With the record that DAMI's memory leaves."""

    def _result(self, frame):
        result = super()._result(frame)
        targets, t = len(result.masks), result.frame_index
        record = {name: np.full(targets, 0.1 + 0.02 * t) for name in FIELDS}
        record |= {"short_slot": np.full(targets, t % 3 - 1), "prototype_slot": np.full(targets, -1)}
        result.memory = {**record, "registered": np.ones(targets, bool), "mass": np.full((targets, 3), 1 / 3)}
        return result


class ColourEngine:
    """Compiling takes half a second for each new number of sentences, but not for one."""

    default, calibrations, memories = Settings("none", "sam2"), ("none", "tmcc"), ("sam2", "dami")

    def __init__(self, pause: float = 0.0) -> None:
        self._pause, self._ready, self._guard = pause, {1}, threading.Lock()

    def is_warm(self, targets, settings):
        return targets in self._ready

    def warm(self, targets, settings):
        with self._guard:
            if targets not in self._ready:
                time.sleep(0.5)
                self._ready.add(targets)

    def tracker(self, texts, settings):
        for text in texts:
            if "defect" in text:
                raise ZeroDivisionError("as asked for")
            if not set(COLOURS) & set(text.split()):
                raise UserError(f"the sentence {text!r} names no colour; say red, green, blue or white")
        return (Deciding if settings.memory == "dami" else ColourTracker)(texts, pause=self._pause)

    def facts(self, settings):
        return {"checkpoint": "colours", **settings._asdict()}


if __name__ == "__main__":
    COLOURS["white"] = (255, 255, 255)  # what is bright in the examples
    work, port, pause, *fields = sys.argv[1:]
    limits = Limits(**{name: int(value) for name, value in (field.split("=") for field in fields)})
    serve(ColourEngine(float(pause)), WorkFolder(work), limits, listen("127.0.0.1", int(port)))
