"""The original LIDC-IDRI as TCIA distributes it: CT slices as DICOM, what each radiologist outlined as XML.

Sources are folders, at any depth below which lie patients' folders named LIDC-IDRI-0001 and so on:

  LIDC-IDRI-0001/<study>/<series>/*.dcm, *.xml

(a folder of another data set in this form works too: its first folders are the patients). XML files may lie beside the
slices or elsewhere: --xml takes more folders or zip archives, such as TCIA's LIDC-XML-only.zip. An XML belongs to the
series that it names; radiographs and derived objects are left out.

One case is one slice of one nodule of 3 mm or more, <patient>/nodule-<k>/slice-<i>, counted from the lowest slice up:
a crop of 128×128 pixels around the nodule (the mean of its outlines' centres of mass), the same window on all its
slices, every slice on which any reader outlined it. HU from -1000 to 400 become 0 to 255. Pixels are the scanner's
unless --spacing says otherwise.

Outlines are the first pixels outside a nodule: what lies strictly inside is filled, exclusion regions are cut out. They
are matched to slices by SOP instance UID. Two readers' outlines are one nodule if they overlap or are at most one slice
step apart, the closest first, at most one outline a reader. There are as many rater slots as the series with the most
reading sessions has (four, as a rule). A reader who read a series and outlined nothing on a slice has an empty mask
there; the slots beyond a series' sessions are marked as not read. Slots are exchangeable between series.

Interrupted, the same command goes on: patients that are done are kept in .STORE.partial until the store is whole.
Refused, with the patient: damaged files, slices that differ in size or direction, two files that claim to be one slice,
outlines that leave the slice, XML with a DTD. --keep-going leaves such patients out and lists them. LIDC-IDRI is
CC BY 3.0: Armato et al., doi 10.7937/K9/TCIA.2015.LO9QL9SX.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from modiff.data.importers.base import add_output
from modiff.errors import DataError

if TYPE_CHECKING:
    from rich.console import Console

    from modiff.config.data import CropRule
    from modiff.data.importers.lidc_dicom.files import Job
    from modiff.data.importers.lidc_dicom.partial import Partial
    from modiff.data.importers.lidc_dicom.patient import PatientCrops
    from modiff.data.splits import SplitRule
    from modiff.data.store_format import StoreInfo

VERSION = "lidc-dicom 1"
SOURCE = "LIDC-IDRI (DICOM and XML); Armato et al. 2015, doi 10.7937/K9/TCIA.2015.LO9QL9SX"
LICENCE = "CC BY 3.0"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `modiff import lidc-dicom` takes."""
    from modiff.data.splits import SplitRule

    rule = SplitRule()
    parser.add_argument("sources", nargs="+", metavar="FOLDER", help="folders in the layout above")
    add_output(parser)
    parser.add_argument("--xml", nargs="+", default=[], metavar="PATH", help="more folders or zip archives with XML")
    parser.add_argument("--spacing", type=float, metavar="MM", help="mm a pixel of all crops; without it the scanner's")
    parser.add_argument("--keep-going", action="store_true", help="leave out patients that fail, and list them")
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="patients at a time; without it as many as there are cores"
    )
    parser.add_argument("--splits", metavar="JSON", help="patients of each split; without it they are drawn by hash")
    parser.add_argument("--val", type=float, default=rule.val, help="share of patients for val (default %(default)s)")
    parser.add_argument(
        "--test", type=float, default=rule.test, help="share of patients for test (default %(default)s)"
    )
    parser.add_argument("--split-seed", type=int, default=rule.seed, help="seed of the hash (default %(default)s)")
    parser.add_argument("--folds", type=int, metavar="K", help="also deal patients into K folds for cross-validation")


def run(args: argparse.Namespace) -> Path:
    """Writes the store that `args` describe and returns its path."""
    from rich.console import Console

    from modiff.data.importers.lidc_dicom.files import find_jobs
    from modiff.data.importers.lidc_dicom.partial import Partial
    from modiff.data.splits import SplitRule, read_splits

    output = Path(args.output)
    if output.exists() and not args.overwrite:
        raise DataError("exists already", path=output, hint="Give another name, or --overwrite.")
    places = read_splits(args.splits) if args.splits else SplitRule(args.val, args.test, args.split_seed)
    console = Console(stderr=True)
    jobs, unused = find_jobs([Path(path) for path in args.sources], args.xml, _rule(args.spacing))
    if unused:
        console.print(f"{unused} XML files are about no series here", highlight=False, soft_wrap=True)
    partial = Partial(output, VERSION)
    failed = _import_all(jobs, partial, _workers(args.jobs), args.keep_going, console)
    _write(args, [job for job in jobs if job.patient not in failed], partial, places, console)
    if failed:
        console.print(f"{len(failed)} of {len(jobs)} patients were left out", highlight=False, soft_wrap=True)
    partial.remove()
    return output


def _rule(spacing: float | None) -> CropRule:
    from modiff.config.data import CropRule
    from modiff.errors import ConfigError

    if spacing is not None and not 0.05 <= spacing <= 10:
        raise ConfigError("mm a pixel", field="--spacing", found=spacing, expected="0.05 to 10")
    return CropRule(spacing=spacing)


def _workers(jobs: int | None) -> int:
    from modiff.errors import ConfigError
    from modiff.io.files import workers

    if jobs is not None and jobs < 1:
        raise ConfigError("patients at a time", field="--jobs", found=jobs, expected="1 or more")
    return jobs or workers()


def _import_all(jobs: list[Job], partial: Partial, workers: int, keep_going: bool, console: Console) -> dict[str, str]:
    """Brings every patient into `partial`; patient -> reason for those that failed, if they are to be left out."""
    from rich.progress import Progress

    failed: dict[str, str] = {}
    todo = [job for job in jobs if partial.load(job) is None]
    if len(todo) < len(jobs):
        console.print(
            f"{len(jobs) - len(todo)} of {len(jobs)} patients were done before", highlight=False, soft_wrap=True
        )
    with Progress(console=console) as progress:
        task = progress.add_task("reading patients", total=len(todo))
        for job, finish in _results(todo, workers):
            try:
                partial.save(job, finish())
            except DataError as error:
                if not keep_going:
                    hint = "--keep-going leaves such patients out"
                    raise DataError(str(error), field=job.patient, hint=hint) from error
                failed[job.patient] = str(error)
                console.print(f"{job.patient} is left out: {error}", highlight=False, markup=False, soft_wrap=True)
            progress.advance(task)
    return failed


def _results(jobs: list[Job], workers: int) -> Iterator[tuple[Job, Callable[[], PatientCrops]]]:
    """Each job and a call that gives its result or raises, as they finish; one process where there is one to use."""
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool
    from functools import partial as bind
    from multiprocessing import get_context

    from modiff.data.importers.lidc_dicom.patient import import_patient

    if workers == 1 or len(jobs) < 2:
        for job in jobs:
            yield job, bind(import_patient, job)
        return
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(import_patient, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures.pop(future), future.result
        except BrokenProcessPool as error:
            hint = "Try fewer --jobs; what is done is kept"
            raise DataError("a process was killed, perhaps for lack of memory", hint=hint) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _write(
    args: argparse.Namespace, jobs: list[Job], partial: Partial, places: Mapping[str, str] | SplitRule, console: Console
) -> None:
    """Pads every case to the most sessions and writes the store, patients in order of their names."""
    import numpy as np
    from rich.progress import track

    from modiff.data.splits import assign, make_folds
    from modiff.data.store_writer import StoreWriter

    raters, used = 0, {}
    for job in jobs:
        made = _loaded(partial, job)
        for note in made.notes:
            console.print(f"{job.patient}: {note}", highlight=False, markup=False, soft_wrap=True)
        if made.crops:
            raters = max(raters, *(len(crop.masks) for crop in made.crops))
            used[job.patient] = made.sha256
    if not used:
        raise DataError("no nodule of 3 mm or more was found", path=", ".join(args.sources))
    splits = assign(used, places, args.splits)
    folds = make_folds(used, args.folds, args.split_seed) if args.folds else None
    info = _info(args, raters, used, jobs[0].rule)
    with StoreWriter(args.output, info, overwrite=args.overwrite, folds=folds) as writer:
        for job in track([job for job in jobs if job.patient in used], "writing", console=console):
            for crop in _loaded(partial, job).crops:
                masks = np.zeros((raters, *crop.image.shape), np.uint8)
                masks[: len(crop.masks)] = crop.masks
                writer.add(
                    crop.image[None],
                    masks,
                    np.arange(raters) < len(crop.masks),
                    case=crop.case,
                    patient=job.patient,
                    split=splits[job.patient],
                    affine=crop.affine,
                    slice_index=crop.slice_index,
                    valid=crop.valid,
                    spacing=crop.spacing,
                )


def _loaded(partial: Partial, job: Job) -> PatientCrops:
    made = partial.load(job)
    if made is None:
        raise DataError("files changed while they were imported", path=job.folder, hint="Run the command again.")
    return made


def _info(args: argparse.Namespace, raters: int, used: dict[str, str], rule: CropRule) -> StoreInfo:
    from modiff._version import __version__
    from modiff.data.importers.sources import provenance
    from modiff.data.store_format import StoreInfo

    return StoreInfo(
        channels=("CT",),
        classes=("nodule",),
        raters=tuple(f"radiologist {slot}" for slot in range(1, raters + 1)),
        exchangeable_raters=True,
        intensity=f"window:{rule.window[0]:g}:{rule.window[1]:g}",
        prompt="centre",
        spacing=None if rule.spacing is None else (rule.spacing, rule.spacing),
        source=SOURCE,
        licence=LICENCE,
        importer=f"{VERSION} (modiff {__version__})",
        provenance=used | provenance([], [args.splits] if args.splits else []),
    )
