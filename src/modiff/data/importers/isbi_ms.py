"""The importer of the ISBI 2015 challenge of longitudinal MS lesions."""

from __future__ import annotations

import argparse
from dataclasses import replace

from modiff.data.importers.folder import Folder
from modiff.data.store_format import StoreInfo
from modiff.errors import DataError

MODALITIES = ("flair", "mprage", "pd", "t2")
_RATERS = ("1", "2")
_AS_FOLDER = {  # what `modiff import folder` would be told
    "image": ["training*/preprocessed/{patient}_{case}_{channel}_pp"],
    "mask": ["training*/masks/{patient}_{case}_mask{rater}"],
    "plane": "axial",
    "foreground": "lesion",
    "label": (),
    "missing": "refuse",
    "exchangeable": False,
    "skip_broken": False,
    "prompt": "none",
    "source": "ISBI 2015 longitudinal MS lesion segmentation challenge; Carass et al. 2017, NeuroImage 148",
    "licence": "the challenge's terms of use",
} | dict.fromkeys(("table", "resample", "max_bytes"))


class IsbiMs(Folder):
    """MS lesions in longitudinal MRI, ISBI 2015 challenge: two raters, four modalities, five people's 4 or 5 scans."""

    version = "isbi-ms 1"
    resample_hint = None

    def __init__(self, args: argparse.Namespace) -> None:
        known = {**vars(args), **_AS_FOLDER, "intensity": f"percentiles:{args.percentiles}"}
        super().__init__(argparse.Namespace(**known), (".nii", ".nii.gz"))
        self.resized, self.raters = args.fit == "resize", _RATERS
        for item in self.items:
            missing = [f"{name}_pp" for name in MODALITIES if name not in item.channels]
            missing += [f"mask{rater}" for rater in _RATERS if rater not in item.masks]
            if missing:
                raise DataError("files are missing", path=self.root, field=item.case, found=f"no {', '.join(missing)}")
            item.channels = {name: item.channels[name] for name in MODALITIES}
            item.masks = {rater: item.masks[rater] for rater in _RATERS}

    def describe(self) -> StoreInfo:
        """Modalities as channels, two raters who keep their names."""
        importer = f"{self.version} --fit {self.args.fit} --size {self.args.size}"
        raters = tuple(f"rater {rater}" for rater in _RATERS)
        return replace(super().describe(), channels=tuple(map(str.upper, MODALITIES)), raters=raters, importer=importer)
