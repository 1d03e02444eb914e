"""`modiff evaluate`: samples for a split, scored, as tables."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from modiff.cli.scoring_options import add_scoring, settings_of, show

if TYPE_CHECKING:
    from modiff.evaluation.evaluate import Progress
    from modiff.evaluation.settings import EvaluationSettings

_EPILOG = """\
Writes <split>.csv, a row an image, and <split>.json, how it was made and a record a number, to RUN/evaluation or to -o.
With --steps, --limit or --seed their values stand in the names (test-steps5-10.json), so that such a result does not
replace the main one. An interrupted evaluation continues with the same command. Several devices share the images:
torchrun --nproc-per-node 2 -m modiff evaluate …
"""


def parser(prog: str) -> argparse.ArgumentParser:
    """The verb's options."""
    made = argparse.ArgumentParser(
        prog=prog,
        description="Draw samples for every image of a split, score them under both protocols, write tables.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,  # what is not given is EvaluationSettings' own default
    )
    made.add_argument(
        "model", metavar="MODEL", help="a run folder, a folder of exported weights, or a packaged model's name"
    )
    made.add_argument("--data", required=True, metavar="STORE", help="the store, as `modiff import` writes it")
    made.add_argument("--split", default="test", help="the split to score (test)")
    made.add_argument(
        "--fold",
        default="own",
        metavar="K",
        help="the split within this fold; none: the store's own (the run's own fold)",
    )
    made.add_argument(
        "-n", dest="ns", nargs="+", type=int, metavar="N", help="samples an image; the largest is drawn once (16 32)"
    )
    made.add_argument("--steps", nargs="+", type=int, metavar="S", help="steps of the sampler (the model's own)")
    add_scoring(made)
    made.add_argument("--one-rater", action="store_true", help="also score each rater's mask against the other raters")
    made.add_argument("--limit", type=int, metavar="IMAGES", help="a fixed subset, the same at every call (all images)")
    made.add_argument("--control", action="store_true", help="also score samples drawn for another patient's image")
    made.add_argument("--seed", type=int, help="seed of the samples and of the bootstrap (0)")
    made.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 … (auto: a GPU if there is one)")
    made.add_argument(
        "--batch-size", type=int, default=None, metavar="IMAGES", help="images at once; changes speed only"
    )
    made.add_argument(
        "-o", dest="output", type=Path, default=None, metavar="DIR", help="where to write (MODEL/evaluation)"
    )
    made.add_argument(
        "--restart", action="store_true", default=False, help="throw away what an interrupted evaluation left"
    )
    return made


def run(args: argparse.Namespace) -> int:
    """Evaluates, writes, prints."""
    from modiff.data.loading import load
    from modiff.devices import choose_device
    from modiff.errors import ConfigError
    from modiff.evaluation import distributed as processes
    from modiff.evaluation.run import FOLDER, evaluate_to_folder, split_to_score
    from modiff.methods.weights import load_model

    settings = settings_of(args)
    if args.batch_size is not None and args.batch_size < 1:
        raise ConfigError("too small", field="--batch-size", found=args.batch_size, expected="1 or more")
    folder = args.output or (Path(args.model) / FOLDER if Path(args.model).is_dir() else None)
    if folder is None:
        raise ConfigError(
            "a packaged model has no folder to write to", field="-o", found="nothing", expected="a folder"
        )
    loaded = load_model(args.model)
    split = split_to_score(loaded, args.data, args.split, args.fold)
    images = load(args.data, split)
    with (
        processes.started_by_torchrun(choose_device(args.device, field="--device")) as device,
        _progress(settings) as progress,
    ):
        written = evaluate_to_folder(
            loaded,
            images,
            folder,
            settings,
            split=split,
            data=args.data,
            model_name=str(args.model),
            device=device,
            batch_size=args.batch_size,
            restart=args.restart,
            progress=progress,
        )
        first = processes.rank() == 0
    if first:
        show(written)
    return 0


@contextmanager
def _progress(settings: EvaluationSettings) -> Iterator[Progress | None]:
    """A bar with the time left, on standard error, from the first process only."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from modiff.evaluation import distributed as processes

    if processes.rank() != 0:
        yield None
        return
    left, spent = TimeRemainingColumn(), TimeElapsedColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("images"), spent, left)
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(f"{max(settings.ns)} samples an image", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
