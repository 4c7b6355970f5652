"""What a memory decided along a video: a table with every number, and curves in bounded memory for people.

Only DAMI's memory decides anything: SAM2's takes every frame, and has no record but the ages of its entries.
"""

import csv
import dataclasses
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from mqc_jax.history import Series
from mqc_jax.models.registration import Decision

MEMORIES = ("semantic", "short", "discriminative")
"""The three memories, in the order of eq. 16's omega and of `Decision.mass`."""

JUDGED = ("novelty", "divergence", "score")
"""What a threshold decides about."""

FIELDS = tuple(field.name for field in dataclasses.fields(Decision) if field.name != "mass")
COLUMNS = ("frame", "target", "registered", *FIELDS, *(f"mass_{name}" for name in MEMORIES))
"""Columns of `memory.csv`; the meaning of each is `models.registration.Decision`'s."""


def decides(memory: dict[str, np.ndarray]) -> bool:
    """Whether a frame's record, `FrameResult.memory`, holds decisions."""
    return "novelty" in memory


class DecisionTable:
    """Writes `memory.csv`, one row a frame and target; a threshold that did not exist yet is an empty cell.

    The file is there as soon as a frame `decides`, and not at all with a memory that decides nothing.

    Args:
      path: of the table.
      keys: columns before `frame`, e.g. ("sequence", "expression").
    """

    def __init__(self, path: Path, keys: tuple[str, ...] = ()) -> None:
        self._path, self._keys = path, keys
        self._stream: TextIO | None = None

    def add(self, frame: int | str, target: int, memory: dict[str, np.ndarray], keys: tuple[str, ...] = ()) -> None:
        """Appends one row.

        Args:
          frame: its number or name.
          target: row of the arrays in `memory`.
          memory: `FrameResult.memory`.
          keys: the leading cells.
        """
        if not decides(memory):
            return
        if self._stream is None:
            self._stream = open(self._path, "w", newline="")  # noqa: SIM115 (closed by `close`)
            self._writer = csv.writer(self._stream)
            self._writer.writerow([*self._keys, *COLUMNS])
        values = [memory[name][target] for name in FIELDS] + list(memory["mass"][target])
        self._writer.writerow([*keys, frame, target, int(memory["registered"][target]), *map(_cell, values)])

    def close(self) -> None:
        """Ends the file."""
        if self._stream is not None:
            self._stream.close()


def _cell(value: np.generic) -> str:
    if isinstance(value, np.bool_ | np.integer):
        return str(int(value))
    return f"{value:.6g}" if np.isfinite(value) else ""


class MemoryHistory:
    """One target's decisions along a video, in bounded memory.

    Attributes:
      novelty, divergence, score, and each one's `_threshold`; confidence: one value a frame. A threshold that did not
        exist yet counts as the value that it was to judge.
      short, prototype: 1 in frames that were written into that memory, else 0.
      mass: the three memories' shares of what was read.
    """

    def __init__(self) -> None:
        for name in (*JUDGED, *(f"{name}_threshold" for name in JUDGED), "confidence"):
            setattr(self, name, Series())
        self.short, self.prototype = Series(), Series()
        self.mass = tuple(Series() for _ in MEMORIES)

    def add(self, memory: dict[str, np.ndarray], target: int) -> None:
        """Appends the next frame's record, `FrameResult.memory`."""
        self.confidence.add(float(memory["confidence"][target]))
        for name in JUDGED:
            value, threshold = float(memory[name][target]), float(memory[f"{name}_threshold"][target])
            getattr(self, name).add(value)
            getattr(self, f"{name}_threshold").add(threshold if np.isfinite(threshold) else value)
        self.short.add(float(memory["short_slot"][target] >= 0))
        self.prototype.add(float(memory["prototype_slot"][target] >= 0))
        for series, value in zip(self.mass, memory["mass"][target], strict=True):
            series.add(float(value))

    @property
    def frames(self) -> int:
        """Frames added so far."""
        return self.short.count

    def written(self) -> tuple[int, int]:
        """How many frames went into the short-term memory and into the prototypes."""
        return tuple(round(sum(bucket[1] for bucket in series.buckets)) for series in (self.short, self.prototype))

    def summary(self) -> dict[str, Any]:
        """Numbers for result.json."""
        short, prototype = self.written()
        # Frame 0 is remembered unasked: it has read nothing and passed no gate.
        later = max(self.frames - 1, 1)
        return {
            "frames_in_short_term": short,
            "frames_in_prototypes": prototype,
            "mean_score": sum(bucket[1] for bucket in self.score.buckets) / later,
            "mean_mass": {
                name: sum(bucket[1] for bucket in series.buckets) / later
                for name, series in zip(MEMORIES, self.mass, strict=True)
            },
        }
