"""Trains.

    python -m mqc_jax.train --config configs/X.py --workdir DIR [--config.a.b=v ...]

All devices that JAX finds work on one batch. On several hosts the same command runs on each, with DIR on storage that
all of them see: under Slurm, Open MPI or on Cloud TPU with `--distributed` alone, elsewhere with

    --distributed --coordinator HOST0:PORT --num_processes N --process_id I
"""

import re
import sys
import traceback

from absl import flags
from ml_collections import config_flags

from mqc_jax import config as schema
from mqc_jax.config import parse, require_field
from mqc_jax.errors import UserError, nearest, run

_CONFIG = config_flags.DEFINE_config_file("config", None, "The run's config file, e.g. configs/synth_small.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this run; started again on it, training resumes.")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "One of several processes that train together.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0; left out: as the cluster says.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes there are.", lower_bound=1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "The number of this one, from 0.", lower_bound=0)

_TOPOLOGY = flags.DEFINE_string("topology", "", "With --config.dry_run: for TPUs that are not here, e.g. v5p:2x2x2.")

_PEER_TIMEOUT = 30
"""Seconds without a sign of life from another process after which this one gives up."""

_OVERRIDE = re.compile(r"--?config\.([\w.]+)")
_KEYWORD = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")


def check_config(argv: list[str]) -> None:
    """Reads the config and its overrides ahead of absl, which would answer a mistake in them with a traceback.

    Raises:
      UserError: an override of a field that does not exist or with a value of the wrong type; a config file that
        cannot be read or fails.
    """
    for argument in argv[1:]:
        if override := _OVERRIDE.match(argument):
            require_field(override[1])
    # Flags of their own: absl's cannot be parsed twice, since each override defines one.
    probe = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", flag_values=probe, sys_argv=argv)
    try:
        probe(argv, known_only=True)
        if probe.config is not None:
            _ = probe.config.to_dict  # a file that could not be read says so at the first access
    except Exception as error:
        raise UserError(_sentence(error)) from error


def _sentence(error: Exception) -> str:
    missing = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if isinstance(missing, OSError):
        return f"the config file cannot be read: {str(missing).strip().splitlines()[-1].strip()}"
    if isinstance(error, flags.Error):
        lines = [line for line in str(error).strip().splitlines() if line.strip()]
        if len(lines) == 1:
            return lines[0]
        # The config file's own TypeError or ValueError, which ml_collections turns into text.
        if found := _KEYWORD.search(lines[-1]):
            fields = getattr(getattr(schema, found[1], None), "__dataclass_fields__", {})
            return f"unknown config field {found[2]} of {found[1]} in the config file{nearest(found[2], fields)}"
        return f"the config file fails: {lines[-1]}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    what = str(error).strip().splitlines() or [""]
    return f"the config file fails: {type(error).__name__}: {what[0]} ({frame.filename}, line {frame.lineno})"


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; overrides are written --config.name=value")
    if _CONFIG.value is None:
        raise UserError("--config is missing; give a config file, e.g. --config configs/synth_small.py")
    config = parse(_CONFIG.value)
    if not _WORKDIR.value and not config.dry_run:
        raise UserError("--workdir is missing; give the folder of this run")
    if _TOPOLOGY.value and not config.dry_run:
        raise UserError(f"--topology={_TOPOLOGY.value} is for a dry run; add --config.dry_run, or leave it out")
    _join()
    from mqc_jax.train import loop  # after the flags are checked: importing JAX takes seconds

    if config.dry_run:
        print(loop.dry_run(config, _TOPOLOGY.value))
    else:
        loop.train(config, _WORKDIR.value)


def _join() -> None:
    """Meets the other processes, before anything asks JAX for its devices."""
    explicit = {
        "coordinator": _COORDINATOR.value,
        "num_processes": _NUM_PROCESSES.value,
        "process_id": _PROCESS_ID.value,
    }
    given = [name for name, value in explicit.items() if value is not None]
    if given and not _DISTRIBUTED.value:
        raise UserError(f"--{given[0]} is for training with several processes; add --distributed")
    if given and len(given) < len(explicit):
        missing = ", ".join(f"--{name}" for name in explicit if name not in given)
        raise UserError(f"{missing} is missing; give all of --coordinator, --num_processes and --process_id, or none")
    if not _DISTRIBUTED.value:
        return
    import jax

    try:
        jax.distributed.initialize(
            _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value, heartbeat_timeout_seconds=_PEER_TIMEOUT
        )
    except (RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"the processes could not meet ({reason}); check --coordinator and that all were started"
        ) from error


if __name__ == "__main__":
    try:
        check_config(sys.argv)
    except UserError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        sys.exit(1)
    run(main)
