"""Which device computes, and how it is called."""

from __future__ import annotations

import platform

import torch

from modiff.errors import ConfigError


def choose_device(name: str | torch.device, *, field: str = "device") -> torch.device:
    """A device of this machine: "auto" is a GPU if there is one, "gpu" is CUDA. ConfigError where it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device("cuda" if name == "gpu" else name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        found = f"{name} ({(str(error).splitlines() or ['not available'])[0]})"
        raise ConfigError("cannot be used here", field=field, found=found, expected="auto or cpu") from error
    return device


def device_name(device: torch.device | str) -> str:
    """What computes, e.g. "cpu (x86_64, 2 threads)" or "cuda (NVIDIA H100)"."""
    device = torch.device(device)
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"


def automatic_precision(accelerator: str) -> str:
    """Lightning's name of bfloat16 where the device computes with it natively, else of float32."""
    cuda = torch.cuda.is_available() and accelerator in ("auto", "gpu")
    on_cpu = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)
    native = torch.cuda.is_bf16_supported(including_emulation=False) if cuda else on_cpu()
    return "bf16-mixed" if native and accelerator != "mps" else "32-true"
