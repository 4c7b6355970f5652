"""What all tests share: compiled programs are kept on disk; one tiny checkpoint and dataset serve a whole session.

The compilation cache is set in the environment before JAX is imported, so that commands run as subprocesses use it.
"""

import gc
import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


_PROGRAMS = 15_000
"""Pieces of mapped memory from which a worker forgets its compiled programs."""

_LONG = ("test_train", "test_recorded_table", "test_docs", "test_dami_model", "test_commands", "test_streaming_traps")
"""Files that take minutes, the longest first: a worker that began one last would work on alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first. xdist must be told to leave the order as it is: `--no-loadscope-reorder`."""
    place = {name: k for k, name in enumerate(_LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(_LONG)))


@pytest.fixture(scope="module", autouse=True)
def forgotten_programs():
    """Between files, compiled programs are dropped where there are many.

    Each maps several pieces of memory, of which Linux allows a process 65,530, and XLA aborts there. A worker that kept
    the programs of half of all tests came to 53,000 of them, and 8 GB.
    """
    yield
    maps = Path("/proc/self/maps")
    if "jax" in sys.modules and maps.exists() and maps.read_bytes().count(b"\n") > _PROGRAMS:
        sys.modules["jax"].clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    """A checkpoint folder of the tiny model with random parameters. Do not write to it."""
    import tiny

    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    tiny.write_checkpoint(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tiny_checkpoint):
    """`tiny_checkpoint`, loaded."""
    import mqc_jax

    return mqc_jax.load(tiny_checkpoint)


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory) -> Path:
    """A Ref-YouTube-VOS folder with two small videos in "train" and one in "test". Do not write to it."""
    import tiny

    return tiny.write_dataset(tmp_path_factory.mktemp("dataset"))
