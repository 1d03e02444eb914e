"""What a benchmark trains: every row its own change and nothing else, the same budget, batches and seeds for all."""

from __future__ import annotations

from dataclasses import replace

import pytest

from modiff.benchmark.plan import FILTERS, ROWS, BenchmarkSettings, check_names, configure, rows_of
from modiff.config.fields import to_dict
from modiff.errors import ConfigError
from modiff.methods.run_folder import differences
from modiff.types import DataSpec

SETTINGS = BenchmarkSettings(budget="1000img", seeds=(0, 1), batch_size=8)


def row(name):
    return rows_of([name])[0]


def config(name, seed=0, **changed):
    return configure(row(name), BenchmarkSettings(**{"budget": "1000img", "batch_size": 8, **changed}), seed)


@pytest.mark.parametrize("name", ROWS)
def test_every_row_has_the_same_budget_batches_augmentation_and_seed(name):
    made = configure(row(name), replace(SETTINGS, deformation=0.5), 1)
    shared = made.training.budget, made.training.batch_size, made.training.augment, made.training.deformation
    assert (*shared, made.seed) == ("1000img", 8, True, 0.5, 1)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("modiff-neither", ["model.ldf.enabled: True → False", "model.mca.enabled: True → False"]),
        ("modiff-mca", ["model.ldf.enabled: True → False"]),
        ("modiff-ldf", ["model.mca.enabled: True → False"]),
        *((f"modiff-{name}", [f"model.ldf.filter: ldf → {name}"]) for name in FILTERS),
    ],
)
def test_a_variant_differs_from_modiff_in_its_part_alone(name, changed):
    assert differences(config("modiff"), config(name)) == changed


@pytest.mark.parametrize("method", ["ccdm", "cimd"])
def test_controls_have_modiffs_stem_and_presence_head(method):
    modiff, stem, hurdle, both = (
        config(n).model for n in ("modiff", *(f"{method}-{c}" for c in ("stem", "hurdle", "both")))
    )
    assert stem.unet.stem == both.unet.stem == modiff.unet.stem > 1
    assert hurdle.presence == both.presence == modiff.presence
    assert (stem.presence.mode, hurdle.unet.stem, both.prompt) == ("implicit", 1, True)


def test_settings_of_a_method_reach_its_variants_and_those_of_a_row_win():
    changes = (
        "all.training.warmup=5",
        "modiff.model.unet.base=16",
        "modiff.model.ldf.enabled=true",
        "modiff-mca.model.unet.base=24",
    )
    assert config("modiff", changes=changes).model.unet.base == 16
    assert config("modiff-ldf", changes=changes).model.unet.base == 16
    assert config("modiff-mca", changes=changes).model.unet.base == 24
    assert not config("modiff-mca", changes=changes).model.ldf.enabled
    assert config("ccdm", changes=changes).model == config("ccdm").model
    assert config("ccdm", changes=changes).training.warmup == 5


def test_a_value_is_read_as_yaml():
    made = config("prob_unet", changes=("prob_unet.model.channels=[8, 16]",))
    assert made.model.channels == (8, 16)


@pytest.mark.parametrize(
    "setting",
    [
        "training.budget=2h",
        "training.batch_size=1",
        "seed=3",
        "trainer.devices=4",
        "method=ccdm",
        "preset=quick",
        "training={warmup: 3, batch_size: 4}",
    ],
)
def test_what_all_share_cannot_be_set_for_one(setting):
    with pytest.raises(ConfigError, match="is set for the whole benchmark"):
        BenchmarkSettings(budget="20m", changes=(f"modiff.{setting}",))


@pytest.mark.parametrize("text", ["modiff", "modiff=3", "modiff.=3", ".model=3", "modiff.model.unet.base"])
def test_what_is_no_setting_is_refused(text):
    with pytest.raises(ConfigError, match="is not a setting"):
        BenchmarkSettings(budget="20m", changes=(text,))


@pytest.mark.parametrize("metrics", [("ece",), ("presence",), ("ece", "sample_diversity")])
def test_metrics_that_no_table_has_are_refused(metrics):
    with pytest.raises(ConfigError, match="are not shown in the tables"):
        BenchmarkSettings(budget="20m", metrics=metrics)


@pytest.mark.parametrize("setting", ["training.learning_rate=-1", "model.latent_dim=-1", "model.beta=.inf"])
def test_numbers_out_of_range_are_refused_before_anything_is_trained(setting):
    with pytest.raises(ConfigError, match="is out of range"):
        check_names(rows_of(["prob_unet"]), BenchmarkSettings(budget="20m", changes=(f"prob_unet.{setting}",)))


@pytest.mark.parametrize("changed", [{"changes": ("mose.model.experts=2",)}, {"presets": {"mose": "mose"}}])
def test_a_setting_of_what_is_not_trained_is_refused(changed):
    with pytest.raises(ConfigError, match="is not a method of this benchmark; found mose"):
        check_names(rows_of(["ccdm"]), BenchmarkSettings(budget="20m", **changed))


def test_an_unknown_setting_is_refused_before_anything_is_trained():
    with pytest.raises(ConfigError, match=r"model\.unet\.bass: no such setting"):
        check_names(rows_of(["modiff"]), BenchmarkSettings(budget="20m", changes=("modiff.model.unet.bass=3",)))


def test_groups_add_their_rows_once():
    rows = [made.key for made in rows_of(["modiff", "ccdm"], ablations=True, edges=True, controls=True)]
    assert len(rows) == len(set(rows))
    assert set(rows) >= {"modiff", "modiff-neither", "modiff-sobel", "ccdm-both", "cimd", "cimd-stem"}
    assert "mose" not in rows


@pytest.mark.parametrize("asked", [["u_net"], []])
def test_no_method_or_an_unknown_one_is_refused(asked):
    with pytest.raises(ConfigError, match="methods: no"):
        rows_of(asked)


def test_a_preset_can_be_named():
    quick = config("modiff", presets={"modiff": "quick"})
    assert quick.preset == "quick"
    assert to_dict(quick)["model"]["presence"]["base"] == 16


@pytest.mark.parametrize("name", ["ccdm-stem", "cimd-hurdle", "ccdm-both", "cimd-both"])
def test_controls_can_be_built(name):
    import torch

    from modiff.methods.registry import build

    made = configure(row(name), SETTINGS, 0)
    with torch.device("meta"):
        model = build(made.method, made.model, DataSpec.of(prompt="centre"))
    assert sum(parameter.numel() for parameter in model.parameters()) > 1e6


def test_the_same_scoring_in_another_order_is_the_same():
    asked = {"ns": (32, 16), "thresholds": (0.9, 0.5), "metrics": ("ncc", "ged")}
    turned = {name: values[::-1] for name, values in asked.items()}
    assert BenchmarkSettings(budget="20m", **asked) == BenchmarkSettings(budget="20m", **turned)
