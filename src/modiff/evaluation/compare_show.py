"""A comparison on a terminal and as a plot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from modiff.evaluation import words
from modiff.evaluation.compare import Comparison, Difference
from modiff.io.files import replacing
from modiff.metrics.protocols import PROTOCOLS
from modiff.metrics.registry import NAMES, WITHOUT_THRESHOLD

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table

_BETTER, _WORSE, _UNCLEAR = "#0072b2", "#d55e00", "#777777"  # told apart by colour-blind readers (Okabe and Ito)
_MOST_ROWS = 60
FORMATS = (".png", ".svg", ".pdf")


def differences_table(comparison: Comparison, stratum: str = "all") -> Table:
    """A line a difference, each with its protocol, n and threshold; of two methods, the first less the second."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    names = [method.name for method in comparison.methods]
    two = len(names) == 2  # then each has a column of its own name, and no pair need be named
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("metric", *(() if two else ("a − b",)), "protocol", "n", "threshold", "split", "images"):
        table.add_column(name, justify="right" if name in ("n", "images") else "left", overflow="fold")
    for name in names if two else ("a", "b"):
        table.add_column(escape(name), justify="right", overflow="fold")
    table.add_column("difference", justify="right", no_wrap=True)
    table.add_column("95 % interval", justify="right", no_wrap=True)
    table.add_column("better", overflow="fold")
    previous = None
    for row in (row for row in comparison.differences if row.stratum == stratum):
        if previous not in (None, (row.protocol, row.threshold, row.n)):
            table.add_section()
        previous = (row.protocol, row.threshold, row.n)
        digits = words.decimals(row.metric)
        table.add_row(
            NAMES[row.metric][0],
            *(() if two else (escape(f"{row.a} − {row.b}"),)),
            row.protocol,
            str(row.n),
            _threshold(row),
            row.split,
            f"{row.images}" + (f" ({row.undefined} undefined)" if row.undefined else ""),
            *(words.number(value, digits=digits) for value in (row.value_a, row.value_b)),
            words.number(row.difference, signed=True, digits=digits),
            _interval(row),
            escape(row.better) if row.better else ("–" if row.ci_low is None else "unclear"),
        )
    return table


def _threshold(row: Difference) -> str:
    if row.metric in WITHOUT_THRESHOLD or row.protocol not in PROTOCOLS:
        return "–"
    return PROTOCOLS[row.protocol].threshold_text(row.threshold)


def _interval(row: Difference) -> str:
    if row.difference is None:
        return ""
    if row.ci_low is None or row.ci_high is None:
        return "under 5 patients"
    digits = words.decimals(row.metric)
    return " to ".join(words.number(end, signed=True, digits=digits) for end in (row.ci_low, row.ci_high))


def plot_differences(comparison: Comparison, path: str | Path, stratum: str = "all") -> Path:
    """A picture (PNG, SVG or PDF by the name's end): a panel a metric, a line a pair, protocol and n."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    rows = [row for row in comparison.differences if row.stratum == stratum and row.difference is not None]
    metrics = list(dict.fromkeys(row.metric for row in rows))
    longest = max((sum(row.metric == metric for row in rows) for metric in metrics), default=1)
    height = 1.2 + 0.34 * min(longest, _MOST_ROWS) + 0.4
    columns = min(3, max(1, len(metrics)))
    lines = -(-max(1, len(metrics)) // columns)
    figure = Figure(figsize=(3.2 + 3.6 * columns, height * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis in axes.flat[len(metrics) :]:
        axis.set_visible(False)
    left: list[str] = []
    for i, metric in enumerate(metrics):
        shown = [row for row in rows if row.metric == metric][:_MOST_ROWS]
        labels = [_label(row) for row in shown]
        named = i % columns == 0 or labels != left
        left = labels if i % columns == 0 else left
        _panel(axes.flat[i], shown, labels if named else [""] * len(labels))
    images = rows[0].images + rows[0].undefined if rows else 0
    title = f"Paired differences on {images} images, split {rows[0].split}" if rows else "Nothing is defined"
    figure.suptitle(f"{title}, {words.STRATA[stratum]}; 95 % intervals over patients", fontsize=10)
    path = Path(path)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "modiff"}), replacing(path) as beside:
        figure.savefig(beside, format=path.suffix[1:].lower(), dpi=150, metadata=_UNDATED.get(path.suffix.lower()))
    return path


_UNDATED = {".svg": {"Date": None}}


def _panel(axis: Axes, rows: list[Difference], labels: list[str]) -> None:
    higher = NAMES[rows[0].metric][1]
    for place, row in enumerate(rows):
        colour = _UNCLEAR if row.better is None else (_BETTER if row.better == row.a else _WORSE)
        if row.ci_low is not None and row.ci_high is not None:
            axis.plot([row.ci_low, row.ci_high], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
        if row.difference is not None:
            axis.plot([row.difference], [place], "o", color=colour, markersize=5)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_yticks(range(len(rows)), labels, fontsize=8)
    few = min(row.images for row in rows)
    defined = f" (defined on {few})" if any(row.undefined for row in rows) else ""
    axis.set_title(NAMES[rows[0].metric][0] + defined, fontsize=10)
    side = "→" if higher else "←"
    axis.set_xlabel(f"a − b   ({side} a is better)", fontsize=8)
    axis.tick_params(axis="x", labelsize=8)
    axis.margins(x=0.1)
    axis.grid(axis="x", alpha=0.3)
    for spine in ("top", "right"):
        axis.spines[spine].set_visible(False)


def _label(row: Difference) -> str:
    threshold = _threshold(row)
    how = row.protocol if threshold == "–" else f"{row.protocol}, {threshold}"
    # A dollar would begin mathematics.
    return f"{row.a} − {row.b}\n{how}, n = {row.n}".replace("$", r"\$")
