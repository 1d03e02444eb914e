"""`modiff report`: one self-contained HTML page about a run."""

from __future__ import annotations

import argparse
from functools import partial

from modiff.cli.options import parser_of

parser = partial(parser_of, "report")


def run(args: argparse.Namespace) -> int:
    """Writes the page and prints its path."""
    from modiff.devices import choose_device
    from modiff.report.run import write_report

    device = choose_device(args.device, field="--device")
    print(write_report(args.run, args.output, data=args.data, split=args.split, device=device))
    return 0
