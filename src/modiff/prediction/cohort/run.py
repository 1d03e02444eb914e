"""Draws a cohort: each lesion into a folder of its own, by as many processes as work on it at a time.

A process takes the next lesion whose folder nobody has and nobody writes; the lock of `output_folder` says so. What is
finished is kept where it was made from the same bytes, at the same place, by the same model and settings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from modiff.errors import DataError, InUse, ModiffError
from modiff.io.checksum import stamped_json
from modiff.io.files import Limits
from modiff.io.output import MANIFEST, output_folder, write_bytes, write_text
from modiff.io.text import read_json_text
from modiff.io.volume import Volume
from modiff.plain import json_text, parse_json
from modiff.prediction.cohort.scans import Lesion, Scan
from modiff.prediction.deliver import SENT, is_sent, send
from modiff.prediction.predict import Prediction
from modiff.prediction.scan import Maker, sample_scan
from modiff.prediction.settings import Settings
from modiff.prediction.write import thumbnail

T = TypeVar("T")
FAILURES, THUMBNAIL = "failures", "thumbnail.png"
BEGUN = "cohort.json"  # how the results in a folder are made
KEY = "cohort"  # of a summary: what this verb adds for a lesion of a cohort
_WRITTEN = ("identify", "full_header", "rtstruct")  # of a Maker: what the files have beyond the usual


@dataclass(frozen=True)
class Cohort:
    """Scans, how they are drawn and where results go. overwrite: results of other settings or content are replaced.
    server: the DICOMweb service that DICOM results are sent to. requests: what each lesion's samples are to depend on,
    by its name, as far as `draw` has looked."""

    scans: Sequence[Scan]
    output: Path
    maker: Maker
    settings: Settings
    limits: Limits
    overwrite: bool = False
    server: str | None = None
    requests: dict[str, str] = field(default_factory=dict)

    def begin(self) -> None:
        """Raises DataError where the folder's results have other settings, ConfigError for settings that no scan can
        have: known before anything is touched."""
        self.settings.check_for(self.maker.predictor.model)
        path, own = self.output / BEGUN, {"model": self.maker.fingerprint, **asdict(self.settings), **self._written}
        own = parse_json(json_text(own))  # as it is read
        if path.exists() and not self.overwrite:
            there = read_json_text(path, kind="how a cohort was begun")
            there = there if isinstance(there, dict) else {}
            names = [*own, *(name for name in _WRITTEN if name in there and name not in own)]
            if changed := [name for name in names if there.get(name) != own.get(name)]:
                found = ", ".join(f"{name}: {there.get(name)} → {own.get(name)}" for name in changed)
                hint = "--overwrite draws it anew; or give another folder"
                raise DataError("holds a cohort with other settings", path=self.output, found=found, hint=hint)
            return
        with suppress(InUse):  # the same, by another process
            write_text(path, stamped_json(own, indent=1))

    @property
    def _written(self) -> dict[str, bool]:
        """What of `_WRITTEN` is asked for."""
        return {name: True for name in _WRITTEN if getattr(self.maker, name)}

    def draw(self, *, start: float = 0.0, proceed: Callable[[], bool] = lambda: True) -> Iterator[tuple[str, bool]]:
        """Takes lesions while it may `proceed`; yields each one's name when nothing is left to do about it here, and
        whether that took work: it was drawn, or failed.

        start: from which fraction of the list on, so that several processes begin at different places.
        """
        first = int(start * len(self.scans))
        for scan in [*self.scans[first:], *self.scans[:first]]:
            opened = _Opened(scan, self.limits)
            for lesion in scan.lesions:
                if not proceed():
                    return
                worked = True
                try:
                    if lesion.error is not None:
                        raise lesion.error
                    worked = self._draw(opened, lesion)
                except InUse:  # another process has it
                    worked = False
                except (ModiffError, MemoryError, OSError, RuntimeError) as error:  # torch says so where memory ends
                    self._failed(scan, lesion, error)
                else:
                    failure(self.output, lesion).unlink(missing_ok=True)
                yield lesion.name, worked

    def left(self, *, failed: bool = False) -> Cohort:
        """What of it is not finished. failed: also what has failed."""

        def is_left(lesion: Lesion) -> bool:
            folder = self.output / lesion.name
            there = (folder / MANIFEST).exists() and (self.server is None or (folder / SENT).exists())
            if there and self.overwrite and (request := self.requests.get(lesion.name)):
                there = self._is_done(folder, request)  # older results are there, too
            return not there and (failed or not failure(self.output, lesion).exists())

        scans = [replace(scan, lesions=tuple(filter(is_left, scan.lesions))) for scan in self.scans]
        return replace(self, scans=[scan for scan in scans if scan.lesions])

    def _failed(self, scan: Scan, lesion: Lesion, error: Exception) -> None:
        text = str(error) or type(error).__name__
        if isinstance(error, ModiffError) and scan.confidential:
            text = f"{error.public}. `modiff sample` of this scan alone says more"
        elif not isinstance(error, ModiffError):
            text = f"{type(error).__name__}: {'' if scan.confidential else text[:500]}"
        with suppress(InUse):
            write_text(failure(self.output, lesion), stamped_json({"error": text}, indent=1))

    def _draw(self, scan: _Opened, lesion: Lesion) -> bool:
        """Makes a lesion's folder and sends it; whether that took work."""
        made = self._folder(scan, lesion, folder := self.output / lesion.name)
        if self.server is None or is_sent(folder, self.server):
            return made
        send(folder, self.server)
        return True

    def _folder(self, scan: _Opened, lesion: Lesion, folder: Path) -> bool:
        """Makes a lesion's folder, or makes sure that it is the one that would be made; whether it was made here."""
        request = self.requests[lesion.name] = self._request(scan, lesion)
        if self._is_done(folder, request):
            return False
        try:
            self._make(scan, lesion, folder, request)
        except InUse:
            raise
        except DataError:
            if not self._is_done(folder, request):  # by another process, since it was asked
                raise
            return False
        return True

    def _is_done(self, folder: Path, request: str) -> bool:
        """Whether a folder has the results of this request. DataError where it has others that are not replaced."""
        try:
            there = finished(folder)
        except DataError:
            if not self.overwrite:
                raise
            return False
        if there is None or answers(there, request):
            return there is not None
        if not self.overwrite:
            hint = "--overwrite draws it anew; or give another folder"
            raise DataError("was made with other settings, another model, place or content", path=folder, hint=hint)
        return False

    def _make(self, scan: _Opened, lesion: Lesion, folder: Path, request: str) -> None:
        with output_folder(folder, overwrite=self.overwrite) as made:
            volume = scan.volume
            settings = replace(self.settings, slices=0)
            if lesion.place is not None:
                slices = self.settings.slices if lesion.slices is None else lesion.slices
                settings = replace(settings, at=lesion.place.voxel(volume), slices=slices)

            def also(prediction: Prediction, folder: Path) -> Mapping[str, Any]:
                write_bytes(folder / THUMBNAIL, thumbnail(prediction))
                own = {"request": request, "lesion": lesion.label, "row": lesion.row}
                return {KEY: own | prediction.summary.extremes()}

            sample_scan(volume, scan.scan.files, self.maker, settings, made, also=also)

    def _request(self, scan: _Opened, lesion: Lesion) -> str:
        """Stands for all that a lesion's samples depend on."""
        place = None if lesion.place is None else asdict(lesion.place)
        asked: dict[str, Any] = {
            "settings": asdict(self.settings),
            "place": place,
            "slices": lesion.slices,
            "series": scan.scan.series,
        }
        asked |= self._written
        if len(scan.scan.files) > 1:  # which of them is which channel
            asked["files"] = [(name, path.name) for name, path in scan.scan.files]
        text = json.dumps([asked, self.maker.fingerprint, scan.digest], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


class _Opened:
    """A scan that is read, and its bytes hashed, when that is first needed; an error then is each lesion's."""

    def __init__(self, scan: Scan, limits: Limits) -> None:
        self.scan, self._limits = scan, limits
        self._known: dict[str, Any] = {}

    @property
    def digest(self) -> str:
        """`Scan.digest`."""
        return self._once("digest", self.scan.digest)

    @property
    def volume(self) -> Volume:
        """`Scan.read`."""
        return self._once("volume", partial(self.scan.read, self._limits))

    def _once(self, name: str, make: Callable[[], T]) -> T:
        """What `make` gives or raises, the first time."""
        if name not in self._known:
            try:
                self._known[name] = make()
            except ModiffError as error:
                self._known[name] = error
        found: T | ModiffError = self._known[name]
        if isinstance(found, ModiffError):
            raise found
        return found


def finished(folder: Path) -> dict[str, Any] | None:
    """The summary of a lesion's folder; None where there is none.

    Raises DataError where it is damaged, is another folder's, or lacks a file that it names.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    content = read_json_text(path, kind="summary of `modiff sample`", hint="--overwrite draws it anew")
    if not isinstance(content, dict) or not isinstance(content.get(KEY), dict):
        raise DataError("is not a result of this cohort", path=folder, hint="Give another folder with -o")
    names = content.get("files")
    absent = [name for name in names or [] if not (folder / str(name)).is_file()]
    if not names or absent:
        hint = "--overwrite draws it anew"
        raise DataError("lacks a file that its summary names", path=folder, found=absent[:1], hint=hint)
    return content


def answers(summary: Mapping[str, Any], request: str) -> bool:
    """Whether a lesion's summary is of what is asked for."""
    return bool(summary[KEY].get("request") == request)


def failure(output: Path, lesion: Lesion) -> Path:
    """The file that says why a lesion could not be drawn."""
    return output / FAILURES / f"{lesion.name}.json"
