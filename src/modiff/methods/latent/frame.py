"""The latent-variable methods' frame: image features once, and a decoder for each latent vector."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from modiff.config.methods import MoSEConfig, ProbUNetConfig
from modiff.config.run import check_model
from modiff.errors import ConfigError
from modiff.methods.base import Segmenter, at_once
from modiff.nn.windows import Size, pad_to_multiple
from modiff.types import Batch, DataSpec, Samples


@dataclass
class LatentEncoding:
    """What depends on the images only: features (B,F,h,w) that the decoder takes, and what z is drawn by."""

    size: Size  # of the images as given
    features: Tensor
    latent: Any  # the prior over z (Probabilistic U-Net, cFlow); the experts' probabilities (B,E) (MoSE)


class LatentSegmenter(Segmenter):
    """Draws latent vectors and decodes each in one pass. It tells no rater from another and does not use a prompt."""

    config: ProbUNetConfig | MoSEConfig

    def __init__(self, config: ProbUNetConfig | MoSEConfig, data: DataSpec) -> None:
        super().__init__(data)
        check_model(config)
        self.config = config

    @abstractmethod
    def _draw_latents(self, latent: Any, seeds: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """z (B,N,D) by LatentEncoding.latent for seeds (B,N); `weights` and `part` of `Samples` where they differ."""

    @abstractmethod
    def _decode(self, encoding: LatentEncoding, z: Tensor) -> Tensor:
        """(B,N,K,H,W) probabilities of the foreground classes for latents z (B,N,D)."""

    def _prepare(self, image: Tensor) -> Tensor:
        """Images in [0,1] as the networks see them, padded to the stride."""
        return pad_to_multiple(normalise(image, self.config.intensity), self.stride, edge=True)

    def _draw(self, encoding: LatentEncoding, each: Tensor, *_: Any) -> Samples:
        z, more = self._draw_latents(encoding.latent, each)
        maps = torch.cat([self._decode(encoding, part) for part in z.split(at_once(encoding.features), 1)], 1)
        return replace(Samples.uniform(maps.contiguous()), **more)


def normalise(image: Tensor, how: Literal["unit", "centred", "zscore"]) -> Tensor:
    """(B,C,H,W) in [0,1] as the networks see it; z-scores per image and channel, zero where the image is flat."""
    if how == "unit":
        return image
    if how == "centred":
        return image - 0.5
    mean, spread = image.mean((2, 3), keepdim=True), image.std((2, 3), keepdim=True, correction=0)
    return (image - mean) / spread.clamp_min(1e-3)


def check_batch(batch: Batch, *, training: bool) -> None:
    """ConfigError where batch normalisation would have a single value to normalise."""
    if training and len(batch) < 2:
        what = "batch normalisation needs more images at once"
        raise ConfigError(what, field="training.batch_size", found=1, expected="at least 2")
