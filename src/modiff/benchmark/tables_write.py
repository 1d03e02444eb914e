"""The tables as Markdown and as CSV, a line a number."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence

from modiff.benchmark import tables_words as say
from modiff.benchmark.published import PublishedLine, cited, published_beside
from modiff.benchmark.tables_data import BenchmarkTable, Cell, Column, Line, Tables

CSV_COLUMNS = (
    "table",
    "kind",
    "row",
    "title",
    "protocol",
    "threshold",
    "metric",
    "n",
    "value",
    "ci_low",
    "ci_high",
    "seeds",
    "seed_low",
    "seed_high",
    "difference_from_best",
    "difference_ci_low",
    "difference_ci_high",
    "verdict",
    "images",
    "patients",
    "undefined",
    "undefined_at_some_seed",
    "value_where_all_defined",
    "images_where_all_defined",
    "split",
    "budget",
    "images_seen_low",
    "images_seen_high",
    "parameters",
    "gflop",
    "evaluations",
    "seconds_per_image",
    "source",
)
_SPECIAL = re.compile(r"([\\`*_\[\]|#~])")


def markdown_text(text: object) -> str:
    """Text that Markdown shows as it is, in one line: neither markup, HTML nor the end of a table's cell."""
    line = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", line)


def markdown(tables: Tables, *, pictures: Sequence[tuple[str, str]] = ()) -> str:
    """All tables as one Markdown page. pictures: file name and what it shows."""
    source = str(tables.state.data.get("source", ""))
    parts = [
        "# Benchmark",
        *(f"- **{markdown_text(name)}**: {markdown_text(text)}" for name, text in say.facts(tables)),
    ]
    parts += ["", markdown_text(say.legend()), ""]
    if tables.left_out:
        parts += ["**Not in the tables:**", "", *(f"- {markdown_text(line)}" for line in tables.left_out), ""]
    group = None
    for table in tables.tables:
        if table.group != group:
            group = table.group
            parts += [f"## {markdown_text(say.group_title(group, source))}", ""]
        parts += [f"### {markdown_text(say.table_title(table))}", "", markdown_text(say.caption(table, tables)), ""]
        parts += _markdown_table(table)
        parts += ["", *(f"- {markdown_text(line)}" for line in say.findings(table)), ""]
        parts += _markdown_published(table, published_beside(table, source))
    if pictures:
        parts += ["## Samples (Figure 2)", ""]
        parts += [f"![{markdown_text(words)}]({name})\n" for name, words in pictures]
    return "\n".join(parts).rstrip() + "\n"


def _markdown_table(table: BenchmarkTable) -> list[str]:
    heads = [markdown_text(head) for head in say.heads(table)]
    lines = [_row(heads), _row(["---", *["---:"] * (len(heads) - 1)])]
    for line in (*table.lines, *table.references):
        title = markdown_text(say.title_of(line, table.group))
        cells = [_markdown_cell(column, line.cells.get(column)) for column in table.columns]
        lines.append(_row([title, *cells, *map(markdown_text, say.costs(line, table))]))
    return lines


def _markdown_cell(column: Column, cell: Cell | None) -> str:
    if cell is None:
        return ""
    value = markdown_text(say.value(column, cell))
    return "<br>".join([f"**{value}**" if say.is_best(cell) else value, *map(markdown_text, say.notes(column, cell))])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_published(table: BenchmarkTable, lines: Sequence[PublishedLine]) -> list[str]:
    if not lines:
        return []
    head, rows = published_rows(table, lines)
    return [
        markdown_text(published_caption(table)),
        "",
        _row([markdown_text(cell) for cell in head]),
        _row(["---", *["---:"] * (len(head) - 2), "---"]),
        *(_row([markdown_text(cell) for cell in row]) for row in rows),
        "",
    ]


def published_caption(table: BenchmarkTable) -> str:
    """What sets the printed numbers apart from the measured ones."""
    return (
        f"Published under the {table.protocol} protocol, {table.masks}. Other images, longer training, other code: for "
        "orientation, not for comparison. * The source does not state its protocol; its numbers are consistent with it."
    )


def published_rows(table: BenchmarkTable, lines: Sequence[PublishedLine]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the printed numbers, in the columns of the table."""
    head = [
        "published",
        *(say.head(column) for column in table.columns),
        "parameters",
        "evaluations a sample",
        "source",
    ]
    rows = [
        [
            line.method + ("*" if line.inferred else ""),
            *(f"{line.values[column]:g}" if column in line.values else "" for column in table.columns),
            "" if line.parameters is None else f"{line.parameters:,}",
            "" if line.evaluations is None else str(line.evaluations),
            f"{cited(line.source)}; {line.source.data}",
        ]
        for line in lines
    ]
    return head, rows


def as_csv(tables: Tables) -> str:
    """Every number of every table in a line of its own; empty where it does not apply."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    source = str(tables.state.data.get("source", ""))
    for table in tables.tables:
        for kind, lines in (("measured", table.lines), ("reference", table.references)):
            writer.writerows(record for line in lines for record in _records(kind, line, table, tables))
        writer.writerows(
            {
                **_shared(table, column),
                "kind": "published",
                "title": line.method,
                "value": number,
                "parameters": _empty(line.parameters),
                "evaluations": _empty(line.evaluations),
                "source": f"{cited(line.source)}; {line.source.data}"
                + ("; its protocol is inferred" if line.inferred else ""),
            }
            for line in published_beside(table, source)
            for column, number in line.values.items()
        )
    return text.getvalue()


def _shared(table: BenchmarkTable, column: Column) -> dict[str, object]:
    return {
        "table": table.group,
        "protocol": table.protocol,
        "threshold": table.threshold,
        "metric": column[0],
        "n": column[1],
    }


def _records(kind: str, line: Line, table: BenchmarkTable, tables: Tables) -> Iterator[dict[str, object]]:
    for column, cell in line.cells.items():
        interval, difference = cell.interval, cell.difference
        mean, images = cell.shared or (None, "")
        yield {
            **_shared(table, column),
            "kind": kind,
            "row": line.key,
            "title": say.title_of(line, table.group),
            "value": _empty(interval.value),
            "ci_low": _empty(interval.low),
            "ci_high": _empty(interval.high),
            "seeds": len(line.seeds) or "",
            "seed_low": min(cell.seeds, default=""),
            "seed_high": max(cell.seeds, default=""),
            "difference_from_best": "" if difference is None else _empty(difference.value),
            "difference_ci_low": "" if difference is None else _empty(difference.low),
            "difference_ci_high": "" if difference is None else _empty(difference.high),
            "verdict": cell.verdict or "",
            "images": interval.images,
            "patients": interval.patients,
            "undefined": cell.undefined,
            "undefined_at_some_seed": cell.partly,
            "value_where_all_defined": _empty(mean),
            "images_where_all_defined": images,
            "split": tables.split,
            "budget": tables.state.settings["budget"] if kind == "measured" else "",
            "images_seen_low": line.images[0] if line.images else "",
            "images_seen_high": line.images[1] if line.images else "",
            "parameters": line.cost["parameters"] if line.cost else "",
            "gflop": _empty(line.gflop(column[1])),
            "evaluations": line.cost["evaluations"] if line.cost else "",
            "seconds_per_image": line.seconds.get(column[1], ""),
        }


def _empty(value: object) -> object:
    return "" if value is None else value
