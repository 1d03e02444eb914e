"""Hooks of mkdocs: pages made of code (commands, public names) and of the repository's own files, and their links.

Pages in docs/ link to one another and to files beside docs/, as GitHub shows them. On the site README, CONTRIBUTING and
CHANGELOG are pages too; other files of the repository are named without a link.
"""

from __future__ import annotations

import os
import posixpath
import re
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "readme.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
_CONSTANTS = {"PROTOCOLS": "modiff.metrics.protocols", "QUBIQ_LEVELS": "modiff.metrics.functional.maps"}
_FENCES = re.compile(r"(^```.*?^```$)", re.M | re.S)
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that no file in docs/ holds."""
    from mkdocs.structure.files import File

    made = {"cli.md": command_reference(), "api.md": api_reference()}
    for name, page in PAGES.items():
        made[page] = (ROOT / name).read_text(encoding="utf-8")
    for page, content in made.items():
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **more: Any) -> str:
    """Links of a page as the site needs them."""
    source = {made: name for name, made in PAGES.items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return site_links(markdown, source)


def site_links(markdown: str, source: str) -> str:
    """Links of the repository's file `source`, each to a page of the site or, where there is none, as words."""

    def link(match: re.Match[str]) -> str:
        image, text, target = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, _, anchor = target.partition("#")
        found = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        page = PAGES.get(found) or (found.removeprefix("docs/") if found.startswith("docs/") else None)
        if page is None or page == ".":
            return text
        return f"{image}[{text}]({page}{'#' + anchor if anchor else ''})"

    parts = _FENCES.split(markdown)
    return "".join(part if part.startswith("```") else _LINK.sub(link, part) for part in parts)


def command_reference() -> str:
    """The help of every verb and of every source of `modiff import`, as the parsers print it."""
    from modiff.cli import MODULES, VERBS
    from modiff.data.importers.catalogue import IMPORTERS, import_parser

    os.environ["COLUMNS"] = "100"
    parts = ["# Commands", "", "What `modiff VERB --help` prints.", ""]
    for verb in VERBS:
        help_text = import_module(f"modiff.cli.{MODULES.get(verb, verb)}").parser(f"modiff {verb}").format_help()
        parts += [f"## modiff {verb}", "", "```text", help_text.rstrip(), "```", ""]
        for source in IMPORTERS if verb == "import" else ():
            text = import_parser(source, f"modiff import {source}").format_help()
            parts += [f"### modiff import {source}", "", "```text", text.rstrip(), "```", ""]
    return "\n".join(parts)


def api_reference() -> str:
    """A section for every public name of `modiff`, its metrics and their functions, by its docstring."""
    import modiff
    from modiff.metrics import functional

    rooms = [("modiff", modiff, modiff.__all__), ("modiff.metrics", modiff.metrics, modiff.metrics.__all__)]
    rooms.append(("modiff.metrics.functional", functional, functional.__all__))
    parts = ["# Python reference", ""]
    for title, room, names in rooms:
        parts += [f"## {title}", ""]
        for name in sorted(names, key=str.lower):
            module = _CONSTANTS.get(name) or getattr(getattr(room, name), "__module__", "")
            parts += [f"::: {module}.{name}", ""] if module else []
    parts += ["## Errors", ""]
    for name in ("ModiffError", "DataError", "ConfigError", "CheckpointError", "TrainingError", "MetricError"):
        parts += [] if f"::: modiff.errors.{name}" in parts else [f"::: modiff.errors.{name}", ""]
    return "\n".join(parts)
