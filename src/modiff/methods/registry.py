"""Methods behind one interface. `METHODS` names them, `modiff.config.MODELS` their settings; `build` makes one."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modiff.config import MODELS, check_model

if TYPE_CHECKING:
    from modiff.methods.base import Segmenter
    from modiff.types import DataSpec


@dataclass(frozen=True)
class Method:
    """A method's name, the frozen dataclass of its settings, and where its class is, which loads when first used."""

    title: str
    config_class: type[Any]
    model: str

    @property
    def model_class(self) -> Any:
        """Its Segmenter, built as `model_class(config, data)`."""
        module, name = self.model.split(":")
        return getattr(importlib.import_module(module), name)


METHODS = {
    "modiff": Method("MoDiff", MODELS["modiff"], "modiff.methods.modiff.model:MoDiff"),
    "cimd": Method("CIMD", MODELS["cimd"], "modiff.methods.pixel_diffusion:CIMD"),
    "ccdm": Method("CCDM", MODELS["ccdm"], "modiff.methods.pixel_diffusion:CCDM"),
    "prob_unet": Method("Probabilistic U-Net", MODELS["prob_unet"], "modiff.methods.prob_unet:ProbUNet"),
    "cflow": Method("cFlow", MODELS["cflow"], "modiff.methods.prob_unet:CFlow"),
    "mose": Method("MoSE", MODELS["mose"], "modiff.methods.mose:MoSE"),
}


def build(method: str, config: Any, data: DataSpec) -> Segmenter:
    """A method's network with fresh weights for such data; ConfigError for settings that are out of range."""
    check_model(config)
    return METHODS[method].model_class(config, data)
