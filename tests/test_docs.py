"""The pages keep up with the code: links lead somewhere, commands exist, the tutorial runs as it stands."""

import ast
import itertools
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import NamedTuple

import pytest
import tiny
from scripts import script

import mqc_jax
from mqc_jax.config import require_field

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TUTORIAL = ROOT / "docs" / "tutorial.md"
SLOW = {
    "A live page",
    "Evaluate, and score anybody's masks",
    "Follow from Python",
    "Make data and train",
    "Start from SAM2 and BERT",
    "Your own GeoTIFF",
}

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def page_id(path: Path) -> str:
    return path.stem


def prose(text: str) -> str:
    return _FENCE.sub("", text)


def spans(text: str) -> list[str]:
    """Inline code; a span may go on on the next line."""
    return [" ".join(span.split()) for span in _SPAN.findall(prose(text))]


# ---- the API page ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def build_api():
    with script("tools/build_api.py") as module:
        yield module


def test_the_api_page_is_what_the_docstrings_say(build_api):
    told = (ROOT / "docs" / "api.md").read_text()
    assert told == build_api.render(), "run python tools/build_api.py"
    for name in set(mqc_jax.__all__) - {"__version__"}:
        assert f"### `mqc_jax.{name}`" in told


# ---- links ----------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page.read_text()), re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-")
        # A heading that comes again gets a number.
        found.add(
            next(s for s in itertools.chain([slug], (f"{slug}-{n}" for n in itertools.count(1))) if s not in found)
        )
    return found


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page):
    text = _SPAN.sub("", prose(page.read_text()))
    for link in _LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = page if not target else page.parent / target
        assert file.exists(), f"{page.name} links to {link}"
        if anchor:
            assert anchor in anchors(file), f"{page.name} links to {link}"


def test_every_page_is_linked_from_the_readme():
    linked = {link.partition("#")[0] for link in _LINK.findall((ROOT / "README.md").read_text())}
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= linked


# ---- commands -------------------------------------------------------------------------------------------------------

SHELLS = ("", "sh", "bash")
PROGRAMS = ("predict", "evaluate", "train", "app")  # short names of the commands, as in `predict --tile 0`
TFDS_FLAGS = {"data_dir", "manual_dir"}


def commands(text: str) -> list[list[str]]:
    """Every command of a page, as words; `\\` at a line's end, variables and comments are resolved."""
    lines = []
    for language, block in _FENCE.findall(text):
        if language in SHELLS:
            block = block.replace("\\\n", " ")
            for name, value in re.findall(r'^(\w+)="([^"]*)"', block, re.M):
                block = block.replace(f'{name}="{value}"', "").replace(f"${name}", " ".join(value.split()))
            lines += block.split("\n")
    found = []
    for line in lines + spans(text):
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # an apostrophe in a tree or in a program's output
            continue
        for is_break, part in itertools.groupby(words, lambda word: word in ("|", "&&", ";")):
            if not is_break:
                found.append(list(part))
    return found


def defined_flags(source: Path) -> set[str]:
    """The names that a command gives to absl's DEFINE_*."""
    calls = [node for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Call)]
    defining = [call for call in calls if getattr(call.func, "attr", "").startswith("DEFINE_") and call.args]
    return {call.args[0].value for call in defining if isinstance(call.args[0], ast.Constant)}


def source_of(module: str) -> Path | None:
    """The file that `python -m module` runs, if it is ours."""
    place = ROOT / module.replace(".", "/")
    return next((file for file in (place / "__main__.py", place.with_suffix(".py")) if file.is_file()), None)


EVERY_FLAG = set().union(
    *(defined_flags(file) for folder in ("mqc_jax", "tools", "benchmarks") for file in (ROOT / folder).rglob("*.py"))
)


def check_flags(words: list[str], known: set[str], line: str) -> None:
    for word in words:
        if not re.match(r"--\w", word):
            continue
        name = word.partition("=")[0].removeprefix("--")
        if name.startswith("config."):
            if name != "config.name" and not set(name) & set("[*"):  # the pages' own "any field"
                require_field(name.removeprefix("config."))
        else:
            assert {name, name.removeprefix("no")} & (known | {"help"}), f"--{name} does not exist: {line}"


def check_command(words: list[str]) -> str | None:
    """Asserts that what a command names exists; returns its program, None if it is not one of the project's."""
    line = " ".join(words)
    first, *rest = words or [""]
    if re.fullmatch(r"python(3[.\d]*)?", first) and rest and rest[0] != "-c":
        if rest[0] == "-m" and rest[1] in ("pytest", "pip"):
            for word in rest[2:]:
                assert not word.startswith("tests/") or (ROOT / word).exists(), line
            return rest[1]
        module, arguments = (rest[1], rest[2:]) if rest[0] == "-m" else (rest[0], rest[1:])
        source = source_of(module) if rest[0] == "-m" else ROOT / module
        assert source is not None, f"there is no such module: {line}"
        assert source.is_file(), f"there is no such file: {line}"
        check_flags(arguments, defined_flags(source), line)
        return module
    if first == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert set(rest) <= set(targets), f"the Makefile has no such target: {line}"
        return first
    if words[:2] == ["tfds", "build"] and len(words) > 2:
        assert (ROOT / words[2]).is_dir(), line
        check_flags(rest, TFDS_FLAGS, line)
        return first
    if words[:2] == ["pip", "install"]:
        extras = re.findall(r"^(\w+) =$", (ROOT / "setup.cfg").read_text().split("[options.extras_require]")[1], re.M)
        named = re.search(r"\[([\w,]+)\]", line)
        assert set(named[1].split(",") if named else []) <= set(extras), line
        return first
    if first in PROGRAMS and any(word.startswith("--") for word in rest):
        check_flags(rest, defined_flags(source_of(f"mqc_jax.{first}")), line)
        return first
    if first.startswith("--"):
        check_flags(words, EVERY_FLAG | TFDS_FLAGS, line)
    return None


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_and_flags_exist(page):
    for words in commands(page.read_text()):
        check_command(words)


def test_the_check_sees_commands_and_refuses_wrong_ones():
    used = {check_command(words) for page in PAGES for words in commands(page.read_text())}
    assert {"mqc_jax.predict", "mqc_jax.train", "mqc_jax.evaluate", "mqc_jax.app", "make", "tfds"} <= used
    assert {"mqc_jax.data.synthetic", "mqc_jax.data.build_bench", "tools/convert_sam2.py"} <= used
    for wrong in (
        "```\npython -m mqc_jax.predict --video a \\\n    --tlie 0\n```",
        "```\nTRAIN='x'\nGO=\"python -m mqc_jax.train\"\n$GO --config.optim.learning_rat=1\n```",
        "`python -m mqc_jax.predct --video a`",
        "`python tools/no.py`",
        "`make tset`",
        "`predict --tlie\n0`",
        "`--tlie 0`",
        "`pip install 'mqc_jax[goe]'`",
    ):
        with pytest.raises((AssertionError, mqc_jax.UserError)):
            [check_command(words) for words in commands(wrong)]


# ---- the page about troubles ----------------------------------------------------------------------------------------


def test_quoted_errors_are_errors_of_the_code():
    """Each heading of the page quotes a sentence; dots stand for what differs from case to case."""
    said = " ".join(_messages())
    quoted = re.findall(r"^### `(.+)`$", (ROOT / "docs" / "troubleshooting.md").read_text(), re.M)
    assert len(quoted) > 15
    for sentence in quoted:
        for piece in sentence.split("..."):
            assert piece.strip() in said, f"no error says {piece.strip()!r}"


def _messages() -> list[str]:
    """The constant parts of all strings in the package, a format's values being left out."""
    found = []
    for file in (ROOT / "mqc_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append("\0".join(p.value if isinstance(p, ast.Constant) else "" for p in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


# ---- the tutorial, as it stands -------------------------------------------------------------------------------------


class Walk(NamedTuple):
    """A section of the tutorial: its blocks of code, (language, code), and what else it says in code."""

    title: str
    blocks: list[tuple[str, str]]
    spans: list[str]


def walks() -> list[Walk]:
    parts = re.split(r"^## (.+)\n", TUTORIAL.read_text(), flags=re.M)[1:]
    return [Walk(title, _FENCE.findall(text), spans(text)) for title, text in zip(parts[::2], parts[1::2], strict=True)]


FIRST, *OTHERS = walks()


def environment() -> dict[str, str]:
    """As after `. .venv/bin/activate`."""
    return tiny.users_environment() | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def run_block(language: str, code: str, place: Path) -> str:
    """Runs a block as a reader would: a shell's in a shell, Python's as a script of its own."""
    line = {"sh": ["bash", "-euc", code], "python": [sys.executable, "-c", code]}[language]
    done = subprocess.run(line, cwd=place, env=environment(), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def check_results(walk: Walk, place: Path) -> None:
    """What a section says to be under the folders that its commands write is there."""
    written = {
        Path(folder).parts[0]
        for language, code in walk.blocks
        if language == "sh"
        for folder in re.findall(r"--(?:output|workdir) (\S+)", code)
    }
    promised = [span for span in walk.spans if re.fullmatch(r"[\w.*<>/-]+/[\w.*<>/-]*", span)]
    for span in promised:
        if Path(span).parts[0] in written:
            assert list(place.glob(re.sub(r"<\w+>", "*", span))), f"{walk.title}: there is no {span}"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """The root of a checkout, as far as the tutorial uses it, with the clip of its first section."""
    place = tmp_path_factory.mktemp("tutorial")
    for name in ("configs", "mqc_jax", "tools"):
        (place / name).symlink_to(ROOT / name)
    for block in FIRST.blocks:
        run_block(*block, place)
    check_results(FIRST, place)
    return place


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return door.getsockname()[1]


def serve_block(code: str, place: Path) -> None:
    """Starts the page, on a free port in place of the tutorial's, looks at it, and ends it with Ctrl-C."""
    line = shlex.split(re.sub(r"--port \d+", f"--port {free_port()}", code))
    with subprocess.Popen(line, cwd=place, env=environment(), stdout=subprocess.PIPE, text=True) as server:
        try:
            address = re.search(r"http://\S+", server.stdout.readline())[0]
            with urllib.request.urlopen(address, timeout=60) as answer:
                assert b"gradio" in answer.read().lower()
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(timeout=120)
    assert server.returncode in (0, -signal.SIGINT)


def bring_weights(place: Path) -> None:
    """What a reader downloads, at a small size and random: folders in Hugging Face's form."""
    import dataclasses

    import test_convert_sam2 as sam2
    import torch
    import transformers

    from mqc_jax import convert_sam2, verify_sam2
    from mqc_jax.text import Tokenizer

    torch.save({"model": sam2.oracle(sam2.CONFIG).state_dict()}, place / "official.pt")
    read = convert_sam2.convert_sam2(place / "official.pt", {"mini": dataclasses.asdict(sam2.CONFIG.hiera)})
    verify_sam2.torch_model(sam2.CONFIG, read.params).save_pretrained(place / "sam2.1-hiera-tiny")
    tokenizer = Tokenizer.default()
    bert = transformers.BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    transformers.BertModel(bert).save_pretrained(place / "bert-base-uncased")
    tokenizer.save(place / "bert-base-uncased")


def test_the_tutorial_has_code_that_is_run():
    languages = [language for walk in (FIRST, *OTHERS) for language, _ in walk.blocks]
    assert set(languages) == {"sh", "python"}
    assert len(languages) > 12
    assert {walk.title for walk in OTHERS} > SLOW


@pytest.mark.parametrize(
    "walk", [pytest.param(w, id=w.title, marks=pytest.mark.slow if w.title in SLOW else ()) for w in OTHERS]
)
def test_the_tutorial_runs_as_it_stands(walk, place):
    if walk.title == "Start from SAM2 and BERT":
        bring_weights(place)
    for language, code in walk.blocks:
        if "mqc_jax.app" in code:
            serve_block(code, place)
        else:
            run_block(language, code, place)
    check_results(walk, place)
    if walk.title.startswith("Evaluate"):
        scores, again = (json.loads((place / name / "metrics.json").read_text()) for name in ("scores", "scores_again"))
        assert scores["J&F"] == again["J&F"] > 0
