"""What an evaluation measures: the settings of `modiff.config.evaluation` with the names of metrics and protocols."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from modiff.config.evaluation import EvaluationConfig
from modiff.config.fields import to_dict
from modiff.errors import ConfigError
from modiff.metrics.protocols import PROTOCOLS
from modiff.metrics.registry import chosen


@dataclass(frozen=True)
class EvaluationSettings(EvaluationConfig):
    """`EvaluationConfig` in one order, each value once; ConfigError for an unknown metric or protocol."""

    def __post_init__(self) -> None:
        super().__post_init__()
        in_order = {
            "metrics": chosen(self.metrics),
            "ns": sorted(set(self.ns)),
            "thresholds": sorted(set(self.thresholds)),
            "steps": dict.fromkeys(self.steps),
            "protocols": dict.fromkeys(self.protocols),
        }
        for name, values in in_order.items():
            object.__setattr__(self, name, tuple(values))
        for protocol in self.protocols:
            if protocol not in PROTOCOLS:
                raise ConfigError("no such protocol", field="protocol", found=protocol, expected=" or ".join(PROTOCOLS))

    def thresholds_of(self, protocol: str) -> tuple[float, ...]:
        """The protocol's own threshold and those asked for."""
        return tuple(sorted({PROTOCOLS[protocol].threshold, *self.thresholds}))

    def name(self, split: str) -> str:
        """The stem of the result's files: the split, and whatever else decides which samples of which images count.

        n, protocols, thresholds, metrics and the control only say what is computed from those samples, and every record
        names them; they are not in the file's name.
        """
        parts = [split]
        if self.steps != (None,):
            parts.append("steps" + "-".join("default" if step is None else str(step) for step in self.steps))
        if self.limit is not None:
            parts.append(f"limit{self.limit}")
        if self.seed != 0:
            parts.append(f"seed{self.seed}")
        return "-".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it, thresholds by protocol."""
        plain = to_dict(self)
        thresholds = {protocol: list(self.thresholds_of(protocol)) for protocol in self.protocols}
        return {"n": plain.pop("ns")} | plain | {"thresholds": thresholds}
