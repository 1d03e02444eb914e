"""Tables in a terminal of 80 columns: nothing wider, no broken word, nothing lost."""

from __future__ import annotations

import re
from itertools import product

import pandas as pd
import pytest
from rich.console import Console

from modiff.evaluation import words
from modiff.evaluation.records import Record, Result
from modiff.metrics.registry import NAMES


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    monkeypatch.setattr(words, "wide_console", lambda: Console(width=80))


def printed(table):
    console = Console(width=80)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def record(metric, predictor, n=16):
    steps = 250 if predictor == "model" else None
    fixed = {"protocol": "standard", "threshold": 0.5, "split": "test", "stratum": "all", "seconds_per_image": 0.25}
    of = {"images": 1096, "patients": 72, "value": -0.61234, "ci_low": -0.64321, "ci_high": -0.51234}
    return Record(metric=metric, predictor=predictor, n=n, steps=steps, **fixed, **of)


def words_of(text):
    return re.findall(r"[^\W\d_]{2,}", text)


def test_an_evaluation_of_every_metric_predictor_and_n_fits():
    found = [record(*at) for at in product(NAMES, words.PREDICTORS, (16, 32))]
    found += [record(f"{metric}_minus_majority_vote", "model", n) for metric, n in product(NAMES, (16, 32))]
    result = Result({}, {"all": {"images": 1234, "patients": 72}}, found)
    text = printed(words.results_table(result))
    assert max(map(len, text.splitlines())) <= 80
    every = [cell for own in found for cell in map(str, words.row(own, result.undefined(own)).values())]
    assert set(words_of(text)) >= set(words_of(" ".join(every)))
    assert "majority vote is an oracle" in " ".join(text.split())
    assert text.count("−0.612") == len(found)


def test_long_names_of_methods_give_way_to_a_and_b():
    names = "runs/a-long-name", "runs/another-name"
    row = {"a − b": " − ".join(names), "metric": "GED", "n": 16, "images": 1096, "undefined": 12, "a": "0.123"}
    row |= {"b": "0.234", "difference": "−0.111", words.INTERVAL: "−0.212 to −0.001", "better": names[0]}
    other = row | {"metric": "HM-IoU", "undefined": 13, "images": 1095, "n": 32, "better": "not shown"}
    text = printed(words.text_table(pd.DataFrame([row, other]), heads=dict(zip("ab", names, strict=True))))
    assert max(map(len, text.splitlines())) <= 80
    assert text.startswith(" − ".join(names))
    assert text.count(names[0]) == 2
