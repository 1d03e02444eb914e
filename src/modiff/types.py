"""What the rooms hand to one another: a description of the data, a batch, samples, and whose reading is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from modiff.errors import DataError

RaterChoice = Literal["single", "all"] | Sequence[int]
"""Whose reading a sample is: one rater drawn at random, the consensus of all, or of the raters named by number."""


@dataclass(frozen=True)
class DataSpec:
    """What a model must know of the data it learns from; a run folder's data.json holds it.

    channels, classes (foreground), raters: names. exchangeable_raters: a rater's index does not say who it is.
    intensity: the rule that made the values (`modiff.data.intensity`), None where it is not known. prompt: "centre"
    where images are crops about a lesion, else "none". size: (H,W) of the images. spacing: (row, column) mm of a pixel.
    images, fingerprint, path, source, licence: of the store. fold: the one that was held out of training, if any.
    """

    channels: tuple[str, ...]
    classes: tuple[str, ...]
    raters: tuple[str, ...]
    exchangeable_raters: bool = True
    intensity: str | None = None
    prompt: str = "none"
    spacing: tuple[float, float] | None = None
    source: str = ""
    licence: str = ""
    size: tuple[int, int] | None = None
    images: int = 0
    fingerprint: str = ""
    path: str = ""
    fold: int | None = None

    @property
    def prompted(self) -> bool:
        """Whether images are crops about a lesion."""
        return self.prompt == "centre"

    @classmethod
    def of(
        cls, *, channels: int = 1, classes: int = 1, raters: int = 4, exchangeable: bool = True, **more: Any
    ) -> DataSpec:
        """By counts, where names do not matter. more: any other field."""

        def names(what: str, count: int) -> tuple[str, ...]:
            return tuple(f"{what} {i + 1}" for i in range(count))

        return cls(
            names("channel", channels),
            names("class", classes),
            names("rater", raters),
            exchangeable_raters=exchangeable,
            **more,
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DataSpec:
        """From plain data, unknown keys left out; DataError for a field that is missing or of the wrong type."""
        given = {}
        for field in fields(cls):
            if field.name in data:
                given[field.name] = _checked(field.name, data[field.name])
            elif field.default is MISSING:
                raise DataError("is missing", field=field.name)
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """As plain data: lists in place of tuples."""
        found = ((field.name, getattr(self, field.name)) for field in fields(self))
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in found}
        return plain if self.fold is not None else {name: value for name, value in plain.items() if name != "fold"}


def _checked(name: str, value: Any) -> Any:
    """A field of data.json as its type; DataError where it is of another."""

    def sequence(kind: type | tuple[type, ...], least: int, most: float) -> bool:
        right = isinstance(value, list | tuple) and least <= len(value) <= most
        return right and all(isinstance(item, kind) and not isinstance(item, bool) for item in value)

    if name in ("channels", "classes", "raters"):
        valid, expected = sequence(str, 1, float("inf")), "a list of names"
    elif name == "size":
        valid, expected = value is None or (sequence(int, 2, 2) and min(value) > 0), "two whole numbers above 0"
    elif name == "spacing":
        valid = value is None or (sequence((int, float), 2, 2) and all(0 < item < float("inf") for item in value))
        expected = "two lengths in mm above 0"
    elif name == "exchangeable_raters":
        valid, expected = isinstance(value, bool), "true or false"
    elif name in ("images", "fold"):
        whole = isinstance(value, int) and not isinstance(value, bool)
        valid, expected = whole or (value is None and name == "fold"), "a whole number"
    elif name == "prompt":
        valid, expected = value in ("centre", "none"), "centre or none"
    else:
        valid, expected = isinstance(value, str) or (value is None and name == "intensity"), "text"
    if not valid:
        raise DataError("has another type or value", field=name, found=str(value)[:60], expected=expected)
    return tuple(value) if isinstance(value, list) else value


@dataclass
class Batch:
    """Images with every rater's masks.

    image: (B,C,H,W) float32 in [0,1]. masks: (B,R,K,H,W) bool, K foreground classes. read: (B,R) bool, the rater read
    this image (an empty mask then means "nothing there"; a rater who did not read it is ignored everywhere).
    case: B names. centre: (B,2) float32, the prompt's position (row, column) in pixels from the image's upper left
    corner, or None where the data has no prompt.
    """

    image: Tensor
    masks: Tensor
    read: Tensor
    case: tuple[str, ...] = ()
    centre: Tensor | None = None

    def __len__(self) -> int:
        return self.image.shape[0]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on `device`."""
        moved = {
            field.name: value.to(device, non_blocking=True)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)  # type: ignore[arg-type]

    @property
    def marked(self) -> Tensor:
        """(B,R) bool: the rater read the image and marked something, of any class."""
        return self.masks.flatten(2).any(-1) & self.read


def marks(maps: Tensor) -> Tensor:
    """(…,K,H,W) probabilities -> (…) bool: a foreground class is the likeliest at some pixel.

    Ties go to the background: with one class, a pixel must exceed one half.
    """
    return (maps.amax(-3) > 1 - maps.sum(-3)).flatten(-2).any(-1)


@dataclass
class Samples:
    """Hypotheses for B images.

    maps: (B,N,K,H,W) float32 probabilities in [0,1]; binarise outside the model. weights: (B,N), sum 1 an image,
    uniform unless a method says otherwise. present: (B,N) bool, the hypothesis marks something (`marks`). raters: (B,N)
    int64, whose reading it is, where raters are identifiable; else None. presence: (B,) the model's own probability
    that a reader marks anything, where it has one; else None.
    """

    maps: Tensor
    weights: Tensor
    present: Tensor
    raters: Tensor | None = None
    presence: Tensor | None = None

    @classmethod
    def uniform(cls, maps: Tensor, **more: Tensor | None) -> Samples:
        """Samples of equal weight from (B,N,K,H,W) maps."""
        weights = torch.full(maps.shape[:2], 1.0 / maps.shape[1], device=maps.device)
        return cls(maps, weights, marks(maps), **more)
