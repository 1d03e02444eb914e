"""How a result was made: what is needed to believe it and to make it again."""

from __future__ import annotations

import datetime
import hashlib
import json
import platform
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modiff.config.fields import to_dict
from modiff.config.run import RunConfig

VERSIONS = ("torch", "numpy", "scipy", "lightning")


def made(**more: Any) -> dict[str, Any]:
    """How and when a result was made. more: of what, on which device; it comes before the date."""
    return {"command": command_line(), "commit": commit(), "versions": versions(), **more, "date": now()}


def command_line() -> str:
    """The command as it was typed, or the script that called."""
    program = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"
    if program == "__main__.py":
        program = "modiff"
    return shlex.join([program, *sys.argv[1:]])


def commit() -> str | None:
    """The commit of the source that runs, "-dirty" where files differ from it; None outside a checkout."""
    here = Path(__file__).resolve()

    def git(*words: str) -> str:
        command = ["git", "-C", str(here.parent), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        # An installed copy inside somebody else's checkout must not claim that one's commit.
        git("ls-files", "--error-unmatch", here.name)
        return git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*") or None
    except (OSError, subprocess.SubprocessError):
        return None


def versions() -> dict[str, str]:
    """Versions of this package and of what computes."""
    from modiff._version import __version__

    found = {"modiff": __version__, "python": platform.python_version()}
    return found | {name: metadata.version(name) for name in VERSIONS}


def model_fingerprint(model: nn.Module, config: Any = None) -> str:
    """A hash of weights, method and the model's own settings: equal for models that draw the same samples.

    config: a RunConfig, of which how and where it was trained is left out, or plain data.
    """
    own = {"method": config.method, "model": to_dict(config.model)} if isinstance(config, RunConfig) else config
    digest = hashlib.sha256(type(model).__qualname__.encode())
    digest.update(json.dumps(own, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"\x1f{name}\x1f{tuple(tensor.shape)}\x1f{tensor.dtype}\x1f".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
