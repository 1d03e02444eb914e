"""LDF, the learnable discrete frequency filter (paper §3.2, Eq. 6 and 7)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modiff.config.methods import LDFConfig
from modiff.devices import constant
from modiff.nn.edges import EdgeFilter, dilate, unit_range
from modiff.nn.layers import full_precision

MILD_HIGH_PASS = (0.2, 0.8)  # the filter's gain at frequency 0 and at the largest frequency before any training


@constant
def _dft_matrices(size: int, half: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and sine matrices (frequencies, size) of the ortho-normalised DFT, float32 rounded from float64."""
    count = size // 2 + 1 if half else size
    angle = torch.outer(torch.arange(count, dtype=torch.float64), torch.arange(size, dtype=torch.float64))
    angle = (angle % size) * (2 * math.pi / size)
    scale = 1 / math.sqrt(size)
    return (torch.cos(angle) * scale).float().to(device), (torch.sin(angle) * scale).float().to(device)


def rfft2_matrix(y: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part (…,H,W//2+1) of `rfft2(y, norm="ortho")`, by four matrix products."""
    cos_w, sin_w = _dft_matrices(y.shape[-1], True, y.device)
    cos_h, sin_h = _dft_matrices(y.shape[-2], False, y.device)
    real, imag = y @ cos_w.T, -(y @ sin_w.T)
    return cos_h @ real + sin_h @ imag, cos_h @ imag - sin_h @ real


def irfft2_matrix(real: Tensor, imag: Tensor, width: int) -> Tensor:
    """The inverse: (…,H,W) real, with the half plane's missing columns counted by symmetry."""
    cos_h, sin_h = _dft_matrices(real.shape[-2], False, real.device)
    cos_w, sin_w = _dft_matrices(width, True, real.device)
    rows_real = cos_h.T @ real - sin_h.T @ imag
    rows_imag = cos_h.T @ imag + sin_h.T @ real
    twice = torch.full((real.shape[-1],), 2.0, device=real.device)
    twice[0] = 1.0
    if width % 2 == 0:
        twice[-1] = 1.0
    return (rows_real * twice) @ cos_w - (rows_imag * twice) @ sin_w


@constant
def normalised_radius(height: int, width: int, device: torch.device) -> Tensor:
    """|ω| on the half plane (H, W//2+1), 0 at frequency 0 and 1 at the largest one."""
    rows = torch.fft.fftfreq(height, device=device)[:, None]
    columns = torch.fft.rfftfreq(width, device=device)[None, :]
    radius = torch.sqrt(rows**2 + columns**2)
    return radius / radius.max().clamp_min(1e-12)


def symmetrise(gain: Tensor, width: int) -> Tensor:
    """Makes G even in k_y on the self-conjugate columns (k_x = 0 and Nyquist): a real image admits no other filter."""
    columns = [0, width // 2] if width % 2 == 0 else [0]
    gain = gain.clone()
    for column in columns:
        line = gain[..., column : column + 1]
        mirrored = torch.roll(line.flip(-2), 1, -2)  # G(−k_y): row 0 stays, the others change places
        gain[..., column : column + 1] = 0.5 * (line + mirrored)
    return gain


def _pad_half_plane(x: Tensor, pad: int) -> Tensor:
    """(…,H,W) with `pad` more on every side: periodic along H, reflecting along W, each as often as it takes."""
    height, width = x.shape[-2:]
    if pad <= height and pad < width:  # once round is enough for PyTorch's own padding
        return F.pad(F.pad(x, (0, 0, pad, pad), mode="circular"), (pad, pad, 0, 0), mode="reflect")
    rows = torch.arange(-pad, height + pad, device=x.device) % height
    period = max(1, 2 * (width - 1))
    columns = torch.arange(-pad, width + pad, device=x.device) % period
    return x[..., rows[:, None], torch.minimum(columns, period - columns)]


def _widen(kernels: nn.ParameterList) -> Tensor:
    """The sum of kernels of several odd sizes, each in the middle of the largest."""
    largest = max(kernel.shape[-1] for kernel in kernels)
    return torch.stack([F.pad(k, [(largest - k.shape[-1]) // 2] * 4) for k in kernels]).sum(0)


class LDF(nn.Module):
    """LDF(y) = F⁻¹(G ⊙ F(y)), G = σ(conv(log1p|F(y)|, |ω|)) real and in (0, 1).

    Eq. 6 taken to the letter applies the sigmoid to the filtered spectrum itself, which destroys its phase; the prose
    describes a filter made by convolution and sigmoid. y: (B,C,H,W), any autocast; computed and returned in float32.
    """

    def __init__(self, channels: int, config: LDFConfig) -> None:
        super().__init__()
        self.config, self.channels = config, channels
        # Depthwise: each channel's filter looks at its own spectrum and, with weights of its own, at the radius.
        self.magnitude = nn.ParameterList([torch.empty(channels, 1, k, k) for k in config.kernels])
        self.radius = nn.ParameterList([torch.empty(channels, 1, k, k) for k in config.kernels])
        self.bias = nn.ParameterList([torch.zeros(channels) for _ in config.kernels])
        low, high = (math.log(gain / (1 - gain)) for gain in MILD_HIGH_PASS)
        parallel = config.order == "parallel"
        part = 1 / len(config.kernels) if parallel else 1.0
        with torch.no_grad():
            for index, kernel in enumerate(config.kernels):
                for weight in (self.magnitude[index], self.radius[index]):
                    nn.init.normal_(weight, std=0.05 / kernel)
                if parallel or index == 0:
                    self.radius[index][..., kernel // 2, kernel // 2] += (high - low) * part
                    self.bias[index] += low * part
                else:  # the later ones of a sequence start as the identity on what came before
                    self.magnitude[index][..., kernel // 2, kernel // 2] += 1.0

    @staticmethod
    def _depthwise(x: Tensor, weight: Tensor) -> Tensor:
        """Same-size convolution of a half plane: periodic along the full axis, reflecting along k_x."""
        return F.conv2d(_pad_half_plane(x, weight.shape[-1] // 2), weight, groups=x.shape[1])

    def gain(self, magnitude: Tensor, width: int) -> Tensor:
        """G (B,C,H,W//2+1) from the spectrum's magnitude, symmetrised."""
        radius = normalised_radius(magnitude.shape[-2], width, magnitude.device)
        radius, x = radius.expand(1, self.channels, *radius.shape), torch.log1p(magnitude)
        if self.config.order == "sequential":
            for weight, weight_radius, bias in zip(self.magnitude, self.radius, self.bias, strict=True):
                x = self._depthwise(x, weight) + self._depthwise(radius, weight_radius) + bias[:, None, None]
        else:  # convolutions that are summed are one convolution, of the largest size
            bias = torch.stack(list(self.bias)).sum(0)[:, None, None]
            x = self._depthwise(x, _widen(self.magnitude)) + self._depthwise(radius, _widen(self.radius)) + bias
        return symmetrise(torch.sigmoid(x), width)

    def forward(self, y: Tensor) -> Tensor:
        """y (B,C,H,W) filtered, of its shape."""
        with full_precision(y):
            y = y.float()
            spectrum = None if self.config.transform == "matrix" else torch.fft.rfft2(y, norm="ortho")
            real, imag = rfft2_matrix(y) if spectrum is None else (spectrum.real, spectrum.imag)
            # |F| by hand: abs() of a complex zero has no gradient
            gain = self.gain(torch.sqrt(real**2 + imag**2 + 1e-20), y.shape[-1])
            if spectrum is None:
                return irfft2_matrix(real * gain, imag * gain, y.shape[-1])
            return torch.fft.irfft2(spectrum * gain, s=y.shape[-2:], norm="ortho")


def make_ldf(channels: int, config: LDFConfig) -> nn.Module:
    """An LDF, the edge filter that is asked for in its place, or the identity where it is switched off."""
    if not config.enabled:
        return nn.Identity()
    return LDF(channels, config) if config.filter == "ldf" else EdgeFilter(config.filter)


def morphological_gradient(x: Tensor, kernels: tuple[int, ...] = (3, 5, 7)) -> Tensor:
    """Sum over k of dilation − erosion by k×k of (B,C,H,W), min–max-normalised per map, averaged over channels."""
    total, high, low = torch.zeros_like(x), x, -x
    for size in range(3, max(kernels) + 1, 2):  # a square of side k + 2 is the square of side k dilated by 3×3
        high, low = dilate(high), dilate(low)
        if size in kernels:
            total = total + high + low
    return unit_range(total).mean(1, keepdim=True)


def edge_target(image: Tensor, label: Tensor, target: str) -> Tensor:
    """y_target (B,1,H,W) of Eq. 7: the morphological gradient of the image, of the mean label map, or half each."""
    parts = {"image": [image], "label": [label], "both": [image, label]}[target]
    return torch.stack([morphological_gradient(part.float()) for part in parts]).mean(0)
