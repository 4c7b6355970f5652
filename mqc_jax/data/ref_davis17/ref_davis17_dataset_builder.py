"""Ref-DAVIS17: DAVIS 2017's folder with Ref-DAVIS17's `davis_text_annotations` in it.

tfds build mqc_jax/data/ref_davis17 --data_dir DATA --manual_dir RAW
"""

from pathlib import Path

from mqc_jax.data.layouts import RefDavis17
from mqc_jax.data.packaging import ManualBuilder


class Builder(ManualBuilder):
    """Ref-DAVIS17."""

    DESCRIPTION = "DAVIS 2017 with four expressions an object: two annotators, after the first frame and the video."
    SPLITS = ("train", "val")

    def has_split(self, root: Path, split: str) -> bool:
        """See `VideoBuilder.has_split`."""
        return (root / "ImageSets" / "2017" / f"{split}.txt").is_file()

    def open_split(self, root: Path, split: str) -> RefDavis17:
        """See `VideoBuilder.open_split`."""
        return RefDavis17(root, split)
