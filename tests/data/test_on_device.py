"""Batches that are made on a device are those of the loader, to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from store_helpers import make_info

from modiff.data.augmentation import Augmentation
from modiff.data.loading import MemoryStore, load, training_batch
from modiff.data.on_device import DeviceStore
from modiff.data.store import StoreWriter

CPU = torch.device("cpu")
GPU = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")])


def written(path: Path, dtype: str, size: tuple[int, int], prompt: str) -> MemoryStore:
    """Seven images of two channels with two raters' masks of two classes; some raters did not read some images."""
    rng, info = np.random.default_rng(0), make_info(raters=("A", "B"), prompt=prompt)
    with StoreWriter(path, info) as writer:
        for number in range(7):
            image = rng.random((2, *size)).astype(dtype)
            if np.dtype(dtype).kind != "f":
                ends = np.iinfo(dtype)
                image = rng.integers(ends.min, ends.max, (2, *size), dtype, endpoint=True)
            masks, read = rng.integers(0, 3, (2, *size), np.uint8), np.array([True, number % 2 == 0])
            masks[~read] = 0
            writer.add(image, masks, read, case=str(number), patient=str(number), split="train")
    return load(path)


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4"])
@pytest.mark.parametrize(("size", "prompt"), [((13, 13), "centre"), ((11, 13), "none"), ((10, 8), "centre")])
@pytest.mark.parametrize("resident", [True, False])
def test_batches_of_the_device_are_the_loaders(tmp_path, dtype, size, prompt, resident, device):
    store = written(tmp_path / "s.h5", dtype, size, prompt)
    held = DeviceStore(store, torch.device(device), resident=resident)
    for index, turns in ((0, True), (1, True), (7, True), (2, False)):
        for rank, world in ((0, 1), (1, 2)):
            how = {"seed": 3, "size": 4, "augment": Augmentation(turns), "rank": rank, "world": world}
            expected, found = training_batch(store, index, **how), held.training_batch(index, **how)
            for name in ("image", "masks", "read"):
                one, other = getattr(expected, name), getattr(found, name).cpu()
                assert one.dtype == other.dtype
                assert torch.equal(one, other)
            assert (expected.centre is None) == (found.centre is None)
            assert expected.centre is None or torch.equal(expected.centre, found.centre.cpu())


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("prompt", ["centre", "none"])
def test_the_device_changes_images_as_the_loader_does(tmp_path, prompt, device):
    store = written(tmp_path / "s.h5", "u1", (11, 13), prompt)
    how = {"seed": 3, "size": 64, "augment": Augmentation(deformation=1.0, intensity=1.0)}
    expected, found = training_batch(store, 5, **how), DeviceStore(store, torch.device(device)).training_batch(5, **how)
    torch.testing.assert_close(found.image.cpu(), expected.image, atol=1e-4, rtol=0)
    assert (found.masks.cpu() == expected.masks).float().mean() > 0.999  # devices round what lies between two pixels
    plain = training_batch(store, 5, **how | {"augment": Augmentation()})
    assert not torch.equal(plain.image, expected.image)


def test_the_bytes_needed_are_those_held(tmp_path):
    for dtype in ("u1", "i2", "f4"):
        store = written(tmp_path / f"{dtype}.h5", dtype, (16, 16), "none")
        held = DeviceStore(store, CPU)
        assert DeviceStore.needed(store) == sum(part.nbytes for part in held.held)
