"""A tiled stream's state as a file: each target's tracker as `Tracker.save` writes it, and where its window is.

An `archive`: facts in the header, the trackers' files as bytes, and results that wait for other targets' calibration.
Of a target that is not chosen yet, the objects that it may be, and the frames that are held back.
"""

import dataclasses
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mqc_jax import archive
from mqc_jax.checkpoint import Model
from mqc_jax.course import Course
from mqc_jax.errors import UserError
from mqc_jax.ground import LOOK, Ground, Marks, Shot
from mqc_jax.groups import Target
from mqc_jax.pace import Pattern
from mqc_jax.results import FrameResult
from mqc_jax.rivals import Rival, Rivals
from mqc_jax.standing import Standing, Surroundings
from mqc_jax.stream_state import check, damaged, model_facts, packed, unpacked
from mqc_jax.tile_search import Found
from mqc_jax.tiling import Window
from mqc_jax.tracker import Tracker

KEY, FORMAT = "mqc_jax_tiles", 18
_ARRAYS = ("masks", "mask_logits", "presence", "iou", "targets", "started")
_TABLES = ("memory", "evidence")
_NO_MAP = np.zeros((1, 1), np.float32)  # only a first frame's result shows where it was searched
_MARKS = ("pose", "first", "now", "alive", "looks")


class ViewState(NamedTuple):
    """One target between two frames: see `views.View`.

    `frames` are those held back until the first mask is settled, `rivals` what else may be meant, with the latest
    frames, or None. `searched` is None once frame 0's result was given, `pattern` where the target cannot be looked for
    by its pixels, `outline` where no mask was fit to be remembered or none is asked to be, and `number` the last
    result's frame, in the tracker's count.
    """

    tracker: Tracker
    window: Window
    course: Course
    standing: Standing
    frames: list[Shot]
    results: list[tuple[FrameResult, Window]]
    searched: np.ndarray | None
    pattern: Pattern | None
    outline: np.ndarray | None
    number: int
    rivals: Rivals | None


class ChoiceState(NamedTuple):
    """A target that is not chosen yet: see `views.Choice`."""

    found: list[Found]
    frames: list[Shot]


class TiledState(NamedTuple):
    """Between two frames, where frames are larger than a tile.

    Attributes:
      frame_index: number of the last frame whose result was given.
      pushed: how many frames there were.
      frame_shape: (H, W, 3) of every frame.
      next_id: of the next target to be added.
      targets: in order of their ids.
      views: by target, of those that have started.
      ground: after the last frame.
    """

    frame_index: int
    pushed: int
    frame_shape: tuple[int, int, int]
    next_id: int
    targets: list[Target]
    views: dict[int, ViewState | ChoiceState]
    ground: Ground


def write(path: str | Path, model: Model, state: TiledState) -> None:
    """Writes the file, whole or not at all."""
    targets, arrays = packed(state.targets)
    arrays |= {"ground": state.ground.grey, "pose": state.ground.pose}
    for k, marks in enumerate(state.ground.marks):
        arrays |= {f"marks{k}.{name}": getattr(marks, name) for name in _MARKS}
    facts = []
    for i, view in state.views.items():
        rivals = None if isinstance(view, ChoiceState) else view.rivals
        held = view.frames if rivals is None else rivals.shots
        start = state.pushed - len(held)
        # Targets that start together hold the same frames.
        arrays |= {f"held{start}.{k}": shot.pixels for k, shot in enumerate(held)}
        arrays |= {f"pose{start}.{k}": shot.pose for k, shot in enumerate(held)}
        if isinstance(view, ChoiceState):
            facts.append({"target": i, "found": [_described(f) for f in view.found], "start": start})
            arrays[f"searched{i}"] = view.found[0].map
            continue
        waiting = [{"frame": result.frame_index, "window": window} for result, window in view.results]
        course = dataclasses.asdict(view.course)
        known = view.pattern and {"corner": view.pattern.corner, "middle": view.pattern.middle}
        around = [{"corner": s.corner, "frame": s.frame, "middle": s.middle} for s in view.standing.kept]
        arrays |= {f"around{i}.{k}": s.grey for k, s in enumerate(view.standing.kept)}
        arrays |= {f"around{i}.{k}.pose": s.pose for k, s in enumerate(view.standing.kept)}
        fact = {"target": i, "window": view.window, "course": course, "start": start, "waiting": waiting}
        fact |= {"pattern": known, "number": view.number, "around": around, "longest": view.standing.length}
        fact["still"] = view.standing.still
        if rivals is not None:
            fact["rivals"] = {"followed": rivals.followed, "odds": rivals.odds, "number": rivals.number}
            fact["rivals"]["known"] = [
                {"found": _described(r.found), "area": r.area, "number": r.number, "moves": r.moves, "stands": r.stands}
                for r in rivals.known
            ]
            arrays |= {f"rival{i}.{k}": r.look for k, r in enumerate(rivals.known)}
            arrays |= {f"rival{i}.{k}.pose": r.pose for k, r in enumerate(rivals.known)}
        facts.append(fact)
        arrays[f"tracker{i}"] = np.frombuffer(_saved(view.tracker), np.uint8)
        if view.pattern is not None:
            arrays |= {f"pixels{i}": view.pattern.pixels, f"weight{i}": view.pattern.weight}
        if view.outline is not None:
            arrays[f"outline{i}"] = view.outline
        if view.searched is not None:
            arrays[f"searched{i}"] = view.searched
        for k, (result, _) in enumerate(view.results):
            arrays |= {f"result{i}.{k}.{name}": getattr(result, name) for name in _ARRAYS}
            for table in _TABLES:
                arrays |= {f"result{i}.{k}.{table}.{name}": v for name, v in getattr(result, table).items()}
    about = state._replace(targets=targets, views=facts)._asdict()
    about["ground"] = [{"age": marks.age, "fresh": marks.fresh} for marks in state.ground.marks]
    header = {KEY: FORMAT, **about, **model_facts(model)}
    archive.write(path, header, arrays)


def read(path: str | Path, model: Model, within: Model) -> TiledState:
    """Reads what `write` wrote.

    Args:
      model: the tracker's.
      within: what the trackers inside the windows use.

    Raises:
      UserError: not such a file, damaged, or written with a model of another config.
    """
    header, arrays = archive.read(path)
    check(path, header, KEY, FORMAT, model)
    try:
        height, width, channels = header["frame_shape"]
        targets = unpacked(header["targets"], arrays, (height, width), header["next_id"])
        views = {
            fact["target"]: _choice(fact, arrays, frames)
            if "found" in fact
            else _view(path, within, fact, arrays, frames)
            for fact in header["views"]
            for frames in [_held(fact, arrays, header["pushed"], (height, width, channels))]
        }
        if list(views) != [target.id for target in targets if target.start is not None]:
            raise ValueError("its targets and their windows do not fit each other")
        return TiledState(
            header["frame_index"],
            header["pushed"],
            (height, width, channels),
            header["next_id"],
            targets,
            views,
            Ground(
                arrays["ground"],
                _pose(arrays["pose"]),
                [_marks(k, fact, arrays) for k, fact in enumerate(header["ground"])],
            ),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise damaged(path, error) from error


def _pose(values: np.ndarray) -> np.ndarray:
    if values.shape != (3, 3) or not np.isfinite(values).all() or not np.linalg.det(values):
        raise ValueError("where the ground lies in a frame is no pose")
    return values


def _marks(k: int, fact: dict, arrays: dict[str, np.ndarray]) -> Marks:
    marks = Marks(
        age=int(fact["age"]), fresh=float(fact["fresh"]), **{name: arrays[f"marks{k}.{name}"] for name in _MARKS}
    )
    n = len(marks.alive)
    kinds = {"first": ((n, 2), np.float32), "now": ((n, 2), np.float32), "alive": ((n,), np.bool_)}
    kinds["looks"] = (n, LOOK, LOOK), np.uint8
    held = {name: (getattr(marks, name).shape, getattr(marks, name).dtype) for name in kinds}
    if held != kinds or not marks.fresh > 0:
        raise ValueError("the corners that the ground is known by do not fit each other")
    return marks._replace(pose=_pose(marks.pose))


def _held(fact: dict, arrays: dict[str, np.ndarray], pushed: int, shape: tuple[int, int, int]) -> list[Shot]:
    start = fact["start"]
    shots = [Shot(arrays[f"held{start}.{k}"], _pose(arrays[f"pose{start}.{k}"])) for k in range(pushed - start)]
    if any(shot.pixels.shape != shape or shot.pixels.dtype != np.uint8 for shot in shots):
        raise ValueError(f"the frames held back for target {fact['target']} do not fit the video")
    return shots


def _described(found: Found) -> dict:
    return {"window": found.window, "text": found.text, "box": found.box, "chance": found.chance}


def _found(one: dict, searched: np.ndarray) -> Found:
    return Found(Window(*one["window"]), one["text"], searched, one["box"] and tuple(one["box"]), one["chance"])


def _choice(fact: dict, arrays: dict[str, np.ndarray], frames: list[Shot]) -> ChoiceState:
    searched = arrays[f"searched{fact['target']}"]
    found = [_found(one, searched) for one in fact["found"]]
    if not found:
        raise ValueError(f"there is nothing that target {fact['target']} may be")
    return ChoiceState(found, frames)


def _view(path: str | Path, model: Model, fact: dict, arrays: dict[str, np.ndarray], frames: list[Shot]) -> ViewState:
    i = fact["target"]
    results = [
        (_result(f"result{i}.{k}.", one["frame"], arrays), Window(*one["window"]))
        for k, one in enumerate(fact["waiting"])
    ]
    tracker = _restored(model, arrays[f"tracker{i}"].tobytes(), path)
    window, course, searched = Window(*fact["window"]), Course(**fact["course"]), arrays.get(f"searched{i}")
    known = fact["pattern"]
    if known is not None:
        places = tuple(known["corner"]), tuple(known["middle"])
        known = Pattern(arrays[f"pixels{i}"], arrays[f"weight{i}"], *places)
    around = [
        Surroundings(
            arrays[f"around{i}.{k}"],
            tuple(one["corner"]),
            _pose(arrays[f"around{i}.{k}.pose"]),
            one["frame"],
            tuple(one["middle"]),
        )
        for k, one in enumerate(fact["around"])
    ]
    standing = Standing(around, fact["longest"], fact["still"] and tuple(fact["still"]))
    rivals = None
    if "rivals" in fact:
        rivals, frames = _rivals(fact, arrays, frames, model), []
    outline = arrays.get(f"outline{i}")
    if outline is not None and (outline.ndim != 2 or outline.dtype != np.bool_):
        raise ValueError(f"the outline of target {i} is no mask")
    number = fact["number"]
    return ViewState(tracker, window, course, standing, frames, results, searched, known, outline, number, rivals)


def _rivals(fact: dict, arrays: dict[str, np.ndarray], frames: list[Shot], model: Model) -> Rivals:
    about, name = fact["rivals"], f"rival{fact['target']}"
    known = [
        Rival(
            _found(one["found"], _NO_MAP),
            tuple(one["area"]),
            one["number"],
            _pose(arrays[f"{name}.{k}.pose"]),
            arrays[f"{name}.{k}"],
            one["moves"],
            one["stands"],
        )
        for k, one in enumerate(about["known"])
    ]
    if not 0 <= about["followed"] < len(known):
        raise ValueError(f"of {len(known)} objects none is number {about['followed']}")
    for rival in known:
        x0, y0, x1, y1 = rival.area
        if rival.look.shape != (y1 - y0, x1 - x0) or rival.look.dtype != np.uint8:
            raise ValueError("how an object looked does not fit its place")
    return Rivals(known, about["followed"], about["odds"], model.config.tmcc, about["number"], frames)


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
