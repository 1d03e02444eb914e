"""The field's names for what records hold, for tables and plots."""

from __future__ import annotations

from modiff.evaluation.records import DIFFERENCE, Record
from modiff.metrics.protocols import PROTOCOLS
from modiff.metrics.registry import NAMES, WITHOUT_THRESHOLD

METRICS = {metric: name for metric, (name, _) in NAMES.items()}
HIGHER_IS_BETTER = {metric: better for metric, (_, better) in NAMES.items() if better is not None}
PREDICTORS = {
    "model": "model",
    "shuffled": "shuffled",
    "majority_vote": "majority vote",
    "one_rater": "one rater against the rest",
    "iid_reference": "i.i.d. reference",
}
STRATA = {
    "all": "all images",
    "all_marked": "every rater marked",
    "some_empty": "some raters marked nothing",
    "none": "nobody marked",
}


def metric(record: Record) -> str:
    """E.g. "GED"."""
    name = record.metric.partition(DIFFERENCE)[0]
    return METRICS.get(name, name)


def predictor(record: Record) -> str:
    """E.g. "model", or "model − majority vote" for a paired difference."""
    other = record.metric.partition(DIFFERENCE)[2]
    name = PREDICTORS.get(record.predictor, record.predictor)
    return f"{name} − {PREDICTORS.get(other, other)}" if other else name


def is_difference(record: Record) -> bool:
    """Whether the value is a mean difference between two predictors on the same images."""
    return DIFFERENCE in record.metric


def threshold(record: Record) -> str:
    """How probabilities became masks: "argmax", "p ≥ 0.9"; "–" where that does not enter."""
    metric_ = record.metric.partition(DIFFERENCE)[0]
    if record.predictor in ("majority_vote", "one_rater", "iid_reference") or metric_ in WITHOUT_THRESHOLD:
        return "–"
    if record.protocol in PROTOCOLS:
        return PROTOCOLS[record.protocol].threshold_text(record.threshold)
    return f"p ≥ {record.threshold:g}"


def decimals(metric: str) -> int:
    """How many are printed: errors per pixel are small, for most of an image is background that all agree on."""
    return 5 if metric.partition(DIFFERENCE)[0] in ("brier", "ece") else 3


def number(value: float | None, *, signed: bool = False, digits: int = 3) -> str:
    """Fixed decimals, a true minus sign, "undefined" for what is not defined on any image."""
    if value is None:
        return "undefined"
    rounded = round(value, digits) + 0.0  # no minus before a zero
    return f"{rounded:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def interval(record: Record) -> str:
    """The 95 % interval, or why there is none."""
    if record.value is None:
        return ""
    if record.ci_low is None or record.ci_high is None:
        return "under 5 patients"
    signed, digits = is_difference(record), decimals(record.metric)
    ends = (number(end, signed=signed, digits=digits) for end in (record.ci_low, record.ci_high))
    return " to ".join(ends)


def value(record: Record) -> str:
    """The value; differences with their sign."""
    return number(record.value, signed=is_difference(record), digits=decimals(record.metric))
