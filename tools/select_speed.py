"""Time to choose representative sets, 16 of 64 candidates at 128×128, on one core, overlaps of all pairs included.

python tools/select_speed.py [--images 100] [--candidates 64] [-n 16]
"""

from __future__ import annotations

import argparse
import time

import torch
from metrics_speed import nodules

from modiff.metrics.representative import representative
from modiff.types import Samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--candidates", type=int, default=64)
    parser.add_argument("-n", type=int, default=16)
    args = parser.parse_args()
    torch.set_num_threads(1)
    samples = [Samples.uniform(masks[None].float()) for masks in nodules(args.images, args.candidates, seed=0)]
    representative(samples[0], args.n)  # the first call loads what is needed
    start = time.process_time()
    for one in samples:
        representative(one, args.n)
    taken = (time.process_time() - start) / args.images * 1e3
    print(f"{args.n} of {args.candidates} candidates: {taken:.2f} ms per image")


if __name__ == "__main__":
    main()
