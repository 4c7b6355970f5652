"""Datasets read straight from the folder in which their authors ship them.

A layout is a class that is called with (root, split) and is a `VideoSource`. `FolderSource` is what they share: frames
and annotations are files; a layout says which.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from mqc_jax.data.images import decode_frame, decode_labels, image_size
from mqc_jax.data.source import Expression, Sequence, require_labels_fit, require_split
from mqc_jax.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_HEADER = 1 << 16  # bytes that hold any usual header; the size of a frame is known without reading all of it


class FolderSource:
    """Frames in one folder a sequence, annotations likewise, both named by the frame.

    Attributes:
      sequences: what the split holds, sorted by name.
    """

    def __init__(self, sequences: list[Sequence], frames: list[list[Path]], annotations: list[Path]):
        self.sequences = tuple(sequences)
        self._frames = frames
        self._annotations = annotations

    def frame(self, sequence: int, t: int, reduce: int = 1) -> np.ndarray:
        """See `VideoSource.frame`."""
        path = self._frames[sequence][t]
        data = self.frame_bytes(sequence, t)
        image = decode_frame(data, str(path), reduce)
        size = self.sequences[sequence].size
        expected = tuple(-(-side // reduce) for side in size)
        if image.shape[:2] != expected:
            height, width = image_size(data, str(path))
            raise UserError(
                f"{path} has {height}x{width} pixels (height x width) but the first frame of its sequence has "
                f"{size[0]}x{size[1]}; all frames of a sequence must have one size"
            )
        return image

    def labels(self, sequence: int, t: int) -> np.ndarray | None:
        """See `VideoSource.labels`."""
        path = self._annotations[sequence] / f"{self.sequences[sequence].frame_names[t]}.png"
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        return require_labels_fit(decode_labels(data, str(path)), self.sequences[sequence].size, str(path))

    def has_labels(self, sequence: int, t: int) -> bool:
        """Whether the frame is annotated, without reading the annotation."""
        return (self._annotations[sequence] / f"{self.sequences[sequence].frame_names[t]}.png").exists()

    def frame_bytes(self, sequence: int, t: int) -> bytes:
        """The frame's file as it is: what packaging stores, so that nothing is encoded twice."""
        path = self._frames[sequence][t]
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise UserError(f"the frame {path} is missing") from error


class RefYoutubeVos(FolderSource):
    """Ref-YouTube-VOS, and every dataset that the project writes itself.

    `<root>/<split>/JPEGImages/<video>/<frame>.jpg`, `<root>/<split>/Annotations/<video>/<frame>.png` (pixel = object
    id), `<root>/<split>/meta.json` (categories and, as the project's extension, `tags` a video; optional) and
    `<root>/meta_expressions/<split>/meta_expressions.json`. Object ids come as strings; the list of frames may be
    missing (the folder is listed then); the public validation split has neither `obj_id` nor annotations, so its
    expressions mean no object here.
    """

    def __init__(self, root: Path, split: str):
        folder = root / "meta_expressions"
        if not folder.is_dir():
            raise UserError(f"the folder {folder} is missing; {root} is not a Ref-YouTube-VOS root")
        require_split(split, (entry.name for entry in folder.iterdir() if entry.is_dir()), root)
        listing = folder / split / "meta_expressions.json"
        videos = _videos(listing)
        meta_path = root / split / "meta.json"
        meta = _videos(meta_path) if meta_path.exists() else {}
        if not videos:
            raise UserError(f"{listing} lists no video, so the split {split!r} is empty")
        sequences, frames = [], []
        images = root / split / "JPEGImages"
        for name in sorted(videos):
            paths = _frame_paths(images / _safe(name, listing), _field(videos[name], "frames", list, [], listing, name))
            sequences.append(
                Sequence(
                    name=name,
                    frame_names=tuple(path.stem for path in paths),
                    size=_size_of(paths[0]),
                    expressions=_expressions(videos[name], listing, name),
                    categories=_categories(meta.get(name, {}), meta_path, name),
                    tags=tuple(str(tag) for tag in _field(meta.get(name, {}), "tags", list, [], meta_path, name)),
                )
            )
            frames.append(paths)
        super().__init__(sequences, frames, [root / split / "Annotations" / s.name for s in sequences])


LAYOUTS = {"ref_youtube_vos": RefYoutubeVos}


def read_json(path: Path) -> Any:
    """Parses a JSON file; a `UserError` names the file, and the line where it is malformed."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"the file {path} is missing") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not valid JSON: it is not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON: {error.msg} at line {error.lineno}") from error


def _videos(path: Path) -> dict[str, dict]:
    content = read_json(path)
    videos = content.get("videos") if isinstance(content, dict) else None
    if not isinstance(videos, dict) or not all(isinstance(entry, dict) for entry in videos.values()):
        raise UserError(f'{path} must be an object {{"videos": {{name: {{...}}}}}}')
    return videos


def _field(entry: dict, key: str, kind: type, default: Any, path: Path, video: str) -> Any:
    value = entry.get(key, default)
    if not isinstance(value, kind):
        raise UserError(f"{path}: {key!r} of video {video!r} must be a {kind.__name__}, got {type(value).__name__}")
    return value


def _safe(name: Any, path: Path) -> str:
    """A name from a file becomes a path: it must stay inside its folder."""
    name = str(name)
    if not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise UserError(f"{path}: the name {name!r} cannot be a folder's or a file's name")
    return name


def _expressions(entry: dict, path: Path, video: str) -> tuple[Expression, ...]:
    found = []
    for key, value in _field(entry, "expressions", dict, {}, path, video).items():
        where = f"{path}: expression {key!r} of video {video!r}"
        if not isinstance(value, dict) or not isinstance(value.get("exp"), str) or not value["exp"].strip():
            raise UserError(f"{where} has no text in 'exp'")
        ids = value.get("obj_id", [])
        try:
            ids = tuple(int(one) for one in (ids if isinstance(ids, list) else [ids]))
        except (TypeError, ValueError) as error:
            raise UserError(f"{where} has obj_id {ids!r}; it must be an integer") from error
        found.append(Expression(_safe(key, path), " ".join(value["exp"].split()), ids))
    return tuple(found)


def _categories(entry: dict, path: Path, video: str) -> dict[int, str]:
    objects = _field(entry, "objects", dict, {}, path, video)
    try:
        return {int(key): str(value["category"]) for key, value in objects.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: the objects of video {video!r} need integer keys and a 'category' each") from error


def _frame_paths(folder: Path, listed: list) -> list[Path]:
    try:
        there = {p.stem: p for p in sorted(folder.iterdir(), reverse=True) if p.suffix.lower() in IMAGE_SUFFIXES}
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"the folder {folder} is missing") from error
    names = [_safe(name, folder) for name in listed] or sorted(there)
    if not names:
        raise UserError(f"the folder {folder} holds no frame ({', '.join(IMAGE_SUFFIXES)})")
    for name in names:
        if name not in there:
            raise UserError(f"the frame {folder / name}.jpg is listed but missing")
    return [there[name] for name in names]


def _size_of(path: Path) -> tuple[int, int]:
    with path.open("rb") as file:
        head = file.read(_HEADER)
        try:
            return image_size(head, str(path))
        except UserError:  # A large preview or colour profile can push the size further back.
            return image_size(head + file.read(), str(path))
