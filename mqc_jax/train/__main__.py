"""`python -m mqc_jax.train --config configs/X.py --workdir DIR [--config.a.b=v ...]`"""

from absl import flags
from ml_collections import config_flags

from mqc_jax.config import parse
from mqc_jax.errors import UserError, run

_CONFIG = config_flags.DEFINE_config_file("config", None, "The run's config file, e.g. configs/synth_small.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of this run; started again on it, training resumes.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; overrides are written --config.name=value")
    if _CONFIG.value is None:
        raise UserError("--config is missing; give a config file, e.g. --config configs/synth_small.py")
    config = parse(_CONFIG.value)
    if not _WORKDIR.value and not config.dry_run:
        raise UserError("--workdir is missing; give the folder of this run")
    from mqc_jax.train import loop  # after the flags are checked: importing JAX takes seconds

    if config.dry_run:
        print(loop.dry_run(config))
    else:
        loop.train(config, _WORKDIR.value)


if __name__ == "__main__":
    run(main)
