"""Files at the edge: pictures and arrays in, results out. Nothing here imports torch."""

from modiff.io.files import output_folder, replacing
from modiff.io.image import ImageFile, png_bytes, read_image, write_png
from modiff.io.limits import Limits

__all__ = ["ImageFile", "Limits", "output_folder", "png_bytes", "read_image", "replacing", "write_png"]
