"""A store against what a model was trained on: whether it can be judged, or learned from, by that model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from modiff.data.check.findings import Finding
from modiff.data.context import check_enough, own_slice
from modiff.data.loading import place_of
from modiff.data.store import Store
from modiff.data.store_format import StoreInfo
from modiff.errors import DataError, counted
from modiff.io.dicom.region import apart
from modiff.types import SAME_SIZE, DataSpec

_KIND = "other data than the model's"


def against(store: Store, model: DataSpec) -> Iterator[Finding]:
    """What the model expects, and where the store differs from it."""
    yield Finding("note", "what the model expects", expectation(model))
    info, (_, height, width) = store.info, store.shape
    place = place_of(store, range(len(store)))
    if store.fingerprint() == model.fingerprint:
        yield Finding("note", "the model's own data", "the model was trained on this store: score split test alone")
        return

    yield from _channels(info, model)
    for what in ("classes", "raters"):
        here, trained = getattr(info, what), getattr(model, what)
        persons = info.exchangeable_raters != model.exchangeable_raters
        if len(here) != len(trained) or (what == "raters" and persons):
            yield _other(what, len(here), len(trained), "`train --init` learns these weights anew")
        elif what == "classes" and here != trained:
            yield _other(what, ", ".join(here), ", ".join(trained), "the model marks what its own name says")
    if info.prompt != model.prompt:
        words = {"centre": "crops about a lesion", "none": "no prompt"}
        yield _other("prompt", words[info.prompt], words[model.prompt], "it looks for a lesion elsewhere")
    if model.size is not None and (height, width) != model.size:
        yield _other("size", f"{width}×{height}", f"{model.size[1]}×{model.size[0]}", "it sees windows of its own size")
    differ = {
        "modality": info.modality and model.modality and info.modality != model.modality,
        "region": apart(info.region, model.region),
    }
    for what in (name for name, yes in differ.items() if yes):
        yield _other(what, getattr(info, what), getattr(model, what), "it has seen nothing like it")
    here, trained = place["spacing"], model.spacing
    if here and trained and max(max(a / b, b / a) for a, b in zip(here, trained, strict=True)) > SAME_SIZE:
        yield _other("pixels", f"{_mm(here)} mm", f"{_mm(trained)} mm", "things look larger or smaller")
    if place["slice_range"] and (steps := model.other_steps(*place["slice_range"])):
        yield Finding("warning", _KIND, steps)
    if place["orientation"] and model.orientation and place["orientation"] != model.orientation:
        yield _other("orientation", place["orientation"], model.orientation, "slices are turned otherwise")
    if info.intensity != model.intensity and model.intensity is not None:
        yield _other("values", info.intensity, model.intensity, "the same tissue has other values")


def _other(what: str, here: Any, trained: Any, effect: str) -> Finding:
    """A difference and what it does."""
    return Finding("warning", _KIND, f"{what}: {here}, the model's {trained}; {effect}")


def _channels(info: StoreInfo, model: DataSpec) -> Iterator[Finding]:
    try:
        check_enough(info.context, model.context)
    except DataError as error:
        yield Finding("error", _KIND, str(error))
    found, expected = own_slice(info.channels, info.context), model.scan_channels
    if len(found) != len(expected):
        effect = "`sample` and `evaluate` refuse it, `train --init` starts those that both have"
        yield _other("channels", ", ".join(found), ", ".join(expected), effect)
    elif found != expected:
        yield _other("channels", ", ".join(found), ", ".join(expected), "they are taken in their order")


def expectation(model: DataSpec) -> str:
    """What a model expects of an image, in a sentence."""
    size = "images" if model.size is None else f"images of {model.size[1]}×{model.size[0]}"
    parts = [size.replace("images", "crops") + " centred on a lesion" if model.prompted else size]
    parts += [word for word in (model.modality, model.region) if word]
    parts += [f"channels {', '.join(model.scan_channels)}"]
    parts += [f"with {counted(model.context, 'neighbouring slice')} on either side"] if model.context else []
    parts += [f"it marks {', '.join(model.classes)}"]
    if model.spacing is not None:
        ends = model.spacing_range
        parts.append(
            f"pixels of {_mm(model.spacing)} mm" if ends is None else f"pixels of {ends[0]:.3g}–{ends[1]:.3g} mm"
        )
    parts += [f"lying {model.orientation}"] if model.sides else []
    return ", ".join([*parts, f"values by {model.intensity or 'an unknown rule'}"])


def _mm(spacing: tuple[float, float]) -> str:
    return "×".join(f"{value:.3g}" for value in spacing)
