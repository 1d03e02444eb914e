"""Which images are scored, and whose samples a control takes: fixed choices by hash, the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence

from modiff.errors import ConfigError
from modiff.rng import seed_for


def subset(cases: Sequence[str], limit: int | None) -> list[int]:
    """Rows of a fixed subset of `limit` cases, in the order given; all of them without a limit.

    A case's hash decides, so the subset of 64 lies within that of 256, and neither depends on a seed.
    """
    rows = range(len(cases))
    if limit is None or limit >= len(cases):
        return list(rows)
    return sorted(sorted(rows, key=lambda row: (seed_for("subset", cases[row]), cases[row]))[:limit])


def derangement(cases: Sequence[str], patients: Sequence[str], seed: int) -> list[int]:
    """For each case the row of another case, each once; of another patient unless one holds more than half of all.

    Neighbouring slices of a patient look alike, so that a control with samples of the same patient would still know
    the answer. Raises ConfigError for a single case.
    """
    count = len(cases)
    if count < 2:
        raise ConfigError("a control needs another case to take samples from", field="control", found=f"{count} case")
    # Patients in random order, a patient's cases side by side: a shift by the largest group leaves every group.
    order = sorted(
        range(count),
        key=lambda row: (seed_for(seed, "control", patients[row]), patients[row], seed_for(seed, cases[row])),
    )
    sizes: dict[str, int] = {}
    for patient in patients:
        sizes[patient] = sizes.get(patient, 0) + 1
    shift = max(sizes.values())
    shift = shift if shift < count else 1
    other = [0] * count
    for position, row in enumerate(order):
        other[row] = order[(position + shift) % count]
    return other
