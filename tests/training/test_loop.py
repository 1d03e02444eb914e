"""A run: exact resume, refusals, how a start ends, what it leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

from modiff.config.run import build_config
from modiff.errors import CheckpointError, ConfigError, DataError, TrainingError
from modiff.io.output import alone
from modiff.methods.run_folder import hardly_trained, load_model
from modiff.training import loop
from modiff.training.checkpoint import read_checkpoint, write_checkpoint
from modiff.training.loop import Run, train


def with_training(config, **changes):
    return replace(config, training=replace(config.training, **changes))


def checkpoint(folder):
    return read_checkpoint(folder / "training.ckpt")


def log_lines(folder):
    """The lines of a log but for its times."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in lines]


def same(a, b) -> bool:
    """Whether two nested states are equal to the bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.fixture(scope="module")
def forty_steps(store, settings, tmp_path_factory):
    """A run of forty steps in one go."""
    folder = tmp_path_factory.mktemp("runs") / "straight"
    train(settings, store, folder, quiet=True)
    return folder


def test_a_short_training_says_that_the_model_has_hardly_been_trained(forty_steps):
    card = load_model(forty_steps).card
    assert isinstance(card["validation_loss_other_images"], float)
    assert "160 images in training, fewer than 5,000" in hardly_trained(card)


@pytest.mark.parametrize("blind", [True, False])
def test_a_network_that_ignores_the_image_is_told_whatever_it_has_seen(store, settings, tmp_path, monkeypatch, blind):
    from modiff.methods.modiff.model import MoDiff

    loss = MoDiff.training_loss
    hidden = partial(torch.zeros_like if blind else torch.clone)
    monkeypatch.setattr(
        MoDiff, "training_loss", lambda self, batch, rng: loss(self, replace(batch, image=hidden(batch.image)), rng=rng)
    )
    train(with_training(settings, budget="40img", learning_rate=1e-3), store, tmp_path / "run", quiet=True)
    card = load_model(tmp_path / "run").card
    assert (card["validation_loss"] == card["validation_loss_other_images"]) is blind
    said = hardly_trained(card | {"images_seen": 10**6})
    assert not blind or "is no better than with other cases' images" in said


@pytest.fixture
def straight(forty_steps, tmp_path):
    """A copy of it that a test may spoil."""
    return shutil.copytree(forty_steps, tmp_path / "straight")


def test_two_starts_at_once_are_refused(store, settings, tmp_path):
    with alone(tmp_path), pytest.raises(DataError, match="another process works in this folder"):
        train(settings, store, tmp_path, quiet=True)
    assert not list(tmp_path.iterdir())


def test_forty_steps_equal_twenty_resumed_for_twenty_more(store, settings, straight, tmp_path):
    folder = tmp_path / "halves"
    train(with_training(settings, budget="80img"), store, folder, quiet=True)
    assert checkpoint(folder)["step"] == 20
    train(settings, store, folder, quiet=True)
    whole, resumed = checkpoint(straight), checkpoint(folder)
    assert resumed["step"] == 40
    for part in ("model", "optimizer", "average", "plateau", "plateau_rate"):
        assert same(whole[part], resumed[part]), part
    assert whole["plateau"]["_last_lr"][0] < settings.training.learning_rate  # the schedule has acted


SMALL = {
    "prob_unet": {"channels": [8, 8]},
    "cflow": {"channels": [8, 8]},
    "mose": {"channels": [8, 8], "cap_window": 8, "cap_patience": 0},  # its cap is released within the run
    "ccdm": {"unet": {"base": 8, "multipliers": [1, 2], "attention": [2], "blocks": 1, "head_width": 0, "groups": 2}},
    "cimd": {
        "unet": {"base": 8, "multipliers": [1, 2], "attention": [2], "blocks": 1, "groups": 2},
        "latent_widths": [8, 8],
    },
    "ssn": {"channels": [8, 8]},
    "medfm": {"unet": {"base": 8, "multipliers": [1, 2], "attention": [2], "blocks": 1, "head_width": 0, "groups": 2}},
}


@pytest.mark.parametrize("method", SMALL)
def test_every_method_resumes_to_the_bit(store, method, tmp_path):
    training = {"batch_size": 4, "validate_every": 3, "validation_images": 4, "save_every": 4, "log_every": 2}
    config = build_config(
        method=method,
        changes={
            "model": SMALL[method],
            "training": {**training, "budget": "48img"},
            "trainer": {"accelerator": "cpu", "precision": "32-true"},
        },
    )
    train(config, store, tmp_path / "whole", quiet=True)
    train(with_training(config, budget="28img"), store, tmp_path / "halves", quiet=True)
    train(config, store, tmp_path / "halves", quiet=True)
    whole, resumed = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "halves")
    assert resumed["step"] == 12
    assert same(whole["model"], resumed["model"])
    assert same(whole["average"], resumed["average"])


def test_the_log_of_a_resumed_run_has_each_step_once(store, settings, tmp_path):
    folder = tmp_path / "run"
    train(with_training(settings, budget="80img"), store, folder, quiet=True)
    with open(folder / "log.jsonl", "a") as file:
        file.write('{"step": 25, "train/loss": 9}\n{"step": 3')  # of a start that died after its last save
    train(settings, store, folder, quiet=True)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "train/loss" in line] == list(range(5, 41, 5))
    assert [line["step"] for line in lines if "val/loss" in line] == list(range(4, 41, 4))


@pytest.mark.parametrize("cut", ["52img", "72img"])
def test_the_log_of_a_resumed_run_is_that_of_one_in_one_go(store, settings, straight, tmp_path, cut):
    """13 and 18 steps: between two lines, whose means are over five steps of both starts, and two validations."""
    train(with_training(settings, budget=cut), store, tmp_path / "run", quiet=True)
    train(settings, store, tmp_path / "run", quiet=True)
    assert log_lines(tmp_path / "run") == log_lines(straight)


def test_weights_that_are_gone_come_back_from_the_checkpoint(store, settings, straight):
    before = (straight / "weights.safetensors").read_bytes()
    (straight / "weights.safetensors").write_bytes(before[:1000])
    assert train(settings, store, straight, quiet=True).reason == "budget already spent"
    assert (straight / "weights.safetensors").read_bytes() == before


def test_a_spent_budget_is_left_alone(store, settings, straight):
    before = (straight / "weights.safetensors").read_bytes()
    result = train(settings, store, straight, quiet=True)
    assert result.finished
    assert (straight / "weights.safetensors").read_bytes() == before


def test_another_configuration_is_refused_with_the_difference(store, settings, straight):
    with pytest.raises(CheckpointError, match=r"training\.learning_rate: 0\.1 → 0\.02"):
        train(with_training(settings, learning_rate=0.02), store, straight, quiet=True)


def test_other_data_is_refused(store, settings, straight, tmp_path):
    from modiff.config.data import PhantomConfig
    from modiff.data.importers.phantom import write_phantom

    other = write_phantom(
        tmp_path / "other.h5", PhantomConfig(patients=9, images_per_patient=4, seed=1), progress=False
    )
    with pytest.raises(CheckpointError, match=r"data: .*other content"):
        train(settings, other, straight, quiet=True)


def test_a_damaged_checkpoint_is_refused(store, settings, straight):
    content = bytearray((straight / "training.ckpt").read_bytes())
    content[len(content) // 2] ^= 1
    (straight / "training.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"training\.ckpt: is damaged"):
        train(settings, store, straight, quiet=True)


@pytest.mark.parametrize("part", ["model", "optimizer", "average", "plateau"])
def test_a_state_of_another_network_is_refused(store, settings, tmp_path, part):
    train(with_training(settings, budget="8img"), store, tmp_path / "run", quiet=True)
    state = checkpoint(tmp_path / "run")
    state[part] = {"a\x00b": 1}
    write_checkpoint(tmp_path / "run" / "training.ckpt", state)
    with pytest.raises(CheckpointError, match=rf"training\.ckpt: {part}: holds a state that does not fit") as refused:
        train(with_training(settings, budget="16img"), store, tmp_path / "run", quiet=True)
    assert "\x00" not in str(refused.value)


def test_the_setting_of_a_logger_may_change_when_a_run_is_resumed(store, settings, tmp_path):
    folder = tmp_path / "run"
    train(with_training(settings, budget="40img"), store, folder, quiet=True)
    train(replace(settings, trainer=replace(settings.trainer, logger="tensorboard")), store, folder, quiet=True)
    assert list((folder / "tensorboard").iterdir())


def test_max_time_ends_this_start_only(store, settings, tmp_path):
    folder = tmp_path / "run"
    first = train(with_training(settings, budget="100000img"), store, folder, max_seconds=0.01, quiet=True)
    assert not first.finished
    assert first.reason == "time of this start over"
    again = train(with_training(settings, budget="100000img"), store, folder, max_seconds=0.01, quiet=True)
    assert again.steps == first.steps + 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_at_a_steps_end_with_a_good_checkpoint(store, settings, tmp_path, number):
    folder = tmp_path / "run"
    timer = threading.Timer(4.0, lambda: os.kill(os.getpid(), number))
    timer.start()
    result = train(with_training(settings, budget="100000000img"), store, folder, quiet=True)
    timer.cancel()
    assert result.reason == "interrupted"
    assert checkpoint(folder)["step"] == result.steps
    assert load_model(folder).card["steps"] == result.steps


def test_a_signal_during_the_last_save_is_told_of(store, settings, tmp_path, monkeypatch):
    real = loop.files.save_weights

    def signalled(*given):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*given)

    monkeypatch.setattr(loop.files, "save_weights", signalled)
    result = train(with_training(settings, budget="8img"), store, tmp_path / "run", quiet=True)
    assert (result.finished, result.signalled) == (True, True)


def test_what_is_saved_is_the_average_of_the_weights(straight):
    saved, state = load_file(straight / "weights.safetensors"), checkpoint(straight)
    for name, value in state["average"].items():
        assert torch.equal(saved[name], value), name
    assert any(not torch.equal(saved[name], value) for name, value in state["model"].items())


def test_no_temporary_file_stays(straight):
    names = {path.name for path in straight.iterdir()}
    assert names == {"card.json", "config.yaml", "data.json", "log.jsonl", "training.ckpt", "weights.safetensors"}


@pytest.mark.parametrize("kept", [8, 10])
def test_a_run_killed_after_a_periodic_save_resumes_as_if_it_had_not_been(store, settings, tmp_path, monkeypatch, kept):
    """Step 8 has a validation and a save, step 10 a save alone; 20 steps either way."""
    short = with_training(settings, budget="80img", save_every=2)
    whole, torn, real = tmp_path / "whole", tmp_path / "torn", Run.save

    def save(run):
        real(run)
        if run.step == kept and not torn.exists():
            shutil.copytree(run.folder, torn)  # what a kill would leave

    monkeypatch.setattr(Run, "save", save)
    train(short, store, whole, quiet=True)
    train(short, store, torn, quiet=True)
    straight, resumed = checkpoint(whole), checkpoint(torn)
    for part in ("model", "average", "plateau"):
        assert same(straight[part], resumed[part]), part
    assert log_lines(whole) == log_lines(torn)


def test_where_a_start_ends_does_not_change_the_schedule(store, settings, straight, tmp_path):
    folder = tmp_path / "run"
    train(with_training(settings, budget="72img"), store, folder, quiet=True)  # 18 steps: no validation is due
    train(settings, store, folder, quiet=True)
    assert same(checkpoint(straight)["plateau"], checkpoint(folder)["plateau"])


def test_a_refused_start_does_not_block_the_next(store, settings, tmp_path):
    wrong = replace(
        settings, model=replace(settings.model, diffusion=replace(settings.model.diffusion, prediction="eps"))
    )
    with pytest.raises(ConfigError):
        train(wrong, store, tmp_path / "run", quiet=True)
    assert train(with_training(settings, budget="8img"), store, tmp_path / "run", quiet=True).finished


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_save(store, settings, tmp_path):
    with pytest.raises(TrainingError, match="not finite"):
        train(with_training(settings, learning_rate=1e30, gradient_clip=0.0), store, tmp_path / "run", quiet=True)


@pytest.mark.parametrize(
    ("name", "value"), [("batch_size", 0), ("save_every", 0), ("learning_rate", -1.0), ("budget", "3img")]
)
def test_settings_out_of_range_are_named(store, settings, tmp_path, name, value):
    with pytest.raises(ConfigError, match=f"training.{name}"):
        train(with_training(settings, **{name: value}), store, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_a_file_is_refused_in_one_line(store, settings, tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(DataError, match="cannot make the folder"):
        train(settings, store, tmp_path / "run", quiet=True)
