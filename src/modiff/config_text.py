"""Settings as they are typed, "group.setting=value", made into nested data and joined."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modiff.errors import ConfigError


def setting(text: str, *, expected: str = "NAME=VALUE") -> dict[str, Any]:
    """{"model": {"unet": {"base": 32}}} of "model.unet.base=32", the value read as YAML; ConfigError."""
    import yaml

    address, equals, value = text.partition("=")
    groups = address.split(".")
    if not equals or not all(groups):
        raise ConfigError("is not a setting", field="--set", found=repr(text), expected=expected)
    try:
        made: Any = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError("is not YAML", field=f"--set {address}", found=repr(value)) from error
    for group in reversed(groups):
        made = {group: made}
    result: dict[str, Any] = made
    return result


def merge(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    """Puts the settings of `other` over those of `into`, group by group; `other` stays apart."""
    for key, value in other.items():
        if isinstance(value, Mapping):
            below = into.get(key)
            into[key] = below if isinstance(below, dict) else {}
            merge(into[key], value)
        else:
            into[key] = value


def addresses(settings: Mapping[str, Any], above: str = "") -> list[str]:
    """["training.batch_size"] of {"training": {"batch_size": 4}}."""
    found: list[str] = []
    for name, value in settings.items():
        found += addresses(value, f"{above}{name}.") if isinstance(value, Mapping) else [f"{above}{name}"]
    return found
