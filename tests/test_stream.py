"""Parts of an input keep their frames' numbers; streams end when told to, with whole results of what was seen."""

import csv
import http.server
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from colour_tracker import ColourTracker, clip
from hypothesis import given, settings
from hypothesis import strategies as st

from mqc_jax import stream
from mqc_jax.errors import UserError
from mqc_jax.predict import predict
from mqc_jax.reader import Excerpt, VideoReader
from mqc_jax.stream import is_live
from mqc_jax.video import VideoWriter, open_video

ROOT = Path(__file__).parents[1]


class Numbers(VideoReader):
    """Frames that show their own number."""

    def __init__(self, count: int, fps: float = 25.0, tells: bool = True):
        super().__init__()
        self.path, self.size, self.fps, self.count = "numbers", (1, 1), fps, count
        self.frame_count = count if tells else None

    def numbered(self, start=0):
        return ((n, np.full((1, 1, 3), n, np.uint8)) for n in range(start, self.count))


def told(output: Path) -> dict:
    return json.loads((output / "result.json").read_text())


# ---- parts -------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    count=st.integers(1, 120),
    start=st.integers(0, 40),
    length=st.none() | st.integers(1, 150),
    rates=st.tuples(st.sampled_from([10.0, 23.976, 25.0, 30.0]), st.none() | st.floats(0.2, 60)),
    tells=st.booleans(),
)
def test_a_part_is_the_frames_asked_for_at_the_rate_asked_for(count, start, length, rates, tells):
    end = None if length is None else start + length
    inner = Numbers(count, rates[0], tells)
    if start >= count:
        with pytest.raises(UserError, match=f"start is {start} but numbers"):
            list(Excerpt(inner, start, end, rates[1]))
        return
    part = Excerpt(inner, start, end, rates[1])
    taken = list(part.numbered())
    numbers = [number for number, _ in taken]
    assert all((frame == number).all() for number, frame in taken)
    last = min(count, end or count)
    assert numbers[0] == start
    assert set(numbers) <= set(range(start, last))
    assert part.frame_count in ((len(numbers),) if tells else (None,))
    if rates[1] is None or rates[1] >= rates[0]:
        assert numbers == list(range(start, last))
        assert part.fps == rates[0]
    else:
        # Never more than one frame in each period, and no period without one.
        periods = [math.floor((n - start) * rates[1] / rates[0] + 1e-9) for n in numbers]
        assert periods == list(range(len(periods)))
        assert part.fps == rates[1]
        assert "looked at (fps)" in " ".join(part.notes)


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ({"start": -1}, "start is -1; frames count from 0"),
        ({"start": 5, "end": 5}, "end is 5 and start is 5, so no frame is left"),
        ({"end": 0}, "end is 0 and start is 0"),
        ({"start": 12}, r"start is 12 but numbers has only 12 frames, 0 to 11"),
        ({"fps": 0.0}, "fps is 0; give frames per second above 0"),
        ({"fps": math.nan}, "fps is nan"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(part, sentence):
    with pytest.raises(UserError, match=sentence):
        Excerpt(Numbers(12), **part)


def test_every_output_tells_a_frame_s_number_in_the_input(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 20) as writer:
        for frame in clip(24, hidden=(12, 14, 15)):
            writer.write(frame)
    seen = []
    predict(
        str(tmp_path / "a.mp4"),
        ["the red box"],
        str(tmp_path / "out"),
        lambda texts: ColourTracker(texts, 3),
        progress=False,
        on_frame=lambda number, _: seen.append(number),
        start=6,
        end=20,
        fps=10,
    )
    numbers = list(range(6, 20, 2))
    assert seen == numbers
    assert sorted(path.name for path in (tmp_path / "out" / "masks" / "00").iterdir()) == [
        f"{n:05d}.png" for n in numbers
    ]
    with open(tmp_path / "out" / "tracks.csv") as file:
        assert [int(row["frame"]) for row in csv.DictReader(file)] == numbers
    facts = told(tmp_path / "out")
    assert [facts["video"][name] for name in ("frames", "first_frame", "last_frame", "fps")] == [7, 6, 18, 10]
    assert facts["targets"][0]["gaps"] == [[12, 16]]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "lost at frame 12, found again at 16" in page
    assert "7 frames (6 to 18)" in page
    assert "Frame 18" in page
    overlay = open_video(tmp_path / "out" / "overlay.mp4")
    assert (overlay.fps, len(list(overlay))) == (10, 7)


def test_pictures_have_no_rate_and_fps_is_the_overlay_s(tmp_path):
    for t, frame in enumerate(clip(5)):
        cv2.imwrite(str(tmp_path / f"{t}.png"), frame[..., ::-1])
    reader = open_video(tmp_path, fps=2)
    assert (reader.fps, len(list(reader)), reader.notes) == (2, 5, [])


def test_an_end_beyond_the_end_is_told(tmp_path):
    part = Excerpt(Numbers(4), 1, 9)
    assert len(list(part)) == 3
    assert "ends after frame 3, before the end that was asked for, 9" in " ".join(part.notes)


# ---- streams -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "live"),
    [("0", True), ("12", True), ("rtsp://h/x", True), ("http://h/a.mp4", True), ("a.mp4", False), ("C:/a.mp4", False)],
)
def test_what_is_a_stream(text, live):
    assert is_live(text) == live


def test_a_folder_named_like_a_camera_is_a_folder(tmp_path, monkeypatch):
    (tmp_path / "0").mkdir()
    monkeypatch.chdir(tmp_path)
    assert not is_live("0")


class Camera:
    """In place of cv2.VideoCapture: red boxes, `count` of them or without end, one every `pause` seconds."""

    def __init__(self, count: int | None = None, pause: float = 0.0, size_at: tuple | None = None, opens: bool = True):
        self.count, self.pause, self.size_at, self.opens = count, pause, size_at, opens
        self.given, self.released = 0, threading.Event()

    def __call__(self, *_):
        return self

    def isOpened(self):
        return self.opens

    def get(self, _):
        return 30.0

    def read(self):
        time.sleep(self.pause)
        if self.given == self.count:
            return False, None
        number, self.given = self.given, self.given + 1
        picture = clip(1 + number % 40)[-1][..., ::-1]
        return True, picture[:-2] if self.size_at and number >= self.size_at[0] else picture

    def release(self):
        self.released.set()


def follow(monkeypatch, tmp_path, camera: Camera, video="0", **options) -> dict:
    monkeypatch.setattr(stream.cv2, "VideoCapture", camera)
    options = {"progress": False, **options}
    predict(video, ["the red box"], str(tmp_path / "out"), ColourTracker, **options)
    assert camera.released.is_set(), "the camera stays in use"
    return told(tmp_path / "out")


def test_a_fetched_stream_gives_every_frame_however_slow_the_tracker(monkeypatch, tmp_path):
    facts = follow(monkeypatch, tmp_path, Camera(9), "http://h/a", on_frame=lambda *_: time.sleep(0.02))
    assert facts["video"]["frames"] == 9
    assert facts["notes"] == ["The stream ended by itself."]


def test_a_camera_s_frames_do_not_queue_up(monkeypatch, tmp_path):
    camera, numbers = Camera(60, pause=0.005), []

    def slow(number, _):
        """As long as ten of the camera's frames, however busy the machine is."""
        numbers.append(number)
        seen = camera.given
        while camera.given < min(seen + 10, 60):
            time.sleep(0.002)

    facts = follow(monkeypatch, tmp_path, camera, on_frame=slow)
    assert numbers[0] == 0
    assert 2 <= len(numbers) <= 9
    assert numbers == sorted(numbers)
    assert numbers[-1] == 59
    assert f"{numbers[-1] + 1 - len(numbers)} of {numbers[-1] + 1} frames were left out" in " ".join(facts["notes"])
    masks = sorted(path.name for path in (tmp_path / "out" / "masks" / "00").iterdir())
    assert masks == [f"{n:05d}.png" for n in numbers]


def test_a_stream_ends_where_its_part_does(monkeypatch, tmp_path):
    facts = follow(monkeypatch, tmp_path, Camera(), "http://h/a", start=2, end=7)
    assert (facts["video"]["first_frame"], facts["video"]["last_frame"]) == (2, 6)


def test_another_frame_size_ends_a_stream_and_is_told(monkeypatch, tmp_path):
    facts = follow(monkeypatch, tmp_path, Camera(size_at=(5,)), "http://h/a")
    assert facts["video"]["frames"] == 5
    assert "changed from 60x40 to 60x38" in facts["notes"][0]


def test_a_silent_stream_ends(monkeypatch, tmp_path):
    monkeypatch.setattr(stream, "READ_SECONDS", 0.3)

    class Silent(Camera):
        def read(self):
            if self.given == 3:
                time.sleep(1)
            return super().read()

    facts = follow(monkeypatch, tmp_path, Silent(4), "http://h/a")
    assert facts["video"]["frames"] == 3
    assert "silent" in " ".join(facts["notes"])


def test_passwords_are_not_shown(monkeypatch, tmp_path):
    follow(monkeypatch, tmp_path, Camera(3), "http://anna:pw1234@h:80/a?b=1")
    for name in ("result.json", "report.html"):
        assert "pw1234" not in (tmp_path / "out" / name).read_text()
    assert told(tmp_path / "out")["video"]["path"] == "http://anna:***@h:80/a?b=1"


@pytest.mark.parametrize(
    ("video", "camera", "sentence"),
    [
        ("7", Camera(opens=False), "there is no camera 7 that can be opened"),
        ("rtsp://a:secret@h/x", Camera(opens=False), r"the stream rtsp://a:\*\*\*@h/x cannot be opened"),
        ("0", Camera(0), "0 opens but gives no frame"),
    ],
)
def test_what_cannot_be_opened_is_refused(monkeypatch, tmp_path, video, camera, sentence):
    with pytest.raises(UserError, match=sentence):
        follow(monkeypatch, tmp_path, camera, video)
    assert not (tmp_path / "out").exists()


def test_a_real_address_that_is_not_there_is_refused_without_more_words():
    # In a process of its own: OpenCV asks only once how much its FFmpeg may say, when the first video is opened.
    code = "from mqc_jax.stream import LiveStream; LiveStream('http://127.0.0.1:9/nothing.mp4')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "cannot be opened within" in done.stderr.splitlines()[-1]
    assert "[tcp" not in done.stderr
    assert "warn" not in done.stderr.lower()


class Server(http.server.BaseHTTPRequestHandler):
    """/clip.mp4 is a file; anything else an endless stream of JPEGs, as web cameras send it; /stalls falls silent."""

    protocol_version = "HTTP/1.1"
    file: bytes
    silent: threading.Event

    def do_GET(self):
        self.send_response(200)
        if self.path == "/clip.mp4":
            self.send_header("Content-Length", str(len(self.file)))
            self.end_headers()
            self.wfile.write(self.file)
            return
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
        self.end_headers()
        pictures = clip(40)
        try:
            for number in range(6000):
                if number == 30 and self.path == "/stalls":
                    self.silent.wait(60)
                data = cv2.imencode(".jpg", pictures[number % 40][..., ::-1])[1].tobytes()
                head = f"--next\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                self.wfile.write(head.encode() + data + b"\r\n")
                time.sleep(0.01)
        except OSError:
            self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    with VideoWriter(tmp_path / "clip.mp4", 25) as writer:
        for frame in clip(20):
            writer.write(frame)
    handler = type("Handler", (Server,), {"file": (tmp_path / "clip.mp4").read_bytes(), "silent": threading.Event()})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        running.daemon_threads = True
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        handler.silent.set()
        running.shutdown()


def test_a_file_over_http_is_seen_whole(tmp_path, server):
    predict(f"{server}/clip.mp4", ["the red box"], str(tmp_path / "out"), ColourTracker, progress=False)
    assert told(tmp_path / "out")["video"]["frames"] == 20


@pytest.mark.parametrize(
    ("kind", "address", "seen"),
    [(signal.SIGINT, "live", 8), (signal.SIGTERM, "live", 8), (signal.SIGINT, "stalls", 29)],
)
def test_a_signal_ends_an_endless_stream_with_whole_results(tmp_path, server, kind, address, seen):
    program = (
        "from colour_tracker import ColourTracker; from mqc_jax.predict import predict\n"
        f"predict('{server}/{address}', ['the red box'], {str(tmp_path / 'out')!r}, lambda t: ColourTracker(t, 4))"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    process = subprocess.Popen(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(f"out/.partial-*/masks/00/{seen:05d}.png")):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.2)
        process.send_signal(kind)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    facts = told(tmp_path / "out")
    frames = facts["video"]["frames"]
    assert frames > seen
    assert len(list((tmp_path / "out" / "masks" / "00").iterdir())) == frames
    assert len(list(open_video(tmp_path / "out" / "overlay.mp4"))) == frames
    assert f"ended by {'Ctrl-C' if kind == signal.SIGINT else 'SIGTERM'}" in facts["notes"][0]
    assert not list((tmp_path / "out").glob(".partial-*"))
