"""A training run's folder: what it was started with, its log, and its checkpoints."""

import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy

from mqc_jax import checkpoint, files
from mqc_jax.config import Config, to_dict
from mqc_jax.errors import UserError
from mqc_jax.text import Tokenizer
from mqc_jax.train import sharding
from mqc_jax.train.step import TrainState

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

_MAY_CHANGE = (
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "eval_every",
    "eval_clips",
    "picture_every",
    "dry_run",
    "skip_nonfinite",
    "sharding",
)
"""Top-level fields that do not influence the parameters; all others must stay as the run was started."""

_MAY_CHANGE_DATA = ("data_dir", "num_threads", "num_workers", "eval_split", "eval_dir")


BEST = "held_out_J"
"""The score by which the best checkpoint is kept beside the newest ones."""


def _score(scores: dict[str, float]) -> float:
    return scores[BEST]


def environment() -> dict[str, Any]:
    """Versions, devices and the working tree's commit, for whoever asks later where a run came from."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind} in {jax.process_count()} process(es)",
        "git": _git_state(),
    }


def _git_state() -> dict[str, Any] | None:
    """The commit that this code was run from; None where it is not a git checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit.stdout.strip(), "uncommitted_changes": bool(changes.stdout.strip())}


def _plain(config: Config) -> dict[str, Any]:
    return json.loads(json.dumps(to_dict(config)))


def _differences(old: Any, new: Any, path: str = "config") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [d for k in keys for d in _differences(old.get(k), new.get(k), f"{path}.{k}")]
    return [] if old == new else [f"{path} was {old!r}, is now {new!r}"]


def _items(state: TrainState) -> dict[str, Any]:
    """The parts of a state that a checkpoint holds, each in a folder of this name; the step is in the path."""
    items = {checkpoint.PARAMS: state.params, "opt_state": state.opt_state}
    return items if state.average is None else {**items, checkpoint.AVERAGE: state.average}


class RunFolder:
    """Opens or creates a run's folder.

    Raises:
      UserError: the folder belongs to a run with another config, to something else, or cannot be written.
    """

    def __init__(self, path: str | Path, config: Config, tokenizer: Tokenizer):
        self.path = Path(path).absolute()
        self.config = config
        self.leader = jax.process_index() == 0
        if self.leader:
            self._open(path, tokenizer)
        multihost_utils.sync_global_devices("the workdir is ready")
        if not self.leader:
            self._check_config()
        policy = preservation_policy
        options = ocp.CheckpointManagerOptions(
            best_fn=_score,
            preservation_policy=policy.AnyPreservationPolicy(
                [
                    policy.LatestN(config.keep_checkpoints),
                    policy.BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False),
                ]
            ),
            enable_async_checkpointing=True,
        )
        self.manager = ocp.CheckpointManager(self.path / checkpoint.STEPS, options=options)
        self._log = None
        self.board: SummaryWriter | None = None

    def _open(self, path: str | Path, tokenizer: Tokenizer) -> None:
        """Creates the folder with what the run is started with, or checks that it belongs to this run."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            files.remove_staging(self.path)
        except OSError as error:
            raise UserError(
                f"cannot write to the workdir {path}: {error.strerror}; give a folder that you may write to"
            ) from error
        if (self.path / checkpoint.CONFIG).exists():
            self._check_config()
            return
        if any(p.name != "log.txt" for p in self.path.iterdir()):
            raise UserError(f"workdir {path} is not empty and not a training run; give a new folder")
        facts = {"run": _plain(self.config), "started_with": environment()}
        try:
            tokenizer.save(self.path / checkpoint.TOKENIZER)
            described = checkpoint.describe(self.config.model, self.config.dtype, **facts)
            files.write_atomic(self.path / checkpoint.CONFIG, described)
        except OSError as error:
            raise UserError(f"cannot write to the workdir {path}: {error.strerror}") from error

    def _check_config(self) -> None:
        started = checkpoint.read_config(self.path).get("run")
        if started is None:
            raise UserError(f"workdir {self.path} holds a checkpoint but no training run; give a new folder")
        now = _plain(self.config)
        for fields in (started, now):
            for name in _MAY_CHANGE:
                fields.pop(name, None)
            for name in _MAY_CHANGE_DATA:
                fields["data"].pop(name, None)
        if found := _differences(started, now):
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            raise UserError(
                f"workdir {self.path} was started with another config: {'; '.join(found[:3])}{more}; "
                "use a new workdir, or the config it was started with"
            )

    def restore(self, state: TrainState, shardings: TrainState) -> TrainState | None:
        """The newest checkpoint, laid out as `shardings` says whatever it was written from; None: there is none.

        Args:
          state: the form of what to read.
        """
        step = self.manager.latest_step()
        if step is None:
            return None
        abstract = jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), state, shardings
        )
        items = {name: ocp.args.StandardRestore(form) for name, form in _items(abstract).items()}
        try:
            found = self.manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # Orbax raises many kinds for a damaged folder
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"checkpoint {step} in {self.path} cannot be read: {first[:200]}") from error
        counter = sharding.place(np.asarray(step, np.int32), shardings.step)
        return TrainState(counter, **{name: found[name] for name in items})

    def save(self, state: TrainState, scores: dict[str, float] | None = None) -> None:
        """Starts writing a checkpoint in the background; a copy on the device is taken first.

        The newest `keep_checkpoints` are kept and, of those with `scores`, the one of the highest `held_out_J`.
        """
        items = {name: ocp.args.StandardSave(values) for name, values in _items(state).items()}
        self.manager.save(int(state.step), args=ocp.args.Composite(**items), metrics=scores)

    def is_best(self, scores: dict[str, float] | None) -> bool:
        """Whether these scores beat those of every checkpoint that is kept."""
        if scores is None:
            return False
        best = self.manager.best_step()
        return best is None or scores[BEST] > self.manager.metrics(best)[BEST]

    def open_log(self, step: int) -> None:
        """Drops what a killed run logged after its last checkpoint: those steps are about to happen again."""
        if not self.leader:
            return
        path = self.path / "metrics.jsonl"
        if path.exists():
            kept = []
            for line in path.read_text().splitlines():
                try:
                    kept += [line] if json.loads(line)["step"] <= step else []
                except (ValueError, KeyError):  # a line that was cut off by the kill
                    continue
            files.write_atomic(path, "".join(line + "\n" for line in kept))
        self._log = path.open("a", buffering=1)
        from tensorboardX import SummaryWriter  # where PyTorch is installed it loads that, for four seconds

        self.board = SummaryWriter(str(self.path / "tensorboard"), purge_step=step + 1 if step else None)

    def log(self, step: int, values: dict[str, float], folder: str = "train") -> None:
        """One line of metrics.jsonl, and the same to TensorBoard; of several processes only the first writes."""
        if not self.leader:
            return
        self._log.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(f"{folder}/{name}", value, step)

    def add_picture(self, step: int, picture: np.ndarray) -> None:
        """A training clip for TensorBoard, uint8 [H, W, 3]."""
        if self.leader:
            self.board.add_image("clip", picture, step, dataformats="HWC")

    def close(self) -> None:
        """Waits for the last checkpoint."""
        self.manager.wait_until_finished()
        self.manager.close()
        if self._log:
            self._log.close()
            self.board.close()
