"""Every baseline trained on a store for the same time with its own preset, then scored on the test split.

DIR/<method> holds each one's run, 16-bit model and scores; DIR/summary.md the scores of all. A method that fails does
not lose the others (exit status 1). Ends with status 3 when --max-time is over before all is done: the same command
resumes. `--methods modiff` adds MoDiff under the same budget, with preset lidc.

    python tools/gpu/03_baselines.py --data lidc.h5 -o results/baselines --budget 20m --max-time 3h
"""

from __future__ import annotations

import argparse
import sys
import traceback
from pathlib import Path

import stages

BASELINES = ("prob_unet", "cflow", "mose", "ccdm", "cimd")
PRESETS = {"modiff": "lidc"}  # the others' presets have their names


def steps_of(method: str, asked: list[str] | tuple[str, ...]) -> tuple[int | None, ...]:
    """("ccdm=10", "ccdm=250", …) -> that method's steps; (None,), its own default, where none are given."""
    from modiff.errors import ConfigError

    found = []
    for word in asked:
        name, _, number = word.partition("=")
        if not number.isdecimal():
            raise ConfigError("is not a method's steps", field="--steps", found=repr(word), expected="ccdm=10")
        if name == method:
            found.append(int(number))
    return tuple(found) or (None,)


def one(method: str, args: argparse.Namespace, deadline: stages.Deadline) -> None:
    """A method from training to scores."""
    folder = args.output / method
    config = stages.configuration(args, method=method, preset=PRESETS.get(method, method))
    model = stages.trained(config, args, folder, deadline)
    stages.scored(model, args, folder / "evaluation", steps_of(method, args.steps), deadline)


def write_summary(output: Path, methods: list[str]) -> Path:
    """The scores that are there, as Markdown."""
    from modiff.evaluation.records import read_result
    from modiff.io.files import write_text
    from modiff.methods.run_folder import read_json

    lines = ["| method | images seen | scores of | means over images |", "|---|---|---|---|"]
    for method in methods:
        for path in sorted((output / method / "evaluation").glob("*.json")):
            card = read_json(output / method / "model" / "card.json")
            cells = [card["method"], f"{card['images_seen']:,}", path.stem, stages.summary(read_result(path))]
            lines.append(f"| {' | '.join(cells)} |")
    write_text(output / "summary.md", "\n".join(lines) + "\n")
    return output / "summary.md"


def main() -> int:
    """Trains and scores one method after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stages.options(parser, ns=(16, 32))
    parser.add_argument("--methods", nargs="+", choices=(*BASELINES, "modiff"), default=list(BASELINES))
    parser.add_argument(
        "--steps", nargs="+", default=(), metavar="METHOD=S", help="of a method's sampler, e.g. ccdm=10 ccdm=250"
    )
    args = parser.parse_args()
    from modiff.errors import ModiffError

    failed, status = [], 0
    try:
        deadline = stages.Deadline(args.max_time)
        for method in args.methods:
            print(f"== {method}", flush=True)
            try:
                one(method, args, deadline)
            except (ModiffError, RuntimeError):  # out of memory is a RuntimeError
                traceback.print_exc()
                failed.append(method)
    except stages.TimeOver:
        print("time over; the same command resumes")
        status = stages.UNFINISHED
    except ModiffError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        return 130
    if args.output.is_dir():
        print(write_summary(args.output, args.methods))
    if failed:
        print(f"failed: {', '.join(failed)}")
    return status or (1 if failed else 0)


if __name__ == "__main__":
    sys.exit(main())
