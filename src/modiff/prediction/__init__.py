"""From an image to its hypotheses, their probabilities and where they differ."""
