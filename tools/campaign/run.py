"""Commands of modiff in forked processes, which have imported everything already: what they print, take and leave."""

from __future__ import annotations

import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MEMORY, CPU = 700.0, 2.0  # MiB and seconds that a hostile input may take above the program's own start
PATIENCE = 40.0  # seconds without any work after which a command hangs
LINE = 1200  # characters of a message, paths included
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_LEFT = re.compile(r"\.modiff-tmp$|\.tmp$|^\.tmp|^tmp[a-z0-9_]{8}$")
_LIBRARY = re.compile(r"^(TIFF|lib|HDF5|W\d{4}|\s+#\d+)|\.py:\d+: |Warning: ")  # lines that libraries print
_PAGE = os.sysconf("SC_PAGE_SIZE") / (1 << 20)


@dataclass(frozen=True)
class Outcome:
    """How a command ended. status: negative for a signal. memory: MiB above the start. over: what it exceeded."""

    words: tuple[str, ...]
    status: int
    out: str
    err: str
    memory: float
    cpu: float
    seconds: float
    over: str | None = None

    def faults(self, allowed: Sequence[int] = (0, 2), usual: float | None = None) -> Iterator[str]:
        """What is wrong. allowed: statuses. usual: seconds of CPU without the hostile input, if there is one."""
        if self.over:
            took = f"{self.seconds:.1f} s, {self.cpu:.1f} s CPU, {self.memory:.0f} MiB"
            yield f"took more {self.over} than it may: {took}"
        elif self.status not in allowed:
            yield f"exit status {self.status}: {(self.err.strip() or self.out.strip())[-300:]!r}"
        if "Traceback (most recent call last)" in self.err + self.out:
            yield f"a traceback: {self.err.strip().splitlines()[-1][:300]!r}"
        elif self.status == 2 and not self.over and self.words[0] != "check":  # which says it in its own form
            yield from self._message()
        if found := re.search(r" failed: (?!(?:Data|Config|Checkpoint|Training|Metric)Error)\w+", self.out):
            yield f"an error that is not typed: {found[0]}"
        if found := CONTROL.search(self.out + self.err):
            yield f"prints the control character {found[0]!r}"
        if usual is not None and not self.over and self.memory > MEMORY:
            yield f"took {self.memory:.0f} MiB above its start"
        if usual is not None and not self.over and self.cpu > CPU + usual:
            yield f"took {self.cpu:.1f} s CPU"

    def _message(self) -> Iterator[str]:
        """A refusal is one line, after warnings."""
        *others, last = self.err.strip().splitlines() or [""]
        if not re.match(r"modiff[ \w-]*: (?!warning: )", last):
            yield f"refused without a message: {last[:200]!r}"
        if len(last) > LINE:
            yield f"a message of {len(last)} characters"
        if strange := [line for line in others if _LIBRARY.search(line)]:
            yield f"prints a line of another's: {strange[0][:200]!r}"


class Child:
    """A running command in a process group of its own. place: its working folder. prepare: runs in it first."""

    def __init__(
        self, words: Sequence[str], place: Path, prepare: Callable[[], object] = lambda: None, *, fresh: bool = False
    ) -> None:
        """fresh: in an interpreter of its own, which starts other processes by its own command line."""
        self.words, self.place, self.fresh = tuple(words), place, fresh
        self.files = [tempfile.TemporaryFile() for _ in "oe"]  # noqa: SIM115  # until its end
        self.began, self.start = time.monotonic(), _resident(os.getpid(), inherited=True)
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            self._live(prepare)

    def _live(self, prepare: Callable[[], object]) -> None:
        code = 1
        try:
            os.setsid()
            signal.signal(signal.SIGTERM, lambda *_: os._exit(130))  # before and after the command's own
            signal.signal(signal.SIGINT, signal.default_int_handler)
            with open(os.devnull) as nothing:
                os.dup2(nothing.fileno(), 0)
            for number, file in enumerate(self.files, 1):
                os.dup2(file.fileno(), number)
            os.chdir(self.place)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            sys.argv = ["modiff", *self.words]
            prepare()
            if self.fresh:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                os.execv(sys.executable, [sys.executable, "-m", "modiff", *self.words])
            from modiff.cli import main

            code = main(self.words)
        except KeyboardInterrupt:
            code = 130  # before or after the command
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(BaseException):
                threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as at any end
            with suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def signal(self, number: int) -> None:
        """Sends a signal to the command alone."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self, usual: float | None = None) -> Outcome:
        """How it ends; by force where it hangs, or, with `usual`, once it takes far more than it may."""
        over, pause, worked, busy = None, 0.001, time.monotonic(), 0.0
        most = 100.0 if usual is None else 3 * CPU + 2 * usual
        while True:
            pid, status, used = os.wait4(self.pid, os.WNOHANG)
            if pid:
                break
            if (spent := _spent(self.pid)) != busy:
                busy, worked = spent, time.monotonic()
            if time.monotonic() - worked > PATIENCE:
                over = "time"
            elif usual is not None and _resident(self.pid) > self.start + 2 * MEMORY:
                over = "memory"
            elif spent > most:
                over = "CPU"
            if over:
                os.killpg(self.pid, signal.SIGKILL)
                _, status, used = os.wait4(self.pid, 0)
                break
            time.sleep(pause)
            pause = min(pause * 1.3, 0.02)
        self.seconds = time.monotonic() - self.began
        texts = []
        for file in self.files:
            file.seek(0)
            texts.append(file.read(1 << 20).decode("utf-8", "backslashreplace"))
            file.close()
        memory = max(0.0, used.ru_maxrss / 1024 - self.start)
        cpu = used.ru_utime + used.ru_stime
        code = os.waitstatus_to_exitcode(status)
        return Outcome(self.words, code, *texts, memory, cpu, self.seconds, over)

    def survivors(self, seconds: float = 5.0) -> bool:
        """Whether processes that it started live on, `seconds` after its end; they are ended."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                os.killpg(self.pid, 0)
            except (ProcessLookupError, PermissionError):
                return False
            time.sleep(0.02)
        os.killpg(self.pid, signal.SIGKILL)
        return True


def _resident(pid: int, *, inherited: bool = False) -> float:
    """MiB in memory. inherited: only what a fork takes along; it has to read pages of libraries' files anew."""
    with suppress(OSError, IndexError):
        _, all_pages, of_files = (int(word) for word in Path(f"/proc/{pid}/statm").read_text().split()[:3])
        return (all_pages - of_files * inherited) * _PAGE
    return 0.0


def _spent(pid: int) -> float:
    """Seconds of CPU so far."""
    with suppress(OSError, IndexError):
        parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def apart(action: Callable[[], object]) -> None:
    """Runs what uses libraries with threads, or may crash, in a process of its own; RuntimeError where it fails."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            action()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError(f"{action} failed")


@dataclass
class Try:
    """One try: its folder, its outcomes, and what was wrong."""

    place: Path
    outcomes: list[Outcome] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    skipped: str | None = None

    def run(
        self,
        words: Sequence[str],
        allowed: Sequence[int] = (0, 2),
        prepare: Callable[[], object] = lambda: None,
        *,
        usual: float | None = None,
        fresh: bool = False,
    ) -> Outcome:
        """Runs a command to its end and notes its faults."""
        outcome = Child(words, self.place, prepare, fresh=fresh).wait(usual)
        self.note(outcome, allowed, usual)
        return outcome

    def note(self, outcome: Outcome, allowed: Sequence[int], usual: float | None = None) -> None:
        """Keeps an outcome and its faults."""
        self.outcomes.append(outcome)
        self.wrong += outcome.faults(allowed, usual)

    def check(self, fine: Any, fault: str) -> None:
        """Notes a fault unless `fine`."""
        if not fine:
            self.wrong.append(fault)

    def check_clean(self) -> None:
        """Notes temporary files that lie in the try's folder."""
        left = [path for path in self.place.rglob("*") if _LEFT.search(path.name)]
        self.check(not left, f"left behind: {', '.join(str(path.relative_to(self.place)) for path in left[:3])}")

    def copy(self, parts: dict[str, Path]) -> None:
        """Puts copies of files and folders into the try's folder."""
        for name, path in parts.items():
            target = self.place / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if path.is_dir() else shutil.copyfile)(path, target)


@dataclass(frozen=True)
class Target:
    """What is tried. action: one try, from its own random numbers. once: nothing in it is random. quick: how many tries
    of it the quick subset has."""

    action: Callable[[Try, random.Random], None]
    once: bool = False
    quick: int = 0
