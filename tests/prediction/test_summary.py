"""The summary against closed forms: known masks with known frequencies."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modiff.errors import ConfigError, DataError
from modiff.prediction.summary import percent, size_number, summarise
from modiff.types import Samples


def square(side: int, at: int = 2, size: int = 16) -> torch.Tensor:
    mask = torch.zeros(size, size)
    mask[at : at + side, at : at + side] = 1
    return mask


def samples_of(masks: list[torch.Tensor], weights: list[float] | None = None, **more: Any) -> Samples:
    """K = 1 samples of these masks."""
    samples = Samples.uniform(torch.stack(masks)[None, :, None], **more)
    if weights is not None:
        samples.weights = torch.tensor([weights])
    return samples


# Three masks far apart, 3 : 4 : 1, and nothing in 2 of 10.
SMALL, LARGE, ELSEWHERE, NOTHING = square(2), square(5), square(3, at=12), square(0)
MIXED = [SMALL, LARGE, NOTHING, LARGE, SMALL, ELSEWHERE, LARGE, NOTHING, LARGE, SMALL]


class TestPresence:
    """The model's own presence and the hypotheses are one distribution."""

    def shared(self, masks, presence, **more):
        return summarise(samples_of(masks, presence=torch.tensor([presence])), **more)

    def test_nothing_there_has_the_rest_and_the_others_share_presence(self):
        summary = self.shared(MIXED, 0.5)
        found = {hypothesis.members: hypothesis.probability for hypothesis in summary.hypotheses}
        assert found == pytest.approx({(2, 7): 0.5, (1, 3, 6, 8): 0.25, (0, 4, 9): 0.1875, (5,): 0.0625})
        assert summary.hypotheses[0].nothing
        assert summary.unseen is None
        assert summary.to_dict()["presence"] == {"probability": 0.5, "from": "model", "of_samples": pytest.approx(0.8)}

    def test_what_no_sample_shows_is_said(self):
        probability, words = self.shared([SMALL, SMALL], 0.75).unseen
        assert (probability, words) == (pytest.approx(0.25), "nothing there")
        probability, words = self.shared([NOTHING, NOTHING], 0.25).unseen
        assert (probability, words) == (pytest.approx(0.25), "marks that no sample shows")

    @pytest.mark.parametrize("threshold", [None, 0.9])
    def test_without_a_presence_of_its_own_it_is_that_of_the_masks_shown(self, threshold):
        summary = summarise(samples_of([SMALL, 0.8 * LARGE, NOTHING, NOTHING]), threshold=threshold)
        nothing = sum(hypothesis.probability for hypothesis in summary.hypotheses if hypothesis.nothing)
        assert summary.presence_from == "samples"
        assert summary.presence == pytest.approx(1 - nothing)

    @given(st.floats(0, 1), st.lists(st.booleans(), min_size=1, max_size=9))
    def test_all_probabilities_sum_to_1(self, presence, marks):
        summary = self.shared([SMALL if mark else NOTHING for mark in marks], presence)
        rest = summary.unseen[0] if summary.unseen else 0
        assert sum(hypothesis.probability for hypothesis in summary.hypotheses) + rest == pytest.approx(1)


class TestHypotheses:
    def test_known_masks_come_with_their_frequencies(self):
        found = summarise(samples_of(MIXED)).hypotheses
        assert [hypothesis.probability for hypothesis in found] == pytest.approx([0.4, 0.3, 0.2, 0.1])
        assert [hypothesis.members for hypothesis in found] == [(1, 3, 6, 8), (0, 4, 9), (2, 7), (5,)]
        for hypothesis, mask in zip(found, (LARGE, SMALL, NOTHING, ELSEWHERE), strict=True):
            np.testing.assert_array_equal(hypothesis.mask[0], mask.bool().numpy())
        assert [hypothesis.nothing for hypothesis in found] == [False, False, True, False]

    def test_weights_take_the_place_of_counts(self):
        weighted = summarise(samples_of([SMALL, LARGE, NOTHING, ELSEWHERE], [0.3, 0.4, 0.2, 0.1])).hypotheses
        counted = summarise(samples_of(MIXED)).hypotheses
        for one, other in zip(weighted, counted, strict=True):
            assert one.probability == pytest.approx(other.probability)
            np.testing.assert_array_equal(one.mask, other.mask)

    def test_the_medoid_is_nearest_to_the_others(self):
        # Squares of 4, 5 and 6 overlap the middle one most: IoU 16/25 and 25/36, the outer two 16/36.
        found = summarise(samples_of([square(4), square(5), square(6)]), distinct=1).hypotheses
        assert len(found) == 1
        assert found[0].medoid == 1

    def test_weights_move_the_medoid(self):
        found = summarise(samples_of([square(4), square(5), square(6)], [0.9, 0.05, 0.05]), distinct=1).hypotheses
        assert found[0].medoid == 0

    def test_masks_at_the_threshold_are_one_hypothesis_and_above_it_two(self):
        masks = [square(4), square(6)]
        between, length = 36 - 16, (16 + 24) / 2 * math.pi / 4
        assert len(summarise(samples_of(masks), distinct=between / length).hypotheses) == 1
        assert len(summarise(samples_of(masks), distinct=between / length - 1e-6).hypotheses) == 2

    def test_nothing_never_joins_something(self):
        found = summarise(samples_of([NOTHING, square(1), NOTHING])).hypotheses
        assert [(hypothesis.nothing, hypothesis.members) for hypothesis in found] == [(True, (0, 2)), (False, (1,))]

    def test_disjoint_marks_of_one_class_differ_though_they_agree_that_other_classes_are_absent(self):
        maps = torch.zeros(1, 2, 5, 16, 16)
        maps[0, 0, 0], maps[0, 1, 0] = SMALL, ELSEWHERE
        summary = summarise(Samples.uniform(maps))
        assert len(summary.hypotheses) == 2
        assert summary.agreement == 0

    def test_one_sample_is_certain(self):
        summary = summarise(samples_of([SMALL]))
        assert [hypothesis.probability for hypothesis in summary.hypotheses] == [1.0]
        assert summary.agreement is None

    @given(st.integers(0, 2**32 - 1), st.integers(1, 12))
    @settings(max_examples=40, deadline=None)
    def test_groups_part_the_samples_and_probabilities_sum_to_1(self, seed, n):
        rng = torch.Generator().manual_seed(seed)
        maps = torch.rand(1, n, 2, 6, 6, generator=rng) * torch.randint(0, 2, (1, n, 2, 1, 1), generator=rng)
        samples = Samples.uniform(maps)
        samples.weights = torch.rand(1, n, generator=rng) + 1e-3
        found = summarise(samples, threshold=0.7).hypotheses
        assert sorted(itertools.chain(*(hypothesis.members for hypothesis in found))) == list(range(n))
        assert sum(hypothesis.probability for hypothesis in found) == pytest.approx(1)
        assert all(hypothesis.medoid in hypothesis.members for hypothesis in found)
        assert [h.probability for h in found] == sorted((h.probability for h in found), reverse=True)


class TestMaps:
    def test_the_mean_is_weighted(self):
        summary = summarise(samples_of([SMALL, LARGE], [1.0, 3.0]))
        np.testing.assert_allclose(summary.mean[0], (SMALL + 3 * LARGE).numpy() / 4)

    def test_the_consensus_is_the_majority_and_a_tie_is_background(self):
        assert not summarise(samples_of([SMALL, NOTHING])).consensus.any()
        np.testing.assert_array_equal(summarise(samples_of([SMALL, SMALL, NOTHING])).consensus[0], SMALL.bool())

    @pytest.mark.parametrize("half", range(1, 40))
    def test_a_tie_is_background_whatever_the_rounding_of_weights(self, half):
        assert not summarise(samples_of([SMALL] * half + [NOTHING] * half)).consensus.any()
        assert summarise(samples_of([SMALL] * (half + 1) + [NOTHING] * half)).consensus.sum() == 4

    def test_the_consensus_of_several_classes_is_the_argmax(self):
        maps = torch.zeros(1, 1, 2, 1, 3)
        maps[0, 0, :, 0] = torch.tensor([[0.4, 0.2, 0.1], [0.3, 0.5, 0.2]])
        np.testing.assert_array_equal(summarise(Samples.uniform(maps)).consensus[:, 0], [[1, 0, 0], [0, 1, 0]])

    @pytest.mark.parametrize(
        ("p", "bits"), [(0.0, 0.0), (1.0, 0.0), (0.5, 1.0), (0.25, 0.25 * 2 + 0.75 * math.log2(4 / 3))]
    )
    def test_entropy_of_one_class(self, p, bits):
        found = summarise(Samples.uniform(torch.full((1, 1, 1, 1, 1), p))).entropy
        assert found.item() == pytest.approx(bits, abs=1e-7)

    def test_entropy_of_several_classes_counts_the_background(self):
        for mean, bits in (([0.25, 0.25, 0.25], 2), ([0.5, 0.5], 1)):
            maps = torch.tensor(mean).view(1, 1, -1, 1, 1)
            assert summarise(Samples.uniform(maps)).entropy.item() == pytest.approx(bits)


class TestNumbers:
    def test_agreement_is_the_mean_iou_of_pairs_by_brute_force(self):
        masks = [square(side).bool() for side in (0, 0, 3, 4, 5)]
        ious = [
            1.0 if not (a | b).any() else float((a & b).sum() / (a | b).sum())
            for a, b in itertools.combinations(masks, 2)
        ]
        summary = summarise(samples_of([mask.float() for mask in masks]))
        assert summary.agreement == pytest.approx(np.mean(ious))

    def test_agreement_is_weighted_over_pairs(self):
        summary = summarise(samples_of([square(2), square(4), NOTHING], [0.5, 0.3, 0.2]))
        pairs = {0.25: 0.5 * 0.3, 0.0: 0.5 * 0.2 + 0.3 * 0.2}
        assert summary.agreement == pytest.approx(sum(iou * w for iou, w in pairs.items()) / sum(pairs.values()))

    def test_samples_that_all_mark_nothing_agree(self):
        assert summarise(samples_of([NOTHING] * 3)).agreement == 1

    def test_area_quantiles_are_areas_of_samples(self):
        summary = summarise(samples_of([square(side) for side in range(1, 11)]))
        np.testing.assert_array_equal(summary.area_quantiles(0), [1, 9, 25, 64, 100])

    def test_area_where_marked_leaves_empty_samples_out(self):
        summary = summarise(samples_of([NOTHING] * 6 + [square(2)] * 4))
        assert summary.area_quantiles(0)[2] == 0
        assert summary.area_quantiles(0, marked=True)[2] == 4
        assert summarise(samples_of([NOTHING])).area_quantiles(0, marked=True) is None

    def test_area_quantiles_are_weighted(self):
        summary = summarise(samples_of([square(1), square(2), square(3)], [0.1, 0.1, 0.8]))
        np.testing.assert_array_equal(summary.area_quantiles(0), [1, 9, 9, 9, 9])

    def test_areas_in_mm2_follow_from_the_spacing(self):
        found = summarise(samples_of([square(4)]), spacing=(0.5, 2.0)).to_dict()
        assert found["classes"]["foreground"]["area_mm2"]["q50"] == 16.0
        assert found["hypotheses"][0]["area_mm2"] == {"foreground": 16.0}

    def test_without_a_spacing_there_are_no_mm2(self):
        assert "area_mm2" not in summarise(samples_of([square(4)])).to_dict()["classes"]["foreground"]

    def test_presence_is_the_models_own_where_it_has_one(self):
        own = samples_of(MIXED, presence=torch.tensor([0.75]))
        summary = summarise(own)
        assert (summary.presence, summary.presence_from) == (0.75, "model")

    def test_presence_is_else_the_share_of_samples(self):
        summary = summarise(samples_of([SMALL, NOTHING], [0.7, 0.3]))
        assert summary.presence == pytest.approx(0.7)
        assert summary.presence_from == "samples"

    def test_the_threshold_decides_the_samples_masks(self):
        maps = [0.6 * SMALL, 0.95 * SMALL]
        assert summarise(samples_of(maps)).areas.tolist() == [[4], [4]]
        assert summarise(samples_of(maps), threshold=0.9).areas.tolist() == [[0], [4]]

    def test_any_image_of_a_batch_can_be_summarised(self):
        maps = torch.stack([torch.stack([SMALL]), torch.stack([LARGE])])[:, :, None]
        assert [int(summarise(Samples.uniform(maps), item=i).areas[0, 0]) for i in (0, 1)] == [4, 25]

    def test_the_dictionary_is_json_and_comes_back_equal(self):
        summary = summarise(samples_of(MIXED), classes=("nodule",), spacing=(1, 1)).to_dict()
        assert json.loads(json.dumps(summary, allow_nan=False)) == summary
        assert summary["classes"]["nodule"]["marked_by_samples"] == pytest.approx(0.8)

    def test_empty_samples_are_json_too(self):
        json.dumps(summarise(samples_of([NOTHING])).to_dict(), allow_nan=False)


class TestScans:
    def masks(self) -> np.ndarray:
        made = np.zeros((4, 1, 3, 8, 8), bool)
        made[0, 0, :2, :4, :4] = True  # 32 voxels
        made[1, 0, :2, :4, :5] = True  # 40
        made[2, 0, 2, 5:, 5:] = True  # 9, elsewhere
        return made  # and one that marks nothing

    def of(self, masks: np.ndarray, **more: Any) -> Any:
        maps = torch.from_numpy(masks).float()
        drawn = Samples.uniform(maps.flatten(2, 3)[None])
        drawn.maps = maps[None]
        return summarise(drawn, **{"spacing": (2, 0.5, 0.5), "classes": ["lesion"], **more})

    def test_volumes_are_in_mm3(self):
        found = self.of(self.masks()).to_dict()
        assert found["voxel_mm3"] == 0.5
        assert found["spacing_mm"] == {"slice": 2, "row": 0.5, "column": 0.5}
        assert [item["volume_mm3"]["lesion"] for item in found["samples"]] == [16, 20, 4.5, 0]
        assert found["classes"]["lesion"]["mean_mm3"] == pytest.approx(np.mean([16, 20, 4.5, 0]))
        assert found["classes"]["lesion"]["standard_deviation_mm3"] == pytest.approx(np.std([16, 20, 4.5, 0]))
        assert found["classes"]["lesion"]["mean_map_mm3"] == pytest.approx(np.mean([16, 20, 4.5, 0]))
        assert found["classes"]["lesion"]["volume_where_marked_mm3"]["q50"] == 16
        assert found["hypotheses"][0]["voxels"] == {"lesion": 32}

    def test_the_voxels_of_a_sheared_scan_have_their_own_volume(self):
        found = self.of(self.masks(), voxel_mm3=0.25).to_dict()
        assert [item["volume_mm3"]["lesion"] for item in found["samples"]] == [8, 10, 2.25, 0]

    def test_sizes_are_said_with_their_spread_in_ml_where_they_are_large(self):
        masks = self.masks()[[0, 1, 3]]
        for spacing, said in (((2, 0.5, 0.5), "16 (16–20) mm³"), ((20, 1.5, 1.5), "1.4 (1.4–1.8) ml")):
            summary = self.of(masks, spacing=spacing, distinct=1)
            assert [summary.size_text(hypothesis) for hypothesis in summary.hypotheses] == [said, "nothing there"]
            spread = summary.to_dict()["hypotheses"][0]["spread"]["lesion"]["volume_mm3"]
            voxel = np.prod(spacing)
            assert (spread["q05"], spread["q95"]) == (32 * voxel, 40 * voxel)

    def test_hypotheses_are_grouped_in_three_dimensions(self):
        summary = self.of(self.masks())
        assert [hypothesis.members for hypothesis in summary.hypotheses] == [(0, 1), (2,), (3,)]
        assert [hypothesis.probability for hypothesis in summary.hypotheses] == pytest.approx([0.5, 0.25, 0.25])
        assert [hypothesis.nothing for hypothesis in summary.hypotheses] == [False, False, True]
        np.testing.assert_array_equal(summary.hypotheses[1].mask, self.masks()[2])

    def test_maps_are_those_of_numpy(self):
        masks = self.masks()
        summary = self.of(masks)
        np.testing.assert_allclose(summary.mean, masks.mean(0), atol=1e-6)
        np.testing.assert_array_equal(summary.masks, masks)
        np.testing.assert_array_equal(summary.consensus, masks.mean(0) > 0.5)
        p = masks.mean(0)[0]
        with np.errstate(divide="ignore", invalid="ignore"):
            entropy = np.nan_to_num(-p * np.log2(p)) + np.nan_to_num(-(1 - p) * np.log2(1 - p))
        np.testing.assert_allclose(summary.entropy, entropy, atol=1e-6)

    def test_the_slice_to_show_is_the_one_with_most(self):
        masks = np.zeros((2, 1, 5, 8, 8), bool)
        assert self.of(masks).key_slice() == 2
        masks[0, 0, 3, 2:6, 2:6], masks[1, 0, 1, 2:4, 2:4] = True, True
        assert self.of(masks).key_slice() == 3

    def test_it_needs_the_size_of_a_voxel(self):
        with pytest.raises(DataError, match="spacing"):
            self.of(self.masks(), spacing=None)


class TestRefusals:
    @pytest.mark.parametrize("threshold", [0, -1, 1.5, math.nan])
    def test_a_threshold_outside_its_range(self, threshold):
        with pytest.raises(ConfigError, match="threshold"):
            summarise(samples_of(MIXED), threshold=threshold)

    @pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -1.0], [1.0, math.nan]])
    def test_weights_that_are_none(self, weights):
        with pytest.raises(DataError, match="weights"):
            summarise(samples_of([SMALL, LARGE], weights))

    @pytest.mark.parametrize("spacing", [(0, 1), (1,), (1, math.inf), (-1, 1)])
    def test_a_spacing_that_is_none(self, spacing):
        with pytest.raises(DataError, match="spacing"):
            summarise(samples_of([SMALL]), spacing=spacing)

    def test_names_that_do_not_fit(self):
        with pytest.raises(DataError, match="classes"):
            summarise(samples_of([SMALL]), classes=("a", "b"))


class TestWords:
    @pytest.mark.parametrize(
        ("p", "text"), [(0, "0 %"), (0.001, "< 1 %"), (0.25, "25 %"), (0.9999, "> 99 %"), (1.0, "100 %")]
    )
    def test_neither_none_nor_certain_by_rounding(self, p, text):
        assert percent(p) == text

    def test_a_hypothesis_in_the_unit_that_is_known(self):
        summary = summarise(samples_of([square(4), NOTHING]), spacing=(0.5, 0.5))
        assert [summary.size_text(hypothesis) for hypothesis in summary.hypotheses] == ["4.0 mm²", "nothing there"]
        summary = summarise(samples_of([square(4)]))
        assert summary.size_text(summary.hypotheses[0]) == "16 px"


@pytest.mark.parametrize(
    ("size", "unit", "text"),
    [(1.04, "ml", "1.0"), (0.98, "ml", "0.98"), (9.96, "mm²", "10"), (0.0123, "ml", "0.012"), (412.6, "mm³", "413"),
     (0, "ml", "0"), (5, "px", "5"), (5.5, "px", "5.5"), (20, "px", "20"), (9.99, "px", "10")],
)  # fmt: skip
def test_sizes_have_two_digits_or_are_whole(size: float, unit: str, text: str) -> None:
    assert size_number(size, unit) == text
