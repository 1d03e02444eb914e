"""Whether objects can be made of a series' headers, tried before anything is drawn."""

from __future__ import annotations

import numpy as np

from modiff.io.dicom.derived import Maker, Segment, encoded, referred, refusing
from modiff.io.dicom.rtstruct import structures
from modiff.io.dicom.seg import segmentation
from modiff.io.dicom.sr import report
from modiff.io.volume import Volume


def check_objects(volume: Volume, *, full: bool = False) -> list[str]:
    """What of the series' headers is changed in its objects, in words; made from a trial of one slice.

    full: as `write_seg` takes it. Raises DataError, which names the element, where an object cannot be written.
    """
    headers, said = referred(volume, 0, volume.shape, full=full)
    segments, maker = [Segment(np.ones((1, *volume.shape[1:]), bool), "trial", "lesion")], Maker("trial", "0")
    with refusing(volume.path, headers[0]):
        seg = segmentation(segments, maker, headers[:1])
        made = (
            report(segments, seg, volume, maker, 1, headers[:1]),
            structures(segments, volume.path, maker, headers[:1]),
        )
        for one in (seg, *made):
            encoded(one)
    return said
