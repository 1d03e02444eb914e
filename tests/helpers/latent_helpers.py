"""A small problem with two readings per image, and what the tests of the latent-variable methods share."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from modiff.methods.base import Segmenter
from modiff.types import Batch, DataSpec


def random_batch(
    count: int = 4, *, channels: int = 1, classes: int = 1, raters: int = 3, size: tuple[int, int] = (16, 16)
) -> Batch:
    """Random images; each rater marks a random rectangle of a random class; every rater read every image."""
    rng = torch.Generator().manual_seed(5)
    image = torch.rand(count, channels, *size, generator=rng)
    masks = torch.zeros(count, raters, classes, *size, dtype=torch.bool)
    for item in range(count):
        for rater in range(raters):
            row, column = torch.randint(0, size[0] // 2, (2,), generator=rng).tolist()
            which = int(torch.randint(0, classes, (1,), generator=rng))
            masks[item, rater, which, row : row + size[0] // 2, column : column + size[1] // 2] = True
    return Batch(image, masks, torch.ones(count, raters, dtype=torch.bool), tuple(f"case {i}" for i in range(count)))


def two_readings(size: int = 32) -> Batch:
    """Four images of a disc in a ring; two raters mark the disc, two the disc with its ring: never the mean of both."""
    axis = torch.arange(size)
    image, masks = [], []
    for row, column in ((10, 10), (12, 20), (20, 11), (19, 19)):
        distance = torch.sqrt((axis[:, None] - row) ** 2.0 + (axis[None, :] - column) ** 2.0)
        small, large = distance < 4, distance < 8
        image.append(0.2 + 0.3 * large + 0.4 * small)
        masks.append(torch.stack([small, small, large, large])[:, None])
    read = torch.ones(4, 4, dtype=torch.bool)
    return Batch(torch.stack(image)[:, None].float(), torch.stack(masks), read, ("a", "b", "c", "d"))


def repeated(batch: Batch, times: int) -> Batch:
    """The batch's images several times over."""
    parts = (batch.image, batch.masks, batch.read)
    return Batch(*(part.repeat(times, *[1] * (part.ndim - 1)) for part in parts), batch.case * times)


def train(model: Segmenter, batch: Batch, *, steps: int, rate: float) -> Segmenter:
    """A few steps of Adam on one batch; the model in evaluation mode."""
    rng = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, 2 * (1 - step / steps))
        optimizer.zero_grad()
        model.training_loss(batch, rng=rng)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        optimizer.step()
    return model.eval()


@dataclass
class Modes:
    """How samples stand to the two readings: overlap (B,N) with the nearer one, and (B,) the weight of the larger."""

    iou: Tensor
    large: Tensor


def modes_of(model: Segmenter, batch: Batch, *, n: int = 32) -> Modes:
    """Samples of the images of `two_readings`, each with its nearer reading."""
    samples = model.sample(batch.image, n, seeds=torch.arange(len(batch)))
    made = samples.maps[:, :, 0] > 0.5
    readings = batch.masks[:, [0, 2], 0]
    both = (made[:, :, None] & readings[:, None]).sum((3, 4))
    either = (made[:, :, None] | readings[:, None]).sum((3, 4))
    iou, nearer = (both / either.clamp_min(1)).max(2)
    return Modes(iou, (samples.weights * nearer).sum(1))


def untouched(model: Segmenter) -> set[str]:
    """Names of the parameters that have no gradient, or none but zeros."""
    return {
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not bool((parameter.grad != 0).any())
    }


def parameters_of(method: type[Segmenter], config: object, *, channels: int = 1) -> int:
    """The number of a method's parameters, without memory for them."""
    with torch.device("meta"):
        model = method(config, DataSpec.of(channels=channels))  # type: ignore[call-arg]
    return sum(parameter.numel() for parameter in model.parameters())


def behind_normalisation(model: nn.Module) -> set[str]:
    """Names of biases that batch normalisation directly after them takes away: the published networks count them."""
    names = set()
    for prefix, module in model.named_modules():
        if isinstance(module, nn.Sequential):
            for index, (layer, following) in enumerate(pairwise(module)):
                if isinstance(layer, (nn.Conv2d, nn.Linear)) and isinstance(following, _BatchNorm):
                    names.add(f"{prefix}.{index}.bias")
    return names


def settle(model: Segmenter, batch: Batch) -> Segmenter:
    """Running statistics of a fully trained network: those of the last weights, which a test's few steps lag behind."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.reset_running_stats()
            module.momentum = None
    model.train()
    with torch.no_grad():
        for seed in range(8):
            model.training_loss(batch, rng=torch.Generator().manual_seed(seed))
    return model.eval()
