"""Settings of data: how patients are dealt into splits, what a crop is, and what is simulated."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields

from modiff.config.fields import ANY, COUNT, FRACTION, POSITIVE, Range, check, number
from modiff.errors import ConfigError, DataError
from modiff.plain import parse_json

FARTHEST = 14.0  # mm, no outline reaches farther from its lesion's centre
MOST_CONTEXT = 2  # neighbours of a slice on either side
MOST_OFF_CENTRE = 1.4  # mm, of a lesion's centre from the image's middle, in each direction
_SOURCE = "simulated nodules and readers "


@dataclass(frozen=True)
class SplitRule:
    """Fractions of patients in val and test, the rest being train; ConfigError where nothing is left to train on.

    A patient's place is a hash of (seed, patient), so it does not move when other patients come or go; fractions are
    therefore met on average, not exactly. Where few patients leave a split empty, those nearest to it move there.
    """

    val: float = number(0.1, FRACTION, "of patients")
    test: float = number(0.2, FRACTION, "of patients")
    seed: int = number(0, ANY)
    """of the hash that deals patients"""

    def __post_init__(self) -> None:
        if not (self.val >= 0 and self.test >= 0 and self.val + self.test < 1):
            found = f"val {self.val}, test {self.test}"
            raise ConfigError(
                "fractions of val and test are out of range", found=found, expected="neither negative, sum below 1"
            )


@dataclass(frozen=True)
class CropRule:
    """What a crop around a nodule is; ConfigError for what cannot be."""

    size: int = number(128, COUNT, "pixels")
    """of a side: the distributed crops' and the paper's"""
    spacing: float | None = number(None, POSITIVE, "mm per pixel")
    """None: the slice's own"""
    window: tuple[float, float] = number((-1000.0, 400.0), ANY, "HU")
    """made 0 and 1: lung window, air to bone"""
    context: int = number(0, Range(low=0, high=MOST_CONTEXT), "slices")
    """on either side of a slice that are its channels too"""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class PhantomConfig:
    """What is simulated. Case names do not depend on how many patients there are, nor does what they show."""

    size: int = number(64, Range(low=8, high=4096), "pixels")
    """of a side of the square images"""
    spacing: float = number(0.7, Range(low=0.3, high=1.5), "mm per pixel")
    """usual for chest CT; lesions are 2.8 to 16.8 mm, 4 to 24 pixels at this spacing"""
    raters: int = number(4, Range(low=1, high=255))
    """per image, as in LIDC-IDRI"""
    patients: int = number(600, Range(low=1, high=10**6))
    """500 train, 40 val, 60 test"""
    images_per_patient: int = number(5, Range(low=1, high=10**5))
    """of one patient's lung and scanner, each with a lesion of its own"""
    seed: int = number(0, ANY)
    """of everything"""
    slices: int = number(1, Range(low=1, high=99))
    """of each image's volume, about the lesion's middle; 1: a picture, which has no depth"""
    slice_spacing: float = number(2.0, Range(low=0.3, high=10), "mm")
    """between the slices of a volume, and their thickness"""

    def __post_init__(self) -> None:
        for item in fields(self):
            value, whole = getattr(self, item.name), item.type == "int"
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
                expected = "one whole number" if whole else "a number"
                hint = "Images are square." if item.name == "size" else None
                raise ConfigError("cannot be simulated", field=item.name, found=value, expected=expected, hint=hint)
        check(self)
        least = math.ceil(2 * (FARTHEST + MOST_OFF_CENTRE) / self.spacing) + 2
        if self.size < least:
            expected = f"at least {least} pixels of {self.spacing} mm"
            raise ConfigError("the largest lesions would not fit", field="size", found=self.size, expected=expected)

    @property
    def source(self) -> str:
        """The configuration in words that a store keeps; `from_source` reads it back."""
        said = asdict(self)
        if self.slices == 1:  # stores of pictures say what they said before there were volumes
            said = {name: value for name, value in said.items() if not name.startswith("slice")}
        return _SOURCE + json.dumps(said, separators=(",", ":"))

    @classmethod
    def from_source(cls, source: str) -> PhantomConfig:
        """The reverse of `source`; DataError for other words, ConfigError for values that cannot be simulated."""
        try:
            return cls(**parse_json(source.removeprefix(_SOURCE)))
        except (DataError, TypeError) as error:
            raise DataError("not a phantom's configuration", field="source", found=source) from error
