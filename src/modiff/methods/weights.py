"""What is published of a model: a folder of weights.safetensors, config.yaml, data.json and card.json. Never code."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from modiff.config.run import RunConfig
from modiff.errors import CheckpointError
from modiff.io.files import plain, replacing, sha256_of
from modiff.methods import run_folder as files
from modiff.methods.base import Segmenter
from modiff.methods.registry import build
from modiff.types import DataSpec


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


def packaged_models() -> list[str]:
    """Names of the models that come with the package."""
    folder = resources.files("modiff") / "packaged"
    return sorted(item.name for item in folder.iterdir() if item.is_dir()) if folder.is_dir() else []


def model_folder(path_or_name: str | Path) -> Path:
    """A run or published folder, or a packaged model's; a path beats a packaged model's name."""
    path = Path(path_or_name)
    if path.is_dir():
        return path
    if str(path_or_name) in packaged_models():
        return Path(str(resources.files("modiff") / "packaged" / str(path_or_name)))
    expected = f"a folder with {files.WEIGHTS}, or one of {', '.join(packaged_models()) or 'none packaged'}"
    raise CheckpointError("no such run folder or packaged model", path=path_or_name, expected=expected)


def load_model(path_or_name: str | Path) -> LoadedModel:
    """Loads a model; raises CheckpointError where the folder is incomplete or its weights do not fit."""
    folder = model_folder(path_or_name)
    if not (folder / files.WEIGHTS).is_file():
        hint = "Train first: modiff train" if (folder / files.CONFIG).exists() else None
        raise CheckpointError("holds no weights", path=folder, expected=files.WEIGHTS, hint=hint)
    config, data = files.read_config(folder / files.CONFIG), files.read_data(folder / files.DATA)
    model = build(config.method, config.model, data)
    path = folder / files.WEIGHTS
    try:
        state = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        hint = "Copy the file again, or train again"
        raise CheckpointError(
            "is not a safetensors file, or a damaged one", path=path, found=plain(error), hint=hint
        ) from error
    expected = model.state_dict()
    for name, value in expected.items():
        if name not in state:
            raise CheckpointError("lacks a tensor that the configuration asks for", path=path, field=name)
        if state[name].shape != value.shape:
            found, wanted = tuple(state[name].shape), tuple(value.shape)
            raise CheckpointError("has a tensor of another shape", path=path, field=name, found=found, expected=wanted)
        if value.is_floating_point() and not torch.isfinite(state[name]).all():
            raise CheckpointError("has values that are not finite", path=path, field=name)
    if surplus := sorted(state.keys() - expected.keys()):
        names = ", ".join(surplus[:3])
        raise CheckpointError("has tensors that the configuration does not know", path=path, found=names)
    model.load_state_dict({name: state[name].to(expected[name].dtype) for name in expected})
    card = files.read_json(folder / files.CARD) if (folder / files.CARD).exists() else {}
    return LoadedModel(model.eval(), config, data, card, str(path_or_name), folder, sha256_of(path))


def save_weights(state: dict[str, Tensor], path: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Writes tensors as safetensors, floating ones as `dtype`, whole or not at all."""
    made = {
        name: (value.to(dtype) if value.is_floating_point() else value).detach().cpu().contiguous()
        for name, value in state.items()
    }
    with replacing(path) as temporary:
        save_file(made, temporary, metadata={"format": "pt"})


def publish(source: str | Path, target: Path, *, dtype: torch.dtype = torch.bfloat16, card: dict[str, Any]) -> Path:
    """Copies a run's model into a folder of its own: 16-bit weights, configuration, data description and card."""
    loaded = load_model(source)
    save_weights(loaded.model.state_dict(), target / files.WEIGHTS, dtype=dtype)
    files.write_config(target / files.CONFIG, loaded.config)
    files.write_json(target / files.DATA, {key: value for key, value in loaded.data.to_dict().items() if key != "path"})
    files.write_json(target / files.CARD, loaded.card | card)
    return target
