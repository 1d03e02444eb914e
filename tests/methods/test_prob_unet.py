"""Probabilistic U-Net: published sizes, its loss, what it learns, its samples."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from latent_helpers import modes_of, parameters_of, random_batch, repeated, train, two_readings, untouched
from torch.distributions import Independent, Normal, kl_divergence

from modiff.config.methods import ProbUNetConfig
from modiff.config.run import build_config
from modiff.errors import ConfigError
from modiff.methods.latent import prob_unet
from modiff.methods.latent.prob_unet import ProbUNet
from modiff.methods.registry import build
from modiff.types import DataSpec

FOUR_LEVELS = (32, 64, 128, 192)
SMALL = ProbUNetConfig(channels=(6, 8, 10), latent_dim=3)


def _model(config: ProbUNetConfig = SMALL, *, channels: int = 1, classes: int = 1) -> ProbUNet:
    torch.manual_seed(0)
    return ProbUNet(config, DataSpec.of(channels=channels, classes=classes, raters=3))


def _rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("config", "channels", "expected"),
    [
        (ProbUNetConfig(channels=FOUR_LEVELS, latent_dim=2), 1, 4_996_233),
        (ProbUNetConfig(channels=FOUR_LEVELS, latent_dim=6), 1, 4_999_449),
        (ProbUNetConfig(), 1, 17_945_625),
        (ProbUNetConfig(), 4, 17_945_625 + 2_592),
    ],
)
def test_parameters_are_those_of_the_published_network(config: ProbUNetConfig, channels: int, expected: int) -> None:
    assert parameters_of(ProbUNet, config, channels=channels) == expected


def test_the_preset_builds_the_seven_level_network() -> None:
    config = build_config(preset="prob_unet")
    with torch.device("meta"):
        model = build(config.method, config.model, DataSpec.of())
    assert sum(parameter.numel() for parameter in model.parameters()) == 17_945_625


def test_the_loss_is_the_evidence_lower_bound_of_one_draw() -> None:
    model, batch = _model(replace(SMALL, beta=3.0)).eval(), random_batch(raters=1)
    terms = model.training_loss(batch, rng=_rng(7))
    rng = _rng(7)
    torch.rand(batch.read.shape, generator=rng)
    noise = torch.randn(4, 3, generator=rng)
    image, label = batch.image - 0.5, batch.masks[:, 0].float()
    q, p = model.posterior(torch.cat([image, label], 1))[0], model.prior(image)[0]
    torch_q, torch_p = (Independent(Normal(g.mean, g.log_sigma.exp()), 1) for g in (q, p))
    logits = model.combine(model.combine.image(model.unet(image)[1]), (q.mean + q.log_sigma.exp() * noise)[:, None])
    bce = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], label, reduction="sum") / 4
    torch.testing.assert_close(terms["loss"], bce + 3 * kl_divergence(torch_q, torch_p).mean())


def test_the_loss_of_a_batch_is_the_mean_of_its_images() -> None:
    model, batch = _model().eval(), random_batch(2, raters=1)
    # Noise is drawn for the batch as a whole: take it away.
    model._noise = lambda like, rng: torch.zeros_like(like)  # type: ignore[method-assign]
    whole = model.training_loss(batch, rng=_rng())["loss"]
    parts = []
    for item in range(2):
        one = replace(batch, image=batch.image[[item]], masks=batch.masks[[item]], read=batch.read[[item]], case=("x",))
        parts.append(model.training_loss(one, rng=_rng())["loss"])
    torch.testing.assert_close(whole, torch.stack(parts).mean())


def test_released_reduction_weighs_cross_entropy_by_the_batch_size() -> None:
    batch = random_batch()
    terms = _model().training_loss(batch, rng=_rng())
    summed = _model(replace(SMALL, reduction="batch")).training_loss(batch, rng=_rng())
    torch.testing.assert_close(summed["loss"], 4 * terms["cross_entropy"] + terms["kl"])


def test_the_released_penalty_adds_un_squared_norms_outside_the_unet() -> None:
    batch = random_batch()
    model = _model(replace(SMALL, norm_penalty=0.5))
    plain, with_penalty = (_model(c).training_loss(batch, rng=_rng())["loss"] for c in (SMALL, model.config))
    norms = sum(p.norm() for name, p in model.named_parameters() if not name.startswith("unet"))
    torch.testing.assert_close(with_penalty - plain, 0.5 * norms, rtol=1e-3, atol=1e-3)


def test_an_image_that_nobody_read_does_not_count() -> None:
    model, batch = _model().eval(), random_batch(3)
    batch.read[2] = False
    before = model.training_loss(batch, rng=_rng())["loss"]
    batch.image[2], batch.masks[2] = 1 - batch.image[2], ~batch.masks[2]
    torch.testing.assert_close(model.training_loss(batch, rng=_rng())["loss"], before)


def test_padding_does_not_count_in_the_loss() -> None:
    batch = random_batch(2, size=(13, 18))
    logits_seen = []
    entropy = prob_unet.pixel_cross_entropy
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prob_unet, "pixel_cross_entropy", lambda x, y: logits_seen.append(x.shape) or entropy(x, y))
        _model().training_loss(batch, rng=_rng())
    assert logits_seen == [(2, 1, 13, 18)]


@pytest.mark.parametrize(("channels", "classes"), [(1, 1), (4, 1), (1, 3)])
def test_gradients_reach_every_parameter(channels: int, classes: int) -> None:
    model = _model(channels=channels, classes=classes)
    model.training_loss(random_batch(channels=channels, classes=classes), rng=_rng())["loss"].backward()
    assert untouched(model) == set()


@pytest.mark.parametrize(("channels", "classes", "size"), [(1, 1, (16, 16)), (4, 2, (13, 18)), (1, 3, (5, 7))])
def test_samples_are_probabilities_of_the_images_size(channels: int, classes: int, size: tuple[int, int]) -> None:
    model = _model(channels=channels, classes=classes).eval()
    samples = model.sample(torch.rand(2, channels, *size), 5, seeds=torch.tensor([3, 4]))
    assert samples.maps.shape == (2, 5, classes, *size)
    assert samples.maps.min() >= 0
    assert samples.maps.sum(2).max() <= 1 + 1e-5
    torch.testing.assert_close(samples.weights, torch.full((2, 5), 0.2))


def test_a_sample_depends_neither_on_the_batch_nor_on_n() -> None:
    model, image = _model().eval(), random_batch().image
    many = model.sample(image, 6, seeds=torch.arange(4)).maps
    one = model.sample(image[2:3], 2, seeds=torch.tensor([2])).maps
    torch.testing.assert_close(one[0], many[2, :2], atol=1e-4, rtol=0)


def test_samples_drawn_in_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, image = _model().eval(), random_batch().image
    whole = model.sample(image, 5, seeds=torch.arange(4)).maps
    monkeypatch.setattr("modiff.methods.base._MOST_BYTES", 4)
    torch.testing.assert_close(model.sample(image, 5, seeds=torch.arange(4)).maps, whole)


def test_z_follows_the_prior() -> None:
    model = _model().eval()
    seen: list[torch.Tensor] = []
    combine = model.combine
    encoding = model.encode(random_batch(1).image)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(combine, "forward", lambda features, z: (seen.append(z), torch.zeros(1, z.shape[1], 1, 1, 1))[1])
        model.sample(encoding, 4000, seeds=torch.tensor([9]))
    z, prior = torch.cat(seen, 1)[0], encoding.latent
    sigma = prior.log_sigma[0].exp()
    assert ((z.mean(0) - prior.mean[0]).abs() < 5 * sigma / 4000**0.5).all()
    torch.testing.assert_close(z.std(0), sigma, rtol=0.08, atol=0)


def test_the_images_work_is_done_once_for_all_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = _model().eval(), []
    for name in ("unet", "prior", "posterior"):
        module = getattr(model, name)
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    encoding = model.encode(random_batch(2).image)
    for _ in range(2):
        model.sample(encoding, 8, seeds=torch.tensor([1, 2]))
    assert sorted(calls) == ["prior", "unet"]


def test_more_steps_than_one_are_refused() -> None:
    model, image, seeds = _model().eval(), random_batch(1).image, torch.tensor([1])
    with pytest.raises(ConfigError, match="samples in one pass; found 5"):
        model.sample(image, 2, seeds=seeds, steps=5)
    assert torch.equal(model.sample(image, 2, seeds=seeds, steps=1).maps, model.sample(image, 2, seeds=seeds).maps)


def test_raters_other_than_single_are_refused() -> None:
    with pytest.raises(ConfigError, match="raters"):
        _model().eval().sample(random_batch(1).image, 2, seeds=torch.tensor([1]), raters="all")


@pytest.mark.parametrize("config", [replace(SMALL, channels=()), replace(SMALL, combine_depth=1)])
def test_settings_that_make_no_network_are_refused(config: ProbUNetConfig) -> None:
    with pytest.raises(ConfigError):
        _model(config)


def test_it_learns_both_readings_of_four_images_and_not_their_mean() -> None:
    batch = two_readings()
    config = ProbUNetConfig(channels=(8, 16), latent_dim=2, intensity="zscore")
    torch.manual_seed(0)
    model = train(ProbUNet(config, DataSpec.of()), repeated(batch, 2), steps=180, rate=5e-3)
    modes = modes_of(model, batch)
    assert (modes.iou > 0.7).float().mean() > 0.6
    assert modes.large.min() > 0.1
    assert modes.large.max() < 0.9
