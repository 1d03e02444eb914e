"""Pages from templates: every value is escaped and printable.

A page may neither run scripts nor fetch anything from outside.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from modiff.errors import printable


@cache
def environment() -> Environment:
    """The templates of `modiff.viz`, with autoescape.

    Filters: `png` and `svg` make bytes an image's data URI, `text` is `as_text`. Globals: the style sheet, and the
    policy that allows it.
    """
    made = Environment(
        loader=PackageLoader("modiff.viz", "templates"),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (resources.files("modiff.viz") / "templates" / "page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    made.globals["style"] = Markup(style)
    made.globals["policy"] = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    for name, kind in (("png", "image/png"), ("svg", "image/svg+xml")):
        made.filters[name] = lambda data, kind=kind: f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
    made.filters["text"] = as_text
    return made


def _shown(value: Any) -> Any:
    return printable(value, keep="\n") if isinstance(value, str) and not isinstance(value, Markup) else value


def render(template: str, **content: object) -> str:
    """The page that a template makes of `content`; a name that the template needs and does not get is an error."""
    return environment().get_template(template).render(content)


def as_text(value: Any) -> str:
    """A setting or a fact as a page shows it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value in ([], ()):
        return "–"
    if isinstance(value, list | tuple):
        return ", ".join(map(as_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
