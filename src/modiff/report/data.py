"""A data set to look at: the findings of a check as a page, and a figure of a few cases."""

from __future__ import annotations

from itertools import chain, cycle
from pathlib import Path

import numpy as np

from modiff.data.check.findings import Finding, Report, View
from modiff.data.store import Store
from modiff.errors import counted
from modiff.io.output import write_text
from modiff.viz import figures
from modiff.viz.html import render

_EACH = 12  # thumbnails per kind of finding
_ADVICE = {
    "error": "Must be mended before the data is used.",
    "warning": "Suspicious: look at it and decide.",
    "note": "Good to know.",
}
_COLUMNS = 4  # cases in a row
_LEGEND = 0.4  # inches


def write_page(report: Report, path: str | Path) -> None:
    """Writes the findings as one page, whole or not at all; it needs nothing from outside.

    The first findings of a kind have a thumbnail with the outlines of the raters who marked something.
    """

    def shown(finding: Finding) -> tuple[Finding, bytes | None, list[tuple[str, str]]]:
        view = report.view(finding.case) if finding.case else None
        if view is None:
            return finding, None, []
        raters = zip(cycle(figures.COLOURS), view.raters, view.masks, strict=False)
        key = [(colour, name) for colour, name, mask in raters if mask.any()]
        return finding, thumbnail(view), key

    groups = [
        (level, kind, _ADVICE[level], [shown(finding) for finding in found[:_EACH]], found[_EACH:])
        for level, kind, found in report.groups()
    ]
    write_text(path, render("check.html.j2", title="Check of a data set", report=report, groups=groups))


def thumbnail(view: View) -> bytes:
    """A PNG: the whole image, and what is marked close by, in grey with every rater's outline in its own colour."""
    return figures.encoded(figures.contact_sheet([figures.everyones_outlines(view.image, view.masks)], inches=2.3))


def contact_sheet(store: Store, path: str | Path, *, count: int = 12, seed: int = 0, split: str | None = None) -> None:
    """Draws `count` cases of a split, chosen at random, as `thumbnail` does; the same for the same seed.

    Shows channel 0. path: its end says the format, .png, .svg or .pdf. Raises DataError where it cannot be written.
    """
    there = store.rows(split)
    rows = np.sort(np.random.default_rng(seed).choice(there, min(count, len(there)), replace=False))
    pairs = []
    for row in rows.tolist():
        masks, read = store.masks(row), store.read[row]
        marking = int((masks.any((1, 2)) & read).sum())
        titles = (str(store.cases[row]), f"{marking} of {counted(int(read.sum()), 'rater')} marked something")
        pairs.append(figures.everyones_outlines(store.image(row)[store.info.context], masks, titles))
    lines = [[*chain(*pairs[i : i + _COLUMNS])] for i in range(0, len(pairs), _COLUMNS)]
    figure = figures.contact_sheet([*lines, []], inches=[2.1] * len(lines) + [_LEGEND])
    keys = [(colour, "solid", name) for colour, name in zip(cycle(figures.COLOURS), store.info.raters, strict=False)]
    if len(store.info.classes) > 1:
        styles = zip(cycle(figures.CLASS_STYLES), store.info.classes, strict=False)
        keys += [("black", style, name) for style, name in styles]
    figures.legend(figure, keys, loc="lower center", ncols=min(len(keys), 8), fontsize=8)
    figures.save(figure, path, dpi=110)
