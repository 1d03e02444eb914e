"""Predictor: set an image or a volume once, draw any number of hypotheses, summarise them.

A hypothesis is one reading of all that is looked at. All its windows share one seed, hence one rater, one draw of
presence (a window is marked where the drawn number is below its probability, so the same rater is as bold everywhere)
and one random field: noise is a function of row and column in the scan, the same in each slice, so that neighbouring
windows and slices start from the same noise and differ only by what the model sees around them. Through the slices of
one lesion the probability of presence is freed of valleys, so that no reading has a hole in its middle.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from modiff import notebook
from modiff.config.evaluation import (
    CANDIDATES,
    DISTINCT,
    IID,
    OVERLAP,
    REPRESENTATIVE,
    SAMPLES,
    Selection,
)
from modiff.devices import choose_device
from modiff.errors import ConfigError, DataError, counted
from modiff.io.files import located
from modiff.io.volume import Volume, check_finite
from modiff.methods.base import Segmenter
from modiff.methods.marking import MOST_DRAWN, draw_marking
from modiff.metrics.representative import representative
from modiff.prediction.frame import View, differences, frame_of, view_of
from modiff.prediction.settings import check_settings
from modiff.prediction.summary import Summary, summarise
from modiff.prediction.values import Values, read_array
from modiff.prediction.windows import Box, Job, Plan, merge
from modiff.rng import seeds_for
from modiff.types import DataSpec, RaterChoice, Samples

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from modiff.config.run import RunConfig
    from modiff.io.progress import Progress
    from modiff.methods.run_folder import LoadedModel

MAX_MAPS = 4 << 30  # bytes of maps that are held
MOST_CANDIDATES = 1024  # drawn by default: the sampling error of so many is small
_AT_ONCE = 16 << 20  # values of maps made in one call of the model


class PredictionWarning(UserWarning):
    """The image differs from what the model was trained on, in a way that prediction cannot mend."""


class Predictor:
    """Hypotheses for one image or volume at a time: `set_image`, `sample` as often as needed, `summary`, `reset`.

    A sample is a function of (weights, image, seed, index): the first n of 2n samples are the n samples, unless they
    are a representative set, which is chosen anew for each n.
    """

    def __init__(
        self,
        model: LoadedModel | Segmenter,
        *,
        device: str | torch.device = "cpu",
        data: DataSpec | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """From a loaded model or a bare Segmenter. data: what is known of its training data, by default what the model
        says. device: "auto" is a GPU if there is one. dtype: torch.bfloat16 or torch.float16 compute in it where torch
        thinks it safe (autocast): faster on GPUs, with slightly other samples. Raises ConfigError for a device that is
        not there and for other types."""
        if dtype not in (torch.float32, torch.bfloat16, torch.float16):
            expected = "torch.float32, torch.bfloat16 or torch.float16"
            raise ConfigError("is not a type to compute in", field="dtype", found=dtype, expected=expected)
        self.dtype = dtype
        segmenter = model if isinstance(model, Segmenter) else model.model
        self.data = data if data is not None else model.data
        self.card: dict[str, Any] = {} if isinstance(model, Segmenter) else dict(model.card)
        self.config: RunConfig | None = None if isinstance(model, Segmenter) else model.config
        self.device = choose_device(device)
        self.size = self.data.size
        self.model: Segmenter = segmenter.to(self.device).eval()
        self.reset()

    @classmethod
    def from_path(cls, path_or_name: str | Path, device: str | torch.device = "cpu") -> Predictor:
        """The model of a run folder, or a packaged one by its name. Raises CheckpointError."""
        from modiff.methods.run_folder import load_model

        return cls(load_model(path_or_name), device=device)

    def reset(self) -> None:
        """Forgets the image and its samples."""
        self.view: View | None = None  # what is looked at
        self._values: Values | None = None  # what the model sees of it
        self.case = ""  # names the random numbers
        self.notes: tuple[str, ...] = ()  # what differs from the training data: the warnings
        self.samples: Samples | None = None
        self._spacing: tuple[float, ...] | None = None
        self._encoded: dict[int, list[Any]] = {}  # by how many windows are encoded at once

    def set_image(
        self,
        image: np.ndarray | Tensor,
        *,
        at: Sequence[int] | None = None,
        slices: int = 0,
        roi: Box | None = None,
        overlap: float = OVERLAP,
        case: str | None = None,
        intensity: str | None = None,
        spacing: Sequence[float] | None = None,
        affine: np.ndarray | None = None,
        resample_to_model: bool = False,
        slide: bool = False,
        neighbours: bool = False,
    ) -> Predictor:
        """Takes an image (H,W) or (C,H,W), or a volume (C,Z,H,W), for all samples to come.

        at: (x, y), of a volume (x, y, z): a window of the training size is cut so that its pixel (H//2, W//2) is that
        one, on slice z and `slices` neighbours on either side; outside the image it sees the image's reflection. roi: a
        box; windows of the training size are slid over it, neighbours share `overlap` of what they look at. Without
        either all is looked at, which must not be larger than the training size. intensity: how to make the values, by
        default as the model's data (`IntensityRule`); "ready" says that they are. Bounds are those of the whole image,
        as in import (`Values`). spacing: mm of a pixel (row, column) or voxel (slice, row, column). affine: (4,4) voxel
        (column, row, slice) to RAS+ mm: a volume is turned as the training data lay, and samples, places and boxes stay
        in its own frame. resample_to_model: slices to the training data's pixel size, maps back. slide: without a place
        or roi a larger image is slid over. case: names the random numbers; by default the image's content does: its
        path and file format do not matter, and two images do not share their noise. Warns (PredictionWarning) of what
        differs from the training data. neighbours: the channels are slices with their neighbours, as a store has them;
        else a model that sees such takes them from the volume. Raises DataError, ConfigError.
        """
        from modiff.methods.run_folder import hardly_trained

        self.reset()
        context = 0 if neighbours else self.data.context
        names = self.data.channels if neighbours else self.data.scan_channels
        array, scan = read_array(image, self.model.channels // (2 * context + 1), names)
        own = (scan.shape[1], scan.shape[2], scan.shape[3])
        if affine is not None:
            lies = Volume(scan, affine, Path("image"), "array")  # checks it
            affine, spacing = lies.affine, lies.spacing if spacing is None else spacing
        frame, notes = frame_of(own, self.data, affine=affine, spacing=spacing, resample=resample_to_model)
        where: dict[str, Any] = {"at": at, "slices": slices, "roi": roi, "overlap": overlap}
        view = view_of(self.model, self.data, frame, flat=array.ndim < 4, slide=slide, **where)
        self._check_memory(1, view)
        check_finite(scan, field="image")
        scan = frame.turn(scan)
        values = Values(scan, self.data, intensity, view.seen, frame, neighbours=neighbours)
        if len(view.seen.jobs) == 1:
            self._encoded = {1: [self._encode(values, view.seen.jobs)]}
        self.view, self._values = view, values
        self.case = case if case is not None else content_hash(array if frame.change is None else scan)
        notes += differences(view.seen, self.data, places_noise=self.model.places_noise)
        if context and frame.shape[0] == 1:
            sees = f"the model sees {counted(context, 'neighbouring slice')} on either side"
            notes.append(f"{sees}, and the image is one slice: it is repeated in their place")
        notes += filter(None, [hardly_trained(self.card)])
        self._spacing = None if spacing is None else tuple(spacing)
        self._warn([*notes, *values.notes])
        return self

    def sample(
        self,
        n: int = SAMPLES,
        *,
        seed: int = 0,
        steps: int | None = None,
        raters: RaterChoice = "single",
        select: Selection = IID,
        candidates: int | None = None,
        progress: Progress | None = None,
    ) -> Samples:
        """n hypotheses, on the CPU: of an image maps (1,N,K,h,w) in its own frame, of a volume (1,N,K,z,h,w) within the
        box that is looked at; 0 where no window looks.

        raters: "single" (each sample is one rater's), "marking" (one of the raters who mark something in what is looked
        at), "all" (the panel's consensus), or a list of raters. select: "iid"; "stratified", presence from a
        low-discrepancy sequence; "representative", those of several `candidates` (4 per sample, fewer where memory
        ends) that are together most like all of them, which `Samples.pool` describes; candidates are stratified where
        the method draws presence. progress: called with samples done and in all, over all windows. Warns where too few
        samples mark anything. Raises DataError before `set_image`, ConfigError for settings that are out of range or
        that the method does not have.
        """
        view, values = self.view, self._values
        if view is None or values is None:
            raise DataError("no image is set", hint="Call set_image first")
        check_settings(self.model, n, steps, raters, select, candidates)
        self._check_memory(n, view)
        count = n
        if select == REPRESENTATIVE:
            count = max(n, min(candidates or min(CANDIDATES * n, MOST_CANDIDATES), MAX_MAPS // self._bytes(view)))
        marking = isinstance(raters, str) and raters == "marking"
        options: dict[str, Any] = {"steps": steps, "raters": "single" if marking else raters}
        options["stratified"] = select != IID and self.model.stratifies(options["raters"])

        def draw(count: int) -> Samples:
            return self._draw(count, view, values, seed, progress, marking=marking, **options)

        if marking:
            drawn, found = draw_marking(draw, count)
            drawn = replace(drawn, presence=None)
            if (few := int(found)) < count:
                tried = f"{few} of {MOST_DRAWN * count} samples mark anything"
                self._warn([f"{tried}: {'they are repeated' if few else 'it is not known what a rater would mark'}"])
        else:
            drawn = draw(count)
        if select == REPRESENTATIVE:
            drawn = representative(drawn, n, pool=True)
        self.samples = view.on_own_grid(drawn)
        self._warn(values.notes)  # some show in single windows only
        return self.samples

    def sample_images(
        self,
        images: np.ndarray | Tensor | Sequence[np.ndarray],
        n: int = SAMPLES,
        *,
        intensity: str | None = None,
        neighbours: bool = False,
        cases: Sequence[str] | None = None,
        progress: Progress | None = None,
        **how: Any,
    ) -> Samples:
        """`set_image` and `sample` for each of B images of one size, (H,W) or (C,H,W): maps (B,N,K,H,W).

        The samples are those that each image has by itself. intensity, neighbours: as `set_image`, cases: their `case`,
        how: other arguments of `sample`. progress: called with images done and in all. The last image stays set. Raises
        DataError that names the image by its number, ConfigError.
        """
        if len(images) == 0 or (cases is not None and len(cases) != len(images)):
            found = f"{counted(len(images), 'image')}, {'no' if cases is None else len(cases)} cases"
            raise DataError("do not fit", field="images, cases", found=found, expected="as many cases, one or more")
        drawn: list[Samples] = []
        for number, image in enumerate(images):
            with located(f"image {number}"):
                case = None if cases is None else cases[number]
                self.set_image(image, intensity=intensity, neighbours=neighbours, case=case)
                drawn.append(self.sample(n, **how))
                size, first = (one.maps.shape[3:] for one in (drawn[-1], drawn[0]))
                if size != first:
                    raise DataError("has another size", found=tuple(size), expected=tuple(first))
            if progress is not None:
                progress(number + 1, len(images))
        return Samples.joined(drawn)

    def _draw(
        self,
        n: int,
        view: View,
        values: Values,
        seed: int,
        progress: Progress | None,
        *,
        marking: bool,
        **options: Any,
    ) -> Samples:
        """The first n samples of what the model sees. marking: given that a rater marks something there."""
        plan = view.seen
        jobs = plan.jobs
        room = _AT_ONCE // (n * self.model.classes * math.prod(plan.windows[0].size))
        at_once = min(max(1, room), len(jobs))
        parts = [jobs[first : first + at_once] for first in range(0, len(jobs), at_once)]
        encodings: Iterator[Any] = (self._encode(values, part) for part in parts)
        if plan.at is not None or len(jobs) == 1:
            # Slices of one lesion are judged together where the model can, and kept for the next samples.
            if at_once not in self._encoded:
                with torch.inference_mode():
                    self._encoded = {at_once: self.model.join_slices(list(encodings))}
            encodings = iter(self._encoded[at_once])
        if marking and self.model.draws_stratified:
            every = list(encodings)
            chances = [chance for one in every if (chance := self.model.most_present(one)) is not None]
            most = torch.cat(chances).max()[None]
            encodings = (self.model.given_marks(one, most) for one in every)

        def drawn() -> Iterator[tuple[list[Job], Samples]]:
            seeds, origin, done = seeds_for(seed, [self.case], self.device), None, 0
            for part, encoding in zip(parts, encodings, strict=True):
                if plan.placed and self.model.places_noise:
                    origin = torch.tensor([(window.top, window.left) for _, window in part], device=self.device)
                with torch.inference_mode(), self._cast(), _counted(self.model, progress, done, n * len(jobs)):
                    found = self.model.sample(encoding, n, seeds=seeds.expand(len(part)), origin=origin, **options)
                yield part, found
                done += n * len(part)
                if progress is not None:
                    progress(done, n * len(jobs))

        return merge(plan, n, self.model.classes, drawn())

    def summary(
        self,
        *,
        threshold: float | None = None,
        distinct: float = DISTINCT,
        spacing: Sequence[float] | None = None,
        voxel_mm3: float | None = None,
    ) -> Summary:
        """What the last samples say together; `summarise` explains. spacing: mm of the image's pixels (row, column) or
        the volume's voxels (slice, row, column), by default that of `set_image`. Raises DataError before `sample`."""
        if self.samples is None:
            raise DataError("no samples are drawn", hint="Call set_image and sample first")
        sizes: dict[str, Any] = {"spacing": self._spacing if spacing is None else spacing, "voxel_mm3": voxel_mm3}
        counting: dict[str, Any] = {"threshold": threshold, "distinct": distinct}
        return summarise(self.samples, classes=self.data.classes, **counting, **sizes)

    def __repr__(self) -> str:
        state = "no image" if self.view is None else f"image {'×'.join(map(str, self.view.own.box.shape))}"
        drawn = "" if self.samples is None else f", {self.samples.maps.shape[1]} samples"
        return f"Predictor({type(self.model).__name__} on {self.device}, {state}{drawn})"

    def _repr_html_(self) -> str:
        data = self.data
        facts = {
            "raters": len(data.raters),
            "classes": ", ".join(data.classes),
            "size": data.size,
            "": repr(self)[10:-1],
        }
        return (
            notebook.card("Predictor", facts)
            if self.samples is None
            else self.summary().card(repr(self), self._shown())
        )

    def plot(self) -> Figure:
        """The last samples' summary on the image; see `Summary.plot`. Raises DataError before `sample`."""
        return self.summary().plot(self._shown())

    def _shown(self) -> np.ndarray:
        """What the model saw, in the frame of the samples; black elsewhere."""
        plan, values = self.plan, self.values
        assert plan is not None
        assert values is not None
        box, shown = plan.box, plan.shown if plan.image else plan.area
        slices = [0] if plan.image else range(*box.spans[0])
        whole = []
        for z in slices:
            seen = values.cut(z, shown)
            canvas = np.zeros((len(seen), *shown.image), np.float32)
            canvas[(slice(None), *shown.covered)] = seen[(slice(None), *shown.inside)]
            whole.append(canvas)
        return whole[0] if plan.image else np.stack(whole, 1)[..., box.slices[1], box.slices[2]]

    @property
    def plan(self) -> Plan | None:
        """What is looked at, in the image's own columns, rows and slices."""
        return None if self.view is None else self.view.own

    @property
    def values(self) -> Values | None:
        """What the model sees, on the image's own grid."""
        return None if self._values is None or self.view is None else self._values.back(self.view)

    @torch.inference_mode()
    def _encode(self, values: Values, jobs: Sequence[Job]) -> Any:
        seen = np.stack([values.seen(z, window) for z, window in jobs])
        with self._cast():
            return self.model.encode(torch.from_numpy(seen).to(self.device))

    def _cast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def _warn(self, notes: Sequence[str]) -> None:
        """Warns the caller's caller of what is new."""
        fresh = [note for note in notes if note not in self.notes]
        self.notes += tuple(fresh)
        for note in fresh:
            warnings.warn(note, PredictionWarning, stacklevel=3)

    def _bytes(self, view: View) -> int:
        """Of one sample's maps."""
        boxes = [(plan.box.shape[1:] if plan.image else plan.box.size) for plan in (view.seen, view.own)]
        return 4 * self.model.classes * max(map(math.prod, boxes))

    def _check_memory(self, n: int, view: View) -> None:
        size = n * self._bytes(view)
        if size > MAX_MAPS:
            found, expected = f"{n} samples, {size >> 20} MiB of maps", f"at most {MAX_MAPS >> 20} MiB"
            hint = "Give fewer samples, or a part of the scan with --roi or --at"
            raise ConfigError("too many for the memory", field="n", found=found, expected=expected, hint=hint)


@contextmanager
def _counted(model: Segmenter, progress: Progress | None, done: int, total: int) -> Iterator[None]:
    """Tells `progress` of samples as the model finishes them, `done` being finished before."""

    def tell(more: int) -> None:
        nonlocal done
        if progress is not None:
            progress(done := done + more, total)

    model.on_drawn = tell
    try:
        yield
    finally:
        model.on_drawn = None


def content_hash(image: np.ndarray) -> str:
    """SHA-256 of an image's type, shape and values (slices as channels): the same whatever file it came from."""
    array = np.ascontiguousarray(image.reshape(-1, *image.shape[-2:]))
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(array.tobytes())
    return digest.hexdigest()
