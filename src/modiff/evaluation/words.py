"""Results in words: the field's names for what records hold, and tables of text for a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import pandas as pd

from modiff.config.evaluation import IID
from modiff.evaluation.bootstrap import Interval
from modiff.evaluation.records import BASELINE, BESIDE, DIFFERENCE, REFERENCE, Record, Result, select
from modiff.metrics.protocols import GIVEN_MARKS, PROTOCOLS
from modiff.metrics.registry import NAMES, WITHOUT_THRESHOLD
from modiff.terminal import console

if TYPE_CHECKING:
    from rich.console import Console, Group

INTERVAL = "95 % interval"
NONE = "–"  # where something does not enter
METRICS = {metric: name for metric, (name, _) in NAMES.items()}
HIGHER_IS_BETTER = {metric: better for metric, (_, better) in NAMES.items() if better is not None}
PREDICTORS = {
    "model": "model",
    "shuffled": "shuffled",
    "majority_vote": "majority vote (oracle)",
    "one_rater": "one rater against the rest",
    "iid_reference": "i.i.d. reference",
}
ORACLE = (
    "The majority vote is an oracle, not a method: it is made of the test image's own raters. Method unet says what "
    "one answer scores that must be predicted."
)
STRATA = {
    "all": "all images",
    "all_marked": "every rater marked",
    "some_empty": "some raters marked nothing",
    "none": "nobody marked",
}
CONVENTIONS = {
    "standard": "GED with self-pairs (V), HM-IoU by optimal matching",
    "paper": "GED without self-pairs (U, can be negative), HM-IoU by greedy matching",
}
CONVENTIONS |= {
    f"{name}{GIVEN_MARKS}": f"{said}; given that a rater marks: samples that mark against the raters who marked"
    for name, said in CONVENTIONS.items()
}
FEW = "under 5 patients"  # in place of an interval

_WIDTH = 100  # where output goes to a file: lines are not to be cut at 80
_LEFT = ("stratum", "metric", "predictor", "protocol", "selection", "threshold", "split", "a − b", "better")
_WRAPPED = ("metric", "predictor", "stratum", "better", "a − b")  # texts: their words may stand below each other
# How a title says what is the same in every row.
_SHARED = dict.fromkeys(
    ("a − b", "predictor", "metric", "protocol", "n", "selection", "threshold", "split", "stratum"), "{}"
)
_SHARED |= {"protocol": "{} protocol", "n": "n = {}", "split": "split {}", "undefined": "undefined on {} of them"}


def metric(record: Record) -> str:
    """E.g. "GED"."""
    name = record.metric.partition(DIFFERENCE)[0]
    return METRICS.get(name, name)


def predictor(record: Record) -> str:
    """E.g. "model", or "model − majority vote (oracle)" for a paired difference."""
    other = record.metric.partition(DIFFERENCE)[2]
    name = PREDICTORS.get(record.predictor, record.predictor)
    name += "" if record.select == IID else f", {record.select}"
    return f"{name} − {PREDICTORS.get(other, other)}" if other else name


def is_difference(record: Record) -> bool:
    """Whether the value is a mean difference between two predictors on the same images."""
    return DIFFERENCE in record.metric


def threshold(record: Record) -> str:
    """How probabilities became masks: "argmax", "p ≥ 0.9"; "–" where that does not enter."""
    if record.predictor in BESIDE:
        return NONE
    return masks_by(record.metric.partition(DIFFERENCE)[0], record.protocol, record.threshold)


def masks_by(metric: str, protocol: str, threshold: float) -> str:
    """How probabilities became the masks that a metric is of: "argmax", "p ≥ 0.9"; "–" where it takes none."""
    if metric in WITHOUT_THRESHOLD:
        return NONE
    known = PROTOCOLS.get(protocol.removesuffix(GIVEN_MARKS))
    return f"p ≥ {threshold:g}" if known is None else known.threshold_text(threshold)


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


def estimate(one: Interval, *, signed: bool = False, digits: int = 3) -> str:
    """A mean with its interval in brackets."""
    found = number(one.value, signed=signed, digits=digits)
    return f"{found} ({ends(one.ci_low, one.ci_high, signed=signed, digits=digits)})"


def interval(record: Record) -> str:
    """The 95 % interval, or why there is none; nothing for a value that is undefined."""
    found = ends(record.ci_low, record.ci_high, signed=is_difference(record), digits=decimals(record.metric))
    return "" if record.value is None else found


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


def text_table(frame: pd.DataFrame, *, heads: Mapping[str, str] | None = None, bold: Sequence[bool] = ()) -> Group:
    """A title and a table of text for a terminal; what is the same in every row is said once, in the title.

    It is as wide as `wide_console` at most: words are wrapped, not broken. frame: a line parts rows that differ in
    their index. heads: what columns are called where there is room, by default their names. bold: whether each row is.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text  # names are other people's text: square brackets in them are not markup

    said = []
    for name in [name for name in _SHARED if name in frame]:
        values = set(frame[name]) - ({NONE} if name == "threshold" else set())
        if len(values) < 2:
            said += [_SHARED[name].format(value) for value in values if value != ""]
            frame = frame.drop(columns=name)
    names = list(frame.columns.astype(str))
    wide, asked = wide_console().width, [(heads or {}).get(name, name) for name in names]
    for gap, called in ((2, asked), (2, names), (1, names)):
        room = wide - gap * (len(names) - 1)
        widths = _widths(frame, called, room)
        if sum(widths) <= room:
            break
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap - 1, 0, 0))
    for name, head, width in zip(names, called, widths, strict=True):
        justify: Literal["left", "right"] = "left" if name in _LEFT else "right"
        table.add_column(Text(head), justify=justify, overflow="fold", width=width)
    for i, cells in enumerate(frame.itertuples(index=False, name=None)):
        if i and frame.index[i] != frame.index[i - 1]:
            table.add_section()
        table.add_row(*(Text(str(cell)) for cell in cells), style="bold" if bold and bold[i] else "")
    return Group(Text(", ".join(said), style="italic"), table)


def _widths(frame: pd.DataFrame, heads: Sequence[str], room: int) -> list[int]:
    """Of columns that share `room`: heads and texts wrap at words; numbers and intervals too where nothing else helps.

    More than `room` where the longest words do not fit.
    """
    from rich.cells import cell_len

    def longest(texts: Iterable[str]) -> int:
        return max(map(cell_len, texts), default=1)

    cells = [list(map(str, frame.iloc[:, i])) for i in range(len(heads))]
    head = [longest(text.split()) for text in heads]
    word = [max(own, longest(" ".join(texts).split())) for own, texts in zip(head, cells, strict=True)]
    whole = [
        least if name in _WRAPPED else max(own, longest(texts))
        for name, own, least, texts in zip(frame.columns, head, word, cells, strict=True)
    ]
    widths = [max(cell_len(text), longest(texts)) for text, texts in zip(heads, cells, strict=True)]
    for least in (whole, word):
        while sum(widths) > room and widths != least:
            widest = max((i for i in range(len(widths)) if widths[i] > least[i]), key=widths.__getitem__)
            widths[widest] -= 1
    return widths


def results_table(result: Result) -> Group:
    """A table per protocol and threshold of all predictors on all images; below, the same of the model by stratum."""
    from rich.console import Group
    from rich.text import Text

    def of_model(record: Record) -> bool:
        return record.predictor == "model" and not is_difference(record)

    def table(records: Sequence[Record]) -> Group:
        rows = [row(record, result.undefined(record)) for record in records]
        frame = pd.DataFrame(rows).set_index(["stratum", "n"], drop=False).drop(columns="seconds per image")
        return text_table(frame, bold=[of_model(record) and record.stratum == "all" for record in records])

    everywhere = [
        record
        for record in select(result.results, stratum="all")
        if not (record.predictor == "shuffled" and record.metric.endswith("iid_reference"))
    ]
    # The i.i.d. reference is there where it holds within strata too.
    own = select(result.results, predictor=("model", REFERENCE))
    model = [record for record in own if not is_difference(record)]
    strata = [record for stratum in list(STRATA)[1:] for record in select(model, stratum=stratum)]
    ways = dict.fromkeys((record.protocol, record.threshold) for record in result.results)
    parts = [select(records, protocol=way[0], threshold=way[1]) for records in (everywhere, strata) for way in ways]
    told = [Text(ORACLE, style="italic")] if select(result.results, predictor=BASELINE) else []
    return Group(*(table(records) for records in parts if records), *told)


def wide_console() -> Console:
    """A console that does not cut tables where standard output is a file or a pipe."""
    return console(width=None if sys.stdout.isatty() else _WIDTH)


def print_notes(notes: Sequence[str], terminal: Console | None = None) -> None:
    """What a user should know, by default on standard error."""
    terminal = terminal or console(stderr=True)
    for note in notes:
        terminal.print(f"Note: {note}", style="yellow", soft_wrap=True)
