"""Edge filters that may stand in the LDF's place (paper Table 4): Canny, Gaussian, Roberts, Prewitt, Sobel.

Functions take (B,C,H,W), filter each map on its own and agree with scikit-image's, borders included: Roberts, Prewitt
and Sobel mirror the image about its border (SciPy's "reflect", the border's pixel twice), the Gaussian repeats the
border's pixel, Canny's Gaussian weighs only pixels inside and its edges leave out the outermost pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modiff.errors import ConfigError

_TRUNCATE = 4.0  # a Gaussian kernel ends at this many standard deviations (SciPy)
_TINY = 1e-12  # under square roots, whose slope at 0 is infinite

_SMOOTH = {"prewitt": (1 / 3, 1 / 3, 1 / 3), "sobel": (1 / 4, 1 / 2, 1 / 4)}


def _along(x: Tensor, kernel: Tensor, axis: int) -> Tensor:
    """Correlation of a padded (B,C,H,W) with a kernel along the rows' (2) or the columns' (3) direction."""
    shape = (1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1)
    flat = x.reshape(-1, 1, *x.shape[-2:])
    return F.conv2d(flat, kernel.to(x).view(shape)).view(*x.shape[:2], *_shrunk(x, len(kernel), axis))


def _shrunk(x: Tensor, size: int, axis: int) -> tuple[int, int]:
    height, width = x.shape[-2:]
    return (height - size + 1, width) if axis == 2 else (height, width - size + 1)


def _separable(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return _along(_along(x, rows, 2), columns, 3)


def gaussian_kernel(sigma: float) -> Tensor:
    """(2r+1,) float64 weights that sum to 1, r = 4σ rounded (SciPy)."""
    radius = int(_TRUNCATE * sigma + 0.5)
    weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
    return weights / weights.sum()


def blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing by σ pixels; beyond the border the border's pixel goes on (skimage.filters.gaussian)."""
    kernel = gaussian_kernel(sigma)
    return _separable(F.pad(x, [len(kernel) // 2] * 4, mode="replicate"), kernel, kernel)


def gaussian(x: Tensor, sigma: float = 2.0) -> Tensor:
    """The image minus itself blurred by σ pixels: signed, a high-pass."""
    return x - blur(x, sigma)


def _derivatives(x: Tensor, smooth: tuple[float, float, float]) -> tuple[Tensor, Tensor]:
    """Differences across two pixels down the rows and along the columns, smoothed across; the border pixel repeats."""
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    difference, even = torch.tensor([-1.0, 0.0, 1.0]), torch.tensor(smooth, dtype=torch.float64)
    return _separable(x, difference, even), _separable(x, even, difference)


def _magnitude(first: Tensor, second: Tensor) -> Tensor:
    return torch.sqrt((first.square() + second.square()) / 2 + _TINY)


def prewitt(x: Tensor) -> Tensor:
    """Gradient magnitude, smoothed by (1,1,1)/3 (skimage.filters.prewitt)."""
    return _magnitude(*_derivatives(x, _SMOOTH["prewitt"]))


def sobel(x: Tensor) -> Tensor:
    """Gradient magnitude, smoothed by (1,2,1)/4 (skimage.filters.sobel)."""
    return _magnitude(*_derivatives(x, _SMOOTH["sobel"]))


def roberts(x: Tensor) -> Tensor:
    """Magnitude of the two diagonal differences to the pixel's lower right (skimage.filters.roberts)."""
    x = F.pad(x, (0, 1, 0, 1), mode="replicate")
    return _magnitude(x[..., 1:, 1:] - x[..., :-1, :-1], x[..., 1:, :-1] - x[..., :-1, 1:])


@torch.no_grad()
def canny(x: Tensor, sigma: float = 1.0, low: float = 0.1, high: float = 0.2) -> Tensor:
    """Canny's edges as (B,C,H,W) bool (skimage.feature.canny, mode "constant"); thresholds are for values in [0,1]."""
    rows, columns = _derivatives(_blur_inside(x, sigma), _SMOOTH["sobel"])
    rows, columns = 4 * rows, 4 * columns  # Canny's thresholds are for Sobel's sums, not means
    magnitude = torch.sqrt(rows.square() + columns.square())
    candidate = _is_ridge(rows, columns, magnitude) & (magnitude >= low)
    border = torch.zeros_like(candidate)
    border[..., 1:-1, 1:-1] = True
    candidate &= border
    return _connected(candidate & (magnitude >= high), candidate)


def _blur_inside(x: Tensor, sigma: float) -> Tensor:
    """Gaussian mean over the pixels inside the image."""
    kernel = gaussian_kernel(sigma)
    pad = [len(kernel) // 2] * 4
    weight = _separable(F.pad(torch.ones_like(x[:1, :1]), pad), kernel, kernel)
    return _separable(F.pad(x, pad), kernel, kernel) / (weight + torch.finfo(x.dtype).eps)


def _is_ridge(rows: Tensor, columns: Tensor, magnitude: Tensor) -> Tensor:
    """Whether no neighbour across the edge is larger; neighbours between pixels by linear interpolation."""
    padded = F.pad(magnitude, (1, 1, 1, 1))
    height, width = magnitude.shape[-2:]

    def neighbour(down: int, right: int) -> Tensor:
        return padded[..., 1 + down : 1 + down + height, 1 + right : 1 + right + width]

    steep, same = rows.abs(), (rows > 0) == (columns > 0)
    flat = columns.abs()
    vertical = torch.where(same, steep > flat, steep >= flat)
    weight = torch.where(vertical, flat / steep.clamp_min(_TINY), steep / flat.clamp_min(_TINY))

    def across(sign: int) -> Tensor:
        diagonal = torch.where(same, neighbour(sign, sign), neighbour(-sign, sign))
        straight = torch.where(vertical, torch.where(same, neighbour(sign, 0), neighbour(-sign, 0)), neighbour(0, sign))
        return diagonal * weight + straight * (1 - weight)

    return (across(1) <= magnitude) & (across(-1) <= magnitude)


def _connected(strong: Tensor, candidate: Tensor) -> Tensor:
    """The candidates that touch a strong one, directly or through candidates, diagonals included."""
    found = strong
    while True:
        grown = F.max_pool2d(found.float(), 3, stride=1, padding=1).bool() & candidate
        if torch.equal(grown, found):
            return found
        found = grown


_MAGNITUDES: dict[str, Callable[[Tensor], Tensor]] = {
    "gaussian": gaussian,
    "roberts": roberts,
    "prewitt": prewitt,
    "sobel": sobel,
}


class EdgeFilter(nn.Module):
    """A fixed edge filter with the LDF's interface: (B,C,H,W), any autocast -> float32 of the same shape.

    Gaussian, Roberts, Prewitt and Sobel give their response, and gradients pass through it. Canny's edges are a yes or
    no without a gradient; they gate the input, y ⊙ canny(y), whose gradient is exact wherever no edge appears or goes.
    Its thresholds are shares of each map's range, since what the network filters does not lie in [0,1].
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        if name != "canny" and name not in _MAGNITUDES:
            raise ConfigError(
                "no such filter", field="filter", found=repr(name), expected=", ".join(["canny", *_MAGNITUDES])
            )
        self.name = name

    def forward(self, y: Tensor) -> Tensor:
        with torch.autocast(y.device.type, enabled=False):
            y = y.float()
            return y * canny(_unit_range(y)) if self.name == "canny" else _MAGNITUDES[self.name](y)


def _unit_range(y: Tensor) -> Tensor:
    """Each map scaled to [0,1]; a flat one is 0."""
    y = y.detach()
    low = y.amin((-2, -1), keepdim=True)
    spread = y.amax((-2, -1), keepdim=True) - low
    return torch.where(spread > 0, (y - low) / spread.clamp_min(_TINY), torch.zeros_like(y))
