"""What the latent-variable methods share: image features once, then a decoder for each latent vector."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor

from modiff.config import check_model
from modiff.config.baselines import CFlowConfig, MoSEConfig, ProbUNetConfig
from modiff.errors import ConfigError
from modiff.methods.base import Segmenter, at_once
from modiff.nn.windows import pad_to_multiple
from modiff.rng import sample_seeds
from modiff.types import Batch, DataSpec, RaterChoice, Samples


@dataclass
class LatentEncoding:
    """What depends on the images only: features (B,F,h,w) that the decoder takes."""

    size: tuple[int, int]  # H, W of the images as given
    features: Tensor


E = TypeVar("E", bound=LatentEncoding)


class LatentSegmenter(Segmenter, Generic[E]):
    """Draws latent vectors and decodes each in one pass. It tells no rater from another and does not use a prompt."""

    config: ProbUNetConfig | CFlowConfig | MoSEConfig

    def __init__(self, config: ProbUNetConfig | CFlowConfig | MoSEConfig, data: DataSpec) -> None:
        super().__init__(data)
        check_model(config)
        self.config = config

    @abstractmethod
    def _draw_latents(self, encoding: E, seeds: Tensor) -> tuple[Tensor, Tensor | None]:
        """z (B,N,D) for seeds (B,N), and the samples' weights (B,N), None where they are equal."""

    @abstractmethod
    def _decode(self, encoding: E, z: Tensor) -> Tensor:
        """(B,N,K,H,W) probabilities of the foreground classes for latents z (B,N,D)."""

    def _prepare(self, image: Tensor) -> Tensor:
        """Images in [0,1] as the networks see them, padded to the stride."""
        return pad_to_multiple(normalise(image, self.config.intensity), self.stride, edge=True)

    @torch.no_grad()
    def sample(
        self,
        image_or_encoding: Tensor | E,
        n: int,
        *,
        seeds: Tensor,
        steps: int | None = None,
        raters: RaterChoice = "single",
        stratified: bool = False,
        origin: Tensor | None = None,
    ) -> Samples:
        """n hypotheses per image. ConfigError for raters but "single" and for more steps than one."""
        self.check_request(steps=steps, raters=raters, stratified=stratified)
        encoding = self.encode(image_or_encoding) if isinstance(image_or_encoding, Tensor) else image_or_encoding
        z, weights = self._draw_latents(encoding, sample_seeds(seeds, n))
        maps = torch.cat([self._decode(encoding, part) for part in z.split(at_once(encoding.features), 1)], 1)
        samples = Samples.uniform(maps.contiguous())
        if weights is not None:
            samples.weights = weights
        return samples


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
        raise ConfigError(
            "batch normalisation needs more images at once", field="training.batch_size", found=1, expected="at least 2"
        )
