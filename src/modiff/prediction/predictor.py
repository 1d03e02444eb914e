"""Predictor: set an image once, draw any number of hypotheses, summarise them."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from modiff.devices import choose_device
from modiff.errors import ConfigError, DataError
from modiff.methods.base import Segmenter
from modiff.prediction.summary import Summary, summarise
from modiff.prediction.values import Values
from modiff.prediction.window import Window
from modiff.rng import seeds_for
from modiff.types import DataSpec, RaterChoice, Samples

if TYPE_CHECKING:
    from modiff.config import RunConfig
    from modiff.methods.weights import LoadedModel

MAX_MAPS = 4 << 30  # bytes of maps, drawn as one batch


class PredictionWarning(UserWarning):
    """The image differs from what the model was trained on, in a way that prediction cannot mend."""


class Predictor:
    """Hypotheses for one image at a time: `set_image`, `sample` as often as needed, `summary`, `reset`.

    A sample is a function of (weights, image, seed, index): the first n of 2n samples are the n samples.
    """

    def __init__(
        self,
        model: LoadedModel | Segmenter,
        *,
        device: str | torch.device = "cpu",
        data: DataSpec | None = None,
    ) -> None:
        """From a loaded model or a bare Segmenter. data: what is known of its training data, by default what the model
        says. device: "auto" is a GPU if there is one. Raises ConfigError for one that is not there."""
        segmenter = model if isinstance(model, Segmenter) else model.model
        self.data = data if data is not None else model.data
        self.card: dict[str, Any] = {} if isinstance(model, Segmenter) else dict(model.card)
        self.config: RunConfig | None = None if isinstance(model, Segmenter) else model.config
        self.device = choose_device(device)
        self.model: Segmenter = segmenter.to(self.device).eval()
        self.size = self.data.size
        self.reset()

    @classmethod
    def from_path(cls, path_or_name: str | Path, device: str | torch.device = "cpu") -> Predictor:
        """The model of a run folder, or a packaged one by its name. Raises CheckpointError."""
        from modiff.methods.weights import load_model

        return cls(load_model(path_or_name), device=device)

    def reset(self) -> None:
        """Forgets the image and its samples."""
        self.window: Window | None = None
        self.input: np.ndarray | None = None
        self.case: str | None = None
        self.notes: tuple[str, ...] = ()  # what differs from the training data: the warnings of set_image
        self.intensity: str | None = None  # the rule that made the values
        self.samples: Samples | None = None
        self._encoding: Any = None

    def set_image(
        self,
        image: np.ndarray | Tensor,
        *,
        at: Sequence[int] | None = None,
        case: str | None = None,
        intensity: str | None = None,
    ) -> Predictor:
        """Encodes `image` (H,W) or (C,H,W), once for all samples to come.

        A window of the training size is cut so that its pixel (H//2, W//2) is the image's pixel `at` = (x, y), by
        default the image's own centre; outside the image it sees the image's reflection. An image larger than the
        training size needs `at`. intensity: how to make the values, by default as the model's data (`IntensityRule`);
        "ready" says that they are. Bounds are those of the whole image, as in import (`Values`). case: names the random
        numbers; by default the image's content does: its path and file format do not matter, and two images do not
        share their noise. Warns (PredictionWarning) of what differs from the training data. Raises DataError.
        """
        self.reset()
        array = _numpy(image)
        pixels = _channels(array, self.model.channels)
        frame = (pixels.shape[-2], pixels.shape[-1])
        window = Window.centred(frame, self.size or frame, self._position(frame, at))
        values = Values(pixels[:, None], self.data, intensity, picture=True)
        seen, notes = values.cut(0, window), values.notes
        if window.padded:
            width, height = window.size[1], window.size[0]
            notes.append(f"the image ends inside the {width}×{height} window: beyond it the model sees its reflection")
        for note in notes:
            warnings.warn(note, PredictionWarning, stacklevel=2)
        with torch.inference_mode():
            self._encoding = self.model.encode(torch.from_numpy(seen)[None].to(self.device))
        self.input, self.window, self.notes, self.intensity = seen, window, tuple(notes), values.rule
        self.case = case if case is not None else content_hash(array)
        return self

    def sample(
        self,
        n: int = 16,
        *,
        seed: int = 0,
        steps: int | None = None,
        raters: RaterChoice = "single",
        stratified: bool = False,
    ) -> Samples:
        """n hypotheses in one batch: maps (1,N,K,h,w) in the image's own frame, 0 outside the window, on the CPU.

        raters: "single" (each sample is one reader's), "all" (the panel's consensus), or a list of raters. stratified:
        presence from a low-discrepancy sequence, which a few samples represent better than independent draws. Raises
        DataError before `set_image`, ConfigError for settings that make no sense or that the method does not have.
        """
        if self.window is None or self.case is None:
            raise DataError("no image is set", hint="Call set_image first")
        options = check_settings(self.model, n, steps, raters, stratified)
        self._check_memory(n)
        with torch.inference_mode():
            seeds = seeds_for(seed, [self.case], self.device)
            drawn = self.model.sample(self._encoding, n, seeds=seeds, steps=steps, raters=raters, **options)
        # Copies made outside inference mode are ordinary tensors, which a caller may do anything with.
        moved = {name: value.to("cpu", copy=True) for name, value in vars(drawn).items() if isinstance(value, Tensor)}
        self.samples = replace(drawn, **{**moved, "maps": self.window.put_back(moved["maps"].float())})
        return self.samples

    def summary(self, *, threshold: float | None = None, spacing: Sequence[float] | None = None) -> Summary:
        """What the last samples say together; `summarise` explains. spacing: (row, column) mm of the image's pixels;
        without it areas are in pixels only. Raises DataError before `sample`."""
        if self.samples is None:
            raise DataError("no samples are drawn", hint="Call set_image and sample first")
        return summarise(self.samples, classes=self.data.classes, spacing=spacing, threshold=threshold)

    def _check_memory(self, n: int) -> None:
        assert self.window is not None
        size = 4 * n * self.model.classes * math.prod(self.window.image)
        if size > MAX_MAPS:
            raise ConfigError(
                "too many for the memory",
                field="n",
                found=f"{n} samples, {size >> 20} MiB of maps",
                expected=f"at most {MAX_MAPS >> 20} MiB",
            )

    def _position(self, frame: tuple[int, int], at: Sequence[int] | None) -> tuple[int, int] | None:
        if at is not None:
            if len(at) != 2 or not all(isinstance(value, (int, np.integer)) for value in at):
                raise DataError("is not a pixel", field="at", found=at, expected="(x, y), whole numbers")
            return int(at[0]), int(at[1])
        if self.size is None or (frame[0] <= self.size[0] and frame[1] <= self.size[1]):
            return None
        lesion = self.data.prompted
        raise DataError(
            "is larger than what the model was trained on",
            field="image",
            found=f"{frame[1]}×{frame[0]}",
            expected=f"at most {self.size[1]}×{self.size[0]}, or the position to look at",
            hint=f"Give --at X,Y (in Python at=(x, y)), {'the pixel of the lesion' if lesion else 'a pixel'}",
        )


def check_settings(
    model: Segmenter, n: int, steps: int | None, raters: RaterChoice, stratified: bool
) -> dict[str, Any]:
    """The optional arguments of `model.sample`; raises ConfigError for settings that make no sense or that the method
    does not have."""
    _whole(n, "n", 1)
    if steps is not None:
        _whole(steps, "steps", 1)
    _check_raters(raters, model.raters)
    model.check_request(steps=steps, raters=raters, stratified=stratified)
    return {"stratified": stratified}


def content_hash(image: np.ndarray) -> str:
    """SHA-256 of an image's type, shape (C,H,W) and values: the same whatever file it came from."""
    array = np.ascontiguousarray(image if image.ndim == 3 else image[None])
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(array.tobytes())
    return digest.hexdigest()


def _numpy(image: np.ndarray | Tensor) -> np.ndarray:
    if isinstance(image, Tensor):
        image = image.detach().cpu().numpy()
    if not isinstance(image, np.ndarray) or image.ndim not in (2, 3) or 0 in image.shape:
        found = getattr(image, "shape", type(image).__name__)
        raise DataError("is not a 2-D image", field="image", found=found, expected="(H,W) or (C,H,W)")
    if image.dtype.kind not in "uif":
        raise DataError("is not an array of numbers", field="image", found=image.dtype, expected="integer or float")
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise DataError("has values that are not finite", field="image", found="NaN or infinity")
    return image


def _channels(array: np.ndarray, channels: int) -> np.ndarray:
    """(C,H,W) with the model's C; a colour picture whose three colours are equal is a grey one."""
    array = array if array.ndim == 3 else array[None]
    if array.shape[0] == 3 and channels == 1 and (array == array[:1]).all():
        return array[:1]
    if array.shape[0] != channels:
        last = array.shape[-1] == channels
        raise DataError(
            "has other channels than the model",
            field="image",
            found=f"{array.shape[0]} of shape {array.shape}",
            expected=f"{channels}",
            hint="Channels come first: (C,H,W)" if last else None,
        )
    return array


def _whole(value: object, field: str, least: int) -> None:
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
        raise ConfigError("is not possible", field=field, found=repr(value), expected=f"a whole number ≥ {least}")


def _check_raters(raters: RaterChoice, count: int) -> None:
    if isinstance(raters, str):
        if raters not in ("single", "all"):
            raise ConfigError("no such choice", field="raters", found=repr(raters), expected="single, all or a list")
        return
    for rater in raters:
        _whole(rater, "raters", 0)
    if not raters or len(set(raters)) != len(raters) or max(raters) >= count:
        raise ConfigError(
            "no such subset", field="raters", found=list(raters), expected=f"of 0 to {count - 1}, once each"
        )
