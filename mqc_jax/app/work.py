"""The folder in which the app works, and what is left in it: by rule, and after a kill.

    uploads/<token>/     a video that was sent and not used yet
    jobs/<token>/        a job: its video until it ends, then result/ and, when all of it is there, done.json
    examples/<key>/      rendered examples; kept, for they cost seconds to make
    gradio/              Gradio's own cache
    mqc_jax_app.lock     held by the one process that works here

A folder under jobs/ counts only with its done.json, which is written last. Names that users give appear in no path:
tokens are drawn at random, and knowing one is the right to what it names.
"""

import fcntl
import json
import os
import re
import secrets
import shutil
import tempfile
import time
from pathlib import Path

from mqc_jax.errors import UserError
from mqc_jax.files import remove_staging, write_atomic

_PREFIX = "mqc_jax_app-"
_LOCK = "mqc_jax_app.lock"
_DONE = "done.json"
_TOKEN = re.compile(r"[A-Za-z0-9_-]{22}")


def new_token() -> str:
    """128 random bits as 22 characters that are safe in paths and addresses."""
    return secrets.token_urlsafe(16)


class WorkFolder:
    """See the module's docstring. Making one removes what a killed process left unfinished.

    Args:
      path: the folder; made if it is missing. None: a fresh one where the system keeps temporary files; it disappears
        with `close`, and if the process is killed, when the next one starts.
      keep_seconds: how long results, and uploads that nobody uses, are kept.

    Attributes:
      root, uploads, jobs, examples, gradio: absolute paths.

    Raises:
      UserError: the folder cannot be written to, holds something else, or is another process's.
    """

    def __init__(self, path: str | os.PathLike | None = None, keep_seconds: float = 1800.0) -> None:
        self.keep_seconds = keep_seconds
        self._temporary = path is None
        if path is None:
            _remove_orphans(Path(tempfile.gettempdir()))
            self.root = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()
        else:
            self.root = Path(path).resolve()
        self.uploads, self.jobs = self.root / "uploads", self.root / "jobs"
        self.examples, self.gradio = self.root / "examples", self.root / "gradio"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            strangers = [entry.name for entry in self.root.iterdir()]
            if strangers and _LOCK not in strangers:
                raise UserError(
                    f"the work folder {self.root} already holds {sorted(strangers)[0]!r}, and the app deletes what it "
                    "does not need in its folder; give an empty or a new one"
                )
            self._lock = _lock(self.root / _LOCK)
            if self._lock is None:
                raise UserError(f"another app is working in {self.root}; give this one another --work_dir")
            self._sweep()
            for folder in (self.uploads, self.jobs, self.examples, self.gradio):
                folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot write to the work folder {self.root}: {error.strerror}; give a folder that you may write to"
            ) from error

    def _sweep(self) -> None:
        """Removes everything but finished jobs and examples."""
        for folder in (self.uploads, self.gradio):
            shutil.rmtree(folder, ignore_errors=True)
        for job in self.jobs.glob("*"):
            if not (job / _DONE).is_file():
                shutil.rmtree(job, ignore_errors=True)
        remove_staging(self.examples)

    def place(self, kind: str, token: str) -> Path | None:
        """The existing folder of an upload or a finished job (`kind` "uploads" or "jobs"); None without one."""
        folder = {"uploads": self.uploads, "jobs": self.jobs}[kind] / token
        if not _TOKEN.fullmatch(token) or not folder.is_dir():
            return None
        return folder if kind == "uploads" or (folder / _DONE).is_file() else None

    def finish(self, job: Path) -> None:
        """Marks a job's folder as complete; its time begins to run."""
        write_atomic(job / _DONE, json.dumps({"finished": time.time()}) + "\n")

    def expire(self) -> None:
        """Deletes results and unused uploads whose time is over."""
        now = time.time()
        for stamp in [*self.jobs.glob(f"*/{_DONE}"), *self.uploads.glob("*")]:
            try:
                old = now - stamp.stat().st_mtime > self.keep_seconds
            except FileNotFoundError:  # used or removed meanwhile
                continue
            if old:
                shutil.rmtree(stamp.parent if stamp.name == _DONE else stamp, ignore_errors=True)

    def close(self) -> None:
        """Deletes uploads and results; of a temporary folder everything."""
        for folder in [self.root] if self._temporary else [self.uploads, self.jobs, self.gradio]:
            shutil.rmtree(folder, ignore_errors=True)
        os.close(self._lock)


def _lock(path: Path) -> int | None:
    """An open, locked file; None where another process has it. A process's end, of any kind, gives it free."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def _remove_orphans(parent: Path) -> None:
    """Removes temporary work folders of processes that were killed."""
    for folder in parent.glob(_PREFIX + "*"):
        # A folder without a lock is one that is being made, or somebody else's.
        if not (folder / _LOCK).is_file() or not os.access(folder / _LOCK, os.W_OK):
            continue
        handle = _lock(folder / _LOCK)
        if handle is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(handle)
