"""Training curves from a run's log, as SVG figures."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from modiff.viz.figures import COLOURS, encoded, legend, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AXES = {"images": "images seen", "step": "steps", "seconds": "seconds"}  # the first that the log has is the x axis
MAX_CHARTS = 16
MAX_POINTS = 300  # per curve; more than a chart of this width can show
MAX_BYTES = 256 << 20  # of a log
# Dark enough for lines on white; the first two are blue and vermilion.
_LINE_COLOURS = (COLOURS[6], COLOURS[5], COLOURS[4], COLOURS[3])


@dataclass(frozen=True)
class Curve:
    """One curve: its name, and its finite points in the order of x."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Chart:
    """Curves of one quantity over a common x axis, called `label`."""

    title: str
    label: str
    curves: tuple[Curve, ...]

    @property
    def logarithmic(self) -> bool:
        """Whether y is drawn on a logarithmic scale: where it is positive and spans a factor of 20 to 1e30."""
        values = [y for curve in self.curves for y in curve.y]
        return 0 < 20 * min(values) < max(values) < 1e30 * min(values)

    @property
    def words(self) -> str:
        """What the figure shows, for those who cannot see it."""
        ends = "; ".join(f"{curve.name} from {curve.y[0]:.3g} to {curve.y[-1]:.3g}" for curve in self.curves)
        return f"{self.title} over {self.label}: {ends}"

    def svg(self) -> bytes:
        """The figure as SVG; the same curves give the same bytes."""
        return encoded(draw_chart(self), "svg")


def read_log(path: str | Path) -> list[dict[str, float]]:
    """The finite numbers of each line; lines that are not JSON objects, such as a torn last one, are left out."""
    path = Path(path)
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        return []
    rows = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            numbers = {name: value for name, value in row.items() if type(value) in (int, float)}  # a bool is not one
            rows.append({name: float(value) for name, value in numbers.items() if abs(value) < 1e300})
    return rows


def charts(rows: Sequence[dict[str, float]]) -> list[Chart]:
    """One chart per quantity of a log, with train/… and val/… of the same name together, the losses first."""
    axis = next((name for name in AXES if any(name in row for row in rows)), None)
    if axis is None:
        return []
    groups: dict[str, list[Curve]] = {}
    for name in sorted({key for row in rows for key in row} - set(AXES)):
        points = sorted((row[axis], row[name]) for row in rows if axis in row and name in row)
        if len(points) < 2:
            continue
        # Means of neighbouring points, so that no more are drawn than can be seen.
        size = math.ceil(len(points) / MAX_POINTS)
        chunks = [list(zip(*points[i : i + size], strict=True)) for i in range(0, len(points), size)]
        x, y = (tuple(math.fsum(chunk[i]) / len(chunk[i]) for chunk in chunks) for i in (0, 1))
        part, _, quantity = name.rpartition("/")
        groups.setdefault(quantity, []).append(Curve(part or name, x, y))
    order = sorted(groups, key=lambda quantity: (quantity != "loss", "loss" not in quantity, quantity))
    return [Chart(quantity, AXES[axis], tuple(groups[quantity])) for quantity in order[:MAX_CHARTS]]


def draw_chart(chart: Chart) -> Figure:
    """The figure: curves with a legend above them where their names say more than the title."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    figure = new_figure(5.0, 2.6)
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    for i, curve in enumerate(chart.curves):
        style = "solid" if i < len(_LINE_COLOURS) else "dashed"
        colour = _LINE_COLOURS[i % len(_LINE_COLOURS)]
        axes.plot(curve.x, curve.y, color=colour, linestyle=style, linewidth=1.3, label=curve.name)
    if chart.logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter())
    title = chart.title + (" (logarithmic)" if chart.logarithmic else "")
    axes.set_title(title, fontsize=10, fontweight="bold", loc="left", parse_math=False)
    axes.set_xlabel(chart.label, fontsize=8.5, loc="right")
    axes.tick_params(labelsize=8, which="both")
    axes.grid(axis="y", color="#e3e8ea")
    axes.set_axisbelow(True)
    axes.spines[["left", "top", "right"]].set_visible(False)
    if len(chart.curves) > 1 or chart.curves[0].name != chart.title:
        legend(axes, loc="best", fontsize=8, frameon=True, framealpha=0.8, edgecolor="none")
    return figure
