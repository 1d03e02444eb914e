"""`modiff info METHOD` counts what the reference counts, and separates an image's work from a sample's."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch

from modiff.cli import main
from modiff.config.run import build_config
from modiff.methods import cost
from modiff.methods.run_folder import write_config
from modiff.types import DataSpec

TINY = {"unet": {"base": 8, "multipliers": [1, 2], "attention": [2], "blocks": 1, "head_width": 0}}


def describe(method, *, preset=None, changes=None, size=128, n=16, **data):
    """Of a method with these changes to its settings, for data of such counts with a prompt."""
    config = build_config(method=method, preset=preset, changes={"model": changes or {}})
    return cost.describe(config, DataSpec.of(**{"prompt": "centre", **data}), size=size, n=n)


def test_ccdm_at_its_paper_settings():
    found = describe("ccdm")
    assert found.parameters == 9_056_610
    assert found.evaluations == 250
    # The reference evaluates the image's part of the first layer at every step.
    assert found.gflop_evaluation + found.gflop_image == pytest.approx(13.49, abs=0.005)


def test_the_smaller_ccdm():
    found = describe("ccdm", changes={"unet": {"multipliers": [1, 1, 2, 3, 4]}})
    assert found.parameters == 5_699_138
    assert found.gflop_evaluation == pytest.approx(8.44, abs=0.02)


def test_cimd_at_its_paper_settings():
    found = describe("cimd", channels=4)
    assert found.parts["unet"] == 85_603_842
    assert found.evaluations == 1000
    assert found.gflop_evaluation == pytest.approx(132, rel=0.005)


def test_parts_sum_to_the_whole_and_frozen_ones_are_not_trained():
    found = describe("cimd", size=32, changes={**TINY, "behaviour": "released"})
    assert sum(found.parts.values()) == found.parameters
    assert found.trained == found.parts["unet"]


def test_a_convolutions_operations_are_two_a_multiplication():
    few, more = (describe("ccdm", size=32, channels=c, changes=TINY) for c in (1, 2))
    assert more.gflop_image - few.gflop_image == pytest.approx(2 * 9 * 8 * 32 * 32 / 1e9)


def test_a_rectangle_costs_what_a_square_of_as_many_pixels_does():
    wide, square = (describe("prob_unet", size=size) for size in ((64, 256), 128))
    assert wide.gflop_sample == pytest.approx(square.gflop_sample)
    assert wide.gflop_image == pytest.approx(square.gflop_image)
    assert (wide.size, square.size) == ((64, 256), 128)


def test_what_needs_several_samples_is_counted_by_the_sample():
    standard, compact = (describe("mose", size=32, changes={"sampling": how}) for how in ("standard", "compact"))
    assert compact.gflop_sample == pytest.approx(standard.gflop_sample)
    assert compact.gflop_image == pytest.approx(standard.gflop_image)


def test_samples_and_steps_add_up():
    found = describe("ccdm", size=32, n=5, changes={**TINY, "sampling_steps": 7})
    assert found.gflop_sample == pytest.approx(7 * found.gflop_evaluation)
    assert found.gflop_total == pytest.approx(found.gflop_image + 5 * found.gflop_sample)


def test_the_count_agrees_with_a_real_run_where_ways_depend_on_values():
    """The hurdle asks for values, so that shapes alone do not suffice; samples are counted as if each marked."""
    plain = describe("ccdm", size=32, changes={**TINY, "sampling_steps": 3})
    hurdle = describe("ccdm", size=32, changes={**TINY, "sampling_steps": 3, "presence": {"mode": "hurdle", "base": 8}})
    assert hurdle.gflop_sample == pytest.approx(plain.gflop_sample)
    assert hurdle.gflop_image > plain.gflop_image


def test_modiff_is_counted_over_its_window_and_steps():
    tiny = {"unet": {"base": 8, "stem": 4, "multipliers": [1, 2]}, "presence": {"base": 8}}
    whole = describe("modiff", size=64, changes={**tiny, "diffusion": {"sampling_steps": 3}})
    window = describe("modiff", size=64, changes={**tiny, "window": 32, "diffusion": {"sampling_steps": 3}})
    assert whole.evaluations == 3
    assert whole.gflop_sample == pytest.approx(3 * whole.gflop_evaluation)
    assert window.gflop_evaluation < 0.5 * whole.gflop_evaluation


def test_without_a_prompt_modiff_is_counted_over_the_whole_image():
    tiny = {"unet": {"base": 8, "stem": 4, "multipliers": [1, 2]}, "presence": {"base": 8}}
    whole = describe("modiff", size=64, changes=tiny, prompt="none")
    window = describe("modiff", size=64, changes={**tiny, "window": 32}, prompt="none")
    assert window.gflop_evaluation == pytest.approx(whole.gflop_evaluation)
    assert whole.parameters < describe("modiff", size=64, changes=tiny).parameters  # no channels for the position


def test_a_sample_costs_the_same_whether_raters_are_known_or_not():
    tiny = {"unet": {"base": 8, "stem": 4, "multipliers": [1, 2]}, "presence": {"base": 8}}
    known, unknown = (describe("modiff", size=32, changes=tiny, exchangeable=e) for e in (False, True))
    assert known.gflop_sample == pytest.approx(unknown.gflop_sample)
    assert known.gflop_sample > 0


@pytest.mark.parametrize("method", ["prob_unet", "cflow", "mose"])
def test_a_method_of_one_pass_has_little_to_do_a_sample(method):
    found = describe(method)
    assert found.evaluations == 1
    assert found.gflop_sample < 0.05 * found.gflop_image


def test_the_callers_random_numbers_are_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    describe("ccdm", size=32, changes={**TINY, "presence": {"mode": "hurdle", "base": 8}})
    assert torch.equal(torch.rand(3), expected)


def test_the_command_prints_json(capsys):
    arguments = ["--set", "unet.base=8", "--set", "unet.multipliers=[1,2]", "--set", "unet.head_width=0", "--size=32"]
    assert main(["info", "ccdm", *arguments, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    changes = {"unet": {"base": 8, "multipliers": [1, 2], "head_width": 0}}
    assert found["parts"] == describe("ccdm", size=32, changes=changes).parts


def test_the_command_takes_images_without_a_prompt_and_known_raters(capsys):
    small = ["--set", "unet.base=8", "--set", "presence.base=8", "--set", "window=32", "--size", "64"]
    assert main(["info", "modiff", *small, "--no-prompt", "--known-raters", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    changes = {"unet": {"base": 8}, "presence": {"base": 8}, "window": 32}
    assert found == asdict(describe("modiff", size=64, changes=changes, prompt="none", exchangeable=False))


def test_the_command_prints_a_table(capsys):
    small = ["--set", "unet.base=32", "--set", "unet.blocks=1"]
    assert main(["info", "ccdm", "cimd", "--size", "16", "-n", "3", *small]) == 0
    shown = capsys.readouterr().out
    for words in ("ccdm", "cimd", "prior", "evaluations per sample", "n = 3"):
        assert words in shown


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nothing"], "nothing"),
        (["ccdm", "nothing"], "no such method"),
        (["ccdm", "--preset", "cimd"], "another method"),
        (["ccdm", "--set", "unet.depth=3"], "no such setting"),
        (["ccdm", "--set", "unet"], "is not a setting"),
        (["ccdm", "-n", "0"], "impossible number"),
    ],
)
def test_the_command_refuses_what_it_cannot_mean(arguments, says, capsys):
    assert main(["info", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_presets_of_the_methods_are_theirs(capsys):
    assert main(["info", "cimd", "--preset", "cimd", "--set", "unet.base=32", "--size=32", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["preset"] == "cimd"
    assert found["evaluations"] == 25


def test_a_preset_is_described_by_its_name(capsys):
    assert main(["info", "quick", "--size", "64", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found == asdict(describe("modiff", preset="quick", size=64))


def test_a_run_folder_is_described_with_its_own_settings_and_data(tmp_path, capsys):
    data = DataSpec.of(channels=2, raters=3, size=(32, 48))
    config = build_config(method="ccdm", changes={"model": TINY})
    write_config(tmp_path / "config.yaml", config)
    (tmp_path / "data.json").write_text(json.dumps(data.to_dict()))
    assert main(["info", str(tmp_path), "-n", "2", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    expected = describe("ccdm", channels=2, raters=3, size=(32, 48), n=2, changes=TINY, prompt="none")
    assert found == asdict(expected) | {"size": [32, 48]}
    assert main(["info", str(tmp_path), "--channels", "1"]) == 2
    assert "own settings" in capsys.readouterr().err
