"""cFlow: flows against autograd's Jacobians, the posterior's divergence, published sizes, what it learns."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from latent_helpers import (
    behind_normalisation,
    modes_of,
    parameters_of,
    random_batch,
    repeated,
    settle,
    train,
    two_readings,
    untouched,
)
from torch import Tensor, nn

from modiff.config.methods import CFlowConfig
from modiff.config.run import build_config
from modiff.errors import ConfigError
from modiff.methods.latent.cflow import CFlow
from modiff.methods.registry import build
from modiff.nn import latent
from modiff.nn.latent import GlowFlow, PlanarFlow, planar_step
from modiff.types import DataSpec

Posterior = Literal["planar", "glow", "gauss"]
SMALL = CFlowConfig(channels=(6, 8, 10), latent_dim=4)


def _model(posterior: Posterior = "planar", *, channels: int = 1, classes: int = 1) -> CFlow:
    torch.manual_seed(0)
    config = replace(SMALL, posterior=posterior)
    return CFlow(config, DataSpec.of(channels=channels, classes=classes, raters=3))


def _flow(kind: type[PlanarFlow] | type[GlowFlow], seed: int = 0) -> nn.Module:
    """A flow far from the identity, in double precision."""
    torch.manual_seed(seed)
    flow = kind(5, 4, 3).double().eval()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.7)
    return flow


def _rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Flows


@pytest.mark.parametrize("kind", [PlanarFlow, GlowFlow])
@pytest.mark.parametrize("seed", range(5))
def test_log_determinants_equal_those_of_the_jacobian(kind: type[PlanarFlow] | type[GlowFlow], seed: int) -> None:
    flow = _flow(kind, seed)
    z, h = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
    _, log_det = flow(z, h)
    for item in range(6):
        condition = h[item : item + 1]
        jacobian = torch.autograd.functional.jacobian(lambda x, c=condition: flow(x[None], c)[0][0], z[item])
        torch.testing.assert_close(log_det[item], torch.linalg.slogdet(jacobian).logabsdet, atol=1e-8, rtol=1e-6)


vector = st.lists(st.floats(-6, 6), min_size=3, max_size=3).map(lambda v: torch.tensor([v], dtype=torch.float64))


@settings(max_examples=60, deadline=None)
@given(u=vector, w=vector, b=st.floats(-3, 3))
def test_a_planar_step_is_increasing_along_w_whatever_u_is(u: Tensor, w: Tensor, b: float) -> None:
    line = torch.linspace(-4, 4, 200, dtype=torch.float64)[:, None]
    z = line * w / w.norm().clamp_min(1e-9)
    made, _ = planar_step(z, u.expand(200, -1), w.expand(200, -1), torch.full((200,), b, dtype=torch.float64))
    along = (made * w).sum(1)
    if w.norm() > 1e-3:
        assert (along.diff() > -1e-12).all()  # wᵀû > −1: no two points of the line meet


def test_a_planar_step_satisfies_the_invertibility_condition() -> None:
    u, w, z = (torch.randn(50, 4, dtype=torch.float64) * 3 for _ in range(3))
    at_zero = -(w * z).sum(1)  # b that puts tanh's argument at 0, where its slope is 1
    made, log_det = planar_step(z, u, w, at_zero)
    torch.testing.assert_close(made, z)
    beyond_minus_one = torch.nn.functional.softplus((w * u).sum(1))  # wᵀû + 1
    torch.testing.assert_close(log_det, beyond_minus_one.log())


def test_a_planar_step_without_a_direction_is_the_identity_of_density() -> None:
    z, u = torch.randn(3, 4), torch.randn(3, 4)
    made, log_det = planar_step(z, u, torch.zeros(3, 4), torch.zeros(3))
    torch.testing.assert_close(made, z)
    torch.testing.assert_close(log_det, torch.zeros(3))


def test_glow_starts_near_the_identity() -> None:
    torch.manual_seed(0)
    flow, z = GlowFlow(8, 6, 4), torch.randn(16, 6)
    made, log_det = flow(z, torch.rand(16, 8))
    assert (made - z).abs().mean() < 0.2
    assert log_det.abs().max() < 0.5


def test_glow_mixes_all_dimensions() -> None:
    flow = _flow(GlowFlow)
    h = torch.randn(1, 5, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: flow(x[None], h)[0][0], torch.randn(4).double())
    assert (jacobian != 0).all()


def test_glow_needs_halves() -> None:
    with pytest.raises(ConfigError, match="latent_dim"):
        CFlow(replace(SMALL, posterior="glow", latent_dim=5), DataSpec.of(raters=2))


# The posterior's divergence


@pytest.mark.parametrize("posterior", ["planar", "glow"])
def test_the_divergence_estimate_is_the_change_of_variables(posterior: Posterior) -> None:
    model, batch = _model(posterior).eval(), random_batch(2, raters=1)
    image, label = batch.image - 0.5, batch.masks[:, 0].float()
    prior, _ = model.prior(image)
    z, divergence = model._draw_posterior(image, label, prior, _rng(3))
    q, h = model.posterior(torch.cat([image, label], 1))
    start = q.draw(torch.randn(2, 4, generator=_rng(3)))
    for item in range(2):
        step = lambda x, c=h[item : item + 1]: model.flow(x[None], c)[0][0]  # type: ignore[misc]  # noqa: E731
        jacobian = torch.autograd.functional.jacobian(step, start[item])
        log_q = q.log_prob(start)[item] - torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(divergence[item], log_q - prior.log_prob(z)[item], atol=1e-4, rtol=1e-4)


def test_the_gaussian_posteriors_divergence_is_the_closed_form() -> None:
    model, batch = _model("gauss").eval(), random_batch(3, raters=1)
    image, label = batch.image - 0.5, batch.masks[:, 0].float()
    prior, _ = model.prior(image)
    _, divergence = model._draw_posterior(image, label, prior, _rng())
    q, _ = model.posterior(torch.cat([image, label], 1))
    torch.testing.assert_close(divergence, latent.kl_divergence(q, prior))


@pytest.mark.parametrize("posterior", ["planar", "glow"])
def test_the_flowed_density_integrates_to_one(posterior: Posterior) -> None:
    """E over z_0 of p(z_K)·|det|/q(z_0) is the prior's mass where the flow reaches: 1."""
    torch.manual_seed(1)
    flow = (PlanarFlow if posterior == "planar" else GlowFlow)(5, 2, 2).double().eval()
    q = latent.Gaussian(torch.zeros(1, 2, dtype=torch.float64), torch.full((1, 2), 0.5, dtype=torch.float64))
    prior = latent.Gaussian(torch.zeros(1, 2, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64))
    start = q.draw(torch.randn(40_000, 2, dtype=torch.float64, generator=_rng(0)))
    with torch.no_grad():
        z, log_det = flow(start, torch.rand(1, 5, dtype=torch.float64).expand(40_000, -1))
    ratio = (prior.log_prob(z) + log_det - q.log_prob(start)).exp()
    assert abs(float(ratio.mean()) - 1) < 6 * float(ratio.std()) / 200


def test_the_released_point_of_the_base_density_is_an_option() -> None:
    batch = random_batch()
    right, wrong = (CFlow(replace(SMALL, kl_point=point), DataSpec.of(raters=3)).eval() for point in ("z0", "zK"))
    wrong.load_state_dict(right.state_dict())
    terms = [model.training_loss(batch, rng=_rng()) for model in (right, wrong)]
    assert terms[0]["cross_entropy"] == terms[1]["cross_entropy"]
    assert terms[0]["kl"] != terms[1]["kl"]


# The method


@pytest.mark.parametrize(
    ("posterior", "channels", "expected"),
    [("planar", 1, 6_861_817), ("gauss", 1, 6_847_129), ("glow", 1, 6_856_073 + 3_748), ("planar", 4, 6_864_409)],
)
def test_parameters_are_those_of_the_published_network(posterior: Posterior, channels: int, expected: int) -> None:
    assert parameters_of(CFlow, CFlowConfig(posterior=posterior), channels=channels) == expected


def test_the_preset_builds_the_planar_network() -> None:
    config = build_config(preset="cflow")
    with torch.device("meta"):
        model = build(config.method, config.model, DataSpec.of())
    assert sum(parameter.numel() for parameter in model.parameters()) == 6_861_817


@pytest.mark.parametrize("posterior", ["planar", "glow", "gauss"])
def test_gradients_reach_every_parameter(posterior: Posterior) -> None:
    model = _model(posterior)
    model.training_loss(random_batch(6), rng=_rng())["loss"].backward()
    assert untouched(model) <= behind_normalisation(model)


def test_the_flow_is_among_the_penalised_parts() -> None:
    batch, model = random_batch(), _model()
    plain = model.training_loss(batch, rng=_rng())["loss"]
    model.config = replace(model.config, norm_penalty=0.5)
    norms = sum(p.norm() for name, p in model.named_parameters() if not name.startswith("unet"))
    torch.testing.assert_close(
        model.training_loss(batch, rng=_rng())["loss"] - plain, 0.5 * norms, rtol=1e-3, atol=1e-3
    )


def test_one_image_alone_cannot_be_trained_on() -> None:
    with pytest.raises(ConfigError, match="batch_size"):
        _model().training_loss(random_batch(1), rng=_rng())


def test_one_image_alone_can_be_validated_on() -> None:
    assert _model().eval().training_loss(random_batch(1), rng=_rng())["loss"].isfinite()


@pytest.mark.parametrize(("channels", "classes", "size"), [(1, 1, (16, 16)), (4, 2, (13, 18))])
def test_samples_are_probabilities_of_the_images_size(channels: int, classes: int, size: tuple[int, int]) -> None:
    model = _model(channels=channels, classes=classes).eval()
    samples = model.sample(torch.rand(2, channels, *size), 5, seeds=torch.tensor([3, 4]))
    assert samples.maps.shape == (2, 5, classes, *size)
    assert samples.maps.min() >= 0
    assert samples.maps.sum(2).max() <= 1 + 1e-5


def test_a_sample_depends_neither_on_the_batch_nor_on_n() -> None:
    model, image = _model().eval(), random_batch().image
    many = model.sample(image, 6, seeds=torch.arange(4)).maps
    one = model.sample(image[2:3], 2, seeds=torch.tensor([2])).maps
    torch.testing.assert_close(one[0], many[2, :2], atol=1e-4, rtol=0)


def test_sampling_uses_neither_the_posterior_nor_the_flow() -> None:
    model, calls = _model().eval(), []
    for name in ("unet", "prior", "posterior", "flow"):
        getattr(model, name).register_forward_hook(lambda *_, name=name: calls.append(name))
    model.sample(random_batch(2).image, 8, seeds=torch.tensor([1, 2]))
    assert sorted(calls) == ["prior", "unet"]


def test_raters_other_than_single_are_refused() -> None:
    with pytest.raises(ConfigError, match="raters"):
        _model().eval().sample(random_batch(1).image, 2, seeds=torch.tensor([1]), raters=[0])


@pytest.mark.parametrize("posterior", ["planar", "glow"])
def test_it_learns_both_readings_of_four_images_and_not_their_mean(posterior: Posterior) -> None:
    batch = two_readings()
    config = CFlowConfig(channels=(8, 16), latent_dim=2, posterior=posterior)
    torch.manual_seed(0)
    several = repeated(batch, 3)
    model = train(CFlow(config, DataSpec.of()), several, steps=120, rate=7e-3)
    modes = modes_of(settle(model, several), batch)
    assert (modes.iou > 0.7).float().mean() > 0.7
    assert modes.large.min() > 0.1
    assert modes.large.max() < 0.9
