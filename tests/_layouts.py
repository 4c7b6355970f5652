"""Miniatures of the field's layouts: a few small frames, written as their authors ship them."""

import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

PALETTE = [0, 0, 0, 200, 0, 0, 0, 200, 0, 0, 0, 200, 200, 200, 0] + [90] * 3 * 251  # all 256, or 255 is cut off


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


def write_davis(root: Path, split: str = "val", n_frames: int = 3, size: tuple[int, int] = (48, 64)) -> Path:
    """DAVIS 2017: sequences "bike" and "judo", two objects, a void pixel in every annotation."""
    for seed, name in enumerate(("bike", "judo")):
        images, annotations = (root / kind / "480p" / name for kind in ("JPEGImages", "Annotations"))
        images.mkdir(parents=True)
        annotations.mkdir(parents=True)
        for t in range(n_frames):
            cv2.imwrite(str(images / f"{t:05d}.jpg"), cv2.cvtColor(frame(seed, t, size), cv2.COLOR_RGB2BGR))
            ids = labels(seed, t, size)
            ids[0, 0] = 255
            write_palette(annotations / f"{t:05d}.png", ids)
    sets = root / "ImageSets" / "2017"
    sets.mkdir(parents=True)
    (sets / f"{split}.txt").write_text("bike\njudo\n")
    return root


def write_ref_davis17(root: Path) -> Path:
    """`write_davis` with four sentences for object 1 of "bike"; one file in Latin-1, one sequence misspelt as it is."""
    write_davis(root)
    (root / "JPEGImages/480p/judo").rename(root / "JPEGImages/480p/classic-car")
    (root / "Annotations/480p/judo").rename(root / "Annotations/480p/classic-car")
    (root / "ImageSets/2017/val.txt").write_text("bike\nclassic-car\n")
    folder = root / "davis_text_annotations"
    folder.mkdir()
    (folder / "Davis17_annot1.txt").write_text('bike 1 "a red bike"\nbike 2 "a  man"\nelsewhere 1 "a dog"\n')
    (folder / "Davis17_annot1_full_video.txt").write_text('bike 1 "a bike that jumps"\n')
    (folder / "Davis17_annot2.txt").write_bytes(
        'bike 1 "a caf\xe9 bike"\nclasic-car 2 "an old car"\n'.encode("latin-1")
    )
    (folder / "Davis17_annot2_full_video.txt").write_text('\nbike 1 "it \\"flies\\""\n')
    return root


def mevis_masks(seed: int, t: int, size: tuple[int, int]) -> dict[int, np.ndarray | None]:
    """anno_id -> mask; 12 and 13 overlap, 13 is not seen in frame 1."""
    big, small, other = (np.zeros(size, np.uint8) for _ in range(3))
    big[10:30, 10 + t : 40 + t], small[20:26, 30:36], other[40:45, 2:9] = 1, 1, 1
    return {12 + 10 * seed: big, 13 + 10 * seed: None if t == 1 else small, 14 + 10 * seed: other}


def write_mevis(root: Path, split: str = "valid_u", n_frames: int = 3, size: tuple[int, int] = (48, 64)) -> Path:
    """MeViS: COCO run lengths as strings, once as a list; an expression that unites two annotations."""
    from pycocotools import mask as coco

    videos, masks = {}, {}
    for seed, name in enumerate(("aa11", "bb22")):
        images = root / split / "JPEGImages" / name
        images.mkdir(parents=True)
        for t in range(n_frames):
            cv2.imwrite(str(images / f"{t:05d}.jpg"), cv2.cvtColor(frame(seed, t, size), cv2.COLOR_RGB2BGR))
            for anno, mask in mevis_masks(seed, t, size).items():
                runs = None
                if mask is not None:
                    runs = coco.encode(np.asfortranarray(mask))
                    runs["counts"] = runs["counts"].decode()
                masks.setdefault(str(anno), []).append(runs)
        base = 12 + 10 * seed
        videos[name] = {
            "expressions": {
                "0": {"exp": "the big one", "obj_id": [0], "anno_id": [base]},
                "1": {"exp": "the two that meet", "obj_id": [0, 2], "anno_id": [base, base + 2]},
                "2": {"exp": "the small one", "obj_id": [1], "anno_id": [base + 1]},
            },
            "frames": [f"{t:05d}" for t in range(n_frames)],
        }
    flat = mevis_masks(0, 0, size)[14].ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
    masks["14"][0]["counts"] = np.diff(np.concatenate([[0], edges])).tolist()
    (root / split / "meta_expressions.json").write_text(json.dumps({"videos": videos}))
    (root / split / "mask_dict.json").write_text(json.dumps(masks))
    return root
