"""Charts: training curves of a log, paired differences with their intervals, and quality against seconds."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from modiff.errors import printable
from modiff.io.checksum import read_lines
from modiff.viz.figures import COLOURS, encoded, legend, new_figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AXES = {"images": "images seen", "step": "steps", "seconds": "seconds"}  # the first that the log has is the x axis
# What the log's quantities are; another one is called by its name.
TITLES = {
    "cross_entropy": "cross-entropy",
    "dice": "soft Dice loss",
    "images_per_second": "images per second",
    "kl": "KL divergence",
    "ldf": "edge loss of the LDF",
    "learning_rate": "learning rate",
    "map": "loss of the mean label map",
    "mca": "attention loss of the MCA",
    "presence": "cross-entropy of presence",
    "simple": "denoising loss",
    "transport": "transport loss between samples and raters",
}
MAX_CHARTS = 16
MAX_POINTS = 300  # per curve; more than a chart of this width can show
MAX_BYTES = 256 << 20  # of a log
Points = tuple[tuple[float, ...], tuple[float, ...]]  # x and y
_SIDE_COLOURS = {1: COLOURS[6], -1: COLOURS[5], 0: "#777777"}
_GREY = "#5a666c"
# Dark enough on white, the most different first; six colours and seven markers make 42 different lines.
_LINES = tuple(COLOURS[i] for i in (6, 5, 4, 3, 0, 1))
_CURVES = _LINES[:4]
_MARKERS = "osD^vPX"
_STYLES = ("dashed", "dotted")
# Where a number may stand from its point, across and along in points of type.
_SIDES = [(x * a, y * b) for x, y in ((4, 4), (4, 12), (12, 4), (4, 20), (20, 4)) for a in (1, -1) for b in (1, -1)]


@dataclass(frozen=True)
class Chart:
    """Curves of one quantity over a common x axis, called `label`: finite points in the order of x, by name."""

    title: str
    label: str
    curves: Mapping[str, Points]

    @property
    def words(self) -> str:
        """What the figure shows, for those who cannot see it."""
        ends = "; ".join(f"{name} from {y[0]:.3g} to {y[-1]:.3g}" for name, (_, y) in self.curves.items())
        return f"{self.title} over {self.label}: {ends}"

    def svg(self) -> bytes:
        """The figure as SVG; the same curves give the same bytes."""
        return encoded(draw_chart(self), "svg")


def read_log(path: str | Path) -> list[dict[str, float]]:
    """The finite numbers of each line; a torn last line is left out. Raises DataError for a damaged one."""
    path = Path(path)
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        return []
    rows = []
    for row in read_lines(path):
        numbers = {name: value for name, value in row.items() if type(value) in (int, float)}  # no bools
        rows.append({name: float(value) for name, value in numbers.items() if abs(value) < 1e300})
    return rows


def charts(rows: Sequence[dict[str, float]]) -> list[Chart]:
    """One chart per quantity of a log, with train/… and val/… of the same name together, the losses first."""
    axis = next((name for name in AXES if any(name in row for row in rows)), None)
    if axis is None:
        return []
    groups: dict[str, dict[str, Points]] = {}
    for name in sorted({key for row in rows for key in row} - set(AXES)):
        points = sorted((row[axis], row[name]) for row in rows if axis in row and name in row)
        if len(points) < 2:
            continue
        # Means of neighbouring points, so that no more are drawn than can be seen.
        size = math.ceil(len(points) / MAX_POINTS)
        means = [tuple(map(fmean, zip(*points[i : i + size], strict=True))) for i in range(0, len(points), size)]
        x, y = zip(*means, strict=True)
        part, _, quantity = name.rpartition("/")
        groups.setdefault(quantity, {})[part or name] = x, y
    order = sorted(groups, key=lambda quantity: (quantity != "loss", "loss" not in quantity, quantity))
    titles = {quantity: TITLES.get(quantity, quantity.replace("_", " ")) for quantity in order[:MAX_CHARTS]}
    return [Chart(title, AXES[axis], groups[quantity]) for quantity, title in titles.items()]


def draw_chart(chart: Chart) -> Figure:
    """The figure: curves with a legend above them where their names say more than the title."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    figure = new_figure(5.0, 2.6, "constrained")
    axes = figure.add_subplot()
    for i, (name, points) in enumerate(chart.curves.items()):
        style = "solid" if i < len(_CURVES) else "dashed"
        axes.plot(*points, color=_CURVES[i % len(_CURVES)], linestyle=style, linewidth=1.3, label=name)
    values = [value for _, y in chart.curves.values() for value in y]
    logarithmic = 0 < 20 * min(values) < max(values) < 1e30 * min(values)  # positive, a factor of 20 to 1e30
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter())
    title = chart.title + (" (logarithmic)" if logarithmic else "")
    axes.set_title(title, fontsize=10, fontweight="bold", loc="left", parse_math=False)
    axes.set_xlabel(chart.label, fontsize=8.5, loc="right")
    axes.tick_params(labelsize=8, which="both")
    axes.grid(axis="y", color="#e3e8ea")
    axes.set_axisbelow(True)
    axes.spines[["left", "top", "right"]].set_visible(False)
    if list(chart.curves) != [chart.title]:
        legend(axes, loc="best", fontsize=8, frameon=True, framealpha=0.8, edgecolor="none")
    return figure


def draw_differences(panels: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """A panel per metric, by its title, in each a line per difference with its interval, coloured by the better side.

    Rows of a panel have label, difference, ci_low, ci_high (None: no interval), side (1: the first method is better,
    −1: the second, 0: not shown) and, the same in all, across: what the axis shows.
    """
    columns = min(3, max(1, len(panels)))
    lines = -(-max(1, len(panels)) // columns)
    height = 1.6 + 0.34 * max(map(len, panels.values()), default=1)
    figure = new_figure(3.2 + 3.6 * columns, height * lines, "constrained")
    figure.suptitle(title, fontsize=10, parse_math=False)
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    left: list[str] = []
    for i, (axis, (metric, rows)) in enumerate(zip(axes.flat, panels.items(), strict=False)):
        places, labels = np.arange(len(rows)), list(map(printable, rows["label"]))
        colours = rows["side"].map(_SIDE_COLOURS).tolist()
        axis.hlines(places, rows["ci_low"].astype(float), rows["ci_high"].astype(float), colours, linewidth=2)
        axis.scatter(rows["difference"].astype(float), places, s=25, c=colours, zorder=3)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_ylim(len(rows) - 0.5, -0.5)
        left = labels if i % columns == 0 else left
        shown = labels if left is labels or left != labels else [""] * len(rows)
        axis.set_yticks(places, shown, fontsize=8, parse_math=False)
        axis.set_title(metric, fontsize=10)
        axis.set_xlabel(rows["across"].iloc[0], fontsize=8)
        axis.margins(x=0.1)
        _frame(axis, "x")
    return figure


def _frame(axes: Axes, grid: Any) -> None:
    axes.tick_params(axis="both" if grid == "both" else "x", labelsize=8)
    axes.grid(axis=grid, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def draw_tradeoff(
    curves: Mapping[str, pd.DataFrame], levels: Mapping[str, float], *, title: str, across: str, up: str, caption: str
) -> Figure:
    """A value against seconds on a logarithmic axis, a line per model, with its steps at each point.

    curves: by name, rows of steps (None: takes none), seconds_per_image, value, ci_low and ci_high (None: no interval).
    levels: horizontal lines by what the legend says of them.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    # It is laid out before `encoded` sees the texts.
    title, across, up, caption = map(printable, (title, across, up, caption))
    names = [textwrap.fill(printable(name), 60) for name in curves]
    said = textwrap.wrap(caption, 118)
    columns = max(1, min(3, 84 // (max(map(len, [*names, *levels])) + 6)))
    rows = -(-len([*names, *levels]) // columns) + sum(name.count("\n") for name in names)
    figure = new_figure(7.6, 4.9 + 0.18 * rows + 0.155 * len(said), "constrained")
    axes = figure.add_subplot()
    for i, (name, points) in enumerate(zip(names, curves.values(), strict=True)):
        x, y, low, high = (points[key].astype(float) for key in ("seconds_per_image", "value", "ci_low", "ci_high"))
        look: dict[str, Any] = {"color": _LINES[i % len(_LINES)], "marker": _MARKERS[i % len(_MARKERS)]}
        axes.plot(x, y, **look, markersize=6, linewidth=1.4, label=name, zorder=3)
        axes.vlines(x, low, high, color=look["color"], linewidth=1.6, alpha=0.75)
    for (name, value), style in zip(levels.items(), _STYLES, strict=False):
        axes.axhline(value, color=_GREY, linewidth=1.1, linestyle=style, zorder=1, label=name)
    seconds = np.concatenate([points["seconds_per_image"].astype(float) for points in curves.values()])
    axes.set_xscale("log")
    axes.set_xlim(seconds.min() / 1.6, seconds.max() * 1.8)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.margins(y=0.12)
    axes.set_ylabel(up, fontsize=9, parse_math=False)
    axes.set_xlabel(across, fontsize=9, parse_math=False)
    _frame(axes, "both")
    legend(axes, loc="lower left", bbox_to_anchor=(-0.01, 1), ncols=columns, fontsize=8)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left", parse_math=False)
    figure.supxlabel("\n".join(said), fontsize=7.5, x=0.01, ha="left", color=_GREY, parse_math=False)
    figure.draw_without_rendering()  # the layout decides where points lie
    _write_steps(axes, curves)
    return figure


def _write_steps(axes: Axes, curves: Mapping[str, pd.DataFrame]) -> None:
    """The number of steps beside each point, on the first side where it hides no point and no other number."""
    from matplotlib.transforms import Bbox

    places = [rows[["seconds_per_image", "value"]].to_numpy(dtype=float) for rows in curves.values()]
    pixels = axes.transData.transform(np.concatenate(places))
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in pixels]
    for rows in curves.values():
        for steps, x, y in rows[["steps", "seconds_per_image", "value"]].dropna().itertuples(index=False):
            note = axes.annotate(f"{steps:g}", (x, y), fontsize=8, zorder=4)
            note.set(in_layout=False, anncoords="offset points")
            for across, along in _SIDES:
                note.set(ha="left" if across > 0 else "right", va="bottom" if along > 0 else "top")
                note.xyann = (across, along)
                if not note.get_window_extent().count_overlaps(taken):
                    break
            taken.append(note.get_window_extent())
