"""The command `modiff`: finds the verb's module and runs it.

A verb is a module of this package with `parser(prog) -> argparse.ArgumentParser` and `run(args) -> int | None`; its
texts and options are a page in `verbs/`, where modiff.txt lists all verbs. Only the verb that was asked for is
imported, and verbs import torch and the like inside their functions: help is instant.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module, resources

from modiff.cli.threads import limit_threads
from modiff.terminal import safe_output

VERBS = (
    *("demo", "import", "info", "check", "train", "evaluate", "compare", "benchmark", "sample", "view", "report"),
    "publish",
)
MODULES = {"import": "import_"}  # of verbs that cannot be the names of modules
_COMPUTE = ("demo", "train", "evaluate", "benchmark", "sample", "view", "report")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit status: 0, 1 (the answer is no), 2 (the user can mend it), 130 (interrupted).

    1 also where nobody reads what it prints any more, as Python has it.
    """
    with safe_output():
        return _answered(list(sys.argv[1:] if argv is None else argv))


def _answered(words: Sequence[str]) -> int:
    try:
        try:
            return _run(words)
        finally:
            sys.stdout.flush()  # what cannot be written shows here, not when Python ends
    except OSError as error:  # what no reader or writer has put into words of its own
        from modiff.io.files import reason_of

        broken, where = _silence(), "" if error.filename is None else f"{error.filename}: "
        if isinstance(error, BrokenPipeError) and not where:
            return 1
        with suppress(OSError):
            print(f"modiff: {where or 'standard output: ' * broken}{reason_of(error)}", file=sys.stderr)
        return 2


def _run(words: Sequence[str]) -> int:
    from modiff._version import __version__
    from modiff.errors import ModiffError, one_line

    if not words or words[0] in ("-h", "--help", "help"):
        print((resources.files("modiff.cli") / "verbs" / "modiff.txt").read_text(encoding="utf-8"))
        return 0
    if words[0] in ("-V", "--version"):
        print(f"modiff {__version__}")
        return 0
    if words[0] not in VERBS:
        print(one_line(f"modiff: no verb '{words[0]}'; the verbs are {', '.join(VERBS)}"), file=sys.stderr)
        return 2
    verb = import_module(f"modiff.cli.{MODULES.get(words[0], words[0])}")
    try:
        with _terminated_as_interrupted():
            if words[0] in _COMPUTE and not {"-h", "--help"} & {*words} and "torch" not in sys.modules:
                limit_threads()  # before the options are read: preset `auto` measures the store, which loads torch
            args = verb.parser(f"modiff {words[0]}").parse_args(words[1:])
            if words[0] == "sample":
                args.words = list(words)  # further processes are given the same
            return verb.run(args) or 0
    except ModiffError as error:
        print(f"modiff: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("modiff: interrupted", file=sys.stderr)
        return 130


def _silence() -> bool:
    """Whether what was printed cannot be written; then it is not tried again when Python ends."""
    failed = False
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            failed = True
            with suppress(OSError), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())
    return failed


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM, by which schedulers end a job, leaves nothing half-written either."""
    owner = os.getpid()

    def interrupt(number: int, frame: object) -> None:
        if os.getpid() == owner:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)  # a process that was started from this one
        os.kill(os.getpid(), number)

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
