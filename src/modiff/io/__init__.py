"""Files at the edge: pictures and scans in, results out. Nothing here imports torch."""

from modiff.io.image import ImageFile, read_image, write_png

__all__ = ["ImageFile", "read_image", "write_png"]
