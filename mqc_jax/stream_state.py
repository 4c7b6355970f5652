"""A stream's state as a file: everything that a tracker needs to go on in another process, and nothing that runs code.

An .npz archive: a header in JSON, the masks that were given as packed bits, each group's memory leaf by leaf, and the
frames held back by calibration windows. What an open window has found so far follows from those frames.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mqc_jax import archive
from mqc_jax.checkpoint import Model
from mqc_jax.errors import UserError
from mqc_jax.groups import Group, Target, form

KEY, FORMAT = "mqc_jax_stream", 7


@dataclasses.dataclass(frozen=True)
class StreamState:
    """Between two frames.

    Attributes:
      frame_index: number of the last frame whose result was given.
      frame_shape: (H, W, 3) of every frame.
      next_id: of the next target to be added.
      targets: in order of their ids.
      groups: the targets that have started in frames up to `frame_index`.
      held: uint8 RGB [S, S, 3], the frames after it.
    """

    frame_index: int
    frame_shape: tuple[int, int, int]
    next_id: int
    targets: list[Target]
    groups: list[Group]
    held: list[np.ndarray]


def write(path: str | Path, model: Model, state: StreamState) -> None:
    """Writes the file, whole or not at all."""
    facts, arrays = packed(state.targets)
    header = {
        KEY: FORMAT,
        "frame_index": state.frame_index,
        "frame_shape": list(state.frame_shape),
        "next_id": state.next_id,
        "targets": facts,
        "groups": [group.ids for group in state.groups],
        "held": len(state.held),
        **model_facts(model),
    }
    arrays |= {f"held{k}": image for k, image in enumerate(state.held)}
    for k, group in enumerate(state.groups):
        arrays |= {f"group{k}.{i}": _plain(leaf) for i, leaf in enumerate(jax.tree.leaves(group.bank))}
    archive.write(path, header, arrays)


def read(path: str | Path, model: Model) -> StreamState:
    """Reads what `write` wrote.

    Raises:
      UserError: not such a file, damaged, or written with a model of another config.
    """
    header, arrays = archive.read(path)
    check(path, header, KEY, FORMAT, model)
    try:
        return _state(model, header, arrays)
    except (KeyError, ValueError, TypeError) as error:
        raise damaged(path, error) from error


def check(path: str | Path, header: Mapping[str, Any], key: str, version: int, model: Model) -> None:
    """Whether a header is of this kind and version, and of this model.

    Raises:
      UserError: it is not.
    """
    own = model_facts(model)
    if key not in header or any(name not in header for name in own):
        raise UserError(f"{path} is not a stream state written by Tracker.save")
    if header[key] != version:
        raise UserError(
            f"{path} is a stream state of format {header[key]!r}, this version reads {version}; "
            "use the one that wrote it"
        )
    if {name: header[name] for name in own} != own:
        raise UserError(
            f"{path} was written with a model of another config or dtype; load the checkpoint that it came from, with "
            "the same switches"
        )


def damaged(path: str | Path, error: Exception) -> UserError:
    """What to raise where a part is missing or does not fit."""
    reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    return UserError(f"{path} is damaged: {reason}; go on from another copy, or start the stream anew")


def model_facts(model: Model) -> dict:
    """What the model must be to go on with a state, in the form that JSON gives back."""
    return {"model": json.loads(json.dumps(dataclasses.asdict(model.config))), "dtype": jnp.dtype(model.net.dtype).name}


def packed(targets: Iterable[Target]) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Targets as facts for the header, and the masks that were given as packed bits; `unpacked` reads them."""
    targets = list(targets)
    facts = [{"id": t.id, "text": t.text, "start": t.start, "place": t.place} for t in targets]
    return facts, {f"mask{t.id}": np.packbits(t.mask) for t in targets if t.mask is not None}


def unpacked(
    facts: Iterable[Mapping[str, Any]], arrays: Mapping[str, np.ndarray], size: tuple[int, int], next_id: int
) -> list[Target]:
    """Targets in order of their ids, in frames of `size` (H, W).

    Raises:
      KeyError, ValueError, TypeError: what is there is not what `packed` gave.
    """
    targets = [_target(fact, arrays, size) for fact in facts]
    ids = [t.id for t in targets]
    if ids != sorted(set(ids)) or ids[-1:] > [next_id - 1]:
        raise ValueError("its targets do not fit each other")
    return targets


def _plain(leaf: jax.Array) -> np.ndarray:
    """NumPy's files know no bfloat16; its bits are stored as an integer's."""
    array = np.asarray(leaf)
    return array.view(f"u{array.itemsize}") if array.dtype.kind == "V" else array


def _state(model: Model, header: dict, arrays: Mapping[str, np.ndarray]) -> StreamState:
    height, width, channels = header["frame_shape"]
    size = model.config.image_size
    targets = unpacked(header["targets"], arrays, (height, width), header["next_id"])
    held = [_array(arrays, f"held{k}", (size, size, 3), np.uint8) for k in range(header["held"])]
    groups = [_group(model, k, ids, arrays) for k, ids in enumerate(header["groups"])]
    index = header["frame_index"]
    started = [t.id for t in targets if t.start is not None and t.start <= index]
    followed = [number for group in groups for number in group.ids]
    if started != followed or [] in header["groups"]:
        raise ValueError("its targets and their memories do not fit each other")
    return StreamState(index, (height, width, channels), header["next_id"], targets, groups, held)


def _array(arrays: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...], dtype) -> np.ndarray:
    array, dtype = arrays[name], np.dtype(dtype)
    stored = np.dtype(f"u{dtype.itemsize}") if dtype.kind == "V" else dtype
    if array.shape != shape or array.dtype != stored:
        raise ValueError(f"{name} is {array.dtype} {list(array.shape)} where {stored} {list(shape)} is needed")
    return array.view(dtype)


def _target(fact: dict, arrays: Mapping[str, np.ndarray], size: tuple[int, int]) -> Target:
    mask = None
    if fact["text"] is None:
        bits = _array(arrays, f"mask{fact['id']}", (-(-size[0] * size[1] // 8),), np.uint8)
        mask = np.unpackbits(bits, count=size[0] * size[1]).reshape(size).astype(bool)
    place = fact["place"] and tuple(map(float, fact["place"]))
    return Target(fact["id"], fact["text"], mask, fact["start"], place)


def _group(model: Model, number: int, ids: list[int], arrays: Mapping[str, np.ndarray]) -> Group:
    leaves, tree = jax.tree.flatten(form(model, len(ids))[0])
    stored = [_array(arrays, f"group{number}.{i}", leaf.shape, leaf.dtype) for i, leaf in enumerate(leaves)]
    return Group(ids, jax.tree.unflatten(tree, [jnp.asarray(x) for x in stored]))
