"""MoSE: the transport loss against exact solvers, the cap's schedule, published sizes, sampling, what it learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from latent_helpers import (
    behind_normalisation,
    modes_of,
    parameters_of,
    random_batch,
    settle,
    train,
    two_readings,
    untouched,
)
from scipy.optimize import linprog
from torch import Tensor

from modiff.config.methods import MoSEConfig
from modiff.config.run import build_config
from modiff.errors import ConfigError
from modiff.methods.latent import mose
from modiff.methods.latent.mose import MoSE, mass_divergence
from modiff.methods.marking import first_marking
from modiff.methods.registry import build
from modiff.nn.losses import CapSchedule, greedy_coupling, iou_cost
from modiff.training.optimizer import EMA
from modiff.types import DataSpec, Samples, marks

SMALL = MoSEConfig(channels=(6, 8, 10), experts=3, samples_per_expert=2)


def _model(config: MoSEConfig = SMALL, *, channels: int = 1, classes: int = 1) -> MoSE:
    torch.manual_seed(0)
    return MoSE(config, DataSpec.of(channels=channels, classes=classes, raters=3))


def _rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _cost(seed: int, *, batch: int = 3, samples: int = 6, raters: int = 4) -> Tensor:
    return torch.rand(batch, samples, raters, generator=_rng(seed), dtype=torch.float64)


def _even(cost: Tensor) -> Tensor:
    return torch.full((cost.shape[0], cost.shape[2]), 1 / cost.shape[2], dtype=cost.dtype)


def _exact(cost: np.ndarray, mass: np.ndarray, cap: float) -> float:
    """The cheapest transport of the raters' mass with no sample taking more than the cap, by linear programming."""
    samples, raters = cost.shape
    received, given_away = np.zeros((samples, samples * raters)), np.zeros((raters, samples * raters))
    for i in range(samples):
        received[i, i * raters : (i + 1) * raters] = 1
    for j in range(raters):
        given_away[j, j::raters] = 1
    solution = linprog(cost.ravel(), A_ub=received, b_ub=np.full(samples, cap), A_eq=given_away, b_eq=mass)
    assert solution.success
    return float(solution.fun)


def _poured(cost: np.ndarray, mass: np.ndarray, cap: float) -> np.ndarray:
    """The greedy rule word by word: raters by their smallest cost, each into its nearest samples with room."""
    coupling = np.zeros_like(cost)
    for rater in np.argsort(cost.min(0), kind="stable"):
        left = mass[rater]
        for sample in np.argsort(cost[:, rater], kind="stable"):
            amount = min(cap - coupling[sample].sum(), left)
            if amount > 0:
                coupling[sample, rater] = amount
                left -= amount
    return coupling


# The cost


def test_the_cost_is_one_less_the_smoothed_overlap() -> None:
    samples, masks = torch.zeros(1, 2, 1, 2, 2), torch.zeros(1, 2, 1, 2, 2, dtype=torch.bool)
    samples[0, 0, 0, 0] = 1  # the upper two pixels; sample 1 is empty
    masks[0, 0, 0, :, 0] = True  # the left two pixels; rater 1 marks nothing
    by_hand = torch.tensor([[1 - 2 / 4, 1 - 1 / 3], [1 - 1 / 3, 0.0]])
    torch.testing.assert_close(iou_cost(samples, masks)[0], by_hand)


def test_the_cost_of_several_classes_is_their_mean() -> None:
    samples, masks = torch.rand(2, 3, 2, 4, 4), torch.rand(2, 5, 2, 4, 4) < 0.4
    each = [iou_cost(samples[:, :, [k]], masks[:, :, [k]]) for k in range(2)]
    torch.testing.assert_close(iou_cost(samples, masks), (each[0] + each[1]) / 2)


# The coupling


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("cap", [0.25, 0.3, 0.5, 1.0])
def test_the_coupling_equals_the_rule_followed_word_by_word(seed: int, cap: float) -> None:
    cost = _cost(seed)
    made = greedy_coupling(cost, _even(cost), cap)
    for item in range(3):
        np.testing.assert_allclose(made[item], _poured(cost[item].numpy(), np.full(4, 0.25), cap), atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_a_cap_that_does_not_bind_gives_the_exact_optimum(seed: int) -> None:
    cost = _cost(seed)
    total = (greedy_coupling(cost, _even(cost), 1.0) * cost).sum((1, 2))
    exact = [_exact(cost[item].numpy(), np.full(4, 0.25), 1.0) for item in range(3)]
    np.testing.assert_allclose(total, exact, atol=1e-9)


@pytest.mark.parametrize("cap", [0.2, 0.4, 0.7])
def test_one_raters_coupling_is_the_exact_optimum_under_any_cap(cap: float) -> None:
    cost = _cost(1, raters=1)
    total = (greedy_coupling(cost, _even(cost), cap) * cost).sum((1, 2))
    np.testing.assert_allclose(total, [_exact(c.numpy(), np.ones(1), cap) for c in cost], atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), cap=st.sampled_from([0.2, 0.25, 0.5, 0.8]))
def test_the_coupling_is_a_transport_that_costs_at_least_the_optimum(seed: int, cap: float) -> None:
    cost = _cost(seed, batch=1)
    made = greedy_coupling(cost, _even(cost), cap)[0]
    torch.testing.assert_close(made.sum(0), torch.full((4,), 0.25, dtype=torch.float64))
    assert made.min() >= 0
    assert made.sum(1).max() <= cap + 1e-9
    assert (made * cost[0]).sum() >= _exact(cost[0].numpy(), np.full(4, 0.25), cap) - 1e-9


def test_a_worked_case() -> None:
    """Rater 0, nearest of all, fills sample 0 to the cap and spills into sample 1; rater 1 takes the room left."""
    cost = torch.tensor([[[0.1, 0.2], [0.3, 0.25], [0.9, 0.8]]])
    made = greedy_coupling(cost, torch.tensor([[0.5, 0.5]]), 0.4)
    torch.testing.assert_close(made[0], torch.tensor([[0.4, 0.0], [0.1, 0.3], [0.0, 0.2]]))


def test_raters_who_did_not_read_send_nothing() -> None:
    cost = _cost(2)
    mass = _even(cost)
    mass[:, 1] = 0
    mass = mass / mass.sum(1, keepdim=True)
    made = greedy_coupling(cost, mass, 0.5)
    assert not made[:, :, 1].any()
    torch.testing.assert_close(made.sum((1, 2)), torch.ones(3, dtype=torch.float64))


# The cap's schedule


def _schedule(patience: int = 2) -> CapSchedule:
    return CapSchedule(0.5, 1.0, window=10, patience=patience)


def test_the_cap_changes_once_the_loss_stalls_for_more_than_the_patience() -> None:
    schedule, caps = _schedule(), []
    for loss in (3.0, 2.0, 2.0, 1.9, 1.9, 1.95, 1.9, 0.5):
        schedule.update(torch.tensor(loss), 10)
        caps.append(float(schedule.cap))
    assert caps == [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 1.0, 1.0]


def test_losses_are_averaged_over_a_window_of_images() -> None:
    schedule = _schedule()
    for loss, images in ((1.0, 4), (4.0, 8)):
        schedule.update(torch.tensor(loss), images)
    torch.testing.assert_close(schedule.best, torch.tensor((1.0 * 4 + 4.0 * 8) / 12))


def test_a_schedule_restored_in_the_middle_continues_as_if_nothing_had_happened() -> None:
    whole, losses = _schedule(), torch.rand(60, generator=_rng(4))
    for loss in losses:
        whole.update(loss, 4)
    first, second = _schedule(), _schedule()
    for loss in losses[:31]:
        first.update(loss, 4)
    second.load_state_dict(first.state_dict())
    for loss in losses[31:]:
        second.update(loss, 4)
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in whole.state_dict().items())


def test_the_moving_average_of_weights_takes_the_cap_over_unmixed() -> None:
    model = _model()
    average = EMA(model, 0.999)
    model.cap.stage.fill_(1)
    average.update(model, 1000)
    assert float(average.module.cap.cap) == 1.0


def test_the_schedules_state_can_be_published() -> None:
    state = _model().state_dict()
    assert {name for name in state if name.startswith("cap.")} == {
        f"cap.{name}" for name in ("stage", "stalled", "images", "total", "best")
    }
    assert all(value.to(torch.bfloat16).isfinite().all() for value in state.values() if value.is_floating_point())


def test_training_counts_and_validation_does_not() -> None:
    model, batch = _model(), random_batch()
    model.training_loss(batch, rng=_rng())
    assert int(model.cap.images) == 4
    model.eval().training_loss(batch, rng=_rng())
    assert int(model.cap.images) == 4


# The method


@pytest.mark.parametrize(("channels", "expected"), [(1, 9_321_195), (4, 9_322_059)])
def test_parameters_are_those_of_the_published_network(channels: int, expected: int) -> None:
    assert parameters_of(MoSE, MoSEConfig(), channels=channels) == expected


def test_the_preset_builds_the_published_network() -> None:
    config = build_config(preset="mose")
    with torch.device("meta"):
        model = build(config.method, config.model, DataSpec.of())
    assert sum(parameter.numel() for parameter in model.parameters()) == 9_321_195


def test_experts_start_apart() -> None:
    model = _model(replace(SMALL, experts=4))
    assert model.mean[:2, 0].tolist() == [0.0, 1.0]
    torch.testing.assert_close(model.log_sigma.exp(), torch.full((4, 1), 1 / 8))


def test_the_loss_is_transport_and_the_divergence_of_the_mass_received() -> None:
    model, batch = _model(replace(SMALL, beta=2.0)).eval(), random_batch()
    seen: dict[str, Tensor] = {}
    decode = model._decode
    model._decode = lambda encoding, z: seen.setdefault("maps", decode(encoding, z))  # type: ignore[method-assign]
    terms = model.training_loss(batch, rng=_rng())
    cost = iou_cost(seen["maps"], batch.masks).double()
    weights = model.encode(batch.image).latent.repeat(1, 2) / 2
    total = 0.0
    for item in range(4):
        coupling = _poured(cost[item].detach().numpy(), np.full(3, 1 / 3), 0.5)
        received, expected = coupling.sum(1), weights[item].detach().numpy()
        some = received > 0
        divergence = (received[some] * np.log(received[some] / expected[some])).sum()
        total += (coupling * cost[item].detach().numpy()).sum() + 2 * divergence
    assert terms["loss"].item() == pytest.approx(total / 4, rel=1e-4)


def test_mass_divergence_is_zero_where_the_mass_agrees() -> None:
    weights = torch.tensor([[0.2, 0.8, 0.0]])
    torch.testing.assert_close(mass_divergence(weights, weights), torch.zeros(1))


def test_the_released_divergence_is_divided_by_the_number_of_samples() -> None:
    batch = random_batch()
    exact, released = (_model(replace(SMALL, kl_reduction=kind)) for kind in ("sum", "mean"))
    terms = [model.training_loss(batch, rng=_rng()) for model in (exact, released)]
    torch.testing.assert_close(terms[1]["kl"], terms[0]["kl"] / 6)


def test_raters_who_did_not_read_do_not_count() -> None:
    model, batch = _model().eval(), random_batch()
    batch.read[:, 2] = False
    before = model.training_loss(batch, rng=_rng())["loss"]
    batch.masks[:, 2] = ~batch.masks[:, 2]
    torch.testing.assert_close(model.training_loss(batch, rng=_rng())["loss"], before)


@pytest.mark.parametrize(("channels", "classes"), [(1, 1), (4, 1), (1, 2)])
def test_gradients_reach_every_parameter(channels: int, classes: int) -> None:
    model = _model(channels=channels, classes=classes)
    batch = random_batch(8, channels=channels, classes=classes)
    model.training_loss(batch, rng=_rng())["loss"].backward()
    assert untouched(model) <= behind_normalisation(model)


@pytest.mark.parametrize(("channels", "classes", "size"), [(1, 1, (16, 16)), (4, 2, (13, 18))])
@pytest.mark.parametrize("sampling", ["standard", "compact"])
def test_samples_are_probabilities_of_the_images_size(
    channels: int, classes: int, size: tuple[int, int], sampling: str
) -> None:
    model = _model(replace(SMALL, sampling=sampling), channels=channels, classes=classes).eval()
    samples = model.sample(torch.rand(2, channels, *size), 5, seeds=torch.tensor([3, 4]))
    assert samples.maps.shape == (2, 5, classes, *size)
    assert samples.maps.min() >= 0
    assert samples.maps.sum(2).max() <= 1 + 1e-5
    torch.testing.assert_close(samples.weights.sum(1), torch.ones(2))


@pytest.mark.parametrize("sampling", ["standard", "compact"])
def test_a_sample_depends_neither_on_the_batch_nor_on_n(sampling: str) -> None:
    model, image = _model(replace(SMALL, sampling=sampling)).eval(), random_batch().image
    many = model.sample(image, 8, seeds=torch.arange(4)).maps
    one = model.sample(image[2:3], 3, seeds=torch.tensor([2])).maps
    torch.testing.assert_close(one[0], many[2, :3], atol=1e-4, rtol=0)


def test_samples_drawn_in_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, image = _model().eval(), random_batch().image
    whole = model.sample(image, 5, seeds=torch.arange(4)).maps
    monkeypatch.setattr("modiff.methods.base._MOST_BYTES", 4)
    torch.testing.assert_close(model.sample(image, 5, seeds=torch.arange(4)).maps, whole)


def test_standard_sampling_draws_experts_by_the_gatings_probabilities() -> None:
    chance = torch.tensor([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]])
    who = _model()._experts_of(chance, torch.arange(2 * 4000).view(2, 4000))
    fractions = torch.stack([(who == expert).float().mean(1) for expert in range(3)], 1)
    assert (fractions - chance).abs().max() < 5 * 0.5 / 4000**0.5


def test_compact_sampling_weighs_each_expert_by_its_probability() -> None:
    model, image = _model(replace(SMALL, sampling="compact")).eval(), random_batch(2).image
    encoding = model.encode(image)
    weights = model.sample(encoding, 7, seeds=torch.tensor([1, 2])).weights
    fractions = torch.stack([weights[:, expert::3].sum(1) for expert in range(3)], 1)
    torch.testing.assert_close(fractions, encoding.latent)


def test_experts_begin_at_the_nearest_corners_first() -> None:
    means = mose._initial_means(5, 64)
    assert means[:4, :3].tolist() == [[0, 0, 0], [1, 0, 0], [0, 2, 0], [1, 2, 0]]
    assert means[:, 3:].abs().max() == 0
    assert mose._initial_means(5, 2)[4].max() < 1


@pytest.mark.parametrize("n", [3, 4, 5, 7, 8])
def test_the_first_of_more_compact_samples_weigh_as_if_drawn_alone(n: int) -> None:
    model, image = _model(replace(SMALL, sampling="compact")).eval(), random_batch(2).image
    encoding, seeds = model.encode(image), torch.tensor([1, 2])
    alone, more = model.sample(encoding, n, seeds=seeds), model.sample(encoding, 8, seeds=seeds)
    torch.testing.assert_close(more.first(n).weights, alone.weights)
    torch.testing.assert_close(more.first(n).maps, alone.maps)


def test_compact_samples_that_mark_keep_the_experts_probabilities() -> None:
    """Of 8 samples of experts 0, 1, 2, 0, …, the first five that mark something are 0, 1, 3, 4, 6."""
    maps = torch.ones(1, 8, 1, 2, 2)
    maps[0, [2, 5]] = 0  # expert 2 never marks
    chance, part = torch.tensor([0.5, 0.2, 0.3]), torch.arange(8)[None] % 3
    drawn = Samples(maps, (chance / part[0].bincount())[part], marks(maps), part=part)
    torch.testing.assert_close(drawn.weights.sum(), torch.tensor(1.0))
    found, count = first_marking(drawn, 5)
    assert (found.part.tolist(), count.tolist()) == ([[0, 0 + 1, 0, 1, 0]], [5])
    for expert, expected in ((0, 0.5 / 0.7), (1, 0.2 / 0.7)):  # P(expert | it marks)
        torch.testing.assert_close(found.weights[found.part == expert].sum(), torch.tensor(expected))


def test_compact_sampling_needs_a_sample_per_expert() -> None:
    model = _model(replace(SMALL, sampling="compact")).eval()
    with pytest.raises(ConfigError, match="at least 3"):
        model.sample(random_batch(1).image, 2, seeds=torch.tensor([1]))


def test_the_images_work_is_done_once_for_all_samples() -> None:
    model, calls = _model().eval(), []
    for name in ("unet", "gating"):
        getattr(model, name).register_forward_hook(lambda *_, name=name: calls.append(name))
    encoding = model.encode(random_batch(2).image)
    for _ in range(2):
        model.sample(encoding, 8, seeds=torch.tensor([1, 2]))
    assert sorted(calls) == ["gating", "unet"]


def test_raters_other_than_single_are_refused() -> None:
    with pytest.raises(ConfigError, match="raters"):
        _model().eval().sample(random_batch(1).image, 4, seeds=torch.tensor([1]), raters="all")


@pytest.mark.parametrize("change", [{"cap_start": 0.1}, {"cap_end": 1.5}, {"channels": ()}])
def test_settings_that_hold_no_coupling_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        _model(replace(SMALL, **change))


def test_one_image_alone_cannot_be_trained_on() -> None:
    with pytest.raises(ConfigError, match="batch_size"):
        _model().training_loss(random_batch(1), rng=_rng())


def test_it_learns_both_readings_of_four_images_and_not_their_mean() -> None:
    """From one of three starts at least: in so short a training one expert may take all."""
    batch, config = two_readings(), MoSEConfig(channels=(8, 16), samples_per_expert=1)
    fractions = []
    for seed in range(3):
        torch.manual_seed(seed)
        modes = modes_of(settle(train(MoSE(config, DataSpec.of()), batch, steps=80, rate=1e-2), batch), batch)
        assert (modes.iou > 0.7).float().mean() > 0.8
        fractions.append((float(modes.large.min()), float(modes.large.max())))
    assert any(low > 0.1 and high < 0.9 for low, high in fractions), fractions


def test_the_cap_sees_the_images_of_all_processes(monkeypatch):
    """Another process has two images of mean loss 6 beside this one's four of mean loss 3."""
    other = torch.tensor([12.0, 2.0], dtype=torch.float64)
    monkeypatch.setattr(mose.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(mose.distributed, "all_reduce", lambda both: both.add_(other))
    loss, images = mose._over_processes(torch.tensor(3.0), 4)
    assert (loss.item(), images) == (4.0, 6)
