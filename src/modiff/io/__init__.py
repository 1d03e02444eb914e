"""Files at the edge: pictures and scans in, results out. Nothing here imports torch."""

from modiff.io.image import read_channels, read_image, write_png
from modiff.io.volume import Volume

__all__ = ["Volume", "read_channels", "read_image", "write_png"]
