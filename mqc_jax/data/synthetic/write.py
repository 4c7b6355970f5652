"""A split on the disk: sequences rendered in parallel into a staging folder, moved into place when complete."""

import itertools
import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from tqdm import tqdm

from mqc_jax.data.synthetic.card import card_text, make_card
from mqc_jax.data.synthetic.layouts import finish_ref_youtube_vos, write_ref_youtube_vos
from mqc_jax.data.synthetic.planning import (
    SCENES,
    SPLITS,
    check_clouds,
    check_disabled,
    check_rivals,
    plan_sequence,
    scene_of,
)
from mqc_jax.data.synthetic.sat_mtb import FOLDER, superclass, write_sat_mtb
from mqc_jax.data.synthetic.split_table import write_split_table
from mqc_jax.errors import UserError, nearest
from mqc_jax.files import staged
from mqc_jax.parallel import in_order

LAYOUTS = ("ref_youtube_vos", "sat_mtb")


def _make(job: tuple) -> dict:
    """Renders one sequence; runs in a worker."""
    arguments, layout, root = job
    plan = plan_sequence(**arguments)
    if layout == "ref_youtube_vos":
        return write_ref_youtube_vos(plan, Path(root))
    # Numbers are given per superclass once all sequences are known.
    return write_sat_mtb(plan, Path(root) / "unnumbered" / superclass(plan) / f"{plan.index:06d}")


def _replaceable(output: Path, split: str, layout: str) -> Path | None:
    """The split's folder of an earlier run, which the new one replaces; None where there is none.

    Raises:
      UserError: what is there was not written by this generator, or its numbers are bound to the other split's.
    """
    taken = output / split if layout == "ref_youtube_vos" else output / f"{split}_card.json"
    if not taken.exists():
        return None
    if layout == "ref_youtube_vos" and (taken / "card.json").is_file():
        return taken
    raise UserError(f"{taken} is already there; remove it or give another output folder")


def parse_size(text: str) -> tuple[int, int]:
    """`"512x640"` -> `(512, 640)`, height first.

    Raises:
      UserError: the text is not HxW.
    """
    match = re.fullmatch(r"(\d+)x(\d+)", text.strip())
    if not match:
        raise UserError(f"size {text!r} is not HxW; write height and width in pixels as in 512x640")
    return int(match[1]), int(match[2])


def write_split(
    output: str | os.PathLike,
    sequences: int,
    seed: int = 0,
    split: str = "train",
    layout: str = "ref_youtube_vos",
    size: tuple[int, int] | None = None,
    frames: int | None = None,
    disable: Iterable[str] = (),
    workers: int | None = None,
    progress: bool = True,
    noise: float = 1.0,
    first: int = 0,
    scenes: Iterable[str] = SCENES,
    rivals: str = "all",
    motion_words: bool = False,
    clouds: str = "one",
) -> dict:
    """Writes a split of `sequences` sequences under `output` and returns its card.

    Args:
      output: the dataset's root; the other split may already be there, this one may not.
      layout: "ref_youtube_vos" or "sat_mtb".
      size: `(H, W)` of every frame, in place of the split's sizes.
      frames: length of every sequence, in place of the split's lengths.
      disable: difficulties to leave out.
      workers: processes; all cores by default. The bytes do not depend on it.
      progress: show a progress bar on stderr.
      noise: factor on the sensor noise.
      first: number of the first sequence. Sequence i of a seed is the same whatever else is written.
      scenes: of `planning.SCENES`; sequences that show another are passed over, and numbers stay what they are.
      rivals, motion_words, clouds: as `plan_sequence`'s.

    Raises:
      UserError: a value is out of range, the split is already there, or `output` cannot be written to.
    """
    output = Path(output)
    if layout not in LAYOUTS:
        raise UserError(f"unknown layout {layout!r}{nearest(layout, LAYOUTS)}; known: {', '.join(LAYOUTS)}")
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}{nearest(split, SPLITS)}; known: {', '.join(SPLITS)}")
    if sequences < 1:
        raise UserError(f"sequences={sequences} must be at least 1")
    if seed < 0:
        raise UserError(f"seed={seed} must not be negative")
    if first < 0:
        raise UserError(f"first={first} must not be negative")
    if frames is not None and not 2 <= frames <= 10000:
        raise UserError(f"frames={frames} must be between 2 and 10000")
    if size is not None and not (min(size) >= 128 and max(size) <= 4096):
        raise UserError(f"size={size[0]}x{size[1]} must be between 128x128 and 4096x4096")
    if not 0 <= noise <= 10:
        raise UserError(f"noise={noise} must be a factor between 0 and 10")
    scenes = tuple(dict.fromkeys(scenes))
    for scene in scenes:
        if scene not in SCENES:
            raise UserError(f"unknown scene {scene!r}{nearest(scene, SCENES)}; known: {', '.join(SCENES)}")
    if not scenes:
        raise UserError(f"no scene is named; known: {', '.join(SCENES)}")
    check_rivals(rivals)
    check_clouds(clouds)
    disable = tuple(sorted(check_disabled(disable)))
    old = _replaceable(output, split, layout)
    workers = max(1, min(sequences, workers or os.cpu_count() or 1))
    with staged(output) as staging:
        shared = {"seed": seed, "split": split, "size": size, "frames": frames, "disable": disable, "noise": noise}
        shared |= {"rivals": rivals, "motion_words": motion_words, "clouds": clouds}
        numbers = itertools.islice((i for i in itertools.count(first) if scene_of(i) in scenes), sequences)
        jobs = [({"index": i} | shared, layout, str(staging)) for i in numbers]
        done = list(tqdm(in_order(_make, jobs, workers), total=sequences, unit="sequence", disable=not progress))
        options = {k: v for k, v in (("size", size), ("frames", frames), ("disable", disable)) if v}
        options |= {"noise": noise} if noise != 1 else {}
        options |= {"first": first} if first else {}
        options |= {"scenes": scenes} if set(scenes) != set(SCENES) else {}
        options |= {"rivals": rivals} if rivals != "all" else {}
        options |= {"motion_words": True} if motion_words else {}
        options |= {"clouds": clouds} if clouds != "one" else {}
        card = json.loads(json.dumps(make_card(done, split, seed, options)))  # as a reader of the file gets it
        if old is not None:
            shutil.rmtree(old)
        if layout == "ref_youtube_vos":
            finish_ref_youtube_vos(staging, split, done)
            (staging / split / "card.json").write_text(json.dumps(card, indent=1) + "\n")
            (staging / split / "README.md").write_text(card_text(card))
        else:
            _number(staging, output, card, split)
            (staging / f"{split}_card.json").write_text(json.dumps(card, indent=1) + "\n")
            (staging / f"{split}_README.md").write_text(card_text(card))
    return card


def _number(staging: Path, output: Path, card: dict, split: str) -> None:
    """Gives SAT-MTB's two-digit numbers, after those of the other split, and writes the table of splits."""
    table = {}
    for other in SPLITS:
        path = output / f"{other}_card.json"
        if path.exists():
            table[other] = [s["folder"] for s in json.loads(path.read_text())["per_sequence"]]
    used = [folder for folders in table.values() for folder in folders]
    for s in card["per_sequence"]:
        kind, old = s["folder"].split("/")
        number = 1 + max((int(f.split("/")[1]) for f in used if f.startswith(kind + "/")), default=0)
        s["folder"] = f"{kind}/{number:02d}"
        place = staging / FOLDER / kind / f"{number:02d}"
        place.parent.mkdir(parents=True, exist_ok=True)
        (staging / "unnumbered" / kind / old).rename(place)
        (place / "mot" / old).rename(place / "mot" / place.name)
        used.append(s["folder"])
    for left in (staging / "unnumbered").iterdir():
        left.rmdir()
    (staging / "unnumbered").rmdir()
    table[split] = [s["folder"] for s in card["per_sequence"]]
    write_split_table(staging / "data_split.xlsx", {s: table[s] for s in SPLITS if s in table})
