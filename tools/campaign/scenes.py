"""What the campaign works on: small data of every kind, a run, a benchmark, and the commands that read them."""

from __future__ import annotations

import json
import mmap
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from pydicom import Dataset, dcmread
from tools.campaign.run import Child, Outcome, Try, apart
from tools.campaign.sources import make_sources

TINY = {
    "method": "modiff",
    "preset": "quick",
    "model": {
        "unet": {"base": 8, "multipliers": [1, 2], "blocks": 1, "attention": [8], "heads": 2},
        "mca": {"dim": 8, "heads": 2},
        "presence": {"base": 8, "multipliers": [1, 2], "dihedral_average": False},
    },
    "training": {
        **{"budget": "48img", "batch_size": 4, "validation_images": 4, "validate_every": 4, "warmup": 2},
        **{"save_every": 3, "log_every": 2, "ema_decay": 0.5},
    },
    "trainer": {"accelerator": "cpu", "precision": "32-true"},
}
# Where, when and how long: no part of a result.
_VOLATILE = {"path", "command", "commit", "date", "versions", "device", "seconds", "seconds_per_image"}
_VOLATILE |= {"images_per_second", "processes", "samples", "name", "checksum", "log"}
_TIMES = re.compile(r"\d{4}-\d\d-\d\d(?:[T ][\d:.]+(?:Z|\+[\d:]+)?)?|\d[\d.,]*(?:e-?\d+)?\s?(?:s|ms|min|h|seconds)\b")


@dataclass(frozen=True)
class Scene:
    """A command in a folder of its own, and what is there.

    parts: what is copied there, by name. words: of the command. makes: what it writes; its result is that, and what it
    prints. own: patterns of modiff's own files, whose damage must not change a result unseen. foreign: of files from
    outside, with any content. again: the words of a resumption, where the first start leaves its files.
    """

    parts: Mapping[str, Path]
    words: tuple[str, ...]
    makes: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()

    @property
    def bounded(self) -> tuple[str, ...]:
        """The words, where settings that are cut off, and valid, would train for hours."""
        short = ("--max-time", "1s", "--training.validation_images", "4")
        return self.words + (short if self.words[0] == "train" else ())

    def result(self, place: Path, outcome: Outcome) -> dict[str, Any]:
        """What can be compared: printed text, and the content of what was made."""
        found = {"printed": _plain(outcome.out, place)}
        for name in self.makes:
            made = place / name
            for path in sorted(made.rglob("*")) if made.is_dir() else [made] * made.exists():
                if path.is_file() and path.suffix not in (".ckpt", ".txt"):
                    found[str(path.relative_to(place))] = _content(path, place)
        return found


def _plain(text: str, place: Path) -> str:
    return _TIMES.sub("…", text.replace(str(place), "."))


def _content(path: Path, place: Path) -> Any:
    if path.suffix == ".json":
        return _lasting(json.loads(path.read_text(encoding="utf-8")), place)
    if path.suffix == ".jsonl":
        return [_lasting(json.loads(line), place) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.suffix in (".html", ".md", ".csv", ".yaml"):
        return _plain(path.read_text(encoding="utf-8"), place)
    return _shown(dcmread(path)) if path.suffix == ".dcm" else path.read_bytes()


def _shown(made: Dataset) -> Any:
    """What an object shows: pixels, or the numbers of a report or of contours."""
    numbers = ("NumericValue", "ContourData")
    return made.get("PixelData") or [str(item.value) for item in made.iterall() if item.keyword in numbers]


def _lasting(value: Any, place: Path) -> Any:
    if isinstance(value, dict):
        return {key: _lasting(item, place) for key, item in value.items() if key not in _VOLATILE}
    if isinstance(value, str):
        return _plain(value, place)
    return [_lasting(item, place) for item in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Clean:
    """An undisturbed scene: its result, how long it takes, what lies there afterwards, and its file events."""

    result: dict[str, Any]
    cpu: float
    seconds: float
    names: set[str]
    events: int

    def differs(self, result: Mapping[str, Any], besides: Container[str] = ()) -> list[str]:
        """What of another result is otherwise."""
        names = [name for name in self.result.keys() | result.keys() if name not in besides]
        return sorted(name for name in names if self.result.get(name) != result.get(name))


_FILE_EVENTS = ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.chmod", "os.truncate", "shutil.rmtree")


def _written(name: str, args: tuple[object, ...]) -> bool:
    """Whether the operation that an audit event announces changes something."""
    if name != "open":
        return True
    mode, flags = args[1:]
    return any(letter in str(mode) for letter in "wax+") if isinstance(mode, str) else bool(int(flags or 0) & 3)


class Events:
    """Counts operations that change files below the working folder, and does something at one of them.

    It sees those of Python, not those of HDF5's library. at: the operation's number, from which on `act` is called with
    its name.
    """

    def __init__(self, place: Path, at: int = 0, act: Callable[[str], object] = lambda name: None) -> None:
        self.place, self.at, self.act = str(place), at, act
        self.shared = mmap.mmap(-1, 8)

    @property
    def count(self) -> int:
        return int.from_bytes(self.shared[:8], "little")

    def __call__(self) -> None:
        own = os.getpid()

        def hook(name: str, args: tuple[object, ...]) -> None:
            if name in _FILE_EVENTS and os.getpid() == own and _written(name, args) and self._inside(args[0]):
                self.shared[:8] = (self.count + 1).to_bytes(8, "little")
                if self.at and self.count >= self.at:
                    self.act(name)

        sys.addaudithook(hook)

    def _inside(self, path: object) -> bool:
        text = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else "/"
        return text.startswith(self.place) or not text.startswith("/")


class World:
    """The data and the scenes, made once in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._clean: dict[str, Clean] = {}
        if not (folder / "complete").exists():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
            apart(partial(make_sources, folder))
            for words in _STEPS:
                self._do(*words)
            self._begin()
            (folder / "complete").touch()
        self.scenes = _scenes(folder)

    def _do(self, *words: str, allowed: tuple[int, ...] = (0,), prepare: Callable[[], object] = lambda: None) -> None:
        outcome = Child(words, self.folder, prepare).wait()
        if outcome.status not in allowed:
            raise RuntimeError(f"{' '.join(words)}: {outcome}")

    def _begin(self) -> None:
        """What killed commands leave: finished rows of an evaluation, patients of an import."""
        rows = self.folder / "run/evaluation/train.partial-0.jsonl"
        words = (*_EVALUATE_ON, "--batch-size", "1")
        self._do(*words, allowed=(-signal.SIGKILL,), prepare=stopped_before("os.mkdir", ".modiff-tmp"))
        lines = rows.read_bytes().splitlines(keepends=True)
        (self.folder / "partial.jsonl").write_bytes(b"".join(lines[:4]))
        rows.unlink()
        for left in rows.parent.glob(".*.modiff-tmp"):
            shutil.rmtree(left)
        words = ("import", "lidc-dicom", "lidc", "-o", "lidc.h5", "--quiet", "--jobs", "1")
        self._do(*words, allowed=(-signal.SIGKILL,), prepare=stopped_before("shutil.rmtree", ".lidc.h5.partial"))

    def laid(self, name: str) -> Path:
        """A folder with the parts of a scene, to be copied."""
        place = self.folder / "laid" / name
        if not place.exists():
            place.mkdir(parents=True)
            Try(place).copy(dict(self.scenes[name].parts))
        return place

    def victims(self, name: str, patterns: Iterable[str]) -> list[str]:
        """The files of a scene that patterns name."""
        place = self.laid(name)
        found = (path for pattern in patterns for path in place.glob(pattern) if path.is_file())
        return sorted({str(path.relative_to(place)) for path in found})

    def lay(self, name: str, attempt: Try) -> Scene:
        """Puts a scene into a try's folder."""
        shutil.copytree(self.laid(name), attempt.place, dirs_exist_ok=True, symlinks=True)
        return self.scenes[name]

    @contextmanager
    def aside(self) -> Iterator[Try]:
        """A try in a folder that goes."""
        with tempfile.TemporaryDirectory(dir=self.folder.parent) as place:
            yield Try(Path(place))

    def names(self, place: Path) -> set[str]:
        """Of all files and folders below a folder."""
        return {str(path.relative_to(place)) for path in place.rglob("*")}

    def clean(self, name: str) -> Clean:
        """What an undisturbed scene gives, found once."""
        if name not in self._clean:
            with self.aside() as attempt:
                scene, events = self.lay(name, attempt), Events(attempt.place)
                outcome = attempt.run(scene.words, (0,), events)
                if attempt.wrong:
                    raise RuntimeError(f"scene {name} fails undisturbed: {attempt.wrong}")
                result, names = scene.result(attempt.place, outcome), self.names(attempt.place)
                self._clean[name] = Clean(result, outcome.cpu, outcome.seconds, names, events.count)
        return self._clean[name]


def stopped_before(operation: str, ending: str) -> Callable[[], None]:
    """For `prepare`: the process is killed before an operation (an audit event) on a path that ends so."""

    def hook(name: str, args: tuple[object, ...]) -> None:
        if name == operation and str(args[0]).endswith(ending):
            os.kill(os.getpid(), signal.SIGKILL)

    return lambda: sys.addaudithook(hook)


_EVALUATE = ("evaluate", "run", "--data", "store.h5", "-n", "2", "--quiet")
_EVALUATE_ON = (*_EVALUATE, "--split", "train")
_STEPS: tuple[tuple[str, ...], ...] = (
    ("import", "phantom", "-o", "store.h5", "--quiet", "--patients", "12", "--images-per-patient", "2", "--size", "64"),
    ("train", "--data", "store.h5", "--config", "tiny.yaml", "-o", "run", "--quiet"),
    ("train", "--data", "store.h5", "--config", "tiny.yaml", "-o", "half", "--quiet", "--training.budget", "28img"),
    _EVALUATE,
    (
        *("benchmark", "--data", "store.h5", "-o", "bench", "--quiet", "--seeds", "1", "--cases", "0", "-n", "2"),
        *("--methods", "unet", "prob_unet", "--budget", "8img", "--batch-size", "4"),
        *("--set", "unet.model.channels=[4,8]", "--set", "prob_unet.model.channels=[4,8]"),
    ),
    ("sample", "run", "png/a/image.png", "-n", "3", "--steps", "2", "-o", "drawn/a", "--quiet"),
)  # fmt: skip


def _scenes(root: Path) -> dict[str, Scene]:
    """Every scene by name."""
    model = ("run/config.yaml", "run/data.json", "run/card.json", "run/weights.safetensors")
    run = {"run": root / "run"}
    store = {"store.h5": root / "store.h5"}
    scenes: dict[str, Scene] = {}
    draw = ("-n", "2", "--steps", "1", "--quiet")
    for kind in ("png", "tif", "npy", "nii", "nii.gz"):
        image = {f"image.{kind}": root / kind / "a" / f"image.{kind}"}
        scenes[f"sample-{kind}"] = Scene(
            run | image, ("sample", "run", *image, *draw, "--json"), foreign=tuple(image), own=model * (kind == "png")
        )
        scenes[f"import-{kind}"] = Scene(
            {"own": root / kind}, ("import", "folder", "own", "-o", "out.h5", "--quiet", *_UNIT.get(kind, ())),
            ("out.h5",), foreign=(f"own/b/*.{kind}",),
        )  # fmt: skip
    series = {"series": root / "dcm" / "a" / "image"}
    scenes["sample-dcm"] = Scene(
        run | series, ("sample", "run", "series", *draw, "--json"), foreign=("series/001.dcm",)
    )
    results = ("sample", "run", "series", *draw, "-o", "out")
    scenes["sample"] = Scene(run | series, results, ("out",), foreign=("series/*",))
    cohort = {"png": root / "png", "cohort.csv": root / "cohort.csv"}
    scenes["cohort"] = Scene(run | cohort, ("sample", "run", "cohort.csv", *draw, "-o", "out"), ("out",))
    scenes["import-dcm"] = Scene(
        {"own": root / "dcm"}, ("import", "folder", "own", "-o", "out.h5", "--quiet", *_UNIT["nii"]), ("out.h5",),
        foreign=("own/b/image/*.dcm",),
    )  # fmt: skip
    given = {"own": root / "png", "splits.json": root / "splits.json", "table.csv": root / "table.csv"}
    for name, words in (("splits", ("--splits", "splits.json")), ("table", ("--table", "table.csv"))):
        scenes[f"import-{name}"] = Scene(
            given, ("import", "folder", "own", "-o", "out.h5", "--quiet", *words), ("out.h5",), foreign=(words[1],)
        )
    for name, path, source, foreign in (
        ("zip", "slices.zip", "lidc-slices", "slices.zip"),
        ("slices", "slices", "lidc-slices", "slices/*/*/*/*/slice-1.png"),
        ("pickle", "lidc.pickle", "lidc-pickle", "lidc.pickle"),
        ("hdf5", "lidc.hdf5", "lidc-hdf5", "lidc.hdf5"),
        ("jpg", "cimd", "cimd-folder", "cimd/training/1/*.jpg"),
        ("isbi", "isbi", "isbi-ms", "isbi/training02*.nii"),
        ("lidc", "lidc", "lidc-dicom", "lidc/LIDC-IDRI-0001/*/*/*"),
    ):
        more = ("--fit", "crop", "--size", "24x24", "--allow-cut") if name == "isbi" else ()
        more += ("--jobs", "1") if name == "lidc" else ()
        words = ("import", source, path, "-o", "out.h5", "--quiet", *more)
        scenes[f"import-{name}"] = Scene({path: root / path}, words, ("out.h5",), foreign=(foreign,))
    truth = {"truth": root / "truth"}
    for name, path, foreign in (
        ("npz", "maps.npz", "maps.npz"),
        ("h5", "maps.h5", "maps.h5"),
        ("folder", "maps", "maps/c/*.png"),
    ):
        words = ("evaluate", path, "--truth", "truth", "-o", "out", "--quiet", "-n", "3")
        scenes[f"score-{name}"] = Scene({path: root / path} | truth, words, ("out",), foreign=(foreign,))
    scenes |= _of_runs(root, run, store, model)
    return scenes


_UNIT = {"nii": ("--intensity", "window:-1000:400"), "nii.gz": ("--intensity", "window:-1000:400")}


def _of_runs(root: Path, run: dict[str, Path], store: dict[str, Path], model: tuple[str, ...]) -> dict[str, Scene]:
    """What works on stores, runs and benchmarks."""
    tiny = {"tiny.yaml": root / "tiny.yaml"}
    half = {"run": root / "half"}
    scored = ("run/evaluation/test.json", "run/evaluation/test.csv")
    train = ("train", "--data", "store.h5", "-o", "run", "--quiet")
    bench = next(words for words in _STEPS if words[0] == "benchmark")
    rows = "run/evaluation/train.partial-0.jsonl"
    made = tuple(f"bench/{name}" for name in ("benchmark.json", "unet-seed0", "prob_unet-seed0"))
    return {
        "info": Scene(store, ("info", "store.h5", "--json"), own=("store.h5",)),
        "info-run": Scene(run, ("info", "run", "--json"), own=("run/config.yaml", "run/data.json")),
        "sheet": Scene(store, ("info", "store.h5", "--contact-sheet", "sheet.png"), ("sheet.png",)),
        "page": Scene(
            {"own": root / "png"}, ("check", "own", "--html", "page.html", "--quiet"), ("page.html",),
            foreign=("own/b/*",),
        ),
        "check": Scene(store, ("check", "store.h5", "--json", "--quiet"), own=("store.h5",)),
        "train": Scene(store | tiny, (*train, "--config", "tiny.yaml"), ("run",), ("store.h5",), ("tiny.yaml",)),
        "resume": Scene(
            store | half, (*train, "--config", "run/config.yaml", "--training.budget", "48img"), ("run",),
            ("run/training.ckpt", "run/config.yaml", "run/data.json", "run/log.jsonl"),
        ),
        "evaluate": Scene(store | run, _EVALUATE, ("run/evaluation",), ("store.h5", *model)),
        "evaluate-on": Scene(store | run | {rows: root / "partial.jsonl"}, _EVALUATE_ON, ("run/evaluation",), (rows,)),
        "import-on": Scene(
            {"lidc": root / "lidc", ".out.h5.partial": root / ".lidc.h5.partial"},
            ("import", "lidc-dicom", "lidc", "-o", "out.h5", "--quiet", "--jobs", "1"), ("out.h5",),
            (".out.h5.partial/*",),
        ),
        "report": Scene(
            store | run, ("report", "run", "--data", "store.h5"), ("run/report.html",),
            (*scored, *model, "store.h5", "run/log.jsonl"),
        ),
        "compare": Scene(
            {"a": root / "run", "b": root / "run"},
            ("compare", "a", "b", "--names", "A", "B", "-o", "out"), ("out",),
            ("b/evaluation/test.json", "b/evaluation/test.csv"),
        ),
        "benchmark": Scene(store | {"bench": root / "bench"}, bench, made, ("bench/benchmark.json", "bench/*/*/*")),
        "benchmark-new": Scene(store, bench, made),
        "tables": Scene(
            store | {"bench": root / "bench"}, ("benchmark", "-o", "bench", "--tables", "--cases", "0"),
            ("bench/tables",), ("bench/benchmark.json", "bench/*/evaluation/*"),
        ),
        "score-drawn": Scene(
            {"drawn": root / "drawn", "truth": root / "truth"},
            ("evaluate", "drawn", "--truth", "truth", "-o", "out", "--quiet", "--allow-missing"), ("out",),
            ("drawn/a/summary.json", "drawn/a/samples.npz"),
        ),
    }  # fmt: skip
