"""A tiled stream's state as a file: each target's tracker as `Tracker.save` writes it, and where its window is.

An .npz archive: a header in JSON, the trackers' files as bytes, and results that wait for other targets' calibration.
"""

import io
import json
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mqc_jax import files
from mqc_jax.checkpoint import Model
from mqc_jax.errors import UserError
from mqc_jax.results import FrameResult
from mqc_jax.tiling import Window
from mqc_jax.tracker import Tracker

FORMAT = 1
_ARRAYS = ("masks", "mask_logits", "presence", "targets", "started")
_TABLES = ("memory", "evidence")


class ViewState(NamedTuple):
    """One target between two frames: see `tiled._View`. `searched` is None once frame 0's result was given."""

    tracker: Tracker
    window: Window
    seen: list[Window]
    results: list[tuple[FrameResult, Window]]
    searched: np.ndarray | None


class TiledState(NamedTuple):
    """Between two frames. `size` is (H, W); without windows one view sees the whole frame."""

    tile: int
    frame_index: int
    size: tuple[int, int]
    windows: bool
    views: list[ViewState]


def write(path: str | Path, state: TiledState) -> None:
    """Writes the file, whole or not at all."""
    facts, arrays = [], {}
    for k, view in enumerate(state.views):
        waiting = [{"frame": result.frame_index, "window": window} for result, window in view.results]
        facts.append({"window": view.window, "seen": view.seen, "waiting": waiting})
        arrays[f"tracker{k}"] = np.frombuffer(_saved(view.tracker), np.uint8)
        if view.searched is not None:
            arrays[f"searched{k}"] = view.searched
        for i, (result, _) in enumerate(view.results):
            arrays |= {f"result{k}.{i}.{name}": getattr(result, name) for name in _ARRAYS}
            for table in _TABLES:
                arrays |= {f"result{k}.{i}.{table}.{name}": v for name, v in getattr(result, table).items()}
    header = {"mqc_jax_tiles": FORMAT, **state._replace(views=facts)._asdict()}
    buffer = io.BytesIO()
    np.savez(buffer, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)
    files.write_atomic(path, buffer.getvalue())


def read(path: str | Path, model: Model) -> TiledState:
    """Reads what `write` wrote.

    Raises:
      UserError: not such a file, damaged, or written with a model of another config.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        header = json.loads(bytes(arrays["header"]))
        version = header.pop("mqc_jax_tiles")
    except FileNotFoundError as error:
        raise UserError(f"stream state {path} does not exist") from error
    except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a stream state written by TiledTracker.save") from error
    if version != FORMAT:
        raise UserError(
            f"{path} is a tiled state of format {version!r}, this version reads {FORMAT}; use the one that wrote it"
        )
    try:
        views = [_view(path, model, k, fact, arrays) for k, fact in enumerate(header["views"])]
        return TiledState(**{**header, "size": tuple(header["size"]), "views": views})
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); go on from another copy, or start the stream anew") from error


def _view(path: str | Path, model: Model, k: int, fact: dict, arrays: dict[str, np.ndarray]) -> ViewState:
    results = [
        (_result(f"result{k}.{i}.", one["frame"], arrays), Window(*one["window"]))
        for i, one in enumerate(fact["waiting"])
    ]
    seen = [Window(*window) for window in fact["seen"]]
    tracker = _restored(model, arrays[f"tracker{k}"].tobytes(), path)
    return ViewState(tracker, Window(*fact["window"]), seen, results, arrays.get(f"searched{k}"))


def _result(prefix: str, frame_index: int, arrays: dict[str, np.ndarray]) -> FrameResult:
    tables = {
        table: {
            name.removeprefix(f"{prefix}{table}."): values
            for name, values in arrays.items()
            if name.startswith(f"{prefix}{table}.")
        }
        for table in _TABLES
    }
    return FrameResult(frame_index=frame_index, **{name: arrays[prefix + name] for name in _ARRAYS}, **tables)


def _saved(tracker: Tracker) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stream"
        tracker.save(path)
        return path.read_bytes()


def _restored(model: Model, data: bytes, source: str | Path) -> Tracker:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stream"
        path.write_bytes(data)
        try:
            return Tracker.restore(model, path)
        except UserError as error:
            raise UserError(str(error).replace(str(path), str(source))) from error
