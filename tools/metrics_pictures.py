"""The pictures of docs/metrics.md, from simulated nodules whose raters' true distribution is known.

python tools/metrics_pictures.py [--into docs/img]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.ndimage import binary_erosion
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from modiff.data.phantom.case import PhantomCase, PhantomConfig, make_case
from modiff.metrics import functional as F

RATERS, SAMPLES = 4, 6
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
PLACE = slice(14, 50)  # the middle of the 64×64 pixels
CONFIG = PhantomConfig(patients=60, images_per_patient=5)


@dataclass(frozen=True)
class Scene:
    """An image, its four raters and six samples: fresh raters, the last one moved, so that it is not perfect."""

    image: np.ndarray
    raters: np.ndarray
    samples: np.ndarray

    @property
    def sets(self) -> tuple[Tensor, Tensor]:
        """samples (1,N,1,H,W) and masks (1,R,1,H,W)."""
        return tuple(torch.from_numpy(x.copy())[None, :, None] for x in (self.samples, self.raters))  # type: ignore


def scene() -> Scene:
    """The simulated case whose raters who mark differ most, one of them marking nothing."""

    def interest(case: PhantomCase) -> float:
        masks = torch.from_numpy(case.masks)[None, :, None]
        marks = int(masks.flatten(2).any(-1).sum())
        largest = float(masks.flatten(3).sum(-1).max())
        return float(F.rater_diversity(masks)) if marks == RATERS - 1 and largest > 120 else -1.0

    cases = [make_case(CONFIG, patient, 0) for patient in range(60)]
    case = max(cases, key=interest)
    samples = case.draw_masks(SAMPLES, np.random.default_rng(3))
    samples[-1] = np.roll(samples[-1], (4, 5), (0, 1))
    return Scene(case.image[0], case.masks, samples)


def outline(axis: Axes, mask: np.ndarray, colour: str, width: float = 1.6, style: str = "-") -> None:
    """Where a mask ends."""
    if mask.any():
        axis.contour(mask[PLACE, PLACE], [0.5], colors=[colour], linewidths=width, linestyles=style)


def bare(axis: Axes, title: str = "") -> None:
    """No ticks."""
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(title, fontsize=8)


def sets_picture(scene: Scene) -> Figure:
    """The image, the raters, the samples."""
    figure = Figure(figsize=(7.2, 2.4), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, masks, title in zip(
        axes,
        ((), scene.raters, scene.samples),
        ("image", "four raters (one marked nothing)", "six samples of a model"),
        strict=True,
    ):
        axis.imshow(scene.image[PLACE, PLACE], cmap="gray", vmin=0, vmax=255)
        for mask, colour in zip(masks, COLOURS, strict=False):
            outline(axis, mask, colour)
        bare(axis, title)
    return figure


def ged_picture(scene: Scene) -> Figure:
    """The matrix of distances, its three blocks and what GED makes of them."""
    pairs = F.PairwiseDistances.of(*scene.sets)
    found = pairs.distances[0].numpy()
    figure = Figure(figsize=(5.4, 3.6), layout="constrained")
    axis = figure.subplots()
    shown = axis.imshow(found, cmap="viridis", vmin=0, vmax=1)
    names = [f"S{i + 1}" for i in range(SAMPLES)] + [f"Y{i + 1}" for i in range(RATERS)]
    axis.set_xticks(range(len(names)), names, fontsize=7)
    axis.set_yticks(range(len(names)), names, fontsize=7)
    for i in range(len(names)):
        for j in range(len(names)):
            axis.text(
                j,
                i,
                f"{found[i, j]:.2f}",
                ha="center",
                va="center",
                fontsize=5,
                color="w" if found[i, j] < 0.6 else "k",
            )
    for line in (axis.axhline, axis.axvline):
        line(SAMPLES - 0.5, color="white", linewidth=2)
    figure.colorbar(shown, ax=axis, label="1 − IoU", shrink=0.8)
    cross, within, between = (
        found[:SAMPLES, SAMPLES:].mean(),
        found[:SAMPLES, :SAMPLES].mean(),
        found[SAMPLES:, SAMPLES:].mean(),
    )
    v, u = (float(F.ged(pairs, estimator=kind)) for kind in ("v", "u"))
    axis.set_title(
        f"V: 2·{cross:.2f} (S–Y) − {within:.2f} (S–S) − {between:.2f} (Y–Y) = {v:.3f}\n"
        f"U, without the diagonal: {u:.3f}".replace("-", "−"),
        fontsize=8,
    )
    return figure


def matching_picture(scene: Scene) -> Figure:
    """Who is matched with whom: all samples used by the optimal matching, one per rater by the greedy one."""
    pairs = F.PairwiseDistances.of(*scene.sets)
    overlap = 1 - pairs.sample_rater[0].numpy()
    size = np.lcm(SAMPLES, RATERS)
    big = np.repeat(np.repeat(overlap, size // SAMPLES, 0), size // RATERS, 1)
    i, j = linear_sum_assignment(-big)
    optimal = np.zeros_like(overlap)
    np.add.at(optimal, (i // (size // SAMPLES), j // (size // RATERS)), 1)
    greedy, free = np.zeros_like(overlap), list(range(SAMPLES))
    for rater in range(RATERS):
        best = max(free, key=lambda s: overlap[s, rater])
        free.remove(best)
        greedy[best, rater] = 1
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    values = [float(F.hm_iou(pairs, matching=kind)) for kind in ("optimal", "greedy")]
    titles = (f"optimal, lcm = {size} pairs: {values[0]:.3f}", f"greedy, {RATERS} pairs: {values[1]:.3f}")
    for axis, used, title in zip(figure.subplots(1, 2), (optimal, greedy), titles, strict=True):
        for s, r in np.argwhere(used > 0):
            fraction = used[s, r] / used.max()
            axis.plot([0, 1], [s, r * (SAMPLES - 1) / (RATERS - 1)], color="#0072b2", linewidth=0.8 + 2.2 * fraction)
            y = s + 0.24 * (r * (SAMPLES - 1) / (RATERS - 1) - s)
            axis.text(0.24, y, f"{overlap[s, r]:.2f}", fontsize=7, ha="center", backgroundcolor="w")
        _thumbnails(axis, scene.samples, -0.12, np.arange(SAMPLES), "S")
        _thumbnails(axis, scene.raters, 1.12, np.arange(RATERS) * (SAMPLES - 1) / (RATERS - 1), "Y")
        axis.set_xlim(-0.35, 1.35)
        axis.set_ylim(SAMPLES - 0.4, -0.6)
        axis.axis("off")
        axis.set_title(title, fontsize=9)
    return figure


def _thumbnails(axis: Axes, masks: np.ndarray, x: float, ys: np.ndarray, letter: str) -> None:
    for k, (mask, y) in enumerate(zip(masks, ys, strict=True)):
        axis.imshow(
            ~mask[PLACE, PLACE],
            cmap="gray",
            vmin=0,
            vmax=1,
            extent=(x - 0.1, x + 0.1, y + 0.42, y - 0.42),
            aspect="auto",
        )
        axis.add_patch(_frame(x - 0.1, y - 0.42, 0.2, 0.84))
        axis.text(
            x + (0.13 if x > 0.5 else -0.13),
            y,
            f"{letter}{k + 1}",
            ha="left" if x > 0.5 else "right",
            va="center",
            fontsize=8,
        )


def _frame(x: float, y: float, width: float, height: float):  # type: ignore[no-untyped-def]
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), width, height, fill=False, edgecolor="#888888", linewidth=0.8)


def ncc_picture(scene: Scene) -> Figure:
    """Cross-entropy maps of the samples among themselves and against one rater, and their row profiles."""
    samples, raters = (x[0, :, 0].double() for x in scene.sets)
    eps = 1e-8
    mean = samples.mean(0)

    def entropy(target: Tensor) -> np.ndarray:
        log, rest = (samples + eps).log().mean(0), (1 - samples + eps).log().mean(0)
        return -(target * log + (1 - target) * rest).numpy()

    among, against = entropy(mean), entropy(raters[0])
    figure = Figure(figsize=(7.2, 2.5), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, found, title in zip(
        axes, (among, against), ("E_ss: samples against their mean", "E_sy: samples against rater 1"), strict=False
    ):
        axis.imshow(found[PLACE, PLACE], cmap="magma")
        bare(axis, title)
    rows = np.arange(PLACE.start, PLACE.stop)
    for found, colour, name in ((among, "#0072b2", "E_ss"), (against, "#d55e00", "E_sy")):
        axes[2].plot(found[PLACE, PLACE].sum(1), rows, color=colour, label=name)
    axes[2].invert_yaxis()
    axes[2].legend(fontsize=7)
    values = [float(F.ncc(*scene.sets, kind=kind)) for kind in ("pixel", "row")]
    axes[2].set_title(f"sums over rows\nNCC by pixels {values[0]:.2f}, by rows {values[1]:.2f}", fontsize=8)
    axes[2].tick_params(labelsize=7)
    return figure


def insight_picture(scene: Scene) -> Figure:
    """The three parts of CI."""
    parts = F.collective_insight(*scene.sets)
    figure = Figure(figsize=(7.2, 2.6), layout="constrained")
    axes = figure.subplots(1, 3)
    ours, theirs = scene.samples.any(0), scene.raters.any(0)
    shown = np.ones((*ours.shape, 3))
    shown[theirs] = (0.84, 0.37, 0.0)
    shown[ours & theirs] = (0.0, 0.62, 0.45)
    shown[ours & ~theirs] = (0.8, 0.8, 0.8)
    axes[0].imshow(shown[PLACE, PLACE])
    bare(axes[0], f"Sc = {float(parts.sensitivity):.2f}: union of the raters\nfound (green) or missed (orange)")
    dice = F.PairwiseDistances.of(*scene.sets).dice[0].numpy()
    axes[1].imshow(dice, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    for r, s in enumerate(dice.argmax(0)):
        colour = "k" if dice[s, r] > 0.5 else "w"
        axes[1].text(r, s, f"{dice[s, r]:.2f}", ha="center", va="center", fontsize=7, color=colour)
    axes[1].set_xticks(range(RATERS), [f"Y{i + 1}" for i in range(RATERS)], fontsize=7)
    axes[1].set_yticks(range(SAMPLES), [f"S{i + 1}" for i in range(SAMPLES)], fontsize=7)
    axes[1].set_title(f"Dmax = {float(parts.dmax):.2f}: mean of each\nrater's best Dice", fontsize=8)
    for k, masks in enumerate((scene.raters, scene.samples)):
        found = [float(np.var(a.astype(float) - b)) for i, a in enumerate(masks) for b in masks[i + 1 :]]
        axes[2].plot(found, [k] * len(found), "o", alpha=0.5, markersize=5, color=COLOURS[k])
        axes[2].plot([min(found), max(found)], [k, k], color=COLOURS[k])
    axes[2].set_yticks([0, 1], ["raters", "samples"], fontsize=8)
    axes[2].set_ylim(-0.6, 1.6)
    axes[2].tick_params(axis="x", labelsize=7)
    axes[2].set_title(
        f"Da = {float(parts.agreement):.3f}: least and largest\nvariance of a pair's difference", fontsize=8
    )
    figure.suptitle(f"CI = 3·Sc·Dmax·Da / (Sc + Dmax + Da) = {float(parts.ci):.3f}", fontsize=9)
    return figure


def maps_picture(scene: Scene) -> Figure:
    """What soft Dice, Brier score and the agreement of uncertainties look at."""
    p, q = scene.samples.mean(0), scene.raters.mean(0)
    sets = scene.sets
    figure = Figure(figsize=(7.2, 3.9), layout="constrained")
    panels = (
        (p, "p: the samples' mean map", "viridis", 1.0),
        (q, "q: the raters' mean label", "viridis", 1.0),
        ((p - q) ** 2, f"(p − q)²: Brier {float(F.brier(*sets)):.4f}", "magma", None),
        (p * (1 - p), "p(1 − p): the model's uncertainty", "viridis", 0.25),
        (q * (1 - q), "q(1 − q): where raters disagree", "viridis", 0.25),
    )
    axes = figure.subplots(2, 3).flat
    for axis, (found, title, colours, top) in zip(axes, panels, strict=False):
        axis.imshow(found[PLACE, PLACE], cmap=colours, vmin=0, vmax=top)
        bare(axis, title)
    levels = figure.axes[5]
    dice = []
    for level in F.QUBIQ_LEVELS:
        a, b = p > level, q > level
        dice.append(2 * (a & b).sum() / max(1, a.sum() + b.sum()))
    levels.plot(F.QUBIQ_LEVELS, dice, "o-", color="#0072b2")
    levels.set_ylim(0, 1.05)
    levels.set_title(
        f"Dice of {{p > level}} with {{q > level}}:\nsoft Dice {float(F.soft_dice(*sets)):.2f}", fontsize=8
    )
    levels.tick_params(labelsize=7)
    figure.axes[3].set_xlabel(
        f"NCC {float(F.uncertainty_ncc(*sets)):.2f}, AUROC {float(F.uncertainty_auroc(*sets)):.2f} with q(1 − q)",
        fontsize=7,
    )
    return figure


def boundary_picture(scene: Scene) -> Figure:
    """The two consensus outlines and the distances between them."""
    ours, theirs = (F.majority_vote(x)[0, 0].numpy() for x in scene.sets)
    distances = F.surface_distances(*scene.sets)
    figure = Figure(figsize=(3.2, 3.2), layout="constrained")
    axis = figure.subplots()
    axis.imshow(scene.image[PLACE, PLACE], cmap="gray", vmin=0, vmax=255)
    for mask, colour in ((ours, "#0072b2"), (theirs, "#d55e00")):
        outline(axis, mask, colour, 2)
    edges = [np.argwhere(mask & ~binary_erosion(mask)) for mask in (ours, theirs)]
    for point in edges[0][::3]:
        near = edges[1][np.hypot(*(edges[1] - point).T).argmin()]
        axis.plot(*zip(point[::-1] - PLACE.start, near[::-1] - PLACE.start, strict=True), color="w", linewidth=0.8)
    said = f"HD95 {float(distances.hd95):.2f} px, average {float(distances.average):.2f} px"
    bare(axis, f"majority of samples (blue) and of raters (orange)\n{said}")
    return figure


def population(n: int) -> tuple[Tensor, Tensor]:
    """Fresh raters and the raters of 150 simulated images: samples (150,n,1,64,64), masks (150,4,1,64,64)."""
    rng = np.random.default_rng(5)
    cases = [make_case(CONFIG, patient, index) for patient in range(50) for index in range(3)]
    drawn = np.stack([case.draw_masks(n, rng) for case in cases])
    return tuple(torch.from_numpy(x)[:, :, None] for x in (drawn, np.stack([case.masks for case in cases])))  # type: ignore


def calibration_picture(samples: Tensor, masks: Tensor) -> Figure:
    """Reliability of pixels and of presence, of a perfect model and of the majority vote."""
    majority = F.majority_vote(masks)[:, None].expand(-1, 2, -1, -1, -1)
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.subplots(1, 2)
    rows = (("perfect model, n = 64", samples, "o-", "#0072b2"), ("majority vote", majority, "s--", "#d55e00"))
    for name, own, style, colour in rows:
        sums = F.calibration_bins(own, masks)
        total = sums.sum((0, 1))
        used = total[:, 0] > 0
        x, y = (total[used, k] / total[used, 0] for k in (1, 2))
        axes[0].plot(
            x, y, style, color=colour, markersize=4, label=f"{name}: ECE {float(F.pooled_calibration_error(sums)):.4f}"
        )
        presence = F.presence_fractions(own, masks)
        bins = F.presence_bins(presence)
        used = bins[:, 0] > 0
        x, y = (bins[used, k] / bins[used, 0] for k in (1, 2))
        error = float(F.presence_calibration_error(presence))
        axes[1].plot(x, y, style, color=colour, markersize=4, label=f"{name}: presence ECE {error:.3f}")
    for axis, title in zip(
        axes,
        ("pixels: p against the fraction of raters", "images: samples that mark against raters who mark"),
        strict=True,
    ):
        axis.plot([0, 1], [0, 1], color="k", linewidth=0.8)
        axis.set_title(title, fontsize=8)
        axis.set_xlabel("predicted fraction", fontsize=8)
        axis.set_ylabel("observed fraction", fontsize=8)
        axis.legend(fontsize=7)
        axis.tick_params(labelsize=7)
    return figure


def floor_picture(samples: Tensor, masks: Tensor) -> Figure:
    """GED of a perfect model and of the majority vote over n, under both estimators."""
    numbers = (1, 2, 4, 8, 16, 32, 64)
    pairs = F.PairwiseDistances.of(samples, masks)
    majority = F.PairwiseDistances.of(F.majority_vote(masks)[:, None], masks)
    figure = Figure(figsize=(7.2, 2.9), layout="constrained")
    for axis, kind, name in zip(figure.subplots(1, 2), ("v", "u"), ("standard (V)", "paper (U)"), strict=True):
        perfect = [float(F.ged(pairs.subset(n), estimator=kind).mean()) for n in numbers]
        reference = [float(F.iid_reference(pairs, n, estimator=kind).mean()) for n in numbers]
        axis.plot(numbers, perfect, "o", color="#0072b2", label="a perfect model")
        axis.plot(numbers, reference, color="k", linewidth=1, label="i.i.d. reference")
        axis.axhline(
            float(F.ged(majority, estimator=kind).mean()), color="#d55e00", linestyle="--", label="majority vote"
        )
        axis.set_xscale("log", base=2)
        axis.set_xticks(numbers, [str(n) for n in numbers], fontsize=7)
        axis.tick_params(labelsize=7)
        axis.set_xlabel("n samples", fontsize=8)
        axis.set_title(f"mean GED, {name}", fontsize=9)
        axis.set_ylim(bottom=min(-0.05, *perfect))
        axis.legend(fontsize=7)
    return figure


def main() -> None:
    """Draws all pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=Path("docs/img"))
    folder = parser.parse_args().into
    folder.mkdir(parents=True, exist_ok=True)
    one, many = scene(), population(64)
    pictures = {
        "sets": sets_picture(one),
        "ged": ged_picture(one),
        "hm_iou": matching_picture(one),
        "ncc": ncc_picture(one),
        "ci": insight_picture(one),
        "mean_map": maps_picture(one),
        "boundary": boundary_picture(one),
        "calibration": calibration_picture(*many),
        "floor": floor_picture(*many),
    }
    for name, figure in pictures.items():
        figure.savefig(folder / f"metrics_{name}.png", dpi=110)


if __name__ == "__main__":
    main()
