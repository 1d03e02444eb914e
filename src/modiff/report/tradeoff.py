"""The picture of quality against time: a line a model, a point a number of steps, what stands beside as levels."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modiff.errors import ConfigError, DataError
from modiff.evaluation import words
from modiff.evaluation.tradeoff import Line, Tradeoff
from modiff.io.files import replacing
from modiff.viz.figures import COLOURS, axes_at, new_figure
from modiff.viz.labels import place_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")
# Dark enough on white, the most different first; six colours and seven markers make 42 different lines.
_COLOURS = tuple(COLOURS[i] for i in (6, 5, 4, 3, 0, 1))
_MARKERS = ("o", "s", "D", "^", "v", "P", "X")
_REFERENCE_STYLES = {"majority_vote": "dashed", "iid_reference": "dotted"}
_GREY, _TEXT = "#5a666c", "#222222"
_WIDTH, _LEFT, _RIGHT, _HEIGHT = 7.6, 0.75, 1.2, 3.7  # inches; height of the axes alone
_BELOW, _ROW, _CAPTION_ROW = 0.55, 0.18, 0.155
_CAPTION_LETTERS, _NAME_LETTERS = 128, 60
# One figure is the same bytes every day.
_UNDATED: dict[str, dict[str, None]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}


def check_format(path: str | Path) -> Path:
    """The path; raises ConfigError unless its name ends in .png, .svg or .pdf."""
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        found = path.suffix or "no suffix"
        raise ConfigError("not a picture's name", path=path, field="-o", found=found, expected=", ".join(FORMATS))
    return path


def write_tradeoff(tradeoff: Tradeoff, path: str | Path) -> Path:
    """Writes the picture as PNG, SVG or PDF by the name's end, whole or not at all; the same input, the same bytes.

    Raises ConfigError for another end, DataError where it cannot be written.
    """
    import matplotlib

    path = check_format(path)
    kind = path.suffix.lower()
    options: Any = {"svg.fonttype": "none", "svg.hashsalt": "modiff", "pdf.fonttype": 42}
    figure = draw_tradeoff(tradeoff)
    try:
        with matplotlib.rc_context(options), replacing(path) as beside:
            figure.savefig(beside, format=kind[1:], dpi=150, metadata=_UNDATED[kind])
    except OSError as error:
        raise DataError(f"cannot be written ({error.strerror or error})", path=path) from None
    return path


def draw_tradeoff(tradeoff: Tradeoff) -> Figure:
    """The figure: title, names of the models, axes, and a caption that says all that the numbers depend on."""
    names = [textwrap.fill(_plain(line.name), _NAME_LETTERS) for line in tradeoff.lines]
    columns = max(1, min(3, len(names), 84 // (max(map(len, names)) + 6)))
    rows = -(-len(names) // columns) + sum(name.count("\n") for name in names)
    caption = textwrap.wrap(caption_of(tradeoff), _CAPTION_LETTERS)
    bottom = _BELOW + _CAPTION_ROW * len(caption) + 0.1
    height = bottom + _HEIGHT + _ROW * rows + 0.42
    right = _RIGHT if tradeoff.references else 0.25
    figure = new_figure(_WIDTH, height)
    axes = axes_at(figure, (_LEFT, bottom, _WIDTH - _LEFT - right, _HEIGHT))
    for i, line in enumerate(tradeoff.lines):
        _draw_line(axes, line, names[i], _COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)])
    for record in tradeoff.references:
        if record.value is not None:
            axes.axhline(
                record.value, color=_GREY, linewidth=1.1, linestyle=_REFERENCE_STYLES[record.predictor], zorder=1
            )
    _scale(axes, tradeoff)
    _name_levels(axes, tradeoff)
    place_labels(axes, _step_labels(tradeoff), bars=_bars(tradeoff), curves=_curves(tradeoff), levels=_levels(tradeoff))
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=columns,
        fontsize=8,
        frameon=False,
        borderaxespad=0.2,
        columnspacing=1.6,
    )
    edge = _LEFT / _WIDTH
    figure.text(edge, 1 - 0.12 / height, _title(tradeoff), fontsize=11, va="top", color=_TEXT)
    figure.text(0.12 / _WIDTH, 0.1 / height, "\n".join(map(_plain, caption)), fontsize=7.5, va="bottom", color=_GREY)
    return figure


def caption_of(tradeoff: Tradeoff) -> str:
    """What the numbers depend on, in one line: metric, protocol, n, threshold, images, devices, and any notes."""
    asked = tradeoff.asked
    parts = [_direction(asked.metric), f"{asked.protocol} protocol", f"n = {asked.n}"]
    if tradeoff.threshold_text != "–":
        parts.append(tradeoff.threshold_text)
    where = f"split {tradeoff.split}, {words.STRATA[asked.stratum]}: {tradeoff.images} images"
    parts.append(f"{where} of {tradeoff.patients} patients")
    # A stratum's images are not timed apart.
    mean = "" if asked.stratum == "all" else ", the mean over the images of all strata,"
    seconds = f"Seconds{mean} to draw the {asked.n} samples of an image on {' and '.join(tradeoff.devices)}"
    sentences = [", ".join(parts), seconds]
    if any(point.ci_low is not None for line in tradeoff.lines for point in line.points):
        sentences.append("Bars: 95 % intervals over patients")
    else:
        sentences.append("No intervals: under 5 patients")
    # What is comparable is said here; which devices they are stands above.
    notes = [note.partition(":")[0] if note.startswith("seconds of different") else note for note in tradeoff.notes]
    sentences += [note[:1].upper() + note[1:] if note.startswith("seconds") else note for note in notes]
    return ". ".join(sentences) + "."


def _direction(metric: str) -> str:
    name, higher = words.METRICS.get(metric, metric), words.HIGHER_IS_BETTER.get(metric)
    return name if higher is None else f"{name} ({'higher' if higher else 'lower'} is better)"


def _title(tradeoff: Tradeoff) -> str:
    return _plain(f"{words.METRICS.get(tradeoff.asked.metric, tradeoff.asked.metric)} against seconds an image")


def _plain(text: str) -> str:
    """A dollar would begin mathematics."""
    return text.replace("$", r"\$")


def _draw_line(axes: Axes, line: Line, name: str, colour: str, marker: str) -> None:
    seconds, values = [point.seconds for point in line.points], [point.value for point in line.points]
    axes.plot(seconds, values, color=colour, marker=marker, markersize=6, linewidth=1.4, label=name, zorder=3)
    bars = [(p.seconds, p.ci_low, p.ci_high) for p in line.points if p.ci_low is not None and p.ci_high is not None]
    at, low, high = zip(*bars, strict=True) if bars else ((), (), ())
    axes.vlines(at, low, high, color=colour, linewidth=1.6, alpha=0.75, zorder=2)


def _scale(axes: Axes, tradeoff: Tradeoff) -> None:
    """A logarithmic axis of seconds with plain numbers, and room around the points for their labels."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    seconds = [point.seconds for line in tradeoff.lines for point in line.points]
    low, high = min(seconds) / 1.6, max(seconds) * 1.8
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(FixedLocator(_ticks(low, high)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    axes.margins(y=0.12)
    axes.autoscale_view(scalex=False)
    higher = words.HIGHER_IS_BETTER.get(tradeoff.asked.metric)
    arrow = "" if higher is None else (" (higher is better ↑)" if higher else " (lower is better ↓)")
    metric = words.METRICS.get(tradeoff.asked.metric, tradeoff.asked.metric)
    axes.set_ylabel(_plain(metric) + arrow, fontsize=9, color=_TEXT)
    axes.set_xlabel(f"seconds to draw {tradeoff.asked.n} samples of an image, logarithmic", fontsize=9, color=_TEXT)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    for spine in ("top", "right"):
        axes.spines[spine].set_visible(False)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers within a range: few of each power of ten where it spans many."""
    decades = math.log10(high / low)
    factors = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if decades < 1 else ((1.0, 2.0, 5.0) if decades < 3 else (1.0,))
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    # Of the decimal text, so that no tick is 0.30000000000000004.
    ticks = [float(f"{factor}e{power}") for power in powers for factor in factors]
    return [tick for tick in ticks if low <= tick <= high]


def _name_levels(axes: Axes, tradeoff: Tradeoff) -> None:
    """Right of the axes, where no data is: what each horizontal line is; pushed apart where two are close."""
    levels = sorted((record.value or 0.0, words.predictor(record)) for record in tradeoff.references)
    low, high = axes.get_ylim()
    apart = 0.32 / _HEIGHT  # of two lines of text
    places: list[float] = []
    for value, _ in levels:
        at = (value - low) / (high - low)
        places.append(max(at, places[-1] + apart) if places else at)
    # What was pushed up shares the way with its neighbour below.
    for i in range(1, len(places)):
        shift = (places[i] - (levels[i][0] - low) / (high - low)) / 2
        places[i - 1 : i + 1] = [places[i - 1] - shift, places[i] - shift]
    digits = words.decimals(tradeoff.asked.metric)
    for (value, name), place in zip(levels, places, strict=True):
        text = f"{name}\n{words.number(value, digits=digits)}"
        axes.text(1.015, place, text, transform=axes.transAxes, fontsize=8, va="center", color=_GREY)


def _step_labels(tradeoff: Tradeoff) -> list[tuple[str, float, float, str]]:
    """What stands at each point: text, seconds, value, and its line's colour, darker so that it can be read."""
    from matplotlib.colors import to_hex, to_rgb

    labels = []
    for i, line in enumerate(tradeoff.lines):
        red, green, blue = to_rgb(_COLOURS[i % len(_COLOURS)])
        colour = to_hex((0.6 * red, 0.6 * green, 0.6 * blue))
        for point in line.points:
            if point.steps is not None:
                text = f"{point.steps} step{'s' if point.steps != 1 else ''}"
                labels.append((text, point.seconds, point.value, colour))
    return labels


def _bars(tradeoff: Tradeoff) -> list[tuple[float, float, float]]:
    """Seconds and both ends of every interval; of a point without one, the point."""
    return [
        (
            point.seconds,
            point.value if point.ci_low is None else point.ci_low,
            point.value if point.ci_high is None else point.ci_high,
        )
        for line in tradeoff.lines
        for point in line.points
    ]


def _curves(tradeoff: Tradeoff) -> list[list[tuple[float, float]]]:
    return [[(point.seconds, point.value) for point in line.points] for line in tradeoff.lines]


def _levels(tradeoff: Tradeoff) -> list[float]:
    return [record.value for record in tradeoff.references if record.value is not None]
