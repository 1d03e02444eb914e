"""`modiff check STORE --model M`: what a model expects, and where a store differs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from modiff import cli
from modiff.config.data import PhantomConfig
from modiff.data.check.against import against, expectation
from modiff.data.importers.phantom import write_phantom
from modiff.data.store import Store
from modiff.types import DataSpec


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    config = PhantomConfig(patients=4, images_per_patient=1)
    return write_phantom(tmp_path_factory.mktemp("data") / "own.h5", config, progress=False)


def own(store: Store) -> DataSpec:
    """A model of other images of the very kind."""
    names = ("channels", "classes", "raters", "exchangeable_raters", "intensity", "prompt", "spacing")
    return DataSpec(**{name: getattr(store.info, name) for name in names}, size=store.shape[1:], modality="CT")


DIFFERENT = {
    "channels": {"channels": ("T1", "T2")},
    "classes": {"classes": ("one", "two")},
    "raters": {"raters": ("A", "B", "C", "D", "E", "F")},
    "size": {"size": (100, 90)},
    "pixels": {"spacing": (9.0, 9.0)},
    "values": {"intensity": "percentiles:1:99"},
}


def found(path, **changes) -> list[str]:
    with Store.open(path) as store:
        return [one.text.split(":")[0] for one in against(store, replace(own(store), **changes)) if one.level != "note"]


def test_data_of_the_same_kind_give_no_warning(path):
    assert found(path) == []


@pytest.mark.parametrize("what", DIFFERENT)
def test_a_difference_is_one_warning(path, what):
    with Store.open(path) as store:
        if what == "pixels" and store.info.spacing is None:
            pytest.skip("pixels of simulated images have no size")
    assert found(path, **DIFFERENT[what]) == [what]


def test_the_models_own_data_are_known(path):
    with Store.open(path) as store:
        kinds = [one.kind for one in against(store, replace(own(store), fingerprint=store.fingerprint()))]
    assert kinds == ["what the model expects", "the model's own data"]


def test_what_a_model_expects_is_a_sentence():
    data = DataSpec.of(prompt="centre", size=(128, 96), modality="CT", spacing=(0.7, 0.7), spacing_range=(0.5, 0.9))
    assert expectation(data).startswith("crops of 96×128 centred on a lesion, CT, ")
    assert "pixels of 0.5–0.9 mm" in expectation(data)


def test_the_command_says_it_and_other_sources_are_refused(path, tmp_path, capsys):
    assert cli.main(["check", str(path), "--model", "lidc", "--quiet"]) == 0
    assert "what the model expects" in capsys.readouterr().out
    assert cli.main(["check", str(tmp_path), "--model", "lidc", "--quiet"]) == 2
