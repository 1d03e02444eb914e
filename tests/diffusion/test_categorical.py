"""Categorical diffusion against enumeration of the chain's transition matrices.

The references here are matrices: one step keeps a class with probability α and else draws any of K, and everything else
is their products and Bayes' rule. One pixel of every (x_t, x_0) stands in for a map.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from modiff.diffusion import categorical
from modiff.diffusion.schedule import Schedule

CLASSES = (2, 3, 4)
SCHEDULE = Schedule("cosine", 20)
# (alpha_bar_t, alpha_bar_s): ordinary, the chain's first step, a start without signal, both at once, barely any noise
LEVELS = [(0.3, 0.8), (0.9, 1.0), (0.0, 0.4), (0.0, 1.0), (0.9995, 0.9998)]
PAIRS = [tuple(torch.tensor(pair, dtype=torch.float64)) for pair in LEVELS]


def matrix(alpha: Tensor, classes: int) -> Tensor:
    """(K,K): row i holds the probabilities of the next class given class i."""
    return alpha * torch.eye(classes, dtype=torch.float64) + (1 - alpha) / classes


def beliefs(classes: int, count: int = 1, seed: int = 0) -> Tensor:
    """(count, K) probabilities."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, classes, generator=generator, dtype=torch.float64).softmax(1)


def level(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def one_hot(index: Tensor | list[int], classes: int) -> Tensor:
    """(n,K,1,1) float64: n maps of one pixel."""
    return torch.nn.functional.one_hot(torch.as_tensor(index), classes).double()[..., None, None]


def bayes(alpha_bar_t: Tensor, alpha_bar_s: Tensor, belief: Tensor) -> Tensor:
    """(K of x_t, K of x_s): Σ_k P(x_0 = k)·q(x_s | x_t, x_0 = k), term by term."""
    classes = len(belief)
    to_s, s_to_t = matrix(alpha_bar_s, classes), matrix(alpha_bar_t / alpha_bar_s, classes)
    result = torch.zeros(classes, classes, dtype=torch.float64)
    for k in range(classes):
        for i in range(classes):
            joint = torch.tensor([float(to_s[k, j] * s_to_t[j, i]) for j in range(classes)], dtype=torch.float64)
            result[i] += belief[k] * joint / joint.sum()
    return result


@pytest.mark.parametrize("classes", CLASSES)
def test_the_forward_process_is_the_product_of_its_steps(classes: int) -> None:
    chain = torch.eye(classes, dtype=torch.float64)
    for beta in SCHEDULE.betas()[:13]:
        chain = chain @ matrix(1 - beta, classes)
    actual = categorical.q_probs(one_hot(range(classes), classes), SCHEDULE.grid()[13])
    torch.testing.assert_close(actual[..., 0, 0], chain)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("classes", CLASSES)
def test_the_posterior_is_bayes_rule_by_enumeration(classes: int, pair: tuple[Tensor, Tensor]) -> None:
    belief = beliefs(classes)[0]
    actual = categorical.posterior(
        one_hot(range(classes), classes), belief.view(1, classes, 1, 1).expand(classes, -1, 1, 1), *pair
    )
    torch.testing.assert_close(actual[..., 0, 0], bayes(*pair, belief))


def test_the_posterior_is_not_that_of_the_mixed_clean_map() -> None:
    belief = torch.tensor([0.5, 0.5], dtype=torch.float64)
    t, s = level(0.3, 0.8)
    to_s, s_to_t = matrix(s, 2), matrix(t / s, 2)
    joint = (belief @ to_s) * s_to_t[:, 0]
    actual = categorical.posterior(one_hot([0], 2), belief.view(1, 2, 1, 1), t, s)[0, :, 0, 0]
    assert float((actual - joint / joint.sum()).abs().max()) > 0.05


@pytest.mark.parametrize("classes", CLASSES)
def test_skipping_steps_equals_walking_them(classes: int) -> None:
    # Chapman–Kolmogorov backwards: with x_0 known, single posteriors from t = 15 down to 6, every path summed.
    grid = SCHEDULE.grid()
    states = one_hot(range(classes), classes)
    for k in range(classes):
        known = one_hot([k] * classes, classes)
        walked = torch.eye(classes, dtype=torch.float64)
        for step in range(15, 6, -1):
            walked = walked @ categorical.posterior(states, known, grid[step], grid[step - 1])[..., 0, 0]
        jumped = categorical.posterior(states, known, grid[15], grid[6])[..., 0, 0]
        torch.testing.assert_close(jumped, walked)


@pytest.mark.parametrize("step", [categorical.posterior, categorical.low_noise_probs])
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("classes", CLASSES)
def test_a_step_with_the_clean_map_known_keeps_the_forward_marginal(
    step, classes: int, pair: tuple[Tensor, Tensor]
) -> None:
    t, s = pair
    for k in range(classes):
        at_t = matrix(t, classes)[k]
        moved = step(one_hot(range(classes), classes), one_hot([k] * classes, classes), t, s)[..., 0, 0]
        torch.testing.assert_close(at_t @ moved, matrix(s, classes)[k])


@pytest.mark.parametrize("classes", CLASSES)
def test_the_chains_first_step_returns_the_belief(classes: int) -> None:
    belief = beliefs(classes, classes).view(classes, classes, 1, 1)
    actual = categorical.posterior(one_hot(range(classes), classes), belief, *level(0.9, 1.0))
    torch.testing.assert_close(actual, belief)


def test_low_noise_steps_keep_more_pixels_than_the_posterior() -> None:
    x_t = one_hot([0], 2)
    steps = categorical.low_noise_probs, categorical.posterior
    low, ordinary = (float(step(x_t, one_hot([1], 2), *level(0.3, 0.8))[0, 0]) for step in steps)
    assert low > ordinary


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(
    classes=st.integers(2, 5),
    low=st.floats(0, 0.999),
    high=st.floats(0.001, 1),
    seed=st.integers(0, 1000),
)
def test_steps_give_probabilities(dtype: torch.dtype, classes: int, low: float, high: float, seed: int) -> None:
    t, s = level(*sorted((low, high)))
    belief = beliefs(classes, classes, seed).view(classes, classes, 1, 1).to(dtype)
    x_t = one_hot(range(classes), classes).to(dtype)
    for probs in (
        categorical.q_probs(belief, t),
        categorical.posterior(x_t, belief, t, s),
        categorical.low_noise_probs(x_t, belief, t, s),
    ):
        assert probs.dtype == dtype
        assert float(probs.min()) >= -1e-6
        torch.testing.assert_close(probs.sum(1), torch.ones(classes, 1, 1, dtype=dtype), rtol=0, atol=2e-5)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("classes", CLASSES)
def test_the_loss_is_torchs_divergence_of_enumerated_posteriors(classes: int, pair: tuple[Tensor, Tensor]) -> None:
    generator = torch.Generator().manual_seed(classes)
    x_t, x0 = (torch.randint(classes, (3, 4, 5), generator=generator) for _ in range(2))
    belief = beliefs(classes, 60).view(3, 4, 5, classes)
    expected = torch.zeros(3, dtype=torch.float64)
    for b, h, w in torch.cartesian_prod(torch.arange(3), torch.arange(4), torch.arange(5)).tolist():
        known = torch.eye(classes, dtype=torch.float64)[x0[b, h, w]]
        true, predicted = (bayes(*pair, p)[x_t[b, h, w]] for p in (known, belief[b, h, w]))
        expected[b] += torch.distributions.kl_divergence(
            torch.distributions.Categorical(true), torch.distributions.Categorical(predicted)
        )
    maps = [torch.nn.functional.one_hot(index, classes).permute(0, 3, 1, 2).float() for index in (x_t, x0)]
    actual = categorical.posterior_kl(*maps, belief.permute(0, 3, 1, 2).float(), *pair)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-3, atol=2e-5)


def test_the_loss_of_the_first_step_is_the_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 3, 6, 6, generator=generator)
    label = torch.randint(3, (2, 6, 6), generator=generator)
    x0 = torch.nn.functional.one_hot(label, 3).permute(0, 3, 1, 2).float()
    expected = torch.nn.functional.cross_entropy(logits, label, reduction="none").flatten(1).sum(1)
    torch.testing.assert_close(
        categorical.posterior_kl(x0.roll(1, 1), x0, logits.softmax(1), *level(0.95, 1.0)), expected
    )


def test_a_level_an_item_equals_items_one_by_one() -> None:
    x_t, x0 = one_hot([0, 1, 2], 3), one_hot([0, 2, 2], 3)
    belief = beliefs(3, 3).view(3, 3, 1, 1)
    t, s = torch.tensor([[0.1, 0.5, 0.9], [0.4, 0.6, 1.0]], dtype=torch.float64)
    together = categorical.posterior_kl(x_t, x0, belief, t, s)
    apart = [categorical.posterior_kl(x_t[i : i + 1], x0[i : i + 1], belief[i : i + 1], t[i], s[i]) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(apart))


def test_the_loss_of_the_truth_is_zero_with_a_finite_gradient() -> None:
    x0 = one_hot([0, 1], 2).float()
    belief = x0.clone().requires_grad_()
    loss = categorical.posterior_kl(one_hot([1, 1], 2).float(), x0, belief, *level(0.4, 0.7)).sum()
    loss.backward()
    assert float(loss.detach().abs()) < 1e-6
    assert bool(belief.grad.isfinite().all())


def test_a_certain_mistake_has_a_finite_loss_and_gradient() -> None:
    belief = one_hot([1], 2).float().requires_grad_()
    loss = categorical.posterior_kl(one_hot([0], 2).float(), one_hot([0], 2).float(), belief, *level(0.9, 1.0)).sum()
    loss.backward()
    assert float(loss.detach()) == pytest.approx(-math.log(1e-12), rel=1e-4)
    assert bool(belief.grad.isfinite().all())


@given(seed=st.integers(0, 1000), classes=st.integers(2, 5))
def test_a_draw_inverts_the_cumulative_distribution(seed: int, classes: int) -> None:
    probs, u = beliefs(classes, 1, seed)[0], (seed + 0.5) / 1001
    expected = next(j for j in range(classes) if u <= float(probs[: j + 1].sum()))
    drawn = categorical.sample_categorical(probs.view(1, classes, 1, 1), torch.full((1, 1, 1), u))
    assert int(drawn.argmax(1)) == expected


def test_draws_have_the_frequencies_asked_for() -> None:
    probs = torch.tensor([0.1, 0.0, 0.6, 0.3]).view(1, 4, 1, 1).expand(1, 4, 100, 100)
    evenly = ((torch.arange(10_000) + 0.5) / 10_000).view(1, 100, 100)
    frequency = categorical.sample_categorical(probs, evenly).mean((0, 2, 3))
    torch.testing.assert_close(frequency, probs[0, :, 0, 0], rtol=0, atol=2e-4)


@pytest.mark.parametrize("u", [2.0**-24, 0.5, 1 - 2.0**-24])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_an_impossible_class_is_never_drawn(position: int, u: float) -> None:
    probs = torch.tensor([0.3, 0.7])
    probs = torch.cat([probs[:position], torch.zeros(1), probs[position:]]).view(1, 3, 1, 1)
    assert float(categorical.sample_categorical(probs, torch.full((1, 1, 1), u))[0, position]) == 0


def test_draws_are_one_hot() -> None:
    u = torch.rand(2, 7, 7, generator=torch.Generator().manual_seed(0))
    for drawn in (categorical.uniform_noise(u, 3), categorical.sample_categorical(torch.ones(2, 3, 7, 7) / 3, u)):
        assert drawn.shape == (2, 3, 7, 7)
        assert torch.equal(drawn.sum(1), torch.ones(2, 7, 7))
        assert set(drawn.unique().tolist()) == {0.0, 1.0}


def test_starting_noise_has_all_classes_alike() -> None:
    evenly = ((torch.arange(9000) + 0.5) / 9000).view(1, 90, 100)
    frequency = categorical.uniform_noise(evenly, 3).mean((0, 2, 3))
    torch.testing.assert_close(frequency, torch.full((3,), 1 / 3), rtol=0, atol=2e-4)


def test_draws_do_not_need_normalised_probabilities() -> None:
    probs = beliefs(4, 30).T.reshape(1, 4, 5, 6) * 7
    u = torch.rand(1, 5, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    normalised = categorical.sample_categorical(probs / probs.sum(1, keepdim=True), u)
    assert torch.equal(categorical.sample_categorical(probs, u), normalised)


def test_ties_go_to_the_background() -> None:
    probs = torch.tensor([[0.4, 0.4, 0.2], [0.2, 0.4, 0.4], [0.5, 0.5, 0.0]])[..., None, None]
    assert categorical.majority(probs)[..., 0, 0].tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 0]]
