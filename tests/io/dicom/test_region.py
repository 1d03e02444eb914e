"""Parts of the body are read where a header names one that is known, and are compared by where they lie."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from series_files import write_series

from modiff.io.dicom.region import _REGIONS, apart, region_code, region_of
from modiff.io.dicom.series import read_dicom_series


def header(term: str | None = None, code: tuple[str, str] | None = None) -> Dataset:
    made = Dataset()
    if term is not None:
        made.BodyPartExamined = term
    if code is not None:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = *code, "x"
        made.AnatomicRegionSequence = [item]
    return made


@pytest.mark.parametrize(
    ("one", "region"),
    [
        (header("CHEST"), "CHEST"),
        (header("LUNG "), "LUNG"),
        (header("BRAIN"), "BRAIN"),
        (header("DOE JANE"), None),
        (header(""), None),
        (header(), None),
        (header(code=("39607008", "SCT")), "LUNG"),
        (header(code=("T-28000", "SRT")), "LUNG"),  # the same in SNOMED RT
        (header("OTHER", code=("12738006", "SCT")), "BRAIN"),
        (header(code=("1", "99X")), None),
    ],
)
def test_what_a_header_says(one, region):
    assert region_of(one) == region


def test_a_series_says_it(tmp_path):
    for file in write_series(tmp_path / "series", np.zeros((2, 8, 9))).iterdir():
        one = pydicom.dcmread(file)
        one.BodyPartExamined = "CHEST"
        one.save_as(file)
    assert read_dicom_series(tmp_path / "series").region == "CHEST"


@pytest.mark.parametrize(
    ("one", "other", "yes"),
    [
        ("LUNG", "CHEST", False),
        ("LUNG", "CHESTABDPELVIS", False),
        ("LUNG", "WHOLEBODY", False),
        ("LUNG", "HEAD", True),
        ("BRAIN", "CHEST", True),
        ("KNEE", "SPINE", True),
        ("LUNG", None, False),
        (None, "HEAD", False),
        ("LUNG", "DOE^JANE", False),
    ],
)
def test_which_have_nothing_in_common(one, other, yes):
    assert apart(one, other) is yes
    assert apart(other, one) is yes


def test_codes_are_those_of_the_standards_dictionary():
    for term, (value, meaning, _) in _REGIONS.items():
        name = "".join(word.capitalize() for word in meaning.replace(",", "").split())
        assert getattr(codes.SCT, name).value == value, term
        assert region_code(term) == getattr(codes.SCT, name)
    assert region_code("DOE^JANE") is None
