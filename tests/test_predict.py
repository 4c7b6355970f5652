"""predict writes one mask a frame and target, everything or nothing, whatever the tracker's delay."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from colour_tracker import ColourTracker, clip
from hypothesis import given, settings
from hypothesis import strategies as st

from mqc_jax import predict as predict_module
from mqc_jax.errors import UserError
from mqc_jax.predict import TRACK_COLUMNS, predict
from mqc_jax.video import VideoWriter, open_video

ROOT = Path(__file__).parents[1]


def write_frames(folder: Path, frames) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for t, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{t}.png"), frame[..., ::-1])
    return folder


def run_predict(video, output, texts=("the red box", "the green box"), lag=0, **facts) -> Path:
    return predict(str(video), list(texts), str(output), lambda t: ColourTracker(t, lag), facts, progress=False)


def masks_of(output: Path, target: int) -> list[np.ndarray]:
    files = sorted((output / "masks" / f"{target:02d}").iterdir())
    assert [file.name for file in files] == [f"{t:05d}.png" for t in range(len(files))]
    return [cv2.imread(str(file), cv2.IMREAD_UNCHANGED) for file in files]


@settings(max_examples=6, deadline=None)
@given(frames=st.integers(1, 9), lag=st.integers(0, 12))
def test_one_mask_a_frame_and_target_at_the_frames_size(tmp_path_factory, frames, lag):
    place = tmp_path_factory.mktemp("p")
    pictures = clip(frames)
    run_predict(write_frames(place / "in", pictures), place / "out", lag=lag)
    for target, colour in enumerate([(255, 0, 0), (0, 255, 0)]):
        masks = masks_of(place / "out", target)
        assert len(masks) == frames
        for mask, picture in zip(masks, pictures, strict=True):
            assert mask.dtype == np.uint8
            assert np.array_equal(mask == 255, (picture == colour).all(-1))
            assert set(np.unique(mask)) <= {0, 255}
    assert len(list(open_video(place / "out" / "overlay.mp4"))) == frames


def test_tracks_tell_place_and_absence(tmp_path):
    run_predict(write_frames(tmp_path / "in", clip(6, hidden=(3,))), tmp_path / "out")
    with open(tmp_path / "out" / "tracks.csv") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == TRACK_COLUMNS
    assert [(row["frame"], row["target"]) for row in rows] == [(str(t), str(n)) for t in range(6) for n in range(2)]
    red = rows[4]  # frame 2: columns 4..13, rows 5..12
    assert [float(red[name]) for name in TRACK_COLUMNS[3:]] == [80, 8.5, 8.5, 4, 5, 14, 13]
    gone = rows[6]
    assert gone["area"] == "0"
    assert [gone[name] for name in TRACK_COLUMNS[4:]] == [""] * 6
    assert float(gone["presence"]) == pytest.approx(0.05)


def test_the_report_tells_gaps_and_what_was_not_found(tmp_path):
    texts = ["the red box", "the blue box"]
    report = run_predict(write_frames(tmp_path / "in", clip(12, hidden=(4, 5))), tmp_path / "out", texts)
    text = report.read_text()
    assert "“the red box”: target lost at frame 4, found again at 6." in text
    assert "“the blue box”: no target found in any frame." in text
    assert "data:video/mp4;base64," in text
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    video = {"path": str(tmp_path / "in"), "width": 60, "height": 40, "fps": 10.0, "frames": 12}
    assert result["video"] == {**video, "first_frame": 0, "last_frame": 11}
    assert result["targets"][0]["gaps"] == [[4, 6]]
    assert result["targets"][1]["visible_frames"] == 0
    assert (result["speed"]["latency_frames"], result["speed"]["warm_up_frames"]) == (0, 2)


def test_held_back_frames_are_reported_and_bounded(tmp_path, monkeypatch):
    source = write_frames(tmp_path / "in", clip(9))
    run_predict(source, tmp_path / "out", lag=4)
    speed = json.loads((tmp_path / "out" / "result.json").read_text())["speed"]
    # The fifth frame brings out all five: the first frame's program and the later ones' are compiled by then.
    assert (speed["latency_frames"], speed["warm_up_frames"]) == (4, 5)
    monkeypatch.setattr(predict_module, "MAX_HELD", 3)
    with pytest.raises(RuntimeError, match="holds back more than 3 frames"):
        run_predict(source, tmp_path / "late", lag=100)
    assert not (tmp_path / "late").exists()


def test_a_target_that_vanishes_at_the_models_size_is_warned_about(tmp_path):
    source = write_frames(tmp_path / "in", clip(2))
    run_predict(source, tmp_path / "out", ["the red box"], image_size=16)
    (note,) = json.loads((tmp_path / "out" / "result.json").read_text())["notes"]
    assert "covers only 8.5 pixels once the frame is resized to the model's 16x16" in note


def test_a_mask_of_half_the_frame_is_questioned(tmp_path):
    frames = clip(2)
    frames[0][:, :30] = (255, 0, 0)
    run_predict(write_frames(tmp_path / "in", frames), tmp_path / "out", ["the red box"])
    notes = json.loads((tmp_path / "out" / "result.json").read_text())["notes"]
    assert notes == ["“the red box”: the first mask covers 50% of the frame; is that what is meant?"]


@pytest.mark.parametrize(
    ("text", "calibration", "told"),
    [
        ("the moving red box", "none", True),
        ("the parked red box", "none", True),
        ("the moving red box", "tmcc", False),
        ("the red box", "none", False),
    ],
)
def test_it_is_told_when_what_a_sentence_says_of_motion_does_not_count(tmp_path, text, calibration, told):
    source = write_frames(tmp_path / "in", clip(2))
    run_predict(source, tmp_path / "out", [text], calibration=calibration, tile=128)
    notes = json.loads((tmp_path / "out" / "result.json").read_text())["notes"]
    assert any("--calibration tmcc motion has a say" in note for note in notes) == told


def test_a_video_file_gives_the_same_as_its_frames(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 12) as writer:
        for frame in clip(7):
            writer.write(frame)
    run_predict(tmp_path / "a.mp4", tmp_path / "out")
    truth = (clip(7)[6] == (0, 255, 0)).all(-1)
    found = masks_of(tmp_path / "out", 1)
    assert len(found) == 7
    assert ((found[6] > 0) & truth).sum() / ((found[6] > 0) | truth).sum() > 0.7


def test_a_shorter_second_run_leaves_no_mask_of_the_first(tmp_path):
    run_predict(write_frames(tmp_path / "long", clip(9)), tmp_path / "out")
    (tmp_path / "out" / "mine.txt").write_text("kept")
    run_predict(write_frames(tmp_path / "short", clip(4)), tmp_path / "out", ["the red box"])
    assert len(masks_of(tmp_path / "out", 0)) == 4
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == [
        "masks",
        "mine.txt",
        "overlay.mp4",
        "report.html",
        "result.json",
        "tracks.csv",
    ]
    assert [entry.name for entry in (tmp_path / "out" / "masks").iterdir()] == ["00"]


@pytest.mark.parametrize(
    ("texts", "sentence"), [([], "no sentence given"), (["the red box", " "], "sentence 2 of 2 is empty")]
)
def test_missing_sentences(tmp_path, texts, sentence):
    with pytest.raises(UserError, match=sentence):
        run_predict(write_frames(tmp_path / "in", clip(2)), tmp_path / "out", texts)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("existing", [False, True])
def test_a_failure_in_the_middle_leaves_nothing(tmp_path, existing):
    frames = clip(6)
    frames[4] = frames[4][:-2]
    source = write_frames(tmp_path / "in", frames)
    if existing:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine.txt").write_text("kept")
    with pytest.raises(UserError, match=r"0.png is 60x40 but 4.png is 60x38"):
        run_predict(source, tmp_path / "out")
    assert (tmp_path / "out").exists() == existing
    if existing:
        assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_a_tracker_that_skips_a_frame_is_caught(tmp_path):
    class Skipping(ColourTracker):
        def push(self, frame):
            results = super().push(frame)
            return [] if results and results[0].frame_index == 2 else results

    with pytest.raises(RuntimeError, match="gave frame 3 where 2 was due"):
        predict(str(write_frames(tmp_path / "in", clip(5))), ["red"], str(tmp_path / "out"), Skipping, progress=False)


@pytest.mark.parametrize("lag", [0, 4])
def test_a_run_stopped_by_its_watcher_is_a_complete_result_of_fewer_frames(tmp_path, lag):
    source, seen = write_frames(tmp_path / "in", clip(9)), []

    def watch(index, picture):
        seen.append((index, picture))
        return False if index == 5 else None

    make_tracker = lambda texts: ColourTracker(texts, lag)  # noqa: E731
    predict(str(source), ["the red box"], str(tmp_path / "out"), make_tracker, progress=False, on_frame=watch)
    assert [index for index, _ in seen] == list(range(6))
    assert len(masks_of(tmp_path / "out", 0)) == 6
    overlay = open_video(tmp_path / "out" / "overlay.mp4")
    assert {picture.shape[:2] for _, picture in seen} == {overlay.size}
    assert len(list(overlay)) == 6
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["video"]["frames"] == 6
    assert "stopped after frame 5" in " ".join(result["notes"])


def test_a_killed_run_leaves_no_result_and_the_next_one_cleans_up(tmp_path):
    source = write_frames(tmp_path / "in", clip(40))
    program = (
        "import sys; from colour_tracker import ColourTracker; from mqc_jax.predict import predict\n"
        f"predict({str(source)!r}, ['red'], {str(tmp_path / 'out')!r}, lambda t: ColourTracker(t, pause=0.2))"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    process = subprocess.Popen(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/.partial-*/masks/00/00002.png")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = [entry.name for entry in (tmp_path / "out").iterdir()]
    assert left
    assert all(name.startswith(".partial-") for name in left)
    run_predict(source, tmp_path / "out", ["red"])
    assert not list((tmp_path / "out").glob(".partial-*"))
    assert len(masks_of(tmp_path / "out", 0)) == 40


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "mqc_jax.predict", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--video", "x.mp4", "--output", "OUT"], "no sentence given"),
        (["--video", "nowhere.mp4", "--output", "OUT", "--text", "red"], "there is no video at nowhere.mp4"),
        (["--video", "x.mp4", "--output", "OUT", "--text", "the", "red", "box"], "unexpected argument 'red'"),
        (["--output", "OUT", "--text", "red"], "--video is missing"),
    ],
)
def test_the_command_refuses_in_one_sentence(tmp_path, arguments, sentence):
    done = command(*[str(tmp_path / "out") if a == "OUT" else a for a in arguments])
    assert done.returncode != 0
    assert len(done.stderr.strip().splitlines()) == 1
    assert sentence in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_page_about_predict_tells_every_option_column_and_key(tmp_path):
    told = (ROOT / "docs" / "predict.md").read_text()
    options = re.findall(r'flags\.DEFINE_\w+\(\s*"(\w+)"', Path(predict_module.__file__).read_text())
    assert len(options) >= 9
    run_predict(write_frames(tmp_path / "in", clip(2)), tmp_path / "out")
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    keys = [*result, *result["video"], *result["targets"][0], *result["speed"]]
    files = [entry.name for entry in (tmp_path / "out").iterdir() if entry.is_file()]
    missing = [f"--{name}" for name in options if f"`--{name}" not in told]
    missing += [name for name in (*TRACK_COLUMNS, *keys, *files) if f"`{name}`" not in told]
    assert missing == []
