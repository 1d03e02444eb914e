"""Selections of samples, and scores given that a rater marks: each number carries its own, and none is mixed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import Analytic, IidRaters, Split, discs

from modiff.errors import ConfigError, DataError
from modiff.evaluation.compare import compare, read_methods
from modiff.evaluation.evaluate import evaluate
from modiff.evaluation.records import Quantity, Result, read_result, select, write_csv, write_result
from modiff.evaluation.scoring import EvaluationSettings
from modiff.metrics.functional import ged, hm_iou, iid_reference
from modiff.metrics.representative import representative
from modiff.rng import fold, sample_seeds, seeds_for, uniform
from modiff.types import Samples

SMALL = EvaluationSettings(ns=(2, 4), protocols=("standard",), metrics=("ged", "hm_iou"), resamples=50)
BOTH = replace(SMALL, select=("iid", "representative"))


class Hurdle(Analytic):
    """Presence first, with one half, then one of the raters."""

    draws_stratified = True  # type: ignore[assignment]

    def sample(self, image_or_encoding, n, *, seeds, steps=None, stratified=False):  # type: ignore[no-untyped-def]
        self.calls.append((n, stratified))  # type: ignore[arg-type]
        each, rows = sample_seeds(seeds, n), torch.arange(len(seeds))[:, None]
        turn = (torch.arange(n) % 2 == 0).expand(len(seeds), -1)
        present = turn if stratified else uniform(fold(each, 1)) < 0.5
        which = (uniform(each) * image_or_encoding.shape[1]).long()
        return Samples.uniform(image_or_encoding[rows, which][:, :, None] * present[..., None, None, None])


def columns(table, **of):  # type: ignore[no-untyped-def]
    """{(metric, n): values} of the model with these properties."""
    found = {q: v for q, v in table.columns.items() if q.predictor == "model"}
    return {(q.metric, q.n): v for q, v in found.items() if all(getattr(q, k) == value for k, value in of.items())}


def test_iid_numbers_do_not_depend_on_what_else_is_selected():
    split, batch = discs(), 7
    for model in (IidRaters(), Hurdle()):
        alone = columns(evaluate(model, split, SMALL, split="test", batch_size=batch))
        beside = columns(evaluate(model, split, BOTH, split="test", batch_size=batch), select="iid")
        assert alone.keys() == beside.keys()
        assert all(np.array_equal(alone[key], beside[key]) for key in alone)


def test_a_representative_set_is_chosen_from_the_first_four_times_n():
    split, model = discs(), IidRaters()
    found = columns(evaluate(model, split, BOTH, split="test"), select="representative")
    batch = split.batch(range(len(split.cases)))
    drawn = model.draw(batch.image, 16, seeds_for(0, batch.case))
    for n in (2, 4):
        first = Samples(drawn.maps[:, : 4 * n], drawn.weights[:, : 4 * n], drawn.present[:, : 4 * n])
        masks = representative(first, n).maps > 0.5
        np.testing.assert_allclose(found["ged", n], ged(masks, batch.masks))
        np.testing.assert_allclose(found["hm_iou", n], hm_iou(masks, batch.masks))
    assert found["ged", 4].mean() < columns(evaluate(model, split, SMALL, split="test"))["ged", 4].mean()


def test_candidates_have_stratified_presence_where_the_method_draws_it():
    model = Hurdle()
    evaluate(model, discs(4), replace(BOTH, select=("iid", "stratified", "representative")), split="test", batch_size=4)
    assert {(n, s) for n, s in model.calls} == {(4, False), (16, True), (2, False)}  # the last is the time of n = 2


def test_one_draw_gives_both_where_it_does_not():
    model = IidRaters()
    evaluate(model, discs(4), replace(BOTH, ns=(4,)), split="test", batch_size=4)
    assert [n for _, n, _ in model.calls] == [16, 4]  # the last is the time of n = 4


def test_stratified_presence_is_refused_where_there_is_none():
    with pytest.raises(ConfigError, match="stratified"):
        evaluate(IidRaters(), discs(), replace(SMALL, select=("stratified",)), split="test")


@pytest.mark.parametrize(
    "changes", [{"select": ("best",)}, {"select": ()}, {"given": "marks", "select": ("stratified",)}]
)
def test_settings_that_cannot_be_are_refused(changes):
    with pytest.raises(ConfigError):
        replace(SMALL, **changes)


def test_the_main_result_is_not_replaced_by_one_without_iid_numbers():
    assert BOTH.name("test") == "test"
    assert replace(SMALL, select=("representative",)).name("test") == "test-representative"
    assert replace(SMALL, given="marks").name("test") == "test-given-marks"


def test_a_column_and_a_record_name_their_selection(tmp_path: Path):
    quantity = Quantity("standard", 0.5, 16, None, "model", "ged", "representative")
    assert Quantity.parse(quantity.name) == quantity
    assert "select" not in replace(quantity, select="iid").name
    with pytest.raises(DataError, match="not a column"):
        Quantity.parse(quantity.name.replace("representative", "best"))
    table = evaluate(IidRaters(), discs(), BOTH, split="test")
    records = table.records(resamples=50)
    assert {(r.select, r.predictor) for r in records if r.select != "iid"} == {("representative", "model")}
    assert not [r for r in records if r.select != "iid" and r.metric.endswith("iid_reference")]
    path = write_result(Result({"split": "test"}, table.counts(), records), tmp_path / "test.json")
    assert read_result(path).results == records
    old = json.loads(path.read_text())
    del old["checksum"]
    for row in old["results"]:
        del row["select"]
    path.write_text(json.dumps(old | {"results": [row for row in old["results"] if row["stratum"] == "all"][:1]}))
    assert read_result(path).results[0].select == "iid"  # as version 0.1 wrote it


def test_selections_are_compared_with_their_like(tmp_path: Path):
    files = []
    for name, settings in (("a", BOTH), ("b", SMALL), ("c", BOTH)):
        table = evaluate(IidRaters(), discs(), settings, split="test")
        made = {"split": "test", "store": {"fingerprint": "f"}, "model": {"name": name}}
        write_csv(table, tmp_path / f"{name}.csv")
        files.append(write_result(Result(made, table.counts(), table.records(resamples=50)), tmp_path / f"{name}.json"))
    with pytest.raises(DataError, match="--select"):
        read_methods(files[:2])
    found = compare(read_methods(files[:2], wanted={"select": ["iid"]}), resamples=50).differences
    assert {row.select for row in found} == {"iid"}
    both = compare(read_methods(files[::2]), resamples=50).differences
    assert {row.select for row in both} == {"iid", "representative"}
    assert all(row.difference == 0 for row in both)


def marked(split: Split) -> np.ndarray:
    """(n,R) bool."""
    return split.masks.any((2, 3)) & split.read


def test_given_marks_only_raters_who_mark_count():
    split = discs()
    counts = marked(split).sum(1)
    table = evaluate(IidRaters(), split, replace(SMALL, given="marks"), split="test")
    assert table.cases == [case for case, count in zip(split.cases, counts, strict=True) if count >= 2]
    assert {q.protocol for q in table.columns} == {"standard-marks"}
    assert table.frame["raters"].tolist() == counts[counts >= 2].tolist()
    assert table.rows("all_marked").tolist() == (counts[counts >= 2] == 4).tolist()
    rows = np.flatnonzero(counts >= 2).tolist()
    batch = split.batch(rows)
    drawn = IidRaters().draw(batch.image, 200, seeds_for(0, batch.case))
    for i, row in enumerate(rows):
        first = drawn.maps[i][drawn.present[i]][:4] > 0.5  # what marks nothing is drawn anew
        read = torch.from_numpy(marked(split)[row])[None]
        own = columns(table)["ged", 4][i]
        np.testing.assert_allclose(own, ged(first[None], batch.masks[i : i + 1], read=read)[0])
        reference = table.columns[Quantity("standard-marks", 0.5, 4, None, "iid_reference", "ged")][i]
        np.testing.assert_allclose(reference, iid_reference(batch.masks[i : i + 1], 4, read=read)[0])


def test_given_marks_the_reference_is_there_in_every_stratum():
    records = evaluate(IidRaters(), discs(), replace(SMALL, given="marks"), split="test").records(resamples=50)
    found = {record.stratum for record in select(records, predictor="iid_reference")}
    assert found == {"all", "all_marked", "some_empty"}


def test_images_of_which_no_sample_marks_anything_are_counted():
    class Nothing(IidRaters):
        def draw(self, image, n, seeds):  # type: ignore[no-untyped-def]
            self.drawn = n
            return Samples.uniform(torch.zeros(len(image), n, 1, *image.shape[-2:]))

    model, settings = Nothing(), replace(SMALL, ns=(4,), given="marks")
    table = evaluate(model, discs(), settings, split="test")
    assert model.drawn == 4 * 16  # the bound
    assert table.few == len(table)
    assert evaluate(IidRaters(), discs(), settings, split="test").few == 0
