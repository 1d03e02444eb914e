"""The viewer in a real browser: what is drawn lies where the files say, and every key works."""

from __future__ import annotations

import base64
import io
import json
import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from series_files import write_series
from visits import Visit, viewer_of

pytest.importorskip("starlette", reason="needs the extra `view`")
pytest.importorskip("uvicorn", reason="needs the extra `view`")
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright to drive a browser")

SHAPE = (5, 64, 80)
FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-quic"]
# Oblique, and columns run to the right of the patient: nothing lies as the page's viewer counts.
AFFINE = np.array([[0.7, 0.0, 0.1, -30], [0.0, 0.9, 0.0, -40], [0.05, 0.2, 2.5, 7], [0, 0, 0, 1]])


def voxels() -> np.ndarray:
    made = np.random.default_rng(0).integers(-900, -300, SHAPE, dtype=np.int16)
    made[:, 30, 40] = 900
    return made


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("needs the browser `chromium` to open the page in")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def visits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Visit]:
    folder = tmp_path_factory.mktemp("scan")
    nib.save(nib.Nifti1Image(voxels().T, AFFINE), folder / "scan.nii.gz")
    sagittal = np.array([[0, 0, -2.5, 60], [-0.7, 0, 0, 20], [0, -0.9, 0, 40], [0, 0, 0, 1.0]])  # towards P, I and L
    nib.save(nib.Nifti1Image(voxels().T, sagittal), folder / "sagittal.nii.gz")
    scans = {"sagittal": folder / "sagittal.nii.gz"}
    scans |= {
        "nifti": folder / "scan.nii.gz",
        "series": write_series(folder / "series", voxels(), order=[3, 1, 4, 0, 2]),
    }
    return {kind: Visit(viewer_of(scan, save=folder / "masks")) for kind, scan in scans.items()}


@pytest.fixture
def visit(request: pytest.FixtureRequest, visits: dict[str, Visit]) -> Visit:
    return visits[getattr(request, "param", "nifti")]


both = pytest.mark.parametrize("visit", ["nifti", "series"], indirect=True)


class Opened:
    """A page, and what went wrong in it."""

    def __init__(self, browser: Any, visit: Visit, width: int = 900, height: int = 560) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": height}, accept_downloads=True)
        self.wrong: list[str] = []
        self.asked: list[str] = []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", lambda said: said.type == "error" and self.wrong.append(said.text))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(visit.address)
        self.until("!!window.modiffView")
        self.page.evaluate("modiffView.ready")

    def until(self, expression: str, seconds: float = 60) -> None:
        """Waits for a condition; the page's policy forbids that the browser does."""
        end = time.monotonic() + seconds
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, (expression, self.page.inner_text("#status"), self.wrong)
            time.sleep(0.02)

    def on_screen(self, place: tuple[int, int, int], plane: int = 0) -> tuple[float, float]:
        """Where the middle of a voxel is seen."""
        x, y = self.page.evaluate(
            """([place, plane]) => { const tile = modiffView.state.tiles.find((one) => one.plane === plane);
            const [x, y] = tile.pixel(place[tile.a] + .5, place[tile.b] + .5);
            const canvas = document.getElementById("image"), box = canvas.getBoundingClientRect();
            return [box.left + x * box.width / canvas.width, box.top + y * box.height / canvas.height]; }""",
            [list(place), plane],
        )
        return x, y

    def click(self, place: tuple[int, int, int]) -> None:
        """Clicks on a voxel of the slice that is looked at, and waits for all its samples."""
        self.page.evaluate("place => { modiffView.moveTo(place); modiffView.state.whole = null; }", list(place))
        self.page.mouse.click(*self.on_screen(place))
        self.until("!!modiffView.state.whole")

    def layers(self) -> np.ndarray:
        """(H,W,4) of what is drawn over the image."""
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        text = self.page.evaluate("document.getElementById('layers').toDataURL()")
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2]))))

    def drawn_voxels(self, colour: str, plane: int = 0) -> np.ndarray:
        """(n,2) places of pixels in a colour in the slice's own axes, in voxels, and the axes."""
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        layers = self.layers().astype(int)
        rows, columns = np.nonzero((np.abs(layers[..., :3] - rgb).max(2) < 12) & (layers[..., 3] > 200))
        tile = self.page.evaluate(
            """(plane) => { const tile = modiffView.state.tiles.find((one) => one.plane === plane);
            const { a, b, across, index, left, top, width, height } = tile;
            return { a, b, across, index, box: [left, top, width, height],
                     at: [[0, 0], [1, 0], [0, 1]].map(([x, y]) => tile.voxel(x, y)) }; }""",
            plane,
        )
        left, top, width, height = tile["box"]
        inside = (columns >= left) & (columns < left + width) & (rows >= top) & (rows < top + height)
        origin, right, below = (np.array(place) for place in tile["at"])
        x, y = columns[inside] + 0.5, rows[inside] + 0.5
        found = origin + x[:, None] * (right - origin) + y[:, None] * (below - origin)
        self.tile = tile
        return found[:, [tile["a"], tile["b"]]]


@pytest.fixture(scope="module")
def pages(browser: Any) -> dict[str, Opened]:
    """By address: opening one takes longer than all that is done with it."""
    return {}


@pytest.fixture
def opened(browser: Any, visit: Visit, pages: dict[str, Opened]) -> Iterator[Opened]:
    if visit.address not in pages:
        pages[visit.address] = Opened(browser, visit)
    page = pages[visit.address]
    page.page.evaluate(
        """() => { modiffView.state.request?.abort(); document.activeElement.blur();
        Object.assign(modiffView.state, { request: null, result: null, whole: null, shown: 0 }); }"""
    )
    for key in ("5", "0", "1"):
        page.page.keyboard.press(key)
    yield page
    assert page.wrong == []


def outline_distance(places: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """The furthest, in voxels, that a drawn pixel lies from an edge of the mask (u,v), and an edge from a pixel."""
    edges = []
    for axis in (0, 1):
        changes = np.argwhere(np.diff(np.pad(mask, 1).astype(int), axis=axis)).astype(float)
        changes[:, 1 - axis] -= 0.5  # the middle of the side between two pixels
        edges.append(changes)
    apart = np.linalg.norm(places[:, None] - np.concatenate(edges)[None], axis=2)
    return float(apart.min(1).max()), float(apart.min(0).max())


@both
def test_a_click_is_drawn_where_the_files_say(opened: Opened, visit: Visit, tmp_path: Path) -> None:
    place = (40, 30, 2)
    opened.click(place)
    assert opened.page.evaluate("modiffView.state.result.at") == list(place)
    with opened.page.expect_download() as download:
        opened.page.click("#export")
    with zipfile.ZipFile(download.value.path()) as archive:
        archive.extractall(tmp_path)
    told = json.loads((tmp_path / "sample/summary.json").read_text())
    marking = [i for i, one in enumerate(told["hypotheses"]) if not one["nothing"]]
    assert len(marking) >= 2
    opened.page.evaluate("document.activeElement.blur()")
    for i in marking[:2]:
        opened.page.evaluate("document.getElementById('step').value = 0")
        opened.page.keyboard.press("Escape")
        while opened.page.evaluate("modiffView.state.shown") != i + 1:
            opened.page.keyboard.press("ArrowRight")
        mask = np.asarray(nib.load(tmp_path / f"sample/hypothesis-{i + 1}.nii.gz").dataobj)  # (W,H,Z)
        colour = opened.page.evaluate("(i) => modiffView.state.result.hypotheses[i].colour", i)
        for plane in (0, 1, 2):
            places = opened.drawn_voxels(colour, plane)
            on_slice = np.moveaxis(mask, opened.tile["across"], 0)[opened.tile["index"]]
            assert on_slice.any()
            too_far, missed = outline_distance(places, on_slice)
            assert max(too_far, missed) <= 1, (plane, i)
        for _ in told["hypotheses"]:
            opened.page.keyboard.press("ArrowLeft")
    assert {url.partition("/")[2].split("/")[1] for url in opened.asked if url.startswith("http")} == {visit.host}


@pytest.mark.parametrize("visit", ["nifti", "series", "sagittal"], indirect=True)
def test_the_cross_lies_on_the_voxel_that_the_viewer_shows(opened: Opened) -> None:
    """The bright voxels of the scan are seen where the page says that they are: NiiVue and the page agree."""
    for plane in range(3):
        cross = [10, 50, 2]
        across = opened.page.evaluate(
            "(plane) => modiffView.state.tiles.find((one) => one.plane === plane).across", plane
        )
        if across < 2:  # the bright voxels lie along the slices
            cross[across] = (40, 30)[across]
        opened.page.evaluate("place => modiffView.moveTo(place)", cross)
        assert opened.page.evaluate("modiffView.crosshair()") == cross
        grey = np.asarray(Image.open(io.BytesIO(opened.page.screenshot())).convert("L")).astype(int)
        x, y = map(round, opened.on_screen((40, 30, 2), plane))
        along = [grey[y - 1 : y + 2, x - 1 : x + 2].max(), grey[y - 12 : y + 13 : 24, x - 12 : x + 13 : 24].max()]
        assert along[0] > along[1] + 40, plane


def test_keys_alone(opened: Opened) -> None:
    press, state = opened.page.keyboard.press, opened.page.evaluate
    opened.page.evaluate("() => { modiffView.moveTo([38, 30, 1]); document.getElementById('image').focus(); }")
    for key in ("ArrowUp", "Shift+ArrowRight", "Shift+ArrowRight", "Shift+ArrowLeft", "Shift+ArrowDown"):
        press(key)
    moved = state("modiffView.crosshair()")
    assert moved[2] != 1
    assert abs(moved[0] - 38) == abs(moved[1] - 30) == 1
    press("Enter")
    opened.until("!!modiffView.state.whole")
    assert state("modiffView.state.result.at") == moved
    press("ArrowRight")
    assert state("modiffView.state.shown") == 1
    press("ArrowLeft")
    press("u")
    assert state("document.getElementById('fade').value") == "70"
    heat = (opened.layers()[..., 3] > 0).sum()
    press("u")
    assert (opened.layers()[..., 3] > 0).sum() < heat
    state("modiffView.state.whole = null")
    press("g")
    opened.until("!!modiffView.state.whole")
    assert not state("modiffView.state.result.hypotheses.some((one) => one.nothing)")
    press("w")
    assert state("document.getElementById('window').value") == "1"
    press("7")
    assert state("modiffView.state.tiles.map((one) => one.plane)") == [1]


def test_a_mask_is_painted_and_saved(opened: Opened, visit: Visit) -> None:
    opened.click((40, 30, 2))
    before = opened.page.evaluate("modiffView.state.result.hypotheses.findIndex((one) => !one.nothing)")
    mask = opened.page.evaluate(
        """(i) => { const { mask } = modiffView.state.result.hypotheses[i], found = [];
        for (let y = 0; y < 64; y++) for (let x = 0; x < 80; x++) if (mask.at(x, y, 2)) found.push([x, y]);
        return found; }""",
        before,
    )
    opened.page.evaluate("(i) => document.querySelectorAll('#hypotheses button')[i].click()", before)
    opened.page.click("#take")
    opened.page.fill("#size", "1")
    for place in ((10, 10, 2), (12, 10, 2)):
        opened.page.mouse.click(*opened.on_screen(place))
    opened.page.evaluate("document.activeElement.blur()")
    opened.page.keyboard.press("z")
    opened.page.fill("#rater", "in a browser")
    opened.page.click("#save")
    opened.until("document.getElementById('status').textContent.startsWith('Saved')")
    (path,) = visit.viewer.save.rglob("rater-in a browser.nii.gz")
    saved = np.asarray(nib.load(path).dataobj)
    assert sorted(map(tuple, np.argwhere(saved)[:, :2].tolist())) == sorted({*map(tuple, mask), (10, 10)})
    assert "in a browser" in opened.page.inner_text("#names")
    path.unlink()


def test_two_pages_at_once_and_a_narrow_one(browser: Any, visit: Visit, opened: Opened) -> None:
    pages, places = [opened, Opened(browser, visit, 380, 700)], [(40, 30, 1), (38, 29, 3)]
    for page, place in zip(pages, places, strict=True):
        page.page.evaluate("place => { modiffView.moveTo(place); modiffView.state.whole = null; }", list(place))
        page.page.mouse.click(*page.on_screen(place))
    for page, place in zip(pages, places, strict=True):
        page.until("!!modiffView.state.whole")
        assert page.page.evaluate("modiffView.state.result.at") == list(place)
        assert page.wrong == []
    narrow = pages[1].page
    assert narrow.evaluate("document.documentElement.scrollWidth") <= 380
    assert narrow.evaluate("document.getElementById('image').getBoundingClientRect().height") > 250


def test_twenty_clicks_in_a_row_end_at_the_last(opened: Opened) -> None:
    opened.page.evaluate("() => { modiffView.state.whole = null; }")
    for x in range(30, 50):
        opened.page.mouse.click(*opened.on_screen((x, 30, 2)))
    opened.until("!!modiffView.state.whole && modiffView.state.result.at[0] === 49")
    assert opened.page.evaluate("modiffView.state.result.at.slice(0, 2)") == [49, 30]
    opened.page.reload()
    opened.until("!!window.modiffView")
    opened.page.evaluate("modiffView.ready")
    assert opened.page.evaluate("modiffView.state.result") is None
    opened.wrong = [text for text in opened.wrong if "Failed to fetch" not in text]
