"""The errors that a user can cause: one line each, naming the file, the field, what was found and what was expected."""

from __future__ import annotations

from pathlib import Path


class ModiffError(Exception):
    """Base of every error that modiff raises on purpose; the command prints it in one line and exits with 2."""

    def __init__(
        self,
        message: str,
        *,
        path: str | Path | None = None,
        field: str | None = None,
        found: object = None,
        expected: object = None,
        hint: str | None = None,
    ) -> None:
        self.path, self.field, self.found, self.expected, self.hint = path, field, found, expected, hint
        where = ": ".join(str(part) for part in (path, field) if part is not None)
        text = f"{where}: {message}" if where else message
        if found is not None:
            text += f"; found {found}"
        if expected is not None:
            text += f"; expected {expected}"
        if hint is not None:
            text += f". {hint}"
        super().__init__(" ".join(text.split()))


class DataError(ModiffError):
    """A data set, image, mask or store that is not what it should be."""


class ConfigError(ModiffError):
    """A setting that does not exist, has the wrong type, or contradicts another."""


class CheckpointError(ModiffError):
    """A run folder, training checkpoint or weights file that cannot be used as asked."""


class TrainingError(ModiffError):
    """Training that cannot go on."""


class MetricError(ModiffError):
    """Samples and ground truth that cannot be scored against each other."""
