"""A training run's folder: what it was started with, its log, and its checkpoints."""

import json
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from tensorboardX import SummaryWriter

from mqc_jax import checkpoint, files
from mqc_jax.config import Config, to_dict
from mqc_jax.errors import UserError
from mqc_jax.text import Tokenizer
from mqc_jax.train.step import TrainState

_MAY_CHANGE = (
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "eval_every",
    "eval_clips",
    "picture_every",
    "dry_run",
)
"""Top-level fields that do not influence the parameters; all others must stay as the run was started."""

_MAY_CHANGE_DATA = ("data_dir", "num_threads", "eval_split")


def _plain(config: Config) -> dict[str, Any]:
    return json.loads(json.dumps(to_dict(config)))


def _differences(old: Any, new: Any, path: str = "config") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [d for k in keys for d in _differences(old.get(k), new.get(k), f"{path}.{k}")]
    return [] if old == new else [f"{path} was {old!r}, is now {new!r}"]


class RunFolder:
    """Opens or creates a run's folder.

    Raises:
      UserError: the folder belongs to a run with another config, to something else, or cannot be written.
    """

    def __init__(self, path: str | Path, config: Config, tokenizer: Tokenizer):
        self.path = Path(path).absolute()
        self.config = config
        described = checkpoint.describe(config.model, config.dtype, run=_plain(config))
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            files.remove_staging(self.path)
        except OSError as error:
            raise UserError(
                f"cannot write to the workdir {path}: {error.strerror}; give a folder that you may write to"
            ) from error
        if (self.path / checkpoint.CONFIG).exists():
            self._check_config()
        else:
            if any(p.name != "log.txt" for p in self.path.iterdir()):
                raise UserError(f"workdir {path} is not empty and not a training run; give a new folder")
            try:
                tokenizer.save(self.path / checkpoint.TOKENIZER)
                files.write_atomic(self.path / checkpoint.CONFIG, described)
            except OSError as error:
                raise UserError(f"cannot write to the workdir {path}: {error.strerror}") from error
        options = ocp.CheckpointManagerOptions(max_to_keep=config.keep_checkpoints, enable_async_checkpointing=True)
        self.manager = ocp.CheckpointManager(self.path / checkpoint.STEPS, options=options)
        self._log = None
        self.board: SummaryWriter | None = None

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

    def restore(self, state: TrainState) -> TrainState:
        """The newest checkpoint, or `state` as it is when there is none."""
        step = self.manager.latest_step()
        if step is None:
            return state
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        abstract = lambda tree: jax.tree.map(  # noqa: E731
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), tree
        )
        arguments = ocp.args.Composite(
            params=ocp.args.StandardRestore(abstract(state.params)),
            opt_state=ocp.args.StandardRestore(abstract(state.opt_state)),
        )
        try:
            found = self.manager.restore(step, args=arguments)
        except Exception as error:  # Orbax raises many kinds for a damaged folder
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"checkpoint {step} in {self.path} cannot be read: {first[:200]}") from error
        return TrainState(jax.numpy.asarray(step, jax.numpy.int32), found.params, found.opt_state)

    def save(self, state: TrainState) -> None:
        """Starts writing a checkpoint in the background; a copy on the device is taken first."""
        arguments = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params), opt_state=ocp.args.StandardSave(state.opt_state)
        )
        self.manager.save(int(state.step), args=arguments)

    def open_log(self, step: int) -> None:
        """Drops what a killed run logged after its last checkpoint: those steps are about to happen again."""
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
        self.board = SummaryWriter(str(self.path / "tensorboard"), purge_step=step + 1 if step else None)

    def log(self, step: int, values: dict[str, float], folder: str = "train") -> None:
        """One line of metrics.jsonl, and the same to TensorBoard."""
        self._log.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(f"{folder}/{name}", value, step)

    def close(self) -> None:
        """Waits for the last checkpoint."""
        self.manager.wait_until_finished()
        self.manager.close()
        if self._log:
            self._log.close()
            self.board.close()
