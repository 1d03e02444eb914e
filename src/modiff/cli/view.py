"""`modiff view`: a local page that shows the hypotheses at a click."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from modiff.cli.options import asked, parser_of
from modiff.cli.sample import numbers
from modiff.cli.sampling import limits_of, maker_with
from modiff.config.evaluation import SampleConfig
from modiff.errors import ConfigError

if TYPE_CHECKING:
    from modiff.io.volume import Volume

parser = partial(parser_of, "view")
_DEFAULT = "lidc"
_PATIENT = {"PatientName": "name", "PatientID": "ID", "PatientBirthDate": "born", "StudyDate": "study"}


def run(args: argparse.Namespace) -> int:
    """Reads the scan, loads the model, serves until interrupted."""
    spacing = numbers(args, "spacing")
    if missing := [name for name in ("starlette", "uvicorn") if find_spec(name) is None]:
        raise ConfigError("not installed", field=", ".join(missing), hint="pip install 'modiff[view]'")

    from modiff.view.scene import open_scene

    scene = open_scene(args.image, case=args.case, scan=args.scan, series=args.series, limits=limits_of(args))

    from modiff.prediction.predictor import Predictor
    from modiff.prediction.settings import Settings
    from modiff.view.server import serve
    from modiff.view.viewer import Viewer

    model = args.model or (_DEFAULT if scene.results is None else scene.results.model)
    predictor = Predictor.from_path(model, device=args.device)
    recorded = scene.results is not None and args.scan is None and model == scene.results.model
    scene, paths, guessed = scene.arranged(predictor.data.scan_channels, recorded=recorded)
    for note in [*map(str, scene.scan.notes), *guessed]:
        print(f"modiff: warning: {note}", file=sys.stderr)
    viewer = Viewer(
        scene,
        predictor,
        Settings(**asked(args, SampleConfig), spacing=spacing),
        model=model,
        about=lambda prediction: maker_with(predictor, model).about(prediction, paths),
        save=args.save,
        patient=_patient(scene.scan) if args.show_patient else None,
    )

    def opened(address: str) -> None:
        print(f"{address}\nOpen it in a browser on this machine; Ctrl-C ends.", flush=True)
        if not args.no_browser and (
            sys.platform in ("darwin", "win32") or {"DISPLAY", "WAYLAND_DISPLAY"} & {*os.environ}
        ):
            import webbrowser  # where there is no screen it would start one in this terminal

            webbrowser.open(address)

    try:
        serve(viewer, port=args.port, opened=opened)
    except KeyboardInterrupt:  # how it is meant to end
        print("modiff: ended", file=sys.stderr)
    return 0


def _patient(scan: Volume) -> Mapping[str, str]:
    """What a DICOM series says of its patient."""
    if scan.format != "DICOM":
        return {}
    header: Any = scan.source.headers[0]
    return {word: str(header.get(name, "")) for name, word in _PATIENT.items() if header.get(name)}
