"""A U-Net that gives one answer: the segmentation most raters would draw."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Generator, Tensor, nn

from modiff.config.methods import PlainUNetConfig
from modiff.config.run import check_model
from modiff.methods.base import Segmenter
from modiff.methods.latent.frame import check_batch, normalise
from modiff.metrics.functional import majority_vote
from modiff.nn.layers import channels_last
from modiff.nn.losses import cross_entropy, mean_of_known, probabilities, soft_dice_loss
from modiff.nn.unet import ConvUNet
from modiff.nn.windows import pad_to_multiple
from modiff.types import Batch, DataSpec, Samples


class Encoding(NamedTuple):
    """The answer itself: probabilities (B,K,H,W)."""

    maps: Tensor


class UNet(Segmenter):
    """A deterministic U-Net trained on the raters' majority vote; all its samples are the same.

    What one answer scores where several are plausible, without knowledge of the test image's raters: unlike the
    majority vote of the tables, which is made of them, this is a method. Loss: cross-entropy + soft Dice, as is usual
    (Isensee et al., Nature Methods 2021), on the network of the Probabilistic U-Net with batch normalisation.
    """

    def __init__(self, config: PlainUNetConfig, data: DataSpec) -> None:
        super().__init__(data)
        check_model(config)
        self.config = config
        self.unet = ConvUNet(self.channels, config.channels, norm="block")
        self.head = nn.Conv2d(config.channels[0], self.classes, 1)
        self.stride = self.unet.stride
        channels_last(self)

    def training_loss(self, batch: Batch, *, rng: Generator) -> dict[str, Tensor]:
        """Cross-entropy + Dice loss against the majority vote of those who read; images that nobody read do not count.

        Raises ConfigError for a batch of one image.
        """
        check_batch(batch, training=self.training)
        label, known = majority_vote(batch.masks, batch.read).float(), batch.read.any(1)
        logits = self._logits(batch.image)
        entropy = mean_of_known(cross_entropy(logits, label), known)
        dice = mean_of_known(soft_dice_loss(probabilities(logits), label), known)
        return {"loss": entropy + dice, "cross_entropy": entropy.detach(), "dice": dice.detach()}

    def encode(self, image: Tensor) -> Encoding:
        """(B,C,H,W) -> the probabilities that every sample has."""
        return Encoding(probabilities(self._logits(image)))

    def _draw(self, encoding: Encoding, each: Tensor, *_: Any) -> Samples:
        return Samples.uniform(encoding.maps[:, None].repeat(1, each.shape[1], 1, 1, 1))

    def _logits(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        padded = pad_to_multiple(normalise(image, self.config.intensity), self.stride, edge=True)
        logits: Tensor = self.head(self.unet(padded)[1])
        return logits[..., :height, :width].float()
