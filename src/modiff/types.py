"""What the rooms hand to one another: a description of the data, a batch, samples, and whose reading is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from modiff import notebook
from modiff.errors import DataError, counted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RaterChoice = Literal["single", "marking", "all"] | Sequence[int]
"""Whose reading a sample is: one rater drawn at random, one of those who mark something, the consensus of all, or of
the raters named by number."""


_MOST_NAMES, _MOST_EXCHANGEABLE = 1024, 255  # a presence head has a table of (R+1)³ numbers of exchangeable raters
_MOST_PIXELS = 1 << 26  # of an image: 8192×8192
SAME_SIZE = 1.1  # ratio of pixel sizes from which things look larger or smaller
# Left out where they are not known.
_LATER = dict.fromkeys(("fold", "spacing_range", "orientation", "fit", "modality", "region", "slice_range"))
_LATER |= {"context": 0}
_SIDES = {"L": 0, "R": 0, "P": 1, "A": 1, "S": 2, "I": 2}


def is_orientation(text: str) -> bool:
    """Whether three letters name a side of the patient for each axis, such as LPS."""
    return sorted("LPS"[_SIDES[side]] for side in text if side in _SIDES) == [*"LPS"] and len(text) == 3


@dataclass(frozen=True)
class DataSpec:
    """What a model must know of the data it learns from; a run folder's data.json holds it.

    channels, classes (foreground), raters: names. exchangeable_raters: a rater's index does not say who it is.
    intensity: the rule that made the values (`modiff.data.intensity`), None where it is not known. prompt: "centre"
    where images are crops about a lesion, else "none". size: (H,W) of the images. spacing: (row, column) mm of a pixel,
    the median where pixels differ, and spacing_range the smallest and the largest side of one. orientation: the sides
    of the patient towards which column, row and slice run, such as LPS; "none" for pictures, which have no place in
    space, "mixed" where images differ. fit: how images came to their size: cropped or padded (crop), resized, or as
    they were (none). modality: DICOM's word, such as CT. region: its word for the part of the body, such as LUNG.
    The last five are None where they are not known. context: K, where channels are slices of a scan with K neighbours
    on either side; slice_range the smallest and the largest mm from one to the next then, None where they are not
    known.
    images, fingerprint, path, source, licence: of the store. fold: the one that was held out of training, if any.
    """

    channels: tuple[str, ...]
    classes: tuple[str, ...]
    raters: tuple[str, ...]
    exchangeable_raters: bool = True
    intensity: str | None = None
    prompt: Literal["centre", "none"] = "none"
    spacing: tuple[float, float] | None = None
    source: str = ""
    licence: str = ""
    size: tuple[int, int] | None = None
    images: int = 0
    fingerprint: str = ""
    path: str = ""
    fold: int | None = None
    spacing_range: tuple[float, float] | None = None
    orientation: str | None = None
    fit: Literal["none", "crop", "resize"] | None = None
    modality: str | None = None
    region: str | None = None
    context: int = 0
    slice_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("channels", "classes", "raters"):
            names, most = getattr(self, name), _MOST_EXCHANGEABLE if self.exchangeable_raters else _MOST_NAMES
            if not names:
                raise DataError("is empty", field=name, expected="one name or more")
            if len(names) > (most if name == "raters" else _MOST_NAMES):
                raise DataError("are too many", field=name, found=len(names), expected=f"at most {most}")
        if self.sides is not None and not is_orientation(self.sides):
            raise DataError("no such orientation", field="orientation", found=self.orientation, expected="such as LPS")
        for name in ("size", "spacing", "spacing_range", "slice_range"):
            pair = getattr(self, name)
            if pair is not None and (len(pair) != 2 or not all(0 < value < math.inf for value in pair)):
                raise DataError("is out of range", field=name, found=pair, expected="two numbers above 0")
        if self.size is not None and math.prod(self.size) > _MOST_PIXELS:
            raise DataError("is out of range", field="size", found=self.size, expected=f"at most {_MOST_PIXELS} pixels")
        for name in ("images", "fold", "context"):
            if (getattr(self, name) or 0) < 0:
                raise DataError("is negative", field=name, found=getattr(self, name))
        if len(self.channels) % (2 * self.context + 1):
            expected = f"slices with {self.context} neighbours on either side"
            raise DataError("do not fit", field="channels", found=", ".join(self.channels), expected=expected)

    @property
    def scan_channels(self) -> tuple[str, ...]:
        """The channels that a scan has: without its slices' neighbours."""
        return self.channels[self.context :: 2 * self.context + 1]

    def other_steps(self, low: float, high: float) -> str | None:
        """In words, where neighbouring slices that lie `low` to `high` mm apart are closer or farther than any of these
        data; None where they are not, or where it is not known."""
        if not self.context or self.slice_range is None:
            return None
        ends = self.slice_range
        if high <= ends[1] * SAME_SIZE and low >= ends[0] / SAME_SIZE:
            return None
        here, there = (f"{a:.3g}" if b <= a * SAME_SIZE else f"{a:.3g} to {b:.3g}" for a, b in ((low, high), ends))
        return f"neighbouring slices are {here} mm apart, those of the training data {there} mm"

    @property
    def prompted(self) -> bool:
        """Whether images are crops about a lesion."""
        return self.prompt == "centre"

    @property
    def sides(self) -> str | None:
        """The orientation where all images have one and the same."""
        return None if self.orientation in ("none", "mixed") else self.orientation

    @classmethod
    def of(
        cls, *, channels: int = 1, classes: int = 1, raters: int = 4, exchangeable: bool = True, **more: Any
    ) -> DataSpec:
        """By counts, where names do not matter. more: any other field."""

        def names(what: str, count: int) -> tuple[str, ...]:
            return tuple(f"{what} {i + 1}" for i in range(count))

        return cls(names("channel", channels), names("class", classes), names("rater", raters), exchangeable, **more)

    def to_dict(self) -> dict[str, Any]:
        """As plain data: lists in place of tuples; without what later versions added, where nothing is known of it."""
        found = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        return {name: value for name, value in found.items() if name not in _LATER or value != _LATER[name]}


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
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved: dict[str, Any] = {name: value.to(device, non_blocking=True) for name, value in tensors.items()}
        return replace(self, **moved)

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
class Pool:
    """The candidates that B images' samples were chosen from, `count` for each image.

    mean: (B,K,…) float64, of their maps. fractions: (B,N), of the candidates that each sample stands for, being nearest
    to it. marking: (B,), of the candidates that mark something.
    """

    count: int
    mean: Tensor
    fractions: Tensor
    marking: Tensor


@dataclass
class Samples:
    """Hypotheses for B images.

    maps: (B,N,K,H,W) float32 probabilities in [0,1]; binarise outside the model. weights: (B,N), sum 1 per image,
    uniform unless a method says otherwise. present: (B,N) bool, the hypothesis marks something (`marks`). raters: (B,N)
    int64, whose reading it is, where raters are identifiable; else None. presence: (B,) the model's own probability
    that a rater marks anything, where it has one and samples are single raters'; else None. pool: what they were chosen
    from, where they are a representative set. part: (B,N) int64, which part of a mixture each is of, where the samples
    of a part share its probability as their weights; else None.
    """

    maps: Tensor
    weights: Tensor
    present: Tensor
    raters: Tensor | None = None
    presence: Tensor | None = None
    pool: Pool | None = None
    part: Tensor | None = None

    @classmethod
    def uniform(cls, maps: Tensor, **more: Any) -> Samples:
        """Samples of equal weight from (B,N,K,H,W) maps."""
        weights = torch.full(maps.shape[:2], 1.0 / maps.shape[1], device=maps.device)
        return cls(maps, weights, marks(maps), **more)

    @classmethod
    def joined(cls, parts: Sequence[Samples]) -> Samples:
        """Samples of several batches with the same n and size as those of one."""

        def join(name: str, owners: Sequence[Any]) -> Any:
            values = [getattr(owner, name) for owner in owners]
            return torch.cat(values) if isinstance(values[0], Tensor) else None

        made: dict[str, Any] = {name: join(name, parts) for name in vars(parts[0]) if name != "pool"}
        pools = [part.pool for part in parts if part.pool is not None]
        if pools:
            own: dict[str, Any] = {name: join(name, pools) for name in ("mean", "fractions", "marking")}
            made["pool"] = Pool(min(pool.count for pool in pools), **own)
        return cls(**made)

    def first(self, n: int) -> Samples:
        """The first n, weighted as if they alone had been drawn."""
        each = [None if one is None else one[:, :n] for one in (self.raters, self.part)]
        rest: dict[str, Any] = {"raters": each[0], "presence": self.presence, "part": each[1]}
        weights = self.weights_among(torch.full((len(self.maps),), n, device=self.weights.device))[:, :n]
        return Samples(self.maps[:, :n], weights / weights.sum(1, keepdim=True), self.present[:, :n], **rest)

    def weights_among(self, counts: Tensor) -> Tensor:
        """(B,N) weights to which the first `counts` (B,) of each image's samples are, of which all or some are used;
        not normalised. A part of a mixture then has its whole probability, however many samples are of it."""
        if self.part is None:
            return self.weights
        size = (len(self.part), int(self.part.max()) + 1)
        used = (torch.arange(self.part.shape[1], device=counts.device) < counts[:, None]).to(self.weights)
        whole, number = (torch.zeros(size).to(self.weights).scatter_add(1, self.part, x) for x in (self.weights, used))
        return (whole / number.clamp_min(1)).gather(1, self.part)

    def __repr__(self) -> str:
        images, count, *frame = self.maps.shape
        size = "×".join(map(str, frame[1:]))
        marking = f"{int(self.present.sum())} of {images * count} mark something"
        said = [counted(images, "image"), f"{counted(count, 'sample')} each", counted(frame[0], "class"), size, marking]
        return f"Samples({', '.join(said)})"

    def _repr_html_(self) -> str:
        return notebook.card("Samples", {"": repr(self)[8:-1]}, self.plot())

    def numpy(self) -> dict[str, np.ndarray]:
        """maps, weights, present and, where they are known, raters and presence, as arrays."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return {name: value.detach().cpu().numpy() for name, value in tensors.items()}

    def plot(self, item: int = 0, *, most: int = 16) -> Figure:
        """The maps of one image's first samples: the probability of any class, of a scan on its middle slice."""
        maps = self.maps[item, :most].detach().cpu().float().sum(1).clamp(0, 1)
        maps = maps if maps.ndim == 3 else maps[:, maps.shape[1] // 2]
        weights = self.weights[item].tolist()
        return notebook.grid(maps.numpy(), [f"{i}: {100 * weights[i]:.0f} %" for i in range(len(maps))])
