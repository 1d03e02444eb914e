"""Which files of a folder are images and which are whose masks: by patterns, and a CSV for what names cannot say."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from itertools import combinations
from os.path import commonprefix
from pathlib import Path

from modiff.data.importers.sources import walk
from modiff.errors import ConfigError, DataError
from modiff.io.files import files_in, natural
from modiff.io.image import JPEG, SUFFIXES
from modiff.io.text import is_litter, one_spelling, read_table

IMAGES = ("{case}/image", "{case}/image-{channel}")
MASKS = ("{case}/rater-{rater}",)
_ALIKE = 0.75  # how much of two names is the same, from which they may be one
_MOST = 100  # raters whose names are compared
_TOLD = ("patient", "split", "readers")  # columns of a table of cases
_GROUPS = {name: f"(?P<{name}>[^/]+?)" for name in ("patient", "slice", "rater", "channel")}
_GROUPS["case"] = "(?P<case>.+?)"
# A file's path with and without suffix -> what is in its placeholders.
Match = Callable[[str, str], dict[str, str] | None]


@dataclass
class Item:
    """One case's files. channels: name -> image; the name is empty where the one image's file holds all channels."""

    case: str
    patient: str
    channels: dict[str, Path] = field(default_factory=dict)
    masks: dict[str, Path] = field(default_factory=dict)
    split: str | None = None
    readers: tuple[str, ...] | None = None  # who read it, where a table says

    @property
    def files(self) -> list[Path]:
        """All images and masks."""
        return [*self.channels.values(), *self.masks.values()]


def two_names(items: Sequence[Item]) -> Iterator[str]:
    """Of two raters with nearly the same name who never have a mask of the same case, a line: are they one person?

    Names that differ in their numbers only are of two: rater-1 and rater-2 may share the cases between them.
    """
    cases: dict[str, set[str]] = {}
    for item in items:
        for name in item.masks:
            cases.setdefault(name, set()).add(item.case)
    if len(cases) > _MOST:
        return  # no list of persons, and comparing names takes long
    for one, other in combinations(sorted(cases), 2):
        first, second = (re.sub(r"\d+", "", name).casefold() for name in (one, other))
        numbered = first == second and one.casefold() != other.casefold()
        alike = not numbered and SequenceMatcher(a=first, b=second).ratio() >= _ALIKE
        if alike and not cases[one] & cases[other]:
            rare = min(one, other, key=lambda name: len(cases[name]))
            such = min(cases[rare], key=natural)
            yield f"{one} and {other} never have a mask of the same case ({rare}: {such}): one person, misspelt?"


def pattern(text: str, option: str) -> Match:
    """A path below the root with {case}, {patient}, {slice}, {rater}, {channel} and `*`.

    {case} may span folders, the others and `*` do not; `**/` is any folders, or none. Without a known suffix at its end
    any known suffix fits.
    """
    text = unicodedata.normalize("NFC", text)
    parts = re.split(r"\{(\w+)\}", text)  # plain text and names in turn
    names = parts[1::2]
    for name in names:
        if name not in _GROUPS or names.count(name) > 1:
            expected = "{case}, {patient}, {slice}, {rater} or {channel}, each once"
            raise ConfigError("is not a placeholder", field=option, found="{" + name + "}", expected=expected)
    if not {"case", "patient", "slice"} & set(names):
        raise ConfigError("names no case", field=option, found=text, expected="{case} in it")
    plain = (re.escape(part).replace(r"\*\*/", "(?:.*/)?") for part in parts[::2])
    parts[::2] = [part.replace(r"\*", "[^/]*") for part in plain]
    parts[1::2] = [_GROUPS[name] for name in names]
    regex, whole = re.compile("".join(parts)), text.lower().endswith((*SUFFIXES, *JPEG))

    def match(name: str, stem: str) -> dict[str, str] | None:
        found = regex.fullmatch(unicodedata.normalize("NFC", name if whole else stem))
        return found and {key: one_spelling(part) for key, part in found.groupdict().items()}

    return match


def find(
    root: Path, images: Sequence[str], masks: Sequence[str], suffixes: tuple[str, ...], hint: str
) -> tuple[list[Item], list[str]]:
    """The cases below `root` in order of their names, and the images and volumes there that fit no pattern.

    A folder that fits a pattern of images or masks is a DICOM series. Raises DataError, with the hint, where nothing is
    found.
    """
    # What fits both is a mask: {channel} takes anything, a pattern of masks is the narrower one.
    patterns = [*(pattern(text, "--mask") for text in masks), *(pattern(text, "--image") for text in images)]
    if any("{rater}" not in text for text in masks):
        raise ConfigError("names no rater", field="--mask", found=masks, expected="{rater} in it")
    items: dict[str, Item] = {}
    strange = []
    for name, stem in _candidates(root, patterns, suffixes):
        matches = [(found, place < len(masks)) for place, match in enumerate(patterns) if (found := match(name, stem))]
        if not matches:
            strange += [] if (root / name).is_dir() else [name]
            continue
        found, is_mask = matches[0]
        parts = [found[key] for key in ("patient", "case", "slice") if key in found]
        case = "/".join(parts)
        item = items.setdefault(case, Item(case, parts[0].split("/")[0]))
        table, key = (item.masks, found["rater"]) if is_mask else (item.channels, found.get("channel", ""))
        if key in table:
            what = f"mask of rater {key}" if is_mask else "image"
            raise DataError(f"a second {what} of case {case}", path=root / name, found=table[key].name)
        table[key] = root / name
    if not items:
        seen = ", ".join(strange[:3]) or "no image at all"
        wanted, options = " or ".join((*images, *masks)), likely(strange, suffixes)
        hint += f" Perhaps {options} (for `modiff check`, after --)" if options else ""
        raise DataError("no file fits the patterns", path=root, found=seen, expected=wanted, hint=hint)
    return sorted(items.values(), key=lambda item: natural(item.case)), strange


def likely(names: Sequence[str], suffixes: tuple[str, ...]) -> str | None:
    """Options that fit all these paths: an image per folder, and masks whose names begin alike; None where none do."""
    stems = [name[: -max(len(end) for end in suffixes if name.lower().endswith(end))] for name in names]
    parts = [stem.rpartition("/")[::2] for stem in stems]
    own = sorted({name for folder, name in parts if folder == parts[0][0]})
    begins = {name: commonprefix([other for other in own if other != name]) for name in own}  # noqa: RUF071  not of paths
    # The image is the file without which the names of the others begin most alike.
    image = max(own, key=lambda name: len(begins[name]), default="")
    begin = begins.get(image, "")
    if not all(name.removeprefix(begin).isdigit() for name in own if name != image):
        begin = re.sub(r"[^\W_]+$", "", begin)  # raters' names may begin alike too
    if len(own) < 3 or not begin or "{" in begin + image or (image.startswith(begin) and image != begin):
        return None
    if not all(folder and (name == image or (name.startswith(begin) and name != begin)) for folder, name in parts):
        return None
    return f"--image '{{case}}/{image}' --mask '{{case}}/{begin}{{rater}}'"


def _candidates(root: Path, patterns: list[Match], suffixes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Relative path, and the same without suffix, of what may be an image: files by suffix, folders by pattern."""
    for folder, folders, files in walk(root, lambda name: name.lower().endswith(suffixes)):
        for name in folders.copy():
            path = (folder / name).relative_to(root).as_posix()
            if any(match(path, path) for match in patterns) and any(
                not is_litter(entry.name) for entry in files_in(folder / name)
            ):
                folders.remove(name)
                yield path, path
        for file in files:
            path = file.relative_to(root).as_posix()
            yield path, path[: -len(next(suffix for suffix in suffixes if path.lower().endswith(suffix)))]


def apply_table(items: Sequence[Item], path: Path) -> None:
    """Puts patient, split and readers from a CSV into the items; raises DataError for cases on one side only.

    Columns: case, and any of patient, split, readers (names separated by semicolons; their masks may be absent, which
    is an empty mask; who is not named did not read the case). Other columns are ignored.
    """
    known, told = {item.case: item for item in items}, set[str]()
    rows = read_table(path, ["case"], _TOLD, kind="table of cases")
    if rows and not set(_TOLD) & rows[0][1].keys():
        raise DataError("unexpected columns", path=path, found="case", expected=f"case, and any of {', '.join(_TOLD)}")
    for place, row in rows:
        if (case := row["case"]) in told or case not in known:
            what = "a case occurs twice" if case in told else "a case that the folder does not have"
            raise DataError(what, path=path, field=place, found=case or "no name")
        told.add(case)
        item = known[case]
        item.patient, item.split = row.get("patient") or item.patient, row.get("split") or None
        if "readers" in row:
            item.readers = tuple(name for part in row["readers"].split(";") if (name := part.strip()))
            if not item.readers:
                raise DataError("a case that nobody read", path=path, field=place, found=case)
    if missing := [case for case in known if case not in told]:
        raise DataError("cases that the table does not have", path=path, found=", ".join(missing[:3]))
    without = [item.case for item in items if item.split is None]
    if 0 < len(without) < len(items):
        raise DataError("some cases have a split and others none", path=path, field="split", found=without[0])


def two_splits(items: Iterable[Item], path: Path | str) -> Iterator[DataError]:
    """An error for each case whose patient is in another split than before."""
    places: dict[str, str | None] = {}
    for item in items:
        if (before := places.setdefault(item.patient, item.split)) != item.split:
            found = f"patient {item.patient} in {before} and {item.split}"
            yield DataError("a patient in two splits", path=path, field=item.case, found=found)
