"""The importer of the original LIDC-IDRI: patients read in parallel, kept on disk, then written in order."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from modiff.data.importers.base import Arguments, Case, Importer, check_whole, lidc_info
from modiff.errors import ConfigError, DataError

if TYPE_CHECKING:
    from modiff.data.importers.lidc_dicom.files import Job
    from modiff.data.importers.lidc_dicom.patient import PatientCrops
    from modiff.data.store_format import StoreInfo

SOURCE = "LIDC-IDRI (DICOM and XML); Armato et al. 2015, doi 10.7937/K9/TCIA.2015.LO9QL9SX"


class LidcDicom(Importer["Job"]):
    """The original LIDC-IDRI as TCIA distributes it: CT slices as DICOM, what each radiologist outlined as XML.

    Sources are folders, at any depth below which lie patients' folders named LIDC-IDRI-0001 and so on:

      LIDC-IDRI-0001/<study>/<series>/*.dcm, *.xml

    (a folder of another data set in this form works too: its first folders are the patients). XML files may lie beside
    the slices or elsewhere: --xml takes more folders or zip archives, such as TCIA's LIDC-XML-only.zip. An XML belongs
    to the series that it names; radiographs and derived objects are left out.

    One case is one slice of one nodule of 3 mm or more, <patient>/nodule-<k>/slice-<i>, counted from the lowest slice
    up: a crop of 128×128 pixels around the nodule (the mean of its outlines' centres of mass), the same window on all
    its slices, every slice on which any rater outlined it. HU from -1000 to 400 become 0 to 255. Pixels are the
    scanner's unless --spacing says otherwise.

    Outlines are the first pixels outside a nodule: what lies strictly inside is filled, exclusion regions are cut out.
    They are matched to slices by SOP instance UID. Two raters' outlines are one nodule if they overlap or are at most
    one slice step apart, the closest first, at most one outline per rater. There are as many rater slots as the series
    with the most reading sessions has (four, as a rule). A rater who read a series and outlined nothing on a slice has
    an empty mask there; the slots beyond a series' sessions are marked as not read. Slots are exchangeable between
    series.

    Interrupted, the same command resumes: patients that are done are kept in .STORE.partial until the store is whole.
    Refused, with the patient: damaged files, slices that differ in size or direction, two files that claim to be one
    slice, outlines that leave the slice, XML with a DTD. --keep-going leaves such patients out and lists them.
    LIDC-IDRI is CC BY 3.0: Armato et al., doi 10.7937/K9/TCIA.2015.LO9QL9SX.
    """

    version = "lidc-dicom 1"

    arguments: ClassVar[Arguments] = {
        "folders": {"nargs": "+", "metavar": "FOLDER", "help": "folders in the layout above"},
        "--xml": {
            "nargs": "+",
            "default": [],
            "metavar": "PATH",
            "help": "more folders or zip archives with XML",
        },
        "--spacing": {"type": float, "metavar": "MM", "help": "mm per pixel of all crops; without it the scanner's"},
        "--keep-going": {"action": "store_true", "help": "leave out patients that fail, and list them"},
        "--jobs": {
            "type": int,
            "metavar": "N",
            "help": "patients at a time; without it as many as there are cores",
        },
    }

    def __init__(self, args: argparse.Namespace) -> None:
        from rich.console import Console

        from modiff.config.data import CropRule
        from modiff.data.importers.lidc_dicom.files import find_jobs
        from modiff.data.importers.lidc_dicom.resume import Done

        super().__init__(args)
        check_whole(args.jobs, "--jobs", "a number of patients at a time")
        if args.spacing is not None and not 0.05 <= args.spacing <= 10:
            raise ConfigError("mm per pixel", field="--spacing", found=args.spacing, expected="0.05 to 10")
        self.rule, self._console = CropRule(spacing=args.spacing), Console(stderr=True)
        self._found, unused = find_jobs([Path(path) for path in args.folders], args.xml, self.rule)
        if unused:
            self._say(f"{unused} XML files are about no series here")
        self._done = Done(Path(args.output), self.version)
        self._left_out = self._read_all()
        self.items = []
        self.used: dict[str, str] = {}  # patient -> SHA-256 of the files
        self.raters = 0
        for job in self._found:
            if job.patient in self._left_out:
                continue
            made = self._loaded(job)
            for note in made.notes.tolist():
                self._say(f"{job.patient}: {note}")
            if len(made.case):
                self.items.append(job)
                self.used[job.patient] = str(made.sha256)
                self.raters = max(self.raters, int(made.sessions.max()))
        if not self.items:
            raise DataError("no nodule of 3 mm or more was found", path=", ".join(args.folders))

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _read_all(self) -> set[str]:
        """Reads every patient who is not done and keeps the results; the patients that failed and are left out."""
        from rich.progress import track

        from modiff.io.files import workers

        jobs, failed = self._found, set()
        todo = [job for job in jobs if self._done.load(job) is None]
        if len(todo) < len(jobs):
            self._say(f"{len(jobs) - len(todo)} of {len(jobs)} patients were done before")
        results = _results(todo, self.args.jobs or workers())
        for job, finish in track(results, "reading patients", len(todo), console=self._console):
            try:
                self._done.save(job, finish())
            except DataError as error:
                if not self.args.keep_going:
                    hint = "--keep-going leaves such patients out"
                    raise DataError(str(error), field=job.patient, hint=hint) from error
                failed.add(job.patient)
                self._say(f"{job.patient} is left out: {error}")
        return failed

    def _loaded(self, job: Job) -> PatientCrops:
        made = self._done.load(job)
        if made is None:
            raise DataError("files changed while they were imported", path=job.folder, hint="Run the command again.")
        return made

    def describe(self) -> StoreInfo:
        """With as many raters as the series with most sessions has, and the files of each patient."""
        (low, high), side = self.rule.window, self.rule.spacing
        spacing = None if side is None else (side, side)
        return lidc_info(self, SOURCE, self.raters, f"window:{low:g}:{high:g}", self.used, spacing)

    def read(self, item: Job) -> Iterator[Case]:
        """A patient's crops; slots beyond a series' sessions did not read it."""
        import numpy as np

        made = self._loaded(item)
        masks = np.zeros((len(made.case), self.raters, *made.image.shape[1:]), np.uint8)
        masks[:, : made.masks.shape[1]] = made.masks
        for row, case in enumerate(made.case.tolist()):
            place = {name: getattr(made, name)[row] for name in ("affine", "slice_index", "valid", "spacing")}
            read = np.arange(self.raters) < made.sessions[row]
            yield Case(case, item.patient, made.image[row][None], masks[row], read, place)

    def close(self, *, done: bool) -> None:
        """Says who was left out; what was kept is needed no longer once the store is made."""
        if done:
            if self._left_out:
                self._say(f"{len(self._left_out)} of {len(self._found)} patients were left out")
            self._done.remove()


def _results(jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, Callable[[], PatientCrops]]]:
    """Each job and a call that gives its result or raises, as they finish; one process where there is one to use."""
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool
    from functools import partial
    from multiprocessing import get_context

    from modiff.data.importers.lidc_dicom.patient import import_patient

    if workers == 1 or len(jobs) < 2:
        for job in jobs:
            yield job, partial(import_patient, job)
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
