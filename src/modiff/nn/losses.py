"""Terms of losses, one value per image, (B,), and their means; MoSE's optimal transport between samples and raters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_NOT_YET = 1e30  # a best loss before the first; finite, because saved tensors must be


def with_background(logits: Tensor) -> Tensor:
    """(B,K,H,W) -> (B,1+K,H,W): a background logit of 0, so that K = 1 is a plain sigmoid."""
    return torch.cat([torch.zeros_like(logits[:, :1]), logits], 1)


def probabilities(logits: Tensor) -> Tensor:
    """(B,K,H,W) foreground probabilities of classes that exclude each other."""
    return with_background(logits).softmax(1)[:, 1:]


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean over pixels of −Σ_c p_c·log P_c with soft labels (B,K,H,W), background included."""
    log_p = with_background(logits).log_softmax(1)
    background = (1 - label.sum(1, keepdim=True)).clamp_min(0)
    return -(torch.cat([background, label], 1) * log_p).sum(1).mean((1, 2))


def soft_dice_loss(p: Tensor, label: Tensor, smooth: float = 1.0) -> Tensor:
    """1 − (2·Σpq + s)/(Σp + Σq + s), mean over classes; s = one pixel keeps empty maps defined."""
    overlap = 2 * (p * label).sum((2, 3)) + smooth
    return 1 - (overlap / (p.sum((2, 3)) + label.sum((2, 3)) + smooth)).mean(1)


def mean_of_known(values: Tensor, known: Tensor) -> Tensor:
    """Scalar mean of (B,) values over the rows that are known; a zero with a graph where none is."""
    weights = known.float()
    return (values * weights).sum() / weights.sum().clamp_min(1)


def iou_cost(samples: Tensor, masks: Tensor) -> Tensor:
    """(B,N,R) 1 − soft IoU of samples (B,N,K,H,W) with masks (B,R,K,H,W), smoothed by one pixel, mean over classes."""
    samples, masks = samples.flatten(3), masks.flatten(3).to(samples.dtype)
    intersection = torch.einsum("bnkp,brkp->bnrk", samples, masks)
    union = samples.sum(3)[:, :, None] + masks.sum(3)[:, None] - intersection
    return 1 - ((intersection + 1) / (union + 1)).mean(3)


def greedy_coupling(cost: Tensor, mass: Tensor, cap: Tensor | float) -> Tensor:
    """(B,N,R) how much of each rater's mass goes to each sample, no sample taking more than `cap` in all.

    cost: (B,N,R). mass: (B,R). Raters come in the order of their smallest cost; each pours its mass into the samples
    nearest to it that have room. With cap ≥ Σ mass each rater goes wholly to its nearest sample, which is the exact
    optimum; below, it is the reference implementation's approximation. N·cap ≥ Σ mass, or mass is left over.
    """
    batch, count, raters = cost.shape
    coupling = torch.zeros_like(cost)
    room = torch.as_tensor(cap, dtype=cost.dtype, device=cost.device).expand(batch, count).clone()
    rows = torch.arange(batch, device=cost.device)
    order = cost.amin(1).argsort(stable=True, dim=1)
    for place in range(raters):
        rater = order[:, place]
        nearest = cost[rows, :, rater].argsort(stable=True, dim=1)
        free = room.gather(1, nearest)
        before = free.cumsum(1) - free
        poured = torch.minimum(free, (mass[rows, rater][:, None] - before).clamp_min(0))
        taken = torch.zeros_like(room).scatter(1, nearest, poured)
        coupling[rows, :, rater] = taken
        room = (room - taken).clamp_min(0)
    return coupling


class CapSchedule(nn.Module):
    """γ: `start`, then `end` for good once the mean training loss has not improved for more than `patience` windows.

    A window is a number of images. Its state is buffers, so that a run resumes where it was; those that
    decide are integers, which a moving average of the weights copies and does not mix.
    """

    def __init__(self, start: float, end: float, *, window: int, patience: int) -> None:
        super().__init__()
        self.start, self.end, self.window, self.patience = start, end, window, patience
        self.stage, self.stalled, self.images = (nn.Buffer(torch.zeros((), dtype=torch.int64)) for _ in range(3))
        self.total, self.best = nn.Buffer(torch.zeros(())), nn.Buffer(torch.full((), _NOT_YET))

    @property
    def cap(self) -> Tensor:
        """γ now, a scalar on the schedule's device."""
        return torch.where(self.stage > 0, self.end, self.start)

    @torch.no_grad()
    def update(self, loss: Tensor, images: int) -> None:
        """Counts one step's mean loss over `images` images; no value leaves the device."""
        self.images.add_(images)
        self.total.add_(loss.detach().float() * images)
        full = self.images >= self.window
        mean = self.total / self.images
        improved = mean < self.best
        stalled = torch.where(improved, 0, self.stalled + 1)
        self.stalled.copy_(torch.where(full, stalled, self.stalled))
        self.best.copy_(torch.where(full & improved, mean, self.best))
        self.stage.copy_(torch.where(self.stalled > self.patience, 1, self.stage))
        self.images.copy_(torch.where(full, 0, self.images))
        self.total.copy_(torch.where(full, 0.0, self.total))
