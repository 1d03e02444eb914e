"""Every setting, its default and its range, in one place. Nothing here imports torch, nor knows a method's code."""

# ruff: noqa: F401  what other rooms import from here

from __future__ import annotations

from modiff.config.fields import read_yaml, to_dict
from modiff.config.modiff import DiffusionConfig, LDFConfig, MCAConfig, MoDiffConfig, PresenceConfig, UNetConfig
from modiff.config.run import (
    MODELS,
    RunConfig,
    TrainerConfig,
    TrainingConfig,
    build_config,
    check_model,
    check_ranges,
    config_from_dict,
    parse_budget,
    presets,
    read_preset,
)
