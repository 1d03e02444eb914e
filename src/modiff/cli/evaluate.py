"""`modiff evaluate`: a model's samples for a split, or any method's samples from files, scored, as tables."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modiff.cli.options import asked, page_of, parser_of
from modiff.errors import ConfigError

if TYPE_CHECKING:
    from modiff.evaluation.scoring import EvaluationSettings

parser = partial(parser_of, "evaluate")


def run(args: argparse.Namespace) -> int:
    """Evaluates, writes, prints."""
    written = _of_model(args) if _is_model(args.source, stored="data" in args) else _of_files(args)
    if written is not None:
        _show(written)
    return 0


def _is_model(source: str, *, stored: bool) -> bool:
    """Whether it is a run folder or a packaged model, not files of samples; ConfigError where it is neither.

    stored: --data is given, so that a folder that is not a run but has a packaged model's name is not read as samples.
    """
    from modiff.evaluation.predictions import FORMATS
    from modiff.methods.hub import PREFIX
    from modiff.methods.run_folder import CONFIG, WEIGHTS, packaged_models

    if source.startswith(PREFIX):
        return True
    path = Path(source)
    packaged = packaged_models()
    if path.exists():
        return (stored and source in packaged) or any((path / name).exists() for name in (CONFIG, WEIGHTS))
    if source not in packaged:
        expected = f"a run folder, a packaged model ({', '.join(packaged)}), or samples: {FORMATS}"
        raise ConfigError("neither a model nor samples", path=source, expected=expected)
    return True


def _options(args: argparse.Namespace, what: str, others: str, needs: str) -> dict[str, Any]:
    """The options that are given; ConfigError for one of the group of others, and without the one it needs."""
    given = vars(args)  # what is not given is not there
    for flag in page_of("evaluate")["options"][others]:
        if flag.removeprefix("--").replace("-", "_") in given:
            hint = f"Use --{needs}" if flag in ("--data", "--truth") else None
            raise ConfigError(f"is not an option where {what} scored", path=args.source, field=flag, hint=hint)
    if needs not in given:
        raise ConfigError(f"is needed where {what} scored", path=args.source, field=f"--{needs}", found="nothing")
    return given


def _settings(args: argparse.Namespace, **fixed: Any) -> EvaluationSettings:
    """The settings that were given, over `fixed` and the defaults."""
    from modiff.evaluation.scoring import EvaluationSettings

    return EvaluationSettings(**fixed | asked(args, EvaluationSettings))


def _of_model(args: argparse.Namespace) -> Path | None:
    """The result, in the first of several processes."""
    from modiff.data.loading import load
    from modiff.devices import choose_device
    from modiff.evaluation import distributed as processes
    from modiff.evaluation.evaluate import FOLDER, evaluate_to_folder, split_to_score
    from modiff.io.progress import progress_bar
    from modiff.methods.run_folder import load_model

    given = _options(args, "a model is", others="samples in files", needs="data")
    settings = _settings(args)
    loaded = load_model(args.source)
    folder = args.output or (Path(args.source) / FOLDER if loaded.folder == Path(args.source) else None)
    if folder is None:
        raise ConfigError("a packaged model, or a hub's, has no folder to write to", field="-o", expected="a folder")
    split = split_to_score(loaded, given["data"], args.split, given.get("fold", "own"))
    images = load(given["data"], split)
    with processes.started_by_torchrun(choose_device(given.get("device", "auto"), field="--device")) as device:
        first = processes.rank() == 0
        quiet = "quiet" in given or not first
        with progress_bar(f"{max(settings.ns)} samples per image", "images", quiet=quiet) as progress:
            how: dict[str, Any] = {
                name: given[name] for name in ("data", "batch_size", "precision", "restart") if name in given
            }
            how |= {"split": split, "model_name": args.source, "device": device, "progress": progress}
            written = evaluate_to_folder(loaded, images, folder, settings, **how)
    return written if first else None


def _of_files(args: argparse.Namespace) -> Path:
    from modiff.config.evaluation import IID
    from modiff.evaluation.evaluate import evaluate_files
    from modiff.evaluation.file_samples import FileSamples, selection_of
    from modiff.evaluation.predictions import open_maps
    from modiff.evaluation.truth import Values, open_truth
    from modiff.io.files import Limits
    from modiff.io.progress import progress_bar

    given = _options(args, "files are", others="a model's samples", needs="truth")
    path = Path(args.source).resolve()
    stem = path.name if path.is_dir() else path.stem
    how = ("classes", "truth_values", "patients", "unread_missing")
    limits = Limits.asked(given.get("max_bytes"))
    truth = open_truth(
        given["truth"], args.split, limits=limits, **{name: given[name] for name in how if name in given}
    )
    bar = progress_bar("scoring", "cases", quiet="quiet" in given)
    with truth, open_maps(args.source, limits) as samples, bar as progress:
        drawn = [samples.count(case) for case in samples.sampled]  # all that `modiff sample` drew, unless -n says less
        fixed: dict[str, Any] = {"ns": (min(drawn),)} if drawn else {}
        fixed |= {"select": (selection_of(samples) or IID,)}
        settings = _settings(args, one_rater=True, **fixed)
        values = Values(given.get("values", "auto"), truth.classes)
        source = FileSamples(samples, truth, values, settings, allow_missing="allow_missing" in given)
        folder = args.output or path.with_name(f"{stem}-scores")
        return evaluate_files(source, folder, name=given.get("name") or stem, progress=progress)


def _show(written: Path) -> None:
    """The table, the notes, and where the files are."""
    from modiff.evaluation.records import read_result
    from modiff.evaluation.words import print_notes, results_table, wide_console

    console, result = wide_console(), read_result(written)
    console.print(results_table(result))
    print_notes(result.made["notes"], console)
    console.print(f"{written}\n{written.with_suffix('.csv')}", soft_wrap=True)
