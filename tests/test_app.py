"""The app as its users meet it: a real browser drives the page, and processes end as they end in life."""

import contextlib
import http.client
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from colour_tracker import COLOURS, clip

from mqc_jax.video import VideoWriter

ROOT = Path(__file__).parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
SECONDS = 1000
"""Playwright counts in milliseconds."""


def _missing() -> str:
    try:
        import gradio  # noqa: F401
        import playwright  # noqa: F401
    except ImportError as error:
        return f"{error}: pip install 'mqc_jax[app,test]'"
    return "" if any(map(shutil.which, BROWSERS)) else "no Chromium: apt-get install chromium"


def test_there_is_a_browser_where_there_has_to_be_one():
    if os.environ.get("MQC_JAX_NEED_BROWSER"):
        assert not _missing()


needs_browser = pytest.mark.skipif(bool(_missing()), reason=_missing() or "has one")


# ---- servers --------------------------------------------------------------------------------------------------------


class Server:
    """The app in a process of its own, and everything it may write to below one folder."""

    def __init__(self, place: Path, *command: str) -> None:
        self.place, self.work = place, place / "work"
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        (place / "home").mkdir(parents=True, exist_ok=True)
        (place / "tmp").mkdir(exist_ok=True)
        env = {**os.environ, "HOME": str(place / "home"), "TMPDIR": str(place / "tmp")}
        env["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        line = [str(self.work if part == "WORK" else self.port if part == "PORT" else part) for part in command]
        self._log = open(place / "log", "ab")  # noqa: SIM115 (the process's)
        self.process = subprocess.Popen(
            [sys.executable, *line], cwd=place / "home", env=env, stdout=self._log, stderr=self._log
        )
        self._until(lambda: b"open http" in (place / "log").read_bytes() and self.answers(), 120)

    def _until(self, happens, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not happens():
            assert self.process.poll() is None, (self.place / "log").read_text()
            assert time.monotonic() < end, (self.place / "log").read_text()
            time.sleep(0.05)

    def answers(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(self.url, timeout=5) as answer:
            return answer.status == 200
        return False

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def end(self, how: int = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        status = self.process.wait(30)
        self._log.close()
        return status

    def left(self) -> set[str]:
        """What lies in the work folder, two levels deep."""
        return {str(p.relative_to(self.work)) for depth in ("*", "*/*") for p in self.work.glob(depth)}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as door:
        return door.getsockname()[1]


def colours(place: Path, pause: float, **limits: int) -> Server:
    """An app whose trackers follow colours; it compiles nothing."""
    fields = [f"{name}={value}" for name, value in limits.items()]
    return Server(place, str(ROOT / "tests" / "app_server.py"), "WORK", "PORT", str(pause), *fields)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Two jobs at a time, 0.06 s a frame, uploads of 1 MB, 30 frames, 100,000 pixels."""
    made = colours(tmp_path_factory.mktemp("app"), 0.06, jobs=2, megabytes=1, frames=30, pixels=100_000)
    yield made
    made.end()


# ---- browsers -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as playwright:
        # A fresh profile of its own is what Playwright gives every browser that it starts.
        started = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def visit(browser):
    """visit(server) opens the page in a profile of its own. Nothing but the server may ever be asked for anything."""
    contexts, asked, closed = [], set(), []

    def open_page(server: Server, size=DESK, **options):
        context = browser.new_context(viewport=size, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.add(request.url))
        page.on("response", lambda answer: closed.append(answer.url) if answer.status >= 400 else None)
        page.on("pageerror", lambda error: pytest.fail(f"an error on the page: {error}"))
        page.set_default_timeout(30 * SECONDS)
        page.goto(server.url)
        page.wait_for_selector("#stage img")
        asked.add(server.url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    hosts = {url.split("/")[2].split(":")[0] for url in asked if url.startswith(("http", "ws"))}
    assert hosts == {"127.0.0.1"}
    assert closed == []


def film(path: Path, frames: int = 24, scale: int = 4) -> Path:
    """`colour_tracker.clip` as mp4, larger: a codec smears the colours of small things."""
    with VideoWriter(path, 10) as writer:
        for frame in clip(frames):
            writer.write(frame.repeat(scale, 0).repeat(scale, 1))
    return path


def send(page, path: Path, mime: str = "video/mp4", content: bytes | None = None) -> None:
    """Gives a file to the upload box."""
    data = path.read_bytes() if content is None else content
    page.set_input_files("#upload input", {"name": path.name, "mimeType": mime, "buffer": data})


def says(page, words: str, seconds: float = 30) -> str:
    """Waits until the status line holds `words`, and returns all of it."""
    page.wait_for_function(
        "words => document.querySelector('#status').innerText.includes(words)", arg=words, timeout=seconds * SECONDS
    )
    return page.inner_text("#status")


def say(page, *sentences: str) -> None:
    page.fill("#sentence textarea", "\n".join(sentences))


def start(page, path: Path, *sentences: str) -> None:
    send(page, path)
    says(page, "The video is here")
    say(page, *sentences)
    page.click("#start")


def take(page, link: str) -> tuple[str, bytes]:
    """The name and content of what a link downloads."""
    with page.expect_download() as event:
        page.click(f"text={link}")
    return event.value.suggested_filename, Path(event.value.path()).read_bytes()


def everything(page) -> dict[str, bytes]:
    """The files of the zip."""
    name, data = take(page, "Download everything")
    assert name == "mqc_jax.zip"
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        return {entry: archive.read(entry) for entry in archive.namelist()}


def overlap(png: bytes, colour: str, frame: int, scale: int = 4) -> float:
    mask = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED) > 0
    truth = (clip(frame + 1)[frame] == COLOURS[colour]).all(-1).repeat(scale, 0).repeat(scale, 1)
    return float((mask & truth).sum() / max((mask | truth).sum(), 1))


# ---- the page -------------------------------------------------------------------------------------------------------


@needs_browser
def test_example_sentence_masks_report(server, visit):
    page = visit(server)
    page.click("text=Harbour")
    page.wait_for_function("document.querySelector('#sentence textarea').value.includes('yacht')")
    says(page, "Ready")
    say(page, "the white things")
    page.click("#start")
    page.wait_for_selector("#stage img[src*='live.jpg']")
    says(page, "Stopped after 30 frames, the limit here")
    files = everything(page)
    frame = cv2.imread(str(server.work / "examples" / "harbour" / "frames" / "00007.jpg"))
    truth = frame.min(-1) > 165
    assert 100 < truth.sum() < truth.size / 2
    assert np.array_equal(cv2.imdecode(np.frombuffer(files["masks/00/00007.png"], np.uint8), 0) > 0, truth)
    name, report = take(page, "Download the report")
    assert name == "mqc_jax-report.html"
    assert report.startswith(b"<!doctype html>")
    assert "the white things" in report.decode()


@needs_browser
def test_an_upload_becomes_masks_and_a_report(server, visit, tmp_path):
    page = visit(server)
    start(page, film(tmp_path / "my film.mp4"), "the red box", "the green <i>box</i> green")
    assert "my film.mp4, 240 × 160 pixels, 24 frames" in page.inner_text("#upload")
    page.wait_for_selector("#stage img[src*='live.jpg']")
    numbers = set()
    while "Done" not in (line := page.inner_text("#status")):
        numbers |= set(re.findall(r"(\d+) of 24 frames", line))
        time.sleep(0.05)
    assert len(numbers) > 5  # it was seen to grow
    assert "Done: 24 frames. Your video was deleted." in says(page, "Done")
    files = everything(page)
    assert {"report.html", "overlay.mp4", "tracks.csv", "result.json"} < set(files)
    for target, colour in enumerate(["red", "green"]):
        assert overlap(files[f"masks/{target:02d}/00020.png"], colour, 20) > 0.7
    name, report = take(page, "Download the report")
    assert name == "mqc_jax-report.html"
    assert report == files["report.html"]
    assert report.startswith(b"<!doctype html>")
    assert "the red box" in report.decode()
    assert page.locator("#results i").count() == 0
    # Nothing of the video is left, neither with the results nor anywhere else.
    assert not list(server.work.glob("uploads/*"))
    assert not list(server.work.glob("jobs/*/video"))
    job = "jobs/" + next(server.work.glob("jobs/*")).name
    assert server.get(f"{job}/video")[0] == 404
    # The last live picture may be asked for when the job has just ended.
    assert server.get(f"{job}/live.jpg?frame=23")[0] == 200


@needs_browser
def test_scrubbing_by_keyboard_moves_the_video_frame_by_frame(server, visit, tmp_path):
    page = visit(server)
    start(page, film(tmp_path / "a.mp4", 12), "the red box")
    says(page, "Done")
    page.wait_for_function("document.querySelector('#stage video').readyState >= 1")
    slider = page.locator("#stage input[type=range]")
    slider.focus()
    for _ in range(7):
        page.keyboard.press("ArrowRight")
    assert page.inner_text("#stage output") == "7"
    assert page.evaluate("document.querySelector('#stage video').currentTime") == pytest.approx(0.75)
    page.keyboard.press("End")
    assert page.inner_text("#stage output") == "11"
    page.click("#stage button")
    page.wait_for_function("Number(document.querySelector('#stage output').textContent) < 11")
    assert page.inner_text("#stage button") == "Pause"


@needs_browser
def test_everything_works_from_the_keyboard(server, visit):
    page = visit(server)
    seen = []
    for _ in range(14):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate(
                "(() => { const e = document.activeElement; return e.type === 'radio' ? 'clip' : e.type === 'file' ? "
                "'file' : e.tagName === 'TEXTAREA' ? 'text' : e.id || e.innerText })()"
            )
        )
        if seen[-1] == "start":
            break
    order = [seen.index(name) for name in ("clip", "file", "text", "start")]
    assert order == sorted(order)
    page.focus("#sentence textarea")
    page.keyboard.press("Control+A")
    page.keyboard.type("the purple box")
    page.focus("#start")
    page.keyboard.press("Enter")
    says(page, "names no colour")


@needs_browser
def test_mistakes_are_told_in_a_sentence(server, visit, tmp_path):
    page = visit(server)
    say(page, "  ", "")
    page.click("#start")
    assert "Say what to follow: one sentence" in says(page, "Say what to follow")
    assert page.get_attribute("#status p", "role") == "alert"
    send(page, tmp_path / "notes.mp4", content=b"just words\n" * 500)
    assert "“notes.mp4” is not a video that can be read" in says(page, "notes.mp4")
    send(page, tmp_path / "long.mp4", content=bytes(1_200_000))
    assert "“long.mp4” is larger than 1 MB" in says(page, "long.mp4")
    with VideoWriter(tmp_path / "wide.mp4", 10) as writer:
        writer.write(np.zeros((300, 400, 3), np.uint8))
    send(page, tmp_path / "wide.mp4")
    assert "“wide.mp4” has frames of 400 × 300 pixels, the limit here is 100,000 pixels" in says(page, "wide.mp4” has")
    page.click("#start")  # there is no clip now
    says(page, "Choose a clip, or send a video of your own")
    start(page, film(tmp_path / "../..<b>x<b>.mp4".replace("/", "_"), 4), "the purple box")
    assert "names no colour; say red, green, blue or white" in says(page, "names no colour")
    assert page.locator("#status b").count() == 0
    page.click("text=Harbour")
    says(page, "Ready")
    say(page, "a defect")
    page.click("#start")
    assert "Something went wrong inside the program" in says(page, "Something went wrong")
    assert "Traceback" not in page.inner_text("body")
    assert not list(server.work.glob("uploads/*"))


@needs_browser
def test_stop_keeps_what_was_done(server, visit, tmp_path):
    page = visit(server)
    start(page, film(tmp_path / "a.mp4", 28), "the red box")
    page.wait_for_selector("#stage img[src*='live.jpg']")
    page.click("#stop")
    line = says(page, "Stopped after", 10)
    frames = int(re.search(r"Stopped after (\d+) frame", line)[1])
    assert 1 <= frames < 28
    masks = [name for name in everything(page) if name.startswith("masks/")]
    assert len(masks) == frames
    assert f"The run was stopped after frame {frames - 1}" in page.inner_text("#results")


@pytest.mark.slow  # and in test_app_parts, without a browser
@needs_browser
def test_a_video_that_is_too_long_is_cut_with_a_note(server, visit, tmp_path):
    page = visit(server)
    start(page, film(tmp_path / "a.mp4", 34), "the red box")
    assert "only the first 30 frames are used" in page.inner_text("#upload")
    says(page, "Stopped after 30 frames, the limit here")
    assert len([name for name in everything(page) if name.startswith("masks/")]) == 30


@needs_browser
def test_jobs_at_once_do_not_mix_and_the_third_is_told_its_place(server, visit, tmp_path):
    path = film(tmp_path / "same.mp4")
    pages = {colour: visit(server) for colour in COLOURS}
    for colour, page in pages.items():
        send(page, path)  # the same bytes under the same name
        says(page, "The video is here")
        say(page, f"the {colour} box")
    for page in pages.values():
        page.click("#start")
    says(pages["blue"], "Waiting: 2 jobs are before yours")
    for colour, page in pages.items():
        says(page, "Done: 24 frames")
        files = everything(page)
        assert [name for name in files if name.startswith("masks/01")] == []
        if colour == "blue":  # there is no blue thing
            assert not cv2.imdecode(np.frombuffer(files["masks/00/00010.png"], np.uint8), 0).any()
        else:
            assert overlap(files["masks/00/00010.png"], colour, 10) > 0.7
        report = files["report.html"].decode()
        assert [other for other in COLOURS if f"the {other} box" in report] == [colour]
        assert [other for other in COLOURS if f"the {other} box" in page.inner_text("#results")] in ([], [colour])


@needs_browser
def test_closing_the_page_stops_its_job(server, visit, tmp_path):
    page = visit(server)
    before = set(server.work.glob("jobs/*"))
    start(page, film(tmp_path / "a.mp4", 30), "the red box")
    page.wait_for_selector("#stage img[src*='live.jpg']")
    (folder,) = set(server.work.glob("jobs/*")) - before
    page.context.close()
    server._until((folder / "done.json").exists, 10)
    assert len(list(folder.glob("result/masks/00/*"))) < 30


@needs_browser
@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_nothing_is_wider_than_a_phone_and_text_can_be_read(server, visit, tmp_path, scheme):
    page = visit(server, PHONE, color_scheme=scheme)
    wide = "document.documentElement.scrollWidth"
    assert page.evaluate(wide) <= 390
    page.click("text=More settings")
    page.click("text=Chosen frames, with reasons")
    start(page, film(tmp_path / ("a_long_name_" * 8 + ".mp4"), 6), "the red box", "the green box")
    says(page, "Done")
    page.wait_for_selector("#results .gates img")
    assert page.evaluate(wide) <= 390
    assert page.evaluate("document.querySelector('#stage video').clientWidth") > 340
    for part in (".title h1", ".title p", "#sentence textarea", ".drop .info", "#status p", ".scrub span", ".take a"):
        assert page.evaluate(_CONTRAST, part) >= 4.5, part


_CONTRAST = """part => {
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  let element = document.querySelector(part);
  const ink = light(numbers(getComputedStyle(element).color));
  while (element) {
    const paper = numbers(getComputedStyle(element).backgroundColor);
    if (paper.length === 3 || paper[3] > 0) {
      const [a, b] = [ink, light(paper)].sort();
      return (b + 0.05) / (a + 0.05);
    }
    element = element.parentElement;
  }
  return (1 + 0.05) / (ink + 0.05);
}"""


@needs_browser
def test_what_the_page_does_not_need_is_closed(server):
    place = (server.work / "examples").resolve()
    for path in (
        "gradio_api/info",
        "gradio_api/file=/etc/passwd",
        f"gradio_api/file={place}/airport/sentence.txt",
        "gradio_api/upload_progress?upload_id=x",
        "uploads/../../etc/first.jpg",
        "jobs/%2e%2e/report.html",
        "examples/..%2f..%2fetc/first.jpg",
    ):
        assert server.get(path)[0] == 404, path
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\nhello\r\n--x--\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    for path, refused in (("gradio_api/upload", 404), ("uploads", 400)):
        request = urllib.request.Request(server.url + path, body, kind)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request)
        assert caught.value.code == refused
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    client.putrequest("POST", "/uploads")
    for name, value in (("X-File-Name", "a.mp4"), ("Content-Length", "1000001")):
        client.putheader(name, value)
    client.endheaders()
    assert "“a.mp4” is larger than 1 MB".encode() in client.getresponse().read()
    client.close()
    assert not list(server.work.glob("uploads/*"))
    with urllib.request.urlopen(server.url) as answer:
        assert "connect-src 'self'" in answer.headers["Content-Security-Policy"]


# ---- how it ends ----------------------------------------------------------------------------------------------------


@needs_browser
def test_a_killed_process_leaves_only_what_was_finished(visit, tmp_path):
    server = colours(tmp_path, 0.1)
    page = visit(server)
    start(page, film(tmp_path / "a.mp4", 3), "the red box")
    says(page, "Done")
    (finished,) = server.work.glob("jobs/*")
    start(page, film(tmp_path / "b.mp4", 80), "the green box")
    page.wait_for_selector("#stage img[src*='live.jpg']")
    other = visit(server)
    send(other, film(tmp_path / "c.mp4", 3))  # sent and not started
    says(other, "The video is here")
    assert server.end(signal.SIGKILL) == -signal.SIGKILL
    (begun,) = set(server.work.glob("jobs/*")) - {finished}
    assert [path.name for path in begun.glob("result/*")] != []
    assert all(path.name.startswith(".partial-") for path in begun.glob("result/*"))
    assert not (begun / "done.json").exists()

    again = colours(tmp_path, 0.1)
    assert set(again.work.glob("jobs/*")) == {finished}
    assert not list(again.work.glob("uploads/*"))
    assert not list(again.work.rglob(".partial-*"))
    status, report = again.get(f"jobs/{finished.name}/report.html")
    assert status == 200
    assert "the red box" in report.decode()
    assert again.get(f"jobs/{begun.name}/report.html")[0] == 404
    assert again.end() in (0, -signal.SIGTERM)
    # The end of a process deletes results too; examples are kept, and nothing was written anywhere else.
    assert {name.split("/")[0] for name in again.left()} <= {"examples", "mqc_jax_app.lock"}
    assert not [path for path in (*(tmp_path / "home").rglob("*"), *(tmp_path / "tmp").rglob("*")) if path.is_file()]


@pytest.mark.slow
@needs_browser
def test_ending_in_the_middle_of_a_job_leaves_nothing(visit, tmp_path):
    server = colours(tmp_path, 0.1)
    page = visit(server)
    start(page, film(tmp_path / "b.mp4", 80), "the green box")
    page.wait_for_selector("#stage img[src*='live.jpg']")
    assert server.end(signal.SIGINT) in (0, -signal.SIGINT)
    assert {name.split("/")[0] for name in server.left()} <= {"examples", "mqc_jax_app.lock"}


def refused(*arguments: object) -> str:
    line = [sys.executable, "-m", "mqc_jax.app", *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    return done.stderr


def test_the_command_refuses_in_one_sentence():
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
        assert f"cannot listen at 127.0.0.1:{port}" in refused("--port", port)
    assert "unexpected argument 'stray'" in refused("stray")


@pytest.mark.slow
def test_the_command_refuses_a_checkpoint_and_a_folder(tmp_path):
    assert "does not exist" in refused("--port", _free_port(), "--checkpoint", tmp_path / "no")
    (tmp_path / "letters.txt").write_text("mine")
    assert "already holds 'letters.txt'" in refused("--port", _free_port(), "--work_dir", tmp_path)


# ---- the checkpoint that ships --------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_browser
def test_example_sentence_masks_report_with_the_shipped_checkpoint(visit, tmp_path):
    server = Server(tmp_path, "-m", "mqc_jax.app", "--port", "PORT", "--work_dir", "WORK", "--max_frames", "24")
    try:
        page = visit(server)
        sentence = page.input_value("#sentence textarea")
        assert sentence == "the narrow-bodied aircraft at the bottom-right"
        page.click("#start")
        page.wait_for_selector("#stage img[src*='live.jpg']", timeout=300 * SECONDS)
        says(page, "Stopped after 24 frames, the limit here", 300)
        name, report = take(page, "Download the report")
        assert name == "mqc_jax-report.html"
        assert sentence in report.decode()
        files = everything(page)
        from mqc_jax.app.examples import _EASY, EXAMPLES, SIZE
        from mqc_jax.data.synthetic import plan_sequence, render_frame

        choice = EXAMPLES["airport"]
        plan = plan_sequence(choice.seed, choice.index, size=SIZE, frames=40, disable=_EASY)
        truth = render_frame(plan, 20)[1] == plan.phrases[0].object_id
        mask = cv2.imdecode(np.frombuffer(files["masks/00/00020.png"], np.uint8), cv2.IMREAD_UNCHANGED) > 0
        assert (mask & truth).sum() / (mask | truth).sum() > 0.5
    finally:
        server.end()


def test_the_documentation_tells_every_flag():
    page = (ROOT / "docs" / "app.md").read_text()
    line = [sys.executable, "-m", "mqc_jax.app", "--help"]
    text = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, timeout=120).stdout
    names = set(re.findall(r"^  --(?:\[no\])?([a-z_]+)", text, re.M))
    assert {"checkpoint", "port", "keep_minutes", "jobs"} <= names
    assert not [name for name in names if f"`--{name}`" not in page]
