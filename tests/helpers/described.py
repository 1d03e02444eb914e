"""Data descriptions of models that tests make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modiff.types import DataSpec


def spec(data: Mapping[str, Any]) -> DataSpec:
    """One channel, four raters and the fields given; what is None is the field's default."""
    given = {"channels": ("image",), "classes": ("lesion",), "raters": tuple("abcd")} | data
    return DataSpec(**{name: tuple(v) if isinstance(v, list) else v for name, v in given.items() if v is not None})
