"""The report: what stands in it and its figures, that it is safe to open, and that it needs nothing outside itself."""

from __future__ import annotations

import base64
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import AWKWARD, Discs, loaded, write_run

from modiff.cli import main
from modiff.data.loading import load
from modiff.errors import CheckpointError, DataError, ModiffError
from modiff.evaluation.records import read_result, select
from modiff.evaluation.source import choose, draw
from modiff.prediction.summary import summarise
from modiff.report import run as report
from modiff.report.run import sentence, write_report
from modiff.viz.figures import close_up


class Page(HTMLParser):
    """Tags with attributes, the texts of table rows, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br", "hr", "line", "polyline"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data + " "
        if any(tag in self.open for tag in ("td", "th")):
            self.rows[-1][-1] += data + " "


def figures(parsed, kind="png"):
    """Attributes of the images of a kind."""
    start = f"data:image/{kind};base64,"
    return [attributes for tag, attributes in parsed.tags if tag == "img" and attributes["src"].startswith(start)]


@pytest.fixture(scope="session")
def html(page):
    return page.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def parsed(html):
    return Page(html)


def test_every_element_is_closed(parsed):
    assert parsed.open == []


def test_nothing_outside_is_referred_to(html, parsed):
    references = [
        value
        for _, attributes in parsed.tags
        for key, value in attributes.items()
        if key in ("src", "href", "srcset", "data", "action", "poster", "xlink:href", "background")
    ]
    assert references
    assert all(re.match(r"data:image/(png|svg\+xml);base64,", value) for value in references)
    assert not re.search(r"url\(|@import", html)


def test_there_is_no_script_and_no_inline_style(parsed):
    assert not [tag for tag, _ in parsed.tags if tag in ("script", "iframe", "object", "embed", "link", "base", "form")]
    assert not [key for _, attributes in parsed.tags for key in attributes if key == "style" or key.startswith("on")]


def test_its_policy_forbids_everything_but_its_own_style_and_pictures(parsed):
    (policy,) = [a["content"] for tag, a in parsed.tags if tag == "meta" and "http-equiv" in a]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")


def test_names_are_text_whatever_they_hold(html, parsed):
    assert AWKWARD in parsed.text
    assert AWKWARD not in html
    assert "second <b>" not in html


def test_a_value_in_the_tables_is_the_records_value(run, parsed):
    (record,) = select(
        read_result(run / "evaluation" / "test.json").results,
        metric="ged",
        predictor="model",
        protocol="standard",
        n=4,
        stratum="all",
    )
    (row, *_) = [row for row in parsed.rows if row and row[0].strip() == "model"]
    assert row[1].split()[0] == f"{record.value:.3f}"


def test_protocols_have_tables_of_their_own(parsed):
    labels = [a.get("aria-label") or "" for tag, a in parsed.tags if tag == "table"]
    assert len(labels) == 4
    assert all(("standard" in label) != ("paper" in label) for label in labels)


def test_predictors_to_compare_with_stand_in_the_table(parsed):
    first = {row[0].strip() for row in parsed.rows if row}
    assert {"model", "shuffled", "majority vote (oracle)", "i.i.d. reference"} <= first
    assert {"model − i.i.d. reference, paired", "model − majority vote (oracle), paired"} <= first


def test_the_distance_from_the_reference_is_said_in_words(parsed):
    text = " ".join(parsed.text.split())
    assert re.search(r"The i\.i\.d\. reference, .* the model lies \d\.\d{3} (above|below) it", text)


def test_the_verdict_names_every_main_metric_whatever_is_better(run):
    result = read_result(run / "evaluation" / "test.json")

    def told(ged, hm_iou):
        """What is said of paired differences from the majority vote with these intervals."""
        ends = {"ged_minus_majority_vote": ged, "hm_iou_minus_majority_vote": hm_iou}
        changed = [
            replace(r, ci_low=ends[r.metric][0], ci_high=ends[r.metric][1]) if r.metric in ends else r
            for r in result.results
        ]
        said = sentence(replace(result, results=changed))
        return re.findall(r"(better|worse|not shown to differ) by (GED|HM-IoU)", said)

    assert told((-0.2, -0.1), (-0.2, -0.1)) == [("better", "GED"), ("worse", "HM-IoU")]
    assert told((0.1, 0.2), (-0.1, 0.2)) == [("worse", "GED"), ("not shown to differ", "HM-IoU")]


def test_the_oracle_is_called_one(parsed):
    text = " ".join(parsed.text.split())
    assert "The majority vote is an oracle, not a method" in text
    assert "Beside the majority vote (oracle), repeated" in text


def test_numbers_are_set_right(parsed):
    cells = [a for tag, a in parsed.tags if tag == "td"]
    assert cells
    assert all(a.get("class") == "number" for a in cells)


def test_curves_are_drawn_with_train_and_val_together(parsed):
    drawings = [a["alt"] for a in figures(parsed, "svg+xml")]
    assert len(drawings) == 2
    assert "train from 1 to" in drawings[0]
    assert "val from 1.1 to" in drawings[0]


def test_a_dozen_cases_are_pictured(parsed):
    pictures = figures(parsed)
    assert len(pictures) == 12
    for picture in pictures:
        assert base64.b64decode(picture["src"].partition(",")[2]).startswith(b"\x89PNG")
        assert "raters marked something" in picture["alt"]


def test_what_was_trained_and_how_it_was_scored_is_said(run, parsed):
    made = read_result(run / "evaluation" / "test.json").made
    assert "discs" in parsed.text
    assert made["store"]["fingerprint"] in parsed.text
    assert "model.ldf" in parsed.text


@pytest.fixture
def few(monkeypatch):
    """Pictures take most of the time."""
    monkeypatch.setattr("modiff.report.run.CASES", 2)


def test_the_same_run_gives_the_same_page(run, tmp_path, models, few):
    first, second = (write_report(run, tmp_path / f"{name}.html").read_bytes() for name in "ab")
    assert first == second


def test_without_the_store_the_page_says_so_and_has_no_pictures(run, tmp_path, models):
    folder = tmp_path / "moved"
    shutil.copytree(run, folder)
    result = folder / "evaluation" / "test.json"
    content = json.loads(result.read_text())
    del content["checksum"]
    content["made"]["store"]["path"] = "/nowhere/discs.h5"
    result.write_text(json.dumps(content))
    parsed = Page(write_report(folder).read_text(encoding="utf-8"))
    assert "discs.h5, is not where it was" in parsed.text
    assert figures(parsed) == []


def test_scores_of_other_weights_than_the_samples_are_told_apart(run, tmp_path, models, few):
    folder = shutil.copytree(run, tmp_path / "trained further")
    assert "of other weights" not in Page(write_report(folder).read_text(encoding="utf-8")).text
    result = folder / "evaluation" / "test.json"
    content = json.loads(result.read_text())
    del content["checksum"]
    content["made"]["model"]["fingerprint"] = "0" * 64
    result.write_text(json.dumps(content))
    text = Page(write_report(folder).read_text(encoding="utf-8")).text
    assert "The scores above are of other weights than these samples" in text
    assert "(standard, n =" not in text


def test_the_split_that_was_evaluated_last_comes_first(run, tmp_path, models, few):
    folder = shutil.copytree(run, tmp_path / "two splits")
    for split, date in (("val", "2025-01-01T00:00:00"), ("test", "2025-02-01T00:00:00")):
        content = json.loads((run / "evaluation" / "test.json").read_text())
        del content["checksum"]
        content["made"] |= {"split": split, "date": date}
        (folder / "evaluation" / f"{split}.json").write_text(json.dumps(content))
        if split != "test":
            shutil.copy(run / "evaluation" / "test.csv", folder / "evaluation" / f"{split}.csv")
    page = Page(write_report(folder).read_text(encoding="utf-8")).text
    assert re.findall(r"Split (test|val) of", page) == ["test"]
    assert "(standard, n =" in page


def test_a_store_that_is_named_must_be_there(run, tmp_path, models):
    with pytest.raises(DataError, match="no such file"):
        write_report(run, tmp_path / "x.html", data=tmp_path / "none.h5")
    assert not (tmp_path / "x.html").exists()


def test_a_run_that_was_not_evaluated_still_has_curves(tmp_path, run, models):
    folder = tmp_path / "young"
    folder.mkdir()
    shutil.copy(run / "log.jsonl", folder)
    parsed = Page(write_report(folder).read_text(encoding="utf-8"))
    assert "Not evaluated yet" in parsed.text
    assert len(figures(parsed, "svg+xml")) == 2


def test_a_run_without_weights_still_has_scores(tmp_path, run, monkeypatch, models):
    def missing(path):
        raise CheckpointError("no weights", path=path)

    monkeypatch.setattr("modiff.report.run.load_model", missing)
    parsed = Page(write_report(run, tmp_path / "x.html").read_text(encoding="utf-8"))
    assert "no weights" in parsed.text
    assert any(row and row[0].strip() == "model" for row in parsed.rows)


def test_a_folder_that_is_no_run_is_refused(tmp_path, monkeypatch, models):
    def missing(path):
        raise CheckpointError("no weights", path=path)

    monkeypatch.setattr("modiff.report.run.load_model", missing)
    with pytest.raises(CheckpointError, match="not a run folder"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_result_is_named(tmp_path, store, models):
    folder = write_run(tmp_path / "run", store)
    (folder / "evaluation" / "test.json").write_text("{")
    with pytest.raises(ModiffError, match=r"test\.json"):
        write_report(folder)


def test_what_a_result_says_of_itself_is_not_trusted(run, tmp_path, models, few):
    folder = tmp_path / "odd"
    shutil.copytree(run, folder)
    result = folder / "evaluation" / "test.json"
    content = json.loads(result.read_text())
    del content["checksum"]
    content["made"] |= {
        "notes": "<i>",
        "settings": {"steps": "<i>", "seed": "<i>"},
        "command": ["<i>"],
        "split": "test",
    }
    result.write_text(json.dumps(content))
    assert "<i>" not in write_report(folder).read_text(encoding="utf-8")


def test_the_command_prints_where_the_page_is(run, tmp_path, capsys, models, few):
    target = tmp_path / "new folder" / "r.html"
    assert main(["report", str(run), "-o", str(target)]) == 0
    assert capsys.readouterr().out.strip() == str(target)
    assert target.stat().st_size > 50_000


strata = st.lists(st.sampled_from(["all_marked", "some_empty", "none", "unread"]), min_size=1, max_size=60)


@given(strata)
def test_strata_take_turns(names):
    rows = choose([f"case-{i}" for i in range(len(names))], names, 12)
    read = [name for name in names if name != "unread"]
    assert len(rows) == len(set(rows)) == min(12, len(read))
    for name in set(read):
        shown = sum(names[row] == name for row in rows)
        assert shown >= min(read.count(name), 4)


@given(strata, st.randoms())
def test_the_choice_does_not_depend_on_the_order_of_the_store(names, random):
    items = [(f"case-{i}", name) for i, name in enumerate(names)]
    chosen = {items[row][0] for row in choose(*zip(*items, strict=True), 12)}
    random.shuffle(items)
    assert {items[row][0] for row in choose(*zip(*items, strict=True), 12)} == chosen


boxes = st.tuples(st.integers(0, 39), st.integers(0, 59), st.integers(1, 60), st.integers(1, 60))


@given(boxes)
def test_all_marks_lie_in_the_part_that_is_shown(box):
    marks = np.zeros((40, 60), dtype=bool)
    marks[box[0] : box[0] + box[2], box[1] : box[1] + box[3]] = True
    assert marks[close_up(marks)].sum() == marks.sum()


@given(boxes)
def test_a_part_is_a_square_of_a_useful_size_as_far_as_the_image_goes(box):
    marks = np.zeros((40, 60), dtype=bool)
    marks[box[0] : box[0] + box[2], box[1] : box[1] + box[3]] = True
    height, width = marks[close_up(marks)].shape
    assert 15 <= height <= width <= 60
    assert height in (width, 40)


def test_without_marks_the_centre_is_shown():
    rows, columns = close_up(np.zeros((128, 128), dtype=bool))
    assert rows.stop - rows.start == 48
    assert abs((rows.start + rows.stop) / 2 - 64) <= 1
    assert rows == columns


@pytest.fixture(scope="module")
def images(store):
    return load(store, "test")


def titles(images, row):
    batch = images.batch([row])
    summary = summarise(draw(Discs().eval(), batch, report.SAMPLES, 0, None)[0], classes=images.info.classes)
    return [cell.title for line in report.cells_of(batch, summary, images.info) for cell in line]


def test_a_case_shows_image_raters_maps_and_samples(images):
    shown = titles(images, 0)
    assert shown[:4] == ["image", "first", "second <b>", "third"]
    assert shown[4:7] == ["mean label", "mean map", "uncertainty"]
    assert [title.split(":")[0] for title in shown[7:]] == [f"sample {i}" for i in range(1, 9)]


def test_an_empty_mask_and_an_image_that_was_not_read_are_told_apart(images):
    assert "third: did not read" in titles(images, 4)
    assert "third: nothing" in titles(images, 3)


def test_samples_are_those_that_the_evaluation_draws(images, monkeypatch):
    shown = []
    cells_of = report.cells_of
    monkeypatch.setattr(report, "CASES", 1)
    monkeypatch.setattr(report, "cells_of", lambda *words: shown.append(words) or cells_of(*words))
    report.case_figures(images, Discs().eval(), seed=7)
    ((batch, summary, _),) = shown
    samples, _ = draw(Discs().eval(), batch, report.SAMPLES, 7, None)
    np.testing.assert_array_equal(summary.masks, samples.maps[0].numpy() > 0.5)


def test_dim_data_is_shown_in_a_window_of_its_own(images, monkeypatch):
    monkeypatch.setattr(report, "CASES", 3)
    assert report.case_figures(images, Discs().eval())[1] == (0.0, 1.0)
    low, high = report.case_figures(replace(images, image=images.image // 4), Discs().eval())[1]
    assert 0.0 < low < high < 0.25


@pytest.mark.parametrize(("images", "told"), [(8, True), (225_536, False)])
def test_a_model_that_has_hardly_been_trained_is_told_of(run, tmp_path, monkeypatch, few, images, told):
    card = {"images_seen": images}
    monkeypatch.setattr("modiff.report.run.load_model", lambda path: SimpleNamespace(**vars(loaded()) | {"card": card}))
    text = write_report(run, tmp_path / "x.html").read_text(encoding="utf-8")
    assert ("The model has hardly been trained: it has seen 8 images in training, fewer than 5,000." in text) is told
