"""python -m tools.campaign [options], from the repository's root: tries until the time is spent, and a table.

Ends with 1 where a try failed. Each failure is printed with the command that repeats it, and its files are kept.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import pkgutil
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tools.campaign.run import Target
    from tools.campaign.scenes import World

# Module and function of each kind, and its part of the time.
KINDS = {
    "planted": ("hostile", "planted", 1),
    "flips": ("damage", "targets", 3),
    "fuzz": ("formats", "targets", 6),
    "bombs": ("bombs", "targets", 1),
    "names": ("hostile", "names", 1),
    "canaries": ("hostile", "canaries", 1),
    "kills": ("stops", "kills", 4),
    "places": ("stops", "places", 4),
    "pairs": ("stops", "pairs", 2),
    "locks": ("stops", "locks", 1),
    "processes": ("stops", "processes", 1),
}
SHOWN = 4  # failures of one target that are printed


@dataclass
class Row:
    """A line of the table."""

    kind: str
    tries: int = 0
    failures: int = 0
    skipped: int = 0
    memory: float = 0.0
    cpu: float = 0.0
    failed: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Campaign:
    """The tries of one seed."""

    world: World
    folder: Path
    seed: int
    match: str = ""

    def attempt(self, row: Row, name: str, target: Target, number: int, *, shown: bool = True) -> None:
        """One try, counted."""
        from tools.campaign.run import Try

        at = f"{row.kind}/{name}/{number}"
        attempt = Try(Path(tempfile.mkdtemp(prefix="try-", dir=self.folder)))
        try:
            target.action(attempt, Random(f"{self.seed}/{at}"))
        except Exception as error:
            attempt.wrong.append(f"the kit itself: {type(error).__name__}: {error}")
        row.tries += 1
        row.skipped += attempt.skipped is not None
        row.memory = max([row.memory, *(outcome.memory for outcome in attempt.outcomes)])
        row.cpu = max([row.cpu, *(outcome.cpu for outcome in attempt.outcomes)])
        if attempt.skipped and shown:
            print(f"skipped {at}: {attempt.skipped}", flush=True)
        if not attempt.wrong:
            shutil.rmtree(attempt.place, ignore_errors=True)
            return
        row.failures += 1
        again = f"python -m tools.campaign --seed {self.seed} --only '{at}'"
        row.failed.append({"try": at, "wrong": attempt.wrong, "again": again})
        if sum(one["try"].startswith(f"{row.kind}/{name}/") for one in row.failed) > SHOWN:
            shutil.rmtree(attempt.place, ignore_errors=True)
        elif shown:
            kept = self.folder / "failed" / f"{self.seed}-{at}".replace("/", "-").replace(" ", "-")
            kept.parent.mkdir(exist_ok=True)
            shutil.rmtree(kept, ignore_errors=True)
            attempt.place.rename(kept)
            print(f"FAILED {at}")
            for fault in attempt.wrong:
                print(f"    {fault}"[:1000].encode("ascii", "backslashreplace").decode())
            print(f"    {again}\n    files: {kept}", flush=True)

    def kind(self, row: Row, seconds: float | None) -> None:
        """All targets once, then those with chance again until `seconds` are over; None: the quick subset."""
        found, began = _targets(row.kind, self.world), time.monotonic()
        found = {name: target for name, target in found.items() if self.match in name}
        if seconds is None:
            for name, target in found.items():
                for number in range(target.quick):
                    self.attempt(row, name, target, number)
            return
        for name, target in found.items():
            if target.once:
                self.attempt(row, name, target, 0)
        spent = {name: 0.0 for name, target in found.items() if not target.once}
        numbers = Counter[str]()
        while spent and (time.monotonic() - began < seconds or len(numbers) < len(spent)):
            name = min(spent, key=spent.__getitem__)  # the same time for each target
            start = time.monotonic()
            self.attempt(row, name, found[name], numbers[name])
            numbers[name] += 1
            spent[name] += time.monotonic() - start


def _targets(kind: str, world: World) -> dict[str, Target]:
    module, function, _ = KINDS[kind]
    return getattr(importlib.import_module(f"tools.campaign.{module}"), function)(world)


def _preload() -> None:
    """Imports all of modiff, and what its verbs import late, so that forked processes need not."""
    import modiff

    os.environ["PYTHONPATH"] = str(Path(modiff.__file__).parents[1])  # of processes that are started anew
    for module in pkgutil.walk_packages(modiff.__path__, "modiff."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("highdicom", "matplotlib.pyplot", "matplotlib.backends.backend_agg", "pandas", "scipy.ndimage"):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a forked process would copy all of it


def _table(rows: list[Row]) -> str:
    lines = [f"{'kind':<10}{'tries':>8}{'failures':>10}{'skipped':>9}{'MiB above start':>17}{'s of CPU':>10}"]
    total = Row("all", *(sum(getattr(row, name) for row in rows) for name in ("tries", "failures", "skipped")))
    total.memory, total.cpu = (max(getattr(row, name) for row in rows) for name in ("memory", "cpu"))
    for row in (*rows, total):
        lines.append(
            f"{row.kind:<10}{row.tries:>8}{row.failures:>10}{row.skipped:>9}{row.memory:>17.0f}{row.cpu:>10.1f}"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Runs the campaign; 0 where every try was fine."""
    made = argparse.ArgumentParser("python -m tools.campaign", description=__doc__)
    made.add_argument("--minutes", type=float, default=60, help="for all kinds together (%(default)s)")
    made.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="only these (all)")
    made.add_argument("--match", metavar="TEXT", default="", help="only targets with this in their names")
    made.add_argument("--quick", action="store_true", help="the subset that `make test` has, under a minute")
    made.add_argument("--seed", type=int, default=0, help="of all tries (%(default)s)")
    made.add_argument("--only", metavar="TRY", help="repeat one try, such as fuzz/import-zip:slices.zip/17")
    made.add_argument("--folder", type=Path, help="where data and failed tries are kept (a new temporary folder)")
    made.add_argument("--json", type=Path, metavar="FILE", help="also write the table and all failures")
    args = made.parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = "1"  # a pool of threads does not survive a fork
    os.environ["MPLBACKEND"] = "agg"
    folder = (args.folder or Path(tempfile.mkdtemp(prefix="campaign-"))).resolve()
    began = time.monotonic()
    _preload()

    from tools.campaign.scenes import World

    campaign = Campaign(World(folder / "world"), folder, args.seed, args.match)
    print(f"ready after {time.monotonic() - began:.0f} s; {folder}", flush=True)
    if args.only:
        kind, _, rest = args.only.partition("/")
        name, _, number = rest.rpartition("/")
        rows = [Row(kind)]
        campaign.attempt(rows[0], name, _targets(kind, campaign.world)[name], int(number))
    else:
        rows, parts = [], sum(KINDS[kind][2] for kind in args.kinds) or 1
        for kind in args.kinds:
            rows.append(Row(kind))
            campaign.kind(rows[-1], None if args.quick else 60 * args.minutes * KINDS[kind][2] / parts)
    print(f"\nseed {args.seed}, {time.monotonic() - began:.0f} s\n{_table(rows)}")
    if args.json:
        args.json.write_text(json.dumps([vars(row) for row in rows], indent=1) + "\n")
    failed = any(row.failures for row in rows)
    if not failed and args.folder is None:
        shutil.rmtree(folder)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
