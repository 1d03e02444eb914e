"""Ranges of settings: what a number may be, checked before anything is read or written."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

from modiff.config import MoDiffConfig, RunConfig, parse_budget
from modiff.errors import ConfigError

Rule = tuple[Callable[[Any], bool], str]

_COUNT: Rule = (lambda v: v >= 1, "1 or more")
_NOT_NEGATIVE: Rule = (lambda v: 0 <= v < math.inf, "0 or more")
_SHARE: Rule = (lambda v: 0 <= v <= 1, "a share from 0 to 1")
_POSITIVE: Rule = (lambda v: 0 < v < math.inf, "more than 0")
_CAP: Rule = (lambda v: 0 < v <= 1, "a share above 0, up to 1")
_COUNTS: Rule = (lambda v: bool(v) and all(item >= 1 for item in v), "one or more numbers, each 1 or more")
_KERNELS: Rule = (lambda v: bool(v) and all(item >= 1 and item % 2 for item in v), "one or more odd numbers")

RULES: dict[str, Rule] = {
    "training.batch_size": _COUNT,
    "training.learning_rate": _POSITIVE,
    "training.weight_decay": _NOT_NEGATIVE,
    "training.warmup": _NOT_NEGATIVE,
    "training.plateau_factor": (lambda v: 0 < v < 1, "between 0 and 1"),
    "training.plateau_patience": _NOT_NEGATIVE,
    "training.gradient_clip": _NOT_NEGATIVE,
    "training.ema_decay": _SHARE,
    "training.validate_every": _COUNT,
    "training.validation_images": _COUNT,
    "training.save_every": _COUNT,
    "training.log_every": _COUNT,
    "trainer.devices": _COUNT,
    "trainer.num_nodes": _COUNT,
    "model.crop": _NOT_NEGATIVE,
    "model.window": _NOT_NEGATIVE,
    "model.crop_jitter": _NOT_NEGATIVE,
    "model.crop_anywhere": _SHARE,
    "model.diffusion.steps": _COUNT,
    "model.diffusion.sampling_steps": _COUNT,
    "model.diffusion.input_scale": _POSITIVE,
    "model.ldf.kernels": _KERNELS,
    "model.mca.dim": _COUNT,
    "model.mca.heads": _COUNT,
    "model.mca.query_stride": _COUNT,
    "model.mca.condition_channels": _COUNT,
    "model.presence.base": _COUNT,
    "model.presence.multipliers": _COUNTS,
    "model.presence.stem": _COUNT,
    "model.presence.dropout": _SHARE,
    "model.presence.window": _NOT_NEGATIVE,
    "model.presence.jitter": _NOT_NEGATIVE,
    "model.presence.single_share": _SHARE,
    "model.presence.null_share": _SHARE,
    "model.unet.base": _COUNT,
    "model.unet.multipliers": _COUNTS,
    "model.unet.blocks": _COUNT,
    "model.unet.heads": _COUNT,
    "model.unet.dropout": _SHARE,
    "model.unet.stem": _COUNT,
    "model.unet.groups": _COUNT,
    "model.unet.head_width": _NOT_NEGATIVE,
    "model.steps": _COUNT,
    "model.sampling_steps": _COUNT,
    "model.latent": _COUNT,
    "model.latent_widths": _COUNTS,
    "model.map_ce_weight": _NOT_NEGATIVE,
    "model.vlb_weight": _NOT_NEGATIVE,
    "model.kl_weight": _NOT_NEGATIVE,
    "model.channels": _COUNTS,
    "model.latent_dim": _COUNT,
    "model.combine_depth": (lambda v: v >= 2, "2 or more"),
    "model.beta": _NOT_NEGATIVE,
    "model.norm_penalty": _NOT_NEGATIVE,
    "model.flow_steps": _COUNT,
    "model.experts": _COUNT,
    "model.samples_per_expert": _COUNT,
    "model.cap_start": _CAP,
    "model.cap_end": _CAP,
    "model.cap_window": _COUNT,
    "model.cap_patience": _NOT_NEGATIVE,
}


def check_model(model: Any) -> None:
    """As `check_ranges`, of a model's settings alone."""
    _check_rules(model, "model.")
    _check_heads(model)


def _check_rules(settings: Any, above: str = "") -> None:
    """Those of the rules that begin with `above` and whose setting is there."""
    for name, (good, expected) in RULES.items():
        value = _value(settings, name.removeprefix(above)) if name.startswith(above) else None
        if value is not None and not good(value):
            raise ConfigError("makes no sense", field=name, found=value, expected=expected)


def check_ranges(config: RunConfig) -> None:
    """ConfigError naming the first setting whose value makes no sense."""
    _, images = parse_budget(config.training.budget)
    if images is not None and images < config.training.batch_size:
        expected = f"{config.training.batch_size}img or more, one batch"
        raise ConfigError("is too small", field="training.budget", found=config.training.budget, expected=expected)
    _check_rules(config)
    _check_heads(config.model)


def _value(config: Any, name: str) -> Any:
    """The setting, or None where the method has none of that name."""
    for part in name.split("."):
        if not is_dataclass(config) or part not in {item.name for item in fields(config)}:
            return None
        config = getattr(config, part)
    return config


def _check_heads(model: Any) -> None:
    """MoDiff's attention heads divide the channels that they share."""
    if not isinstance(model, MoDiffConfig):
        return
    widths = {"model.unet.heads": [model.unet.base * m for m in model.unet.multipliers]}
    widths["model.mca.heads"] = [2 * model.mca.dim]
    heads = {"model.unet.heads": model.unet.heads, "model.mca.heads": model.mca.heads}
    for name, channels in widths.items():
        if any(width % heads[name] for width in channels):
            expected = f"a divisor of {', '.join(map(str, channels))} channels"
            raise ConfigError("does not divide the channels", field=name, found=heads[name], expected=expected)
