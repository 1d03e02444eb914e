"""What `modiff sample` makes of its options, for one scan and for each of a cohort."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modiff.io.files import Limits
    from modiff.prediction.predictor import Predictor
    from modiff.prediction.scan import Maker


def limits_of(args: argparse.Namespace) -> Limits:
    """The bounds of files that are read."""
    from modiff.io.files import Limits

    return Limits.asked(args.max_bytes, skip_broken=args.skip_broken)


def maker_of(args: argparse.Namespace) -> Maker:
    """The model, and how its results are made and written."""
    from modiff.prediction.predictor import Predictor

    predictor = Predictor.from_path(args.model, device=args.device)
    how = {"identify": args.identify, "full_header": args.seg_full_header, "rtstruct": args.rtstruct}
    return maker_with(predictor, str(args.model), **how)


def maker_with(predictor: Predictor, model: str, **how: Any) -> Maker:
    """A model's results as this program makes them now. how: identify, full_header and rtstruct of `Maker`."""
    from modiff.evaluation import provenance
    from modiff.prediction.scan import Maker

    fingerprint = provenance.model_fingerprint(predictor.model, predictor.config)
    about = provenance.command_line(), provenance.now(), provenance.versions()
    return Maker(predictor, model, fingerprint, *about, **how)
