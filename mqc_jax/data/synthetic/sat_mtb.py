"""Rendered sequences on the disk in the raw layout of SAT-MTB: images, boxes, oriented boxes, tracks and polygons."""

import json
from pathlib import Path
from xml.sax.saxutils import escape

import cv2
import numpy as np

from mqc_jax.data.synthetic.layouts import summary, write_image
from mqc_jax.data.synthetic.plan import SequencePlan
from mqc_jax.data.synthetic.render import render
from mqc_jax.data.synthetic.silhouettes import SUPERCLASS

FOLDER = "SAT-MTB_Dataset"
_MOT_CLASS = {"car": 0, "airplane": 1, "ship": 2, "train": 3}
_CATEGORY_ID = {name: i + 1 for i, name in enumerate(SUPERCLASS)}


def superclass(plan: SequencePlan) -> str:
    """The folder that a sequence belongs to: "airplane", "car", "ship" or "train"."""
    return SUPERCLASS[plan.categories[plan.targets[0]]]


def polygons(mask: np.ndarray) -> list[np.ndarray]:
    """Polygons `[K, 2]` of pixel centres whose filling (boundary included, as `cv2.fillPoly` does) is the mask.

    A component with a hole is cut in two through it, since a list of polygons cannot say what to leave out.
    """
    mask = np.ascontiguousarray(mask, np.uint8)
    contours, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    out = []
    for k, contour in enumerate(contours):
        _, _, child, parent = tree[0][k]
        if parent >= 0:
            continue
        if child < 0:
            points = contour[:, 0]
            out.append(np.vstack([points, np.repeat(points[-1:], max(0, 3 - len(points)), 0)]))
            continue
        part = np.zeros_like(mask)
        cv2.drawContours(part, contours, k, 1, -1)
        part &= mask
        x = int(contours[child][:, 0, 0].mean())
        halves = np.stack([part, part])
        halves[0][:, x + 1 :], halves[1][:, : x + 1] = 0, 0
        out += polygons(halves[0]) + polygons(halves[1])
    return out


def _boxes_xml(name: str, size: tuple[int, int], objects: list[tuple[str, int, dict]], tag: str) -> str:
    rows = []
    for category, i, numbers in objects:
        box = "".join(f"<{key}>{value}</{key}>" for key, value in numbers.items())
        rows.append(
            f"  <object><name>{SUPERCLASS[category]}</name><subname>{escape(category)}</subname>"
            f"<objectID>{i}</objectID><{tag}>{box}</{tag}></object>"
        )
    head = f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>"
    return "\n".join(["<annotation>", f"  <filename>{name}</filename>{head}", *rows, "</annotation>", ""])


def write_sat_mtb(plan: SequencePlan, folder: Path) -> dict:
    """Renders a sequence into `folder`, `.../<superclass>/<NN>`. Returns its summary.

    Boxes are 1-indexed pixels, both ends included. `sot` holds the objects that an expression names.
    """
    number = folder.name
    for name in ("img", "det/HBB", "det/OBB", "mot", "seg", "sot"):
        (folder / name).mkdir(parents=True)
    kinds = [{"id": n, "name": c, "supercategory": SUPERCLASS[c]} for c, n in _CATEGORY_ID.items()]
    shown: dict[int, list[int]] = {}
    tracks: list[str] = []
    alone: dict[int, list[tuple[str, str]]] = {i: [] for i in plan.targets}
    for t, (frame, labels) in enumerate(render(plan)):
        stem = f"{t + 1:06d}"
        write_image(folder / "img" / f"{stem}.png", frame)
        flat, turned, annotations = [], [], []
        boxes = {}
        for i in (np.flatnonzero(np.bincount(labels.ravel(), minlength=256)[1:]) + 1).tolist():
            shown.setdefault(i, []).append(t)
            category = plan.categories[i]
            ys, xs = np.nonzero(labels == i)
            x0, y0, x1, y1 = int(xs.min()), int(ys.min()), int(xs.max()), int(ys.max())
            boxes[i] = (x0 + 1, y0 + 1, x1 - x0 + 1, y1 - y0 + 1)
            flat.append((category, i, {"xmin": x0 + 1, "ymin": y0 + 1, "xmax": x1 + 1, "ymax": y1 + 1}))
            corners = cv2.boxPoints(cv2.minAreaRect(np.stack([xs, ys], 1).astype(np.float32))) + 1
            names = [f"{axis}{k}" for k in range(4) for axis in "xy"]
            turned.append((category, i, dict(zip(names, (f"{v:.2f}" for v in corners.ravel()), strict=True))))
            cut = (labels[y0 : y1 + 1, x0 : x1 + 1] == i).astype(np.uint8)
            outline = [np.add(p, (x0, y0)).ravel().tolist() for p in polygons(cut)]
            annotations.append(
                {"id": i, "image_id": t + 1, "category_id": _CATEGORY_ID[category], "iscrowd": 0, "area": len(xs),
                 "bbox": [x0, y0, x1, y1], "segmentation": outline}
            )  # fmt: skip
            x, y, w, h = boxes[i]
            tracks.append(f"{t + 1},{i},{x},{y},{w},{h},1,{_MOT_CLASS[SUPERCLASS[category]]},-1,-1,-1")
        (folder / "det/HBB" / f"{stem}.xml").write_text(_boxes_xml(f"{stem}.png", plan.size, flat, "bndbox"))
        (folder / "det/OBB" / f"{stem}.xml").write_text(_boxes_xml(f"{stem}.png", plan.size, turned, "robndbox"))
        image = {"id": t + 1, "file_name": f"{stem}.png", "height": plan.size[0], "width": plan.size[1]}
        seg = {"images": [image], "categories": kinds, "annotations": annotations}
        (folder / "seg" / f"{stem}.json").write_text(json.dumps(seg))
        for i, lines in alone.items():
            edge = i in boxes and (boxes[i][0] == 1 or boxes[i][1] == 1)
            lines.append((",".join(map(str, boxes.get(i, (0, 0, 0, 0)))), f"{int(edge)},{int(i not in boxes)}"))
    (folder / "mot" / number).write_text("\n".join(tracks) + "\n")
    for i, lines in alone.items():
        (folder / "sot" / str(i)).mkdir()
        (folder / "sot" / str(i) / "groundtruth.txt").write_text("".join(f"{a}\n" for a, _ in lines))
        (folder / "sot" / str(i) / "truncated_and_occlusion.txt").write_text("".join(f"{b}\n" for _, b in lines))
    return summary(plan, shown) | {"folder": "/".join(folder.parts[-2:])}
