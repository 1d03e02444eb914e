"""MedFM: what of it is not CCDM's or CIMD's too: its times, guidance, and what it learns."""

from __future__ import annotations

import torch
from diffusion_models import opinion_shares, parameter_count, random_batch, small, train, two_opinions
from torch import nn


def _small(**changes):
    model = small("medfm", **changes)
    nn.init.normal_(model.unet.conv_out.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    return model


def test_it_has_ccdms_network_with_one_channel_of_masks_less() -> None:
    flow, chain = (parameter_count(method, channels=1)[0] for method in ("medfm", "ccdm"))
    assert chain - flow == 2 * 9 * 32 + 1  # a channel in, a channel out and its bias


def test_the_loss_is_that_of_velocities_at_times_drawn_evenly(monkeypatch) -> None:
    model, batch = _small(drop=0.0), random_batch()
    seen = []
    predict = model._predict
    monkeypatch.setattr(model, "_predict", lambda x, t, f: seen.append((x, t)) or predict(x, t, f))
    losses = [model.training_loss(batch, rng=torch.Generator().manual_seed(seed))["loss"] for seed in range(300)]
    t = torch.cat([at for _, at in seen])
    assert 0 < float(t.min()) < 0.01
    assert 0.99 < float(t.max()) <= 1
    assert abs(float(t.mean()) - 0.5) < 5 * 12**-0.5 / len(t) ** 0.5
    assert all(torch.isfinite(loss) for loss in losses)


def test_dropped_labels_are_learnt_without_the_image() -> None:
    kept, dropped = _small(drop=0.0), _small(drop=1.0)
    batch, other = random_batch(), random_batch()
    other.image = 1 - other.image
    for model, same in ((kept, False), (dropped, True)):
        one, two = (model.training_loss(b, rng=torch.Generator().manual_seed(0))["loss"] for b in (batch, other))
        assert bool(torch.isclose(one, two)) is same


def test_guidance_goes_beyond_what_the_image_adds_to_the_velocity() -> None:
    plain, guided = _small().eval(), _small(guidance=0.5).eval()
    guided.load_state_dict(plain.state_dict())
    x, t = torch.randn(2, 1, 16, 16), torch.full((2,), 0.4)
    features = plain._image_features(torch.rand(2, 1, 16, 16), torch.zeros(2, 2))
    with torch.no_grad():
        given, alone = plain._predict(x, t, features), plain._predict(x, t, torch.zeros_like(features))
        torch.testing.assert_close(guided._predict(x, t, features), 1.5 * given - 0.5 * alone)


def test_the_validation_loss_is_that_of_the_velocity_without_guidance() -> None:
    plain, guided, batch = _small(drop=0.0).eval(), _small(drop=0.0, guidance=3.0).eval(), random_batch()
    guided.load_state_dict(plain.state_dict())
    one, other = (m.training_loss(batch, rng=torch.Generator().manual_seed(0))["loss"] for m in (plain, guided))
    assert torch.equal(one, other)


def test_it_draws_each_opinion_about_as_often_as_its_raters() -> None:
    batch = two_opinions()
    model = small("medfm", raters=4, drop=0.0, sampling_steps=20)
    train(model, batch, steps=500, rate=4e-3)
    shares = opinion_shares(model.eval(), batch)
    torch.testing.assert_close(shares.mean(0), torch.tensor([0.25, 0.25, 0.5, 0.0]), atol=0.15, rtol=0)
