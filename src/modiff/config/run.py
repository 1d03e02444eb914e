"""Everything that `modiff train` is told: method, preset, seed, model, training, devices.

A run's configuration is built in this order: defaults < preset < YAML file < flags.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from modiff.config.fields import ANY, COUNT, FRACTION, NOT_NEGATIVE, POSITIVE, Range, check, number, read_yaml, update
from modiff.config.methods import (
    CCDMConfig,
    CFlowConfig,
    CIMDConfig,
    MedFMConfig,
    MoDiffConfig,
    MoSEConfig,
    PlainUNetConfig,
    ProbUNetConfig,
    SSNConfig,
)
from modiff.errors import ConfigError, shown

_PRESETS = Path(__file__).parent / "presets"
_LONGEST = 1e12  # of a budget, whatever its unit
AUTO = "auto"  # the preset whose settings depend on the data
MODELS: dict[str, type[Any]] = {
    "modiff": MoDiffConfig,
    "cimd": CIMDConfig,
    "ccdm": CCDMConfig,
    "prob_unet": ProbUNetConfig,
    "cflow": CFlowConfig,
    "mose": MoSEConfig,
    "ssn": SSNConfig,
    "medfm": MedFMConfig,
    "unet": PlainUNetConfig,
}
"""method -> the frozen dataclass of its settings"""


@dataclass(frozen=True)
class TrainingConfig:
    """How a method is trained."""

    budget: str = "20m"
    """how long in all: minutes (20m), hours (2h), seconds (90s) or images seen (50000img)"""
    batch_size: int = number(32, Range(low=1, high=65_536), "images")
    """images per optimiser step, over all devices"""
    learning_rate: float = number(1e-4, POSITIVE)
    """Adam's step size (paper §4.1)"""
    weight_decay: float = number(0.0, NOT_NEGATIVE)
    """decoupled weight decay (AdamW); 0 is Adam"""
    warmup: int = number(0, NOT_NEGATIVE, "steps")
    """optimiser steps over which the learning rate rises from 0"""
    decay: Literal["plateau", "cosine", "constant"] = "plateau"
    """plateau: ReduceLROnPlateau on the validation loss (paper §4.1); cosine: to a twentieth over the budget"""
    plateau_factor: float = number(0.2, Range(low=0, high=1, above=True, below=True))
    """factor of ReduceLROnPlateau (paper §4.1)"""
    plateau_patience: int = number(10, NOT_NEGATIVE)
    """validations without improvement before the learning rate falls (paper §4.1)"""
    gradient_clip: float = number(1.0, NOT_NEGATIVE)
    """largest norm of the gradient; 0 for none"""
    ema_decay: float = number(0.9999, FRACTION)
    """the weights' moving average decays by min(this, (1 + step)/(10 + step))"""
    augment: bool = True
    """flips and 90° turns, the same for an image and all its masks"""
    deformation: float = number(0.0, Range(low=0, high=2))
    """strength of random rotation, scaling, shift and bending, the same for an image and all its masks; 1 is strong
    (standard deviations of 20° and 12 %)"""
    intensity_augmentation: float = number(0.0, Range(low=0, high=2))
    """strength of random gamma, contrast and brightness; 1 is strong, with standard deviations of 25, 15 and 8 %"""
    validate_every: int = number(500, COUNT, "steps")
    """optimiser steps between validations"""
    validation_images: int = number(256, COUNT, "images")
    """images of split val that the validation loss looks at, with fixed times and noise"""
    save_every: int = number(500, COUNT, "steps")
    """optimiser steps between saves of the training checkpoint"""
    log_every: int = number(20, COUNT, "steps")
    """optimiser steps between lines of the metrics log"""


@dataclass(frozen=True)
class TrainerConfig:
    """Where it runs and what it is logged to; only the precision changes what is computed."""

    accelerator: str = "auto"
    """what to run on, also as --device: cpu, cuda (or gpu), cuda:1, mps; auto: a GPU (CUDA) if there is one"""
    devices: int = number(1, Range(low=1, high=64))
    """devices on this machine; more than one is DDP"""
    num_nodes: int = number(1, Range(low=1, high=1024))
    """machines"""
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    """auto: bfloat16 where the device computes with it natively, else float32"""
    graph: bool = True
    """on one GPU, steps are captured in a CUDA graph and replayed; false: their operations are started one by one"""
    logger: Literal["none", "tensorboard", "mlflow"] = "none"
    """where the metrics log is shown besides log.jsonl; needs the extra of that name"""


@dataclass(frozen=True)
class RunConfig:
    """What `modiff train` does."""

    method: str = "modiff"
    """what is trained"""
    preset: str | None = None
    """named settings that the file and the flags override"""
    seed: int = number(0, ANY)
    """seed of initial weights, data order, augmentation and noise"""
    model: Any = field(default_factory=MoDiffConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


def presets() -> dict[str, str]:
    """Names of the packaged presets and their first comment line."""
    files = sorted(_PRESETS.glob("*.yaml"))
    return {file.stem: file.read_text(encoding="utf-8").split("\n", 1)[0].lstrip("# ") for file in files}


def read_preset(name: str) -> dict[str, Any]:
    """A packaged preset as plain data; ConfigError naming the presets there are."""
    known = presets()
    if not isinstance(name, str) or name not in known:
        raise ConfigError("no such preset", field="preset", found=shown(name), expected=f"one of {', '.join(known)}")
    return read_yaml(_PRESETS / f"{name}.yaml")


def build_config(
    *,
    method: str | None = None,
    preset: str | None = None,
    file: str | Path | None = None,
    changes: Mapping[str, Any] | None = None,
    fitted: Mapping[str, Any] | None = None,
) -> RunConfig:
    """One configuration from defaults < preset < fitted < YAML file < changes (flags).

    fitted: what preset `auto` chooses for the data. ConfigError for that preset without it, or a file that has it.
    """
    written, flags = read_yaml(file) if file is not None else {}, changes or {}
    preset = preset or flags.get("preset") or written.get("preset")
    chosen = read_preset(preset) if preset else {}
    if preset == AUTO and fitted is None and written.get("preset") != AUTO:
        hint = "Train with it, then give the run's config.yaml, or name another preset"
        raise ConfigError("is chosen from a store by `modiff train`", field="preset", found=AUTO, hint=hint)
    method = method or flags.get("method") or written.get("method") or chosen.get("method")
    start = {**chosen, "method": method or RunConfig.method, "preset": preset}
    config = _over(config_from_dict(start, path=f"preset {preset}"), fitted or {}, None)
    return _over(_over(config, written, file), flags, None)


def config_from_dict(data: Mapping[str, Any], *, path: str | Path | None = None) -> RunConfig:
    """The configuration that `to_dict` wrote; ConfigError naming the methods for an unknown one."""
    method = data.get("method", RunConfig.method)
    if not isinstance(method, str) or method not in MODELS:
        expected = f"one of {', '.join(MODELS)}"
        raise ConfigError("no such method", path=path, field="method", found=shown(method), expected=expected)
    if not isinstance(preset := data.get("preset"), str | None):
        raise ConfigError("wrong value", path=path, field="preset", found=shown(preset), expected="text or null")
    return _over(RunConfig(method=method, preset=preset, model=MODELS[method]()), data, path)


def _over(config: RunConfig, data: Mapping[str, Any], path: str | Path | None) -> RunConfig:
    """The configuration with the settings of `data`, but for method and preset, which are chosen before."""
    changes = {key: value for key, value in data.items() if key not in ("method", "preset")}
    training = changes.get("training")
    if isinstance(training, Mapping) and isinstance(number := training.get("budget"), int):
        changes["training"] = {**training, "budget": str(number)}  # of what: `parse_budget` says what it expects
    made: RunConfig = update(config, changes, path=path)
    return made


def parse_budget(text: str) -> tuple[float | None, int | None]:
    """(seconds, images): "90s", "20m", "2h" or "50000img"; the other of the two is None."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|h|img)", text.strip())
    if not match or not 0 < float(match[1]) < _LONGEST:
        expected = "20m, 2h, 90s or 50000img"
        raise ConfigError("is not a budget", field="training.budget", found=repr(text), expected=expected)
    number, unit = float(match[1]), match[2]
    if unit == "img":
        return None, round(number)
    return number * {"s": 1, "m": 60, "h": 3600}[unit], None


def parse_time(text: str | None, *, field: str) -> float | None:
    """Seconds of "90s", "20m" or "2h", None of None; ConfigError of `field` for anything else."""
    if text is None:
        return None
    with suppress(ConfigError):
        if (seconds := parse_budget(text)[0]) is not None:
            return seconds
    raise ConfigError("is not a time", field=field, found=text, expected="90s, 20m or 2h")


def check_ranges(config: RunConfig) -> None:
    """ConfigError naming the first setting that is out of range or contradicts another."""
    _, images = parse_budget(config.training.budget)
    if images is not None and images < config.training.batch_size:
        expected = f"{config.training.batch_size}img or more, one batch"
        raise ConfigError("is too small", field="training.budget", found=config.training.budget, expected=expected)
    check(config)
    check_model(config.model)


def check_model(model: Any) -> None:
    """As `check_ranges`, of a model's settings alone; attention heads must divide the channels that they share."""
    check(model, "model.")
    if not isinstance(model, MoDiffConfig):
        return
    widths, mca = [model.unet.base * multiplier for multiplier in model.unet.multipliers], [2 * model.mca.dim]
    for name, heads, channels in (("unet.heads", model.unet.heads, widths), ("mca.heads", model.mca.heads, mca)):
        if any(width % heads for width in channels):
            expected = f"a divisor of {', '.join(map(str, channels))} channels"
            raise ConfigError("does not divide the channels", field=f"model.{name}", found=heads, expected=expected)
