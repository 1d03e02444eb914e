"""A small store of simulated data and settings that train in seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from modiff.config.data import PhantomConfig
from modiff.config.run import RunConfig, build_config
from modiff.data.importers.phantom import write_phantom

MODEL = {
    "unet": {"base": 8, "multipliers": [1, 2], "blocks": 1, "attention": [8], "heads": 2},
    "mca": {"dim": 8, "heads": 2},
    "presence": {"base": 8, "multipliers": [1, 2]},
}
TRAINING = {
    "budget": "160img",
    "batch_size": 4,
    "validate_every": 4,
    "ema_decay": 0.5,
    "validation_images": 8,
    "save_every": 10,
    "log_every": 5,
    "decay": "plateau",
    "plateau_patience": 0,
    "learning_rate": 0.1,  # too large: the plateau must act within forty steps
    "warmup": 0,
}


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> Path:
    """Nine simulated patients at 64×64."""
    path = tmp_path_factory.mktemp("data") / "phantom.h5"
    return write_phantom(path, PhantomConfig(patients=9, images_per_patient=4), progress=False)


@pytest.fixture(scope="session")
def settings() -> RunConfig:
    """The quick preset made much smaller: 40 steps of four images."""
    return build_config(
        preset="quick",
        changes={"model": MODEL, "training": TRAINING, "trainer": {"accelerator": "cpu", "precision": "32-true"}},
    )
