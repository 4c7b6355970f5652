"""Nothing half-written is ever left under a name that a reader trusts."""

import errno
import os
import stat
from pathlib import Path

import pytest

from mqc_jax import files
from mqc_jax.errors import UserError


def tree(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_an_atomic_write_replaces_the_file_and_leaves_nothing_else(tmp_path):
    files.write_atomic(tmp_path / "a.txt", "old")
    files.write_atomic(tmp_path / "a.txt", b"new")
    assert tree(tmp_path) == {"a.txt": "new"}
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o644


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    files.write_atomic(tmp_path / "a.txt", "old")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        files.write_atomic(tmp_path / "a.txt", "new")
    assert tree(tmp_path) == {"a.txt": "old"}


def test_a_staged_folder_merges_on_success(tmp_path):
    output = tmp_path / "out"
    (output / "masks").mkdir(parents=True)
    (output / "masks" / "0.png").write_text("old")
    (output / "notes.txt").write_text("mine")
    with files.staged(output) as staging:
        (staging / "masks").mkdir()
        (staging / "masks" / "0.png").write_text("new")
        (staging / "masks" / "1.png").write_text("new")
        assert tree(output / "masks") == {"0.png": "old"}  # nothing shows before the end
    assert tree(output) == {"masks/0.png": "new", "masks/1.png": "new", "notes.txt": "mine"}


def test_a_failure_leaves_a_new_output_not_there_and_an_old_one_as_it_was(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    (old / "a.txt").write_text("mine")
    for output in (old, new):
        with pytest.raises(RuntimeError), files.staged(output) as staging:  # noqa: PT012
            (staging / "a.txt").write_text("half")
            raise RuntimeError
    assert tree(old) == {"a.txt": "mine"}
    assert list(old.iterdir()) == [old / "a.txt"]
    assert not new.exists()


def test_a_folder_takes_a_files_place_and_a_file_a_folders(tmp_path):
    (tmp_path / "a").write_text("file")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").write_text("inside")
    with files.staged(tmp_path) as staging:
        (staging / "a").mkdir()
        (staging / "a" / "y").write_text("new")
        (staging / "b").write_text("new")
    assert tree(tmp_path) == {"a/y": "new", "b": "new"}


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path):
    (tmp_path / ".partial-dead").mkdir()
    (tmp_path / ".partial-dead" / "half").write_text("x")
    (tmp_path / ".partial-file").write_text("x")
    with files.staged(tmp_path) as staging:
        (staging / "a").write_text("x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


def test_an_output_under_a_file_is_refused_with_a_sentence(tmp_path):
    (tmp_path / "file").write_text("x")
    for output in (tmp_path / "file" / "out", tmp_path / "file", Path("/proc/nowhere")):
        with (
            pytest.raises(UserError, match=r"cannot write to the output folder .*; give a folder"),
            files.staged(output),
        ):
            pytest.fail("the body ran")
    assert tree(tmp_path) == {"file": "x"}


def test_two_runs_do_not_write_to_one_folder_and_the_first_goes_on(tmp_path):
    with files.staged(tmp_path) as staging:
        (staging / "a").write_text("first")
        with pytest.raises(UserError, match=r"another run is writing to .*; wait"), files.staged(tmp_path):
            pass
    assert tree(tmp_path) == {"a": "first"}
    with files.staged(tmp_path) as staging:
        (staging / "a").write_text("second")
    assert tree(tmp_path) == {"a": "second"}
