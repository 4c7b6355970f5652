"""Datasets read straight from the folder in which their authors ship them.

A layout is a class that is called with (root, split) and is a `VideoSource`. `FolderSource` is what they share: frames
and annotations are files; a layout says which.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from mqc_jax.data.images import MAX_PIXELS, decode_frame, decode_labels, image_size
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
            spoken = _expressions(videos[name], listing, name)
            categories = _categories(meta.get(name, {}), meta_path, name)
            _require_objects(spoken, categories, listing, meta_path, name)
            sequences.append(
                Sequence(
                    name=name,
                    frame_names=tuple(path.stem for path in paths),
                    size=_size_of(paths[0]),
                    expressions=spoken,
                    categories=categories,
                    tags=tuple(str(tag) for tag in _field(meta.get(name, {}), "tags", list, [], meta_path, name)),
                )
            )
            frames.append(paths)
        super().__init__(sequences, frames, [root / split / "Annotations" / s.name for s in sequences])


class Davis(FolderSource):
    """DAVIS 2017 as it comes: one target for each object of a sequence's first annotation, and no sentence.

    `<root>/JPEGImages/480p/<sequence>/00000.jpg`, `<root>/Annotations/480p/<sequence>/00000.png` (pixel = object id,
    255 = void, read as background) and `<root>/ImageSets/2017/<split>.txt`. Without a `480p` folder the full resolution
    is read. An expression's text is empty: what says which target is meant is its mask in the first frame.
    """

    def __init__(self, root: Path, split: str):
        sets = root / "ImageSets" / "2017"
        if not sets.is_dir():
            raise UserError(f"the folder {sets} is missing; {root} is not a DAVIS 2017 root")
        require_split(split, (path.stem for path in sets.glob("*.txt")), root)
        listing = sets / f"{split}.txt"
        names = [_safe(name, listing) for name in _read_text(listing).split()]
        if not names:
            raise UserError(f"{listing} lists no sequence, so the split {split!r} is empty")
        size = next((s for s in ("480p", "Full-Resolution") if (root / "JPEGImages" / s).is_dir()), "480p")
        frames = [_frame_paths(root / "JPEGImages" / size / name, []) for name in names]
        annotations = [root / "Annotations" / size / name for name in names]
        sequences = [
            Sequence(name, tuple(path.stem for path in paths), _size_of(paths[0]), (), {})
            for name, paths in zip(names, frames, strict=True)
        ]
        super().__init__(sequences, frames, annotations)
        self.sequences = tuple(
            dataclasses.replace(sequence, expressions=self._targets(index)) for index, sequence in enumerate(sequences)
        )

    def labels(self, sequence: int, t: int) -> np.ndarray | None:
        """See `VideoSource.labels`; void is background, as in the benchmark's semi-supervised evaluation."""
        found = super().labels(sequence, t)
        return found if found is None else np.where(found == VOID, 0, found).astype(found.dtype)

    def _objects(self, sequence: int) -> list[int]:
        """The ids of a sequence's first annotation; none where the truth is not public."""
        first = self.labels(sequence, 0)
        return [] if first is None else [int(i) for i in np.unique(first) if i]

    def _targets(self, sequence: int) -> tuple[Expression, ...]:
        return tuple(Expression(str(i), "", (i,)) for i in self._objects(sequence))


class RefDavis17(Davis):
    """DAVIS 2017 with Ref-DAVIS17's sentences: two annotators, each after the first frame and after the full video.

    `<root>/davis_text_annotations/Davis17_annot{1,2}[_full_video].txt` (or the same files in `<root>`), a line each
    `sequence object "sentence"`, UTF-8 or Latin-1. An expression's id is `<object>_<file>`, as in `1_annot2`.
    """

    def __init__(self, root: Path, split: str):
        self._sentences = _davis_sentences(root)
        super().__init__(root, split)

    def _targets(self, sequence: int) -> tuple[Expression, ...]:
        objects = self._objects(sequence)
        out = []
        for number, kind, text, where in sorted(self._sentences.get(self.sequences[sequence].name, ())):
            if objects and number not in objects:
                raise UserError(
                    f"{where} is about object {number}, which the first frame's annotation does not have (it has "
                    f"{', '.join(map(str, objects))})"
                )
            out.append(Expression(f"{number}_{kind}", text, (number,) if objects else ()))
        return tuple(out)


class Mevis(FolderSource):
    """MeViS: `<root>/<split>/{JPEGImages/,meta_expressions.json,mask_dict.json}`.

    `mask_dict[str(anno_id)]` lists, frame by frame, COCO's run lengths or null where the object is not seen. They stay
    compressed until a frame is asked for. An annotation's object id here is its rank among the `anno_id` of its video;
    an expression may unite several. Where objects overlap, the label map shows the smaller one; `target` is exact.
    Without `mask_dict.json` (the public validation split) expressions mean no object.
    """

    def __init__(self, root: Path, split: str):
        require_split(split, (path.parent.name for path in root.glob("*/meta_expressions.json")), root)
        listing, self._truth = root / split / "meta_expressions.json", root / split / "mask_dict.json"
        videos = _videos(listing)
        if not videos:
            raise UserError(f"{listing} lists no video, so the split {split!r} is empty")
        self._masks = read_json(self._truth) if self._truth.exists() else None
        if self._masks is not None and not isinstance(self._masks, dict):
            raise UserError(f"{self._truth} must be an object {{anno_id: [run lengths of each frame]}}")
        sequences, frames = [], []
        self._annos: list[list[str]] = []
        for name in sorted(videos):
            images = root / split / "JPEGImages" / _safe(name, listing)
            paths = _frame_paths(images, _field(videos[name], "frames", list, [], listing, name))
            # `obj_id` numbers a video's objects, `anno_id` the masks: the second is what can be looked up.
            spoken = _expressions(videos[name], listing, name, "anno_id")
            annos = sorted({i for e in spoken for i in e.object_ids}) if self._masks is not None else []
            for i in annos:
                self._require_masks(str(i), len(paths), name)
            rank = {i: k for k, i in enumerate(annos, 1)}
            expressions = tuple(
                dataclasses.replace(e, object_ids=tuple(rank[i] for i in e.object_ids if i in rank)) for e in spoken
            )
            sequences.append(Sequence(name, tuple(path.stem for path in paths), _size_of(paths[0]), expressions, {}))
            frames.append(paths)
            self._annos.append([str(i) for i in annos])
        super().__init__(sequences, frames, [])

    def _require_masks(self, anno: str, n_frames: int, video: str) -> None:
        runs = self._masks.get(anno)
        if not isinstance(runs, list) or len(runs) != n_frames:
            found = f"has {len(runs)} frames" if isinstance(runs, list) else "is not there"
            raise UserError(f"{self._truth}: anno_id {anno} of video {video!r} {found}; the video has {n_frames}")

    def has_labels(self, sequence: int, t: int) -> bool:
        """Whether the frame is annotated: all are, or none."""
        return self._masks is not None

    def labels(self, sequence: int, t: int) -> np.ndarray | None:
        """See `VideoSource.labels`."""
        if self._masks is None:
            return None
        annos = self._annos[sequence]
        found = np.zeros(self.sequences[sequence].size, np.uint8 if len(annos) <= 254 else np.uint16)
        masks = [(k, self._decode(sequence, t, k)) for k in range(1, len(annos) + 1)]
        seen = [(int(mask.sum()), k, mask) for k, mask in masks if mask is not None]
        for _, k, mask in sorted(seen, key=lambda entry: (-entry[0], entry[1])):
            found[mask] = k
        return found

    def target(self, sequence: int, t: int, expression: Expression) -> np.ndarray | None:
        """The union of an expression's masks, bool [H, W], also where another object lies over them."""
        if self._masks is None:
            return None
        union = np.zeros(self.sequences[sequence].size, bool)
        for k in expression.object_ids:
            mask = self._decode(sequence, t, k)
            if mask is not None:
                union |= mask
        return union

    def _decode(self, sequence: int, t: int, k: int) -> np.ndarray | None:
        anno = self._annos[sequence][k - 1]
        runs = self._masks[anno][t]
        name = f"{self._truth}: frame {t} of anno_id {anno}"
        return (
            None if runs is None else require_labels_fit(decode_runs(runs, name), self.sequences[sequence].size, name)
        )


VOID = 255  # of DAVIS: pixels that nobody wanted to decide
LAYOUTS = {"ref_youtube_vos": RefYoutubeVos, "davis": Davis, "ref_davis17": RefDavis17, "mevis": Mevis}
_SENTENCES = ("annot1", "annot1_full_video", "annot2", "annot2_full_video")
# Ref-DAVIS17's published files misspell three sequences.
_MISSPELT = {"clasic-car": "classic-car", "dog-scale": "dogs-scale", "motor-bike": "motorbike"}


def _davis_sentences(root: Path) -> dict[str, list[tuple[int, str, str, str]]]:
    """Sequence to (object, which file, sentence, where it stands)."""
    folders = (root / "davis_text_annotations", root)
    folder = next((f for f in folders if any((f / f"Davis17_{kind}.txt").is_file() for kind in _SENTENCES)), None)
    if folder is None:
        raise UserError(f"{folders[0]} holds no Davis17_annot1.txt; put Ref-DAVIS17's sentences there")
    found: dict[str, list[tuple[int, str, str, str]]] = {}
    for kind in _SENTENCES:
        path = folder / f"Davis17_{kind}.txt"
        for number, line in enumerate(_read_text(path).splitlines() if path.is_file() else (), 1):
            if not line.strip():
                continue
            words = line.split(maxsplit=2)
            text = " ".join(words[2].strip().strip('"').split()) if len(words) == 3 else ""
            if not text or not words[1].isdecimal():
                raise UserError(f'{path}: line {number} is not: sequence object "sentence"')
            sequence = _MISSPELT.get(words[0], words[0])
            found.setdefault(sequence, []).append((int(words[1]), kind, text, f"{path}: line {number}"))
    return found


def decode_runs(runs: Any, name: str) -> np.ndarray:
    """COCO's run lengths `{"size": [h, w], "counts": str or [int, ...]}` as bool [h, w].

    Raises:
      UserError: not of this form, or the runs do not fill the size.
    """
    from pycocotools import mask as coco  # Only MeViS needs it.

    try:
        height, width = (int(side) for side in runs["size"])
        counts = runs["counts"]
        if height < 1 or width < 1 or height * width > MAX_PIXELS:
            raise ValueError(f"its size is {height}x{width}")
        if isinstance(counts, list):
            if min(counts, default=0) < 0 or sum(counts) != height * width:
                raise ValueError("its runs do not fill its size")
            runs = coco.frPyObjects({"size": [height, width], "counts": counts}, height, width)
        else:
            data = counts.encode("ascii") if isinstance(counts, str) else bytes(counts)
            if _pixels_of(data) != height * width:
                raise ValueError("its runs do not fill its size")
            runs = {"size": [height, width], "counts": data}
        return coco.decode(runs).astype(bool)
    except (KeyError, TypeError, ValueError, AttributeError, UnicodeError) as error:
        raise UserError(f"{name} is not a run-length mask: {error}") from error


def _pixels_of(data: bytes) -> int:
    """Pixels that compressed run lengths cover: the decoder trusts them, so they are counted before it.

    A number is a sequence of characters with 5 bits each, the lowest first; bit 32 says that another follows, bit 16
    of the last is the sign. From the fourth number on, each is the difference to the second last.
    """
    runs: list[int] = []
    value = shift = 0
    for character in data:
        bits = character - 48
        if not 0 <= bits < 64:
            raise ValueError(f"it holds the character {chr(character)!r}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        if len(runs) > 2:
            value += runs[-2]
        if value < 0:
            raise ValueError("it holds a negative run")
        runs.append(value)
        value = shift = 0
    if shift:
        raise ValueError("it is truncated")
    return sum(runs)


def _read_text(path: Path) -> str:
    """A text file's content: UTF-8, or Latin-1 where it is not."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


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


def _expressions(entry: dict, path: Path, video: str, ids_in: str = "obj_id") -> tuple[Expression, ...]:
    found = []
    for key, value in _field(entry, "expressions", dict, {}, path, video).items():
        where = f"{path}: expression {key!r} of video {video!r}"
        if not isinstance(value, dict) or not isinstance(value.get("exp"), str) or not value["exp"].strip():
            raise UserError(f"{where} has no text in 'exp'")
        ids = value.get(ids_in, [])
        try:
            ids = tuple(int(one) for one in (ids if isinstance(ids, list) else [ids]))
        except (TypeError, ValueError) as error:
            raise UserError(f"{where} has {ids_in} {ids!r}; it must be an integer") from error
        found.append(Expression(_safe(key, path), " ".join(value["exp"].split()), ids))
    return tuple(found)


def _require_objects(
    spoken: tuple[Expression, ...], categories: dict[int, str], listing: Path, meta_path: Path, video: str
) -> None:
    """Refuses a sentence about an object that the video does not have, where meta.json says which it has."""
    for expression in spoken:
        absent = [i for i in expression.object_ids if i not in categories]
        if categories and absent:
            raise UserError(
                f"{listing}: expression {expression.id!r} of video {video!r} is about object {absent[0]}, which "
                f"{meta_path} does not have; it has {', '.join(map(str, sorted(categories)))}"
            )


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
