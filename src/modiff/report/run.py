"""The report of a run: what was trained, how it scores, how training went, and figures, in one HTML file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modiff.config import to_dict
from modiff.errors import CheckpointError, DataError, ModiffError
from modiff.evaluation.evaluate import FOLDER, check_fit
from modiff.evaluation.records import ImageTable, Result, read_csv, read_result
from modiff.io.files import check_file_output, write_text
from modiff.methods.run_folder import LOG, WEIGHTS
from modiff.report import cases, tables
from modiff.viz.charts import charts, read_log
from modiff.viz.html import render

if TYPE_CHECKING:
    import torch

    from modiff.methods.weights import LoadedModel

NAME = "report.html"
Facts = list[tuple[str, object]]
Results = dict[Path, Result]


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
    sentences = [said for result in results.values() if (said := tables.sentence(result))]
    sections = {"Card": loaded.card, "Configuration": to_dict(loaded.config)} if loaded else {}
    page = render(
        "run.html.j2",
        title=f"modiff report: {name}",
        name=name,
        facts=_facts(loaded) if loaded else [],
        problem=problem,
        finding=sentences[0] if sentences else None,
        scores=[_scores(path, result) for path, result in results.items()],
        log=LOG,
        charts=charts(read_log(folder / LOG)),
        cases=_cases(loaded, results, data, split, device),
        colours=cases.COLOURS,
        shown=cases.SHOWN,
        drawn=cases.SAMPLES,
        trained={name: list(_groups(content)) for name, content in sections.items() if content},
        made=[(path.stem, _made(result.made)) for path, result in results.items()],
    )
    return write_text(output, page)


def _read(folder: Path) -> tuple[LoadedModel | None, str, Results]:
    """The model of a run folder or why it cannot be read, and the results, of which the main ones come first."""
    from modiff.methods.weights import load_model

    if not folder.is_dir():
        raise CheckpointError("no such run folder", path=folder, hint="`modiff train` makes one.")
    # The main results have no suffix in their names.
    paths = sorted((folder / FOLDER).glob("*.json"), key=lambda path: (len(path.stem), path.stem))
    results = {path: read_result(path) for path in paths}
    loaded, problem = None, ""
    try:
        loaded = load_model(folder)
    except ModiffError as error:
        problem = str(error)
    if loaded is None and not results and not (folder / LOG).is_file():
        found = problem if (folder / WEIGHTS).is_file() else None
        raise CheckpointError("not a run folder", path=folder, found=found, expected=f"weights, {FOLDER}/ or {LOG}")
    return loaded, problem, results


def _facts(loaded: LoadedModel) -> Facts:
    config, data = to_dict(loaded.config), loaded.data
    known = {
        "method": config.get("method"),
        "preset": config.get("preset"),
        "parameters": f"{sum(parameter.numel() for parameter in loaded.model.parameters()):,}".replace(",", " "),
        "raters": data.raters,
        "classes": data.classes,
        "channels": data.channels,
        "size": " × ".join(map(str, data.size)) if data.size else None,
        "intensity": data.intensity,
        "prompt": data.prompt,
        "fold held out": data.fold,
    }
    return [(name, _text(value)) for name, value in known.items() if value not in (None, "")]


def _scores(path: Path, result: Result) -> dict[str, object]:
    made = result.made
    seconds = {(r.steps or 0, r.n): r.seconds_per_image for r in result.results if r.seconds_per_image is not None}
    return {
        "name": path.stem,
        "split": made.get("split"),
        "limit": (made.get("settings") or {}).get("limit"),
        "counts": result.strata.get("all", {}),
        "unread": made.get("unread"),
        "notes": _list(made.get("notes")),
        "tables": tables.summary(result),
        "seconds": [
            f"{taken:.3g} s for {n} samples" + (f" at {steps} steps" if steps else "")
            for (steps, n), taken in sorted(seconds.items())
        ],
        "device": made.get("device"),
    }


def _list(value: Any) -> list[Any]:
    """What a file says is a list, or nothing."""
    return value if isinstance(value, list) else []


def _cases(
    loaded: LoadedModel | None, results: Results, data: str | Path | None, split: str | None, device: torch.device | str
) -> dict[str, Any]:
    """What the section of cases shows; `missing` says why there can be none."""
    path, result = next(iter(results.items()), (None, Result({}, {}, [])))
    made, store = result.made, result.made.get("store", {})
    where = data if data is not None else store.get("path")
    if loaded is None:
        return {"missing": "the model cannot be read"}
    if not isinstance(where, str | Path):
        return {"missing": "no store is known; name it with --data"}
    if data is None and not Path(where).is_file():
        return {"missing": f"the store that was evaluated, {Path(where).name}, is not where it was; --data names it"}
    from modiff.data.loading import load

    scored = str(made.get("split", "test"))
    split = split or scored
    images = load(where, split)
    check_fit(loaded, images, where)
    if not len(images):
        raise DataError("the split has no images", path=where, field="split", found=split)
    changed = path is not None and images.fingerprint != store.get("fingerprint")
    # What a file says is not trusted.
    settings = made.get("settings", {})
    seed, steps = settings.get("seed"), next(iter(_list(settings.get("steps"))), None)
    drawing: dict[str, Any] = {"seed": seed if isinstance(seed, int) else 0, "device": device}
    drawing["steps"] = steps if isinstance(steps, int) and steps > 0 else None
    if path and path.with_suffix(".csv").is_file() and not changed and scored == split:
        drawing["score"] = _scorer(read_csv(path.with_suffix(".csv"), split))
    figures, (low, high) = cases.figures(images, loaded.model, **drawing)
    return {
        "missing": None,
        "split": split,
        "store": Path(where).name,
        "channel": images.info.channels[0] if len(images.info.channels) > 1 else None,
        "window": "the whole range of values" if (low, high) == (0.0, 1.0) else f"values {low:.3g} to {high:.3g}",
        "changed": changed,
        "figures": figures,
    }


def _scorer(table: ImageTable) -> Callable[[str], str]:
    """Words on how a case scores, from the table of images."""
    quantities = [q for q in table.columns if (q.predictor, q.metric, q.protocol) == ("model", "ged", "standard")]
    if not quantities:
        return lambda case: ""
    quantity = min(quantities, key=lambda q: (q.threshold != 0.5, q.n))
    values = dict(zip(table.cases, table.columns[quantity].tolist(), strict=True))
    return lambda case: f"GED {values[case]:.3f} (standard, n = {quantity.n})." if case in values else ""


def _groups(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Facts]]:
    """Nested settings as lists of facts, each group with its address."""
    own: Facts = [(key, _text(value)) for key, value in content.items() if not isinstance(value, Mapping)]
    if own:
        yield prefix, own
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _groups(value, f"{prefix}.{key}" if prefix else str(key))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value in ([], ()):
        return "–"
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _made(made: dict[str, Any]) -> Facts:
    """How an evaluation was made."""
    facts = {name: made.get(name) for name in ("command", "date", "device", "commit", "versions", "seed")}
    facts["versions"] = ", ".join(f"{name} {version}" for name, version in (made.get("versions") or {}).items())
    facts |= {name: (made.get(name) or {}).get("fingerprint", "") for name in ("store", "model")}
    return [(name, value) for name, value in facts.items() if value is not None]
