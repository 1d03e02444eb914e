"""One prediction, from whatever was read: a scan, a model and settings in, samples with their summary out."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from modiff.config.sampling import OVERLAP, SAMPLES
from modiff.errors import ConfigError, DataError
from modiff.io.image import ImageFile, Volume
from modiff.prediction.plan import Plan, Values
from modiff.prediction.predictor import PredictionWarning, Predictor, check_settings
from modiff.prediction.summary import Summary, summarise
from modiff.prediction.windows import Box
from modiff.types import RaterChoice, Samples


@dataclass(frozen=True)
class Settings:
    """What is asked for: where to look and how to make the values (`Predictor.set_image`), what to draw
    (`Predictor.sample`) and how to count it (`summarise`).

    roi: `X0:X1,Y0:Y1[,Z0:Z1]`. spacing: (row, column) mm of an image's pixels; a scan brings its own.
    """

    n: int = SAMPLES
    seed: int = 0
    steps: int | None = None
    raters: RaterChoice = "single"
    stratified: bool = False
    at: tuple[int, ...] | None = None
    slices: int = 0
    roi: str | None = None
    overlap: float = OVERLAP
    intensity: str | None = None
    threshold: float | None = None
    spacing: tuple[float, ...] | None = None

    def drawing(self) -> dict[str, Any]:
        """How samples are drawn, as plain data."""
        raters = self.raters if isinstance(self.raters, str) else ",".join(map(str, self.raters))
        return {"seed": self.seed, "steps": self.steps, "raters": raters, "stratified": self.stratified}


@dataclass(frozen=True)
class Prediction:
    """Hypotheses of one image or scan, where they lie and what they say together.

    scan: what was read. method: the model's class. samples: as `Predictor.sample` gives them. plan: what was looked at.
    values: what the model saw. case: the name of the random numbers. notes: what differs from the training data.
    """

    scan: ImageFile | Volume
    settings: Settings
    method: str
    samples: Samples
    summary: Summary
    plan: Plan
    values: Values
    case: str
    notes: tuple[str, ...]

    @property
    def key_slice(self) -> int:
        """The slice of a scan on which the samples mark most; the middle of what was looked at where they mark none."""
        return self.plan.box.spans[0][0] + self.summary.key_slice()

    def slice_summary(self, z: int) -> Summary:
        """The summary of slice z of a scan by itself, its maps in the frame of the whole slice."""
        box, summary = self.plan.box, self.summary
        maps = box.put_back(self.samples.maps[0, :, :, z - box.spans[0][0]].numpy(), dimensions=2)
        drawn = Samples.uniform(torch.from_numpy(maps)[None])
        drawn.weights = self.samples.weights
        spacing = None if summary.spacing is None else summary.spacing[1:]
        return summarise(drawn, classes=summary.classes, spacing=spacing, threshold=summary.threshold)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: what the model saw, and the summary; everything but the maps."""
        plan, window = self.plan, self.plan.windows[0]
        height, width = plan.box.shape[1:]
        size = {"width": window.size[1], "height": window.size[0]}
        found: dict[str, Any] = {"image_size": {"width": width, "height": height}}
        if plan.placed:
            found["image_size"]["slices"] = plan.box.shape[0]
            found["box"] = {name: list(span) for name, span in zip("xyz", reversed(plan.box.spans), strict=True)}
            found["windows"] = {"a_slice": len(plan.windows), **size}
        else:
            found["window"] = {"left": window.left, "top": window.top, **size, "reaches_outside": window.padded}
        found |= {
            "at": None if plan.at is None else list(plan.at if plan.placed else plan.at[:2]),
            "intensity": {"training": self.values.trained, "applied": self.values.rule},
            "case": self.case,
            "warnings": list(self.notes),
        }
        if isinstance(self.scan, Volume):
            found["affine_ras_mm"] = self.scan.affine.tolist()
        return found | self.summary.to_dict()


def predict(
    scan: ImageFile | Volume,
    predictor: Predictor,
    settings: Settings,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Prediction:
    """Draws hypotheses of `scan` and summarises them.

    An image that one window shows is seen through it; what is larger, or of which a part is asked for, and every volume
    through windows that slide. progress: called with windows done and in all. What differs from the training data
    stands in `notes`. Raises DataError that names the file, ConfigError.
    """
    asked, volume = settings, isinstance(scan, Volume)
    if volume and asked.spacing is not None:
        raise ConfigError("the scan brings its own", field="--spacing", found=",".join(map(str, asked.spacing)))
    check_settings(predictor.model, asked.n, asked.steps, asked.raters, asked.stratified)
    height, width = scan.array.shape[-2:]
    shape = (scan.array.shape[1] if volume else 1, height, width)
    most = predictor.size or shape[1:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PredictionWarning)
        try:
            roi = None if asked.roi is None else Box.parse(asked.roi, shape)
            if roi is None and asked.at is None and (volume or height > most[0] or width > most[1]):
                roi = Box.whole(shape)
            predictor.set_image(
                scan.array,
                at=asked.at,
                slices=asked.slices,
                roi=roi,
                overlap=asked.overlap,
                intensity=asked.intensity,
                spacing=asked.spacing or scan.spacing,
            )
            drawing: dict[str, Any] = {"seed": asked.seed, "steps": asked.steps, "raters": asked.raters}
            samples = predictor.sample(asked.n, **drawing, stratified=asked.stratified, progress=progress)
        except DataError as error:
            if error.path is not None or error.field not in ("image", "at", "--roi"):
                raise
            raise type(error)(str(error), path=called(scan)) from error
    voxel = scan.voxel_mm3 if isinstance(scan, Volume) else None
    summary = predictor.summary(threshold=asked.threshold, voxel_mm3=voxel)
    plan, values = predictor.plan, predictor.values
    assert plan is not None
    assert values is not None
    method = type(predictor.model).__name__
    return Prediction(scan, asked, method, samples, summary, plan, values, predictor.case, predictor.notes)


def called(scan: ImageFile | Volume) -> str:
    """What words and figures call a scan: the path of a DICOM series often names the patient."""
    return "DICOM series" if scan.format == "DICOM" else str(scan.path)
