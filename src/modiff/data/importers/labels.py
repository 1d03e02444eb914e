"""Values in a mask's file -> class index: stated by the user, or 0 and one other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modiff.data.importers.grids import Grid
from modiff.errors import ConfigError, DataError

_BINARY = (1, 255)


class Labels:
    """Which value of a mask is which class.

    Without rules one class named `foreground`: a mask holds 0 and either 1 or 255. Rules are VALUE=CLASS, several
    values may be one class; `VALUE=` is background. A value without a rule is refused.
    """

    def __init__(self, rules: Sequence[str] = (), foreground: str = "foreground") -> None:
        self.values: dict[int, int] = {}
        names: list[str] = []
        for rule in rules:
            value, equals, name = rule.partition("=")
            if not equals or not value.lstrip("-").isdecimal() or int(value) in self.values or int(value) == 0:
                expected = "VALUE=CLASS, a whole number other than 0, each once"
                raise ConfigError("no such rule", field="--label", found=repr(rule), expected=expected)
            if name and name not in names:
                names.append(name)
            self.values[int(value)] = names.index(name) + 1 if name else 0
        if rules and not names:
            raise ConfigError("no class is named", field="--label", expected="VALUE=CLASS")
        self.classes = tuple(names) if names else (foreground,)

    def apply(self, grid: Grid) -> np.ndarray:
        """(Z,H,W) uint8 class index; raises DataError for values that are not whole, not known, or coloured."""
        mask = plain(grid)
        present = np.unique(mask)
        if not np.array_equal(present, np.rint(present)):
            raise DataError("mask values that are not whole", path=grid.path, found=_few(present[present % 1 != 0]))
        known = set(self.values) | {0}
        if not self.values:
            known = {0, next((value for value in _BINARY if value in present), 1)}
        if other := [value for value in present.tolist() if value not in known]:
            hint = None if self.values else "--label VALUE=CLASS says what they mean."
            expected = ", ".join(map(str, sorted(known))) if self.values else "0 and either 1 or 255"
            raise DataError("mask values", path=grid.path, found=_few(other), expected=expected, hint=hint)
        if not self.values:
            return (mask != 0).astype(np.uint8)
        made = np.zeros(mask.shape, np.uint8)
        for value, index in self.values.items():
            made[mask == value] = index
        return made


def plain(grid: Grid) -> np.ndarray:
    """(Z,H,W): the one channel of a mask; colours that are grey are one channel, others are refused."""
    if len(grid.array) > 1 and (grid.array != grid.array[0]).any():
        raise DataError("a mask in colour", path=grid.path, found=f"{len(grid.array)} channels", expected="one")
    return grid.array[0]


def _few(values: Sequence[float] | np.ndarray) -> str:
    words = [f"{value:g}" for value in values[:5]]
    return ", ".join(words) + (f" and {len(values) - 5} more" if len(values) > 5 else "")
