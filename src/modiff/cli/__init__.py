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

from modiff.cli.threads import limit_threads

VERBS = {
    "demo": ("demo", "simulated data, a small MoDiff trained on the CPU, samples, scores, a report"),
    "import": ("import_", "bring a multi-rater data set into one file, the store"),
    "info": ("info", "describe a store: cases, raters, agreement, splits; or say what a method costs"),
    "check": ("check", "list what is wrong or suspicious in a data set before you train on it"),
    "train": ("train", "train a method on a store; the same command resumes"),
    "evaluate": ("evaluate", "score samples of a model, or of any program from files, and write tables"),
    "compare": ("compare", "paired differences on the same images; quality against seconds per image"),
    "benchmark": ("benchmark", "train and score several methods alike; tables with intervals; resumable"),
    "sample": ("sample", "draw the hypotheses for an image of yours, with their probabilities"),
    "report": ("report", "write one self-contained HTML page about a run"),
}
_COMPUTE = ("demo", "train", "evaluate", "benchmark", "sample")
_GROUPS = {
    "start": ("demo",),
    "data": ("import", "info", "check"),
    "models": ("train", "evaluate", "compare", "benchmark"),
    "use": ("sample", "report"),
}


def _usage() -> str:
    width = max(map(len, VERBS))
    groups = "\n\n".join(
        f"{title}:\n" + "\n".join(f"  {verb:<{width}}  {VERBS[verb][1]}" for verb in verbs)
        for title, verbs in _GROUPS.items()
    )
    return (
        "usage: modiff VERB [options]\n\n"
        "Medical image segmentation where experts disagree: learns from every rater's mask, draws any\n"
        "number of plausible segmentations with their probabilities, scores them by the field's metrics.\n\n"
        f"{groups}\n\n"
        "`modiff VERB --help` explains each; `modiff --version` prints the version.\n"
        "Research software, not a medical device.\n"
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
            args = verb.parser(f"modiff {words[0]}").parse_args(words[1:])
            if words[0] in _COMPUTE and "torch" not in sys.modules:
                limit_threads()
            return verb.run(args) or 0
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
