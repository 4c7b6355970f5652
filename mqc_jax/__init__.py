"""Point at a thing in satellite video with a sentence and get its mask in every frame, online.

`load` and `Tracker` are imported on first use, so that `import mqc_jax` and `--help` stay fast.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_LAZY = {
    "Calibration": "mqc_jax.models.tmcc",
    "CalibrationConfig": "mqc_jax.config",
    "Model": "mqc_jax.checkpoint",
    "Tracker": "mqc_jax.tracker",
    "UserError": "mqc_jax.errors",
    "calibrate": "mqc_jax.models.tmcc",
    "load": "mqc_jax.checkpoint",
}

if TYPE_CHECKING:
    from mqc_jax.checkpoint import Model, load
    from mqc_jax.config import CalibrationConfig
    from mqc_jax.errors import UserError
    from mqc_jax.models.tmcc import Calibration, calibrate
    from mqc_jax.tracker import Tracker

__all__ = [
    "Calibration",
    "CalibrationConfig",
    "Model",
    "Tracker",
    "UserError",
    "__version__",
    "calibrate",
    "load",
]


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'mqc_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
