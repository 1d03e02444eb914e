"""How every command's help is laid out: paragraphs filled to the terminal and at most 100 columns."""

from __future__ import annotations

import re
import shutil
import textwrap
from argparse import ArgumentParser
from argparse import HelpFormatter as Plain
from typing import NoReturn

WIDTH = 100
# What argparse says, and what we say.
_PLAIN = (
    ("^the following arguments are required: ", "needs "),
    ("^unrecognized arguments: ", "no such option; found "),
    ("^argument ", ""),
    ("invalid int value: ", "not a whole number; found "),
    ("invalid float value: ", "not a number; found "),
    (r"invalid choice: (.*) \(choose from (.*)\)$", r"no such choice; found \1; expected one of \2"),
    ("expected one argument$", "needs a value"),
    ("expected at least one argument$", "needs one value or more"),
)


class HelpFormatter(Plain):
    """Fills each paragraph of description and epilog; one with an indented line is a list or a command and is kept."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=min(WIDTH, shutil.get_terminal_size().columns) - 2)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts = [part.strip("\n") for part in textwrap.dedent(text).split("\n\n")]
        kept = [any(line.startswith(" ") for line in part.split("\n")) for part in parts]
        filled = [part if as_is else textwrap.fill(part, width) for part, as_is in zip(parts, kept, strict=True)]
        return textwrap.indent("\n\n".join(filled), indent)


class Parser(ArgumentParser):
    """Says what is wrong in one line, as every other error, and not below the whole usage."""

    def error(self, message: str) -> NoReturn:
        """Ends the program with status 2."""
        for theirs, ours in _PLAIN:
            message = re.sub(theirs, ours, message)
        self.exit(2, f"{self.prog}: {message}. `{self.prog} --help` explains every option\n")
