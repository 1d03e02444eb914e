"""Files at the edge: pictures and arrays in, results out. Nothing here imports torch."""

from modiff.io.images import ImageFile, png_bytes, read_image, write_png
from modiff.io.limits import Limits
from modiff.io.output import output_folder, replacing

__all__ = ["ImageFile", "Limits", "output_folder", "png_bytes", "read_image", "replacing", "write_png"]
