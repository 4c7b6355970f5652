"""Builds RS-RVOS Bench from SAT-MTB (paper, Section III).

    python -m mqc_jax.data.build_bench --sat_mtb DIR --output DIR
        [--keep 111 | --min_vds X] [--contrast 1 --density 1 --blur 1] [--test 29 | --test_list FILE] [--strict]

Every sequence with masks is a candidate. Candidates are scored (VDS, eqs. 1-3), the best are kept, their targets are
named from the first annotated frame (eq. 4), and the result is written as Ref-YouTube-VOS with a card, `card.html`.
Started again after a kill it goes on where it was; the result is the same.
"""

import collections
import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from absl import flags
from PIL import Image
from tqdm import tqdm

from mqc_jax.data import sat_mtb, vds
from mqc_jax.data.bench_scan import scan_sequence
from mqc_jax.data.expressions import centroids
from mqc_jax.data.images import decode_frame, encode_labels
from mqc_jax.data.sat_mtb import RawSequence
from mqc_jax.data.synthetic.layouts import palette
from mqc_jax.errors import UserError, nearest, run
from mqc_jax.files import remove_staging, write_atomic
from mqc_jax.parallel import in_order

PAPER = (82, 29)  # training and test sequences
TINY = 0.003  # share of the frame up to which a target's median area counts as tiny
JPEG_QUALITY = 95
FORMATS = ("jpg", "png")
_STATE = ".build"  # under the output while it is being built
_RECORD = "build.json"  # what a finished build leaves: options, every candidate's score, what was wrong


@dataclasses.dataclass(frozen=True)
class Options:
    """What decides the bytes of a build (`workers` and `strict` do not).

    Attributes:
      keep: how many candidates are kept, the best by VDS; None with `min_vds`.
      min_vds: keep all that score at least this.
      weights: of eq. 1.
      band: pixels around a target that count as its surroundings.
      n_test: test sequences; None: 29 of 111, in proportion.
      test_names: the test sequences by name, instead of a draw.
      seed: of the draw.
      image_format: "jpg" (quality 95) or "png" (PNG files as they come, others losslessly).
    """

    keep: int | None = sum(PAPER)
    min_vds: float | None = None
    weights: vds.Weights = dataclasses.field(default_factory=vds.Weights)
    band: int = vds.BAND
    n_test: int | None = None
    test_names: tuple[str, ...] | None = None
    seed: int = 0
    image_format: str = "jpg"


def build(
    root: str | os.PathLike,
    output: str | os.PathLike,
    options: Options = Options(),
    workers: int | None = None,
    strict: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Builds the benchmark under `output` and returns its record (what build.json holds).

    A broken file is left out and listed under `problems`; with `strict` it stops the build. Memory holds one frame a
    worker. A finished sequence is not made again by a later call with the same options.

    Raises:
      UserError: no candidate, an option out of range, or an `output` that holds something else.
    """
    root, output = Path(root), Path(output)
    _check(options)
    if not root.is_dir():
        raise UserError(f"the folder {root} does not exist; give --sat_mtb the folder of SAT-MTB")
    candidates = sat_mtb.list_sequences(root)
    wanted = json.loads(json.dumps(dataclasses.asdict(options)))
    if (output / _RECORD).is_file():
        record = json.loads((output / _RECORD).read_bytes())
        _require_same(record.get("options"), wanted, output)
        return record
    state = _begin(output, wanted)
    workers = max(1, min(len(candidates), workers or os.cpu_count() or 1))
    scans = _scan(candidates, state, options, workers, strict, progress)
    usable = [scan for scan in scans if scan["frames"]]
    if not usable:
        raise UserError(
            f"none of the {len(scans)} sequences under {root} has a frame with a readable mask; the first problem: "
            f"{next((problem for scan in scans for problem in scan['problems']), 'no mask at all')}"
        )
    for scan, score in zip(usable, vds.scores([vds.Terms(**s["terms"]) for s in usable], options.weights), strict=True):
        scan["vds"] = float(score)
    kept = _keep(usable, options)
    splits = _split(kept, options, [scan["name"] for scan in scans])
    by_name = {candidate.name: candidate for candidate in candidates}
    jobs = [(by_name[s["name"]], s, splits[s["name"]], str(output), options) for s in kept]
    written = list(_bar(in_order(_write, jobs, workers), len(jobs), "writing", progress))
    for split in sorted(set(splits.values())):
        _write_meta(output, split, [w for w in written if splits[w["name"]] == split])
    record = _record(wanted, scans, kept, splits, written)
    from mqc_jax.data.bench_card import card_html  # Draws; the workers have no need of it.

    write_atomic(output / "card.html", card_html(record, by_name))
    write_atomic(output / _RECORD, json.dumps(record, indent=1) + "\n")
    shutil.rmtree(state)
    return record


def _check(options: Options) -> None:
    if options.image_format not in FORMATS:
        raise UserError(f"unknown image_format {options.image_format!r}; known: {', '.join(FORMATS)}")
    if options.keep is not None and options.min_vds is not None:
        raise UserError("keep and min_vds do not go together: give a number of sequences or a threshold")
    if options.keep is not None and options.keep < 1:
        raise UserError(f"keep={options.keep} must be at least 1")
    if not 1 <= options.band <= 100:
        raise UserError(f"band={options.band} must be between 1 and 100 pixels")
    if options.n_test is not None and options.n_test < 0:
        raise UserError(f"test={options.n_test} must not be negative")
    if not all(np.isfinite(value) for value in dataclasses.astuple(options.weights)):
        raise UserError(f"the weights of VDS must be finite numbers, got {dataclasses.astuple(options.weights)}")


def _require_same(found: Any, wanted: dict, output: Path) -> None:
    found = found if isinstance(found, dict) else {}
    unlike = [name for name in wanted if found.get(name) != wanted[name]]
    if unlike:
        name = unlike[0]
        raise UserError(
            f"{output} was begun with {name}={found.get(name)!r}, not {wanted[name]!r}; give the same options or "
            "another folder"
        )


def _begin(output: Path, wanted: dict) -> Path:
    """The folder of a build's state: a new one, or that of a build with the same options that was interrupted."""
    state = output / _STATE
    if (state / "options.json").is_file():
        _require_same(json.loads((state / "options.json").read_bytes()), wanted, output)
    elif output.is_dir() and any(entry.name != _STATE for entry in output.iterdir()):
        raise UserError(f"{output} is not empty; give an empty or a new folder for the benchmark")
    try:
        for name in ("scans", "written"):
            (state / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to the output folder {output}: {error.strerror}") from error
    for folder in (output, state / "scans", state / "written"):
        remove_staging(folder)
    write_atomic(state / "options.json", json.dumps(wanted) + "\n")
    return state


def _bar(items: Iterator[Any], total: int, label: str, progress: bool) -> Iterator[Any]:
    interval = 0.2 if sys.stderr.isatty() else 5.0
    return tqdm(items, total=total, unit="sequence", desc=label, disable=not progress, mininterval=interval)


# The first pass: what each candidate is, and its terms of VDS.


def _scan(candidates: list[RawSequence], state: Path, options: Options, workers: int, strict: bool, progress: bool):
    jobs = [(candidate, str(state), options.band, strict) for candidate in candidates]
    return list(_bar(in_order(_scan_one, jobs, workers), len(jobs), "scoring", progress))


def _scan_one(job: tuple[RawSequence, str, int, bool]) -> dict[str, Any]:
    """Scores one candidate, or reads what an earlier run found; runs in a worker."""
    raw, state, band, strict = job
    place = Path(state) / "scans" / f"{raw.name}.json"
    if place.is_file():
        scan = json.loads(place.read_bytes())
        if not (strict and scan["problems"]):
            return scan
    text = json.dumps(scan_sequence(raw, band, strict))
    write_atomic(place, text)
    return json.loads(text)  # as a resumed build gets it


# Choosing.


def _keep(usable: list[dict], options: Options) -> list[dict]:
    ranked = sorted(usable, key=lambda scan: (-scan["vds"], scan["name"]))
    if options.min_vds is not None:
        chosen = [scan for scan in ranked if scan["vds"] >= options.min_vds]
        if not chosen:
            raise UserError(
                f"min_vds={options.min_vds} keeps no sequence; the best is {ranked[0]['name']} with "
                f"{ranked[0]['vds']:.3f}"
            )
    else:
        chosen = ranked[: options.keep]
    return sorted(chosen, key=lambda scan: scan["name"])


def _split(kept: list[dict], options: Options, known: list[str]) -> dict[str, str]:
    """The split of each sequence: the user's list, or a draw that takes every superclass in proportion."""
    names = [scan["name"] for scan in kept]
    if options.test_names is not None:
        for name in options.test_names:
            if name not in known:
                raise UserError(f"the test list names {name!r}, which SAT-MTB has not{nearest(name, known)}")
        test = set(options.test_names)
        return {name: "test" if name in test else "train" for name in names}
    n_test = round(len(names) * PAPER[1] / sum(PAPER)) if options.n_test is None else options.n_test
    if n_test > len(names):
        raise UserError(f"test={n_test} is more than the {len(names)} sequences that are kept")
    groups = collections.defaultdict(list)
    for scan in kept:
        draw = hashlib.sha256(f"{options.seed}/{scan['name']}".encode()).hexdigest()
        groups[scan["superclass"]].append((draw, scan["name"]))
    places = []
    for members in groups.values():
        places += [((rank + 0.5) / len(members), *member) for rank, member in enumerate(sorted(members))]
    test = {name for _, _, name in sorted(places)[:n_test]}
    return {name: "test" if name in test else "train" for name in names}


# The second pass: what is kept is written.


def _write(job: tuple[RawSequence, dict, str, str, Options]) -> dict[str, Any]:
    """Writes one sequence unless an earlier run did; runs in a worker. Returns what meta.json says of it."""
    raw, scan, split, output, options = job
    root = Path(output)
    done = root / _STATE / "written" / f"{raw.name}.json"
    if done.is_file():
        return json.loads(done.read_bytes())
    places = [root / split / kind / raw.name for kind in ("JPEGImages", "Annotations")]
    work = root / _STATE / "frames" / raw.name
    for stale in (work, *places):
        shutil.rmtree(stale, ignore_errors=True)
    images, masks = (work / kind for kind in ("images", "masks"))
    images.mkdir(parents=True)
    masks.mkdir()
    size = tuple(scan["size"])
    areas: dict[int, dict[str, int]] = {}
    many = len(scan["objects"]) > 254
    for number, ids in scan["frames"]:
        name = f"{number - 1:05d}"
        _write_image(raw.images[number], images / name, options.image_format)
        if ids is None:
            continue
        labels = sat_mtb.rasterise(sat_mtb.read_segmentation(raw.segmentations[number]).outlines, ids, size)
        data = encode_labels(labels.astype(np.uint16)) if many else palette_png(labels.astype(np.uint8))
        (masks / f"{name}.png").write_bytes(data)
        for i, (_, _, area) in centroids(labels).items():
            areas.setdefault(i, {})[name] = area
    text = json.dumps(_described(scan, areas, size))
    for source, place in zip((images, masks), places, strict=True):
        place.parent.mkdir(parents=True, exist_ok=True)
        source.rename(place)
    work.rmdir()
    write_atomic(done, text)
    return json.loads(text)


def _write_image(path: Path, place: Path, image_format: str) -> None:
    data = path.read_bytes()
    if image_format == "png":
        if path.suffix.lower() != ".png":
            bgr = cv2.cvtColor(decode_frame(data, str(path)), cv2.COLOR_RGB2BGR)
            data = cv2.imencode(".png", bgr)[1].tobytes()
    elif path.suffix.lower() not in (".jpg", ".jpeg"):
        bgr = cv2.cvtColor(decode_frame(data, str(path)), cv2.COLOR_RGB2BGR)
        data = cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))[1].tobytes()
    place.with_suffix(f".{image_format}").write_bytes(data)


def palette_png(labels: np.ndarray) -> bytes:
    """A label map uint8 [H, W] as a mode P PNG in DAVIS's colours, whose pixel values are the object ids."""
    image, data = Image.fromarray(labels), io.BytesIO()
    image.putpalette(palette())
    image.save(data, "PNG", compress_level=3)
    return data.getvalue()


def _described(scan: dict, areas: dict[int, dict[str, int]], size: tuple[int, int]) -> dict[str, Any]:
    annotated = [f"{number - 1:05d}" for number, ids in scan["frames"] if ids is not None]
    names = [f"{number - 1:05d}" for number, _ in scan["frames"]]
    categories = {int(i): category for i, category in scan["objects"].items()}
    first_kinds = collections.Counter(categories[i] for i, seen in areas.items() if annotated[0] in seen)
    objects = {}
    for i in sorted(areas):
        share = float(np.median(list(areas[i].values()))) / (size[0] * size[1])
        tags = ["tiny"] if share <= TINY else []
        if len(areas[i]) < len(annotated):
            tags.append("disappears")
        if annotated[0] in areas[i] and first_kinds[categories[i]] > 1:
            tags.append("look_alikes")
        objects[str(i)] = {"category": categories[i], "frames": sorted(areas[i]), "tags": tags, "area": share}
    expressions = [
        {"exp": text, "obj_id": str(i), "cell": scan["cells"][str(i)]}
        for text, i, _ in scan["sentences"]
        if str(i) in objects
    ]
    tags = sorted({tag for e in expressions for tag in objects[e["obj_id"]]["tags"]})
    return {
        "name": scan["name"],
        "frames": names,
        "size": list(size),
        "objects": objects,
        "expressions": expressions,
        "tags": tags,
    }


def _write_meta(output: Path, split: str, written: list[dict]) -> None:
    meta, spoken = {}, {}
    for w in written:
        keys = ("category", "frames", "tags")
        objects = {i: {key: entry[key] for key in keys} for i, entry in w["objects"].items()}
        meta[w["name"]] = {"objects": objects, "tags": w["tags"]}
        spoken[w["name"]] = {
            "expressions": {str(k): {"exp": e["exp"], "obj_id": e["obj_id"]} for k, e in enumerate(w["expressions"])},
            "frames": w["frames"],
        }
    write_atomic(output / split / "meta.json", json.dumps({"videos": meta}) + "\n")
    folder = output / "meta_expressions" / split
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "meta_expressions.json", json.dumps({"videos": spoken}, indent=1) + "\n")


def _record(wanted: dict, scans: list[dict], kept: list[dict], splits: dict[str, str], written: list[dict]) -> dict:
    there = {w["name"]: w for w in written}
    names = {scan["name"] for scan in kept}
    return {
        "options": wanted,
        "sequences": [
            {
                "name": scan["name"],
                "superclass": scan["superclass"],
                "split": splits.get(scan["name"]),
                "kept": scan["name"] in names,
                "vds": scan.get("vds"),
                **scan["terms"],
                "size": scan["size"],
                "n_frames": len(scan["frames"]),
                "first": scan["frames"][0] if scan["frames"] else None,
                "n_objects": len(scan["objects"]),
                "n_masks": sum(len(o["frames"]) for o in there[scan["name"]]["objects"].values())
                if scan["name"] in there
                else 0,
                "targets": [
                    {
                        "text": e["exp"],
                        "cell": e["cell"],
                        "n_frames": len(there[scan["name"]]["objects"][e["obj_id"]]["frames"]),
                        "category": there[scan["name"]]["objects"][e["obj_id"]]["category"],
                        "area": there[scan["name"]]["objects"][e["obj_id"]]["area"],
                    }
                    for e in there.get(scan["name"], {"expressions": ()})["expressions"]
                ],
            }
            for scan in scans
        ],
        "problems": [problem for scan in scans for problem in scan["problems"]],
    }


def read_test_list(path: Path) -> tuple[str, ...]:
    """Names of sequences, one a line, as "airplane/01" or "airplane_01"; empty lines and #comments are skipped."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the test list {path} is not a readable text file: {error}") from error
    names = [line.partition("#")[0].strip().strip("/").replace("/", "_") for line in lines]
    found = tuple(sorted({name for name in names if name}))
    bad = next((name for name in found if not re.fullmatch(r"[A-Za-z0-9_-]+", name)), None)
    if bad is not None:
        raise UserError(f"{path}: {bad!r} is not a sequence's name; write one a line, as airplane/01")
    return found


def _define_flags() -> None:
    flags.DEFINE_string("sat_mtb", None, "Folder of SAT-MTB: SAT-MTB_Dataset, or the one that holds it.")
    flags.DEFINE_string("output", None, "New folder to write the benchmark to.")
    flags.DEFINE_integer("keep", None, "Keep so many sequences, the best by VDS; 111 by default.")
    flags.DEFINE_float("min_vds", None, "Instead of --keep: keep what scores at least this.")
    flags.DEFINE_float("contrast", 1.0, "Weight of contrast in VDS (lambda_c).")
    flags.DEFINE_float("density", 1.0, "Weight of density in VDS (lambda_d).")
    flags.DEFINE_float("blur", 1.0, "Weight of blur in VDS (lambda_b).")
    flags.DEFINE_integer("band", vds.BAND, "Pixels around a target that contrast is measured against.")
    flags.DEFINE_integer("test", None, "Test sequences; by default 29 of 111, in proportion.")
    flags.DEFINE_string("test_list", None, "Instead of a draw: file with the test sequences, one a line (airplane/01).")
    flags.DEFINE_integer("seed", 0, "Seed of the split.")
    flags.DEFINE_enum("image_format", "jpg", FORMATS, "jpg, or png: the frames as they are (several times larger).")
    flags.DEFINE_integer("workers", None, "Processes; all cores by default.", lower_bound=1)
    flags.DEFINE_bool("strict", False, "Stop at the first broken file instead of leaving it out.")


def main(argv: list[str]) -> None:
    values = flags.FLAGS
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; every option has a name, see --help")
    for name in ("sat_mtb", "output"):
        if not getattr(values, name):
            raise UserError(f"--{name} is missing; see --help")
    if values.test is not None and values.test_list:
        raise UserError("--test and --test_list do not go together: give a number or a list")
    keep = values.keep
    if keep is None and values.min_vds is None:
        keep = sum(PAPER)
    options = Options(
        keep=keep,
        min_vds=values.min_vds,
        weights=vds.Weights(values.contrast, values.density, values.blur),
        band=values.band,
        n_test=values.test,
        test_names=read_test_list(Path(values.test_list)) if values.test_list else None,
        seed=values.seed,
        image_format=values.image_format,
    )
    record = build(values.sat_mtb, values.output, options, values.workers, values.strict)
    kept = [s for s in record["sequences"] if s["kept"]]
    for problem in record["problems"]:
        print(f"left out: {problem}", file=sys.stderr)
    n_test = sum(s["split"] == "test" for s in kept)
    targets = sum(len(s["targets"]) for s in kept)
    print(
        f"{len(kept)} of {len(record['sequences'])} sequences ({len(kept) - n_test} train, {n_test} test), "
        f"{sum(s['n_frames'] for s in kept)} frames, {targets} expressions, {len(record['problems'])} problems: "
        f"{values.output}/card.html"
    )


if __name__ == "__main__":
    _define_flags()
    run(main)
