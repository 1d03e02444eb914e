"""Patients that are done, kept on disk until all are: an import that was interrupted goes on from there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np

from modiff.data.importers.lidc_dicom.files import Job
from modiff.data.importers.lidc_dicom.patient import Crop, PatientCrops
from modiff.errors import DataError
from modiff.io.files import replacing


class Partial:
    """A folder beside the store to be, with one file a patient.

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
        rule = (job.rule.size, job.rule.spacing, job.rule.window)
        made = json.dumps([self._version, job.patient, rule, sorted(files), names])
        return hashlib.sha256(made.encode()).hexdigest()

    def load(self, job: Job) -> PatientCrops | None:
        """The patient's result, or None where there is none that counts."""
        try:
            with np.load(self._path(job), allow_pickle=False) as file:
                if str(file["key"]) != self.key(job):
                    return None
                return _from_arrays(file)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def save(self, job: Job, made: PatientCrops) -> None:
        """Keeps a result; the file exists whole or not at all."""
        try:
            with replacing(self._path(job)) as temporary, temporary.open("wb") as file:
                np.savez(file, **({"key": np.array(self.key(job))} | _to_arrays(made)))  # type: ignore[arg-type]
        except OSError as error:
            raise DataError("cannot be written", path=self.folder, found=error.strerror) from error

    def remove(self) -> None:
        """The store is made: nothing of this is needed."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, job: Job) -> Path:
        # The name of a patient is a folder's, which may hold anything: its hash is a safe name of a file.
        return self.folder / f"{hashlib.sha256(os.fsencode(job.patient)).hexdigest()[:32]}.npz"


def _to_arrays(made: PatientCrops) -> dict[str, np.ndarray]:
    crops = made.crops
    arrays = {
        "notes": np.array(list(made.notes), dtype=np.str_),
        "sha256": np.array(made.sha256),
        "case": np.array([crop.case for crop in crops], dtype=np.str_),
        "sessions": np.array([len(crop.masks) for crop in crops], dtype=np.int64),
    }
    if crops:
        arrays |= {
            "image": np.stack([crop.image for crop in crops]),
            "masks": np.concatenate([np.packbits(crop.masks, axis=-1) for crop in crops]),
            "affine": np.stack([crop.affine for crop in crops]),
            "slice_index": np.array([crop.slice_index for crop in crops], dtype=np.int64),
            "valid": np.array([crop.valid for crop in crops], dtype=np.int64),
            "spacing": np.array([crop.spacing for crop in crops], dtype=np.float64),
        }
    return arrays


def _from_arrays(file: np.lib.npyio.NpzFile) -> PatientCrops:
    table = {name: file[name] for name in file.files}
    ends = np.cumsum(table["sessions"])
    crops = []
    for row, case in enumerate(table["case"].tolist()):
        start = int(ends[row] - table["sessions"][row])
        width = table["image"].shape[2]
        masks = np.unpackbits(table["masks"][start : ends[row]], axis=-1, count=width).astype(bool)
        valid, spacing = table["valid"][row].tolist(), table["spacing"][row].tolist()
        crops.append(
            Crop(
                case,
                table["image"][row],
                masks,
                table["affine"][row],
                int(table["slice_index"][row]),
                (valid[0], valid[1], valid[2], valid[3]),
                (spacing[0], spacing[1]),
            )
        )
    return PatientCrops(tuple(crops), tuple(table["notes"].tolist()), str(table["sha256"]))
