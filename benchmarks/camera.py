"""How well is the platform's motion found? Error of the background's fit against the truth of synthetic sequences.

    python benchmarks/camera.py [--seed 905] [--sequences 40] [--side 480] [--full 0.013] [--vote 7]

The frames are each sequence's first ones, `n_max` pairs, at the model's size; the error of a pair is the mean over nine
places of the frame, in pixels per frame.
"""

import itertools
import platform
from importlib import metadata

import jax
import numpy as np
import tmcc_scenes
from absl import flags

from mqc_jax import CalibrationConfig
from mqc_jax.data.synthetic import plan_sequence
from mqc_jax.errors import run
from mqc_jax.models.flow import BackgroundConfig, dominant_motion, flow, grey

_SEED = flags.DEFINE_integer("seed", 905, "The sequences' seed.")
_SEQUENCES = flags.DEFINE_integer("sequences", 40, "How many.", lower_bound=1)
_SIDE = flags.DEFINE_integer("side", 480, "Side of the model's input.", lower_bound=64)
_FULL = flags.DEFINE_float("full", BackgroundConfig.full, "`BackgroundConfig.full`.")
_VOTE = flags.DEFINE_float("vote", BackgroundConfig.vote, "`BackgroundConfig.vote`.")


def true_motion(index: int, side: int, length: int) -> np.ndarray:
    """From each frame to the next, as `dominant_motion` gives it: float64 [length, 2, 3]."""
    plan = plan_sequence(seed=_SEED.value, index=index, split="test")
    scale = np.diag([side / plan.size[1], side / plan.size[0], 1.0])
    to_frame = [scale @ np.vstack([plan.to_frame(t)[:2], (0, 0, 1)]) for t in range(length + 1)]
    steps = [after @ np.linalg.inv(before) for before, after in itertools.pairwise(to_frame)]
    return np.array([step[:2] - np.eye(2, 3) for step in steps])


def main(_: list[str]) -> None:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("jax", "numpy"))
    config, side, length = BackgroundConfig(full=_FULL.value, vote=_VOTE.value), _SIDE.value, CalibrationConfig.n_max
    print(f"{platform.machine()}, Python {platform.python_version()}, {versions}; {config}")
    tmcc_scenes.SEED = _SEED.value

    @jax.jit
    def fit(frames):
        shown = grey(frames)
        return dominant_motion(flow(shown), config, shown)

    places = np.array([(x, y, 1.0) for x in (0.1, 0.5, 0.9) for y in (0.1, 0.5, 0.9)]) * (side, side, 1)
    errors = []
    for index in range(_SEQUENCES.value):
        frames, _ = tmcc_scenes.scene(index, side, length)
        wrong = np.asarray(fit(frames)) - true_motion(index, side, length)
        errors.append(np.linalg.norm(wrong @ places.T, axis=1).mean(1))
        print(f"{index:>4}  median {np.median(errors[-1]):.3f}  worst {errors[-1].max():.3f}", flush=True)
    errors = np.array(errors)
    share = np.mean(errors > 0.25)
    print(f"mean {errors.mean():.4f}  median {np.median(errors):.4f}  worst {errors.max():.2f}  over 0.25: {share:.4f}")


if __name__ == "__main__":
    run(main)
