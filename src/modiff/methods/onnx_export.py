"""The networks of a diffusion method as ONNX files: what depends on the image, and one step of the denoiser.

Random numbers, presence and the steps of the sampler are left to the caller (tools/onnx_sample.py does them in NumPy);
`onnx.json` has the numbers that they need.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modiff.diffusion.process import Diffusion
from modiff.errors import ConfigError
from modiff.io.output import write_bytes, write_text
from modiff.methods.base import Segmenter
from modiff.methods.denoising import DenoisingSegmenter
from modiff.methods.modiff.model import reaches
from modiff.nn import windows
from modiff.nn.layers import image_centre

FACTS, ENCODER = "onnx.json", "encoder.onnx"
_OPSET = 18


class Encoder(nn.Module):
    """image (B,C,H,W) of one size -> "presence" (B,·), with a presence head; "wide" (B,) bool, where there are two
    windows; the features of each window that may be denoised: the one in the middle, and the whole image."""

    outside: Tensor

    def __init__(self, model: DenoisingSegmenter, size: windows.Size) -> None:
        super().__init__()
        self.model = model
        blank = torch.zeros(1, model.channels, *size)
        self.centre, padded = image_centre(blank)[0], windows.pad_to_multiple(blank, model.stride, edge=True)
        self.padded = windows.sides(padded)
        self.windows = list(dict.fromkeys((model.window_size(self.padded), self.padded)))
        head = model.presence_head
        seen = [] if head is None else [head.window_size(padded)]
        # Row and column of the first pixel of each window in the middle: numbers, since a trace knows no values.
        self.corners = {side: self._corner(side) for side in (*self.windows, *seen)}
        self.names = (["presence"] if head else []) + (["wide"] if head and len(self.windows) > 1 else [])
        if head is not None:
            self.seen = seen[0]
            self.views = head.views(self._cut(padded, self.seen)[1], self.seen)
            outside = windows.outside(self.seen, self.windows[0], self.centre[None], self.padded)
            self.register_buffer("outside", outside, persistent=False)
        self.features = [len(model.encode_window(*self._cut(padded, side))) for side in self.windows]
        for index, count in enumerate(self.features):
            self.names += [f"window_{index}_feature_{number}" for number in range(count)]

    def _corner(self, side: windows.Size) -> list[int]:
        corner: list[int] = windows.window_corner(self.centre[None], side, self.padded)[0].tolist()
        return corner

    def _cut(self, padded: Tensor, side: windows.Size) -> tuple[Tensor, Tensor]:
        """The window in the middle of padded images, and where the prompt is in it."""
        (top, left), (height, width) = self.corners[side], side
        at = (self.centre - torch.tensor([top, left])).expand(padded.shape[0], 2)
        return padded[..., top : top + height, left : left + width], at

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """The outputs called `names`."""
        padded, found = windows.pad_to_multiple(image, self.model.stride, edge=True), []
        if self.model.presence_head is not None:
            presence, label_map = self.model.presence_head.of_views(*self._cut(padded, self.seen), self.views)
            found = [presence, reaches(label_map, self.outside)][: 1 + ("wide" in self.names)]
        for side in self.windows:
            found += self.model.encode_window(*self._cut(padded, side))
        return tuple(found)


class Denoiser(nn.Module):
    """(x_t (M,…), t (), markers (M,R) bool, features (M,…) …) -> the prediction, as the model's process takes it."""

    def __init__(self, model: DenoisingSegmenter) -> None:
        super().__init__()
        self.model = model

    def forward(self, x_t: Tensor, t: Tensor, markers: Tensor, *features: Tensor) -> Tensor:
        """Of M samples, each in its window."""
        return self.model.predictor(features, markers)(x_t, t)


@torch.no_grad()
def write_onnx(model: Segmenter, folder: Path, *, about: Mapping[str, Any]) -> list[str]:
    """Writes `encoder.onnx`, a `denoiser-….onnx` per size of window and `onnx.json`; returns their names.

    about: of the model, for `onnx.json`. Raises ConfigError for a method that does not sample in steps, a model that
    does not know its images' size, and where onnx is not installed.
    """
    if not isinstance(model, DenoisingSegmenter):
        method, expected = type(model).__name__, "a diffusion method"
        raise ConfigError("cannot be written as ONNX", field="method", found=method, expected=expected)
    size = model.data.size
    if size is None:
        raise ConfigError("the model does not know its images' size", field="data.size", expected="rows and columns")
    encoder, steps = Encoder(model, size).eval(), model.process.times(model.default_steps)
    image = torch.rand(2, model.channels, *size)
    _export(encoder, (image,), folder / ENCODER, ["image"], encoder.names, batched=("image",))
    outputs, files = dict(zip(encoder.names, encoder(image), strict=True)), [ENCODER]
    parts: list[dict[str, Any]] = []
    for index, side in enumerate(encoder.windows):
        features = [name for name in encoder.names if name.startswith(f"window_{index}_")]
        x = model.process.from_labels(torch.rand(2, model.classes, *side))
        inputs = (x, torch.tensor(0.5), torch.ones(2, model.raters, dtype=torch.bool), *(outputs[n] for n in features))
        names, files = ["x_t", "t", "markers", *features], [*files, f"denoiser-{side[0]}x{side[1]}.onnx"]
        _export(
            Denoiser(model).eval(), inputs, folder / files[-1], names, ["prediction"], batched=(*names[:1], *names[2:])
        )
        parts.append({"file": files[-1], "size": side, "corner": encoder.corners[side], "features": features})
    process = model.process
    levels = {}
    if isinstance(process, Diffusion):
        levels = {"alpha": process.schedule.alpha(steps).tolist(), "sigma": process.schedule.sigma(steps).tolist()}
    kept = {name: value for name, value in asdict(process).items() if isinstance(value, (str, int))}  # type: ignore[call-overload]
    facts = {
        **about,
        "image": [model.channels, *size],
        "padded": encoder.padded,
        "classes": list(model.data.classes),
        "raters": model.raters,
        "exchangeable_raters": model.exchangeable,
        "presence": "presence" in encoder.names,
        "windows": parts,
        "process": {"name": type(process).__name__, **kept},
        "times": steps.tolist(),
        **levels,
    }
    write_text(folder / FACTS, json.dumps(facts, indent=1) + "\n")
    return [*files, FACTS]


def _export(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    path: Path,
    names: list[str],
    outputs: list[str],
    *,
    batched: tuple[str, ...],
) -> None:
    """Writes a module as ONNX; the first axis of the inputs `batched` may have any length."""
    module(*inputs)  # constants are made outside of the trace
    sizes = [{0: torch.export.Dim.DYNAMIC} if name in batched else None for name in names]
    given = len(inputs) - sum(name.startswith("window_") for name in names)
    shapes = tuple(sizes[:given]) + ((tuple(sizes[given:]),) if len(sizes) > given else ())
    with _quiet():
        traced = torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False)
        program = torch.onnx.export(
            traced, input_names=names, output_names=outputs, opset_version=_OPSET, dynamo=True, verbose=False
        )
    assert program is not None
    write_bytes(path, program.model_proto.SerializeToString())


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's words; ConfigError where it is not installed."""
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        hint = "Install it: pip install 'modiff[onnx]'"
        raise ConfigError("needs onnx and onnxscript", field="--onnx", hint=hint) from error
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
