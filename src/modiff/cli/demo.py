"""`modiff demo`: the whole way on simulated data: a store, a trained model, samples, scores, a report."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modiff.cli.options import parser_of
from modiff.config.data import PhantomConfig
from modiff.config.run import build_config, check_ranges
from modiff.errors import ConfigError, counted

if TYPE_CHECKING:
    import numpy as np

PRESET = "quick"
_LOOKED_AT = 100  # test images, for one on which raters differ
STEPS = 3  # of the sampler: on val GED is .221 in 3 steps and .224 in 5 (120 images, n = 8), in 60 % of the time
_DEFAULTS = {"budget": (None, "5000img"), "patients": (600, 120), "n": (16, 8)}  # usual, quick
parser = partial(parser_of, "demo")


def run(args: argparse.Namespace) -> int:
    """Each step is the verb of its name, called as a library."""
    from modiff.data.loading import load
    from modiff.devices import choose_device
    from modiff.evaluation.evaluate import FOLDER, evaluate_to_folder
    from modiff.evaluation.records import read_result
    from modiff.evaluation.scoring import EvaluationSettings
    from modiff.evaluation.words import results_table, wide_console
    from modiff.io.progress import progress_bar
    from modiff.methods.run_folder import load_model
    from modiff.report.run import sentence, write_report
    from modiff.training.loop import train

    folder: Path = args.output
    for name, (usual, quick) in _DEFAULTS.items():
        if getattr(args, name) is None:
            setattr(args, name, quick if args.quick else usual)
    changes: dict[str, Any] = {"seed": args.seed, "trainer": {"accelerator": args.device}}
    changes["model"] = {"diffusion": {"sampling_steps": STEPS}}
    if args.budget:
        changes["training"] = {"budget": args.budget}
    config = build_config(preset=PRESET, changes=changes)
    check_ranges(config)
    settings = EvaluationSettings(ns=(args.n,), control=True, seed=args.seed)
    device = choose_device(args.device, field="--device")
    store = _store(folder, args)  # after all else that is asked for is known to be right
    result = train(config, store, folder, quiet=args.quiet)
    print(f"trained: {counted(result.images, 'image', ',')} in {result.seconds:.0f} s ({result.reason})")
    if result.signalled or not result.finished:
        print("the same command resumes")
        return 130
    loaded, images = load_model(folder), load(store, "test")
    how: dict[str, Any] = {"split": "test", "data": store, "model_name": str(folder), "device": device}
    with progress_bar(f"{args.n} samples per image", "images", quiet=args.quiet) as progress:
        written = evaluate_to_folder(loaded, images, folder / FOLDER, settings, progress=progress, **how)
    wide_console().print(results_table(evaluated := read_result(written)))
    _sample(folder, store, args)
    page = write_report(folder, data=store, split="test", device=device)
    print(sentence(evaluated))
    print(f"report: {page}")
    return 0


def _store(folder: Path, args: argparse.Namespace) -> Path:
    """DIR/phantom.h5, simulated unless it is there; ConfigError where it is of other patients or another seed."""
    from modiff.data.importers.phantom import write_phantom
    from modiff.data.phantom.case import config_of, split_of
    from modiff.data.store import Store

    store, config = folder / "phantom.h5", PhantomConfig(seed=args.seed, patients=args.patients)
    least = next(n for n in count(1) if len(set(map(split_of, range(n)))) == 3)
    if args.patients < least:
        what = "too few for a training, a validation and a test split"
        raise ConfigError(what, field="--patients", found=args.patients, expected=f"{least} or more")
    if not store.exists():
        folder.mkdir(parents=True, exist_ok=True)
        return write_phantom(store, config, progress=not args.quiet)
    with Store.open(store) as opened:
        found = config_of(opened.info)
    if found != config:
        ours, theirs = asdict(config), asdict(found)
        differ = [name for name in ours if ours[name] != theirs[name]]
        there, wanted = (", ".join(str(one[name]) for name in differ) for one in (theirs, ours))
        what, hint = "was simulated with other settings", "Use the same --patients and --seed, or another folder (-o)"
        raise ConfigError(what, path=store, field=", ".join(differ), found=there, expected=wanted, hint=hint)
    return store


def _sample(folder: Path, store: Path, args: argparse.Namespace) -> None:
    """Draws the hypotheses of a test image on which raters differ much into DIR/sample, as `modiff sample` does."""
    from modiff.cli import sample
    from modiff.data.store import Store
    from modiff.io import write_png

    with Store.open(store) as opened:
        rows = opened.rows("test").tolist()[:_LOOKED_AT]
        row = max(rows, key=lambda row: _ambiguity(opened.masks(row)))
        image, case = opened.image(row)[0], opened.cases[row]
    picture = folder / "image.png"
    write_png(picture, image)
    print(f"samples of {case}, on which raters differ most among {counted(len(rows), 'test image')}:")
    words = [str(folder), str(picture), "-o", str(folder / "sample"), "--overwrite", "--intensity", "ready"]
    words += ["--device", args.device, *(["--quiet"] if args.quiet else [])]
    sample.run(sample.parser("modiff sample").parse_args(words))


def _ambiguity(masks: np.ndarray) -> tuple[int, float]:
    """How many distinct hypotheses raters' masks (R,H,W) are, and how little two of them overlap."""
    import torch

    from modiff.prediction.summary import summarise
    from modiff.types import Samples

    summary = summarise(Samples.uniform(torch.from_numpy(masks > 0).float()[None, :, None]))
    return len(summary.hypotheses), -(summary.agreement or 0.0)
