"""A check's findings as one self-contained page, with a thumbnail of each case and every rater's outline on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modiff.data.check.findings import Finding, Report, View
from modiff.io.files import write_text
from modiff.viz.figures import contact_sheet, png
from modiff.viz.html import render
from modiff.viz.sheets import everyones_outlines, part_of_interest, rater_colour

_EACH = 12  # thumbnails per kind of finding
_ADVICE = {
    "error": "Must be mended before the data is used.",
    "warning": "Suspicious: look at it and decide.",
    "note": "Good to know.",
}


@dataclass(frozen=True)
class _Shown:
    """A finding with its thumbnail, where its case has one; key: colour and name of the raters who marked something."""

    finding: Finding
    image: bytes | None
    key: list[tuple[str, str]]


def write_page(report: Report, path: str | Path) -> None:
    """Writes the page at `path`, whole or not at all; it needs nothing from outside."""
    groups = [
        (level, kind, _ADVICE[level], [_shown(report, finding) for finding in found[:_EACH]], found[_EACH:])
        for level, kind, found in report.groups()
    ]
    write_text(path, render("check.html.j2", title="Check of a data set", report=report, groups=groups))


def _shown(report: Report, finding: Finding) -> _Shown:
    view = report.view(finding.case) if finding.case else None
    if view is None:
        return _Shown(finding, None, [])
    key = [(rater_colour(i), name) for i, name in enumerate(view.raters) if view.masks[i].any()]
    return _Shown(finding, thumbnail(view), key)


def thumbnail(view: View) -> bytes:
    """A PNG: the whole image, and what is marked close by, in grey with every rater's outline in its own colour."""
    part = part_of_interest((view.masks != 0).any(0))
    return png(contact_sheet([everyones_outlines(view.image, view.masks, part)], inches=2.3))
