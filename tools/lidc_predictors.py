"""Simple predictors that know the raters, scored on a store's test split: what numbers mean before a model is trained.

The same samples per image under both protocols, with 95 % intervals by bootstrap over patients. Writes a table of
images (CSV) and the records (JSON) as `modiff evaluate` does, and prints Markdown.

    python tools/lidc_predictors.py --data lidc.h5 [-n 16] [-o FOLDER] [--into results/lidc-predictors.md]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from modiff.data.loading import MemoryStore, load
from modiff.evaluation import provenance, words
from modiff.evaluation.records import (
    STRATA,
    ImageTable,
    Record,
    Result,
    assemble,
    select,
    strata_of,
    write_csv,
    write_result,
)
from modiff.evaluation.scoring import EvaluationSettings, rows_of, score_references, score_samples
from modiff.io.output import write_text
from modiff.metrics.functional import majority_vote
from modiff.rng import fold, normal, sample_seeds, seeds_for, uniform

METRICS = ("ged", "hm_iou", "ncc", "ci", "dmax", "soft_dice", "brier", "ece", "presence")
OF_PROTOCOL = {"standard": ("ged", "hm_iou", "ncc", "ci", "dmax"), "paper": ("ged", "hm_iou", "ncc")}
OF_MEAN_MAP = ("soft_dice", "brier", "ece", "presence_ece")  # of masks, the same under both protocols
CHUNK = 32
START, END = "<!-- lidc predictors: made by tools/lidc_predictors.py -->", "<!-- end of lidc predictors -->"

Predictor = Callable[[Tensor, Tensor, int], Tensor]


def exact(masks: Tensor, seeds: Tensor, n: int) -> Tensor:
    """Each rater's mask equally often: (B,R,K,H,W) -> (B,n,K,H,W)."""
    return masks[:, torch.arange(n) % masks.shape[1]]


def iid(masks: Tensor, seeds: Tensor, n: int) -> Tensor:
    """A rater of the image for each sample, drawn with replacement."""
    which = (uniform(sample_seeds(seeds, n)) * masks.shape[1]).long()
    return masks[torch.arange(len(masks))[:, None], which]


def jittered(pixels: float) -> Predictor:
    """As `iid`, each sample moved by a normal distance of this deviation along rows and columns."""

    def draw(masks: Tensor, seeds: Tensor, n: int) -> Tensor:
        drawn = iid(masks, seeds, n).flatten(0, 1).float()
        moved = normal(fold(sample_seeds(seeds, n), 1), (2,)).flatten(0, 1) * pixels
        size = torch.tensor([drawn.shape[-1], drawn.shape[-2]])
        turn = torch.eye(2, 3).repeat(len(drawn), 1, 1)
        turn[:, :, 2] = 2 * moved / size
        grid = torch.nn.functional.affine_grid(turn, list(drawn.shape), align_corners=False)
        found = torch.nn.functional.grid_sample(drawn, grid, align_corners=False) > 0.5
        return found.unflatten(0, (len(masks), n))

    return draw


def _repeated(mask: Tensor, n: int) -> Tensor:
    return mask[:, None].expand(-1, n, -1, -1, -1)


PREDICTORS: dict[str, tuple[str, Predictor]] = {
    "exact_raters": ("each rater's mask equally often (exact)", exact),
    "iid_raters": ("raters of the image, drawn i.i.d.", iid),
    "jittered_half": ("the same, each moved by 0.5 px", jittered(0.5)),
    "jittered_more": ("the same, each moved by 1.5 px", jittered(1.5)),
    "majority": ("majority vote (oracle), n times", lambda masks, seeds, n: _repeated(majority_vote(masks), n)),
    "union": ("union of the raters, n times", lambda masks, seeds, n: _repeated(masks.any(1), n)),
    "empty": ("nothing, n times", lambda masks, seeds, n: torch.zeros_like(_repeated(masks[:, 0], n))),
}
BESIDE = {"one_rater": "one rater against the rest", "iid_reference": "i.i.d. reference"}


def score(images: MemoryStore, split: str, settings: EvaluationSettings) -> tuple[Result, ImageTable]:
    """All predictors on all images of the split; those with a rater who did not read them are not made for this."""
    if not images.read.all():
        raise SystemExit("every rater must have read every image")
    finished = []
    chunks = range(0, len(images), CHUNK)
    for start in track(chunks, "Scoring", console=Console(stderr=True), transient=True):
        batch = images.batch(range(start, min(start + CHUNK, len(images))))
        seeds = seeds_for(settings.seed, batch.case)
        columns = score_references(batch.masks, batch.read, settings)
        for name, (_, draw) in PREDICTORS.items():
            samples = draw(batch.masks, seeds, max(settings.ns))
            columns |= score_samples(samples, batch.masks, batch.read, settings, predictor=name)
        strata = strata_of(batch.marked, batch.read)
        for i, values in enumerate(rows_of(columns, len(batch))):
            case, patient = batch.case[i], images.patients[start + i]
            row = {"case": case, "patient": patient, "stratum": strata[i], "raters": batch.masks.shape[1]}
            finished.append({**row, "values": values})
    table = assemble(split, finished)
    made = {
        **provenance.made(),
        "store": {"fingerprint": images.fingerprint},
        "split": split,
        "settings": settings.to_dict(),
    }
    result = Result(made, table.counts(), table.records(seed=settings.seed, resamples=settings.resamples))
    return result, table


def cell(records: list[Record]) -> str:
    """Value and interval."""
    if not records or records[0].value is None:
        return ""
    record = records[0]
    digits = words.decimals(record.metric)
    ends = [words.number(end, digits=digits) for end in (record.ci_low, record.ci_high)]
    return f"{words.value(record)} ({ends[0]} to {ends[1]})"


def markdown(result: Result, n: int, data: str) -> str:
    """A table per protocol, and one by stratum."""
    names = {name: text for name, (text, _) in PREDICTORS.items()} | BESIDE
    counts = result.strata
    size = f"{counts['all']['images']} images of {counts['all']['patients']} patients"
    lines = [
        START,
        f"{size}, n = {n}; 95 % intervals in brackets.",
        f"Made by `python tools/lidc_predictors.py --data {data} -n {n}`.",
    ]

    def over_images(title: str, protocol: str, metrics: tuple[str, ...]) -> list[str]:
        wanted = {"protocol": protocol, "n": n, "stratum": "all"}
        rows = [
            [text, *(cell(select(result.results, predictor=name, metric=metric, **wanted)) for metric in metrics)]
            for name, text in names.items()
        ]
        head = ["predictor", *(_head(metric) for metric in metrics)]
        return ["", f"**{title}**", "", *_table(head, [row for row in rows if any(row[1:])])]

    for protocol, metrics in OF_PROTOCOL.items():
        lines += over_images(f"Protocol `{protocol}`", protocol, metrics)
    lines += over_images("Mean map and presence, protocol `standard`", "standard", OF_MEAN_MAP)
    wanted = {"protocol": "standard", "n": n, "metric": "ged"}
    heads = [f"{words.STRATA[stratum]} ({counts[stratum]['images']})" for stratum in STRATA]
    rows = [
        [text, *(_plain(select(result.results, predictor=name, stratum=stratum, **wanted)) for stratum in STRATA)]
        for name, text in names.items()
    ]
    lines += ["", "**GED by stratum, protocol `standard`**", "", *_table(["predictor", *heads], rows)]
    return "\n".join([*lines, END])


def _head(metric: str) -> str:
    return f"{words.METRICS[metric]} {'↑' if words.HIGHER_IS_BETTER[metric] else '↓'}"


def _plain(records: list[Record]) -> str:
    return words.value(records[0]) if records else ""


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def main() -> None:
    """Scores, writes, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="the store")
    parser.add_argument("--split", default="test")
    parser.add_argument("-n", type=int, default=16, help="samples per image")
    parser.add_argument("-o", dest="output", type=Path, help="folder for the CSV and the JSON")
    parser.add_argument("--into", type=Path, help="a page whose marked part is replaced by the tables")
    args = parser.parse_args()
    settings = EvaluationSettings(ns=(args.n,), metrics=METRICS, one_rater=True)
    result, table = score(load(args.data, args.split), args.split, settings)
    text = markdown(result, args.n, args.data.name)
    if args.output:
        write_csv(table, args.output / "predictors.csv")
        write_result(result, args.output / "predictors.json")
    if args.into:
        page = args.into.read_text(encoding="utf-8")
        before, _, rest = page.partition(START)
        write_text(args.into, before + text + rest.partition(END)[2])
    print(text)


if __name__ == "__main__":
    main()
