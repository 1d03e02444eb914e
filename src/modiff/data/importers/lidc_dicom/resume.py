"""Patients that are done, kept on disk until all are: an import that was interrupted resumes from there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

from modiff.data.importers.lidc_dicom.files import Job
from modiff.data.importers.lidc_dicom.patient import PatientCrops
from modiff.errors import DataError
from modiff.io.files import replacing


class Done:
    """A folder beside the store to be, with one file per patient.

    A file counts only if it was made by the same version under the same rule from files of the same names, sizes and
    times; anything else in its place is made anew.
    """

    def __init__(self, store: Path, version: str) -> None:
        self.folder = store.with_name(f".{store.name}.partial")
        self._version = version

    def key(self, job: Job) -> str:
        """What a patient's result depends on, as 64 hexadecimal digits."""
        files = []
        for path in (*job.files, *(file.path for file in job.xml)):
            status = path.stat()
            files.append((str(path), status.st_size, status.st_mtime_ns))
        names = sorted(file.name for file in job.xml)
        made = json.dumps([self._version, job.patient, asdict(job.rule), sorted(files), names])
        return hashlib.sha256(made.encode()).hexdigest()

    def load(self, job: Job) -> PatientCrops | None:
        """The patient's result, or None where there is none that counts."""
        try:
            with np.load(self._path(job), allow_pickle=False) as file:
                table = {name: file[name] for name in file.files}
            if str(table.pop("key")) != self.key(job):
                return None
            width = table["image"].shape[-1]
            return PatientCrops(**table | {"masks": np.unpackbits(table["masks"], axis=-1, count=width).astype(bool)})
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            return None

    def save(self, job: Job, made: PatientCrops) -> None:
        """Keeps a result; the file exists whole or not at all."""
        packed = {"key": np.array(self.key(job)), "masks": np.packbits(made.masks, axis=-1)}
        try:
            with replacing(self._path(job)) as temporary, temporary.open("wb") as file:
                np.savez(file, **(vars(made) | packed))
        except OSError as error:
            raise DataError("cannot be written", path=self.folder, found=error.strerror) from error

    def remove(self) -> None:
        """The store is made: nothing of this is needed."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, job: Job) -> Path:
        # The name of a patient is a folder's, which may hold anything: its hash is a safe name of a file.
        return self.folder / f"{hashlib.sha256(os.fsencode(job.patient)).hexdigest()[:32]}.npz"
