"""Settings of `modiff sample` and of `modiff.Predictor`."""

from __future__ import annotations

from dataclasses import dataclass

from modiff.config.fields import ANY, COUNT, FRACTION, NOT_NEGATIVE, POSITIVE, Range, number

SAMPLES = 16  # hypotheses per image
OVERLAP = 0.5  # fraction of a window that its neighbour sees too
DISTINCT = 0.9  # pixels, see docs/sample.md


@dataclass(frozen=True)
class SampleConfig:
    """What is drawn of an image, where it is looked at, and how the samples are counted."""

    n: int = number(SAMPLES, COUNT, "samples")
    """samples to draw"""
    seed: int = number(0, ANY)
    """seed of the random numbers"""
    steps: int | None = number(None, COUNT)
    """steps of the sampler; by default the model's own"""
    stratified: bool = False
    """spread whether raters mark anything evenly over the samples instead of drawing it for each by itself"""
    slices: int = number(0, NOT_NEGATIVE)
    """with --at: N neighbours of slice Z on either side"""
    roi: str | None = None
    """a part of the image, ends excluded; by default all of it"""
    overlap: float = number(OVERLAP, FRACTION)
    """fraction of a window that its neighbours see too"""
    intensity: str | None = None
    """how to make the values: minmax-slice, window:LOW:HIGH, percentiles:LOW:HIGH, unit, or ready where they are as in
    training; by default the model's own rule"""
    threshold: float | None = number(None, Range(low=0, high=1, above=True))
    """a pixel is marked from this probability on; by default argmax"""
    distinct: float = number(DISTINCT, POSITIVE, "pixels")
    """samples are distinct hypotheses where their outlines lie more than this many pixels apart, on average along the
    outline"""
