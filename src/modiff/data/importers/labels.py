"""What a mask's values mean: stated by the user, or 0 and one other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modiff.errors import ConfigError, DataError
from modiff.io.volume import Volume

_BINARY = ({0, 1}, {0, 255})  # values that need no --label
_NEAR = 0.15  # of full scale: how far from black and white JPEG and interpolation leave most values of a mask
_MOST = 0.97  # fraction of values that must lie so near
_FEW = 16  # distinct whole values up to which they are labels, not grey values


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

    def judge(self, volume: Volume) -> tuple[DataError | None, np.ndarray]:
        """What is wrong with a mask's values, and (Z,H,W) uint8 the class indices that they most likely mean."""
        if len(volume.array) > 1 and (volume.array != volume.array[0]).any():  # colours that are grey are one channel
            raise DataError("a mask in colour", path=volume.path, found=f"{len(volume.array)} channels", expected="one")
        mask = volume.array[0]
        present = np.unique(mask)
        if self.values:
            made = np.zeros(mask.shape, np.uint8)
            for value, index in self.values.items():
                made[mask == value] = index
            strange = present[~np.isin(present, [0, *self.values])]
            kind, found = "mask values without a meaning", f"{_few(strange)}, which no --label names"
            return (DataError(kind, path=volume.path, found=found) if strange.size else None), made
        if any(set(present.tolist()) <= known for known in _BINARY):
            return None, (mask != 0).astype(np.uint8)
        top = max(float(present[-1]), 1.0)
        marked, expected, hint = (mask > top / 2).astype(np.uint8), None, None
        whole = np.array_equal(present, np.rint(present))
        near = np.minimum(np.abs(mask - 0.0), np.abs(top - mask)) <= _NEAR * top
        if whole and len(present) > 2 and near.mean() >= _MOST and top > _FEW:
            kind = "smeared mask values"
            found = f"{len(present)} values about 0 and {top:g}, as JPEG or interpolation leaves them"
        elif not whole:
            kind, found = "mask values that are not whole", f"values such as {_few(present[present % 1 != 0])}"
        elif len(present) <= _FEW:
            kind, found, marked = "mask values without a meaning", _few(present), (mask != 0).astype(np.uint8)
            expected, hint = "0 and either 1 or 255", "--label VALUE=CLASS says what they mean."
        else:
            kind = "mask values like those of an image"
            found = f"{len(present)} values from {present[0]:g} to {top:g}: is it a mask?"
        return DataError(kind, path=volume.path, found=found, expected=expected, hint=hint), marked


def _few(values: np.ndarray) -> str:
    words = ", ".join(f"{value:.4g}" for value in values[:5])
    return words + (f" and {len(values) - 5} more" if len(values) > 5 else "")
