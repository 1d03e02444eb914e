"""Seconds from a click in `modiff view` to outlines on the screen, in a headless browser on this machine.

python tools/view_speed.py CT/ --at 317,367,8 [--model lidc] [--clicks 10]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import time
from typing import Any

FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
# Clicks on a voxel; when its layers are drawn the page has taken the times itself.
CLICK = """(place) => { const { state, moveTo } = modiffView;
Object.assign(state, { first: null, whole: null, slow: true });
moveTo(place); const tile = state.tiles[0], [x, y] = tile.pixel(place[tile.a] + .5, place[tile.b] + .5);
const canvas = document.getElementById("image"), box = canvas.getBoundingClientRect();
return [box.left + x * box.width / canvas.width, box.top + y * box.height / canvas.height]; }"""


def measure(page: Any, place: list[int]) -> tuple[float, float]:
    """Seconds to the first samples' outlines, and to those of all."""
    page.mouse.click(*page.evaluate(CLICK, place))
    while page.evaluate("modiffView.state.whole") is None:
        time.sleep(0.02)
    return page.evaluate("modiffView.state.first"), page.evaluate("modiffView.state.whole")


def main() -> None:
    """Prints the median and the slowest of some clicks on different voxels near a place."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scan")
    parser.add_argument("--at", required=True, help="X,Y,Z")
    parser.add_argument("--model", default="lidc")
    parser.add_argument("--clicks", type=int, default=10)
    args = parser.parse_args()
    x, y, z = map(int, args.at.split(","))
    command = [sys.executable, "-m", "modiff", "view", args.scan, "--model", args.model, "--no-browser"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        address = server.stdout.readline().strip()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
            page = browser.new_page(viewport={"width": 1200, "height": 800})
            page.goto(address)
            while not page.evaluate("!!window.modiffView"):
                time.sleep(0.05)
            page.evaluate("modiffView.ready")
            times = [measure(page, [x + i % 5, y + i // 5, z]) for i in range(args.clicks)]
            browser.close()
    finally:
        server.terminate()
        server.wait()
    for name, seconds in zip(("first outlines", "all samples"), zip(*times, strict=True), strict=True):
        print(f"{name}: median {statistics.median(seconds):.2f} s, slowest {max(seconds):.2f} s")


if __name__ == "__main__":
    main()
