"""Writing so that nothing half-written is ever left under a name a reader trusts."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from mqc_jax.errors import UserError

_STAGING = ".partial-"
_LOCK = ".lock"  # in a staging folder; held as long as somebody writes there


def write_atomic(path: str | os.PathLike, content: str | bytes) -> None:
    """Writes `content` beside `path` and renames it into place, so that readers see the old file or the new one."""
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_STAGING)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def remove_staging(output: str | os.PathLike) -> None:
    """Removes what a killed run left unfinished under `output`.

    Raises:
      UserError: a run that is alive writes there.
    """
    for stale in Path(output).glob(_STAGING + "*"):
        if not stale.is_dir():
            stale.unlink(missing_ok=True)
            continue
        with contextlib.suppress(FileNotFoundError), open(stale / _LOCK) as lock:
            if not _taken(lock):
                raise UserError(f"another run is writing to {output}; wait until it has ended, or give another folder")
        shutil.rmtree(stale, ignore_errors=True)


def _taken(lock: TextIO) -> bool:
    """Takes a lock until its file is closed; False where somebody else has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        pass
    return True


@contextlib.contextmanager
def staged(output: str | os.PathLike) -> Iterator[Path]:
    """A folder under `output` to write into; on success its files move to the same place under `output`.

    An existing folder is merged into, an existing file is replaced. On failure the folder is removed, and `output`
    too where this call made it.

    Raises:
      UserError: `output` cannot be written to, or is a file, or another run is writing there.
    """
    output = Path(output)
    existed = output.exists()
    try:
        output.mkdir(parents=True, exist_ok=True)
        remove_staging(output)
        staging = Path(tempfile.mkdtemp(dir=output, prefix=_STAGING))
        lock = open(staging / _LOCK, "w")  # noqa: SIM115 (held until the folder has been moved)
    except OSError as error:
        raise UserError(
            f"cannot write to the output folder {output}: {error.strerror}; give a folder that you may write to"
        ) from error
    with lock:
        _taken(lock)
        try:
            yield staging
            (staging / _LOCK).unlink()
            _move_into(staging, output)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            if not existed:
                shutil.rmtree(output, ignore_errors=True)
            raise


def _move_into(source: Path, target: Path) -> None:
    for entry in source.iterdir():
        place = target / entry.name
        if entry.is_dir() and place.is_dir():
            _move_into(entry, place)
        else:
            if entry.is_dir() and place.exists():
                place.unlink()
            elif place.is_dir():
                shutil.rmtree(place)
            os.replace(entry, place)
    source.rmdir()
