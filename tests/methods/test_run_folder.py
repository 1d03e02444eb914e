"""Published folders: what fits is loaded, everything else is refused by name."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from modiff import cli
from modiff.errors import CheckpointError, ConfigError, ModiffError
from modiff.methods.run_folder import check_log, hardly_trained, load_model, log_sum, model_folder, publish, write_json
from modiff.training.loop import train


@pytest.fixture(scope="module")
def trained(store, settings, tmp_path_factory):
    """Two steps of training."""
    folder = tmp_path_factory.mktemp("run")
    short = replace(settings.training, budget="8img", validation_images=4)
    train(replace(settings, training=short), store, folder, quiet=True)
    return folder


@pytest.fixture
def published(trained, tmp_path):
    """The run's model as it is published, in bfloat16."""
    return publish(trained, tmp_path / "model", card={"name": "test"})


def test_a_published_model_draws_the_samples_of_its_run(trained, published):
    image = torch.rand(1, 1, 64, 64)
    seeds = torch.tensor([3])
    own = load_model(trained).model.sample(image, 4, seeds=seeds)
    other = load_model(published).model.sample(image, 4, seeds=seeds)
    assert (own.maps - other.maps).abs().max() < 0.1  # 8 bits of mantissa


def test_published_weights_are_sixteen_bit_and_without_a_path(trained, published):
    kinds = {value.dtype for value in load_file(published / "weights.safetensors").values()}
    assert kinds == {torch.bfloat16}
    assert "path" not in json.loads((published / "data.json").read_text())
    assert load_model(published).card["name"] == "test"


def test_a_missing_folder_names_what_there_is():
    with pytest.raises(CheckpointError, match="no such run folder or packaged model"):
        load_model("nowhere")


@pytest.mark.parametrize("name", ["config.yaml", "data.json", "weights.safetensors"])
def test_a_missing_file_is_named(published, name):
    (published / name).unlink()
    with pytest.raises((CheckpointError, ConfigError), match=name):
        load_model(published)


@pytest.mark.parametrize(
    ("bytes_left", "words"), [(4, "a damaged beginning"), (2000, "a damaged beginning"), (-9, "too early")]
)
def test_weights_cut_short_are_said_to_be_so_in_plain_words(published, bytes_left, words):
    path = published / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:bytes_left])
    with pytest.raises(CheckpointError, match=f"or a damaged one; found .*{words}.* Copy the file again"):
        load_model(published)


@pytest.mark.parametrize(
    "change", [{"channels": []}, {"size": [64, 0]}, {"size": [64]}, {"raters": [1]}, {"prompt": "x"}]
)
def test_a_description_of_the_data_that_cannot_be_is_named(published, change):
    path = published / "data.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change | {"checksum": None}))
    with pytest.raises(
        CheckpointError, match=f"data.json: does not describe the training data: .*{next(iter(change))}"
    ):
        load_model(published)


def test_a_tensor_of_another_shape_is_named(published):
    path = published / "weights.safetensors"
    state = load_file(path)
    state["unet.conv_in.weight"] = torch.zeros(1, 2, 3, 3)
    save_file(state, path)
    with pytest.raises(CheckpointError, match=r"unet\.conv_in\.weight"):
        load_model(published)


def test_a_missing_or_surplus_tensor_is_named(published):
    path = published / "weights.safetensors"
    state = load_file(path)
    save_file({**state, "more": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="more"):
        load_model(published)
    del state["unet.conv_in.weight"]
    save_file(state, path)
    with pytest.raises(CheckpointError, match=r"unet\.conv_in\.weight"):
        load_model(published)


def test_values_that_are_not_finite_are_refused(published):
    path = published / "weights.safetensors"
    state = load_file(path)
    state["unet.conv_in.weight"][:] = float("nan")
    save_file(state, path)
    with pytest.raises(CheckpointError, match="not finite"):
        load_model(published)


def test_a_pickle_in_place_of_weights_is_refused(published):
    torch.save({"unet.conv_in.weight": torch.zeros(1)}, published / "weights.safetensors")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_model(published)


def test_the_packaged_model_is_trained_and_one_without_a_card_is_not_judged():
    assert hardly_trained(load_model("lidc").card) is None
    assert hardly_trained({}) is None


@pytest.mark.parametrize(
    ("images", "own", "other", "reasons"),
    [(4999, 1.0, 2.0, 1), (5000, 1.0, 2.0, 0), (5000, 2.0, 2.0, 1), (5000, -1.0, -2.0, 1), (1, 2.0, 1.0, 2)],
)
def test_few_images_and_a_loss_that_needs_no_image_are_each_a_reason(images, own, other, reasons):
    card = {"images_seen": images, "validation_loss": own, "validation_loss_other_images": other}
    said = hardly_trained(card)
    assert (said is None) is (reasons == 0)
    assert (said or "").count("it has seen") + (said or "").count("its validation loss") == reasons


def test_a_folder_without_weights_does_not_hide_a_packaged_model(trained, tmp_path, monkeypatch, caplog, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lidc").mkdir()
    packaged = load_model("lidc")
    assert packaged.folder != tmp_path / "lidc"
    assert "the packaged model lidc is used" in caplog.text
    assert cli.main(["evaluate", "lidc", "--data", "missing.h5"]) == 2
    assert "-o: a packaged model has no folder to write to" in capsys.readouterr().err
    publish(trained, tmp_path / "lidc", card={})  # with weights the folder is meant
    assert load_model("lidc").folder == Path("lidc")


def test_no_flipped_bit_of_the_weights_is_loaded(published):
    path = published / "weights.safetensors"
    data, expected, rng = path.read_bytes(), load_model(published).model.state_dict(), random.Random(0)
    named = set()
    for bit in [*rng.sample(range(8 * 200), 20), *rng.sample(range(8 * len(data)), 20)]:
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found = load_model(published).model.state_dict()
        except CheckpointError as error:
            named.add(str(path) in str(error))
        else:  # a digit of the checksum, or its name, is none any more
            assert bit < 8 * 80
            assert same(found, expected)
    assert named == {True}


@pytest.mark.parametrize("name", ["config.yaml", "data.json", "card.json"])
def test_a_run_folders_text_that_was_changed_is_refused(published, name):
    path = published / name
    text = path.read_text()
    digit = re.search("[1-9]", text.partition("\n")[2])
    at = digit.start() + text.index("\n") + 1
    path.write_text(f"{text[:at]}0{text[at + 1 :]}")
    with pytest.raises(ModiffError, match=f"{name}"):
        load_model(published)


def test_a_folder_without_checksums_is_loaded(published):
    expected = load_model(published).model.state_dict()
    save_file(load_file(published / "weights.safetensors"), published / "weights.safetensors")
    for name in ("config.yaml", "data.json", "card.json"):
        lines = [line for line in (published / name).read_text().splitlines() if "checksum" not in line]
        text = "\n".join(lines).replace(",\n}", "\n}")
        (published / name).write_text(text)
    assert same(load_model(published).model.state_dict(), expected)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], value) for name, value in other.items())


def test_the_packaged_model_has_checksums():
    folder = model_folder("lidc")
    assert (folder / "config.yaml").read_text().startswith("# checksum: ")
    for name in ("data.json", "card.json", "weights.safetensors"):
        assert b'"checksum":' in (folder / name).read_bytes()


def test_a_log_that_does_not_fit_the_card_is_refused(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1, "train/loss": 2.5}\n')
    write_json(tmp_path / "card.json", {"log": log_sum(tmp_path)})
    with log.open("a") as file:
        file.write('{"step": 2, "train/loss": 1.5}\n')  # of steps after the save
    check_log(tmp_path)
    log.write_text(log.read_text().replace("2.5", "0.5"))
    with pytest.raises(CheckpointError, match=r"log\.jsonl: is damaged"):
        check_log(tmp_path)
