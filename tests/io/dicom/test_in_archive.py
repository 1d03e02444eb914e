"""An archive takes every object into the study of its series, and gives it back as it was."""

from __future__ import annotations

import json
import shutil
import subprocess
from io import BytesIO

import highdicom as hd
import numpy as np
import pydicom
import pytest
from derived_objects import KINDS, write_all
from orthanc_server import orthanc
from series_files import write_series

from modiff.io.dicom.derived import Segment
from modiff.io.dicom.series import read_dicom_series

MODALITIES = {"seg": "SEG", "sr": "SR", "rtstruct": "RTSTRUCT"}


def test_it_takes_and_gives_every_object(tmp_path):
    """By C-STORE, as the docs say, and listed by DICOMweb."""
    folder = write_series(tmp_path / "series", np.zeros((4, 20, 24)))
    volume = read_dicom_series(folder)
    mask = np.zeros(volume.shape, bool)
    mask[1:3, 5:15, 4:20] = True
    paths = write_all(tmp_path, [Segment(mask, "hypothesis 1: 81 %", "nodule", tracked="hypothesis 1")], volume)
    with orthanc(tmp_path / "archive") as archive:
        if (program := shutil.which("storescu")) is None:
            pytest.skip("needs storescu (Debian: dcmtk)")
        files = [*sorted(folder.iterdir()), *paths.values()]
        command = [program, "-R", "-aec", "ORTHANC", "localhost", str(archive.port), *map(str, files)]
        subprocess.run(command, check=True, capture_output=True)
        study = volume.source.headers[0].StudyInstanceUID
        listed = json.loads(archive.ask(f"/dicom-web/studies/{study}/series"))
        assert sorted(one["00080060"]["Value"][0] for one in listed) == ["CT", *sorted(MODALITIES.values())]
        given = {}
        for kind in KINDS:
            sent = pydicom.dcmread(paths[kind])
            given[kind] = pydicom.dcmread(BytesIO(archive.instance(sent.SOPInstanceUID)))
            assert given[kind] == sent, kind
            assert sent.Modality == MODALITIES[kind]
    (group,) = hd.sr.Comprehensive3DSR.from_dataset(given["sr"]).content.get_volumetric_roi_measurement_groups()
    target = group.referenced_segment.referenced_sop_instance_uid
    assert target == given["seg"].SOPInstanceUID
    pixels = hd.seg.Segmentation.from_dataset(given["seg"]).get_pixels_by_source_instance(
        [header.SOPInstanceUID for header in volume.source.headers], assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(pixels[..., 0] > 0, mask)
