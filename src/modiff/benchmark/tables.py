"""The paper's tables from a benchmark's folder: Markdown, CSV, a page, and Figure 2."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from modiff.benchmark.figure import Picture, pictures
from modiff.benchmark.state import State, read_state
from modiff.benchmark.tables_data import Tables, build_tables
from modiff.benchmark.tables_html import page
from modiff.benchmark.tables_write import as_csv, markdown
from modiff.config.evaluation import RESAMPLES
from modiff.errors import DataError, ModiffError
from modiff.io.files import replacing, write_text

FOLDER = "tables"  # of a benchmark's folder
MARKDOWN, CSV, PAGE, FIGURE = "tables.md", "tables.csv", "tables.html", "figure2"


@dataclass(frozen=True)
class WrittenTables:
    """What was written. note: why there is no figure, where there is none."""

    tables: Tables
    files: tuple[Path, ...]
    note: str | None


def write_tables(
    folder: str | Path,
    output: str | Path | None = None,
    *,
    data: str | Path | None = None,
    cases: int = 3,
    samples: int = 6,
    resamples: int = RESAMPLES,
    say: Callable[[str], None] = lambda line: None,
) -> WrittenTables:
    """Writes the tables of the runs that are done to `output`, by default DIR/tables.

    data: the store, where it has moved since. cases: of Figure 2, 0 for none. Raises DataError where the folder holds
    no benchmark, no run is finished, or results are not of the same images.
    """
    folder = Path(folder)
    target = folder / FOLDER if output is None else Path(output)
    state = read_state(folder)
    if target.exists() and not target.is_dir():
        raise DataError("is no folder", path=target, expected="a folder, or nothing yet")
    tables = build_tables(folder, state, resamples=resamples)
    drawn, note = _drawn(folder, state, data, cases, samples, say)
    names = [f"{FIGURE}-{i}.png" for i in range(1, len(drawn) + 1)]
    _remove_stale(target, len(drawn))
    for name, picture in zip(names, drawn, strict=True):
        with replacing(target / name) as beside:
            beside.write_bytes(picture.data)
    told = [(name, picture.words) for name, picture in zip(names, drawn, strict=True)]
    write_text(target / MARKDOWN, markdown(tables, pictures=told))
    write_text(target / CSV, as_csv(tables))
    write_text(target / PAGE, page(tables, pictures=[(picture.data, picture.words) for picture in drawn]))
    return WrittenTables(tables, tuple(target / name for name in (MARKDOWN, CSV, PAGE, *names)), note)


def _drawn(
    folder: Path, state: State, data: str | Path | None, cases: int, samples: int, say: Callable[[str], None]
) -> tuple[list[Picture], str | None]:
    """The pictures, or why there are none: the tables do not need the store."""
    if cases < 1:
        return [], None
    from modiff.data.loading import load
    from modiff.data.splits import fold_split

    path = Path(data or str(state.data.get("path", "")))
    if data is None and not path.is_file():
        return [], f"no Figure 2: the store {path} is not there; --data says where it is"
    images = load(path, fold_split(state.folds[0], str(state.settings["split"])))
    if images.fingerprint != state.data.get("fingerprint"):
        raise DataError(
            "is not the store of this benchmark",
            path=path,
            found=images.fingerprint[:12],
            expected=str(state.data.get("fingerprint"))[:12],
        )
    try:
        return pictures(folder, state, images, cases=cases, samples=samples, say=say), None
    except (ModiffError, RuntimeError, ValueError, OSError) as error:  # the tables are wanted even so
        words = " ".join(str(error).split())
        return [], f"no Figure 2: {type(error).__name__}: {words[:300]}"


def _remove_stale(target: Path, count: int) -> None:
    """Pictures of an earlier call that drew more cases."""
    if target.is_dir():
        for file in target.iterdir():
            match = re.fullmatch(rf"{FIGURE}-(\d+)\.png", file.name)
            if match and int(match[1]) > count:
                file.unlink()
