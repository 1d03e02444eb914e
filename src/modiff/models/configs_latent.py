"""Settings of the baselines that draw a latent vector a sample: Probabilistic U-Net, cFlow and MoSE.

Defaults follow the papers; where a released implementation differs, its way is a named option.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ProbUNetConfig:
    """Probabilistic U-Net (Kohl et al., NeurIPS 2018)."""

    channels: tuple[int, ...] = (32, 64, 128, 192, 192, 192, 192)
    """channels of each level of the U-Net, the prior and the posterior; each level halves the resolution. The widely
    used four-level version has 32, 64, 128, 192"""
    prior_channels: tuple[int, ...] = ()
    """channels of the prior's and the posterior's encoders where they differ from the U-Net's; empty: the same"""
    latent_dim: int = 6
    """dimensions of z"""
    combine_depth: int = 4
    """1×1 convolutions of f_comb, the last of which gives the logits"""
    beta: float = 1.0
    """weight of the KL divergence against the cross-entropy summed over an image's pixels"""
    reduction: Literal["image", "batch"] = "image"
    """image: batch mean of both terms; batch: a released implementation's cross-entropy summed over the whole batch
    beside the KL's batch mean, which makes β smaller by the batch size"""
    norm_penalty: float = 0.0
    """weight of the released implementations' penalty: the sum of un-squared norms of the parameters of posterior,
    prior and f_comb (1e-5 there)"""
    intensity: Literal["unit", "centred", "zscore"] = "centred"
    """what the networks see of values in [0,1]: the values, the values - 0.5, or each image's z-scores"""


@dataclass(frozen=True)
class CFlowConfig:
    """cFlow: a Probabilistic U-Net whose posterior is a normalising flow (Selvan et al., 2020)."""

    posterior: Literal["planar", "glow", "gauss"] = "planar"
    """the flow from z_0 to z_K; gauss: none, which leaves a Probabilistic U-Net with batch normalisation"""
    flow_steps: int = 4
    """K, the number of flow steps"""
    channels: tuple[int, ...] = (32, 64, 128, 256)
    """channels of each level of the U-Net, the prior and the posterior; each level halves the resolution"""
    prior_channels: tuple[int, ...] = ()
    """channels of the prior's and the posterior's encoders where they differ from the U-Net's; empty: the same"""
    latent_dim: int = 6
    """dimensions of z; even for glow, which splits it into halves"""
    combine_depth: int = 4
    """1×1 convolutions of f_comb, the last of which gives the logits"""
    beta: float = 1.0
    """weight of the KL divergence against the cross-entropy summed over an image's pixels"""
    reduction: Literal["image", "batch"] = "image"
    """image: batch mean of both terms; batch: cross-entropy summed over the whole batch"""
    norm_penalty: float = 0.0
    """weight of the released implementation's penalty: the sum of un-squared norms of the parameters of posterior,
    prior and f_comb (1e-5 there, without f_comb)"""
    kl_point: Literal["z0", "zK"] = "z0"
    """where log q_0 is taken in the flow's KL; zK: the released implementation's mistake"""
    intensity: Literal["unit", "centred", "zscore"] = "centred"
    """what the networks see of values in [0,1]: the values, the values - 0.5, or each image's z-scores"""


@dataclass(frozen=True)
class MoSEConfig:
    """Mixture of Stochastic Experts (Gao et al., ICLR 2023)."""

    channels: tuple[int, ...] = (32, 64, 128, 192, 192, 192, 192)
    """channels of each level of the U-Net; each level halves the resolution"""
    experts: int = 4
    """number of experts, each a Gaussian in the latent space"""
    latent_dim: int = 1
    """dimensions of an expert's latent space"""
    samples_per_expert: int = 4
    """samples an expert draws for an image in training"""
    combine_depth: int = 3
    """1×1 convolutions with batch normalisation between the fused features and the logits"""
    cap_start: float = 0.5
    """γ, the largest share of the raters' mass that one sample may take, at first; 1: each rater to its nearest"""
    cap_end: float = 1.0
    """γ once the training loss has stalled"""
    cap_window: int = 10_000
    """images over which the training loss is averaged before it is compared with the best so far (an epoch's)"""
    cap_patience: int = 10
    """windows in a row without improvement that are borne before γ changes"""
    beta: float = 1.0
    """weight of the KL divergence of the samples' received mass from the experts' probabilities"""
    kl_reduction: Literal["sum", "mean"] = "sum"
    """sum: the divergence itself, batch mean; mean: the released implementation's, divided by the number of samples"""
    sampling: Literal["standard", "compact"] = "standard"
    """standard: draw an expert, then z, all samples of equal weight; compact: all experts in turn, samples weighted by
    their expert's probability"""
    intensity: Literal["unit", "centred", "zscore"] = "zscore"
    """what the network sees of values in [0,1]: the values, the values - 0.5, or each image's z-scores"""
