"""The importer of the original LIDC-IDRI: patients read in parallel, kept on disk, then written in order."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from modiff.config.data import CropRule
from modiff.data.importers.base import Case, Importer, check_whole
from modiff.data.importers.lidc_crops import lidc_info
from modiff.data.importers.lidc_dicom import patient
from modiff.data.importers.lidc_dicom.outlines import XmlFile, series_uid_of
from modiff.data.importers.lidc_dicom.patient import Job
from modiff.data.importers.sources import Source, walk
from modiff.data.store_format import StoreInfo, check_case
from modiff.errors import ConfigError, DataError
from modiff.io.dicom.header import is_dicom, read_header, text
from modiff.io.files import regular, workers
from modiff.io.output import kept_parts, write_bytes
from modiff.io.progress import tracked
from modiff.io.text import one_spelling

SOURCE = "LIDC-IDRI (DICOM and XML); Armato et al. 2015, doi 10.7937/K9/TCIA.2015.LO9QL9SX"
_KEPT = 5  # version of what is kept of a patient
_PATIENT = re.compile(r"LIDC-IDRI-\d{4}")
_Crops = dict[str, np.ndarray]  # as `import_patient` makes them


class LidcDicom(Importer[Job]):
    """The original LIDC-IDRI as TCIA distributes it: CT slices as DICOM, what each radiologist outlined as XML."""

    version = "lidc-dicom 1"
    parts = "patient"

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args)
        check_whole(args.jobs, "--jobs", "a number of patients at a time")
        if args.spacing is not None and not 0.05 <= args.spacing <= 10:
            raise ConfigError(
                "is out of range", field="--spacing", found=args.spacing, expected="0.05 to 10 mm per pixel"
            )
        self.rule = CropRule(spacing=args.spacing, context=self.context)
        self._found, unused = find_jobs(
            [Path(path) for path in args.folders], args.xml, self.rule, skip_broken=args.skip_broken
        )
        if unused:
            self.say(f"{unused} XML files are about no series here")
        self._kept = kept_parts(Path(args.output))
        failed = self._read_all()
        self.items = []
        self.used: dict[str, str] = {}  # patient -> SHA-256 of the files
        self.raters = 0
        for job in self._found:
            if job.patient in failed:
                continue
            made = self._loaded(job)
            for note, file in made["notes"].tolist():
                (self.left_out if file else self.said).add([note], f"{job.patient}/{file}".rstrip("/"))
            if len(made["case"]):
                self.items.append(job)
                self.used[job.patient] = str(made["sha256"])
                self.raters = max(self.raters, int(made["sessions"].max()))
        if not self.items:
            found = "; ".join(self.notes) or None
            raise DataError("no nodule of 3 mm or more was found", path=", ".join(args.folders), found=found)

    def _read_all(self) -> set[str]:
        """Reads every patient who is not done and keeps the results; the patients that failed and are left out."""
        jobs, failed = self._found, set()
        todo = [job for job in jobs if self._load(job) is None]
        if len(todo) < len(jobs):
            self.say(f"{len(jobs) - len(todo)} of {len(jobs)} patients were done before")
        results = _results(todo, self.args.jobs or workers())
        quiet = getattr(self.args, "quiet", False)
        for job, finish in tracked(results, "reading patients", len(todo), "patients", quiet=quiet):
            try:
                made = finish()
                self._keep(job, made)
            except DataError as error:
                if not self.args.keep_going:
                    hint = "--keep-going leaves such patients out"
                    raise DataError(str(error), field=job.patient, hint=hint) from error
                failed.add(job.patient)
                self.left_out.add(["cannot be read and is left out"], job.patient)
                self.say(f"{job.patient} is left out: {error}")
        return failed

    def _path(self, job: Job) -> Path:
        """Where a patient's result is kept until the store is made.

        The name is a hash of all that it depends on: version, rule, and the patient's files, their sizes and times.
        """
        stats = ((path, path.stat()) for path in (*job.files, *(file.path for file in job.xml)))
        files = sorted((str(path), status.st_size, status.st_mtime_ns) for path, status in stats)
        names = sorted(file.name for file in job.xml)
        made_from = json.dumps([_KEPT, self.version, job.patient, asdict(job.rule), files, names, job.skip_broken])
        return self._kept / f"{hashlib.sha256(made_from.encode()).hexdigest()}.crops"

    def _keep(self, job: Job, made: _Crops) -> None:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **made)  # type: ignore[arg-type]
        content = buffer.getvalue()
        write_bytes(self._path(job), hashlib.sha256(content).digest() + content)

    def _load(self, job: Job) -> _Crops | None:
        """The patient's result, or None where there is none that is as it was written: it is made anew."""
        try:
            regular(path := self._path(job))
            data = path.read_bytes()
        except (OSError, DataError):
            return None
        if hashlib.sha256(data[32:]).digest() != data[:32]:
            return None
        with np.load(io.BytesIO(data[32:]), allow_pickle=False) as file:
            return dict(file)

    def _loaded(self, job: Job) -> _Crops:
        made = self._load(job)
        if made is None:
            raise DataError("files changed while they were imported", path=job.folder, hint="Run the command again.")
        return made

    def describe(self) -> StoreInfo:
        """With as many raters as the series with most sessions has, and the files of each patient."""
        low, high = self.rule.window
        return lidc_info(self, SOURCE, self.raters, f"window:{low:g}:{high:g}", self.used, self.rule.spacing)

    def read(self, item: Job) -> Iterator[Case]:
        """A patient's crops; slots beyond a series' sessions did not read it."""
        made = self._loaded(item)
        absent = self.raters - made["masks"].shape[1]
        masks = np.pad(made["masks"].astype(np.uint8), ((0, 0), (0, absent), (0, 0), (0, 0)))
        for row, case in enumerate(made["case"].tolist()):
            place = {name: made[name][row] for name in ("affine", "slice_index", "valid", "spacing")}
            read = np.arange(self.raters) < made["sessions"][row]
            self.cut.add(*made["outlined"][row])
            yield Case(case, item.patient, made["image"][row], masks[row], read, place)

    def __exit__(self, *failure: Any) -> bool | None:
        """What was kept is needed no longer once the store is made."""
        handled = super().__exit__(*failure)
        if failure[0] is None:
            shutil.rmtree(self._kept, ignore_errors=True)
        return handled


def _results(jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, Callable[[], _Crops]]]:
    """Each job and a call that gives its result or raises, as they finish; one process where there is one to use."""
    if workers == 1 or len(jobs) < 2:
        yield from ((job, partial(patient.import_patient, job)) for job in jobs)
        return
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(patient.import_patient, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures.pop(future), future.result
        except BrokenProcessPool as error:
            hint = "Try fewer --jobs; what is done is kept"
            raise DataError("a process was killed, perhaps for lack of memory", hint=hint) from error
        finally:
            pool.shutdown(cancel_futures=True)


def find_jobs(
    folders: Sequence[Path], xml: Sequence[str | Path], rule: CropRule, *, skip_broken: bool = False
) -> tuple[list[Job], int]:
    """One job per patient, in order of their names, and how many XML files of `xml` are about no series that is here.

    An XML in a patient's folder goes to that patient. One of `xml` (folders or zip archives) goes to the patient who
    has the series that it names; for that, each folder's first slice is asked which series it is of. Raises DataError.
    """
    found: dict[str, list[Path]] = defaultdict(list)
    roots: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            what, hint = ("is a file", "Unpack an archive first.") if folder.is_file() else ("no such folder", None)
            raise DataError(what, path=folder, expected="a folder with patients' folders", hint=hint)
        for path, who in patients_of(folder).items():
            roots.setdefault(who, folder)
            found[who].append(path)
    elsewhere = _by_series(xml)
    jobs = []
    for who, paths in sorted(found.items()):
        slices = [path for path in paths if path.suffix.lower() != ".xml"]
        about = [XmlFile(path) for path in paths if path.suffix.lower() == ".xml"]
        uids: dict[Path, str] = {}  # of the first DICOM file in each folder
        for path in slices if elsewhere else ():
            if path.parent not in uids and is_dicom(path):
                with suppress(DataError):  # what cannot be read is told when the patient is
                    uids[path.parent] = text(read_header(path), "SeriesInstanceUID")
        for uid in filter(None, uids.values()):
            about += elsewhere.pop(uid, [])
        if slices:
            jobs.append(Job(check_case(who), roots[who], tuple(slices), tuple(about), rule, skip_broken))
    if not jobs:
        expected = "folders such as LIDC-IDRI-0001 with slices below"
        raise DataError("no patient's folder", path=", ".join(map(str, folders)), expected=expected)
    return jobs, sum(map(len, elsewhere.values()))


def patients_of(folder: Path) -> dict[Path, str]:
    """File below a folder -> patient: the part of its path like LIDC-IDRI-0001; the rest is left out.

    Where no path has such a part, the first folders below `folder` are the patients.
    """
    above = next((part for part in reversed(folder.resolve().parts) if _PATIENT.fullmatch(part)), None)
    files = sorted((file for _, _, files in walk(folder) for file in files), key=Path.as_posix)
    folders = {file: file.relative_to(folder).parts[:-1] for file in files}
    named = {file: next(filter(_PATIENT.fullmatch, parts), above) for file, parts in folders.items()}
    first = {file: one_spelling(parts[0]) for file, parts in folders.items() if parts}
    return {file: patient for file, patient in named.items() if patient} or first


def _by_series(places: Sequence[str | Path]) -> dict[str, list[XmlFile]]:
    """Series UID -> the XML files that name it."""
    found: dict[str, list[XmlFile]] = defaultdict(list)
    for place in places:
        with Source(place) as source:
            for name in source.names:
                if name.lower().endswith(".xml"):
                    file = XmlFile(source.files[name]) if source.path.is_dir() else XmlFile(source.path, name)
                    found[series_uid_of(source.read(name))].append(file)
    return found
