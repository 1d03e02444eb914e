"""The learnable frequency filter against identities of the Fourier transform."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from modiff.config.methods import LDFConfig
from modiff.methods.modiff import ldf as room
from modiff.methods.modiff.ldf import (
    LDF,
    edge_target,
    irfft2_matrix,
    make_ldf,
    morphological_gradient,
    normalised_radius,
    rfft2_matrix,
    symmetrise,
)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("transform", ["fft", "matrix"])
def test_a_filter_of_ones_is_the_identity(transform, monkeypatch):
    layer = LDF(3, LDFConfig(transform=transform))
    monkeypatch.setattr(layer, "gain", lambda magnitude, width: torch.ones_like(magnitude))
    y = noise(2, 3, 16, 20)
    torch.testing.assert_close(layer(y), y, atol=1e-5, rtol=0)


@given(height=st.integers(2, 24), width=st.integers(2, 24))
def test_matrix_and_fast_transform_agree(height, width):
    y = noise(2, 1, height, width)
    real, imag = rfft2_matrix(y)
    spectrum = torch.fft.rfft2(y, norm="ortho")
    torch.testing.assert_close(torch.complex(real, imag), spectrum, atol=2e-6, rtol=0)
    torch.testing.assert_close(irfft2_matrix(real, imag, width), y, atol=2e-6, rtol=0)


def test_both_transforms_give_the_same_filtered_map():
    torch.manual_seed(0)
    fast, matrix = LDF(4, LDFConfig(transform="fft")), LDF(4, LDFConfig(transform="matrix"))
    matrix.load_state_dict(fast.state_dict())
    y = noise(2, 4, 16, 16)
    torch.testing.assert_close(fast(y), matrix(y), atol=2e-6, rtol=0)


def test_summed_kernels_equal_three_convolutions():
    torch.manual_seed(0)
    layer = LDF(2, LDFConfig())
    x = noise(1, 2, 16, 9)
    separate = sum(layer._depthwise(x, weight) for weight in layer.magnitude)
    torch.testing.assert_close(layer._depthwise(x, room._widen(layer.magnitude)), separate, atol=1e-5, rtol=0)


@given(height=st.integers(1, 12), width=st.integers(1, 12), pad=st.integers(0, 7))
def test_a_half_plane_repeats_along_its_rows_and_is_mirrored_along_its_columns(height, width, pad):
    x = noise(1, 2, height, width)
    rows = np.pad(x.numpy(), ((0, 0), (0, 0), (pad, pad), (0, 0)), mode="wrap")
    expected = np.pad(rows, ((0, 0), (0, 0), (0, 0), (pad, pad)), mode="reflect" if width > 1 else "edge")
    np.testing.assert_array_equal(room._pad_half_plane(x, pad).numpy(), expected)


@pytest.mark.parametrize("transform", ["fft", "matrix"])
@pytest.mark.parametrize("side", [1, 2, 4, 5])
def test_maps_smaller_than_its_kernels_are_filtered_too(transform, side):
    layer, y = LDF(2, LDFConfig(kernels=(3, 5, 11), transform=transform)), noise(1, 2, side, side)
    spectrum = torch.fft.rfft2(y, norm="ortho")
    gain = layer.gain(torch.sqrt(spectrum.abs() ** 2 + 1e-20), side)
    assert ((gain > 0) & (gain < 1)).all()
    torch.testing.assert_close(layer(y), torch.fft.irfft2(spectrum * gain, s=(side, side), norm="ortho"))


@pytest.mark.parametrize("order", ["parallel", "sequential"])
def test_starts_as_a_mild_high_pass(order):
    torch.manual_seed(0)
    layer = LDF(8, LDFConfig(order=order))
    flat = torch.zeros(1, 8, 32, 17)
    gain = layer.gain(flat, 32).mean((0, 1))
    radius = normalised_radius(32, 32, torch.device("cpu"))
    assert abs(gain[0, 0] - 0.2) < 0.12
    assert abs(gain[16, 16] - 0.8) < 0.12
    assert torch.corrcoef(torch.stack([gain.flatten(), radius.flatten()]))[0, 1] > 0.95


@pytest.mark.parametrize("width", [8, 9])
def test_the_inverse_transform_changes_nothing_of_a_symmetrised_filter(width):
    gain = symmetrise(torch.rand(1, 1, 8, width // 2 + 1, generator=torch.Generator().manual_seed(2)), width)
    spectrum = torch.fft.rfft2(noise(1, 1, 8, width), norm="ortho")
    back = torch.fft.rfft2(torch.fft.irfft2(spectrum * gain, s=(8, width), norm="ortho"), norm="ortho")
    torch.testing.assert_close(back, spectrum * gain, atol=1e-6, rtol=0)


def test_filter_keeps_the_phase():
    torch.manual_seed(0)
    y = noise(1, 1, 32, 32)
    before, after = torch.fft.rfft2(y), torch.fft.rfft2(LDF(1, LDFConfig())(y))
    inside = before.abs() > 1
    assert (torch.angle(after[inside] / before[inside])).abs().max() < 1e-3


def test_switched_off_it_is_the_identity():
    assert isinstance(make_ldf(3, LDFConfig(enabled=False)), torch.nn.Identity)


def test_is_computed_in_float32_under_autocast():
    torch.manual_seed(0)
    layer, y = LDF(2, LDFConfig()), noise(1, 2, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(y)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, layer(y))


def test_gradient_is_finite_where_the_spectrum_is_zero():
    layer, y = LDF(1, LDFConfig()), torch.zeros(1, 1, 16, 16, requires_grad=True)
    layer(y).sum().backward()
    assert torch.isfinite(y.grad).all()


def test_morphological_gradient_is_dilation_minus_erosion():
    x = torch.rand(1, 1, 17, 21, generator=torch.Generator().manual_seed(3))
    plain = x[0, 0].numpy()
    total = sum(
        ndimage.grey_dilation(plain, (k, k), mode="constant", cval=-1e9)
        - ndimage.grey_erosion(plain, (k, k), mode="constant", cval=1e9)
        for k in (3, 5, 7)
    )
    expected = (total - total.min()) / (total.max() - total.min())
    torch.testing.assert_close(morphological_gradient(x)[0, 0], torch.from_numpy(expected), atol=1e-6, rtol=0)


def test_a_flat_image_has_no_edges():
    assert morphological_gradient(torch.full((1, 1, 9, 9), 0.3)).abs().max() == 0


def test_target_of_both_is_half_of_each():
    image, label = torch.rand(1, 1, 16, 16), F.pad(torch.ones(1, 1, 6, 6), (5, 5, 5, 5))
    both = edge_target(image, label, "both")
    half = 0.5 * (edge_target(image, label, "image") + edge_target(image, label, "label"))
    torch.testing.assert_close(both, half)
