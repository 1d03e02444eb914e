"""What a simulated image shows: a lesion with the raters who outline it, and what surrounds it.

The lesion is star-shaped about its centre: its margins are radii as functions of the angle (row = sin, column = cos),
sampled at `ANGLES`. A rater's outline is such a function too, so that what a rater decides (the halo belongs to it,
the vessel does not) moves the whole margin at once, not pixels one by one. Around it: aerated lung, vessels,
look-alikes away from the centre, pleura and chest wall, of which raters mark nothing.

Lengths are mm, positions (row, column) in mm from the image's middle, values HU.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.special import expit

from modiff.config.data import FARTHEST, MOST_OFF_CENTRE

Array = NDArray[np.floating]

ANGLES = (np.arange(160) * (2 * np.pi / 160) - np.pi).astype(np.float32)
SMALLEST, LARGEST = 2.8, 16.8  # mm, outer diameters: 4 to 24 pixels at 0.7 mm
_LEAST = 0.9  # mm, nobody outlines less than this around the centre
_THRESHOLD = 0.55  # scale of the logistic distribution of raters' thresholds
_DECORRELATES = 3.0  # mm along z, over which the lung's texture changes
_OUTLINE_BLUR = 0.35  # mm, what limits the eye even on a sharp margin
_WOBBLE_ORDERS = np.arange(1, 7)
SOFT_TISSUE = 40.0  # HU, vessels, solid lesions and muscle
_FAT = -90.0  # HU
_POINT_SPREAD = 0.42  # mm, standard deviation of the scanner's blur
_STEP = 0.7  # mm between the points that make up a vessel
_PROFILE_GAIN = 2.2  # how much a vessel's profile is flat-topped rather than a Gaussian


@dataclass(frozen=True)
class Lesion:
    """What the image shows at its centre; with the raters' rule it fixes the distribution of outlines.

    centre: (row, column) mm from the image's middle. core, halo: (A,) radii of the solid part and of the ground-glass
    around it (equal where there is none); spikes: (A,) how far spicules stick out. limit: (A,) where the pleura ends
    the lesion, inf where none does. margin: mm over which the core fades. opacity, halo_opacity: fraction of air
    displaced. halo_log_odds: of a rater counting the halo in. vessel_angle, vessel_width: of the attached vessel, nan
    and 0 if none.

    slab: mm of a slice's thickness, 0 where the image is a picture without depth. z: mm of the slice from the lesion's
    middle. heights: how far it reaches below and above its middle, in mean radii.
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
    slab: float = 0.0
    z: float = 0.0
    heights: tuple[float, float] = (1.0, 1.0)

    @property
    def ends(self) -> tuple[float, float]:
        """mm from the middle to where the core and the halo end, on the side of the slice."""
        height = self.heights[self.z > 0]
        return height * float(self.core.mean()), height * float(np.maximum(self.halo, self.core).mean())

    @property
    def blur(self) -> float:
        """mm over which it fades along z, the slice's own thickness being part of that."""
        return float(np.hypot(self.edge, self.slab / 2))

    @property
    def edge(self) -> float:
        """mm over which it fades in a slice: the margin's own width and the eye's blur."""
        return float(np.hypot(self.margin, _OUTLINE_BLUR))

    @property
    def reach(self) -> float:
        """mm from the centre to the farthest margin."""
        return float(np.maximum(self.halo, self.core + self.spikes).max())


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
    core_size, halo_size, core_left, halo_left = 1.0, 1.0, 1.0, 1.0
    if lesion.slab:  # a slice through an ellipsoid, and how much of the slice's thickness is within it
        core_size, halo_size = (float(_section(end, lesion.z)) for end in lesion.ends)
        core_left, halo_left = (float(expit((end - abs(lesion.z)) / (0.5 * lesion.blur))) for end in lesion.ends)
    core = np.maximum(core_size * lesion.core, 0.35) + core_size * lesion.spikes
    solid = core_left * lesion.opacity * expit((core[angle] - distance) / max(lesion.margin, 0.1))
    if not lesion.halo_opacity:
        return solid
    far = halo_size * lesion.halo[angle] - distance
    glass = halo_left * lesion.halo_opacity * expit(far / (0.5 * lesion.margin + 0.15))
    return np.maximum(solid, glass)


def _section(end: Array | float, z: float) -> Array:
    """Radius of an ellipsoid z mm from its middle, of the radius there; 0 beyond its `end` in mm."""
    within = np.asarray(end) > abs(z)
    return np.sqrt(np.where(within, 1.0 - (z / np.where(within, end, 1.0)) ** 2, 0.0))


def fraction_reaching(lesion: Lesion) -> float:
    """Of the raters who mark the lesion, those whose outlines reach the slice: exact, see `outlines`."""
    if not lesion.slab:
        return 1.0
    core, halo = (float(expit((end - abs(lesion.z)) / (_THRESHOLD * lesion.blur))) for end in lesion.ends)
    with_halo = float(expit(lesion.halo_log_odds))
    return with_halo * halo + (1.0 - with_halo) * core


def outlines(lesion: Lesion, n: int, rng: np.random.Generator) -> Array:
    """(n,A) outlines by n fresh raters who mark the lesion, each with own habits.

    A rater counts the halo in or out, follows the attached vessel for a while or cuts it off, traces spicules or
    glosses over them (`smoothing`), sets the margin where the density has fallen to an own `threshold`, and wavers.
    In a volume the same habits say where the outline ends above and below: it is 0 where it does not reach the slice.
    """
    with_halo = rng.logistic(size=n) + lesion.halo_log_odds > 0
    stub = np.where(rng.random(n) < 0.4, rng.uniform(0.8, 3.5, n), 0.0)
    threshold = rng.logistic(0.0, _THRESHOLD, n)
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
    edge = lesion.edge
    contour += edge * threshold[:, None]
    phase = _WOBBLE_ORDERS[:, None] * ANGLES
    contour += (0.12 + 0.45 * edge) * (wobble[..., 0] @ np.cos(phase) + wobble[..., 1] @ np.sin(phase))
    made = np.maximum(np.minimum(contour, np.minimum(lesion.limit, FARTHEST)), _LEAST).astype(np.float32)
    if lesion.slab:
        core_end, halo_end = lesion.ends
        end = np.where(with_halo, halo_end, core_end) + lesion.blur * threshold
        made *= _section(end, lesion.z)[:, None].astype(np.float32)
    return made


@dataclass(frozen=True)
class Grid:
    """Pixel centres of a square image of `size` pixels, `spacing` mm apart: `axis` (size,) mm from the middle."""

    size: int
    spacing: float

    @property
    def axis(self) -> Array:
        return ((np.arange(self.size) - (self.size - 1) / 2) * self.spacing).astype(np.float32)

    @property
    def half_width(self) -> float:
        """mm from the middle to the image's edge."""
        return self.size * self.spacing / 2


@dataclass(frozen=True)
class Patient:
    """What all images of a patient have in common.

    lung: HU of aerated lung. noise, texture: standard deviations in HU of the scanner's noise and of the parenchyma.
    vessels: large vessels per 1,000 mm² of image. emphysema: HU that its holes lack, 0 for none.
    """

    lung: float
    noise: float
    texture: float
    vessels: float
    emphysema: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Patient:
        return cls(
            lung=rng.normal(-862.0, 18.0),
            noise=float(np.exp(rng.normal(np.log(25.0), 0.35))),
            texture=float(np.exp(rng.normal(np.log(15.0), 0.25))),
            vessels=rng.uniform(1.5, 4.5),
            emphysema=rng.uniform(40.0, 100.0) if rng.random() < 0.2 else 0.0,
        )


@dataclass(frozen=True)
class Pleura:
    """The inner surface of the chest wall: a circle around `centre` (row, column) of `radius` mm; lung lies inside."""

    centre: tuple[float, float]
    radius: float
    outward: float  # angle of the normal at the point next to the lesion, radians

    @classmethod
    def draw(cls, rng: np.random.Generator, point: tuple[float, float], reach: float) -> Pleura | None:
        """A pleura near a lesion at `point` whose margin lies `reach` mm out: mostly none, sometimes touching it."""
        kind = rng.random()
        touching = rng.uniform(0.7, 1.0) * reach
        apart = reach + rng.uniform(1.0, 14.0)
        radius, outward = rng.uniform(38.0, 110.0), rng.uniform(-np.pi, np.pi)
        if kind > 0.36:
            return None
        shift = radius - max(touching if kind < 0.09 else apart, 1.5)
        centre = (point[0] - shift * np.sin(outward), point[1] - shift * np.cos(outward))
        return cls(centre, radius, outward)

    def depth(self, row: Array, column: Array) -> Array:
        """mm beyond the pleura (negative in the lung), at positions that broadcast to (H,W)."""
        return np.hypot(row - self.centre[0], column - self.centre[1]) - self.radius

    def distance(self, point: tuple[float, float], angles: Array) -> Array:
        """mm from `point` in the lung to the pleura along each of `angles`, where row = sin and column = cos."""
        row, column = point[0] - self.centre[0], point[1] - self.centre[1]
        along = row * np.sin(angles) + column * np.cos(angles)
        return -along + np.sqrt(along**2 + self.radius**2 - row**2 - column**2)


def coloured_noise(rng: np.random.Generator, size: int, spectrum: Array) -> Array:
    """(size,size) Gaussian field, standard deviation 1, of amplitude `spectrum` (size, size//2+1), the half-plane's."""
    white = np.fft.rfft2(rng.standard_normal((size, size), dtype=np.float32))
    # The half-plane's inner columns stand for two frequencies each: all but the first and, of an even size, the last.
    twice = np.where(np.arange(spectrum.shape[1]) % (size / 2), 2.0, 1.0)
    power = float((spectrum**2 * twice).sum()) / size**2
    return (np.fft.irfft2(white * spectrum, s=(size, size)) / np.sqrt(power)).astype(np.float32)


def _frequencies(grid: Grid) -> Array:
    """Radial frequency in cycles per mm on the half-plane."""
    rows = np.fft.fftfreq(grid.size, grid.spacing)[:, None]
    columns = np.fft.rfftfreq(grid.size, grid.spacing)[None]
    return np.hypot(rows, columns).astype(np.float32)


def scanner_noise(rng: np.random.Generator, grid: Grid) -> Array:
    """(H,W) noise as filtered back-projection leaves it: a ramp at low frequencies, cut off by the kernel."""
    frequency = _frequencies(grid)
    return coloured_noise(rng, grid.size, np.sqrt(frequency + 0.02) * np.exp(-((frequency / 0.55) ** 2)))


def splat(points: Array, axis: Array) -> Array:
    """(H,W) sum of round Gaussians. points: (P,4) row, column, standard deviation in mm, height.

    A Gaussian is a product of a column and a row, so that all of them together are one matrix product; by einsum, as
    BLAS would set all cores spinning over so small a one, and differs from machine to machine.
    """
    edge = axis[-1] + 3 * points[:, 2]
    points = points[(np.abs(points[:, 0]) < edge) & (np.abs(points[:, 1]) < edge)]
    row, column, width, height = points.astype(np.float32).T[:, None]
    down = height * np.exp(-0.5 * ((axis[:, None] - row) / width) ** 2)
    return np.einsum("ip,jp->ij", down, np.exp(-0.5 * ((axis[:, None] - column) / width) ** 2))


def _paths(rng: np.random.Generator, start: Array, heading: Array, width: Array, length: Array) -> Array:
    """(V,S,5) winding tapering tubes: row, column, width, height (0 beyond `length` mm) and heading of each point."""
    steps = int(np.ceil(length.max() / _STEP))
    turns = rng.normal(0.0, 0.09, (len(start), steps)).cumsum(1)
    angle = heading[:, None] + turns + rng.normal(0.0, 0.02, (len(start), 1)) * np.arange(steps)
    row = start[:, :1] + _STEP * np.sin(angle).cumsum(1)
    column = start[:, 1:] + _STEP * np.cos(angle).cumsum(1)
    along = np.arange(steps) * _STEP / length[:, None]
    taper = width[:, None] * (1.0 - 0.7 * np.minimum(along, 1.0))
    height = np.where(along < 1.0, _STEP / (np.sqrt(2 * np.pi) * taper) * np.minimum(1.0, 4.0 * (1.0 - along)), 0.0)
    return np.stack([row, column, taper, height, angle], -1).astype(np.float32)


def _vessels(rng: np.random.Generator, grid: Grid, per_1000_mm2: float) -> list[Array]:
    """Tubes as (S,4) points each: large vessels, their branches, and the fine ones that make lung look like lung."""
    area = (2 * grid.half_width) ** 2 / 1000
    large, fine = 1 + rng.poisson(per_1000_mm2 * area / 2), 2 + rng.poisson(6.0 * area)
    count, reach = large + fine, grid.half_width * 1.1
    is_large = np.arange(count) < large
    width = np.where(is_large, 0.45 + 0.75 * rng.beta(1.2, 3.0, count), rng.uniform(0.25, 0.45, count))
    length = np.where(is_large, rng.uniform(15, 45, count), rng.uniform(3, 14, count))
    trunk = _paths(rng, rng.uniform(-reach, reach, (count, 2)), rng.uniform(-np.pi, np.pi, count), width, length)
    trunk[~is_large, :, 3] *= rng.uniform(0.08, 0.4, (fine, 1))
    at = (rng.uniform(0.1, 0.8, large) * length[:large] / _STEP).astype(int)
    origin = trunk[np.arange(large), at]
    side = np.where(rng.random(large) < 0.5, -1, 1) * rng.uniform(0.4, 1.0, large)
    branch = _paths(rng, origin[:, :2], origin[:, 4] + side, 0.75 * origin[:, 2], rng.uniform(6, 18, large))
    return [tube[tube[:, 3] > 0, :4] for tube in (*trunk, *branch)]


def _attached(rng: np.random.Generator, lesion: Lesion) -> list[Array]:
    """The vessel that leaves the lesion's core, (S,4) points, if it has one."""
    if not lesion.vessel_width:
        return []
    angle, width = lesion.vessel_angle, lesion.vessel_width
    begin = float(np.interp(angle, ANGLES, lesion.core)) - width
    start = (lesion.centre[0] + begin * np.sin(angle), lesion.centre[1] + begin * np.cos(angle))
    length = np.array([rng.uniform(10.0, 24.0)])
    path = _paths(rng, np.array([start]), np.array([angle]), np.array([width]), length)[0]
    return [path[path[:, 3] > 0, :4]]


def _blobs(rng: np.random.Generator, grid: Grid, keep_off: float) -> list[Array]:
    """Look-alikes that nobody marks because they are not at the centre: vessels seen end on, and other nodules."""
    area = (2 * grid.half_width) ** 2 / 1000
    dots, nodules = rng.poisson(1.5 * area), rng.poisson(0.5 * area)
    width = np.concatenate([rng.uniform(0.5, 1.1, dots), rng.uniform(1.0, 2.1, nodules)])
    height = np.concatenate([rng.uniform(0.2, 1.2, dots), rng.uniform(0.4, 2.0, nodules)])
    place = rng.uniform(-grid.half_width, grid.half_width, (dots + nodules, 2))
    angle, shift = rng.uniform(-np.pi, np.pi, dots + nodules), rng.uniform(0.3, 1.4, dots + nodules) * width
    lobe = place + np.stack([np.sin(angle), np.cos(angle)], -1) * shift[:, None]
    nodule = np.arange(dots + nodules) >= dots
    clear = ~nodule | (np.hypot(*place.T) > keep_off + 3.0 * width)
    pair = np.stack([np.c_[place, width, height], np.c_[lobe, 0.8 * width, 0.8 * height]], 1)
    return [blob.astype(np.float32) for blob in pair[clear]]


def _cut(part: Array, lesion: Lesion, depth: float, slope: float) -> Array:
    """Points of a tube or blob that lies `depth` mm above the lesion's middle, as the lesion's slice shows them.

    slope: mm that it rises per mm of its length.
    """
    along = np.hypot(part[:, 0] - part[0, 0], part[:, 1] - part[0, 1])
    away = (lesion.z - depth - slope * along) / np.hypot(part[:, 2], lesion.slab / 2)
    made: Array = part.copy()
    made[:, 3] *= np.exp(-0.5 * away**2)
    return made


def _chest_wall(rng: np.random.Generator, grid: Grid, pleura: Pleura, depth: Array) -> Array:
    """(H,W) HU of the wall: muscle streaked with fat, and a rib of dense cortex around marrow."""
    axis = grid.axis
    frequency = _frequencies(grid)
    streaks = coloured_noise(rng, grid.size, 1.0 / (frequency + 0.04) ** 1.5)
    wall = _FAT + (SOFT_TISSUE - _FAT) * expit(1.8 + 2.5 * streaks)
    angle = np.arctan2(axis[:, None] - pleura.centre[0], axis[None] - pleura.centre[1])
    along = pleura.radius * ((angle - pleura.outward - rng.normal(0.0, 0.15) + np.pi) % (2 * np.pi) - np.pi)
    half_length, half_depth, below = rng.uniform(6.0, 14.0), rng.uniform(2.6, 4.0), rng.uniform(1.5, 3.0)
    if rng.random() < 0.75:
        rim = np.hypot(along / half_length, (depth - below - half_depth) / half_depth)
        marrow, cortex = expit((1.0 - rim) / 0.1), np.exp(-(((rim - 0.9) / 0.17) ** 2))
        wall = wall + marrow * (150.0 - wall) + cortex * 330.0
    return wall


def surroundings(
    rng: np.random.Generator, grid: Grid, patient: Patient, lesion: Lesion, pleura: Pleura | None, shown: Array
) -> Array:
    """(H,W) HU without noise: a lesion, whose opacity `shown` (H,W) is in [0,1], in its surroundings.

    Opacity is the fraction of air that tissue has displaced; structures that overlap displace what the others left.
    """
    axis, frequency = grid.axis, _frequencies(grid)
    point, reach, attached = lesion.centre, lesion.reach, _attached(rng, lesion)
    # The cloudy texture of aerated lung: amplitude falls with frequency, longer than 20 mm left out.
    cloudy = frequency / (frequency + 0.05) / (frequency + 0.08) ** 1.5
    clouds = coloured_noise(rng, grid.size, cloudy)
    if lesion.slab:  # of unit variance at any height
        turn = lesion.z / _DECORRELATES
        clouds = np.cos(turn) * clouds + np.sin(turn) * coloured_noise(rng, grid.size, cloudy)
    air = patient.lung + patient.texture * clouds
    tilt = rng.normal(0.0, 0.5, 2)  # HU per mm: lung is denser where gravity pulls the blood
    air = air + tilt[0] * axis[:, None] + tilt[1] * axis[None]
    layers = max(1, round(FARTHEST / lesion.slab)) if lesion.slab else 1  # as crowded a slice as a picture is
    parts = [
        part
        for _ in range(layers)
        for part in _vessels(rng, grid, patient.vessels) + _blobs(rng, grid, reach + 2.0)
        # Nothing may hide the lesion.
        if len(part) and (np.hypot(part[:, 0] - point[0], part[:, 1] - point[1]) - 2 * part[:, 2]).min() > reach + 1.0
    ]
    parts += attached
    if lesion.slab:
        depths = rng.uniform(-FARTHEST, FARTHEST, len(parts))
        depths[len(parts) - len(attached) :] = 0.0
        slopes = rng.normal(0.0, 0.4, len(parts))
        parts = [_cut(part, lesion, *how) for part, *how in zip(parts, depths, slopes, strict=True)]
    holes = rng.uniform(-grid.half_width, grid.half_width, (24, 2))
    if patient.emphysema:
        holes = np.c_[holes, rng.uniform(0.8, 2.5, 24), np.ones(24)].astype(np.float32)
        air -= patient.emphysema * -np.expm1(-1.5 * splat(holes, axis))
    free = np.exp(-_PROFILE_GAIN * splat(np.concatenate(parts), axis)) if parts else 1.0
    image = air + (1.0 - free * (1.0 - shown)) * (SOFT_TISSUE - air)
    if pleura is not None:
        depth = pleura.depth(axis[:, None], axis[None])
        image += expit(depth / 0.25) * (_chest_wall(rng, grid, pleura, depth) - image)
    return gaussian_filter(image, _POINT_SPREAD / grid.spacing, truncate=3.0, mode="nearest")
