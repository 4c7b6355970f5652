"""The raw layout of SAT-MTB, in the variants in which its files are found.

    SAT-MTB_Dataset/{airplane,car,ship,train}/<NN>/
       img/000001.png            1-indexed
       seg/000001.json           COCO-like, one a frame; bbox is xyxy
       det/HBB/000001.xml        boxes with objectID

The fine class is in `<name>` or in `<subname>`, in a category's `name` or its `supercategory`. `annotations[].id` is
the track where it is stable over the frames; where it is not, identities come from the boxes' objectID.
"""

import dataclasses
import itertools
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np

from mqc_jax.data.layouts import IMAGE_SUFFIXES, read_json
from mqc_jax.errors import UserError

FOLDER = "SAT-MTB_Dataset"
SUPERCLASSES = ("airplane", "car", "ship", "train")
FINE_CLASSES = (
    "wide_bodied_aircraft",
    "narrow_bodied_aircraft",
    "rear_engine_aircraft",
    "four_engine_aircraft",
    "corporate_aircraft",
    "speed_boat",
    "yacht",
    "cruise",
    "freighter",
    "naval_vessels",
    "other_ship",
    "large car",
    "small car",
    "train",
)
SAME_BOX = 0.2  # IoU from which a box may be an outline's: a pixel's difference halves that of a target 5 pixels wide
SAME_PLACE = 0.3  # IoU from which an outline continues one of the frame before
STABLE = 0.9  # share of continued outlines that keep their id where ids are tracks
_FAR = 1e6  # pixels; no outline reaches further
_SPELLING = {re.sub(r"[^a-z]", "", name): name for name in FINE_CLASSES}

Box = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class Outline:
    """One annotation: its id as the file has it, class, box x0, y0, x1, y1 and polygons int32 [K, 2] in pixels."""

    id: int
    category: str
    box: Box
    polygons: tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """One frame's file: size (height, width) and outlines in the file's order."""

    size: tuple[int, int]
    outlines: tuple[Outline, ...]


@dataclasses.dataclass(frozen=True)
class TrackedBox:
    """One `<object>`: objectID, fine class (or what stands in its place) and x0, y0, x1, y1."""

    id: int
    category: str
    box: Box


@dataclasses.dataclass(frozen=True)
class RawSequence:
    """One sequence's files by frame number (1 is the first)."""

    name: str
    superclass: str
    images: dict[int, Path]
    segmentations: dict[int, Path]
    boxes: dict[int, Path]


def list_sequences(root: Path) -> list[RawSequence]:
    """The sequences under `root` (SAT-MTB's folder, or the one that holds it) that have masks, by name.

    Raises:
      UserError: there is none.
    """
    base = root / FOLDER if (root / FOLDER).is_dir() else root
    found = []
    for superclass in SUPERCLASSES:
        folder = base / superclass
        for place in sorted(folder.iterdir()) if folder.is_dir() else ():
            if not re.fullmatch(r"[A-Za-z0-9_-]+", place.name) or not (place / "seg").is_dir():
                continue
            masks = _numbered(place / "seg", (".json",))
            images = _numbered(place / "img", IMAGE_SUFFIXES)
            if masks and images:
                name = f"{superclass}_{place.name}"
                found.append(RawSequence(name, superclass, images, masks, _numbered(place / "det" / "HBB", (".xml",))))
    if not found:
        raise UserError(
            f"{root} holds no sequence with masks; SAT-MTB lies in {FOLDER}/<class>/<NN>/ with img/*.png and seg/*.json"
        )
    return found


def fine_class(*names: str | None) -> str:
    """The first of `names` that is a fine class, however spelt; else the first that says anything; else ""."""
    for name in names:
        known = _SPELLING.get(re.sub(r"[^a-z]", "", (name or "").lower()))
        if known:
            return known
    return next((name.strip() for name in names if name and name.strip()), "")


def read_segmentation(path: Path) -> Segmentation:
    """Parses `seg/<frame>.json`.

    Raises:
      UserError: not JSON, or not of this form; the sentence names the file and the annotation.
    """
    content = read_json(path)
    try:
        image = content["images"][0]
        size = (int(image["height"]), int(image["width"]))
        kinds = {int(kind["id"]): fine_class(kind["name"], kind.get("supercategory")) for kind in content["categories"]}
        annotations = list(content["annotations"])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} lacks images[0].height and width, categories or annotations ({_what(error)})"
        ) from error
    if min(size) < 1:
        raise UserError(f"{path} is for a frame of {size[0]}x{size[1]} pixels (height x width)")
    return Segmentation(size, tuple(_outline(entry, kinds, path) for entry in annotations))


def _outline(entry: Any, kinds: dict[int, str], path: Path) -> Outline:
    try:
        number = int(entry["id"])
        where = f"{path}: annotation {number}"
        category = kinds.get(int(entry["category_id"]))
        shapes = entry["segmentation"]
        if shapes and not isinstance(shapes[0], list):  # one polygon, not wrapped
            shapes = [shapes]
        polygons = tuple(_polygon(points, where) for points in shapes)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: an annotation lacks an id, a category or polygons ({_what(error)})") from error
    if category is None:
        raise UserError(f"{where} has category {entry['category_id']}, which the file does not define")
    if not polygons:
        raise UserError(f"{where} has no polygon")
    points = np.concatenate(polygons)
    # The file's own bbox, which is xyxy where COCO's is xywh, says no more than the outline does.
    return Outline(number, category, (*points.min(0).tolist(), *points.max(0).tolist()), polygons)


def _polygon(points: Any, where: str) -> np.ndarray:
    flat = np.asarray(points, float).ravel()
    if flat.size < 6 or flat.size % 2 or not np.isfinite(flat).all() or np.abs(flat).max() > _FAR:
        raise UserError(f"{where} has a polygon of {flat.size} numbers; it must be x, y pairs of at least 3 points")
    return np.rint(flat.reshape(-1, 2)).astype(np.int32)


def read_boxes(path: Path) -> list[TrackedBox]:
    """Parses `det/HBB/<frame>.xml`.

    Raises:
      UserError: not XML, or an object without objectID or box.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{path} is not valid XML: {error}") from error
    found = []
    for entry in root.iter("object"):
        box = entry.find("bndbox")
        try:
            corners = tuple(float(box.findtext(key)) for key in ("xmin", "ymin", "xmax", "ymax"))
            number = int(entry.findtext("objectID"))
        except (AttributeError, TypeError, ValueError) as error:
            raise UserError(f"{path}: object {len(found) + 1} lacks an objectID or xmin ymin xmax ymax") from error
        found.append(TrackedBox(number, fine_class(entry.findtext("subname"), entry.findtext("name")), corners))
    return found


def rasterise(outlines: tuple[Outline, ...], ids: list[int], size: tuple[int, int]) -> np.ndarray:
    """Label map int32 [H, W] of a frame: polygons filled with their border, `ids[k]` for outline k.

    Where outlines overlap the smaller one is on top: it would be lost below, while the larger one keeps its rest.
    """
    labels = np.zeros(size, np.int32)
    areas = [sum(abs(cv2.contourArea(polygon)) for polygon in outline.polygons) for outline in outlines]
    for k in sorted(range(len(outlines)), key=lambda k: (-areas[k], ids[k])):
        for polygon in outlines[k].polygons:  # one by one: filled together, overlapping polygons would cancel
            cv2.fillPoly(labels, [polygon], ids[k])
    return labels


def ids_are_tracks(frames: list[list[tuple[int, Box]]]) -> bool:
    """Whether annotation ids are the same object's from frame to frame.

    Args:
      frames: the (id, box) of every annotated frame, in order.
    """
    agree = votes = 0
    for before, after in itertools.pairwise(frames):
        for number, box in before:
            overlaps = {other: overlap(box, there) for other, there in after}
            best = max(overlaps, key=overlaps.get, default=None)
            if best is not None and overlaps[best] >= SAME_PLACE:
                votes += 1
                agree += overlaps.get(number, 0.0) >= SAME_PLACE
    if any(len({number for number, _ in frame}) < len(frame) for frame in frames):
        return False
    if votes:
        return agree >= STABLE * votes
    seen = [{number for number, _ in frame} for frame in frames if frame]
    return len(seen) < 2 or sum(map(len, seen)) >= 1.5 * len(set().union(*seen))


def ids_from_boxes(frames: list[list[tuple[int, Box]]], boxes: list[list[TrackedBox]]) -> list[list[int]]:
    """Identities for outlines whose own ids are none: the objectID of the box that an outline overlaps most.

    An outline without a box continues the outline of the frame before that it overlaps; failing that it is new.
    """
    fresh = 1 + max((box.id for frame in boxes for box in frame), default=0)
    out: list[list[int]] = []
    last: list[tuple[int, Box]] = []
    for outlines, there in zip(frames, boxes, strict=True):
        shapes = [box for _, box in outlines]
        found = match_boxes(shapes, there)
        ids = {k: there[b].id for k, b in found.items()}
        left = [k for k in range(len(shapes)) if k not in ids]
        taken = set(ids.values())
        past = [(number, box) for number, box in last if number not in taken]
        for k, b in _greedy([shapes[k] for k in left], [box for _, box in past], SAME_PLACE).items():
            ids[left[k]] = past[b][0]
        for k in left:
            if k not in ids:
                ids[k], fresh = fresh, fresh + 1
        out.append([ids[k] for k in range(len(shapes))])
        last = list(zip(out[-1], shapes, strict=True))
    return out


def match_boxes(shapes: list[Box], there: list[TrackedBox]) -> dict[int, int]:
    """Outline number to box number, by overlap. Boxes count pixels from 0 or from 1: what fits better is right."""
    tries = []
    for shift in (0, 1):
        moved = [tuple(value - shift for value in box.box) for box in there]
        pairs = _greedy(shapes, moved, SAME_BOX)
        tries.append((sum(overlap(shapes[k], moved[b]) for k, b in pairs.items()), pairs))
    return max(tries, key=lambda one: one[0])[1]


def _greedy(a: list[Box], b: list[Box], least: float) -> dict[int, int]:
    """Pairs the boxes of `a` and `b` with the largest overlaps first; each is used once."""
    pairs = [(overlap(p, q), i, j) for i, p in enumerate(a) for j, q in enumerate(b)]
    out: dict[int, int] = {}
    used: set[int] = set()
    for iou, i, j in sorted(pairs, key=lambda pair: (-pair[0], pair[1:])):
        if iou < least:
            break
        if i not in out and j not in used:
            out[i] = j
            used.add(j)
    return out


def overlap(a: Box, b: Box) -> float:
    """IoU of two boxes of pixels, both ends included."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    area = sum((box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b))
    return width * height / (area - width * height)


def _numbered(folder: Path, suffixes: tuple[str, ...]) -> dict[int, Path]:
    if not folder.is_dir():
        return {}
    names = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes and path.stem.isdecimal())
    return {int(path.stem): path for path in names}


def _what(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
