"""The importer of simulated data, which reads nothing."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np

from modiff.config.data import PhantomConfig
from modiff.data.context import near
from modiff.data.importers.base import Case, Importer, write_store
from modiff.data.phantom.case import VERSION, WINDOW, make_case, patient_name, split_of
from modiff.data.splits import SplitRule
from modiff.data.store_format import StoreInfo
from modiff.errors import ConfigError


class Phantom(Importer[tuple[int, int]]):
    """Simulated lung nodules, each outlined by simulated raters whose true distribution of masks is known."""

    version = f"phantom {VERSION}"

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args)
        self.config = PhantomConfig(**{item.name: getattr(args, item.name) for item in fields(PhantomConfig)})
        if self.context and self.config.slices == 1:
            raise ConfigError("pictures have no neighbouring slices", field="--context", expected="--slices 2 or more")
        patients, images = range(self.config.patients), range(self.config.images_per_patient)
        self.items = [(patient, index) for patient in patients for index in images]

    def describe(self) -> StoreInfo:
        """What is simulated, and by which options: `config_of` reads them back."""
        return StoreInfo(
            channels=("CT",),
            classes=("nodule",),
            raters=tuple(f"reader {number + 1}" for number in range(self.config.raters)),
            exchangeable_raters=True,
            intensity="window:{:.0f}:{:.0f}".format(*WINDOW),
            prompt="centre",
            spacing=(self.config.spacing, self.config.spacing),
            source=self.config.source,
            licence="none needed: simulated, shows nobody",
            importer=self.version,
        )

    def splits(self, rule: Mapping[str, str] | SplitRule) -> Mapping[str, str]:
        """By the patients' numbers, so that stores of any size agree."""
        return {patient_name(number): split_of(number) for number in range(self.config.patients)}

    def read(self, item: tuple[int, int]) -> list[Case]:
        """The image of that patient and number, simulated, or all slices of the volume."""
        count = self.config.slices
        parts = [None] if count == 1 else range(count)
        made = [make_case(self.config, *item, part) for part in parts]
        images = [np.concatenate([made[at].image for at in near(place, count, self.context)]) for place in range(count)]
        where = [{} if part is None else {"slice_index": part, "affine": self._affine(part)} for part in parts]
        every = zip(made, images, where, strict=True)
        return [Case(one.name, one.patient, image, one.masks, place=place) for one, image, place in every]

    def _affine(self, part: int) -> np.ndarray:
        """Of a slice, voxel (column, row, slice) to RAS+ in mm: an axial scan as most are stored."""
        made = np.diag([-self.config.spacing, -self.config.spacing, self.config.slice_spacing, 1.0])
        made[2, 3] = part * self.config.slice_spacing
        return made


def write_phantom(
    path: str | Path,
    config: PhantomConfig,
    *,
    context: int = 0,
    folds: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Writes the store of all of `config`'s cases, marked or not, and returns its path.

    Splits are by patient (`phantom.case.split_of`); context: neighbours of each slice on either side; folds: how many
    patients are dealt into as well; every rater reads every image; `progress` shows a bar on standard error. Raises
    DataError where `path` exists and `overwrite` is false.
    """
    path, source = Path(path), Phantom(argparse.Namespace(**asdict(config), context=context))
    write_store(source, path, {}, folds=folds, overwrite=overwrite, progress=progress)
    return path
