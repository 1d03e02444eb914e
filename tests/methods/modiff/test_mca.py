"""The cross-attention network against explicit sums."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modiff.config.methods import LDFConfig, MCAConfig
from modiff.methods.modiff.mca import (
    MCA,
    SelfAttention,
    attention_spread_loss,
    covering_stride,
    linear_attention,
    sinusoidal_positions,
    tokens,
)


@given(queries=st.integers(1, 12), keys=st.integers(2, 12), dim=st.integers(1, 9))
def test_linear_attention_equals_explicit_scores_times_values(queries, keys, dim):
    rng = torch.Generator().manual_seed(queries * 1000 + keys * 10 + dim)
    q, k, v = (torch.randn(2, n, dim, generator=rng, dtype=torch.float64) for n in (queries, keys, keys))
    scores = q @ k.transpose(1, 2) / (keys * math.sqrt(dim))
    torch.testing.assert_close(linear_attention(q, k, v), scores @ v)


def test_tokens_are_patches_row_by_row():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert tokens(x, 2)[0, 1].tolist() == [2, 3, 6, 7]


def test_spread_loss_is_zero_for_equal_attention_and_one_for_a_single_patch():
    query = torch.ones(1, 5, 2)
    equal = torch.ones(1, 8, 2)
    single = torch.zeros(1, 8, 2)
    single[0, 3] = 1
    assert attention_spread_loss(query, equal).tolist() == [pytest.approx(0, abs=1e-6)]
    assert attention_spread_loss(query, single).tolist() == [pytest.approx(1, abs=1e-6)]


def test_self_attention_divides_by_the_root_of_width_times_heads():
    torch.manual_seed(0)
    layer = SelfAttention(8, 2)
    x = torch.randn(1, 5, 8)
    q, k, v = (layer.qkv(x)[0, :, 8 * i : 8 * i + 8] for i in range(3))
    heads = []
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        share = torch.softmax(q[:, part] @ k[:, part].T / math.sqrt(4 * 2), -1)
        heads.append(share @ v[:, part])
    torch.testing.assert_close(layer(x)[0], layer.out(torch.cat(heads, 1)), atol=1e-6, rtol=0)


@given(stride=st.integers(1, 20), width=st.integers(1, 70))
def test_steps_through_the_queries_meet_every_column_equally_often(stride, width):
    step = covering_stride(stride, width)
    assert step >= stride
    assert all(math.gcd(other, width) > 1 for other in range(stride, step))
    assert sorted(i * step % width for i in range(width)) == list(range(width))


@pytest.mark.parametrize("side", [32, 64, 128])
def test_the_loss_looks_at_queries_of_all_rows_and_columns(side):
    network = MCA(1, 1, MCAConfig(dim=8, heads=2), LDFConfig())
    share, grid = network.encode(torch.rand(1, 1, side, side)), side // 2
    place = torch.arange(grid * grid).float()
    share = share._replace(query=place[None, :, None].expand(-1, -1, 8))
    query = network(share, torch.zeros(1, 1, side, side))[1]["query"][0, :, 0].long()
    assert set((query % grid).tolist()) == set(range(grid))
    assert set((query // grid).tolist()) == set(range(grid))
    assert len(query) <= len(place) / 8


@pytest.mark.parametrize("roles", ["image_queries", "label_queries"])
def test_scores_are_those_of_the_equation_token_by_token(roles):
    """Eq. 1 (queries of the image) and Eq. 2 (queries of the label) by loops over patches."""
    torch.manual_seed(0)
    side, dim = 16, 8
    network = MCA(2, 3, MCAConfig(roles=roles, dim=dim, heads=2), LDFConfig())
    image, x_t = torch.randn(1, 2, side, side), torch.randn(1, 3, side, side)

    def patches(x, size):
        starts = range(0, side, size)
        return [x[0, :, i : i + size, j : j + size].reshape(-1) for i in starts for j in starts]

    def placed(layer, vectors, size):
        position = sinusoidal_positions(side // size, side // size, dim, torch.device("cpu"))
        return [layer(vector) + position[i] for i, vector in enumerate(vectors)]

    label = patches(network.ldf_label(x_t), 4)
    size, source = (2, patches(image, 2)) if roles == "image_queries" else (4, label)
    queries, keys = placed(network.query, source, size), placed(network.key, label, 4)
    values = [network.value(vector) for vector in label]
    expected = torch.zeros(dim, side // 2, side // 2)
    for row in range(side // 2):
        for column in range(side // 2):
            query = queries[(row * 2 // size) * (side // size) + column * 2 // size]
            score = sum((query @ k) / math.sqrt(dim) * v for k, v in zip(keys, values, strict=True)) / len(keys)
            expected[:, row, column] = network.score_norm(score)
    y, looked_at, _ = network._attend(network.encode(image), x_t)
    torch.testing.assert_close(y[0, dim:], expected, atol=1e-4, rtol=1e-4)
    step = covering_stride(8, side // size)
    torch.testing.assert_close(looked_at[0], torch.stack(queries[::step]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mca", [True, False])
@pytest.mark.parametrize("ldf", [True, False])
@pytest.mark.parametrize(("channels", "classes"), [(1, 1), (4, 3)])
def test_condition_has_the_images_resolution_whatever_is_switched_on(mca, ldf, channels, classes):
    torch.manual_seed(0)
    network = MCA(channels, classes, MCAConfig(enabled=mca, dim=8, heads=2), LDFConfig(enabled=ldf))
    share = network.encode(torch.rand(2, channels, 16, 24))
    out, features = network(share, torch.randn(2, classes, 16, 24))
    assert out.shape == (2, 8, 16, 24)
    assert ("edges" in features) == ldf
    assert ("query" in features) == mca


def test_starts_as_no_condition_at_all():
    network = MCA(1, 1, MCAConfig(dim=8, heads=2), LDFConfig())
    out, _ = network(network.encode(torch.rand(1, 1, 16, 16)), torch.randn(1, 1, 16, 16))
    assert out.abs().max() == 0
