"""The command `modiff`: finds the verb's module and runs it.

A verb is a module of this package with `parser(prog) -> argparse.ArgumentParser` and `run(args) -> int | None`. Only
the verb that was asked for is imported, and verbs import torch and the like inside their functions: help is instant.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

VERBS = {
    "demo": ("demo", "simulated data, a small MoDiff trained on the CPU, samples, scores and a report, in minutes"),
    "import": ("import_", "bring a multi-rater data set into one file, the store"),
    "info": ("info", "what is in a store: cases, raters, agreement, splits, provenance; or what a method costs"),
    "check": ("check", "what is wrong or suspicious in a data set, in words, before you train on it"),
    "train": ("train", "train a method on a store; the same command again resumes"),
    "evaluate": ("evaluate", "score samples, a model's for a split or any program's from files, and write tables"),
    "compare": ("compare", "paired differences between methods on the same images; quality against seconds per image"),
    "benchmark": ("benchmark", "several methods trained and scored alike, tables with intervals; resumable"),
    "sample": ("sample", "the hypotheses for an image of yours, with their probabilities"),
    "report": ("report", "one self-contained HTML page about a run"),
}


def _usage() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in VERBS.items())
    return (
        "usage: modiff VERB [options]\n\n"
        "Medical image segmentation where experts disagree: learn from every rater's mask, draw any number of\n"
        "plausible segmentations with their probabilities, score them by the field's metrics.\n\n"
        f"verbs:\n{verbs}\n\n"
        "`modiff VERB --help` explains each; `modiff --version` prints the version. Not a medical device.\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit status: 0, 1 (the answer is no), 2 (the user can mend it), 130 (interrupted)."""
    from modiff._version import __version__
    from modiff.errors import ModiffError

    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"modiff {__version__}")
        return 0
    if words[0] not in VERBS:
        print(f"modiff: no verb '{words[0]}'; the verbs are {', '.join(VERBS)}", file=sys.stderr)
        return 2
    verb = importlib.import_module(f"modiff.cli.{VERBS[words[0]][0]}")
    try:
        with _terminated_as_interrupted():
            return verb.run(verb.parser(f"modiff {words[0]}").parse_args(words[1:])) or 0
    except ModiffError as error:
        print(f"modiff: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("modiff: interrupted", file=sys.stderr)
        return 130


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


if __name__ == "__main__":
    sys.exit(main())
