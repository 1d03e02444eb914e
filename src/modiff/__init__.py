"""modiff: medical image segmentation where experts disagree.

The public names are in `__init__.pyi`; they load what they need when they are first used, so that `import modiff` is
instant.
"""

import lazy_loader

from modiff._version import __version__ as __version__

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
