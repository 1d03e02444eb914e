"""What a check of a data set says: findings in words, each with its case, and whether the data is usable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """Something wrong (`error`: not usable as it is), suspicious (`warning`: look at it) or good to know (`note`).

    kind: what it is, the same words for all of its kind. text: the one instance, in words. case: where to look, or
    None where it is about the whole data set.
    """

    level: Level
    kind: str
    text: str
    case: str | None = None


class View(NamedTuple):
    """What a thumbnail shows. image: (H,W). masks: (R,H,W), not 0 is marked."""

    image: np.ndarray
    masks: np.ndarray
    raters: tuple[str, ...]


@dataclass
class Report:
    """Findings about the data set at `path`. what: its kind and size in words. view: thumbnail of a case, or None."""

    path: str
    what: str
    findings: list[Finding] = field(default_factory=list)
    view: Callable[[str], View | None] = lambda case: None

    @property
    def usable(self) -> bool:
        """No error was found."""
        return self.count("error") == 0

    def count(self, level: Level) -> int:
        """Findings of a level."""
        return sum(finding.level == level for finding in self.findings)

    def groups(self) -> list[tuple[Level, str, list[Finding]]]:
        """Findings of one level and kind together, the worst first, in the order they were found."""
        table: dict[tuple[Level, str], list[Finding]] = {}
        for finding in sorted(self.findings, key=lambda finding: LEVELS.index(finding.level)):
            table.setdefault((finding.level, finding.kind), []).append(finding)
        return [(level, kind, found) for (level, kind), found in table.items()]

    @property
    def verdict(self) -> str:
        """One line: usable or not, and how much was found."""
        counts = [f"{count} {level}{'s' * (count != 1)}" for level in LEVELS if (count := self.count(level))]
        return ("usable" if self.usable else "not usable as it is") + ": " + (", ".join(counts) or "nothing found")
