"""How many samples are computed together: memory stays bounded whatever a model's features are."""

from __future__ import annotations

import torch

from modiff.methods.base import at_once


def test_what_samples_take_together_is_bounded() -> None:
    features = torch.zeros(128, 128, 128)  # CCDM's: 8 MiB
    assert at_once(features) == 16
    assert at_once(features, features) == 8
    assert at_once(torch.zeros(1 << 25, device="meta")) == 8  # a GPU has more memory
    assert at_once(torch.zeros(1).expand(1 << 28)) == 1


def test_small_features_of_large_windows_count_their_pixels() -> None:
    features = torch.zeros(8, 16, 16)
    assert at_once(features, pixels=64 * 64) == 64
    assert at_once(features, pixels=512 * 512) == 1
