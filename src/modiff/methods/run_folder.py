"""A run folder: config.yaml, data.json, log.jsonl, training.ckpt, weights.safetensors, card.json.

What is published of a model is such a folder without log and checkpoint. Nothing in it is code.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save
from torch import Tensor

from modiff.config.fields import flatten, read_yaml, to_dict, typed
from modiff.config.run import RunConfig, check_ranges, config_from_dict
from modiff.data.intensity import IntensityRule
from modiff.data.loading import MemoryStore
from modiff.errors import CheckpointError, ConfigError, DataError, counted
from modiff.io import checksum
from modiff.io.files import regular, sha256_of, told
from modiff.io.output import to_disk, write_bytes, write_text
from modiff.io.text import read_json_text
from modiff.methods import hub
from modiff.methods.base import Segmenter
from modiff.methods.registry import build
from modiff.methods.weights import check_weights, count, load_weights, read_header
from modiff.types import DataSpec

CONFIG, DATA, LOG, CHECKPOINT = "config.yaml", "data.json", "log.jsonl", "training.ckpt"
WEIGHTS, CARD = "weights.safetensors", "card.json"

# In training. Below it no method of docs/comparison.md was near what it reaches; most need far more.
FEW_IMAGES = 5000

# Settings that may differ when a run is resumed: they change how long and where it runs, not what it computes.
_FREE = ("training.budget", "training.save_every", "training.log_every", "trainer.")


def write_config(path: Path, config: RunConfig) -> None:
    """The configuration as YAML."""
    text = checksum.COMMENT + yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)
    write_bytes(path, checksum.stamped(text.encode()))


def read_config(path: Path) -> RunConfig:
    """The configuration of a run or published folder; ConfigError where it is not one or out of range.

    DataError where it does not fit its checksum.
    """
    config = config_from_dict(read_yaml(path), path=path)
    checksum.check(path.read_bytes(), path)
    with _about(path):
        check_ranges(config)
    return config


@contextmanager
def _about(path: Path) -> Iterator[None]:
    """A ConfigError from inside the block is about a run's configuration."""
    try:
        yield
    except ConfigError as error:
        raise error.at(path) from error


def describe_data(store: MemoryStore, path: str | Path, *, fold: int | None = None) -> DataSpec:
    """What a model must know of the store it is trained on; fold: the one that is held out."""
    own = {field.name: getattr(store.info, field.name) for field in fields(DataSpec) if hasattr(store.info, field.name)}
    size = (store.shape[1], store.shape[2])
    return DataSpec(
        **own | store.place, size=size, images=len(store), fingerprint=store.fingerprint, path=str(path), fold=fold
    )


def read_data(path: Path) -> DataSpec:
    """The data description of a run or published folder; CheckpointError where it is not one."""
    usual = [field.name for field in fields(DataSpec) if field.default is not MISSING]
    try:
        found = typed(DataSpec, read_json(path), "other names", path=path, field="data", optional=usual)
        if found.intensity is not None:
            IntensityRule.parse(found.intensity)
        return found
    except DataError as error:
        what = f"does not describe the training data: {error.field}: {error.message}"
        raise CheckpointError(what, path=path, found=error.found, expected=error.expected) from error


@dataclass(frozen=True)
class Card:
    """What of a card.json is relied on; the rest is for people. All of it is left out where it is not known."""

    images_seen: int | None = None
    steps: int | None = None
    seconds: float | None = None
    validation_loss: float | None = None
    validation_loss_other_images: float | None = None


def read_card(path: Path, *, needed: Collection[str] = ()) -> dict[str, Any]:
    """A model's card; CheckpointError where what is needed is missing, or is not what it should be."""
    card, names = read_json(path), {field.name for field in fields(Card)}
    known = {name: card[name] for name in names & card.keys()}
    try:
        typed(Card, known, "lacks names", path=path, field="card", optional=names - {*needed})
    except DataError as error:
        found, expected = error.found, error.expected
        raise CheckpointError(error.message, path=path, field=error.field, found=found, expected=expected) from error
    return card


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; CheckpointError where the file is missing or is not one."""
    try:
        data = read_json_text(path, kind="JSON file", nan=True)
    except DataError as error:
        found, expected = error.found, error.expected
        raise CheckpointError(error.message, path=path, field=error.field, found=found, expected=expected) from error
    if not isinstance(data, dict):
        raise CheckpointError("is not a JSON object", path=path, found=type(data).__name__)
    return data


def write_json(path: Path, data: dict[str, Any]) -> None:
    """A JSON object that people can read."""
    write_text(path, checksum.stamped_json(data, indent=1, nan=True))


def differences(old: RunConfig, new: RunConfig) -> list[str]:
    """ "name: old → new" of every setting that must not change when a run is resumed."""
    before, after = flatten(to_dict(old)), flatten(to_dict(new))
    names = [n for n in sorted(before.keys() | after.keys()) if not n.startswith(_FREE) and n != "preset"]
    return [f"{n}: {before.get(n)} → {after.get(n)}" for n in names if before.get(n) != after.get(n)]


def check_resumable(
    folder: Path,
    config: RunConfig,
    data: DataSpec | None = None,
    *,
    hint: str = "Use the same settings and data, or another run folder (-o)",
) -> None:
    """CheckpointError showing the difference where a run's configuration, or its data where given, are others."""
    changed = differences(read_config(folder / CONFIG), config)
    if data is not None:
        before = read_data(folder / DATA)
        if before.fingerprint != data.fingerprint:
            changed.append(f"data: {before.path} → {data.path} (other content)")
        if before.fold != data.fold:
            changed.append(f"fold: {before.fold} → {data.fold}")
    if changed:
        what = "was trained with other settings and cannot be resumed with these"
        raise CheckpointError(what, path=folder, found="; ".join(changed), hint=hint)


def truncate_log(path: Path, step: int) -> None:
    """Drops the lines of steps after the checkpoint that a run resumes from, and a torn last line.

    Raises DataError for a damaged line.
    """
    if path.exists():
        rows = (row for row in checksum.read_lines(path) if isinstance(row.get("step"), int) and row["step"] <= step)
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def log_sum(folder: Path) -> dict[str, Any]:
    """What the card says of the log so far, which is on the disk then: its `bytes` and their `sha256`."""
    path = folder / LOG
    if not path.exists():
        return {"bytes": 0, "sha256": hashlib.sha256().hexdigest()}
    with told(path, "cannot be written"):
        to_disk(path)
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def check_log(folder: Path) -> None:
    """CheckpointError where the log is not as the card says; what was added since, and older cards, are not asked."""
    path, card = folder / LOG, folder / CARD
    said = read_json(card).get("log") if path.exists() and card.exists() else None
    if not isinstance(said, dict) or not isinstance(said.get("bytes"), int):
        return
    regular(path)
    if sha256_of(path, end=said["bytes"]) != said.get("sha256"):
        what, hint = f"content that does not fit its SHA-256 in {CARD}", "Delete it to resume without it"
        raise CheckpointError("is damaged", path=path, found=what, hint=hint)


@dataclass
class LoadedModel:
    """A model ready to draw samples, with what is known of it.

    model: in evaluation mode on the CPU. config: how it was trained. data: what its training data was. card: trained
    for how long, on what, how it scores. name: folder or packaged name. fingerprint: SHA-256 of its weights.
    """

    model: Segmenter
    config: RunConfig
    data: DataSpec
    card: dict[str, Any]
    name: str
    folder: Path
    fingerprint: str


def hardly_trained(card: Mapping[str, Any]) -> str | None:
    """In words why a model with this card has hardly been trained; None where it has been, or nothing is known.

    It has seen few images, or its validation loss is no better with the right image than with another case's: a network
    that ignores the image, such as one that predicts a constant, has the same loss with both.
    """
    reasons = []
    seen, own, other = (card.get(name) for name in ("images_seen", "validation_loss", "validation_loss_other_images"))
    if isinstance(seen, int) and seen < FEW_IMAGES:
        reasons.append(f"it has seen {counted(seen, 'image', ',')} in training, fewer than {FEW_IMAGES:,}")
    if isinstance(own, float) and isinstance(other, float) and own >= other:
        reasons.append(f"its validation loss, {own:.4g}, is no better than with other cases' images, {other:.4g}")
    return f"the model has hardly been trained: {' and '.join(reasons)}" if reasons else None


def packaged_models() -> list[str]:
    """Names of the models that come with the package."""
    folder = resources.files("modiff") / "packaged"
    return sorted(item.name for item in folder.iterdir() if item.is_dir()) if folder.is_dir() else []


def model_folder(path_or_name: str | Path) -> Path:
    """A run or published folder, a packaged model's, or a hub's (`hf:OWNER/NAME`): a folder of a packaged model's name
    is meant only if it holds weights, and the log says where one is passed over."""
    if str(path_or_name).startswith(hub.PREFIX):
        return hub.fetched(str(path_or_name), (WEIGHTS, CONFIG, DATA, CARD))
    path, packaged = Path(path_or_name), str(path_or_name) in packaged_models()
    if path.is_dir() and (not packaged or (path / WEIGHTS).is_file()):
        return path
    if packaged:
        if path.is_dir():
            logging.getLogger("modiff").warning(
                "the packaged model %s is used: the folder %s holds no %s", path, path.resolve(), WEIGHTS
            )
        return Path(str(resources.files("modiff") / "packaged" / str(path_or_name)))
    expected = f"a folder with {WEIGHTS}, or one of {', '.join(packaged_models()) or 'none packaged'}"
    raise CheckpointError("no such run folder or packaged model", path=path_or_name, expected=expected)


def load_model(path_or_name: str | Path) -> LoadedModel:
    """Loads a model; raises CheckpointError where the folder is incomplete or its weights do not fit."""
    folder = model_folder(path_or_name)
    if not (folder / WEIGHTS).is_file():
        hint = "Train first: modiff train" if (folder / CONFIG).exists() else None
        raise CheckpointError("holds no weights", path=folder, expected=WEIGHTS, hint=hint)
    config, data = read_config(folder / CONFIG), read_data(folder / DATA)
    path = folder / WEIGHTS
    header, fingerprint = read_header(path), check_weights(path)
    card = read_card(folder / CARD) if (folder / CARD).exists() else {}
    card.pop("log", None)  # of another file in the folder: no word about the model
    with _about(folder / CONFIG):  # twice as many as there are still say which tensor is missing
        model = build(config.method, config.model, data, most=2 * count(header))
    load_weights(model, path, header)
    return LoadedModel(model.eval(), config, data, card, str(path_or_name), folder, fingerprint)


def save_weights(state: dict[str, Tensor], path: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Writes tensors as safetensors, floating ones as `dtype`, whole or not at all."""
    made = {
        name: (value.to(dtype) if value.is_floating_point() else value).detach().cpu().contiguous()
        for name, value in state.items()
    }
    data = save(made)
    start = 8 + int.from_bytes(data[:8], "little")
    header = {"__metadata__": {"format": "pt", **checksum.BLANK}, **json.loads(data[8:start])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    write_bytes(path, checksum.stamped(len(text).to_bytes(8, "little") + text + data[start:]))


def publish(source: str | Path, target: Path, *, dtype: torch.dtype = torch.bfloat16, card: dict[str, Any]) -> Path:
    """Copies a run's model into a folder of its own: 16-bit weights, configuration, data description and card."""
    loaded = load_model(source)
    save_weights(loaded.model.state_dict(), target / WEIGHTS, dtype=dtype)
    write_config(target / CONFIG, loaded.config)
    write_json(target / DATA, {key: value for key, value in loaded.data.to_dict().items() if key != "path"})
    write_json(target / CARD, loaded.card | card)
    return target
