"""The metrics by name: what each is made of, what it is called, which way is better. No torch here."""

from __future__ import annotations

from collections.abc import Iterable

# A name that can be asked for -> its columns in the table of images, one value an image each.
COLUMNS: dict[str, tuple[str, ...]] = {
    "ged": ("ged",),
    "hm_iou": ("hm_iou",),
    "ncc": ("ncc",),
    "ci": ("ci", "ci_sensitivity", "dmax", "ci_agreement"),
    "dmax": ("dmax",),
    "sample_diversity": ("sample_diversity",),
    "rater_diversity": ("rater_diversity",),
    "soft_dice": ("soft_dice",),
    "brier": ("brier",),
    "ece": ("calibration_gap",),  # a column a class and bin: see `gap_column`
    "uncertainty_ncc": ("uncertainty_ncc",),
    "uncertainty_auroc": ("uncertainty_auroc",),
    "presence": ("presence_samples", "presence_raters"),
    "hd95": ("hd95",),
    "average_surface_distance": ("average_surface_distance",),
}
FIRST = ("ged", "hm_iou")
GAP = "calibration_gap"

# Of probability maps as they are: no threshold enters, and but for NCC the protocol makes no difference either.
WITHOUT_THRESHOLD = frozenset({"ncc", "soft_dice", "brier", "ece", "uncertainty_ncc", "uncertainty_auroc", GAP})

# A metric in a record -> its name in tables and whether more is better; None: it describes, neither is better.
NAMES: dict[str, tuple[str, bool | None]] = {
    "ged": ("GED", False),
    "hm_iou": ("HM-IoU", True),
    "ncc": ("NCC", True),
    "ci": ("CI", True),
    "ci_sensitivity": ("CI sensitivity", True),
    "dmax": ("Dmax", True),
    "ci_agreement": ("CI agreement", True),
    "sample_diversity": ("sample diversity", None),
    "rater_diversity": ("rater diversity", None),
    "soft_dice": ("soft Dice", True),
    "brier": ("Brier score", False),
    "ece": ("ECE", False),
    "uncertainty_ncc": ("uncertainty NCC", True),
    "uncertainty_auroc": ("uncertainty AUROC", True),
    "presence_samples": ("samples that mark", None),
    "presence_raters": ("raters who mark", None),
    "presence_ece": ("presence ECE", False),
    "hd95": ("HD95 (px)", False),
    "average_surface_distance": ("surface distance (px)", False),
}
# Not means over images: computed from all images of a stratum together.
POOLED = ("ece", "presence_ece")


def gap_column(kind: int, bin_: int) -> str:
    """Column of one image's share in the calibration error: (Σp − Σq)/pixels of class `kind` (from 1) in a bin of p."""
    return f"{GAP}_{kind}_{bin_}"


def rank(metric: str) -> int:
    """Where a metric stands in tables: GED and HM-IoU first, what is unknown last."""
    return list(NAMES).index(metric) if metric in NAMES else len(NAMES)


def columns_of(metrics: Iterable[str]) -> list[str]:
    """The columns that a table of methods has: one a metric that has a better side; of CI the index, not its factors.

    Metrics of a whole split, such as the calibration error, are no columns: they are no mean over images.
    """
    found: list[str] = []
    for name in metrics:
        columns = COLUMNS.get(name, ())
        parts = (name,) if name in columns else columns
        found += [part for part in parts if part != GAP and NAMES.get(part, ("", None))[1] is not None]
    return list(dict.fromkeys(found))
