"""`tools/pool_folds.py`: every image once, by the run that was trained without it."""

from __future__ import annotations

import pytest

from modiff.errors import DataError
from modiff.evaluation.records import ImageTable, write_csv

SMALL = "ged|model|standard|n=8|steps=5|threshold=0.5"
LARGE = "ged|model|standard|n=16|steps=5|threshold=0.5"
CHOSEN = "ged|model|standard|n=16|steps=5|threshold=0.5|select=representative"
STRICT = "ged|model|paper|n=16|steps=5|threshold=0.9"


@pytest.fixture
def pool(tool):
    return tool("pool_folds")


def written(path, cases, offset=0.0):
    header = ["case", "patient", "stratum", "raters", SMALL, LARGE, CHOSEN, STRICT]
    rows = [[case, case, "all_marked", 2, 9.0, value + offset, 5.0, 9.0] for case, value in cases.items()]
    return write_csv(ImageTable.of("test", header, rows), path)


def test_the_mean_is_over_the_images_of_all_folds(pool, tmp_path, monkeypatch, capsys):
    one = written(tmp_path / "a.csv", {"x": 0.1, "y": 0.2, "u": 0.3})
    two = written(tmp_path / "b.csv", {"z": 0.6, "v": 0.3})
    others = [written(tmp_path / "c.csv", {"u": 0.3, "z": 0.6, "x": 0.1, "y": 0.2, "v": 0.3}, 0.25)]
    monkeypatch.setattr("sys.argv", ["pool_folds.py", *map(str, (one, two)), "--against", *map(str, others)])
    pool.main()
    first, ged, chosen = capsys.readouterr().out.splitlines()
    assert first == "5 images of 5 patients, 2 folds"
    assert ged.startswith("ged, model, iid, n = 16: 0.300 (")
    assert "; the other 0.550 (" in ged
    assert ged.endswith("less it −0.250 (−0.250 to −0.250)")
    assert chosen.startswith("ged, model, representative, n = 16: 5.000")


def test_folds_of_another_n_are_refused(pool, tmp_path):
    whole = written(tmp_path / "a.csv", {"x": 0.1})
    table = ImageTable.of("test", ["case", "patient", "stratum", "raters", SMALL], [["z", "z", "all_marked", 2, 0.4]])
    with pytest.raises(DataError, match=r"scored differently.*n = 8"):
        pool.pooled([whole, write_csv(table, tmp_path / "b.csv")])


def test_an_image_of_two_folds_is_refused(pool, tmp_path):
    with pytest.raises(DataError, match="an image in two folds"):
        pool.pooled([written(tmp_path / f"{name}.csv", {"x": 0.1}) for name in "ab"])
