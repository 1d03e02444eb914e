"""Simulated lung nodules, each outlined by simulated readers whose true distribution of masks is known.

Nothing is read and nothing is downloaded. Every image shows a lesion at its centre, solid or with a ground-glass halo,
plain or so faint that few readers or none mark it, among vessels, look-alikes and sometimes the chest wall. Readers are
fresh at each image, so the rater slots are exchangeable; images that nobody marks stay in. The same options give the
same store. Splits are by patient: of every thirty patients three are test and two val, whatever their number.

In Python, modiff.data.phantom.case.load_phantom_case draws any number of further readers for a case of the store.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from modiff.data.importers.base import add_output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `modiff import phantom` takes."""
    from modiff.config.phantom import PhantomConfig

    usual = PhantomConfig()
    add_output(parser)
    for name, metavar, words in (
        ("size", "PIXELS", "width and height of the images"),
        ("spacing", "MM", "width of a pixel"),
        ("raters", "R", "readers of each image"),
        ("patients", "N", "number of patients"),
        ("images-per-patient", "N", "images of each patient"),
        ("seed", "SEED", "seed of all that is simulated"),
    ):
        default = getattr(usual, name.replace("-", "_"))
        parser.add_argument(
            f"--{name}", type=type(default), default=default, metavar=metavar, help=f"{words} (default %(default)s)"
        )
    parser.add_argument("--folds", type=int, metavar="K", help="also deal patients into K folds for cross-validation")


def run(args: argparse.Namespace) -> Path:
    """Writes the store that `args` describe and returns its path."""
    from modiff.data.phantom.case import PhantomConfig, write_phantom

    config = PhantomConfig(
        size=args.size,
        spacing=args.spacing,
        raters=args.raters,
        patients=args.patients,
        images_per_patient=args.images_per_patient,
        seed=args.seed,
    )
    return write_phantom(args.output, config, folds=args.folds, overwrite=args.overwrite)
