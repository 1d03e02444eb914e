"""A prediction as DICOM objects of its series: probabilities and hypotheses as segmentations, a report of their sizes,
and contours where they are asked for. What keeps them from being written is told before anything is drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from modiff._version import __version__
from modiff.errors import DataError, counted
from modiff.io.dicom.derived import Maker, Segment
from modiff.io.dicom.rtstruct import write_structures
from modiff.io.dicom.seg import write_seg
from modiff.io.dicom.sr import write_report
from modiff.io.dicom.trial import check_objects
from modiff.io.volume import Volume
from modiff.prediction.predict import Prediction
from modiff.prediction.summary import Summary, percent
from modiff.viz.figures import rgb

PROBABILITY_SEG, HYPOTHESES_SEG = "probability.seg.dcm", "hypotheses.seg.dcm"
REPORT, CONTOURS = "measurements.sr.dcm", "hypotheses.rtstruct.dcm"


def object_notes(scan: Volume, *, full_header: bool = False, rtstruct: bool = False) -> list[str]:
    """What is known of a scan's DICOM objects before anything is drawn: why there will be none, or changes."""
    if scan.format != "DICOM":
        return ["no RT structure set is written: the scan is not a DICOM series"] if rtstruct else []
    try:
        return _changes(scan, full_header)
    except DataError as error:
        return [_without(error)]


def _changes(scan: Volume, full: bool) -> list[str]:
    return [f"DICOM objects: {text}" for text in check_objects(scan, full=full)]


def _without(error: DataError) -> str:
    """Not the error's own line, whose path may name a patient."""
    return f"no DICOM objects are written: {error.reason}"


def write_objects(
    folder: Path, prediction: Prediction, model: Mapping[str, Any], *, full_header: bool = False, rtstruct: bool = False
) -> list[str]:
    """All objects, or none; in words what was mended for them, or why they are not there. model: its name and
    fingerprint. full_header: as `write_seg` takes it. rtstruct: contours too."""
    if prediction.scan.format != "DICOM":
        return object_notes(prediction.scan, rtstruct=rtstruct)
    try:
        # What the trial refuses is not written, as it was said before drawing.
        notes = _changes(prediction.scan, full_header)
        _write(folder, prediction, model, full_header, rtstruct)
    except DataError as error:
        for name in (PROBABILITY_SEG, HYPOTHESES_SEG, REPORT, CONTOURS):
            (folder / name).unlink(missing_ok=True)
        return [_without(error)]
    return notes


def _write(folder: Path, prediction: Prediction, model: Mapping[str, Any], full: bool, rtstruct: bool) -> None:
    box, summary, scan = prediction.plan.box, prediction.summary, prediction.scan
    maps, names = box.put_back(summary.mean, dimensions=2), summary.classes
    means = [Segment(maps[i], name, name, "probability", rgb(i)) for i, name in enumerate(names)]
    where: dict[str, Any] = {"first": box.spans[0][0], "full": full}
    write_seg(folder / PROBABILITY_SEG, means, scan, maker=_maker(prediction, model, "probability"), **where)
    segments, maker = list(_segments(prediction)), _maker(prediction, model, "hypotheses")
    seg = write_seg(folder / HYPOTHESES_SEG, segments, scan, maker=maker, **where)
    where["maker"] = _maker(prediction, model, "measurements")
    if _presence(prediction) is not None or any(segment.values.any() for segment in segments):  # else it has no content
        write_report(folder / REPORT, segments, seg, scan, presence=_presence(prediction), **where)
    if rtstruct:
        where["maker"] = _maker(prediction, model, "contours")
        write_structures(folder / CONTOURS, segments, scan, **where)


def _segments(prediction: Prediction) -> Iterator[Segment]:
    """One per class and hypothesis that marks something, in its colour in figures, lighter for later classes; an empty
    one where none does."""
    box, summary = prediction.plan.box, prediction.summary
    names, numbered = summary.classes, list(enumerate(summary.hypotheses, 1))
    marking = [(number, hypothesis) for number, hypothesis in numbered if not hypothesis.nothing]
    known = _presence(prediction) is not None
    for place, (number, hypothesis) in enumerate(marking or numbered[:1]):
        probability, called = percent(hypothesis.probability), f"hypothesis {number}" if marking else "nothing there"
        label = f"{called}: {probability}"
        words = f"{counted(len(hypothesis.members), 'sample')}, probability {probability}"
        words += f"; {_nothing(summary)}" if marking and known else ""
        masks = box.put_back(hypothesis.mask, dimensions=2)
        for kind, name in enumerate(names if marking else names[:1]):
            title, colour = (
                f"{label}, {name}" if marking and len(names) > 1 else label,
                rgb(place, white=kind / len(names)),
            )
            yield Segment(masks[kind], title, name, words, colour, called, hypothesis.probability)


def _presence(prediction: Prediction) -> float | None:
    """The probability that a rater marks anything; None where samples are of those who do."""
    return None if prediction.settings.raters == "marking" else prediction.summary.presence


def _nothing(summary: Summary) -> str:
    """How probable it is that nothing is marked: no segment shows it."""
    return f"nothing there: {percent(1 - summary.presence)}"


def _maker(prediction: Prediction, model: Mapping[str, Any], what: str) -> Maker:
    """What an object says of how it was made: every setting as it was in force."""
    asked, summary, serial = prediction.settings, prediction.summary, str(model.get("fingerprint", ""))[:16]
    at, name = prediction.plan.at, Path(str(model.get("name", prediction.method))).name
    place = "" if at is None else f" at {','.join(map(str, at))}"
    own = {
        **asked.drawing(),
        "model": name,
        "weights": serial or None,
        "n": len(summary.weights),
        "candidates": summary.candidates,
        "steps": prediction.steps,
        "at": None if at is None else "/".join(map(str, at)),
        "slices": asked.slices if at is not None else None,
        "threshold": "argmax" if summary.threshold is None else summary.threshold,
    }
    parameters = {key: str(value) for key, value in own.items() if value is not None}
    series, nothing = f"modiff {name}: {what}{place}", _nothing(summary)
    said = ("", "") if _presence(prediction) is None else (f", {nothing}", f"{what}; {nothing}")
    return Maker(
        prediction.method, __version__, parameters, serial or "1", series + said[0], said[1], region=prediction.region
    )
