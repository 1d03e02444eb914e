"""MoDiff's presence hurdle beside another method: whether a reader marks anything is decided before any denoising.

A control: what the idea is worth without the rest of MoDiff.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modiff.config import DiffusionConfig, PresenceConfig
from modiff.data.augment import dihedral
from modiff.data.batch import Batch
from modiff.models.modiff import losses, presence, windows
from modiff.randomness import fold, uniform

_MARKERS = 1  # the stream of a sample's seed that MoDiff draws presence from


class PresenceHurdle(nn.Module):
    """The presence head of `modiff.models.modiff.presence` with its training terms and its draw."""

    def __init__(
        self, channels: int, classes: int, raters: int, config: PresenceConfig, *, exchangeable: bool, prompt: bool
    ) -> None:
        super().__init__()
        self.config, self.exchangeable, self.prompt = config, exchangeable, prompt
        self.head = presence.PresenceHead(channels, classes, raters, config, exchangeable=exchangeable, prompt=prompt)

    @property
    def stride(self) -> int:
        """Image sides must be multiples of this."""
        return self.head.stride

    def _size(self, image: Tensor) -> tuple[int, int]:
        side = self.config.window if self.prompt else 0
        return windows.window_size(side, image.shape[-2], image.shape[-1], self.stride)

    def losses(
        self, image: Tensor, masks: Tensor, batch: Batch, centre: Tensor, *, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """ "presence": cross-entropy of the number of markers; "map": of the mean label map, with soft Dice.

        image: (B,C,H,W) padded to the stride; masks: (B,R,K,H,W) float, 0 where the rater did not read.
        """
        size, shape = self._size(image), (len(batch), *image.shape[-2:])
        corner = windows.random_corner(centre, size, shape, jitter=self.config.jitter, anywhere=0.0, rng=rng)
        corner = corner.to(image.device)
        seen = windows.cut(image, corner, size)
        answer = self.head(presence.intensity_noise(seen, self.config.intensity_augmentation, rng), centre - corner)
        label = masks.sum(1) / batch.read.sum(1).clamp_min(1)[:, None, None, None]
        label = windows.cut(label, corner, size)
        known = batch.read.any(1).float()
        known = known / known.mean().clamp_min(1e-6)
        log_p = presence.log_likelihood(answer.logits, batch.marked, batch.read, exchangeable=self.exchangeable)
        dense = DiffusionConfig.ce_weight * losses.cross_entropy(answer.label_map, label)
        dense = dense + losses.soft_dice_loss(losses.probabilities(answer.label_map), label)
        return {"presence": -losses.weighted_mean(log_p, known), "map": losses.weighted_mean(dense, known)}

    def law(self, image: Tensor, centre: Tensor) -> Tensor:
        """(B,R+1) law of the number of markers where raters are exchangeable, else (B,R) each rater's probability."""
        size = self._size(image)
        corner = windows.window_corner(centre, size, *image.shape[-2:])
        seen, middle = windows.cut(image, corner, size), centre - corner
        # A flip leaves the prompt where it is only in the middle of a square.
        offset = middle - (torch.tensor(size, device=middle.device) - 1) / 2
        turns = 8 if self.config.dihedral_average and size[0] == size[1] and bool((offset.abs() < 1e-3).all()) else 1
        views = torch.cat([dihedral(seen, turn) for turn in range(turns)])
        logits = self.head(views, middle.repeat(turns, 1)).logits
        laws = logits.softmax(1) if self.exchangeable else torch.sigmoid(logits)
        return laws.unflatten(0, (turns, image.shape[0])).mean(0)

    def probability(self, law: Tensor) -> Tensor:
        """(B,) π, that a reader drawn at random marks anything."""
        return presence.marking_probability(law, exchangeable=self.exchangeable).mean(1)

    def draw(self, law: Tensor, seeds: Tensor) -> Tensor:
        """(B,N) bool from (B,N) seeds of samples: the reader whose hypothesis this is marks something."""
        return uniform(fold(seeds, _MARKERS)) >= 1 - self.probability(law)[:, None]
