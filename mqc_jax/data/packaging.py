"""TFDS packages of referring-video datasets: written by `tfds build`, read as a `VideoSource`, both without TensorFlow.

One record is one frame: the encoded picture as it came (never encoded twice) and its object ids as a grey PNG. Records
stand in sequence order, and `metadata.json` says what belongs to a whole sequence: sentences, categories, tags, size,
frame names and the number of its first record. So a clip reads its own frames by number and nothing else; a package
of whole sequences would have to read 500 frames of 2160x1080 to give 8. Shards are cut between sequences.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from mqc_jax.data.images import decode_frame, decode_labels, encode_labels
from mqc_jax.data.layouts import FolderSource, RefYoutubeVos
from mqc_jax.data.source import Expression, Sequence, require_labels_fit, require_split
from mqc_jax.errors import UserError

_SHARD_PIXELS = 2_000_000_000  # about 300 MB of JPEG
_NO_LABELS = encode_labels(np.zeros((1, 1), np.uint8))
_FORMAT = 1  # of metadata.json


class VideoBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """What all of the project's builders share; a dataset says in `raw` where its folder is.

    TFDS's ordinary builder keeps a split in memory up to a gigabyte and needs TensorFlow beyond; this base writes
    shards as they come, and hands pictures over as handles that are read when their record is written, so memory holds
    one frame.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "One record a frame."}  # noqa: RUF012 - TFDS reads it from the class
    DESCRIPTION = ""
    HOMEPAGE = None
    CITATION = None
    SPLITS = ("train", "test")

    def __init__(self, *, file_format: str | None = None, **kwargs: Any):
        super().__init__(file_format=file_format or "array_record", **kwargs)
        self._manual_dir: Path | None = None

    def raw(self, manual_dir: Path | None, scratch: Path) -> Path:
        """The folder to package, in the Ref-YouTube-VOS layout; `scratch` is removed when the build ends.

        `manual_dir` is what the user gave as `--manual_dir`, or None.
        """
        raise NotImplementedError

    def has_split(self, root: Path, split: str) -> bool:
        """Whether the raw folder has a split, before it is read."""
        return (root / "meta_expressions" / split).is_dir()

    def open_split(self, root: Path, split: str) -> FolderSource:
        """Reads one split of the raw folder."""
        return RefYoutubeVos(root, split)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            homepage=self.HOMEPAGE,
            citation=self.CITATION,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3), doc="The frame as it came, JPEG or PNG."),
                    "labels": tfds.features.Image(shape=(None, None, 1), doc="Object ids; 1x1 if not labelled."),
                    "labelled": tfds.features.Scalar(np.bool_, doc="Whether the frame is annotated."),
                    "sequence": tfds.features.Text(),
                    "frame": tfds.features.Text(doc="The frame's name, without extension."),
                }
            ),
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        # `dl_manager.manual_dir` invents a folder where none was given, and then insists on it.
        given = download_config.manual_dir if download_config else None
        self._manual_dir = Path(given) if given else None
        if self._manual_dir is not None and not self._manual_dir.is_dir():
            raise UserError(f"the folder {self._manual_dir} given as --manual_dir does not exist")
        scratch = Path(dl_manager.download_dir) / f"{self.name}.{os.getpid()}.scratch"
        with _removed_afterwards(scratch):
            self._scratch = scratch
            super()._download_and_prepare(dl_manager, download_config)

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Callable[[], Iterator[tuple[int, dict]]]]]:
        root = self.raw(self._manual_dir, self._scratch)
        shards, described = {}, {}
        for split in self.SPLITS:
            if not self.has_split(root, split):
                continue
            source = self.open_split(root, split)
            first = [0, *itertools.accumulate(len(sequence.frame_names) for sequence in source.sequences)]
            described[split] = [_describe(*pair) for pair in zip(source.sequences, first, strict=False)]
            shards[split] = [
                _Shard(source, members, first[members[0]], f"{self.name}/{split}") for members in _cut(source.sequences)
            ]
        if not shards:
            raise UserError(f"{root} has none of the splits {', '.join(self.SPLITS)}; is it the dataset's root?")
        self.info.metadata.update({"format": _FORMAT, "splits": described})
        return shards


class ManualBuilder(VideoBuilder, skip_registration=True):
    """A builder of data that the user has to have: `--manual_dir` says where."""

    def raw(self, manual_dir: Path | None, scratch: Path) -> Path:
        """See `VideoBuilder.raw`."""
        if manual_dir is None:
            raise UserError(f"{self.name} is built from your copy of the data; give its folder with --manual_dir")
        return manual_dir


@dataclasses.dataclass(frozen=True)
class _Shard:
    """The records of some neighbouring sequences."""

    source: FolderSource
    members: list[int]
    first_record: int
    label: str

    def __call__(self) -> Iterator[tuple[int, dict]]:
        record = itertools.count(self.first_record)
        for index in tfds.core.utils.tqdm(self.members, desc=self.label, unit=" sequences", leave=False):
            sequence = self.source.sequences[index]
            for t, name in enumerate(sequence.frame_names):
                labels = _Labels(self.source, index, t)
                yield (
                    next(record),
                    {
                        "image": _Picture(self.source, index, t),
                        "labels": labels,
                        "labelled": self.source.has_labels(index, t),
                        "sequence": sequence.name,
                        "frame": name,
                    },
                )


@dataclasses.dataclass(frozen=True)
class _Picture:
    """A file object as far as TFDS's image feature is concerned, opened when the record is written."""

    source: FolderSource
    sequence: int
    t: int

    def read(self) -> bytes:
        data = self.source.frame_bytes(self.sequence, self.t)
        # A package must not hold what cannot be read back: decode once, as a check of wholeness and size.
        self.source.frame(self.sequence, self.t, 4)
        return data


class _Labels(_Picture):
    """The same for object ids, which are checked against the frame's size and stored grey."""

    def read(self) -> bytes:
        labels = self.source.labels(self.sequence, self.t)
        return _NO_LABELS if labels is None else encode_labels(labels)


class TfdsSource:
    """A split of a built package as a `VideoSource`.

    Raises:
      UserError: the folder is no package of this project, or lacks the split.
    """

    def __init__(self, folder: str | os.PathLike, split: str):
        self._folder, self._split = Path(folder), split
        try:
            content = json.loads((self._folder / "metadata.json").read_bytes())
            splits = content["splits"]
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self._folder / 'metadata.json'} does not describe video sequences; build the dataset with one of "
                "this project's builders (tfds build)"
            ) from error
        if content.get("format") != _FORMAT:
            found = content.get("format")
            raise UserError(f"{self._folder} has format {found}, this version reads {_FORMAT}; build it again")
        require_split(split, splits, self._folder)
        if not splits[split]:
            raise UserError(f"the split {split!r} of {self._folder} is empty")
        self._first = [entry["first_record"] for entry in splits[split]]
        self.sequences = tuple(_sequence(entry) for entry in splits[split])
        self._open()

    def frame(self, sequence: int, t: int, reduce: int = 1) -> np.ndarray:
        """See `VideoSource.frame`."""
        return decode_frame(self._record(sequence, t)["image"], self._name(sequence, t), reduce)

    def labels(self, sequence: int, t: int) -> np.ndarray | None:
        """See `VideoSource.labels`."""
        record = self._record(sequence, t)
        if not record["labelled"]:
            return None
        name = self._name(sequence, t)
        return require_labels_fit(decode_labels(record["labels"], name), self.sequences[sequence].size, name)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self._folder, "split": self._split}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    def _open(self) -> None:
        try:
            builder = tfds.builder_from_directory(str(self._folder))
            skip = {name: tfds.decode.SkipDecoding() for name in ("image", "labels")}
            self._records = builder.as_data_source(split=self._split, decoders=skip)
            count = len(self._records)
        except (OSError, ValueError, NotImplementedError, RuntimeError) as error:
            raise UserError(f"the package {self._folder} does not open: {error}; build it again") from error
        wanted = self._first[-1] + len(self.sequences[-1].frame_names)
        if count != wanted:
            raise UserError(f"the package {self._folder} holds {count} frames of {wanted}; build it again")
        self._last = threading.local()

    def _record(self, sequence: int, t: int) -> dict[str, Any]:
        """A frame's record. Each thread keeps its last: a frame and its labels are asked for one after the other."""
        if not 0 <= t < len(self.sequences[sequence].frame_names):
            raise IndexError(f"sequence {self.sequences[sequence].name!r} has no frame {t}")
        number = self._first[sequence] + t
        if getattr(self._last, "number", None) != number:
            self._last.record, self._last.number = self._records[number], number
        return self._last.record

    def _name(self, sequence: int, t: int) -> str:
        found = self.sequences[sequence]
        return f"{self._folder}:{self._split}/{found.name}/{found.frame_names[t]}"


def _describe(sequence: Sequence, first_record: int) -> dict[str, Any]:
    """A sequence's entry in `metadata.json`; frame names only where they are not 00000, 00001, ..."""
    entry = dataclasses.asdict(sequence)
    names = entry.pop("frame_names")
    entry |= {"first_record": first_record, "n_frames": len(names)}
    if list(names) != [f"{t:05d}" for t in range(len(names))]:
        entry["frame_names"] = list(names)
    return entry


def _sequence(entry: dict[str, Any]) -> Sequence:
    return Sequence(
        name=_safe(entry["name"]),
        frame_names=tuple(entry.get("frame_names") or (f"{t:05d}" for t in range(entry["n_frames"]))),
        size=tuple(entry["size"]),
        expressions=tuple(Expression(_safe(e["id"]), e["text"], tuple(e["object_ids"])) for e in entry["expressions"]),
        categories={int(key): value for key, value in entry["categories"].items()},
        tags=tuple(entry["tags"]),
    )


def _safe(name: str) -> str:
    """A name from a package becomes a folder's where masks are written."""
    if not name or name in (".", "..") or any(character in name for character in "/\\\0"):
        raise UserError(f"metadata.json names {name!r}, which cannot be a folder's name; build the package again")
    return name


def _cut(sequences: tuple[Sequence, ...]) -> list[list[int]]:
    """Neighbouring sequences in groups of about `_SHARD_PIXELS`."""
    groups: list[list[int]] = []
    pixels = _SHARD_PIXELS
    for index, sequence in enumerate(sequences):
        if pixels >= _SHARD_PIXELS:
            groups.append([])
            pixels = 0
        groups[-1].append(index)
        pixels += sequence.size[0] * sequence.size[1] * len(sequence.frame_names)
    return groups


@contextlib.contextmanager
def _removed_afterwards(folder: Path) -> Iterator[None]:
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
