"""Methods behind one interface. `METHODS` names them; `build` makes one from its configuration."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modiff.models.base import Segmenter


@dataclass(frozen=True)
class Method:
    """Where a method's configuration and its class are; both load when first used."""

    title: str
    config: str
    model: str

    @property
    def config_class(self) -> Any:
        """The frozen dataclass of its settings."""
        return _load(self.config)

    @property
    def model_class(self) -> Any:
        """Its Segmenter, built as `model_class(config, **data)`."""
        return _load(self.model)


def _load(address: str) -> Any:
    module, name = address.split(":")
    return getattr(importlib.import_module(module), name)


METHODS = {
    "modiff": Method("MoDiff", "modiff.config:MoDiffConfig", "modiff.models.modiff.model:MoDiff"),
    "cimd": Method("CIMD", "modiff.models.configs_diffusion:CIMDConfig", "modiff.models.cimd:CIMD"),
    "ccdm": Method("CCDM", "modiff.models.configs_diffusion:CCDMConfig", "modiff.models.ccdm:CCDM"),
    "prob_unet": Method(
        "Probabilistic U-Net", "modiff.models.configs_latent:ProbUNetConfig", "modiff.models.prob_unet:ProbUNet"
    ),
    "cflow": Method("cFlow", "modiff.models.configs_latent:CFlowConfig", "modiff.models.cflow:CFlow"),
    "mose": Method("MoSE", "modiff.models.configs_latent:MoSEConfig", "modiff.models.mose:MoSE"),
}


def build(
    method: str,
    config: Any,
    *,
    channels: int,
    classes: int,
    raters: int,
    exchangeable: bool = True,
    prompt: bool = False,
) -> Segmenter:
    """A method's network with fresh weights for data with C channels, K foreground classes and R raters."""
    return METHODS[method].model_class(
        config, channels=channels, classes=classes, raters=raters, exchangeable=exchangeable, prompt=prompt
    )
