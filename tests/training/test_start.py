"""A training that starts from other weights: what fits is taken over and said, frozen parts stay, resume is exact."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from modiff import cli
from modiff.config.data import PhantomConfig
from modiff.data.importers.phantom import write_phantom
from modiff.errors import CheckpointError, ConfigError
from modiff.methods.registry import build
from modiff.methods.run_folder import load_model
from modiff.methods.start import Start, take_over
from modiff.training.loop import train


@pytest.fixture(scope="module")
def started(store, settings, tmp_path_factory):
    """A short run to start from."""
    folder = tmp_path_factory.mktemp("runs") / "start"
    train(replace(settings, training=replace(settings.training, budget="16img")), store, folder, quiet=True)
    return folder


def short(settings, images: int):
    return replace(settings, seed=1, training=replace(settings.training, budget=f"{images}img", learning_rate=1e-3))


def states(parts):
    return {(one.part, one.state) for one in parts}


def by_channel(model, count):
    """The first convolution's weights (out,channel,pixel of a patch,k,k)."""
    return model.state_dict()["unet.conv_image.weight"].unflatten(1, (count, -1))


class TestWhatFits:
    def test_the_same_data_takes_all(self, started, settings):
        start = load_model(started)
        model = build("modiff", settings.model, start.data)
        parts = take_over(model, start)
        assert {one.state for one in parts} == {"loaded"}
        for name, value in model.named_parameters():
            assert torch.equal(value, start.model.state_dict()[name])

    def test_other_raters_and_classes_are_fresh_and_said(self, started, settings):
        start = load_model(started)
        data = replace(start.data, classes=("a", "b"), raters=("p", "q"), exchangeable_raters=False)
        model = build("modiff", settings.model, data)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        parts = take_over(model, start)
        said = {one.part: one for one in parts if one.state != "loaded"}
        assert said["subset"].state == "fresh"
        assert "unet.conv_out" in said
        assert torch.equal(model.state_dict()["subset.weight"], before["subset.weight"])
        given = start.model.state_dict()
        name = next(name for name in given if name.startswith("unet.down") and given[name].ndim == 4)
        assert torch.equal(model.state_dict()[name], given[name])

    @pytest.mark.parametrize("names", [("CT", "PET"), ("PET", "CT")])
    def test_channels_are_found_by_name_and_the_prompt_stays_the_prompt(self, started, settings, names):
        start = load_model(started)
        start.data = replace(start.data, channels=("CT",))
        data = replace(start.data, channels=names)
        model = build("modiff", settings.model, data)
        fresh = by_channel(model, 5).clone()
        take_over(model, start)
        found, given, at = by_channel(model, 5), by_channel(start.model, 4), names.index("CT")
        assert torch.equal(found[:, at], given[:, 0])
        assert torch.equal(found[:, 1 - at], fresh[:, 1 - at])
        assert torch.equal(found[:, 2:], given[:, 1:])

    def test_channels_in_another_order_are_found_by_name(self, started, settings):
        data = replace(load_model(started).data, channels=("t1", "flair"))
        start = load_model(started)
        start.model = build("modiff", settings.model, data)
        start.data = data
        model = build("modiff", settings.model, replace(data, channels=("flair", "t1")))
        take_over(model, start)
        found, given = by_channel(model, 5), by_channel(start.model, 5)
        assert torch.equal(found[:, :2], given[:, [1, 0]])
        assert torch.equal(found[:, 2:], given[:, 2:])
        same = build("modiff", settings.model, data)
        assert {one.state for one in take_over(same, start)} == {"loaded"}

    def test_a_prompt_is_not_taken_for_channels(self, started, settings):
        start = load_model(started)
        start.data = replace(start.data, channels=("CT",))
        model = build("modiff", settings.model, replace(start.data, channels=("a", "b", "c", "CT"), prompt="none"))
        fresh = by_channel(model, 4).clone()
        take_over(model, start)
        assert torch.equal(by_channel(model, 4)[:, 3], by_channel(start.model, 4)[:, 0])
        assert torch.equal(by_channel(model, 4)[:, :3], fresh[:, :3])

    @pytest.mark.parametrize("name", ["CT", "other"])
    def test_a_slice_takes_the_image_and_its_neighbours_are_fresh(self, started, settings, name):
        start = load_model(started)
        start.data = replace(start.data, channels=(name,))
        data = replace(start.data, channels=("CT[-1]", "CT", "CT[+1]"), context=1)
        model = build("modiff", settings.model, data)
        fresh = by_channel(model, 6).clone()
        take_over(model, start)
        found, given = by_channel(model, 6), by_channel(start.model, 4)
        assert torch.equal(found[:, 1], given[:, 0])
        assert torch.equal(found[:, [0, 2]], fresh[:, [0, 2]])
        assert torch.equal(found[:, 3:], given[:, 1:])

    def test_data_without_a_prompt_take_the_image(self, started, settings):
        start = load_model(started)
        model = build("modiff", settings.model, replace(start.data, prompt="none"))
        take_over(model, start)
        assert torch.equal(by_channel(model, 1), by_channel(start.model, 4)[:, :1])

    def test_another_method_is_refused_where_nothing_fits(self, started):
        from modiff.config.run import MODELS

        model = build("ssn", MODELS["ssn"](), load_model(started).data)
        with pytest.raises(CheckpointError, match="no weights that fit"):
            take_over(model, load_model(started))


class TestFreezing:
    def test_a_frozen_part_stays_and_the_others_learn(self, store, settings, started, tmp_path):
        train(
            short(settings, 16), store, tmp_path / "run", quiet=True, start=Start(str(started), ("head", "unet.down"))
        )
        before, after = (load_file(folder / "weights.safetensors") for folder in (started, tmp_path / "run"))
        frozen = {name for name in after if name.startswith(("head.", "unet.down."))}
        assert all(torch.equal(before[name], after[name]) for name in frozen)
        assert not torch.equal(before["unet.conv_out.weight"], after["unet.conv_out.weight"])

    @pytest.mark.parametrize("names", [("hed",), ("unet", "head", "mca", "subset")])
    def test_a_part_that_is_not_there_and_all_parts_are_refused(self, store, settings, tmp_path, names):
        with pytest.raises(ConfigError, match="freeze"):
            train(short(settings, 16), store, tmp_path / "run", quiet=True, start=Start(None, names))
        assert not (tmp_path / "run").exists()


def test_resuming_is_exact_and_the_card_names_the_start(store, settings, started, tmp_path):
    start = Start(str(started), ("mca",))
    train(short(settings, 32), store, tmp_path / "whole", quiet=True, start=start)
    train(short(settings, 16), store, tmp_path / "parts", quiet=True, start=start)
    train(short(settings, 32), store, tmp_path / "parts", quiet=True, start=start)
    one, other = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "parts"))
    assert one == other
    about = json.loads((tmp_path / "whole/card.json").read_text())["started_from"]
    assert about["fingerprint"] == load_model(started).fingerprint
    assert (about["freeze"], about["loaded"]) == (["mca"], about["parameters"])


def test_another_start_cannot_resume(store, settings, started, tmp_path):
    train(short(settings, 16), store, tmp_path / "run", quiet=True, start=Start(str(started)))
    for start in (None, Start(str(started), ("head",))):
        with pytest.raises(CheckpointError, match="started with other settings"):
            train(short(settings, 32), store, tmp_path / "run", quiet=True, start=start)
    train(short(settings, 16), store, tmp_path / "plain", quiet=True)
    with pytest.raises(CheckpointError, match="started with other settings"):
        train(short(settings, 32), store, tmp_path / "plain", quiet=True, start=Start(str(started)))


def test_the_command_takes_the_starts_network_and_says_what_fits(started, tmp_path, capsys):
    data = PhantomConfig(patients=6, images_per_patient=2, raters=3)
    write_phantom(tmp_path / "own.h5", data, progress=False)
    words = ["train", "--init", started, "--data", tmp_path / "own.h5", "-o", tmp_path / "run", "--quiet"]
    words += ["--device", "cpu", "--training.budget", "8img", "--training.batch_size", "4"]
    assert cli.main([*map(str, words)]) == 0
    said = capsys.readouterr().out
    assert "Weights to start from" in said
    assert "subset" in said
    assert load_model(tmp_path / "run").config.model.unet == load_model(started).config.model.unet
    assert cli.main([*map(str, words), "--training.budget", "16img"]) == 0


def test_a_start_that_is_not_there_is_a_line(store, tmp_path, capsys):
    assert cli.main(["train", "--init", "nobody", "--data", str(store), "-o", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
