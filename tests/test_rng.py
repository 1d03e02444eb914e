"""Counter-based random numbers: the same to the bit however they are asked for, and as good as random.

Seeds are fixed, so the statistical tests pass or fail for good; their bounds are those of chance.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from modiff.rng import fold, normal, sample_seeds, seed_for, seeds_for, uniform

MASK = 2**64 - 1
DRAWS = {"uniform": uniform, "normal": normal}
SEEDS = [0, 1, 2, -1, 2**63 - 1, -(2**63), 8419270252205988451]
seeds64 = st.integers(-(2**63), 2**63 - 1)
steady = settings(deadline=None, derandomize=True)


def mix(z: int) -> int:
    """SplitMix64's finaliser in whole numbers (Steele, Lea & Flood 2014; Vigna's splitmix64.c)."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def splitmix64(state: int, count: int) -> list[int]:
    return [mix((state + k * 0x9E3779B97F4A7C15) & MASK) for k in range(1, count + 1)]


def stream(seed: int, count: int) -> list[int]:
    return splitmix64(mix(seed & MASK), count)


def signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten().double(), b.flatten().double()]))[0, 1])


def test_the_reference_is_the_published_generator() -> None:
    assert splitmix64(0, 3) == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert splitmix64(1234567, 2) == [6457827717110365317, 3203168211198807973]


@steady
@given(seed=seeds64)
def test_uniforms_are_splitmix64(seed: int) -> None:
    expected = [((bits >> 41) + 0.5) * 2.0**-23 for bits in stream(seed, 5)]
    assert uniform(torch.tensor(seed), (5,)).tolist() == expected


@steady
@given(seed=seeds64)
def test_normals_are_box_and_mullers_of_splitmix64(seed: int) -> None:
    expected = [
        math.sqrt(-2 * math.log(((bits >> 32) + 0.5) * 2.0**-32)) * math.cos(2 * math.pi * (bits & 0xFFFFFFFF) / 2**32)
        for bits in stream(seed, 5)
    ]
    # float32 holds the radius' uniform to 2⁻²⁵, and the square root near 1 widens that.
    assert normal(torch.tensor(seed), (5,)).tolist() == pytest.approx(expected, abs=1e-3)


@steady
@given(seed=seeds64, counter=st.integers(0, 2**62))
def test_folding_is_two_rounds_of_the_mix(seed: int, counter: int) -> None:
    expected = mix((mix((seed + 0x9E3779B97F4A7C15) & MASK) + counter) & MASK)
    assert int(fold(torch.tensor(seed), counter)) == signed(expected)


def test_folding_counters_in_turn_is_folding_them_at_once() -> None:
    seeds = torch.tensor(SEEDS)
    assert torch.equal(fold(seeds, 4, 5), fold(fold(seeds, 4), 5))


def test_the_order_of_counters_matters() -> None:
    seeds = torch.tensor(SEEDS)
    assert not bool((fold(seeds, 4, 5) == fold(seeds, 5, 4)).any())


def test_counters_may_be_tensors() -> None:
    seeds = torch.tensor(SEEDS)
    together = fold(seeds[:, None], torch.arange(6))
    assert torch.equal(together, torch.stack([fold(seeds, i) for i in range(6)], dim=1))


def test_seeds_of_names_never_change() -> None:
    assert seed_for(0, "LIDC-IDRI-0001/0/12") == 8419270252205988451
    assert seed_for(7) == 8333924190356522945
    assert seed_for("a", "b") == 8945880261400226312


def test_seeds_of_samples_never_change() -> None:
    assert sample_seeds(torch.tensor([0, seed_for(0, "LIDC-IDRI-0001/0/12")]), 2).tolist() == [
        [5197578548964807871, -1547715641947990325],
        [-1864705188000747395, -6991578942081758136],
    ]


def test_uniforms_never_change() -> None:
    expected = [
        ["0x1.c441520000000p-1", "0x1.b9e27c0000000p-2", "0x1.b117400000000p-6"],
        ["0x1.83eda80000000p-3", "0x1.74f16a0000000p-1", "0x1.c288820000000p-1"],
    ]
    drawn = uniform(torch.tensor([0, 8419270252205988451]), (3,))
    assert [[value.hex() for value in row] for row in drawn.tolist()] == expected


def test_normals_never_change() -> None:
    expected = torch.tensor(
        [
            [-0.4945788085, -0.8771410584, -2.6955926418],
            [0.3518794775, -0.7370431423, 0.0019667053],
        ]
    )
    # Logarithm and cosine may differ in the last place between machines.
    torch.testing.assert_close(normal(torch.tensor([0, 8419270252205988451]), (3,)), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (1, 17, 19)])
def test_a_draw_is_the_same_alone_and_in_a_batch(draw, shape: tuple[int, ...]) -> None:
    seeds = torch.tensor(SEEDS)
    together = draw(seeds, shape)
    assert together.shape == (len(SEEDS), *shape)
    assert torch.equal(together, torch.stack([draw(seed, shape) for seed in seeds]))


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_draw_is_the_same_in_batches_of_any_size(draw, size: int) -> None:
    seeds = torch.arange(11) * 7919
    together = draw(seeds, (3, 13, 11))
    assert torch.equal(together, torch.cat([draw(part, (3, 13, 11)) for part in seeds.split(size)]))


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_draw_does_not_depend_on_the_order_of_cases(draw) -> None:
    seeds = torch.arange(11) * 7919
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    assert torch.equal(draw(seeds[order], (2, 9, 9)), draw(seeds, (2, 9, 9))[order])


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_draw_does_not_depend_on_the_memory_layout_of_seeds(draw) -> None:
    seeds = sample_seeds(torch.arange(6), 5)
    assert torch.equal(draw(seeds.T, (7,)), draw(seeds, (7,)).transpose(0, 1))


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@steady
@given(short=st.integers(1, 200))
def test_a_longer_draw_begins_as_the_shorter(draw, short: int) -> None:
    seeds = torch.tensor(SEEDS)
    assert torch.equal(draw(seeds, (short,)), draw(seeds, (200,))[:, :short])


@pytest.mark.parametrize("n", [1, 2, 16])
def test_a_sample_does_not_depend_on_how_many_are_asked_for(n: int) -> None:
    seeds = torch.tensor(SEEDS)
    assert torch.equal(sample_seeds(seeds, n), sample_seeds(seeds, 32)[:, :n])


def test_seeds_of_cases_are_seeds_of_their_names() -> None:
    assert seeds_for(3, ["b", "a"]).tolist() == [seed_for(3, "b"), seed_for(3, "a")]


def test_names_are_not_run_together() -> None:
    assert seed_for("ab", "c") != seed_for("a", "bc")


@steady
@given(st.lists(st.one_of(st.integers(), st.text()), min_size=1))
def test_a_seed_fits_a_signed_integer(parts: list[int | str]) -> None:
    assert 0 <= seed_for(*parts) < 2**63


@pytest.mark.parametrize("seed", SEEDS)
def test_uniforms_are_within_the_open_interval(seed: int) -> None:
    drawn = uniform(torch.tensor(seed), (200_000,))
    assert (float(drawn.min()) > 0, float(drawn.max()) < 1) == (True, True)


@pytest.mark.parametrize("seed", SEEDS)
def test_normals_are_finite(seed: int) -> None:
    assert bool(normal(torch.tensor(seed), (200_000,)).isfinite().all())


@pytest.mark.parametrize("seed", SEEDS)
def test_no_seed_begins_with_an_extreme_value(seed: int) -> None:
    assert abs(float(normal(torch.tensor(seed)))) < 4


@pytest.mark.parametrize("seed", SEEDS)
def test_uniforms_pass_kolmogorov_and_smirnov(seed: int) -> None:
    assert stats.kstest(uniform(torch.tensor(seed), (50_000,)).numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("seed", SEEDS)
def test_normals_pass_kolmogorov_and_smirnov(seed: int) -> None:
    assert stats.kstest(normal(torch.tensor(seed), (50_000,)).numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_first_values_of_neighbouring_seeds_pass_kolmogorov_and_smirnov(draw) -> None:
    name = "uniform" if draw is uniform else "norm"
    assert stats.kstest(draw(torch.arange(50_000)).numpy(), name).pvalue > 1e-3


def test_uniforms_have_the_moments_of_the_uniform_distribution() -> None:
    drawn = uniform(torch.arange(100), (10_000,)).double()
    assert float(drawn.mean()) == pytest.approx(1 / 2, abs=4 * math.sqrt(1 / 12 / 1e6))
    assert float(drawn.var()) == pytest.approx(1 / 12, abs=4 * math.sqrt(1 / 180 / 1e6))


def test_normals_have_the_moments_of_the_normal_distribution() -> None:
    drawn = normal(torch.arange(100), (10_000,)).double()
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert float((drawn**power).mean()) == pytest.approx(expected, abs=4 * math.sqrt(variance / 1e6))


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@pytest.mark.parametrize("step", [1, 2, 1024, -7046029254386353131, 1 << 40])
def test_neighbouring_seeds_are_uncorrelated(draw, step: int) -> None:
    # −7046029254386353131 is the generator's own increment: streams must not be each other's shifts.
    seeds = torch.arange(300) * 1_000_003
    a, b = draw(seeds, (1000,)), draw(seeds + step, (1000,))
    bound = 4.5 / math.sqrt(a.numel())
    assert abs(correlation(a, b)) < bound
    assert abs(correlation(a[:, 1:], b[:, :-1])) < bound


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@pytest.mark.parametrize("lag", [1, 2, 64, 128])
def test_neighbouring_values_are_uncorrelated(draw, lag: int) -> None:
    drawn = draw(torch.arange(300), (1000,))
    assert abs(correlation(drawn[:, lag:], drawn[:, :-lag])) < 4.5 / math.sqrt(drawn[:, lag:].numel())


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
@pytest.mark.parametrize(("first", "second"), [((0,), (1,)), ((0, 1), (1, 0)), ((3,), ()), ((0,), (0, 0))])
def test_neighbouring_counters_are_uncorrelated(draw, first: tuple[int, ...], second: tuple[int, ...]) -> None:
    seeds = torch.arange(300)
    a, b = draw(fold(seeds, *first), (1000,)), draw(fold(seeds, *second), (1000,))
    assert abs(correlation(a, b)) < 4.5 / math.sqrt(a.numel())


def test_the_squares_of_neighbours_are_uncorrelated_too() -> None:
    drawn = normal(torch.arange(300), (1000,)) ** 2
    assert abs(correlation(drawn[:, 1:], drawn[:, :-1])) < 4.5 / math.sqrt(drawn[:, 1:].numel())


def test_seeds_of_many_samples_are_all_different() -> None:
    seeds = sample_seeds(torch.arange(2000), 100).flatten()
    assert len(seeds.unique()) == len(seeds)


def test_one_bit_of_a_seed_changes_half_the_bits_of_the_next() -> None:
    seeds = torch.arange(500) * 982_451_653
    for bit in range(63):
        changed = fold(seeds, 0) ^ fold(seeds ^ (1 << bit), 0)
        count = sum((value & MASK).bit_count() for value in changed.tolist()) / 500
        assert count == pytest.approx(32, abs=5 * 4 / math.sqrt(500))
