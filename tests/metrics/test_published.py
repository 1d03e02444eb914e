"""The table of published numbers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from modiff.errors import MetricError
from modiff.metrics.published import published


def test_every_number_is_a_plausible_value_of_its_metric() -> None:
    assert all(0 < record.value < 1 for record in published())


def test_no_number_stands_twice() -> None:
    keys = [(r.source.title, r.source.table, r.dataset, r.method, r.metric, r.n) for r in published()]
    assert len(keys) == len(set(keys))


def test_values_can_be_picked() -> None:
    found = published(dataset="lidc", protocol="standard", metric="ged", n=16, method="MoSE")
    assert {(record.source.reference, record.value) for record in found} == {
        ("arXiv 2303.08888", 0.218),
        ("Ahn, Kwak, Seo, Cho", 0.2176),
    }


def test_numbers_of_one_table_can_be_of_different_protocols() -> None:
    table = [
        r
        for r in published(dataset="lidc", metric="ged", n=16)
        if r.source.table == "Table 1" and not r.protocol_stated
    ]
    protocols = {r.method: r.protocol for r in table}
    assert (protocols["MoDiff"], protocols["CCDM"], protocols["MoSE"]) == ("paper", "paper", "standard")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(MetricError, match="expected lidc, ms_mri"):
        published(dataset="brats")


def test_published_numbers_need_no_torch() -> None:
    code = "import sys; from modiff.metrics.published import published; published(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("table", "dataset"), [("Table 1", "lidc"), ("Table 2", "ms_mri")])
def test_the_paper_s_tables_are_as_printed(shared: Path, table: str, dataset: str) -> None:
    text = (shared / "seed/modiff-paper.txt").read_text(encoding="utf-8")
    printed = text.split(f"**{table}.**")[1].split("\n\n")[1]
    rows = {}
    for line in printed.splitlines()[1:7]:
        name = line.split("[")[0].split("(")[0].strip()
        rows[{"Prob.Unet": "Probabilistic U-Net"}.get(name, name)] = [float(x) for x in re.findall(r"0\.\d{4}", line)]
    ours: dict[str, list[float]] = {}
    for record in published(dataset=dataset):
        if record.source.table == table and record.source.title.startswith("MoDiff"):
            ours.setdefault(record.method, []).append(record.value)
    assert ours == rows
