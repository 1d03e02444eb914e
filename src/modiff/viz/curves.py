"""Training curves from a run's log, as SVG inside the page."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modiff.viz.figures import COLOURS
from modiff.viz.html import Markup, join, tag

AXES = ("images", "step", "seconds")  # what a curve may be drawn over: the first that the log has
MAX_CHARTS = 16
MAX_POINTS = 300  # a line; more than a chart of this width can show
MAX_BYTES = 256 << 20  # of a log
_WIDTH, _HEIGHT = 480, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 34, 40


@dataclass(frozen=True)
class Line:
    """One curve: name, and its finite points in the order of x."""

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]


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
            rows.append({str(key): float(value) for key, value in row.items() if _is_finite(value)})
    return rows


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def charts(rows: Sequence[dict[str, float]]) -> list[Markup]:
    """A chart a quantity, with train/… and val/… of the same name together, the losses first."""
    axis = next((name for name in AXES if any(name in row for row in rows)), None)
    if axis is None:
        return []
    names = sorted({key for row in rows for key in row} - set(AXES))
    groups: dict[str, list[Line]] = {}
    for name in names:
        points = [(row[axis], row[name]) for row in rows if axis in row and name in row]
        if len(points) < 2:
            continue
        thinned = _thin(sorted(points))
        part, _, quantity = name.rpartition("/")
        line = Line(part or name, tuple(x for x, _ in thinned), tuple(y for _, y in thinned))
        groups.setdefault(quantity, []).append(line)
    order = sorted(groups, key=lambda quantity: (quantity != "loss", "loss" not in quantity, quantity))
    label = {"images": "images seen", "step": "steps", "seconds": "seconds"}[axis]
    return [chart(quantity, groups[quantity], label) for quantity in order[:MAX_CHARTS]]


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means of neighbouring points, so that no more are drawn than can be seen."""
    size = math.ceil(len(points) / MAX_POINTS)
    if size == 1:
        return points
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    return [(math.fsum(x for x, _ in part) / len(part), math.fsum(y for _, y in part) / len(part)) for part in parts]


def chart(title: str, lines: Sequence[Line], label: str) -> Markup:
    """Curves over a common x; y is logarithmic where it is positive and spans more than a factor of 20."""
    x_low, x_high = _range([x for line in lines for x in line.x])
    values = [y for line in lines for y in line.y]
    logarithmic = min(values) > 0 and max(values) > 20 * min(values)
    y_low, y_high = (math.log10(min(values)), math.log10(max(values))) if logarithmic else _rounded(*_range(values))

    def place(x: float, y: float) -> tuple[float, float]:
        height = math.log10(y) if logarithmic else y
        across = _LEFT + (x - x_low) / (x_high - x_low) * (_WIDTH - _LEFT - _RIGHT)
        return across, _HEIGHT - _BOTTOM - (height - y_low) / (y_high - y_low) * (_HEIGHT - _TOP - _BOTTOM)

    parts: list[Markup] = []
    for tick in _log_ticks(y_low, y_high) if logarithmic else _ticks(y_low, y_high):
        y = place(x_low, tick)[1]
        parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=f"{y:.1f}", y2=f"{y:.1f}", stroke="#e3e8ea"))
        parts.append(tag("text", _short(tick), x=_LEFT - 7, y=f"{y + 4:.1f}", text_anchor="end"))
    for tick in _ticks(x_low, x_high):
        x = place(tick, values[0])[0]
        parts.append(tag("text", _short(tick), x=f"{x:.1f}", y=_HEIGHT - _BOTTOM + 16, text_anchor="middle"))
    base = _HEIGHT - _BOTTOM
    parts.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=base, y2=base, stroke="#8b979d"))
    parts.append(tag("text", label, x=_WIDTH - _RIGHT, y=_HEIGHT - 7, text_anchor="end"))
    for i, line in enumerate(lines):
        points = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in zip(line.x, line.y, strict=True))
        colour = _LINE_COLOURS[i % len(_LINE_COLOURS)]
        dash = None if i < len(_LINE_COLOURS) else "4 3"
        parts.append(
            tag("polyline", points=points, fill="none", stroke=colour, stroke_width=1.6, stroke_dasharray=dash)
        )
    if len(lines) > 1 or lines[0].name != title:
        parts.append(_legend(lines))
    head = title + (" (logarithmic)" if logarithmic else "")
    parts.append(tag("text", head, x=0, y=14, class_="title"))
    drawing = tag("svg", *parts, viewBox=f"0 0 {_WIDTH} {_HEIGHT}", role="img", aria_label=_spoken(head, lines, label))
    return tag("figure", drawing)


# Dark enough for lines on white; the first two are blue and vermilion.
_LINE_COLOURS = (COLOURS[6], COLOURS[5], COLOURS[4], COLOURS[3])


def _legend(lines: Sequence[Line]) -> Markup:
    parts = []
    x = float(_LEFT)
    for i, line in enumerate(lines):
        colour = _LINE_COLOURS[i % len(_LINE_COLOURS)]
        parts.append(tag("line", x1=f"{x:.0f}", x2=f"{x + 16:.0f}", y1=26, y2=26, stroke=colour, stroke_width=2.5))
        parts.append(tag("text", line.name, x=f"{x + 21:.0f}", y=30))
        x += 40 + 6.2 * len(line.name)
    return join(parts)


def _spoken(title: str, lines: Sequence[Line], label: str) -> str:
    ends = "; ".join(f"{line.name} from {_short(line.y[0])} to {_short(line.y[-1])}" for line in lines)
    return f"{title} over {label}: {ends}"


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-300):
        pad = abs(low) * 0.1 or 1.0
        return low - pad, high + pad
    return low, high


def _step(low: float, high: float, about: int = 5) -> float:
    """A round distance of ticks."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))


def _rounded(low: float, high: float) -> tuple[float, float]:
    """The range widened to ticks."""
    step = _step(low, high)
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers within a range."""
    step = _step(low, high)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = [10.0**k for k in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)]
    if len(powers) > 2:
        return powers[:: math.ceil(len(powers) / 6)]
    candidates = [f * 10.0**k for k in range(math.floor(low), math.ceil(high) + 1) for f in (1, 2, 5)]
    return [tick for tick in candidates if low - 1e-9 <= math.log10(tick) <= high + 1e-9]


def _short(value: float) -> str:
    """A number in few characters: 1.2 M, 30 k, 0.05, 1e−4."""
    size = abs(value)
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if size >= unit:
            return f"{value / unit:.3g}{name}".replace("-", "−")
    shown = f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-") if 0 < size < 1e-3 else f"{value:.3g}"
    return shown.replace("-", "−")
