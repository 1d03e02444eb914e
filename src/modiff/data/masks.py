"""What the numbers of a mask mean, decided file by file; the same for importers, `check` and files that are scored.

What is certain is read, what is likely is read and noted, and what cannot be decided is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from modiff.errors import ConfigError, DataError
from modiff.io.volume import Volume

SCALES = (1, 255, 65535)  # what foreground is called beside 0: they may occur together, whatever the type
ROUNDING = 1e-3  # by how much a header's scale factor moves whole numbers, beside single precision's own rounding
_SINGLE = 1e-6
_NEAR = 0.15  # of full scale: how far from black and white JPEG and interpolation leave most values of a mask
_MOST = 0.97  # fraction of values that must lie so near
_HINT = "--label VALUE=CLASS says what they mean."
_FEW = 16  # distinct whole values up to which they are labels, not grey values


class Notes:
    """What was decided of files that a user must know of. Raises nothing: it only gathers.

    named: files of one text up to which all are named; of more the first alone. what: they are called.
    """

    def __init__(self, *, named: int = 1, what: str = "file") -> None:
        self._files: dict[str, dict[str, None]] = {}
        self._named, self._what = named, what

    def add(self, texts: Iterable[str], file: object) -> None:
        """Each text is true of a file."""
        for text in texts:
            self._files.setdefault(text, {})[str(file)] = None

    @property
    def lines(self) -> tuple[str, ...]:
        """A line per text, with the number of files and the first of them, or all."""
        return tuple(f"{text} ({self._names(files)})" for text, files in self._files.items())

    def _names(self, files: Mapping[str, None]) -> str:
        return ", ".join(files) if len(files) <= self._named else _named(files, self._what)


class Foreground:
    """The foreground value of masks of one class: files that hold 0 and one other number, of any type and sign.

    1, 255 and 65535 may occur together in a set of files. Any other value is a guess; beside another
    foreground value it may be another class, and the set is refused. seen: foreground value -> its files, each once
    however often it is read.
    """

    def __init__(self) -> None:
        self.seen: dict[float, dict[str, None]] = {}
        self._clash, self._odd = False, set[float]()

    def fault(self, present: np.ndarray, file: object) -> str | None:
        """Takes the `values` of a `two_valued` file; says what clashes where it does not fit those before it."""
        marks = present[present != 0].tolist()
        if not marks:
            return None
        value = float(marks[0])
        self.seen.setdefault(value, {})[str(file)] = None
        guess = value not in SCALES
        if value != 1 and not (present.dtype.kind == "u" and value == np.iinfo(present.dtype).max):
            self._odd.add(value)
        others = [other for other in self.seen if other != value and (guess or other not in SCALES)]
        if not others or (self._clash and not guess):  # of a clash only the odd files are told of, and the first other
            return None
        self._clash = True
        return f"0 and {value:g}, but 0 and {others[0]:g} in {next(iter(self.seen[others[0]]))}"

    @property
    def only(self) -> float | None:
        """The one foreground value of all files."""
        return next(iter(self.seen)) if len(self.seen) == 1 else None

    @property
    def mixed(self) -> str | None:
        """That files differ, in words."""
        if len(self.seen) < 2:
            return None
        return "; ".join(self._told(value) for value in self.seen) + ": all but 0 is read as foreground"

    @property
    def guessed(self) -> str | None:
        """That a value was taken for foreground which is neither 1 nor its type's maximum, in words."""
        if self.only is None or self.only not in self._odd:
            return None
        return f"{self._told(self.only)}: {self.only:g} is read as foreground"

    @property
    def notes(self) -> tuple[str, ...]:
        """Both, where there is something to say."""
        return tuple(note for note in (self.mixed, self.guessed) if note)

    def _told(self, value: float) -> str:
        return f"masks of 0 and {value:g} in {_named(self.seen[value])}"


def _named(files: Mapping[str, None], what: str = "file") -> str:
    first = next(iter(files))
    return first if len(files) == 1 else f"{len(files)} {what}s, such as {first}"


def whole(array: np.ndarray) -> np.ndarray:
    """Floats that are whole but for a scale factor's rounding as whole ones; others as they are."""
    if array.dtype.kind != "f":
        return array
    near = np.rint(array)
    with np.errstate(invalid="ignore"):
        close = bool((np.abs(array - near) <= ROUNDING + _SINGLE * np.abs(near)).all())
    return near if close and (near.any() or not array.any()) else array  # 0 and 0.0005 is not an empty mask


def values(array: np.ndarray) -> np.ndarray:
    """The distinct values, sorted."""
    if array.dtype == np.uint8:
        return np.flatnonzero(np.bincount(array.ravel(), minlength=256)).astype(np.uint8)
    low, high = array.min(), array.max()
    if ((array == 0) | (array == low) | (array == high)).all():  # quicker than sorting a volume
        return np.unique(np.array([low, high] + [0] * (not array.all()), array.dtype))
    return np.unique(array)


def two_valued(present: np.ndarray) -> bool:
    """Whether these `values` are 0 and one foreground; one value throughout is foreground where it is in `SCALES`."""
    marks = present[present != 0].tolist()
    return not marks or (len(marks) == 1 and (len(present) == 2 or marks[0] in SCALES))


def palette_fault(volume: Volume) -> DataError | None:
    """What is wrong with taking a colour palette's indices for classes: 0 must be the black that viewers show."""
    if not volume.palette or volume.palette.get(0, "#000000") == "#000000":
        return None
    found = ", ".join(f"{index} {colour}" for index, colour in list(volume.palette.items())[:5])
    hint = "--label VALUE=CLASS names the indices of `modiff import folder`; elsewhere write them as grey levels."
    what = "a palette whose first colour is not black"
    return DataError(what, path=volume.path, found=found, expected="0 #000000, the background", hint=hint)


class Labels:
    """Which value of a mask is which class.

    Without rules one class named `foreground`: a mask holds 0 and one other value (`Foreground`). Rules are
    VALUE=CLASS, several values may be one class; `VALUE=` is background, and a value without a rule is refused. 0 is
    background unless a rule makes it a class; then the one other value of a file is, or those that `VALUE=` names.
    """

    def __init__(self, rules: Sequence[str] = (), foreground: str = "foreground") -> None:
        self.values: dict[int, int] = {}
        self.foreground = Foreground()
        names: list[str] = []
        for rule in rules:
            value, equals, name = rule.partition("=")
            if not equals or not value.removeprefix("-").isdecimal() or int(value) in self.values:
                expected = "VALUE=CLASS, a whole number, each once"
                raise ConfigError("no such rule", field="--label", found=repr(rule), expected=expected)
            if name and name not in names:
                names.append(name)
            self.values[int(value)] = names.index(name) + 1 if name else 0
        if rules and not names:
            raise ConfigError("no class is named", field="--label", expected="VALUE=CLASS")
        self.classes = tuple(names) if names else (foreground,)

    def judge(self, volume: Volume, file: object) -> tuple[DataError | None, np.ndarray]:
        """What is wrong with a mask's values, and (Z,H,W) uint8 the class indices that they most likely mean.

        file: what notes call it. Raises DataError for a mask in colour.
        """
        if len(volume.array) > 1 and (volume.array != volume.array[0]).any():  # colours that are grey are one channel
            raise DataError("a mask in colour", path=volume.path, found=f"{len(volume.array)} channels", expected="one")
        mask = whole(volume.array[0])
        present = values(mask)
        if self.values:
            return self._ruled(volume, mask, present)
        if two_valued(present):
            fault = palette_fault(volume)
            if fault is None and (found := self.foreground.fault(present, file)):
                fault = DataError(_kind(np.array([*self.foreground.seen])), path=volume.path, found=found, hint=_HINT)
            return fault, (mask != 0).astype(np.uint8)
        top = max(float(present[-1]), 1.0)
        marked, expected, hint = (mask > top / 2).astype(np.uint8), None, None
        near = np.minimum(np.abs(mask - 0.0), np.abs(top - mask)) <= _NEAR * top
        kind, fractions = _kind(present), present[present % 1 != 0]
        if fractions.size:
            found = f"values such as {_few(fractions)}"
        elif len(present) > 2 and near.mean() >= _MOST and top > _FEW:
            kind = "smeared mask values"
            found = f"{len(present)} values about 0 and {top:g}, as JPEG or interpolation leaves them"
        elif len(present) <= _FEW:
            found, marked = _few(present), (mask != 0).astype(np.uint8)
            expected, hint = "0 and one other value", _HINT
        else:
            kind = "mask values like those of an image"
            found = f"{len(present)} values from {present[0]:g} to {top:g}: is it a mask?"
        return DataError(kind, path=volume.path, found=found, expected=expected, hint=hint), marked

    def _ruled(self, volume: Volume, mask: np.ndarray, present: np.ndarray) -> tuple[DataError | None, np.ndarray]:
        made = np.zeros(mask.shape, np.uint8)
        for value, index in self.values.items():
            made[mask == value] = index
        strange = present[~np.isin(present, [0, *self.values])]
        open_ = bool(self.values.get(0)) and 0 not in self.values.values()  # the background is the one other value
        if len(strange) <= open_:
            return None, made
        found = f"{_few(strange)}, which no --label names"
        hint = "Beside a class 0 one other value is background; VALUE= names several." if open_ else None
        return DataError("mask values without a meaning", path=volume.path, found=found, hint=hint), made


def _kind(present: np.ndarray) -> str:
    return "mask values that are not whole" if (present % 1 != 0).any() else "mask values without a meaning"


def _few(present: np.ndarray) -> str:
    words = ", ".join(f"{value:.4g}" for value in present[:5])
    return words + (f" and {len(present) - 5} more" if len(present) > 5 else "")
