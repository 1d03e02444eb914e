"""Bounds on files from outside, and their digest."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from modiff.errors import ConfigError, DataError
from modiff.evaluation.predictions import open_maps
from modiff.io.files import LIMITS, Limits, sha256_of
from modiff.io.image import read_image
from modiff.io.output import write_text


def test_the_digest_is_of_the_files_bytes(tmp_path):
    path = write_text(tmp_path / "file.txt", "abc")  # FIPS 180-2, appendix B.1
    assert sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


class TestLimits:
    """A decoded size up to 512 MiB may have any ratio; beyond it 200 times the file, unless the user raises it."""

    FREE = 512 << 20

    @pytest.mark.parametrize("declared", [1, FREE])
    def test_any_ratio_up_to_a_size(self, declared):
        LIMITS.check_size(Path("a"), declared, 1)

    def test_beyond_it_the_ratio_counts_and_the_option_is_named(self):
        LIMITS.check_size(Path("a"), self.FREE + 200, self.FREE // 200 + 2)
        with pytest.raises(DataError, match=f"--max-bytes {self.FREE + 1} allows it"):
            LIMITS.check_size(Path("a"), self.FREE + 1, 1)

    def test_beyond_2_gib_the_option_is_named_too(self):
        with pytest.raises(DataError, match=f"--max-bytes {4 << 30} allows it"):
            LIMITS.check_size(Path("a"), 4 << 30, 3 << 30)

    def test_the_option_raises_both_and_lowers_both(self):
        Limits.asked(4 << 30).check_size(Path("a"), 4 << 30, 1)
        with pytest.raises(DataError, match="declares more data"):
            Limits.asked(1000).check_size(Path("a"), 1001, 1001)
        with pytest.raises(ConfigError, match="--max-bytes"):
            Limits.asked(0)

    def test_nearly_empty_scans_are_read_by_all_readers(self, tmp_path):
        """A mask of 512×512×320 with one nodule, whose file is more than 200 times smaller."""
        mask = np.zeros((512, 512, 320), np.uint8)
        mask[200:224, 240:264, 150:174] = 1
        for case in ("truth", "samples"):
            folder = tmp_path / case / "p" / "scan"
            folder.mkdir(parents=True)
            nib.save(nib.Nifti1Image(mask, np.diag([0.7, 0.7, 1, 1])), folder / "0.nii.gz")
        assert mask.size / (folder / "0.nii.gz").stat().st_size > 200
        assert (read_image(folder / "0.nii.gz").array[0] == mask.T).all()
        with open_maps(tmp_path / "samples") as maps:
            assert (maps.read("p/scan").array[0, 0] == mask.T).all()
