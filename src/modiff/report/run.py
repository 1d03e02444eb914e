"""The report of a run: what was trained, how it scores, how training went, and a dozen cases, in one HTML file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modiff.benchmark.tables import CaseFigure, Cell, Row, Table, case_cells, head
from modiff.config.evaluation import IID, SELECTIONS
from modiff.config.fields import to_dict
from modiff.data.loading import MemoryStore, load
from modiff.data.store_format import StoreInfo
from modiff.errors import CheckpointError, DataError, ModiffError, counted
from modiff.evaluation import provenance, words
from modiff.evaluation.compare import read_results
from modiff.evaluation.evaluate import FOLDER, as_trained
from modiff.evaluation.records import (
    BASELINE,
    BESIDE,
    DIFFERENCE,
    STRATA,
    ImageTable,
    Record,
    Result,
    read_result,
    select,
)
from modiff.evaluation.source import choose, draw, pictured, strata
from modiff.io.files import files_in
from modiff.io.output import check_file_output, write_text
from modiff.methods.run_folder import LOG, WEIGHTS, LoadedModel, check_log, hardly_trained, load_model
from modiff.metrics.registry import FIRST, rank
from modiff.prediction.summary import Summary, summarise
from modiff.types import Batch
from modiff.viz import figures
from modiff.viz.charts import charts, read_log
from modiff.viz.html import as_text, render

if TYPE_CHECKING:
    import torch

    from modiff.methods.base import Segmenter

NAME = "report.html"
CASES = 12
SAMPLES = 16  # drawn for a case's maps
SHOWN = 8  # of them shown one by one
COLUMNS = 8
# What the page's legend explains.
COLOURS = {"rater": figures.RATER, "sample": figures.SAMPLE, "levels": figures.LEVELS}
Results = dict[Path, Result]
Setting = tuple[str, float, int | None, str]  # protocol, threshold, steps of the model, selection
_PAIRS = (("model", "iid_reference"), ("model", "majority_vote"), ("shuffled", "majority_vote"))


def write_report(
    run: str | Path,
    output: str | Path | None = None,
    *,
    data: str | Path | None = None,
    split: str | None = None,
    device: torch.device | str = "cpu",
) -> Path:
    """Writes the report of a run folder to `output`, by default report.html in it; returns its path.

    data, split: the store that the shown cases come from; by default the one that was evaluated last. Where it is
    not there any more the page says so and has no figures; a store given by name must be there.
    Raises CheckpointError where there is no run, DataError for a store that does not fit or a result that is damaged.
    """
    folder = Path(run)
    output = folder / NAME if output is None else Path(output)
    check_file_output(output)
    loaded, problem, results = _read(folder)
    name = folder.resolve().name
    sections = {"Card": loaded.card, "Configuration": to_dict(loaded.config)} if loaded else {}
    page = render(
        "run.html.j2",
        title=f"modiff report: {name}",
        name=name,
        loaded=loaded,
        config=sections.get("Configuration"),
        parameters=sum(parameter.numel() for parameter in loaded.model.parameters()) if loaded else 0,
        problem=problem,
        untrained=hardly_trained(loaded.card) if loaded else None,
        finding=next(filter(None, map(sentence, results.values())), None),
        scores=[_scores(path.stem, result) for path, result in results.items()],
        log=LOG,
        charts=charts(_log(folder)),
        cases=_cases(loaded, results, data, split, device),
        colours=COLOURS,
        oracle=words.ORACLE,
        shown=SHOWN,
        drawn=SAMPLES,
        trained={name: list(_groups(content)) for name, content in sections.items() if content},
    )
    return write_text(output, page)


def _read(folder: Path) -> tuple[LoadedModel | None, str, Results]:
    """The model of a run folder or why it cannot be read, and the results: the main ones first, the latest of them
    before the others."""
    if not folder.is_dir():
        raise CheckpointError("no such run folder", path=folder, hint="`modiff train` makes one.")
    read = {path: read_result(path) for path in files_in(folder / FOLDER, ".json")}

    def main_and_late(path: Path) -> tuple[bool, str, str]:
        made = read[path].made  # names of parts of a split, and of other settings, say more than the split's
        return path.stem == made.get("split"), str(made.get("date")), path.stem

    results = {path: read[path] for path in sorted(read, key=main_and_late, reverse=True)}
    loaded, problem = None, ""
    try:
        loaded = load_model(folder)
    except ModiffError as error:
        problem = str(error)
        if not results and not (folder / LOG).is_file():
            if (folder / WEIGHTS).is_file():
                raise
            expected = f"weights, {FOLDER}/ or {LOG}"
            raise CheckpointError("not a run folder", path=folder, expected=expected) from error
    return loaded, problem, results


def _log(folder: Path) -> list[dict[str, float]]:
    check_log(folder)
    return read_log(folder / LOG)


def _scores(name: str, result: Result) -> dict[str, Any]:
    """What the page shows of an evaluation."""
    timed = [record for record in result.results if record.seconds_per_image is not None]
    found = {(record.steps or 0, record.n, record.select): record.seconds_per_image for record in timed}
    seconds = sorted(found.items())
    return {
        "name": name,
        "made": result.made,
        "counts": result.strata.get("all", {}),
        "notes": _list(result.made.get("notes")),
        "tables": tables_of(result),
        "seconds": [
            f"{took:.3g} s for {counted(n, 'sample')}"
            + f" at {counted(s, 'step')}" * (s > 0)
            + f", {drawn}" * (drawn != IID)
            for (s, n, drawn), took in seconds
        ],
    }


def tables_of(result: Result) -> list[Table]:
    """Every protocol, threshold and number of steps of an evaluation: predictors on all images, then strata."""
    return [table for setting in settings_of(result) for table in _tables(result, setting)]


def settings_of(result: Result) -> list[Setting]:
    """The protocols, thresholds, steps and selections that the model was scored under, i.i.d. and standard first."""
    found = {(r.protocol, r.threshold, r.steps, r.select) for r in result.results if r.predictor == "model"}
    return sorted(found, key=lambda s: (SELECTIONS.index(s[3]), s[0] != "standard", s[0], s[1], s[2] or 0))


def _records(result: Result, setting: Setting) -> list[Record]:
    """Those of a setting, and the references, which are not drawn."""
    protocol, threshold, steps, drawn = setting
    records = select(result.results, protocol=protocol, threshold=threshold, steps=(steps, None))
    return [record for record in records if record.select == drawn or record.predictor in BESIDE]


def _tables(result: Result, setting: Setting) -> Iterator[Table]:
    protocol, _, steps, drawn = setting
    records = _records(result, setting)
    model = select(records, predictor="model", stratum="all")
    if not model:
        return
    how = words.threshold(model[0]) + ("" if steps is None else f", {counted(steps, 'step')}")
    how += "" if drawn == IID else f"; {drawn} samples"
    measured = {(r.metric, r.n) for r in records if r.predictor == "model" and DIFFERENCE not in r.metric}
    columns = sorted(measured, key=lambda c: (rank(c[0]), c))
    heads = tuple(head(column) for column in columns)
    cells = {}
    for record in reversed(records):
        lacking = result.undefined(record)
        notes = (words.interval(record), f"{counted(lacking, 'image')} undefined" if lacking else "")
        cell = Cell(words.value(record), tuple(filter(None, notes)), False)
        cells[record.predictor, record.stratum, record.metric, record.n] = cell

    def row(title: str, predictor: str, stratum: str, other: str = "", before: tuple[str, ...] = ()) -> Row:
        """The values of a predictor, or its paired differences from another one."""
        end = f"{DIFFERENCE}{other}" if other else ""
        return Row(title, tuple(cells.get((predictor, stratum, metric + end, n)) for metric, n in columns), (), before)

    rows = [row(words.PREDICTORS[p], p, "all") for p in words.PREDICTORS]
    rows += [row(f"{words.PREDICTORS[p]} − {words.PREDICTORS[q]}, paired", p, "all", q) for p, q in _PAIRS]
    caption = f"{protocol}: {words.CONVENTIONS.get(protocol, 'other conventions')}; {how}"
    yield Table("", protocol, caption, ("all images", *heads), tuple(row for row in rows if any(row.cells)))
    strata = []
    for stratum in STRATA[1:]:
        counts = result.strata.get(stratum, {})
        if counts.get("images"):
            before = (str(counts["images"]), str(counts.get("patients", 0)))
            strata.append(row(words.STRATA[stratum], "model", stratum, before=before))
    caption = f"By stratum, {protocol} protocol; {how}"
    yield Table("", protocol, caption, ("model, by stratum", "images", "patients", *heads), tuple(strata))


def sentence(result: Result) -> str | None:
    """The first finding in words: the main metrics under the standard protocol beside i.i.d. reference and oracle."""
    settings = settings_of(result)
    if not settings:
        return None
    protocol, _, steps, drawn = settings[0]
    records = select(_records(result, settings[0]), stratum="all")
    model = next(iter(select(records, predictor="model", metric=FIRST, steps=steps)), None)
    if model is None:
        return None
    found = {(r.predictor, r.metric): r for r in reversed(records) if r.n == model.n and r.value is not None}
    main = [found["model", metric] for metric in FIRST if ("model", metric) in found]
    if not main:
        return None
    values = " and ".join(f"{words.metric(own)} is {words.value(own)}{_bracket(own)}" for own in main)
    of = "" if drawn == IID else f" {drawn} samples"
    said = [
        f"With n = {model.n}{of} ({protocol} protocol, {words.threshold(model)}) {values} on "
        f"{counted(model.images, 'image')} of split {model.split}."
    ]
    reference, apart = found.get(("iid_reference", "ged")), found.get(("model", f"ged{DIFFERENCE}iid_reference"))
    if reference and apart:
        said.append(
            f"The i.i.d. reference, samples that are fresh raters, has a GED of {words.value(reference)}: the model "
            f"lies {words.number(abs(apart.value or 0))} {'above' if (apart.value or 0) >= 0 else 'below'} it"
            f"{_bracket(apart)}."
        )
    if verdicts := "; ".join(filter(None, (_against_oracle(found, own.metric) for own in main))):
        said.append(f"Beside the {words.PREDICTORS[BASELINE]}, repeated {model.n} times, the model is {verdicts}.")
    return " ".join(said)


def _bracket(record: Record) -> str:
    return f" (95 % interval {words.interval(record)})" if record.ci_low is not None else ""


def _against_oracle(found: Mapping[tuple[str, str], Record], metric: str) -> str | None:
    """How the model compares with the majority vote by one metric; None where that was not measured."""
    beside, apart = found.get((BASELINE, metric)), found.get(("model", f"{metric}{DIFFERENCE}{BASELINE}"))
    if beside is None or apart is None:
        return None
    verdict = "not shown to differ"
    if apart.ci_low is None or apart.ci_high is None:
        verdict = f"not judged ({words.FEW})"
    elif apart.ci_low > 0 or apart.ci_high < 0:
        verdict = "better" if (apart.ci_low > 0) == words.HIGHER_IS_BETTER[metric] else "worse"
    return (
        f"{verdict} by {words.metric(beside)} ({words.value(beside)}; paired difference {words.value(apart)}"
        f"{f', {words.interval(apart)}' if apart.ci_low is not None else ''})"
    )


def _list(value: Any) -> list[Any]:
    """What a file says is a list, or nothing."""
    return value if isinstance(value, list) else []


def _cases(
    loaded: LoadedModel | None, results: Results, data: str | Path | None, split: str | None, device: torch.device | str
) -> dict[str, Any]:
    """What the section of cases shows; `missing` says why there can be none."""
    of_split = (one for one in results.items() if split is None or one[1].made.get("split") == split)
    path, result = next(of_split, next(iter(results.items()), (None, Result({}, {}, []))))
    made, store = result.made, result.made.get("store", {})
    where = data if data is not None else store.get("path")
    if loaded is None:
        return {"missing": "the model cannot be read"}
    if not isinstance(where, str | Path):
        return {"missing": "no store is known; name it with --data"}
    if data is None and not Path(where).is_file():
        return {"missing": f"the store that was evaluated, {Path(where).name}, is not where it was; --data names it"}
    scored = str(made.get("split", "test"))
    split = split or scored
    images = load(where, split)
    images = as_trained(loaded, images, where)
    if not len(images):
        raise DataError("the split has no images", path=where, field="split", found=split)
    changed = path is not None and images.fingerprint != store.get("fingerprint")
    weights = provenance.model_fingerprint(loaded.model, loaded.config)
    other_weights = result.text("model", "fingerprint") not in (None, weights)
    settings = made.get("settings", {})  # what a file says is not trusted
    seed, steps = settings.get("seed"), next(iter(_list(settings.get("steps"))), None)
    seed, steps = seed if isinstance(seed, int) else 0, steps if isinstance(steps, int) and steps > 0 else None
    table = path.with_suffix(".csv") if path and not (changed or other_weights) and scored == split else None
    shown, window = case_figures(images, loaded.model, seed=seed, steps=steps, device=device)
    return {
        "missing": None,
        "split": split,
        "store": Path(where).name,
        "channel": images.info.channels[images.info.context] if len(images.info.channels) > 1 else None,
        "window": window,
        "changed": changed,
        "other_weights": other_weights,
        "figures": shown,
        "scores": _case_scores(read_results(path)[1]) if path and table and table.is_file() else {},
    }


def case_figures(
    images: MemoryStore, model: Segmenter, seed: int = 0, steps: int | None = None, device: torch.device | str = "cpu"
) -> tuple[list[CaseFigure], tuple[float, float]]:
    """The chosen cases with samples of `model`, and the grey window that all of them are shown in."""
    info, rows = images.info, choose(images.cases, strata(images), CASES)
    if not rows:
        return [], (0.0, 1.0)
    window = figures.grey_window(np.stack([pictured(image.numpy(), info) for image in images.batch(rows).image]))
    made = []
    for row in rows:
        batch = images.batch([row])
        samples, _ = draw(model, batch.to(device), SAMPLES, seed, steps)
        summary = summarise(samples, classes=info.classes)
        marked, read, drawn = int(batch.marked.sum()), int(batch.read.sum()), int(summary.masks.any((1, 2, 3)).sum())
        said = f"{marked} of {counted(read, 'rater')} marked something, {drawn} of {len(summary.masks)} samples do."
        sheet = figures.contact_sheet(cells_of(batch, summary, info), window=window, inches=1.5)
        made.append(CaseFigure(images.cases[row], figures.encoded(sheet), said))
    return made, window


def cells_of(batch: Batch, summary: Summary, info: StoreInfo) -> list[list[figures.Cell]]:
    """The rows of a case's figure. batch: of one case; summary: of its samples."""
    close, cells, label = case_cells(batch, info, np.asarray(summary.masks.any((0, 1))))
    cells += [
        label,
        close.probability(np.clip(summary.mean.sum(0), 0, 1), "mean map"),
        close.heat(summary.entropy, math.log2(len(info.classes) + 1), "uncertainty"),
    ]
    samples = [close.outlined(mask, figures.SAMPLE, f"sample {i}") for i, mask in enumerate(summary.masks[:SHOWN], 1)]
    return [part[i : i + COLUMNS] for part in (cells, samples) for i in range(0, len(part), COLUMNS)]


def _case_scores(table: ImageTable) -> dict[str, str]:
    """How each case scores, in words, from the table of images."""
    quantities = [q for q in table.columns if (q.predictor, q.metric, q.protocol) == ("model", "ged", "standard")]
    quantity = min(quantities, key=lambda q: (q.select != IID, q.threshold != 0.5, q.n), default=None)
    if quantity is None:
        return {}
    values = zip(table.cases, table.columns[quantity].tolist(), strict=True)
    return {case: f"GED {value:.3f} (standard, n = {quantity.n})." for case, value in values}


def _groups(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Nested settings as lists of facts, each group with its address."""
    own = [(key, as_text(value)) for key, value in content.items() if not isinstance(value, Mapping)]
    if own:
        yield prefix, own
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _groups(value, f"{prefix}.{key}" if prefix else str(key))
