"""What a stream's state is on disk: an .npz archive of arrays with a header in JSON. Nothing in it runs code."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from mqc_jax import files
from mqc_jax.errors import UserError


def write(path: str | Path, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Writes the file, whole or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)
    files.write_atomic(path, buffer.getvalue())


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header and the arrays.

    Raises:
      UserError: there is no such file, or `write` did not write it.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            header = json.loads(bytes(stored["header"]))
            arrays = {name: stored[name] for name in stored.files if name != "header"}
        return dict(header), arrays
    except FileNotFoundError as error:
        raise UserError(f"stream state {path} does not exist") from error
    except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a stream state written by Tracker.save") from error
