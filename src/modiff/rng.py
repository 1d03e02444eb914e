"""Counter-based random numbers: a value is a function of (seed, counter) alone.

A generator with state would tie a sample to the batch it was drawn in. Here every element hashes its own address, so
noise is the same to the bit whatever the batch size, the order of cases, the number of processes or of samples asked
for. Between kinds of device the uniforms are equal to the bit, the normals to rounding.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import torch
from torch import Tensor

Draw = Callable[[Tensor, tuple[int, ...]], Tensor]
"""`uniform` or `normal`: random numbers of (*seeds.shape, *shape) from seeds."""

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer (SplitMix64's increment)
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def seed_for(*parts: int | str) -> int:
    """One 63-bit seed from any parts, e.g. `seed_for(run_seed, case_name)`; stable across machines and versions."""
    digest = hashlib.blake2b("\x1f".join(str(part) for part in parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seeds_for(seed: int, cases: list[str] | tuple[str, ...], device: torch.device | str = "cpu") -> Tensor:
    """(B,) int64: one seed per case."""
    return torch.tensor([seed_for(seed, case) for case in cases], dtype=torch.int64, device=device)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift: torch's >> on int64 copies the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser (Steele et al. 2014): a bijection of 64-bit integers with full avalanche."""
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def fold(seeds: Tensor, *counters: int | Tensor) -> Tensor:
    """New independent seeds from `seeds` and counters (integers, or tensors that broadcast with `seeds`)."""
    for counter in counters:
        seeds = _mix(_mix(seeds + _GOLDEN) + counter)
    return seeds


def sample_seeds(seeds: Tensor, n: int) -> Tensor:
    """(B,) seeds of cases -> (B,N) seeds of their samples; sample i has the same seed whatever n is."""
    return fold(seeds[:, None], torch.arange(n, device=seeds.device))


def _bits(seeds: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The SplitMix64 sequence whose state starts at the mixed seed."""
    # Counted from 1 as SplitMix64 does: 0 is a fixed point of the mix, and seed 0 would begin with an extreme value.
    offsets = torch.arange(1, math.prod(shape) + 1, device=seeds.device) * _GOLDEN
    return _mix(_mix(seeds)[..., None] + offsets).view((*seeds.shape, *shape))


def uniform(seeds: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
    """Uniform float32 in the open interval (0, 1), of shape (*seeds.shape, *shape)."""
    # 23 bits and a half: every value is exact in float32 and neither 0 nor 1 occurs.
    return (_shift_right(_bits(seeds, shape), 41).to(torch.float32) + 0.5) * 2.0**-23


def normal(seeds: Tensor, shape: tuple[int, ...] = ()) -> Tensor:
    """Standard normal float32 of shape (*seeds.shape, *shape), by Box and Muller from the two halves of each hash."""
    bits = _bits(seeds, shape)
    radius = (_shift_right(bits, 32).to(torch.float32) + 0.5) * 2.0**-32
    angle = (bits & 0xFFFFFFFF).to(torch.float32) * (2.0 * math.pi * 2.0**-32)
    return torch.sqrt(-2.0 * torch.log(radius)) * torch.cos(angle)
