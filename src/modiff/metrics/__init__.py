"""Metrics for segmentation where experts disagree: `functional` (one value per image) and torchmetrics classes.

The names are in `__init__.pyi`; they load what they need when they are first used: reading published numbers does not
import torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
