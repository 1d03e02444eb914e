"""A model as a model hub expects it: weights, configuration, data description, and a card in Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from modiff._version import __version__
from modiff.benchmark.tables import markdown_text
from modiff.errors import ConfigError
from modiff.io.output import output_folder, write_text
from modiff.methods.onnx_export import write_onnx
from modiff.methods.run_folder import LoadedModel, load_model, publish

NOT_FOR = "Not a medical device. Not for diagnosis, screening or treatment."
CARD_PAGE = "README.md"


def write_published(
    source: str | Path, path: Path, *, licence: str, onnx: bool = False, overwrite: bool = False
) -> Path:
    """Writes the folder to upload, whole or not at all: 16-bit weights, config.yaml, data.json, card.json, README.md.

    licence: of the weights, by the hub's identifier, such as cc-by-4.0. onnx: also the networks as ONNX, of the 16-bit
    weights. Raises CheckpointError for what is not a model, DataError where the folder has files and `overwrite` is
    false, ConfigError where the model cannot be written as ONNX.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]*", licence):
        raise ConfigError("is not a licence of the hub", field="--licence", found=repr(licence), expected="such as mit")
    loaded = load_model(source)
    with output_folder(path, overwrite=overwrite) as folder:
        publish(source, folder, card={"licence": licence})
        files: list[str] = []
        if onnx:
            about = {"modiff": __version__, "method": loaded.config.method, "intensity": loaded.data.intensity}
            files = write_onnx(load_model(folder).model, folder, about=about)
        write_text(folder / CARD_PAGE, card_page(loaded, licence, files))
    return path


def card_page(loaded: LoadedModel, licence: str, onnx: Sequence[str] = ()) -> str:
    """The model card: a header in YAML for the hub, then what the model is, learnt, scores and is not for.

    onnx: names of ONNX files beside it.
    """
    data, card, method = loaded.data, loaded.card, type(loaded.model).__name__
    tags = ["medical-imaging", "multi-rater", "uncertainty", loaded.config.method]
    header = {"library_name": "modiff", "license": licence, "pipeline_tag": "image-segmentation", "tags": tags}
    facts = {
        "method": method,
        "input": f"{', '.join(data.channels)}; {'×'.join(map(str, data.size or ()))} pixels; values {data.intensity}",
        "classes": ", ".join(data.classes),
        "raters": f"{len(data.raters)}{', exchangeable' if data.exchangeable_raters else ''}",
        "prompt": "the lesion is at the crop's centre" if data.prompted else "none",
        "training data": f"{data.source}, {data.images:,} images; licence: {data.licence}",
        "images seen": card.get("images_seen", "not known"),
        "parameters": card.get("parameters", "not known"),
        **({"ONNX": ", ".join(onnx)} if onnx else {}),
    }
    lines = ["---", yaml.safe_dump(header, sort_keys=False, allow_unicode=True).rstrip(), "---", ""]
    lines += [f"# {markdown_text(card.get('name', method))}", ""]
    lines += [markdown_text(card.get("description", "Draws plausible segmentations of an image.")), ""]
    lines += [f"**{markdown_text(card.get('not_for', NOT_FOR))}.**".replace("..", "."), ""]
    lines += ["| | |", "|---|---|", *(f"| {name} | {markdown_text(value)} |" for name, value in facts.items()), ""]
    lines += [*_scores(card.get("scores")), "```", "pip install 'modiff[hub]'"]
    lines += ["modiff sample hf:OWNER/NAME image.png -n 16 -o out", "```", ""]
    return "\n".join(lines)


def _scores(scores: object) -> list[str]:
    """The card's scores of all images as a table, if it has any."""
    found = [
        f"| {' | '.join(markdown_text(one.get(name, '')) for name in ('metric', 'protocol', 'n', 'split'))} "
        f"| {one['value']:.3f} ({one['ci_low']:.3f} to {one['ci_high']:.3f}) |"
        for one in (scores if isinstance(scores, list) else [])
        if isinstance(one, dict) and one.get("predictor") == "model" and one.get("stratum") == "all"
        if all(isinstance(one.get(name), float) for name in ("value", "ci_low", "ci_high"))
    ]
    head = ["| metric | protocol | n | split | value (95 % interval over patients) |", "|---|---|---|---|---|"]
    return [*head, *found, ""] if found else []
