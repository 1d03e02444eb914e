"""Representative sets: near the best of all subsets, the same in any order, with the numbers of all candidates."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from modiff.errors import MetricError
from modiff.metrics.functional import PairwiseDistances, ged
from modiff.metrics.representative import representative, support_points
from modiff.types import Samples


def discs(count: int, rng: np.random.Generator, classes: int = 1) -> torch.Tensor:
    """(1,count,classes,12,12) bool: discs of random place and size, a third of them empty."""
    y, x = np.mgrid[:12, :12]
    places, radius = rng.normal(6, 1.2, (2, count, classes)), rng.uniform(1, 5, (count, classes))
    radius *= rng.random((count, 1)) < 2 / 3
    away = np.hypot(y - places[0, ..., None, None], x - places[1, ..., None, None])
    return torch.from_numpy(away < radius[..., None, None])[None]


def distances_of(masks: torch.Tensor) -> np.ndarray:
    """Class means of 1 − IoU, two empty masks alike, by a plain loop over pairs."""
    flat = masks[0].flatten(2).numpy()
    found = np.zeros((len(flat), len(flat)))
    for i, a in enumerate(flat):
        for j, b in enumerate(flat):
            both = zip(a, b, strict=True)
            found[i, j] = np.mean([1 - (p & q).sum() / (p | q).sum() if (p | q).any() else 0 for p, q in both])
    return found


def energy(distances: np.ndarray, weights: np.ndarray, kept: np.ndarray) -> float:
    """2·E d(kept, all) − E d(kept, kept′) − E d(all, all′)."""
    among = distances[np.ix_(kept, kept)].mean()
    return float(2 * (distances[kept] @ weights).mean() - among - weights @ distances @ weights)


def test_no_subset_is_much_nearer_and_hardly_any_is_nearer_at_all():
    rng, gaps = np.random.default_rng(0), []
    for _ in range(150):
        count = int(rng.integers(4, 11))
        n, weights = int(rng.integers(1, count)), rng.dirichlet(np.full(count, 5.0))
        distances = distances_of(discs(count, rng))
        kept = support_points(distances, n, weights=weights)
        assert len(set(kept.tolist())) == n
        subsets = (np.array(subset) for subset in combinations(range(count), n))
        best = min(energy(distances, weights, subset) for subset in subsets)
        gaps.append(energy(distances, weights, kept) - best)
    assert np.mean(np.array(gaps) > 1e-9) < 0.03
    assert min(gaps) > -1e-9
    assert max(gaps) < 0.01


@pytest.mark.parametrize("classes", [1, 2])
def test_another_order_of_the_candidates_gives_the_same_set(classes):
    rng = np.random.default_rng(1)
    for _ in range(20):
        masks = discs(24, rng, classes)
        order = torch.from_numpy(rng.permutation(24))
        one, other = (representative(Samples.uniform(each.float()), 7).maps for each in (masks, masks[:, order]))
        alike = [sorted(mask.numpy().tobytes() for mask in maps[0]) for maps in (one, other)]
        assert alike[0] == alike[1]


def test_it_lowers_the_distance_to_all_candidates_below_that_of_the_first_n():
    masks = discs(64, np.random.default_rng(2))
    kept = representative(Samples.uniform(masks.float()), 16)
    assert kept.maps.shape[1] == 16
    chosen, first = (float(ged(maps, masks)) for maps in (kept.maps > 0.5, masks[:, :16]))
    assert chosen < first / 2


def test_all_candidates_are_their_own_representative_set():
    masks = discs(6, np.random.default_rng(3))
    assert torch.equal(representative(Samples.uniform(masks.float()), 6).maps, masks.float())


def test_what_is_kept_of_a_scan_is_judged_by_whole_volumes():
    flat = discs(20, np.random.default_rng(4))
    scans = flat.unflatten(3, (3, 4))  # slices one below the other are the same pixels
    kept = representative(Samples.uniform(flat.float()), 5).maps
    volumes = Samples(scans.float(), torch.full((1, 20), 1 / 20), flat.flatten(2).any(-1))
    assert torch.equal(representative(volumes, 5).maps, kept.unflatten(3, (3, 4)))


def test_the_pool_has_the_mean_and_the_presence_of_all_candidates():
    masks = discs(40, np.random.default_rng(5))
    weights = torch.from_numpy(np.random.default_rng(6).dirichlet(np.ones(40)))[None]
    samples = Samples(masks.float(), weights, masks.flatten(2).any(-1))
    kept = representative(samples, 8, pool=True)
    assert kept.pool is not None
    assert kept.pool.count == 40
    np.testing.assert_allclose(kept.pool.mean, (weights[..., None, None, None] * masks).sum(1))
    np.testing.assert_allclose(kept.pool.marking, (weights * samples.present).sum(1))
    np.testing.assert_allclose(kept.pool.fractions.sum(1), 1)
    empty = kept.pool.fractions[~kept.present].sum()  # every empty candidate is nearest to an empty one
    np.testing.assert_allclose(empty, 1 - kept.pool.marking[0])
    assert torch.equal(kept.weights, torch.full((1, 8), 1 / 8))


def test_raters_and_presence_stay_with_their_samples():
    masks = discs(12, np.random.default_rng(7))
    samples = Samples.uniform(masks.float(), raters=torch.arange(12)[None], presence=torch.tensor([0.7]))
    kept = representative(samples, 4)
    assert kept.raters is not None
    assert torch.equal(kept.maps, samples.maps[:, kept.raters[0]])
    assert torch.equal(kept.present, kept.maps.flatten(2).any(-1))
    assert kept.presence is samples.presence


def test_distances_are_those_of_ged():
    masks = discs(9, np.random.default_rng(8), classes=2)
    np.testing.assert_allclose(PairwiseDistances.of(masks).sample_sample[0], distances_of(masks))


@pytest.mark.parametrize(("shape", "n"), [((4, 4), 0), ((4, 4), 5), ((4, 3), 2)])
def test_what_cannot_be_chosen_is_refused(shape, n):
    with pytest.raises(MetricError):
        support_points(np.zeros(shape), n)
