"""Which device computes, and how it is called."""

from __future__ import annotations

import platform

import torch

from modiff.errors import ConfigError


def choose_device(name: str | torch.device, *, field: str = "device") -> torch.device:
    """A device of this machine: "auto" is a GPU (CUDA) if there is one, else the CPU; "gpu" is another word for CUDA.

    Every verb that computes takes its device from here. ConfigError where it is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device("cuda" if name == "gpu" else name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        found = f"{name} ({(str(error).splitlines() or ['not available'])[0]})"
        raise ConfigError(
            "cannot be used here", field=field, found=found, expected="auto, cpu, or cuda where there is a GPU"
        ) from error
    return device


def device_name(device: torch.device | str) -> str:
    """What computes, e.g. "cpu (x86_64, 2 threads)" or "cuda (NVIDIA H100)"."""
    device = torch.device(device)
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"


def automatic_precision(device: torch.device) -> str:
    """Lightning's name of bfloat16 where the device computes with it natively, else of float32."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
    return "bf16-mixed" if native else "32-true"
