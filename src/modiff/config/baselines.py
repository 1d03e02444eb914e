"""Settings of the methods that MoDiff is compared with.

Defaults follow the papers; where a released implementation differs, its way is a named option.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from modiff.config.fields import COUNT, FRACTION, NOT_NEGATIVE, Range, number
from modiff.config.modiff import PresenceConfig


@dataclass(frozen=True)
class PlainUNetConfig:
    """A deterministic U-Net on the raters' majority vote: what one answer scores."""

    channels: tuple[int, ...] = number((32, 64, 128, 192), COUNT, "channels")
    """channels of each level; each level halves the resolution"""
    intensity: Literal["unit", "centred", "zscore"] = "zscore"
    """what the network sees of values in [0,1]: the values, the values - 0.5, or each image's z-scores"""


@dataclass(frozen=True)
class ProbUNetConfig:
    """Probabilistic U-Net (Kohl et al., NeurIPS 2018)."""

    channels: tuple[int, ...] = number((32, 64, 128, 192, 192, 192, 192), COUNT, "channels")
    """channels of each level of the U-Net, the prior and the posterior; each level halves the resolution. The widely
    used four-level version has 32, 64, 128, 192"""
    prior_channels: tuple[int, ...] = number((), Range(low=1, empty=True), "channels")
    """channels of the prior's and the posterior's encoders where they differ from the U-Net's; empty: the same"""
    latent_dim: int = number(6, COUNT)
    """dimensions of z"""
    combine_depth: int = number(4, Range(low=2))
    """1×1 convolutions of f_comb, the last of which gives the logits"""
    beta: float = number(1.0, NOT_NEGATIVE)
    """weight of the KL divergence against the cross-entropy summed over an image's pixels"""
    reduction: Literal["image", "batch"] = "image"
    """image: batch mean of both terms; batch: a released implementation's cross-entropy summed over the whole batch
    beside the KL's batch mean, which makes β smaller by the batch size"""
    norm_penalty: float = number(0.0, NOT_NEGATIVE)
    """weight of the released implementations' penalty: the sum of un-squared norms of the parameters of posterior,
    prior and f_comb (1e-5 there)"""
    intensity: Literal["unit", "centred", "zscore"] = "centred"
    """what the networks see of values in [0,1]: the values, the values - 0.5, or each image's z-scores"""


@dataclass(frozen=True)
class CFlowConfig(ProbUNetConfig):
    """cFlow: a Probabilistic U-Net whose posterior is a normalising flow (Selvan et al., 2020)."""

    channels: tuple[int, ...] = number((32, 64, 128, 256), COUNT, "channels")
    """channels of each level of the U-Net, the prior and the posterior; each level halves the resolution"""
    latent_dim: int = number(6, COUNT)
    """dimensions of z; even for glow, which splits it into halves"""
    norm_penalty: float = number(0.0, NOT_NEGATIVE)
    """weight of the released implementation's penalty: the sum of un-squared norms of the parameters of posterior,
    prior and f_comb (1e-5 there, without f_comb)"""
    posterior: Literal["planar", "glow", "gauss"] = "planar"
    """the flow from z_0 to z_K; gauss: none, which leaves a Probabilistic U-Net with batch normalisation"""
    flow_steps: int = number(4, COUNT)
    """K, the number of flow steps"""
    kl_point: Literal["z0", "zK"] = "z0"
    """where log q_0 is taken in the flow's KL; zK: the released implementation's mistake"""


@dataclass(frozen=True)
class MoSEConfig:
    """Mixture of Stochastic Experts (Gao et al., ICLR 2023)."""

    channels: tuple[int, ...] = number((32, 64, 128, 192, 192, 192, 192), COUNT, "channels")
    """channels of each level of the U-Net; each level halves the resolution"""
    experts: int = number(4, COUNT)
    """number of experts, each a Gaussian in the latent space"""
    latent_dim: int = number(1, COUNT)
    """dimensions of an expert's latent space"""
    samples_per_expert: int = number(4, COUNT)
    """samples an expert draws for an image in training"""
    combine_depth: int = number(3, Range(low=2))
    """1×1 convolutions with batch normalisation between the fused features and the logits"""
    cap_start: float = number(0.5, Range(low=0, high=1, above=True))
    """γ, the largest fraction of the raters' mass that one sample may take, at first; 1: each rater to its nearest"""
    cap_end: float = number(1.0, Range(low=0, high=1, above=True))
    """γ once the training loss has stalled"""
    cap_window: int = number(10_000, COUNT, "images")
    """images over which the training loss is averaged before it is compared with the best so far (an epoch's)"""
    cap_patience: int = number(10, NOT_NEGATIVE)
    """windows in a row without improvement that are borne before γ changes"""
    beta: float = number(1.0, NOT_NEGATIVE)
    """weight of the KL divergence of the samples' received mass from the experts' probabilities"""
    kl_reduction: Literal["sum", "mean"] = "sum"
    """sum: the divergence itself, batch mean; mean: the released implementation's, divided by the number of samples"""
    sampling: Literal["standard", "compact"] = "standard"
    """standard: draw an expert, then z, all samples of equal weight; compact: all experts in turn, samples weighted by
    their expert's probability"""
    intensity: Literal["unit", "centred", "zscore"] = "zscore"
    """what the network sees of values in [0,1]: the values, the values - 0.5, or each image's z-scores"""


@dataclass(frozen=True)
class GuidedUNetConfig:
    """The U-Net of guided diffusion (Dhariwal & Nichol 2021), which CCDM and CIMD share."""

    base: int = number(128, COUNT, "channels")
    """channels of the first level"""
    multipliers: tuple[int, ...] = number((1, 1, 2, 3, 4), COUNT)
    """channels of each level as multiples of base; each level halves the resolution"""
    blocks: int = number(2, COUNT)
    """residual blocks per level"""
    attention: tuple[int, ...] = number((8,), Range(low=1, empty=True))
    """down-sampling factors, relative to the image, at which there is self-attention"""
    head_width: int = number(0, NOT_NEGATIVE, "channels")
    """channels of an attention head; 0: one head"""
    groups: int = number(32, COUNT)
    """groups of each group norm, or as many of them as divide a level's channels; fewer suit a narrower network"""
    dropout: float = number(0.0, FRACTION)
    """fraction of dropped values in the residual blocks"""
    stem: int = number(1, COUNT, "pixels")
    """side of the patches that the first layer takes and the last layer gives; above 1 is MoDiff's stem (a control)"""


_CCDM_UNET = partial(GuidedUNetConfig, base=32, multipliers=(1, 2, 2, 4, 5), attention=(8, 16), head_width=32)
_IMPLICIT = partial(PresenceConfig, mode="implicit")


@dataclass(frozen=True)
class CCDMConfig:
    """CCDM, the conditional categorical diffusion model (Zbinden et al., ICCV 2023)."""

    unet: GuidedUNetConfig = field(default_factory=_CCDM_UNET)
    steps: int = number(250, COUNT)
    """T, the number of steps of the chain (paper §4.1)"""
    schedule: Literal["cosine", "linear", "sigmoid"] = "cosine"
    """noise schedule (paper §4.1: cosine)"""
    sampler: Literal["ancestral", "ddim"] = "ancestral"
    """ancestral: the posterior, exact on any times; ddim: the step that flips the fewest pixels (multinomial DDIM)"""
    sampling_steps: int = number(250, COUNT)
    """number of network evaluations per sample, by default (paper: all of the chain)"""
    spacing: Literal["uniform", "trailing", "quadratic"] = "trailing"
    """how fewer steps than the chain has are spaced in time"""
    output: Literal["confidence", "majority"] = "confidence"
    """what the last step gives: the predicted probabilities, or the likeliest class as 0 and 1 (paper: majority)"""
    prompt: bool = False
    """tell the network the position relative to the prompt, as MoDiff does (a control)"""
    presence: PresenceConfig = field(default_factory=_IMPLICIT)
    """mode hurdle: MoDiff's presence head decides whether a rater marks anything (a control)"""
    map_ce_weight: float = number(20.0, NOT_NEGATIVE)
    """weight of the mean cross-entropy per pixel beside soft Dice in the map loss of that head"""


@dataclass(frozen=True)
class CIMDConfig:
    """CIMD, collectively intelligent medical diffusion (Rahman et al., CVPR 2023)."""

    unet: GuidedUNetConfig = field(default_factory=GuidedUNetConfig)
    steps: int = number(1000, COUNT)
    """T, the number of steps of the chain"""
    schedule: Literal["cosine", "linear", "sigmoid"] = "linear"
    """noise schedule; linear is β from 1e-4 to 0.02, rescaled by 1000/T"""
    behaviour: Literal["paper", "released"] = "paper"
    """paper: the prior and posterior networks are trained; released: they keep their initial weights, as in the
    released code, whose optimiser never sees them"""
    latent: int = number(6, COUNT)
    """dimensions of z"""
    latent_widths: tuple[int, ...] = number((32, 64, 128, 192), COUNT, "channels")
    """channels of the levels of the prior and posterior networks"""
    vlb_weight: float = number(1.0, NOT_NEGATIVE)
    """weight of the variational bound, in bits per pixel, which trains the variance"""
    kl_weight: float = number(1e-3, NOT_NEGATIVE)
    """λ, weight of KL(posterior ‖ prior)"""
    sampler: Literal["ancestral", "ddim"] = "ancestral"
    """ancestral: with the learned variance; ddim: without noise, for few steps"""
    sampling_steps: int = number(1000, COUNT)
    """number of network evaluations per sample, by default (paper: all of the chain)"""
    spacing: Literal["uniform", "trailing", "quadratic"] = "trailing"
    """how fewer steps than the chain has are spaced in time"""
    prompt: bool = False
    """tell the network the position relative to the prompt, as MoDiff does (a control)"""
    presence: PresenceConfig = field(default_factory=_IMPLICIT)
    """mode hurdle: MoDiff's presence head decides whether a rater marks anything (a control)"""
    map_ce_weight: float = number(20.0, NOT_NEGATIVE)
    """weight of the mean cross-entropy per pixel beside soft Dice in the map loss of that head"""
