"""The `tfds` command for machines without TensorFlow: `tfds build` and `tfds new` work, and errors are one sentence.

TFDS builds and reads array_record packages without TensorFlow, but its command line imports every subcommand first, and
two of them import what only they need. A subcommand whose dependency is missing is replaced by one that says so;
everything else is TFDS's own. Where both are installed, this is TFDS's command unchanged.
"""

import dataclasses
import importlib.util
import sys
import types

from mqc_jax.errors import UserError

_PACKAGE = "tensorflow_datasets.scripts.cli"
# Subcommand: its module under `_PACKAGE`, the class the command line takes from it, and what it cannot be without.
_NEEDS = {
    "convert_format": ("convert_format", "Args", "tensorflow"),
    "build_croissant": ("croissant", "CmdArgs", "mlcroissant"),
}


def main() -> None:
    """Runs `tfds` with the process's arguments."""
    for command, (module, name, dependency) in _NEEDS.items():
        if importlib.util.find_spec(dependency) is None:
            sys.modules[f"{_PACKAGE}.{module}"] = _stand_in(command, f"{_PACKAGE}.{module}", name, dependency)
    from tensorflow_datasets.scripts.cli.main import launch_cli

    try:
        launch_cli()
    except UserError as error:
        # TFDS puts the whole example and the feature's name in front of it, on lines of their own; a progress bar may
        # still hold the cursor.
        print(f"\nerror: {str(error).splitlines()[-1]}", file=sys.stderr)
        sys.exit(1)


def _stand_in(command: str, module_name: str, class_name: str, dependency: str) -> types.ModuleType:
    """A module with one subcommand that takes no options and explains why it cannot run."""
    from tensorflow_datasets.scripts.cli import cli_utils

    def execute(self) -> None:
        raise UserError(f"tfds {command} needs {dependency}, which is not installed: pip install {dependency}")

    body = {"execute": execute, "__module__": module_name, "__doc__": f"Needs {dependency}, which is not installed."}
    arguments = dataclasses.dataclass(frozen=True, kw_only=True)(type(class_name, (cli_utils.Args,), body))
    module = types.ModuleType(module_name, body["__doc__"])
    setattr(module, class_name, arguments)
    return module


if __name__ == "__main__":
    main()
