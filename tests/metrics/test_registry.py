"""The registry is whole: every metric has names, columns and a direction, and reading them is cheap."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from modiff import metrics as M
from modiff.errors import ConfigError
from modiff.metrics import PROTOCOLS
from modiff.metrics.protocols import SampleSet
from modiff.metrics.registry import COLUMNS, GAP, METRICS, NAMES, POOLED, WITHOUT_THRESHOLD, chosen, columns_of, values


def test_names_do_not_import_torch() -> None:
    code = "import sys; from modiff.metrics.registry import NAMES; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
@pytest.mark.parametrize("name", METRICS)
def test_a_metric_gives_its_columns_one_value_per_image(name: str, protocol: M.Protocol) -> None:
    rng = torch.Generator().manual_seed(0)
    maps, masks = torch.rand(3, 4, 1, 8, 8, generator=rng), torch.rand(3, 2, 1, 8, 8, generator=rng) > 0.5
    found = values(SampleSet(maps, masks), name, protocol, protocol.threshold, 3)
    assert {column for column in found if not column.startswith(GAP)} == set(COLUMNS[name])
    assert {value.shape for value in found.values()} == {(3,)}


def test_what_several_protocols_share_is_computed_once() -> None:
    masks = torch.rand(2, 3, 1, 6, 6, generator=torch.Generator().manual_seed(1)) > 0.5
    samples = SampleSet(masks, masks)
    first, second = (values(samples, "brier", protocol, 0.5, 3) for protocol in PROTOCOLS.values())
    assert first is second


def test_metrics_are_chosen_in_the_order_of_tables() -> None:
    assert chosen(["brier", "ged", "brier"]) == ("ged", "brier")
    assert chosen(["all"]) == tuple(METRICS)


def test_an_unknown_metric_is_named() -> None:
    with pytest.raises(ConfigError, match="dise"):
        chosen(["ged", "dise"])


def test_columns_of_a_table_of_methods_have_a_better_side() -> None:
    assert columns_of(METRICS)[:4] == ["ged", "hm_iou", "ncc", "ci"]
    assert all(NAMES[column][1] is not None for column in columns_of(METRICS))
    assert not set(columns_of(METRICS)) & set(POOLED)


def test_no_threshold_enters_what_is_computed_from_maps() -> None:
    maps = {name for name, metric in METRICS.items() if metric.of_maps}
    assert maps == {"ncc", "soft_dice", "brier", "ece", "uncertainty_ncc", "uncertainty_auroc"}
    assert maps | {GAP} == WITHOUT_THRESHOLD


@pytest.mark.parametrize(
    ("metric", "higher"),
    [(M.EnergyDistance, False), (M.HungarianIoU, True), (M.SampleSetMetrics, None), (M.PresenceCalibration, False)],
)
def test_a_torchmetrics_class_knows_which_side_is_better(metric: type, higher: bool | None) -> None:
    assert metric.higher_is_better is higher
