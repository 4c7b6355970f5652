"""build_bench: SAT-MTB in, RS-RVOS Bench out; what is odd is understood, what is broken is named."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from test_expressions import matches

from mqc_jax.data import build_bench, sat_mtb
from mqc_jax.data.bench_scan import scan_sequence
from mqc_jax.data.build_bench import Options, build, read_test_list
from mqc_jax.data.rs_rvos_bench.rs_rvos_bench_dataset_builder import Builder
from mqc_jax.data.source import open_source
from mqc_jax.data.synthetic import write_split
from mqc_jax.errors import UserError

ROOT = Path(__file__).parents[1]
SMALL = {"size": (160, 224), "frames": 4, "workers": 1, "progress": False}
N = 5


def files(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in Path(root).rglob("*") if p.is_file()}


def make(raw, output, workers=1, strict=False, **options):
    return build(raw, output, Options(**options), workers, strict, progress=False)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    root = tmp_path_factory.mktemp("raw")
    write_split(root, N, seed=5, layout="sat_mtb", **SMALL)
    return root


@pytest.fixture(scope="module")
def direct(tmp_path_factory):
    root = tmp_path_factory.mktemp("direct")
    write_split(root, N, seed=5, **SMALL)
    return root


@pytest.fixture(scope="module")
def built(raw, tmp_path_factory):
    output = tmp_path_factory.mktemp("bench") / "out"
    return output, make(raw, output)


@pytest.fixture
def copy(raw, tmp_path):
    """One's own copy of the raw data, to damage."""
    shutil.copytree(raw, tmp_path / "raw")
    return tmp_path / "raw"


def sequence_folder(root, k=0):
    return sorted(p for p in (root / sat_mtb.FOLDER).glob("*/*"))[k]


def name_of(folder):
    return f"{folder.parent.name}_{folder.name}"


def opened(root):
    """Sequence name to (source, its number), over both splits."""
    return {
        q.name: (source, k)
        for split in ("train", "test")
        if (root / split).is_dir()
        for source in [open_source("ref_youtube_vos", root, split)]
        for k, q in enumerate(source.sequences)
    }


def names_in_raw(raw):
    """The generator's sequence name to the benchmark's."""
    card = json.loads((raw / "train_card.json").read_text())
    return {s["name"]: s["folder"].replace("/", "_") for s in card["per_sequence"]}


def test_round_trip_equals_the_generators_own_output(raw, direct, built):
    ours = opened(built[0])
    source = open_source("ref_youtube_vos", direct, "train")
    assert len(ours) == len(source.sequences) == N
    colours = re.compile(r"\b(white|red|blue|green|yellow|grey|black|silver|orange)\b")
    compared = 0
    for k, sequence in enumerate(source.sequences):
        there, j = ours[names_in_raw(raw)[sequence.name]]
        found = there.sequences[j]
        assert found.frame_names == sequence.frame_names
        assert found.categories == sequence.categories
        for t in range(len(sequence.frame_names)):
            np.testing.assert_array_equal(there.labels(j, t), source.labels(k, t))
        texts = {e.object_ids: e.text for e in found.expressions}
        for expression in sequence.expressions:  # the generator knows paint, which boxes and outlines do not show
            if not colours.search(expression.text):
                assert texts[expression.object_ids] == expression.text
                compared += 1
    assert compared >= N


def test_every_expression_names_one_object_of_the_first_frame(built):
    count = 0
    for source, k in opened(built[0]).values():
        first, sequence = source.labels(k, 0), source.sequences[k]
        shown = {i: c for i, c in sequence.categories.items() if (first == i).any()}
        for expression in sequence.expressions:
            assert matches(expression.text, first, shown) == set(expression.object_ids)
            count += 1
    assert count == sum(len(s["targets"]) for s in built[1]["sequences"])


def test_packaged_by_tfds_it_is_the_same(built, tmp_path):
    builder = Builder(data_dir=str(tmp_path))
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=built[0]))
    for split in ("train", "test"):
        a, b = open_source("rs_rvos_bench", tmp_path, split), open_source("ref_youtube_vos", built[0], split)
        assert a.sequences == b.sequences
        for k, sequence in enumerate(b.sequences):
            for t in range(len(sequence.frame_names)):
                np.testing.assert_array_equal(a.labels(k, t), b.labels(k, t))
                np.testing.assert_array_equal(a.frame(k, t), b.frame(k, t))


def test_bytes_do_not_depend_on_workers(raw, built, tmp_path):
    make(raw, tmp_path / "out", workers=2)
    ours, theirs = files(tmp_path / "out"), files(built[0])
    assert ours.keys() == theirs.keys()
    assert all(ours[name] == theirs[name] for name in ours)
    assert not any(name.startswith(".") for name in ours)


def test_png_frames_are_the_raw_files(raw, tmp_path):
    make(raw, tmp_path / "out", image_format="png", keep=1, n_test=0)
    (folder,) = (tmp_path / "out" / "train" / "JPEGImages").iterdir()
    source = raw / sat_mtb.FOLDER / folder.name.replace("_", "/") / "img"
    assert [p.read_bytes() for p in sorted(folder.iterdir())] == [p.read_bytes() for p in sorted(source.iterdir())]


@pytest.mark.parametrize("stage", ["scan_sequence", "_write_image"])
def test_a_stopped_build_goes_on_and_ends_the_same(raw, built, tmp_path, monkeypatch, stage):
    """Stopped in the middle of scoring or of writing a sequence; what was finished is not made again."""
    output = tmp_path / "out"
    real, calls = getattr(build_bench, stage), []

    def stop(*arguments):
        calls.append(arguments[0])
        if len(calls) == (3 if stage == "scan_sequence" else 10):
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(build_bench, stage, stop)
    with pytest.raises(KeyboardInterrupt):
        make(raw, output)
    assert not (output / "build.json").exists()
    with pytest.raises(UserError, match=r"was begun with seed=0, not 1"):
        make(raw, output, seed=1)
    calls.clear()
    calls.extend([None] * 100)  # no further stop
    make(raw, output)
    again = len(calls) - 100
    assert again == (N - 2 if stage == "scan_sequence" else SMALL["frames"] * (N - 2))
    assert files(output) == files(built[0])


@pytest.mark.slow
def test_a_killed_build_goes_on_and_ends_the_same(raw, built, tmp_path):
    """The same with SIGKILL at moments that nobody chose, until a run survives."""
    output = tmp_path / "out"
    call = [sys.executable, "-m", "mqc_jax.data.build_bench", f"--sat_mtb={raw}", f"--output={output}", "--workers=2"]
    delay = 0.4
    while True:
        running = subprocess.Popen(
            call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        try:
            assert running.wait(timeout=delay) == 0
            break
        except subprocess.TimeoutExpired:
            running.send_signal(signal.SIGKILL)
            running.wait()
            time.sleep(0.3)  # its workers notice that their parent is gone
            delay += 0.15
    assert files(output) == files(built[0])


def test_a_finished_build_is_left_alone(raw, built):
    before = {name: (built[0] / name).stat().st_mtime_ns for name in files(built[0])}
    assert make(raw, built[0]) == json.loads(json.dumps(built[1]))
    assert before == {name: (built[0] / name).stat().st_mtime_ns for name in files(built[0])}
    with pytest.raises(UserError, match="was begun with keep=111, not 2"):
        make(raw, built[0], keep=2)


def test_keep_by_number_and_by_threshold(raw, built, tmp_path):
    ranked = sorted(built[1]["sequences"], key=lambda s: -s["vds"])
    kept = make(raw, tmp_path / "a", keep=2)["sequences"]
    assert {s["name"] for s in kept if s["kept"]} == {s["name"] for s in ranked[:2]}
    kept = make(raw, tmp_path / "b", keep=None, min_vds=ranked[2]["vds"])["sequences"]
    assert {s["name"] for s in kept if s["kept"]} == {s["name"] for s in ranked[:3]}
    assert set(opened(tmp_path / "b")) == {s["name"] for s in ranked[:3]}
    with pytest.raises(UserError, match=r"min_vds=9 keeps no sequence; the best is"):
        make(raw, tmp_path / "c", keep=None, min_vds=9)


def test_splits(raw, tmp_path):
    for seed in (0, 1):
        record = make(raw, tmp_path / f"s{seed}", n_test=2, seed=seed)
        assert sum(s["split"] == "test" for s in record["sequences"]) == 2
    chosen = name_of(sequence_folder(raw, 1))
    (tmp_path / "list.txt").write_text(f"# mine\n{chosen.replace('_', '/')}\n\n")
    record = make(raw, tmp_path / "l", test_names=read_test_list(tmp_path / "list.txt"))
    assert [s["name"] for s in record["sequences"] if s["split"] == "test"] == [chosen]
    with pytest.raises(UserError, match=r"names 'ship_99', which SAT-MTB has not"):
        make(raw, tmp_path / "x", test_names=("ship_99",))
    (tmp_path / "list.txt").write_text("../../etc\n")
    with pytest.raises(UserError, match=r"is not a sequence's name"):
        read_test_list(tmp_path / "list.txt")


def edit_json(folder, change):
    for path in sorted((folder / "seg").iterdir()):
        content = json.loads(path.read_text())
        change(content, int(path.stem))
        path.write_text(json.dumps(content))


def raw_sequence(root, k=0):
    name = name_of(sequence_folder(root, k))
    return next(s for s in sat_mtb.list_sequences(root) if s.name == name)


def test_ids_that_change_between_frames_come_from_the_boxes(copy, raw):
    """A running number over the whole sequence instead of tracks."""
    for k in range(N):
        expected = scan_sequence(raw_sequence(raw, k))
        count = iter(range(1, 10_000))
        edit_json(sequence_folder(copy, k), lambda c, t: [a.update(id=next(count)) for a in c["annotations"]])  # noqa: B023
        found = scan_sequence(raw_sequence(copy, k))
        assert found["frames"] == expected["frames"]
        assert found["objects"] == expected["objects"]
        assert found["sentences"] == expected["sentences"]


def test_ids_without_any_boxes_follow_the_outlines(copy, raw):
    folder = sequence_folder(copy)
    count = iter(range(1, 10_000))
    edit_json(folder, lambda c, t: [a.update(id=next(count)) for a in c["annotations"]])
    shutil.rmtree(folder / "det")
    found = scan_sequence(raw_sequence(copy))
    by_class = sorted(found["objects"].values())
    assert by_class == sorted(scan_sequence(raw_sequence(raw))["objects"].values())


@pytest.mark.parametrize("where", ["swapped", "supercategory", "boxes", "spelt"])
def test_the_fine_class_is_found_wherever_it_is(copy, raw, where):
    folder = sequence_folder(copy)

    def change(content, _):
        for kind in content["categories"]:
            if where == "spelt":
                kind["name"] = kind["name"].replace("_", "-").upper()
            elif where != "boxes":
                kind["name"], kind["supercategory"] = kind["supercategory"], kind["name"]
            else:
                kind["name"] = kind["supercategory"]

    edit_json(folder, change)
    for path in (folder / "det" / "HBB").iterdir():
        tree = ElementTree.parse(path)
        for entry in tree.iter("object"):
            if where in ("swapped", "boxes"):
                entry.find("name").text, entry.find("subname").text = entry.findtext("subname"), entry.findtext("name")
        tree.write(path)
    assert scan_sequence(raw_sequence(copy))["objects"] == scan_sequence(raw_sequence(raw))["objects"]


def test_float_polygons_fill_as_drawn(copy, raw):
    folder = sequence_folder(copy)
    rng = np.random.default_rng(0)

    def shake(content, _):
        for a in content["annotations"]:
            a["segmentation"] = [[v + rng.uniform(-0.4, 0.4) for v in polygon] for polygon in a["segmentation"]]

    edit_json(folder, shake)
    for number, path in raw_sequence(raw).segmentations.items():
        a, b = sat_mtb.read_segmentation(path), sat_mtb.read_segmentation(raw_sequence(copy).segmentations[number])
        ids = [o.id for o in a.outlines]
        first, second = (sat_mtb.rasterise(s.outlines, ids, s.size) > 0 for s in (a, b))
        assert (first & second).sum() / (first | second).sum() >= 0.98


def test_the_smaller_of_two_overlapping_outlines_is_on_top():
    square = [np.array([[0, 0], [9, 0], [9, 9], [0, 9]], np.int32)]
    inner = [np.array([[3, 3], [5, 3], [5, 5], [3, 5]], np.int32)]
    outlines = tuple(sat_mtb.Outline(i, "yacht", (0, 0, 9, 9), tuple(p)) for i, p in ((1, inner), (2, square)))
    labels = sat_mtb.rasterise(outlines, [1, 2], (12, 12))
    assert (labels == 1).sum() == 9
    assert (labels == 2).sum() == 91


def test_boxes_of_either_form_and_unwrapped_polygons(copy, raw):
    """bbox is xyxy in these files and xywh in COCO; nothing hangs on it."""

    def change(content, t):
        for a in content["annotations"]:
            x0, y0, x1, y1 = a["bbox"]
            a["bbox"] = [x0, y0, x1 - x0, y1 - y0] if t % 2 else []
            if len(a["segmentation"]) == 1:
                a["segmentation"] = a["segmentation"][0]

    edit_json(sequence_folder(copy), change)
    assert scan_sequence(raw_sequence(copy)) == scan_sequence(raw_sequence(raw))


def test_large_ids_are_numbered_anew(copy, raw):
    edit_json(sequence_folder(copy), lambda c, t: [a.update(id=a["id"] + 100_000) for a in c["annotations"]])
    found, expected = scan_sequence(raw_sequence(copy)), scan_sequence(raw_sequence(raw))
    assert sorted(found["objects"]) == list(range(1, len(expected["objects"]) + 1))
    assert list(found["objects"].values()) == [expected["objects"][i] for i in sorted(expected["objects"])]


def break_json(folder):
    path = folder / "seg" / "000003.json"
    path.write_text(path.read_text()[:80])
    return path


def break_form(folder):
    path = folder / "seg" / "000002.json"
    path.write_text('{"images": []}')
    return path


def break_polygon(folder):
    path = folder / "seg" / "000002.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["segmentation"] = [[1, 2, 3, 4, 5]]
    path.write_text(json.dumps(content))
    return path


def break_category(folder):
    path = folder / "seg" / "000002.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["category_id"] = 77
    path.write_text(json.dumps(content))
    return path


def break_size(folder):
    path = folder / "seg" / "000002.json"
    content = json.loads(path.read_text())
    content["images"][0]["width"] += 1
    path.write_text(json.dumps(content))
    return path


def break_image(folder):
    path = folder / "img" / "000003.png"
    path.write_bytes(path.read_bytes()[:500])
    return path


def break_frame_size(folder):
    path = folder / "img" / "000004.png"
    cv2.imwrite(str(path), np.zeros((20, 30, 3), np.uint8))
    return path


BREAKS = [break_json, break_form, break_polygon, break_category, break_size, break_image, break_frame_size]


@pytest.mark.parametrize("damage", BREAKS)
def test_a_broken_file_is_named_and_left_out(copy, tmp_path, damage):
    path = damage(sequence_folder(copy))
    record = make(copy, tmp_path / "out")
    assert any(str(path) in problem for problem in record["problems"])
    source, k = opened(tmp_path / "out")[name_of(sequence_folder(copy))]
    number = int(path.stem) - 1
    names = source.sequences[k].frame_names
    if path.suffix == ".json":
        assert source.labels(k, names.index(f"{number:05d}")) is None
    else:
        assert f"{number:05d}" not in names
    with pytest.raises(UserError, match=path.stem):
        make(copy, tmp_path / "strict", strict=True)


def test_a_sequence_begins_with_its_first_readable_mask(copy, tmp_path):
    folder = sequence_folder(copy)
    (folder / "seg" / "000001.json").write_text("{")
    (folder / "img" / "000002.png").write_bytes(b"")
    make(copy, tmp_path / "out")
    source, k = opened(tmp_path / "out")[name_of(folder)]
    assert source.sequences[k].frame_names == ("00002", "00003")
    first = source.labels(k, 0)
    for expression in source.sequences[k].expressions:
        assert expression.mask(first).any()


def test_broken_boxes_matter_only_where_they_are_needed(copy):
    folder = sequence_folder(copy)
    (folder / "det" / "HBB" / "000002.xml").write_text("<annotation><object>")
    assert not scan_sequence(raw_sequence(copy))["problems"]
    edit_json(folder, lambda c, t: [a.update(id=1000 * t + a["id"]) for a in c["annotations"]])
    (problem,) = scan_sequence(raw_sequence(copy))["problems"]
    assert "000002.xml is not valid XML" in problem


def test_nothing_beside_the_output_is_touched(copy, tmp_path):
    before = files(copy)
    make(copy, tmp_path / "deep" / "out", keep=1)
    assert files(copy) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["deep", "raw"]


def test_folders_with_odd_names_are_no_sequences(copy):
    folder = sequence_folder(copy)
    shutil.copytree(folder, folder.parent / "0 1")
    assert len(sat_mtb.list_sequences(copy)) == N
    assert len(sat_mtb.list_sequences(copy / sat_mtb.FOLDER)) == N


def command(*arguments):
    call = [sys.executable, "-m", "mqc_jax.data.build_bench", *arguments]
    return subprocess.run(
        call, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )


def test_the_command(copy, tmp_path):
    path = break_json(sequence_folder(copy))
    done = command(f"--sat_mtb={copy}", f"--output={tmp_path / 'out'}", "--keep=3", "--test=1", "--workers=1")
    assert done.returncode == 0, done.stderr
    assert f"3 of {N} sequences (2 train, 1 test)" in done.stdout
    assert f"left out: {path} is not valid JSON" in done.stderr
    done = command(f"--sat_mtb={copy}", f"--output={tmp_path / 'strict'}", "--strict", "--workers=1")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith(f"error: {path} is not valid JSON")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--output=OUT"], "--sat_mtb is missing"),
        (["--sat_mtb=HERE/nothing", "--output=OUT"], "nothing does not exist"),
        (["--sat_mtb=HERE", "--output=OUT"], "holds no sequence with masks"),
        (["--sat_mtb=HERE", "--output=OUT", "--keep=3", "--min_vds=0.5"], "keep and min_vds do not go together"),
        (["--sat_mtb=HERE", "--output=OUT", "--test=1", "--test_list=x"], "--test and --test_list"),
        (["--sat_mtb=HERE", "--output=OUT", "--keep=0"], "keep=0 must be at least 1"),
    ],
)
def test_the_command_refuses_in_one_sentence(tmp_path, arguments, sentence):
    done = command(*(a.replace("HERE", str(tmp_path)).replace("OUT", str(tmp_path / "out")) for a in arguments))
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert sentence in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_output_with_something_else_in_it_is_refused(raw, tmp_path):
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(UserError, match="is not empty"):
        make(raw, tmp_path)
    assert files(tmp_path) == {"mine.txt": b"kept"}


def test_the_card_counts_what_is_there_and_fetches_nothing(built):
    page = (built[0] / "card.html").read_text()
    assert "<script" not in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    kept = [s for s in built[1]["sequences"] if s["kept"]]
    texts = [t["text"] for s in kept for t in s["targets"]]
    assert f"<b>{len(kept)}</b>" in page
    assert f"<b>{sum(s['n_frames'] for s in kept)}</b><span>frames" in page
    assert f"the <b>{sum(text.split().count('the') for text in texts)}</b>" in page
    assert page.count("data:image/jpeg") == len(kept)
    assert "224x160" in page
    masks = sum(
        len(np.unique(source.labels(k, t))) - 1
        for source, k in opened(built[0]).values()
        for t in range(len(source.sequences[k].frame_names))
    )
    assert sum(s["n_masks"] for s in kept) == masks


def test_tags_say_what_the_masks_show(built):
    for source, k in opened(built[0]).values():
        sequence = source.sequences[k]
        named = {i for e in sequence.expressions for i in e.object_ids}
        stack = np.stack([source.labels(k, t) for t in range(len(sequence.frame_names))])
        gone = any((stack == i).any((1, 2)).sum() < len(stack) for i in named)
        assert ("disappears" in sequence.tags) == gone


@pytest.mark.slow
def test_a_large_sequence_builds_packages_and_streams_in_bounded_memory(tmp_path):
    """2160x1080, 500 frames, 50 targets: the peak of each stage stays far below the 3.5 GB of its decoded frames."""
    folder = tmp_path / sat_mtb.FOLDER / "ship" / "01"
    for part in ("img", "seg"):
        (folder / part).mkdir(parents=True)
    height, width, rng = 1080, 2160, np.random.default_rng(0)
    ground = cv2.resize(rng.integers(40, 120, (30, 60, 3)).astype(np.uint8), (width, height))
    boats = rng.integers(100, 1000, (50, 2))
    for t in range(1, 501):
        picture, annotations = ground.copy(), []
        for i, (x, y) in enumerate(boats, 1):
            x0, y0 = int(x + t % 100), int(y)
            picture[y0 : y0 + 6, x0 : x0 + 12] = 220
            shape = [x0, y0, x0 + 11, y0, x0 + 11, y0 + 5, x0, y0 + 5]
            annotations.append({"id": i, "category_id": 1, "bbox": [x0, y0, x0 + 11, y0 + 5], "segmentation": [shape]})
        cv2.imwrite(str(folder / "img" / f"{t:06d}.png"), picture, (cv2.IMWRITE_PNG_COMPRESSION, 1))
        kinds = [{"id": 1, "name": "yacht", "supercategory": "ship"}]
        seg = {"images": [{"height": height, "width": width}], "categories": kinds, "annotations": annotations}
        (folder / "seg" / f"{t:06d}.json").write_text(json.dumps(seg))
    program = """
import resource, sys
from pathlib import Path
stage, root = sys.argv[1], Path(sys.argv[2])
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
if stage == "build":
    from mqc_jax.data.build_bench import Options, build
    before = peak()
    build(root, root / "out", Options(n_test=0), workers=1, progress=False)
elif stage == "package":
    import tensorflow_datasets as tfds
    from mqc_jax.data.rs_rvos_bench.rs_rvos_bench_dataset_builder import Builder
    before = peak()
    config = tfds.download.DownloadConfig(manual_dir=root / "out")
    Builder(data_dir=str(root / "tfds")).download_and_prepare(download_config=config)
else:
    from mqc_jax.data.source import open_source
    source = open_source("rs_rvos_bench", root / "tfds", "train")
    before = peak()
    for t in range(500):
        assert source.frame(0, t).shape == (1080, 2160, 3) and source.labels(0, t).max() == 50
print(peak() - before)
"""
    for stage in ("build", "package", "read"):
        call = [sys.executable, "-c", program, stage, str(tmp_path)]
        done = subprocess.run(call, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        assert done.returncode == 0, done.stderr
        assert float(done.stdout.split()[-1]) < 300, f"{stage} used {done.stdout} MB more than it started with"


def test_of_sequences_that_differ_in_the_number_of_targets_the_emptier_scores_higher(raw, tmp_path):
    original = sequence_folder(raw)
    start = min(int(path.stem) for path in (original / "seg").iterdir())
    for k, more in enumerate((5, 0, 2)):
        folder = tmp_path / "raw" / sat_mtb.FOLDER / original.parent.name / f"{k + 1:02d}"
        shutil.copytree(original, folder)

        def add(content, number, more=more):
            # Not in the first frame, whose contrast is another term.
            if number > start:
                model = content["annotations"][0]
                content["annotations"] += [{**model, "id": 900 + i} for i in range(more)]

        edit_json(folder, add)
    record = make(tmp_path / "raw", tmp_path / "out", keep=3, n_test=1)
    ranked = sorted(record["sequences"], key=lambda s: -s["vds"])
    assert [s["name"][-2:] for s in ranked] == ["02", "03", "01"]
    assert len({s["contrast"] for s in ranked}) == len({s["sharpness"] for s in ranked}) == 1
