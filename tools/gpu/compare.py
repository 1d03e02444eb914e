"""Methods trained for the same time at their published widths, one after another, then scored on the same test images.

Made for fifteen minutes of one GPU in all (--total), in as many starts as it takes: --max-time ends a start, with
status 3, and the same command resumes. A part of the total is for training, shared equally; the rest is for scores, of
ever more test images (--limits), each number of them for all methods before the next. Ends with one line per figure, of
the most images that all methods are scored on; DIR/figures.csv has them too. A method that fails does not lose the
others (status 1).

    modiff import lidc-slices … --centre 64 -o lidc64.h5
    python tools/gpu/compare.py --data lidc64.h5 -o results/compare --max-time 9m
"""

from __future__ import annotations

import argparse
import csv
import gc
import io
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import stages

PAPER = ("modiff", "cimd", "ccdm", "prob_unet", "cflow", "mose")
MORE = ("ssn", "medfm")
PRESETS = {"modiff": "lidc"}  # the others' presets have their names
SPENT, FIGURES = "spent.json", "figures.csv"
SHOWN = ("ged", "hm_iou")


def steps_of(method: str, asked: list[str] | tuple[str, ...]) -> int | None:
    """["ccdm=25", …] -> that method's steps; None, its own default, where none are given."""
    from modiff.errors import ConfigError

    found = None
    for word in asked:
        name, _, number = word.partition("=")
        if not number.isdecimal():
            raise ConfigError("is not a method's steps", field="--steps", found=repr(word), expected="ccdm=25")
        found = int(number) if name == method else found
    return found


class Comparison:
    """What a start does: trains, scores, and keeps account of the time. failed: methods that did."""

    def __init__(self, args: argparse.Namespace) -> None:
        from modiff.config.run import parse_time
        from modiff.methods.run_folder import read_json

        self.args, self.failed, self.device = args, list[str](), stages.device_name(args)
        spent = args.output / SPENT
        self.before = float(read_json(spent)["seconds"]) if spent.exists() else 0.0
        total = parse_time(args.total, field="--total") or 0.0
        self.all_over = total - self.before
        limit = parse_time(args.max_time, field="--max-time")
        self.deadline = stages.Deadline(self.all_over if limit is None else min(limit, self.all_over))
        self.budget = args.budget or f"{total * args.training / len(args.methods):.1f}s"

    def each(self, work: Callable[[str], None]) -> None:
        """Does it for every method that has not failed."""
        import torch

        from modiff.errors import TrainingError

        for method in self.args.methods:
            if method in self.failed:
                continue
            try:
                work(method)
            except (TrainingError, RuntimeError):  # out of memory is a RuntimeError
                traceback.print_exc()
                self.failed.append(method)
            finally:
                gc.collect()  # a training's graph holds its memory
                if self.device == "cuda":
                    torch.cuda.empty_cache()

    def train(self, method: str) -> None:
        """Trains, or resumes; what is trained stays."""
        if self.trained(method):
            return
        args = argparse.Namespace(**vars(self.args) | {"budget": self.budget})
        named = (text.partition(".") for text in self.args.changes)
        args.changes = [setting for name, _, setting in named if name in (method, "all")]
        config = stages.configuration(args, method=method, preset=PRESETS.get(method, method))
        print(f"== {method}: training for {self.budget}", flush=True)
        stages.trained(config, args, self.args.output / method, self.deadline)

    def trained(self, method: str) -> bool:
        """Whether the budget is spent."""
        from modiff.config.run import parse_budget
        from modiff.methods.run_folder import read_json

        card = self.args.output / method / "model" / "card.json"
        if not card.exists():
            return False
        (seconds, images), facts = parse_budget(self.budget), read_json(card)
        return bool(facts["images_seen"] >= images if images else facts["seconds"] >= (seconds or 0.0) - 0.1)

    def score(self, limit: int) -> None:
        """Scores every method on so many images."""

        def one(method: str) -> None:
            folder, steps = self.args.output / method, (steps_of(method, self.args.steps),)
            args = argparse.Namespace(**vars(self.args) | {"limit": limit})
            print(f"== {method}: {limit} images", flush=True)
            stages.scored(folder / "model", args, folder / "evaluation", steps, self.deadline)

        self.each(one)

    def account(self) -> None:
        """Adds this start to the time spent."""
        from modiff.methods.run_folder import write_json

        self.args.output.mkdir(parents=True, exist_ok=True)
        write_json(self.args.output / SPENT, {"seconds": round(self.before + self.deadline.passed, 1)})

    def figures(self) -> list[dict[str, Any]]:
        """The main metrics of every method on the most images that all are scored on."""
        for limit in sorted(self.args.limits, reverse=True):
            rows = [list(self._figures(method, limit)) for method in self.args.methods if method not in self.failed]
            if rows and all(rows):
                return [row for of_method in rows for row in of_method]
        return []

    def _figures(self, method: str, limit: int) -> Iterator[dict[str, Any]]:
        from modiff.evaluation.records import read_result, select
        from modiff.methods.run_folder import read_json
        from modiff.metrics.protocols import PROTOCOLS

        folder = self.args.output / method
        chosen = stages.settings(
            argparse.Namespace(**vars(self.args) | {"limit": limit}), steps_of(method, self.args.steps)
        )
        path = folder / "evaluation" / f"{chosen.name('test')}.json"
        if not path.exists():
            return
        result, card = read_result(path), read_json(folder / "model" / "card.json")
        for record in select(result.results, predictor="model", stratum="all", metric=SHOWN):
            if record.threshold == PROTOCOLS[record.protocol].threshold and record.value is not None:
                yield {
                    "method": method,
                    "metric": record.metric,
                    "protocol": record.protocol,
                    "n": record.n,
                    "select": record.select,
                    "images": result.strata["all"]["images"],
                    "value": round(record.value, 4),
                    "low": None if record.ci_low is None else round(record.ci_low, 4),
                    "high": None if record.ci_high is None else round(record.ci_high, 4),
                    "trained_on": card["images_seen"],
                    "seconds": card["seconds"],
                    "device": card["device"],
                }


def show(rows: list[dict[str, Any]], output: Path) -> None:
    """A line per figure, and all of them as CSV."""
    from modiff.io.output import write_text

    if not rows:
        return print("no figures yet: not all methods are scored on the same images")
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(output / FIGURES, text.getvalue())
    for row in rows:
        what = f"{row['method']} {row['metric']}{row['n']} {row['protocol']} {row['select']}, {row['images']} images"
        interval = "" if row["low"] is None else f" ({row['low']:.3f} to {row['high']:.3f})"
        print(f"{what}: {row['value']:.3f}{interval}, trained on {row['trained_on']:,} images")
    return None


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stages.options(made, ns=(16,), example="ccdm.model.sampling_steps=25 all.training.warmup=50")
    made.set_defaults(select=["iid", "representative"])
    made.add_argument("--budget", help="of training, each method: 90s or 50000img (its part of the total)")
    made.add_argument("--methods", nargs="+", choices=(*PAPER, *MORE), default=list(PAPER))
    made.add_argument("--total", default="15m", help="of all starts together (15m)")
    made.add_argument(
        "--training", type=float, default=0.5, metavar="FRACTION", help="of the total, for training (0.5)"
    )
    made.add_argument(
        "--limits", nargs="+", type=int, default=[16, 64, 256], metavar="IMAGES", help="one after another (16 64 256)"
    )
    made.add_argument("--steps", nargs="+", default=(), metavar="METHOD=S", help="of a method's sampler, e.g. ccdm=25")
    return made


def main() -> int:
    """Trains and scores, each where an earlier start stopped."""
    args = parser().parse_args()
    return stages.status_of(lambda: work(args))


def work(args: argparse.Namespace) -> int:
    """What the options ask for; returns the exit status."""
    comparison, status, end = Comparison(args), 0, "all done"
    try:
        comparison.each(comparison.train)
        for limit in sorted(args.limits):
            comparison.score(limit)
    except stages.TimeOver:
        over = comparison.deadline.passed >= comparison.all_over - stages.RESERVE  # no training begins in that
        status, end = (0, "the total time is spent") if over else (stages.UNFINISHED, "the same command resumes")
    finally:
        comparison.account()
    show(comparison.figures(), args.output)
    if comparison.failed:
        print(f"failed: {', '.join(comparison.failed)}")
    print(end)
    return status or (1 if comparison.failed else 0)


if __name__ == "__main__":
    sys.exit(main())
