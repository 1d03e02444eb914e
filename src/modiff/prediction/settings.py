"""What a prediction is asked for, and its checks before anything is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from modiff.config.evaluation import REPRESENTATIVE, SELECTIONS, STRATIFIED, SampleConfig
from modiff.config.fields import check
from modiff.data.intensity import IntensityRule
from modiff.errors import ConfigError
from modiff.io.volume import Volume
from modiff.methods.base import Segmenter
from modiff.types import RaterChoice


@dataclass(frozen=True)
class Settings(SampleConfig):
    """What is asked for: where to look and how to make the values (`Predictor.set_image`), what to draw
    (`Predictor.sample`) and how to count it (`summarise`).

    roi: `X0:X1,Y0:Y1[,Z0:Z1]`. spacing: (row, column) mm of an image's pixels; a scan brings its own.
    """

    raters: RaterChoice = "single"
    at: tuple[int, ...] | None = None
    spacing: tuple[float, ...] | None = None

    def check_for(self, model: Segmenter, scan: Volume | None = None) -> None:
        """Raises ConfigError for what is out of range, is not the method's, or is not for this scan; DataError for an
        unknown intensity rule."""
        if scan is not None and not scan.is_picture and self.spacing is not None:
            found = ",".join(map(str, self.spacing))
            raise ConfigError("is not needed: the scan has its own", field="--spacing", found=found)
        if self.intensity is not None:
            IntensityRule.parse(self.intensity)
        check_settings(model, self.n, self.steps, self.raters, self.select, self.candidates)
        check(SampleConfig(threshold=self.threshold, distinct=self.distinct), "--")

    def drawing(self) -> dict[str, Any]:
        """How samples are drawn, as plain data."""
        raters = self.raters if isinstance(self.raters, str) else ",".join(map(str, self.raters))
        return {"seed": self.seed, "steps": self.steps, "raters": raters, "select": self.select}


def check_settings(
    model: Segmenter, n: int, steps: int | None, raters: RaterChoice, select: str, candidates: int | None
) -> None:
    """Raises ConfigError for settings of `Predictor.sample` that are out of range or that the method does not have."""
    named = () if isinstance(raters, str) else raters
    counts = [("n", n, 1), ("steps", 1 if steps is None else steps, 1), *(("raters", rater, 0) for rater in named)]
    counts += [] if candidates is None else [("candidates", candidates, n)]
    for field, value, least in counts:
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
            expected = f"a whole number ≥ {least}"
            raise ConfigError("is out of range", field=field, found=repr(value), expected=expected)
    if isinstance(raters, str):
        if raters not in ("single", "marking", "all"):
            expected = "single, marking, all or a list"
            raise ConfigError("no such choice", field="raters", found=repr(raters), expected=expected)
    elif not raters or len(set(raters)) != len(raters) or max(raters) >= model.raters:
        expected = f"of 0 to {model.raters - 1}, once each"
        raise ConfigError("no such subset", field="raters", found=list(raters), expected=expected)
    if select not in SELECTIONS:
        raise ConfigError("no such selection", field="select", found=repr(select), expected=", ".join(SELECTIONS))
    if candidates is not None and select != REPRESENTATIVE:
        raise ConfigError("applies to representative sets only", field="candidates", found=candidates, expected="none")
    own: RaterChoice = "single" if isinstance(raters, str) and raters == "marking" else raters
    model.check_request(steps=steps, raters=own, stratified=select == STRATIFIED)
