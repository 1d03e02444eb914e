"""What `modiff sample` makes of its options, for one scan and for each of a cohort."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modiff.io.files import Limits
    from modiff.prediction.scan import Maker


def limits_of(args: argparse.Namespace) -> Limits:
    """The bounds of files that are read."""
    from modiff.io.files import Limits

    return Limits.asked(args.max_bytes, skip_broken=args.skip_broken)


def maker_of(args: argparse.Namespace) -> Maker:
    """The model, and how its results are made and written."""
    from modiff.evaluation import provenance
    from modiff.prediction.predict import Predictor
    from modiff.prediction.scan import Maker

    predictor = Predictor.from_path(args.model, device=args.device)
    return Maker(
        predictor,
        str(args.model),
        provenance.model_fingerprint(predictor.model, predictor.config),
        provenance.command_line(),
        provenance.now(),
        provenance.versions(),
        identify=args.identify,
        full_header=args.seg_full_header,
    )
