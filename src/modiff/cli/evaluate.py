"""`modiff evaluate`: a model's samples for a split, or any method's samples from files, scored, as tables."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modiff.config.help import verb_parser

if TYPE_CHECKING:
    from modiff.evaluation.evaluate import Progress, Written
    from modiff.evaluation.scoring import EvaluationSettings

_EPILOG = """\
FILES is a folder with a sub-folder per case and a PNG or NIfTI file per sample (or the folders that `modiff sample`
writes), an NPZ file with an array (N,H,W) or (N,K,H,W) per case, or HDF5 with such datasets, or with `samples`
(n,N,H,W) and `case` (n,). Cases are named as the ground truth names them; `/` is a sub-folder.

TRUTH is a store, as `modiff import` writes it, or files as above with one map per rater.

Whole numbers in files are masks (class indices, or 0 and 255), unless other values occur: then 255 (or 65535) is
probability 1. The slices of a volume are scored as images of their own.

Writes <split>.csv, a row per image, and <split>.json, how it was made and a record per number. With --steps, --limit or
--seed their values stand in the names (test-steps5-10.json), so that such a result does not replace the main one. An
interrupted evaluation of a model resumes with the same command. Several devices share its images:

  torchrun --nproc-per-node 2 -m modiff evaluate …
"""
_Options = dict[str, tuple[Any, dict[str, Any]]]
_KINDS = ("auto", "masks", "probabilities")
# Options of one kind of source: default and help. What is a field of EvaluationSettings has its default there.
_OF_MODEL: _Options = {
    "data": (None, {"metavar": "STORE", "help": "the store, as `modiff import` writes it"}),
    "fold": ("own", {"metavar": "K", "help": "the split within this fold; none: the store's own (the run's own fold)"}),
    "steps": (None, {"nargs": "+", "type": int, "metavar": "S", "help": "steps of the sampler (the model's own)"}),
    "control": (None, {"action": "store_true", "help": "also score samples drawn for another patient's image"}),
    "device": ("auto", {"help": "auto, cpu, cuda, cuda:1 … (auto: a GPU if there is one)"}),
    "batch_size": (None, {"type": int, "metavar": "IMAGES", "help": "images at once; changes speed only"}),
    "restart": (False, {"action": "store_true", "help": "throw away what an interrupted evaluation left"}),
}
_OF_FILES: _Options = {
    "truth": (None, {"type": Path, "metavar": "TRUTH", "help": "the raters' masks, see below"}),
    "name": (None, {"help": "what the method is called (the name of FILES)"}),
    "values": ("auto", {"choices": _KINDS, "help": "what the numbers of the samples are (auto)"}),
    "truth_values": ("masks", {"choices": _KINDS[:2], "help": "the same of the raters' files (masks)"}),
    "classes": (1, {"type": int, "metavar": "K", "help": "foreground classes, where TRUTH is not a store (1)"}),
    "patients": (None, {"type": Path, "metavar": "CSV", "help": "columns case and patient, where TRUTH is not a store "
                        "(the first part of a case's name)"}),
    "unread_missing": (False, {"action": "store_true", "help": "a case with fewer raters' files than others was not "
                               "read by the rest"}),
    "allow_missing": (False, {"action": "store_true", "help": "leave out cases without predictions"}),
}  # fmt: skip


def parser(prog: str) -> argparse.ArgumentParser:
    """The verb's options."""
    made = verb_parser(
        prog,
        "Score samples under both protocols, with intervals, beside simple predictors: those that a model "
        "draws for every image of a split, or those that any program wrote to files.",
        epilog=_EPILOG,
        argument_default=argparse.SUPPRESS,  # an option that is not given is not there
        usage=f"{prog} MODEL --data STORE [options]\n       {prog} FILES --truth TRUTH [options]",
    )
    add = made.add_argument
    add("source", metavar="MODEL or FILES", help="a run folder or a packaged model's name; or samples, see below")
    add("--split", default="test", help="the split of the store (test)")
    number = "samples per image; the largest is drawn once (16 32)"
    add("-n", dest="ns", nargs="+", type=int, metavar="N", help=number)
    add("--protocol", dest="protocols", nargs="+", metavar="P", help="standard, paper (both)")
    further = "further thresholds; 0.5 is argmax under standard, which uses it anyway, and paper uses 0.9 (none)"
    add("--threshold", dest="thresholds", nargs="+", type=float, metavar="T", help=further)
    names = "all, or names: ged, hm_iou, ncc, ci, dmax, soft_dice, ece … as docs/metrics.md lists them (ged hm_iou)"
    add("--metrics", nargs="+", metavar="M", help=names)
    add("--one-rater", action="store_true", help="also score each rater's mask against the others (for FILES: always)")
    add("--limit", type=int, metavar="IMAGES", help="a fixed subset, the same at every call (all)")
    add("--seed", type=int, help="of the samples, or of the draw of subsets, and of the bootstrap (0)")
    where = "where to write (MODEL/evaluation, FILES-scores)"
    add("-o", dest="output", type=Path, default=None, metavar="DIR", help=where)
    for title, options in (("a model's samples", _OF_MODEL), ("samples in files", _OF_FILES)):
        group = made.add_argument_group(title)
        for name, (_, how) in options.items():
            group.add_argument(_flag(name), **how)
    return made


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def run(args: argparse.Namespace) -> int:
    """Evaluates, writes, prints."""
    written = _of_model(args) if _is_model(args.source) else _of_files(args)
    if written is not None:
        _show(written)
    return 0


def _is_model(source: str) -> bool:
    """Whether it is a run folder or a packaged model, not files of samples; ConfigError where it is neither."""
    from modiff.errors import ConfigError
    from modiff.evaluation.predictions import FORMATS
    from modiff.methods.run_folder import CONFIG, WEIGHTS
    from modiff.methods.weights import packaged_models

    path = Path(source)
    if path.exists():
        return any((path / name).exists() for name in (CONFIG, WEIGHTS))
    packaged = packaged_models()
    if source not in packaged:
        expected = f"a run folder, a packaged model ({', '.join(packaged)}), or samples: {FORMATS}"
        raise ConfigError("neither a model nor samples", path=source, expected=expected)
    return True


def _options(args: argparse.Namespace, what: str, own: _Options, others: _Options, needs: str) -> dict[str, Any]:
    """The options of one kind of source; ConfigError for one of the other kind, and without the one it needs."""
    from modiff.errors import ConfigError

    given = vars(args)
    for name in others:
        if name in given:
            raise ConfigError(f"is not an option where {what} scored", path=args.source, field=_flag(name))
    if needs not in given:
        raise ConfigError(f"is needed where {what} scored", path=args.source, field=_flag(needs), found="nothing")
    return {name: given.get(name, default) for name, (default, _) in own.items()}


def _settings(args: argparse.Namespace, **fixed: Any) -> EvaluationSettings:
    """The settings that were given, over `fixed` and the defaults."""
    from modiff.evaluation.scoring import EvaluationSettings

    given = {item.name: getattr(args, item.name) for item in fields(EvaluationSettings) if hasattr(args, item.name)}
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return EvaluationSettings(**fixed | plain)


def _of_model(args: argparse.Namespace) -> Written | None:
    """The result, in the first of several processes."""
    from modiff.data.loading import load
    from modiff.devices import choose_device
    from modiff.errors import ConfigError
    from modiff.evaluation import distributed as processes
    from modiff.evaluation.evaluate import FOLDER, evaluate_to_folder, split_to_score
    from modiff.methods.weights import load_model

    given = _options(args, "a model is", _OF_MODEL, _OF_FILES, needs="data")
    settings = _settings(args)
    if given["batch_size"] is not None and given["batch_size"] < 1:
        raise ConfigError("too small", field="--batch-size", found=given["batch_size"], expected="1 or more")
    folder = args.output or (Path(args.source) / FOLDER if Path(args.source).is_dir() else None)
    if folder is None:
        raise ConfigError("a packaged model has no folder to write to", field="-o", expected="a folder")
    loaded = load_model(args.source)
    split = split_to_score(loaded, given["data"], args.split, given["fold"])
    images = load(given["data"], split)
    with processes.started_by_torchrun(choose_device(given["device"], field="--device")) as device:
        first = processes.rank() == 0
        with progress_bar(f"{max(settings.ns)} samples per image", "images") if first else nullcontext() as progress:
            written = evaluate_to_folder(
                loaded,
                images,
                folder,
                settings,
                split=split,
                data=given["data"],
                model_name=args.source,
                device=device,
                batch_size=given["batch_size"],
                restart=given["restart"],
                progress=progress,
            )
    return written if first else None


def _of_files(args: argparse.Namespace) -> Written:
    from modiff.evaluation.evaluate import evaluate_files
    from modiff.evaluation.predictions import open_maps
    from modiff.evaluation.source import FileSamples
    from modiff.evaluation.truth import Values, open_truth

    given = _options(args, "files are", _OF_FILES, _OF_MODEL, needs="truth")
    settings = _settings(args, one_rater=True)
    path = Path(args.source).resolve()
    stem = path.name if path.is_dir() else path.stem
    about = {name: given[name] for name in ("classes", "truth_values", "patients", "unread_missing")}
    truth = open_truth(given["truth"], args.split, **about)
    with truth, open_maps(args.source) as samples, progress_bar("Scoring", "cases") as progress:
        values = Values(given["values"], truth.classes)
        source = FileSamples(samples, truth, values, settings, allow_missing=given["allow_missing"])
        folder = args.output or path.with_name(f"{stem}-scores")
        return evaluate_files(source, folder, name=given["name"] or stem, progress=progress)


def _show(written: Written) -> None:
    """The table, the notes, and where the files are."""
    from modiff.evaluation.words import print_notes, results_table, wide_console

    console = wide_console()
    console.print(results_table(written.result))
    print_notes(written.result.made["notes"], console)
    console.print(f"{written.json}\n{written.csv}", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress_bar(text: str, unit: str, *, quiet: bool = False) -> Iterator[Progress]:
    """A bar with the time left, on standard error."""
    from rich import progress as rich
    from rich.console import Console

    columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), rich.MofNCompleteColumn())
    times = (rich.TimeElapsedColumn(), rich.TimeRemainingColumn())
    with rich.Progress(*columns, rich.TextColumn(unit), *times, console=Console(stderr=True), disable=quiet) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
