"""Preset `auto`: MoDiff's settings that depend on the data, chosen from a store, each with its reason."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modiff.config.fields import merged, setting
from modiff.config.methods import PATCH
from modiff.data.splits import fold_split
from modiff.data.store import Store, evenly_spaced
from modiff.errors import counted

_LOOKED_AT = 200  # training images whose masks are measured
_PATCHES = 16, 32  # along a window about a prompt, or a whole image, to aim at
_ACROSS = 1.25  # patches that a small mark is across, at least
_WHOLE = 48  # patches along an image up to which a training step sees all of it
_ATTENDED = 160  # pixels along an image up to which MCA's attention, quadratic in their number, is affordable
_LARGE = 4000  # training images from which wider networks pay
_FEW = 1000  # training images below which they are deformed and, where they are seen whole, in fine patches
_PASSES, _BUDGET = 25, (20_000, 300_000)  # over the training images; the images seen, at least and at most


@dataclass(frozen=True)
class Choice:
    """One setting. name: its address, such as model.unet.stem."""

    name: str
    value: Any
    reason: str

    def __str__(self) -> str:
        return f"{self.name} {self.value} ({self.reason})"


@dataclass(frozen=True)
class Facts:
    """What the choices depend on. Lengths are in pixels.

    size: (H,W) of the images. images: of split train. raters, classes, channels: counts. small: the square root of the
    area that a quarter of all marks of a rater and a class do not reach. span: side of the square about the image's
    middle that holds all marks of 98 % of the images. mm: of a pixel, None where unknown.
    """

    size: tuple[int, int]
    images: int
    channels: int
    classes: int
    raters: int
    exchangeable: bool
    prompted: bool
    small: float
    span: float
    mm: float | None = None


def measure(path: str | Path, *, fold: int | None = None) -> Facts:
    """The facts of a store's split train, or of a fold's; raises DataError for a bad store or no such split."""
    with Store.open(path) as store:
        rows, info, (channels, height, width) = store.rows(fold_split(fold, "train")), store.info, store.shape
        some = rows[evenly_spaced(len(rows), _LOOKED_AT)]
        sides, spans = list[float](), list[float]()
        for start, (_, masks) in enumerate(store.blocks(some, 1)):
            seen = masks[0][store.read[some[start]]]
            counts = [np.bincount(mask.ravel(), minlength=2)[1:] for mask in seen]
            sides += [float(count) ** 0.5 for of_rater in counts for count in of_rater if count]
            marked = np.argwhere(seen.any(0))
            if len(marked):
                spans.append(2 * np.abs(marked - (np.array([height, width]) - 1) / 2).max() + 1)
        small = float(np.quantile(sides, 0.25)) if sides else min(height, width) / 8
        span = float(np.quantile(spans, 0.98)) if spans else float(max(height, width))
    mm = None if info.spacing is None else sum(info.spacing) / 2
    counts_of = (len(rows), channels, len(info.classes), len(info.raters))
    return Facts((height, width), *counts_of, info.exchangeable_raters, info.prompt == "centre", small, span, mm)


def choose(facts: Facts, *, images: int | None = None, batch: int | None = None) -> list[Choice]:
    """The settings for such data; those that do not depend on it are in the preset's file.

    images: of the budget, and batch: of a step, where the user gives them: what follows the steps follows theirs.
    """
    side = max(facts.size)
    crop, why_crop = _window(facts) if facts.prompted else (0, "no prompt: marks may lie anywhere")
    window, why_window = crop, why_crop
    stem, why_stem = _patch(facts, crop or side, windowed=crop > 0)
    finest = _affordable(facts)
    fine = not crop and facts.images < _FEW and stem > finest
    if fine:
        stem, why_stem = finest, f"the finest for images of {side} pixels: {counted(facts.images, 'image', ',')}"
    levels, double = (4, 2) if fine else (3, 1)  # half as large patches, twice as many
    if not crop and side > double * _WHOLE * stem:
        crop = max(64, double * 32 * stem)
        why_crop = f"random squares, half about marks: {side} pixels are slow, `import --resize` makes fewer"
    seen = crop or side
    patches = -(-seen // stem)
    base = 16 if fine else 48 if patches <= 16 and (facts.images >= _LARGE or facts.classes > 1) else 32
    batch = batch or (32 if patches <= 24 else 16)
    images = images or min(max(_PASSES * facts.images, _BUDGET[0]), _BUDGET[1])
    steps, looked = images // batch, window or side
    many = f"{counted(facts.images, 'image', ',')}, {counted(facts.classes, 'class')}"
    who = "slots are not persons" if facts.exchangeable else "persons are known"
    each = stem if fine else max(min(stem, 2), min(_power(looked / 64, up=True), int(PATCH.high)))
    short = steps < 3000
    found = [
        ("model.window", window, why_window),
        ("model.crop", crop, why_crop),
        (
            "model.crop_jitter",
            max(1, crop // (16 if window else 4)),
            f"a {'sixteenth' if window else 'quarter'} of the square",
        ),
        ("model.unet.stem", stem, why_stem),
        ("model.unet.multipliers", list(range(1, levels + 1)), f"{levels} levels"),
        ("model.unet.attention", [2 ** (levels - 1) * stem], "at the coarsest level"),
        ("model.unet.base", base, f"{many}, {patches} patches per side"),
        (
            "model.mca.enabled",
            (window or side) <= _ATTENDED,
            f"its attention costs the fourth power of {window or side} pixels",
        ),
        ("model.presence.window", window, "as the denoiser" if window else "the head looks at whole images"),
        ("model.presence.stem", each, f"{counted(-(-looked // each), 'patch')} along {looked} pixels"),
        ("model.presence.base", 24 if facts.images >= _LARGE else 16, f"{facts.images:,} images"),
        ("model.presence.single_share", 0.75 if facts.raters > 1 else 1.0, f"{counted(facts.raters, 'rater')}, {who}"),
        (
            "training.budget",
            f"{images}img",
            f"{images / facts.images:,.0f} passes over {counted(facts.images, 'image', ',')}",
        ),
        ("training.deformation", 1.0 if facts.images < _FEW else 0.0, counted(facts.images, "image", ",")),
        ("training.intensity_augmentation", 1.0 if facts.images < _FEW else 0.0, "as deformation"),
        ("training.batch_size", batch, f"{patches}×{patches} patches per image"),
        ("training.learning_rate", 2e-3 if base == 32 == batch else 1e-3, f"width {base}, batches of {batch}"),
        ("training.warmup", 50 if short else 100, f"{steps:,} steps"),
        ("training.ema_decay", 0.995 if short else 0.999, f"{steps:,} steps"),
        ("training.validate_every", every := min(max(steps // 20, 50), 500), f"{steps:,} steps"),
        ("training.save_every", every, "as validations"),
    ]
    return [Choice(*one) for one in found]


def settings(choices: list[Choice]) -> dict[str, Any]:
    """The choices as nested plain data."""
    return merged(*(setting(f"{choice.name}={json.dumps(choice.value)}") for choice in choices))


def _window(facts: Facts) -> tuple[int, str]:
    """Side of the square about the prompt that is denoised, 0 for the whole image, and why."""
    needed = facts.span + 4  # a mark within two pixels of the border may go on
    side = max(32, 16 * -(-int(np.ceil(needed)) // 16))
    long = f" ({facts.span * facts.mm:.0f} mm)" if facts.mm else ""
    holds = f"98 % of images are marked within {facts.span:.0f} pixels{long} about the prompt"
    return (0, f"{holds}: the whole image") if side > 0.8 * min(facts.size) else (side, holds)


def _patch(facts: Facts, seen: int, *, windowed: bool) -> tuple[int, str]:
    """Side of the patches that the denoiser takes, and why."""
    fine = min(_power(facts.small / _ACROSS), 8, _power(seen / _PATCHES[not windowed]))
    affordable = _affordable(facts)
    why = f"small marks are {facts.small:.0f} pixels across, training sees {seen}"
    if fine < affordable:
        why += f", but finer patches would make images of {max(facts.size)} pixels slow"
    return max(fine, affordable), why


def _affordable(facts: Facts) -> int:
    """Side of the smallest patches with which whole images are not slow."""
    return min(_power(max(facts.size) / 128, up=True), int(PATCH.high))


def _power(number: float, *, up: bool = False) -> int:
    """The power of two, 1 or more, next below a number, or next above."""
    exponent = np.log2(max(number, 1.0))
    return int(2 ** (np.ceil(exponent) if up else np.floor(exponent)))
