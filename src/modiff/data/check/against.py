"""A store against what a model was trained on: whether it can be judged, or learned from, by that model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from modiff.data.check.findings import Finding
from modiff.data.loading import place_of
from modiff.data.store import Store
from modiff.io.dicom.region import apart
from modiff.types import SAME_SIZE, DataSpec

_KIND = "other data than the model's"


def against(store: Store, model: DataSpec) -> Iterator[Finding]:
    """What the model expects, and where the store differs from it."""
    yield Finding("note", "what the model expects", expectation(model))
    info, (channels, height, width) = store.info, store.shape
    place = place_of(store, range(len(store)))
    if store.fingerprint() == model.fingerprint:
        yield Finding("note", "the model's own data", "the model was trained on this store: score split test alone")
        return

    def other(what: str, own: Any, trained: Any, effect: str) -> Finding:
        return Finding("warning", _KIND, f"{what}: {own}, the model's {trained}; {effect}")

    if channels != len(model.channels):
        effect = "`sample` and `evaluate` refuse it, `train --init` starts those that both have"
        yield other("channels", ", ".join(info.channels), ", ".join(model.channels), effect)
    elif info.channels != model.channels:
        yield other("channels", ", ".join(info.channels), ", ".join(model.channels), "they are taken in their order")
    for what in ("classes", "raters"):
        own, trained = getattr(info, what), getattr(model, what)
        persons = info.exchangeable_raters != model.exchangeable_raters
        if len(own) != len(trained) or (what == "raters" and persons):
            yield other(what, len(own), len(trained), "`train --init` learns these weights anew")
        elif what == "classes" and own != trained:
            yield other(what, ", ".join(own), ", ".join(trained), "the model marks what its own name says")
    if info.prompt != model.prompt:
        words = {"centre": "crops about a lesion", "none": "no prompt"}
        yield other("prompt", words[info.prompt], words[model.prompt], "it looks for a lesion elsewhere")
    if model.size is not None and (height, width) != model.size:
        yield other("size", f"{width}×{height}", f"{model.size[1]}×{model.size[0]}", "it sees windows of its own size")
    differ = {
        "modality": info.modality and model.modality and info.modality != model.modality,
        "region": apart(info.region, model.region),
    }
    for what in (name for name, yes in differ.items() if yes):
        yield other(what, getattr(info, what), getattr(model, what), "it has seen nothing like it")
    own, trained = place["spacing"], model.spacing
    if own and trained and max(max(a / b, b / a) for a, b in zip(own, trained, strict=True)) > SAME_SIZE:
        yield other("pixels", f"{_mm(own)} mm", f"{_mm(trained)} mm", "things look larger or smaller")
    if place["orientation"] and model.orientation and place["orientation"] != model.orientation:
        yield other("orientation", place["orientation"], model.orientation, "slices are turned otherwise")
    if info.intensity != model.intensity and model.intensity is not None:
        yield other("values", info.intensity, model.intensity, "the same tissue has other values")


def expectation(model: DataSpec) -> str:
    """What a model expects of an image, in a sentence."""
    size = "images" if model.size is None else f"images of {model.size[1]}×{model.size[0]}"
    parts = [size.replace("images", "crops") + " centred on a lesion" if model.prompted else size]
    parts += [word for word in (model.modality, model.region) if word]
    parts += [f"channels {', '.join(model.channels)}", f"it marks {', '.join(model.classes)}"]
    if model.spacing is not None:
        ends = model.spacing_range
        parts.append(
            f"pixels of {_mm(model.spacing)} mm" if ends is None else f"pixels of {ends[0]:.3g}–{ends[1]:.3g} mm"
        )
    parts += [f"lying {model.orientation}"] if model.sides else []
    return ", ".join([*parts, f"values by {model.intensity or 'an unknown rule'}"])


def _mm(spacing: tuple[float, float]) -> str:
    return "×".join(f"{value:.3g}" for value in spacing)
