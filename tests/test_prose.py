"""Plain English, as the field writes it: words that readers had to translate do not come back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What is not written, and what is written in its place.
TICS = {
    r"(?<!here )\bis no (?!longer\b|more\b|better\b|worse\b|such\b)": "is not a",
    r"\bmakes? no sense\b": "is out of range",
    r"\bgoes on\b": "resumes, continues",
    r"\blaws?\b": "distribution",
    r"\bshares of\b|\bshare of\b": "fraction, proportion",
    r"\bstands? beside\b": "reference, baseline",
    r"\bwhoever\b(?! made the crops)": "who",  # stores of LIDC crops say so
    r"\bfit to be\b": "valid as",
    r"\bnobody's\b": "of no rater",
    r"\b(images?|samples?|seconds?|files?|masks?|steps?|slices?|maps?|folders?|s) an? "
    r"(image|case|method|rater|slice|nodule|training|second|minute|map|patient|sample|seed)\b": "per",
    r"\bcommand goes\b": "the same command resumes",
    r"\bstands? (in|at|there)\b": "is in",
    r"\bhears?\b": "is told",
    r"\bhad better\b": "should",
    r"\bbeyond reason\b": "out of range",
    r"\b(begun|made|trained|simulated|stored|drawn) otherwise\b": "with other settings",
    r"(?<=\")another (layout|type|size|shape)\b": "unexpected",  # as an error message begins
}
NAMES = sorted(
    str(path.relative_to(ROOT))
    for pattern in (
        "*.md",
        "docs/*.md",
        "docs/notebooks/*.ipynb",
        ".github/**/*.md",
        "src/modiff/**/*.py",
        "tools/**/*.py",
        "src/modiff/**/*.yaml",
        "src/modiff/**/*.toml",
        "src/modiff/**/*.j2",
    )
    for path in ROOT.glob(pattern)
)
_CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.M | re.S)


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_written_in_the_fields_words(name: str) -> None:
    text = _CODE.sub("", (ROOT / name).read_text(encoding="utf-8"))
    found = [f"{match[0]!r}: {better}" for tic, better in TICS.items() for match in re.finditer(tic, text, re.I)]
    assert found == []


def test_the_patterns_find_what_they_are_for() -> None:
    said = ["is no side", "it makes no sense", "the same command goes on", "a law", "the share of", "s an image",
            "what stands beside it", "16 samples an image", "whoever asks", "fit to be a path", "it stands in a table",
            "who hears of it", "it had better", "beyond reason", "was begun otherwise", '"another type"']  # fmt: skip
    assert all(any(re.search(tic, text, re.I) for tic in TICS) for text in said)
    good = ["there is no rater", "is no longer", "samples per image", "0.3 s per image", "lawn"]
    assert not any(re.search(tic, text, re.I) for tic in TICS for text in good)
