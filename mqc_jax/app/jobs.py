"""Jobs: so many at a time, the others wait in line. Each lives in a folder of its own and shares nothing."""

import collections
import dataclasses
import errno
import html
import json
import shutil
import threading
import time
import traceback
from collections.abc import Callable

import numpy as np

from mqc_jax.app.engine import Engine, Settings
from mqc_jax.app.gates import gates_pictures
from mqc_jax.app.limits import Clip, Limits, named
from mqc_jax.app.work import WorkFolder, new_token
from mqc_jax.errors import UserError
from mqc_jax.files import write_atomic
from mqc_jax.history import Gallery
from mqc_jax.predict import check_texts, predict
from mqc_jax.report import jpeg

WAITING, COMPILING, RUNNING, WRITING, DONE, FAILED = "waiting", "compiling", "running", "writing", "done", "failed"
ENDED = (DONE, FAILED)


class Job:
    """One video and its sentences on their way.

    Attributes:
      token: names the job's folder and its results' addresses.
      clip, texts, settings: what to do.
      state: one of the module's constants.
      frames: settled so far.
      total: frames that are due as far as is known, else None.
      error: why it failed, a sentence.
      notes: what a reader of the results should know; there when it is done.
      gates: how many pictures of the memory's gates there are, one a target.
    """

    def __init__(self, clip: Clip, texts: list[str], settings: Settings, limits: Limits, owner: str) -> None:
        self.token = new_token()
        self.clip, self.texts, self.settings, self.owner = clip, texts, settings, owner
        self.state, self.error, self.notes, self.gates = WAITING, "", [], 0
        self.frames, self.limit = 0, limits.frames
        self.total = None if clip.frames is None else min(clip.frames, limits.frames)
        self.shown_fps = min(max(clip.fps, 1.0), 60.0)
        self.stopped = threading.Event()
        self.ended = threading.Event()
        self.gallery = Gallery()
        self._picture: np.ndarray | None = None
        self._times: collections.deque[float] = collections.deque(maxlen=20)

    def see(self, index: int, picture: np.ndarray) -> bool:
        """`predict`'s `on_frame`."""
        self._picture, self.frames, self.state = picture, index + 1, RUNNING
        self._times.append(time.monotonic())
        if self.gallery.wants(index):
            self.gallery.add(index, jpeg(picture, 720))
        # A video that ends where the limit is was not cut short.
        full = self.frames >= self.limit and (self.clip.frames is None or self.clip.frames > self.limit)
        return not (self.stopped.is_set() or full)

    def live(self) -> bytes | None:
        """The latest picture as JPEG; None before the first."""
        return None if self._picture is None else jpeg(self._picture, 960)

    @property
    def fps(self) -> float | None:
        """Frames per second over the last few frames; None while there are too few."""
        times = list(self._times)
        return (len(times) - 1) / max(times[-1] - times[0], 1e-9) if len(times) > 1 else None

    def forget_pictures(self) -> None:
        """Frees what only a running job needs."""
        self._picture, self.gallery = None, Gallery()


class Queue:
    """Runs jobs, `limits.jobs` at a time, in the order in which they came.

    Args:
      engine: the models.
      work: where everything lies.
      limits: how many run and how many may wait.
    """

    def __init__(self, engine: Engine, work: WorkFolder, limits: Limits) -> None:
        self.engine, self.work, self.limits = engine, work, limits
        self._guard = threading.Lock()
        self._waiting: list[Job] = []
        self._running: list[Job] = []
        self.closed = False

    def submit(self, job: Job) -> None:
        """Puts a job in line; its clip, if it was sent, is its own from here on.

        Raises:
          UserError: too many are waiting, or the upload is gone.
        """
        with self._guard:
            if self.closed or len(self._waiting) >= self.limits.waiting:
                raise UserError(f"{len(self._waiting)} jobs are waiting already, more are not taken; try again later")
            folder = self.work.jobs / job.token
            if job.clip.token:
                try:
                    (self.work.uploads / job.clip.token).rename(folder)
                except OSError as error:
                    raise UserError(f"“{job.clip.name}” is not here any more; choose the file again") from error
                job.clip = dataclasses.replace(job.clip, path=folder / job.clip.path.name)
            else:
                folder.mkdir(mode=0o700)
            self._waiting.append(job)
        self._advance()

    def ahead(self, job: Job) -> int:
        """How many jobs have to end before this one begins, at least."""
        with self._guard:
            return self._waiting.index(job) + len(self._running) if job in self._waiting else 0

    def find(self, token: str) -> Job | None:
        """A job that waits or runs."""
        with self._guard:
            return next((job for job in self._running + self._waiting if job.token == token), None)

    def stop(self, job: Job) -> None:
        """Ends a job after the frame that it is at; one that waits ends now."""
        job.stopped.set()
        with self._guard:
            if job not in self._waiting:
                return
            self._waiting.remove(job)
        self._end(job, FAILED, "Stopped before its turn came; nothing was made.")

    def stop_of(self, owner: str) -> None:
        """Stops all jobs of a session that is gone."""
        with self._guard:
            theirs = [job for job in self._running + self._waiting if job.owner == owner]
        for job in theirs:
            self.stop(job)

    def close(self, seconds: float = 5.0) -> None:
        """Stops everything and waits for it, but not for ever."""
        with self._guard:
            self.closed = True
            all_jobs = self._running + self._waiting
        for job in all_jobs:
            self.stop(job)
        end = time.monotonic() + seconds
        for job in all_jobs:
            job.ended.wait(max(0.0, end - time.monotonic()))

    def _advance(self) -> None:
        with self._guard:
            while self._waiting and len(self._running) < self.limits.jobs:
                job = self._waiting.pop(0)
                self._running.append(job)
                threading.Thread(target=self._run, args=(job,), name=f"job-{job.token[:6]}", daemon=True).start()

    def _run(self, job: Job) -> None:
        state, sentence = FAILED, ""
        try:
            self._work(job)
            state = DONE
        except UserError as error:
            sentence = named(str(error), job.clip.path, job.clip.name)
        except OSError as error:
            full = error.errno == errno.ENOSPC
            sentence = "The server's disk is full; nothing was kept, try again later." if full else _defect()
        except Exception:
            sentence = _defect()
        with self._guard:
            self._running.remove(job)
        self._end(job, state, sentence)
        self._advance()

    def _work(self, job: Job) -> None:
        folder, settings = self.work.jobs / job.token, job.settings
        self.engine.tracker(job.texts, settings)  # a sentence that is too long should not wait for the compiler
        if not self.engine.is_warm(len(job.texts), settings):
            job.state = COMPILING
            self.engine.warm(len(job.texts), settings)
        if job.stopped.is_set():
            raise UserError("Stopped before the first frame; nothing was made.")
        job.state = RUNNING
        make: Callable = lambda texts: self.engine.tracker(texts, settings)  # noqa: E731
        result = folder / "result"
        predict(str(job.clip.path), job.texts, str(result), make, self.engine.facts(settings), False, job.see)
        job.state = WRITING
        facts = json.loads((result / "result.json").read_text())
        facts["video"]["path"] = job.clip.name  # not where it lay on the server
        job.notes = facts["notes"] = [named(note, job.clip.path, job.clip.name) for note in facts["notes"]]
        write_atomic(result / "result.json", json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
        report = (result / "report.html").read_text()
        if str(job.clip.path) in report:
            write_atomic(result / "report.html", named(report, job.clip.path, html.escape(job.clip.name)))
        pictures = job.gallery.spread(8)
        write_atomic(folder / "poster.jpg", pictures[0][1])
        for target, picture in enumerate(gates_pictures(result / "memory.csv", job.texts, pictures)):
            write_atomic(result / f"memory-{target:02d}.png", picture)
            job.gates += 1
        self._drop_video(job)
        self.work.finish(folder)

    def _drop_video(self, job: Job) -> None:
        if job.clip.token:
            job.clip.path.unlink(missing_ok=True)

    def _end(self, job: Job, state: str, sentence: str) -> None:
        if state == FAILED:
            shutil.rmtree(self.work.jobs / job.token, ignore_errors=True)
        job.forget_pictures()
        job.state, job.error = state, sentence
        job.ended.set()


def _defect() -> str:
    """Logs the exception at hand for the server's owner; what the user is told."""
    traceback.print_exc()
    return "Something went wrong inside the program; nothing was kept. The server's log says what."


def check_request(text: str, limits: Limits) -> list[str]:
    """The sentences, one a line.

    Raises:
      UserError: there is none, or there are too many.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise UserError("Say what to follow: one sentence, such as “the yacht at the bottom-right”.")
    if len(lines) > limits.targets:
        raise UserError(f"{len(lines)} sentences were given, the limit here is {limits.targets}; leave some out.")
    return check_texts(lines)
