"""Weights to start a training from: what of another model fits is taken over, the rest stays fresh."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modiff.data.context import named
from modiff.errors import CheckpointError, ConfigError
from modiff.methods.base import Segmenter
from modiff.methods.run_folder import LoadedModel, load_model, read_json, write_json
from modiff.types import DataSpec

START = "start.json"  # of a run folder
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # buffers that are learnt; others are settings
_PROMPT = 3  # channels that say where the lesion is, behind an image's own


@dataclass(frozen=True)
class Tensors:
    """Parameters of one part of a model that share a fate. part: as `--freeze` names it. state: loaded, in part or
    fresh. why: what does not fit."""

    part: str
    state: str
    count: int
    why: str = ""


@dataclass(frozen=True)
class Start:
    """What a training begins with. init: a run folder or a packaged model's name. freeze: names of parts, or what
    parameters' names begin with, that are not trained."""

    init: str | None = None
    freeze: tuple[str, ...] = ()

    def apply(self, model: Segmenter) -> tuple[list[Tensors], dict[str, Any]]:
        """Takes weights over and freezes; what happened to each part, and what the card says of it.

        Raises CheckpointError where nothing fits, ConfigError for a part that is not there.
        """
        found: list[Tensors] = []
        about: dict[str, Any] = {"freeze": list(self.freeze)}
        if self.init is not None:
            start = load_model(self.init)
            found = take_over(model, start)
            loaded = sum(one.count for one in found if one.state == "loaded")
            about |= {"name": self.init, "fingerprint": start.fingerprint, "loaded": loaded}
            about["parameters"] = sum(one.count for one in found)
        freeze(model, self.freeze)
        return found, about


def take_over(model: Segmenter, start: LoadedModel) -> list[Tensors]:
    """Copies what fits from `start` into a fresh model, by names and shapes.

    Where a layer sees images of other channels, or in another order, those that both have are taken over: by their
    names, else in their order; and the prompt's. Buffers that settings make are left as they are. Raises
    CheckpointError.
    """
    given, fates = start.model.state_dict(), dict[tuple[str, str, str], int]()
    pairs = _channels(start.data, model.data, start.model.channels, model.channels)
    own, seeing = dict(model.named_parameters()), dict[str, dict[int, int]]()
    count = start.model.channels
    alike = count == model.channels and start.data.prompted == model.data.prompted
    if not alike or pairs[count, count] != [(place, place) for place in range(count)]:
        seeing = _seeing(model)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name not in own and not name.endswith(_STATISTICS):
                continue
            state, why = _copy(value, given.get(name), pairs, seeing.get(name, {}))
            key = _part(name), state, why
            fates[key] = fates.get(key, 0) + value.numel()
    if all(state == "fresh" for _, state, _ in fates):
        what, hint = "has no weights that fit", "Its method and settings: --config RUN/config.yaml"
        raise CheckpointError(what, path=start.folder, found=start.config.method, hint=hint)
    return [Tensors(part, state, count, why) for (part, state, why), count in fates.items()]


def _part(name: str) -> str:
    """The first two names of a parameter's address."""
    return ".".join(name.split(".")[:-1][:2]) or name


def _seeing(model: Segmenter) -> dict[str, dict[int, int]]:
    """Parameters that grow with the channels of an image: along which axes, by how much a channel."""
    more = named(("one more",), model.data.context)
    wider = replace(model.data, channels=(*model.data.channels, *more))
    made: Any = model  # every method takes its settings and a description of the data
    try:  # shapes are enough, where a network can be made of them
        with torch.device("meta"):
            large = type(made)(made.config, wider).state_dict()
    except (NotImplementedError, RuntimeError):
        with torch.random.fork_rng(devices=[]):
            large = type(made)(made.config, wider).state_dict()
    found = {}
    for name, value in model.state_dict().items():
        grown = {axis: size - value.shape[axis] for axis, size in enumerate(large[name].shape)}
        found[name] = {axis: size // len(more) for axis, size in grown.items() if size}
    return found


def _copy(
    value: Tensor, given: Tensor | None, pairs: Mapping[tuple[int, int], list[tuple[int, int]]], seeing: dict[int, int]
) -> tuple[str, str]:
    """seeing: of `_seeing`, nothing where images are the same."""
    if given is None:
        return "fresh", "is not in the start"
    if given.shape == value.shape and not seeing:
        value.copy_(given)
        return "loaded", ""
    sides = " → ".join("×".join(map(str, one.shape)) for one in (given, value))
    if given.ndim != value.ndim or len(seeing) != 1:
        return "fresh", sides
    ((axis, each),) = seeing.items()
    others = [place for place in range(value.ndim) if place != axis and given.shape[place] != value.shape[place]]
    # Of patches, the pixels of a channel lie behind one another.
    before, after = given.shape[axis] // each, value.shape[axis] // each
    shared = None if others else pairs.get((before, after))
    if not shared or (given.shape[axis], value.shape[axis]) != (each * before, each * after):
        return "fresh", sides
    old, new = given.unflatten(axis, (before, each)), value.unflatten(axis, (after, each))
    for own, there in shared:
        new.select(axis, own).copy_(old.select(axis, there))
    return "in part", f"{sides}: the channels that both have"


def _channels(
    old: DataSpec, new: DataSpec, old_count: int, new_count: int
) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """(channels then, now) that a convolution may see, each with which of the new are which of the old."""
    shared = [(place, old.channels.index(name)) for place, name in enumerate(new.channels) if name in old.channels]
    images = shared or _in_order(old, new)
    found = {}
    for before in {0, _PROMPT * old.prompted}:
        for after in {0, _PROMPT * new.prompted}:
            both = _PROMPT if before and after else 0
            prompt = [(new_count + place, old_count + place) for place in range(both)]
            found[old_count + before, new_count + after] = [*images, *prompt]
    return found


def _in_order(old: DataSpec, new: DataSpec) -> list[tuple[int, int]]:
    """The first channel of a scan with the first, and so on, each with as many neighbouring slices as both have."""
    count, context = min(len(old.scan_channels), len(new.scan_channels)), min(old.context, new.context)
    steps = range(-context, context + 1)
    places = [[one.context + number * (2 * one.context + 1) for number in range(count)] for one in (new, old)]
    return [(own + step, there + step) for own, there in zip(*places, strict=True) for step in steps]


def freeze(model: nn.Module, names: Sequence[str]) -> None:
    """Parameters below these addresses are not trained. ConfigError for one that is not there, and where all are."""
    own = dict(model.named_parameters())
    for name in names:
        chosen = [value for address, value in own.items() if address == name or address.startswith(f"{name}.")]
        if not chosen:
            parts = dict.fromkeys(part for address in own for part in (address.split(".")[0], _part(address)))
            raise ConfigError("no such part", field="--freeze", found=name, expected=", ".join(parts))
        for value in chosen:
            value.requires_grad_(False)
    if names and not any(value.requires_grad for value in own.values()):
        raise ConfigError("leaves nothing to train", field="--freeze", found=", ".join(names))


def check_start(folder: Path, about: Mapping[str, Any] | None) -> None:
    """CheckpointError where a run was begun from other weights, or with other parts frozen, than is asked for now."""
    path = folder / START
    before, now = read_json(path) if path.exists() else {}, about or {}
    changed = [name for name in ("fingerprint", "freeze") if (before.get(name) or None) != (now.get(name) or None)]
    if changed:
        found = "; ".join(f"{name}: {before.get(name)} → {now.get(name)}" for name in changed)
        hint = "Use the same --init and --freeze, or another run folder (-o)"
        raise CheckpointError(
            "was started with other settings and cannot be resumed with these", path=folder, found=found, hint=hint
        )


def write_start(folder: Path, about: Mapping[str, Any] | None) -> None:
    """start.json of a run that does not begin with fresh weights, all of which are trained."""
    if about is not None:
        write_json(folder / START, dict(about))
