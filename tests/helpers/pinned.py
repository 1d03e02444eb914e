"""Snapshots: values that are stored as JSON in `tests/golden/snapshots` and compared with what the product gives now.

On the machine that stored a snapshot (the same processor and library versions, `here`) every number must be equal to
ten digits and every digest `bits` to the bit. Elsewhere, where other kernels round differently, `bits` is passed over
and numbers may differ by the snapshot's own tolerance. Text, whole numbers, names and shapes are equal everywhere.

MODIFF_UPDATE_SNAPSHOTS=1 in the environment rewrites the snapshots that a run of the tests makes; read their diff.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).parents[1] / "golden" / "snapshots"
UPDATE = bool(os.environ.get("MODIFF_UPDATE_SNAPSHOTS"))
DIGITS, EXACT = 10, 1e-9
SMALLEST = 1e-7  # what is below it in both is rounding
# Where, when and how long; and sentences, whose words may be improved.
VOLATILE = {"path", "command", "commit", "date", "versions", "device", "notes", "card"}
VOLATILE |= {"seconds", "seconds_per_image", "images_per_second", "checksum", "csv_sha256"}  # of times and places too


@cache
def here() -> dict[str, str]:
    """The machine and the libraries that decide how floating-point numbers are rounded."""
    names = [line for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "processor": names[0].partition(":")[2].strip() if names else platform.processor(),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def check(name: str, value: Any, *, rel: float = 1e-4, near: float = SMALLEST, trained: bool = False) -> None:
    """Fails with the first places in which `value` differs from the snapshot `name`. rel, near: relative and absolute
    tolerance of numbers on other machines. trained: from weights that were random at first; torch 2.11 draws others by
    a seed than 2.13. Under another release than the snapshot's the test is skipped."""
    path = FOLDER / f"{name}.json"
    found = json.loads(json.dumps(value, allow_nan=True))
    if UPDATE:
        FOLDER.mkdir(parents=True, exist_ok=True)
        path.write_text(_dumps({"machine": here(), "value": _rounded(found)}) + "\n")
        return
    stored = json.loads(path.read_text())
    if trained and (made := _release(stored["machine"]["torch"])) != _release(torch.__version__):
        pytest.skip(f"made with torch {made}, which may draw other weights from a seed than {torch.__version__}")
    home = stored["machine"] == here()
    tolerance = (EXACT, SMALLEST) if home else (rel, near)
    close = partial(math.isclose, rel_tol=tolerance[0], abs_tol=tolerance[1])
    wrong = list(_differences(stored["value"], found, "", close, home))
    assert not wrong, f"{name}: {len(wrong)} differences, first " + "; ".join(wrong[:5])


def _release(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _rounded(value: Any) -> Any:
    """Floats to DIGITS digits."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _dumps(value: Any, depth: int = 3) -> str:
    """JSON in which the outer levels have a line for each item: short, with a diff that can be read."""
    if not depth or not value or not isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if isinstance(value, list):
        return "[\n" + ",\n".join(_dumps(item, depth - 1) for item in value) + "\n]"
    return "{\n" + ",\n".join(f"{json.dumps(key)}: {_dumps(item, depth - 1)}" for key, item in value.items()) + "\n}"


def _differences(old: Any, new: Any, where: str, close: Callable[[float, float], bool], home: bool) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            if key not in old or key not in new:
                yield f"{where}/{key} is {'new' if key in new else 'gone'}"
            elif home or key != "bits":
                yield from _differences(old[key], new[key], f"{where}/{key}", close, home)
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            yield f"{where} has {len(new)} items, had {len(old)}"
        for place, (a, b) in enumerate(zip(old, new, strict=False)):
            yield from _differences(a, b, f"{where}[{place}]", close, home)
    elif isinstance(old, float) and isinstance(new, (int, float)) and not isinstance(new, bool):
        both_undefined = math.isnan(old) and math.isnan(new)
        if not both_undefined and not close(old, new):
            yield f"{where} is {new!r}, was {old!r}"
    elif type(old) is not type(new) or old != new:
        yield f"{where} is {new!r}, was {old!r}"


def sha256(*arrays: np.ndarray) -> str:
    """Of the types, shapes and values of arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def exactly(array: np.ndarray) -> dict[str, Any]:
    """Content that is the same on every machine."""
    return {"shape": list(array.shape), "type": str(array.dtype), "content": sha256(array)}


def nearly(array: np.ndarray) -> dict[str, Any]:
    """Content that other machines round differently. ramp: a mean in which every place has its own weight, so that
    a flip or another order shows."""
    values = np.asarray(array, np.float64).ravel()
    return {
        "shape": list(array.shape),
        "type": str(array.dtype),
        "mean": float(values.mean()),
        "std": float(values.std()),
        "ramp": float((values * np.linspace(0, 1, values.size)).mean()),
        "bits": sha256(array),
    }


def lasting(value: Any) -> Any:
    """JSON without what changes from run to run (VOLATILE), at any depth."""
    if isinstance(value, Mapping):
        return {key: lasting(item) for key, item in value.items() if key not in VOLATILE}
    return [lasting(item) for item in value] if isinstance(value, list) else value


def table(path: Path, without: tuple[str, ...] = ()) -> dict[str, list[Any]]:
    """A CSV file's columns by name; what reads as a number is one."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: [number(row[name]) for row in rows] for name in rows[0] if name not in without}


def number(text: str) -> Any:
    """Text as the number that it is, if it is one."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text
