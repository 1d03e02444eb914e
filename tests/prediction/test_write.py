"""Figures of what is written name every hypothesis, and show the slices of a scan that matter."""

from __future__ import annotations

import io
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from described import spec
from local import Local
from matplotlib.colors import to_hex
from PIL import Image

from modiff.io.volume import Volume
from modiff.prediction import write
from modiff.prediction.predict import Prediction, predict
from modiff.prediction.predictor import Predictor
from modiff.prediction.settings import Settings
from modiff.prediction.summary import Summary, summarise
from modiff.prediction.windows import Window
from modiff.prediction.write import overlay
from modiff.types import Samples
from modiff.viz.figures import COLOURS, encoded


def disc(size: int, row: float, column: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    return np.hypot(rows - row, columns - column) <= radius


def summary_of(masks: list[np.ndarray], **more: object) -> Summary:
    maps = torch.from_numpy(np.stack(masks)).float()[None, :, None]
    return summarise(Samples.uniform(maps), **more)


class TestOverlay:
    whole = Window((64, 64), (64, 64), 0, 0)
    image = np.random.default_rng(0).random((1, 64, 64), dtype=np.float32)

    def text(self, summary: Summary, window: Window | None = None) -> str:
        figure = overlay(self.image, summary, window or self.whole, title="the title")
        encoded(figure)
        legends = [label.get_text() for legend in figure.legends for label in legend.get_texts()]
        titles = [axes.get_title() for axes in figure.axes]
        return "\n".join([*legends, *titles, *(text.get_text() for text in figure.texts)])

    def test_every_hypothesis_is_named_with_its_probability(self):
        masks = [disc(64, 30, 30, 8)] * 5 + [disc(64, 30, 30, 3)] * 3 + [np.zeros((64, 64))] * 2
        text = self.text(summary_of(masks, spacing=(0.5, 0.5)))
        assert "50 %   49 mm²" in text
        assert "30 %   7.2 mm²" in text
        assert "20 %   nothing there" in text
        assert "the title" in text

    def test_what_is_not_drawn_is_counted(self):
        masks = [disc(64, 6 + 6 * i, 6 + 6 * i, 2) for i in range(10)]
        assert "in grey: 4 rarer hypotheses, 40 %" in self.text(summary_of(masks))

    def test_every_sample_has_an_outline_in_the_colour_of_its_hypothesis(self):
        radii = [8, 8.3, 8.6, 3, 3.2, 15]
        figure = overlay(self.image, summary_of([disc(64, 30.2, 30.1, radius) for radius in radii]), self.whole)
        lines = figure.axes[1].collections
        colours = [to_hex(line.get_edgecolor()[0]).upper() for line in lines]
        assert {colour: colours.count(colour) for colour in colours} == {COLOURS[0]: 3, COLOURS[1]: 2, COLOURS[2]: 1}
        bold = [line for line in lines if line.get_alpha() == 1]
        assert len(bold) == 3
        assert all(line.get_linewidth()[0] < bold[0].get_linewidth()[0] for line in lines if line not in bold)
        assert [len(axes.collections) for axes in figure.axes[4:7]] == [3, 2, 1]

    def test_sizes_come_with_their_spread(self):
        text = self.text(summary_of([disc(64, 30, 30, radius) for radius in (8, 8.1, 8.3)]))
        areas = sorted(int(disc(64, 30, 30, radius).sum()) for radius in (8, 8.1, 8.3))
        assert f"100 %   {areas[1]} ({areas[0]}–{areas[2]}) px" in text
        assert "median (5 %–95 %)" in text

    def test_an_image_that_nobody_marks_is_drawn(self):
        assert "100 %   nothing there" in self.text(summary_of([np.zeros((64, 64))] * 3))

    def test_several_classes_are_drawn(self):
        maps = torch.zeros(1, 2, 3, 64, 64)
        maps[0, 0, 0, 5:9, 5:9] = maps[0, 0, 2, 20:30, 30:50] = maps[0, 1, 1, 5:9, 5:9] = 1
        figure = overlay(self.image, summarise(Samples.uniform(maps), classes=["core", "rim", "node"]), self.whole)
        legend = figure.axes[0].get_legend()
        assert legend is not None
        assert [text.get_text() for text in legend.get_texts()] == ["core", "rim", "node"]

    @pytest.mark.parametrize("window", [Window((30, 40), (64, 64), -17, -12), Window((100, 64), (64, 64), 60, -30)])
    def test_only_the_images_own_part_of_the_window_is_shown(self, window):
        self.text(summary_of([np.ones(window.image)]), window)
        figure = overlay(self.image, summary_of([np.ones(window.image)]), window)
        rows, columns = window.covered
        shown = figure.axes[0].images[0].get_array()
        assert shown is not None
        assert shown.shape == (rows.stop - rows.start, columns.stop - columns.start)
        assert figure.axes[0].get_xticklabels()[0].get_text() == str(columns.start)


def predicted(array: np.ndarray, **asked: Any) -> Prediction:
    predictor = Predictor(Local(wiggle=0), data=spec({"size": (32, 32), "intensity": "unit", "classes": ["lesion"]}))
    return predict(Volume(array[None], np.eye(4), Path("scan.nii"), "NIfTI"), predictor, Settings(n=2, **asked))


def scan(marked: list[int], slices: int = 40) -> np.ndarray:
    values = np.zeros((slices, 60, 60), np.float32)
    values[marked, 20:30, 35:50] = 1
    return values


def titles(monkeypatch: pytest.MonkeyPatch, array: np.ndarray, **options: Any) -> list[str]:
    shown: list[str] = []
    plain = write.contact_sheet

    def watched(rows: Any, **more: Any) -> Any:
        shown.extend(cell.title for row in rows for cell in row)
        return plain(rows, **more)

    monkeypatch.setattr(write, "contact_sheet", watched)
    write.slices_figure(predicted(array, **options))
    return shown


def test_the_sheet_shows_the_marked_slices_and_one_on_either_side(monkeypatch):
    assert titles(monkeypatch, scan([5, 6, 7])) == [f"slice {z}" for z in (4, 5, 6, 7, 8)]


def test_slices_are_numbered_as_in_the_scan(monkeypatch):
    shown = titles(monkeypatch, scan([5, 6, 7]), roi="10:58,10:40,6:20")
    assert shown == ["slice 6", "slice 7", "slice 8"]


def test_many_slices_are_shown_in_part(monkeypatch):
    shown = titles(monkeypatch, scan(list(range(40))))
    assert len(shown) == write.MAX_SLICES
    assert (shown[0], shown[-1]) == ("slice 0", "slice 39")


def test_one_slice_stands_for_a_scan_in_which_nothing_is_marked(monkeypatch):
    assert titles(monkeypatch, scan([])) == ["slice 20"]


@pytest.mark.parametrize("marked", [[5, 6, 7], []])
def test_both_figures_are_png(marked):
    prediction = predicted(scan(marked))
    for data in (write.key_figure(prediction), write.slices_figure(prediction)):
        assert Image.open(io.BytesIO(data)).format == "PNG"


@pytest.mark.parametrize("words", [["--series", "1.2.3.42"], ["--series=1.2.3.42"]])
def test_a_public_command_names_neither_the_series_path_nor_its_uid(words):
    path = Path("ward/DOE_JOHN")
    scan = Volume(np.zeros((1, 1, 2, 2)), None, path, "DICOM")
    found = write.public_command(shlex.join(["modiff", "sample", "lidc", str(path), *words, "-n", "4"]), scan, path)
    assert "DOE" not in found
    assert "1.2.3.42" not in found
    assert found.startswith("modiff sample lidc SERIES --series")
    assert found.endswith("UID -n 4")
