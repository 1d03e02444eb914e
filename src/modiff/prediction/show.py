"""A summary on the terminal."""

from __future__ import annotations

from pathlib import Path

from modiff.prediction.summary import Summary, percent


def show(summary: Summary, output: Path | None) -> None:
    """Prints the distinct hypotheses of an image or scan, presence, agreement and areas or volumes."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    table = Table(title=f"Distinct hypotheses of {len(summary.weights)} samples", title_justify="left")
    for name in ("probability", "marks", "samples"):
        table.add_column(name, justify="right")
    for hypothesis in summary.hypotheses:
        table.add_row(percent(hypothesis.probability), summary.size_text(hypothesis), str(len(hypothesis.members)))
    console.print(table)
    source = "model's own" if summary.presence_from == "model" else "fraction of samples"
    console.print(f"Probability that a rater marks anything: {percent(summary.presence)} ({source})")
    if summary.agreement is not None:
        console.print(f"Agreement of two samples (mean IoU): {summary.agreement:.2f}")
    what, (unit, factor) = "Area" if summary.voxel_mm3 is None else "Volume", summary.unit
    for kind, name in enumerate(summary.classes):
        sizes = summary.area_quantiles(kind, marked=True)
        if sizes is not None:
            low, _, middle, _, high = (f"{size * factor:.0f}" for size in sizes)
            console.print(f"{what} of {name} where marked: median {middle} {unit}, 5 % to 95 % {low} to {high}")
    if output is not None:
        console.print(f"Written to {output}: overlay.png shows them", soft_wrap=True)
