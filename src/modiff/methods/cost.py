"""What a method costs: parameters, floating-point operations per image and per sample, evaluations per sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from modiff.config.run import build_config, read_preset
from modiff.errors import ConfigError
from modiff.methods.base import Segmenter
from modiff.methods.presence import PresenceHead
from modiff.methods.registry import METHODS, build
from modiff.types import DataSpec

_GIGA = 1e9
_LARGEST = 100_000  # of channels, classes, raters, pixels a side, samples


@dataclass(frozen=True)
class Description:
    """A method's size and cost for images of one size.

    parts: parameters of each part of the network. trained: parameters that an optimiser changes. evaluations: network
    evaluations per sample. gflop_image: work done once per image, whatever the number of samples. gflop_evaluation: a
    further step of one sample. gflop_sample: a whole sample. gflop_total: an image with n samples. A multiplication
    and an addition are two operations; matrix products, convolutions and attention are counted, Fourier transforms and
    element-wise work are not.
    """

    method: str
    title: str
    preset: str | None
    channels: int
    classes: int
    raters: int
    size: int
    n: int
    parameters: int
    trained: int
    parts: dict[str, int]
    evaluations: int
    gflop_image: float
    gflop_evaluation: float
    gflop_sample: float
    gflop_total: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return asdict(self)


def describe(
    method: str,
    *,
    preset: str | None = None,
    file: str | Path | None = None,
    changes: Mapping[str, Any] | None = None,
    channels: int = 1,
    classes: int = 1,
    raters: int = 4,
    size: int = 128,
    n: int = 16,
    prompt: bool = True,
    exchangeable: bool = True,
) -> Description:
    """Of a method with fresh weights. changes: settings of the model, nested, over the preset's.

    prompt: whether the images have one; without it MoDiff denoises them whole. exchangeable: whether a rater's index
    says nothing of who it is. Raises ConfigError for an unknown method or setting.
    """
    counts = {"channels": channels, "classes": classes, "raters": raters}
    _check(counts)
    of = read_preset(preset).get("method", method) if preset else method
    if of != method:
        raise ConfigError("is a preset of another method", field="preset", found=f"{preset}, of {of}", expected=method)
    config = build_config(method=method, preset=preset, file=file, changes={"model": dict(changes or {})}).model
    data = DataSpec.of(**counts, exchangeable=exchangeable, prompt="centre" if prompt else "none")
    return describe_model(method, config, data, size=size, n=n, preset=preset)


def describe_model(
    method: str, config: Any, data: DataSpec, *, size: int = 128, n: int = 16, preset: str | None = None
) -> Description:
    """Of a configured model for such data. Samples are counted as if every one marked something."""
    _check({"size": size, "n": n})
    image = torch.zeros(1, len(data.channels), size, size)
    try:  # shapes alone are enough, unless the way through the network depends on values
        with torch.device("meta"):
            model = build(method, config, data).eval()
        cost = _flops(model, image.to("meta"))
    except (NotImplementedError, RuntimeError):
        with torch.random.fork_rng(devices=[]):  # counting leaves no trace in the caller's random numbers
            model = build(method, config, data).eval()
        cost = _flops(model, image)
    parts = dict.fromkeys([*(name for name, _ in model.named_children()), "own"], 0)
    for name, parameter in model.named_parameters():
        part = name.partition(".")[0]
        parts[part if part in parts else "own"] += parameter.numel()
    steps = model.default_steps
    once, sample = cost["image"] + steps * cost["step"], cost["sample"] + steps * cost["evaluation"]
    counts = {"channels": model.channels, "classes": model.classes, "raters": model.raters, "size": size, "n": n}
    return Description(
        method,
        METHODS[method].title,
        preset,
        **counts,
        parameters=sum(parts.values()),
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        parts={name: count for name, count in parts.items() if count},
        evaluations=steps,
        gflop_image=once / _GIGA,
        gflop_evaluation=cost["evaluation"] / _GIGA,
        gflop_sample=sample / _GIGA,
        gflop_total=(once + n * sample) / _GIGA,
    )


def _check(numbers: Mapping[str, int]) -> None:
    for field, value in numbers.items():
        if not 1 <= value <= _LARGEST:
            raise ConfigError("impossible number", field=field, found=value, expected=f"from 1 to {_LARGEST:,}")


def _flops(model: Segmenter, image: Tensor) -> dict[str, float]:
    """Operations of n samples in S steps: image + S·step + n·(sample + S·evaluation).

    What a step does once for all samples (the LDF's look at the radius) is told apart by drawing one and two samples.
    """
    for module in model.modules():  # fresh weights see half a lesion everywhere; that it is small is the ordinary case
        if isinstance(module, PresenceHead):
            nn.init.zeros_(module.map_out.weight)
            if module.map_out.bias is not None:
                nn.init.constant_(module.map_out.bias, -6.0)
    encoding: list[Any] = []
    encode = _count(lambda: encoding.append(model.surely_present(model.encode(image))))
    seeds = torch.zeros(1, dtype=torch.int64, device=image.device)

    def drawn(n: int, steps: int | None) -> float:
        return _count(lambda: model.sample(encoding[0], n, seeds=seeds, steps=steps))

    if model.default_steps == 1:  # the one evaluation is all there is
        one, two = drawn(1, None), drawn(2, None)
        return {"image": encode + 2 * one - two, "step": 0.0, "sample": 0.0, "evaluation": two - one}
    (one, later), (two, both) = ((drawn(n, 1), drawn(n, 2)) for n in (1, 2))
    evaluation = both - two - later + one
    step, sample = later - one - evaluation, two - one - evaluation
    image_once = encode + one - step - sample - evaluation
    return {"image": image_once, "step": step, "sample": sample, "evaluation": evaluation}


def _count(work: Callable[[], object]) -> float:
    # Fused attention has no count on every device; its plain form is the same products.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())
