"""Models on a model hub: `hf:OWNER/NAME` or `hf:OWNER/NAME@REVISION`, fetched when it is first asked for.

Four files of known names are fetched, into the hub's own cache, and read as those of any folder: nothing of them is
code. HF_ENDPOINT names another server than huggingface.co, HF_HUB_OFFLINE=1 asks none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from modiff.errors import CheckpointError

PREFIX = "hf:"
_NAME = re.compile(r"hf:(?P<repo_id>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?", re.ASCII)


def fetched(name: str, files: Sequence[str]) -> Path:
    """The folder of a hub's model with these files; CheckpointError where it cannot be had."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise CheckpointError("is not a hub's model", path=name, expected="hf:OWNER/NAME or hf:OWNER/NAME@REVISION")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        hint = "Install it: pip install 'modiff[hub]'"
        raise CheckpointError("needs huggingface_hub", path=name, hint=hint) from error
    repository, revision, server = match["repo_id"], match["revision"], os.environ.get("HF_ENDPOINT")
    try:
        found = snapshot_download(repository, revision=revision, allow_patterns=[*files], endpoint=server)
    except Exception as error:  # of the network, the server or its answer: many kinds, none of which is modiff's
        reason = " ".join(str(error).split()) or type(error).__name__
        hint = "Check the name, the network and, for a private model, HF_TOKEN"
        raise CheckpointError("cannot be fetched", path=name, found=reason, hint=hint) from error
    return Path(found)
