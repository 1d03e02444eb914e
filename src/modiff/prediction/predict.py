"""`predict`: a scan read, looked at, drawn and summarised at once, as all verbs do it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modiff.config.evaluation import STRATIFIED
from modiff.data.context import check_enough, narrowed
from modiff.errors import counted
from modiff.io.dicom.region import apart
from modiff.io.files import located
from modiff.io.volume import Volume
from modiff.prediction.frame import View
from modiff.prediction.predictor import PredictionWarning, Predictor
from modiff.prediction.settings import Settings
from modiff.prediction.summary import Summary
from modiff.prediction.values import Values
from modiff.prediction.windows import Box, Plan
from modiff.types import DataSpec, Samples

if TYPE_CHECKING:
    from modiff.io.progress import Progress

_RIGHT_ANGLE = 1e-3  # of a cosine, for the digits of headers
_MODALITIES = ("CT", "MR", "PT", "US", "XA", "DX", "CR", "MG", "NM", "OPT")  # as a channel may be called


@dataclass(frozen=True)
class Prediction:
    """Hypotheses of one image or scan, where they lie and what they say together.

    scan: what was read. method: the model's class. samples: as `Predictor.sample` gives them. view: what was looked at.
    values: what the model saw, on the scan's own grid. case: the name of the random numbers. notes: what a user must
    know of how the scan was read, and what differs from the training data. steps: of the sampler. region: DICOM's word
    for the part of the body that the model was trained on, where the scan does not say otherwise.
    """

    scan: Volume
    settings: Settings
    method: str
    samples: Samples
    summary: Summary
    view: View
    values: Values
    case: str
    notes: tuple[str, ...]
    steps: int = 1
    region: str | None = None

    @property
    def plan(self) -> Plan:
        """What was looked at, in the scan's own columns, rows and slices."""
        return self.view.own

    @property
    def drawn(self) -> str:
        """What the samples are, in words."""
        text, asked = counted(len(self.summary.weights), "sample"), self.settings
        if self.summary.candidates is not None:
            text += f" representative of {self.summary.candidates}"
        elif asked.select == STRATIFIED:
            text += " of stratified presence"
        return text + (", given that a rater marks" if asked.raters == "marking" else "")

    def title(self, model: str) -> str:
        """A line above its figures. model: as the user calls it."""
        return f"{Path(called(self.scan)).name}   model {model}, {self.drawn}, seed {self.settings.seed}"

    @property
    def key_slice(self) -> int:
        """The slice of a scan on which the samples mark most; the middle of what was looked at where they mark none."""
        return self.plan.box.spans[0][0] + self.summary.key_slice()

    def slice_summary(self, z: int) -> Summary:
        """The summary with the maps of slice z of a scan alone, in the frame of the whole slice; the hypotheses, their
        numbers and their sizes are the scan's."""
        box, summary = self.plan.box, self.summary

        def cut(values: np.ndarray) -> np.ndarray:
            return box.put_back(values[..., z - box.spans[0][0], :, :], dimensions=2)

        found = tuple(replace(hypothesis, mask=cut(hypothesis.mask)) for hypothesis in summary.hypotheses)
        maps: dict[str, Any] = {name: cut(getattr(summary, name)) for name in ("mean", "consensus", "entropy", "masks")}
        return replace(summary, hypotheses=found, **maps)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: what the model saw, and the summary; everything but the maps."""
        plan, seen = self.plan, self.view.seen
        (height, width), window = plan.box.shape[1:], seen.windows[0]
        found: dict[str, Any] = {"image_size": {"width": width, "height": height}}
        if plan.placed:
            found["image_size"]["slices"] = plan.box.shape[0]
            found["box"] = {name: list(span) for name, span in zip("xyz", reversed(plan.box.spans), strict=True)}
            found["windows"] = {"a_slice": len(seen.windows), "width": window.size[1], "height": window.size[0]}
        else:
            own = plan.windows[0]
            place = {"left": own.left, "top": own.top, "width": own.size[1], "height": own.size[0]}
            found["window"] = {**place, "reaches_outside": window.padded}
        if plan is not seen:
            z, y, x = seen.box.shape
            found["model_sees"] = {"width": x, "height": y, "slices": z, "orientation": self.view.frame.orientation}
        found |= {
            "at": None if plan.at is None else list(plan.at if plan.placed else plan.at[:2]),
            "intensity": {"training": self.values.trained, "applied": self.values.rule},
            "case": self.case,
            "warnings": list(self.notes),
        }
        if self.scan.affine is not None:
            found["affine_ras_mm"] = self.scan.affine.tolist()
        return found | self.summary.to_dict()


def predict(
    scan: Volume,
    predictor: Predictor,
    settings: Settings,
    *,
    tell: Callable[[list[str]], None] = lambda notes: None,
    progress: Progress | None = None,
    case: str | None = None,
) -> Prediction:
    """Draws hypotheses of `scan` and summarises them.

    What one window shows is seen through it; what is larger, or of which a part is asked for, through windows that
    slide. tell: is told, before anything is drawn, how the scan differs from the training data. progress: as
    `Predictor.sample` takes it. case: of an earlier prediction of the same scan, which need not be hashed again. Raises
    DataError that names the file, ConfigError.
    """
    asked = settings
    asked.check_for(predictor.model, scan)
    with located(called(scan)), warnings.catch_warnings(action="ignore", category=PredictionWarning):
        roi = None if asked.roi is None else Box.parse(asked.roi, scan.shape)
        where: dict[str, Any] = {
            name: getattr(asked, name) for name in ("at", "slices", "overlap", "intensity", "resample_to_model")
        }
        array, where["neighbours"] = _with_neighbours(scan, predictor.data)
        array = array[:, 0] if scan.is_picture else array
        spacing = asked.spacing or scan.spacing
        predictor.set_image(array, roi=roi, spacing=spacing, affine=scan.affine, slide=True, case=case, **where)
        tell([*predictor.notes])  # drawing may take hours
        how = {name: getattr(asked, name) for name in ("seed", "steps", "raters", "select", "candidates")}
        samples = predictor.sample(asked.n, progress=progress, **how)
    counting: dict[str, Any] = {"threshold": asked.threshold, "distinct": asked.distinct}
    summary = predictor.summary(**counting, voxel_mm3=scan.voxel_mm3)
    view, values = predictor.view, predictor.values
    assert view is not None
    assert values is not None
    said = [note.text for note in scan.notes if not note.file]
    data = predictor.data
    notes = (*said, *predictor.notes, *_sheared(scan), *_of_other_kind(scan, data))
    if left_out := len(scan.notes) - len(said):  # not by name, which may be the patient's
        notes = (f"files of the series that cannot be read are left out: {left_out}", *notes)
    steps = asked.steps or predictor.model.default_steps
    region = None if apart(scan.region, data.region) else data.region
    method, found = type(predictor.model).__name__, (samples, summary, view, values, predictor.case)
    return Prediction(scan, asked, method, *found, notes=notes, steps=steps, region=region)


def _of_other_kind(scan: Volume, data: DataSpec) -> list[str]:
    """What a scan's header says that the training data were not."""
    found, trained, named = [], data.modality, data.scan_channels
    if trained is None and len(named) == 1 and named[0] in _MODALITIES:
        trained = named[0]
    if trained is not None and scan.modality is not None and scan.modality != trained:
        found.append(f"the scan's modality is {scan.modality}, that of the training data {trained}")
    if apart(scan.region, data.region):
        found.append(f"the scan's part of the body is {scan.region}, that of the training data {data.region}")
    return found


def _with_neighbours(scan: Volume, data: DataSpec) -> tuple[np.ndarray, bool]:
    """The values of a scan; of a store's slice with its neighbours, where the model sees such. And whether it is so."""
    if not data.context or scan.around is None:
        return scan.array, False
    own = (len(scan.around) // len(scan.array) - 1) // 2
    check_enough(own, data.context)
    return narrowed(scan.around, own, data.context)[:, None], True


def _sheared(scan: Volume) -> list[str]:
    """Says where a scan's axes are not at right angles: its results have the same."""
    if scan.affine is None:
        return []
    unit = scan.affine[:3, :3] / np.linalg.norm(scan.affine[:3, :3], axis=0)
    most = np.abs(unit.T @ unit - np.eye(3)).max()
    if most <= _RIGHT_ANGLE:
        return []
    degrees = math.degrees(math.asin(min(1.0, most)))
    return [
        f"the scan's axes are {degrees:.1f}° from right angles, as of a tilted gantry, and so are the NIfTI results: "
        "viewers built on ITK refuse such files"
    ]


def called(scan: Volume) -> str:
    """What words and figures call a scan: the path of a DICOM series often names the patient."""
    return "DICOM series" if scan.format == "DICOM" else str(scan.path)
