"""One scan from its files to its results: what `modiff sample` does with a single one, and with each of a cohort."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modiff.devices import device_name
from modiff.io.volume import Volume
from modiff.plain import finite
from modiff.prediction.channels import arranged
from modiff.prediction.inputs import Named
from modiff.prediction.objects import object_notes
from modiff.prediction.predict import Prediction, predict
from modiff.prediction.predictor import Predictor
from modiff.prediction.settings import Settings
from modiff.prediction.write import describe_source, public_command, write_results

if TYPE_CHECKING:
    from modiff.io.progress import Progress


@dataclass(frozen=True)
class Maker:
    """What makes results, and how they are written.

    model: as the user calls it. fingerprint: of the model. command, date, versions: of the program. identify: a DICOM
    series' patient and path are named. full_header, rtstruct: as `write_results` takes them.
    """

    predictor: Predictor
    model: str
    fingerprint: str
    command: str
    date: str
    versions: Mapping[str, str]
    identify: bool = False
    full_header: bool = False
    rtstruct: bool = False

    def about(self, prediction: Prediction, paths: Sequence[Path]) -> dict[str, Any]:
        """How samples were made. paths: of the image, in the order of its channels."""
        scan = prediction.scan
        return {
            "command": public_command(self.command, scan, paths[0], identify=self.identify),
            "date": self.date,
            "versions": dict(self.versions),
            "device": device_name(self.predictor.device),
            "model": {"name": self.model, "fingerprint": self.fingerprint, "card": finite(self.predictor.card)},
            **prediction.settings.drawing(),
            "image": describe_source(scan, paths, identify=self.identify),
        }


def sample_scan(
    scan: Volume,
    files: Sequence[Named],
    maker: Maker,
    settings: Settings,
    folder: Path | None,
    *,
    tell: Callable[[list[str]], None] = lambda notes: None,
    also: Callable[[Prediction, Path], Mapping[str, Any]] | None = None,
    progress: Progress | None = None,
) -> tuple[Prediction, dict[str, Any]]:
    """The prediction of a scan that was read from `files`, written into an empty folder if there is one; the content of
    its summary.

    tell: is told, before anything is drawn, what is known by then. also: writes further files, and says what more the
    summary has. Raises DataError, ConfigError.
    """
    left_out = [str(note) for note in scan.notes if note.file]
    scan, paths, guessed = arranged(scan, files, maker.predictor.data.scan_channels)
    objects: dict[str, Any] = {"full_header": maker.full_header, "rtstruct": maker.rtstruct}
    early = [] if folder is None else object_notes(scan, **objects)
    tell([*left_out, *early])
    prediction = predict(scan, maker.predictor, settings, tell=tell, progress=progress)
    prediction = replace(prediction, notes=(*guessed, *prediction.notes))
    content = maker.about(prediction, paths)
    if folder is None:
        return prediction, content | prediction.to_dict()
    if also is not None:
        content |= also(prediction, folder)
    title = prediction.title(maker.model)
    return prediction, write_results(folder, prediction, about=content, title=title, **objects)
