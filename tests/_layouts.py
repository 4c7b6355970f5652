"""Miniatures of the field's layouts: a few small frames, written as their authors ship them."""

import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

PALETTE = [0, 0, 0, 200, 0, 0, 0, 200, 0, 0, 0, 200, 200, 200, 0]


def frame(seed: int, t: int, size: tuple[int, int]) -> np.ndarray:
    """A smooth uint8 RGB picture that differs for every (seed, t)."""
    rng = np.random.default_rng((seed, t))
    small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)


def labels(seed: int, t: int, size: tuple[int, int], n_objects: int = 2) -> np.ndarray:
    """Object k is a small box that moves right; from frame 4 to 5 object 1 is hidden."""
    found = np.zeros(size, np.uint8)
    for k in range(1, n_objects + 1):
        if k == 1 and t in (4, 5):
            continue
        top = (size[0] * k) // (n_objects + 1)
        left = (3 * seed + 4 * t + 7 * k) % (size[1] - 8)
        found[top : top + 5, left : left + 6] = k
    return found


def write_palette(path: Path, ids: np.ndarray) -> None:
    image = Image.fromarray(ids, mode="P")
    image.putpalette(PALETTE)
    image.save(path)


def write_ref_youtube_vos(
    root: Path,
    split: str = "train",
    sequences: int = 3,
    n_frames: int = 10,
    size: tuple[int, int] = (48, 64),
    list_frames: bool = True,
) -> Path:
    """Ref-YouTube-VOS: two objects and two expressions a video, palette annotations, obj_id as a string."""
    expressions, meta = {}, {}
    for seed in range(sequences):
        name = f"video{seed}"
        height, width = size[0] + 2 * seed, size[1] + 4 * seed
        images, annotations = root / split / "JPEGImages" / name, root / split / "Annotations" / name
        images.mkdir(parents=True)
        annotations.mkdir(parents=True)
        names = [f"{t:05d}" for t in range(n_frames)]
        for t, stem in enumerate(names):
            picture = cv2.cvtColor(frame(seed, t, (height, width)), cv2.COLOR_RGB2BGR)
            cv2.imwrite(str(images / f"{stem}.jpg"), picture)
            write_palette(annotations / f"{stem}.png", labels(seed, t, (height, width)))
        expressions[name] = {
            "expressions": {
                "0": {"exp": "the yacht at the left", "obj_id": "1"},
                "1": {"exp": "a boat that overtakes the other", "obj_id": "2"},
            },
            **({"frames": names} if list_frames else {}),
        }
        meta[name] = {
            "objects": {"1": {"category": "yacht", "frames": names}, "2": {"category": "cruise", "frames": names}},
            "tags": ["occlusion"],
        }
    (root / split / "meta.json").write_text(json.dumps({"videos": meta}))
    listing = root / "meta_expressions" / split / "meta_expressions.json"
    listing.parent.mkdir(parents=True)
    listing.write_text(json.dumps({"videos": expressions}))
    return root
