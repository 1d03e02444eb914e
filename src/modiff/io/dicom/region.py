"""Parts of the body, as DICOM's words and codes name them."""

from __future__ import annotations

from contextlib import suppress

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from modiff.io.dicom.header import quiet, text

# Defined terms of BodyPartExamined -> SNOMED CT code and meaning (PS3.16 Annex L), and the parts that it lies in. What
# else a header says may be anything, a name too.
_REGIONS: dict[str, tuple[str, str, str]] = {
    "ABDOMEN": ("818981001", "Abdomen", "abdomen"),
    "ABDOMENPELVIS": ("818982008", "Abdomen and Pelvis", "abdomen pelvis"),
    "AORTA": ("15825003", "Aorta", "chest abdomen"),
    "BLADDER": ("89837001", "Bladder", "pelvis"),
    "BRAIN": ("12738006", "Brain", "head"),
    "BREAST": ("76752008", "Breast", "chest"),
    "CHEST": ("816094009", "Chest", "chest"),
    "CHESTABDOMEN": ("416550000", "Chest and Abdomen", "chest abdomen"),
    "CHESTABDPELVIS": ("416775004", "Chest, Abdomen and Pelvis", "chest abdomen pelvis"),
    "COLON": ("71854001", "Colon", "abdomen pelvis"),
    "CSPINE": ("122494005", "Cervical spine", "neck"),
    "ESOPHAGUS": ("32849002", "Esophagus", "neck chest abdomen"),
    "EYE": ("81745001", "Eye", "head"),
    "FOOT": ("56459004", "Foot", "leg"),
    "HAND": ("85562004", "Hand", "arm"),
    "HEAD": ("69536005", "Head", "head"),
    "HEADNECK": ("774007", "Head and Neck", "head neck"),
    "HEART": ("80891009", "Heart", "chest"),
    "HIP": ("29836001", "Hip", "pelvis leg"),
    "KIDNEY": ("64033007", "Kidney", "abdomen"),
    "KNEE": ("72696002", "Knee", "leg"),
    "LARYNX": ("4596009", "Larynx", "neck"),
    "LIVER": ("10200004", "Liver", "abdomen"),
    "LSPINE": ("122496007", "Lumbar spine", "abdomen pelvis"),
    "LUNG": ("39607008", "Lung", "chest"),
    "MEDIASTINUM": ("72410000", "Mediastinum", "chest"),
    "NECK": ("45048000", "Neck", "neck"),
    "NECKCHEST": ("417437006", "Neck and Chest", "neck chest"),
    "NECKCHESTABDOMEN": ("416152001", "Neck, Chest and Abdomen", "neck chest abdomen"),
    "NECKCHESTABDPELV": ("416319003", "Neck, Chest, Abdomen and Pelvis", "neck chest abdomen pelvis"),
    "PANCREAS": ("15776009", "Pancreas", "abdomen"),
    "PELVIS": ("816092008", "Pelvis", "pelvis"),
    "PROSTATE": ("41216001", "Prostate", "pelvis"),
    "RECTUM": ("34402009", "Rectum", "pelvis"),
    "SHOULDER": ("16982005", "Shoulder", "chest arm"),
    "SKULL": ("89546000", "Skull", "head"),
    "SPINE": ("421060004", "Spine", "neck chest abdomen pelvis"),
    "SPLEEN": ("78961009", "Spleen", "abdomen"),
    "STOMACH": ("69695003", "Stomach", "abdomen"),
    "THYROID": ("69748006", "Thyroid", "neck"),
    "TSPINE": ("122495006", "Thoracic spine", "chest"),
    "UTERUS": ("35039007", "Uterus", "pelvis"),
    "WHOLEBODY": ("38266002", "Entire body", "head neck chest abdomen pelvis arm leg"),
}


def region_of(header: Dataset) -> str | None:
    """DICOM's word for the part of the body that a header says is shown, where it is one that is known here."""
    term = text(header, "BodyPartExamined").upper()
    if term in _REGIONS:
        return term
    with suppress(Exception), quiet():  # the sequence may be empty, damaged, or without a code
        item = header.AnatomicRegionSequence[0]
        code = Code(item.CodeValue, item.CodingSchemeDesignator, item.get("CodeMeaning", ""))
        return next((name for name in _REGIONS if region_code(name) == code), None)  # codes of SNOMED RT are equal too
    return None


def region_code(term: str | None) -> Code | None:
    """The code of a word; None of one that is not known."""
    value, meaning, _ = _REGIONS.get(term or "", ("", "", ""))
    return Code(value, "SCT", meaning) if value else None


def apart(one: str | None, other: str | None) -> bool:
    """Whether two words are of parts of the body that have nothing in common; not where either is not known."""
    first, second = (set(_REGIONS[term][2].split()) if term in _REGIONS else None for term in (one, other))
    return first is not None and second is not None and not first & second
