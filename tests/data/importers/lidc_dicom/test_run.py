"""`modiff import lidc-dicom`: TCIA's folders into a store, or one line that says why not."""

from __future__ import annotations

import io
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from lidc_folder import (
    NAME,
    SIDE,
    SPACING,
    STEP,
    box,
    ct_slice,
    hounsfield,
    small_mark,
    square,
    uid,
    write_patient,
    xml,
)

from modiff.cli import main
from modiff.data.store import Store

# Patient 1: all four outline one nodule, one of them a second; patient 2: two of four.
FOUR = [[box(60, 70, 10, [1, 2, 3])], [box(61, 70, 9, [2, 3])], [box(60, 72, 10, [2])], [box(60, 70, 8, [2, 3, 4])]]
ONE_MORE = [[*FOUR[0], box(120, 20, 4, [5])], *FOUR[1:]]
TWO = [[], [], [box(30, 40, 6, [0, 1])], [box(31, 40, 6, [1])]]


@pytest.fixture
def lidc(tmp_path: Path) -> Path:
    root = tmp_path / "LIDC-IDRI"
    write_patient(root, 1, [xml(1, ONE_MORE)])
    write_patient(root, 2, [xml(2, TWO)])
    (root / "LICENSE").write_text("CC BY 3.0")
    return root


def run(store: Path, *words: object) -> int:
    return main(["import", "lidc-dicom", *map(str, words), "-o", str(store), "--jobs", "1"])


def made(store: Path, *words: object) -> Store:
    assert run(store, *words) == 0
    return Store.open(store)


def row_of(store: Store, case: str) -> int:
    return store.cases.tolist().index(case)


def test_a_case_is_a_slice_that_anyone_outlined(lidc: Path, tmp_path: Path) -> None:
    with made(tmp_path / "s.h5", lidc) as store:
        assert store.cases.tolist() == [
            *(f"LIDC-IDRI-0001/nodule-0/slice-{index}" for index in range(4)),
            "LIDC-IDRI-0001/nodule-1/slice-0",
            *(f"LIDC-IDRI-0002/nodule-0/slice-{index}" for index in range(2)),
        ]


def test_the_store_says_what_was_done(lidc: Path, tmp_path: Path) -> None:
    with made(tmp_path / "s.h5", lidc) as store:
        assert store.info.intensity == "window:-1000:400"
        assert store.info.prompt == "centre"
        assert store.info.exchangeable_raters
        assert len(store.info.raters) == 4
        assert set(store.info.provenance) == {"LIDC-IDRI-0001", "LIDC-IDRI-0002"}


def test_a_reader_who_outlined_nothing_on_a_slice_read_it(lidc: Path, tmp_path: Path) -> None:
    with made(tmp_path / "s.h5", lidc) as store:
        row = row_of(store, "LIDC-IDRI-0002/nodule-0/slice-0")
        assert store.read[row].all()
        assert store.masks(row).any((1, 2)).tolist() == [False, False, True, False]


def test_pixels_are_the_slices_own_in_the_lung_window(lidc: Path, tmp_path: Path) -> None:
    with made(tmp_path / "s.h5", lidc) as store:
        row = row_of(store, "LIDC-IDRI-0001/nodule-0/slice-0")
        column, line, place, _ = np.linalg.inv(store.geometry(row).affine) @ [64.0, 70.0, STEP, 1]
        top, left = round(-line), round(-column)
        expected = np.rint((np.clip(hounsfield(1), -1000, 400) + 1000) * (255 / 1400))
        assert place == pytest.approx(0)
        assert (store.image(row)[0] == expected[top : top + 128, left : left + 128]).all()


def test_a_mask_is_what_lies_strictly_inside_the_outline(lidc: Path, tmp_path: Path) -> None:
    with made(tmp_path / "s.h5", lidc) as store:
        row = row_of(store, "LIDC-IDRI-0001/nodule-0/slice-0")
        affine = store.geometry(row).affine
        rows, columns = np.nonzero(store.masks(row)[0])
        places = affine @ np.stack([columns, rows, np.zeros_like(rows), np.ones_like(rows)])
        assert len(rows) == 10 * 10
        assert places[0].max() == pytest.approx(64 - 61 * SPACING)
        assert places[1].min() == pytest.approx(70 - 80 * SPACING)


def test_a_crop_has_its_nodule_in_the_middle(lidc: Path, tmp_path: Path) -> None:
    with made(tmp_path / "s.h5", lidc) as store:
        for case in ("LIDC-IDRI-0001/nodule-0/slice-1", "LIDC-IDRI-0002/nodule-0/slice-1"):
            rows, columns = np.nonzero(store.masks(row_of(store, case)).any(0))
            assert rows.mean() == pytest.approx(63.5, abs=1.5)
            assert columns.mean() == pytest.approx(63.5, abs=1.5)


def test_all_slices_of_a_nodule_have_one_window(lidc: Path, tmp_path: Path) -> None:
    with made(tmp_path / "s.h5", lidc) as store:
        affines = [store.geometry(row).affine for row in range(4)]
        for index, affine in enumerate(affines):
            assert affine[:2] == pytest.approx(affines[0][:2])
            assert affine[2, 3] == pytest.approx(STEP * (index + 1))
            assert store.geometry(index).slice_index == index + 1


def test_padding_beyond_the_slice_is_told(lidc: Path, tmp_path: Path) -> None:
    with made(tmp_path / "s.h5", lidc) as store:
        row = row_of(store, "LIDC-IDRI-0002/nodule-0/slice-0")
        top, left, bottom, right = store.geometry(row).valid
        image = store.image(row)[0].copy()
        assert (top, left) != (0, 0)
        assert image[top:bottom, left:right].all()
        image[top:bottom, left:right] = 0
        assert not image.any()


def test_a_stated_spacing_is_kept_by_image_and_masks(lidc: Path, tmp_path: Path) -> None:
    with made(tmp_path / "s.h5", lidc, "--spacing", 0.4) as store:
        row = row_of(store, "LIDC-IDRI-0001/nodule-0/slice-0")
        assert store.info.spacing == (0.4, 0.4)
        assert store.masks(row)[0].sum() == pytest.approx(4 * 100, rel=0.1)
        affine = store.geometry(row).affine
        at = (np.array([64, 70]) - affine[:2, 3] - affine[:2, :2] @ [20, 90]) / SPACING  # LPS column, row of a pixel
        expected = (at[1] + 2 * at[0] - 900 + 1 + 1000) * (255 / 1400)
        assert store.image(row)[0, 90, 20] == pytest.approx(expected, abs=0.6)


def test_holes_are_cut_out(tmp_path: Path) -> None:
    hole = [*box(60, 70, 10, [1]), (1, square(63, 73, 3), False)]
    write_patient(tmp_path / "d", 1, [xml(1, [[hole], [], [], []])])
    with made(tmp_path / "s.h5", tmp_path / "d") as store:
        assert store.masks(0)[0].sum() == 100 - 9


def test_nodules_below_3_mm_and_what_is_no_nodule_are_left_out(tmp_path: Path) -> None:
    write_patient(tmp_path / "d", 1, [xml(1, [[*FOUR[0], small_mark(5, 20, 20)], [small_mark(5, 21, 20)]])])
    with made(tmp_path / "s.h5", tmp_path / "d") as store:
        assert len(store) == 3


@pytest.mark.parametrize("namespace", ["http://www.nih.gov", "http://www.nih.gov/idri", ""])
def test_every_namespace_is_read(tmp_path: Path, namespace: str) -> None:
    write_patient(tmp_path / "d", 1, [xml(1, FOUR, namespace=namespace)])
    with made(tmp_path / "s.h5", tmp_path / "d") as store:
        assert len(store) == 4


def test_more_or_fewer_readers_than_four_fill_their_slots(tmp_path: Path) -> None:
    write_patient(tmp_path / "d", 1, [xml(1, [*FOUR, [box(60, 71, 9, [2])], []])])
    write_patient(tmp_path / "d", 2, [xml(2, TWO[1:])])
    with made(tmp_path / "s.h5", tmp_path / "d") as store:
        assert store.read[0].tolist() == [True] * 6
        assert store.read[-1].tolist() == [True] * 3 + [False] * 3
        assert store.masks(len(store) - 1).any((1, 2)).tolist() == [False, True, True, False, False, False]


def test_the_same_xml_twice_counts_once(tmp_path: Path) -> None:
    folder = write_patient(tmp_path / "d", 1, [xml(1, FOUR)])
    shutil.copy(folder / "000.xml", folder.parent / "again.xml")
    with made(tmp_path / "s.h5", tmp_path / "d", "--xml", folder) as store:
        assert len(store.info.raters) == 4


def test_several_xmls_of_a_series_add_their_readers(tmp_path: Path) -> None:
    write_patient(tmp_path / "d", 1, [xml(1, FOUR[:2]), xml(1, FOUR[1:])])
    with made(tmp_path / "s.h5", tmp_path / "d") as store:
        assert len(store.info.raters) == 4
        assert store.masks(1).any((1, 2)).all()


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_xml_may_lie_elsewhere(tmp_path: Path, packed: bool) -> None:
    write_patient(tmp_path / "d", 1, [])
    extra = tmp_path / "xml" / "157"
    extra.mkdir(parents=True)
    (extra / "158.xml").write_text(xml(1, FOUR))
    (extra / "159.xml").write_text(xml(9, FOUR))
    place = extra.parent
    if packed:
        place = tmp_path / "xml.zip"
        with zipfile.ZipFile(place, "w") as archive:
            for file in extra.iterdir():
                archive.write(file, f"tcia-lidc-xml/157/{file.name}")
    with made(tmp_path / "s.h5", tmp_path / "d", "--xml", place) as store:
        assert len(store) == 4


def test_two_series_of_a_patient_number_their_nodules_on(tmp_path: Path) -> None:
    write_patient(tmp_path / "d", 1, [xml(1, FOUR)])
    write_patient(tmp_path / "d", 1, [xml(1, FOUR, series=2)], series=2)
    with made(tmp_path / "s.h5", tmp_path / "d") as store:
        assert sorted({case.split("/")[1] for case in store.cases.tolist()}) == ["nodule-0", "nodule-1"]


def test_radiographs_and_other_objects_are_left_out(lidc: Path, tmp_path: Path) -> None:
    folder = next(lidc.glob("LIDC-IDRI-0001/*/*"))
    other = ct_slice(1, 50, series=7, modality="1.2.840.10008.5.1.4.1.1.1.1")
    other.save_as(folder / "dx.dcm", enforce_file_format=True)
    (folder / "dx.xml").write_text(
        '<IdriReadMessage xmlns="http://www.nih.gov/idri"><CXRreadingSession/></IdriReadMessage>'
    )
    with made(tmp_path / "s.h5", lidc) as store:
        assert len(store) == 7


def test_outlines_on_slices_that_are_not_there_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_patient(tmp_path / "d", 1, [xml(1, FOUR)], slices=range(3))
    with made(tmp_path / "s.h5", tmp_path / "d") as store:
        assert len(store) == 2
    assert (
        "note: 4 of 9 outlined regions lie on slices that are not in the folder (LIDC-IDRI-0001)"
        in capsys.readouterr().out
    )


def test_a_patient_without_nodules_is_told(lidc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_patient(lidc, 3, [xml(3, [[], [], [], []])])
    with made(tmp_path / "s.h5", lidc) as store:
        assert "LIDC-IDRI-0003" not in store.patients
    assert "note: no nodule of 3 mm or more (LIDC-IDRI-0003)" in capsys.readouterr().out


def test_folders_of_other_names_are_patients_where_none_is_named_as_lidcs(tmp_path: Path) -> None:
    folder = write_patient(tmp_path / "d", 1, [xml(1, FOUR)])
    shutil.copytree(folder, tmp_path / "own" / "case-a" / "ct")
    with made(tmp_path / "s.h5", tmp_path / "own") as store:
        assert set(store.patients) == {"case-a"}


def test_a_patients_own_folder_will_do(lidc: Path, tmp_path: Path) -> None:
    with made(tmp_path / "s.h5", lidc / "LIDC-IDRI-0002") as store:
        assert set(store.patients) == {"LIDC-IDRI-0002"}


def test_several_processes_make_the_same_store(lidc: Path, tmp_path: Path) -> None:
    with made(tmp_path / "one.h5", lidc) as one:
        assert main(["import", "lidc-dicom", str(lidc), "-o", str(tmp_path / "two.h5"), "--jobs", "2"]) == 0
        with Store.open(tmp_path / "two.h5") as two:
            assert two.fingerprint() == one.fingerprint()


def test_nothing_of_a_patient_reaches_store_or_log(
    lidc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert run(tmp_path / "s.h5", lidc) == 0
    said = "".join(capsys.readouterr()) + caplog.text
    data = (tmp_path / "s.h5").read_bytes()
    for secret in (NAME, "SECRET", "20190102", "2008-08-18", "540461523", uid(1), uid(2)):
        assert secret not in said
        assert secret.encode() not in data


def bad_slice(folder: Path) -> None:
    path = folder / "1-098.dcm"  # slice 1, which somebody outlined
    path.write_bytes(path.read_bytes()[:2000])


def bad_xml(folder: Path) -> None:
    (folder / "000.xml").write_text("<LidcReadMessage")


def outline_leaves(folder: Path) -> None:
    (folder / "000.xml").write_text(xml(2, [[box(SIDE - 5, 10, 10, [1])]]))


def other_size(folder: Path) -> None:
    made = ct_slice(2, 9)
    made.Rows -= 1
    made.PixelData = made.PixelData[: -2 * SIDE]
    made.save_as(folder / "other.dcm", enforce_file_format=True)


def same_identity(folder: Path) -> None:
    made = ct_slice(2, 3)
    made.ImagePositionPatient = [0, 0, 3]
    made.save_as(folder / "same.dcm", enforce_file_format=True)


def other_patient(folder: Path) -> None:
    made = ct_slice(2, 3)
    made.PatientID = "another"
    made.save_as(folder / "1-096.dcm", enforce_file_format=True)


def empty_slice(folder: Path) -> None:
    (folder / "1-094.dcm").write_bytes(b"")  # slice 5, which nobody outlined


FAULTS = {
    "cut short|damaged": bad_slice,
    "1-094.dcm: the file is empty": empty_slice,
    "well-formed": bad_xml,
    "leaves the slice": outline_leaves,
    "Rows: slices differ": other_size,
    "PatientID: slices differ": other_patient,
    "claim to be one slice": same_identity,
}


@pytest.mark.parametrize(("words", "fault"), FAULTS.items(), ids=list(FAULTS))
def test_a_patient_that_fails_is_named_and_nothing_is_written(
    lidc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, fault: Callable[[Path], None]
) -> None:
    fault(next(lidc.glob("LIDC-IDRI-0002/*/*")))
    assert run(tmp_path / "s.h5", lidc) == 2
    said = capsys.readouterr().err
    assert "LIDC-IDRI-0002" in said
    assert any(word in said for word in words.split("|"))
    assert not (tmp_path / "s.h5").exists()


@pytest.mark.parametrize(("name", "fault"), [("1-098.dcm", bad_slice), ("1-094.dcm", empty_slice)])
def test_a_slice_that_cannot_be_read_is_left_out_when_asked(
    lidc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, fault: Callable[[Path], None]
) -> None:
    fault(next(lidc.glob("LIDC-IDRI-0002/*/*")))
    with made(tmp_path / "s.h5", lidc, "--skip-broken") as store:
        (said,) = [note for note in store.info.notes if "is left out" in note]
        assert said.endswith(f"(LIDC-IDRI-0002/{name})")
        assert set(store.patients) == {"LIDC-IDRI-0001", "LIDC-IDRI-0002"}
        assert ("LIDC-IDRI-0002/nodule-0/slice-1" in store.cases) == (name != "1-098.dcm")
    assert f"note: {said}\n" in capsys.readouterr().out


def test_keep_going_leaves_the_patient_out_and_lists_it(
    lidc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad_xml(next(lidc.glob("LIDC-IDRI-0002/*/*")))
    with made(tmp_path / "s.h5", lidc, "--keep-going") as store:
        assert set(store.patients) == {"LIDC-IDRI-0001"}
        assert "cannot be read and is left out (LIDC-IDRI-0002)" in store.info.notes
    assert "LIDC-IDRI-0002 is left out" in capsys.readouterr().err


def test_the_same_command_goes_on_where_it_failed(
    lidc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from modiff.data.importers.lidc_dicom import patient

    folder = next(lidc.glob("LIDC-IDRI-0002/*/*"))
    good = (folder / "000.xml").read_text()
    bad_xml(folder)
    assert run(tmp_path / "s.h5", lidc) == 2
    (folder / "000.xml").write_text(good)
    done, original = [], patient.import_patient
    monkeypatch.setattr(patient, "import_patient", lambda job: done.append(job.patient) or original(job))
    assert run(tmp_path / "s.h5", lidc) == 0
    assert done == ["LIDC-IDRI-0002"]
    assert "1 of 2 patients were done before" in capsys.readouterr().err
    assert run(tmp_path / "whole.h5", lidc) == 0
    with Store.open(tmp_path / "s.h5") as resumed, Store.open(tmp_path / "whole.h5") as whole:
        assert resumed.fingerprint() == whole.fingerprint()


def test_nothing_is_left_beside_a_finished_store(lidc: Path, tmp_path: Path) -> None:
    made(tmp_path / "out" / "s.h5", lidc).close()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["s.h5"]


def test_a_changed_file_is_read_again(lidc: Path, tmp_path: Path) -> None:
    bad_xml(next(lidc.glob("LIDC-IDRI-0002/*/*")))
    assert run(tmp_path / "s.h5", lidc) == 2
    write_patient(lidc, 1, [xml(1, FOUR)])
    with made(tmp_path / "s.h5", lidc, "--keep-going") as store:
        assert len(store) == 4


def odd_header(data: bytes) -> bytes:
    """A sound archive, of an array whose header has a text without an end."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("case.npy", b"\x93NUMPY\x01\x00\x10\x00{" + b"\x27" * 3 + b" " * 12)
    return buffer.getvalue()


@pytest.mark.parametrize("damage", [lambda data: data[:500], lambda data: data[:-1] + b"\1", odd_header])
def test_a_damaged_partial_result_is_made_anew(lidc: Path, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    bad_xml(next(lidc.glob("LIDC-IDRI-0002/*/*")))
    assert run(tmp_path / "s.h5", lidc) == 2
    (file,) = (tmp_path / ".s.h5.partial").iterdir()
    file.write_bytes(damage(file.read_bytes()))
    with made(tmp_path / "s.h5", lidc, "--keep-going") as store:
        assert len(store) == 5


@pytest.mark.parametrize("words", [["--spacing", "0"], ["--spacing", "nan"], ["--jobs", "0"]])
def test_settings_that_make_no_sense_are_refused(lidc: Path, tmp_path: Path, words: list[str]) -> None:
    assert main(["import", "lidc-dicom", str(lidc), "-o", str(tmp_path / "s.h5"), *words]) == 2


def test_an_existing_store_is_kept(lidc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.h5").write_text("mine")
    assert run(tmp_path / "s.h5", lidc) == 2
    assert (tmp_path / "s.h5").read_text() == "mine"
    assert "--overwrite" in capsys.readouterr().err


def test_a_folder_without_nodules_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_patient(tmp_path / "d", 1, [])
    assert run(tmp_path / "s.h5", tmp_path / "d") == 2
    assert "no nodule of 3 mm or more" in capsys.readouterr().err


def test_a_nodule_larger_than_its_crop_is_told_and_refused(
    lidc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with made(tmp_path / "whole.h5", lidc) as store:
        whole = store.masks(0).astype(bool)
    capsys.readouterr()
    assert run(tmp_path / "s.h5", lidc, "--spacing", 0.05) == 2
    said = capsys.readouterr().err
    assert "marks are cut off" in said
    assert not (tmp_path / "s.h5").exists()
    made(tmp_path / "s.h5", lidc, "--spacing", 0.05, "--allow-cut").close()
    told = re.search(r"note: cut off: \D+1 loses (\d+) of (\d+) marked pixels", capsys.readouterr().out)
    assert told is not None
    assert 0 < int(told[1]) < int(told[2])
    assert int(told[2]) >= int(whole[0].sum())
