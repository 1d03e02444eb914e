"""CCDM: its loss against enumeration, its size, its outputs, and that it learns every rater's mode."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusion_models import TINY, opinion_shares, parameter_count, random_batch, small, train, two_opinions

from modiff.types import Batch


@pytest.mark.parametrize(
    ("multipliers", "channels", "count"),
    [((1, 1, 2, 3, 4), 1, 5_699_138), ((1, 2, 2, 4, 5), 1, 9_056_610), ((1, 2, 2, 4, 5), 4, 9_057_474)],
)
def test_the_network_has_the_released_number_of_parameters(multipliers, channels, count):
    total, parts = parameter_count("ccdm", channels=channels, unet={"multipliers": list(multipliers)})
    assert total == count
    assert set(parts) == {"unet"}


def enumerated_divergence(x_t, x0, belief, betas, step):
    """Σ over pixels of KL(q(x_{k−1}|x_k,x_0) ‖ Σ_c q(x_{k−1}|x_k,c)·belief_c), by products of transition matrices."""
    classes = len(belief)
    one_step = [(1 - beta) * np.eye(classes) + beta / classes for beta in betas]
    before = np.linalg.multi_dot([np.eye(classes), np.eye(classes), *one_step[: step - 1]])  # x_0 -> x_{k−1}
    total = 0.0
    for row, column in np.ndindex(x_t.shape[1:]):
        now, truth = x_t[:, row, column].argmax(), x0[:, row, column].argmax()

        def given(clean, now=now):
            joint = before[clean] * one_step[step - 1][:, now]
            return joint / joint.sum()

        exact = given(truth)
        mixture = sum(belief[clean, row, column] * given(clean) for clean in range(classes))
        total += sum(p * np.log(p / q) for p, q in zip(exact, mixture, strict=True) if p > 0)
    return total


def test_the_loss_equals_enumeration_over_classes_and_transitions():
    model = small("ccdm", classes=2, steps=6)
    batch = random_batch(classes=2, side=4, images=5)
    seen = {}
    rng = torch.Generator().manual_seed(3)
    belief = torch.softmax(torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(4)), 1)

    def told(x_t, t, features):
        seen["x_t"], seen["step"] = x_t, (t * 6).round().int()
        return belief

    model._predict = told
    drawn = {}
    own = model._denoising_terms
    model._denoising_terms = lambda labels, rng: drawn.update(mask=labels.label) or own(labels, rng)
    loss = model.training_loss(batch, rng=rng)["loss"]
    x0 = torch.cat([1 - drawn["mask"].sum(1, keepdim=True), drawn["mask"]], 1).numpy()
    betas = model.process.schedule.betas().numpy()
    expected = np.mean(
        [
            enumerated_divergence(
                seen["x_t"][i].numpy(), x0[i], belief[i].double().numpy(), betas, int(seen["step"][i])
            )
            for i in range(5)
        ]
    )
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_labels_are_single_raters_who_read_the_image():
    model = small("ccdm", raters=3)
    masks = torch.zeros(2, 3, 1, 8, 8, dtype=torch.bool)
    for rater in range(3):
        masks[:, rater, 0, rater] = True
    batch = Batch(torch.zeros(2, 1, 8, 8), masks, torch.tensor([[True, True, False], [False, False, True]]))
    seen = []
    model._denoising_terms = lambda labels, rng: seen.append(labels.label) or {"simple": labels.image.sum() * 0}
    for seed in range(12):
        model.training_loss(batch, rng=torch.Generator().manual_seed(seed))
    marked = torch.stack(seen)[:, :, 0].any(-1)  # (draws, images, rows): which rater's row it is
    assert (marked.sum(-1) == 1).all()
    assert set(marked[:, 0].float().argmax(-1).tolist()) == {0, 1}
    assert set(marked[:, 1].float().argmax(-1).tolist()) == {2}


def test_majority_is_the_likeliest_class_of_the_confidence():
    sure = small("ccdm", classes=2, output="majority")
    soft = small("ccdm", classes=2)
    soft.load_state_dict(sure.state_dict())
    torch.nn.init.normal_(soft.unet.conv_out.weight)
    sure.load_state_dict(soft.state_dict())
    image, seeds = torch.rand(2, 1, 16, 16), torch.arange(2)
    soft, sure = soft.sample(image, 3, seeds=seeds).maps, sure.sample(image, 3, seeds=seeds).maps
    background = 1 - soft.sum(2, keepdim=True)
    best = torch.cat([background, soft], 2).argmax(2)
    for k in range(2):
        assert torch.equal(sure[:, :, k] == 1, best == k + 1)
    assert set(sure.unique().tolist()) <= {0.0, 1.0}


def test_four_images_are_learnt_with_every_raters_mode_and_its_frequency():
    unet = {**TINY["unet"], "attention": []}
    model = small("ccdm", raters=4, unet=unet, steps=50, sampling_steps=50)
    train(model, two_opinions(), steps=250, rate=3e-3)
    shares = opinion_shares(model, two_opinions()).mean(0)
    torch.testing.assert_close(shares, torch.tensor([0.25, 0.25, 0.5, 0.0]), atol=0.12, rtol=0)
