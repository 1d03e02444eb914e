"""Metrics of plain arrays, NumPy or torch: one image at a time, or a batch.

samples (N,H,W) and masks (R,H,W) of one image; (N,K,H,W) and (R,K,H,W) with K foreground classes; (B,N,K,H,W) and
(B,R,K,H,W) of B images. Masks are bool, 0/1 or 0/255; samples are that, or probabilities in [0,1] for metrics of maps.
read: (R,) or (B,R) bool, who read the image (None: all). weights: (N,) or (B,N), None: equal. A metric of one image is
a float, of a batch (B,) float64; NaN where it is undefined. The functions of `modiff.metrics.functional`, where each
is defined, take tensors of a batch. All raise MetricError, which says what does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from modiff.errors import MetricError
from modiff.metrics import functional as F
from modiff.metrics.functional.maps import NccKind
from modiff.metrics.functional.sets import Estimator, Matching

Value = float | np.ndarray
Array = ArrayLike | Tensor
_AXES = {3: "({0},H,W)", 4: "({0},K,H,W)", 5: "(B,{0},K,H,W)"}
_SEVERAL = "Make a mask per class of label maps, ({0},K,H,W): np.stack([labels == 1, labels == 2], 1)"


def _tensor(values: Array, field: str) -> Tensor:
    """A tensor on the CPU of anything that NumPy takes for numbers."""
    if isinstance(values, Tensor):
        return values.detach().cpu()
    try:
        array = np.asarray(values)
    except ValueError:
        raise MetricError("are of different shapes", field=field, expected="one array of equal images") from None
    if array.dtype.kind not in "buif":
        raise MetricError("is not an array of numbers", field=field, found=array.dtype, expected="bool or numbers")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def _five(values: Tensor, field: str, letter: str) -> Tensor:
    """(M,H,W), (M,K,H,W) or (B,M,K,H,W) -> (B,M,K,H,W)."""
    if values.ndim not in _AXES:
        hint = f"A single mask is {field}[None]" if values.ndim == 2 else None
        expected = " or ".join(shape.format(letter) for shape in _AXES.values())
        raise MetricError("wrong shape", field=field, found=tuple(values.shape), expected=expected, hint=hint)
    return {3: lambda: values[None, :, None], 4: lambda: values[None], 5: lambda: values}[values.ndim]()


def _masks(values: Tensor, field: str, letter: str, *, maps: bool = False) -> Tensor:
    """bool of bool, 0/1 or 0/255; maps: or probabilities as they are."""
    if values.dtype == torch.bool or values.numel() == 0:
        return values.bool()
    low, high = (value.item() for value in values.aminmax())
    marked = values != 0
    if high in (0, 1, 255) and torch.equal(marked.to(values.dtype) * high, values):
        return marked
    probable = values.is_floating_point() and 0 <= low <= high <= 1  # not so of NaN
    if maps and probable:
        return values
    several = values.unique()[:7].tolist()
    found = ", ".join(f"{value:g}" for value in several[:6]) + (", …" if len(several) > 6 else "")
    expected, hint = "bool, 0/1 or 0/255", _SEVERAL.format(letter)
    if probable:
        hint = f"Make masks of probability maps: {field} > 0.5"
    elif maps:
        expected, hint = f"{expected}, or probabilities from 0 to 1", f"Probabilities as bytes: {field} / 255"
    raise MetricError("are not masks", field=field, found=f"values {found}", expected=expected, hint=hint)


def _of(function: Callable[..., Any], masks: Array, samples: Array | None, *, maps: bool = False, **more: Any) -> Value:
    """`function` of both sets, as float of one image and as (B,) of several."""
    given = ({} if samples is None else {"samples": _tensor(samples, "samples")}) | {"masks": _tensor(masks, "masks")}
    single, sets = given["masks"].ndim < 5, {}
    for field, values in given.items():
        letter = "N" if field == "samples" else "R"
        sets[field] = _masks(_five(values, field, letter), field, letter, maps=maps and field == "samples")
    shapes = {values.shape[:1] + values.shape[2:] for values in sets.values()}
    if len({values.ndim for values in given.values()}) > 1 or len(shapes) > 1:
        found = " and ".join(f"{name} {tuple(values.shape)}" for name, values in given.items())
        raise MetricError("shapes do not fit one another", found=found, expected="equal shapes but for N and R")
    for name in ("read", "weights"):
        if more.get(name) is not None:
            one = _tensor(more[name], name)
            more[name] = one[None] if one.ndim == 1 and single else one
    found = function(*(sets[name] for name in ("samples", "masks") if name in sets), **more)
    value: Value = _out(found, single)
    return value


def _out(found: Any, single: bool) -> Any:
    if isinstance(found, Tensor):
        value = found[0] if single else found
        return value.item() if value.ndim == 0 else value.numpy()
    return type(found)(*(_out(part, single) for part in found))


def ged(
    samples: Array,
    masks: Array,
    *,
    read: Array | None = None,
    weights: Array | None = None,
    estimator: Estimator = "v",
) -> Value:
    """Generalised energy distance; lower is better, and a perfect model does not score 0 (`iid_reference`)."""
    return _of(F.ged, masks, samples, read=read, weights=weights, estimator=estimator)


def hm_iou(
    samples: Array,
    masks: Array,
    *,
    read: Array | None = None,
    weights: Array | None = None,
    matching: Matching = "optimal",
) -> Value:
    """IoU of samples and raters matched one to one; higher is better."""
    return _of(F.hm_iou, masks, samples, read=read, weights=weights, matching=matching)


def dmax(samples: Array, masks: Array, *, read: Array | None = None) -> Value:
    """Mean over raters of their best Dice over the samples; higher is better."""
    return _of(F.dmax, masks, samples, read=read)


def best_dice(samples: Array, masks: Array, *, read: Array | None = None) -> np.ndarray:
    """Each rater's best Dice over the samples, (R,) or (B,R)."""
    return np.asarray(_of(F.best_dice, masks, samples, read=read))


def collective_insight(samples: Array, masks: Array, *, read: Array | None = None) -> F.CollectiveInsight:
    """Collective Insight (CI) and its three parts; higher is better."""
    return cast(F.CollectiveInsight, _of(F.collective_insight, masks, samples, read=read))


def ncc(samples: Array, masks: Array, *, read: Array | None = None, kind: NccKind = "pixel") -> Value:
    """Correlation of the samples' cross-entropy maps with the raters' (PHiSeg); higher is better. Samples may be
    probabilities."""
    return _of(F.ncc, masks, samples, maps=True, read=read, kind=kind)


def brier(samples: Array, masks: Array, *, read: Array | None = None, weights: Array | None = None) -> Value:
    """Brier score of the mean map against the raters' mean; lower is better. Samples may be probabilities."""
    return _of(F.brier, masks, samples, maps=True, read=read, weights=weights)


def soft_dice(samples: Array, masks: Array, *, read: Array | None = None, weights: Array | None = None) -> Value:
    """Soft Dice of the mean map against the raters' mean (QUBIQ); higher is better. Samples may be probabilities."""
    return _of(F.soft_dice, masks, samples, maps=True, read=read, weights=weights)


def expected_calibration_error(
    samples: Array, masks: Array, *, read: Array | None = None, weights: Array | None = None
) -> Value:
    """Calibration of the mean map's pixels; lower is better. Samples may be probabilities."""
    return _of(F.expected_calibration_error, masks, samples, maps=True, read=read, weights=weights)


def uncertainty_ncc(samples: Array, masks: Array, *, read: Array | None = None, weights: Array | None = None) -> Value:
    """Correlation of the samples' uncertainty with the raters'; higher is better. Samples may be probabilities."""
    return _of(F.uncertainty_ncc, masks, samples, maps=True, read=read, weights=weights)


def uncertainty_auroc(
    samples: Array, masks: Array, *, read: Array | None = None, weights: Array | None = None
) -> Value:
    """AUROC of the samples' uncertainty for disputed pixels; higher is better. Samples may be probabilities."""
    return _of(F.uncertainty_auroc, masks, samples, maps=True, read=read, weights=weights)


def hd95(samples: Array, masks: Array, *, read: Array | None = None, spacing: Sequence[float] | None = None) -> Value:
    """95 % Hausdorff distance of the two majorities' boundaries, in pixels or mm; lower is better."""
    return _of(F.hd95, masks, samples, read=read, spacing=spacing)


def average_surface_distance(
    samples: Array, masks: Array, *, read: Array | None = None, spacing: Sequence[float] | None = None
) -> Value:
    """Average symmetric distance of the two majorities' boundaries, in pixels or mm; lower is better."""
    return _of(F.average_surface_distance, masks, samples, read=read, spacing=spacing)


def rater_diversity(masks: Array, *, read: Array | None = None, estimator: Estimator = "v") -> Value:
    """Mean distance (1 − IoU) between two raters."""
    return _of(F.rater_diversity, masks, None, read=read, estimator=estimator)


def iid_reference(masks: Array, n: int, *, read: Array | None = None, estimator: Estimator = "v") -> Value:
    """GED that n fresh raters of the image would score on average: what a perfect model scores."""
    return _of(F.iid_reference, masks, None, n=n, read=read, estimator=estimator)


def majority_vote(masks: Array, *, read: Array | None = None) -> np.ndarray:
    """Pixels that more than half of the raters marked: (H,W), (K,H,W) or (B,K,H,W) bool as the masks are."""
    found = np.asarray(_of(F.majority_vote, masks, None, read=read))
    return found[0] if _tensor(masks, "masks").ndim == 3 else found
