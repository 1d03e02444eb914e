"""What the numbered scripts share: a clock for this start, one run from training to scores, their options."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modiff.config.run import RunConfig
    from modiff.evaluation.scoring import EvaluationSettings

STARTED = time.monotonic()
RESERVE = 20.0  # seconds that loading the data and saving take beside the training that is limited
UNFINISHED = 3  # exit status: all is well and saved, the same command resumes


class TimeOver(Exception):
    """This start's time is spent; what is done is on disk."""


class Deadline:
    """The end of this start, counted from when the program began."""

    def __init__(self, seconds: float | None) -> None:
        self._end = STARTED + (float("inf") if seconds is None else seconds)

    @property
    def passed(self) -> float:
        """Seconds since the program began."""
        return time.monotonic() - STARTED

    @property
    def left(self) -> float:
        """Seconds until the end."""
        return self._end - time.monotonic()

    def check(self, *_: Any) -> None:
        """Raises TimeOver at the end; takes what a progress function is given."""
        if self.left <= 0:
            raise TimeOver


def status_of(work: Callable[[], int]) -> int:
    """The exit status of a script's work; what a user can cause, Ctrl-C included, is told in a line."""
    from modiff.errors import ModiffError

    try:
        return work()
    except ModiffError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        return 130


def options(parser: argparse.ArgumentParser, *, ns: tuple[int, ...], example: str = "model.unet.base=96") -> None:
    """The options of every script that trains and scores. example: of a setting."""
    parser.add_argument("--data", required=True, type=Path, metavar="STORE", help="the store, with train, val and test")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="DIR", help="where everything goes")
    parser.add_argument("--max-time", help="end this start after 90s, 20m or 2h; the same command resumes")
    parser.add_argument("--batch-size", type=int, help="images per step (the preset's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--precision",
        choices=("auto", "32-true", "bf16-mixed"),
        default="auto",
        help="of training and samples; auto: bf16 on recent GPUs",
    )
    parser.add_argument("-n", dest="ns", nargs="+", type=int, default=ns, help=f"samples per image ({_list(ns)})")
    parser.add_argument("--threshold", nargs="+", type=float, default=(0.5, 0.9), help="besides the protocols' own")
    parser.add_argument("--metrics", nargs="+", help="all, or names as `modiff evaluate` takes them")
    parser.add_argument("--select", nargs="+", help="how samples are chosen: iid, stratified, representative (iid)")
    parser.add_argument("--score-batch", type=int, metavar="IMAGES", help="images at once when scoring: speed, memory")
    parser.add_argument(
        "--set",
        dest="changes",
        nargs="+",
        default=(),
        metavar="NAME=VALUE",
        help=f"further settings, e.g. {example}; the value is read as YAML",
    )


def _list(numbers: tuple[int, ...]) -> str:
    return " ".join(map(str, numbers))


def nested(changes: tuple[str, ...] | list[str]) -> dict[str, Any]:
    """["model.unet.base=96"] -> {"model": {"unet": {"base": 96}}}; ConfigError for what is not a setting."""
    from modiff.config.fields import merged, setting

    return merged(*map(setting, changes))


def device_name(args: argparse.Namespace) -> str:
    """cpu or cuda."""
    from modiff.devices import choose_device

    return choose_device(args.device, field="--device").type


def configuration(args: argparse.Namespace, *, method: str, preset: str | None, file: Path | None = None) -> RunConfig:
    """A method's preset, a file's settings on top, the options above all."""
    from modiff.config.run import build_config

    changes = nested(args.changes)
    config = build_config(method=method, preset=preset, file=file, changes=changes)
    training = replace(config.training, budget=args.budget)
    if args.batch_size:
        training = replace(training, batch_size=args.batch_size)
    accelerator = "gpu" if device_name(args) == "cuda" else "cpu"
    trainer = replace(config.trainer, accelerator=accelerator, precision=args.precision)
    return replace(config, seed=args.seed, training=training, trainer=trainer)


def settings(args: argparse.Namespace, steps: int | None) -> EvaluationSettings:
    """What is drawn and scored."""
    from modiff.evaluation.scoring import EvaluationSettings

    more: dict[str, Any] = {"metrics": tuple(args.metrics)} if args.metrics else {}
    more |= {"select": tuple(args.select)} if args.select else {}
    return EvaluationSettings(
        ns=tuple(args.ns), steps=(steps,), thresholds=tuple(args.threshold), limit=args.limit, **more
    )


def trained(config: RunConfig, args: argparse.Namespace, folder: Path, deadline: Deadline) -> Path:
    """Trains, or resumes training, and publishes 16-bit averaged weights to <folder>/model; TimeOver if unfinished."""
    import torch

    from modiff.methods.run_folder import publish
    from modiff.training.budget import INTERRUPTED
    from modiff.training.loop import train

    seconds = deadline.left - RESERVE
    if seconds <= 0:
        raise TimeOver
    limit = None if seconds == float("inf") else seconds
    result = train(config, args.data, folder / "run", max_seconds=limit, quiet=True)
    rate = result.images / max(result.seconds, 1e-9)
    print(f"{result.reason}: {result.steps:,} steps, {result.images:,} images, {rate:,.0f} images/s", flush=True)
    published = publish(folder / "run", folder / "model", dtype=torch.bfloat16, card={"weights": "16 bit"})
    if not result.finished:
        raise KeyboardInterrupt if result.reason == INTERRUPTED else TimeOver
    return published


def scored(model: Path, args: argparse.Namespace, folder: Path, steps: tuple[int | None, ...], until: Deadline) -> None:
    """Scores the test split, a file for each number of steps, resuming where an earlier start stopped."""
    from modiff.data.loading import load
    from modiff.devices import automatic_precision, choose_device
    from modiff.evaluation.evaluate import evaluate_to_folder
    from modiff.evaluation.records import read_result
    from modiff.methods.run_folder import load_model

    loaded, images = load_model(model), load(args.data, "test")
    automatic = automatic_precision(choose_device(device_name(args)))
    precision = automatic if args.precision == "auto" else args.precision
    for number in steps:
        chosen = settings(args, number)
        target = folder / f"{chosen.name('test')}.json"
        if finished(target, loaded, chosen.to_dict(), images.fingerprint):
            print(f"{target.name}: done before", flush=True)
            continue
        written = evaluate_to_folder(
            loaded,
            images,
            folder,
            chosen,
            split="test",
            data=args.data,
            model_name=str(model),
            device=device_name(args),
            batch_size=args.score_batch,
            precision=precision,
            progress=until.check,
        )
        print(f"{target.name}: {summary(read_result(written))}", flush=True)


def finished(target: Path, loaded: Any, chosen: dict[str, Any], data: str) -> bool:
    """Whether a result is there of this model, data and these settings."""
    from modiff.evaluation.provenance import model_fingerprint
    from modiff.evaluation.records import read_result

    if not target.exists():
        return False
    made = read_result(target).made
    same_model = made["model"]["fingerprint"] == model_fingerprint(loaded.model, loaded.config)
    return bool(same_model and made["store"]["fingerprint"] == data and made["settings"] == chosen)


def summary(result: Any) -> str:
    """The main metrics of i.i.d. samples at the protocol's own threshold, in a line."""
    from modiff.evaluation.records import select
    from modiff.metrics.protocols import PROTOCOLS

    parts = []
    for record in select(result.results, predictor="model", stratum="all", metric=("ged", "hm_iou"), select="iid"):
        if record.threshold == PROTOCOLS[record.protocol].threshold and record.value is not None:
            parts.append(f"{record.metric}{record.n} {record.protocol} {record.value:.3f}")
    return ", ".join(parts)
