"""The page on metrics says what the package does, and its script's predictors are what they are called."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from oracles import discs

from modiff.metrics import functional
from modiff.metrics.published import published
from modiff.metrics.registry import COLUMNS
from modiff.rng import seeds_for

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", COLUMNS)
def test_the_page_names_every_metric_that_can_be_asked_for(name):
    assert f"`{name}`" in PAGE


def test_the_pages_pictures_are_there():
    pictures = re.findall(r"\]\((img/[^)]*)\)", PAGE)
    assert len(pictures) >= 9
    assert all((ROOT / "docs" / picture).is_file() for picture in pictures)


@pytest.mark.parametrize("protocol", ["standard", "paper"])
def test_published_tables_print_the_packages_numbers(protocol):
    heading = f"{protocol.capitalize()} protocol, LIDC"
    lines = PAGE[PAGE.index(heading) :].split("\n\n")[1].splitlines()
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    names = {"GED": "ged", "HM-IoU": "hm_iou", "NCC": "ncc", "CI": "ci"}
    known = {
        (v.method, v.metric, v.n, v.value, v.protocol_stated) for v in published(dataset="lidc", protocol=protocol)
    }
    printed = {
        (row[0], names[column.split()[0]], int(column.split("=")[1]), float(cell), not row[1].endswith("*"))
        for row in rows
        for column, cell in zip(head[2:], row[2:], strict=True)
        if cell
    }
    assert len(printed) > 15
    assert printed <= known


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("lidc_predictors", ROOT / "tools" / "lidc_predictors.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def batch():
    return discs(12).batch(range(12))


def test_exact_raters_have_no_distance(script, batch):
    samples = script.exact(batch.masks, seeds_for(0, batch.case), 16)
    torch.testing.assert_close(functional.ged(samples, batch.masks), torch.zeros(12, dtype=torch.float64))


def test_iid_raters_are_raters(script, batch):
    samples = script.iid(batch.masks, seeds_for(0, batch.case), 16)
    nearest = functional.pairwise_iou(samples, batch.masks).amax(2)
    assert bool((nearest == 1).all())
    assert not torch.equal(samples, script.exact(batch.masks, None, 16))


def test_raters_moved_by_nothing_are_iid_raters(script, batch):
    seeds = seeds_for(0, batch.case)
    assert torch.equal(script.jittered(0.0)(batch.masks, seeds, 8), script.iid(batch.masks, seeds, 8))


def test_raters_are_moved_as_far_as_is_said(script, batch):
    """The centre of mass of a disc moves by a normal distance of the deviation asked for."""
    disc = batch.masks[:1, :1].expand(200, 1, -1, -1, -1)
    moved = script.jittered(1.0)(disc, seeds_for(0, [str(i) for i in range(200)]), 4).double()
    place = torch.arange(16, dtype=torch.float64)
    centre = (moved.sum(-1) * place).sum(-1) / moved.sum((-1, -2))
    assert float(centre.std()) == pytest.approx(1.0, abs=0.1)
