"""The importer of simulated data, which reads nothing."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import ClassVar

from modiff.config.phantom import PhantomConfig
from modiff.data.importers.base import Arguments, Case, Importer, write_store
from modiff.data.splits import SplitRule
from modiff.data.store_format import StoreInfo

_USUAL = PhantomConfig()


class Phantom(Importer[tuple[int, int]]):
    """Simulated lung nodules, each outlined by simulated raters whose true distribution of masks is known.

    Nothing is read and nothing is downloaded. Every image shows a lesion at its centre, solid or with a ground-glass
    halo, plain or so faint that few raters or none mark it, among vessels, look-alikes and sometimes the chest wall.
    Raters are fresh at each image, so the rater slots are exchangeable; images that nobody marks stay in. The same
    options give the same store. Splits are by patient: of every thirty patients three are test and two val, whatever
    their number.

    In Python, modiff.data.phantom.case.load_phantom_case draws any number of further raters for a case of the store.
    """

    split_options = ("folds",)

    arguments: ClassVar[Arguments] = {
        f"--{name.replace('_', '-')}": {
            "type": type(getattr(_USUAL, name)),
            "default": getattr(_USUAL, name),
            "metavar": metavar,
            "help": f"{words} (default %(default)s)",
        }
        for name, metavar, words in (
            ("size", "PIXELS", "width and height of the images"),
            ("spacing", "MM", "width of a pixel"),
            ("raters", "R", "raters per image"),
            ("patients", "N", "number of patients"),
            ("images_per_patient", "N", "images per patient"),
            ("seed", "SEED", "seed of all that is simulated"),
        )
    }

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args)
        self.config = PhantomConfig(**{item.name: getattr(args, item.name) for item in fields(PhantomConfig)})
        patients, images = range(self.config.patients), range(self.config.images_per_patient)
        self.items = [(patient, index) for patient in patients for index in images]

    def describe(self) -> StoreInfo:
        """What is simulated, and by which options: `config_of` reads them back."""
        from modiff.data.phantom.case import info_of  # late, as in all of these: scipy

        return info_of(self.config)

    def splits(self, rule: Mapping[str, str] | SplitRule) -> Mapping[str, str]:
        """By the patients' numbers, so that stores of any size agree."""
        from modiff.data.phantom.case import patient_name, split_of

        return {patient_name(number): split_of(number) for number in range(self.config.patients)}

    def read(self, item: tuple[int, int]) -> list[Case]:
        """The image of that patient and number, simulated."""
        from modiff.data.phantom.case import make_case

        made = make_case(self.config, *item)
        return [Case(made.name, made.patient, made.image, made.masks)]


def write_phantom(
    path: str | Path,
    config: PhantomConfig,
    *,
    folds: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Writes the store of all of `config`'s cases, marked or not, and returns its path.

    Splits are by patient (`phantom.case.split_of`); folds: how many patients are dealt into as well; every rater reads
    every image; `progress` shows a bar on standard error. Raises DataError where `path` exists and `overwrite` is
    false.
    """
    path, source = Path(path), Phantom(argparse.Namespace(**asdict(config)))
    write_store(source, path, {}, folds=folds, overwrite=overwrite, progress=progress)
    return path
