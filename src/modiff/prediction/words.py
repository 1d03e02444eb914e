"""Probabilities and hypotheses as people read them."""

from __future__ import annotations

from modiff.prediction.summary import Hypothesis, Summary
from modiff.prediction.volume_summary import VolumeSummary


def percent(probability: float) -> str:
    """A probability in whole percent; a small one is not rounded to none, nor a large one to certainty."""
    if 0 < probability < 0.01:
        return "< 1 %"
    return "> 99 %" if 0.99 < probability < 1 - 1e-9 else f"{100 * probability:.0f} %"


def area_text(hypothesis: Hypothesis, summary: Summary) -> str:
    """What a hypothesis marks: mm² where the spacing is known, else pixels."""
    if hypothesis.nothing:
        return "nothing there"
    pixels = int(hypothesis.mask.sum())
    return f"{pixels} px" if summary.pixel_area is None else f"{pixels * summary.pixel_area:.0f} mm²"


def volume_text(hypothesis: Hypothesis, summary: VolumeSummary) -> str:
    """What a hypothesis of a scan marks, in mm³."""
    if hypothesis.nothing:
        return "nothing there"
    return f"{sum(summary.volumes_mm3(hypothesis).values()):.0f} mm³"
