"""Preset auto: settings that fit a store, printed, saved, and the same when a run resumes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from modiff.cli import main
from modiff.config.run import build_config, check_ranges
from modiff.data.loading import generator
from modiff.data.store import StoreWriter
from modiff.data.store_format import StoreInfo
from modiff.errors import ConfigError
from modiff.methods.registry import build
from modiff.rng import seeds_for
from modiff.training.auto import Facts, choose, measure, settings
from modiff.types import Batch, DataSpec

LESIONS = Facts((128, 128), 9000, 1, 1, 4, True, True, small=6.0, span=50.0, mm=0.7)  # as of LIDC's crops
WORDS = ["--training.budget", "8img", "--training.batch_size", "4", "--device", "cpu", "--quiet"]


def chosen(facts: Facts) -> dict[str, object]:
    return {choice.name: choice.value for choice in choose(facts)}


def whole(size: tuple[int, int], small: float, **more: int) -> Facts:
    """Images without a prompt."""
    return replace(LESIONS, size=size, images=200, prompted=False, small=small, span=float(max(size)), mm=None, **more)


def write(path, masks: list[np.ndarray], prompt: str = "centre") -> None:
    """A store of one rater's masks, an image each."""
    info = StoreInfo(("ct",), ("lesion",), ("rater",), False, "unit", prompt)
    with StoreWriter(path, info) as writer:
        for number, mask in enumerate(masks):
            place = {"case": f"{number}", "patient": f"{number}", "split": "val" if number == 0 else "train"}
            writer.add(np.zeros((1, *mask.shape), np.uint8), mask[None].astype(np.uint8), np.ones(1, bool), **place)


def test_the_best_known_settings_are_found_for_lesion_crops():
    """Those of preset lidc, which were tuned by hand on full-sized LIDC."""
    lidc, found = build_config(preset="lidc"), build_config(preset="auto", fitted=settings(choose(LESIONS)))
    for of in ("window", "crop", "crop_jitter", "diffusion", "unet", "mca"):
        assert getattr(found.model, of) == getattr(lidc.model, of), of
    for of in ("learning_rate", "augment", "deformation", "intensity_augmentation"):
        assert getattr(found.training, of) == getattr(lidc.training, of), of


def test_large_images_without_a_prompt_are_seen_in_squares_with_marks_anywhere_in_them():
    found = chosen(whole((811, 1024), 136.0))
    assert (found["model.crop"], found["model.crop_jitter"], found["model.unet.stem"]) == (256, 64, 8)
    assert chosen(whole((64, 80), 11.0))["model.crop"] == 0


def test_few_images_are_changed_at_random():
    strengths = {
        count: [
            chosen(replace(LESIONS, images=count))[f"training.{name}"]
            for name in ("deformation", "intensity_augmentation")
        ]
        for count in (22, 999, 1000, 9000)
    }
    assert strengths == {22: [1.0, 1.0], 999: [1.0, 1.0], 1000: [0.0, 0.0], 9000: [0.0, 0.0]}


@pytest.mark.parametrize(
    ("side", "stem", "crop"), [(64, 1, 0), (80, 1, 0), (128, 1, 64), (160, 2, 0), (256, 2, 128), (512, 4, 256)]
)
def test_whole_images_are_seen_in_fine_patches_where_there_are_few(side, stem, crop):
    few, many = (chosen(replace(whole((side, side), 40.0), images=count)) for count in (999, 1000))
    assert (few["model.unet.stem"], few["model.crop"], few["model.presence.stem"]) == (stem, crop, stem)
    assert few["model.unet.multipliers"] == [1, 2, 3, 4]
    assert many["model.unet.stem"] > stem
    assert many["model.unet.multipliers"] == [1, 2, 3]


def test_marks_are_measured_in_training_images_only(tmp_path):
    mask = np.zeros((64, 64), bool)
    mask[24:40, 30:34] = True  # 16 by 4, and 8 to either side of the middle
    write(tmp_path / "s.h5", [np.ones((64, 64), bool), mask, mask])
    facts = measure(tmp_path / "s.h5")
    assert (facts.images, facts.small, facts.span) == (2, 8.0, 16.0)


def test_a_store_without_marks_has_settings(tmp_path):
    write(tmp_path / "s.h5", [np.zeros((32, 48), bool)] * 3, prompt="none")
    check_ranges(build_config(preset="auto", fitted=settings(choose(measure(tmp_path / "s.h5")))))


def test_a_window_is_chosen_only_where_marks_lie_about_a_prompt():
    assert chosen(replace(LESIONS, span=28.0))["model.window"] == 32
    assert chosen(replace(LESIONS, span=120.0))["model.window"] == 0
    assert chosen(whole((128, 128), 6.0))["model.window"] == 0


def test_every_choice_has_a_reason():
    assert all(choice.reason for choice in choose(LESIONS))
    assert "35 mm" in str(choose(LESIONS)[0])


@pytest.mark.parametrize(
    "facts",
    [
        whole((32, 32), 4.0),
        whole((32, 32), 1.0),
        whole((100, 140), 15.0, channels=3),
        whole((160, 160), 12.0, channels=4, classes=3),
        whole((512, 512), 30.0, raters=2),
        replace(LESIONS, images=12, raters=1, exchangeable=False),
    ],
    ids=["32", "32 of single pixels", "100x140", "4 channels 3 classes", "512", "one rater"],
)
def test_steps_and_samples_are_affordable_and_right(facts):
    config = build_config(preset="auto", fitted=settings(choose(facts)))
    check_ranges(config)
    counts = {"channels": facts.channels, "classes": facts.classes, "raters": facts.raters}
    prompt = "centre" if facts.prompted else "none"
    model = build("modiff", config.model, DataSpec.of(**counts, exchangeable=facts.exchangeable, prompt=prompt))
    assert model.default_steps <= 10
    shape = config.model.crop or max(facts.size)
    unet = config.model.unet
    assert 8 <= shape / unet.stem <= 80  # patches along what a training step sees
    assert set(unet.attention) == {unet.stem * 2 ** (len(unet.multipliers) - 1)}
    image, masks = torch.rand(2, facts.channels, *facts.size), torch.zeros(2, facts.raters, facts.classes, *facts.size)
    masks[..., 8:16, 8:16] = 1
    batch = Batch(image, masks.bool(), torch.ones(2, facts.raters, dtype=torch.bool))
    assert torch.isfinite(model.training_loss(batch, rng=generator(0))["loss"])
    with torch.inference_mode():
        drawn = model.eval().sample(image[:1], 1, seeds=seeds_for(0, ["case"]))
    assert drawn.maps.shape == (1, 1, facts.classes, *facts.size)


@pytest.mark.parametrize("side", [8, 1024, 1025, 2049, 9000])
@pytest.mark.parametrize("prompted", [True, False])
@pytest.mark.parametrize("span", [4.0, 700.0])
def test_settings_are_in_range_for_images_of_any_size(side, prompted, span):
    facts = replace(whole((side, side), 60.0), prompted=prompted, span=min(span, side))
    check_ranges(build_config(preset="auto", fitted=settings(choose(facts))))


def test_what_follows_the_steps_follows_a_budget_that_is_given():
    long, short = settings(choose(LESIONS)), settings(choose(LESIONS, images=2000, batch=16))
    assert (long["training"]["warmup"], short["training"]["warmup"]) == (100, 50)
    assert short["training"]["validate_every"] == 50
    assert "(125 steps)" in str(choose(LESIONS, images=2000, batch=16)[-2])


def test_it_is_what_train_takes_and_is_printed_and_saved(store, tmp_path, capsys):
    assert main(["train", "--data", str(store), "-o", str(tmp_path / "run"), *WORDS]) == 0
    out, saved = capsys.readouterr().out, yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert saved["preset"] == "auto"
    for choice in choose(measure(store), images=8, batch=4):
        value = saved
        for name in choice.name.split("."):
            value = value[name]
        if f"--{choice.name}" in WORDS:
            assert choice.name not in out
        else:
            assert value == choice.value
            assert f"auto: {choice}" in out
    assert json.loads((tmp_path / "run/card.json").read_text())["preset"] == "auto"


def test_a_run_keeps_what_was_chosen_and_another_takes_it_from_the_file(store, tmp_path, capsys, monkeypatch):
    run = ["train", "--data", str(store), "-o", str(tmp_path / "run"), *WORDS]
    assert main(run) == 0
    words = ["--config", str(tmp_path / "run/config.yaml"), "-o", str(tmp_path / "two"), "--quiet"]
    assert main(["train", "--data", str(store), *words]) == 0
    one, two = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("run", "two"))
    assert one == two
    monkeypatch.setattr("modiff.training.auto._ACROSS", 99.0)  # a later version chooses otherwise
    assert main([*run, "--training.budget", "16img"]) == 0
    assert "auto: as chosen before" in capsys.readouterr().out


def test_a_method_or_a_preset_that_is_named_is_taken_as_it_is(store, tmp_path):
    small = ["--method", "modiff", "--model.unet.base", "4", "--model.presence.base", "4", "--model.mca.dim", "4"]
    assert main(["train", "--data", str(store), "-o", str(tmp_path / "run"), *WORDS, *small]) == 0
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["model"]["diffusion"]["sampling_steps"] == 250


def test_it_is_refused_where_there_is_no_store(capsys):
    with pytest.raises(ConfigError, match="is chosen from a store"):
        build_config(preset="auto")
    assert main(["info", "auto"]) == 2
    assert main(["train", "--data", "missing.h5", "-o", "run"]) == 2
    assert "no such file" in capsys.readouterr().err


def test_its_help_shows_the_values_for_a_store(store, capsys):
    with pytest.raises(SystemExit):
        main(["train", "--data", str(store), "--help"])
    assert "--model.window WINDOW" in (out := capsys.readouterr().out)
    assert "(32; from 0 to 65535 pixels)" in out
