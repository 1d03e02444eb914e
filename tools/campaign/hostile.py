"""Names that steer terminals, pages and spreadsheets; patients' names and code that must come out nowhere.

And planted faults: each must be seen by the checks of all other kinds.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import threading
import time
import zipfile
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np
import pydicom
from dicomweb import Fake  # of tests/helpers, as sources.py has it
from PIL import Image
from pydicom.datadict import dictionary_VR
from tools.campaign.run import CONTROL, Child, Outcome, Target, Try, apart
from tools.campaign.scenes import World

NAMES = {
    **{
        "escape": "a\x1b[31mred\x1b]0;title\x07",
        "c1": "a\x9b31m",
        "return": "a\rb",
        "newline": "a\nb",
        "bidi": "a\u202eb",
    },
    **{
        "markup": "[/x]<b>[red]x",
        "html": "<script>alert(1)<_script>&",
        "mathtext": "$\\frac{a}{$",
        "jinja": "{{ 7*7 }}",
    },
    **{"formula": "=1+1", "at": "@SUM(1)", "minus": "-2+3", "tab": "\t=1", "surrogate": "a\udcff", "format": "%s%n{0}"},
    **{"quote": '"a,b";=1', "long": "n" * 200, "isolate": "a\u2066b\u2069", "line": "a\u2028b", "tag": "a\U000e0041b"},
}
TEXTS = (".json", ".csv", ".html", ".md", ".yaml", ".jsonl", ".txt", ".svg")


def names(world: World) -> dict[str, Target]:
    """Each name in each place."""
    quick = {("escape", "words"), ("formula", "scores"), ("markup", "data"), ("surrogate", "own")}
    return {
        f"{way}:{kind}": Target(partial(_named, world, name, action), once=True, quick=int((kind, way) in quick))
        for way, action in _WAYS.items()
        for kind, name in NAMES.items()
    }


def _named(world: World, name: str, action: Callable[[World, Try, str], object], attempt: Try, rng: Random) -> None:
    action(world, attempt, name)
    for path in attempt.place.rglob("*"):
        if path.is_file() and path.suffix in TEXTS and "given" not in path.relative_to(attempt.place).parts:
            attempt.wrong += [f"{path.name} {fault}" for fault in _written_faults(path)]


def _written_faults(path: Path) -> list[str]:
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError:
        return ["is not UTF-8"]
    found = [f"has the control character {one[0]!r}"] if (one := CONTROL.search(text)) else []
    if path.suffix == ".csv":
        cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row if cell[:1] in tuple("=+-@\t\r")]
        found += [f"has the cell {cell!r}" for cell in cells if not re.fullmatch(r"[+-]?[\d.e+-]+|-?inf|nan", cell)][:1]
    if path.suffix in (".html", ".svg") and re.search(r"<script>alert|\]<b>\[|>49<", text):
        found.append("has a name that acts")
    return found


def _words(world: World, attempt: Try, name: str) -> None:
    """As a path or word of each verb."""
    world.lay("sample-png", attempt)
    for words in (
        ("info", name), ("train", "--data", name, "-o", "t"), ("train", "--method", name, "--data", "x", "-o", "t"),
        ("train", "--preset", name, "--data", "x", "-o", "t"), ("sample", name, "image.png"), ("sample", "run", name),
        ("sample", "run", f"{name}=image.png"), ("evaluate", name, "--truth", "x"), ("report", name), ("check", name),
        ("compare", name, name), ("benchmark", "-o", name, "--tables"), ("import", name), (name,),
        ("import", "folder", name, "-o", "o.h5"), ("check", "image.png", "--as", name), ("info", "x", f"--{name}"),
        ("train", "--config", name, "--data", "x", "-o", "t"),
    ):  # fmt: skip
        attempt.run(words, (0, 1, 2))


def _own(world: World, attempt: Try, name: str) -> None:
    """As a case, a rater and an image of one's own, and what is made of them."""
    world.lay("import-png", attempt)
    shutil.copytree(world.folder / "run", attempt.place / "given" / "run")
    name = name.replace("/", "_")  # as a file may be called
    (attempt.place / "own" / "a").rename(attempt.place / "own" / name)
    for case in (attempt.place / "own").iterdir():
        (case / "rater-A.png").rename(case / f"rater-{name}.png")
    shutil.copy(world.folder / "png/a/image.png", attempt.place / f"{name}.png")
    for words in (
        ("check", "own", "--html", "page.html", "--quiet"), ("check", "own", "--json", "--quiet"),
        ("import", "folder", "own", "-o", f"{name}.h5", "--quiet"), ("info", f"{name}.h5"),
        ("check", f"{name}.h5", "--html", "page2.html", "--quiet"),
        ("sample", "given/run", f"{name}.png", "-n", "2", "--steps", "1", "-o", f"out-{name}", "--quiet"),
    ):  # fmt: skip
        attempt.run(words, (0, 1, 2))


def _scores(world: World, attempt: Try, name: str) -> None:
    """As a case of samples, a method, a patient."""
    world.lay("score-folder", attempt)
    name = name.replace("/", "_")
    for folder in ("maps", "truth"):
        (attempt.place / folder / "a").rename(attempt.place / folder / name)
    (attempt.place / "given").mkdir()
    table = attempt.place / "given" / "patients.csv"
    cases = [name, *"bcdef"]
    with table.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        csv.writer(file).writerows([("case", "patient"), *((case, name) for case in cases)])
    score = ("evaluate", "maps", "--truth", "truth", "-n", "3", "--quiet", "--name", name)
    attempt.run((*score, "-o", "out"))
    attempt.run((*score, "-o", "out2", "--patients", "given/patients.csv"))
    if (made := next(attempt.place.glob("out/*.json"), None)) is not None:
        attempt.run(("compare", str(made), str(made), "--names", name, "b", "-o", "c", "--format", "svg"))


def _data(world: World, attempt: Try, name: str) -> None:
    """In settings, splits, tables and a run folder from elsewhere; in a zip, a benchmark and a DICOM header."""
    given = attempt.place / "given"
    given.mkdir()
    for part in ("run", "png", "slices.zip", "bench", "dcm", "store.h5"):
        source = world.folder / part
        (shutil.copytree if source.is_dir() else shutil.copy)(source, given / part)
    (given / "key.yaml").write_text(json.dumps({name: name}))
    (given / "value.yaml").write_text(json.dumps({"method": name}))
    (given / "splits.json").write_text(json.dumps({name: ["a"], "val": [name, name]}))
    rows = [("case", "patient", "split", "x"), (name, name, name, "1")]
    with (given / "table.csv").open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        csv.writer(file).writerows(rows)
    for option in ("key.yaml", "value.yaml"):
        attempt.run(("train", "--config", f"given/{option}", "--data", "given/store.h5", "-o", "t"), (2,))
    for option in ("--splits=given/splits.json", "--table=given/table.csv"):
        attempt.run(("import", "folder", "given/png", option, "-o", "o.h5", "--quiet"), (2,))
    data = json.loads((given / "run/data.json").read_text())
    for key in ("intensity", "classes", "raters", "source"):
        changed = data | {key: [name, *data[key][1:]] if isinstance(data.get(key), list) else name}
        (given / "run/data.json").write_text(json.dumps(changed))
        out = ("-o", f"out-{key}", "--quiet")
        attempt.run(("sample", "given/run", "given/png/a/image.png", "-n", "2", "--steps", "1", *out))
    (given / "run/card.json").write_text(json.dumps({name: name, "trained_on": {"source": name}}))
    with zipfile.ZipFile(given / "slices.zip", "a") as archive:
        archive.writestr(zipfile.ZipInfo(name.encode("utf-8", "replace").decode()), b"x")
    attempt.run(("import", "lidc-slices", "given/slices.zip", "-o", "z.h5", "--quiet"))
    state = json.loads((given / "bench/benchmark.json").read_text())
    state["rows"] |= {key: row | {"title": name} for key, row in state["rows"].items()}
    (given / "bench/benchmark.json").write_text(json.dumps(state))
    attempt.run(("benchmark", "-o", "given/bench", "--tables", "tables"), (0, 2))
    _fill(given / "dcm/a/image", {"SeriesDescription": name, "PhotometricInterpretation": name})
    attempt.run(("sample", "given/run", "given/dcm/a/image", "-n", "2", "--steps", "1"), (0, 2))


_WAYS: dict[str, Callable[[World, Try, str], object]] = {"words": _words, "own": _own, "scores": _scores, "data": _data}

CANARY = "CANARY"
_ABOUT = (
    *("PatientName", "PatientID", "PatientAddress", "PatientComments", "AdditionalPatientHistory", "Occupation"),
    *("InstitutionName", "InstitutionAddress", "ReferringPhysicianName", "NameOfPhysiciansReadingStudy", "StudyID"),
    *("StudyDescription", "SeriesDescription", "AccessionNumber", "OperatorsName", "StationName", "ImageComments"),
)
_NEEDLESS = ("PatientComments", "AdditionalPatientHistory", "Occupation", "InstitutionName", "InstitutionAddress")
_NEEDLESS += ("NameOfPhysiciansReadingStudy", "OperatorsName", "StationName", "ImageComments")
_BROKEN = (
    "PhotometricInterpretation",
    "RescaleSlope",
    "PixelSpacing",
    "ImageOrientationPatient",
    "Modality",
    "RescaleType",
)
_BROKEN += ("ImagePositionPatient", "SliceThickness", "BodyPartExamined", "PatientPosition", "StudyDate", "ImageType")


def _fill(folder: Path, values: dict[str, str]) -> None:
    """Gives every slice of a folder these elements, whatever they hold."""

    def act() -> None:
        pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
        pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
        for path in folder.rglob("*.dcm"):
            made, swaps = pydicom.dcmread(path), dict[bytes, bytes]()  # pydicom does not write every text
            for name, value in values.items():
                kind = dictionary_VR(name)
                raw = value.encode("utf-8", "surrogateescape")
                stand_in = f"{len(swaps):04d}".ljust(len(raw), "Q") + " " * (len(raw) % 2)
                swaps[stand_in.encode()] = raw + b" " * (len(raw) % 2)
                made[name] = pydicom.DataElement(name, "LO" if kind in ("DS", "IS", "CS", "DA") else kind, stand_in)
                made[name].VR = kind
            made.save_as(path)
            data = path.read_bytes()
            for stand_in, raw in swaps.items():
                data = data.replace(stand_in, raw)
            path.write_bytes(data)

    apart(act)


def canaries(world: World) -> dict[str, Target]:
    """Patients by element of the header, code by format."""
    found = {}
    for name, folder in (("sample", "series"), ("import-dcm", "own"), ("import-lidc", "lidc")):
        for element in ("all", *_BROKEN):
            values = dict.fromkeys(_ABOUT, CANARY) if element == "all" else {element: CANARY}
            action = partial(_patient, world, name, folder, values)
            found[f"patient:{name}:{element}"] = Target(
                action, once=True, quick=int(element == "all" or (name, element) == ("import-dcm", _BROKEN[0]))
            )
    for element in ("all", *_BROKEN):
        values = dict.fromkeys(_ABOUT, CANARY) if element == "all" else {element: CANARY}
        action = partial(_patient_on_server, world, values)
        found[f"patient:web:{element}"] = Target(action, once=True, quick=int(element == "all"))
    for name, victim, make in _CODE:
        found[f"code:{name}:{victim}"] = Target(partial(_code, world, name, victim, make), once=True, quick=1)
    return found


def _patient(world: World, name: str, folder: str, values: dict[str, str], attempt: Try, rng: Random) -> None:
    scene = world.lay(name, attempt)
    for path in (attempt.place / folder).rglob("*.xml"):
        path.write_text(path.read_text().replace("540461523", CANARY))
    _fill(attempt.place / folder, values)
    given = world.names(attempt.place)
    kind = ("--as", "lidc-dicom", "--", "--jobs", "1") if folder == "lidc" else ()
    for words in (scene.words, ("check", folder, "--json", "--quiet", *kind)):
        _said(attempt, attempt.run(words))
    _written(attempt, given)


def _patient_on_server(world: World, values: dict[str, str], attempt: Try, rng: Random) -> None:
    """The same on a DICOMweb server, by a study's URL and by a table of such; its token is a canary too."""
    if find_spec("dicomweb_client") is None:
        attempt.skipped = "dicomweb-client is not installed"
        return
    world.lay("sample", attempt)
    _fill(attempt.place / "series", values)
    server = Fake(attempt.place / "series")
    study = server.address(series=False)
    (attempt.place / "cohort.csv").write_text(f"scan\n{study}\n{server.url}/studies/1.2.3\n")
    given = world.names(attempt.place)

    def prepare() -> None:
        os.environ |= {"MODIFF_DICOMWEB_HOST": "127.0.0.1", "MODIFF_DICOMWEB_TOKEN": CANARY}
        threading.Thread(target=server.serve_forever, daemon=True).start()

    draw = ("-n", "2", "--steps", "1", "--quiet", "--send", server.url)
    for words in (("sample", "run", study, *draw, "-o", "out"), ("sample", "run", "cohort.csv", *draw, "-o", "all")):
        _said(attempt, attempt.run(words, (0, 1, 2), prepare))
    server.server_close()
    _written(attempt, given)


def _said(attempt: Try, outcome: Outcome) -> None:
    said = outcome.out + outcome.err
    attempt.check(CANARY not in said, f"{outcome.words[0]} prints it: {said[-300:]!r}")


def _written(attempt: Try, given: set[str]) -> None:
    for path in attempt.place.rglob("*"):
        if path.is_file() and str(path.relative_to(attempt.place)) not in given:
            attempt.check(not (found := _holds(path)), f"{path.name} has it {found}")


def _holds(path: Path) -> str | None:
    """Where a file has the canary, compressed or not; an object that belongs to a study has what that needs."""
    if path.name.endswith((".seg.dcm", ".sr.dcm", ".rtstruct.dcm")):
        made = pydicom.dcmread(path)
        return next((name for name in _NEEDLESS if CANARY in str(made.get(name, ""))), None)
    if path.suffix == ".h5":
        parts: list[Any] = []
        with h5py.File(path) as file:
            file.visititems(lambda _, item: parts.append(item[...]) if isinstance(item, h5py.Dataset) else None)
            parts += file.attrs.values()
        return (
            "inside"
            if any(
                CANARY.encode() in np.asarray(part).astype("S").tobytes()
                for part in parts
                if np.asarray(part).dtype.kind in "OSU"
            )
            else None
        )
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return next((name for name in archive.namelist() if CANARY.encode() in archive.read(name)), None)
    return "inside" if CANARY.encode() in path.read_bytes() else None


class _Runs:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.system, ("touch CANARY",)


def _pickled(_: bytes) -> bytes:
    return pickle.dumps({"0001_slice": {"image": _Runs(), "masks": [], "series_uid": "1"}}, 2)


def _objects(_: bytes) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([_Runs()], object), allow_pickle=True)
    return buffer.getvalue()


def _archived(_: bytes) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.array([_Runs()], object))
    return buffer.getvalue()


def _checkpoint(data: bytes) -> bytes:
    head, _, content = data.partition(b"\n")
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for member in old.namelist():
            new.writestr(member, pickle.dumps(_Runs(), 2) if member.endswith("data.pkl") else old.read(member))
    content = buffer.getvalue()
    return head.rpartition(b" ")[0] + b" " + hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def _tagged(data: bytes) -> bytes:
    return data + b"\nseed: !!python/object/apply:os.system ['touch CANARY']\n"


_CODE: tuple[tuple[str, str, Callable[[bytes], bytes]], ...] = (
    ("import-pickle", "lidc.pickle", _pickled), ("sample-npy", "image.npy", _objects),
    ("score-npz", "maps.npz", _archived),
    ("import-npy", "own/b/rater-A.npy", _objects), ("resume", "run/training.ckpt", _checkpoint),
    ("resume", "run/training.ckpt", lambda _: pickle.dumps(_Runs())), ("train", "tiny.yaml", _tagged),
    ("sample-png", "run/config.yaml", _tagged), ("sample-png", "run/weights.safetensors", _pickled),
    ("import-on", ".out.h5.partial/*", _archived), ("score-drawn", "drawn/a/samples.npz", _archived),
)  # fmt: skip


def _code(world: World, name: str, victim: str, make: Callable[[bytes], bytes], attempt: Try, rng: Random) -> None:
    scene = world.lay(name, attempt)
    path = sorted(attempt.place.glob(victim))[0]
    path.write_bytes(make(path.read_bytes()))
    attempt.run(scene.words, (0, 2) if name == "import-on" else (2,))
    attempt.check(not list(attempt.place.rglob("CANARY")), "ran code from a file")


def planted(world: World) -> dict[str, Target]:
    """Faults that the kit makes itself, each with how it looks."""
    return {name: Target(partial(_plant, world, name), once=True, quick=1) for name in _PLANTED}


def _fail() -> None:
    raise KeyError("planted")


def _take() -> None:
    np.ones(750 << 17)


def _burn() -> None:
    while time.process_time() < 100 and sum(os.times()[:2]) < 2.3:
        pass


def _other_mask() -> None:
    Image.fromarray(np.full((64, 64), 255, np.uint8)).save("own/b/rater-A.png")


_PLANTED: dict[str, tuple[Callable[[], object], str]] = {
    "traceback": (_fail, "a traceback"),
    "memory": (_take, "MiB above"),
    "time": (_burn, "s CPU"),
    "crash": (lambda: os.kill(os.getpid(), signal.SIGSEGV), "exit status -11"),
    "escape": (lambda: print("\x1b[31m"), "control character"),
    "litter": (lambda: Path(".out.h5.modiff-tmp").mkdir(), "left behind"),
    "silence": (_other_mask, "another result"),
    "no message": (lambda: os._exit(2), "without a message"),
    "orphan": (lambda: subprocess.Popen(["sleep", "60"]), "left a process"),
}


def _plant(world: World, name: str, attempt: Try, rng: Random) -> None:
    prepare, words = _PLANTED[name]
    inner = Try(attempt.place)
    scene = world.lay("import-png", inner)
    child = Child(scene.words, inner.place, prepare)
    outcome: Outcome = child.wait(0.0)
    inner.note(outcome, (0, 2), 0.0)
    inner.check(not child.survivors(0.2), "left a process running")
    if outcome.status == 0:
        inner.check(not world.clean("import-png").differs(scene.result(inner.place, outcome)), "another result")
    if name == "litter":
        (inner.place / ".out.h5.modiff-tmp").mkdir(exist_ok=True)  # modiff removes it, as it should
    inner.check_clean()
    attempt.check(any(words in fault for fault in inner.wrong), f"planted and not seen: {name}; seen {inner.wrong}")
