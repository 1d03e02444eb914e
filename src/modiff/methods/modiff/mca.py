"""MCA, the morphology-based cross-attention network (paper §3.1, Eq. 1 to 5)."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modiff.config.methods import LDFConfig, MCAConfig
from modiff.devices import constant
from modiff.methods.modiff.ldf import make_ldf
from modiff.nn.layers import attend, full_precision, zero

IMAGE_PATCH, LABEL_PATCH = 2, 4


@constant
def sinusoidal_positions(height: int, width: int, dim: int, device: torch.device) -> Tensor:
    """(H·W, dim) fixed 2-D sinusoids: half of the channels for the row, half for the column."""
    quarter = dim // 4
    frequency = torch.exp(torch.arange(quarter, device=device) * (-math.log(10000.0) / max(quarter, 1)))

    def encode(count: int) -> Tensor:
        angle = torch.arange(count, device=device)[:, None] * frequency
        return torch.cat([angle.sin(), angle.cos()], 1)

    rows = encode(height)[:, None].expand(height, width, -1)
    columns = encode(width)[None].expand(height, width, -1)
    return F.pad(torch.cat([rows, columns], -1).flatten(0, 1), (0, dim - 4 * quarter))


def tokens(x: Tensor, patch: int) -> Tensor:
    """(B,C,H,W) -> (B, H/p · W/p, C·p²): non-overlapping patches as tokens."""
    return F.pixel_unshuffle(x, patch).flatten(2).transpose(1, 2)


def linear_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Q(KᵀV)/(N_k·√d): Eq. 2 without softmax, so the order of the products is free and the cost linear in tokens."""
    return query @ ((key.transpose(-2, -1) @ value) / (key.shape[-2] * math.sqrt(key.shape[-1])))


def attention_spread_loss(query: Tensor, key: Tensor) -> Tensor:
    """(B,) L_MCA = 1 − H(m)/log N_k, m_j the mean over queries of |score_ij| / Σ_j |score_ij|: no patch draws all."""
    with full_precision(query):
        score = (query.float() @ key.float().transpose(-2, -1)).abs()
    drawn = (score / score.sum(-1, keepdim=True).clamp_min(1e-12)).mean(-2)
    entropy = -(drawn * torch.log(drawn.clamp_min(1e-12))).sum(-1)
    return 1 - entropy / math.log(key.shape[-2])


def covering_stride(stride: int, width: int) -> int:
    """The smallest step ≥ `stride` through row-major tokens that is coprime to the grid's width: every `width` steps
    meet every column once, where a divisor of the width would look at the same few columns of all rows."""
    return next(step for step in itertools.count(stride) if math.gcd(step, width) == 1)


class SelfAttention(nn.Module):
    """Multi-head self-attention with softmax and scale 1/√(d·h) (text after Eq. 5), d the width of a head."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, count, channels = x.shape
        q, k, v = self.qkv(x).view(batch, count, 3, self.heads, channels // self.heads).permute(2, 0, 3, 1, 4)
        y = attend(q, k, v, scale=1 / math.sqrt(channels))
        return self.out(y.transpose(1, 2).reshape(batch, count, channels))


class ImageFeatures(NamedTuple):
    """What MCA computes once per image: f(B) (B,D,H/2,W/2); f^B(Squeeze(LDF(B))) (B,2D,H/4,W/4); Q (B,Nq,D), if it is
    the image's."""

    embedding: Tensor
    squeezed: Tensor
    query: Tensor | None = None


class MCA(nn.Module):
    """Turns the image B and the noisy label map x_t into the condition g^B(O^B) of Eq. 5.

    Three LDFs with their own weights: on x_t (keys and values), on B, and on y^B. Eq. 1 takes the
    queries from the image's 2×2 patches; Eq. 2, which contradicts it, from the label's 4×4 patches: S' then has a value
    for each of these, which is joined to the four image patches that it covers.
    """

    stride = 2 * LABEL_PATCH  # the sides of images are multiples of this

    def __init__(self, channels: int, classes: int, config: MCAConfig, ldf: LDFConfig) -> None:
        super().__init__()
        self.config, self.ldf_config = config, ldf
        dim = config.dim
        width = 2 * dim if config.enabled else dim
        self.embed = nn.Linear(channels * IMAGE_PATCH**2, dim)
        self.ldf_image = make_ldf(channels, ldf)
        self.ldf_features = make_ldf(width, ldf)
        self.squeeze = nn.Linear(channels * LABEL_PATCH**2, width)
        if config.enabled:
            self.ldf_label = make_ldf(classes, ldf)
            of_image = config.roles == "image_queries"
            self.query = nn.Linear(channels * IMAGE_PATCH**2 if of_image else classes * LABEL_PATCH**2, dim)
            self.key = nn.Linear(classes * LABEL_PATCH**2, dim)
            self.value = nn.Linear(classes * LABEL_PATCH**2, dim)
            self.score_norm = nn.LayerNorm(dim)
            self.token_norm = nn.LayerNorm(width)
            self.attention = SelfAttention(width, config.heads)
        if ldf.enabled:
            self.edge_head = nn.Conv2d(width, 1, 1)
        self.map_back = zero(nn.Conv2d(width, config.condition_channels * LABEL_PATCH**2, 1))

    def encode(self, image: Tensor) -> ImageFeatures:
        """What depends on the image (B,C,H,W) only; H and W are multiples of 4."""
        height, width = image.shape[-2] // IMAGE_PATCH, image.shape[-1] // IMAGE_PATCH
        patches = tokens(image, IMAGE_PATCH)
        embedding = self.embed(patches).transpose(1, 2).unflatten(2, (height, width))
        squeezed = self.squeeze(tokens(self.ldf_image(image), LABEL_PATCH)).transpose(1, 2)
        squeezed = squeezed.unflatten(2, (height // 2, width // 2))
        if not self.config.enabled or self.config.roles == "label_queries":
            return ImageFeatures(embedding, squeezed)
        position = sinusoidal_positions(height, width, self.config.dim, image.device)
        return ImageFeatures(embedding, squeezed, self.query(patches) + position)

    def forward(self, image: ImageFeatures, x_t: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """g^B(O^B) (B,c,H,W), and the features that the auxiliary losses look at: "edges", "query", "key"."""
        features: dict[str, Tensor] = {}
        if self.config.enabled:
            y, features["query"], features["key"] = self._attend(image, x_t)
        else:
            y = image.embedding
        y = self.ldf_features(y)
        if self.ldf_config.enabled:
            features["edges"] = self.edge_head(y)
        pooled = F.avg_pool2d(y, 2)
        if self.config.enabled:
            context = self.attention(self.token_norm(pooled.flatten(2).transpose(1, 2)))
            pooled = context.transpose(1, 2).unflatten(2, pooled.shape[-2:])
        out = self.map_back(image.squeezed + pooled)  # Eq. 4, then g^B
        return F.pixel_shuffle(out, LABEL_PATCH), features

    def _attend(self, image: ImageFeatures, x_t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """y^B = [f(B) ‖ S'] (Eq. 3), the queries that L_MCA looks at, and the keys."""
        patches = tokens(self.ldf_label(x_t), LABEL_PATCH)
        grid = (x_t.shape[-2] // LABEL_PATCH, x_t.shape[-1] // LABEL_PATCH)
        position = sinusoidal_positions(*grid, self.config.dim, x_t.device)
        key, value = self.key(patches) + position, self.value(patches)
        if image.query is None:
            query = self.query(patches) + position
        else:
            query, grid = image.query, (image.embedding.shape[-2], image.embedding.shape[-1])
        score = self.score_norm(linear_attention(query, key, value)).transpose(1, 2).unflatten(2, grid)
        if image.query is None:
            score = F.interpolate(score, scale_factor=LABEL_PATCH // IMAGE_PATCH, mode="nearest")
        looked_at = query[:, :: covering_stride(self.config.query_stride, grid[1])]
        return torch.cat([image.embedding, score.to(image.embedding.dtype)], 1), looked_at, key
