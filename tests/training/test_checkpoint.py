"""training.ckpt: what it holds comes back, and whatever is not whole and plain is refused by name."""

from __future__ import annotations

import hashlib
import io
import os

import pytest
import torch
from memory import takes_less_than

from modiff.errors import CheckpointError
from modiff.training.checkpoint import read_checkpoint, write_checkpoint

STATE = {"step": 3, "model": {"weight": torch.arange(6.0).view(2, 3)}, "rates": [1e-3], "best": float("inf")}


class Harm:
    def __reduce__(self):
        return (os.system, ("true",))


@pytest.fixture
def path(tmp_path):
    write_checkpoint(tmp_path / "training.ckpt", STATE)
    return tmp_path / "training.ckpt"


def test_what_was_written_is_read(path):
    found = read_checkpoint(path)
    assert torch.equal(found["model"].pop("weight"), STATE["model"]["weight"])
    assert found == {**STATE, "model": {}}


def test_any_flipped_bit_is_noticed(path):
    content = path.read_bytes()
    for place in range(0, len(content), 97):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(CheckpointError, match=r"is damaged|is not a training checkpoint"):
            read_checkpoint(path)


@pytest.mark.parametrize("length", [0, 20, 200, -1])
def test_a_file_cut_short_is_refused(path, length):
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"is damaged|is not a training checkpoint"):
        read_checkpoint(path)


def test_a_checkpoint_of_version_0_1_is_named_as_such(path):
    torch.save({"global_step": 1, "state_dict": {}, "pytorch-lightning_version": "2.6.6"}, path)
    with pytest.raises(CheckpointError, match=r"was written by modiff 0\.1 and cannot be resumed"):
        read_checkpoint(path)


def test_a_checkpoint_that_would_run_code_is_refused(path):
    buffer = io.BytesIO()
    torch.save({**STATE, "x": Harm()}, buffer)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest().encode()
    path.write_bytes(b"modiff training checkpoint 1, SHA-256 " + digest + b"\n" + buffer.getvalue())
    with pytest.raises(CheckpointError, match="is not a training checkpoint; found UnpicklingError"):
        read_checkpoint(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere\.ckpt: no such file"):
        read_checkpoint(tmp_path / "nowhere.ckpt")


def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "training.ckpt")
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_checkpoint(tmp_path / "training.ckpt")


def test_a_huge_file_takes_no_memory(tmp_path):
    path = tmp_path / "training.ckpt"
    write_checkpoint(path, {"a": 1})
    os.truncate(path, 200 << 20)
    with takes_less_than(10 << 20), pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(path)
