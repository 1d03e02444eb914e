"""How patients are dealt into splits and what a crop is, where nobody says otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from modiff.config.fields import ANY, COUNT, FRACTION, POSITIVE, check_numbers, number
from modiff.errors import ConfigError


@dataclass(frozen=True)
class SplitConfig:
    """Fractions of patients in val and test, the rest being train; ConfigError where nothing is left to train on."""

    val: float = number(0.1, FRACTION, "of patients")
    test: float = number(0.2, FRACTION, "of patients")
    seed: int = number(0, ANY)
    """of the hash that deals patients"""

    def __post_init__(self) -> None:
        if not (self.val >= 0 and self.test >= 0 and self.val + self.test < 1):
            found = f"val {self.val}, test {self.test}"
            raise ConfigError("shares of val and test", found=found, expected="neither negative, sum below 1")


@dataclass(frozen=True)
class CropRule:
    """What a crop around a nodule is; ConfigError for what cannot be."""

    size: int = number(128, COUNT, "pixels")
    """of a side: the distributed crops' and the paper's"""
    spacing: float | None = number(None, POSITIVE, "mm per pixel")
    """None: the slice's own"""
    window: tuple[float, float] = number((-1000.0, 400.0), ANY, "HU")
    """made 0 and 1: lung window, air to bone"""

    def __post_init__(self) -> None:
        check_numbers(self)
