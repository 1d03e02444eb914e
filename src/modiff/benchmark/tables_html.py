"""The tables as one self-contained page: nothing from outside, no scripts, every text escaped."""

from __future__ import annotations

from collections.abc import Sequence

from modiff.benchmark import tables_words as say
from modiff.benchmark.published import published_beside
from modiff.benchmark.tables_data import BenchmarkTable, Cell, Column, Tables
from modiff.benchmark.tables_write import published_caption, published_rows
from modiff.viz import html


def page(tables: Tables, *, pictures: Sequence[tuple[bytes, str]] = ()) -> str:
    """The whole page. pictures: PNG and what it shows."""
    source = str(tables.state.data.get("source", ""))
    facts = (html.join([html.tag("dt", name), html.tag("dd", text)]) for name, text in say.facts(tables))
    body: list[object] = [html.tag("h1", "Benchmark"), html.tag("dl", *facts, class_="facts")]
    body.append(html.tag("p", say.legend(), class_="note"))
    if tables.left_out:
        missing = (html.tag("li", line) for line in tables.left_out)
        body += [html.tag("p", "Not in the tables:", class_="note warning"), html.tag("ul", *missing)]
    group = None
    for table in tables.tables:
        if table.group != group:
            group = table.group
            body.append(html.tag("h2", say.group_title(group, source)))
        body += _table(table, tables, source)
    if pictures:
        body.append(html.tag("h2", "Samples (Figure 2)"))
        body += [html.tag("figure", html.tag("figcaption", text), html.png(data, text)) for data, text in pictures]
    return html.page("Benchmark", body)


def _table(table: BenchmarkTable, tables: Tables, source: str) -> list[object]:
    rows = [
        [
            say.title_of(line, table.group),
            *(_cell(column, line.cells.get(column)) for column in table.columns),
            *say.costs(line, table),
        ]
        for line in (*table.lines, *table.references)
    ]
    made: list[object] = [html.tag("h3", say.table_title(table))]
    made.append(html.table(say.heads(table), rows, caption=say.caption(table, tables)))
    made.append(html.tag("ul", *(html.tag("li", line) for line in say.findings(table))))
    lines = published_beside(table, source)
    if lines:
        head, cells = published_rows(table, lines)
        made.append(html.table(head, cells, caption=published_caption(table)))
    return made


def _cell(column: Column, cell: Cell | None) -> html.Markup:
    if cell is None:
        return html.text("")
    value = say.value(column, cell)
    shown = html.tag("strong", value) if say.is_best(cell) else html.text(value)
    return html.join([shown, *(html.tag("span", note, class_="ci") for note in say.notes(column, cell))])
