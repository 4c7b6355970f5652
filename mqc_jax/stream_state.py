"""A stream's state as a file: everything that a tracker needs to go on in another process, and nothing that runs code.

An .npz archive: a header in JSON, the masks that were given as packed bits, each group's memory leaf by leaf, and the
frames held back by calibration windows. What an open window has found so far follows from those frames.
"""

import dataclasses
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mqc_jax import files
from mqc_jax.checkpoint import Model
from mqc_jax.errors import UserError
from mqc_jax.groups import Group, Target, form

FORMAT = 2


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
    header = {
        "mqc_jax_stream": FORMAT,
        "frame_index": state.frame_index,
        "frame_shape": list(state.frame_shape),
        "next_id": state.next_id,
        "targets": [{"id": t.id, "text": t.text, "start": t.start} for t in state.targets],
        "groups": [group.ids for group in state.groups],
        "held": len(state.held),
        **_model_facts(model),
    }
    arrays = {f"held{k}": image for k, image in enumerate(state.held)}
    arrays |= {f"mask{t.id}": np.packbits(t.mask) for t in state.targets if t.mask is not None}
    for k, group in enumerate(state.groups):
        arrays |= {f"group{k}.{i}": _plain(leaf) for i, leaf in enumerate(jax.tree.leaves(group.bank))}
    buffer = io.BytesIO()
    np.savez(buffer, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)
    files.write_atomic(path, buffer.getvalue())


def read(path: str | Path, model: Model) -> StreamState:
    """Reads what `write` wrote.

    Raises:
      UserError: not such a file, damaged, or written with a model of another config.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            header = json.loads(bytes(stored["header"]))
            arrays = {name: stored[name] for name in stored.files if name != "header"}
        version, facts = header["mqc_jax_stream"], {name: header[name] for name in _model_facts(model)}
    except FileNotFoundError as error:
        raise UserError(f"stream state {path} does not exist") from error
    except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a stream state written by Tracker.save") from error
    if version != FORMAT:
        raise UserError(
            f"{path} is a stream state of format {version!r}, this version reads {FORMAT}; use the one that wrote it"
        )
    if facts != _model_facts(model):
        raise UserError(
            f"{path} was written with a model of another config or dtype; load the checkpoint that it came from"
        )
    try:
        return _state(model, header, arrays)
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} is damaged: {_reason(error)}; go on from another copy, or start the stream anew"
        ) from error


def _reason(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def _model_facts(model: Model) -> dict:
    """What the model must be to go on with a state, in the form that JSON gives back."""
    return {"model": json.loads(json.dumps(dataclasses.asdict(model.config))), "dtype": jnp.dtype(model.net.dtype).name}


def _plain(leaf: jax.Array) -> np.ndarray:
    """NumPy's files know no bfloat16; its bits are stored as an integer's."""
    array = np.asarray(leaf)
    return array.view(f"u{array.itemsize}") if array.dtype.kind == "V" else array


def _state(model: Model, header: dict, arrays: Mapping[str, np.ndarray]) -> StreamState:
    height, width, channels = header["frame_shape"]
    size = model.config.image_size
    targets = [_target(fact, arrays, (height, width)) for fact in header["targets"]]
    held = [_array(arrays, f"held{k}", (size, size, 3), np.uint8) for k in range(header["held"])]
    groups = [_group(model, k, ids, arrays) for k, ids in enumerate(header["groups"])]
    index = header["frame_index"]
    started = [t.id for t in targets if t.start is not None and t.start <= index]
    ids = [t.id for t in targets]
    followed = [number for group in groups for number in group.ids]
    if ids != sorted(set(ids)) or ids[-1:] > [header["next_id"] - 1] or started != followed or [] in header["groups"]:
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
    return Target(fact["id"], fact["text"], mask, fact["start"])


def _group(model: Model, number: int, ids: list[int], arrays: Mapping[str, np.ndarray]) -> Group:
    leaves, tree = jax.tree.flatten(form(model, len(ids))[0])
    stored = [_array(arrays, f"group{number}.{i}", leaf.shape, leaf.dtype) for i, leaf in enumerate(leaves)]
    return Group(ids, jax.tree.unflatten(tree, [jnp.asarray(x) for x in stored]))
