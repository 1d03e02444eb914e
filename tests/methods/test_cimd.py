"""CIMD: its bound against closed forms, its variance's limits, its size, its two behaviours, and that it learns."""

from __future__ import annotations

import math

import pytest
import torch
from diffusion_models import TINY, opinion_shares, parameter_count, random_batch, small, train, two_opinions
from scipy.stats import norm
from torch.distributions import Normal, kl_divergence

from modiff.diffusion import gaussian
from modiff.diffusion.schedule import Schedule, time_steps
from modiff.methods.denoising import Labels
from modiff.nn.latent import GaussianNet

SCHEDULE = Schedule("linear", steps=1000)


def test_the_network_has_the_released_number_of_parameters():
    _, parts = parameter_count("cimd", channels=4)
    assert parts["unet"] == 85_603_842


def test_one_image_channel_in_place_of_four_leaves_out_their_weights_in_the_first_layer():
    assert parameter_count("cimd", channels=1)[1]["unet"] == 85_603_842 - 3 * 9 * 128


def test_base_64_has_the_published_number_of_parameters():
    assert parameter_count("cimd", channels=4, unet={"base": 64})[1]["unet"] == pytest.approx(21.42e6, rel=5e-4)


def test_prior_and_posterior_networks_have_the_released_number_of_parameters():
    network = GaussianNet(2, (32, 64, 128, 192), 6)
    assert sum(p.numel() for p in network.parameters()) == 1_368_108


def chain(step):
    """ᾱ, β and the posterior's two factors and variance of a step, from the betas alone (Ho et al. 2020, Eq. 6, 7)."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha_bar = torch.cumprod(1 - betas, 0)
    now, beta = alpha_bar[step - 1], betas[step - 1]
    before = alpha_bar[step - 2] if step > 1 else torch.tensor(1.0, dtype=torch.float64)
    return {
        "alpha_bar": now,
        "beta": beta,
        "clean": before.sqrt() * beta / (1 - now),
        "kept": (1 - beta).sqrt() * (1 - before) / (1 - now),
        "variance": beta * (1 - before) / (1 - now),
    }


@pytest.mark.parametrize("step", [2, 3, 50, 500, 1000])
def test_a_term_of_the_bound_is_the_divergence_of_two_gaussians(step):
    rng = torch.Generator().manual_seed(step)
    x0 = torch.randint(0, 2, (3, 1, 5, 5), generator=rng).double() * 2 - 1
    x_t, predicted = (torch.randn(x0.shape, generator=rng, dtype=torch.float64) for _ in range(2))
    v = torch.rand(x0.shape, generator=rng, dtype=torch.float64) * 2 - 1
    c = chain(step)
    low, high = c["variance"].log(), c["beta"].log()
    deviation = torch.exp(0.5 * ((v + 1) / 2 * high + (1 - v) / 2 * low))
    exact = Normal(c["clean"] * x0 + c["kept"] * x_t, c["variance"].sqrt())
    model = Normal(c["clean"] * predicted + c["kept"] * x_t, deviation)
    expected = kl_divergence(exact, model).mean((1, 2, 3)) / math.log(2)
    found = gaussian.bound_term(x0, x_t, predicted, v, torch.full((3,), step), SCHEDULE)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("mean", [-0.9, 0.2, 1.0])
@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_the_first_step_counts_the_probability_of_a_grey_values_bin(mean, value):
    deviation = 0.02
    lower = -math.inf if value == -1 else value - 1 / 255
    upper = math.inf if value == 1 else value + 1 / 255
    expected = norm.cdf(upper, mean, deviation) - norm.cdf(lower, mean, deviation)
    as_tensor = [torch.tensor([x], dtype=torch.float64) for x in (value, mean, 2 * math.log(deviation))]
    found = gaussian.decoder_nll(*as_tensor).item()
    if expected > 1e-12:  # smaller ones are held there inside the interval
        assert found == pytest.approx(-math.log(expected), rel=1e-6, abs=1e-9)
    else:
        assert found > 27


def test_the_bound_of_the_exact_posterior_is_zero():
    x0, x_t = torch.ones(1, 1, 4, 4), torch.randn(1, 1, 4, 4)
    found = gaussian.bound_term(x0, x_t, x0, torch.full_like(x0, -1.0), torch.tensor([400]), SCHEDULE)
    assert found.abs().item() < 1e-6


def test_the_variance_lies_between_the_posteriors_and_the_forward_steps():
    low, high = gaussian.log_variance_bounds(SCHEDULE)
    for step in (2, 10, 1000):
        c = chain(step)
        assert low[step - 1].item() == pytest.approx(c["variance"].log().item(), abs=1e-6)
        assert high[step - 1].item() == pytest.approx(c["beta"].log().item(), abs=1e-6)
    assert low[0] == low[1]
    assert (low[1:] < high[1:]).all()
    v = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    inside = gaussian.interpolate(v[:, None], low, high)
    torch.testing.assert_close(inside, torch.stack([low, (low + high) / 2, high]))


def belief(x_t, t):
    return torch.tanh(3 * x_t) * (1 - 0.5 * t)


@pytest.mark.parametrize("steps", [1000, 37, 4])
def test_at_the_lower_limit_the_sampler_is_the_ancestral_one(steps):
    rng = torch.Generator().manual_seed(0)
    x_T, z = torch.randn(2, 1, 6, 6, generator=rng), torch.randn(steps, 2, 1, 6, 6, generator=rng)
    times = time_steps(steps, steps_total=1000, spacing="trailing")
    plain = gaussian.sample(belief, x_T, times, SCHEDULE, sampler="ancestral", noise=lambda i: z[i])
    learnt = gaussian.sample_learned(
        lambda x, t: (belief(x, t), torch.full_like(x, -1.0)), x_T, times, SCHEDULE, noise=lambda i: z[i]
    )
    torch.testing.assert_close(learnt, plain, atol=1e-4, rtol=0)


def test_the_sampler_holds_the_variance_within_its_limits():
    x_T, z = torch.zeros(1, 1, 64, 64), torch.randn(2, 1, 1, 64, 64)
    times = time_steps(2, steps_total=1000, spacing="trailing")

    def drawn(v):
        def told(x, t):
            return torch.where(t > 0.6, torch.zeros_like(x), x), torch.full_like(x, v)

        return gaussian.sample_learned(told, x_T, times, SCHEDULE, noise=lambda i: z[i])

    assert torch.equal(drawn(1.0), drawn(7.0))
    assert torch.equal(drawn(-1.0), drawn(-7.0))
    assert drawn(1.0).std() > drawn(-1.0).std()


class Told(torch.nn.Module):
    """Stands in for the U-Net: says what it is told."""

    def __init__(self, output):
        super().__init__()
        self.output = torch.nn.Parameter(output)

    def encode(self, image_inputs):
        return image_inputs

    def forward(self, x, image_features, t):
        return self.output


def test_the_bound_trains_the_variance_and_not_the_noise():
    model = small("cimd")
    model.unet = Told(torch.randn(3, 2, 8, 8) * 0.1)
    image, label, centre = torch.rand(3, 1, 8, 8), torch.ones(3, 1, 8, 8), torch.full((3, 2), 3.5)
    one = torch.ones(3, 1)
    labels = Labels(image, label, centre, chosen=one, mean=label, known=one[:, 0], weights=one[:, 0])
    terms = model._denoising_terms(labels, torch.Generator().manual_seed(0))
    terms["vlb"].backward()
    gradient = model.unet.output.grad
    assert gradient[:, :1].abs().max() == 0
    assert gradient[:, 1:].abs().max() > 0


def test_the_divergence_of_latents_is_the_closed_form():
    model = small("cimd", classes=2)
    image, mask, eps = torch.rand(3, 1, 8, 8), torch.ones(3, 2, 8, 8), torch.randn(3, 2, 8, 8)
    q, _ = model.posterior(torch.cat([image, mask], 1))
    p, _ = model.prior(torch.cat([image, eps], 1))
    expected = kl_divergence(Normal(q.mean, q.log_sigma.exp()), Normal(p.mean, p.log_sigma.exp())).sum(1)
    torch.testing.assert_close(model._latent_kl(image, mask, eps), expected)


def changed_parts(behaviour):
    model = small("cimd", behaviour=behaviour, latent_widths=[4, 4], kl_weight=1.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, random_batch(), steps=3, rate=1e-2, repeat=1)
    return {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def test_prior_and_posterior_are_trained_as_in_the_paper():
    assert changed_parts("paper") == {"unet", "prior", "posterior"}


def test_the_released_behaviour_leaves_them_as_they_were():
    assert changed_parts("released") == {"unet"}


def test_four_images_are_learnt_with_every_raters_mode_and_its_frequency():
    unet = {**TINY["unet"], "base": 12, "groups": 3, "attention": []}
    small_latents = {"latent_widths": [4, 4], "schedule": "cosine"}
    model = small("cimd", raters=4, unet=unet, steps=100, sampling_steps=25, **small_latents)
    train(model, two_opinions(), steps=500, rate=5e-3)
    shares = opinion_shares(model, two_opinions()).mean(0)
    torch.testing.assert_close(shares, torch.tensor([0.25, 0.25, 0.5, 0.0]), atol=0.12, rtol=0)
