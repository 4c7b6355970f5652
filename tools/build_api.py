"""Writes the API page from signatures and docstrings; the same sources give the same bytes.

python tools/build_api.py --output docs/api.md
"""

import ast
import functools
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from absl import flags

import mqc_jax
from mqc_jax import files
from mqc_jax.errors import UserError, run

_OUTPUT = flags.DEFINE_string("output", "docs/api.md", "The page to write.")

ROOT = Path(__file__).parents[1]
WIDTH = 100
"""Signatures longer than this are broken into one line a parameter."""

INTRO = """\
# API

Made by `python tools/build_api.py` from the docstrings; a test keeps it so. N is the number of targets, H and W are the
frame's height and width, S is the model's input size (`model.config.image_size`), T is time, B a batch.
[tutorial.md](tutorial.md) shows the same in use.
"""


class Section(NamedTuple):
    """A part of the page: its title, a sentence, and what it shows as (module, name); the name "*" is all functions."""

    title: str
    about: str
    names: tuple[tuple[str, str], ...]


SECTIONS = (
    Section(
        "Models and trackers",
        "`mqc_jax.load`, `mqc_jax.Tracker`, `mqc_jax.Model` and `mqc_jax.UserError` are imported on first use.",
        (
            ("mqc_jax.checkpoint", "load"),
            ("mqc_jax.checkpoint", "Model"),
            ("mqc_jax.tracker", "Tracker"),
            ("mqc_jax.results", "FrameResult"),
            ("mqc_jax.tiled", "TiledTracker"),
            ("mqc_jax.models.registration", "Decision"),
            ("mqc_jax.errors", "UserError"),
        ),
    ),
    Section(
        "Calibration",
        "Motion checks the first mask ([tmcc.md](tmcc.md)); no model is needed.",
        (
            ("mqc_jax.models.tmcc", "calibrate"),
            ("mqc_jax.config", "CalibrationConfig"),
            ("mqc_jax.models.tmcc", "Calibration"),
            ("mqc_jax.models.flow", "grey"),
            ("mqc_jax.models.flow", "flow"),
        ),
    ),
    Section(
        "Files",
        "What the commands do, as functions.",
        (("mqc_jax.predict", "predict"), ("mqc_jax.video", "open_video"), ("mqc_jax.checkpoint", "save")),
    ),
    Section(
        "Pure functions",
        "`mqc_jax.models.functional`: the model over an explicit state. `net` is static under `jax.jit`; states and "
        "outputs are pytrees of fixed shapes.",
        (
            ("mqc_jax.models.functional", "*"),
            ("mqc_jax.models.mqc_sam", "Features"),
            ("mqc_jax.models.mqc_sam", "Text"),
            ("mqc_jax.models.mqc_sam", "Output"),
            ("mqc_jax.models.memory_bank", "MemoryBank"),
        ),
    ),
)


@functools.cache
def _definitions(module: str) -> dict[str, ast.stmt]:
    """What a module defines at its top level. It is parsed, not imported, so values and addresses cannot leak in."""
    path = ROOT / (module.replace(".", "/") + ".py")
    tree = ast.parse(path.read_text())
    return {node.name: node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}


def _decorators(node: ast.FunctionDef | ast.ClassDef) -> str:
    return " ".join(ast.unparse(decorator) for decorator in node.decorator_list)


def _call(name: str, parameters: list[str], returns: str = "") -> str:
    line = f"{name}({', '.join(parameters)}){returns}"
    if len(line) <= WIDTH:
        return line
    return "\n".join([f"{name}(", *(f"    {parameter}," for parameter in parameters), f"){returns}"])


def _annotation(node: ast.expr) -> str:
    """As it is meant: a class names itself in quotes, since it is not defined yet."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ast.unparse(node)


def _parameters(node: ast.FunctionDef) -> list[str]:
    """Each parameter with its annotation and default, without `self` and `cls`."""
    given = node.args
    positional = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(positional) - len(given.defaults)) + given.defaults
    shown = [_parameter(argument, default) for argument, default in zip(positional, defaults, strict=True)]
    if positional and positional[0].arg in ("self", "cls"):
        shown = shown[1:]
    if given.vararg:
        shown.append("*" + _parameter(given.vararg, None))
    elif given.kwonlyargs:
        shown.append("*")
    shown += [_parameter(a, d) for a, d in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    return shown + (["**" + _parameter(given.kwarg, None)] if given.kwarg else [])


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    annotated = f"{argument.arg}: {_annotation(argument.annotation)}" if argument.annotation else argument.arg
    if default is None:
        return annotated
    return f"{annotated} = {ast.unparse(default)}" if argument.annotation else f"{annotated}={ast.unparse(default)}"


def _signature(node: ast.FunctionDef, name: str) -> str:
    return _call(name, _parameters(node), f" -> {_annotation(node.returns)}" if node.returns else "")


def _fields(node: ast.ClassDef) -> list[str]:
    """A data class's fields as parameters."""
    declared = [item for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)]
    return [ast.unparse(item) for item in declared if not item.target.id.startswith("_")]


def _bullets(lines: list[str]) -> list[str]:
    """`name: text` lines of a docstring's section, whose continuations are indented further, as list items."""
    items: list[str] = []
    for line in lines:
        if line.startswith(" ") and items:
            items[-1] += " " + line.strip()
        else:
            items.append(line.strip())
    return ["- " + re.sub(r"^([\w, ]+?): ", r"`\1`: ", item, count=1) for item in items]


def markdown(docstring: str) -> str:
    """A docstring's paragraphs, with its Args, Returns, Raises and Attributes as lists."""
    blocks, out = re.split(r"\n{2,}", inspect.cleandoc(docstring)), []
    for block in blocks:
        head, *rest = block.split("\n")
        if head in ("Args:", "Raises:", "Attributes:"):
            lines = inspect.cleandoc("\n" + "\n".join(rest)).split("\n")
            out.append(f"**{head[:-1]}**\n\n" + "\n".join(_bullets(lines)))
        elif head == "Returns:":
            out.append("**Returns** " + " ".join(line.strip() for line in rest))
        elif block.startswith("    "):  # indented code
            out.append("```\n" + inspect.cleandoc("\n" + block) + "\n```")
        else:
            out.append(re.sub(r"\s*\n\s*", " ", block))
    return "\n\n".join(out)


def _entry(heading: str, signature: str, docstring: str | None) -> str:
    if not docstring:
        raise UserError(f"{heading} is public and has no docstring; write one")
    return f"{heading}\n\n```python\n{signature}\n```\n\n{markdown(docstring)}\n"


def _members(node: ast.ClassDef) -> Iterator[str]:
    for item in node.body:
        if not isinstance(item, ast.FunctionDef) or item.name.startswith("_"):
            continue
        marks = _decorators(item)
        name = f"{node.name}.{item.name}"
        signature = f"{name} -> {_annotation(item.returns)}" if "property" in marks else _signature(item, name)
        yield _entry(f"#### `{name}`", signature, ast.get_docstring(item))


def _shown(module: str, name: str) -> Iterator[str]:
    """The entries of one name."""
    node = _definitions(module)[name]
    # The shortest way to import it.
    at_top = mqc_jax._LAZY.get(name) == module
    heading = f"### `{'mqc_jax' if at_top else module}.{name}`"
    if isinstance(node, ast.FunctionDef):
        yield _entry(heading, _signature(node, name), ast.get_docstring(node))
        return
    start = next((x for x in node.body if isinstance(x, ast.FunctionDef) and x.name == "__init__"), None)
    bases = [ast.unparse(base) for base in node.bases]
    if start is not None:
        signature = _call(f"class {name}", _parameters(start))
    elif "dataclass" in _decorators(node) or "NamedTuple" in bases:
        signature = _call(f"class {name}", _fields(node))
    else:
        signature = f"class {name}({', '.join(bases)})"
    yield _entry(heading, signature, ast.get_docstring(node))
    yield from _members(node)


def render() -> str:
    """The whole page."""
    parts = [INTRO]
    for section in SECTIONS:
        parts.append(f"## {section.title}\n\n{section.about}\n")
        for module, name in section.names:
            every = [key for key, node in _definitions(module).items() if isinstance(node, ast.FunctionDef)]
            for one in [key for key in every if not key.startswith("_")] if name == "*" else [name]:
                parts += _shown(module, one)
    return "\n".join(parts)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}; flags begin with --")
    files.write_atomic(Path(_OUTPUT.value), render().encode())
    print(_OUTPUT.value)


if __name__ == "__main__":
    run(main)
