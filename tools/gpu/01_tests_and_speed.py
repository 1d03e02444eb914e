"""The tests that need a CUDA device, then MoDiff's speed and memory on it.

Writes tests.xml (JUnit), tests.txt and speed.json to the output folder, and ends with a line per figure. Exit status 1
where a test fails or a figure could not be measured.

    python tools/gpu/01_tests_and_speed.py -o results [--presets lidc paper]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTHING_COLLECTED = 5  # pytest's exit status


def run(words: list[str], log: Path) -> int:
    """Runs a Python program in the checkout, its output shown and kept; returns its exit status."""
    with (
        log.open("w", encoding="utf-8") as file,
        subprocess.Popen(
            [sys.executable, "-u", *words],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        ) as started,
    ):
        assert started.stdout is not None
        for line in started.stdout:
            print(line, end="", flush=True)
            file.write(line)
    return started.returncode


def main() -> int:
    """Tests, then measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="DIR")
    parser.add_argument("--tests", nargs="+", default=["tests"], help="files or folders that pytest collects (tests)")
    parser.add_argument("--presets", nargs="+", default=["lidc"], help="whose speed is measured (lidc)")
    parser.add_argument("--batch-size", type=int, help="images per training step (each preset's)")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="of the speeds (cuda)")
    args = parser.parse_args()
    output = args.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    junit = f"--junitxml={output / 'tests.xml'}"
    tests = run(["-m", "pytest", "-m", "gpu", "-rs", junit, *args.tests], output / "tests.txt")
    if tests == NOTHING_COLLECTED:
        print("no test needs a GPU there")
    failed = [f"tests ({tests})"] if tests else []
    for preset in args.presets:
        target = output / f"speed-{preset}.json"
        words = ["tools/model_speed.py", "--device", args.device, "--preset", preset, "--json", str(target)]
        words += ["--repeats", str(args.repeats)]
        words += ["--batch-size", str(args.batch_size)] if args.batch_size else []
        if run(words, output / f"speed-{preset}.txt"):
            failed.append(f"speed of {preset}")
    for preset in args.presets:
        print((output / f"speed-{preset}.txt").read_text(encoding="utf-8"), end="")
    print(f"failed: {', '.join(failed)}" if failed else "all done")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
