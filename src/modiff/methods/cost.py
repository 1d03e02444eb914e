"""What a method costs: parameters, floating-point operations per image and per sample, evaluations per sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from modiff.config.run import RunConfig
from modiff.methods.base import Segmenter
from modiff.methods.presence import PresenceHead
from modiff.methods.registry import METHODS, build
from modiff.types import DataSpec

_GIGA = 1e9


@dataclass(frozen=True)
class Description:
    """A method's size and cost for images of one size (a square's side, or height and width).

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
    size: int | tuple[int, int]
    n: int
    parameters: int
    trained: int
    parts: dict[str, int]
    evaluations: int
    gflop_image: float
    gflop_evaluation: float
    gflop_sample: float
    gflop_total: float


def describe(config: RunConfig, data: DataSpec, *, size: int | tuple[int, int], n: int) -> Description:
    """Size and cost of the configured model for such data; samples are counted as if every one marked something.

    size: of the images' sides in pixels, or height and width. n: samples per image.
    """
    height, width = size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    image = torch.zeros(1, len(data.channels), height, width)
    try:  # shapes alone are enough, unless the way through the network depends on values
        with torch.device("meta"):
            model = build(config.method, config.model, data).eval()
        cost = _flops(model, image.to("meta"))
    except (NotImplementedError, RuntimeError):
        with torch.random.fork_rng(devices=[]):  # counting leaves no trace in the caller's random numbers
            model = build(config.method, config.model, data).eval()
        cost = _flops(model, image)
    parts = dict.fromkeys([*(name for name, _ in model.named_children()), "own"], 0)
    for name, parameter in model.named_parameters():
        part = name.partition(".")[0]
        parts[part if part in parts else "own"] += parameter.numel()
    steps = model.default_steps
    once, sample = cost["image"] + steps * cost["step"], cost["sample"] + steps * cost["evaluation"]
    counts: dict[str, Any] = {
        "channels": model.channels,
        "classes": model.classes,
        "raters": model.raters,
        "size": height if height == width else size,
        "n": n,
    }
    return Description(
        config.method,
        METHODS[config.method].title,
        config.preset,
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


def _flops(model: Segmenter, image: Tensor) -> dict[str, float]:
    """Operations of n samples in S steps: image + S·step + n·(sample + S·evaluation).

    What a step does once for all samples (the LDF's look at the radius) is told apart by drawing the fewest samples
    that can be drawn, a, and one more.
    """
    a = model.fewest
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
        one, two = drawn(a, None), drawn(a + 1, None)
        return {"image": encode + one - a * (two - one), "step": 0.0, "sample": 0.0, "evaluation": two - one}
    (one, later), (two, both) = ((drawn(n, 1), drawn(n, 2)) for n in (a, a + 1))
    evaluation = both - two - later + one
    step, sample = later - one - a * evaluation, two - one - evaluation
    image_once = encode + one - step - a * (sample + evaluation)
    return {"image": image_once, "step": step, "sample": sample, "evaluation": evaluation}


def _count(work: Callable[[], object]) -> float:
    # Fused attention has no count on every device; its plain form is the same products.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())
