"""SSN: its distribution against torch's, its loss against a plain loop, its samples, what it learns."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from diffusion_models import opinion_shares, random_batch, train, two_opinions
from torch.distributions import LowRankMultivariateNormal

from modiff.config.run import build_config
from modiff.errors import ConfigError
from modiff.methods.registry import build
from modiff.methods.ssn import SSN, LogitDistribution
from modiff.types import DataSpec


def _model(*, channels: int = 1, classes: int = 1, raters: int = 2, **changes) -> SSN:
    torch.manual_seed(0)
    config = build_config(
        method="ssn", changes={"model": {"channels": [8, 12], "rank": 3, "mean_steps": 0, **changes}}
    ).model
    return build("ssn", config, DataSpec.of(channels=channels, classes=classes, raters=raters))


def _rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=_rng())


def test_draws_have_the_covariance_of_torchs_low_rank_normal() -> None:
    made = LogitDistribution(torch.zeros(1, 2, 2, 3), _noise(1, 2, 2, 3).exp(), _noise(1, 3, 2, 2, 3))
    sigma, factor = made.sigma.flatten(), made.factor.flatten(2)[0].T
    reference = LowRankMultivariateNormal(torch.zeros(12), factor, sigma**2).covariance_matrix
    rng, count = _rng(), 200_000
    draws = made.deviations(torch.randn(1, count, 3, generator=rng), torch.randn(1, count, 2, 2, 3, generator=rng))
    found = torch.cov(draws[0].flatten(1).T)
    scale = reference.diagonal().sqrt()
    assert ((found - reference) / (scale[:, None] * scale)).abs().max() < 5 / math.sqrt(count) * math.sqrt(2)


@pytest.mark.parametrize("classes", [1, 2])
def test_the_loss_is_the_logarithm_of_the_mean_likelihood_of_pairs_of_draws(classes: int) -> None:
    batch = random_batch(classes=classes, raters=1, side=4)
    batch.read[:] = True
    model = _model(classes=classes, raters=1, draws=6).eval()
    rng = _rng()
    torch.rand(batch.read.shape, generator=rng)  # which rater
    shared = torch.randn(3, 3, 3, generator=rng)
    pixels = torch.randn(3, 3, classes + 1, 4, 4, generator=rng)
    mean, sigma, factor = model.encode(batch.image)
    expected = 0.0
    for i in range(3):
        index = (batch.masks[i, 0] * torch.arange(1, classes + 1)[:, None, None]).sum(0)
        likelihoods = []
        for s in range(3):
            away = sum(shared[i, s, r] * factor[i, r] for r in range(3)) + sigma[i] * pixels[i, s]
            for logits in (mean[i] + away, mean[i] - away):
                likelihoods.append(logits.log_softmax(0).gather(0, index[None]).sum().double().exp())
        expected -= float(torch.stack(likelihoods).detach().mean().log()) / 3
    found = model.training_loss(batch, rng=_rng())
    assert found["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert found["mean_cross_entropy"].item() > 0


def test_an_image_that_nobody_read_does_not_count() -> None:
    model, batch = _model(), random_batch(images=4)
    model.eval()
    batch.read[3] = False
    before = model.training_loss(batch, rng=_rng())["loss"]
    batch.masks[3] = ~batch.masks[3]
    torch.testing.assert_close(model.training_loss(batch, rng=_rng())["loss"], before)


def test_without_covariance_the_loss_is_the_cross_entropy_of_one_rater() -> None:
    model, batch = _model(raters=1), random_batch(raters=1)
    batch.read[:] = True
    with torch.no_grad():
        for head in (model.log_variance, model.factor):
            head.weight.zero_()
        model.log_variance.bias.fill_(-1e6)  # σ² = e^−10 and 1e-5
        model.factor.bias.zero_()
        model.eval()
        found = model.training_loss(batch, rng=_rng())
    label = batch.masks[:, 0, 0].long()
    expected = F.cross_entropy(model.encode(batch.image).mean, label, reduction="none").sum((1, 2)).mean()
    assert found["loss"].item() == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize(("channels", "classes", "side"), [(1, 1, 16), (3, 2, 17)])
def test_maps_have_the_images_shape_and_are_probabilities(channels: int, classes: int, side: int) -> None:
    model = _model(channels=channels, classes=classes).eval()
    drawn = model.sample(torch.rand(2, channels, side, side + 2), 3, seeds=torch.arange(2))
    assert drawn.maps.shape == (2, 3, classes, side, side + 2)
    assert 0 <= drawn.maps.min() <= drawn.maps.max() <= 1
    assert float(drawn.maps.sum(2).max()) <= 1 + 1e-6


def test_a_sample_depends_on_its_seed_and_place_and_not_on_its_company(monkeypatch: pytest.MonkeyPatch) -> None:
    model, image = _model().eval(), torch.rand(3, 1, 16, 16)
    seeds = torch.tensor([5, 6, 7])
    many = model.sample(image, 6, seeds=seeds).maps
    torch.testing.assert_close(model.sample(image[1:2], 2, seeds=seeds[1:2]).maps[0], many[1, :2])
    assert (many[0, 0] - many[0, 1]).abs().max() > 1e-3
    monkeypatch.setattr("modiff.methods.base._MOST_BYTES", 1)
    torch.testing.assert_close(model.sample(image, 6, seeds=seeds).maps, many)


def test_windows_of_one_seed_see_the_same_noise_where_they_overlap() -> None:
    model = _model().eval()
    flat = torch.full((2, 1, 16, 16), 0.5)
    with torch.no_grad():
        model.factor.weight.zero_()
        model.factor.bias.zero_()  # the noise of single pixels is left
        model.log_variance.bias.zero_()
    seeds, origin = torch.tensor([4, 4]), torch.tensor([[0, 0], [6, 3]])
    one, other = model.sample(flat, 2, seeds=seeds, origin=origin).maps
    overlap = one[..., 8:14, 5:14]
    assert overlap.std() > 0.1
    torch.testing.assert_close(overlap, other[..., 2:8, 2:11], atol=1e-3, rtol=0)  # borders move the mean a little


def test_samples_are_the_draws_of_the_encoded_distribution() -> None:
    """Their mean probability is E[softmax(η)], here of one class by an integral over one Gaussian."""
    model, image = _model().eval(), torch.rand(1, 1, 8, 8)
    mean, sigma, factor = (part[0] for part in model.encode(image))
    difference = mean[1] - mean[0]
    variance = (factor[:, 1] - factor[:, 0]).square().sum(0) + sigma.square().sum(0)
    nodes, weights = torch.linspace(-8, 8, 2001), torch.linspace(-8, 8, 2001).square().mul(-0.5).exp()
    at = difference[None] + variance.sqrt() * nodes[:, None, None]
    expected = (at.sigmoid() * weights[:, None, None]).sum(0) / weights.sum()
    found = model.sample(image, 4000, seeds=torch.arange(1)).maps[0, :, 0].mean(0)
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0)


def test_it_draws_each_opinion_about_as_often_as_its_raters() -> None:
    batch = two_opinions()
    model = _model(raters=4, rank=10)
    train(model, batch, steps=800, rate=1e-2)
    shares = opinion_shares(model.eval(), batch)
    torch.testing.assert_close(shares.mean(0), torch.tensor([0.25, 0.25, 0.5, 0.0]), atol=0.15, rtol=0)


def test_the_mean_is_trained_alone_at_first() -> None:
    model, batch = _model(raters=1, mean_steps=2), random_batch(raters=1)
    batch.read[:] = True
    model.train()
    losses = [model.training_loss(batch, rng=_rng()) for _ in range(3)]
    assert [float(terms["loss"].detach() - terms["mean_cross_entropy"]) == 0 for terms in losses] == [True, True, False]
    losses[0]["loss"].backward()
    assert not model.factor.weight.grad.any()
    assert model.mean.weight.grad.any()
    model.eval()
    assert model.training_loss(batch, rng=_rng())["loss"] != losses[0]["loss"]


def test_an_odd_number_of_draws_is_refused() -> None:
    with pytest.raises(ConfigError, match="draws: is not even; found 5"):
        _model(draws=5)


def test_the_mean_alone_is_trained_by_the_same_loss_where_no_value_decides_on_the_way() -> None:
    """As a CUDA graph takes it: to rounding the loss and the gradients of the two ways."""
    batch, found = random_batch(raters=1), {}
    for fixed in (False, True):
        torch.manual_seed(0)
        model = _model(raters=1, mean_steps=1)
        model.fixed_shapes = fixed
        for step in range(2):
            model.zero_grad()
            loss = model.training_loss(batch, rng=_rng())["loss"]
            loss.backward()
            found[fixed, step] = [loss.detach(), *(p.grad.clone() for p in model.parameters())]
    for step in range(2):
        for one, other in zip(found[False, step], found[True, step], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
