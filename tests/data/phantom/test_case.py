"""The simulated data: deterministic, unselected, and with a true distribution that behaves as it says."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import binary_dilation
from scipy.special import expit
from scipy.stats import binomtest, ks_2samp, spearmanr

from modiff.cli import main
from modiff.config.data import PhantomConfig
from modiff.data.importers.phantom import write_phantom
from modiff.data.phantom.case import PhantomCase, case_name, config_of, load_phantom_case, make_case, split_of
from modiff.data.phantom.scene import outlines
from modiff.data.store import Store
from modiff.errors import ConfigError, DataError

CONFIG = PhantomConfig()


@pytest.fixture(scope="module")
def cases() -> list[PhantomCase]:
    """One image each of 150 patients."""
    return [make_case(CONFIG, patient, 0) for patient in range(150)]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PhantomConfig]:
    """A store of 60 patients with two images each."""
    config = PhantomConfig(patients=60, images_per_patient=2, seed=5)
    return write_phantom(tmp_path_factory.mktemp("phantom") / "p.h5", config, progress=False), config


def _uncertain(cases: list[PhantomCase]) -> PhantomCase:
    """A lesion that some readers mark and others do not."""
    return next(case for case in cases if 0.5 < case.presence_probability < 0.8)


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N,M) of 1 − IoU by counting, IoU(∅,∅) = 1."""
    a, b = (masks.reshape(len(masks), -1).astype(np.float32) for masks in (a, b))
    both = a @ b.T
    either = a.sum(1)[:, None] + b.sum(1) - both
    return 1.0 - np.where(either, both / np.maximum(either, 1), 1.0)


def _ged(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * _distances(a, b).mean() - _distances(a, a).mean() - _distances(b, b).mean())


# --- images ---------------------------------------------------------------------------------------------------------


def test_a_case_is_the_same_whenever_it_is_made() -> None:
    first, again = make_case(CONFIG, 7, 3), make_case(CONFIG, 7, 3)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.masks, again.masks)


def test_a_case_does_not_depend_on_how_many_others_there_are() -> None:
    small = make_case(replace(CONFIG, patients=8, images_per_patient=4), 7, 3)
    assert np.array_equal(small.image, make_case(CONFIG, 7, 3).image)


def test_the_image_does_not_depend_on_the_number_of_readers() -> None:
    assert np.array_equal(make_case(replace(CONFIG, raters=9), 7, 3).image, make_case(CONFIG, 7, 3).image)


def test_drawing_further_masks_changes_neither_image_nor_readers() -> None:
    case = make_case(CONFIG, 7, 3)
    image = case.image.copy()
    case.draw_masks(50, np.random.default_rng(0))
    assert np.array_equal(case.image, image)
    assert np.array_equal(case.masks, make_case(CONFIG, 7, 3).masks)


def test_seed_0_shows_what_version_1_showed() -> None:
    """Where this fails on purpose, the version in modiff.data.phantom.case rises."""
    case = make_case(CONFIG, 0, 0)
    assert case.image.mean() == pytest.approx(37.2087, abs=0.02)
    assert case.visibility == pytest.approx(2.983387, abs=1e-4)
    assert case.masks.sum((1, 2)).tolist() == [29, 26, 0, 67]


def test_cases_differ(cases: list[PhantomCase]) -> None:
    assert len({case.image.tobytes() for case in cases}) == len(cases)


def test_seeds_differ() -> None:
    assert not np.array_equal(make_case(replace(CONFIG, seed=1), 0, 0).image, make_case(CONFIG, 0, 0).image)


@pytest.mark.parametrize("size", [47, 64, 128])
def test_images_are_square_bytes_of_the_size_asked_for(size: int) -> None:
    case = make_case(replace(CONFIG, size=size), 0, 0)
    assert case.image.shape == (1, size, size)
    assert case.image.dtype == np.uint8
    assert case.masks.shape == (4, size, size)


def test_images_use_the_window(cases: list[PhantomCase]) -> None:
    """Lung is dark but seldom clipped at 0, and something is as bright as soft tissue."""
    images = np.stack([case.image for case in cases])
    assert 15 < np.median(images) < 40
    assert (images == 0).mean() < 0.02
    assert (images.reshape(len(cases), -1).max(1) > 120).mean() > 0.9


def test_what_readers_mark_is_brighter_than_its_surroundings(cases: list[PhantomCase]) -> None:
    brighter = []
    for case in cases:
        core = case.masks.sum(0) >= 3
        if core.any():
            ring = binary_dilation(core, iterations=6) & ~binary_dilation(core, iterations=3)
            brighter.append(case.image[0][core].mean() > np.median(case.image[0][ring]) + 3)
    assert np.mean(brighter) > 0.95


# --- the true distribution ------------------------------------------------------------------------------------------


def test_presence_probability_is_the_frequency_of_marking(cases: list[PhantomCase]) -> None:
    between = [case for case in cases if 0.03 < case.presence_probability < 0.97][:12]
    for number, case in enumerate(between):
        marked = case.draw_masks(4000, np.random.default_rng(number)).any((1, 2)).sum()
        assert binomtest(int(marked), 4000, case.presence_probability).pvalue > 1e-4


def test_conspicuous_lesions_are_marked_more_often(cases: list[PhantomCase]) -> None:
    size = [case.lesion.opacity * case.lesion.core.mean() for case in cases]
    assert spearmanr(size, [case.presence_probability for case in cases]).statistic > 0.6


def test_readers_are_exchangeable(cases: list[PhantomCase]) -> None:
    """Among pairs that disagree about presence, the first marks as often as the second."""
    groups = _uncertain(cases).draw_masks(2000, np.random.default_rng(0)).any((1, 2)).reshape(-1, 2)
    first, second = (groups[:, 0] & ~groups[:, 1]).sum(), (~groups[:, 0] & groups[:, 1]).sum()
    assert binomtest(int(first), int(first + second)).pvalue > 1e-3


def test_readers_are_independent(cases: list[PhantomCase]) -> None:
    """The areas that two readers of a pair outline are not correlated beyond chance."""
    area = _uncertain(cases).draw_masks(4000, np.random.default_rng(1)).sum((1, 2)).reshape(-1, 2)
    assert abs(np.corrcoef(area.T)[0, 1]) < 4 / np.sqrt(2000)


def test_slots_of_the_store_have_one_distribution(cases: list[PhantomCase]) -> None:
    areas = np.array([case.masks.sum((1, 2)) for case in cases])
    assert all(ks_2samp(areas[:, 0], areas[:, slot]).pvalue > 1e-3 for slot in (1, 2, 3))


def test_the_readers_of_the_store_are_draws_from_the_truth(cases: list[PhantomCase]) -> None:
    chances = np.array([case.presence_probability for case in cases])
    marked = sum(int(case.masks.any((1, 2)).sum()) for case in cases)
    assert abs(marked - 4 * chances.sum()) < 4 * np.sqrt(4 * (chances * (1 - chances)).sum())


def test_expected_ged_of_fresh_readers_is_the_iid_reference(cases: list[PhantomCase]) -> None:
    """E[GED_V] = d·(1/N + 1/M), d the expected distance of two readers."""
    case, rng = _uncertain(cases), np.random.default_rng(2)
    between = _distances(case.draw_masks(500, rng), case.draw_masks(500, rng))
    expected = between.mean() * (1 / 8 + 1 / 4)
    found = [_ged(case.draw_masks(8, rng), case.draw_masks(4, rng)) for _ in range(500)]
    error = np.std(found) / np.sqrt(len(found)) + between.mean(1).std() / np.sqrt(500)
    assert abs(np.mean(found) - expected) < 4 * error


def test_the_majority_vote_is_clearly_worse_than_fresh_readers(cases: list[PhantomCase]) -> None:
    majority = [_ged(case.masks.sum(0, keepdims=True) > 2, case.masks) for case in cases]
    fresh = [_ged(case.draw_masks(16, np.random.default_rng(3)), case.masks) for case in cases]
    assert np.mean(majority) > 1.4 * np.mean(fresh)


def test_a_halo_is_counted_in_or_out_as_a_whole(cases: list[PhantomCase]) -> None:
    """Two modes whose weights are the reader's rule: a sharp core of 3 mm in a halo of 6 mm."""
    plain = np.ones_like(cases[0].lesion.core)
    lesion = replace(
        cases[0].lesion, core=3 * plain, halo=6 * plain, spikes=0 * plain, limit=np.inf * plain, margin=0.05,
        halo_log_odds=0.7, vessel_width=0.0,
    )  # fmt: skip
    radius = outlines(lesion, 4000, np.random.default_rng(4)).mean(1)
    assert binomtest(int((radius > 4.5).sum()), 4000, float(expit(0.7))).pvalue > 1e-4
    assert ((radius > 4.2) & (radius < 4.8)).mean() < 0.03


def test_readers_do_not_mark_the_chest_wall() -> None:
    """An outline ends at the pleura, but for the pixel that keeps a mask from being empty."""
    touching = [make_case(CONFIG, patient, 0) for patient in range(120)]
    touching = [case for case in touching if case.lesion.limit.min() < case.lesion.reach]
    assert touching
    for case in touching:
        radius = outlines(case.lesion, 50, np.random.default_rng(0))
        assert (radius <= np.maximum(case.lesion.limit, 0.9) + 1e-4).all()


@settings(max_examples=25, deadline=None)
@given(patient=st.integers(0, 10**5 - 1), index=st.integers(0, 4), seed=st.integers(0, 2**40))
def test_masks_lie_inside_even_the_smallest_image(patient: int, index: int, seed: int) -> None:
    case = make_case(PhantomConfig(size=47, patients=10**5, seed=seed), patient, index)
    masks = case.draw_masks(64, np.random.default_rng(seed))
    assert not masks[:, [0, -1]].any()
    assert not masks[:, :, [0, -1]].any()


@settings(max_examples=25, deadline=None)
@given(patient=st.integers(0, 599), seed=st.integers(0, 2**40))
def test_every_mask_that_is_not_empty_holds_the_lesions_centre(patient: int, seed: int) -> None:
    case = make_case(replace(CONFIG, seed=seed), patient, 0)
    row, column = (round(value / 0.7 + 31.5) for value in case.lesion.centre)
    masks = case.draw_masks(32, np.random.default_rng(seed))
    assert masks[masks.any((1, 2)), row, column].all()


def test_no_masks_may_be_drawn() -> None:
    assert make_case(CONFIG, 0, 0).draw_masks(0, np.random.default_rng(0)).shape == (0, 64, 64)


# --- the population -------------------------------------------------------------------------------------------------


def test_disagreement_is_as_announced(cases: list[PhantomCase]) -> None:
    chances = np.array([case.presence_probability for case in cases])
    assert 0.05 < ((1 - chances) ** 4).mean() < 0.13  # nobody marks
    assert 0.25 < (1 - chances**4).mean() < 0.37  # somebody marks nothing


def test_lesions_are_of_the_announced_size(cases: list[PhantomCase]) -> None:
    areas = np.concatenate([case.masks.sum((1, 2)) for case in cases])
    low, high = np.quantile(2 * np.sqrt(areas[areas > 0] / np.pi), [0.03, 0.97])
    assert 2.5 < low < 6
    assert 16 < high < 24


def test_splits_are_shares_of_any_number_of_patients() -> None:
    names = [split_of(patient) for patient in range(600)]
    assert {name: names.count(name) for name in set(names)} == {"train": 500, "val": 40, "test": 60}
    assert {split_of(patient) for patient in range(3)} == {"train", "val", "test"}


# --- the store ------------------------------------------------------------------------------------------------------


def test_every_image_is_in_the_store_whether_marked_or_not(written: tuple[Path, PhantomConfig]) -> None:
    path, config = written
    with Store.open(path) as store:
        expected = [case_name(patient, index) for patient in range(60) for index in range(2)]
        assert store.cases.tolist() == expected
        assert any(not store.masks(row).any() for row in range(len(store)))
        assert store.read.all()
    assert config.patients * config.images_per_patient == len(expected)


def test_a_case_is_found_again_from_its_name_in_the_store(written: tuple[Path, PhantomConfig]) -> None:
    path, _ = written
    with Store.open(path) as store:
        for row in (0, 17, 119):
            case = load_phantom_case(config_of(store.info), str(store.cases[row]))
            assert np.array_equal(case.image, store.image(row))
            assert np.array_equal(case.masks, store.masks(row))
            assert (case.patient, case.split) == (store.patients[row], store.splits[row])


def test_the_store_says_what_it_is(written: tuple[Path, PhantomConfig]) -> None:
    path, config = written
    with Store.open(path) as store:
        info = store.info
    assert config_of(info) == config
    assert (info.prompt, info.exchangeable_raters, info.intensity) == ("centre", True, "window:-1000:400")
    assert info.spacing == (0.7, 0.7)


def test_no_patient_is_in_two_splits(written: tuple[Path, PhantomConfig]) -> None:
    with Store.open(written[0]) as store:
        places = {(patient, split) for patient, split in zip(store.patients, store.splits, strict=True)}
        assert len(places) == len(set(store.patients.tolist()))
        assert store.split_names() == ("train", "val", "test")


def test_two_writes_make_the_same_content(tmp_path: Path, written: tuple[Path, PhantomConfig]) -> None:
    again = write_phantom(tmp_path / "again.h5", written[1], progress=False)
    with Store.open(again) as one, Store.open(written[0]) as other:
        assert one.fingerprint() == other.fingerprint()


def test_the_command_writes_the_store_that_its_options_describe(tmp_path: Path) -> None:
    path = tmp_path / "p.h5"
    words = ["import", "phantom", "-o", str(path), "--size", "48", "--patients", "3", "--images-per-patient", "1"]
    assert main([*words, "--raters", "2", "--seed", "9", "--spacing", "0.8"]) == 0
    with Store.open(path) as store:
        assert config_of(store.info) == PhantomConfig(48, 0.8, 2, 3, 1, 9)


def test_the_command_keeps_a_store_that_exists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "p.h5"
    path.write_bytes(b"mine")
    assert main(["import", "phantom", "-o", str(path), "--patients", "1"]) == 2
    assert path.read_bytes() == b"mine"
    assert "exists already" in capsys.readouterr().err


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", 46), ("size", (64, 48)), ("size", 64.0), ("size", 10**5), ("raters", 0), ("raters", True),
        ("patients", 0), ("images_per_patient", -1), ("seed", 0.5), ("spacing", 0.0), ("spacing", float("nan")),
        ("spacing", "0.7"),
    ],
)  # fmt: skip
def test_what_cannot_be_simulated_is_refused(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        replace(CONFIG, **{field: value})


@pytest.mark.parametrize("name", ["phantom-00000", "phantom-0/0", "phantom-00000/000/1", "phantom-000001/000", "x"])
def test_names_of_other_cases_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="not a phantom's case"):
        load_phantom_case(CONFIG, name)


def test_cases_beyond_the_configuration_are_refused() -> None:
    with pytest.raises(DataError, match="patients below 600"):
        load_phantom_case(CONFIG, case_name(600, 0))


@pytest.mark.parametrize("words", ["importer", "source"])
def test_a_store_of_something_else_has_no_configuration(words: str, written: tuple[Path, PhantomConfig]) -> None:
    with Store.open(written[0]) as store:
        other = replace(store.info, **{words: "something else"})
    with pytest.raises(DataError, match=words):
        config_of(other)


# --- volumes --------------------------------------------------------------------------------------------------------

VOLUMES = replace(CONFIG, slices=7, slice_spacing=2.0)


def _volume(patient: int, config: PhantomConfig = VOLUMES) -> list[PhantomCase]:
    return [make_case(config, patient, 0, part) for part in range(config.slices)]


def test_the_presence_in_a_slice_is_the_frequency_of_marking_there() -> None:
    for patient in range(3):
        for case in _volume(patient):
            marked = case.draw_masks(2000, np.random.default_rng(patient)).any((1, 2)).sum()
            assert binomtest(int(marked), 2000, case.presence_probability).pvalue > 1e-4


def test_raters_are_the_same_people_on_all_slices() -> None:
    for patient in range(6):
        marked = np.stack([case.masks.any((1, 2)) for case in _volume(patient)])
        for rater in marked.T:  # nobody's outline has a hole between its ends
            places = np.flatnonzero(rater)
            assert not places.size or rater[places[0] : places[-1] + 1].all()
    masks = [case.draw_masks(200, np.random.default_rng(1)) for case in _volume(1)]
    areas = np.stack([one.sum((1, 2)) for one in masks[2:5]])
    assert spearmanr(areas[0], areas[1]).statistic > 0.8


def test_a_lesion_goes_on_in_the_next_slice() -> None:
    alike, others = [], []
    for patient in range(12):
        parts = [make_case(VOLUMES, *place) for place in ((patient, 0, 2), (patient, 0, 3), (patient + 20, 0, 2))]
        below, here, other = (case.image[0, 24:40, 24:40].astype(float).ravel() for case in parts)
        alike.append(np.corrcoef(below, here)[0, 1])
        others.append(np.corrcoef(other, here)[0, 1])
    assert np.mean(alike) > np.mean(others) + 0.2


def test_slices_have_noise_of_their_own_and_a_lesion_ends() -> None:
    first, *_, last = (case.presence_probability for case in _volume(3, replace(VOLUMES, slices=15)))
    assert max(first, last) < 1e-3
    images = [case.image[0, :16].astype(float) for case in _volume(3)]
    assert all(not np.array_equal(one, other) for one, other in pairwise(images))


def test_a_slice_is_found_again_from_its_name_in_the_store(tmp_path: Path) -> None:
    config = replace(VOLUMES, patients=2, images_per_patient=1, slices=3)
    with Store.open(write_phantom(tmp_path / "v.h5", config, progress=False)) as store:
        assert len(store) == 6
        assert config_of(store.info) == config
        for row, name in enumerate(store.cases):
            case = load_phantom_case(config_of(store.info), str(name))
            np.testing.assert_array_equal(case.image, store.image(row))
            np.testing.assert_array_equal(case.masks, store.masks(row).astype(bool))
            assert store.geometry(row).slice_index == row % 3


@pytest.mark.parametrize("name", ["phantom-00000/000", "phantom-00000/000/slice-007", "phantom-00000/000/slice-1"])
def test_slices_that_there_are_not_are_refused(name: str) -> None:
    with pytest.raises(DataError, match=r"slices below 7|not a phantom's case"):
        load_phantom_case(VOLUMES, name)
    with pytest.raises(DataError, match="not one of the simulated cases"):
        load_phantom_case(CONFIG, "phantom-00000/000/slice-000")


def test_a_store_of_pictures_says_what_it_said_before_there_were_volumes() -> None:
    assert "slice" not in CONFIG.source
    assert PhantomConfig.from_source(VOLUMES.source) == VOLUMES
