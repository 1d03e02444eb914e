"""The README and the pages of docs say what is so: commands, links and Python examples."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from modiff.cli import MODULES, VERBS

ROOT = Path(__file__).parents[1]
_TOP = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
PAGES = [*(ROOT / name for name in _TOP), *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_OPTION = "-"  # a word that begins so is an option


@dataclass(frozen=True)
class Command:
    """A command that a page shows: where, its verb and the words after it."""

    page: str
    verb: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: modiff {self.verb} {' '.join(self.words)}"


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of one language; "" for those that name none."""
    return [body for found, body in _FENCE.findall(text_of(page)) if found == language]


def spans(page: str) -> list[str]:
    """Inline code outside of code blocks."""
    return _SPAN.findall(_FENCE.sub("", text_of(page)))


def lines_of_code(page: str) -> Iterator[str]:
    """Lines of shell blocks, continued ones joined, and inline code."""
    for language in ("", "bash", "sh", "console"):
        for block in blocks(page, language):
            yield from block.replace("\\\n", " ").splitlines()
    yield from spans(page)


def commands(page: str) -> list[Command]:
    """Every `modiff VERB …` of a page; VERB in capitals stands for any."""
    found = []
    for line in lines_of_code(page):
        match = re.match(r"(?:\$ )?(?:.*\s-m )?modiff (\S.*)", line.strip())
        if match is None:
            continue
        # Brackets mark what is optional; they are no part of the words.
        words = shlex.split(match[1].replace("[", " ").replace("]", " "), comments=True)
        if words and not words[0].isupper() and not words[0].startswith(_OPTION):
            found.append(Command(page, words[0], tuple(words[1:])))
    return found


COMMANDS = list({str(command): command for name in NAMES for command in commands(name)}.values())


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    return set(parser._option_string_actions)


@cache
def importer_options(source: str) -> set[str]:
    """The options of `modiff import SOURCE`."""
    from modiff.data.importers.catalogue import import_parser

    return options_of(import_parser(source, "modiff import"))


@cache
def every_importers_options() -> set[str]:
    from modiff.data.importers.catalogue import IMPORTERS

    return set().union(*map(importer_options, IMPORTERS))


@cache
def training_options() -> set[str]:
    """The options of `modiff train` with any method."""
    from modiff.cli.train import _full_parser
    from modiff.config.run import build_config
    from modiff.methods.registry import METHODS

    return set().union(*(options_of(_full_parser("modiff train", build_config(method=name))) for name in METHODS))


@cache
def options(verb: str) -> set[str]:
    if verb == "train":
        return training_options()
    module = import_module(f"modiff.cli.{MODULES.get(verb, verb)}")
    return options_of(module.parser(f"modiff {verb}"))


def known_options(command: Command) -> set[str]:
    if command.verb == "import":
        from modiff.data.importers.catalogue import IMPORTERS

        if not command.words or command.words[0].isupper():
            return every_importers_options()
        assert command.words[0] in IMPORTERS
        return importer_options(command.words[0])
    # `modiff check … -- OPTIONS` hands what follows to an importer.
    more = every_importers_options() if "--" in command.words else set()
    return options(command.verb) | more | {"--"}


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_names_a_verb_and_options_that_exist(command: Command) -> None:
    assert command.verb in VERBS
    used = {word.partition("=")[0] for word in command.words if re.match(r"--?[a-zA-Z]|--$", word)}
    assert used - known_options(command) == set()


def test_commands_are_found() -> None:
    """Every verb is shown somewhere: a page that the pattern fails to read would pass in silence."""
    assert {command.verb for command in COMMANDS} == set(VERBS)


@pytest.mark.parametrize("command", [c for c in COMMANDS if "--preset" in c.words], ids=str)
def test_a_preset_that_is_named_exists(command: Command) -> None:
    from modiff.config.run import presets

    name = command.words[command.words.index("--preset") + 1]
    assert name in presets() or name.isupper()


@pytest.mark.parametrize("page", NAMES)
def test_an_option_in_the_text_exists(page: str) -> None:
    known = set().union(every_importers_options(), *map(options, VERBS))
    used = {span.split()[0].partition("=")[0] for span in spans(page) if re.match(r"--[a-z]", span)}
    # `--model.ldf.…` is a group of options.
    groups = {name for name in used if name.endswith("…")}
    assert used - groups - known == set()
    assert [group for group in groups if not any(name.startswith(group[:-1]) for name in known)] == []


def slugs(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    found = set()
    for heading in re.findall(r"^#+ +(.*)$", _FENCE.sub("", page.read_text(encoding="utf-8")), re.M):
        found.add(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", NAMES)
def test_relative_links_lead_somewhere(page: str) -> None:
    lost = []
    for target in _LINK.findall(_FENCE.sub("", text_of(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        if not file.exists() or (anchor and anchor not in slugs(file)):
            lost.append(target)
    assert lost == []


def imports(code: str) -> Iterator[tuple[str, str | None]]:
    """What Python code imports: module, and the name in it where one is asked for."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from ((name.name, None) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", name.name) for name in node.names)


@pytest.mark.parametrize("page", NAMES)
def test_python_examples_compile_and_import_what_there_is(page: str) -> None:
    for block in blocks(page, "python"):
        compile(block, page, "exec")
        for module, name in imports(block):
            found = importlib.import_module(module)
            assert name is None or hasattr(found, name) or importlib.util.find_spec(f"{module}.{name}")


@pytest.mark.parametrize("page", [name for name in NAMES if name.startswith("docs/") and name != "docs/index.md"])
def test_a_page_is_listed_in_the_index(page: str) -> None:
    assert f"({Path(page).name})" in text_of("docs/index.md")


def test_figures_are_small() -> None:
    assert [path.name for path in (ROOT / "docs/img").iterdir() if path.stat().st_size > 200_000] == []


# Python examples


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what `modiff demo` leaves, of few patients and a step of training: runs/demo."""
    from modiff.config.data import PhantomConfig
    from modiff.config.run import build_config
    from modiff.data.importers.phantom import write_phantom
    from modiff.training.loop import train

    top = tmp_path_factory.mktemp("docs")
    folder = top / "runs" / "demo"
    folder.mkdir(parents=True)
    write_phantom(folder / "phantom.h5", PhantomConfig(patients=30, images_per_patient=1), progress=False)
    small: dict[str, Any] = {
        "training": {"budget": "8img", "batch_size": 8},
        "model": {"unet": {"base": 16, "multipliers": [1, 1], "attention": []}, "presence": {"base": 8}},
    }
    train(build_config(preset="quick", changes=small), folder / "phantom.h5", folder, quiet=True)
    return top


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/python.md", "docs/simulated-data.md"])
def test_python_examples_run(
    page: str, demo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A page's blocks build on each other, from the folder in which `modiff demo` was run."""
    monkeypatch.chdir(demo)
    found = blocks(page, "python")
    assert found
    names: dict[str, Any] = {"__name__": "example"}
    for block in found:
        exec(compile(block, page, "exec", dont_inherit=True), names)
    assert capsys.readouterr().out
