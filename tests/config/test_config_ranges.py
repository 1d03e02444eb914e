"""Every number that can be set says what it may be, and anything else is refused."""

from __future__ import annotations

import importlib
import math
import pkgutil
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import get_args, get_type_hints

import pytest

import modiff.config
from modiff.config.data import PhantomConfig
from modiff.config.evaluation import EvaluationConfig
from modiff.config.fields import Range, check
from modiff.config.methods import CCDMConfig, DiffusionConfig
from modiff.config.run import MODELS, build_config, check_ranges
from modiff.errors import ConfigError


def config_classes():
    """Every dataclass of settings, found in the package itself."""
    modules = [
        importlib.import_module(f"modiff.config.{item.name}") for item in pkgutil.iter_modules(modiff.config.__path__)
    ]
    found = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and is_dataclass(value) and value.__module__ == module.__name__
    }
    return sorted(found - {Range}, key=lambda kind: kind.__qualname__)


def kinds(hint):
    """The plain types in a type hint."""
    parts = [kind for kind in get_args(hint) if kind is not Ellipsis]
    return (
        set().union(*map(kinds, parts)) if parts and all(isinstance(p, type) or get_args(p) for p in parts) else {hint}
    )


NUMBERS = [
    (kind, item)
    for kind in config_classes()
    for item in fields(kind)
    if kinds(get_type_hints(kind)[item.name]) & {int, float}
]


def test_the_walk_finds_the_settings():
    assert {*MODELS.values(), PhantomConfig, EvaluationConfig} <= set(config_classes())
    assert len(NUMBERS) > 100


@pytest.mark.parametrize(("kind", "item"), NUMBERS, ids=lambda value: getattr(value, "__name__", None) or value.name)
def test_every_number_has_a_range_that_refuses_what_is_not_finite(kind, item):
    within = item.metadata["range"]
    several = isinstance(item.default, tuple)
    for bad in (math.nan, math.inf, -math.inf):
        assert not within.allows((bad,) if several else bad)
    assert NoneType in kinds(get_type_hints(kind)[item.name]) or within.allows(item.default)


@pytest.mark.parametrize("value", [math.nan, math.inf, -5.0])
@pytest.mark.parametrize(
    "name",
    [
        "ldf.weight",
        "mca.weight",
        "presence.weight",
        "presence.map_weight",
        "presence.intensity_augmentation",
        "diffusion.ce_weight",
        "diffusion.dice_weight",
    ],
)
def test_weights_are_finite_and_not_negative(name, value):
    group, field = name.split(".")
    with pytest.raises(ConfigError, match=rf"model\.{name}: is out of range"):
        check_ranges(build_config(changes={"model": {group: {field: value}}}))


def test_a_file_cannot_hold_what_is_not_finite(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("training: {gradient_clip: .nan}\n")
    with pytest.raises(ConfigError, match=r"c\.yaml: training\.gradient_clip: is out of range; found nan"):
        build_config(file=file)


def test_the_message_names_field_value_range_and_unit():
    with pytest.raises(ConfigError) as caught:
        check_ranges(build_config(changes={"training": {"batch_size": 0}, "model": {"unet": {"base": 16}}}))
    assert str(caught.value) == "training.batch_size: is out of range; found 0; expected from 1 to 65536 images"


def test_numbers_of_a_tuple_are_checked_one_by_one():
    with pytest.raises(
        ConfigError, match=r"model\.ldf\.kernels: .* found \[3, 4\]; expected 1 to 16 values, each from 1 to 127, odd"
    ):
        check_ranges(build_config(changes={"model": {"ldf": {"kernels": [3, 4]}}}))


@pytest.mark.parametrize(
    ("within", "inside", "outside", "words"),
    [
        (Range(low=1), [1, 10**400], [0, 0.999], "1 or more"),
        (Range(low=0, above=True), [1e-9], [0.0], "more than 0"),
        (Range(low=0, high=1), [0, 1], [1.001, -0.001], "from 0 to 1"),
        (Range(low=0, high=1, above=True), [1], [0], "above 0, up to 1"),
        (Range(low=0, high=1, above=True, below=True), [0.5], [0, 1], "between 0 and 1"),
        (Range(), [-1e9, 0], ["3", math.nan], "finite"),
    ],
)
def test_ranges(within, inside, outside, words):
    assert all(map(within.allows, inside))
    assert not any(map(within.allows, outside))
    assert within.text() == words


def test_the_defaults_of_every_method_are_within_their_ranges():
    for method in MODELS:
        check_ranges(build_config(method=method))
    check(CCDMConfig())


def test_a_word_that_is_not_a_choice_is_refused_wherever_it_stands():
    config = MODELS["modiff"](diffusion=DiffusionConfig(schedule="quartic"))
    with pytest.raises(ConfigError, match=r"'cosine' or 'linear' or 'sigmoid'") as error:
        check(config, "model.")
    assert error.value.field == "model.diffusion.schedule"
