"""What scores are read beside: the majority vote, one rater against the others, and the i.i.d. reference of GED."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modiff.evaluation.scoring import Columns, columns_at, ways
from modiff.evaluation.settings import EvaluationSettings
from modiff.evaluation.table import BASELINE, ONE_RATER, REFERENCE, Quantity
from modiff.metrics.functional import PairwiseDistances, iid_reference, majority_vote
from modiff.metrics.sample_set import SampleSet, Values


def score_references(masks: Tensor, read: Tensor, settings: EvaluationSettings) -> Columns:
    """n times the majority vote, the i.i.d. reference of GED, and where the settings ask for it one rater.

    masks: (B,R,K,H,W). read: (B,R). One rater is each rater's mask n times against the other raters, the mean over the
    raters. None of them depends on a threshold or on steps; each carries the threshold of the scores it stands beside.
    """
    raters = masks.shape[1]
    # Beyond as many copies as raters, more copies of one mask change no metric; fewer change the greedy matching.
    most = min(max(settings.ns), raters)
    majority = SampleSet(_copies(majority_vote(masks, read), most), masks, read)
    pairs = PairwiseDistances.of_raters(masks, read=read)
    others = _against_the_rest(masks, read, most) if settings.one_rater else []
    # The mean over raters of fractions that are 0 or 1 is no rater's fraction: presence cannot be averaged.
    of_one = [metric for metric in settings.metrics if metric != "presence"]
    columns: Columns = {}
    for protocol, threshold, n in ways(settings):
        few = min(n, raters)
        found = {BASELINE: columns_at(majority, settings.metrics, protocol, threshold, few)}
        if others:
            parts = [columns_at(own, of_one, protocol, threshold, few) for own, _ in others]
            found[ONE_RATER] = _averaged(parts, torch.stack([use for _, use in others]))
        if "ged" in settings.metrics:
            found[REFERENCE] = {"ged": iid_reference(pairs, n, estimator=protocol.ged_estimator)}
        columns |= {
            Quantity(protocol.name, threshold, n, None, predictor, metric): values.double()
            for predictor, of_metrics in found.items()
            for metric, values in of_metrics.items()
        }
    return columns


def _copies(mask: Tensor, count: int) -> Tensor:
    """(B,K,H,W) -> (B,count,K,H,W)."""
    return mask[:, None].expand(-1, count, -1, -1, -1)


def _against_the_rest(masks: Tensor, read: Tensor, most: int) -> list[tuple[SampleSet, Tensor]]:
    """For each rater, copies of the own mask against the others who read the image; (B,): both are there."""
    slots = torch.arange(masks.shape[1], device=masks.device)
    rests = [read & (slots != j) for j in range(masks.shape[1])]
    return [
        (SampleSet(_copies(masks[:, j], most), masks, rest), read[:, j] & rest.any(1)) for j, rest in enumerate(rests)
    ]


def _averaged(parts: Sequence[Values], use: Tensor) -> Values:
    """Mean of several scorings of the same images, those where `use` (parts, B) is true; NaN if one of these is."""
    count = use.sum(0)
    found = {}
    for name in parts[0]:
        total = torch.stack([torch.where(keep, part[name], 0.0) for keep, part in zip(use, parts, strict=True)]).sum(0)
        found[name] = torch.where(count > 0, total / count, torch.nan)
    return found
