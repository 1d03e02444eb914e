"""A folder of results: every map and mask once, written as PNG of an image and as NIfTI of a scan, with figures, DICOM
objects of a series, and a summary that says how they were made.

A DICOM series names its patient, and so do, often, its folder and files: unless the user asks for it, nothing that is
printed or written says more than "DICOM series". Only DICOM objects carry the patient's identity, as the standard asks.
"""

from __future__ import annotations

import hashlib
import math
import re
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modiff.errors import counted
from modiff.io.checksum import stamped_json
from modiff.io.dicom.web import given
from modiff.io.files import told
from modiff.io.image import write_png
from modiff.io.nifti import write_nifti
from modiff.io.output import MANIFEST, output_folder, write_bytes, write_text
from modiff.io.results import ARRAYS, endings, sample_names
from modiff.io.volume import Volume
from modiff.prediction.objects import write_objects
from modiff.prediction.predict import Prediction
from modiff.prediction.summary import Summary, percent
from modiff.prediction.windows import Window
from modiff.viz.figures import (
    CLASS_STYLES,
    COLOURS,
    LEVELS,
    CloseUp,
    Contour,
    close_up,
    contact_sheet,
    encoded,
    heat_colours,
    legend,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_IDENTITY = ("PatientName", "PatientID", "StudyDate", "StudyInstanceUID", "SeriesInstanceUID")
SHOWN = 6  # hypotheses with a figure of their own; the others are drawn in grey and given as one sum
_RARER = "0.75"  # the colour of the others
_SIZES = "sizes: median (5 %–95 %)"
MAX_SLICES, _ACROSS = 24, 6
_KEY = 18  # letters a line of a long key, which would run into the next panel
_LARGE, _SMALL, _KEYS = 3.0, 1.99, 0.45  # inches: width of the upper panels and of the lower ones, room for keys
_LEAST, _LEAST_OF_SCAN = 32, 48  # pixels of a close-up, at least


def write_prediction(
    path: str | Path,
    prediction: Prediction,
    *,
    about: Mapping[str, Any],
    title: str = "",
    overwrite: bool = False,
    full_header: bool = False,
    rtstruct: bool = False,
) -> dict[str, Any]:
    """Writes a prediction into the folder `path`; returns summary.json's content: `about`, the summary, the files.

    mean: the mean map's probabilities. consensus: its mask. uncertainty: its entropy in bits. sample-00 …: masks of the
    samples. With several classes the names of masks and mean end in the class's. Of an image they are PNG in its own
    frame (masks 0 and 255; 255 is probability 1, or log2(K+1) bits), beside samples.npz: maps (N,K,H,W) float32,
    weights, present, raters where identifiable, mean, entropy. Of a scan they are NIfTI on its own grid, 0 where
    nothing was looked at, with hypothesis-1.nii.gz …, masks of the distinct hypotheses from the most probable on; of a
    DICOM series also probability.seg.dcm (FRACTIONAL), hypotheses.seg.dcm (BINARY, a segment per distinct hypothesis)
    and measurements.sr.dcm (a report of their volumes and diameters). overlay.png: the image, or the slice with most
    marked. slices.png: up to 24 slices of a scan.

    about: how it was made; "model" with its "fingerprint" is named in DICOM objects. full_header: they also have what
    the standard allows but does not ask for of patient, study and scanner. rtstruct: the hypotheses of a series also
    as contours, hypotheses.rtstruct.dcm. The folder appears whole or not at all. What keeps DICOM objects from being
    written, or was mended for them, is a warning: the other files are there.
    Raises DataError where it has files and `overwrite` is false.
    """
    with output_folder(path, overwrite=overwrite) as folder:
        how: dict[str, Any] = {"title": title, "full_header": full_header, "rtstruct": rtstruct}
        return write_results(folder, prediction, about=about, **how)


def write_results(
    folder: Path,
    prediction: Prediction,
    *,
    about: Mapping[str, Any],
    title: str = "",
    full_header: bool = False,
    rtstruct: bool = False,
) -> dict[str, Any]:
    """The files of `write_prediction`, into an empty folder that an `output_folder` block has opened."""
    scan, content = prediction.scan, {**about, **prediction.to_dict()}
    _write_maps(folder, prediction)
    content["warnings"] += write_objects(
        folder, prediction, about.get("model", {}), full_header=full_header, rtstruct=rtstruct
    )
    if not scan.is_picture:
        write_bytes(folder / "slices.png", slices_figure(prediction))
    else:
        samples, summary = prediction.samples, prediction.summary
        arrays: dict[str, Any] = {"maps": samples.maps[0].numpy(), "present": samples.present[0].numpy()}
        arrays |= {"weights": summary.set_weights, "mean": summary.mean, "entropy": summary.entropy}
        if samples.raters is not None:
            arrays["raters"] = samples.raters[0].numpy()
        with told(folder / ARRAYS, "cannot be written"):
            np.savez_compressed(folder / ARRAYS, **arrays)
    write_bytes(folder / "overlay.png", key_figure(prediction, title=title))
    content["files"] = sorted([*(file.name for file in folder.iterdir()), MANIFEST])
    write_text(folder / MANIFEST, stamped_json(content, indent=1))
    return content


def _write_maps(folder: Path, prediction: Prediction) -> None:
    """Every map and mask: of an image as PNG, of a scan as NIfTI."""
    scan, summary, box = prediction.scan, prediction.summary, prediction.plan.box
    ends = endings(summary.classes)

    def write(
        name: str, maps: np.ndarray, words: str, intent: str = "", *, ends: Sequence[str] = ends, largest: float = 1.0
    ) -> None:
        """maps (K,…): masks bool, or values from 0 to `largest`; the names of the files have these ends."""
        for end, values in zip(ends, maps, strict=True):
            if scan.is_picture:
                grey = np.rint(np.clip(values / largest, 0, 1) * 255).astype(np.uint8)
                write_png(folder / f"{name}{end}.png", values if values.dtype == bool else grey)
            else:
                target = folder / f"{name}{end}.nii.gz"
                write_nifti(target, box.put_back(values), scan, description=f"modiff: {words}", intent=intent)

    write("mean", summary.mean, "probability that a rater marks it", "probability")
    write("consensus", summary.consensus, "mask of the mean map")
    most, words = np.log2(len(ends) + 1), "entropy of the mean map in bits"
    write("uncertainty", summary.entropy[None], words, "entropy", ends=[""], largest=most)
    if not scan.is_picture:
        for number, hypothesis in enumerate(summary.hypotheses, 1):
            write(f"hypothesis-{number}", hypothesis.mask, percent(hypothesis.probability))
    for name, masks in zip(sample_names(len(summary.masks)), summary.masks, strict=True):
        write(name, masks, "one sample")


def key_figure(prediction: Prediction, *, title: str = "") -> bytes:
    """PNG: the image, or the slice of a scan on which the samples mark most, as `overlay` shows it."""
    plan, (z, summary) = prediction.plan, _key(prediction)
    if not plan.image:
        title = f"{title}   slice {z} of 0 to {plan.box.shape[0] - 1}".strip()
    return encoded(overlay(prediction.values.cut(z, plan.shown), summary, plan.shown, title=title))


def _key(prediction: Prediction) -> tuple[int, Summary]:
    """An image's only slice, or the slice of a scan on which the samples mark most, with its summary."""
    if prediction.plan.image:
        return 0, prediction.summary
    z = prediction.key_slice
    return z, prediction.slice_summary(z)


def thumbnail(prediction: Prediction) -> bytes:
    """PNG: the close-up of `key_figure` with the outlines of all samples."""
    plan, (z, summary) = prediction.plan, _key(prediction)
    covered = plan.shown.covered
    marked = np.asarray(summary.masks[summary.weights > 0].any((0, 1)))[covered]
    image = prediction.values.cut(z, plan.shown)[(slice(None), *plan.shown.inside)]
    close = CloseUp(image, close_up(marked, least=_LEAST))
    return encoded(contact_sheet([[close.contours(*_all(_outlines(summary, covered)))]], inches=1.6))


def slices_figure(prediction: Prediction) -> bytes:
    """PNG: up to 24 slices, evenly among those that any sample marks, with the distinct hypotheses' outlines."""
    summary, plan = prediction.summary, prediction.plan
    first = plan.box.spans[0][0]
    part = close_up(np.asarray(summary.masks.any((0, 1, 2))), least=_LEAST_OF_SCAN)
    marked = np.flatnonzero(summary.masks.any((0, 1, 3, 4)))
    chosen = [summary.key_slice()]
    if marked.size:
        low, high = max(0, int(marked[0]) - 1), min(plan.box.size[0] - 1, int(marked[-1]) + 1)
        places = np.linspace(low, high, min(MAX_SLICES, high - low + 1))
        chosen = sorted({round(float(place)) for place in places})
    cells = []
    for z in chosen:
        close = CloseUp(prediction.values.cut(first + z, plan.area), part)
        cells.append(close.contours(*_all(_outlines(summary, (z,), 1.0)), title=f"slice {first + z}"))
    keys = [
        ("none" if hyp.nothing else colour, "solid", f"{number}: {percent(hyp.probability)}, {summary.size_text(hyp)}")
        for number, (hyp, colour) in enumerate(zip(summary.hypotheses, colours(summary), strict=True), 1)  # as files
    ][:SHOWN]
    keys += [(_RARER, "solid", _rarer(summary))] if len(summary.hypotheses) > SHOWN else []
    if summary.unseen is not None:
        keys.append(("none", "solid", f"{percent(summary.unseen[0])}, {summary.unseen[1]}"))
    rows = [cells[i : i + _ACROSS] for i in range(0, len(cells), _ACROSS)]
    columns = max(1, len(rows[0]) // 2)
    inches = [0.3 + 0.17 * math.ceil(len(keys) / columns), *[1.9] * len(rows)]
    figure = contact_sheet([[], *rows], inches=inches)
    layout = {"title": _SIZES, "alignment": "left", "title_fontsize": 7.5, "fontsize": 7.5, "handlelength": 1.2}
    legend(figure, keys, loc="upper left", ncols=columns, borderaxespad=0.2, **layout)
    return encoded(figure)


def overlay(image: np.ndarray, summary: Summary, window: Window, *, title: str = "") -> Figure:
    """The figure of `summary` on `image`, the (C,H,W) values in [0,1] that the model saw through `window`.

    The first panel shows what of the window lies in the image, with the image's own pixels at its axes; the others are
    close-ups of all that any sample marks: below, each hypothesis by itself; "nothing there" is one, the plain image.
    """
    covered = window.covered
    marked = np.asarray(summary.masks[summary.weights > 0].any((0, 1)))[covered]
    close = CloseUp(image[(slice(None), *window.inside)], close_up(marked, least=_LEAST))
    most = float(np.log2(len(summary.classes) + 1))
    outlines = _outlines(summary, covered)
    panels = [
        close.whole(title="image and close-up"),
        close.contours(*_all(outlines), title="samples; bold: distinct hypotheses"),
        close.probability(np.clip(summary.mean.sum(0), 0, 1)[covered], "mean map, probability"),
        close.heat(summary.entropy[covered], most, "uncertainty, bits per pixel"),
    ]
    single, keys = [], []
    for hyp, own, colour in zip(summary.hypotheses[:SHOWN], outlines, colours(summary), strict=False):
        words = percent(hyp.probability)
        single.append(close.contours(*own, title=f"{words}   {summary.size_text(hyp)}"))
        keys.append(("none", f"{words} nothing there") if hyp.nothing else (colour, words))
    if summary.unseen is not None:
        keys.append(("none", textwrap.fill(f"{percent(summary.unseen[0])} {summary.unseen[1]}", _KEY)))
    keys.sort(key=lambda key: key[0] == "none")
    figure = contact_sheet([panels, [], single], inches=(_LARGE, _KEYS, _SMALL), title=title, left=0.3)
    whole, distinct, mean, entropy = figure.axes[:4]
    _locate(whole, window, summary.spacing)
    if len(summary.classes) > 1:
        styles = [("0.4", style, name) for style, name in zip(cycle(CLASS_STYLES), summary.classes, strict=False)]
        legend(whole, styles, loc="upper left", bbox_to_anchor=(0.0, -0.06), ncols=3, fontsize=7.5, handlelength=2)
    levels = [(colour, percent(level)) for level, colour in LEVELS]
    for axes, lines in ((distinct, keys), (mean, levels)):
        layout = {"loc": "upper left", "bbox_to_anchor": (0.04, -0.01), "borderaxespad": 0, "fontsize": 7.5}
        legend(axes, [(c, "solid", name) for c, name in lines], ncols=4, handlelength=1.2, columnspacing=1.0, **layout)
    _, height, width = close.near(close.image).shape
    inch = width / height / _LARGE  # in parts of the panel's height
    scale = entropy.inset_axes((0.1, -0.17 * inch, 0.47, 0.09 * inch))
    extent: dict[str, Any] = {"aspect": "auto", "extent": (0, most, 0, 1)}
    scale.imshow(np.linspace(1, 0, 32)[:, None], cmap="gray", vmin=0, vmax=1, **extent)  # one sees through to the image
    scale.imshow(heat_colours(np.linspace(0, 1, 128)[None]), **extent)
    scale.set_yticks([])
    scale.set_xticks([0, most], ["0", f"{most:.3g}"])
    scale.tick_params(labelsize=6.5, length=2, pad=1)
    wide, high = figure.get_size_inches()
    words = f"{_SIZES}; in grey: {_rarer(summary)}" if len(summary.hypotheses) > SHOWN else _SIZES
    figure.text(1 - 0.05 / wide, 1 - 0.15 / high, words, fontsize=8, va="center", ha="right")
    return figure


def _rarer(summary: Summary) -> str:
    rest = summary.hypotheses[SHOWN:]
    return f"{counted(len(rest), 'rarer hypothesis')}, {percent(sum(h.probability for h in rest))}"


def colours(summary: Summary) -> list[str]:
    """The colour of each hypothesis, the next one for each that marks something; grey levels as matplotlib has them."""
    marking = [not hypothesis.nothing for hypothesis in summary.hypotheses]
    places = np.cumsum(marking) - 1
    return [COLOURS[place] if number < SHOWN else _RARER for number, place in enumerate(places)]


def _outlines(summary: Summary, part: tuple[slice | int, ...], width: float = 1.4) -> list[list[Contour]]:
    """In a part of an image, or on a slice, for each hypothesis: its samples' outlines, faint, and last its medoid's,
    which of the rarer ones is as faint."""
    found, many = [], sum(len(hypothesis.members) for hypothesis in summary.hypotheses[SHOWN:])
    for number, (hypothesis, colour) in enumerate(zip(summary.hypotheses, colours(summary), strict=True)):
        together = len(hypothesis.members) if number < SHOWN else many
        faint = {"width": width / 2, "opacity": min(0.6, 1.6 / math.sqrt(together))}  # many lines hide nothing either
        masks = [summary.masks[(i, slice(None), *part)] for i in hypothesis.members if i != hypothesis.medoid]
        own = [Contour(mask, colour, **faint) for mask in masks if mask.any()]
        bold = {"width": width} if number < SHOWN else faint
        found.append([*own, Contour(hypothesis.mask[(slice(None), *part)], colour, **bold)])
    return found


def _all(outlines: list[list[Contour]]) -> list[Contour]:
    """All outlines on one image: medoids above samples, the more probable above the rarer."""
    rising = outlines[::-1]
    return [contour for own in rising for contour in own[:-1]] + [own[-1] for own in rising]


def _locate(axes: Axes, window: Window, spacing: tuple[float, ...] | None) -> None:
    """Where in the whole image a panel lies, at its axes, and a scale bar."""
    sides = []
    for bounds, set_ticks in zip(window.covered, (axes.set_yticks, axes.set_xticks), strict=True):
        sides.append(bounds.stop - bounds.start)
        ticks = sorted({0, (sides[-1] - 1) // 2, sides[-1] - 1})
        set_ticks(ticks, [str(bounds.start + tick) for tick in ticks])
    axes.tick_params(labelsize=6, length=2, pad=1)
    pixel = 0.0 if spacing is None else spacing[-1]
    length = next((mm for mm in (50, 20, 10, 5, 2, 1) if mm < sides[1] * pixel / 3), None)
    if length is not None:
        y, x = sides[0] * 0.95, sides[1] * 0.04
        axes.plot([x, x + length / pixel], [y, y], color="white", linewidth=1.5)
        axes.text(x, y - sides[0] * 0.02, f"{length} mm", color="white", fontsize=6, va="bottom")


def describe_source(scan: Volume, paths: Sequence[Path], *, identify: bool = False) -> dict[str, Any]:
    """Where an image came from, as plain data. paths: as the user gave them, one per channel where several."""
    named = identify or scan.format != "DICOM"
    found: dict[str, Any] = {"path": given(scan.path)} if named else {}
    digests = sorted(scan.sha256.values())
    found |= {
        "format": scan.format,
        "type": str(scan.array.dtype),
        "channels": scan.array.shape[0],
        # One file's own digest; of several that of their digests in alphabetical order.
        "sha256": digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest(),
    }
    if scan.format == "NIfTI":  # which of the header's places is `affine_ras_mm`
        found["geometry"] = next(iter(scan.forms), None)
    if len(paths) > 1:
        found["channel_paths"] = list(map(str, paths))
    if identify and scan.format == "DICOM":
        header = scan.source.headers[0]
        found["identity"] = {name: str(header.get(name, "")) for name in _IDENTITY}
        left_out = [str(note) for note in scan.notes if note.file]
        found |= {"left_out": left_out} if left_out else {}
    return found


def public_command(command: str, scan: Volume, path: Path, *, identify: bool = False) -> str:
    """The command line without the path of a DICOM series, alone or as NAME=PATH, and without its UID."""
    if identify or scan.format != "DICOM":
        return command
    words = shlex.split(command)
    shown = shlex.join(
        "SERIES" if path in (Path(word), Path(word.partition("=")[2] or word)) else word for word in words
    )
    return re.sub(r"(--series[ =])\S+", r"\1UID", shown)
