"""modiff: medical image segmentation where experts disagree.

The public names load what they need when they are first used, so that `import modiff` is instant.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from modiff._version import __version__

_PUBLIC = {
    "ModiffError": "modiff.errors",
    "Store": "modiff.data.store",
    "Batch": "modiff.types",
    "Predictor": "modiff.prediction.predict",
    "load_model": "modiff.methods.run_folder",
    "metrics": "modiff.metrics",
}
__all__ = ["Batch", "ModiffError", "Predictor", "Store", "__version__", "load_model", "metrics"]

if TYPE_CHECKING:
    from modiff import metrics
    from modiff.data.store import Store
    from modiff.errors import ModiffError
    from modiff.methods.run_folder import load_model
    from modiff.prediction.predict import Predictor
    from modiff.types import Batch


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'modiff' has no attribute '{name}'")
    module = importlib.import_module(_PUBLIC[name])
    return module if _PUBLIC[name] == f"modiff.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
