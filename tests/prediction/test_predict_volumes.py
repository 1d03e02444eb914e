"""A hypothesis is one reading of a whole scan: windows and slices agree, and everything lies in its place."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from described import spec
from discs import Discs
from local import Local

from modiff.config.run import build_config
from modiff.errors import ConfigError, DataError
from modiff.methods.presence import join_slices, marking_probability, without_valleys
from modiff.methods.registry import build
from modiff.nn.windows import NoiseField
from modiff.prediction.frame import frame_of
from modiff.prediction.predictor import PredictionWarning, Predictor
from modiff.prediction.windows import Box, Plan
from modiff.rng import normal, seeds_for
from modiff.types import DataSpec, Samples

SIZE = (32, 32)
DATA: dict[str, Any] = {"size": SIZE, "intensity": "unit", "prompt": None, "classes": ("lesion",), "spacing": None}


@dataclass
class Drawn:
    """The samples of one volume, without the dimension of the batch."""

    maps: torch.Tensor
    present: torch.Tensor
    raters: torch.Tensor | None
    presence: float | None
    plan: Plan
    notes: tuple[str, ...]


def draw(model: Any, array: np.ndarray, n: int = 4, *, data: dict[str, Any] | None = None, **options: Any) -> Drawn:
    predictor = Predictor(model, data=spec({**DATA, **(data or {})}))
    drawing = {key: options.pop(key) for key in ("seed", "steps", "raters", "select", "candidates") if key in options}
    if "at" not in options:
        options.setdefault("roi", Box.whole(array.shape[1:]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PredictionWarning)
        found = predictor.set_image(array, **options).sample(n, **drawing)
    raters = None if found.raters is None else found.raters[0]
    presence = None if found.presence is None else float(found.presence[0])
    assert predictor.plan is not None
    return Drawn(found.maps[0], found.present[0], raters, presence, predictor.plan, predictor.notes)


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


class TestField:
    def test_windows_of_one_seed_see_the_same_noise_where_they_overlap(self):
        seeds = torch.tensor([7, 7])
        both = NoiseField(seeds, (20, 24), torch.tensor([[-3, 5], [1, 9]])).draw(normal, 2)
        assert torch.equal(both[0][:, 4:, 4:], both[1][:, :16, :20])

    def test_another_seed_or_channel_has_noise_of_its_own(self):
        one = (
            NoiseField(torch.tensor([7, 8]), (64, 64), torch.zeros(2, 2, dtype=torch.int64))
            .draw(normal, 2)
            .flatten(2)
            .flatten(0, 1)
        )
        assert (torch.corrcoef(one) - torch.eye(4)).abs().max() < 0.05

    def test_it_is_white(self):
        values = NoiseField(torch.tensor([3]), (256, 256), torch.tensor([[1000, -50]])).draw(normal, 1)[0, 0]
        assert values.mean().abs() < 0.02
        assert (values.std() - 1).abs() < 0.02
        for shifted in (
            values.roll(1, 0),
            values.roll(1, 1),
            values.roll((1, 1), (0, 1)),
            values.roll((1, -1), (0, 1)),
        ):
            assert (values * shifted).mean().abs() < 0.02


class TestWindowsAgree:
    @pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.7])
    def test_a_model_that_looks_at_pixels_gives_one_map_however_it_is_slid(self, overlap):
        array = noise((1, 2, 70, 83))
        slid = draw(Local(), array, overlap=overlap, case="x")
        whole = draw(Local(), array, data={"size": (70, 83)}, case="x")
        assert slid.plan.slid
        assert not whole.plan.slid
        torch.testing.assert_close(slid.maps, whole.maps, atol=1e-6, rtol=0)

    @pytest.mark.parametrize("overlap", [0.25, 0.5])
    def test_windows_that_disagree_are_merged_as_monai_merges_them(self, overlap):
        from monai.inferers import sliding_window_inference

        ramp = torch.linspace(0, 1, 32)[:, None] * torch.linspace(1, 0.2, 32)

        class Ramp(Local):
            def sample(self, image_or_encoding: Any, n: int, **more: Any) -> Any:
                return Samples.uniform((image_or_encoding * ramp)[:, None].expand(-1, n, -1, -1, -1))

        array = noise((1, 1, 70, 83))
        merged = draw(Ramp(), array, 1, overlap=overlap).maps[0, 0]
        inputs = torch.from_numpy(array[:, 0])[None]
        expected = sliding_window_inference(inputs, SIZE, 4, lambda x: x * ramp, overlap=overlap, mode="gaussian")
        torch.testing.assert_close(merged, expected[0], atol=1e-4, rtol=0)

    def test_neighbouring_slices_share_their_noise(self):
        samples = draw(Local(), np.full((1, 3, 40, 40), 0.5, np.float32))
        assert torch.equal(samples.maps[:, :, 0], samples.maps[:, :, 2])
        assert samples.maps[0].std() > 0.1

    def test_a_part_of_a_scan_is_a_part_of_its_hypotheses(self):
        array = noise((1, 4, 70, 83))
        whole = draw(Local(), array, case="x")
        part = draw(Local(), array, roi=Box.parse("11:60,5:44,1:3", (4, 70, 83)), case="x")
        assert part.maps.shape == (4, 1, 2, 39, 49)
        torch.testing.assert_close(part.maps, whole.maps[:, :, 1:3, 5:44, 11:60], atol=1e-6, rtol=0)

    def test_n_hypotheses_are_the_first_of_2n(self):
        array = noise((1, 2, 50, 50))
        few, many = draw(Local(chance=0.6), array, 3), draw(Local(chance=0.6), array, 6)
        assert torch.equal(few.maps, many.maps[:3])
        assert torch.equal(few.present, many.present[:3])

    def test_the_seed_and_the_scan_decide(self):
        array = noise((1, 2, 50, 50))
        first = draw(Local(), array, seed=1)
        assert torch.equal(first.maps, draw(Local(), array, seed=1).maps)
        assert not torch.equal(first.maps, draw(Local(), array, seed=2).maps)

    def test_one_reader_reads_the_whole_scan(self):
        samples = draw(Local(), noise((1, 2, 70, 83)), 32)
        assert samples.raters is not None
        assert set(samples.raters.tolist()) == {0, 1, 2}

    def test_one_number_decides_on_presence_everywhere(self):
        """Slices whose probability is larger are marked whenever those of a smaller one are."""
        array = np.stack([np.full((40, 40), value, np.float32) for value in (0.3, 0.6, 0.9)])[None]
        samples = draw(Local(chance=None, wiggle=0), array, 200)
        marked = samples.maps.amax((1, 3, 4)) > 0
        assert (marked[:, 0] <= marked[:, 1]).all()
        assert (marked[:, 1] <= marked[:, 2]).all()
        np.testing.assert_allclose(marked.float().mean(0), (0.3, 0.6, 0.9), atol=0.1)
        assert samples.presence == pytest.approx(0.9)
        assert torch.equal(samples.present, marked[:, 2])

    def test_present_is_what_the_merged_maps_mark(self):
        class Rim(Local):
            """Marks the left rim of every window but the first, where its neighbour sees nothing."""

            def sample(self, image_or_encoding: Any, n: int, *, origin: torch.Tensor, **more: Any) -> Samples:
                maps = super().sample(image_or_encoding, n, origin=origin, **more).maps * 0
                maps[..., :2] = 0.6 * (origin[:, 1] > 0).float().view(-1, 1, 1, 1, 1)
                return Samples.uniform(maps)

        samples = draw(Rim(), noise((1, 1, 32, 48)), 2)
        assert 0 < samples.maps.max() < 0.5
        assert not samples.present.any()

    def test_maps_are_probabilities(self):
        samples = draw(Local(classes=3, wiggle=5), np.ones((1, 2, 70, 83), np.float32))
        assert samples.maps.min() >= 0
        assert samples.maps.sum(1).max() <= 1 + 1e-5


class TestMoDiff:
    @pytest.fixture
    def model(self) -> Any:
        small = {"unet": {"base": 8, "stem": 4}, "presence": {"base": 8}, "diffusion": {"sampling_steps": 2}}
        torch.manual_seed(0)
        made = build(
            "modiff",
            build_config(changes={"model": small}).model,
            DataSpec.of(prompt="none"),
        )
        for parameter in made.parameters():  # the output layer starts at zero: give it something to say
            torch.nn.init.normal_(parameter, std=0.08)
        return made.eval()

    def test_a_place_is_asked_for_and_gives_the_noise_of_that_place(self, model):
        image = torch.rand(1, 1, 64, 64)
        seeds = seeds_for(0, ["x"])
        plain, here, again, there = (
            model.sample(image, 4, seeds=seeds, **options).maps
            for options in ({}, *({"origin": torch.tensor([[row, 0]])} for row in (0, 0, 9)))
        )
        assert torch.equal(here, again)
        assert not torch.equal(here, there)
        assert not torch.equal(here, plain)

    def test_windows_agree_on_their_overlap_up_to_what_they_see_around_it(self, model):
        """Far less apart than with noise of their own: only the context differs."""
        image = torch.from_numpy(noise((64, 96)))[None, None]
        left, right = image[..., :64], image[..., 32:]
        seeds = seeds_for(0, ["x"])

        def apart(first: int, second: int) -> float:
            maps = [
                model.sample(part, 8, seeds=seeds, origin=torch.tensor([[0, column]])).maps
                for part, column in ((left, first), (right, second))
            ]
            present = (maps[0].amax((2, 3, 4)) > 0) & (maps[1].amax((2, 3, 4)) > 0)
            middle = maps[0][..., 40:56] - maps[1][..., 8:24]
            return float(middle[present].abs().mean())

        assert apart(0, 32) < 0.5 * apart(0, 500)

    def test_slices_that_are_judged_together_are_marked_in_a_row(self, model):
        chance = torch.tensor([0.1, 0.6, 0.2, 0.9, 0.3, 0.8, 0.4])[:, None]
        laws = torch.cat([1 - chance, chance * torch.full((7, 4), 0.25)], 1).split([3, 3, 1])
        parts = torch.rand(7, 1, 64, 64).split([3, 3, 1])
        alone = [replace(model.encode(part), presence=law) for part, law in zip(parts, laws, strict=True)]
        joined = model.join_slices(alone)
        seeds = seeds_for(0, ["x"])

        def runs(encodings: list[Any]) -> torch.Tensor:
            parts = [model.sample(part, 64, seeds=seeds.expand(len(part.presence))).maps for part in encodings]
            marked = torch.cat(parts).flatten(2).any(-1).int()
            return marked[0] + marked.diff(dim=0).clamp_min(0).sum(0)

        assert runs(alone).max() > 1
        assert runs(joined).max() == 1
        assert all(one.groups is other.groups for one, other in zip(alone, joined, strict=True))

    def test_a_scan_goes_through_it(self, model):
        samples = draw(model, noise((1, 2, 80, 100)), 2, data={"size": (64, 64)})
        assert samples.maps.shape == (2, 1, 2, 80, 100)
        assert samples.plan.slid
        assert not any("noise" in note for note in samples.notes)


class TestOneLesion:
    def test_valleys_are_filled_to_the_lower_peak(self):
        found = without_valleys(torch.tensor([0.1, 0.9, 0.4, 0.6, 0.5, 0.8, 0.2, 0.3]))
        assert found.tolist() == pytest.approx([0.1, 0.9, 0.8, 0.8, 0.8, 0.8, 0.3, 0.3])

    @pytest.mark.parametrize("exchangeable", [True, False])
    def test_no_draw_has_a_hole(self, exchangeable):
        generator = torch.Generator().manual_seed(0)
        law = torch.rand(9, 5 if exchangeable else 4, generator=generator)
        law = law / law.sum(1, keepdim=True) if exchangeable else law
        joined = join_slices(law, exchangeable=exchangeable)
        chance = marking_probability(joined, exchangeable=exchangeable)
        for u in torch.linspace(0, 1, 50):
            marked = (chance > u).int()
            assert (marked.diff(dim=0).clamp_min(0).sum(0) + marked[0] <= 1).all()
        assert (chance >= marking_probability(law, exchangeable=exchangeable) - 1e-6).all()

    def test_a_law_without_valleys_stays_as_it_is(self):
        law = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.2, 0.8], [0.6, 0.4]])
        assert torch.equal(join_slices(law, exchangeable=True), law)

    def test_the_slices_of_a_place_are_judged_together(self):
        class Joining(Local):
            def encode(self, image: torch.Tensor) -> torch.Tensor:
                return torch.ones_like(image)

            def join_slices(self, encodings: list[torch.Tensor]) -> list[torch.Tensor]:
                return [0 * encoding for encoding in encodings]

        array = noise((1, 5, 40, 40))
        assert draw(Joining(), array, at=(20, 20, 2), slices=1).maps.mean() < 0.1
        assert draw(Joining(), array).maps.mean() > 0.9


class TestAt:
    def test_the_window_is_about_the_place_on_the_slice_and_its_neighbours(self):
        array = noise((1, 7, 60, 70))
        model = Local()
        samples = draw(model, array, at=(40, 25, 3), slices=1)
        assert samples.plan.box.spans == ((2, 5), (9, 41), (24, 56))
        shown = torch.cat(model.shown)[:, 0].numpy()
        np.testing.assert_array_equal(shown, array[0, 2:5, 9:41, 24:56])

    def test_its_slices_are_encoded_once_for_all_samples(self):
        model = Local()
        predictor = Predictor(model, data=spec(DATA)).set_image(noise((1, 7, 60, 70)), at=(40, 25, 3), slices=1)
        few, many = predictor.sample(2), predictor.sample(4)
        assert torch.equal(few.maps, many.maps[:, :2])
        assert len(model.shown) == 1

    def test_slices_end_with_the_scan(self):
        assert draw(Local(), noise((1, 7, 60, 70)), at=(40, 25, 6), slices=2).plan.box.spans[0] == (4, 7)

    def test_a_place_on_a_single_slice_gives_what_an_image_gives(self):
        array = noise((1, 1, 60, 70))
        samples = draw(Discs(), array, at=(40, 25), data={"prompt": "centre"})
        predictor = Predictor(Discs(), data=spec({**DATA, "prompt": "centre"})).set_image(array[:, 0], at=(40, 25))
        whole = samples.plan.box.put_back(samples.maps.numpy())
        np.testing.assert_allclose(whole[:, :, 0], predictor.sample(4).maps[0].numpy(), atol=1e-6)

    def test_it_cannot_be_given_with_a_box(self):
        with pytest.raises(ConfigError, match="--roi"):
            draw(Local(), noise((1, 1, 60, 70)), at=(4, 5), roi=Box.parse("0:5,0:5", (1, 60, 70)))


class TestPlaceOfThings:
    @pytest.mark.parametrize("spot", list(itertools.product((3, 40, 88), (2, 55, 107))))
    def test_an_object_anywhere_comes_back_in_its_place(self, spot):
        array = np.zeros((1, 3, 90, 110), np.float32)
        array[0, 1, spot[0], spot[1]] = 1
        mean = draw(Local(wiggle=0.5), array, 2).maps.mean((0, 1))
        assert np.unravel_index(int(mean.argmax()), mean.shape) == (1, *spot)

    def test_a_small_scan_is_shown_whole_with_its_reflection(self):
        model = Local()
        samples = draw(model, noise((1, 2, 20, 24)))
        assert samples.maps.shape[-2:] == (20, 24)
        assert len(torch.cat(model.shown)) == 2
        assert any("reflection" in note for note in samples.notes)


class TestNotes:
    def test_a_model_of_lesion_crops_says_so_when_it_is_slid(self):
        predictor = Predictor(Local(), data=spec({**DATA, "prompt": "centre"}))
        with pytest.warns(PredictionWarning, match="centred on a lesion"):
            predictor.set_image(noise((1, 1, 60, 70)), roi=Box.whole((1, 60, 70)))

    def test_and_not_when_it_is_told_where(self):
        samples = draw(Local(), noise((1, 5, 60, 70)), 1, data={"prompt": "centre"}, at=(30, 30, 2), slices=1)
        assert samples.notes == ()

    def test_a_method_whose_noise_has_no_place_is_named(self):
        samples = draw(Discs(), noise((1, 1, 60, 70)), 1)
        assert any("may not fit together" in note for note in samples.notes)

    @pytest.mark.parametrize(("spacing", "differs"), [((0.7, 0.7), False), ((0.75, 0.65), False), ((0.8, 0.6), True)])
    def test_other_pixels_than_in_training_are_noted(self, spacing, differs):
        samples = draw(Local(), noise((1, 1, 32, 32)), 1, data={"spacing": [0.7, 0.7]}, spacing=spacing)
        assert any("look larger or smaller" in note for note in samples.notes) == differs


class TestValues:
    def shown(self, array: np.ndarray, **options: Any) -> np.ndarray:
        model = Local()
        draw(model, array, 1, **options)
        return torch.cat(model.shown)[:, 0].numpy()

    def test_percentiles_are_those_of_the_whole_scan(self):
        array = noise((1, 4, 32, 32)) * np.arange(1, 5, dtype=np.float32)[:, None, None]
        low, high = np.percentile(array, [1, 99])
        found = self.shown(array, data={"intensity": "percentiles:1:99"}, roi=Box.parse("0:32,0:32,1:2", (4, 32, 32)))
        np.testing.assert_allclose(found, np.clip((array[0, 1:2] - low) / (high - low), 0, 1), atol=1e-6)

    def test_a_window_has_units_even_in_unsigned_numbers(self):
        array = np.arange(1024, dtype=np.uint16).reshape(1, 1, 32, 32)
        found = self.shown(array, data={"intensity": "window:100:300"})
        np.testing.assert_allclose(found[0], np.clip((array[0, 0] - 100.0) / 200, 0, 1), atol=1e-6)

    def test_slices_are_stretched_each_by_itself(self):
        array = noise((1, 2, 40, 40)) * np.array([1, 50], np.float32)[:, None, None] - 9
        found = self.shown(array, data={"intensity": "minmax-slice"}, overlap=0.0)
        expected = (array[0] - array[0].min((1, 2), keepdims=True)) / np.ptp(array[0], (1, 2), keepdims=True)
        np.testing.assert_allclose(found[0], expected[0, :32, :32], atol=1e-6)
        np.testing.assert_allclose(found[-1], expected[1, 8:, 8:], atol=1e-6)

    def test_crops_are_stretched_as_the_training_crops_were(self):
        array = noise((1, 2, 40, 40))
        found = self.shown(array, data={"intensity": "minmax-slice", "prompt": "centre"}, at=(20, 20, 1))
        assert (found.min(), found.max()) == (0, 1)


class TestRefused:
    def test_other_channels(self):
        with pytest.raises(DataError, match="channels"):
            draw(Local(), noise((2, 1, 32, 32)))

    def test_more_than_the_memory_holds(self):
        with pytest.raises(ConfigError, match="--roi"):
            draw(Local(), np.broadcast_to(np.float32(0), (1, 300, 4096, 4096)))

    def test_a_larger_one_needs_a_place_or_a_part(self):
        with pytest.raises(DataError, match="--at X,Y,Z"):
            Predictor(Local(), data=spec(DATA)).set_image(noise((1, 2, 33, 32)))

    def test_no_samples(self):
        with pytest.raises(ConfigError, match="n: is out of range"):
            draw(Local(), noise((1, 1, 32, 32)), 0)


@pytest.mark.parametrize(("sides", "said"), [("LPS", False), ("RAS", False), ("ASR", True)])
def test_slices_that_are_not_axial_are_named_where_the_model_does_not_know_its_plane(sides: str, said: bool) -> None:
    axes = {"L": (-1, 0, 0), "R": (1, 0, 0), "P": (0, -1, 0), "A": (0, 1, 0), "S": (0, 0, 1)}
    affine = np.eye(4)
    affine[:3, :3] = np.array([axes[side] for side in sides]).T
    _, notes = frame_of((6, 32, 32), spec({"size": (32, 32)}), affine=affine, spacing=(1.0, 1.0, 1.0))
    assert any("slices are judged as they lie" in note for note in notes) == said
