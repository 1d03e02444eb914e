"""The edge filters agree with scikit-image's, borders included, and stand in the LDF's place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusion_models import random_batch
from skimage import data, feature, filters

from modiff.config.fields import to_dict
from modiff.config.methods import LDFConfig
from modiff.config.run import build_config, config_from_dict
from modiff.methods.modiff.ldf import LDF, make_ldf
from modiff.methods.registry import build
from modiff.nn import edges
from modiff.types import DataSpec

REFERENCES = {
    "gaussian": lambda image: image - filters.gaussian(image, sigma=2),
    "roberts": filters.roberts,
    "prewitt": filters.prewitt,
    "sobel": filters.sobel,
}
IMAGES = {
    "photograph": data.camera()[128:256, 128:256].astype(np.float64) / 255,
    "noise": np.random.default_rng(0).random((33, 47)),
    "disc": (np.hypot(*np.mgrid[-20:20, -20:20]) < 11).astype(np.float64),
}


def as_batch(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image)[None, None]


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize("name", REFERENCES)
def test_a_filter_equals_scikit_image_up_to_the_border(name, image):
    found = getattr(edges, name)(as_batch(image))[0, 0].numpy()
    np.testing.assert_allclose(found, REFERENCES[name](image), atol=2e-6)


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_canny_equals_scikit_image_pixel_by_pixel(image, sigma):
    found = edges.canny(as_batch(image), sigma)[0, 0].numpy()
    reference = feature.canny(image, sigma=sigma)
    assert reference.any()
    # A symmetric disc has ties between neighbours that rounding decides.
    assert (found != reference).mean() < (0.01 if image is IMAGES["disc"] else 1e-9)


def test_canny_keeps_what_a_strong_edge_reaches_and_drops_the_rest():
    image = np.zeros((40, 60))
    ramp = np.array([0.5, *np.ones(49)])  # half a step first, so that one pixel is the steepest
    image[:, 10:] += np.linspace(0.05, 0.3, 40)[:, None] * ramp  # one edge, weak above and strong below
    image[:, 40:] += 0.05 * ramp[:20]  # an edge that is weak all along
    found = edges.canny(as_batch(image))[0, 0].numpy()
    np.testing.assert_array_equal(found, feature.canny(image))
    assert found[5, 8:12].any()
    assert not found[:, 35:45].any()


@pytest.mark.parametrize("name", [*REFERENCES, "canny"])
def test_maps_of_a_batch_do_not_touch(name):
    x = torch.rand(2, 3, 24, 20)
    module = edges.EdgeFilter(name)
    together = module(x)
    for item in range(2):
        for channel in range(3):
            alone = module(x[item : item + 1, channel : channel + 1])
            torch.testing.assert_close(together[item, channel], alone[0, 0])


@pytest.mark.parametrize("name", [*REFERENCES, "canny"])
def test_gradients_are_finite_on_flat_maps(name):
    x = torch.zeros(1, 2, 16, 16, requires_grad=True)
    edges.EdgeFilter(name)(x).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_canny_passes_the_gradient_at_edges_and_nowhere_else():
    x = as_batch(IMAGES["disc"]).float().requires_grad_()
    edges.EdgeFilter("canny")(x).sum().backward()
    np.testing.assert_array_equal(x.grad[0, 0].numpy() > 0, edges.canny(as_batch(IMAGES["disc"]).float())[0, 0].numpy())


def test_canny_in_the_network_does_not_depend_on_scale_and_offset():
    x = as_batch(IMAGES["photograph"]).float()
    gate = edges.EdgeFilter("canny")(x + 1) > 0
    moved = edges.EdgeFilter("canny")(16 * (x + 1)) > 0
    assert torch.equal(gate, moved)


def test_filters_compute_in_float32_under_autocast():
    x = as_batch(IMAGES["noise"]).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = edges.EdgeFilter("sobel")(x)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, edges.sobel(x))


@pytest.mark.parametrize("name", [*REFERENCES, "canny"])
def test_modiff_learns_with_the_filter_in_the_ldfs_three_places(name):
    settings = {
        "ldf": {"filter": name},
        "mca": {"dim": 16},
        "unet": {"base": 8, "stem": 4, "multipliers": [1, 2]},
        "presence": {"base": 8},
    }
    torch.manual_seed(0)
    model = build("modiff", build_config(changes={"model": settings}).model, DataSpec.of(raters=2))
    assert sum(isinstance(module, edges.EdgeFilter) for module in model.modules()) == 3
    assert not any(isinstance(module, LDF) for module in model.modules())
    terms = model.training_loss(random_batch(side=32), rng=torch.Generator().manual_seed(0))
    terms["loss"].backward()
    assert "ldf" in terms
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_the_filter_is_the_ldf_unless_asked_otherwise():
    assert isinstance(make_ldf(2, LDFConfig()), LDF)
    assert isinstance(make_ldf(2, LDFConfig(enabled=False, filter="sobel")), torch.nn.Identity)


def test_a_configuration_written_before_there_was_a_choice_loads():
    written = to_dict(build_config())
    del written["model"]["ldf"]["filter"]
    assert config_from_dict(written) == build_config()
