"""The field's names for what records hold, for tables and plots."""

from __future__ import annotations

from modiff.evaluation.records import DIFFERENCE, Record
from modiff.metrics.protocols import PROTOCOLS
from modiff.metrics.registry import NAMES, WITHOUT_THRESHOLD

INTERVAL = "95 % interval"
NONE = "–"  # where something does not enter
FEW = "under 5 patients"
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
FEW = "under 5 patients"  # in place of an interval


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
    if record.predictor in ("majority_vote", "one_rater", "iid_reference"):
        return NONE
    return masks_by(record.metric.partition(DIFFERENCE)[0], record.protocol, record.threshold)


def masks_by(metric: str, protocol: str, threshold: float) -> str:
    """How probabilities became the masks that a metric is of: "argmax", "p ≥ 0.9"; "–" where it takes none."""
    if metric in WITHOUT_THRESHOLD:
        return NONE
    return PROTOCOLS[protocol].threshold_text(threshold) if protocol in PROTOCOLS else f"p ≥ {threshold:g}"


def decimals(metric: str) -> int:
    """How many are printed: errors per pixel are small, for most of an image is background that all agree on."""
    return 5 if metric.partition(DIFFERENCE)[0] in ("brier", "ece") else 3


def number(value: float | None, *, signed: bool = False, digits: int = 3) -> str:
    """Fixed decimals, a true minus sign, "undefined" for what is not defined on any image."""
    if value is None:
        return "undefined"
    rounded = round(value, digits) + 0.0  # no minus before a zero
    return f"{rounded:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def ends(low: float | None, high: float | None, *, signed: bool = False, digits: int = 3) -> str:
    """Both ends of a 95 % interval, or why there is none."""
    if low is None or high is None:
        return FEW
    return " to ".join(number(end, signed=signed, digits=digits) for end in (low, high))


def interval(record: Record) -> str:
    """The 95 % interval, or why there is none; nothing for a value that is undefined."""
    if record.value is None:
        return ""
    return ends(record.ci_low, record.ci_high, signed=is_difference(record), digits=decimals(record.metric))


def value(record: Record) -> str:
    """The value; differences with their sign."""
    return number(record.value, signed=is_difference(record), digits=decimals(record.metric))


def row(record: Record, undefined: int = 0) -> dict[str, object]:
    """The cells of a table's row, by column. undefined: images of the stratum on which the metric is not defined."""
    seconds = record.seconds_per_image
    return {
        "stratum": STRATA[record.stratum],
        "metric": metric(record),
        "predictor": predictor(record),
        "protocol": record.protocol,
        "threshold": threshold(record),
        "n": record.n,
        "steps": NONE if record.steps is None else record.steps,
        "split": record.split,
        "images": record.images,
        "undefined": undefined or "",
        "seconds per image": NONE if seconds is None else f"{seconds:.3g}",
        "value": value(record),
        INTERVAL: interval(record),
    }


def with_direction(metric: str) -> str:
    """E.g. "GED (lower is better)"."""
    name, higher = METRICS.get(metric, metric), HIGHER_IS_BETTER.get(metric)
    return name if higher is None else f"{name} ({'higher' if higher else 'lower'} is better)"
