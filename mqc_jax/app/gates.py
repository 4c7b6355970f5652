"""The gates of DAMI's memory as pictures, from the table that `predict` wrote."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from mqc_jax.memory_log import FIELDS, MEMORIES, MemoryHistory
from mqc_jax.viz_memory import memory_strip


def gates_pictures(table: Path, texts: Sequence[str], pictures: Sequence[tuple[int, bytes]]) -> list[bytes]:
    """One PNG a target, as `viz_memory.memory_strip` draws it; none where there is no `memory.csv`.

    Args:
      table: the path of `memory.csv`.
      texts: the targets' sentences.
      pictures: (frame number, encoded picture) along the video.
    """
    if not table.is_file():
        return []
    records = [MemoryHistory() for _ in texts]
    with open(table, newline="") as file:
        for row in csv.DictReader(file):
            target = int(row["target"])
            memory = {name: {target: _number(row[name])} for name in FIELDS}
            memory["mass"] = {target: [_number(row[f"mass_{name}"]) for name in MEMORIES]}
            records[target].add(memory, target)
    decoded = [
        (frame, cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]) for frame, data in pictures
    ]
    strips = (memory_strip(decoded, record, text) for record, text in zip(records, texts, strict=True))
    return [cv2.imencode(".png", np.ascontiguousarray(strip[..., ::-1]))[1].tobytes() for strip in strips]


def _number(cell: str) -> float:
    return float(cell) if cell else math.nan
