"""Several files as the channels of one scan, in the model's order: by NAME=FILE, or by the files' own names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from modiff.errors import DataError
from modiff.io.volume import Volume

_HINT = "NAME=FILE says which is which"


def arranged(
    scan: Volume, files: Sequence[tuple[str | None, Path]], names: Sequence[str]
) -> tuple[Volume, list[Path], list[str]]:
    """The scan of these files, and the files, in the order of the model's channels `names`; and what was guessed.

    A file's name, or where none says anything its folder's, contains the name of its channel as a word. Files that say
    nothing stay in the order given, and a note says so. Raises DataError for a channel without a file, a file without a
    channel, and where names fit in several ways.
    """
    paths, given, taken = [path for _, path in files], [name for name, _ in files], dict[int, int]()
    if len(files) == 1 == len(names) == len(scan.array) and given == [None]:
        return scan, paths, []
    if len(scan.array) != len(files):  # the channels within one file
        return scan, paths, _within(scan, given, names)
    places = {name.casefold(): place for place, name in enumerate(names)}
    for place, name in enumerate(given):
        if name is not None:
            channel = places.get(name.casefold())
            if channel is None or channel in taken:
                raise DataError(
                    "is not one channel of the model", field="IMAGE", found=f"{name}=", expected=_once(names)
                )
            taken[channel] = place
    rest = [place for place, name in enumerate(given) if name is None]
    free = [channel for channel in range(len(names)) if channel not in taken]
    for texts in ([path.name for path in paths], [path.absolute().parent.name for path in paths]):
        fits = {file: {channel for channel in free if _says(texts[file], names[channel])} for file in rest}
        if any(fits.values()):
            break
    notes: list[str] = []
    if not any(fits.values()) and len(rest) == len(free) and (not taken or len(rest) == 1):
        if not taken:
            pairs = ", ".join(f"{path.name} as {name}" for path, name in zip(paths, names, strict=True))
            notes.append(f"no file's name says its channel: they are taken in the order given, {pairs}; {_HINT}")
        taken, fits = taken | dict(zip(free, rest, strict=True)), {}
    while sure := [(file, channels) for file, channels in fits.items() if len(channels) == 1]:
        file, (channel,) = sure[0]
        taken[channel] = file
        fits = {other: channels - {channel} for other, channels in fits.items() if other != file}
    if not taken and not any(fits.values()):
        return scan, paths, []  # another number of channels than the model's, who says so
    _check(taken, fits, paths, names)
    order = [taken[channel] for channel in range(len(names))]
    return replace(scan, array=scan.array[order]), [paths[file] for file in order], notes


def _within(scan: Volume, given: Sequence[str | None], names: Sequence[str]) -> list[str]:
    """What is guessed of files that hold several channels each, which nothing names."""
    if named := [name for name in given if name is not None]:
        found = f"{named[0]}= a file of several"
        raise DataError(
            "several channels in the file of one channel", field="IMAGE", found=found, expected="one channel"
        )
    if len(scan.array) != len(names) or all(re.fullmatch(r"channel \d+", name) for name in names):
        return []  # another number is refused by the model; files of several channels had no names in training either
    return [f"nothing says which channels the file holds: they are taken in its order, as {', '.join(names)}"]


def _check(taken: Mapping[int, int], left: Mapping[int, set[int]], paths: Sequence[Path], names: Sequence[str]) -> None:
    """Raises DataError unless every channel has its file. left: the files that have none, and what they may be."""
    missing = ", ".join(name for channel, name in enumerate(names) if channel not in taken)
    found = ", ".join(path.name for path in paths)
    if any(left.values()):
        raise DataError("several files or channels of one name", field=missing, found=found, hint=_HINT)
    if missing:
        raise DataError("no file for a channel of the model", field=missing, found=found, hint=_HINT)
    if left:
        raise DataError("is not a channel of the model", path=paths[min(left)], expected=_once(names), hint=_HINT)


def _once(names: Sequence[str]) -> str:
    return f"{', '.join(names)}, each once"


def _says(text: str, name: str) -> bool:
    """Whether the words of `name` follow one another in `text`."""
    words = [" ".join(["", *re.findall(r"[^\W_]+", one.casefold()), ""]) for one in (text, name)]
    return bool(words[1].strip()) and words[1] in words[0]
