"""`modiff publish`: a model's folder as a model hub expects it."""

from __future__ import annotations

import argparse
from functools import partial

from modiff.cli.options import parser_of

parser = partial(parser_of, "publish")


def run(args: argparse.Namespace) -> int:
    """Writes the folder and prints its path."""
    from modiff.report.published import write_published

    print(write_published(args.run, args.folder, licence=args.licence, onnx=args.onnx, overwrite=args.overwrite))
    return 0
