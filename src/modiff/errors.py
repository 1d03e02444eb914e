"""The errors that a user can cause: one line each, naming the file, the field, what was found and what was expected."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Any, Self

_MOST = 200  # characters of what was found that a message shows
_MOST_WORDS = 1000  # of any other part of it, some of which name what was found too


def shown(value: object) -> str:
    """A value as Python writes it, up to what a message shows: no more of it is written out, however large it is."""
    text = ""
    for part in _written(value):
        text += part
        if len(text) > _MOST:
            break
    return _cut(text, _MOST)


def _written(value: object) -> Iterator[str]:
    if isinstance(value, str | bytes):
        yield repr(value[: _MOST + 1])
    elif isinstance(value, date):
        yield str(value)
    elif type(value) is int and value.bit_length() > 4 * _MOST:  # writing it would take long, or be refused
        yield f"a number of about {value.bit_length() * 3 // 10} digits"
    elif isinstance(value, dict) and type(value) is dict:
        yield from _joined("{", value.items(), "}")
    elif isinstance(value, list | tuple) and type(value) in (list, tuple):
        before, after = "[]" if isinstance(value, list) else ("(", ",)" if len(value) == 1 else ")")
        yield from _joined(before, ((item,) for item in value), after)
    else:
        yield repr(value)


def _joined(before: str, items: Iterable[tuple[object, ...]], after: str) -> Iterator[str]:
    yield before
    for place, item in enumerate(items):
        yield ", " if place else ""
        for position, part in enumerate(item):
            yield ": " if position else ""
            yield from _written(part)
    yield after


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _words(value: object) -> str:
    """What was found, as a message shows it: texts and names of files bare, plain data as Python writes them."""
    plain = type(value) in (dict, list, tuple, int)
    return _cut(shown(value) if plain else str(value), _MOST)


def _is_public(field: str | None) -> bool:
    """Whether a field is an option or an element of DICOM, which a file's name is not."""
    from pydicom.datadict import tag_for_keyword

    return field is not None and (field.startswith("--") or tag_for_keyword(field) is not None)


def _is_number(value: object) -> bool:
    """Whether there is nothing else in a value."""
    if isinstance(value, list | tuple):
        return all(map(_is_number, value))
    return isinstance(value, int | float)


_ODD = re.compile(r"[^ -~]")


def counted(number: int, noun: str, form: str = "") -> str:
    """ "1 step", "2 steps", "3 hypotheses"; form: of the number, such as "," between thousands."""
    ending = "es" if noun.endswith(("s", "ch")) else "s"
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


def one_line(text: str) -> str:
    """Text in a line, whose names keep no line ends either."""
    return printable(" ".join(text.split()))


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
        known = {"found": None if found is None else _words(found), "expected": expected}
        facts = "; ".join(f"{word} {_cut(str(part), _MOST_WORDS)}" for word, part in known.items() if part is not None)
        self.details = ". ".join(part for part in (facts, hint) if part)  # what the line says after the message
        where = "".join(
            f"{part}: " for part in (path, None if field is None else _cut(field, _MOST)) if part is not None
        )
        text = (
            f"{where}{_cut(message, _MOST_WORDS)}{f'; {facts}' if facts else ''}{'' if hint is None else f'. {hint}'}"
        )
        super().__init__(one_line(text))

    @property
    def reason(self) -> str:
        """The error without its path, which may name a patient."""
        return ": ".join(filter(None, (self.field, self.message, self.details)))

    @property
    def public(self) -> str:
        """The error without what may name a patient: path, names of files, texts that were found; numbers stay."""
        field = self.field if _is_public(self.field) else None
        found = self.found if _is_number(self.found) else None
        return str(type(self)(self.message, field=field, found=found, expected=self.expected, hint=self.hint))

    def at(self, path: str | Path) -> Self:
        """The same error about a file."""
        more: dict[str, Any] = {"found": self.found, "expected": self.expected, "hint": self.hint}
        return type(self)(self.message, path=path, field=self.field, **more)


class DataError(ModiffError):
    """A data set, image, mask or store that is not what it should be."""


class InUse(DataError):
    """A place that another process writes to just now."""


class ConfigError(ModiffError):
    """A setting that does not exist, has the wrong type, or contradicts another."""


class CheckpointError(ModiffError):
    """A run folder, training checkpoint or weights file that cannot be used as asked."""


class TrainingError(ModiffError):
    """Training that cannot continue."""


class MetricError(ModiffError):
    """Samples and ground truth that cannot be scored against each other."""
