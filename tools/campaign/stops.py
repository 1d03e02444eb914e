"""Stops: killed at any instant or file operation, a disk that is full or fails, no locks, two at a time, two processes.

Afterwards the same command finishes, its result is that of an undisturbed one, and nothing is left over.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from random import Random

import torch
from safetensors.torch import load_file
from tools.campaign.run import Child, Outcome, Target, Try
from tools.campaign.scenes import Events, World

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
VERBS = (
    "train",
    "resume",
    "evaluate",
    "evaluate-on",
    "sample",
    "cohort",
    "import-png",
    "import-zip",
    "import-lidc",
    "import-hdf5",
)
VERBS += ("score-npz", "compare", "benchmark-new", "tables", "report", "page", "sheet")
_NEW = ("sample", "import-png", "import-zip", "import-lidc", "import-hdf5")  # what is there already is refused
Prepare = Callable[[], object]
_NOTHING: Prepare = lambda: None  # noqa: E731


def kills(world: World) -> dict[str, Target]:
    """By file event and by instant; a few in an interpreter of its own, from its first moment on."""
    quick = {"score-npz": 1, "evaluate-on": 1, "import-png": 2, "train": 1}
    found = {f"event:{name}": Target(partial(_at_event, world, name), quick=quick.get(name, 0)) for name in VERBS}
    found |= {f"instant:{name}": Target(partial(_at_instant, world, name, False)) for name in VERBS}
    fresh = ("train", "sample", "import-lidc")
    return found | {f"process:{name}": Target(partial(_at_instant, world, name, True)) for name in fresh}


def _at_event(world: World, name: str, attempt: Try, rng: Random) -> None:
    scene, number, at = world.lay(name, attempt), rng.choice(SIGNALS), rng.randint(1, world.clean(name).events)
    events = Events(attempt.place, at, lambda _: events.count == at and os.kill(os.getpid(), number))
    _ended(attempt, Child(scene.words, attempt.place, events), number)
    _again(world, name, attempt, f"signal {number} at file event {at}")


def _at_instant(world: World, name: str, fresh: bool, attempt: Try, rng: Random) -> None:
    scene, number = world.lay(name, attempt), rng.choice(SIGNALS)
    seconds = rng.random() * (world.clean(name).seconds + 15 * fresh)
    child = Child(scene.words, attempt.place, fresh=fresh)
    _sleep(child, seconds)
    child.signal(number)
    _ended(attempt, child, number, early=fresh)
    _again(world, name, attempt, f"signal {number} after {seconds:.2f} s")


def _sleep(child: Child, seconds: float) -> None:
    """Waits, but not beyond the child's end."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.002)


def _ended(attempt: Try, child: Child, number: int, *, early: bool = False) -> Outcome:
    """How a command ends that got a signal. early: perhaps before it could see to signals."""
    statuses = [0, 130, -number] if number == signal.SIGKILL or early else [0, 130]
    statuses += [1] if child.words[0] == "benchmark" else []
    outcome = child.wait()
    if early and number != signal.SIGKILL and outcome.status < 0:
        attempt.outcomes.append(outcome)  # Python's own traceback of an interrupted import
    else:
        attempt.note(outcome, statuses)
    attempt.check(not child.survivors(), "left a process running")
    return outcome


def _again(world: World, name: str, attempt: Try, what: str) -> None:
    """The same command, undisturbed."""
    scene, clean = world.scenes[name], world.clean(name)
    outcome = attempt.run(scene.words, (0, 2) if name in _NEW else (0,))
    if outcome.status == 2:
        there = all((attempt.place / made).exists() for made in scene.makes)
        attempt.check(there, f"{what}: then refused: {outcome.err.strip()[-200:]}")
    _same(world, name, attempt, outcome, what)
    attempt.check(not (extra := world.names(attempt.place) - clean.names), f"{what}: left over: {sorted(extra)[:3]}")


def _same(world: World, name: str, attempt: Try, outcome: Outcome, what: str) -> None:
    with suppress(FileNotFoundError):
        try:
            differs = world.clean(name).differs(world.scenes[name].result(attempt.place, outcome), ["printed"])
        except ValueError as error:
            differs = [f"not whole: {error}"]
        attempt.check(not differs, f"{what}: another result: {', '.join(differs[:4])}")


def places(world: World) -> dict[str, Target]:
    """Disks that are full, fail, are read-only, or take files up to a size; standard output that is full or closed."""
    found = {}
    for name in VERBS:
        once = int(name in ("import-png", "evaluate-on"))
        found[f"fails:{name}"] = Target(partial(_fails, world, name), quick=once)
        found[f"limit:{name}"] = Target(partial(_limited, world, name), quick=int(name == "import-zip"))
        found[f"full:{name}"] = Target(partial(_full, world, name), quick=int(name == "import-png"))
        found[f"read-only:{name}"] = Target(partial(_read_only, world, name), once=True)
        found[f"handles:{name}"] = Target(partial(_few_handles, world, name))
        found[f"no TMPDIR:{name}"] = Target(partial(_no_temporary, world, name), once=True)
        for kind in ("file", "folder", "link"):
            found[f"a {kind} there:{name}"] = Target(partial(_occupied, world, name, kind), once=True)
    for kind in ("full", "closed"):
        found[f"output-{kind}"] = Target(partial(_no_output, world, kind), once=True, quick=1)
    return found


def _refused(world: World, name: str, attempt: Try, prepare: Prepare, what: str) -> None:
    """A disturbed command, which ends with its result or one line; then the same undisturbed."""
    scene = world.scenes[name]
    statuses = (0, 1, 2) if name in ("cohort", "benchmark-new") else (0, 2)
    outcome = attempt.run(scene.words, statuses, prepare)
    attempt.wrong[:] = [fault if fault.startswith(what) else f"{what}: {fault}" for fault in attempt.wrong]
    if name in _NEW and outcome.status == 2 and not what.endswith(" there"):
        attempt.check(not any((attempt.place / made).exists() for made in scene.makes), f"{what}: half-written")
    attempt.check_clean()


def _fails(world: World, name: str, attempt: Try, rng: Random) -> None:
    """From a file event on, nothing new can be made; what is there can be removed."""
    world.lay(name, attempt)
    at, number = (
        rng.randint(1, world.clean(name).events),
        rng.choice((errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES)),
    )

    def act(operation: str) -> None:
        if operation not in ("os.remove", "os.rmdir", "shutil.rmtree"):
            raise OSError(number, os.strerror(number))

    what = f"{errno.errorcode[number]} from file event {at} on"
    _refused(world, name, attempt, Events(attempt.place, at, act), what)
    _again(world, name, attempt, what)


def _limited(world: World, name: str, attempt: Try, rng: Random) -> None:
    world.lay(name, attempt)
    size = int(2 ** rng.uniform(12, 21))
    _refused(
        world, name, attempt, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)), f"files ≤ {size} bytes"
    )
    _again(world, name, attempt, f"after a limit of {size} bytes")


def _few_handles(world: World, name: str, attempt: Try, rng: Random) -> None:
    world.lay(name, attempt)
    count = rng.randint(8, 64)
    what = f"{count} open files"
    _refused(world, name, attempt, lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (count, count)), what)
    _again(world, name, attempt, f"after {what}")


def _no_temporary(world: World, name: str, attempt: Try, rng: Random) -> None:
    """The system's place for temporary files is gone: nothing is made there."""
    scene = world.lay(name, attempt)

    def prepare() -> None:
        os.environ["TMPDIR"] = tempfile.tempdir = "/nowhere"

    _same(world, name, attempt, attempt.run(scene.words, (0,), prepare), "no TMPDIR")


def _occupied(world: World, name: str, kind: str, attempt: Try, rng: Random) -> None:
    """Something else has the place of what is to be made: it is refused, or stays where it can."""
    scene = world.lay(name, attempt)
    place = attempt.place / scene.makes[0]
    if place.exists():  # a folder that the command works in
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    {"file": lambda: place.write_text("mine"), "folder": place.mkdir, "link": lambda: place.symlink_to(place)}[kind]()
    _refused(world, name, attempt, _NOTHING, f"a {kind} is there")
    attempt.check(place.is_symlink() or place.exists(), f"a {kind} was there and is gone")


@contextmanager
def _small_disk(attempt: Try) -> Iterator[bool]:
    """The try's folder is a file system of its own of 64 MiB, where that can be mounted."""
    words = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(attempt.place)]
    there = shutil.which("mount") and subprocess.run(words, capture_output=True, check=False).returncode == 0
    if not there:
        attempt.skipped = "no file system can be mounted here"
    try:
        yield bool(there)
    finally:
        if there:
            subprocess.run(["umount", str(attempt.place)], check=True)


def _full(world: World, name: str, attempt: Try, rng: Random) -> None:
    with _small_disk(attempt) as mounted:
        if not mounted:
            return
        world.lay(name, attempt)
        free, filling = int(2 ** rng.uniform(10, 22)), attempt.place / "fill"
        filling.write_bytes(bytes(max(0, shutil.disk_usage(attempt.place).free - free)))
        _refused(world, name, attempt, _NOTHING, f"{free} bytes free")
        filling.unlink()
        _again(world, name, attempt, f"after a disk with {free} bytes free")


def _read_only(world: World, name: str, attempt: Try, rng: Random) -> None:
    with _small_disk(attempt) as mounted:
        if not mounted:
            return
        world.lay(name, attempt)
        remount = ["mount", "-o", "remount,{}", str(attempt.place)]
        subprocess.run([word.format("ro") for word in remount], check=True)
        _refused(world, name, attempt, _NOTHING, "read-only")
        subprocess.run([word.format("rw") for word in remount], check=True)
        _again(world, name, attempt, "after a read-only disk")


def _no_output(world: World, kind: str, attempt: Try, rng: Random) -> None:
    scene = world.lay("info", attempt)

    def prepare() -> None:
        if kind == "full":
            os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
        else:
            reading, writing = os.pipe()
            os.close(reading)
            os.dup2(writing, 1)

    outcome = attempt.run(scene.words, (2,) if kind == "full" else (1,), prepare)
    attempt.check(kind == "full" or not outcome.err, f"a broken pipe says {outcome.err[:200]!r}")


def pairs(world: World) -> dict[str, Target]:
    """Two processes at a time with the same command."""
    quick = {"sample": 1, "import-png": 1}
    return {name: Target(partial(_pair, world, name), quick=quick.get(name, 0)) for name in VERBS}


def _pair(world: World, name: str, attempt: Try, rng: Random) -> None:
    scene = world.lay(name, attempt)
    gap = rng.choice((0.0, rng.random() * world.clean(name).seconds))
    first = Child(scene.words, attempt.place)
    time.sleep(gap)
    both = [first, Child(scene.words, attempt.place)]
    outcomes = [child.wait() for child in both]
    for outcome in outcomes:
        attempt.note(outcome, (0, 2))
    codes = [outcome.status for outcome in outcomes]
    attempt.check(0 in codes, f"gap {gap:.2f} s: neither finished")
    attempt.check(name not in _NEW or codes != [0, 0], f"gap {gap:.2f} s: both say that they wrote it")
    _same(world, name, attempt, outcomes[0], f"gap {gap:.2f} s")
    attempt.check_clean()


def locks(world: World) -> dict[str, Target]:
    """File systems that cannot lock, or not wait for the disk."""
    found = {}
    for name in VERBS:
        for number in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            quick = int(name in ("score-npz", "import-png") and number == errno.ENOLCK)
            found[f"{errno.errorcode[number]}:{name}"] = Target(partial(_no_locks, world, name, number), True, quick)
    for name in ("info", "train", "import-png", "import-hdf5", "score-h5"):
        found[f"library:{name}"] = Target(partial(_no_library_locks, world, name), once=True)
    return found


def _no_locks(world: World, name: str, number: int, attempt: Try, rng: Random) -> None:
    scene = world.lay(name, attempt)

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    def prepare() -> None:
        fcntl.flock = refuse
        fcntl.lockf = refuse

    outcome = attempt.run(scene.words, (0,), prepare)
    _same(world, name, attempt, outcome, errno.errorcode[number])
    attempt.check_clean()


_NO_FLOCK = "#include <errno.h>\nint flock(int f, int o) { errno = ENOLCK; return -1; }\n"


def _no_library_locks(world: World, name: str, attempt: Try, rng: Random) -> None:
    """flock fails in C too, where HDF5 asks for it."""
    library = world.folder / "noflock.so"
    if shutil.which("cc") is None:
        attempt.skipped = "no C compiler"
        return
    if not library.exists():
        words = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
        subprocess.run(words, input=_NO_FLOCK.encode(), check=True)
    scene = world.lay(name, attempt)
    outcome = attempt.run(scene.words, (0,), lambda: os.environ.update(LD_PRELOAD=str(library)), fresh=True)
    _same(world, name, attempt, outcome, "no locks at all")


def processes(world: World) -> dict[str, Target]:
    """A training on two processes, and one on a GPU, killed and resumed."""
    two = ("--trainer.devices", "2")
    gpu = ("--device", "cuda", "--trainer.precision", "auto")
    return {"ddp": Target(partial(_several, world, two)), "gpu": Target(partial(_several, world, gpu))}


_weights: dict[tuple[str, ...], dict[str, torch.Tensor]] = {}


def _several(world: World, more: tuple[str, ...], attempt: Try, rng: Random) -> None:
    """One of the processes is killed: the others end too, and the same command finishes with the same weights."""
    if "cuda" in more and subprocess.run(["sh", "-c", "nvidia-smi -L"], capture_output=True, check=False).returncode:
        attempt.skipped = "no CUDA device"
        return
    scene = world.scenes["train"]
    if more not in _weights:
        with world.aside() as other:
            world.lay("train", other)
            other.run((*scene.words, *more), (0,), fresh=True)
            attempt.wrong += other.wrong
            if other.wrong:
                return
            _weights[more] = load_file(other.place / "run/weights.safetensors")
    world.lay("train", attempt)
    child = Child((*scene.words, *more), attempt.place, fresh=True)
    begun, until = (
        attempt.place / "run" / rng.choice(("training.ckpt", "log.jsonl", "config.yaml")),
        time.monotonic() + 120,
    )
    while not begun.exists() and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(rng.random() * 0.5)
    which = rng.choice(_members(child) or [child.pid])
    with suppress(ProcessLookupError):
        os.kill(which, signal.SIGKILL)
    outcome = child.wait()
    attempt.outcomes.append(outcome)
    attempt.check(not outcome.over, f"process {which - child.pid} of the group killed: the first never ends")
    attempt.check(not child.survivors(30), f"process {which - child.pid} of the group killed: others live on")
    attempt.run((*scene.words, *more), (0,), fresh=True)
    found = load_file(attempt.place / "run/weights.safetensors")
    exact = "cuda" not in more
    same = all(torch.equal(value, found[name]) if exact else torch.allclose(value, found[name], 1e-2, 1e-3)
               for name, value in _weights[more].items())  # fmt: skip
    attempt.check(same, "other weights than those of an undisturbed training")


def _members(child: Child) -> list[int]:
    """The trainings in a command's process group."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            own = os.getpgid(int(path.name)) == child.pid
            if own and b"train" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
    return sorted(found)
