"""What the latent-variable methods share: Gaussians, f_comb, labels, normalisation, the U-Net."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from latent_helpers import random_batch
from torch.distributions import Independent, Normal, kl_divergence

from modiff.config.run import MODELS
from modiff.methods.latent.frame import normalise
from modiff.methods.latent.prob_unet import draw_rater, pixel_cross_entropy, probabilities
from modiff.methods.registry import build
from modiff.nn import latent
from modiff.nn.layers import bounded
from modiff.nn.unet import ConvUNet, Norm
from modiff.types import DataSpec, Samples


def _gaussian(seed: int, *, batch: int = 5, dim: int = 4) -> tuple[latent.Gaussian, Independent]:
    rng = torch.Generator().manual_seed(seed)
    mean = torch.randn(batch, dim, generator=rng, dtype=torch.float64)
    log_sigma = torch.randn(batch, dim, generator=rng, dtype=torch.float64)
    return latent.Gaussian(mean, log_sigma), Independent(Normal(mean, log_sigma.exp()), 1)


def test_kl_divergence_equals_torch_distributions() -> None:
    (q, q_torch), (p, p_torch) = _gaussian(0), _gaussian(1)
    torch.testing.assert_close(latent.kl_divergence(q, p), kl_divergence(q_torch, p_torch))


def test_kl_divergence_of_a_gaussian_from_itself_is_zero() -> None:
    q, _ = _gaussian(2)
    torch.testing.assert_close(latent.kl_divergence(q, q), torch.zeros(5, dtype=torch.float64))


def test_log_density_equals_torch_distributions() -> None:
    (q, q_torch), z = _gaussian(3), torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(q.log_prob(z), q_torch.log_prob(z))


@pytest.mark.parametrize("norm", [False, True])
def test_f_comb_is_convolutions_of_features_joined_with_z(norm: bool) -> None:
    combine = latent.FComb(6, 3, 2, depth=4, norm=norm).eval()
    features, z = torch.randn(2, 6, 5, 4), torch.randn(2, 7, 3)
    made = combine(combine.image(features), z)
    weight = torch.cat([combine.image.weight, combine.latent.weight[..., None, None]], 1)
    for n in range(7):
        joined = torch.cat([features, z[:, n, :, None, None].expand(-1, -1, 5, 4)], 1)
        first = torch.nn.functional.conv2d(joined, weight, combine.image.bias)
        torch.testing.assert_close(made[:, n], combine.rest(first), atol=1e-5, rtol=1e-5)


def test_f_comb_starts_with_an_orthogonal_first_layer() -> None:
    combine = latent.FComb(6, 3, 2)
    joint = torch.cat([combine.image.weight[..., 0, 0], combine.latent.weight], 1)
    torch.testing.assert_close(joint @ joint.T, torch.eye(6), atol=1e-5, rtol=0)


def test_what_is_bounded_stays_within_and_keeps_a_slope() -> None:
    x = torch.tensor([-1e3, -8.0, 0.0, 1e-3, 8.0, 1e3], requires_grad=True)
    y = bounded(x, 8.0)
    y.sum().backward()
    torch.testing.assert_close(
        y.detach(), torch.tensor([-7.9365, -4.0, 0.0, 9.9988e-4, 4.0, 7.9365]), rtol=1e-4, atol=0
    )
    assert x.grad is not None
    assert bool((x.grad > 0).all())
    assert x.grad[2] == 1


def test_the_reader_drawn_is_uniform_among_those_who_read() -> None:
    batch = random_batch(1, raters=4)
    batch.read[0] = torch.tensor([True, False, True, True])
    batch.masks = torch.zeros_like(batch.masks)
    for rater in range(4):
        batch.masks[0, rater, 0, rater, 0] = True
    rng = torch.Generator().manual_seed(0)
    drawn = [int(draw_rater(batch, rng)[0][0, 0, :4, 0].argmax()) for _ in range(600)]
    counts = torch.bincount(torch.tensor(drawn), minlength=4)
    assert counts[1] == 0
    assert ((counts[[0, 2, 3]] - 200).abs() < 5 * (600 * 2 / 9) ** 0.5).all()


def test_an_image_that_nobody_read_is_not_known() -> None:
    batch = random_batch(2)
    batch.read[1] = False
    label, known = draw_rater(batch, torch.Generator().manual_seed(0))
    assert known.tolist() == [True, False]
    assert not label[1].any()


def test_cross_entropy_of_one_class_is_a_sum_of_pixels() -> None:
    logits, label = torch.randn(2, 1, 4, 5), (torch.rand(2, 1, 4, 5) < 0.3).float()
    p = probabilities(logits)
    by_hand = -(label * p.log() + (1 - label) * (1 - p).log()).sum((1, 2, 3))
    torch.testing.assert_close(pixel_cross_entropy(logits, label), by_hand)


def test_cross_entropy_of_several_classes_is_that_of_the_softmax_with_background() -> None:
    batch = random_batch(3, classes=2)
    logits, label = torch.randn(3, 3, 16, 16), batch.masks[:, 0].float()
    p = probabilities(logits)
    background = 1 - p.sum(1)
    chosen = (label * p).sum(1) + (1 - label.sum(1)) * background
    torch.testing.assert_close(pixel_cross_entropy(logits, label), -chosen.log().sum((1, 2)))


def test_z_scores_have_mean_zero_and_deviation_one_and_flat_images_are_zero() -> None:
    image = torch.rand(2, 3, 8, 8)
    image[1] = 0.7
    made = normalise(image, "zscore")
    torch.testing.assert_close(made[0].mean((1, 2)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(made[0].std((1, 2), correction=0), torch.ones(3), atol=1e-4, rtol=0)
    assert made[1].abs().max() < 1e-3


def test_present_means_that_a_class_beats_the_background_somewhere() -> None:
    maps = torch.zeros(1, 3, 2, 4, 4)
    maps[0, 0, :, 0, 0] = torch.tensor([0.5, 0.1])
    maps[0, 1, :, 0, 0] = torch.tensor([0.4, 0.4])
    maps[0, 2, :, 0, 0] = torch.tensor([0.375, 0.25])  # a tie with the background
    assert Samples.uniform(maps).present[0].tolist() == [True, True, False]


@pytest.mark.parametrize("norm", ["none", "block", "layer"])
def test_the_unet_gives_features_at_full_resolution(norm: Norm) -> None:
    unet = ConvUNet(2, (4, 6, 8), norm=norm)
    bottleneck, features = unet(torch.rand(2, 2, 16, 24))
    assert bottleneck.shape == (2, 8, 4, 6)
    assert features.shape == (2, 4, 16, 24)


# Not MoSE's divergence: which of two like samples takes a rater's mass turns on the last digit.
@pytest.mark.parametrize(("method", "term"), [("prob_unet", "loss"), ("cflow", "loss"), ("mose", "transport")])
def test_mixed_precision_changes_the_loss_by_rounding_only(method: str, term: str) -> None:
    torch.manual_seed(0)
    config = replace(MODELS[method](), channels=(8, 8, 8))
    model, batch = build(method, config, DataSpec.of(raters=3)).eval(), random_batch()
    exact = model.training_loss(batch, rng=torch.Generator().manual_seed(1))[term]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model.training_loss(batch, rng=torch.Generator().manual_seed(1))[term]
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, exact, rtol=0.03, atol=0)


@pytest.mark.parametrize("method", ["prob_unet", "cflow", "mose"])
def test_weights_that_are_loaded_stay_in_channels_last(method: str) -> None:
    config = replace(MODELS[method](), channels=(4, 8))
    saved = {
        name: value.contiguous() for name, value in build(method, config, DataSpec.of(raters=2)).state_dict().items()
    }
    model = build(method, config, DataSpec.of(raters=2))
    model.load_state_dict(saved)
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            assert layer.weight.is_contiguous(memory_format=torch.channels_last)
