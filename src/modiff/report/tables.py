"""Summary tables of an evaluation: one table a protocol and way to binarise, never two protocols in one column."""

from __future__ import annotations

from collections.abc import Sequence

from modiff.evaluation import words
from modiff.evaluation.records import DIFFERENCE, STRATA, Record, Result, select
from modiff.viz.html import Markup, join, table, tag

Setting = tuple[str, float, int | None]  # protocol, threshold, steps of the model

ESTIMATORS = {
    "standard": "standard: GED with self-pairs (V), HM-IoU by optimal matching",
    "paper": "paper: GED without self-pairs (U, can be negative), HM-IoU by greedy matching",
}


def summary(result: Result) -> Markup:
    """Every protocol, threshold and number of steps of an evaluation: predictors on all images, then strata."""
    return join(part for setting in settings_of(result) for part in _tables(result, setting))


def settings_of(result: Result) -> list[Setting]:
    """The protocols, thresholds and steps that the model was scored under, standard first."""
    found = {(r.protocol, r.threshold, r.steps) for r in result.results if r.predictor == "model"}
    return sorted(found, key=lambda s: (s[0] != "standard", s[0], s[1], s[2] or 0))


def _tables(result: Result, setting: Setting) -> list[Markup]:
    protocol, threshold, steps = setting
    records = select(result.results, protocol=protocol, threshold=threshold, steps=(steps, None))
    model = select(records, predictor="model", stratum="all")
    if not model:
        return []
    how = f"{words.threshold(model[0])}" + ("" if steps is None else f", {steps} steps")
    name = ESTIMATORS.get(protocol, protocol)
    columns = _columns(records)
    predictors = [p for p in words.PREDICTORS if select(records, predictor=p, stratum="all")]
    everywhere = table(
        ["all images", *(_head(column) for column in columns)],
        [
            *(_row(result, words.PREDICTORS[p], _values(records, columns, p, "all")) for p in predictors),
            *_differences(result, records, columns),
        ],
        caption=f"{name}; {how}",
        bold=predictors.index("model"),
    )
    strata = table(
        ["model, by stratum", "images", "patients", *(_head(column) for column in columns)],
        [
            [words.STRATA[s], *_counts(result, s), *_row(result, "", _values(records, columns, "model", s))[1:]]
            for s in STRATA[1:]
            if result.strata.get(s, {}).get("images")
        ],
        caption=f"By stratum, {protocol} protocol; {how}",
    )
    return [everywhere, strata]


Column = tuple[str, int]  # metric, n


def _columns(records: Sequence[Record]) -> list[Column]:
    found = {(r.metric, r.n) for r in records if r.predictor == "model" and DIFFERENCE not in r.metric}
    order = list(words.METRICS)
    return sorted(found, key=lambda c: (order.index(c[0]) if c[0] in order else len(order), c))


def _head(column: Column) -> Markup:
    metric, n = column
    arrow = {True: "↑", False: "↓"}.get(words.HIGHER_IS_BETTER.get(metric, None), "")  # type: ignore[arg-type]
    return join([words.METRICS.get(metric, metric), " ", arrow, tag("br"), f"n = {n}"])


def _values(records: Sequence[Record], columns: list[Column], predictor: str, stratum: str) -> list[Record | None]:
    return [
        next(iter(select(records, metric=metric, n=n, predictor=predictor, stratum=stratum)), None)
        for metric, n in columns
    ]


def _row(result: Result, name: str, cells: Sequence[Record | None]) -> list[object]:
    return [name, *("" if record is None else _cell(result, record) for record in cells)]


def _cell(result: Result, record: Record) -> Markup:
    undefined = result.undefined(record)
    notes = [words.interval(record), f"{undefined} images undefined" if undefined else ""]
    return join([words.value(record), *(tag("span", note, class_="ci") for note in notes if note)])


def _differences(result: Result, records: Sequence[Record], columns: list[Column]) -> list[list[object]]:
    """Paired differences, a row each: how far from the reference and from the majority vote."""
    rows = []
    for predictor in ("model", "shuffled"):
        for other in ("iid_reference", "majority_vote"):
            if (predictor, other) == ("shuffled", "iid_reference"):
                continue
            beside = [(f"{metric}{DIFFERENCE}{other}", n) for metric, n in columns]
            cells = _values(records, beside, predictor, "all")
            if any(cells):
                rows.append(_row(result, f"{words.PREDICTORS[predictor]} − {words.PREDICTORS[other]}, paired", cells))
    return rows


def _counts(result: Result, stratum: str) -> list[int]:
    counts = result.strata.get(stratum, {})
    return [counts.get("images", 0), counts.get("patients", 0)]


def sentence(result: Result) -> str | None:
    """The first finding in words: GED under the standard protocol beside majority vote and i.i.d. reference."""
    settings = settings_of(result)
    if not settings:
        return None
    protocol, threshold, steps = settings[0]
    here = {"protocol": protocol, "threshold": threshold, "stratum": "all"}
    drawn = select(result.results, metric="ged", predictor="model", steps=steps, **here)
    if not drawn or drawn[0].value is None:
        return None
    model = drawn[0]
    words_ = [
        f"GED with n = {model.n} ({protocol} protocol, {words.threshold(model)}) is {words.value(model)}"
        f"{_bracket(model)} on {model.images} images of split {model.split}."
    ]
    for other, phrase in (("iid_reference", _reference), ("majority_vote", _majority)):
        beside = select(result.results, metric="ged", predictor=other, n=model.n, **here)
        metric = f"ged{DIFFERENCE}{other}"
        apart = select(result.results, metric=metric, predictor="model", n=model.n, steps=steps, **here)
        if beside and apart and beside[0].value is not None and apart[0].value is not None:
            words_.append(phrase(beside[0], apart[0]))
    return " ".join(words_)


def _bracket(record: Record) -> str:
    return f" (95 % interval {words.interval(record)})" if record.ci_low is not None else ""


def _reference(beside: Record, apart: Record) -> str:
    assert apart.value is not None
    side = "above" if apart.value >= 0 else "below"
    return (
        f"The i.i.d. reference, samples that are fresh raters, has {words.value(beside)}: "
        f"the model lies {words.number(abs(apart.value))} {side} it{_bracket(apart)}."
    )


def _majority(beside: Record, apart: Record) -> str:
    verdict = "no clear difference"
    if apart.ci_high is not None and apart.ci_high < 0:
        verdict = "the model is better"
    elif apart.ci_low is not None and apart.ci_low > 0:
        verdict = "the model is worse"
    elif apart.ci_low is None:
        verdict = "too few patients to say whether that is more than chance"
    difference = f"paired difference {words.value(apart)}{_bracket(apart)}"
    return f"The majority vote repeated {beside.n} times has {words.value(beside)}: {verdict}, {difference}."
