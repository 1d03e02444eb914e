"""A scan's pictures show the slices that matter."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from described import spec
from local import Local
from PIL import Image

from modiff.prediction import volume_pictures
from modiff.prediction.predictor import Predictor
from modiff.prediction.region import Box
from modiff.prediction.volume_summary import VolumeSummary, summarise_volume
from modiff.prediction.volumes import VolumeSamples, plan_windows, sample_volume

DATA: dict[str, Any] = {"size": (32, 32), "intensity": "unit", "classes": ["lesion"]}


def made(array: np.ndarray, **options: Any) -> tuple[VolumeSamples, VolumeSummary]:
    predictor = Predictor(Local(wiggle=0), data=spec(DATA))
    samples = sample_volume(predictor, array, plan_windows(predictor, array.shape, **options), 2)
    return samples, summarise_volume(samples, voxel_mm3=1, spacing=(1, 1, 1))


def scan(marked: list[int], slices: int = 40) -> np.ndarray:
    values = np.zeros((slices, 60, 60), np.float32)
    values[marked, 20:30, 35:50] = 1
    return values


def titles(monkeypatch: pytest.MonkeyPatch, array: np.ndarray, **options: Any) -> list[str]:
    from modiff.viz import figures

    shown: list[str] = []
    plain = figures.contact_sheet

    def watched(rows: Any, **more: Any) -> Any:
        shown.extend(cell.title for row in rows for cell in row)
        return plain(rows, **more)

    monkeypatch.setattr(figures, "contact_sheet", watched)
    volume_pictures.slices_picture(*made(array, **options))
    return shown


def test_the_sheet_shows_the_marked_slices_and_one_on_either_side(monkeypatch):
    assert titles(monkeypatch, scan([5, 6, 7])) == [f"slice {z}" for z in (4, 5, 6, 7, 8)]


def test_slices_are_numbered_as_in_the_scan(monkeypatch):
    roi = Box.parse("10:58,10:40,6:20", (40, 60, 60))
    assert titles(monkeypatch, scan([5, 6, 7]), roi=roi) == ["slice 6", "slice 7", "slice 8"]


def test_many_slices_are_shown_in_part(monkeypatch):
    shown = titles(monkeypatch, scan(list(range(40))))
    assert len(shown) == volume_pictures.MAX_SLICES
    assert (shown[0], shown[-1]) == ("slice 0", "slice 39")


def test_one_slice_stands_for_a_scan_in_which_nothing_is_marked(monkeypatch):
    assert titles(monkeypatch, scan([])) == ["slice 20"]


@pytest.mark.parametrize("marked", [[5, 6, 7], []])
def test_both_pictures_are_png(marked):
    samples, summary = made(scan(marked))
    for data in (volume_pictures.key_picture(samples, summary), volume_pictures.slices_picture(samples, summary)):
        assert Image.open(io.BytesIO(data)).format == "PNG"


def test_the_cut_out_holds_all_that_is_marked():
    _, summary = made(scan([5, 6]))
    rows, columns = volume_pictures._cut_out(summary)
    marked = summary.masks.any((0, 1, 2))
    outside = marked.copy()
    outside[rows, columns] = False
    assert marked.any()
    assert not outside.any()
