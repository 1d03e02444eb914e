"""Processes as objects: what holds of each kind, whatever the network."""

from __future__ import annotations

import pytest
import torch

from modiff.diffusion.categorical import CategoricalProcess
from modiff.diffusion.gaussian import GaussianProcess, LearnedVarianceProcess
from modiff.diffusion.process import Process
from modiff.diffusion.schedule import Schedule
from modiff.errors import ConfigError
from modiff.nn.windows import NoiseField

SCHEDULE = Schedule("cosine", steps=50)
PROCESSES = {
    "x0": GaussianProcess(SCHEDULE, 2, prediction="x0"),
    "x0-ddim": GaussianProcess(SCHEDULE, 2, prediction="x0", sampler="ddim"),
    "categorical": CategoricalProcess(SCHEDULE, 2),
    "categorical-ddim": CategoricalProcess(SCHEDULE, 2, sampler="ddim"),
}
each_process = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)


def label_maps(count: int = 3, side: int = 6) -> torch.Tensor:
    """Two foreground classes that exclude each other, as 0 and 1."""
    index = torch.randint(0, 3, (count, side, side), generator=torch.Generator().manual_seed(0))
    return torch.stack([index == 1, index == 2], 1).float()


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@each_process
def test_labels_come_back_from_clean_maps(process: Process) -> None:
    assert torch.equal(process.to_labels(process.from_labels(label_maps())), label_maps())


@each_process
def test_a_network_of_foreground_channels_sees_clean_maps_as_plus_or_minus_one(process: Process) -> None:
    x0 = process.from_labels(label_maps())
    assert torch.equal(process.to_network(x0), label_maps() * 2 - 1)
    torch.testing.assert_close(process.from_network(process.to_network(x0)), x0)


@each_process
def test_without_time_nothing_diffuses(process: Process) -> None:
    x0 = process.from_labels(label_maps())
    assert torch.equal(process.diffuse(x0, torch.zeros(3), process.noise(x0, rng())), x0)


@each_process
def test_a_step_of_the_chain_is_the_time_k_over_T(process: Process) -> None:
    x0, step = process.from_labels(label_maps()), torch.tensor([1, 20, 50])
    noise = process.noise(x0, rng())
    torch.testing.assert_close(process.diffuse(x0, step, noise), process.diffuse(x0, step.double() / 50, noise))


@each_process
@pytest.mark.parametrize("steps", [1, 3, 50])
def test_a_network_that_knows_the_answer_is_sampled_to_it(process: Process, steps: int) -> None:
    known = process.from_labels(label_maps())
    drawn = process.sample(lambda x_t, t: known, NoiseField(torch.arange(3), (6, 6)), steps)
    torch.testing.assert_close(drawn, label_maps())


@pytest.mark.parametrize("process", [GaussianProcess(SCHEDULE, 2), CategoricalProcess(SCHEDULE, 2)])
def test_the_right_prediction_has_no_loss(process: Process) -> None:
    x0, step = process.from_labels(label_maps()), torch.tensor([2, 20, 49])
    noise = process.noise(x0, rng())
    right = noise if isinstance(process, GaussianProcess) else x0
    loss = process.loss(right, x0, process.diffuse(x0, step, noise), step, noise)
    torch.testing.assert_close(loss, torch.zeros(3), atol=1e-5, rtol=0)


def test_more_steps_than_the_chain_has_are_refused() -> None:
    with pytest.raises(ConfigError, match="50"):
        GaussianProcess(SCHEDULE, 1, "trailing").times(51)


def test_without_the_variance_a_learned_one_samples_as_plain_ddim() -> None:
    plain = GaussianProcess(SCHEDULE, 2, sampler="ddim")
    learned = LearnedVarianceProcess(SCHEDULE, 2, sampler="ddim")
    field = NoiseField(torch.arange(3), (6, 6))
    eps = plain.sample(lambda x_t, t: x_t * 0.5, field, 4)
    both = learned.sample(lambda x_t, t: torch.cat([x_t * 0.5, torch.ones_like(x_t)], 1), field, 4)
    assert torch.equal(eps, both)
