"""Settings of the diffusion methods that MoDiff is compared with: CCDM and CIMD."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from modiff.config import PresenceConfig


@dataclass(frozen=True)
class GuidedUNetConfig:
    """The U-Net of guided diffusion (Dhariwal & Nichol 2021), which CCDM and CIMD share."""

    base: int = 128
    """channels of the first level"""
    multipliers: tuple[int, ...] = (1, 1, 2, 3, 4)
    """channels of each level as multiples of base; each level halves the resolution"""
    blocks: int = 2
    """residual blocks a level"""
    attention: tuple[int, ...] = (8,)
    """down-sampling factors, relative to the image, at which there is self-attention"""
    head_width: int = 0
    """channels of an attention head; 0: one head"""
    groups: int = 32
    """groups of each group norm, or as many of them as divide a level's channels; fewer suit a narrower network"""
    dropout: float = 0.0
    """share of dropped values in the residual blocks"""
    stem: int = 1
    """side of the patches that the first layer takes and the last layer gives; above 1 is MoDiff's stem (a control)"""


def _ccdm_unet() -> GuidedUNetConfig:
    return GuidedUNetConfig(base=32, multipliers=(1, 2, 2, 4, 5), attention=(8, 16), head_width=32)


def _implicit() -> PresenceConfig:
    return PresenceConfig(mode="implicit")


@dataclass(frozen=True)
class CCDMConfig:
    """CCDM, the conditional categorical diffusion model (Zbinden et al., ICCV 2023)."""

    unet: GuidedUNetConfig = field(default_factory=_ccdm_unet)
    steps: int = 250
    """T, the number of steps of the chain (paper §4.1)"""
    schedule: Literal["cosine", "linear", "sigmoid"] = "cosine"
    """noise schedule (paper §4.1: cosine)"""
    sampler: Literal["ancestral", "ddim"] = "ancestral"
    """ancestral: the posterior, exact on any times; ddim: the step that flips the fewest pixels (multinomial DDIM)"""
    sampling_steps: int = 250
    """number of network evaluations a sample, by default (paper: all of the chain)"""
    spacing: Literal["uniform", "trailing", "quadratic"] = "trailing"
    """how fewer steps than the chain has are spaced in time"""
    output: Literal["confidence", "majority"] = "confidence"
    """what the last step gives: the predicted probabilities, or the likeliest class as 0 and 1 (paper: majority)"""
    prompt: bool = False
    """tell the network the position relative to the prompt, as MoDiff does (a control)"""
    presence: PresenceConfig = field(default_factory=_implicit)
    """mode hurdle: MoDiff's presence head decides whether a reader marks anything (a control)"""
    map_ce_weight: float = 20.0
    """weight of the mean cross-entropy a pixel beside soft Dice in the map loss of that head"""


@dataclass(frozen=True)
class CIMDConfig:
    """CIMD, collectively intelligent medical diffusion (Rahman et al., CVPR 2023)."""

    unet: GuidedUNetConfig = field(default_factory=GuidedUNetConfig)
    steps: int = 1000
    """T, the number of steps of the chain"""
    schedule: Literal["cosine", "linear", "sigmoid"] = "linear"
    """noise schedule; linear is β from 1e-4 to 0.02, rescaled by 1000/T"""
    behaviour: Literal["paper", "released"] = "paper"
    """paper: the prior and posterior networks are trained; released: they keep their initial weights, as in the
    released code, whose optimiser never sees them"""
    latent: int = 6
    """dimensions of z"""
    latent_widths: tuple[int, ...] = (32, 64, 128, 192)
    """channels of the levels of the prior and posterior networks"""
    vlb_weight: float = 1.0
    """weight of the variational bound, in bits a pixel, which trains the variance"""
    kl_weight: float = 1e-3
    """λ, weight of KL(posterior ‖ prior)"""
    sampler: Literal["ancestral", "ddim"] = "ancestral"
    """ancestral: with the learned variance; ddim: without noise, for few steps"""
    sampling_steps: int = 1000
    """number of network evaluations a sample, by default (paper: all of the chain)"""
    spacing: Literal["uniform", "trailing", "quadratic"] = "trailing"
    """how fewer steps than the chain has are spaced in time"""
    prompt: bool = False
    """tell the network the position relative to the prompt, as MoDiff does (a control)"""
    presence: PresenceConfig = field(default_factory=_implicit)
    """mode hurdle: MoDiff's presence head decides whether a reader marks anything (a control)"""
    map_ce_weight: float = 20.0
    """weight of the mean cross-entropy a pixel beside soft Dice in the map loss of that head"""
