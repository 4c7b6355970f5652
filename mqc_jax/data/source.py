"""What a referring-video dataset is to the rest of the project, whatever it is stored in.

A source lists its sequences up front (names, sizes, sentences: small) and decodes one frame or one annotation when
asked for it (large), so that a clip costs its own frames and nothing grows with the dataset.
"""

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from mqc_jax.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class Expression:
    """A sentence and the objects that it means (their union is the target; empty: the truth is not public)."""

    id: str
    text: str
    object_ids: tuple[int, ...]

    def mask(self, labels: np.ndarray) -> np.ndarray:
        """Object ids [H, W] to this target's mask, bool [H, W]."""
        if len(self.object_ids) == 1:
            return labels == self.object_ids[0]
        return np.isin(labels, self.object_ids)


@dataclasses.dataclass(frozen=True)
class Sequence:
    """One video: frame names without their extension, in order; `size` is (height, width) in pixels."""

    name: str
    frame_names: tuple[str, ...]
    size: tuple[int, int]
    expressions: tuple[Expression, ...]
    categories: dict[int, str]
    tags: tuple[str, ...] = ()


@runtime_checkable
class VideoSource(Protocol):
    """Random access to the frames of a split. Implementations are thread-safe and survive pickling."""

    sequences: tuple[Sequence, ...]

    def frame(self, sequence: int, t: int, reduce: int = 1) -> np.ndarray:
        """Frame `t` of `sequences[sequence]`, uint8 RGB [ceil(H/reduce), ceil(W/reduce), 3], reduce 1, 2 or 4."""

    def labels(self, sequence: int, t: int) -> np.ndarray | None:
        """Object ids of that frame, uint8/uint16 [H, W], 0 = background; None where the frame is not annotated."""


class Joined:
    """Several sources, one after the other, as one."""

    def __init__(self, parts: tuple[VideoSource, ...]):
        self._parts = parts
        self.sequences = tuple(sequence for part in parts for sequence in part.sequences)
        self._where = [(part, i) for part in parts for i in range(len(part.sequences))]

    def frame(self, sequence: int, t: int, reduce: int = 1) -> np.ndarray:
        """As `VideoSource.frame`."""
        part, index = self._where[sequence]
        return part.frame(index, t, reduce)

    def labels(self, sequence: int, t: int) -> np.ndarray | None:
        """As `VideoSource.labels`."""
        part, index = self._where[sequence]
        return part.labels(index, t)


def open_source(dataset: str, data_dir: str | os.PathLike, split: str) -> VideoSource:
    """Opens one split of a dataset.

    Args:
      dataset: a layout of `mqc_jax.data.layouts.LAYOUTS`, read straight from the folder `data_dir`, or the name of a
        dataset that `tfds build` has put under `data_dir`.
      data_dir: the dataset's root, respectively the TFDS data folder.
      split: "train", "test", ... as the dataset has them; "train+test" is one after the other.

    Raises:
      UserError: unknown dataset or split, missing folder or file, malformed JSON, nothing in the split.
    """
    from mqc_jax.data import layouts  # Both import this module for its types.

    if "+" in split:
        return Joined(tuple(open_source(dataset, data_dir, part.strip()) for part in split.split("+")))
    root = Path(data_dir)
    if not root.is_dir():
        raise UserError(f"the data folder {root} does not exist; give --data_dir the folder that holds the dataset")
    # A package named like its layout is asked for by that name too.
    built = _built(root / dataset) if _is_name(dataset) else []
    if built:
        from mqc_jax.data import packaging  # Imports TFDS, which takes a second and which folders do not need.

        return packaging.TfdsSource(built[-1], split)
    if dataset in layouts.LAYOUTS:
        return layouts.LAYOUTS[dataset](root, split)
    known = [*layouts.LAYOUTS, *(entry.name for entry in root.iterdir() if entry.is_dir() and _built(entry))]
    raise UserError(
        f"unknown dataset {dataset!r} under {root}{nearest(dataset, known)}; available: {', '.join(sorted(known))} "
        "(a TFDS dataset must be built first: tfds build)"
    )


def require_split(split: str, available: Iterable[str], where: object) -> None:
    """Raises a `UserError` that lists what there is, unless `split` is among `available`."""
    available = sorted(available)
    if split not in available:
        there = f"available: {', '.join(available)}" if available else "it has no split at all"
        raise UserError(f"{where} has no split {split!r}{nearest(split, available)}; {there}")


def require_labels_fit(labels: np.ndarray, size: tuple[int, int], name: str) -> np.ndarray:
    """Returns `labels`, or raises a `UserError` if they were drawn for a frame of another size."""
    if labels.shape != size:
        raise UserError(
            f"{name} has {labels.shape[0]}x{labels.shape[1]} pixels (height x width) but its frame has "
            f"{size[0]}x{size[1]}; a mask must have its frame's size"
        )
    return labels


def _built(folder: Path) -> list[Path]:
    """The package folders of a TFDS dataset, `<name>[/<config>]/<version>`, the newest version last.

    A build that is under way, or that was killed, lies in a folder whose name is no version.
    """
    found = [info.parent for depth in ("", "*/", "*/*/") for info in folder.glob(f"{depth}dataset_info.json")]
    versioned = [path for path in found if all(part.isdecimal() for part in path.name.split("."))]
    return sorted(versioned, key=lambda path: ([int(part) for part in path.name.split(".")], str(path)))


def _is_name(dataset: str) -> bool:
    """Whether a string can be a TFDS name, optionally with a config and a version: never a way out of the folder."""
    return bool(dataset) and all(part not in ("", ".", "..") for part in dataset.split("/")) and "\\" not in dataset
