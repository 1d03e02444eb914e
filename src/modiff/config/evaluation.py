"""Settings of sampling, evaluations and benchmarks. What metrics and protocols there are, `modiff.evaluation` knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from modiff.config.fields import ANY, COUNT, FRACTION, NOT_NEGATIVE, POSITIVE, Range, check, number
from modiff.config.run import parse_budget
from modiff.errors import ConfigError

Selection = Literal["iid", "stratified", "representative"]
"""How a set of samples is drawn: independently; with presence spread evenly; or chosen from more, so that it is like
all of them (`modiff.metrics.representative`)."""
IID, STRATIFIED, REPRESENTATIVE = SELECTIONS = get_args(Selection)
RESAMPLES = 2000  # of a bootstrap
SAMPLES = 16  # hypotheses per image
CANDIDATES = 4  # drawn for each sample of a representative set
OVERLAP = 0.5  # fraction of a window that its neighbour sees too
DISTINCT = 0.9  # pixels, see docs/sample.md
_THRESHOLDS = Range(low=0, high=1, above=True, empty=True)


@dataclass(frozen=True)
class SampleConfig:
    """What `modiff sample` and `modiff.Predictor` draw of an image, where they look, and how samples are counted."""

    n: int = number(SAMPLES, COUNT, "samples")
    """samples to draw"""
    seed: int = number(0, ANY)
    """seed of the random numbers"""
    steps: int | None = number(None, COUNT)
    """steps of the sampler; by default the model's own"""
    select: Selection = "representative"
    """which samples: iid, each drawn by itself; stratified, whether raters mark anything is spread evenly over them;
    representative, those of several times as many that are together most like them all"""
    candidates: int | None = number(None, COUNT, "samples")
    """drawn to choose a representative set from; by default 4 per sample, fewer where memory does not suffice"""
    slices: int = number(0, NOT_NEGATIVE)
    """with --at: N neighbours of slice Z on either side"""
    roi: str | None = None
    """a part of the image, ends excluded; by default all of it"""
    overlap: float = number(OVERLAP, FRACTION)
    """fraction of a window that its neighbours see too"""
    intensity: str | None = None
    """how to scale the values: minmax-slice, window:LOW:HIGH, percentiles:LOW:HIGH, unit, or ready where they are as in
    training; by default the model's own rule"""
    resample_to_model: bool = False
    """resample slices to the pixel size of the training data, and results back onto the image's own grid"""
    threshold: float | None = number(None, Range(low=0, high=1, above=True))
    """a pixel is marked from this probability on; by default argmax"""
    distinct: float = number(DISTINCT, POSITIVE, "pixels")
    """samples are distinct hypotheses where their outlines lie more than this many pixels apart, on average along the
    outline"""


@dataclass(frozen=True)
class EvaluationConfig:
    """What is drawn and how it is scored; raises ConfigError for what cannot be."""

    ns: tuple[int, ...] = number((16, 32), COUNT, "samples")
    """samples per image; the largest is drawn once and the smaller ones are its first samples"""
    select: tuple[str, ...] = (IID,)
    """which samples, each a set of numbers of its own: iid; stratified, with presence spread evenly; representative,
    chosen from 4 times as many"""
    given: Literal["nothing", "marks"] = "nothing"
    """marks: score the outlines of raters who mark something against those who did, where at least two do"""
    steps: tuple[int | None, ...] = number((None,), COUNT)
    """steps of the sampler, one evaluation each; by default the model's own"""
    protocols: tuple[str, ...] = ("standard", "paper")
    """conventions of the metrics: standard, paper"""
    thresholds: tuple[float, ...] = number((), _THRESHOLDS)
    """further probabilities at which maps become masks; standard always has argmax (0.5), paper 0.9"""
    seed: int = number(0, ANY)
    """of the samples, hashed with each case's name, or of the draw of subsets, and of the bootstrap"""
    limit: int | None = number(None, COUNT, "images")
    """score only a fixed subset of this many images, the same at every call"""
    control: bool = False
    """also score each image's raters against the samples of another patient's image (predictor "shuffled")"""
    resamples: int = number(RESAMPLES, COUNT)
    """of the bootstrap over patients"""
    metrics: tuple[str, ...] = ("ged", "hm_iou")
    """all, or names: ged, hm_iou, ncc, ci, dmax, soft_dice, ece … as docs/metrics.md lists them"""
    one_rater: bool = False
    """also score each rater's mask against the other raters (predictor "one_rater")"""

    def __post_init__(self) -> None:
        for name in ("ns", "select", "steps", "protocols", "metrics"):
            if not getattr(self, name):
                raise ConfigError("needs a value", field=name, found="none")
        check(self)


@dataclass(frozen=True)
class BenchmarkConfig:
    """What all methods of a benchmark share, and what is set for one of them; ConfigError for what cannot be."""

    budget: str
    """of every training: 20m, 2h or 50000img"""
    seeds: tuple[int, ...] = number((0, 1, 2), ANY)
    """a seed is one training of every method; the same seed has the same batches"""
    batch_size: int = number(32, COUNT, "images")
    """images per optimiser step, the same for all"""
    augment: bool = True
    """flips and turns, the same for all"""
    deformation: float = number(0.0, Range(low=0, high=2))
    """strength of random rotation, scaling, shift and bending of training images, the same for all"""
    intensity_augmentation: float = number(0.0, Range(low=0, high=2))
    """strength of random gamma, contrast and brightness of training images, the same for all"""
    ns: tuple[int, ...] = number((16, 32), COUNT, "samples")
    """samples per image"""
    select: tuple[str, ...] = (IID,)
    """which samples, each in tables of its own: iid; stratified, with presence spread evenly; representative, chosen
    from 4 times as many"""
    thresholds: tuple[float, ...] = number((0.5, 0.9), _THRESHOLDS)
    """probabilities at which maps become masks, under both protocols; 0.5 is argmax in standard"""
    metrics: tuple[str, ...] = ("ged", "hm_iou", "ncc", "ci")
    """as in `modiff evaluate`"""
    split: str = "test"
    """the split that is scored"""
    folds: bool = False
    """train every method on every fold of the store; tables pool the patients held out"""
    limit: int | None = number(None, COUNT, "images")
    """score a fixed subset of so many images, with folds of each"""
    presets: Mapping[str, str] = field(default_factory=dict)
    """a method's or row's preset where it is not the usual one"""
    changes: tuple[str, ...] = ()
    """"NAME.group.setting=value" of a method, a row, or all"""
    accelerator: str = "auto"
    """what everything runs on: cpu, cuda, cuda:1 …; auto: a GPU (CUDA) if there is one"""
    devices: int = number(1, COUNT)
    """devices of a training; more than one is DDP, each training in a process of its own"""

    def __post_init__(self) -> None:
        parse_budget(self.budget)
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ConfigError("needs seeds, each once", field="seeds", found=self.seeds)
        if self.folds and self.split != "test":
            what = "folds are scored on the patients held out"
            raise ConfigError(what, field="split", found=self.split, expected="test")
        check(self)
