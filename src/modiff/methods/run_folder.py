"""A run folder: config.yaml, data.json, log.jsonl, training.ckpt, weights.safetensors, card.json."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from modiff.config.fields import flatten, read_yaml, to_dict, typed
from modiff.config.run import RunConfig, config_from_dict
from modiff.data.loading import MemoryStore
from modiff.errors import CheckpointError, DataError
from modiff.io.files import write_text
from modiff.io.text import read_json_text
from modiff.types import DataSpec

CONFIG, DATA, LOG, CHECKPOINT = "config.yaml", "data.json", "log.jsonl", "training.ckpt"
WEIGHTS, CARD = "weights.safetensors", "card.json"

# Settings that may differ when a run is resumed: they change how long and where it runs, not what it computes.
_FREE = ("training.budget", "training.save_every", "training.log_every", "trainer.")


def write_config(path: Path, config: RunConfig) -> None:
    """The configuration as YAML."""
    import yaml

    write_text(path, yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True))


def read_config(path: Path) -> RunConfig:
    """The configuration of a run or published folder; ConfigError where it is not one."""
    return config_from_dict(read_yaml(path), path=path)


def describe_data(store: MemoryStore, path: str | Path, *, fold: int | None = None) -> DataSpec:
    """What a model must know of the store it is trained on; fold: the one that is held out."""
    own = {field.name: getattr(store.info, field.name) for field in fields(DataSpec) if hasattr(store.info, field.name)}
    size = (store.shape[1], store.shape[2])
    return DataSpec(**own, size=size, images=len(store), fingerprint=store.fingerprint, path=str(path), fold=fold)


def read_data(path: Path) -> DataSpec:
    """The data description of a run or published folder; CheckpointError where it is not one."""
    optional = {field.name: field.default is not MISSING for field in fields(DataSpec)}
    data = {name: value for name, value in read_json(path).items() if name in optional}  # a later version may say more
    usual = [name for name, left_out in optional.items() if left_out]
    try:
        return typed(DataSpec, data, "lacks names", path=path, field="data", optional=usual)
    except DataError as error:
        what = f"does not describe the training data: {error.field}: {error.message}"
        raise CheckpointError(what, path=path, found=error.found, expected=error.expected) from error


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
    write_text(path, json.dumps(data, indent=1) + "\n")


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
        what = "was trained otherwise and cannot be resumed like this"
        raise CheckpointError(what, path=folder, found="; ".join(changed), hint=hint)


def truncate_log(path: Path, step: int) -> None:
    """Drops the lines of steps after the checkpoint that a run resumes from, and a torn last line."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            break
    write_text(path, "".join(f"{line}\n" for line in kept))
