"""`tools/rater_matrix.py`: its table of Dice, and what it does with few patients and masks that are not there."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

NAN = float("nan")


@pytest.fixture
def matrix(tool):
    return tool("rater_matrix")


def test_dice_of_every_sample_and_mask(matrix):
    samples, masks = torch.zeros(2, 1, 2, 2).bool(), torch.zeros(3, 1, 2, 2).bool()
    samples[0, 0, 0], masks[0, 0, 0, 0], masks[1, 0] = True, True, True  # of 2; 1, 4 and 0 pixels
    found = matrix.dice(samples, masks)
    torch.testing.assert_close(found, torch.tensor([[2 / 3, 4 / 6, 0], [0, 0, 1]]).double())


@pytest.mark.parametrize("images", [2, 12])
def test_the_table_is_printed_and_written_for_few_patients_and_masks_that_are_missing(
    matrix, images, tmp_path, monkeypatch, capsys
):
    drawn, among = np.tile([[0.8, 0.6], [0.5, 0.7]], (images, 1, 1)), np.tile([[1.0, 0.6], [0.6, 1.0]], (images, 1, 1))
    drawn[0, :, 1] = among[0, :, 1] = among[0, 1] = NAN  # rater B did not read the first image
    patients = [str(row) for row in range(images)]
    monkeypatch.setattr(matrix, "score", lambda *_: (patients, drawn, among))
    model = SimpleNamespace(data=SimpleNamespace(raters=("A", "B")))
    monkeypatch.setattr(matrix, "load_model", lambda _: model)
    monkeypatch.setattr("sys.argv", ["rater_matrix.py", "run", "--data", "s.h5", "-o", str(tmp_path / "m.json")])
    matrix.main()
    out = capsys.readouterr().out
    assert "|  | A | B | own − others |" in out
    assert "| as A | 0.800 | 0.600 | +0.200" in out
    assert ("under 5 patients" in out) == (images == 2)
    kept = json.loads((tmp_path / "m.json").read_text(), parse_constant=pytest.fail)
    assert kept["samples"][0] == [[0.8, None], [0.5, None]]
    assert kept["own_less_others"][1]["value"] == pytest.approx(0.2)
