"""A little HTML: every text is escaped unless it is markup that was made here."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Sequence
from importlib import resources


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


_EMPTY_TAGS = frozenset({"img", "meta", "br", "hr", "line", "path", "rect", "circle", "polyline"})


def text(value: object) -> Markup:
    """A value as escaped text; Markup stays as it is."""
    return value if isinstance(value, Markup) else Markup(html.escape(str(value), quote=True))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element. Attributes: `class_` is class, `stroke_width` is stroke-width, None is left out, values escaped."""
    pairs = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _EMPTY_TAGS:
        return Markup(f"<{name}{pairs}>" if name in ("img", "meta", "br", "hr") else f"<{name}{pairs}/>")
    return Markup(f"<{name}{pairs}>{join(children)}</{name}>")


def join(parts: Iterable[object]) -> Markup:
    """Parts one after the other; None is left out."""
    return Markup("".join(text(part) for part in parts if part is not None))


def table(
    header: Sequence[object],
    rows: Sequence[Sequence[object]],
    *,
    caption: object = None,
    words: int = 1,
    bold: int = -1,
) -> Markup:
    """A table whose first `words` columns are text and the others numbers, set right; `bold` is a row to stress."""

    def cells(kind: str, row: Sequence[object]) -> Markup:
        made = []
        for i, cell in enumerate(row):
            heads = kind == "td" and i == 0
            attributes = {"class_": None if i < words else "number", "scope": "row" if heads else None}
            made.append(tag("th" if heads else kind, cell, **attributes))
        return join(made)

    body = [tag("tr", cells("td", row), class_="stressed" if i == bold else None) for i, row in enumerate(rows)]
    made = tag(
        "table",
        tag("thead", tag("tr", cells("th", header))),
        tag("tbody", *body),
        aria_label=caption,
    )
    head = None if caption is None else tag("p", caption, class_="caption")
    return join([head, tag("div", made, class_="wide")])


def png(data: bytes, alt: str) -> Markup:
    """A picture inside the page."""
    return tag("img", src="data:image/png;base64," + base64.b64encode(data).decode("ascii"), alt=alt)


def page(title: str, body: Sequence[object]) -> str:
    """A whole page that needs nothing from outside and may fetch nothing: its policy forbids scripts and requests."""
    style = (resources.files("modiff.viz") / "templates" / "page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        Markup(f"<style>{style}</style>"),
    )
    return f'<!DOCTYPE html>\n<html lang="en">{head}{tag("body", tag("main", *body))}</html>\n'
