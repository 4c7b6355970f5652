"""MeViS, from its own folder.

tfds build mqc_jax/data/mevis --data_dir DATA --manual_dir RAW
"""

from pathlib import Path

from mqc_jax.data.layouts import Mevis
from mqc_jax.data.packaging import ManualBuilder


class Builder(ManualBuilder):
    """MeViS."""

    DESCRIPTION = "MeViS: video segmentation by expressions about motion; an expression may mean several objects."
    SPLITS = ("train", "valid_u", "valid")

    def has_split(self, root: Path, split: str) -> bool:
        """See `VideoBuilder.has_split`."""
        return (root / split / "meta_expressions.json").is_file()

    def open_split(self, root: Path, split: str) -> Mevis:
        """See `VideoBuilder.open_split`."""
        return Mevis(root, split)
