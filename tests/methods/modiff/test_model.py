"""MoDiff as a whole: shapes, gradients, what is computed once, and what a sample depends on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from modiff_helpers import batch, config, disc, model

from modiff.errors import ConfigError
from modiff.metrics.protocols import binarise
from modiff.nn import windows
from modiff.types import Batch

SEEDS = torch.tensor([11, 12, 13])


def drawn(samples):
    """(B,N) bool: samples that were denoised, which are positive everywhere in their window."""
    return samples.maps.flatten(2).any(-1)


def loss(network, data, seed=0):
    return network.training_loss(data, rng=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("channels", "classes"), [(1, 1), (4, 3)])
@pytest.mark.parametrize("size", [(32, 32), (33, 46)])
def test_samples_have_the_images_shape(channels, classes, size):
    network = model(channels=channels, classes=classes).eval()
    data = batch(3, size=size, channels=channels, classes=classes)
    assert torch.isfinite(loss(network, data)["loss"])
    samples = network.sample(data.image, 5, seeds=SEEDS)
    assert samples.maps.shape == (3, 5, classes, *size)
    assert samples.maps.min() >= 0
    assert samples.maps.max() <= 1
    assert samples.maps.sum(2).max() <= 1 + 1e-5
    torch.testing.assert_close(samples.weights.sum(1), torch.ones(3))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mca": {"enabled": False}},
        {"ldf": {"enabled": False}},
        {"mca": {"enabled": False}, "ldf": {"enabled": False}},
        {"ldf": {"order": "sequential"}},
        {"mca": {"roles": "label_queries"}},
        {"presence": {"mode": "implicit"}},
        {"diffusion": {"kind": "categorical"}},
        {"diffusion": {"prediction": "eps", "loss": "mse", "sampler": "ancestral"}},
        {"diffusion": {"prediction": "v", "loss": "mse", "sampler": "dpm++"}},
        {"crop": 16, "window": 16},
    ],
    ids=str,
)
def test_every_parameter_learns_within_three_steps(changes):
    network = model(config(**changes)).train()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05)
    touched = set()
    for step in range(3):
        optimiser.zero_grad()
        loss(network, batch(), step)["loss"].backward()
        for name, parameter in network.named_parameters():
            if parameter.grad is not None and parameter.grad.abs().max() > 0:
                touched.add(name)
        optimiser.step()
    # The panel's sizes that were not drawn, and the null token, are rows of one embedding.
    assert {name for name, _ in network.named_parameters()} - touched == set()


def test_identifiable_raters_are_recorded():
    network = model(raters=2, exchangeable=False).eval()
    samples = network.sample(batch(3, raters=2).image, 40, seeds=SEEDS)
    assert set(samples.raters.unique().tolist()) == {0, 1}


def test_work_on_the_image_is_done_once_an_image():
    network = model(config(presence={"mode": "implicit"})).eval()
    calls = {"encode": 0, "image share": 0, "denoise": 0}

    def count(name):
        def hook(*_):
            calls[name] += 1

        return hook

    network.mca.embed.register_forward_hook(count("encode"))
    network.unet.conv_image.register_forward_hook(count("image share"))
    network.unet.conv_in.register_forward_hook(count("denoise"))
    encoding = network.encode(batch(3).image)
    network.sample(encoding, 4, seeds=SEEDS, steps=3)
    network.sample(encoding, 4, seeds=SEEDS + 1, steps=2)
    assert calls == {"encode": 1, "image share": 1, "denoise": 5}


def test_a_sample_depends_on_its_seed_and_index_alone():
    network, image = model().eval(), batch(3).image
    together = network.sample(image, 6, seeds=SEEDS)
    alone = network.sample(image[1:2], 3, seeds=SEEDS[1:2])
    turned = network.sample(image.flip(0), 6, seeds=SEEDS.flip(0))
    torch.testing.assert_close(together.maps[1, :3], alone.maps[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(together.maps, turned.maps.flip(0), atol=1e-4, rtol=0)


def test_samples_of_one_image_differ():
    network = model().eval()
    samples = network.sample(batch(1).image, 8, seeds=SEEDS[:1])
    shown = samples.maps[0][drawn(samples)[0]]
    assert (shown[0] - shown[1]).abs().max() > 1e-3


def test_absent_samples_are_empty():
    network = model().eval()
    samples = network.sample(batch(3).image, 16, seeds=SEEDS)
    assert (~drawn(samples)).any()
    assert not samples.present[~drawn(samples)].any()


@pytest.mark.parametrize("mode", ["hurdle", "implicit"])
@pytest.mark.parametrize("p", [(0.40, 0.35), (0.5, 0.0), (0.25, 0.25), (0.51, 0.0)])
def test_present_is_what_the_argmax_marks(mode, p, monkeypatch):
    network = model(config(presence={"mode": mode}), classes=2).eval()
    made = torch.tensor(p).view(1, 2, 1, 1)
    monkeypatch.setattr(network, "_denoise", lambda window, *_: made.repeat(len(window.rows), 1, *window.size))
    samples = network.sample(batch(3, classes=2).image, 6, seeds=SEEDS)
    assert drawn(samples).any()
    assert torch.equal(samples.present, binarise(samples.maps, None).flatten(2).any(-1))


def test_presence_is_reported():
    network = model().eval()
    assert network.sample(batch(3).image, 2, seeds=SEEDS).presence.shape == (3,)
    implicit = model(config(presence={"mode": "implicit"})).eval()
    assert implicit.sample(batch(3).image, 2, seeds=SEEDS).presence is None


@pytest.mark.parametrize("readers", [[], [0, 0], [4], "panel"])
def test_readers_that_are_not_there_are_refused(readers):
    with pytest.raises((ConfigError, ValueError)):
        model().eval().sample(batch(1).image, 2, seeds=SEEDS[:1], raters=readers)


def test_a_consensus_is_scaled_by_the_share_that_marks():
    network = model().eval()
    samples = network.sample(batch(3).image, 32, seeds=SEEDS, raters="all")
    peaks = samples.maps.flatten(2).amax(-1)
    assert peaks.max() <= 1
    assert len(torch.unique((peaks * 4).ceil())) > 2


def test_a_batch_that_nobody_marked_gives_a_zero_with_a_graph():
    data = batch(2)
    nothing = replace(data, masks=torch.zeros_like(data.masks))
    terms = loss(model(), nothing)
    assert terms["simple"] == 0
    terms["loss"].backward()


@pytest.mark.parametrize("name", ["ce_weight", "dice_weight"])
def test_the_weights_of_the_label_loss_are_those_of_denoiser_and_head(name):
    def terms(value):
        return loss(model(config(diffusion={"ce_weight": 20.0, "dice_weight": 1.0, name: value})).eval(), batch())

    none, one, many = (terms(value) for value in (0.0, 1.0, 7.0))
    for term in ("simple", "map"):
        assert one[term] > none[term] + 1e-3
        torch.testing.assert_close(many[term] - none[term], 7 * (one[term] - none[term]), atol=1e-4, rtol=1e-4)
    for term in ("presence", "ldf", "mca"):
        assert one[term] == none[term]


def test_raters_who_did_not_read_are_ignored():
    data = batch(2)
    data = replace(data, read=torch.tensor([[True, True, True, False]] * 2))
    scribbled = data.masks.clone()
    scribbled[:, 3] = True
    network = model().eval()
    first, second = loss(network, data), loss(network, replace(data, masks=scribbled))
    assert first["loss"] == second["loss"]


def test_a_wide_lesion_is_denoised_on_the_whole_image():
    network = model(config(window=16)).eval()
    with torch.no_grad():
        network.head.map_out.bias.fill_(5.0)  # the label map reaches every border
    encoding = network.encode(batch(2).image)
    assert [group.size for group in encoding.groups] == [(32, 32)]
    with torch.no_grad():
        network.head.map_out.bias.fill_(-9.0)
    assert [group.size for group in network.encode(batch(2).image).groups] == [(16, 16)]


def test_outside_the_window_is_background():
    network = model(config(window=16)).eval()
    with torch.no_grad():
        network.head.map_out.bias.fill_(-9.0)
    maps = network.sample(batch(2).image, 4, seeds=SEEDS[:2]).maps
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[8:24, 8:24] = True
    assert maps[..., ~inside].abs().max() == 0
    assert maps[..., inside].max() > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"diffusion": {"prediction": "eps"}},
        {"diffusion": {"kind": "categorical", "loss": "mse"}},
        {"diffusion": {"kind": "categorical", "sampler": "dpm++"}},
        {"diffusion": {"steps": 100, "spacing": "trailing", "sampling_steps": 250}},
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes):
    with pytest.raises(ConfigError):
        model(config(**changes))


def test_windows_are_cut_where_their_corner_says():
    x = torch.arange(2 * 6 * 7.0).view(2, 1, 6, 7)
    piece = windows.cut(x, torch.tensor([[1, 2], [0, 4]]), (3, 3))
    torch.testing.assert_close(piece[0, 0], x[0, 0, 1:4, 2:5])
    torch.testing.assert_close(piece[1, 0], x[1, 0, 0:3, 4:7])


@pytest.mark.parametrize("changes", [{}, {"mca": {"enabled": False}}, {"ldf": {"enabled": False}}], ids=str)
@pytest.mark.parametrize(("side", "crop"), [(1, 0), (4, 0), (8, 0), (16, 0), (32, 4), (32, 8)])
def test_images_and_crops_may_be_tiny(side, crop, changes):
    shape = {"presence": {"multipliers": (1,), "stem": 1}, "unet": {"multipliers": (1,), "stem": 1, "attention": (1,)}}
    network = model(config(**shape, crop=crop, window=crop, **changes))
    data = batch(2, size=(side, side))
    terms = loss(network, data)
    terms["loss"].backward()
    assert torch.isfinite(terms["loss"])
    samples = network.eval().sample(data.image, 2, seeds=SEEDS[:2])
    assert samples.maps.shape == (2, 2, 1, side, side)
    assert torch.isfinite(samples.maps).all()


def test_a_window_around_the_middle_is_central():
    corner = windows.window_corner(torch.tensor([[63.5, 63.5]]), (64, 64), (128, 128))
    assert corner.tolist() == [[32, 32]]


def test_random_squares_stay_inside_and_near_the_prompt():
    images, centre = torch.zeros(500, 1, 128, 128), torch.full((500, 2), 63.5)
    rng = torch.Generator().manual_seed(0)
    near = windows.random_corner(images, centre, (64, 64), jitter=5, anywhere=0.0, rng=rng)
    assert near.min() == 27
    assert near.max() == 37
    free = windows.random_corner(images, None, (64, 64), jitter=5, anywhere=0.0, rng=rng)
    assert free.min() >= 0
    assert free.max() <= 64
    assert free.float().std() > 15


@pytest.mark.slow
def test_one_case_is_learnt_with_all_its_raters_modes_and_their_frequencies():
    size = (32, 32)
    masks = torch.zeros(1, 4, 1, *size, dtype=torch.bool)
    masks[0, 0, 0] = disc(size, 4)
    masks[0, 1, 0] = disc(size, 4)
    masks[0, 2, 0] = disc(size, 9)
    image = (0.2 + 0.6 * disc(size, 6).float())[None, None]
    case = Batch(image, masks, torch.ones(1, 4, dtype=torch.bool), ("case",), torch.tensor([[15.5, 15.5]]))
    many = Batch(
        image.expand(24, -1, -1, -1),
        masks.expand(24, -1, -1, -1, -1),
        case.read.expand(24, -1),
        ("case",) * 24,
        case.centre.expand(24, -1),
    )
    presence = {"dropout": 0.0, "intensity_augmentation": 0.0, "jitter": 0, "single_share": 0.9}
    small = config(presence=presence, diffusion={"sampling_steps": 10, "input_scale": 0.25}, unet={"base": 16})
    network = model(small).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=4e-3)
    for step in range(260):
        optimiser.param_groups[0]["lr"] = 4e-3 * (1 - step / 260)
        optimiser.zero_grad()
        loss(network, many, step)["loss"].backward()
        optimiser.step()
    network.eval()
    samples = network.sample(image, 200, seeds=torch.tensor([5]))
    found = samples.maps[0, :, 0] > 0.5

    def share(truth):
        overlap = (found & truth).sum((1, 2)) / (found | truth).sum((1, 2))
        return float((overlap > 0.8).float().mean())

    empty = float((~found.flatten(1).any(1)).float().mean())
    assert empty == pytest.approx(0.25, abs=0.1)
    assert share(masks[0, 0, 0]) == pytest.approx(0.5, abs=0.15)
    assert share(masks[0, 2, 0]) == pytest.approx(0.25, abs=0.15)


def test_constants_move_with_the_model_and_are_not_part_of_its_state():
    network = model()
    assert network.head.tables.shape == (5, 5, 5)
    assert "head.tables" in dict(network.named_buffers())
    assert set(network.state_dict()) == {name for name, _ in network.named_parameters()}


def test_training_goes_on_after_sampling_in_inference_mode():
    network, data = model(), batch(2, size=(40, 24))  # a size that nothing has cached yet
    with torch.inference_mode():
        network.eval().sample(data.image, 2, seeds=SEEDS[:2])
    loss(network.train(), data)["loss"].backward()
    assert network.mca.key.weight.grad is not None


def test_persons_mark_independently_so_that_no_panel_of_theirs_is_stratified():
    drawn = model(config(), exchangeable=False).eval()
    image, how = batch(1).image, {"seeds": SEEDS[:1], "stratified": True}
    drawn.sample(image, 2, **how)
    for raters in ("all", [0, 1]):
        with pytest.raises(ConfigError, match="not stratified"):
            drawn.sample(image, 2, raters=raters, **how)
        assert model(config()).eval().sample(image, 2, raters=raters, **how).maps.shape[1] == 2
