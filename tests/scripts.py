"""A script of `tools/` or `benchmarks/` as a module of this process, as a start of Python takes seconds."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from absl.testing import flagsaver

ROOT = Path(__file__).parents[1]


@contextmanager
def script(path: str) -> Iterator[ModuleType]:
    """The script's module; its flags are known inside alone, as another script may have some of the same names.

    Several test files run in one process, in any order.
    """
    file = ROOT / path
    spec = importlib.util.spec_from_file_location("_".join(file.with_suffix("").parts[-2:]), file)
    module = importlib.util.module_from_spec(spec)
    with flagsaver.flagsaver():
        sys.path.insert(0, str(file.parent))  # as Python does for a script
        try:
            spec.loader.exec_module(module)
        finally:
            sys.path.pop(0)
        yield module
