"""How every command's help is laid out: paragraphs filled to the terminal and at most 100 columns."""

from __future__ import annotations

import shutil
import textwrap
from argparse import HelpFormatter as Plain

WIDTH = 100


class HelpFormatter(Plain):
    """Fills each paragraph of description and epilog; one with an indented line is a list or a command and is kept."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=min(WIDTH, shutil.get_terminal_size().columns) - 2)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts = [part.strip("\n") for part in textwrap.dedent(text).split("\n\n")]
        kept = [any(line.startswith(" ") for line in part.split("\n")) for part in parts]
        filled = [part if as_is else textwrap.fill(part, width) for part, as_is in zip(parts, kept, strict=True)]
        return textwrap.indent("\n\n".join(filled), indent)
