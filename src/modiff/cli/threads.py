"""How many threads to compute with: as many as cores are idle, for threads that wait on one another crawl.

On two cores that other programs keep busy, a training with two threads saw an eighth of the images of one thread's.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import MutableMapping
from pathlib import Path

_STAT, _QUOTA = Path("/proc/stat"), Path("/sys/fs/cgroup/cpu.max")
_SECONDS = 0.2  # over which idleness is measured
VARIABLE = "OMP_NUM_THREADS"


def limit_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Sets OMP_NUM_THREADS, which torch reads when it loads, to the idle cores; a user's own value stays.

    Says so where these are fewer than all. Without Linux's /proc nothing is set.
    """
    if VARIABLE in environment or not hasattr(os, "sched_getaffinity"):
        return
    cores = os.sched_getaffinity(0)
    try:
        before = _STAT.read_text()
        time.sleep(_SECONDS)
        idle = idle_cores(before, _STAT.read_text(), cores)
        quota, period = _QUOTA.read_text().split() if _QUOTA.exists() else ("max", "1")
    except (OSError, ValueError):
        return
    allowed = len(cores) if quota == "max" else min(len(cores), max(1, int(quota) // int(period)))
    threads = max(1, min(allowed, round(idle)))
    if threads < len(cores):
        environment[VARIABLE] = str(threads)
        why = "others are busy" if threads < allowed else "this process may use no more"
        hint = f"{VARIABLE} sets another number"
        print(f"modiff: {threads} of {len(cores)} cores ({why}); {hint}", file=sys.stderr)


def idle_cores(before: str, after: str, cores: set[int]) -> float:
    """Of `cores`, how many were idle between two readings of /proc/stat; ValueError for other text."""
    first, second = _times(before), _times(after)
    idle = 0.0
    for core in cores & first.keys() & second.keys():
        spent = [late - early for early, late in zip(first[core], second[core], strict=True)]
        idle += (spent[3] + spent[4]) / max(1, sum(spent))  # idle, and waiting for a disk
    return idle


def _times(stat: str) -> dict[int, list[int]]:
    """Core -> its ticks as user, nice, system, idle, iowait, irq, softirq, steal."""
    lines = (line.split() for line in stat.splitlines() if line.startswith("cpu") and line[3:4].isdigit())
    return {int(name[3:]): [int(tick) for tick in ticks[:8]] for name, *ticks in lines}
