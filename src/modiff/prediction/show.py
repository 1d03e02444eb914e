"""A summary on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from modiff.prediction.summary import Summary
from modiff.prediction.volume_summary import VolumeSummary
from modiff.prediction.words import area_text, percent, volume_text

if TYPE_CHECKING:
    from rich.console import Console


def show_image(summary: Summary, output: Path | None) -> None:
    """Prints the distinct hypotheses of an image, presence, agreement and areas."""
    rows = [area_text(hypothesis, summary) for hypothesis in summary.hypotheses]
    console = _table(summary, rows)
    unit, factor = ("px", 1.0) if summary.pixel_area is None else ("mm²", summary.pixel_area)
    _sizes(console, summary, "Area", unit, factor, output)


def show_scan(summary: VolumeSummary, output: Path | None) -> None:
    """Prints the distinct hypotheses of a scan, presence, agreement and volumes."""
    rows = [volume_text(hypothesis, summary) for hypothesis in summary.hypotheses]
    console = _table(summary.flat, rows)
    _sizes(console, summary.flat, "Volume", "mm³", summary.voxel_mm3, output)


def _table(summary: Summary, sizes: list[str]) -> Console:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    table = Table(title=f"Distinct hypotheses of {len(summary.weights)} samples", title_justify="left")
    for name in ("probability", "marks", "samples"):
        table.add_column(name, justify="right")
    for hypothesis, size in zip(summary.hypotheses, sizes, strict=True):
        table.add_row(percent(hypothesis.probability), size, str(len(hypothesis.members)))
    console.print(table)
    source = "the model says" if summary.presence_from == "model" else "share of samples"
    console.print(f"A rater marks anything: {percent(summary.presence)} ({source})")
    if summary.agreement is not None:
        console.print(f"Agreement of two samples (mean IoU): {summary.agreement:.2f}")
    return console


def _sizes(console: Console, summary: Summary, what: str, unit: str, factor: float, output: Path | None) -> None:
    for kind, name in enumerate(summary.classes):
        sizes = summary.area_quantiles(kind, marked=True)
        if sizes is not None:
            low, _, middle, _, high = (f"{size * factor:.0f}" for size in sizes)
            console.print(f"{what} of {name} where marked: median {middle} {unit}, 5 % to 95 % {low} to {high}")
    if output is not None:
        console.print(f"Written to {output}: overlay.png shows them", soft_wrap=True)
