"""What a candidate for RS-RVOS Bench is: one raw sequence's frames, identities, classes, sentences and terms of VDS."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mqc_jax.data import sat_mtb, vds
from mqc_jax.data.expressions import centroids, describe, grid_cell, location
from mqc_jax.data.images import decode_frame, image_size
from mqc_jax.data.sat_mtb import RawSequence, Segmentation
from mqc_jax.errors import UserError

_HEADER = 1 << 16  # bytes of a file that tell its size in pixels


def scan_sequence(raw: RawSequence, band: int = vds.BAND, strict: bool = False) -> dict[str, Any]:
    """One candidate's frames, identities, classes, sentences and raw terms.

    The sequence begins with its first frame that has a readable mask: sentences are about that frame.

    Returns:
      `frames`: [number, ids or None where there is no mask] in order; empty if no mask is readable.
    """
    problems: list[str] = []

    def tolerate(error: UserError) -> None:
        if strict:
            raise error
        problems.append(str(error))

    found: dict[int, Segmentation] = {}
    for number, path in sorted(raw.segmentations.items()):
        try:
            shapes = sat_mtb.read_segmentation(path)
            if number not in raw.images:
                raise UserError(f"{path} has no image {path.stem} beside it in {path.parents[1] / 'img'}")
            _require_fit(shapes, _size_of(raw.images[number]), path)
            # Outlines are read again when they are drawn; what stays is small.
            kept = tuple(dataclasses.replace(outline, polygons=()) for outline in shapes.outlines)
            found[number] = dataclasses.replace(shapes, outlines=kept)
        except UserError as error:
            tolerate(error)
    ids, categories = _identities(raw, found, tolerate)
    first = next((number for number in sorted(found) if found[number].outlines), None)
    size, levels, frames, contrast, sentences, cells, images = None, [], [], 0.0, [], {}, {}
    for number in sorted(raw.images) if first is not None else ():
        if number < first:
            continue
        path = raw.images[number]
        try:
            image = decode_frame(path.read_bytes(), str(path))
            if size is not None and image.shape[:2] != size:
                raise UserError(f"{path} has {image.shape[0]}x{image.shape[1]} pixels but its sequence {size}")
        except UserError as error:
            if number == first:  # Sentences are about the frame that the sequence begins with.
                first = next((n for n in sorted(found) if n > number and found[n].outlines), None)
            tolerate(error)
            if first is None:
                break
            continue
        if number < first:
            continue
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        levels.append(vds.sharpness(grey))
        if number == first:
            size = image.shape[:2]
            shapes = sat_mtb.read_segmentation(raw.segmentations[number])
            labels = sat_mtb.rasterise(shapes.outlines, ids[number], size)
            contrast = vds.contrast(grey, labels, band)
            shown = dict(zip(ids[number], categories[number], strict=True))
            sentences = [[d.text, d.object_id, d.attribute] for d in describe(labels, shown)]
            cells = {i: location(grid_cell(x, y, size)) for i, (x, y, _) in centroids(labels).items()}
        frames.append([number, ids.get(number)])
        images[number] = path
    annotated = [number for number, there in frames if there is not None]
    counts = [len(ids[number]) for number in annotated]
    objects: dict[int, str] = {}
    for number in annotated:
        for i, category in zip(ids[number], categories[number], strict=True):
            objects.setdefault(i, category)  # the class of the first sight: a later one is the future's
    if first is None:
        frames = []
        problems.append(f"{raw.name}: no frame has a readable image and mask, so the sequence is left out")
    return {
        "name": raw.name,
        "superclass": raw.superclass,
        "size": list(size or ()),
        "frames": frames,
        "objects": objects,
        "sentences": sentences,
        "cells": cells,
        "terms": {
            "contrast": contrast,
            "density": float(np.mean(counts)) if counts else 0.0,
            "sharpness": float(np.mean(levels)) if levels else 0.0,
        },
        "problems": problems,
    }


def _identities(raw: RawSequence, found: dict[int, Segmentation], tolerate: Callable[[UserError], None]):
    """Object ids and classes of every outline, by frame number; ids are 1, 2, ... where the file's do not fit."""
    numbers = sorted(found)
    outlines = [[(o.id, o.box) for o in found[number].outlines] for number in numbers]
    stable = sat_mtb.ids_are_tracks(outlines)
    vague = any(o.category not in sat_mtb.FINE_CLASSES for number in numbers for o in found[number].outlines)
    boxes: list[list[sat_mtb.TrackedBox]] = [[] for _ in numbers]
    if not stable or vague:
        for k, number in enumerate(numbers):
            if number in raw.boxes:
                try:
                    boxes[k] = sat_mtb.read_boxes(raw.boxes[number])
                except UserError as error:
                    tolerate(error)
    ids = [[i for i, _ in frame] for frame in outlines] if stable else sat_mtb.ids_from_boxes(outlines, boxes)
    every = sorted({i for frame in ids for i in frame})
    if every and not 1 <= every[0] <= every[-1] <= 254:  # 255 is void to many readers
        renamed = {old: new for new, old in enumerate(every, 1)}
        ids = [[renamed[i] for i in frame] for frame in ids]
    categories = {}
    for k, number in enumerate(numbers):
        pairs = sat_mtb.match_boxes([box for _, box in outlines[k]], boxes[k]) if vague else {}
        categories[number] = [
            sat_mtb.fine_class(o.category if o.category in sat_mtb.FINE_CLASSES else None,
                               boxes[k][pairs[j]].category if j in pairs else None, o.category, raw.superclass)
            for j, o in enumerate(found[number].outlines)
        ]  # fmt: skip
    return dict(zip(numbers, ids, strict=True)), categories


def _require_fit(shapes: Segmentation, size: tuple[int, int], path: Path) -> None:
    if shapes.size != size:
        raise UserError(
            f"{path} is for a frame of {shapes.size[0]}x{shapes.size[1]} pixels (height x width) but its image has "
            f"{size[0]}x{size[1]}; a mask must have its frame's size"
        )


def _size_of(path: Path) -> tuple[int, int]:
    with path.open("rb") as file:
        return image_size(file.read(_HEADER), str(path))
