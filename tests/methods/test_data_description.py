"""data.json: what a model knows of its training data, and what older files do not say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modiff.errors import CheckpointError
from modiff.methods.run_folder import read_data, write_json
from modiff.types import DataSpec

OLD = {"channels": ["CT"], "classes": ["nodule"], "raters": ["a", "b"], "intensity": "unit", "spacing": None}


def test_a_file_of_an_older_version_is_read(tmp_path: Path) -> None:
    write_json(tmp_path / "data.json", OLD)
    found = read_data(tmp_path / "data.json")
    assert (found.orientation, found.fit, found.modality, found.spacing_range) == (None,) * 4


def test_what_is_not_known_is_left_out() -> None:
    assert not {"orientation", "fit", "modality", "spacing_range"} & DataSpec.of().to_dict().keys()


def test_what_is_known_comes_back(tmp_path: Path) -> None:
    made = DataSpec.of(orientation="PIL", fit="crop", modality="CT", spacing=(0.7, 0.7), spacing_range=(0.5, 0.9))
    write_json(tmp_path / "data.json", made.to_dict())
    assert read_data(tmp_path / "data.json") == made


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("orientation", value) for value in ("LPX", "LL", "LRS", "")),
        *(("spacing_range", value) for value in ([0.5], [0, 1])),
        ("fit", "stretch"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, field: str, value: object) -> None:
    (tmp_path / "data.json").write_text(json.dumps(OLD | {field: value}))
    with pytest.raises(CheckpointError, match=field):
        read_data(tmp_path / "data.json")
