"""The generator's command and the layouts that it writes."""

import csv
import json
import subprocess
import sys
import zipfile
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from PIL import Image

from mqc_jax.data.source import open_source
from mqc_jax.data.synthetic import plan_sequence, render, write_split
from mqc_jax.data.synthetic.masks import Masks
from mqc_jax.data.synthetic.planning import scene_of
from mqc_jax.data.synthetic.sat_mtb import polygons
from mqc_jax.data.synthetic.silhouettes import SUPERCLASS

SMALL = {"size": (160, 224), "frames": 4, "progress": False}


def files(root, under=""):
    return {str(p.relative_to(root)): p.read_bytes() for p in (root / under).rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("synthetic")
    card = write_split(root, 3, seed=7, workers=1, **SMALL)
    return root, card


def test_bytes_do_not_depend_on_workers_or_on_the_number_of_sequences(written, tmp_path):
    write_split(tmp_path, 2, seed=7, workers=2, **SMALL)
    ours, theirs = files(tmp_path), files(written[0])
    pictures = [name for name in ours if name.endswith((".jpg", ".png"))]
    assert len(pictures) == 2 * 2 * SMALL["frames"]
    assert all(ours[name] == theirs[name] for name in pictures)
    meta, more = (json.loads(f["train/meta.json"])["videos"] for f in (ours, theirs))
    assert all(more[name] == meta[name] for name in meta)
    assert len(more) == 3


def test_a_later_sequence_is_the_same_by_itself(written, tmp_path):
    card = write_split(tmp_path, 1, seed=7, workers=1, first=2, **SMALL)
    ours, theirs = files(tmp_path), files(written[0])
    pictures = [name for name in ours if name.endswith((".jpg", ".png"))]
    assert len(pictures) == 2 * SMALL["frames"]
    assert all("train_00002" in name and ours[name] == theirs[name] for name in pictures)
    assert card["options"]["first"] == 2


def test_scenes_pass_over_others_and_change_nothing(written, tmp_path):
    scenes = [scene_of(i) for i in range(3)]
    wanted = scenes[1]
    card = write_split(tmp_path, 1, seed=7, workers=1, scenes=[wanted], rivals="moving", clouds="broken", **SMALL)
    (name,) = (s["name"] for s in card["per_sequence"])
    assert name == f"train_{scenes.index(wanted):05d}"
    assert card["options"]["scenes"] == [wanted]
    assert card["options"]["rivals"] == "moving"
    assert card["options"]["clouds"] == "broken"
    assert "what stands may fit" in (tmp_path / "train" / "README.md").read_text()
    ours, theirs = files(tmp_path), files(written[0])
    pictures = [name for name in ours if name.endswith((".jpg", ".png"))]
    assert len(pictures) == 2 * SMALL["frames"]
    assert all(ours[name] == theirs[name] for name in pictures)


def test_scenes_are_what_sequences_show(written):
    shown = {s["name"]: s["scene"].split("_")[0] for s in written[1]["per_sequence"]}
    kinds = {"airport": "airport", "harbour": "harbour", "open": "harbour", "roads": "roads"}
    assert {name: kinds[kind] for name, kind in shown.items()} == {f"train_{i:05d}": scene_of(i) for i in range(3)}


def test_ref_youtube_vos_holds_the_truth(written):
    root, _ = written
    meta = json.loads((root / "train" / "meta.json").read_text())["videos"]
    spoken = json.loads((root / "meta_expressions" / "train" / "meta_expressions.json").read_text())["videos"]
    assert list(meta) == list(spoken) == [f"train_{i:05d}" for i in range(3)]
    for index, name in enumerate(meta):
        plan = plan_sequence(7, index, "train", SMALL["size"], SMALL["frames"])
        shown = {i: [] for i in plan.categories}
        for t, (frame, labels) in enumerate(render(plan)):
            with Image.open(root / "train" / "Annotations" / name / f"{t:05d}.png") as image:
                assert image.mode == "P"
                np.testing.assert_array_equal(np.array(image), labels)
            jpeg = cv2.imread(str(root / "train" / "JPEGImages" / name / f"{t:05d}.jpg"))[..., ::-1]
            assert np.abs(jpeg.astype(int) - frame).mean() < 4
            for i in np.unique(labels)[1:]:
                shown[int(i)].append(f"{t:05d}")
        objects = meta[name]["objects"]
        assert {int(i): o["frames"] for i, o in objects.items()} == {i: f for i, f in shown.items() if f}
        assert all(o["category"] == plan.categories[int(i)] for i, o in objects.items())
        assert meta[name]["tags"] == list(plan.tags)
        assert spoken[name]["frames"] == [f"{t:05d}" for t in range(SMALL["frames"])]
        pairs = [(e["exp"], e["obj_id"]) for e in spoken[name]["expressions"].values()]
        assert pairs == [(p.text, str(p.object_id)) for p in plan.phrases]


def test_the_projects_own_reader_reads_it(written):
    source = open_source("ref_youtube_vos", written[0], "train")
    assert len(source.sequences) == 3
    for k, sequence in enumerate(source.sequences):
        assert sequence.size == SMALL["size"]
        assert sequence.tags
        labels = source.labels(k, 0)
        assert source.frame(k, 0).shape == (*SMALL["size"], 3)
        for expression in sequence.expressions:
            assert np.isin(expression.object_ids, labels).all()


def test_card_counts_what_is_there(written):
    root, card = written
    assert card == json.loads((root / "train" / "card.json").read_text())
    assert card["sequences"] == 3
    assert card["frames"] == 12
    assert card["sizes_wh"] == {"224x160": 3}
    meta = json.loads((root / "train" / "meta.json").read_text())["videos"]
    assert card["objects"] == sum(len(v["objects"]) for v in meta.values())
    text = (root / "train" / "README.md").read_text()
    assert "seed 7" in text
    assert f"| expressions | {card['expressions']} |" in text


def test_a_new_run_replaces_a_split_of_its_own_and_nothing_else(tmp_path):
    write_split(tmp_path, 2, seed=1, workers=1, **SMALL)
    write_split(tmp_path, 1, seed=2, workers=1, **SMALL)
    assert len(list((tmp_path / "train" / "JPEGImages").iterdir())) == 1
    (tmp_path / "train" / "card.json").unlink()
    before = files(tmp_path)
    result = command(tmp_path, "--sequences=1")
    assert result.returncode == 1
    assert "is already there" in result.stderr
    assert files(tmp_path) == before


def test_sat_mtb_layout(tmp_path):
    write_split(tmp_path, 2, seed=7, layout="sat_mtb", workers=1, **SMALL)
    card = write_split(tmp_path, 2, seed=7, split="test", layout="sat_mtb", workers=1, **SMALL)
    folders = sorted(p.relative_to(tmp_path / "SAT-MTB_Dataset") for p in (tmp_path / "SAT-MTB_Dataset").glob("*/*"))
    assert len(folders) == 4
    assert not list(tmp_path.glob("**/unnumbered*"))
    for s in card["per_sequence"]:
        plan = plan_sequence(7, int(s["name"][-5:]), "test", SMALL["size"], SMALL["frames"])
        folder = tmp_path / "SAT-MTB_Dataset" / s["folder"]
        masks = Masks(plan)
        rows = list(csv.reader((folder / "mot" / folder.name).read_text().splitlines()))
        for t in range(plan.frames):
            labels = masks.labels(t)
            stem = f"{t + 1:06d}"
            assert cv2.imread(str(folder / "img" / f"{stem}.png")).shape[:2] == plan.size
            seg = json.loads((folder / "seg" / f"{stem}.json").read_text())
            assert (seg["images"][0]["height"], seg["images"][0]["width"]) == plan.size
            names = {c["id"]: c["name"] for c in seg["categories"]}
            filled = np.zeros(plan.size, np.uint8)
            for a in seg["annotations"]:
                assert names[a["category_id"]] == plan.categories[a["id"]]
                outline = [np.array(p, np.int32).reshape(-1, 2) for p in a["segmentation"]]
                assert all(len(p) >= 3 for p in outline)
                for p in outline:
                    cv2.fillPoly(filled, [p], a["id"])
                ys, xs = np.nonzero(labels == a["id"])
                assert a["bbox"] == [xs.min(), ys.min(), xs.max(), ys.max()]
            np.testing.assert_array_equal(filled, labels)
            boxes = {}
            for o in ElementTree.parse(folder / "det" / "HBB" / f"{stem}.xml").iter("object"):
                i = int(o.findtext("objectID"))
                assert o.findtext("name") == SUPERCLASS[o.findtext("subname")]
                boxes[i] = [int(o.find("bndbox").findtext(k)) for k in ("xmin", "ymin", "xmax", "ymax")]
            assert set(boxes) == set(np.unique(labels)[1:].tolist())
            for row in (r for r in rows if int(r[0]) == t + 1):
                x, y, w, h = map(int, row[2:6])
                assert boxes[int(row[1])] == [x, y, x + w - 1, y + h - 1]
                assert len(row) == 11
            turned = list(ElementTree.parse(folder / "det" / "OBB" / f"{stem}.xml").iter("robndbox"))
            assert all(len(list(o)) == 8 for o in turned)
            assert len(turned) == len(boxes)
        for i in plan.targets:
            lines = (folder / "sot" / str(i) / "groundtruth.txt").read_text().splitlines()
            gone = (folder / "sot" / str(i) / "truncated_and_occlusion.txt").read_text().splitlines()
            assert len(lines) == len(gone) == plan.frames
    with zipfile.ZipFile(tmp_path / "data_split.xlsx") as book:
        names = [s.get("name") for s in ElementTree.fromstring(book.read("xl/workbook.xml")).iter() if s.get("sheetId")]
        sheet = ElementTree.fromstring(book.read("xl/worksheets/sheet4.xml"))
        assert ElementTree.fromstring(book.read("[Content_Types].xml")) is not None
    assert names == ["det_HBB", "det_OBB", "mot", "seg"]
    cells = [c.text for c in sheet.iter("{http://schemas.openxmlformats.org/spreadsheetml/2006/main}t")]
    assert cells.count("train") == cells.count("test") == 1


def test_polygons_fill_to_the_mask_even_with_holes_and_single_pixels():
    rng = np.random.default_rng(0)
    shapes = [rng.random((24, 31)) < p for p in (0.1, 0.5, 0.8)]
    ring = np.ones((12, 12), bool)
    ring[4:8, 4:8] = False
    for mask in [*shapes, ring, np.eye(9, dtype=bool)]:
        filled = np.zeros(mask.shape, np.uint8)
        for p in polygons(mask):
            cv2.fillPoly(filled, [p.astype(np.int32)], 1)
        np.testing.assert_array_equal(filled.astype(bool), mask)


def command(output, *arguments):
    call = [sys.executable, "-m", "mqc_jax.data.synthetic", f"--output={output}", *arguments]
    return subprocess.run(call, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sequences=1", "--layout=sat_mbt"], "did you mean 'sat_mtb'"),
        (["--sequences=1", "--size=512"], "is not HxW"),
        (["--sequences=1", "--size=8x8"], "between 128x128 and 4096x4096"),
        (["--sequences=0"], "must be at least 1"),
        (["--sequences=1", "--first=-1"], "first=-1 must not be negative"),
        (["--sequences=1", "--scenes=road"], "unknown scene 'road'; did you mean 'roads'"),
        (["--sequences=1", "--scenes="], "no scene is named; known: airport, harbour, roads"),
        (["--sequences=1", "--rivals=movers"], "unknown rivals 'movers'"),
        (["--sequences=1", "--clouds=brokn"], "unknown clouds 'brokn'; did you mean 'broken'"),
        (["--sequences=1", "--disable=fog"], "unknown difficulty 'fog'"),
        (["--sequences=1", "--frames=1"], "between 2 and 10000"),
    ],
)
def test_a_bad_flag_gives_one_sentence_and_leaves_nothing(arguments, words, tmp_path):
    result = command(tmp_path / "out", *arguments)
    assert result.returncode == 1
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("kept")
    result = command(tmp_path / "file" / "out", "--sequences=1")
    assert result.returncode == 1
    assert result.stderr.startswith("error: cannot write to the output folder")
    assert files(tmp_path) == {"file": b"kept"}


def test_the_command_writes_a_split(tmp_path):
    result = command(
        tmp_path / "out", "--sequences=1", "--seed=2", "--size=160x224", "--frames=3", "--disable=clouds,noise"
    )
    assert result.returncode == 0, result.stderr
    card = json.loads((tmp_path / "out" / "train" / "card.json").read_text())
    assert card["options"] == {"size": [160, 224], "frames": 3, "disable": ["clouds", "noise"]}
    assert not list((tmp_path / "out").glob(".*"))
