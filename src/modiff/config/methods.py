"""Settings of the methods: MoDiff, and those that it is compared with.

An ambiguity of a paper is a named option; MoDiff's equations are its paper's. Defaults of the others follow their
papers; where a released implementation differs, its way is a named option.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from modiff.config.fields import COUNT, FRACTION, NOT_NEGATIVE, POSITIVE, Range, number

# Networks are made by these numbers, also those of a stranger's run folder: none is larger than any use of it.
_STEPS = Range(low=1, high=10_000)
_WIDTH = Range(low=1, high=1024)
_WIDTHS = Range(low=1, high=1024, most=10)  # of levels
_MULTIPLIERS = Range(low=1, high=64, most=10)
_BLOCKS = Range(low=1, high=32)
_HEADS = Range(low=1, high=256)
PATCH = Range(low=1, high=16)
_PIXELS = Range(low=0, high=65_535)
_FACTORS = Range(low=1, high=8192, most=16, empty=True)
_LATENT = Range(low=1, high=64)
_DEPTH = Range(low=2, high=16)
PRESENCE_HIDDEN = 128  # width of the presence head's hidden layer
PRESENCE_DROPOUT = 1.5, 0.5  # of its dense layers: so many times `presence.dropout`, at most the second


@dataclass(frozen=True)
class DiffusionConfig:
    """The forward process, what the network predicts, and how samples are drawn."""

    kind: Literal["gaussian", "categorical"] = "gaussian"
    """gaussian: x0 = 2p - 1 diffuses; categorical: CCDM's uniform kernel with a soft x0 (ablation)"""
    steps: int = number(250, _STEPS)
    """T, the number of steps of the discrete chain (paper §4.1)"""
    schedule: Literal["cosine", "linear", "sigmoid"] = "cosine"
    """noise schedule; linear is the usual one rescaled by 1000/T"""
    input_scale: float = number(1.0, POSITIVE)
    """b: multiplies the signal-to-noise ratio by b² (arXiv 2504.05977); below 1 there is more noise at every time"""
    prediction: Literal["eps", "v", "x0"] = "eps"
    """what the network predicts (paper: the noise, eps)"""
    loss: Literal["mse", "ce"] = "mse"
    """ce: the output is P(x0 = 1), trained by cross-entropy and soft Dice; needs prediction x0"""
    ce_weight: float = number(20.0, NOT_NEGATIVE)
    """weight of the mean cross-entropy per pixel beside soft Dice: in the loss ce and in the presence head's
    map loss"""
    dice_weight: float = number(1.0, NOT_NEGATIVE)
    """weight of the soft Dice loss, in the same two"""
    sampler: Literal["ancestral", "ddim", "dpm++"] = "ancestral"
    """how samples are drawn"""
    sampling_steps: int = number(250, _STEPS)
    """number of network evaluations per sample, by default"""
    spacing: Literal["uniform", "trailing", "quadratic"] = "uniform"
    """how the steps are spaced in time"""
    time: Literal["continuous", "discrete"] = "continuous"
    """times drawn in training: anywhere in (0, 1], or k/T"""


@dataclass(frozen=True)
class LDFConfig:
    """Learnable discrete frequency filter (paper §3.2, Eq. 6 and 7)."""

    enabled: bool = True
    """false: the identity in its place (ablation "MCA only")"""
    filter: Literal["ldf", "canny", "gaussian", "roberts", "prewitt", "sobel"] = "ldf"
    """the filter in the LDF's three places: ldf, or a fixed edge filter with the same losses (paper Table 4)"""
    kernels: tuple[int, ...] = number((3, 5, 7), Range(low=1, high=127, odd=True, most=16))
    """sizes of the depthwise convolutions in the frequency plane"""
    order: Literal["parallel", "sequential"] = "parallel"
    """the convolutions are summed, or follow one another"""
    transform: Literal["fft", "matrix"] = "fft"
    """fast Fourier transform, or the same by matrix products (export, no complex numbers)"""
    target: Literal["image", "label", "both"] = "both"
    """morphological gradient that L_LDF compares with (Eq. 7): of the image, of the mean label map, half each"""
    weight: float = number(0.5, NOT_NEGATIVE)
    """λ1 of Eq. 8"""


@dataclass(frozen=True)
class MCAConfig:
    """Morphology-based cross-attention network (paper §3.1, Eq. 1 to 5)."""

    enabled: bool = True
    """false: y^B = f(B) without attention (ablation "LDF only"); without the LDF too: the image alone"""
    roles: Literal["image_queries", "label_queries"] = "image_queries"
    """image_queries: queries from the image, keys and values from the label (Eq. 1); label_queries: all three from the
    label (Eq. 2), so that the image enters by f(B) alone"""
    dim: int = number(64, _WIDTH, "channels")
    """D, width of queries, keys, values and of f(B)"""
    heads: int = number(4, _HEADS)
    """heads of the self-attention in Eq. 4"""
    condition_channels: int = number(8, _WIDTH, "channels")
    """channels of g^B(O^B) at full resolution (Eq. 5)"""
    query_stride: int = number(8, Range(low=1, high=65_535))
    """every how many queries L_MCA looks at; made coprime to the grid's width, so that all columns are met"""
    weight: float = number(0.5, NOT_NEGATIVE)
    """λ2 of Eq. 8"""


@dataclass(frozen=True)
class PresenceConfig:
    """Whether raters mark anything at all, and whose labels form the map (paper abstract and §1)."""

    mode: Literal["hurdle", "implicit"] = "hurdle"
    """hurdle: a head predicts how many raters mark something; implicit: the denoiser draws empty masks itself"""
    base: int = number(24, _WIDTH, "channels")
    """channels of the head's first level"""
    multipliers: tuple[int, ...] = number((1, 2, 4, 6), _MULTIPLIERS)
    """channels of its levels, as multiples of base; each level halves the resolution"""
    stem: int = number(2, PATCH, "pixels")
    """side of the patches that its first layer takes"""
    dropout: float = number(0.2, FRACTION)
    """fraction of dropped channels in its blocks"""
    window: int = number(64, _PIXELS, "pixels")
    """side in pixels of the square around the prompt that it looks at; 0, or data without a prompt: the whole image"""
    jitter: int = number(3, _PIXELS, "pixels")
    """largest random shift of that square in training, pixels"""
    intensity_augmentation: float = number(1.0, NOT_NEGATIVE)
    """strength of random gamma, contrast, brightness and noise on what the head sees; 0 for none"""
    map_weight: float = number(1.0, NOT_NEGATIVE)
    """weight of the auxiliary loss: the raters' mean label map, predicted densely"""
    weight: float = number(1.0, NOT_NEGATIVE)
    """weight of the cross-entropy of the number of raters who mark something"""
    single_share: float = number(0.5, FRACTION)
    """fraction of training draws with one marker; the others take a uniform non-empty subset of the markers"""
    weight_by_markers: bool = True
    """weight an image's one-marker draws by its number of markers: the distribution of a rater who marks something"""
    null_share: float = number(0.1, FRACTION)
    """fraction of training draws in which the subset is hidden from the denoiser"""
    dihedral_average: bool = True
    """average the head's answer over the eight flips and turns of the image when sampling"""


@dataclass(frozen=True)
class UNetConfig:
    """The denoiser's backbone."""

    base: int = number(32, _WIDTH, "channels")
    """channels of the first level"""
    multipliers: tuple[int, ...] = number((1, 2, 2, 4, 5), _MULTIPLIERS)
    """channels of each level as multiples of base; each level halves the resolution"""
    blocks: int = number(2, _BLOCKS)
    """residual blocks per level"""
    attention: tuple[int, ...] = number((8, 16), _FACTORS)
    """down-sampling factors, relative to the image, at which there is self-attention"""
    heads: int = number(4, _HEADS)
    """attention heads"""
    dropout: float = number(0.0, FRACTION)
    """fraction of dropped channels in the residual blocks"""
    stem: int = number(1, PATCH, "pixels")
    """side of the patches that the first layer takes and the last layer gives (space to depth)"""


@dataclass(frozen=True)
class MoDiffConfig:
    """MoDiff (MICCAI 2025)."""

    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    ldf: LDFConfig = field(default_factory=LDFConfig)
    mca: MCAConfig = field(default_factory=MCAConfig)
    presence: PresenceConfig = field(default_factory=PresenceConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    prompt: bool = True
    """tell the denoiser the position relative to the prompt, where the data has one"""
    window: int = number(0, _PIXELS, "pixels")
    """side in pixels of the square around the prompt that is denoised when sampling, everything outside being
    background; an image whose predicted label map reaches the square's border is denoised whole. 0: always whole"""
    crop: int = number(0, _PIXELS, "pixels")
    """side in pixels of the random squares that the denoiser is trained on; 0: the whole image"""
    crop_jitter: int = number(8, _PIXELS, "pixels")
    """largest shift of a training square from the prompt, or from a marked pixel"""
    crop_anywhere: float = number(0.1, FRACTION)
    """fraction of training squares that lie anywhere in the image; the others lie around the prompt. Without a prompt
    half of the others lie around a random marked pixel, and half anywhere too"""


@dataclass(frozen=True)
class PlainUNetConfig:
    """A deterministic U-Net on the raters' majority vote: what one answer scores."""

    channels: tuple[int, ...] = number((32, 64, 128, 192), _WIDTHS, "channels")
    """channels of each level; each level halves the resolution"""
    intensity: Literal["unit", "centred", "zscore"] = "zscore"
    """what the network sees of values in [0,1]: the values, the values - 0.5, or each image's z-scores"""


@dataclass(frozen=True)
class ProbUNetConfig:
    """Probabilistic U-Net (Kohl et al., NeurIPS 2018)."""

    channels: tuple[int, ...] = number((32, 64, 128, 192, 192, 192, 192), _WIDTHS, "channels")
    """channels of each level of the U-Net, the prior and the posterior; each level halves the resolution. The widely
    used four-level version has 32, 64, 128, 192"""
    prior_channels: tuple[int, ...] = number((), Range(low=1, high=1024, most=10, empty=True), "channels")
    """channels of the prior's and the posterior's encoders where they differ from the U-Net's; empty: the same"""
    latent_dim: int = number(6, _LATENT)
    """dimensions of z"""
    combine_depth: int = number(4, _DEPTH)
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

    channels: tuple[int, ...] = number((32, 64, 128, 256), _WIDTHS, "channels")
    """channels of each level of the U-Net, the prior and the posterior; each level halves the resolution"""
    latent_dim: int = number(6, _LATENT)
    """dimensions of z; even for glow, which splits it into halves"""
    norm_penalty: float = number(0.0, NOT_NEGATIVE)
    """weight of the released implementation's penalty: the sum of un-squared norms of the parameters of posterior,
    prior and f_comb (1e-5 there, without f_comb)"""
    posterior: Literal["planar", "glow", "gauss"] = "planar"
    """the flow from z_0 to z_K; gauss: none, which leaves a Probabilistic U-Net with batch normalisation"""
    flow_steps: int = number(4, _BLOCKS)
    """K, the number of flow steps"""
    kl_point: Literal["z0", "zK"] = "z0"
    """where log q_0 is taken in the flow's KL; zK: the released implementation's mistake"""


@dataclass(frozen=True)
class MoSEConfig:
    """Mixture of Stochastic Experts (Gao et al., ICLR 2023)."""

    channels: tuple[int, ...] = number((32, 64, 128, 192, 192, 192, 192), _WIDTHS, "channels")
    """channels of each level of the U-Net; each level halves the resolution"""
    experts: int = number(4, _HEADS)
    """number of experts, each a Gaussian in the latent space"""
    latent_dim: int = number(1, _LATENT)
    """dimensions of an expert's latent space"""
    samples_per_expert: int = number(4, _HEADS)
    """samples an expert draws for an image in training"""
    combine_depth: int = number(3, _DEPTH)
    """1×1 convolutions with batch normalisation between the fused features and the logits"""
    cap_start: float = number(0.5, Range(low=0, high=1, above=True))
    """γ, the largest fraction of the raters' mass that one sample may take, at first; 1: each rater to its nearest"""
    cap_end: float = number(1.0, Range(low=0, high=1, above=True))
    """γ once the training loss has stalled"""
    cap_window: int = number(10_000, COUNT, "images")
    """images over which the training loss is averaged before it is compared with the best so far (an epoch's)"""
    cap_patience: int = number(10, NOT_NEGATIVE)
    """windows in a row without improvement before γ changes"""
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
class SSNConfig:
    """Stochastic segmentation network (Monteiro et al., NeurIPS 2020)."""

    channels: tuple[int, ...] = number((32, 64, 128, 192, 192, 192, 192), COUNT, "channels")
    """channels of each level of the U-Net; each level halves the resolution"""
    rank: int = number(10, COUNT)
    """rank of the covariance's factor (paper: 10)"""
    draws: int = number(20, Range(low=2))
    """draws per image by which the likelihood is estimated in training, an even number (paper: 20)"""
    mean_steps: int = number(5000, NOT_NEGATIVE, "steps")
    """first steps of training, in which the mean is trained alone, by its cross-entropy"""
    intensity: Literal["unit", "centred", "zscore"] = "zscore"
    """what the network sees of values in [0,1]: the values, the values - 0.5, or each image's z-scores"""


@dataclass(frozen=True)
class GuidedUNetConfig:
    """The U-Net of guided diffusion (Dhariwal & Nichol 2021), which CCDM, CIMD and MedFM share."""

    base: int = number(128, _WIDTH, "channels")
    """channels of the first level"""
    multipliers: tuple[int, ...] = number((1, 1, 2, 3, 4), _MULTIPLIERS)
    """channels of each level as multiples of base; each level halves the resolution"""
    blocks: int = number(2, _BLOCKS)
    """residual blocks per level"""
    attention: tuple[int, ...] = number((8,), _FACTORS)
    """down-sampling factors, relative to the image, at which there is self-attention"""
    head_width: int = number(0, Range(low=0, high=65_536), "channels")
    """channels of an attention head; 0: one head"""
    groups: int = number(32, _WIDTH)
    """groups of each group norm, or as many of them as divide a level's channels; fewer suit a narrower network"""
    dropout: float = number(0.0, FRACTION)
    """fraction of dropped values in the residual blocks"""
    stem: int = number(1, PATCH, "pixels")
    """side of the patches that the first layer takes and the last layer gives; above 1 is MoDiff's stem (a control)"""


_CCDM_UNET = partial(GuidedUNetConfig, base=32, multipliers=(1, 2, 2, 4, 5), attention=(8, 16), head_width=32)
_IMPLICIT = partial(PresenceConfig, mode="implicit")


@dataclass(frozen=True)
class CCDMConfig:
    """CCDM, the conditional categorical diffusion model (Zbinden et al., ICCV 2023)."""

    unet: GuidedUNetConfig = field(default_factory=_CCDM_UNET)
    steps: int = number(250, _STEPS)
    """T, the number of steps of the chain (paper §4.1)"""
    schedule: Literal["cosine", "linear", "sigmoid"] = "cosine"
    """noise schedule (paper §4.1: cosine)"""
    sampler: Literal["ancestral", "ddim"] = "ancestral"
    """ancestral: the posterior, exact on any times; ddim: the step that flips the fewest pixels (multinomial DDIM)"""
    sampling_steps: int = number(250, _STEPS)
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
class MedFMConfig:
    """MedFM, flow matching of a rater's mask (Nguyen et al., UNSURE 2025)."""

    unet: GuidedUNetConfig = field(default_factory=_CCDM_UNET)
    sampling_steps: int = number(10, COUNT)
    """number of network evaluations per sample, by default: steps of Euler's method"""
    drop: float = number(0.1, FRACTION)
    """fraction of training labels that the network learns without seeing the image, for guidance"""
    guidance: float = number(0.0, NOT_NEGATIVE)
    """w of classifier-free guidance: (1 + w) times the velocity given the image, minus w times that without. Above 0
    it takes two evaluations per step and makes samples alike"""
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
    steps: int = number(1000, Range(low=2, high=_STEPS.high))
    """T, the number of steps of the chain"""
    schedule: Literal["cosine", "linear", "sigmoid"] = "linear"
    """noise schedule; linear is β from 1e-4 to 0.02, rescaled by 1000/T"""
    behaviour: Literal["paper", "released"] = "paper"
    """paper: the prior and posterior networks are trained; released: they keep their initial weights, as in the
    released code, whose optimiser never sees them"""
    latent: int = number(6, _LATENT)
    """dimensions of z"""
    latent_widths: tuple[int, ...] = number((32, 64, 128, 192), _WIDTHS, "channels")
    """channels of the levels of the prior and posterior networks"""
    vlb_weight: float = number(1.0, NOT_NEGATIVE)
    """weight of the variational bound, in bits per pixel, which trains the variance"""
    kl_weight: float = number(1e-3, NOT_NEGATIVE)
    """λ, weight of KL(posterior ‖ prior)"""
    sampler: Literal["ancestral", "ddim"] = "ancestral"
    """ancestral: with the learned variance; ddim: without noise, for few steps"""
    sampling_steps: int = number(1000, _STEPS)
    """number of network evaluations per sample, by default (paper: all of the chain)"""
    spacing: Literal["uniform", "trailing", "quadratic"] = "trailing"
    """how fewer steps than the chain has are spaced in time"""
    prompt: bool = False
    """tell the network the position relative to the prompt, as MoDiff does (a control)"""
    presence: PresenceConfig = field(default_factory=_IMPLICIT)
    """mode hurdle: MoDiff's presence head decides whether a rater marks anything (a control)"""
    map_ce_weight: float = number(20.0, NOT_NEGATIVE)
    """weight of the mean cross-entropy per pixel beside soft Dice in the map loss of that head"""
