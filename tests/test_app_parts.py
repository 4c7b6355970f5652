"""The app without a browser: the queue, the work folder, the limits, and the models behind it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
import tiny
from colour_tracker import clip

from mqc_jax.checkpoint import Model
from mqc_jax.errors import UserError
from mqc_jax.video import VideoWriter

pytest.importorskip("gradio", reason="the page needs Gradio: pip install 'mqc_jax[app]'")

from app_server import ColourEngine

from mqc_jax.app import pieces
from mqc_jax.app.engine import ModelEngine, Settings
from mqc_jax.app.examples import EXAMPLES, FRAMES, SIZE, example
from mqc_jax.app.jobs import COMPILING, DONE, FAILED, Job, Queue, check_request
from mqc_jax.app.limits import Limits, open_clip
from mqc_jax.app.work import WorkFolder, new_token

PLAIN = Settings("none", "sam2")


def pictures(frames: int, size: tuple[int, int] = (40, 60)) -> list[np.ndarray]:
    """`clip`, four times as large: a codec smears the colours of small things."""
    return [frame.repeat(4, 0).repeat(4, 1) for frame in clip(frames, size)]


def write_clip(path: Path, frames: int = 12, size: tuple[int, int] = (40, 60)) -> Path:
    with VideoWriter(path, 10) as writer:
        for frame in pictures(frames, size):
            writer.write(frame)
    return path


@pytest.fixture
def work(tmp_path):
    folder = WorkFolder(tmp_path / "work")
    yield folder
    folder.close()


def sent(work: WorkFolder, limits: Limits, frames: int = 12):
    """A clip as if a browser had sent it."""
    token = new_token()
    (work.uploads / token).mkdir()
    path = write_clip(work.uploads / token / "a.mp4", frames).rename(work.uploads / token / "video")
    return open_clip(path, "mine.mp4", limits, token)[0]


def end_of(job: Job) -> Job:
    assert job.ended.wait(30)
    return job


# ---- jobs -----------------------------------------------------------------------------------------------------------


def test_jobs_wait_in_line_and_do_not_share_anything(work):
    limits = Limits(jobs=1)
    queue = Queue(ColourEngine(0.05), work, limits)
    jobs = [Job(sent(work, limits), [f"the {c} box"], PLAIN, limits, "a") for c in ("red", "green", "blue")]
    for job in jobs:
        queue.submit(job)
    assert [queue.ahead(job) for job in jobs] == [0, 1, 2]
    assert "2 jobs are before yours" in pieces.progress(jobs[2], queue.ahead(jobs[2]))
    for job, colour in zip(jobs, [(255, 0, 0), (0, 255, 0), None], strict=True):
        assert end_of(job).state == DONE
        result = work.jobs / job.token / "result"
        assert json.loads((result / "result.json").read_text())["targets"][0]["text"] == job.texts[0]
        mask = cv2.imread(str(result / "masks" / "00" / "00005.png"), cv2.IMREAD_UNCHANGED) > 0
        truth = (pictures(12)[5] == colour).all(-1) if colour else np.zeros((160, 240), bool)
        assert (mask & truth).sum() >= 0.7 * (mask | truth).sum()
    assert queue.ahead(jobs[2]) == 0


def test_a_job_leaves_no_upload_and_no_path_of_the_server(work):
    limits = Limits()
    queue = Queue(ColourEngine(), work, limits)
    job = Job(sent(work, limits), ["the red box"], PLAIN, limits, "a")
    queue.submit(job)
    assert end_of(job).state == DONE
    assert not list(work.uploads.iterdir())
    folder = work.place("jobs", job.token)
    assert not (folder / "video").exists()
    for path in folder.rglob("*"):
        assert path.is_dir() or str(work.root).encode() not in path.read_bytes(), path
    assert json.loads((folder / "result" / "result.json").read_text())["video"]["path"] == "mine.mp4"


def test_one_upload_serves_one_job(work):
    limits = Limits()
    queue = Queue(ColourEngine(), work, limits)
    upload = sent(work, limits)
    queue.submit(first := Job(upload, ["the red box"], PLAIN, limits, "a"))
    with pytest.raises(UserError, match=r"“mine.mp4” is not here any more"):
        queue.submit(Job(upload, ["the red box"], PLAIN, limits, "a"))
    assert end_of(first).state == DONE


@pytest.mark.parametrize(("frames", "cut"), [(9, True), (12, False)])
def test_a_long_video_is_cut_and_a_video_of_the_limit_is_not(work, frames, cut):
    limits = Limits(frames=frames)
    queue = Queue(ColourEngine(), work, limits)
    queue.submit(job := Job(sent(work, limits), ["the red box"], PLAIN, limits, "a"))
    assert end_of(job).state == DONE
    assert job.frames == frames
    assert ("the limit here" in pieces.ended(job, 30)) == cut
    assert any("was stopped after frame 8" in note for note in job.notes) == cut


def test_stopping_keeps_what_was_done_and_takes_who_waits_out_of_the_line(work):
    limits = Limits(jobs=1)
    queue = Queue(ColourEngine(0.05), work, limits)
    jobs = [Job(sent(work, limits, 60), ["the red box"], PLAIN, limits, "a") for _ in range(2)]
    for job in jobs:
        queue.submit(job)
    while jobs[0].frames < 3:
        time.sleep(0.01)
    queue.stop(jobs[1])
    queue.stop(jobs[0])
    assert (end_of(jobs[0]).state, end_of(jobs[1]).state) == (DONE, FAILED)
    assert 3 <= jobs[0].frames < 60
    masks = list((work.jobs / jobs[0].token / "result" / "masks" / "00").iterdir())
    assert len(masks) == jobs[0].frames
    assert "nothing was made" in jobs[1].error
    assert [folder.name for folder in work.jobs.iterdir()] == [jobs[0].token]


def test_a_failed_job_is_a_sentence_and_leaves_nothing(work, capsys):
    limits = Limits()
    queue = Queue(ColourEngine(), work, limits)
    for text, words in [("the purple box", "names no colour"), ("a defect", "Something went wrong inside the program")]:
        queue.submit(job := Job(sent(work, limits), [text], PLAIN, limits, "a"))
        assert end_of(job).state == FAILED
        assert words in job.error
    assert "ZeroDivisionError: as asked for" in capsys.readouterr().err
    assert not list(work.jobs.iterdir())
    assert not list(work.uploads.iterdir())


def test_too_many_waiting_jobs_are_refused(work):
    limits = Limits(jobs=1, waiting=1)
    queue = Queue(ColourEngine(0.1), work, limits)
    jobs = [Job(sent(work, limits), ["the red box"], PLAIN, limits, "a") for _ in range(3)]
    for job in jobs[:2]:
        queue.submit(job)
    with pytest.raises(UserError, match="1 jobs are waiting already"):
        queue.submit(jobs[2])
    queue.close()


def test_compiling_is_announced_once(work):
    limits = Limits()
    queue = Queue(ColourEngine(), work, limits)
    seen = []
    for _ in range(2):
        queue.submit(job := Job(sent(work, limits), ["the red box", "the green box"], PLAIN, limits, "a"))
        states = set()
        while not job.ended.wait(0.01):
            states.add(job.state)
        seen.append(COMPILING in states)
    assert seen == [True, False]
    job.state = COMPILING
    assert "Compiling the model for 2 sentences" in pieces.progress(job, 0)


def test_the_gates_are_drawn_where_the_memory_decides(work):
    limits = Limits()
    queue = Queue(ColourEngine(), work, limits)
    texts = ["the red box", "the <b>green</b> green box"]
    queue.submit(job := Job(sent(work, limits), texts, Settings("none", "dami"), limits, "a"))
    assert end_of(job).state == DONE
    for target in range(2):
        picture = cv2.imread(str(work.jobs / job.token / "result" / f"memory-{target:02d}.png"))
        assert picture.shape[1] == 1280
        assert picture.std() > 10
    page = pieces.results(job)
    assert page.count("memory-0") == 2
    assert "<b>green" not in page


def test_sentences_are_lines():
    assert check_request(" the red box \n\n the yacht\n", Limits()) == ["the red box", "the yacht"]
    with pytest.raises(UserError, match="Say what to follow"):
        check_request(" \n ", Limits())
    with pytest.raises(UserError, match="3 sentences were given, the limit here is 2"):
        check_request("a\nb\nc", Limits(targets=2))


# ---- what may be sent -----------------------------------------------------------------------------------------------


def refused(path: Path, **limits: int) -> str:
    with pytest.raises(UserError) as caught:
        open_clip(path, "mine.mp4", Limits(**limits))
    assert str(path) not in str(caught.value)
    return str(caught.value)


def test_files_that_are_not_videos(tmp_path):
    place = tmp_path / "video"
    place.write_text("just words\n" * 200)
    assert "“mine.mp4” is not a video that can be read" in refused(place)
    whole = write_clip(tmp_path / "a.mp4").read_bytes()
    place.write_bytes(whole[:300])
    assert "“mine.mp4” holds no picture" in refused(place)


def test_a_playlist_does_not_make_the_server_read_other_files(tmp_path):
    """FFmpeg would follow it: to files of the server, or to addresses only the server can reach."""
    other = write_clip(tmp_path / "secret.mp4")
    place = tmp_path / "video"
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{other}\n#EXT-X-ENDLIST\n"
    for text in (playlist, f"ffconcat version 1.0\nfile '{other}'\n"):
        place.write_text(text)
        assert "“mine.mp4” is not a video that can be read" in refused(place)


def test_a_frame_of_too_many_pixels_is_not_decoded(tmp_path, monkeypatch):
    place = write_clip(tmp_path / "a.mp4", 3, (50, 75))
    monkeypatch.setattr("mqc_jax.app.limits.open_video", None)
    assert "300 × 200 pixels, the limit here is 50,000 pixels" in refused(place, pixels=50_000)


def test_a_clip_tells_its_size_and_what_is_used(tmp_path):
    found, picture = open_clip(write_clip(tmp_path / "a.mp4", 12), "mine.mp4", Limits(frames=8))
    assert found.sentence(Limits()) == "240 × 160 pixels, 12 frames, 10 frames/s"
    assert found.sentence(Limits(frames=8)).endswith("only the first 8 frames are used here")
    assert cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR).shape == (160, 240, 3)


@pytest.mark.parametrize("key", EXAMPLES)
def test_examples_are_rendered_once_and_named_by_their_sentence(tmp_path, key):
    frames, text = example(key, tmp_path)
    assert len(list(frames.iterdir())) == FRAMES
    assert cv2.imread(str(frames / "00000.jpg")).shape == (*SIZE, 3)
    assert text.startswith("the ")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert example(key, tmp_path) == (frames, text)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


# ---- the work folder ------------------------------------------------------------------------------------------------


def test_a_work_folder_belongs_to_one_process_and_to_nothing_else(tmp_path, work):
    with pytest.raises(UserError, match="another app is working in"):
        WorkFolder(work.root)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letters.txt").write_text("mine")
    with pytest.raises(UserError, match=r"already holds 'letters.txt'"):
        WorkFolder(tmp_path / "home")
    assert (tmp_path / "home" / "letters.txt").read_text() == "mine"
    with pytest.raises(UserError, match="cannot write to the work folder"):
        WorkFolder(tmp_path / "home" / "letters.txt")


def test_only_finished_things_have_a_place_and_no_name_leads_elsewhere(work):
    done, begun, upload = (new_token() for _ in range(3))
    for folder in (work.jobs / done, work.jobs / begun, work.uploads / upload):
        folder.mkdir()
    work.finish(work.jobs / done)
    assert work.place("jobs", done) == work.jobs / done
    assert work.place("jobs", begun) is None
    assert work.place("uploads", upload) == work.uploads / upload
    for name in ("", ".", "..", "../uploads", "/etc", new_token()):
        assert work.place("jobs", name) is None
        assert work.place("uploads", name) is None


def test_results_and_unused_uploads_expire(tmp_path):
    work = WorkFolder(tmp_path / "work", keep_seconds=100)
    names = [new_token() for _ in range(5)]
    for name in names[:3]:
        (work.jobs / name).mkdir()
    for name in names[3:]:
        (work.uploads / name).mkdir()
    for name in names[:2]:
        work.finish(work.jobs / name)
    long_ago = time.time() - 101
    os.utime(work.jobs / names[0] / "done.json", (long_ago, long_ago))
    os.utime(work.uploads / names[3], (long_ago, long_ago))
    os.utime(work.jobs / names[2], (long_ago, long_ago))  # runs, however long it takes
    work.expire()
    assert {entry.name for entry in work.jobs.iterdir()} == {names[1], names[2]}
    assert [entry.name for entry in work.uploads.iterdir()] == [names[4]]
    work.close()
    assert sorted(entry.name for entry in work.root.iterdir()) == ["examples", "mqc_jax_app.lock"]


def test_a_temporary_folder_goes_with_its_process_or_with_the_next_one(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    program = "import os; from mqc_jax.app.work import WorkFolder; work = WorkFolder(); os.kill(os.getpid(), 9)"
    env = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(tiny.ROOT)}
    assert subprocess.run([sys.executable, "-c", program], env=env).returncode == -9
    (orphan,) = tmp_path.iterdir()
    first = WorkFolder()
    assert not orphan.exists()
    second = WorkFolder()  # two apps of one user, each with its own
    assert first.root.exists()
    first.close()
    second.close()
    assert not list(tmp_path.iterdir())


# ---- the models -----------------------------------------------------------------------------------------------------


def test_a_model_that_reads_no_sentences_is_refused():
    model = Model(config=tiny.MODEL, params={}, tokenizer=None, net=None, path="sam2_large")
    with pytest.raises(UserError, match="sam2_large has no trained bridge from text to vision"):
        ModelEngine(model)


@pytest.mark.slow
def test_the_switches_reach_the_model_and_warming_up_compiles_all_of_it(tiny_model):
    engine = ModelEngine(tiny_model)
    assert engine.default == PLAIN
    assert ModelEngine(tiny_model.replace(memory="dami")).memories == ("dami",)
    settings = Settings("tmcc", "dami")
    assert not engine.is_warm(1, settings)
    engine.warm(1, settings)
    assert engine.is_warm(1, settings)
    assert not engine.is_warm(2, settings)
    assert engine.facts(settings)["memory"] == "dami"
    assert "/" not in engine.facts(settings)["checkpoint"]
    compiled = []  # lowering comes before a compiled program is looked for on the disk
    lowered = lambda: [name for name in compiled if "jaxpr_to_mlir" in name]  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(lambda name, _, **__: compiled.append(name))
    frames = tiny.frames(tiny_model.config.tmcc.n_max + 4, (72, 100))
    follower = engine.tracker(["the yacht"], settings)
    results = [out for frame in frames for out in follower.push(frame)]
    assert len(results) == len(frames)
    assert "novelty" in results[0].memory
    assert not lowered()
    jax.jit(lambda x: x * 1.25)(np.ones(7))  # the listener does tell
    assert lowered()
