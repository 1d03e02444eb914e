"""Summary tables of an evaluation: one per protocol and way to binarise, never two protocols in one column."""

from __future__ import annotations

from collections.abc import Iterator

from modiff.benchmark.tables import Cell, Row, Table, head
from modiff.errors import counted
from modiff.evaluation import words
from modiff.evaluation.records import DIFFERENCE, STRATA, Record, Result, select

Setting = tuple[str, float, int | None]  # protocol, threshold, steps of the model

_PAIRS = (("model", "iid_reference"), ("model", "majority_vote"), ("shuffled", "majority_vote"))


def summary(result: Result) -> list[Table]:
    """Every protocol, threshold and number of steps of an evaluation: predictors on all images, then strata."""
    return [table for setting in settings_of(result) for table in _tables(result, setting)]


def settings_of(result: Result) -> list[Setting]:
    """The protocols, thresholds and steps that the model was scored under, standard first."""
    found = {(r.protocol, r.threshold, r.steps) for r in result.results if r.predictor == "model"}
    return sorted(found, key=lambda s: (s[0] != "standard", s[0], s[1], s[2] or 0))


def _tables(result: Result, setting: Setting) -> Iterator[Table]:
    protocol, threshold, steps = setting
    records = select(result.results, protocol=protocol, threshold=threshold, steps=(steps, None))
    model = select(records, predictor="model", stratum="all")
    if not model:
        return
    how = words.threshold(model[0]) + ("" if steps is None else f", {counted(steps, 'step')}")
    order = list(words.METRICS)
    measured = {(r.metric, r.n) for r in records if r.predictor == "model" and DIFFERENCE not in r.metric}
    columns = sorted(measured, key=lambda c: (order.index(c[0]) if c[0] in order else len(order), c))
    heads = tuple(head(column) for column in columns)
    cells = {(r.predictor, r.stratum, r.metric, r.n): _cell(r, result.undefined(r)) for r in reversed(records)}

    def row(title: str, predictor: str, stratum: str, other: str = "", before: tuple[str, ...] = ()) -> Row:
        """The values of a predictor, or its paired differences from another one."""
        end = f"{DIFFERENCE}{other}" if other else ""
        return Row(title, tuple(cells.get((predictor, stratum, metric + end, n)) for metric, n in columns), (), before)

    rows = [row(words.PREDICTORS[p], p, "all") for p in words.PREDICTORS]
    rows += [row(f"{words.PREDICTORS[p]} − {words.PREDICTORS[q]}, paired", p, "all", q) for p, q in _PAIRS]
    caption = f"{protocol}: {words.CONVENTIONS.get(protocol, 'other conventions')}; {how}"
    yield Table("", protocol, caption, ("all images", *heads), tuple(row for row in rows if any(row.cells)))
    strata = []
    for stratum in STRATA[1:]:
        counts = result.strata.get(stratum, {})
        if counts.get("images"):
            before = (str(counts["images"]), str(counts.get("patients", 0)))
            strata.append(row(words.STRATA[stratum], "model", stratum, before=before))
    caption = f"By stratum, {protocol} protocol; {how}"
    yield Table("", protocol, caption, ("model, by stratum", "images", "patients", *heads), tuple(strata))


def _cell(record: Record, undefined: int) -> Cell:
    notes = (words.interval(record), f"{counted(undefined, 'image')} undefined" if undefined else "")
    return Cell(words.value(record), tuple(filter(None, notes)), False)


def sentence(result: Result) -> str | None:
    """The first finding in words: GED under the standard protocol beside majority vote and i.i.d. reference."""
    settings = settings_of(result)
    if not settings:
        return None
    protocol, threshold, steps = settings[0]
    records = select(result.results, protocol=protocol, threshold=threshold, stratum="all", steps=(steps, None))
    model = next(iter(select(records, metric="ged", predictor="model", steps=steps)), None)
    if model is None or model.value is None:
        return None
    said = [
        f"GED with n = {model.n} ({protocol} protocol, {words.threshold(model)}) is {words.value(model)}"
        f"{_bracket(model)} on {counted(model.images, 'image')} of split {model.split}."
    ]
    found = {(r.predictor, r.metric): r for r in reversed(records) if r.n == model.n and r.value is not None}
    for other in ("iid_reference", "majority_vote"):
        beside, apart = found.get((other, "ged")), found.get(("model", f"ged{DIFFERENCE}{other}"))
        if beside and apart:
            said.append(_against(other, beside, apart))
    return " ".join(said)


def _bracket(record: Record) -> str:
    return f" (95 % interval {words.interval(record)})" if record.ci_low is not None else ""


def _against(other: str, beside: Record, apart: Record) -> str:
    """How the model compares with a reference. apart: the paired difference."""
    difference = apart.value or 0.0
    if other == "iid_reference":
        return (
            f"The i.i.d. reference, samples that are fresh raters, has {words.value(beside)}: the model lies "
            f"{words.number(abs(difference))} {'above' if difference >= 0 else 'below'} it{_bracket(apart)}."
        )
    verdict = "no clear difference"
    if apart.ci_low is None or apart.ci_high is None:
        verdict = "too few patients to say whether that is more than chance"
    elif apart.ci_high < 0 or apart.ci_low > 0:
        verdict = f"the model is {'better' if apart.ci_high < 0 else 'worse'}"
    return (
        f"The majority vote repeated {beside.n} times has {words.value(beside)}: {verdict}, "
        f"paired difference {words.number(difference, signed=True)}{_bracket(apart)}."
    )
