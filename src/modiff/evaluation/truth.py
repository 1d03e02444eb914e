"""The raters' masks that samples are scored against: a store's split, or files of the same kinds as predictions.

And what the numbers of a file mean (`Values`): masks or probabilities.
"""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import numpy as np

from modiff.data.masks import ROUNDING, Foreground, Notes, two_valued, values, whole
from modiff.data.store import SIGNATURE, Store
from modiff.data.store_format import StoreInfo
from modiff.errors import ConfigError, DataError, counted
from modiff.evaluation.predictions import FORMATS, MapSource, RawMaps, open_maps
from modiff.io.files import LIMITS, Limits, guarding, regular, told
from modiff.io.hdf5 import open_hdf5
from modiff.io.text import read_table
from modiff.io.volume import Volume

FOLDER_SPLIT = "all"  # what a folder's one split is called
Meaning = Literal["auto", "masks", "probabilities"]
Raters = tuple[np.ndarray, np.ndarray, Volume | None]  # masks (Z,R,K,H,W) bool, read (Z,R) bool, where they lie
_SCALED = (np.uint8, np.uint16)  # whole numbers that may be probabilities: their type's maximum is 1
_SUM = 1.001


class StoreTruth(ExitStack):
    """A split of a store.

    A truth is a context manager that holds its files open. path: where they are. split. classes: K. cases: names.
    patients: one per case. notes: what is to be known of them.
    """

    def __init__(self, path: str | Path, split: str) -> None:
        super().__init__()
        self.path, self.split, self._store = Path(path), split, self.enter_context(Store.open(path))
        self._rows = self._store.rows(split)
        self.classes, self.notes = len(self._store.info.classes), of_store(self._store.info)
        tables = (self._store.cases, self._store.patients)
        self.cases, self.patients = (tuple(names[self._rows].tolist()) for names in tables)

    def read(self, row: int) -> Raters:
        """The raters of an image, Z = 1."""
        number = int(self._rows[row])
        kinds = np.arange(1, self.classes + 1, dtype=np.uint8)[:, None, None]
        masks = self._store.masks(number)[:, None] == kinds
        affine = self._store.geometry(number).affine
        grid = None if affine is None else Volume(masks[:1, :1, 0], affine, self.path, "store")
        return masks[None], self._store.read[number][None], grid

    def fingerprint(self) -> str:
        """The content's, which the store has."""
        return self._store.fingerprint()


def of_store(info: StoreInfo) -> tuple[str, ...]:
    """What a store's notes say, for what is made of it."""
    return tuple(f"the store: {note}" for note in info.notes)


class FileTruth(ExitStack):
    """Files with one map per rater, a mask of values.classes foreground classes.

    patients: of each case; without it the first part of the case's name, or the case itself where names have one part.
    unread_missing: a case with fewer raters than others was not read by the rest; else it is refused.
    """

    def __init__(
        self, source: MapSource, values: Values, *, patients: dict[str, str] | None = None, unread_missing: bool = False
    ) -> None:
        super().__init__()
        self.path, self.split, self.classes, self.cases = source.path, FOLDER_SPLIT, values.classes, source.cases
        self._source, self._values, self._digest = self.enter_context(source), values, hashlib.sha256()
        if drawn := sorted(source.sampled):
            what, hint = "a model's samples in place of raters", "Are FILES and --truth swapped?"
            raise DataError(what, path=self.path, field=drawn[0], found="what `modiff sample` wrote", hint=hint)
        counts = {case: source.count(case) for case in self.cases}
        self._about: tuple[str, ...] = tuple(source.notes)
        self._raters = max(counts.values())
        few = [case for case, count in counts.items() if count < self._raters]
        if few and not unread_missing:
            more = f", and {counted(len(few) - 1, 'more case')} with too few" if few[1:] else ""
            found = counted(counts[few[0]], "rater") + more
            hint, expected = "--unread-missing takes them for raters who did not read the case.", self._raters
            raise DataError("missing raters", path=self.path, field=few[0], hint=hint, found=found, expected=expected)
        if patients is not None:
            unknown = [case for case in self.cases if case not in patients]
            if unknown:
                raise DataError(f"{counted(len(unknown), 'case')} without a patient", path=self.path, field=unknown[0])
            self.patients = tuple(patients[case] for case in self.cases)
        elif all("/" in case for case in self.cases):
            self.patients = tuple(case.partition("/")[0] for case in self.cases)
            self._about += ("patients are the first parts of the cases' names",)
        else:
            self.patients = self.cases
            note = "each case counts as a patient: give --patients if one has several, or intervals are too narrow"
            self._about += (note,)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be known of patients, and of the files read so far."""
        return (*self._about, *(f"raters' files: {note}" for note in self._values.notes))

    def read(self, row: int) -> Raters:
        """The raters of a case, slots without a file not read."""
        raw = self._source.read(self.cases[row])
        given = self._values.read(raw)
        if given.dtype != bool:
            raise DataError(
                "holds probabilities, not a rater's masks", path=raw.where, field=raw.case, found="probabilities"
            )
        slices, count, *rest = given.shape
        masks = np.zeros((slices, self._raters, *rest), bool)
        masks[:, :count] = given
        read = np.broadcast_to(np.arange(self._raters) < count, (slices, self._raters)).copy()
        self._digest.update(f"{raw.case}\x1f{masks.shape}\x1f{count}\x1f".encode() + np.packbits(masks).tobytes())
        return masks, read, raw.grid

    def fingerprint(self) -> str:
        """Of the masks that were read so far, in order."""
        return self._digest.hexdigest()


Truth = StoreTruth | FileTruth


def read_patients(path: str | Path) -> dict[str, str]:
    """Case -> patient from a CSV file with these two columns; raises DataError."""
    found: dict[str, str] = {}
    for place, row in read_table(path, ("case", "patient"), kind="table of patients"):
        case, patient = row["case"], row["patient"]
        if not case or not patient:
            what = "a case without a patient" if case else "a patient without a case"
            raise DataError(what, path=path, field=place, found=case or patient)
        if found.setdefault(case, patient) != patient:
            whose = f"{case} of {found[case]} and {patient}"
            raise DataError("a case of two patients", path=path, field=place, found=whose)
    return found


def open_truth(
    path: str | Path,
    split: str,
    *,
    classes: int = 1,
    truth_values: Meaning = "masks",
    patients: Path | None = None,
    unread_missing: bool = False,
    limits: Limits = LIMITS,
) -> Truth:
    """A split of a store, or files with `classes` foreground classes and a table of patients; see `FileTruth`."""
    if _is_store(path):
        if patients is not None:
            raise ConfigError("is not needed: a store names its patients", field="--patients", found=patients)
        return StoreTruth(path, split)
    if not 1 <= classes <= 255:
        raise ConfigError("number of classes is out of range", field="--classes", found=classes, expected="1 to 255")
    known = None if patients is None else read_patients(patients)
    return FileTruth(
        open_maps(path, limits, one_case=True),
        Values(truth_values, classes),
        patients=known,
        unread_missing=unread_missing,
    )


def _is_store(path: str | Path) -> bool:
    """Whether a file says of itself that it is a store."""
    path = Path(path)
    if path.is_dir():
        return False
    regular(path, FORMATS)
    with told(path, "cannot be read"), path.open("rb") as start:
        if start.read(len(SIGNATURE)) == SIGNATURE:
            with guarding(path), open_hdf5(path) as file:
                return "format" in file.attrs and "image" in file
    return False


class Values:
    """Turns a case's numbers into masks or probabilities, all cases of a set alike, the foreground value map by map.

    meaning "masks": class indices 0 to K, or with one class 0 and one other value (`Foreground`); "probabilities":
    floats in [0,1], or 8 and 16-bit numbers whose maximum is 1. "auto": floats are probabilities unless they hold 0 and
    one number above 1, or several classes in one channel; whole numbers are masks where no other value occurs, else
    probabilities, and a set in which both occur is refused. said: what was decided of files.
    """

    def __init__(self, meaning: Meaning, classes: int) -> None:
        self.meaning, self.classes = meaning, classes
        self._first: tuple[str, str] | None = None  # what "auto" took the numbers for, and the case that showed it
        self._foreground, self.said = Foreground(), Notes()

    @property
    def notes(self) -> tuple[str, ...]:
        """Of the files, and of what their numbers were taken for."""
        return (*self.said.lines, *self._foreground.notes)

    def read(self, raw: RawMaps) -> np.ndarray:
        """(N,C,Z,H,W) in a file's numbers -> (Z,N,K,H,W), bool for masks or float32; raises DataError."""
        array, channels = raw.array, raw.array.shape[1]
        if channels not in (1, self.classes):
            expected = "1" if self.classes == 1 else f"1 or {self.classes}"
            raise _wrong(raw, "number of channels", channels, expected)
        if array.dtype == bool:
            array = array.astype(np.uint8)
        for text, file in raw.notes:
            self.said.add([text], file)
        meaning = self._meaning(raw, array) if self.meaning == "auto" else self.meaning
        maps = self._masks(raw, array) if meaning == "masks" else self._probabilities(raw, array)
        return np.ascontiguousarray(np.moveaxis(maps, 2, 0))

    def _meaning(self, raw: RawMaps, array: np.ndarray) -> str:
        highest = 1 if array.shape[1] > 1 else self.classes
        if array.dtype.kind == "f":
            if highest > 1:
                return "masks"
            tops = [one.max() for one in array if ((one == 0) | (one == one.max())).all()]
            if array.max() > 1 + ROUNDING and len(tops) == len(array) and whole(array) is not array:
                return "masks"
            if any(0 < top < 1 - ROUNDING for top in tops):
                self.said.add(["floats of 0 and one value below 1 are read as probabilities"], raw.case)
            return "probabilities"
        if not array.any() or (highest == 1 and _is_full_scale(array)):
            return "masks"  # empty masks, or 0 and full scale: the same in both readings
        masks = int(array.max()) <= highest or (highest == 1 and all(two_valued(values(one)) for one in array))
        seen = "masks" if masks else "probabilities"
        self._first = self._first or (seen, raw.case)
        if self._first[0] != seen:
            found = f"{seen} here, {self._first[0]} in case {self._first[1]}"
            hint = "Say which with --values, or --truth-values."
            raise _wrong(raw, "masks or probabilities?", found, hint=hint)
        if seen == "probabilities":
            self.said.add([f"whole numbers are read as probabilities, {np.iinfo(array.dtype).max} as 1"], raw.case)
        return seen

    def _masks(self, raw: RawMaps, array: np.ndarray) -> np.ndarray:
        """(N,K,Z,H,W) bool."""
        array, highest = whole(array), 1 if array.shape[1] > 1 else self.classes
        if highest == 1:
            for name, one in zip(raw.names, array, strict=True):
                present = values(one)
                if not two_valued(present):
                    break
                if found := self._foreground.fault(present, f"{raw.case}, map {name}"):
                    raise _wrong(raw, "mask values without a meaning", found, "one foreground value")
            else:
                array = (array != 0).astype(np.uint8)
        if array.dtype.kind == "f" and not np.array_equal(array, np.rint(array)):
            raise _wrong(raw, "mask values that are not whole", None, at=array % 1 != 0)
        wrong = (array < 0) | (array > highest)
        if wrong.any():
            # Next to an image a mask's 255 is a value like others: the first wrong one need not be the image's.
            image = next((name for name in raw.names if name.startswith("image")), None)
            hint = f"{image} is read as a mask; call the masks beside an image rater-NAME" if image else ""
            many = [name for name, one in zip(raw.names, array, strict=True) if not two_valued(values(one))]
            if not image and len(many) == 1 < len(raw.names):
                hint = f"Is {many[0]} the image? Leave it out, or call it image and the masks beside it rater-NAME"
            raise _wrong(
                raw, "unexpected mask values", f"the value {array[wrong][0]:g}", f"0 to {highest}", at=wrong, hint=hint
            )
        if array.shape[1] != self.classes:
            return np.concatenate([array == kind for kind in range(1, self.classes + 1)], axis=1)
        marked = array != 0
        if self.classes > 1 and int(marked.sum(1).max()) > 1:
            raise _wrong(raw, "classes exclude each other", "a pixel of two")
        return marked

    def _probabilities(self, raw: RawMaps, array: np.ndarray) -> np.ndarray:
        """(N,K,Z,H,W) float32 in [0,1]."""
        if array.shape[1] != self.classes:
            hint = "One channel holds masks of several classes, not their probabilities."
            raise _wrong(raw, "number of channels", 1, f"{self.classes} channels, a class each", hint=hint)
        if array.dtype.kind != "f":
            if array.dtype not in _SCALED or raw.mixed:
                hint = "Write 8 or 16-bit unsigned numbers, or floats."
                found = "several number types" if raw.mixed else array.dtype
                raise _wrong(raw, "no scale for probabilities", found, hint=hint)
            return (array / np.float32(np.iinfo(array.dtype).max)).astype(np.float32)
        wrong = ~((array >= -ROUNDING) & (array <= 1 + ROUNDING))  # NaN too
        if wrong.any():
            found = f"the value {array[wrong][0]:g}"
            raise _wrong(raw, "values outside [0,1]", found, "probabilities in [0,1]", at=wrong)
        if array.min() < 0 or array.max() > 1:
            self.said.add([f"values up to {ROUNDING:g} outside [0,1] are clipped"], raw.case)
            array = array.clip(0, 1)
        if self.classes > 1 and float(array.sum(1).max()) > _SUM:
            found = f"a sum of {float(array.sum(1).max()):.3g}"
            raise _wrong(raw, "classes exclude each other", found, "at most 1 per pixel")
        return array.astype(np.float32)


def _is_full_scale(array: np.ndarray) -> bool:
    """Only 0 and the largest value of an 8 or 16-bit type."""
    return array.dtype in _SCALED and bool(((array == 0) | (array == np.iinfo(array.dtype).max)).all())


def _wrong(
    raw: RawMaps, what: str, found: object, expected: str | None = None, *, hint: str = "", at: np.ndarray | None = None
) -> DataError:
    """The error that names the case and, where wrong values are `at` places, the first map that has one."""
    first = "" if at is None else f", map {raw.names[int(np.flatnonzero(at.any((1, 2, 3, 4)))[0])]}"
    return DataError(what, path=raw.where, field=raw.case + first, found=found, expected=expected, hint=hint or None)
