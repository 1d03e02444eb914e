"""A simulated lesion and the raters who outline it.

The lesion is star-shaped about its centre: its margins are radii as functions of the angle (row = sin, column = cos),
sampled at `ANGLES`. A rater's outline is such a function too, so that what a rater decides (the halo belongs to it,
the vessel does not) moves the whole margin at once, not pixels one by one. Lengths are mm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from modiff.config.data import FARTHEST, MOST_OFF_CENTRE

Array = NDArray[np.floating]

ANGLES = (np.arange(160) * (2 * np.pi / 160) - np.pi).astype(np.float32)
SMALLEST, LARGEST = 2.8, 16.8  # mm, outer diameters: 4 to 24 pixels at 0.7 mm
_LEAST = 0.9  # mm, nobody outlines less than this around the centre
_OUTLINE_BLUR = 0.35  # mm, what limits the eye even on a sharp margin
_WOBBLE_ORDERS = np.arange(1, 7)


@dataclass(frozen=True)
class Lesion:
    """What the image shows at its centre; with the raters' rule it fixes the distribution of outlines.

    centre: (row, column) mm from the image's middle. core, halo: (A,) radii of the solid part and of the ground-glass
    around it (equal where there is none); spikes: (A,) how far spicules stick out. limit: (A,) where the pleura ends
    the lesion, inf where none does. margin: mm over which the core fades. opacity, halo_opacity: fraction of air
    displaced. halo_log_odds: of a rater counting the halo in. vessel_angle, vessel_width: of the attached vessel, nan
    and 0 if none.
    """

    centre: tuple[float, float]
    core: Array
    halo: Array
    spikes: Array
    limit: Array
    margin: float
    opacity: float
    halo_opacity: float
    halo_log_odds: float
    vessel_angle: float
    vessel_width: float

    @property
    def reach(self) -> float:
        """mm from the centre to the farthest margin."""
        return float(np.maximum(self.halo, self.core + self.spikes).max())

    @property
    def edge(self) -> float:
        """mm over which raters' outlines of the margin differ: its own width and the eye's blur."""
        return float(np.hypot(self.margin, _OUTLINE_BLUR))


def _bump(angle: float | Array, width: float | Array) -> Array:
    """(..., A) bump of height 1 at `angle`, `width` radians wide, around the circle."""
    width = np.asarray(width, np.float32)[..., None]
    return np.exp((np.cos(ANGLES - np.asarray(angle, np.float32)[..., None]) - 1.0) / width**2)


def _lobulated(rng: np.random.Generator, radius: float, irregularity: float) -> Array:
    """(A,) radii of an ellipse with lobes; `irregularity` is the relative size of the lobes."""
    stretch, turn = rng.normal(0.0, 0.13), rng.uniform(-np.pi, np.pi)
    orders = np.arange(2, 8)
    size = irregularity * rng.standard_normal(len(orders)) / orders**1.1
    phase = rng.uniform(-np.pi, np.pi, len(orders))
    wave = size @ np.cos(orders[:, None] * ANGLES + phase[:, None])
    return (radius * np.exp(np.clip(stretch * np.cos(2 * (ANGLES - turn)) + wave, -0.5, 0.35))).astype(np.float32)


def _spicules(rng: np.random.Generator, radius: float) -> Array:
    """(A,) mm by which spicules exceed the margin: a few, longer on larger lesions; none on most lesions."""
    count = rng.poisson(6.0) if rng.random() < 0.3 else 0
    angle, length = rng.uniform(-np.pi, np.pi, count), rng.uniform(0.15, 0.55, count) * min(radius, 6.0)
    width = rng.uniform(0.35, 0.7, count) / radius
    return (length[:, None] * _bump(angle, width)).max(0, initial=0.0).astype(np.float32)


def draw_lesion(rng: np.random.Generator) -> Lesion:
    """One lesion as screening meets them: solid, part-solid or pure ground-glass, conspicuous or faint."""
    diameter = SMALLEST * (LARGEST / SMALLEST) ** rng.beta(2.0, 2.2)
    kind = rng.choice(3, p=(0.45, 0.35, 0.2))
    faintness = rng.beta(0.5, 1.2)
    opacity = (rng.uniform(0.6, 1.0), rng.uniform(0.5, 0.9), rng.uniform(0.16, 0.42))[kind]
    halo_opacity = rng.uniform(0.14, 0.4) if kind == 1 else 0.0
    margin = rng.uniform(*((0.1, 0.6), (0.2, 0.7), (0.4, 1.0))[kind]) * (diameter / 8.0) ** 0.5
    outer = _lobulated(rng, diameter / 2, rng.uniform(0.05, 0.25))
    core, halo = outer, outer
    if kind == 1:
        core = np.minimum(_lobulated(rng, diameter / 2 * rng.uniform(0.4, 0.72), 0.12), outer)
        halo = np.maximum(outer, core + 0.7)
    fade = 1.0 - 0.95 * faintness
    vessel = rng.random() < 0.25
    return Lesion(
        centre=tuple(np.clip(rng.normal(0.0, 0.6, 2), -MOST_OFF_CENTRE, MOST_OFF_CENTRE).tolist()),
        core=core,
        halo=halo,
        spikes=_spicules(rng, diameter / 2),
        limit=np.full(len(ANGLES), np.inf, np.float32),
        margin=margin,
        opacity=opacity * fade,
        halo_opacity=halo_opacity * fade,
        # A halo as dense as 0.22 of tissue, faded as the core is, divides raters evenly.
        halo_log_odds=4.0 * np.log(max(halo_opacity, 0.01) / 0.22),
        vessel_angle=rng.uniform(-np.pi, np.pi) if vessel else np.nan,
        vessel_width=rng.uniform(0.45, 0.8) if vessel else 0.0,
    )


def opacity(lesion: Lesion, distance: Array, angle: NDArray[np.intp]) -> Array:
    """(H,W) fraction of air that the lesion displaces; pixels by mm from its centre and by index into `ANGLES`."""
    core = np.maximum(lesion.core, 0.35) + lesion.spikes
    solid = lesion.opacity * expit((core[angle] - distance) / max(lesion.margin, 0.1))
    if not lesion.halo_opacity:
        return solid
    glass = lesion.halo_opacity * expit((lesion.halo[angle] - distance) / (0.5 * lesion.margin + 0.15))
    return np.maximum(solid, glass)


def outlines(lesion: Lesion, n: int, rng: np.random.Generator) -> Array:
    """(n,A) outlines by n fresh raters who mark the lesion, each with own habits.

    A rater counts the halo in or out, follows the attached vessel for a while or cuts it off, traces spicules or
    glosses over them (`smoothing`), sets the margin where the density has fallen to an own `threshold`, and wavers.
    """
    with_halo = rng.logistic(size=n) + lesion.halo_log_odds > 0
    stub = np.where(rng.random(n) < 0.4, rng.uniform(0.8, 3.5, n), 0.0)
    threshold = rng.logistic(0.0, 0.55, n)
    smoothing = np.exp(rng.normal(np.log(0.55), 0.5, n))
    wobble = rng.standard_normal((n, len(_WOBBLE_ORDERS), 2)) / (1.0 + _WOBBLE_ORDERS[:, None])

    core = lesion.core + lesion.spikes
    contour = np.where(with_halo[:, None], np.maximum(lesion.halo, core), core)
    if lesion.vessel_width:
        contour = contour + stub[:, None] * _bump(lesion.vessel_angle, lesion.vessel_width / lesion.core.mean())
    orders = np.arange(len(ANGLES) // 2 + 1)
    blur = np.exp(-0.5 * (orders * smoothing[:, None] / lesion.core.mean()) ** 2)
    contour = np.fft.irfft(np.fft.rfft(contour) * blur, n=len(ANGLES))
    # The density falls as a logistic of the distance: the level t lies logit(t) margins from the half-way line.
    contour += lesion.edge * threshold[:, None]
    phase = _WOBBLE_ORDERS[:, None] * ANGLES
    contour += (0.12 + 0.45 * lesion.edge) * (wobble[..., 0] @ np.cos(phase) + wobble[..., 1] @ np.sin(phase))
    return np.maximum(np.minimum(contour, np.minimum(lesion.limit, FARTHEST)), _LEAST).astype(np.float32)
