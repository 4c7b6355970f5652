"""RS-RVOS Bench, as `python -m mqc_jax.data.build_bench` writes it.

tfds build mqc_jax/data/rs_rvos_bench --data_dir DATA --manual_dir RAW
"""

from mqc_jax.data.packaging import ManualBuilder


class Builder(ManualBuilder):
    """RS-RVOS Bench from the project's Ref-YouTube-VOS layout."""

    DESCRIPTION = (
        "RS-RVOS Bench: satellite video from SAT-MTB with the mask of every object and referring expressions made from "
        "the first frame: a 3x3 grid cell and a fine class."
    )
    SPLITS = ("train", "test")
