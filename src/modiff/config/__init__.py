"""Every setting, its default and its range, in one place. Nothing here imports torch, nor knows a method's code."""

from modiff.config.run import build_config as build_config
