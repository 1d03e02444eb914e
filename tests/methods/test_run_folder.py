"""Published folders: what fits is loaded, everything else is refused by name."""

from __future__ import annotations

import datetime
import json
import random
import re
import resource
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from modiff import cli
from modiff.errors import CheckpointError, ConfigError, ModiffError
from modiff.methods.registry import build
from modiff.methods.run_folder import (
    check_log,
    hardly_trained,
    load_model,
    log_sum,
    model_folder,
    publish,
    read_card,
    write_json,
)
from modiff.training.loop import train
from modiff.types import DataSpec


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


def _changed(folder: Path, **changes: object) -> None:
    """The folder's config.yaml with other settings, given by address with _ for the dots."""
    path = folder / "config.yaml"
    data = yaml.safe_load(path.read_text())
    for address, value in changes.items():
        group = data
        *above, name = address.split("__")
        for part in above:
            group = group[part]
        group[name] = value
    path.write_text(yaml.safe_dump(data))


@pytest.mark.parametrize(
    "change",
    [
        {"model__unet__base": 4096},
        {"model__unet__base": 1024},
        {"model__unet__blocks": 10**9},
        {"model__unet__multipliers": [1] * 100_000},
        {"model__unet__multipliers": [1] * 10},
        {"model__unet__multipliers": [64, 64]},
        {"model__unet__stem": 10**6},
        {"model__unet__dropout": -5.5},
        {"model__ldf__kernels": [100_001]},
        {"model__ldf__kernels": [3] * 100_000},
        {"model__mca__dim": 10**9},
        {"model__mca__condition_channels": 10**9},
        {"model__presence__base": 10**6},
        {"model__diffusion__steps": 10**12},
        {"seed": datetime.date(2001, 1, 1)},
        {"preset": [1]},
        {"method": {"a": 1}},
        {"training__learning_rate": 10**400},
    ],
    ids=str,
)
def test_a_configuration_beyond_its_ranges_or_its_weights_is_refused_before_a_network_is_made(published, change):
    _changed(published, **change)
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((ConfigError, CheckpointError), match=r"config\.yaml") as refused:
        load_model(published)
    assert time.process_time() - start < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB
    assert len(str(refused.value).removeprefix(str(published))) < 500


def test_no_network_is_made_that_is_larger_than_any_method(settings):
    data = DataSpec.of()
    large = replace(settings.model, unet=replace(settings.model.unet, base=1024))
    with pytest.raises(
        ConfigError, match=r"model: makes a network that is too large; .* at most 160,000,000 parameters"
    ):
        build("modiff", large, data)
    padded = replace(settings.model, unet=replace(settings.model.unet, multipliers=(1,) * 10, stem=2))
    with pytest.raises(ConfigError, match=r"pads images to too large a multiple .* found 1024; expected at most 512"):
        build("modiff", padded, data)


def _unsigned(path):
    """A JSON file's content without its checksum."""
    return {name: value for name, value in json.loads(path.read_text()).items() if name != "checksum"}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"channels": [f"c{i}" for i in range(10**6)]}, "channels: are too many; found 1000000"),
        ({"raters": [f"r{i}" for i in range(256)]}, "raters: are too many; found 256; expected at most 255"),
        ({"size": [10**9, 10**9]}, "size: is out of range"),
        ({"size": "x"}, "size: wrong value; found 'x'"),
        ({"size": {}}, "size: wrong value"),
        ({"size": [0, 0]}, "size: is out of range"),
        ({"intensity": 5}, "intensity: wrong value; found 5; expected text or null"),
        ({"intensity": "median"}, "intensity: no such rule"),
        ({"images": -1}, "images: is negative"),
        ({"spacing": [10**400, 1]}, "spacing: wrong value"),
        ({"colour": 1}, "other names; found colour"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else next(iter(value)),
)
def test_the_description_of_the_data_has_a_schema(published, change, match):
    path = published / "data.json"
    path.write_text(json.dumps(_unsigned(path) | change))
    with pytest.raises(CheckpointError, match=rf"data\.json: .*{match}"):
        load_model(published)


@pytest.mark.parametrize(("name", "value"), [("images_seen", "many"), ("validation_loss", [1]), ("seconds", True)])
def test_what_is_relied_on_of_a_card_has_a_type(published, name, value):
    path = published / "card.json"
    path.write_text(json.dumps(_unsigned(path) | {name: value, "own words": [value]}))
    with pytest.raises(CheckpointError, match=rf"card\.json: card\.{name}: wrong value"):
        load_model(published)


def test_a_card_that_lacks_what_is_needed_is_refused(published):
    card = published / "card.json"
    card.write_text('{"steps": 3}')
    assert read_card(card) == {"steps": 3}
    with pytest.raises(CheckpointError, match="lacks names; found steps; expected images_seen, "):
        read_card(card, needed=("steps", "seconds"))


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.complex64, torch.bool, torch.int8, torch.int64])
def test_weights_of_a_type_that_weights_do_not_have_are_refused_by_name(published, kind):
    path = published / "weights.safetensors"
    state = load_file(path)
    save_file(state | {"unet.conv_in.weight": state["unet.conv_in.weight"].to(kind)}, path)
    with pytest.raises(CheckpointError, match=r"unet\.conv_in\.weight: has a .*type.*; found [A-Z0-9_]+; expected F64"):
        load_model(published)


def _header(content: object) -> bytes:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        _header({f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(10**6)}),
        _header({"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 0]}}),
        _header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 0]}}),
        _header({"a": {"dtype": "F32", "shape": 3, "data_offsets": [0, 0]}}),
        _header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**40]}}),
        _header({"a": [1]}),
        _header([1]),
        _header(b"[" * 10**6),
        b"\xff" * 8,
        b"",
    ],
    ids=["million", "huge", "negative", "shape", "offsets", "list", "no object", "deep", "length", "empty"],
)
def test_a_header_that_lies_is_refused_at_once(published, content):
    (published / "weights.safetensors").write_bytes(content)
    start = time.process_time()
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: "):
        load_model(published)
    assert time.process_time() - start < 1


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
    assert "-o: a packaged model, or a hub's, has no folder to write to" in capsys.readouterr().err
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
