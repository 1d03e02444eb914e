"""Defaults of `modiff sample` and of `modiff.Predictor`."""

SAMPLES = 16  # hypotheses per image
OVERLAP = 0.5  # fraction of a window that its neighbour sees too
