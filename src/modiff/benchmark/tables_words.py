"""What the tables say, the same words in Markdown and HTML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modiff.benchmark.plan import ABLATIONS, CONTROLS, EDGES, METHODS
from modiff.benchmark.published import dataset_of
from modiff.benchmark.state import DONE, State
from modiff.benchmark.tables_data import BEST, SAME, BenchmarkTable, Cell, Column, Line, Tables
from modiff.evaluation import words

SAME_SIGN = "≈"
_GROUPS = {
    METHODS: "Methods",
    ABLATIONS: "Parts of MoDiff",
    EDGES: "Edge filters in place of the LDF",
    CONTROLS: "Controls: what MoDiff's stem, hurdle and prompt do for others",
}
_NUMBERS = {(METHODS, "lidc"): "Table 1", (METHODS, "ms_mri"): "Table 2", (METHODS, None): "as Tables 1 and 2"}
_NUMBERS |= {(ABLATIONS, name): "Table 3" for name in ("lidc", "ms_mri", None)}
_NUMBERS |= {(EDGES, name): "Table 4" for name in ("lidc", "ms_mri", None)}
_CONVENTIONS = {
    "standard": "GED with self-pairs, HM-IoU by optimal matching",
    "paper": "GED without self-pairs, which can be negative, HM-IoU by greedy matching",
}
_ROLES = {
    ("ablations", "modiff"): "MoDiff, both",
    ("edges", "modiff"): "MoDiff, its own LDF",
}


def group_title(group: str, source: str) -> str:
    """E.g. "Methods (Table 1)"."""
    number = _NUMBERS.get((group, dataset_of(source)))
    return f"{_GROUPS[group]} ({number})" if number else _GROUPS[group]


def table_title(table: BenchmarkTable) -> str:
    """The protocol and how masks are made: what every number of the table was measured under."""
    return f"{table.protocol} protocol, {table.masks}"


def caption(table: BenchmarkTable, tables: Tables) -> str:
    """All that is needed to read the numbers."""
    ns = ", ".join(str(n) for n in dict.fromkeys(n for _, n in table.columns))
    given = tables.state.settings
    return (
        f"{table_title(table)} ({_CONVENTIONS[table.protocol]}); n = {ns}; split {tables.split}, "
        f"{tables.images} images of {tables.patients} patients; budget {given['budget']} a training, "
        f"batches of {given['batch_size']}, the same in every row. Value, 95 % interval over patients, "
        "range over seeds."
    )


def legend() -> str:
    """The signs."""
    return (
        f"Bold: the best trained row of a column, on the images where every row has a value. {SAME_SIGN}: not shown to "
        "differ from it (the 95 % interval of the paired difference on these images, by bootstrap over patients, wide "
        "enough for all pairs of rows at once, holds 0); without the sign it leaves out 0. A value is the mean over "
        "the seeds that are defined on an image. Intervals over patients hold what other patients would change, not "
        "what another training would: the range over seeds says that, and of one seed nothing can. Majority vote and "
        "the i.i.d. reference need no training and are not compared; the latter is what samples drawn like fresh "
        "raters would score. What speaks of how raters differ (CI, the i.i.d. reference) is undefined where one rater "
        "read the image."
    )


def facts(tables: Tables) -> list[tuple[str, str]]:
    """How the benchmark was made, name and value."""
    state = tables.state
    made = [run.made or state.made for run in state.runs.values() if run.status == DONE]
    found = [
        ("Data", f"{state.data.get('source', '')} (fingerprint {str(state.data.get('fingerprint'))[:12]})"),
        ("Scored", f"split {tables.split}, {tables.images} images of {tables.patients} patients"),
        ("Budget", f"{state.settings['budget']} a training, batches of {state.settings['batch_size']}"),
        ("Seeds", ", ".join(map(str, state.settings["seeds"])) + "; a seed has the same batches for every method"),
        *_folds(state),
        ("Device", _each(made, "device")),
        ("Versions", _each(made, "versions")),
        ("Commit", _each(made, "commit")),
    ]
    for key, row in state.rows.items():
        changes = f"; {', '.join(row.changes)}" if row.changes else ""
        found.append((row.title, f"{key}, preset {row.preset or 'none'}{changes}"))
    return found


def _folds(state: State) -> list[tuple[str, str]]:
    if state.folds == (None,):
        return []
    words = "every method is trained once a fold without its patients and scored on them; the images of all are pooled"
    return [("Folds", f"{', '.join(map(str, state.folds))}: {words}")]


def _each(made: Sequence[dict[str, Any]], name: str) -> str:
    """What the runs were made with; several where they differ."""
    found = [one.get(name) or "unknown" for one in made]
    texts = [", ".join(f"{k} {v}" for k, v in one.items()) if isinstance(one, dict) else str(one) for one in found]
    return "; ".join(dict.fromkeys(texts))


def heads(table: BenchmarkTable) -> list[str]:
    """The columns' names."""
    return ["method", *(head(column) for column in table.columns), *cost_heads(table)]


def head(column: Column) -> str:
    """E.g. "GED ↓, n = 16"."""
    metric, n = column
    arrow = {True: " ↑", False: " ↓"}.get(words.HIGHER_IS_BETTER.get(metric))  # type: ignore[arg-type]
    return f"{words.METRICS.get(metric, metric)}{arrow or ''}, n = {n}"


def cost_heads(table: BenchmarkTable) -> list[str]:
    """The columns after the metrics."""
    n = largest(table)
    return ["parameters", f"GFLOP, n = {n}", "evaluations a sample", f"s an image, n = {n}", "images seen", "seeds"]


def largest(table: BenchmarkTable) -> int:
    """The n that costs are given for."""
    return max((n for _, n in table.columns), default=1)


def title_of(line: Line, group: str) -> str:
    """What a row is called in this table."""
    return _ROLES.get((group, line.key), line.title)


def value(column: Column, cell: Cell) -> str:
    """The number, with the sign where it is not shown to differ from the best."""
    text = words.number(cell.interval.value, digits=words.decimals(column[0]))
    return f"{text} {SAME_SIGN}" if cell.verdict == SAME else text


def notes(column: Column, cell: Cell) -> list[str]:
    """What stands below the number: interval, range over seeds, undefined images."""
    digits = words.decimals(column[0])
    interval = cell.interval
    if interval.value is None:
        return []
    found = [words.ends(interval.low, interval.high, digits=digits)]
    if len(cell.seeds) > 1:
        found.append(f"seeds {words.ends(min(cell.seeds), max(cell.seeds), digits=digits)}")
    if cell.undefined:
        found.append(f"{cell.undefined} undefined")
    if cell.partly:
        found.append(f"{cell.partly} undefined at some seed")
    mean, images = cell.shared or (None, 0)
    if mean is not None and images != interval.images:
        found.append(f"{words.number(mean, digits=digits)} on the {images} images that all rows have")
    return found


def is_best(cell: Cell) -> bool:
    """Whether the cell is set in bold."""
    return cell.verdict == BEST


def costs(line: Line, table: BenchmarkTable) -> list[str]:
    """The cells after the metrics; empty where nothing is known, as for references."""
    n, cost = largest(table), line.cost
    gflop = line.gflop(n)
    return [
        f"{cost['parameters']:,.0f}" if cost else "",
        "" if gflop is None else (f"{gflop:,.0f}" if gflop >= 100 else f"{gflop:.3g}"),
        f"{cost['evaluations']:.0f}" if cost else "",
        f"{line.seconds[n]:.3g}" if n in line.seconds else "",
        _range(line.images),
        str(len(line.seeds)) if line.seeds else "",
    ]


def _range(images: tuple[int, int] | None) -> str:
    if images is None:
        return ""
    return f"{images[0]:,}" if images[0] == images[1] else f"{images[0]:,} to {images[1]:,}"


def findings(table: BenchmarkTable) -> list[str]:
    """In words, for each column: which row is best and which are not shown to differ from it."""
    found = []
    for column in table.columns:
        cells = {title_of(line, table.group): line.cells[column] for line in table.lines if column in line.cells}
        best = [name for name, cell in cells.items() if is_best(cell)]
        if not best:
            continue
        leads = "has the best mean" if len(best) == 1 else "have the best mean alike"
        same = [name for name, cell in cells.items() if cell.verdict == SAME]
        unknown = [name for name, cell in cells.items() if cell.verdict is None]
        rest = [name for name in cells if name not in best]
        found.append(f"{head(column)}: {', '.join(best)} {leads}{'; ' + _apart(same, unknown) if rest else ''}.")
    return found


def _apart(same: Sequence[str], unknown: Sequence[str]) -> str:
    if unknown:
        return "too few patients to say which differences are more than chance"
    return (
        f"not shown to differ from it: {', '.join(same)}"
        if same
        else "every other row is worse, its interval leaving out 0"
    )
