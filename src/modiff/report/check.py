"""A check's findings as one self-contained page, with a thumbnail of each case and every rater's outline on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modiff.data.check.findings import Finding, Report, View
from modiff.io.files import replacing
from modiff.report.contact_sheet import COLOURS

if TYPE_CHECKING:
    from modiff.viz.html import Markup

_EACH = 12  # thumbnails of a kind of finding
_SIDE = 256  # pixels of a panel's longer side, as near as whole zooms come
_GAP = 8  # pixels beside a panel
_CLOSE = 24  # pixels of the image that the close view shows at least
_WORDS = {
    "error": "Must be mended before the data is used.",
    "warning": "Suspicious: look at it and decide.",
    "note": "Good to know.",
}


def write_page(report: Report, path: str | Path) -> None:
    """Writes the page at `path`, whole or not at all; it needs nothing from outside."""
    from modiff.viz.html import page, tag

    body: list[object] = [
        tag("h1", "Check of a data set"),
        tag("p", f"{report.path}: {report.what}", class_="lead"),
        tag("p", report.verdict[:1].upper() + report.verdict[1:] + ".", class_="note"),
    ]
    for level, kind, found in report.groups():
        body.append(tag("h2", f"{level}: {kind}"))
        body.append(tag("p", _WORDS[level], class_="small"))
        figures = [_figure(report, finding) for finding in found[:_EACH]]
        body.append(tag("div", *figures, class_="charts"))
        if len(found) > _EACH:
            more = (f"{finding.case}: {finding.text}" if finding.case else finding.text for finding in found[_EACH:])
            body.append(tag("p", f"And {len(found) - _EACH} more:"))
            body.append(tag("ul", *(tag("li", text) for text in more)))
    with replacing(path) as beside:
        beside.write_text(page("Check of a data set", body), encoding="utf-8")


def _figure(report: Report, finding: Finding) -> Markup:
    from modiff.viz.html import png, tag

    view = report.view(finding.case) if finding.case else None
    where = tag("strong", finding.case) if finding.case else None
    caption = tag("figcaption", where, " " if where else None, finding.text, _legend(view) if view else None)
    picture = None if view is None else png(thumbnail(view), f"case {finding.case} with the raters' outlines")
    return tag("figure", caption, picture, class_="case")


def _legend(view: View) -> Markup:
    from modiff.viz.html import join, tag

    def key(rater: int) -> Markup:
        box = tag("rect", width=18, height=8, fill=COLOURS[rater % len(COLOURS)])
        return tag("span", tag("svg", box, viewBox="0 0 18 8", class_="key"), f" {view.raters[rater]} ", class_="small")

    marking = [rater for rater, mask in enumerate(view.masks) if mask.any()]
    return join(key(rater) for rater in marking)


def thumbnail(view: View) -> bytes:
    """A PNG: the whole image, and what is marked close by, in grey with every rater's outline in its own colour."""
    import io

    from PIL import Image

    values = view.image.astype(np.float64)
    low, high = np.percentile(values, [1, 99])
    if high <= low:
        low, high = float(values.min()), max(float(values.max()), float(values.min()) + 1)
    grey = np.rint(255 * ((values - low) / (high - low)).clip(0, 1)).astype(np.uint8)
    near = _near(view.masks)
    panels = [_panel(grey, view.masks), _panel(grey[near], view.masks[:, *near])]
    height = max(len(panel) for panel in panels)
    padded = [np.pad(panel, ((0, height - len(panel)), (0, _GAP), (0, 0)), constant_values=255) for panel in panels]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(padded, 1)).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _near(masks: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns around what anyone marked, else the middle: a square as far as the image allows."""
    size = masks.shape[1:]
    places = np.nonzero(masks.any(0))
    if not places[0].size:
        places = tuple(np.array([side // 4, side - 1 - side // 4]) for side in size)
    side = max(int(max(np.ptp(place) for place in places) * 1.5) + 1, _CLOSE)
    parts = []
    for place, whole in zip(places, size, strict=True):
        start = int(np.clip((int(place.min()) + int(place.max()) - side) // 2 + 1, 0, max(whole - side, 0)))
        parts.append(slice(start, min(start + side, whole)))
    return parts[0], parts[1]


def _panel(grey: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """(h,w,3) uint8, its longer side about _SIDE, outlines two pixels wide."""
    zoom = max(1, _SIDE // max(grey.shape))
    colour = np.repeat(np.repeat(np.stack([grey] * 3, -1), zoom, 0), zoom, 1)
    for rater, mask in enumerate(masks):
        large = np.repeat(np.repeat(mask != 0, zoom, 0), zoom, 1)
        # Outlines often coincide: the later a rater, the further inside, so that those before still show.
        for _ in range(rater % 3 if zoom > 3 else 0):
            large &= ~_edge(large)
        line = _edge(large)
        line |= _edge(large & ~line) if zoom > 3 else False
        shade = COLOURS[rater % len(COLOURS)].lstrip("#")
        colour[line] = [int(shade[place : place + 2], 16) for place in (0, 2, 4)]
    return colour


def _edge(mask: np.ndarray) -> np.ndarray:
    """Marked pixels with an unmarked neighbour above, below, left or right."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner
