"""Options that say which patient is in which split, the same for every importer."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

_SEEDS = 100  # that are tried for an advice


def add_split_arguments(parser: argparse.ArgumentParser) -> None:
    """--splits, --val, --test, --split-seed and --folds."""
    from modiff.data.splits import SplitRule

    rule = SplitRule()
    parser.add_argument("--splits", metavar="JSON", help="patients of each split; without it they are drawn by hash")
    parser.add_argument("--val", type=float, default=rule.val, help="share of patients for val (default %(default)s)")
    parser.add_argument(
        "--test", type=float, default=rule.test, help="share of patients for test (default %(default)s)"
    )
    parser.add_argument("--split-seed", type=int, default=rule.seed, help="seed of the hash (default %(default)s)")
    parser.add_argument("--folds", type=int, metavar="K", help="also deal patients into K folds for cross-validation")


def place(args: argparse.Namespace, patients: Iterable[str]) -> tuple[dict[str, str], dict[str, int] | None]:
    """Patient -> split, and patient -> fold where folds were asked for; raises DataError or ConfigError."""
    from modiff.data.splits import SplitRule, assign, read_splits

    names = set(patients)
    places = read_splits(args.splits) if args.splits else SplitRule(args.val, args.test, args.split_seed)
    return assign(names, places, args.splits), folds(args, names)


def advice(args: argparse.Namespace, splits: dict[str, str]) -> str | None:
    """What to do where a split that training or scoring needs is empty. splits: by patient, as they were written."""
    from modiff.data.splits import SplitRule, assign, lacking

    found = lacking(splits.values())
    if found is None or not hasattr(args, "split_seed") or not hasattr(args, "test"):
        return found
    if assign(splits, SplitRule(args.val, args.test, args.split_seed), None) != splits:  # not dealt by the rule
        return found
    for seed in range(args.split_seed + 1, args.split_seed + _SEEDS):
        if lacking(assign(splits, SplitRule(args.val, args.test, seed), None).values()) is None:
            return f"{found}; --split-seed {seed} deals someone to each"
    return f"{found}; --splits names them"


def folds(args: argparse.Namespace, patients: Iterable[str]) -> dict[str, int] | None:
    """Patient -> fold where --folds was given."""
    from modiff.data.splits import make_folds

    return make_folds(patients, args.folds, args.split_seed) if args.folds else None
