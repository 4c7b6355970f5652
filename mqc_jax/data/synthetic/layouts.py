"""Rendered sequences on the disk as Ref-YouTube-VOS, streamed: one frame is in memory at a time."""

import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from mqc_jax.data.synthetic.plan import SequencePlan
from mqc_jax.data.synthetic.render import render

JPEG_QUALITY = 95


def palette() -> list[int]:
    """The DAVIS palette, 768 numbers: three bits of an id at a time set the next lower bit of red, green and blue."""
    ids = np.arange(256)
    rgb = np.zeros((256, 3), np.int64)
    for step in range(8):
        for channel in range(3):
            rgb[:, channel] |= ((ids >> (3 * step + channel)) & 1) << (7 - step)
    return rgb.ravel().tolist()


_PALETTE = palette()


def write_palette_png(path: Path, labels: np.ndarray) -> None:
    """Writes a label map, uint8 `[H, W]`, as a mode P PNG whose pixel values are the object ids."""
    image = Image.fromarray(labels)
    image.putpalette(_PALETTE)
    image.save(path, compress_level=3)


def write_image(path: Path, frame: np.ndarray) -> None:
    """Writes a uint8 RGB frame; the file's ending decides the format.

    Raises:
      OSError: the file cannot be written, as where the disk is full.
    """
    parameters = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if path.suffix == ".jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 3]
    path.write_bytes(cv2.imencode(path.suffix, cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), parameters)[1].tobytes())


def summary(plan: SequencePlan, shown: dict[int, list[int]]) -> dict:
    """What the card and the meta files say of a sequence. `shown` maps object ids to the frames that show them."""
    pixels = plan.size[0] * plan.size[1]
    return {
        "name": plan.name,
        "size": list(plan.size),
        "frames": plan.frames,
        "scene": plan.scene.kind,
        "metres_per_pixel": round(plan.gsd, 4),
        "seconds_per_frame": round(plan.seconds_per_frame, 4),
        "tags": list(plan.tags),
        "objects": {
            i: {"category": plan.categories[i], "frames": shown[i], "tags": list(plan.object_tags[i])}
            for i in sorted(shown)
        },
        "expressions": [{"exp": p.text, "obj_id": p.object_id} for p in plan.phrases],
        "targets": {
            i: {
                "category": plan.categories[i],
                "tags": list(plan.object_tags[i]),
                "area": float(np.median(a[a > 0]) / pixels),
            }
            for i, a in plan.areas.items()
        },
    }


def write_ref_youtube_vos(plan: SequencePlan, root: Path) -> dict:
    """Renders a sequence into `<root>/<split>/{JPEGImages,Annotations}/<name>/`. Returns its summary."""
    frames, masks = (root / plan.split / kind / plan.name for kind in ("JPEGImages", "Annotations"))
    frames.mkdir(parents=True)
    masks.mkdir(parents=True)
    shown: dict[int, list[int]] = {}
    for t, (frame, labels) in enumerate(render(plan)):
        write_image(frames / f"{t:05d}.jpg", frame)
        write_palette_png(masks / f"{t:05d}.png", labels)
        for i in np.flatnonzero(np.bincount(labels.ravel(), minlength=256)[1:]) + 1:
            shown.setdefault(int(i), []).append(t)
    return summary(plan, shown)


def finish_ref_youtube_vos(root: Path, split: str, sequences: list[dict]) -> None:
    """Writes `<root>/<split>/meta.json` and `<root>/meta_expressions/<split>/meta_expressions.json`."""
    meta, spoken = {}, {}
    for s in sequences:
        names = [f"{t:05d}" for t in range(s["frames"])]
        meta[s["name"]] = {
            "objects": {
                str(i): {"category": o["category"], "frames": [names[t] for t in o["frames"]], "tags": o["tags"]}
                for i, o in s["objects"].items()
            },
            "tags": s["tags"],
            "scene": s["scene"],
        }
        spoken[s["name"]] = {
            "expressions": {
                str(k): {"exp": e["exp"], "obj_id": str(e["obj_id"])} for k, e in enumerate(s["expressions"])
            },
            "frames": names,
        }
    (root / split / "meta.json").write_text(json.dumps({"videos": meta}) + "\n")
    folder = root / "meta_expressions" / split
    folder.mkdir(parents=True)
    (folder / "meta_expressions.json").write_text(json.dumps({"videos": spoken}, indent=1) + "\n")
