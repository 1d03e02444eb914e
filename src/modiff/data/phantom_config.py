"""What is simulated, how its cases are called and split. Light to import: the command's help needs no more."""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass

from modiff.errors import ConfigError, DataError

FARTHEST = 14.0  # mm, no outline reaches farther from its lesion's centre
MOST_OFF_CENTRE = 1.4  # mm, of a lesion's centre from the image's middle, in each direction
_TEST, _VAL, _CYCLE = (1, 11, 21), (2, 17), 30  # a tenth of the patients are test, a fifteenth val
_CASE = re.compile(r"phantom-([0-9]{5,9})/([0-9]{3,9})")
_SOURCE = "simulated nodules and readers "


@dataclass(frozen=True)
class PhantomConfig:
    """What is simulated. Case names do not depend on how many patients there are, nor does what they show."""

    size: int = 64  # pixels, of the square images
    spacing: float = 0.7  # mm a pixel, usual for chest CT; lesions are 2.8 to 16.8 mm, 4 to 24 pixels at this spacing
    raters: int = 4  # readers an image, as in LIDC-IDRI
    patients: int = 600  # 500 train, 40 val, 60 test
    images_per_patient: int = 5  # of one patient's lung and scanner, each with a lesion of its own
    seed: int = 0  # of everything

    def __post_init__(self) -> None:
        for name, low, high in (
            ("size", 8, 4096),
            ("raters", 1, 255),
            ("patients", 1, 10**6),
            ("images_per_patient", 1, 10**5),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                expected = f"one whole number from {low} to {high}"
                hint = "Images are square." if name == "size" else None
                raise ConfigError("cannot be simulated", field=name, found=value, expected=expected, hint=hint)
        if not isinstance(self.seed, int) or isinstance(self.seed, bool):
            raise ConfigError("cannot be simulated", field="seed", found=self.seed, expected="a whole number")
        if not isinstance(self.spacing, int | float) or not 0.3 <= self.spacing <= 1.5:
            expected = "0.3 to 1.5 mm a pixel"
            raise ConfigError("cannot be simulated", field="spacing", found=self.spacing, expected=expected)
        least = math.ceil(2 * (FARTHEST + MOST_OFF_CENTRE) / self.spacing) + 2
        if self.size < least:
            expected = f"at least {least} pixels of {self.spacing} mm"
            raise ConfigError("the largest lesions would not fit", field="size", found=self.size, expected=expected)

    @property
    def source(self) -> str:
        """The configuration in words that a store keeps; `from_source` reads it back."""
        return _SOURCE + json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_source(cls, source: str) -> PhantomConfig:
        """The reverse of `source`; DataError for other words, ConfigError for values that cannot be simulated."""
        try:
            return cls(**json.loads(source.removeprefix(_SOURCE)))
        except (ValueError, TypeError) as error:
            raise DataError("not a phantom's configuration", field="source", found=source) from error


def split_of(patient: int) -> str:
    """train, val or test: a function of the patient's number alone, so that stores of any size agree on it."""
    place = patient % _CYCLE
    return "test" if place in _TEST else "val" if place in _VAL else "train"


def case_name(patient: int, index: int) -> str:
    """The name in the store of a patient's image."""
    return f"phantom-{patient:05d}/{index:03d}"


def place_of(name: str) -> tuple[int, int]:
    """Patient and index of an image from its name; DataError for any other name."""
    match = _CASE.fullmatch(name)
    if match is None or case_name(int(match[1]), int(match[2])) != name:
        raise DataError("not a phantom's case", field="case", found=name, expected="a name like phantom-00000/000")
    return int(match[1]), int(match[2])
