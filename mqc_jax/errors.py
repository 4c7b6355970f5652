"""Errors that a user can act on, and the one place where commands turn them into an exit status."""

import difflib
import errno
import sys
from collections.abc import Callable, Iterable

from absl import app, flags, logging


class UserError(Exception):
    """One sentence with the value, the limit and the fix. Commands print it and exit with status 1."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns `"; did you mean 'x'?"` for the known name closest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def parse_flags(argv: list[str]) -> list[str]:
    """absl's flag parsing, with its errors as one sentence on stderr and status 1."""
    try:
        if any(argument.lstrip("-") in ("help", "helpshort", "helpfull") for argument in argv[1:]):
            # absl's own --help exits with 1, as if asking were a mistake.
            app.usage(shorthelp="--helpfull" not in argv, writeto_stdout=True, exitcode=0)
        return flags.FLAGS(argv)
    except flags.Error as error:
        print(f"error: {error}; --help lists the options", file=sys.stderr)
        sys.exit(1)


def run(main: Callable[[list[str]], int | None]) -> None:
    """Runs a command under absl. A `UserError`, a full disk and a refused write become one line on stderr.

    Everything else keeps its traceback: it is a defect of ours, not of the user's input.
    """

    def guarded(argv: list[str]) -> int | None:
        # absl.app turns INFO on; JAX and Orbax would bury a command's own lines, and its error, under theirs.
        logging.set_verbosity(logging.ERROR)
        try:
            return main(argv)
        except UserError as error:
            sentence = str(error)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                where = error.filename or "the output"
                sentence = f"no space left on the disk while writing {where}; free some space and run the command again"
            elif error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST):
                sentence = f"cannot write {error.filename}: {error.strerror}; give a folder that you may write to"
            else:
                raise
        print(f"error: {sentence}", file=sys.stderr)
        return 1

    app.run(guarded, flags_parser=parse_flags)
