"""What holds of CCDM, CIMD and MedFM alike: samples, steps, shapes, gradients, and MoDiff's ideas as options."""

from __future__ import annotations

import pytest
import torch
from diffusion_models import TINY, random_batch, small, train, two_opinions
from torch import nn

from modiff.config.run import build_config
from modiff.errors import ConfigError
from modiff.methods.registry import build
from modiff.nn.windows import NoiseField
from modiff.rng import normal
from modiff.types import Batch, DataSpec

CHAINS = ["ccdm", "cimd"]
METHODS = [*CHAINS, "medfm"]
HURDLE = {"mode": "hurdle", "base": 8, "multipliers": [1, 2]}


def lively(method, **settings):
    """A small network whose last layer is not zero, so that it says something."""
    model = small(method, **settings).eval()
    nn.init.normal_(model.unet.conv_out.weight, std=0.1)
    return model


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("channels", "classes", "side"), [(1, 1, 16), (4, 3, 17)])
def test_maps_have_the_images_shape_and_are_probabilities(method, channels, classes, side):
    model = lively(method, channels=channels, classes=classes)
    drawn = model.sample(torch.rand(2, channels, side, side + 2), 3, seeds=torch.arange(2))
    assert drawn.maps.shape == (2, 3, classes, side, side + 2)
    assert drawn.maps.min() >= 0
    assert drawn.maps.max() <= 1
    torch.testing.assert_close(drawn.weights, torch.full((2, 3), 1 / 3))


@pytest.mark.parametrize("method", METHODS)
def test_a_sample_depends_on_its_seed_and_place_and_not_on_its_company(method):
    model = lively(method)
    image, seeds = torch.rand(3, 1, 16, 16), torch.tensor([5, 6, 7])
    many = model.sample(image, 6, seeds=seeds).maps
    few = model.sample(image[1:2], 2, seeds=seeds[1:2]).maps
    torch.testing.assert_close(few[0], many[1, :2], atol=1e-4, rtol=0)
    assert (many[0, 0] - many[0, 1]).abs().max() > 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_memory_for_samples_is_bounded_without_changing_them(method, monkeypatch):
    model = lively(method)
    image, seeds = torch.rand(2, 1, 16, 16), torch.arange(2)
    together = model.sample(image, 3, seeds=seeds).maps
    monkeypatch.setattr("modiff.methods.base._MOST_BYTES", 1)
    torch.testing.assert_close(model.sample(image, 3, seeds=seeds).maps, together, atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_the_network_says_the_same_in_either_memory_format(method, monkeypatch):
    unet = lively(method).unet
    noisy, image, t = torch.rand(2, unet.conv_in.in_channels, 16, 16), torch.rand(2, 1, 16, 16), torch.rand(2)
    with torch.no_grad():
        channels_last = unet(noisy, unet.encode(image), t)
        monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: True)  # as it is in bfloat16
        contiguous = unet(noisy, unet.encode(image), t)
    torch.testing.assert_close(contiguous, channels_last, atol=1e-5, rtol=1e-4)
    assert contiguous.std() > 1e-3


def calls(module):
    """Counts a module's forward passes."""
    seen = []
    module.register_forward_hook(lambda *_: seen.append(1))
    return seen


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", [None, 1, 3, 20])
def test_a_sample_takes_as_many_evaluations_as_asked(method, steps):
    model = lively(method)
    evaluations, image_work = calls(model.unet), calls(model.unet.conv_image)
    model.sample(torch.rand(1, 1, 16, 16), 4, seeds=torch.arange(1), steps=steps)
    assert len(evaluations) == (model.default_steps if steps is None else steps)
    assert len(image_work) == 1


@pytest.mark.parametrize("method", CHAINS)
def test_more_steps_than_the_chain_has_are_refused(method):
    with pytest.raises(ConfigError, match="20"):
        lively(method).sample(torch.rand(1, 1, 16, 16), 1, seeds=torch.arange(1), steps=21)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("raters", ["all", [0]])
def test_panels_are_refused(method, raters):
    with pytest.raises(ConfigError, match="single"):
        lively(method).sample(torch.rand(1, 1, 16, 16), 1, seeds=torch.arange(1), raters=raters)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("presence", [{}, HURDLE], ids=["implicit", "hurdle"])
def test_every_parameter_receives_a_gradient_within_three_steps(method, presence):
    model = small(method, presence=presence)
    batch = random_batch()
    seen = set()
    for _ in range(3):
        train(model, batch, steps=1, rate=1e-2, repeat=1)
        seen |= {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert {name for name, _ in model.named_parameters()} - seen == set()


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_depends_on_the_generator_alone(method):
    model, batch = small(method), random_batch()
    first, again = (model.training_loss(batch, rng=torch.Generator().manual_seed(7)) for _ in range(2))
    assert first["loss"].item() == again["loss"].item()
    other = model.training_loss(batch, rng=torch.Generator().manual_seed(8))
    assert first["loss"].item() != other["loss"].item()


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_that_nobody_read_gives_a_zero_with_a_graph(method):
    batch = random_batch()
    model = small(method)
    unread = Batch(batch.image, batch.masks & False, batch.read & False)
    terms = model.training_loss(unread, rng=torch.Generator().manual_seed(0))
    terms["loss"].backward()
    assert terms["loss"].item() == 0
    assert terms.keys() == model.training_loss(batch, rng=torch.Generator().manual_seed(0)).keys()


@pytest.mark.parametrize("method", METHODS)
def test_the_stem_makes_the_network_work_on_patches(method):
    model = lively(method, unet={**TINY["unet"], "stem": 4, "attention": [8]})
    assert model.stride == 8
    assert model.encode(torch.rand(1, 1, 16, 16)).groups[0].features[0].shape[-2:] == (4, 4)
    assert model.sample(torch.rand(1, 1, 16, 16), 2, seeds=torch.arange(1)).maps.shape == (1, 2, 1, 16, 16)


@pytest.mark.parametrize("method", METHODS)
def test_without_the_hurdle_empty_masks_are_labels_like_others(method):
    model = small(method)
    blank = Batch(torch.rand(2, 1, 8, 8), torch.zeros(2, 2, 1, 8, 8, dtype=torch.bool), torch.ones(2, 2).bool())
    assert model.training_loss(blank, rng=torch.Generator().manual_seed(0))["simple"] > 0


@pytest.mark.parametrize("method", METHODS)
def test_with_the_hurdle_empty_masks_train_the_head_alone(method):
    model = small(method, presence=HURDLE)
    blank = Batch(torch.rand(2, 1, 8, 8), torch.zeros(2, 2, 1, 8, 8, dtype=torch.bool), torch.ones(2, 2).bool())
    terms = model.training_loss(blank, rng=torch.Generator().manual_seed(0))
    assert terms["simple"] == 0
    assert terms["presence"] > 0


@pytest.mark.parametrize("method", METHODS)
def test_with_the_hurdle_absent_samples_are_empty_and_cost_nothing(method):
    model = lively(method, presence=HURDLE)
    encoding = model.encode(torch.rand(4, 1, 16, 16))
    encoding.presence = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0.5, 0, 0.5], [0, 1, 0]])
    rows = []
    model.unet.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    drawn = model.sample(encoding, 200, seeds=torch.arange(4), steps=1)
    torch.testing.assert_close(drawn.presence, torch.tensor([0.0, 1.0, 0.5, 0.5]))
    denoised = drawn.maps.flatten(2).any(-1)
    torch.testing.assert_close(denoised.float().mean(1), drawn.presence, atol=0.12, rtol=0)
    assert not drawn.present[~denoised].any()
    assert sum(rows) == denoised.sum()


@pytest.mark.parametrize("method", METHODS)
def test_the_weight_of_the_hurdles_map_loss_is_a_setting_of_the_method(method):
    def terms(weight):
        model = lively(method, presence=HURDLE, map_ce_weight=weight).eval()
        return model.training_loss(random_batch(), rng=torch.Generator().manual_seed(0))

    none, one, many = (terms(weight) for weight in (0.0, 1.0, 7.0))
    assert one["map"] > none["map"] + 1e-3
    torch.testing.assert_close(many["map"] - none["map"], 7 * (one["map"] - none["map"]), atol=1e-4, rtol=1e-4)
    assert all(one[name] == none[name] for name in none if name not in ("map", "loss"))


@pytest.mark.parametrize("method", METHODS)
def test_with_hurdle_and_stem_all_samples_may_be_absent(method):
    model = lively(method, presence=HURDLE, unet={**TINY["unet"], "stem": 4, "attention": [8]})
    encoding = model.encode(torch.rand(1, 1, 16, 16))
    encoding.presence = torch.tensor([[1.0, 0, 0]])
    drawn = model.sample(encoding, 3, seeds=torch.arange(1))
    assert not drawn.present.any()
    assert drawn.maps.shape == (1, 3, 1, 16, 16)


def test_the_hurdle_learns_how_often_raters_mark():
    batch = two_opinions()
    model = small("ccdm", raters=4, presence={**HURDLE, "intensity_augmentation": 0.0, "dropout": 0.0})
    train(model, batch, steps=30, rate=1e-2, repeat=1)
    drawn = model.eval().sample(batch.image, 1, seeds=torch.arange(4), steps=1)
    torch.testing.assert_close(drawn.presence, torch.full((4,), 0.75), atol=0.05, rtol=0)


def test_windows_of_one_field_share_their_noise_where_they_overlap():
    seeds = torch.tensor([3, 3])
    field = NoiseField(seeds, (8, 8), torch.tensor([[0, 0], [2, 5]]))
    first, second = field.draw(normal, 1, 4, 0)
    assert torch.equal(first[:, 2:, 5:], second[:, :6, :3])


def test_windows_at_the_same_origin_are_denoised_alike():
    model = lively("cimd")
    image = torch.rand(1, 1, 16, 16).expand(2, -1, -1, -1)
    drawn = model.sample(image, 2, seeds=torch.tensor([1, 1]), origin=torch.tensor([[0, 0], [4, 0]])).maps
    again = model.sample(image[:1], 2, seeds=torch.tensor([1]), origin=torch.tensor([[4, 0]])).maps
    torch.testing.assert_close(drawn[1], again[0], atol=1e-4, rtol=0)
    assert (drawn[0] - drawn[1]).abs().max() > 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_under_bfloat16_is_that_of_float32_to_its_precision(method):
    model, batch = lively(method), random_batch()
    exact = model.training_loss(batch, rng=torch.Generator().manual_seed(0))["loss"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model.training_loss(batch, rng=torch.Generator().manual_seed(0))["loss"]
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.03, atol=0)


@pytest.mark.parametrize(("sampler", "draws"), [("ancestral", 3), ("ddim", 0)])
def test_cimds_ddim_adds_no_noise_on_the_way(sampler, draws, monkeypatch):
    streams = []
    draw = NoiseField.draw
    monkeypatch.setattr(NoiseField, "draw", lambda self, *given: streams.append(given[2:]) or draw(self, *given))
    lively("cimd", sampler=sampler).sample(torch.rand(1, 1, 16, 16), 2, seeds=torch.arange(1), steps=4)
    assert len(streams) == 1 + draws
    assert len(set(streams)) == len(streams)


def test_the_hurdle_takes_an_image_and_its_mirror_image_alike():
    model = small("ccdm", presence=HURDLE).eval()
    image = torch.rand(2, 1, 16, 16)
    torch.testing.assert_close(model.encode(image).presence, model.encode(image.flip(-1)).presence, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.encode(image).presence.sum(1), torch.ones(2))


def test_identifiable_raters_have_a_probability_each():
    torch.manual_seed(0)
    config = build_config(method="ccdm", changes={"model": {**TINY, "presence": HURDLE}}).model
    model = build("ccdm", config, DataSpec.of(raters=3, exchangeable=False)).eval()
    encoding = model.encode(torch.rand(1, 1, 16, 16))
    assert encoding.presence.shape == (1, 3)
    encoding.presence = torch.tensor([[1.0, 0.5, 0.0]])
    drawn = model.sample(encoding, 300, seeds=torch.arange(1), steps=1)
    assert drawn.presence.item() == pytest.approx(0.5)
    assert drawn.maps.flatten(2).any(-1).float().mean().item() == pytest.approx(0.5, abs=0.1)
