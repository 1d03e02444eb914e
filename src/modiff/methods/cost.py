"""What a method costs: parameters, floating-point operations an image and a sample, network evaluations a sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from modiff.config import build_config, check_model, read_preset
from modiff.errors import ConfigError
from modiff.methods.base import Segmenter
from modiff.methods.presence.head import PresenceHead
from modiff.methods.registry import METHODS, build
from modiff.types import DataSpec

_GIGA = 1e9
_LARGEST = 100_000  # of channels, classes, raters, pixels a side, samples


@dataclass(frozen=True)
class Description:
    """A method's size and cost for images of one size.

    parts: parameters of each part of the network. trained: parameters that an optimiser changes. evaluations: network
    evaluations a sample. gflop_image: work done once an image, whatever the number of samples. gflop_evaluation: a
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
    """Builds a method with fresh weights and counts. changes: settings of the model, nested, over the preset's.

    prompt: whether the images have one; without it MoDiff denoises them whole. exchangeable: whether a rater's index
    says nothing of who it is. Samples are counted as if every one marked something. Raises ConfigError for an unknown
    method or setting.
    """
    for field, value in (("channels", channels), ("classes", classes), ("raters", raters), ("size", size), ("n", n)):
        if not 1 <= value <= _LARGEST:
            raise ConfigError("impossible number", field=field, found=value, expected=f"from 1 to {_LARGEST:,}")
    config = _config(method, preset, file, changes)
    data = DataSpec.of(
        channels=channels,
        classes=classes,
        raters=raters,
        exchangeable=exchangeable,
        prompt="centre" if prompt else "none",
    )

    def fresh() -> Segmenter:
        return build(method, config, data).eval()

    model, cost = _measure(fresh, torch.zeros(1, channels, size, size))
    steps = model.default_steps
    parts = {name: _parameters(child) for name, child in model.named_children()}
    total = _parameters(model)
    if total > sum(parts.values()):
        parts["own"] = total - sum(parts.values())
    image, sample = cost.image + steps * cost.step, cost.sample + steps * cost.evaluation
    return Description(
        method=method,
        title=METHODS[method].title,
        preset=preset,
        channels=channels,
        classes=classes,
        raters=raters,
        size=size,
        n=n,
        parameters=total,
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        parts={name: count for name, count in parts.items() if count},
        evaluations=steps,
        gflop_image=image / _GIGA,
        gflop_evaluation=cost.evaluation / _GIGA,
        gflop_sample=sample / _GIGA,
        gflop_total=(image + n * sample) / _GIGA,
    )


def _config(method: str, preset: str | None, file: str | Path | None, changes: Mapping[str, Any] | None) -> Any:
    of = read_preset(preset).get("method", method) if preset else method
    if of != method:
        raise ConfigError("is a preset of another method", field="preset", found=f"{preset}, of {of}", expected=method)
    model = build_config(method=method, preset=preset, file=file, changes={"model": dict(changes or {})}).model
    check_model(model)
    return model


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@dataclass(frozen=True)
class _Cost:
    """FLOP of n samples in S steps: image + S·step + n·(sample + S·evaluation)."""

    image: float
    step: float
    sample: float
    evaluation: float


def _measure(fresh: Callable[[], Segmenter], image: Tensor) -> tuple[Segmenter, _Cost]:
    """A fresh network and what it costs."""
    try:  # shapes alone are enough, unless the way through the network depends on values
        with torch.device("meta"):
            model = fresh()
        return model, _cost(model, image.to("meta"))
    except (NotImplementedError, RuntimeError):
        with torch.random.fork_rng(devices=[]):  # counting leaves no trace in the caller's random numbers
            model = fresh()
        return model, _cost(model, image)


def _cost(model: Segmenter, image: Tensor) -> _Cost:
    _settle(model)
    encoding: list[Any] = []
    encode = _flop(lambda: encoding.append(model.surely_present(model.encode(image))))
    seeds = torch.zeros(1, dtype=torch.int64, device=image.device)
    stepwise = model.default_steps > 1

    def sampled(n: int, steps: int) -> float:
        chosen = steps if stepwise else None
        return _flop(lambda: model.sample(encoding[0], n, seeds=seeds, steps=chosen))

    one, two = sampled(1, 1), sampled(2, 1)
    if not stepwise:  # the one evaluation is all there is
        return _Cost(encode + 2 * one - two, 0.0, 0.0, two - one)
    later, both = sampled(1, 2), sampled(2, 2)
    evaluation = both - two - later + one
    step, sample = later - one - evaluation, two - one - evaluation
    return _Cost(encode + one - step - sample - evaluation, step, sample, evaluation)


def _settle(model: Segmenter) -> None:
    """Fresh weights see half a lesion everywhere; that it lies within the window looked at is the ordinary case."""
    for module in model.modules():
        if isinstance(module, PresenceHead):
            nn.init.zeros_(module.map_out.weight)
            if module.map_out.bias is not None:
                nn.init.constant_(module.map_out.bias, -6.0)


def _flop(work: Callable[[], object]) -> float:
    # Fused attention has no count on every device; its plain form is the same products.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())
