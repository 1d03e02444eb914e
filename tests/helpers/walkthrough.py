"""Runs the shell commands and Python blocks that a page shows, in order, as a reader would."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modiff.cli import main

_BLOCKS = re.compile(r"^```(python)?\n(.*?)^```", re.M | re.S)


def walk(page: Path, *, less: Mapping[str, str] = {}, python: bool = True) -> list[str]:
    """Runs every `modiff …` line and, if `python`, every Python block of `page`; returns the verbs that ran.

    less: by verb, options that are added so that a test takes seconds.
    """
    names: dict[str, Any] = {"__name__": "example"}
    verbs = []
    for language, body in _BLOCKS.findall(page.read_text(encoding="utf-8")):
        if language and python:
            exec(compile(body, str(page), "exec", dont_inherit=True), names)
        if language:
            continue
        for line in body.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["modiff"]:
                verbs.append(words[1])
                assert main([*words[1:], *shlex.split(less.get(words[1], ""))]) == 0, line
    return verbs
