"""What a viewer opens: a scan or picture, a case of a store, or results of `modiff sample`; and raters' masks of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from modiff.data.context import own_slice
from modiff.data.importers.folder import mask_limits
from modiff.data.masks import Labels
from modiff.data.store import SIGNATURE, Store
from modiff.data.store_format import check_case
from modiff.errors import DataError
from modiff.io.dicom.web import url_of
from modiff.io.files import LIMITS, Limits, begins_with, plain
from modiff.io.image import SUFFIXES, named_file, path_of, read_image, without_suffix
from modiff.io.output import MANIFEST
from modiff.io.results import SampleFolder, endings, sample_folder, sample_names
from modiff.io.text import read_json_text
from modiff.io.volume import Volume, difference
from modiff.prediction.channels import arranged
from modiff.prediction.hypotheses import Hypothesis
from modiff.prediction.inputs import read_scan
from modiff.prediction.predict import called
from modiff.prediction.predictor import content_hash
from modiff.prediction.summary import Summary
from modiff.prediction.windows import Box, place
from modiff.prediction.write import describe_source

RATER = "rater-"  # what the files of raters' masks begin with, as `import folder` reads them


@dataclass(frozen=True)
class Results:
    """What `modiff sample` wrote. summary: as it counted. box: what of the scan its maps show (of an image the whole
    frame). at: (x, y, z) of the place that was asked for. model: its name. given: that a rater marks."""

    summary: Summary
    box: Box
    at: tuple[int, int, int] | None
    model: str
    given: bool
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Scene:
    """What is looked at. files: as (channel, path), in the order given. case: a name for files about it.

    raters: of a store, name -> (Z,H,W) uint8 class index, None of a rater who did not read it. folder: where masks of
    raters may lie beside the scan. intensity: of values that are ready for the model, as a store's. spacing: mm of its
    pixels (row, column).
    """

    scan: Volume
    files: tuple[tuple[str | None, Path], ...]
    case: str
    raters: Mapping[str, np.ndarray | None]
    folder: Path | None = None
    results: Results | None = None
    intensity: str | None = None
    spacing: tuple[float, float] | None = None

    def arranged(self, channels: Sequence[str], *, recorded: bool = False) -> tuple[Scene, list[Path], list[str]]:
        """The same with its files in the order of a model's channels; the files, and what was guessed.

        recorded: they are in that order, as results of this model list them.
        """
        files = self.files
        if recorded and len(files) == len(channels) > 1 and all(name is None for name, _ in files):
            files = tuple((name, path) for name, (_, path) in zip(channels, files, strict=True))
        scan, paths, guessed = arranged(self.scan, files, channels)
        names = {path: name for name, path in files}
        return replace(self, scan=scan, files=tuple((names[path], path) for path in paths)), paths, guessed


def open_scene(
    texts: Sequence[str],
    *,
    case: str | None = None,
    scan: Sequence[str] | None = None,
    series: str | None = None,
    limits: Limits = LIMITS,
) -> Scene:
    """What the arguments of `modiff view` name. case: of a store, by default its first; else what masks are saved as.
    scan: of a folder of results that does not say where its scan lies. series: which DICOM series is meant
    (`read_scan`). Raises DataError, ConfigError."""
    files = tuple(named_file(text) for text in texts)
    path = files[0][1]
    if len(files) == 1 and begins_with(path, SIGNATURE):
        return _of_store(path, case)
    if case is not None:
        check_case(case)
    results = sample_folder(path) if len(files) == 1 and path.is_dir() else None
    if results is not None:
        return _of_results(results, scan, case, series, limits)
    if scan is not None:
        raise DataError("is not a folder that `modiff sample` wrote", path=path, field="--scan", found=scan[0])
    volume = read_scan(files, limits=limits, series=series)
    name, folder = _name(volume, path), path.absolute().parent
    if _stem(path).partition("-")[0] == "image" and folder.name:  # the layout that `import folder` reads
        return Scene(volume, files, case or (name if volume.format == "DICOM" else folder.name), {}, folder)
    return Scene(volume, files, case or name, {})


def raters_beside(folder: Path, scan: Volume, classes: Sequence[str]) -> dict[str, np.ndarray]:
    """Raters' masks in a case's folder, by their names, on the grid of its scan; DataError for another grid.

    Of several classes their values are the classes' numbers, from 1 on.
    """
    found = {}
    labels = Labels([f"{kind}={name}" for kind, name in enumerate(classes, 1)] if len(classes) > 1 else [])
    for path in sorted(folder.glob(f"{RATER}*")) if folder.is_dir() else []:
        if not path.name.lower().endswith(SUFFIXES):
            continue
        mask = read_image(path, limits=mask_limits(scan, LIMITS), mask=True)
        if what := difference(replace(scan, source=None), mask):
            raise DataError("a mask on another grid than its image", path=path, found=what)
        wrong, marks = labels.judge(mask, path.name)
        if wrong is not None:
            raise wrong
        found[_stem(path).removeprefix(RATER)] = marks
    return found


def _name(scan: Volume, path: Path) -> str:
    """A case's name: the file's; of a series, whose path may name the patient, one made of its content."""
    digests = "".join(sorted(scan.sha256.values()))
    return f"series-{sha256(digests.encode()).hexdigest()[:8]}" if scan.format == "DICOM" else _stem(path)


def _stem(path: Path) -> str:
    return without_suffix(path.resolve().name) or "scan"


def _of_store(path: Path, case: str | None) -> Scene:
    """One case of a store: an image of one slice with every rater's mask."""
    with Store.open(path) as store:
        cases = store.cases.tolist()
        if case is not None and case not in cases:
            expected = ", ".join(cases[:3]) + (" …" if len(cases) > 3 else "")
            raise DataError("no such case", path=path, field="--case", found=case, expected=expected)
        row = 0 if case is None else cases.index(case)
        image, masks, lies, read = store.image(row), store.masks(row), store.geometry(row), store.read[row]
        info, digest = store.info, store.fingerprint()
    around = image if info.context else None
    own, known = own_slice(image, info.context)[:, None], dict[str, Any](modality=info.modality, region=info.region)
    scan = Volume(own, None, path, "store", {cases[row]: digest}, around=around, **known)
    raters = {
        name: masks[place][None] if there else None
        for place, (name, there) in enumerate(zip(info.raters, read, strict=True))
    }
    return Scene(scan, ((None, path),), cases[row], raters, intensity="ready", spacing=lies.spacing)


def _of_results(
    results: SampleFolder, scan: Sequence[str] | None, case: str | None, series: str | None, limits: Limits
) -> Scene:
    """A folder of results with the scan that they are of."""
    content = read_json_text(results.path / MANIFEST, kind="summary of `modiff sample`")
    listed = content["image"].get("channel_paths", [results.scan])
    if scan is None and not (isinstance(listed, list) and listed and all(isinstance(path, str) for path in listed)):
        hint = "Give the series with --scan"
        raise DataError("does not name its scan", path=results.path, hint=hint)
    paths = [path_of(text) for text in scan or listed]
    if missing := [path for path in paths if not (path.exists() or (scan and url_of(path)))]:
        hint = "Give it with --scan"
        raise DataError("the scan of these results is not there", path=missing[0], hint=hint)
    volume = read_scan([(None, path) for path in paths], limits=limits, series=series)
    same_bytes = content["image"].get("sha256") == describe_source(volume, paths)["sha256"]
    if not same_bytes and content.get("case") != content_hash(volume.array):
        found, hint = "another file with other voxels", "Give the scan with --scan"
        raise DataError("is not the scan that the results are of", path=called(volume), found=found, hint=hint)
    made = _summary(results, content, volume)
    files = tuple((None, path) for path in paths)
    return Scene(volume, files, case or _name(volume, paths[0]), {}, results=made)


def _summary(results: SampleFolder, content: Mapping[str, Any], scan: Volume) -> Results:
    """The numbers as they were written, not counted again; masks and maps from the files."""
    path = results.path / MANIFEST
    try:
        box, at, agreement = Box.whole(scan.shape), content.get("at"), content["agreement_iou"]
        if "box" in content and not scan.is_picture:  # a picture's masks and maps are of its whole frame
            box = Box.parse(",".join("{}:{}".format(*content["box"][axis]) for axis in "xyz"), scan.shape)
        classes, count = tuple(map(str, content["classes"])), len(results.weights)
        masks = np.stack([np.concatenate([_read(file, scan) for file in one]) for one in _masks(results, classes)])
        masks = masks[..., *box.slices] > 0
        entropy, mean = _maps(results, scan, box, masks, results.weights)
        if scan.is_picture:
            masks = masks[:, :, 0]
        threshold, candidates = content["threshold"], content.get("candidates")
        summary = Summary(
            mean=mean,
            consensus=mean > 0.5,
            entropy=entropy,
            agreement=None if agreement is None else float(agreement),
            masks=masks,
            weights=np.array([float(one.get("stands_for", one["weight"])) for one in content["samples"]]),
            presence=float(content["presence"]["probability"]),
            presence_from="model" if content["presence"]["from"] == "model" else "samples",
            hypotheses=tuple(_hypothesis(one, masks) for one in content["hypotheses"]),
            classes=classes,
            threshold=None if threshold == "argmax" else float(threshold),
            distinct=float(content["distinct_px"]),
            spacing=_spacing(content["spacing_mm"]) if scan.is_picture else scan.spacing,
            voxel_mm3=None if scan.is_picture else scan.voxel_mm3,
            candidates=None if candidates is None else int(candidates),
        )
        if not summary.hypotheses or len(summary.weights) != count or not np.isfinite(summary.weights).all():
            raise ValueError("no hypotheses, or weights that are none")
        where = None if at is None else place(at, scan.shape)
        warnings = tuple(map(str, content["warnings"]))
        return Results(summary, box, where, str(content["model"]["name"]), results.given_marks, warnings)
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise DataError("is not a summary of `modiff sample`", path=path, found=plain(error)) from None


def _hypothesis(one: Mapping[str, Any], masks: np.ndarray) -> Hypothesis:
    """As a summary has it. Raises what `_summary` knows."""
    members, medoid = [int(i) for i in one["samples"]], int(one["medoid"])
    if not members or medoid not in members or not all(0 <= i < len(masks) for i in members):
        raise ValueError("samples of a hypothesis that are not there")
    sizes = tuple(int(masks[i].sum()) for i in members)
    return Hypothesis(float(one["probability"]), tuple(members), sizes, medoid, masks[medoid], bool(one["nothing"]))


def _spacing(given: Any) -> tuple[float, ...] | None:
    """mm of a picture's pixels (row, column)."""
    if given is None:
        return None
    row, column = map(float, given)
    return row, column


def _masks(results: SampleFolder, classes: Sequence[str]) -> list[list[Path]]:
    """(N,K) of a scan's samples; of an image the pictures that lie beside its arrays."""
    if results.arrays is None:
        return [list(files) for files in results.files]
    ends = endings(classes)
    return [[results.path / f"{name}{end}.png" for end in ends] for name in sample_names(len(results.weights))]


def _read(path: Path, scan: Volume) -> np.ndarray:
    """(1,Z,H,W) of a mask or map on the scan's grid."""
    found = read_image(path, limits=mask_limits(scan, LIMITS), mask=True)
    if found.shape != scan.shape:
        what, on = "is on another grid than the scan", "×".join(map(str, found.shape))
        raise DataError(what, path=path, found=on, expected="×".join(map(str, scan.shape)))
    return found.array[:1]


def _maps(
    results: SampleFolder, scan: Volume, box: Box, masks: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Entropy in bits (…), and the mean map (K,…), here that of the masks: the page shows its size only."""
    mean = np.tensordot(weights / weights.sum(), masks.astype(np.float32), 1)
    most = math.log2(masks.shape[1] + 1)
    if results.arrays is None:
        return _read(results.path / "uncertainty.nii.gz", scan)[0][box.slices], mean
    return _read(results.path / "uncertainty.png", scan)[0, 0] / np.float32(255) * np.float32(most), mean[:, 0]
