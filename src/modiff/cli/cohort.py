"""`modiff sample` of a cohort: many scans, by one or several processes."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modiff.cli.options import asked
from modiff.cli.sampling import limits_of, maker_of
from modiff.cli.threads import VARIABLE
from modiff.config.evaluation import SampleConfig
from modiff.errors import ConfigError, counted

if TYPE_CHECKING:
    from modiff.prediction.cohort.table import Entry


def run_cohort(args: argparse.Namespace, *, at: Any, **given: Any) -> int:
    """Draws all that is not there yet, writes the tables; 1 where something failed."""
    from modiff.io.output import check_file_output
    from modiff.io.progress import progress_bar
    from modiff.prediction.cohort.scans import scans_of

    path, output = Path(args.image[0]), args.output
    _check(args, at)
    limits = limits_of(args)
    scans = scans_of(path, output, limits)
    total = sum(len(scan.lesions) for scan in scans)
    check_file_output(output / "cohort.csv")

    from modiff.prediction.cohort.run import Cohort
    from modiff.prediction.settings import Settings

    settings = Settings(at=None, **given, **asked(args, SampleConfig))
    args.device, *others = _devices(args)
    maker = maker_of(args)
    if path.is_dir() and not args.identify and any(scan.confidential for scan in scans):
        words = ["FOLDER" if Path(word) == path else word for word in shlex.split(maker.command)]
        maker = replace(maker, command=shlex.join(words))
    cohort = Cohort(scans, output, maker, settings, limits, overwrite=args.overwrite, server=args.send)
    cohort.begin()
    helpers = 0 if args.helper_of else min(max(args.workers, args.devices), total) - 1
    with (
        _helpers(helpers, args, [args.device, *others]) as wait,
        progress_bar("sampling", "lesions", quiet=args.quiet) as show,
    ):
        start, proceed = _start(args)
        left = {lesion.name for scan in cohort.left(failed=True).scans for lesion in scan.lesions}
        done, todo = 0, len(left)  # what others draw meanwhile is not counted
        for name, worked in cohort.draw(start=start, proceed=proceed):
            done, todo = done + worked, todo - (name in left and not worked)
            show(done, max(done, todo))
        wait()
        for _ in cohort.left().draw(proceed=proceed):  # what a process had that was killed
            pass
    if args.helper_of:
        return 0

    from modiff.report.cohort import write_cohort

    called = str(path) if path.is_file() or args.identify else "a folder"
    title = f"modiff sample {args.model}: {called}"
    found = write_cohort(scans, output, title=title, identify=args.identify, requests=cohort.requests)
    return _say(found, output, quiet=args.quiet)


def _check(args: argparse.Namespace, at: Any) -> None:
    """ConfigError for options that are of one scan."""
    if args.output is None:
        raise ConfigError("is needed for a cohort", field="-o", expected="a folder for all results")
    hints = {"--at": "A table has columns for it: scan, x, y, z", "--series": "A table has a column for it: series"}
    given = {"--at": at, "--roi": getattr(args, "roi", None), "--json": args.json or None, "--series": args.series}
    for field, value in given.items():
        if value is not None:
            raise ConfigError("applies to one scan, not to a cohort", field=field, hint=hints.get(field))


def _start(args: argparse.Namespace) -> tuple[float, Callable[[], bool]]:
    """From which fraction of the list on this process works, and whether it still should."""
    if args.helper_of:
        parent, place = args.helper_of
        return place / 1000, lambda: os.getppid() == parent
    own, count = _task()
    return own / count, lambda: True


def _task() -> tuple[int, int]:
    """Which of how many tasks this is, by SLURM: of an array, of a job on several nodes, or of both."""
    own, count = 0, 1
    for name, least, total in (("ARRAY_TASK_ID", "ARRAY_TASK_MIN", "ARRAY_TASK_COUNT"), ("PROCID", "", "NTASKS")):
        texts = [os.environ.get(f"SLURM_{variable}", "") if variable else "0" for variable in (name, least, total)]
        if all(text.isdecimal() for text in texts) and int(texts[2]) > 0:
            number, first, tasks = map(int, texts)
            own, count = own * tasks + (number - first) % tasks, count * tasks
    return own, count


def _devices(args: argparse.Namespace) -> list[str]:
    """The devices that processes take in turn; ConfigError for more GPUs than there are."""
    if args.devices == 1:
        return [args.device]
    import torch

    there = torch.cuda.device_count()
    if args.device not in ("auto", "cuda", "gpu"):
        hint = "--workers is for CPUs" if args.device == "cpu" else "Leave one of the two out"
        raise ConfigError("counts GPUs", field="--devices", found=f"--device {args.device}", hint=hint)
    if args.devices > there:
        expected = f"at most {there}, as many as this machine has" if there else "a machine with GPUs"
        raise ConfigError("are not there", field="--devices", found=args.devices, expected=expected)
    return [f"cuda:{number}" for number in range(args.devices)]


@contextmanager
def _helpers(count: int, args: argparse.Namespace, devices: Sequence[str]) -> Iterator[Callable[[], None]]:
    """Further processes that draw the same cohort, on the devices in turn; the block's value waits for them. They end
    with it."""
    own, tasks = _task()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get(VARIABLE) or str(max(1, cores // (count + 1)))
    environment = {**os.environ, VARIABLE: threads}
    running: list[subprocess.Popen[bytes]] = []

    def wait() -> None:
        for process in running:
            process.wait()

    try:
        for place in range(1, count + 1):
            start = int(1000 * (own + place / (count + 1)) / tasks)
            more = ["--quiet", "--workers", "1", "--devices", "1", "--device", devices[place % len(devices)]]
            more += ["--helper-of", str(os.getpid()), str(start)]
            command = [sys.executable, "-m", "modiff", *args.words, *more]
            running.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL))
        yield wait
    finally:
        for process in running:
            if process.poll() is None:
                process.terminate()
        wait()


def _say(found: Sequence[Entry], output: Path, *, quiet: bool) -> int:
    """Prints how many are done, and a table of failures; 1 where there are any."""
    from rich.table import Table

    from modiff.terminal import console as terminal

    console = terminal()
    failed = [entry for entry in found if entry.status == "failed"]
    if failed:
        table = Table(title="Failed", title_justify="left")
        for name in ("row", "folder", "why"):
            table.add_column(name, overflow="fold")
        for entry in failed:
            table.add_row(entry.lesion.row, entry.lesion.name, entry.error)
        console.print(table)
    done, left = (sum(entry.status == status for entry in found) for status in ("done", "unfinished"))
    words = [f"{done} of {counted(len(found), 'lesion')} done"]
    words += [f"{len(failed)} failed"] if failed else []
    words += [f"{left} unfinished: other processes have them, or the same command resumes"] if left else []
    console.print(f"{', '.join(words)}. Written to {output}: cohort.csv, cohort.html", soft_wrap=True)
    return 1 if failed else 0
