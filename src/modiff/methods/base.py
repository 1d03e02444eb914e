"""The contract of every method: what a caller may ask of it, with a default."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from modiff.errors import ConfigError
from modiff.nn.replay import Replays
from modiff.rng import sample_seeds
from modiff.types import Batch, DataSpec, RaterChoice, Samples

MOST_PARAMETERS = 160_000_000  # of a network, 610 MiB; CIMD has 88 million
MOST_STRIDE = 512  # pixels: images are padded to multiples of a network's
_MOST_BYTES = 1 << 27  # of the image features of samples that are computed together: bounds memory whatever n is
_BYTES_PER_PIXEL = 512  # at least, for layers that take more than the features do, attention above all
_LARGER_ON_GPU = 8


def at_once(*features: Tensor, pixels: int = 0) -> int:
    """How many samples to compute together, each of which takes such `features`; 16 of CCDM's at 128×128.

    pixels: of a sample, where features are not on their grid.
    """
    taken = max(sum(4 * part.numel() for part in features), _BYTES_PER_PIXEL * pixels)
    most = _MOST_BYTES * (1 if all(part.device.type == "cpu" for part in features) else _LARGER_ON_GPU)
    return max(1, most // max(1, taken))


@contextmanager
def at_most(parameters: int | None) -> Iterator[None]:
    """ConfigError as soon as the networks that are made inside have more parameters, before memory is taken for them.

    parameters: where fewer than MOST_PARAMETERS are expected.
    """
    most, total = min(parameters or MOST_PARAMETERS, MOST_PARAMETERS), 0
    what, expected = "makes a network that is too large", f"at most {most:,} parameters"

    def add(module: nn.Module, name: str, value: nn.Parameter | None) -> None:
        nonlocal total
        total += 0 if value is None else value.numel()  # registered, but not written yet: it takes no memory so far
        if total > most:
            raise ConfigError(what, field="model", found=f"{total:,} or more", expected=expected)

    handle = register_module_parameter_registration_hook(add)
    try:
        yield
    except RuntimeError as error:  # of torch, for one layer that is larger than the memory
        if "alloc" not in str(error) and "overflow" not in str(error):
            raise
        found = "more than fits into memory"
        raise ConfigError(what, field="model", found=found, expected=expected) from error
    finally:
        handle.remove()


def check_stride(model: Segmenter) -> None:
    """ConfigError for a network that pads small images to huge ones."""
    if model.stride > MOST_STRIDE:
        what, expected = "pads images to too large a multiple of pixels", f"at most {MOST_STRIDE}"
        raise ConfigError(what, field="model", found=model.stride, expected=expected)


class Segmenter(nn.Module, ABC):
    """A method that learns from every rater and draws hypotheses: `training_loss`, `encode`, `sample`.

    Attributes: data: what it was built for; channels C, classes K (foreground) and raters R are its counts. stride:
    images are padded to multiples of this. default_steps: network evaluations per sample where `steps` is not given.
    stepwise: it samples in steps, whose number `sample` takes. draws_panels: it takes other `raters` than "single".
    places_noise: it takes `origin`. fewest: samples that must be drawn at least. fixed_shapes:
    where set, shapes in `training_loss` depend on no values, as a CUDA graph needs it. replays: where set, does the
    steps of samplers. on_drawn: where set, is told during `sample` how many more samples are finished, by methods whose
    samples take time.
    """

    stride: int = 1
    default_steps: int = 1
    stepwise: ClassVar[bool] = False
    draws_panels: ClassVar[bool] = False
    places_noise: ClassVar[bool] = False
    fewest: int = 1
    fixed_shapes: bool = False
    replays: Replays | None = None
    on_drawn: Callable[[int], None] | None = None

    @property
    def draws_stratified(self) -> bool:
        """Whether presence is drawn before anything else, and can be `stratified`."""
        return False

    def __init__(self, data: DataSpec) -> None:
        super().__init__()
        self.data = data
        self.channels, self.classes, self.raters = len(data.channels), len(data.classes), len(data.raters)

    @abstractmethod
    def training_loss(self, batch: Batch, *, rng: Generator) -> dict[str, Tensor]:
        """Scalar `"loss"` to minimise and its named terms (detached), all random numbers drawn from `rng`.

        With `fixed_shapes` it should look at no value of a tensor and copy none from the CPU: on a GPU it is then
        captured in a CUDA graph, else its operations are started one by one.
        """

    @abstractmethod
    def encode(self, image: Tensor) -> Any:
        """What depends on the image (B,C,H,W) only: computed once per image, shared by all its samples and steps."""

    @torch.no_grad()
    def sample(
        self,
        image_or_encoding: Any,
        n: int,
        *,
        seeds: Tensor,
        steps: int | None = None,
        raters: RaterChoice = "single",
        stratified: bool = False,
        origin: Tensor | None = None,
    ) -> Samples:
        """n hypotheses per image. seeds: (B,) int64, one per case; sample i is a function of (weights, image, seed, i).

        stratified: presence from a low-discrepancy sequence. origin: (B,2) int64, the row and column of each image's
        first pixel in a larger one: noise is then a function of (seed, i, place in that one), so that windows of a scan
        which share a seed agree where they overlap; a method that does not place its noise ignores it. Raises
        ConfigError for what `check_request` refuses.
        """
        self.check_request(steps=steps, raters=raters, stratified=stratified)
        self.check_count(n)
        encoding = self.encode(image_or_encoding) if isinstance(image_or_encoding, Tensor) else image_or_encoding
        steps = self.default_steps if steps is None else steps
        return self._draw(encoding, sample_seeds(seeds, n), steps, raters, stratified, origin)

    def _draw(
        self, encoding: Any, each: Tensor, steps: int, raters: RaterChoice, stratified: bool, origin: Tensor | None
    ) -> Samples:
        """`sample` of an encoding; each: (B,N) seeds of the samples. Where encodings are tensors, override `sample`."""
        raise NotImplementedError

    def check_request(self, *, steps: int | None, raters: RaterChoice, stratified: bool) -> None:
        """ConfigError for what the method does not do, in place of a result that is not what was asked for."""
        if steps not in (None, 1) and not self.stepwise:
            raise ConfigError("the method samples in one pass", field="steps", found=steps, expected="1 or none")
        if not (isinstance(raters, str) and raters == "single") and not self.draws_panels:
            raise ConfigError("the method draws single raters only", field="raters", found=repr(raters))
        if stratified and not self.draws_stratified:
            raise ConfigError("does not draw stratified samples", field="method", found=type(self).__name__)
        if stratified and not self.stratifies(raters):
            what = "presence of several persons is drawn independently, not stratified"
            raise ConfigError(what, field="raters", found=repr(raters), expected="single")

    def stratifies(self, raters: RaterChoice) -> bool:
        """Whether samples of this choice of raters can be stratified: of persons, each marks or not by itself."""
        single = isinstance(raters, str) and raters == "single"
        return self.draws_stratified and (single or self.data.exchangeable_raters)

    def check_count(self, n: int) -> None:
        """ConfigError for fewer samples than the method can weigh."""
        if n < self.fewest:
            raise ConfigError("the method needs more samples", field="n", found=n, expected=f"at least {self.fewest}")

    def reach(self, height: int, width: int) -> tuple[int, int]:
        """Sides of the middle part of an image of this size that every sample may mark."""
        return height, width

    def join_slices(self, encodings: Sequence[Any]) -> list[Any]:
        """Encodings of one lesion's neighbouring slices, in order, made to agree where the method can."""
        return list(encodings)

    def surely_present(self, encoding: Any) -> Any:
        """The encoding with every rater sure to mark something, for methods that draw presence first."""
        return encoding

    def most_present(self, encoding: Any) -> Tensor | None:
        """(B,) the largest probability of a rater to mark something; None where presence is not drawn first."""
        return None

    def given_marks(self, encoding: Any, most: Tensor) -> Any:
        """The encoding with each probability of a rater to mark something divided by `most` (B,), or one for all.

        With the largest of an image's windows it is conditional on a mark in one of them, for raters who are as likely
        as the likeliest; others may still mark nothing and are to be drawn anew, which keeps their proportions.
        """
        return encoding
