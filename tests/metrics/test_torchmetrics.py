"""The torchmetrics classes: means of the functional values, the same from two processes as from one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torchmetrics import Metric

from modiff import metrics as M
from modiff.errors import MetricError
from modiff.metrics import functional as F

MAKERS: dict[str, Callable[[], Metric]] = {
    "ged_standard": lambda: M.EnergyDistance("standard", n=(2, 5)),
    "ged_paper": lambda: M.EnergyDistance("paper"),
    "hm_iou_standard": lambda: M.HungarianIoU("standard"),
    "hm_iou_paper": lambda: M.HungarianIoU("paper", n=(3,)),
    "sets": lambda: M.SampleSetMetrics("standard", threshold=0.7),
    "ncc_standard": lambda: M.CrossCorrelation("standard"),
    "ncc_paper": lambda: M.CrossCorrelation("paper"),
    "insight": lambda: M.Insight("standard"),
    "mean_map": M.MeanMapMetrics,
    "surface": lambda: M.ConsensusSurface("standard"),
    "calibration": lambda: M.CalibrationError(classes=1),
    "presence": lambda: M.PresenceCalibration("standard"),
}


def data(images: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Maps (images,5,1,10,10), masks (images,4,1,10,10) and read, with an image that nobody read."""
    rng = torch.Generator().manual_seed(0)
    middle = torch.rand(images, 1, 1, 10, 10, generator=rng)
    maps = (middle + 0.3 * torch.randn(images, 5, 1, 10, 10, generator=rng)).clamp(0, 1)
    masks = (middle + 0.3 * torch.randn(images, 4, 1, 10, 10, generator=rng)) > 0.6
    read = torch.rand(images, 4, generator=rng) > 0.3
    read[2] = False
    return maps, masks, read


def batches(start: int, stop: int, size: int = 2) -> list[tuple[Tensor, ...]]:
    return [tuple(x[i : min(i + size, stop)] for x in data()) for i in range(start, stop, size)]


def scored(parts: list[tuple[Tensor, ...]]) -> dict[str, dict[str, Tensor]]:
    found = {}
    for name, make in MAKERS.items():
        metric = make()
        for part in parts:
            metric.update(*part)
        found[name] = {key: value.detach().clone() for key, value in metric.compute().items()}
    return found


def one_process(rank: int, meeting: str, shares: list[tuple[int, int]], folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=len(shares))
    torch.save(scored(batches(*shares[rank])), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize("shares", [[(0, 4), (4, 7)], [(0, 7), (7, 7)]], ids=["both have images", "one has none"])
def test_two_processes_give_the_numbers_of_one(tmp_path: Path, shares: list[tuple[int, int]]) -> None:
    mp.spawn(one_process, args=(str(tmp_path / "meeting"), shares, str(tmp_path)), nprocs=2)
    expected = scored(batches(0, 7))
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, values in expected.items():
            got = {key: value.item() for key, value in found[name].items()}
            assert got == pytest.approx({key: value.item() for key, value in values.items()}, abs=1e-12, nan_ok=True), (
                name
            )


def test_the_summary_is_the_mean_of_the_defined_values_and_counts_the_rest() -> None:
    maps, masks, read = data()
    metric = M.EnergyDistance("standard")
    metric.update(maps, masks, read)
    values = F.ged(maps > 0.5, masks, read=read)
    found = {key: value.item() for key, value in metric.compute().items()}
    assert found == {"ged": pytest.approx(values.nanmean().item()), "ged_images": 7, "ged_undefined": 1}


def test_without_reduction_each_image_keeps_its_value() -> None:
    maps, masks, read = data()
    metric = M.HungarianIoU("paper", reduction="none")
    for part in batches(0, 7):
        metric.update(*part)
    expected = F.hm_iou(maps >= 0.9, masks, read=read, matching="greedy")
    assert torch.equal(metric.compute()["hm_iou"].nan_to_num(-1), expected.nan_to_num(-1))


def test_fewer_samples_are_the_first_ones() -> None:
    maps, masks, read = data()
    metric = M.EnergyDistance("standard", n=(2,), reduction="none")
    metric.update(maps, masks, read)
    expected = F.ged(maps[:, :2] > 0.5, masks, read=read)
    assert metric.compute()["ged_2"].tolist() == pytest.approx(expected.tolist(), nan_ok=True)


@pytest.mark.parametrize("metric", [M.EnergyDistance("standard", n=(9,)), M.MeanMapMetrics(n=(9,))])
def test_more_samples_than_there_are_is_refused(metric) -> None:
    maps, masks, read = data()
    with pytest.raises(MetricError, match="fewer samples"):
        metric.update(maps, masks, read)


def test_cross_correlation_of_more_samples_than_there_are_is_refused() -> None:
    maps, masks, read = data()
    with pytest.raises(MetricError, match="fewer samples"):
        M.CrossCorrelation("standard", n=(9,)).update(maps, masks, read)


def test_weights_reach_the_metric() -> None:
    maps, masks, read = data()
    weights = torch.rand(7, 5, generator=torch.Generator().manual_seed(1)) + 0.1
    metric = M.EnergyDistance("standard", reduction="none")
    metric.update(maps, masks, read, weights)
    expected = F.ged(maps > 0.5, masks, read=read, weights=weights)
    assert metric.compute()["ged"].tolist() == pytest.approx(expected.tolist(), nan_ok=True)


@pytest.mark.parametrize("name", ["ncc_standard", "insight", "surface"])
def test_a_metric_without_a_weighted_form_says_so(name: str) -> None:
    maps, masks, read = data()
    with pytest.raises(MetricError, match="weights"):
        MAKERS[name]().update(maps, masks, read, torch.ones(7, 5))


@pytest.mark.parametrize("name", MAKERS)
def test_reset_forgets_everything(name: str) -> None:
    metric = MAKERS[name]()
    metric.update(*batches(0, 2)[0])
    metric.reset()
    metric.update(*batches(3, 7, size=4)[0])
    again = MAKERS[name]()
    again.update(*batches(3, 7, size=4)[0])
    first, second = ({k: v.item() for k, v in m.compute().items()} for m in (metric, again))
    assert first == pytest.approx(second, nan_ok=True)


def test_calibration_refuses_another_number_of_classes() -> None:
    with pytest.raises(MetricError, match="classes"):
        M.CalibrationError(classes=2).update(*data())


def test_an_unknown_reduction_is_refused() -> None:
    with pytest.raises(MetricError, match="reduction"):
        M.MeanMapMetrics(reduction="sum")
