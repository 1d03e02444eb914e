"""Headers of a series made fit for objects that refer to it: elements that do not fit their type, and character sets.

Anonymisers and old scanners leave values that the standard does not allow. What it says how to read is read so (PS3.5
6.2), what it allows to be empty is left empty, identifiers are copied as they are, and the rest is left out. No
value is told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import date

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.valuerep import PersonName

from modiff.io.dicom.header import STANDALONE, TEXTS, declared_sets, quiet

UTF8 = "ISO_IR 192"
MAY_BE_EMPTY = (  # of type 2 in PS3.3 C.7.1.1 and C.7.2.1
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
_OF_ANIMALS = (  # 1C and 2C in C.7.1.1: of a patient that is not human
    *("PatientSpeciesDescription", "PatientSpeciesCodeSequence", "PatientBreedDescription", "PatientBreedCodeSequence"),
    *("BreedRegistrationSequence", "ResponsiblePerson", "ResponsiblePersonRole", "ResponsibleOrganization"),
)
REFERRED = ("SOPInstanceUID", "SOPClassUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
_PATIENT = 0x0010  # the group of which a segmentation may have all that the series has
_IMAGE = (0x0020, 0x0028)  # groups of how a slice lies and how its pixels are stored
_NEEDED = (*MAY_BE_EMPTY, *REFERRED, "SpecificCharacterSet", "Modality", "SliceThickness", "SpacingBetweenSlices")
_FORMS = {  # of values, as PS3.5 Table 6.2-1 has them
    "AS": r"\d{3}[DWMY]",
    "CS": r"[A-Z0-9 _]{0,16}",
    "DA": r"\d{8}",
    "DS": r" *[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)? *",
    "IS": r" *[+-]?\d+ *",
    "TM": r"([01]\d|2[0-3])([0-5]\d(([0-5]\d|60)(\.\d{1,6})?)?)?",
    "UI": r"(0|[1-9]\d*)(\.(0|[1-9]\d*))*",
}
_LENGTHS = {"DS": 16, "IS": 12, "LO": 64, "PN": 64, "SH": 16, "UI": 64}  # at most; of a name each of its groups
_ESCAPES = re.compile(r"\x1b\$?[()\-][A-Z]|\x1b\$[@B]")  # from set to set; pydicom leaves some in a text
_SEXES = {"M", "F", "O", ""}
_OLD = {"DA": (r"\d{4}\.\d\d\.\d\d", "."), "TM": (r"\d\d:\d\d(:\d\d(\.\d+)?)?", ":")}  # of ACR-NEMA 300


def mended(header: Dataset, *, full: bool = False, wide: bool = False) -> tuple[Dataset, list[str]]:
    """A copy of a header that a segmentation can be made from, and in words what was changed for it.

    It has what the standard asks for. full: also what it allows of patient, study and scanner. wide: its texts are
    UTF-8, as texts that are added to them need it.
    """
    made, said = FileDataset("", {}, file_meta=header.file_meta), list[str]()
    made.update(header)
    animal = any(name.startswith("PatientSpecies") for name in map(keyword_for_tag, made.keys()))
    for tag in () if full else list(made.keys()):
        if not (tag.group in _IMAGE or keyword_for_tag(tag) in (*_NEEDED, *(_OF_ANIMALS if animal else ()))):
            del made[tag]
    with quiet():
        if text := _recode(made, header):
            said.append(text)
        elif wide:
            _renew(made)
            put(made, "SpecificCharacterSet", UTF8)
        for element in [element for element in made if _goes_along(element)]:
            if text := _fit(made, element):
                said.append(text)
    for name in MAY_BE_EMPTY:  # files without identity often lack it
        if name not in made:
            put(made, name, None)
    return made, said


def put(header: Dataset, name: str, value: object) -> None:
    """Sets an element by replacing it: headers share their elements."""
    tag = tag_for_keyword(name)
    assert tag is not None
    header[tag] = DataElement(tag, dictionary_VR(tag), value)


def _goes_along(element: DataElement) -> bool:
    return element.tag.group == _PATIENT or element.keyword in (*MAY_BE_EMPTY, *REFERRED)


def _fit(header: Dataset, element: DataElement) -> str | None:
    """Mends an element of `header` that does not fit its type; in words how."""
    name, kind, text = element.keyword or str(element.tag), element.VR, str(element.value or "").strip("\0 ")
    values = element.value if element.VM > 1 else [text]
    if kind == "SQ" or all(_fits(name, kind, str(value)) for value in values):
        return None
    if kind in _OLD and re.fullmatch(_OLD[kind][0], text) and _fits(name, kind, text.replace(_OLD[kind][1], "")):
        put(header, name, text.replace(_OLD[kind][1], ""))
        return f"{name} is written as DICOM has it now"
    if kind in ("LO", "PN", "SH", "UI"):  # identifiers and names: a viewer must find the same
        return f"{name} does not fit its type {kind}: it is copied as it is"
    if name in MAY_BE_EMPTY:
        put(header, name, None)
        return f"{name} does not fit its type {kind}: it is left empty"
    del header[element.tag]
    return f"{name} does not fit its type {kind}: it is left out"


def _fits(name: str, kind: str, text: str) -> bool:
    """Whether an element of a type may have this value."""
    if name == "PatientSex":
        return text in _SEXES
    if kind == "PN":
        return all(len(group) <= _LENGTHS["PN"] and group.count("^") < 5 for group in text.split("="))
    if text and (len(text) > _LENGTHS.get(kind, len(text)) or not re.fullmatch(_FORMS.get(kind, r"(?s).*"), text)):
        return False
    if kind == "DA" and text:
        try:
            date(int(text[:4]), int(text[4:6]), int(text[6:]))
        except ValueError:
            return False
    return True


def _recode(made: Dataset, header: Dataset) -> str | None:
    """Turns the texts of `made` to UTF-8 unless its character set is one that needs no care; in words why."""
    terms, codecs = declared_sets(header), header.original_character_set
    codec = (codecs if isinstance(codecs, str) else codecs[0]) if codecs else "latin-1"
    foreign = not all(map(str.isascii, _texts(made)))
    fits = terms != [UTF8] or not foreign or codec != "latin-1"
    if not terms and not foreign:
        made.pop("SpecificCharacterSet", None)  # it may be there, and empty
    if (len(terms) == 1 and terms[0] in STANDALONE and fits) or (not terms and not foreign):
        return None
    _renew(made)
    put(made, "SpecificCharacterSet", UTF8)
    if len(terms) > 1:
        return "SpecificCharacterSet has several values: texts are UTF-8 now"
    what = "does not fit the texts" if not fits else "is not a defined term" if any(terms) else "is missing"
    return f"SpecificCharacterSet {what}: texts, read as {codec}, are UTF-8 now"


def _texts(header: Dataset) -> Iterator[str]:
    for element in header:
        if element.VR == "SQ":
            for item in element.value:
                yield from _texts(item)
        elif element.VR in TEXTS:
            yield str(element.value)


def _renew(header: Dataset) -> None:
    """Replaces texts by ones that know no bytes of another character set; elements are replaced, not changed."""
    for element in list(header):
        with suppress(Exception):  # what cannot be said again stays
            if element.VR == "SQ":
                items = []
                for item in element.value:
                    items.append(Dataset(item))
                    _renew(items[-1])
                header[element.tag] = DataElement(element.tag, "SQ", Sequence(items))
            elif element.VR in TEXTS and element.value:
                kind, several = PersonName if element.VR == "PN" else str, element.VM > 1
                texts = [kind(_ESCAPES.sub("", str(text))) for text in (element.value if several else [element.value])]
                header[element.tag] = DataElement(element.tag, element.VR, texts if several else texts[0])
