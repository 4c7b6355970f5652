"""Ref-YouTube-VOS, from its own folder.

tfds build mqc_jax/data/ref_youtube_vos --data_dir DATA --manual_dir RAW
"""

from mqc_jax.data.packaging import ManualBuilder


class Builder(ManualBuilder):
    """Ref-YouTube-VOS."""

    DESCRIPTION = "Ref-YouTube-VOS: YouTube-VOS with referring expressions."
    SPLITS = ("train", "valid", "test")
