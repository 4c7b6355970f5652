"""What all tests share: compiled programs are kept on disk; one tiny checkpoint and dataset serve a whole session.

The compilation cache is set in the environment before JAX is imported, so that commands run as subprocesses use it.
"""

import os
from pathlib import Path

import pytest

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


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
