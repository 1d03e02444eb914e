"""One scan, one model: hypotheses at a place, their files, and masks that raters save."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Any, Literal

import numpy as np

from modiff.config.evaluation import IID
from modiff.errors import DataError, ModiffError
from modiff.io.files import begins_with, told
from modiff.io.image import SUFFIXES, read_channels, without_suffix, write_png
from modiff.io.nifti import nifti_bytes, write_nifti
from modiff.io.output import write_bytes
from modiff.io.results import endings
from modiff.io.volume import Volume
from modiff.prediction.frame import frame_of
from modiff.prediction.inputs import ZIP
from modiff.prediction.predict import Prediction, called, predict
from modiff.prediction.predictor import Predictor
from modiff.prediction.settings import Settings
from modiff.prediction.windows import place
from modiff.prediction.write import write_prediction
from modiff.view.pack import heat_table, packed_prediction, packed_raters, packed_summary, windows_of
from modiff.view.scene import RATER, Scene, raters_beside

PREVIEW = 6  # samples that are drawn first, so that there is something to see at once
_KEPT = 4  # predictions, for their files
_LONGEST = 40  # characters of a rater's name
_RGB = np.dtype([(name, np.uint8) for name in "RGB"])
_SHOWN_TYPES = (np.uint8, np.int16, np.uint16, np.int32, np.float32)  # that the page's viewer reads


@dataclass(frozen=True)
class Asked:
    """A click. at: (x, y, z). slices: neighbours on either side. whole: all of the slice or image in place of
    a window. preview: only the first few samples, each drawn by itself."""

    at: tuple[int, int, int]
    raters: Literal["single", "marking"] = "single"
    slices: int = 0
    whole: bool = False
    preview: bool = False


class Superseded(Exception):
    """Nobody waits for what was being drawn."""


class Viewer:
    """What the page asks for. Predictions are those of `modiff sample` with the same settings.

    about: how a prediction was made, for summary.json. save: the folder that raters' masks go to, in the layout of
    `modiff import folder`. patient: what the page shows of the patient. Raises as `Settings.check_for`.
    """

    def __init__(
        self,
        scene: Scene,
        predictor: Predictor,
        settings: Settings,
        *,
        model: str,
        about: Callable[[Prediction], Mapping[str, Any]],
        save: Path,
        patient: Mapping[str, str] | None = None,
    ) -> None:
        self.scene, self.scan, self.predictor, self.model = scene, scene.scan, predictor, model
        own: dict[str, Any] = {"intensity": scene.intensity, "spacing": scene.spacing}
        self.settings = replace(settings, **{name: value for name, value in own.items() if value is not None})
        self.settings.check_for(predictor.model, self.scan)
        self.spacing = self.scan.spacing or (self.settings.spacing and (1.0, *self.settings.spacing))
        self.about, self.save, self.patient = about, save, dict(patient or {})
        self.classes = predictor.data.classes
        self._lock, self._kept, self._case = Lock(), OrderedDict[Asked, Prediction](), ""
        self.raters: dict[str, np.ndarray | None] = dict(scene.raters)
        for folder in dict.fromkeys(filter(None, (scene.folder, self.folder))):
            self.raters |= raters_beside(folder, self.scan, self.classes)

    @property
    def folder(self) -> Path:
        """Where this case's masks are saved."""
        return self.save.joinpath(*self.scene.case.split("/"))

    def describe(self) -> dict[str, Any]:
        """All that the page is told at its start."""
        scan, results = self.scan, self.scene.results
        name = f"{scan.path.name}, {self.scene.case}" if scan.format == "store" else Path(called(scan)).name
        data = self.predictor.data
        flat, fits = scan.shape[0] == 1, data.size is not None and scan.shape[1:] <= data.size
        turned = frame_of(scan.shape, data, affine=scan.affine)[0].change is not None
        return {
            "name": name,
            "model": self.model,
            "patient": self.patient,
            "shape": list(scan.shape),
            "spacing": self.spacing and list(self.spacing),
            "placed": scan.affine is not None,
            "channels": [
                *(["colour"] * self._colour),
                *(self.predictor.data.scan_channels if len(scan.array) > 1 else ()),
            ],
            "classes": list(self.classes),
            # A model of crops looks at lesions; others at slices, where these are the scan's own.
            "whole": (flat and fits) or not (data.prompted or turned),
            "fits": flat and fits,
            "slices": self.settings.slices,
            "raters": packed_raters(self.raters),
            "windows": windows_of(scan, self.predictor.data.intensity),
            "heat": heat_table(),
            "results": None if results is None else self._results(),
            "notes": [note.text for note in scan.notes if not note.file],
            "save": str(self.folder),
        }

    def _results(self) -> dict[str, Any]:
        results = self.scene.results
        assert results is not None
        summary, box = results.summary, results.box
        z, y, x = ((low + high) // 2 for low, high in box.spans)
        most = (x, y, z if self.scan.is_picture else box.spans[0][0] + summary.key_slice())
        return {
            "at": list(results.at or most),
            "whole": results.at is None,
            "stored": True,
            "given": results.given,
            "drawn": f"{len(summary.weights)} samples as `modiff sample` wrote them",
            "warnings": list(results.warnings),
            **packed_summary(summary, box),
        }

    def scan_bytes(self, channel: int) -> bytes:
        """One channel as NIfTI, with nothing of its header but where voxels lie. A picture lies as it is seen; of a
        coloured one channel 0 is the picture itself, before its channels."""
        affine, number = self.scan.affine, channel - self._colour
        if not -self._colour <= number < len(self.scan.array):
            raise DataError("no such channel", field="channel", found=channel)
        if number < 0:
            values = np.ascontiguousarray(np.moveaxis(self.scan.array, 0, -1)).view(_RGB)[..., 0]
        else:
            values = self.scan.array[number]
            values = values if values.dtype.type in _SHOWN_TYPES else values.astype(np.float32)
        if affine is None:
            affine = np.diag([-1.0, -1.0, 1.0, 1.0])
            affine[:3, :3] *= np.array(self.spacing or (1.0, 1.0, 1.0))[::-1]
        return nifti_bytes(values, Volume(values[None], affine, Path("scan"), "array"))

    @property
    def _colour(self) -> bool:
        """A picture in colour, of which all three channels are shown together."""
        return self.scan.is_picture and len(self.scan.array) == 3 and self.scan.array.dtype == np.uint8

    def warm(self) -> None:
        """Draws the first samples in the middle, so that the first click does not wait for what is made once."""
        depth, height, width = self.scan.shape
        with suppress(ModiffError):  # a click says why not
            self.predict(Asked((width // 2, height // 2, depth // 2), preview=True))

    def predict(self, asked: Asked, *, over: Callable[[], bool] = lambda: False) -> Prediction:
        """The hypotheses at a place, as `modiff sample --at` draws them; the last few are kept.

        over: asked as samples are drawn whether nobody waits for them any more; raises Superseded then.
        """

        def check(done: float, total: float) -> None:
            if over():
                raise Superseded

        with self._lock:
            if asked not in self._kept:
                more: dict[str, Any] = {"n": PREVIEW, "select": IID, "candidates": None} if asked.preview else {}
                settings = replace(self.settings, **self._where(asked), raters=asked.raters, **more)
                made = predict(self.scan, self.predictor, settings, progress=check, case=self._case or None)
                self._case = made.case
                self._kept[asked] = made
            self._kept.move_to_end(asked)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return self._kept[asked]

    def _where(self, asked: Asked) -> dict[str, Any]:
        """Where to look, as options of `modiff sample`."""
        (depth, height, width), (x, y, z) = self.scan.shape, place(asked.at, self.scan.shape)
        if not asked.whole:
            return {"at": (x, y, z), "slices": asked.slices}
        if depth == 1:
            return {"at": None, "slices": 0}
        low, high = max(0, z - asked.slices), min(depth, z + asked.slices + 1)
        return {"at": None, "slices": 0, "roi": f"0:{width},0:{height},{low}:{high}"}

    def click(self, asked: Asked, *, over: Callable[[], bool] = lambda: False) -> dict[str, Any]:
        """A prediction as the page shows it. over: as `predict` takes it."""
        start = perf_counter()
        made = packed_prediction(self.predict(asked, over=over))
        about = {
            "at": list(asked.at),
            "whole": asked.whole,
            "given": asked.raters == "marking",
            "preview": asked.preview,
        }
        return {**made, **about, "seconds": perf_counter() - start}

    def export(self, asked: Asked) -> bytes:
        """A zip of the folder that `modiff sample -o` writes for this click."""
        prediction = self.predict(replace(asked, preview=False))
        buffer = io.BytesIO()
        with tempfile.TemporaryDirectory(prefix="modiff-view-") as temporary:
            folder = Path(temporary) / "sample"
            write_prediction(folder, prediction, about=self.about(prediction), title=prediction.title(self.model))
            with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
                for file in sorted(folder.iterdir()):
                    archive.write(file, f"{folder.name}/{file.name}")
        return buffer.getvalue()

    def save_mask(self, rater: str, slices: Mapping[int, bytes], *, replacing: bool = False) -> Path:
        """Saves a rater's mask beside a copy of the scan. slices: z -> (H,W) class indices as bytes; others are empty.

        Raises DataError for a name or values that cannot be, and where the rater has a mask unless `replacing`.
        """
        mask = self._whole(_checked(rater), slices)
        with self._lock, told(self.folder, "cannot be written"):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._save_image()
            ending = ".png" if self.scan.is_picture else ".nii.gz"
            target = self.folder / f"{RATER}{rater}{ending}"
            if not replacing and any(self.folder.glob(f"{escape(RATER + rater)}.*")):
                raise DataError("has a mask of this case", field=rater, hint="Another name, or replace it")
            if ending == ".png":
                write_png(target, mask[0] > 0 if len(self.classes) == 1 else mask[0])
            else:
                write_nifti(target, mask, self._plain(), description=f"modiff view: rater {rater}"[:79])
            for old in self.folder.glob(f"{escape(RATER + rater)}.*"):
                if old != target and without_suffix(old.name) == RATER + rater:
                    old.unlink()  # the mask that is replaced, in another format
            self.raters[rater] = mask
        return target

    def _whole(self, rater: str, slices: Mapping[int, bytes]) -> np.ndarray:
        """(Z,H,W) uint8 of the slices that are given."""
        mask = np.zeros(self.scan.shape, np.uint8)
        for z, data in slices.items():
            if not 0 <= z < len(mask) or len(data) != mask[0].size:
                found, expected = f"slice {z} of {len(data)} bytes", f"slices 0 to {len(mask) - 1} of {mask[0].size}"
                raise DataError("is not a mask of this scan", field=rater, found=found, expected=expected)
            mask[z] = np.frombuffer(data, np.uint8).reshape(mask[z].shape)
        if mask.max() > len(self.classes):
            raise DataError("no such class", field=rater, found=int(mask.max()), expected=f"0 to {len(self.classes)}")
        return mask

    def _plain(self) -> Volume:
        """The scan, with a place: one whose header gives sizes but no place keeps its header."""
        return self.scan if self.scan.format == "NIfTI" else replace(self.scan, source=None)

    def _save_image(self) -> None:
        """The scan itself, once: files as they are; a series, a zip and a store's case as an image without names."""
        copies: dict[str, Path | None] = {}
        if self._made_anew():
            ending = ".png" if self.scan.is_picture else ".nii.gz"
            copies = {f"image{end}{ending}": None for end in self._ends()}
        else:
            for (_, path), end in zip(self.scene.files, self._ends(), strict=True):
                ending = next(known for known in (*SUFFIXES, path.suffix) if path.name.lower().endswith(known.lower()))
                copies[f"image{end}{ending}"] = path
        if any(self.folder.glob("image*")):
            if self.scene.folder is None or self.scene.folder.resolve() != self.folder.resolve():
                self._check_same(copies)
            return
        for number, (name, source) in enumerate(copies.items()):
            target = self.folder / name
            if source is not None:
                write_bytes(target, source.read_bytes())
            elif self.scan.is_picture:
                write_png(target, self.scan.array[number, 0])
            else:
                write_nifti(target, self.scan.array[number], self._plain())

    def _made_anew(self) -> bool:
        """Whether the image is written from its values: its files are no image, or may name a patient."""
        packed = any(begins_with(path, ZIP) for _, path in self.scene.files)
        return packed or self.scan.format in ("DICOM", "store")

    def _ends(self) -> list[str]:
        """What follows "image" in the names of the files that the image is saved as: nothing where one file has all."""
        several = len(self.scene.files) > 1 or (self._made_anew() and len(self.scan.array) > 1)
        return endings(self.predictor.data.scan_channels) if several else [""]

    def _check_same(self, copies: Mapping[str, Path | None]) -> None:
        """Raises DataError where the case's folder has another image."""
        there = sorted(self.folder.glob("image*"))
        same = [path.name for path in there] == sorted(copies)
        if same:
            own = read_channels([self.folder / name for name in copies]).array
            same = own.shape == self.scan.array.shape and bool((own == self.scan.array).all())
        if not same:
            hint = "Give another folder with --save"
            raise DataError("has another image of this name", path=self.folder, hint=hint)


def _checked(rater: str) -> str:
    """A rater's name that is a part of a file's name everywhere."""
    fits = rater == rater.strip() and 0 < len(rater) <= _LONGEST and rater[0].isalnum()
    if not fits or not all(letter.isalnum() or letter in " -_" for letter in rater):
        expected = f"1 to {_LONGEST} letters, digits, spaces, - and _"
        raise DataError("is not a rater's name", field="rater", found=repr(rater), expected=expected)
    return rater
