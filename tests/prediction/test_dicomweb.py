"""`modiff sample` of series on a DICOMweb server, whose results go back there; also with a real Orthanc."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from described import spec
from dicomweb import Fake, serving
from local import Local
from orthanc_server import orthanc
from series_files import PERSON, write_series

from modiff import cli
from modiff.errors import DataError, ModiffError
from modiff.io.dicom import web
from modiff.prediction import write
from modiff.prediction.predictor import Predictor
from modiff.view.scene import open_scene

pytest.importorskip("dicomweb_client", reason="dicomweb-client is not installed (extra dicomweb)")
VALUES = np.arange(5 * 40 * 48).reshape(5, 40, 48) % 700
OBJECTS = ("hypotheses.seg.dcm", "probability.seg.dcm", "measurements.sr.dcm")
PLACE = ["--at", "20,20,2", "--slices", "1", "-n", "2"]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Runs the verb with a model of lesion crops."""
    about = {"size": (32, 32), "intensity": "minmax-slice", "prompt": "centre", "classes": ["lesion"]}

    def load(cls: type[Predictor], name: str, device: str = "cpu") -> Predictor:
        return Predictor(Local(), device=device, data=spec(about))

    monkeypatch.setattr(Predictor, "from_path", classmethod(load))
    for figure in ("key_figure", "slices_figure"):
        monkeypatch.setattr(write, figure, lambda prediction, title="": b"a figure")
    monkeypatch.setattr(web, "WAITS", (0.0,))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in list(os.environ):
        if name.startswith("MODIFF_DICOMWEB") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def run(*words: Any) -> int:
        monkeypatch.setattr("sys.argv", ["modiff", "sample", *map(str, words), "--quiet"])
        return cli.main(["sample", *map(str, words), "--quiet"])

    return run


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Fake]:
    write_series(tmp_path / "server/one", VALUES)
    with serving(tmp_path / "server") as made:
        yield made


def summary(path: str) -> dict[str, Any]:
    return json.loads(Path(path, "summary.json").read_text())


def differing(one: str, two: str) -> set[str]:
    """What of two folders of results is not the same; of objects, what tells any two runs apart is left out."""
    names = {path.name for folder in (one, two) for path in Path(folder).iterdir()} - {"summary.json", "sent.json"}
    found = {name for name in names if content(Path(one, name)) != content(Path(two, name))}
    left, right = summary(one), summary(two)
    return found | {key for key in left.keys() | right.keys() if left.get(key) != right.get(key)}


def content(path: Path) -> Any:
    """Of a segmentation its pixels, of a report its numbers; of another file all."""
    if path.suffix != ".dcm":
        return path.read_bytes()
    made = pydicom.dcmread(path)
    return made.get("PixelData") or [str(item.value) for item in made.iterall() if item.keyword == "NumericValue"]


def texts(folder: Path) -> str:
    """All that is written there but DICOM."""
    return "".join(path.read_text("latin-1") for path in folder.rglob("*") if path.is_file() and path.suffix != ".dcm")


def test_orthanc_gives_and_takes(command, tmp_path, monkeypatch, capsys):
    """From a URL as from the folder, to the bit; the segmentations arrive byte for byte."""
    with orthanc(tmp_path / "archive", user=("me", "SECRET")) as archive:
        host = archive.url
        for name, depth in (("one", 5), ("two", 3)):
            for file in write_series(tmp_path / name, VALUES[:depth]).iterdir():
                header = pydicom.dcmread(file)
                header.StudyInstanceUID, header.SeriesNumber = "1.2.3", depth
                header.save_as(file)
                archive.ask("/instances", file.read_bytes())
        study = f"{host}/dicom-web/studies/1.2.3"
        assert command("model", study, *PLACE, "-o", "url") == 2
        assert "does not let you in; found HTTP 401" in capsys.readouterr().err
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password SECRET\n")
        assert command("model", study, *PLACE, "-o", "url") == 2
        assert "1: CT, 3 slices of 48×40, series number 3; 2: CT, 5 slices" in capsys.readouterr().err
        assert command("model", study, "--series", 2, *PLACE, "-o", "url", "--send", f"{host}/dicom-web") == 0
        assert command("model", "one", *PLACE, "-o", "folder") == 0
        assert differing("url", "folder") - {"date"} == {"command", "checksum"}
        for name in OBJECTS:
            path = Path("url", name)
            assert path.read_bytes() == archive.instance(pydicom.dcmread(path).SOPInstanceUID)
        assert len(json.loads(archive.ask("/instances"))) == 5 + 3 + len(OBJECTS)
        # What was stored is not among the series of images.
        assert command("model", study, "--series", 2, *PLACE, "-o", "again", "--json") == 0
    said = "".join(capsys.readouterr()) + texts(Path("url"))
    assert not any(word in said for word in (*PERSON.values(), "SECRET", "1.2.3"))


def test_what_is_drawn_and_not_sent_is_sent_by_the_same_command(command, server, capsys):
    words = ["model", server.address(), *PLACE, "-o", "out", "--send", server.url]
    server.takes = 0
    assert command(*words) == 2
    assert "out is written, and not sent: does not store all results" in capsys.readouterr().err
    server.takes = 1000
    assert command("model", server.address(), "--at", "9,9,2", *PLACE[2:], "-o", "out", "--send", server.url) == 2
    assert "the folder has files already" in capsys.readouterr().err
    content = summary("out")
    fingerprint = content["model"].pop("fingerprint")
    Path("out/summary.json").write_text(json.dumps({key: content[key] for key in content if key != "checksum"}))
    assert command(*words) == 2  # what another model drew is not sent as this one's
    assert "the folder has files already" in capsys.readouterr().err
    content["model"]["fingerprint"] = fingerprint
    Path("out/summary.json").write_text(json.dumps({key: content[key] for key in content if key != "checksum"}))
    before = {path: path.stat().st_mtime_ns for path in Path("out").iterdir()}
    server.stored.clear()
    assert command(*words) == command(*words) == 0
    assert len(server.stored) == len(OBJECTS)
    assert {path: path.stat().st_mtime_ns for path in Path("out").iterdir() if path.name != "sent.json"} == before
    assert command(*words, "--overwrite") == 0
    assert len({pydicom.dcmread(BytesIO(part)).SOPInstanceUID for part in server.stored}) == 2 * len(OBJECTS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "out", "--send", "out"], "is not the address"),
        (["-o", "out", "--send", "http://me:SECRET@h"], "must be plain"),
        (["-o", "out", "--send", "https://me:SECRET@exa\u2100mple/studies/1.2.3"], "URL: is not an address"),
        (["-o", "out", "--send", "https://me:SECRET@[::1/x"], "URL: is not an address"),
        (["--send", "http://127.0.0.1:1"], "-o: is needed to send results"),
    ],
)
def test_what_cannot_be_sent_is_known_before_anything_is_drawn(command, server, capsys, words, message):
    assert command("model", server.address(), *PLACE, *words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "SECRET" not in said
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://me:SECRET@h/x", "a URL of a kind that cannot be read; found ftp://…"),
        ("ftp://me:SECRET@h/cohort.csv", "a URL of a kind that cannot be read"),
        ("CT=sftp://me:SECRET@h/x", "a URL of a kind that cannot be read"),
        ("https://me:SECRET@h/cohort.csv", "URL: must be plain"),
        ("https://me:SECRET/studies/1.2", "URL: is not an address"),
    ],
)
def test_a_url_that_is_refused_is_not_repeated(command, capsys, url, message):
    assert command("model", url, "-o", "out") == 2
    said = capsys.readouterr().err
    assert message in said
    assert "SECRET" not in said
    with pytest.raises(ModiffError) as error:
        open_scene([url])
    assert "SECRET" not in str(error.value)


def test_a_picture_has_nothing_to_send(command, server, capsys, tmp_path):
    write.write_png(tmp_path / "a.png", np.zeros((32, 32), np.uint8))
    assert command("model", "a.png", "-n", 1, "-o", "out", "--send", server.url) == 2
    assert "--send: makes no DICOM results to send; found PNG" in capsys.readouterr().err


class TestCohort:
    def table(self, server: Fake, *, also: str = "") -> None:
        rows = [f"{server.address()},{x},20,2," for x in (20, 24)]
        Path("cohort.csv").write_text("\n".join(["scan,x,y,z,series", *rows, also]))

    def status(self) -> list[str]:
        return [row["status"] for row in csv.DictReader(Path("out/cohort.csv").open())]

    def test_a_cell_may_be_a_url(self, command, server, tmp_path):
        write_series(tmp_path / "local", VALUES)
        self.table(server, also=f"local,20,20,2,\n{server.address(series=False)},20,20,2,1\n")
        assert command("model", "cohort.csv", "-n", 2, "-o", "out", "--send", server.url) == 0
        assert self.status() == ["done"] * 4
        for folder in ("scan-2-1", "scan-4", "scan-5"):
            assert (
                Path("out", folder, "sample-00.nii.gz").read_bytes() == Path("out/scan-5/sample-00.nii.gz").read_bytes()
            )
        assert len(server.stored) == 4 * len(OBJECTS)
        fetched = sum("/instances/" in path for path, _ in server.requests)
        assert fetched == 2 * len(VALUES)  # of two rows about one scan it is fetched once

    def test_it_resumes(self, command, server):
        """What is drawn is neither fetched nor drawn again, and what was not sent is."""
        self.table(server)
        server.takes = 0
        words = ["model", "cohort.csv", "-n", 2, "-o", "out", "--send", server.url]
        assert command(*words) == 1
        assert self.status() == ["failed", "failed"]
        assert "does not store all results" in Path("out/cohort.csv").read_text()
        before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.gz")}
        server.takes = 1000
        server.stored.clear()
        server.requests.clear()
        assert command(*words) == command(*words) == 0
        assert self.status() == ["done", "done"]
        assert len(server.stored) == 2 * len(OBJECTS)
        assert not any("/instances/" in path for path, _ in server.requests)
        assert {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.gz")} == before

    def test_a_server_that_is_not_there_is_asked_once_per_scan(self, command, server):
        self.table(server)
        server.odd = lambda request: request.answer(b"", "text/html", 404)
        assert command("model", "cohort.csv", "-n", 2, "-o", "out") == 1
        assert self.status() == ["failed"] * 2
        assert len(server.requests) == 1

    def test_another_scan_under_the_address_is_seen(self, command, server):
        self.table(server)
        assert command("model", "cohort.csv", "-n", 2, "-o", "out") == 0
        header = pydicom.dcmread(server.files()[0])
        header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
        header.save_as(server.files()[0])
        assert command("model", "cohort.csv", "-n", 2, "-o", "out") == 1
        assert "was made with other settings" in Path("out/cohort.csv").read_text()

    def test_nobody_is_named(self, command, server, capsys, monkeypatch):
        """Neither where all goes well nor where nothing does."""
        for name, value in (("HOST", "127.0.0.1"), ("TOKEN", "SECRET")):
            monkeypatch.setenv(f"MODIFF_DICOMWEB_{name}", value)
        self.table(server, also=f"{server.url}/studies/1.2.840\nhttp://me:SECRET@h/studies/1\n")
        study = server.address(series=False).rpartition("/")[2]
        words = ["model", "cohort.csv", "-n", 2, "-o", "out", "--send", server.url]
        assert command(*words) == 1
        assert self.status() == ["done", "done", "failed", "failed"]
        server.odd = lambda request: request.answer(b"", "text/html", 403)
        assert command(*words[:4], "-o", "none") == 1
        said = "".join(capsys.readouterr()) + texts(Path("out")) + texts(Path("none"))
        assert not any(word in said for word in (*PERSON.values(), "SECRET", study, "1.2.840"))


def test_identify_names_the_address(command, server):
    assert command("model", server.address(), *PLACE, "-o", "out", "--identify") == 0
    assert summary("out")["image"]["path"] == server.address()


def test_the_viewer_takes_the_same(command, server):
    """But no address that a file of results names: they may come from anyone."""
    assert open_scene([server.address()]).scan.shape == VALUES.shape
    assert command("model", server.address(), *PLACE, "-o", "out", "--identify") == 0
    assert open_scene(["out"], scan=[server.address()]).results is not None
    with pytest.raises(DataError, match="the scan of these results is not there"):
        open_scene(["out"])
