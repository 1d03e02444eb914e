"""The errors that a user can cause: one line each, naming the file, the field, what was found and what was expected."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

_ODD = re.compile(r"[^ -~]")


def counted(number: int, noun: str, form: str = "") -> str:
    """ "1 step", "2 steps", "3 hypotheses"; form: of the number, such as "," between thousands."""
    ending = "es" if noun.endswith("s") else "s"
    plural = f"{noun[:-2]}es" if noun.endswith("is") else f"{noun}{ending}"
    return f"{number:{form}} {noun if number == 1 else plural}"


def printable(text: str, *, keep: str = "", escape: Callable[[str], str] = lambda letter: ascii(letter)[1:-1]) -> str:
    """Text without what steers a terminal, turns the writing direction or is not Unicode: the one rule for all output.

    Names are other people's text. Control and formatting characters, and the lone surrogates that stand for bytes of a
    file name that are not UTF-8, become escapes as Python has them: \\x1b, \\u202e, \\udcff. keep: what stays.
    """

    def shown(match: re.Match[str]) -> str:
        letter = match[0]
        stays = letter.isprintable() or letter in keep or unicodedata.category(letter) == "Zs"
        return letter if stays else escape(letter)

    return text if text.isprintable() else _ODD.sub(shown, text)


class ModiffError(Exception):
    """Base of every error that modiff raises on purpose; the command prints it in one line and exits with 2."""

    def __init__(
        self,
        message: str,
        *,
        path: str | Path | None = None,
        field: str | None = None,
        found: object = None,
        expected: object = None,
        hint: str | None = None,
    ) -> None:
        self.message, self.path, self.field = message, path, field
        self.found, self.expected, self.hint = found, expected, hint
        known = {"found": found, "expected": expected}
        facts = "; ".join(f"{word} {value}" for word, value in known.items() if value is not None)
        self.details = ". ".join(part for part in (facts, hint) if part)  # what the line says after the message
        where = "".join(f"{part}: " for part in (path, field) if part is not None)
        text = f"{where}{message}{f'; {facts}' if facts else ''}{'' if hint is None else f'. {hint}'}"
        super().__init__(printable(" ".join(text.split())))


class DataError(ModiffError):
    """A data set, image, mask or store that is not what it should be."""


class ConfigError(ModiffError):
    """A setting that does not exist, has the wrong type, or contradicts another."""


class CheckpointError(ModiffError):
    """A run folder, training checkpoint or weights file that cannot be used as asked."""


class TrainingError(ModiffError):
    """Training that cannot continue."""


class MetricError(ModiffError):
    """Samples and ground truth that cannot be scored against each other."""
