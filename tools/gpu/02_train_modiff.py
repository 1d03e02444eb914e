"""MoDiff trained on a store for a given time, its 16-bit averaged weights published in parts, its test split scored.

DIR/run is the run folder, DIR/model the published weights, DIR/evaluation the scores; DIR/parts holds model, log and
scores as an archive in parts under 16 MiB, which `parts.py join` puts together. Ends with status 3 when --max-time is
over before all is done: the same command resumes.

    python tools/gpu/02_train_modiff.py --data lidc.h5 -o results/modiff --budget 20m
    python tools/gpu/02_train_modiff.py --data lidc.h5 -o results/large --config tools/gpu/large.yaml
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import stages
from parts import split

LOG, PARTS = "log.jsonl", "parts"


def pack(folder: Path) -> Path:
    """Model, log and scores as parts; the training checkpoint, eight times as large as the model, stays."""
    if (folder / "run" / LOG).exists():
        shutil.copyfile(folder / "run" / LOG, folder / LOG)
    return split(folder, folder / PARTS, skip=("run", PARTS))


def main() -> int:
    """Trains, publishes, scores, packs; each where an earlier start stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stages.options(parser, ns=(16, 32, 100))
    parser.add_argument("--budget", default="20m", help="of training: 90s, 20m, 2h or 50000img (20m)")
    parser.add_argument("--limit", type=int, metavar="IMAGES", help="score only a fixed subset of the test images")
    parser.add_argument("--preset", default="lidc", help="of the method modiff (lidc)")
    parser.add_argument("--config", type=Path, help="a YAML file of settings on top of the preset")
    parser.add_argument("--steps", nargs="+", type=int, default=(5, 10, 25, 250), help="of the sampler (5 10 25 250)")
    args = parser.parse_args()
    return stages.status_of(lambda: work(args))


def work(args: argparse.Namespace) -> int:
    """What the options ask for; returns the exit status."""
    from modiff.config.run import parse_time

    try:
        deadline = stages.Deadline(parse_time(args.max_time, field="--max-time"))
        config = stages.configuration(args, method="modiff", preset=args.preset, file=args.config)
        try:
            model = stages.trained(config, args, args.output, deadline)
            stages.scored(model, args, args.output / "evaluation", tuple(args.steps), deadline)
        finally:
            if args.output.is_dir():
                print(pack(args.output))
    except stages.TimeOver:
        print("time over; the same command resumes")
        return stages.UNFINISHED
    print("all done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
