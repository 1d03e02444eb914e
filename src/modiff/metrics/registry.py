"""The metrics, each once: its name and columns, which way is better, and how a protocol computes it from a batch.

The functions of `modiff.metrics.functional`, the torchmetrics classes, the columns of an evaluation and the names in
tables follow from this list. Reading names does not import torch; the first computation does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modiff import metrics as M  # `M.functional` is imported when something of it is used
from modiff.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from modiff.metrics.protocols import Protocol, SampleSet, Values, View

    Compute = Callable[[View, Protocol], Tensor | tuple[Tensor, ...] | Values]

HIGHER, LOWER, NEITHER = True, False, None
GAP = "calibration_gap"


@dataclass(frozen=True)
class Column:
    """A value per image, or per data set: its name in files and in tables, and whether more is better.

    higher_is_better: None where it describes and neither side is better.
    """

    name: str
    title: str
    higher_is_better: bool | None


@dataclass(frozen=True)
class Metric:
    """A metric that can be asked for by name.

    columns: one value per image each. compute: these, (B,) float64, from a view of samples and raters; names with their
    values where the classes decide how many columns there are. of_maps: of probability maps as they are, so that no
    threshold enters; else of masks. by_protocol: conventions of the protocol enter beside its threshold. weighted: has
    a form for samples of unequal weight. pooled: the value of a whole data set, which is not a mean over its images.
    """

    name: str
    columns: tuple[Column, ...]
    compute: Compute
    of_maps: bool = False
    by_protocol: bool = False
    weighted: bool = True
    pooled: Column | None = None

    @property
    def outputs(self) -> tuple[Column, ...]:
        """The columns, and the pooled value if there is one."""
        return self.columns if self.pooled is None else (*self.columns, self.pooled)


def _ged(view: View, protocol: Protocol) -> Tensor:
    return M.functional.ged(view.pairs, estimator=protocol.ged_estimator, weights=view.weights)


def _hm_iou(view: View, protocol: Protocol) -> Tensor:
    # Greedy matching takes one sample per rater, whatever its weight.
    weights = None if protocol.matching == "greedy" else view.weights
    return M.functional.hm_iou(view.pairs, matching=protocol.matching, weights=weights)


def _ncc(view: View, protocol: Protocol) -> Tensor:
    # By rows it is undefined for images that are not square.
    if protocol.ncc == "row" and view.maps.shape[-1] != view.maps.shape[-2]:
        return view.undefined()
    return M.functional.ncc(view.maps, view.masks, read=view.read, kind=protocol.ncc)


def _ci(view: View, protocol: Protocol) -> tuple[Tensor, ...]:
    return M.functional.collective_insight(view.binary, view.masks, read=view.read, pairs=view.pairs)


def _diversity(view: View, protocol: Protocol) -> Tensor:
    return M.functional.sample_diversity(view.pairs, estimator=protocol.ged_estimator, weights=view.weights)


def _rater_diversity(view: View, protocol: Protocol) -> Tensor:
    return M.functional.rater_diversity(view.pairs, estimator=protocol.ged_estimator)


def _of_mean_map(name: str, title: str, better: bool) -> Metric:
    """A metric of the samples' mean map and the raters' mean label, by its function's name in `functional`."""

    def compute(view: View, protocol: Protocol) -> Tensor:
        found: Tensor = getattr(M.functional, name)(view.maps, view.masks, read=view.read, weights=view.weights)
        return found

    return _metric(name, title, better, compute, of_maps=True)


def _gaps(view: View, protocol: Protocol) -> Values:
    """A column per class and bin: what the image adds to the pooled calibration error."""
    sums = M.functional.calibration_bins(view.maps, view.masks, read=view.read, weights=view.weights)
    gaps = M.functional.calibration_gaps(sums)
    classes, bins = gaps.shape[1:]
    return {gap_column(k + 1, b): gaps[:, k, b] for k in range(classes) for b in range(bins)}


def _size_crps(view: View, protocol: Protocol) -> Tensor:
    return M.functional.size_crps(view.binary, view.masks, read=view.read, weights=view.weights)


def _presence(view: View, protocol: Protocol) -> tuple[Tensor, ...]:
    return M.functional.presence_fractions(view.binary, view.masks, read=view.read, weights=view.weights)


def _metric(name: str, titles: str | dict[str, str], better: bool | None, compute: Compute, **more: Any) -> Metric:
    """A metric of columns with these titles, or of one column of its own name."""
    named = {name: titles} if isinstance(titles, str) else titles
    return Metric(name, tuple(Column(column, title, better) for column, title in named.items()), compute, **more)


_CI = {"ci": "CI", "ci_sensitivity": "CI sensitivity", "dmax": "Dmax", "ci_agreement": "CI agreement"}
_PRESENCE = {"presence_samples": "samples that mark", "presence_raters": "raters who mark"}
_ALL = (
    _metric("ged", "GED", LOWER, _ged, by_protocol=True),
    _metric("hm_iou", "HM-IoU", HIGHER, _hm_iou, by_protocol=True),
    _metric("ncc", "NCC", HIGHER, _ncc, of_maps=True, by_protocol=True, weighted=False),
    _metric("ci", _CI, HIGHER, _ci, weighted=False),
    _metric("dmax", "Dmax", HIGHER, lambda view, protocol: M.functional.dmax(view.pairs)),
    _metric("sample_diversity", "sample diversity", NEITHER, _diversity, by_protocol=True),
    _metric("rater_diversity", "rater diversity", NEITHER, _rater_diversity, by_protocol=True),
    _of_mean_map("soft_dice", "soft Dice", HIGHER),
    _of_mean_map("brier", "Brier score", LOWER),
    Metric("ece", (), _gaps, of_maps=True, pooled=Column("ece", "ECE", LOWER)),
    _of_mean_map("uncertainty_ncc", "uncertainty NCC", HIGHER),
    _of_mean_map("uncertainty_auroc", "uncertainty AUROC", HIGHER),
    _metric("presence", _PRESENCE, NEITHER, _presence, pooled=Column("presence_ece", "presence ECE", LOWER)),
    _metric("hd95", "HD95 (px)", LOWER, lambda view, protocol: view.surface.hd95, weighted=False),
    _metric("average_surface_distance", "surface distance (px)", LOWER, lambda v, p: v.surface.average, weighted=False),
    _metric("size_crps", "size CRPS (px)", LOWER, _size_crps),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
FIRST = ("ged", "hm_iou")  # what is scored and compared where nothing is asked for

COLUMNS: dict[str, tuple[str, ...]] = {m.name: tuple(column.name for column in m.columns) for m in _ALL}
"""a name that can be asked for -> its columns in the table of images; those of "ece" are `gap_column`s"""
NAMES: dict[str, tuple[str, bool | None]] = {
    column.name: (column.title, column.higher_is_better) for m in _ALL for column in m.outputs
}
"""a metric in a record -> its name in tables and whether more is better, None where neither side is"""
POOLED = tuple(m.pooled.name for m in _ALL if m.pooled)
"""metrics that are not means over images but computed from all images of a stratum together"""
WITHOUT_THRESHOLD = frozenset({column.name for m in _ALL if m.of_maps for column in m.outputs} | {GAP})
"""metrics of probability maps as they are: no threshold enters"""


def values(samples: SampleSet, metric: str, protocol: Protocol, threshold: float, n: int) -> Values:
    """The columns of a metric of the first n samples, each (B,) float64.

    NaN where samples differ in weight and the metric has no weighted form.
    """
    asked = METRICS[metric]
    way = None if asked.of_maps else samples.way(protocol, threshold)
    key = (metric, way, n, protocol.name if asked.by_protocol else None)

    def computed() -> Values:
        names, view = COLUMNS[metric], samples.view(protocol, threshold, n)
        if samples.weights is not None and not asked.weighted:
            return dict.fromkeys(names, view.undefined())
        found = asked.compute(view, protocol)
        if isinstance(found, dict):
            return found
        return dict(zip(names, found if isinstance(found, tuple) else (found,), strict=True))

    return samples.once(key, computed)


def chosen(names: Iterable[str]) -> tuple[str, ...]:
    """Names of metrics, or "all", in the order of tables, each once; ConfigError for a name that does not exist."""
    asked = set(names)
    for name in sorted(asked - {"all", *METRICS}):
        raise ConfigError("no such metric", field="metrics", found=name, expected=f"all, {', '.join(METRICS)}")
    return tuple(name for name in METRICS if name in asked or "all" in asked)


def gap_column(kind: int, bin_: int) -> str:
    """Column of one image's part of the calibration error: (Σp − Σq)/pixels of class `kind` (from 1) in a bin of p."""
    return f"{GAP}_{kind}_{bin_}"


def rank(metric: str) -> int:
    """A metric's place in tables: GED and HM-IoU first, what is unknown last."""
    return list(NAMES).index(metric) if metric in NAMES else len(NAMES)


def columns_of(metrics: Iterable[str]) -> list[str]:
    """The columns of a table of methods: those that have a better side; of CI the index, not its parts.

    Metrics of a whole split, such as the calibration error, are not columns: they are not means over images.
    """
    found: list[str] = []
    for name in metrics:
        columns = COLUMNS.get(name, ())
        found += [part for part in ((name,) if name in columns else columns) if NAMES[part][1] is not None]
    return list(dict.fromkeys(found))


@dataclass(frozen=True, eq=False)
class PooledError:
    """Σ |mean over images of a column| / classes. gaps: (images, columns), each image's signed part in each bin."""

    gaps: NDArray[np.float64]
    classes: int


def pooled(columns: Mapping[str, NDArray[np.float64]]) -> dict[str, PooledError]:
    """The calibration errors that follow from the columns (metric -> a value per image) of one set of samples."""
    import numpy as np
    import torch

    found = {}
    gaps = {name: values for name, values in columns.items() if name.startswith(GAP)}
    if gaps:
        classes = {name.removeprefix(f"{GAP}_").partition("_")[0] for name in gaps}
        found["ece"] = PooledError(np.stack([gaps[name] for name in sorted(gaps)], 1), len(classes))
    if {"presence_samples", "presence_raters"} <= columns.keys():
        both = M.functional.Presence(*(torch.from_numpy(columns[name].copy()) for name in COLUMNS["presence"]))
        found["presence_ece"] = PooledError(M.functional.presence_gaps(both).numpy(), 1)
    return found
