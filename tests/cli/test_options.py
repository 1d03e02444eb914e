"""Options of a verb from its page: defaults stand in the settings, numbers have a least value."""

from __future__ import annotations

import pytest

from modiff.cli import main
from modiff.cli.options import asked
from modiff.cli.sample import parser
from modiff.cli.train import parser as train_parser
from modiff.config.evaluation import SampleConfig
from modiff.config.fields import help_texts
from modiff.errors import ConfigError, counted


def test_a_setting_that_is_not_given_is_left_to_its_default():
    args = parser("modiff sample").parse_args(["run", "a.png", "--overlap", "0.25", "--select", "iid"])
    assert asked(args, SampleConfig) == {"overlap": 0.25, "select": "iid"}


def test_the_help_of_a_setting_is_its_docstring_and_its_default():
    text = " ".join(parser("modiff sample").format_help().split())
    assert f"{help_texts(SampleConfig)['overlap']} ({SampleConfig.overlap})" in text


def test_every_setting_of_a_dataclass_has_its_own_help():
    assert list(help_texts(SampleConfig)) == list(SampleConfig.__dataclass_fields__)


@pytest.mark.parametrize("words", [["benchmark", "-o", "x", "--samples", "0"], ["info", "x.h5", "--cases", "0"]])
def test_a_number_that_is_too_small_is_refused_by_its_option(words, capsys):
    assert main(words) == 2
    assert f"{words[-2]}: too small; found 0; expected 1 or more" in capsys.readouterr().err


def test_a_fold_that_is_not_a_number_is_refused_before_the_store_is_read(tmp_path, capsys):
    """Beside --init the store is read for its settings first."""
    words = ["train", "--init", "lidc", "--data", str(tmp_path / "none.h5"), "--fold", "²", "-o", str(tmp_path / "run")]
    assert main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_what_is_not_a_time_is_refused_by_its_option():
    from modiff.config.run import parse_time

    assert (parse_time(None, field="--max-time"), parse_time("2h", field="--max-time")) == (None, 7200)
    for text in ("8img", "soon"):
        with pytest.raises(ConfigError, match=f"--max-time: is not a time; found {text}"):
            parse_time(text, field="--max-time")


def train(*words):
    return train_parser("modiff train").parse_args(["--data", "x.h5", "-o", "run", *words])


def test_settings_of_a_training_are_read_as_yaml():
    words = ("--method", "prob_unet", "--model.channels=[4, 8]", "--model.norm_penalty", "1e-5", "--seed", "3")
    config = train(*words, "--training.augment", "false", "--training.budget", "8img").config
    assert (config.model.channels, config.model.norm_penalty, config.seed) == ((4, 8), 1e-5, 3)
    assert (config.training.augment, config.training.budget) == (False, "8img")


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("--model.bass", "3"), "no such option; found --model.bass 3"),
        (
            ("--training.batch_size", "many"),
            r"training\.batch_size: wrong value; found 'many'; expected a whole number",
        ),
        (("--model.ldf.kernels", "[3"), r"--model\.ldf\.kernels: is not YAML"),
        (("--model.presence.window", "2026-13-45"), r"--model\.presence\.window: is not YAML"),
    ],
)
def test_what_is_no_setting_of_a_training_is_refused(words, match):
    with pytest.raises(ConfigError, match=match):
        train(*words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sample", "lidc"], "modiff sample: needs [NAME=]IMAGE."),
        (["sample", "lidc", "x.png", "-n", "x"], "modiff sample: -n: not a whole number; found 'x'."),
        (["check"], "modiff check: needs PATH."),
        (["train", "--method"], "modiff train: --method: needs a value."),
        (["train", "--data"], "modiff train: --data: needs a value."),
        (["train", "-o"], "modiff train: -o/--output: needs a value."),
        (["train", "--data", "x.h5"], "modiff train: needs -o/--output."),
        (["import", "folder", "-o", "x.h5", "--bogus", "."], "modiff import folder: no such option; found --bogus."),
        (
            ["compare", "a", "--format", "gif"],
            "--format: no such choice; found 'gif'; expected one of 'png', 'svg', 'pdf'.",
        ),
    ],
)
def test_a_command_line_that_cannot_be_read_is_one_line(words, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error


@pytest.mark.parametrize("value", ["nan", ".nan", "inf", "-.inf", "NaN"])
def test_a_number_that_is_not_finite_is_refused_as_such(value):
    with pytest.raises(
        ConfigError, match=r"training\.learning_rate: is out of range; found .*; expected a finite number"
    ):
        train(f"--training.learning_rate={value}")


def test_counts_are_words():
    assert [counted(n, "step") for n in (0, 1, 2)] == ["0 steps", "1 step", "2 steps"]
    assert counted(3, "hypothesis") == "3 hypotheses"
    assert counted(2, "class") == "2 classes"
    assert counted(12000, "image", ",") == "12,000 images"


@pytest.mark.parametrize("words", [["a\nb"], ["info", "x", "--a\nb"], ["check", "x", "--as", "a\nb"], ["info", "a\nb"]])
def test_a_refusal_is_one_line_whatever_was_typed(words, capsys):
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(main(words))
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
