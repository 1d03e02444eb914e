"""What goes to a terminal or a log: names are other people's text, and never steer it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, TextIO

from modiff.errors import printable

if TYPE_CHECKING:
    from rich.console import Console


class SafeStream:
    """A text stream that escapes what would steer a terminal, and what its own encoding lacks; lines stay lines."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Writes text as `printable` shows it."""
        encoding = self.stream.encoding or "utf-8"
        self.stream.write(printable(text, keep="\n\t").encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def safe_output() -> Iterator[None]:
    """Whatever the block prints, by whichever library, goes through a `SafeStream`."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(SafeStream, before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


@cache
def _console_class() -> type[Console]:
    from rich.console import Console
    from rich.segment import Segment

    class Safe(Console):
        """Its own colours and moves pass; the texts are escaped."""

        def render(self, *args: Any, **more: Any) -> Iterator[Segment]:
            for segment in super().render(*args, **more):
                text = segment.text if segment.control else printable(segment.text, keep="\n")
                yield segment if text == segment.text else Segment(text, segment.style)

    return Safe


def console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console for whose texts neither markup nor emoji codes nor control characters mean anything."""
    stream = sys.stderr if stderr else sys.stdout
    while isinstance(stream, SafeStream):  # the console's own escapes are wanted
        stream = stream.stream
    return _console_class()(file=stream, width=width, markup=False, emoji=False, highlight=False)
