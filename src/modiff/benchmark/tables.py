"""The paper's tables from a benchmark's folder: Markdown, CSV, a page, and Figure 2.

One table per group of rows, protocol, threshold and selection, so that no column mixes any of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import compress, cycle, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from markupsafe import Markup

from modiff.benchmark.numbers import BEST, INFERRED, MEASURED, PUBLISHED, SAME, Numbers, dataset_of, read_numbers
from modiff.benchmark.plan import ABLATIONS, CONTROLS, EDGES, METHODS
from modiff.benchmark.state import Run, State, Status, read_state
from modiff.config.evaluation import IID, REPRESENTATIVE, RESAMPLES, STRATIFIED
from modiff.data.loading import MemoryStore, load
from modiff.data.splits import fold_split
from modiff.errors import DataError, ModiffError, counted, printable
from modiff.evaluation import words
from modiff.evaluation.source import choose, draw, pictured, strata, subset
from modiff.io.output import alone, replacing_all, write_bytes, write_text
from modiff.io.text import csv_text
from modiff.methods.run_folder import load_model
from modiff.metrics.protocols import PROTOCOLS
from modiff.types import Batch
from modiff.viz import figures as viz
from modiff.viz.html import environment, render

if TYPE_CHECKING:
    from modiff.data.store_format import StoreInfo

FOLDER = "tables"  # of a benchmark's folder
MARKDOWN, CSV, PAGE, FIGURE = "tables.md", "tables.csv", "tables.html", "figure2"
SAME_SIGN = "≈"
_GROUPS = {
    METHODS: "Methods",
    ABLATIONS: "Parts of MoDiff",
    EDGES: "Edge filters in place of the LDF",
    CONTROLS: "Controls: what MoDiff's stem, hurdle and prompt do for others",
}
_SELECTED = {IID: "i.i.d.", STRATIFIED: "stratified", REPRESENTATIVE: "representative"}
_COST = "parameters", "GFLOP/image (n = {})", "evaluations per sample", "seconds/image (n = {})", "images seen", "seeds"
_METHODS_TABLE = {"lidc": "Table 1", "ms_mri": "Table 2", None: "as Tables 1 and 2"}
_SPECIAL = re.compile(r"([\\`*_\[\]|#~])")
Column = tuple[str, int]  # metric, n


@dataclass(frozen=True)
class Cell:
    """A number with what is shown below it: interval, range over seeds, undefined images."""

    value: str
    notes: tuple[str, ...] = ()
    best: bool = False


@dataclass(frozen=True)
class Row:
    """A row of a table. after: plain cells that follow the numbers; empty where nothing is known, as for references."""

    title: str
    cells: tuple[Cell | None, ...]
    after: tuple[str, ...]
    before: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """One table in words. findings: for each column, which row is best. published: printed numbers, or None."""

    group: str
    title: str
    caption: str
    heads: tuple[str, ...]
    rows: tuple[Row, ...]
    findings: tuple[str, ...] = ()
    published: Table | None = None


class CaseFigure(NamedTuple):
    """A case's figure. image: PNG; words: what it shows."""

    case: str
    image: bytes
    words: str


@dataclass(frozen=True)
class WrittenTables:
    """What was written. note: why there is no figure, where there is none."""

    tables: tuple[Table, ...]
    left_out: tuple[str, ...]
    files: tuple[Path, ...]
    note: str | None


def write_tables(
    folder: str | Path,
    output: str | Path | None = None,
    *,
    data: str | Path | None = None,
    cases: int = 3,
    samples: int = 6,
    resamples: int = RESAMPLES,
    say: Callable[[str], None] = lambda line: None,
) -> WrittenTables:
    """Writes the tables of the runs that are done to `output`, by default DIR/tables.

    data: the store, where it has moved since. cases: of Figure 2, 0 for none. Raises DataError where the folder holds
    no benchmark, no run is finished, or results are not of the same images.
    """
    folder = Path(folder)
    target = folder / FOLDER if output is None else Path(output)
    state = read_state(folder)
    if target.exists() and not target.is_dir():
        raise DataError("is not a folder", path=target, expected="a folder, or nothing yet")
    with alone(target):
        return _written(folder, target, state, data, cases, samples, resamples, say)


def _written(
    folder: Path,
    target: Path,
    state: State,
    data: str | Path | None,
    cases: int,
    samples: int,
    resamples: int,
    say: Callable[[str], None],
) -> WrittenTables:
    numbers = read_numbers(folder, state, resamples=resamples)
    drawn, note = _drawn(folder, state, data, cases, samples, say) if cases > 0 else ([], None)
    figures = {f"{FIGURE}-{i}.png": figure for i, figure in enumerate(drawn, 1)}
    tables = tables_of(numbers)
    files = tuple(target / name for name in (MARKDOWN, CSV, PAGE, *figures))
    with replacing_all(*files) as (text, plain, page, *drawings):
        for file, figure in zip(drawings, figures.values(), strict=True):
            write_bytes(file, figure.image)
        write_text(text, markdown(numbers, tables, figures))
        write_text(plain, as_csv(numbers))
        write_text(page, render("tables.html.j2", **_content(numbers, tables, figures)))
    for stale in target.glob(f"{FIGURE}-*.png"):  # of an earlier call that drew more cases
        if stale.name not in figures and re.fullmatch(rf"{FIGURE}-\d+\.png", stale.name):
            stale.unlink()
    return WrittenTables(tables, numbers.left_out, files, note)


def _drawn(
    folder: Path, state: State, data: str | Path | None, cases: int, samples: int, say: Callable[[str], None]
) -> tuple[list[CaseFigure], str | None]:
    """The figures, or why there are none: the tables do not need the store."""
    path = Path(data or str(state.data.get("path", "")))
    if data is None and not path.is_file():
        return [], f"no Figure 2: the store {path} is not there; --data says where it is"
    images = load(path, fold_split(state.folds[0], state.settings.split))
    if images.fingerprint != state.data.get("fingerprint"):
        found, expected = images.fingerprint[:12], str(state.data.get("fingerprint"))[:12]
        raise DataError("is not the store of this benchmark", path=path, found=found, expected=expected)
    try:
        return draw_cases(folder, state, images, cases, samples, say), None
    except (ModiffError, RuntimeError, ValueError, OSError) as error:  # the tables are wanted even so
        return [], f"no Figure 2: {type(error).__name__}: {' '.join(str(error).split())[:300]}"


def as_csv(numbers: Numbers) -> str:
    """Every number of every table in a line of its own; empty where it does not apply."""
    return csv_text(numbers.numbers)


def markdown(numbers: Numbers, tables: Sequence[Table], figures: dict[str, CaseFigure] | None = None) -> str:
    """All tables as one Markdown page. figures: by file name."""
    made = environment().overlay(autoescape=False, finalize=markdown_text)
    return made.get_template("tables.md.j2").render(_content(numbers, tables, figures or {})).strip() + "\n"


def markdown_text(text: object) -> str:
    """Text that Markdown shows as it is, in one line: neither markup, HTML nor the end of a table's cell."""
    if isinstance(text, Markup):
        return text
    line = printable(" ".join(str(text).split())).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", line)


def _content(numbers: Numbers, tables: Sequence[Table], figures: dict[str, CaseFigure]) -> dict[str, Any]:
    """What both templates show."""
    about = {"title": "Benchmark", "facts": facts(numbers), "left_out": numbers.left_out, "oracle": words.ORACLE}
    return about | {"tables": tables, "figures": figures}


def facts(numbers: Numbers) -> list[tuple[str, str]]:
    """How the benchmark was made, name and value."""
    state, settings = numbers.state, numbers.state.settings
    made = [run.made or state.made for run in state.runs.values() if run.status == Status.DONE]

    def each(name: str) -> str:
        """What the runs were made with; several where they differ."""
        found = [one.get(name) or "unknown" for one in made]
        texts = [", ".join(f"{k} {v}" for k, v in one.items()) if isinstance(one, dict) else str(one) for one in found]
        return "; ".join(dict.fromkeys(texts))

    found = {
        "Data": f"{state.data.get('source', '')} (fingerprint {str(state.data.get('fingerprint'))[:12]})",
        "Scored": f"split {numbers.split}, {numbers.images} images of {numbers.patients} patients",
        "Budget": f"{settings.budget} per training, batches of {settings.batch_size}",
        "Seeds": f"{', '.join(map(str, state.seeds))}; a seed has the same batches for every method",
        "Folds": f"{', '.join(map(str, state.folds))}: every method is trained once per fold without its patients and "
        "scored on them; the images of all are pooled",
        "Device": each("device"),
        "Versions": each("versions"),
        "Commit": each("commit"),
    }
    if state.folds == (None,):
        del found["Folds"]
    rows = [
        (row.title, f"{key}, preset {row.preset or 'none'}{'; ' if row.changes else ''}{', '.join(row.changes)}")
        for key, row in state.rows.items()
    ]
    return [*found.items(), *rows]


def head(column: Column) -> str:
    """A column's name, e.g. "GED ↓, n = 16"."""
    metric, n = column
    arrow = {True: " ↑", False: " ↓", None: ""}[words.HIGHER_IS_BETTER.get(metric)]
    return f"{words.METRICS.get(metric, metric)}{arrow}, n = {n}"


def tables_of(numbers: Numbers) -> tuple[Table, ...]:
    """The tables in words, in the order of the paper's."""
    by_table = groupby(
        numbers.numbers.itertuples(), key=lambda row: (row.table, row.protocol, row.threshold, row.select)
    )
    return tuple(_table(*at, list(own), numbers) for at, own in by_table)


def _table(group: str, protocol: str, threshold: float, select: str, own: list[Any], numbers: Numbers) -> Table:
    """own: the numbers of this table."""
    measured = [number for number in own if number.kind == MEASURED]
    printed = [number for number in own if number.kind == PUBLISHED]
    columns = list(dict.fromkeys((number.metric, number.n) for number in measured))
    ns = list(dict.fromkeys(n for _, n in columns))
    settings = numbers.state.settings
    dataset = dataset_of(str(numbers.state.data.get("source", "")))
    paper = {METHODS: _METHODS_TABLE[dataset], ABLATIONS: "Table 3", EDGES: "Table 4"}.get(group)
    apart = {(number.metric, number.n) for number in measured if _elsewhere(number)}
    masks = PROTOCOLS[protocol].threshold_text(threshold)
    title = f"{protocol} protocol, {masks}" + ("" if settings.select == (IID,) else f", {_SELECTED[select]} samples")
    findings = [said for column in columns if (said := _finding(column, measured, column in apart))]
    empty = [name for name in numbers.empty if any(number.title == name for number in measured)]
    findings += [f"No sample of {', '.join(empty)} marks anything on any image."] if empty else []
    rows = groupby((number for number in own if number.kind != PUBLISHED), key=lambda number: number.row)
    return Table(
        group=_GROUPS[group] + (f" ({paper})" if paper else ""),
        title=title,
        caption=f"{title} ({words.CONVENTIONS[protocol]}); n = {', '.join(map(str, ns))}; split {numbers.split}, "
        f"{numbers.images} images of {numbers.patients} patients; budget {settings.budget} per training, batches of "
        f"{settings.batch_size}, the same in every row. Value, 95 % interval over patients, range over seeds.",
        heads=("method", *map(head, columns), *(name.format(max(ns)) for name in _COST)),
        rows=tuple(_row(list(row), columns, apart) for _, row in rows),
        findings=tuple(findings),
        published=_published(printed, columns, title) if printed else None,
    )


def _elsewhere(number: Any) -> bool:
    """Whether a value is over other images than those on which its row was compared."""
    return number.images_where_all_defined is not None and number.images_where_all_defined != number.images


def _row(numbers: Sequence[Any], columns: Sequence[Column], apart: Collection[Column]) -> Row:
    """numbers: of one row of a table. apart: columns of which some row was compared on other images than its own."""
    by_column = {at: _cell(number, at in apart) for number in numbers for at in [(number.metric, number.n)]}
    last = max(numbers, key=lambda number: number.n)
    seen = dict.fromkeys(f"{end:,}" for end in (last.images_seen_low, last.images_seen_high) if end is not None)
    costs = (
        _text(last.parameters, ",.0f"),
        _text(last.gflop, ",.0f" if (last.gflop or 0) >= 100 else ".3g"),
        _text(last.evaluations, ".0f"),
        _text(last.seconds_per_image, ".3g"),
        " to ".join(seen),
        _text(last.seeds, "d"),
    )
    return Row(last.title, tuple(map(by_column.get, columns)), costs)


def _text(value: float | None, style: str) -> str:
    return "" if value is None else format(value, style)


def _cell(number: Any, apart: bool) -> Cell:
    """apart: signs are at the mean over the images that were compared, not at the value."""
    digits, sign = words.decimals(number.metric), f" {SAME_SIGN}" if number.verdict == SAME else ""
    value = words.number(number.value, digits=digits) + ("" if apart else sign)
    notes = []
    if number.value is not None:
        notes.append(words.ends(number.ci_low, number.ci_high, digits=digits))
        if (number.seeds or 0) > 1:
            notes.append(f"seeds {words.ends(number.seed_low, number.seed_high, digits=digits)}")
        if number.undefined:
            notes.append(f"{number.undefined} undefined")
        if number.undefined_at_some_seed:
            notes.append(f"{number.undefined_at_some_seed} undefined at some seed")
        mean, images = number.value_where_all_defined, number.images_where_all_defined
        if apart and mean is not None:
            sign = ", best" if number.verdict == BEST else sign
            notes.append(
                f"{words.number(mean, digits=digits)}{sign} on the {counted(images, 'image')} that all rows have"
            )
    return Cell(value, tuple(notes), number.verdict == BEST and not apart)


def _finding(column: Column, measured: Sequence[Any], apart: bool) -> str | None:
    """In words: which row of a column is best and which are not shown to differ from it; None where none is best."""
    own = [number for number in measured if (number.metric, number.n) == column]
    verdicts = {number.title: number.verdict for number in own}
    best, same = ([title for title, found in verdicts.items() if found == verdict] for verdict in (BEST, SAME))
    if not best:
        return None
    where = f" on the {counted(own[0].images_where_all_defined, 'image')} that all rows have" if apart else ""
    have = "has the best mean" if len(best) == 1 else "have the best mean alike"
    said = f"{head(column)}{where}: {', '.join(best)} {have}"
    if len(best) == len(verdicts):
        return f"{said}."
    if None in verdicts.values():
        return f"{said}; too few patients to say which differences are more than chance."
    if same:
        return f"{said}; not shown to differ from it: {', '.join(same)}."
    return f"{said}; every other trained row is worse, its interval leaving out 0."


def _published(printed: Sequence[Any], columns: Sequence[Column], title: str) -> Table:
    """The printed numbers, in the columns of the table."""
    rows = []
    for (method, source), own in groupby(printed, key=lambda number: (number.title, str(number.source))):
        by_column = {(number.metric, number.n): number for number in own}
        first = next(iter(by_column.values()))
        inferred = source.endswith(INFERRED)
        cells = [Cell(f"{by_column[column].value:g}") if column in by_column else None for column in columns]
        after = (_text(first.parameters, ","), _text(first.evaluations, "d"), source.removesuffix(INFERRED))
        rows.append(Row(method + ("*" if inferred else ""), tuple(cells), after))
    return Table(
        group="",
        title="published",
        caption=f"Published under the {title}. Other images, longer training, other code: for orientation, not for "
        "comparison. * The source does not state its protocol; its numbers are consistent with it.",
        heads=("published", *map(head, columns), "parameters", "evaluations per sample", "source"),
        rows=tuple(rows),
    )


def draw_cases(
    folder: Path, state: State, images: MemoryStore, cases: int, samples: int, say: Callable[[str], None]
) -> list[CaseFigure]:
    """A fixed choice of cases by hash, the strata taking turns; one row per method, of the first seed that is finished.

    images: the split that is scored, of folds that of the first one, and the rows are those trained without it.
    Samples are the first ones that the scores are of (seed 0), as masks by argmax. Every model is loaded once.
    """
    first: dict[str, Run] = {}
    for run in sorted(state.runs.values(), key=lambda run: run.seed):
        if run.status == Status.DONE and run.fold == state.folds[0]:
            first.setdefault(run.row, run)
    runs = [first[key] for key in state.rows if key in first]
    scored = subset(images.cases, state.settings.limit)
    names = strata(images)
    chosen = choose([images.cases[row] for row in scored], [names[row] for row in scored], cases)
    rows = [scored[place] for place in chosen]
    if not rows or not runs:
        return []
    batch = images.batch(rows)
    drawn: dict[str, np.ndarray] = {}
    for run in runs:
        say(f"samples of {run.name}")
        maps = draw(load_model(folder / run.name).model, batch, samples, 0, None)[0].maps
        drawn[state.rows[run.row].title] = PROTOCOLS["standard"].binarise(maps).numpy()
    below, classes = f"{samples} samples of each method", images.info.classes
    if len(classes) > 1:
        below += "; outlines: " + ", ".join(map(" ".join, zip(classes, cycle(viz.CLASS_STYLES), strict=False)))
    return [
        CaseFigure(
            images.cases[row],
            _sheet(images, row, {title: sets[i] for title, sets in drawn.items()}),
            f"{images.cases[row]}: image, raters, mean label; below, {below}",
        )
        for i, row in enumerate(rows)
    ]


def _sheet(images: MemoryStore, row: int, methods: dict[str, np.ndarray]) -> bytes:
    """methods: masks (N,K,H,W) bool by title."""
    batch = images.batch([row])
    close, (whole, *raters), mean = case_cells(batch, images.info, np.any([m.any((0, 1)) for m in methods.values()], 0))
    there = batch.read[0].tolist()
    first = [whole, *compress(raters, there), *([mean] if sum(there) > 1 else [])]
    rows = [first, *([close.outlined(mask, viz.SAMPLE) for mask in sets] for sets in methods.values())]
    window = viz.grey_window(close.image)
    return viz.encoded(viz.contact_sheet(rows, row_titles=["raters", *methods], window=window, inches=1.25))


def case_cells(batch: Batch, info: StoreInfo, also: np.ndarray) -> tuple[viz.CloseUp, list[viz.Cell], viz.Cell]:
    """A batch's one case, close by what raters and `also` (H,W) mark: the whole image and each rater; mean label."""
    image, masks, read = pictured(batch.image[0].numpy(), info), batch.masks[0].numpy(), batch.read[0].numpy()
    label = masks[read].any(1).mean(0) if read.any() else np.zeros(masks.shape[-2:])
    close = viz.CloseUp(image, viz.close_up((label > 0) | also))
    return close, [close.whole(), *close.raters(masks, read, info.raters)], close.probability(label, "mean label")
