"""Draws training runs' curves, loss and J, from their metrics.jsonl; needs the `docs` extra (matplotlib).

python tools/curve.py --workdir runs/frames --workdir runs/clips --output docs/images/training.png
"""

import json
from pathlib import Path

import numpy as np
from absl import flags

from mqc_jax.errors import UserError, run

_WORKDIR = flags.DEFINE_multi_string("workdir", None, "A training run's folder; several are drawn one after the other.")
_OUTPUT = flags.DEFINE_string("output", None, "The PNG to write.")
_WINDOW = 15  # logged steps in the running mean: single batches are noisy


def _read(workdir: str) -> list[dict[str, float]]:
    path = Path(workdir) / "metrics.jsonl"
    if not path.is_file():
        raise UserError(f"{workdir} has no metrics.jsonl; give a training run's folder")
    return [json.loads(line) for line in path.read_text().splitlines()]


def _smooth(values: list[float]) -> np.ndarray:
    width = min(_WINDOW, len(values))
    padded = np.pad(values, (width // 2, width - 1 - width // 2), mode="edge")
    return np.convolve(padded, np.full(width, 1 / width), mode="valid")


def main(argv: list[str]) -> None:
    if not _WORKDIR.value or not _OUTPUT.value:
        raise UserError("--workdir and --output are both needed; see --help")
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    runs = [_read(workdir) for workdir in _WORKDIR.value]
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), constrained_layout=True)
    offset = 0
    for number, rows in enumerate(runs):
        steps = [offset + row["step"] for row in rows if "loss" in row]
        axes[0].plot(steps, _smooth([row["loss"] for row in rows if "loss" in row]), color=f"C{number}")
        axes[1].plot(steps, _smooth([row["J"] for row in rows if "loss" in row]), color=f"C{number}", alpha=0.45)
        held = [(offset + row["step"], row["held_out_J"]) for row in rows if "held_out_J" in row]
        if held:
            axes[1].plot(*zip(*held, strict=True), "o-", color=f"C{number}", markersize=3)
        offset += max(row["step"] for row in rows)
    judged = any("held_out_J" in row for rows in runs for row in rows)
    # A run from nothing begins a hundred times above where it ends.
    axes[0].set(xlabel="step", ylabel="loss", title="training loss", yscale="log")
    title = "J: training batches (pale), held out (dots)" if judged else "J of training batches"
    axes[1].set(xlabel="step", ylabel="J", title=title, ylim=(0, 1))
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.savefig(_OUTPUT.value, dpi=110)


if __name__ == "__main__":
    run(main)
