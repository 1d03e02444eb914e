"""The embedded data: simulated nodules read by simulated raters whose true distribution is known.

**What the truth is conditional on.** `PhantomCase.draw_masks` draws from the distribution of raters' masks given the
image *and the lesion that was rendered into it*. A model sees the image alone: the best it can reach is that
distribution averaged over the lesions that could have made the image, which is a little wider, and whose energy
distance to the truth is a little above 0. Noise and texture are low enough that a lesion which most raters mark is
plain to see (its signal is 30 or more times the noise; see `_VISIBLE`), so the two nearly agree. They differ most at
lesions that hardly anyone marks.

**What raters disagree about.** Whether there is a lesion at all: the log-odds rise with its visibility, i.e. contrast
and size against noise. Where it ends: a rater counts a ground-glass halo in or out, follows an attached vessel or not,
traces spicules or smooths them, and sets the margin at an own threshold, so masks differ by whole margins (modes), not
by pixel noise. A rater is a fresh person at each image: the raters of an image are independent and identically
distributed given the image, hence exchangeable, and images are kept whether anybody marks them or not. The expected
energy distance of N fresh raters to M others is then exactly d·(1/N + 1/M), d the expected distance of two raters.

**Volumes.** A lesion is an ellipsoid about its margin in the middle slice, and a rater's outline another: the same
habits that move it in a slice say how far up and down it reaches, on all slices of a volume alike. So in a slice a
rater marks nothing where the lesion was not seen at all, and where the outline has ended; the probability of each is
known, and so is the distribution of masks in each slice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from modiff.config.data import PhantomConfig
from modiff.data.phantom import scene
from modiff.data.phantom.scene import ANGLES, SOFT_TISSUE, Grid, Lesion, Patient, Pleura
from modiff.data.store_format import StoreInfo
from modiff.errors import ConfigError, DataError
from modiff.rng import seed_for

VERSION = 1  # of the simulation: it rises whenever the same seed gives other images or masks
WINDOW = (-1000.0, 400.0)  # HU shown as 0 and 255
_VISIBLE = 30.0  # signal-to-noise ratio at which half of the raters mark a lesion
_STEEPNESS = 4.5  # rise of the log-odds of marking with the logarithm of the signal-to-noise ratio
_TEST, _VAL, _CYCLE = (1, 11, 21), (2, 17), 30  # a tenth of the patients are test, a fifteenth val
_CASE = re.compile(r"phantom-([0-9]{5,9})/([0-9]{3,9})(?:/slice-([0-9]{3}))?")


def config_of(info: StoreInfo) -> PhantomConfig:
    """The configuration from which a store was made; DataError for any but a phantom of this version."""
    made_by = f"phantom {VERSION}"
    if info.importer.partition(" (")[0] != made_by:
        raise DataError("not simulated by this version", field="importer", found=info.importer, expected=made_by)
    return PhantomConfig.from_source(info.source)


def split_of(patient: int) -> str:
    """train, val or test: a function of the patient's number alone, so that stores of any size agree on it."""
    place = patient % _CYCLE
    return "test" if place in _TEST else "val" if place in _VAL else "train"


def patient_name(patient: int) -> str:
    """The name in the store of a patient, by number."""
    return f"phantom-{patient:05d}"


def case_name(patient: int, index: int, part: int | None = None) -> str:
    """The name in the store of a patient's image, or of a slice of a patient's volume."""
    return f"{patient_name(patient)}/{index:03d}" + ("" if part is None else f"/slice-{part:03d}")


def place_of(name: str) -> tuple[int, int, int | None]:
    """Patient, index and slice of an image from its name; DataError for any other name."""
    match = _CASE.fullmatch(name)
    patient, index, part = (None if text is None else int(text) for text in match.groups()) if match else (None,) * 3
    if patient is None or index is None or case_name(patient, index, part) != name:
        raise DataError("not a phantom's case", field="case", found=name, expected="a name like phantom-00000/000")
    return patient, index, part


@dataclass(frozen=True, eq=False)
class PhantomCase:
    """One image with the distribution of raters' masks given it.

    image: (1,H,W) uint8, linear in HU over `WINDOW`. masks: (R,H,W) bool, the store's raters, R independent draws.
    visibility: log-odds that a fresh rater marks the lesion, somewhere. lesion: what was rendered. config: what it was
    made with.
    """

    name: str
    patient: str
    split: str
    image: NDArray[np.uint8] = field(repr=False)
    visibility: float
    lesion: Lesion = field(repr=False)
    config: PhantomConfig

    @property
    def presence_probability(self) -> float:
        """The exact probability that a fresh rater marks anything in this image."""
        return float(expit(self.visibility)) * scene.fraction_reaching(self.lesion)

    def draw_masks(self, n: int, rng: np.random.Generator) -> NDArray[np.bool_]:
        """(n,H,W) bool: independent masks of n fresh raters, alike in distribution; empty where one marks nothing.

        With the same random numbers they are the same raters on each slice of a volume.
        """
        if n < 0:
            raise ConfigError("cannot draw", field="n", found=n, expected="0 or more masks")
        marks = rng.logistic(size=n) + self.visibility > 0
        radius = scene.outlines(self.lesion, n, rng)
        marks &= radius[:, 0] > 0
        # Every disc of this radius holds a pixel's centre: a rater who marks leaves a mask that is not empty.
        radius = np.maximum(radius, 0.71 * self.config.spacing)
        distance, angle = _polar(Grid(self.config.size, self.config.spacing), self.lesion.centre)
        near = np.flatnonzero(distance.ravel() <= radius.max(initial=0.0))
        inside = distance.ravel()[near] <= radius[:, angle.ravel()[near]]
        masks = np.zeros((n, distance.size), bool)
        masks[:, near] = inside & marks[:, None]
        return masks.reshape(n, *distance.shape)

    @cached_property
    def masks(self) -> NDArray[np.bool_]:
        """(R,H,W) bool: the raters' masks that the store holds."""
        whose = case_name(*place_of(self.name)[:2])  # of a volume's slices the same
        rng = np.random.default_rng(seed_for(self.config.seed, "phantom readers", whose))
        return self.draw_masks(self.config.raters, rng)


def _polar(grid: Grid, centre: tuple[float, float]) -> tuple[NDArray[np.floating], NDArray[np.intp]]:
    """(H,W) mm of each pixel from `centre`, and the index of its direction into `ANGLES`."""
    row, column = grid.axis[:, None] - centre[0], grid.axis[None] - centre[1]
    turns = (np.arctan2(row, column) + np.pi) / (2 * np.pi)
    return np.hypot(row, column), np.rint(turns * len(ANGLES)).astype(np.intp) % len(ANGLES)


def make_case(config: PhantomConfig, patient: int, index: int, part: int | None = None) -> PhantomCase:
    """Image `index` of `patient` (both from 0): a function of (seed, size, spacing, patient, index) alone.

    part: the slice, from 0, where the configuration is of volumes; their number and distance count too then.
    """
    volume, name = config.slices > 1, case_name(patient, index, part)
    fits = part is not None and 0 <= part < config.slices if volume else part is None
    if not (0 <= patient < config.patients and 0 <= index < config.images_per_patient and fits):
        expected = f"patients below {config.patients}, images below {config.images_per_patient}"
        expected += f", slices below {config.slices}" if volume else ""
        raise DataError("is not one of the simulated cases", field="case", found=name, expected=expected)
    person = patient_name(patient)
    grid = Grid(config.size, config.spacing)
    lung = Patient.draw(np.random.default_rng(seed_for(config.seed, "phantom", person)))
    # A volume's slices draw the same numbers, so that they show the same things at different heights.
    rng = np.random.default_rng(seed_for(config.seed, "phantom", case_name(patient, index)))
    lesion = scene.draw_lesion(rng)
    if part is not None:
        heights, z = rng.lognormal(0.0, 0.2, 2).tolist(), (part - (config.slices - 1) / 2) * config.slice_spacing
        lesion = replace(lesion, slab=config.slice_spacing, z=z, heights=tuple(heights))
    pleura = Pleura.draw(rng, lesion.centre, lesion.reach)
    if pleura is not None:
        lesion = replace(lesion, limit=pleura.distance(lesion.centre, ANGLES))
    distance, angle = _polar(grid, lesion.centre)
    shown = scene.opacity(lesion, distance, angle)
    hounsfield = scene.surroundings(rng, grid, lung, lesion, pleura, shown)
    if volume:
        rng = np.random.default_rng(seed_for(config.seed, "phantom noise", name))
    hounsfield += lung.noise * scene.scanner_noise(rng, grid)
    grey = np.rint((hounsfield - WINDOW[0]) * (255 / (WINDOW[1] - WINDOW[0])))
    # The ideal observer's signal-to-noise ratio (Rose 1948): contrast × √area ÷ noise. The area is counted in mm² and
    # the noise per mm², so that finer pixels do not make a lesion plainer.
    plain = scene.opacity(replace(lesion, z=0.0), distance, angle) if volume else shown  # as its middle slice shows it
    within = plain * (distance <= lesion.limit[angle])
    contrast = (SOFT_TISSUE - lung.lung) * np.sqrt(float((within**2).sum()) * grid.spacing**2)
    ratio = contrast / np.hypot(0.7 * lung.noise, lung.texture)
    image, visibility = np.clip(grey, 0, 255).astype(np.uint8)[None], float(_STEEPNESS * np.log(ratio / _VISIBLE))
    return PhantomCase(name, person, split_of(patient), image, visibility, lesion, config)


def load_phantom_case(config: PhantomConfig, name: str) -> PhantomCase:
    """The case that a store made with `config` holds under `name`: its truth can be drawn from at will."""
    return make_case(config, *place_of(name))
