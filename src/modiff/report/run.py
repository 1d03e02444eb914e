"""The report of a run: what was trained, how it scores, how training went, and pictures, in one HTML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modiff.errors import CheckpointError, DataError, ModiffError
from modiff.evaluation.evaluate import FOLDER, check_fit
from modiff.evaluation.records import Result, read_result
from modiff.evaluation.table import ImageTable, Quantity, read_csv
from modiff.io.files import write_text
from modiff.methods.run_folder import WEIGHTS
from modiff.report import cases, tables
from modiff.viz import curves
from modiff.viz.html import Markup, join, page, tag

if TYPE_CHECKING:
    import torch

    from modiff.data.loading import MemoryStore
    from modiff.methods.weights import LoadedModel

LOG = "log.jsonl"
NAME = "report.html"


@dataclass(frozen=True)
class _Run:
    """What is found in a run folder."""

    folder: Path
    loaded: LoadedModel | None
    problem: str
    results: dict[Path, Result]


def write_report(
    run: str | Path,
    output: str | Path | None = None,
    *,
    data: str | Path | None = None,
    split: str | None = None,
    device: torch.device | str = "cpu",
) -> Path:
    """Writes the report of a run folder to `output`, by default report.html in it; returns its path.

    data, split: the store that the pictured cases come from; by default the one that was evaluated last. Where it is
    not there any more the page says so and has no pictures; a store given by name must be there.
    Raises CheckpointError where there is no run, DataError for a store that does not fit or a result that is damaged.
    """
    found = _read(Path(run))
    output = Path(output) if output is not None else found.folder / NAME
    title = f"modiff report: {found.folder.resolve().name}"
    body = [
        *_head(found),
        *_scores(found),
        *_curves(found),
        *_pictures(found, data, split, device),
        *_trained(found),
        *_made(found),
    ]
    return write_text(output, page(title, body))


def _read(folder: Path) -> _Run:
    from modiff.methods.weights import load_model

    if not folder.is_dir():
        raise CheckpointError("no such run folder", path=folder, hint="`modiff train` makes one.")
    results = {path: read_result(path) for path in sorted((folder / FOLDER).glob("*.json"))}
    # The main results, whose names have no suffix, come first.
    results = dict(sorted(results.items(), key=lambda item: (len(item[0].stem), item[0].stem)))
    loaded, problem = None, ""
    try:
        loaded = load_model(folder)
    except ModiffError as error:
        problem = str(error)
    if loaded is None and not results and not (folder / LOG).is_file():
        found = problem if (folder / WEIGHTS).is_file() else None
        raise CheckpointError("not a run folder", path=folder, found=found, expected=f"weights, {FOLDER}/ or {LOG}")
    return _Run(folder, loaded, problem, results)


def _head(run: _Run) -> list[Markup]:
    facts = _summary_facts(run)
    parts = [
        tag("h1", run.folder.resolve().name),
        tag("p", "A report by modiff. Research software, not a medical device.", class_="lead"),
        tag("dl", *facts, class_="facts"),
    ]
    if run.problem:
        parts.append(tag("p", f"The model cannot be read: {run.problem}", class_="note warning"))
    sentences = [found for result in run.results.values() if (found := tables.sentence(result))]
    if sentences:
        parts.append(tag("p", sentences[0], class_="note"))
    return parts


def _summary_facts(run: _Run) -> list[Markup]:
    if run.loaded is None:
        return []
    config, data = _plain(run.loaded.config), run.loaded.data
    parameters = sum(parameter.numel() for parameter in run.loaded.model.parameters())
    known = {
        "method": config.get("method"),
        "preset": config.get("preset"),
        "parameters": f"{parameters:,}".replace(",", " "),
        "raters": _listed(data.raters),
        "classes": _listed(data.classes),
        "channels": _listed(data.channels),
        "size": _listed(data.size, " × "),
        "intensity": data.intensity,
        "prompt": data.prompt,
        "fold held out": data.fold,
    }
    return [join([tag("dt", key), tag("dd", value)]) for key, value in known.items() if value not in (None, "")]


def _listed(value: Any, between: str = ", ") -> Any:
    return between.join(map(str, value)) if isinstance(value, list | tuple) else value


def _scores(run: _Run) -> list[Markup]:
    parts = [tag("h2", "Scores")]
    if not run.results:
        return [*parts, tag("p", "Not evaluated yet: ", tag("code", "modiff evaluate"), " does it.", class_="note")]
    parts.append(
        tag(
            "p",
            "Means over images; below each its 95 % interval, by bootstrap over patients. Protocols are conventions of "
            "the metrics: numbers of different protocols must not be compared. The i.i.d. reference is the GED "
            "that samples would have if they were fresh raters: exact where images were not chosen by their marks, a "
            "guide where they were. Majority vote is one mask, repeated n times. A paired difference compares "
            "two predictors on the same images. Shuffled, where it was asked for, is a control that must do badly: "
            "samples drawn for another patient's image. ↓ lower is better, ↑ higher is better.",
        )
    )
    for path, result in run.results.items():
        counts, made = result.strata.get("all", {}), result.made
        limit = (made.get("settings") or {}).get("limit")
        whole = f"Split {made.get('split')}" + (f", a fixed subset of {limit}" if limit else "")
        line = f"{whole}: {counts.get('images')} images of {counts.get('patients')} patients."
        unread = made.get("unread")
        more = f" {unread} images that nobody read are left out." if unread else ""
        notes = [tag("p", f"Note: {note}.", class_="note warning") for note in _list(made.get("notes"))]
        parts += [tag("h3", path.stem), tag("p", line, more), *notes, tables.summary(result), *_seconds(result)]
    return parts


def _list(value: Any) -> list[Any]:
    """What a file says is a list, or nothing."""
    return value if isinstance(value, list) else []


def _seconds(result: Result) -> list[Markup]:
    found = {(r.steps, r.n): r.seconds_per_image for r in result.results if r.seconds_per_image is not None}
    if not found:
        return []
    listed = [
        f"{seconds:.3g} s for {n} samples" + ("" if steps is None else f" at {steps} steps")
        for (steps, n), seconds in sorted(found.items(), key=lambda item: (item[0][0] or 0, item[0][1]))
    ]
    return [tag("p", f"Time to draw, an image: {'; '.join(listed)} on {result.made.get('device')}.", class_="small")]


def _curves(run: _Run) -> list[Markup]:
    made = curves.charts(curves.read_log(run.folder / LOG))
    if not made:
        return [tag("h2", "Training"), tag("p", f"There is no {LOG} with curves in the run folder.", class_="note")]
    return [tag("h2", "Training"), tag("div", *made, class_="charts")]


def _pictures(run: _Run, data: str | Path | None, split: str | None, device: torch.device | str) -> list[Markup]:
    """The section of cases; says what is missing where there can be none."""
    head = tag("h2", "Cases")
    path, result = next(iter(run.results.items()), (None, Result({}, {}, [])))
    made = result.made
    where = data if data is not None else made.get("store", {}).get("path")
    if run.loaded is None or not isinstance(where, str | Path):
        why = "the model cannot be read" if run.loaded is None else "no store is known; name it with --data"
        return [head, tag("p", f"No pictures: {why}.", class_="note")]
    if data is None and not Path(where).is_file():
        words = f"No pictures: the store that was evaluated, {Path(where).name}, is not where it was. "
        return [head, tag("p", words, "Name it with ", tag("code", "--data"), ".", class_="note warning")]
    scored = str(made.get("split", "test"))
    split = split or scored
    images = _images(run.loaded, where, split)
    changed = path is not None and images.fingerprint != made.get("store", {}).get("fingerprint")
    settings = made.get("settings", {})
    seed, steps = settings.get("seed"), next(iter(_list(settings.get("steps"))), None)
    drawing = cases.Drawing(
        run.loaded.model,
        seed=seed if isinstance(seed, int) else 0,
        steps=steps if isinstance(steps, int) and steps > 0 else None,
        device=device,
    )
    table = read_csv(path.with_suffix(".csv"), split) if path and path.with_suffix(".csv").is_file() else None
    describe = _scorer(table) if table and not changed and scored == split else None
    parts = [head, tag("p", f"Split {split} of {Path(where).name}. ", cases.legend(images))]
    if changed:
        parts.append(tag("p", "This is not the store that was evaluated: its content differs.", class_="note warning"))
    return [*parts, *cases.figures(images, drawing, describe)]


def _images(loaded: LoadedModel, where: str | Path, split: str) -> MemoryStore:
    from modiff.data.loading import load

    images = load(where, split)
    check_fit(loaded, images, where)
    if not len(images):
        raise DataError("the split has no images", path=where, field="split", found=split)
    return images


def _scorer(table: ImageTable) -> Any:
    """Words on how a case scores, from the table of images."""
    quantities = [q for q in table.columns if (q.predictor, q.metric, q.protocol) == ("model", "ged", "standard")]
    if not quantities:
        return None
    quantity: Quantity = min(quantities, key=lambda q: (q.threshold != 0.5, q.n))
    values = dict(zip(table.cases, table.columns[quantity].tolist(), strict=True))

    def describe(case: str) -> str:
        return f"GED {values[case]:.3f} (standard, n = {quantity.n})." if case in values else ""

    return describe


def _trained(run: _Run) -> list[Markup]:
    if run.loaded is None:
        return []
    sections = [("Card", run.loaded.card), ("Configuration", _plain(run.loaded.config))]
    made = [tag("h2", "What was trained")]
    for name, content in sections:
        if content:
            made += [tag("h3", name), tag("div", *_groups(content), class_="columns")]
    return made


def _groups(content: Mapping[str, Any], prefix: str = "") -> list[Markup]:
    """Nested settings as lists of facts, a group a heading."""
    own = {key: value for key, value in content.items() if not isinstance(value, Mapping)}
    made = []
    if own:
        facts = [join([tag("dt", key), tag("dd", _fact(value))]) for key, value in own.items()]
        made.append(tag("section", tag("h3", prefix) if prefix else None, tag("dl", *facts, class_="facts")))
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            made += _groups(value, f"{prefix}.{key}" if prefix else str(key))
    return made


def _fact(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value in ([], ()):
        return "–"
    if isinstance(value, list | tuple):
        return ", ".join(map(_fact, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _made(run: _Run) -> list[Markup]:
    parts = []
    for path, result in run.results.items():
        made = result.made
        versions = ", ".join(f"{name} {version}" for name, version in (made.get("versions") or {}).items())
        facts = {
            "command": tag("code", made.get("command", "")),
            "date": made.get("date"),
            "device": made.get("device"),
            "commit": made.get("commit"),
            "versions": versions,
            "store": tag("code", (made.get("store") or {}).get("fingerprint", "")),
            "model": tag("code", (made.get("model") or {}).get("fingerprint", "")),
            "seed": made.get("seed"),
        }
        listed = [join([tag("dt", key), tag("dd", value)]) for key, value in facts.items() if value is not None]
        parts += [tag("h3", path.stem), tag("dl", *listed, class_="facts")]
    return [tag("h2", "How the scores were made"), *parts] if parts else []


def _plain(config: Any) -> dict[str, Any]:
    from modiff.config import to_dict

    return config if isinstance(config, dict) else to_dict(config)
