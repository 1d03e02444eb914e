"""The viewer's server: only the page itself is answered, and a click is a call of `modiff sample`."""

from __future__ import annotations

import base64
import http.client
import io
import json
import shutil
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from series_files import write_series

pytest.importorskip("starlette", reason="needs the extra `view`")
pytest.importorskip("uvicorn", reason="needs the extra `view`")

from visits import Visit, known_predictor, viewer_of

from modiff import cli
from modiff.data.store import Store
from modiff.errors import DataError, ModiffError
from modiff.io import write_png
from modiff.io.image import read_image
from modiff.prediction.predictor import Predictor

SHAPE = (4, 40, 50)
AFFINE = np.array([[-0.7, 0, 0, 30], [0, 1.1, 0, -40], [0, 0.2, 2.5, 7], [0, 0, 0, 1]])
AT = [22, 18, 2]


def voxels() -> np.ndarray:
    """(Z,H,W) int16 with a bright voxel on each slice."""
    made = np.random.default_rng(0).integers(-900, 100, SHAPE, dtype=np.int16)
    made[:, 17, 24] = 900
    return made


@pytest.fixture(scope="module")
def nifti(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    nib.save(nib.Nifti1Image(voxels().T, AFFINE), path)
    return path


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_series(tmp_path_factory.mktemp("series") / "Doe_Jane", voxels(), order=[3, 1, 0, 2])


@pytest.fixture(scope="module")
def visit(nifti: Path, tmp_path_factory: pytest.TempPathFactory) -> Visit:
    return Visit(viewer_of(nifti, save=tmp_path_factory.mktemp("masks")))


def unpacked(mask: dict[str, Any], shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """A mask as the page gets it, on the grid of the scan."""
    made = np.zeros(shape, np.uint8)
    part = np.frombuffer(base64.b64decode(mask["classes"]), np.uint8).reshape(mask["size"])
    made[tuple(slice(low, low + side) for low, side in zip(mask["corner"], mask["size"], strict=True))] = part
    return made


def packed(mask: np.ndarray) -> dict[str, str]:
    """A mask as the page sends it."""
    return {str(z): base64.b64encode(part.tobytes()).decode() for z, part in enumerate(mask) if part.any()}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory):
    """Runs `modiff sample` with the viewer's model, once per command, and returns the folder it wrote."""
    made: dict[tuple[str, ...], Path] = {}

    def run(*words: object) -> Path:
        key = tuple(map(str, words))
        if key not in made:
            out = tmp_path_factory.mktemp("sample") / "out"
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Predictor, "from_path", classmethod(lambda cls, name, device="cpu": known_predictor()))
                assert cli.main(["sample", "discs", *key, "-n", "6", "-o", str(out)]) == 0
            made[key] = out
        return made[key]

    return run


class TestWhoIsAnswered:
    def test_the_page_itself(self, visit):
        status, page = visit.ask("")
        assert status == 200
        assert b"modiff view" in page
        for name in ("view.js", "layers.js", "brush.js", "niivue.js", "view.css", "describe"):
            assert visit.ask(name)[0] == 200

    @pytest.mark.parametrize("token", ["", "x", "token", "%C3%A9", "%FF", "%00"])
    def test_nobody_without_the_token(self, visit, token):
        for path in ("", "view.js", "describe", "scan-0.nii"):
            assert visit.ask(path, token=token)[0] in (400, 403)
        assert visit.ask("click", {"at": AT}, token=token)[0] in (400, 403)

    @pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "evil.example:80", ""])
    def test_no_other_host(self, visit, host):
        assert visit.ask("describe", Host=host)[0] in (400, 403)

    def test_no_other_origin(self, visit):
        own = {"Origin": f"http://{visit.host}", "Sec_Fetch_Site": "same-origin"}
        assert visit.ask("describe", **own)[0] == 200
        for other in ("http://evil.example", "null", "https://" + visit.host, "http://localhost:1"):
            assert visit.ask("click", {"at": AT}, Origin=other)[0] == 403
        for site in ("cross-site", "same-site"):
            assert visit.ask("describe", Sec_Fetch_Site=site)[0] == 403

    def test_a_form_of_another_page_is_no_request(self, visit):
        body = json.dumps({"at": AT}).encode()
        for kind in ("text/plain", "application/x-www-form-urlencoded"):
            assert visit.ask("click", body, Content_Type=kind)[0] == 400

    @pytest.mark.parametrize(
        "path",
        [
            *("../viewer.py", "%2e%2e/viewer.py", "..%2fviewer.py", "page/../../viewer.py", "//etc/passwd"),
            *("index.html", "niivue-LICENSE.txt", "scan.nii.gz", "scan-1.nii", "scan--1.nii", "scan-0.nii/../x"),
        ],
    )
    def test_no_file_but_the_pages(self, visit, path):
        assert visit.ask(path)[0] in (400, 404)

    def test_answers_may_not_be_framed_kept_or_read_elsewhere(self, visit):
        visit.ask("describe")
        headers = {name.lower(): value for name, value in visit.headers.items()}
        assert headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert "access-control-allow-origin" not in headers

    @pytest.mark.parametrize(
        "body",
        [
            *(b"", b"[", b"[]", b"[" * 100_000, b'"at"', b'{"at": 3}', b'{"at": [1, 2]}', b'{"at": [1, 2, "3"]}'),
            *(b'{"at": [1.5, 2, 0]}', b'{"at": [1, 2, 99]}', b'{"at": [-1, 2, 0]}', b'{"at": [true, 2, 0]}'),
            *(b'{"at": null}', b'{"at": [1, 2, 0], "raters": "all"}', b'{"at": [1, 2, 0], "slices": -1}'),
            *(b'{"at": [1, 2, 0], "preview": 1}', b'{"at": [1, 2, 0], "whole": "yes"}'),
            b'{"at": [1, 2, 1' + b"0" * 5000 + b"]}",
        ],
    )
    def test_a_request_that_is_none_is_one_line(self, visit, body):
        status, answer = visit.ask("click", body)
        assert status == 400
        assert "\n" not in json.loads(answer)["error"]


class TestClick:
    def test_is_modiff_sample_at_the_place(self, visit, nifti, sample):
        found = visit.told("click", {"at": AT})
        out = sample(nifti, "--at", ",".join(map(str, AT)))
        told = json.loads((out / "summary.json").read_text())
        assert found["at"] == told["at"] == AT
        assert [one["probability"] for one in found["hypotheses"]] == [one["probability"] for one in told["hypotheses"]]
        for number, one in enumerate(found["hypotheses"], 1):
            written = np.asarray(nib.load(out / f"hypothesis-{number}.nii.gz").dataobj).T
            np.testing.assert_array_equal(unpacked(one["mask"]), written)
        assert any(unpacked(one["mask"]).any() for one in found["hypotheses"])
        for number, one in enumerate(found["samples"]):
            written = np.asarray(nib.load(out / f"sample-{number:02}.nii.gz").dataobj).T
            np.testing.assert_array_equal(unpacked(one), written)
        bits = np.asarray(nib.load(out / "uncertainty.nii.gz").dataobj).T
        np.testing.assert_allclose(unpacked(found["entropy"]) / 255, bits, atol=0.5 / 255)

    def test_the_neighbouring_slices_and_given_marks(self, visit, nifti, sample):
        found = visit.told("click", {"at": AT, "slices": 1, "raters": "marking"})
        out = sample(nifti, "--at", "22,18,2", "--slices", 1, "--raters", "marking")
        told = json.loads((out / "summary.json").read_text())
        assert [one["probability"] for one in found["hypotheses"]] == [one["probability"] for one in told["hypotheses"]]
        assert not any(one["nothing"] for one in found["hypotheses"])
        assert set(np.flatnonzero(unpacked(found["hypotheses"][0]["mask"]).any((1, 2)))) == {1, 2, 3}

    def test_a_whole_slice_is_a_roi(self, visit, nifti, sample):
        found = visit.told("click", {"at": AT, "whole": True, "slices": 1})
        out = sample(nifti, "--roi", "0:50,0:40,1:4")
        for number, one in enumerate(found["samples"]):
            written = np.asarray(nib.load(out / f"sample-{number:02}.nii.gz").dataobj).T
            np.testing.assert_array_equal(unpacked(one), written)

    def test_the_first_samples_come_first(self, visit, nifti, sample):
        found = visit.told("click", {"at": AT, "preview": True})
        out = sample(nifti, "--at", "22,18,2", "--select", "iid")
        assert found["preview"] is True
        written = np.asarray(nib.load(out / "sample-00.nii.gz").dataobj).T
        np.testing.assert_array_equal(unpacked(found["samples"][0]), written)

    def test_many_clicks_at_once_each_get_their_own(self, visit):
        places, found = [[x, 18, 1] for x in (20, 22, 24, 26) * 5], dict[int, Any]()

        def ask(number: int) -> None:
            found[number] = visit.told("click", {"at": places[number], "preview": True})

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [found[number]["at"] for number in range(20)] == places
        for number in range(4, 20):
            assert found[number]["hypotheses"] == found[number % 4]["hypotheses"]

    def test_a_drawing_that_nobody_waits_for_ends(self, nifti, tmp_path, monkeypatch):
        """As where the page has been clicked at another place: that one need not wait."""
        visit = Visit(viewer_of(nifti, save=tmp_path))
        visit.viewer.warm()
        model, begun, ended = visit.viewer.predictor.model, threading.Event(), list[bool]()
        draw = model.sample

        def slow(*args: Any, **more: Any) -> Any:
            begun.set()
            for _ in range(400):
                time.sleep(0.02)
                model.on_drawn(0)
            ended.append(True)
            return draw(*args, **more)

        monkeypatch.setattr(model, "sample", slow)
        connection = http.client.HTTPConnection(visit.host)
        words = json.dumps({"at": AT}), {"Content-Type": "application/json"}
        connection.request("POST", f"/{visit.token}/click", *words)
        assert begun.wait(10)
        monkeypatch.setattr(model, "sample", draw)
        connection.close()
        start = time.perf_counter()
        assert visit.told("click", {"at": AT})["at"] == AT  # drawn anew: nothing of the first is kept
        assert time.perf_counter() - start < 5
        assert not ended

    def test_an_export_is_what_modiff_sample_writes(self, visit, nifti, sample):
        status, data = visit.ask("export", {"at": AT})
        out = sample(nifti, "--at", "22,18,2")
        assert status == 200
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = {name.removeprefix("sample/"): archive.read(name) for name in archive.namelist()}
        assert set(files) == {path.name for path in out.iterdir()}
        for name in set(files) - {"summary.json"}:
            assert files[name] == (out / name).read_bytes(), name
        mine, its = json.loads(files["summary.json"]), json.loads((out / "summary.json").read_text())
        assert {key for key in its if mine[key] != its[key]} <= {"command", "date", "checksum"}


class TestScan:
    def test_lies_where_it_lies_without_names(self, visit, nifti):
        status, data = visit.ask("scan-0.nii")
        assert status == 200
        image = nib.Nifti1Image.from_bytes(data)
        np.testing.assert_array_equal(np.asarray(image.dataobj).T, voxels())
        np.testing.assert_allclose(image.affine, AFFINE, atol=1e-5)

    def test_a_picture_lies_as_it_is_seen(self, tmp_path):
        pixels = np.arange(32 * 40, dtype=np.uint16).reshape(32, 40)
        viewer = viewer_of(write_png(tmp_path / "image.png", pixels), save=tmp_path)
        image = nib.Nifti1Image.from_bytes(viewer.scan_bytes(0))
        np.testing.assert_array_equal(np.asarray(image.dataobj)[:, :, 0].T, pixels)
        assert nib.aff2axcodes(image.affine) == ("L", "P", "S")

    def test_the_patient_is_named_nowhere(self, series, tmp_path, capsys):
        visit = Visit(viewer_of(series, save=tmp_path / "masks"))
        mask = np.ones(SHAPE, np.uint8)
        answers = [visit.ask(path)[1] for path in ("", "describe", "scan-0.nii")]
        answers += [visit.ask("click", {"at": AT})[1], visit.ask("click", {"at": [0, 0, 99]})[1]]
        body = {"rater": "me", "slices": packed(mask), "replace": False}
        answers += [visit.ask("mask", body)[1], visit.ask("mask", body)[1]]
        with zipfile.ZipFile(io.BytesIO(visit.ask("export", {"at": AT})[1])) as archive:
            # Segmentations carry the patient's identity, as DICOM asks.
            answers += [archive.read(name) for name in archive.namelist() if not name.endswith(".dcm")]
        answers += [path.read_bytes() for path in (tmp_path / "masks").rglob("*") if path.is_file()]
        answers += [str(list((tmp_path / "masks").rglob("*"))).encode(), *map(str.encode, capsys.readouterr())]
        for canary in (b"Doe", b"Jane", b"HIDDEN", b"1970", b"A-815"):
            assert not any(canary in answer for answer in answers), canary

    def test_unless_it_is_asked_for(self, series, monkeypatch, tmp_path):
        from modiff.view import server

        seen: list[Any] = []
        monkeypatch.setattr(server, "serve", lambda viewer, **_: seen.append(viewer))
        monkeypatch.setattr(Predictor, "from_path", classmethod(lambda cls, name, device="cpu": known_predictor()))
        for more in ([], ["--show-patient"]):
            assert cli.main(["view", str(series), "--save", str(tmp_path), "--no-browser", *more]) == 0
        assert seen[0].describe()["patient"] == {}
        assert seen[1].describe()["patient"]["name"] == "Doe^Jane"


class TestMasks:
    @pytest.mark.parametrize("kind", ["nifti", "series", "picture", "colour", "channels"])
    def test_what_is_saved_import_folder_reads(self, kind, request, tmp_path):
        shape, predictor, sources = SHAPE, known_predictor(), []
        grey = (voxels()[0] // 8 + 120).clip(0, 255).astype(np.uint8)
        if kind == "picture":
            shape, sources = (1, 40, 50), [write_png(tmp_path / "scan.png", grey)]
        elif kind == "colour":
            Image.fromarray(np.stack([grey, grey // 2, grey // 3], -1)).save(tmp_path / "scan.png")
            shape, sources, predictor = (1, 40, 50), [tmp_path / "scan.png"], known_predictor(channels="rgb")
        elif kind == "channels":
            for name in ("t1", "flair"):
                nib.save(nib.Nifti1Image(voxels().T + len(name), AFFINE), tmp_path / f"{name}.nii.gz")
            sources = [tmp_path / "t1.nii.gz", tmp_path / "flair.nii.gz"]
            predictor = known_predictor(channels=("flair", "t1"))
        else:
            sources = [request.getfixturevalue(kind)]
        visit = Visit(viewer_of(*sources, save=tmp_path / "masks", predictor=predictor))
        masks = {"a rater": np.zeros(shape, np.uint8), "Ö-2": np.zeros(shape, np.uint8)}
        masks["a rater"][0, 10:20, 12:25], masks["Ö-2"][-1, 5:20, 12:22] = 1, 1
        for rater, mask in masks.items():
            visit.told("mask", {"rater": rater, "slices": packed(mask), "replace": False})
        words = ["import", "folder", tmp_path / "masks", "-o", tmp_path / "s.h5", "--intensity", "minmax-slice"]
        assert cli.main([*map(str, words), "--quiet", "--val", "0", "--test", "0", "--all-slices"]) == 0
        with Store.open(tmp_path / "s.h5") as store:
            stored = np.stack([store.masks(row) for row in range(len(store))])
            names = store.info.raters
            assert len(store.info.channels) == len(visit.viewer.scan.array)
        assert set(names) == set(masks)
        for rater, mask in masks.items():
            np.testing.assert_array_equal(stored[:, names.index(rater)], mask)
        # Opened again they are beside the hypotheses, here and where they lie.
        for images in (sources, sorted((tmp_path / "masks").rglob("image*"))):
            again = viewer_of(*images, save=tmp_path / "masks", predictor=predictor).describe()["raters"]
            assert {one["name"] for one in again} == set(masks)
            for one in again:
                np.testing.assert_array_equal(unpacked(one["mask"], shape), masks[one["name"]])

    def test_masks_beside_a_series_are_found(self, series, tmp_path):
        shutil.copytree(series, tmp_path / "Doe" / "image")
        mask = np.zeros(SHAPE, np.uint8)
        mask[1, 3:9, 4:8] = 1
        viewer = viewer_of(series, save=tmp_path / "masks")
        saved = viewer.save_mask("me", {1: mask[1].tobytes()})
        shutil.copyfile(saved, tmp_path / "Doe" / saved.name)
        again = viewer_of(tmp_path / "Doe" / "image", save=tmp_path / "none")
        np.testing.assert_array_equal(again.raters["me"], mask)
        assert "Doe" not in json.dumps(again.describe())

    def test_a_mask_is_replaced_only_where_that_is_said(self, nifti, tmp_path):
        visit, mask = Visit(viewer_of(nifti, save=tmp_path)), np.zeros(SHAPE, np.uint8)
        mask[1, 3:9, 4:8] = 1
        body = {"rater": "me", "slices": packed(mask), "replace": False}
        assert visit.ask("mask", body)[0] == 200
        status, answer = visit.ask("mask", {**body, "slices": {}})
        assert status == 400
        assert "has a mask" in json.loads(answer)["error"]
        assert np.asarray(nib.load(tmp_path / "scan" / "rater-me.nii.gz").dataobj).any()
        assert visit.ask("mask", {**body, "slices": {}, "replace": True})[0] == 200
        assert not np.asarray(nib.load(tmp_path / "scan" / "rater-me.nii.gz").dataobj).any()

    def test_a_replaced_mask_of_another_format_is_gone(self, nifti, tmp_path):
        viewer_of(nifti, save=tmp_path).save_mask("me", {})
        case = tmp_path / "scan"
        nib.save(nib.load(case / "rater-me.nii.gz"), case / "rater-me.nii")
        nib.save(nib.load(case / "rater-me.nii.gz"), case / "rater-me too.nii")
        (case / "rater-me.nii.gz").unlink()
        viewer_of(nifti, save=tmp_path).save_mask("me", {}, replacing=True)
        assert sorted(path.name for path in case.glob("rater*")) == ["rater-me too.nii", "rater-me.nii.gz"]

    def test_a_zip_with_one_image_is_saved_as_an_image(self, nifti, tmp_path):
        with zipfile.ZipFile(tmp_path / "Doe.zip", "w") as archive:
            archive.write(nifti, "Doe.nii.gz")
        viewer = viewer_of(tmp_path / "Doe.zip", save=tmp_path / "masks")
        case = viewer.save_mask("me", {}).parent
        assert sorted(path.name for path in case.iterdir()) == ["image.nii.gz", "rater-me.nii.gz"]
        found = read_image(case / "image.nii.gz")
        np.testing.assert_array_equal(found.array, read_image(nifti).array)
        np.testing.assert_allclose(found.affine, read_image(nifti).affine, atol=1e-5)
        viewer_of(tmp_path / "Doe.zip", save=tmp_path / "masks").save_mask("you", {})

    @pytest.mark.parametrize("rater", ["", " a", "../a", "a/b", "a\\b", ".a", "a\n", "x" * 41, "a.nii", "*", 3, None])
    def test_a_name_that_is_no_part_of_a_file_is_refused(self, visit, rater):
        assert visit.ask("mask", {"rater": rater, "slices": {}, "replace": False})[0] == 400
        assert not list(visit.viewer.save.rglob("*"))

    @pytest.mark.parametrize(
        "slices", [None, [], {"x": ""}, {"9": ""}, {"0": "AAAA"}, {"0": 3}, {"0": "é"}, {"-1": ""}, {"0": "/" * 2668}]
    )
    def test_a_mask_of_another_size_is_refused(self, visit, slices):
        assert visit.ask("mask", {"rater": "me", "slices": slices, "replace": False})[0] == 400

    def test_another_scan_of_the_same_name_is_refused(self, nifti, tmp_path):
        viewer_of(nifti, save=tmp_path / "masks").save_mask("me", {})
        nib.save(nib.Nifti1Image(voxels().T + 1, AFFINE), tmp_path / "scan.nii.gz")
        with pytest.raises(DataError, match="another image"):
            viewer_of(tmp_path / "scan.nii.gz", save=tmp_path / "masks").save_mask("you", {})

    @pytest.mark.parametrize("case", ["../up", "/root", "a//b", "a/../b", ""])
    def test_a_case_is_a_path_below_the_folder(self, nifti, case):
        from modiff.view.scene import open_scene

        with pytest.raises(DataError):
            open_scene([str(nifti)], case=case)
        assert open_scene([str(nifti)], case="patient-3/scan-1").case == "patient-3/scan-1"

    def test_classes_keep_their_numbers(self, nifti, tmp_path):
        mask = np.zeros(SHAPE, np.uint8)
        mask[1, 3:9, 4:8], mask[1, 9:12, 4:8] = 1, 2
        viewer = viewer_of(nifti, save=tmp_path, predictor=known_predictor(classes=2))
        viewer.save_mask("me", {1: mask[1].tobytes()})
        again = viewer_of(nifti, save=tmp_path, predictor=known_predictor(classes=2))
        np.testing.assert_array_equal(again.raters["me"], mask)


class TestOtherInputs:
    def test_a_case_of_a_store_with_its_raters(self, tmp_path):
        assert cli.main(["import", "phantom", "--patients", "6", "-o", str(tmp_path / "s.h5"), "--quiet"]) == 0
        viewer = viewer_of(tmp_path / "s.h5", save=tmp_path)
        told = viewer.describe()
        with Store.open(tmp_path / "s.h5") as store:
            assert [one["name"] for one in told["raters"]] == list(store.info.raters)
            for one, mask, read in zip(told["raters"], store.masks(0), store.read[0], strict=True):
                assert (one["mask"] is not None) == read
                if read:
                    np.testing.assert_array_equal(unpacked(one["mask"], (1, *mask.shape))[0], mask)
            np.testing.assert_array_equal(viewer.scan.array[:, 0], store.image(0))

    @pytest.mark.parametrize("kind", ["nifti", "series", "picture"])
    def test_what_modiff_sample_wrote(self, kind, request, sample, tmp_path):
        shape, at = SHAPE, "22,18,2"
        if kind == "picture":
            source = write_png(tmp_path / "image.png", (voxels()[0] // 8 + 120).clip(0, 255).astype(np.uint8))
            shape, at = (1, 40, 50), "22,18"
        else:
            source = request.getfixturevalue(kind)
        out = sample(source, "--at", at)
        from modiff.view.scene import open_scene
        from modiff.view.viewer import Viewer

        with_scan = {"scan": [str(source)]} if kind == "series" else {}
        scene = open_scene([str(out)], **with_scan)
        viewer = viewer_of(source, save=tmp_path)
        again = Viewer(scene, viewer.predictor, viewer.settings, model="discs", about=viewer.about, save=tmp_path)
        stored, clicked = again.describe()["results"], Visit(viewer).told("click", {"at": [22, 18, shape[0] // 2]})
        for key in ("presence", "sizes", "unseen", "agreement", "hypotheses", "samples"):
            assert stored[key] == clicked[key], key
        entropies = (unpacked(one["entropy"], shape).astype(int) for one in (stored, clicked))
        assert np.abs(np.subtract(*entropies)).max() <= 1

    def test_a_roi_of_a_picture_lies_where_its_files_have_it(self, sample, tmp_path):
        source = write_png(tmp_path / "image.png", (voxels()[0] // 8 + 120).clip(0, 255).astype(np.uint8))
        out = sample(source, "--roi", "14:46,6:38")
        from modiff.view.scene import open_scene
        from modiff.view.viewer import Viewer

        viewer = viewer_of(source, save=tmp_path)
        again = Viewer(
            open_scene([str(out)]), viewer.predictor, viewer.settings, model="discs", about=viewer.about, save=tmp_path
        )
        for one in again.describe()["results"]["hypotheses"]:
            files = [out / f"sample-{number:02}.png" for number in one["samples"]]
            kept = [read_image(file, mask=True).array[0, 0] > 0 for file in files] or [np.zeros((40, 50), bool)]
            shown = unpacked(one["mask"], (1, 40, 50))[0] > 0
            assert any((mask == shown).all() for mask in kept)  # it is one of its samples

    def test_channels_keep_the_order_that_results_record(self, tmp_path):
        from modiff.view.scene import open_scene

        flair, t1 = (write_png(tmp_path / f"{name}.png", np.full((8, 8), 9, np.uint8)) for name in ("t1", "flair"))
        scene = open_scene([str(flair), str(t1)])
        orders = [scene.arranged(["flair", "t1"], recorded=recorded)[1] for recorded in (True, False)]
        assert orders == [[flair, t1], [t1, flair]]

    def test_results_of_a_series_ask_for_it(self, series, sample):
        from modiff.view.scene import open_scene

        out = sample(series, "--at", "22,18,2")
        with pytest.raises(DataError, match="--scan"):
            open_scene([str(out)])

    def test_results_are_shown_on_their_own_scan_only(self, nifti, sample, tmp_path):
        from modiff.view.scene import open_scene

        out = sample(nifti, "--at", "22,18,2")
        for change, kind in ((0, ".nii"), (1, ".nii.gz")):
            nib.save(nib.Nifti1Image(voxels().T + change, AFFINE), tmp_path / f"other{kind}")
        assert open_scene([str(out)], scan=[str(tmp_path / "other.nii")]).results is not None  # the same voxels
        with pytest.raises(DataError, match="not the scan"):
            open_scene([str(out)], scan=[str(tmp_path / "other.nii.gz")])

    def test_damaged_results_are_refused_in_one_line(self, nifti, sample, tmp_path):
        from modiff.view.scene import open_scene

        out = sample(nifti, "--at", "22,18,2")
        told, broken = json.loads((out / "summary.json").read_text()), tmp_path / "broken"
        shutil.copytree(out, broken)
        viewer, values = viewer_of(nifti, save=tmp_path), [3, "x", [{}], {"x": [0, 1]}, -1, None, [-1], {}]
        changes = [{key: value} for key, value in zip(told, values * 9, strict=False) if key != "checksum"]
        changes += [{"at": [1, 2, 99]}, {"box": {"x": [0, 99], "y": [0, 1], "z": [0, 1]}}, {"hypotheses": []}]
        changes += [
            {"hypotheses": [told["hypotheses"][0] | {name: value}]}
            for name in ("medoid", "samples")
            for value in (-1, [99])
        ]
        refused = 0
        for change in changes:
            content = {name: item for name, item in (told | change).items() if name != "checksum"}
            (broken / "summary.json").write_text(json.dumps(content))
            try:
                viewer.scene = open_scene([str(broken)])
            except DataError as error:
                refused += "\n" not in str(error)
            else:
                json.dumps(viewer.describe(), allow_nan=False)  # what a change does not touch is shown
        assert refused > len(changes) // 2


def test_one_series_of_several_is_shown(tmp_path):
    from modiff.view.scene import open_scene

    for place, count in (("one", 3), ("two", 2)):
        write_series(tmp_path / place, np.full((count, 40, 50), count, np.int16))
    with pytest.raises(DataError, match="--series takes one"):
        open_scene([str(tmp_path)])
    depths = [open_scene([str(tmp_path)], series=number).scan.shape[0] for number in ("1", "2")]
    assert sorted(depths) == [2, 3]


@pytest.mark.parametrize("wrong", [{"n": 0}, {"steps": 0}, {"intensity": "bogus"}, {"spacing": (1.0, 1.0)}])
def test_settings_that_no_click_can_have_are_refused_at_the_start(wrong, nifti, tmp_path):
    with pytest.raises(ModiffError, match=next(iter(wrong))):
        viewer_of(nifti, save=tmp_path, **wrong)


def test_what_cannot_be_drawn_is_said_by_a_click_alone(nifti, tmp_path, monkeypatch):
    viewer = viewer_of(nifti, save=tmp_path)

    def refuse(asked: Any, **_: Any) -> None:
        raise DataError("cannot be drawn")

    monkeypatch.setattr(viewer, "predict", refuse)
    viewer.warm()
    with pytest.raises(DataError, match="cannot be drawn"):
        viewer.click(None)


def test_without_the_extra_a_line_says_what_to_install(monkeypatch, nifti, capsys):
    from modiff.cli import view

    monkeypatch.setattr(view, "find_spec", lambda name: None)
    assert cli.main(["view", str(nifti)]) == 2
    assert "modiff[view]" in capsys.readouterr().err


def test_a_port_that_is_taken_is_refused(visit, nifti, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(Predictor, "from_path", classmethod(lambda cls, name, device="cpu": known_predictor()))
    for port in (visit.host.partition(":")[2], "70000", "-1"):
        assert cli.main(["view", str(nifti), "--port", port, "--no-browser", "--save", str(tmp_path)]) == 2
        assert "--port" in capsys.readouterr().err


def test_pictures_of_the_page_are_its_own() -> None:
    """The page asks nothing from elsewhere."""
    page = Path(cli.__file__).parents[1] / "view" / "page"
    for name in ("index.html", "view.js", "layers.js", "brush.js", "view.css"):
        assert "http" not in (page / name).read_text(encoding="utf-8")
