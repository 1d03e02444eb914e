"""Metrics for segmentation where experts disagree: `functional` (one value per image) and torchmetrics classes.

Names load what they need when they are first used: reading published numbers does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = ["PROTOCOLS", "CalibrationError", "ConsensusSurface", "CrossCorrelation", "EnergyDistance", "HungarianIoU"]
__all__ += ["Insight", "MeanMapMetrics", "PresenceCalibration", "Protocol", "SampleSetMetrics", "functional"]

if TYPE_CHECKING:
    from modiff.metrics import functional
    from modiff.metrics.protocols import PROTOCOLS, Protocol
    from modiff.metrics.torchmetrics import (
        CalibrationError,
        ConsensusSurface,
        CrossCorrelation,
        EnergyDistance,
        HungarianIoU,
        Insight,
        MeanMapMetrics,
        PresenceCalibration,
        SampleSetMetrics,
    )


def __getattr__(name: str) -> Any:
    if name == "functional":
        return importlib.import_module("modiff.metrics.functional")
    if name not in __all__:
        raise AttributeError(f"module 'modiff.metrics' has no attribute '{name}'")
    module = "protocols" if name in ("PROTOCOLS", "Protocol") else "torchmetrics"
    return getattr(importlib.import_module(f"modiff.metrics.{module}"), name)
