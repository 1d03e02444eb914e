"""A captured step is the step: same weights, same log, resumed exactly; and what cannot be captured goes on without."""

from __future__ import annotations

import json
import logging
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest
import torch
from modiff_helpers import batch, config
from modiff_helpers import model as small_model

from modiff.config.fields import to_dict
from modiff.config.run import build_config
from modiff.devices import CudaGraph, constant, constants_used, numbers_on
from modiff.methods.registry import METHODS
from modiff.methods.run_folder import load_model
from modiff.training import loop
from modiff.training.checkpoint import read_checkpoint
from modiff.training.loop import train
from modiff.training.optimizer import OptimizerState, make_optimizer, set_rate
from modiff.training.step import GraphStep

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Again:
    """In place of a CUDA graph: does the work again, on what lies where the capture found it."""

    def __init__(self, *_, stumbles: bool = False, fails: bool = False) -> None:
        self.stumbles, self.fails, self.replays = stumbles, fails, 0

    def beside(self):
        return nullcontext()

    @contextmanager
    def without_waiting(self):
        yield
        if self.stumbles:
            raise RuntimeError("called a synchronizing CUDA operation\nat some place")

    def capture(self, work):
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.work = work

    def replay(self):
        self.replays += 1
        self.work()


@pytest.fixture
def captured(monkeypatch):
    """Trains by captured steps; the graphs that were made."""
    made: list[Again] = []

    def graph(*_):
        made.append(Again())
        return made[-1]

    monkeypatch.setattr(loop, "_graph", graph)
    return made


def weights(folder):
    return load_model(folder).model.state_dict()


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def log(folder):
    kept = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in kept]


def on_gpu(method, *, graph, device="cuda"):
    """Eight steps of float32, each logged."""
    training = {"budget": "64img", "batch_size": 8, "validation_images": 8, "log_every": 1}
    changes = {"training": training, "trainer": {"accelerator": device, "precision": "32-true", "graph": graph}}
    return build_config(method=method, changes=changes | ({"model": to_dict(config())} if method == "modiff" else {}))


def short(settings, images):
    return replace(settings, training=replace(settings.training, budget=f"{images}img", log_every=1))


def test_captured_steps_train_as_others_do(store, settings, tmp_path, captured, monkeypatch):
    train(short(settings, 32), store, tmp_path / "captured", quiet=True)
    assert captured[0].replays == 5  # of eight steps, three before the capture
    monkeypatch.setattr(loop, "_graph", lambda *_: None)
    train(short(settings, 32), store, tmp_path / "plain", quiet=True)
    assert same(weights(tmp_path / "captured"), weights(tmp_path / "plain"))
    assert log(tmp_path / "captured") == log(tmp_path / "plain")


def test_a_run_of_captured_steps_resumes_exactly(store, settings, tmp_path, captured):
    for images in (20, 40):
        train(short(settings, images), store, tmp_path / "parts", quiet=True)
    train(short(settings, 40), store, tmp_path / "whole", quiet=True)
    assert [graph.replays for graph in captured] == [2, 2, 7]
    assert same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
    assert log(tmp_path / "parts") == log(tmp_path / "whole")


@pytest.mark.parametrize("method", ["mose", "ssn", "cflow"])
def test_what_a_loss_counts_is_counted_once_where_a_capture_fails(store, tmp_path, method, monkeypatch, caplog):
    """Batch statistics, MoSE's cap and SSN's steps."""
    small = {"channels": [4, 8]} | ({"mean_steps": 2} if method == "ssn" else {})
    training = {"budget": "24img", "batch_size": 4, "validation_images": 4}
    trainer = {"accelerator": "cpu", "precision": "32-true"}
    run = build_config(method=method, changes={"model": small, "training": training, "trainer": trainer})
    for name, graph in {"waits": Again(stumbles=True), "fails": Again(fails=True), "none": None}.items():
        monkeypatch.setattr(loop, "_graph", lambda *_, graph=graph: graph)
        with caplog.at_level(logging.WARNING, "modiff"):
            train(run, store, tmp_path / name, quiet=True)
    assert same(weights(tmp_path / "waits"), weights(tmp_path / "none"))
    assert same(weights(tmp_path / "fails"), weights(tmp_path / "none"))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert said[0].endswith("slower: called a synchronizing CUDA operation")


def test_terms_stay_when_the_next_step_overwrites_its_own():
    model = small_model().train()
    rng = torch.Generator()

    def compute(data):
        return model.training_loss(data, rng=rng)

    step = GraphStep(
        model,
        make_optimizer(model, build_config().training),
        compute,
        lambda loss: loss.backward(),
        clip=1.0,
        graph=Again(),
    )
    found = [step(batch(4), 0.1, lambda number=number: rng.manual_seed(number))["loss"] for number in range(6)]
    assert len({float(loss) for loss in found}) == 6


def test_a_checkpoint_does_not_tell_how_steps_were_taken(store, settings, tmp_path, captured, monkeypatch):
    train(short(settings, 20), store, tmp_path / "captured", quiet=True)
    monkeypatch.setattr(loop, "_graph", lambda *_: None)
    train(short(settings, 20), store, tmp_path / "plain", quiet=True)
    one, other = (read_checkpoint(tmp_path / name / "training.ckpt")["optimizer"] for name in ("captured", "plain"))
    assert one["param_groups"] == other["param_groups"]
    assert isinstance(one["param_groups"][0]["lr"], float)


def test_a_rate_that_is_a_tensor_is_set_in_place_and_saved_as_a_number():
    line = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(line.parameters(), lr=torch.tensor(0.5), fused=True, capturable=True)
    rate = optimizer.param_groups[0]["lr"]
    line(torch.ones(1, 2)).sum().backward()
    set_rate(optimizer, 0.25)
    optimizer.step()
    saved = OptimizerState(optimizer).state_dict()
    assert (rate, saved["param_groups"][0]["lr"], saved["param_groups"][0]["capturable"]) == (0.25, 0.25, False)
    OptimizerState(optimizer).load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] is rate
    assert optimizer.param_groups[0]["capturable"]


def test_constants_of_a_capture_are_kept_and_none_is_made_in_it():
    @constant
    def ones(device, count):
        return torch.ones(count, device=device)

    first = ones(torch.device("cpu"), 1)
    with constants_used() as used:
        assert ones(torch.device("cpu"), 1) is first
        with pytest.raises(RuntimeError, match="while a graph is captured"):
            ones(torch.device("cpu"), 2)
    assert used[0] is first
    assert len(ones(torch.device("cpu"), 2)) == 2


def test_constants_have_the_type_of_their_numbers():
    found = [numbers_on(torch.device("cpu"), *values).dtype for values in ((64, 64), (64.0, 64.0), (64, 64))]
    assert found == [torch.int64, torch.float32, torch.int64]


@cuda
@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_on_a_gpu_every_method_is_captured_and_has_the_losses_of_others(method, store, tmp_path, caplog):
    for graph in (True, False):
        with caplog.at_level(logging.WARNING, "modiff"):
            assert train(on_gpu(method, graph=graph), store, tmp_path / str(graph), quiet=True).steps == 8
    assert not caplog.records
    one, other = ([line["train/loss"] for line in log(tmp_path / str(graph))] for graph in (True, False))
    assert one == pytest.approx(other, rel=1e-2)


@cuda
@pytest.mark.gpu
def test_on_a_gpu_a_captured_run_resumes(store, settings, tmp_path):
    first = replace(short(settings, 24), trainer=replace(settings.trainer, accelerator="cuda"))
    train(first, store, tmp_path / "run", quiet=True)
    longer = replace(first, training=replace(first.training, budget="48img"))
    assert train(longer, store, tmp_path / "run", quiet=True).steps == 12
    losses = [line["train/loss"] for line in log(tmp_path / "run") if "train/loss" in line]
    assert len(losses) == 12
    assert len(set(losses)) == 12


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_generators_draw_on_after_a_capture_that_is_broken_off():
    device, drawn = torch.device("cuda"), {}
    for broken in (False, True):
        rng = torch.Generator(device).manual_seed(1)
        torch.manual_seed(2)
        if broken:
            graph = CudaGraph(device, rng)

            def work(rng=rng):
                torch.rand(4, generator=rng, device=device) + torch.rand(4, device=device)
                torch.cuda.synchronize()  # no capture can hold this

            with graph.beside():
                torch.rand(1, device=device)
            torch.manual_seed(2)
            with pytest.raises(RuntimeError):
                graph.capture(work)
        drawn[broken] = torch.rand(4, generator=rng, device=device), torch.rand(4, device=device)
    for one, other in zip(*drawn.values(), strict=True):
        assert torch.equal(one, other)
