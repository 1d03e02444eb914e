"""A trained model and a store in, the two files of an evaluation out; what `modiff evaluate` does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from modiff.data.splits import USUAL, fold_of, fold_split
from modiff.data.store import Store
from modiff.devices import device_name
from modiff.errors import ConfigError, DataError
from modiff.evaluation import distributed as processes
from modiff.evaluation import provenance
from modiff.evaluation.evaluate import Evaluation, Progress, evaluate
from modiff.evaluation.records import Result, write_result
from modiff.evaluation.resume import PartialRows
from modiff.evaluation.settings import EvaluationSettings
from modiff.evaluation.table import write_csv

if TYPE_CHECKING:
    from modiff.data.loading import MemoryStore
    from modiff.methods.weights import LoadedModel

FOLDER = "evaluation"  # of a run folder


@dataclass(frozen=True)
class Written:
    """A result and the files that hold it."""

    result: Result
    json: Path
    csv: Path


def evaluate_to_folder(
    loaded: LoadedModel,
    images: MemoryStore,
    folder: str | Path,
    settings: EvaluationSettings | None = None,
    *,
    split: str,
    data: str | Path,
    model_name: str,
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
    restart: bool = False,
    progress: Progress | None = None,
) -> Written:
    """Evaluates and writes <name>.csv and <name>.json to `folder`; an interrupted evaluation continues.

    images: the split, in memory; data: the store it is of. The name is `settings.name(split)`. restart: throw away what
    an interrupted evaluation left. Every process calls this; the first one writes.
    Raises DataError where the model does not fit the images, CheckpointError where an unfinished evaluation is of
    another model, data set or setting.
    """
    settings = settings or EvaluationSettings()
    folder, device = Path(folder), torch.device(device)
    check_fit(loaded, images, data)
    target = folder / f"{settings.name(split)}.json"
    made = _made(loaded, images, settings=settings, split=split, data=data, model_name=model_name, device=device)
    identity = {"model": made["model"]["fingerprint"], "data": images.fingerprint, "split": split}
    identity |= {"device": device.type, **settings.to_dict()}
    resume = PartialRows(target, identity, processes.rank())
    if restart:
        processes.from_first(resume.discard)
    evaluation = evaluate(
        loaded.model,
        images,
        settings,
        split=split,
        device=device,
        batch_size=batch_size,
        default_steps=loaded.model.default_steps,
        resume=resume,
        progress=progress,
    )
    return processes.from_first(lambda: _write(evaluation, made, target, resume))


def _write(evaluation: Evaluation, made: dict[str, Any], target: Path, resume: PartialRows) -> Written:
    made = {**made, "unread": evaluation.unread}
    result = Result(made, evaluation.table.counts(), evaluation.records)
    table = write_csv(evaluation.table, target.with_suffix(".csv"))
    write_result(result, target)
    resume.discard()
    return Written(result, target, table)


def _made(
    loaded: LoadedModel,
    images: MemoryStore,
    *,
    settings: EvaluationSettings,
    split: str,
    data: str | Path,
    model_name: str,
    device: torch.device,
) -> dict[str, Any]:
    return {
        "command": provenance.command_line(),
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        "device": device_name(device),
        "processes": processes.count(),
        "store": {"path": str(Path(data).resolve()), "fingerprint": images.fingerprint},
        "model": {"name": model_name, "fingerprint": provenance.model_fingerprint(loaded.model, _plain(loaded.config))},
        "date": provenance.now(),
        "seed": settings.seed,
        "split": split,
        **({} if (fold := fold_of(split)[0]) is None else {"fold": fold}),
        "settings": settings.to_dict(),
        "notes": notes(loaded, images, split),
    }


def _plain(config: Any) -> dict[str, Any]:
    from modiff.config import to_dict

    return config if isinstance(config, dict) else to_dict(config)


def check_fit(loaded: LoadedModel, images: MemoryStore, data: str | Path) -> None:
    """Raises DataError unless the images have the channels and classes that the model was built for."""
    model, info = loaded.model, images.info
    for field, needs, has in (
        ("channels", model.channels, len(info.channels)),
        ("classes", model.classes, len(info.classes)),
    ):
        if needs != has:
            raise DataError("does not fit the model", path=data, field=field, found=has, expected=needs)


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
    """What makes the images unlike those that the model was trained on, or perhaps the same, in words."""
    found = []
    for field, there in (("intensity", images.info.intensity), ("prompt", images.info.prompt)):
        trained = getattr(loaded.data, field)
        if trained is not None and trained != there:
            found.append(f"the model was trained on data of {field} {trained}, this store has {there}")
    own, scored = loaded.data.fold, fold_of(split)[0]
    if own != scored and images.fingerprint == loaded.data.fingerprint:
        trained = "the store's own split train" if own is None else f"all folds but {own}"
        found.append(f"the model was trained on {trained}: it may have seen images of {split}")
    return found
