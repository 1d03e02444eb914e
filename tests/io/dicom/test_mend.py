"""Headers that do not fit the standard are mended where it says how, and a segmentation says the same as its series."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from derived_objects import write_all
from pydicom.config import disable_value_validation
from series_files import slice_of, write_series

from modiff.errors import DataError
from modiff.io.dicom.derived import Maker, Segment
from modiff.io.dicom.mend import MAY_BE_EMPTY
from modiff.io.dicom.series import read_dicom_series
from modiff.io.dicom.trial import check_objects

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, of the values that are wrong on purpose
UIDS = ("1.2.826.0.1.3680043.8.498.1", "1.2.826.0.1.3680043.8.498.2", "1.2.826.0.1.3680043.8.498.3")


def one_slice(folder: Path, **values: Any) -> Path:
    """A series of one slice whose elements have these values, whatever their types allow."""
    made = slice_of(np.full((8, 9), 200), (0, 0, 0), (1, 0, 0, 0, 1, 0), UIDS)
    with disable_value_validation():
        for name, value in values.items():
            setattr(made, name, value)
        made.save_as(folder / "a.dcm", enforce_file_format=True)
    return folder / "a.dcm"


def segmented(path: Path) -> tuple[pydicom.Dataset, list[str]]:
    """The segmentation of a series of one slice, as pydicom reads it, and what was said; all objects say the same."""
    volume = read_dicom_series(path)
    said, whole = check_objects(volume, full=True), Segment(np.ones(volume.shape, bool), "all", "nodule")
    paths = write_all(path.parent, [whole], volume, maker=Maker("m", "1"), full=True)
    found = {kind: pydicom.dcmread(file) for kind, file in paths.items()}
    for other in (found["sr"], found["rtstruct"]):
        for name in (*MAY_BE_EMPTY, "StudyInstanceUID", "SpecificCharacterSet", "PatientAge", "PatientWeight"):
            assert other.get(name) == found["seg"].get(name), name
    return found["seg"], said


NAMES = {  # SpecificCharacterSet -> a name in it
    ("", "ISO 2022 IR 87"): "Yamada^Tarou=山田^太郎=やまだ^たろう",  # PS3.5 H.3
    ("ISO 2022 IR 13", "ISO 2022 IR 87"): "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
    ("", "ISO 2022 IR 149"): "Hong^Gildong=洪^吉洞=홍^길동",  # PS3.5 I.2
    ("ISO 2022 IR 6", "ISO 2022 IR 100"): "Buc^Jérôme",
}


@pytest.mark.parametrize("terms", NAMES, ids=str)
def test_names_in_several_character_sets_become_utf8(tmp_path, terms):
    path = one_slice(tmp_path, SpecificCharacterSet=list(terms), PatientName=NAMES[terms], StudyDescription="Thorax")
    found, said = segmented(path)
    assert found.SpecificCharacterSet == "ISO_IR 192"
    assert str(found.PatientName) == NAMES[terms] == str(pydicom.dcmread(path).PatientName)
    assert said == ["SpecificCharacterSet has several values: texts are UTF-8 now"]


@pytest.mark.parametrize("escape", [b"\x1b$)A", b""], ids=["escaped", "bare"])
def test_chinese_with_code_extensions_becomes_utf8(tmp_path, escape):
    """PS3.5 K.2; some writers, pydicom among them, leave out the escape sequences that it must have."""
    path = one_slice(tmp_path, SpecificCharacterSet=["", "ISO 2022 IR 58"], PatientName="X" * 12)
    written = b"Zhang^XiaoDong=" + escape + "张".encode("gb2312") + b"^" + escape + "小东".encode("gb2312")
    path.write_bytes(longer(path.read_bytes(), written))
    found, _ = segmented(path)
    assert (str(found.PatientName), found.SpecificCharacterSet) == ("Zhang^XiaoDong=张^小东", "ISO_IR 192")


WRITTEN = {  # how the set is declared, and how the name is in fact written
    "ISO-IR 100": "latin-1",
    "ISO_IR_100": "latin-1",
    "ISO IR 192": "utf-8",
    "ISO_IR192": "utf-8",
    "UTF8": "utf-8",
    "utf-8": "utf-8",
    "ISO_IR 6": "latin-1",
    "ISO 2022 IR 100": "latin-1",
    "ISO_IR 192": "latin-1",
    "SOMETHING": "utf-8",
    None: "utf-8",
}


@pytest.mark.parametrize("declared", WRITTEN)
def test_a_character_set_that_is_misspelt_missing_or_wrong(tmp_path, declared):
    """The name's bytes are put into the file as they are."""
    path = one_slice(tmp_path, PatientName="X" * 12, **({"SpecificCharacterSet": declared} if declared else {}))
    name = "Müßter^Jörg".encode(WRITTEN[declared])
    data = path.read_bytes()
    path.write_bytes(data.replace(b"X" * 12, name.ljust(12)[:12]) if len(name) <= 12 else longer(data, name))
    found, said = segmented(path)
    assert str(found.PatientName) == "Müßter^Jörg"
    assert found.SpecificCharacterSet == "ISO_IR 192"
    (line,) = said
    assert line.startswith("SpecificCharacterSet ")
    assert "Jörg" not in line


def longer(data: bytes, name: bytes) -> bytes:
    """The file with a longer name: explicit little endian, a length of two bytes before the value."""
    name = name.ljust(len(name) + len(name) % 2)
    return data.replace(b"PN\x0c\0" + b"X" * 12, b"PN" + len(name).to_bytes(2, "little") + name)


@pytest.mark.parametrize(("declared", "name"), [("ISO_IR 144", "Иванов^Иван"), ("ISO_IR 192", "Łoś^Ż"), (None, "A^B")])
def test_a_character_set_that_is_right_stays(tmp_path, declared, name):
    found, said = segmented(one_slice(tmp_path, SpecificCharacterSet=declared, PatientName=name))
    assert (found.get("SpecificCharacterSet"), str(found.PatientName), said) == (declared, name, [])


MENDED = {  # element and value -> value in the segmentation (None: it is left out)
    ("PatientSex", "U"): "",
    ("PatientSex", "m"): "",
    ("PatientSex", "Anonymized"): "",
    ("PatientBirthDate", "00000000"): "",
    ("PatientBirthDate", "1950"): "",
    ("PatientBirthDate", "1950-01-01"): "",
    ("PatientBirthDate", "19500231"): "",
    ("StudyDate", "2020.01.31"): "20200131",  # PS3.5 6.2: of ACR-NEMA 300
    ("StudyTime", "12:30:05.25"): "123005.25",
    ("StudyTime", "99"): "",
    ("StudyTime", "anonymous"): "",
    ("PatientAge", "60"): None,
    ("PatientWeight", "12345678901234567890"): None,
    ("AccessionNumber", "A" * 40): "A" * 40,
    ("PatientName", "X" * 80): "X" * 80,
    ("StudyInstanceUID", "anonymous-study-1"): "anonymous-study-1",
    ("FrameOfReferenceUID", "1.2.0003.4"): "1.2.0003.4",
}


@pytest.mark.parametrize(("name", "value"), MENDED)
def test_values_that_do_not_fit_their_type(tmp_path, name, value):
    found, said = segmented(one_slice(tmp_path, **{name: value}))
    assert found.get(name) == MENDED[name, value]
    (line,) = said
    assert line.startswith(f"{name} ")
    assert value.lower() not in line.removeprefix(name).lower() or len(value) == 1


@pytest.mark.parametrize("value", ["", None])
@pytest.mark.parametrize("name", ["PatientSex", "PatientBirthDate", "StudyTime", "PatientID", "PatientName"])
def test_empty_values_are_none_to_speak_of(tmp_path, name, value):
    found, said = segmented(one_slice(tmp_path, **{name: value}))
    assert (str(found[name].value or ""), said) == ("", [])


def test_the_series_own_headers_stay_as_they_are(tmp_path):
    volume = read_dicom_series(one_slice(tmp_path, PatientSex="U"))
    check_objects(volume)
    assert volume.source.headers[0].PatientSex == "U"


def test_what_cannot_be_mended_names_the_element_and_no_value(tmp_path):
    path = one_slice(tmp_path, SOPClassUID="1.2.3.4.5")
    with pytest.raises(DataError, match="SOPClassUID") as caught:
        check_objects(read_dicom_series(path))
    assert "1.2.3.4.5" not in str(caught.value)


def test_the_headers_of_a_usual_series_need_nothing(tmp_path):
    assert check_objects(read_dicom_series(write_series(tmp_path / "series", np.zeros((2, 8, 9))))) == []
