from . import metrics as metrics
from ._version import __version__ as __version__
from .data.store import Store as Store
from .errors import ModiffError as ModiffError
from .methods.run_folder import load_model as load_model
from .prediction.predict import Predictor as Predictor
from .types import Batch as Batch
