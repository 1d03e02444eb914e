"""Methods behind one interface. `METHODS` names them, `modiff.config.run.MODELS` their settings; `build` makes one."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, NamedTuple

from modiff.config.run import check_model

if TYPE_CHECKING:
    from modiff.methods.base import Segmenter
    from modiff.types import DataSpec


class Method(NamedTuple):
    """A method's name, and where its class is, which loads when first used."""

    title: str
    model: str


METHODS = {
    "modiff": Method("MoDiff", "modiff.methods.modiff.model:MoDiff"),
    "cimd": Method("CIMD", "modiff.methods.pixel.cimd:CIMD"),
    "ccdm": Method("CCDM", "modiff.methods.pixel.ccdm:CCDM"),
    "prob_unet": Method("Probabilistic U-Net", "modiff.methods.latent.prob_unet:ProbUNet"),
    "cflow": Method("cFlow", "modiff.methods.latent.cflow:CFlow"),
    "mose": Method("MoSE", "modiff.methods.latent.mose:MoSE"),
    "ssn": Method("SSN", "modiff.methods.ssn:SSN"),
    "medfm": Method("MedFM", "modiff.methods.pixel.medfm:MedFM"),
    "unet": Method("U-Net on the majority vote", "modiff.methods.unet:UNet"),
}


def build(method: str, config: Any, data: DataSpec, *, most: int | None = None) -> Segmenter:
    """A method's network with fresh weights for such data.

    most: parameters, where fewer than the usual bound are expected. Raises ConfigError for settings out of range, and
    for a network that is too large, before memory is taken for it.
    """
    from modiff.methods.base import at_most, check_stride

    check_model(config)
    with at_most(most):
        made: Segmenter = resolve_name(METHODS[method].model)(config, data)
    check_stride(made)
    return made
