"""Samples scored: what `modiff evaluate` does for a model and for files. A row per image; records; CSV and JSON.

The way of a number: `source` yields batches of samples, a model's or from files; `scoring` turns them into columns, one
per metric, protocol, threshold and n; `modiff.metrics.registry` says how a metric is computed of them, and
`modiff.metrics.functional` computes it; `records` has the table of all images, and what `bootstrap` makes of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from modiff.config.evaluation import IID
from modiff.data.loading import turned, with_context
from modiff.data.splits import USUAL, fold_of, fold_split
from modiff.data.store import Store
from modiff.devices import CudaGraph, device_name
from modiff.errors import ConfigError, DataError, counted
from modiff.evaluation import distributed as processes
from modiff.evaluation import provenance
from modiff.evaluation.distributed import PartialRows, Row
from modiff.evaluation.file_samples import FileSamples
from modiff.evaluation.records import EMPTY, ImageTable, Result, assemble, strata_of, write_csv, write_result
from modiff.evaluation.scoring import Columns, EvaluationSettings, rows_of, score_references, score_samples
from modiff.evaluation.source import ModelSamples, Sampled, left_out, rows_to_score, short_of
from modiff.evaluation.truth import of_store
from modiff.io.dicom.region import apart
from modiff.io.files import located, sha256_of
from modiff.io.output import alone, replacing_all
from modiff.nn.replay import Replays
from modiff.types import SAME_SIZE, DataSpec, marks

if TYPE_CHECKING:
    from modiff.data.loading import MemoryStore
    from modiff.io.progress import Progress
    from modiff.methods.base import Segmenter
    from modiff.methods.run_folder import LoadedModel

FOLDER = "evaluation"  # of a run folder
Precision = Literal["32-true", "bf16-mixed"]  # as training has it, of the networks that draw samples
FULL: Precision = "32-true"


def evaluate(
    model: Segmenter,
    images: MemoryStore,
    settings: EvaluationSettings,
    *,
    split: str,
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
    precision: Precision = FULL,
    resume: PartialRows | None = None,
    progress: Progress = lambda done, total: None,
) -> ImageTable:
    """Draws samples for every image and scores them together with the reference predictors, in float64.

    Sample i of a case is a function of (weights, image, settings.seed, i): rows depend neither on the batch size nor on
    the number of processes, which share the images, each scored once. With `resume`, finished rows are kept on disk
    and an interrupted evaluation resumes. precision: of the networks' products. progress: called with (images done,
    images in all) by this process.

    Raises DataError for an empty split, CheckpointError where `resume` holds rows of something else.
    """
    bf16 = precision != FULL
    source = ModelSamples(model, images, settings, torch.device(device), batch_size or 0, bf16=bf16)
    finished: dict[str, Row] = {row["case"]: row for row in (processes.from_first(resume.read) if resume else [])}
    left = [row for row in source.rows if images.cases[row] not in finished]
    mine = left[processes.rank() :: processes.count()]  # every row is scored by exactly one process
    new: list[Row] = []
    was_training = model.training
    model.eval().to(source.device)
    if source.device.type == "cuda":
        model.replays = Replays(partial(CudaGraph, source.device))
    try:
        progress(len(finished), len(finished) + len(mine))
        with resume.appending() if resume and mine else nullcontext(lambda rows: None) as keep:
            for sampled in source.batches(mine):
                rows = _score(sampled, settings)
                keep(rows)
                new += rows
                progress(len(finished) + len(new), len(finished) + len(mine))
        finished |= {row["case"]: row for row in processes.gather(new)}
        rows = [finished[images.cases[row]] for row in source.rows]
        seconds = processes.from_first(lambda: source.seconds(rows))
    finally:
        model.train(was_training)
        model.replays = None
    return assemble(split, rows, seconds)


def _score(sampled: Sampled, settings: EvaluationSettings) -> list[Row]:
    """Finished rows of one batch of images."""
    masks, other = sampled.masks, sampled.control
    strata, read = strata_of(masks.flatten(2).any(-1), sampled.read), _who_count(masks, sampled.read, settings)
    few = torch.zeros(len(masks), dtype=torch.bool)
    columns, seconds, marked = score_references(masks, read, settings), {}, torch.zeros(len(masks), dtype=torch.bool)
    controls: Columns = {}
    for drawn in sampled.draws:
        score = partial(
            score_samples,
            drawn.maps,
            settings=settings,
            steps=drawn.steps,
            weights=drawn.weights,
            select=drawn.select,
            ns=drawn.ns,
        )
        columns |= score(masks, read)
        if other:
            theirs = _who_count(other.masks, other.read, settings)
            controls |= score(other.masks, theirs, predictor="shuffled")
        marked |= marks(drawn.maps).any(1).cpu()
        if drawn.few is not None:
            few |= drawn.few.cpu()
        if drawn.seconds is not None:
            seconds[str(drawn.steps) if drawn.select == IID else f"{drawn.steps} {drawn.select}"] = drawn.seconds
    names = ("case", "patient", "stratum", "raters", "marked", "values")
    about = (sampled.cases, sampled.patients, strata, read.sum(1).tolist())
    every = zip(*about, marked.tolist(), rows_of(columns, len(masks)), strict=True)
    rows: list[Row] = [dict(zip(names, row, strict=True)) | {"seconds": seconds} for row in every]
    if settings.given_marks:
        for row, short in zip(rows, few.tolist(), strict=True):
            row["few"] = short
    if other:
        for row, case, values in zip(rows, other.case, rows_of(controls, len(masks)), strict=True):
            row["control"] = {"case": case, "values": values}
    return rows


def _who_count(masks: Tensor, read: Tensor, settings: EvaluationSettings) -> Tensor:
    """(B,R) whose masks samples are scored against: those who read the image, or of them those who marked something."""
    return read & masks.flatten(2).any(-1) if settings.given_marks else read


def evaluate_to_folder(
    loaded: LoadedModel,
    images: MemoryStore,
    folder: str | Path,
    settings: EvaluationSettings,
    *,
    split: str,
    data: str | Path,
    model_name: str,
    device: torch.device | str = "cpu",
    restart: bool = False,
    precision: Precision = FULL,
    **how: Any,
) -> Path:
    """Evaluates a model and writes <name>.csv and <name>.json to `folder`; an interrupted evaluation resumes.

    Returns the JSON. images: the split, in memory; data: the store it is of. The name is `settings.name(split)`.
    restart: throw away what an interrupted evaluation left. precision: of the networks; the result's notes say where it
    is not float32. how: batch_size and progress of `evaluate`. Every process calls this; the first one writes.

    Raises DataError where the model does not fit the images or another process works in the folder, CheckpointError
    where an unfinished evaluation is of another model, data set or setting.
    """
    device = torch.device(device)
    images, said = as_trained(loaded, images, data), notes(loaded, images, split)
    target = Path(folder) / f"{settings.name(split)}.json"
    model = {"name": model_name, "fingerprint": provenance.model_fingerprint(loaded.model, loaded.config)}
    store = {"path": str(Path(data).resolve()), "fingerprint": images.fingerprint}
    identity = {"model": model["fingerprint"], "data": images.fingerprint, "split": split, "device": device.type}
    if precision != FULL:
        identity["precision"] = precision
        said.append(f"the networks computed in bfloat16 (--precision {precision})")
    how["precision"] = precision
    resume = PartialRows(target, identity | settings.to_dict())
    with processes.alone_in(target.parent):
        if restart:
            processes.from_first(resume.discard)
        table = evaluate(loaded.model, images, settings, split=split, device=device, resume=resume, **how)

        def write() -> Path:
            count = len(rows_to_score(images, replace(settings, limit=None)))
            every = said + short_of(settings.limit, count) + left_out(settings, len(images.cases) - count)
            where = device_name(device)
            written = _write(table, settings, target, every, device=where, store=store, model=model)
            resume.discard()
            return written

        return processes.from_first(write)


def evaluate_files(source: FileSamples, folder: str | Path, *, name: str, progress: Progress) -> Path:
    """Scores samples in files against the raters in `source.truth` and writes a CSV and a JSON to `folder`.

    Returns the JSON. The files are named by `settings.name(split)`. name: of the method. progress: called with (cases
    done, cases in all).

    Raises DataError that names the case where predictions and truth do not fit, where nobody read any image, and where
    another process works in the folder.
    """
    truth, settings = source.truth, source.settings
    rows: list[Row] = []
    with alone(folder):
        progress(0, len(source.rows))
        for done, sampled in source.batches():
            rows += _score(sampled, settings)
            progress(done, len(source.rows))
        with located(source.predictions.path):
            table = assemble(truth.split, rows)
        if not len(table):
            what = "two raters marked" if settings.given_marks else "somebody read"
            raise DataError(f"no image that {what}", path=truth.path)
        samples = str(source.predictions.path.resolve())
        model = {"name": name, "fingerprint": source.fingerprint(), "samples": samples}
        store = {"path": str(truth.path.resolve()), "fingerprint": truth.fingerprint()}
        # The folder is of these samples: there are no others that their result could replace.
        named = settings if source.chosen is None else replace(settings, select=(IID,))
        target = Path(folder) / f"{named.name(truth.split)}.json"
        said = [*truth.notes, *source.notes, *left_out(settings, source.left_out)]
        return _write(table, settings, target, said, device=device_name("cpu"), store=store, model=model)


def _write(
    table: ImageTable, settings: EvaluationSettings, target: Path, notes: list[str], *, device: str, **of: Any
) -> Path:
    """of: the store and the model."""
    fold = fold_of(table.split)[0]
    made = provenance.made(device=device, processes=processes.count(), **of)
    made |= {"seed": settings.seed, "split": table.split} | ({} if fold is None else {"fold": fold})
    made |= {
        "settings": settings.to_dict(),
        "notes": [*notes, *([] if table.marked else [EMPTY]), *_few(table)],
        "unread": table.unread,
    }
    records = table.records(seed=settings.seed, resamples=settings.resamples)
    with replacing_all(target, target.with_suffix(".csv")) as (result, images):
        made["csv_sha256"] = sha256_of(write_csv(table, images))
        write_result(Result(made, table.counts(), records), result)
    return target


def _few(table: ImageTable) -> list[str]:
    found = f"fewer than n of all samples that were drawn mark anything on {counted(table.few, 'image')}"
    return [f"{found}: those that do are repeated"] if table.few else []


def as_trained(loaded: LoadedModel, images: MemoryStore, data: str | Path) -> MemoryStore:
    """The images as the model's training data were: channels in their order, slices turned as theirs in their plane.

    Of slices with neighbours as many of these as the model sees. Raises DataError unless they have the channels and
    classes that the model was built for.
    """
    model, trained = loaded.model, loaded.data
    with located(Path(data)):
        images = with_context(images, trained.context)
    info = images.info
    sides = {"channels": (model.channels, len(info.channels)), "classes": (model.classes, len(info.classes))}
    for field, (needs, has) in sides.items():
        if needs != has:
            raise DataError("does not fit the model", path=data, field=field, found=has, expected=needs)
    if info.classes != trained.classes and set(info.classes) == set(trained.classes):
        found, expected = (", ".join(names) for names in (info.classes, trained.classes))
        raise DataError("other order than the model's", path=data, field="classes", found=found, expected=expected)
    if info.channels != trained.channels and set(info.channels) == set(trained.channels):
        order = [info.channels.index(name) for name in trained.channels]
        images = replace(images, image=images.image[:, order], info=replace(info, channels=trained.channels))
    own = images.place.get("orientation")
    return images if trained.sides is None or own in (None, "none", "mixed") else turned(images, own, trained.sides)


def split_to_score(loaded: LoadedModel, data: str | Path, split: str, fold: str = "own") -> str:
    """The name of the split that `modiff evaluate` scores.

    fold: a number; "none", the store's own splits; "own", the fold that the model was trained without, where the store
    is the one it was trained on. Raises ConfigError for anything else.
    """
    if fold == "own":
        trained, (inside, _) = loaded.data.fold, fold_of(split)
        if not isinstance(trained, int) or inside is not None or split not in USUAL:
            return split
        with Store.open(data) as store:
            same = store.fingerprint() == loaded.data.fingerprint
        return fold_split(trained, split) if same else split
    if fold == "none":
        return split
    if not fold.isdecimal():
        raise ConfigError("is not a fold", field="--fold", found=fold, expected="its number, or none")
    return fold_split(int(fold), split)


def notes(loaded: LoadedModel, images: MemoryStore, split: str) -> list[str]:
    """How the images differ from those that the model was trained on, in words.

    Also that they may be the same images, and that the model has hardly been trained.
    """
    from modiff.methods.run_folder import hardly_trained

    found = [*_described_otherwise(loaded.data, images)]
    own, scored = loaded.data.fold, fold_of(split)[0]
    if own != scored and images.fingerprint == loaded.data.fingerprint:
        trained = "the store's own split train" if own is None else f"all folds but {own}"
        found.append(f"the model was trained on {trained}: it may have seen images of {split}")
    found += filter(None, [hardly_trained(loaded.card)])
    return [*found, *of_store(images.info)]


def _described_otherwise(trained: DataSpec, images: MemoryStore) -> Iterator[str]:
    """What a store and the model's training data describe differently; what either leaves out is ignored."""
    there = {name: getattr(images.info, name) for name in ("intensity", "prompt", "fit", "modality")}
    there["orientation"] = images.place.get("orientation")
    for field, here in there.items():
        if (before := getattr(trained, field)) is not None and here is not None and before != here:
            yield f"the model was trained on data of {field} {before}, this store has {here}"
    if apart(trained.region, images.info.region):
        yield f"the model was trained on data of the body part {trained.region}, this store has {images.info.region}"
    spacing = images.place.get("spacing")
    if spacing and trained.spacing:
        ratios = [mm / before for mm, before in zip(spacing, trained.spacing, strict=True)]
        if max(*ratios, *(1 / ratio for ratio in ratios)) > SAME_SIZE:
            before, here = ("×".join(f"{mm:.3g}" for mm in pair) for pair in (trained.spacing, spacing))
            yield (
                f"the model was trained on pixels of {before} mm, those of this store have {here} mm: it is scored "
                "as it is; `modiff sample --resample-to-model` resamples, and `modiff evaluate` scores what that writes"
            )
    if (steps := images.place.get("slice_range")) and (words := trained.other_steps(*steps)):
        yield words
    before, here = trained.channels, images.info.channels
    if before != here and len(before) == len(here):
        how = "put in its order" if set(before) == set(here) else "taken in the order they have"
        yield f"the model was trained on channels {', '.join(before)}, this store has {', '.join(here)}: {how}"
