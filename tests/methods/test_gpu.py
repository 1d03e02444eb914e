"""On a CUDA device: a training step, samples that equal the CPU's, noise that does not depend on the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from modiff_helpers import batch, config, model

from modiff.config.data import PhantomConfig
from modiff.config.run import MODELS, RunConfig, TrainerConfig, TrainingConfig
from modiff.data.importers.phantom import write_phantom
from modiff.devices import device_name
from modiff.methods.registry import METHODS, build
from modiff.methods.run_folder import load_model
from modiff.rng import normal, uniform
from modiff.training.loop import train
from modiff.types import DataSpec

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SEEDS = torch.tensor([11, 12, 13, 14])
VARIANTS = [
    {},
    {"mca": {"enabled": False}, "ldf": {"enabled": False}},
    {"ldf": {"transform": "matrix"}},
    {"presence": {"mode": "implicit"}},
    {"diffusion": {"kind": "categorical"}},
    {"diffusion": {"prediction": "eps", "loss": "mse", "sampler": "ancestral"}},
    {"crop": 16, "window": 16},
]


@pytest.fixture
def exact_products() -> Iterator[None]:
    """Float32 as the CPU has it: no TF32."""
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, products.allow_tf32
    convolutions.allow_tf32 = products.allow_tf32 = False
    yield
    convolutions.allow_tf32, products.allow_tf32 = before


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bf16"])
def test_a_training_step_gives_finite_gradients(changes, autocast):
    network = model(config(**changes)).cuda().train()
    rng = torch.Generator("cuda").manual_seed(0)
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        loss = network.training_loss(batch(8).to("cuda"), rng=rng)["loss"]
    loss.backward()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_in_bf16_and_samples(method):
    torch.manual_seed(0)
    data = batch(2, size=(64, 64)).to("cuda")
    network = build(method, MODELS[method](), DataSpec.of(prompt="centre")).cuda()
    with torch.autocast("cuda", torch.bfloat16):
        loss = network.training_loss(data, rng=torch.Generator("cuda").manual_seed(0))["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    steps = 2 if network.stepwise else None
    samples = network.eval().sample(data.image, 3, seeds=SEEDS[:2].cuda(), steps=steps)
    assert samples.maps.shape == (2, 3, 1, 64, 64)
    assert torch.isfinite(samples.maps).all()


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_samples_equal_the_cpus(changes, exact_products):
    if changes.get("diffusion", {}).get("kind") == "categorical":
        pytest.skip("a draw between classes may tip over on a rounding error; see the next test")
    network = model(config(**changes)).eval()
    image = batch(4).image
    there = network.sample(image, 5, seeds=SEEDS)
    here = network.cuda().sample(image.cuda(), 5, seeds=SEEDS.cuda())
    assert torch.equal(here.maps.flatten(2).any(-1).cpu(), there.maps.flatten(2).any(-1))
    torch.testing.assert_close(here.maps.cpu(), there.maps, atol=1e-3, rtol=0)


def test_categorical_samples_equal_the_cpus_in_almost_every_pixel(exact_products):
    network = model(config(diffusion={"kind": "categorical"})).eval()
    image = batch(4).image
    there = network.sample(image, 5, seeds=SEEDS).maps
    here = network.cuda().sample(image.cuda(), 5, seeds=SEEDS.cuda()).maps.cpu()
    assert ((here - there).abs() < 1e-3).float().mean() > 0.99


def test_samples_do_not_depend_on_the_batch(exact_products):
    network = model().cuda().eval()
    image, seeds = batch(4).image.cuda(), SEEDS.cuda()
    together = network.sample(image, 6, seeds=seeds).maps
    alone = torch.cat([network.sample(image[i : i + 1], 6, seeds=seeds[i : i + 1]).maps for i in range(4)])
    torch.testing.assert_close(alone, together, atol=1e-3, rtol=0)


def test_uniforms_are_equal_to_the_bit_and_normals_to_rounding():
    seeds = torch.arange(64) * 7919
    assert torch.equal(uniform(seeds.cuda(), (33, 32)).cpu(), uniform(seeds, (33, 32)))
    torch.testing.assert_close(normal(seeds.cuda(), (33, 32)).cpu(), normal(seeds, (33, 32)), atol=1e-5, rtol=1e-5)


def test_a_run_trains_and_resumes_on_the_device(tmp_path):
    store = write_phantom(
        tmp_path / "phantom.h5", PhantomConfig(patients=9, images_per_patient=2, raters=4), progress=False
    )
    settings = RunConfig(
        model=config(crop=32, window=32),
        training=TrainingConfig(budget="24img", batch_size=8, validation_images=4, validate_every=2, log_every=1),
        trainer=TrainerConfig(accelerator="gpu"),
    )
    first = train(settings, store, tmp_path / "run", quiet=True)
    assert (first.finished, first.steps) == (True, 3)
    longer = replace(settings, training=replace(settings.training, budget="48img"))
    assert train(longer, store, tmp_path / "run", quiet=True).steps == 6
    assert load_model(tmp_path / "run").card["device"] == device_name("cuda")
