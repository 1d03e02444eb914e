"""The deterministic U-Net: its target, its loss against plain PyTorch, its samples, what it learns."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from modiff.config.methods import PlainUNetConfig
from modiff.methods.unet import UNet
from modiff.types import Batch, DataSpec


def _model(classes: int = 1, channels: int = 1) -> UNet:
    torch.manual_seed(0)
    return UNet(PlainUNetConfig(channels=(6, 8, 10)), DataSpec.of(channels=channels, classes=classes, raters=3))


def _batch(classes: int = 1) -> Batch:
    """Four images of 20×24 with a bright square; two of three raters mark all of it, one a corner of it."""
    rng = torch.Generator().manual_seed(1)
    image = torch.rand(4, 1, 20, 24, generator=rng) * 0.3
    masks = torch.zeros(4, 3, classes, 20, 24, dtype=torch.bool)
    for row in range(4):
        part = (slice(3 + row, 11 + row), slice(5, 14))
        image[row, 0][part] += 0.6
        masks[row, :2, row % classes][(..., *part)] = True
        masks[row, 2, row % classes, 3 + row : 6 + row, 5:8] = True
    return Batch(image, masks, torch.ones(4, 3, dtype=torch.bool))


def _rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_loss_is_cross_entropy_and_dice_against_the_pixels_that_most_raters_marked() -> None:
    model, batch = _model(), _batch()
    model.train()
    target = (batch.masks.float().mean(1) > 0.5).float()
    found = model.training_loss(batch, rng=_rng())
    model.load_state_dict(_model().state_dict())  # the running means of its normalisation moved
    logits = model._logits(batch.image)
    entropy = F.binary_cross_entropy_with_logits(logits, target)
    p = logits.sigmoid()
    dice = 1 - (2 * (p * target).sum((1, 2, 3)) + 1) / ((p + target).sum((1, 2, 3)) + 1)
    torch.testing.assert_close(found["loss"], entropy + dice.mean())
    torch.testing.assert_close(found["cross_entropy"], entropy.detach())


def test_raters_who_did_not_read_have_no_vote() -> None:
    model, batch = _model(), _batch()
    model.train()
    batch.read[:, 1] = False  # one of the two that agree: a tie is background, the corner is what both marked
    expected = model.training_loss(Batch(batch.image, batch.masks[:, [0, 2]], batch.read[:, [0, 2]]), rng=_rng())
    torch.testing.assert_close(model.training_loss(batch, rng=_rng())["loss"], expected["loss"])


def test_an_image_that_nobody_read_does_not_count() -> None:
    model, batch = _model(), _batch()
    model.train()
    batch.read[3] = False
    before = model.training_loss(batch, rng=_rng())["loss"]
    batch.masks[3] = ~batch.masks[3]
    torch.testing.assert_close(model.training_loss(batch, rng=_rng())["loss"], before)


def test_all_samples_are_one_answer_whatever_the_seed() -> None:
    model, batch = _model(classes=2), _batch()
    model.eval()
    one, other = (model.sample(batch.image, 3, seeds=torch.arange(4) + seed) for seed in (0, 9))
    assert one.maps.shape == (4, 3, 2, 20, 24)
    assert torch.equal(one.maps, other.maps)
    assert torch.equal(one.maps[:, 0], one.maps[:, 2])
    assert float(one.maps.sum(2).max()) <= 1 + 1e-6


def test_it_learns_what_most_raters_mark() -> None:
    model, batch = _model(classes=2), _batch(classes=2)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    model.train()
    for _ in range(80):
        optimiser.zero_grad()
        model.training_loss(batch, rng=_rng())["loss"].backward()
        optimiser.step()
    marked = model.eval().sample(batch.image, 1, seeds=torch.arange(4)).maps[:, 0] > 0.5
    wanted = batch.masks[:, 0]
    assert (marked & wanted).sum() / (marked | wanted).sum() > 0.9
