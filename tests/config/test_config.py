"""Settings: layers, round trips, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import yaml

from modiff.config.fields import to_dict, typed
from modiff.config.run import AUTO, build_config, config_from_dict, presets
from modiff.errors import ConfigError, DataError


@pytest.mark.parametrize("preset", sorted(presets().keys() - {AUTO}))
def test_every_preset_builds_and_comes_back_from_yaml(preset):
    config = build_config(preset=preset)
    assert config_from_dict(yaml.safe_load(yaml.safe_dump(to_dict(config)))) == config


def test_later_layers_win(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("training: {batch_size: 7, learning_rate: 0.5}\nmodel: {unet: {base: 24}}\n")
    config = build_config(preset="lidc", file=file, changes={"training": {"learning_rate": 0.25}})
    assert config.training.learning_rate == 0.25
    assert config.training.batch_size == 7
    assert config.model.unet.base == 24
    assert config.model.diffusion.loss == "ce"  # the preset's


@pytest.mark.parametrize("number", ["5e-4", "5E-4", "0.05e-2", "1.5e3", ".5e3", "5.e-4", "+2e3"])
def test_numbers_with_an_exponent_need_neither_point_nor_sign(tmp_path, number):
    file = tmp_path / "c.yaml"
    file.write_text(f"training: {{learning_rate: {number}}}\n")  # most of them are text to YAML 1.1
    assert build_config(file=file).training.learning_rate == float(number)


@pytest.mark.parametrize("text", ["e3", ".e3", "1e", "1e3x", "5e-4 6", "nan", "inf"])
def test_text_is_no_number(tmp_path, text):
    file = tmp_path / "c.yaml"
    file.write_text(f"training: {{learning_rate: '{text}'}}\n")
    with pytest.raises(ConfigError, match="learning_rate"):
        build_config(file=file)


def test_a_count_is_not_written_with_an_exponent(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("training: {warmup: 1e3}\n")
    with pytest.raises(ConfigError, match="warmup"):
        build_config(file=file)


def test_the_paper_preset_is_the_papers():
    config = build_config(preset="paper").model
    assert (config.diffusion.prediction, config.diffusion.loss, config.diffusion.steps) == ("eps", "mse", 250)
    assert config.mca.enabled
    assert config.ldf.enabled
    assert (config.ldf.weight, config.mca.weight) == (0.5, 0.5)


def test_the_lidc_preset_has_both_of_the_papers_modules_on():
    config = build_config(preset="lidc").model
    assert config.mca.enabled
    assert config.ldf.enabled


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {batchsize: 3}", r"training\.batchsize: no such setting"),
        ("training: {batch_size: many}", r"training\.batch_size: wrong value"),
        ("training: {batch_size: true}", r"training\.batch_size: wrong value"),
        ("training: 3", "training: is a group of settings"),
        ("model: {diffusion: {prediction: noise}}", "'eps' or 'v' or 'x0'"),
        ("- 1\n- 2", "not a mapping"),
        ("a: [", "line 2, column 1: is not YAML"),
        ("seed: 2026-13-45", "line 1, column 7: is not YAML; found '2026-13-45', which is not timestamp"),
        ("seed: !!bool x", "is not YAML; found 'x', which is not bool"),
        ("model: !!python/object/apply:os.system ['true']", "is not YAML"),
    ],
)
def test_bad_files_are_refused_with_file_and_field(tmp_path, text, message):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        build_config(file=file)
    assert "bad.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_may_begin_with_a_byte_order_mark(tmp_path):
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "own.yaml").write_text("training: {batch_size: 3}", encoding=encoding)
        assert build_config(file=tmp_path / "own.yaml").training.batch_size == 3


def test_unknown_presets_and_methods_name_the_known_ones():
    with pytest.raises(ConfigError, match="lidc"):
        build_config(preset="nope")
    with pytest.raises(ConfigError, match="modiff"):
        build_config(method="nope")


@dataclass(frozen=True)
class Plain:
    name: str
    counts: tuple[int, ...]
    value: float | None = None
    more: Mapping[str, str] | None = None


def test_plain_data_become_a_dataclass():
    data = {"name": "a", "counts": [1, 2], "value": 3, "more": {"b": "c"}}
    assert typed(Plain, data, "not plain", path="x.json", field="p") == Plain("a", (1, 2), 3.0, {"b": "c"})
    some = {"name": "a", "counts": []}
    assert typed(Plain, some, "not plain", path="x.json", field="p", optional=("value", "more")) == Plain("a", ())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"other": 1}, "p: not plain"),
        ({"name": 7}, r"p\.name: wrong value; found 7; expected text"),
        ({"counts": [True]}, r"p\.counts: wrong value"),
        ({"value": float("inf")}, r"p\.value: is out of range; found inf; expected a finite number"),
        ({"more": ["b"]}, r"p\.more: wrong value"),
    ],
)
def test_plain_data_of_another_type_are_refused_by_name(change, match):
    data = {"name": "a", "counts": [1], "value": None, "more": None} | change
    with pytest.raises(DataError, match=rf"x\.json: {match}"):
        typed(Plain, data, "not plain", path="x.json", field="p")
    with pytest.raises(DataError, match="not plain"):
        typed(Plain, {"name": "a"}, "not plain", path="x.json", field="p")
