"""RS-RVOS Synth: synthetic satellite video with referring expressions.

Without a folder, 82 training and 29 test sequences are generated, packaged and removed again; with one, what
`python -m mqc_jax.data.synthetic` wrote there is packaged:

    tfds build mqc_jax/data/rs_rvos_synth --data_dir DATA
    tfds build mqc_jax/data/rs_rvos_synth --data_dir DATA --manual_dir RAW
"""

from pathlib import Path
from typing import Any

from mqc_jax.data.packaging import VideoBuilder


class Builder(VideoBuilder):
    """The project's stand-in for RS-RVOS Bench, whose sizes it has: 82 training and 29 test sequences."""

    DESCRIPTION = (
        "Synthetic satellite video (airports, harbours, open water, roads, rail) with the visible mask of every object "
        "in every frame and referring expressions made from the first frame: a 3x3 grid cell and a fine class."
    )
    SEQUENCES = {"train": 82, "test": 29}  # noqa: RUF012 - read from the class, so that a test can make it small
    SEED = 20260112
    GENERATOR: dict[str, Any] = {}  # noqa: RUF012 - further arguments of `write_split`

    def raw(self, manual_dir: Path | None, scratch: Path) -> Path:
        """The user's folder, or a fresh one from the fixed seed."""
        if manual_dir is not None:
            return manual_dir
        from mqc_jax.data.synthetic.write import write_split  # Packaging a folder needs no generator.

        for split, count in self.SEQUENCES.items():
            write_split(scratch, split=split, sequences=count, seed=self.SEED, **self.GENERATOR)
        return scratch
