"""`modiff import isbi-ms` on files made in the challenge's layout."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from modiff.cli import main
from modiff.data.store import Store

SHAPE = (37, 43, 20)  # columns, rows, slices: the challenge's 181×217×181, smaller
AFFINE = np.array([[-1.0, 0, 0, 90], [0, 1.0, 0, -126], [0, 0, 1.0, -72], [0, 0, 0, 1]])
MODALITIES = ("flair", "mprage", "pd", "t2")


def _volume(patient: int, scan: int, place: int) -> np.ndarray:
    rng = np.random.default_rng((patient, scan, place))
    return rng.gamma(2, 100 * (place + 1), SHAPE).astype(np.float32)


def _mask(patient: int, rater: int) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[15:20, 18 + patient : 24 + patient, 6 : 10 + rater] = 1
    return mask


def _write(root: Path, patients: int = 3, scans: int = 2) -> Path:
    for patient in range(1, patients + 1):
        base = root / f"training{patient:02d}"
        for scan in range(1, scans + 1):
            stem = f"training{patient:02d}_{scan:02d}"
            files = {f"preprocessed/{stem}_{m}_pp.nii": _volume(patient, scan, i) for i, m in enumerate(MODALITIES)}
            files |= {f"masks/{stem}_mask{rater}.nii": _mask(patient, rater) for rater in (1, 2)}
            for name, array in files.items():
                (base / name).parent.mkdir(parents=True, exist_ok=True)
                nib.save(nib.Nifti1Image(array, AFFINE), base / name)
    return root


def _import(root: Path, *words: str) -> Store:
    out = root.parent / "s.h5"
    assert main(["import", "isbi-ms", str(root), "-o", str(out), "--overwrite", "--size", "24x24", *words]) == 0
    return Store.open(out)


def test_slices_are_those_that_either_rater_marked(tmp_path: Path) -> None:
    with _import(_write(tmp_path / "d", 1, 2), "--fit", "crop") as store:
        assert store.cases.tolist() == [f"training01/{s:02d}/slice-{z:03d}" for s in (1, 2) for z in range(6, 12)]


def test_all_slices_are_kept_where_asked(tmp_path: Path) -> None:
    with _import(_write(tmp_path / "d", 1, 1), "--fit", "crop", "--all-slices") as store:
        assert len(store) == SHAPE[2]


def test_files_may_lie_anywhere_below_the_folder(tmp_path: Path) -> None:
    root = _write(tmp_path / "d", 2, 1)
    with _import(root, "--fit", "crop") as store:
        usual = store.fingerprint()
    for path in [*root.rglob("*.nii")]:
        place = root / ("deep_er/data_pp" if "training01" in path.name else ".") / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(place)
    with _import(root, "--fit", "crop") as store:
        assert store.fingerprint() == usual


def test_a_folder_of_something_else_is_refused_with_where_the_layout_is(tmp_path: Path, capsys) -> None:
    (tmp_path / "d").mkdir()
    assert main(["import", "isbi-ms", str(tmp_path / "d"), "-o", str(tmp_path / "s.h5"), "--fit", "crop"]) == 2
    assert "`modiff import isbi-ms --help` shows the layout" in capsys.readouterr().err


def test_raters_are_persons_and_channels_modalities(tmp_path: Path) -> None:
    with _import(_write(tmp_path / "d", 1, 1), "--fit", "crop") as store:
        assert (store.info.raters, store.info.exchangeable_raters) == (("rater 1", "rater 2"), False)
        assert store.info.channels == ("FLAIR", "MPRAGE", "PD", "T2")
        assert store.info.prompt == "none"


@pytest.mark.parametrize("fit", ["crop", "resize"])
def test_a_masks_centre_stays_at_its_place_in_mm(tmp_path: Path, fit: str) -> None:
    with _import(_write(tmp_path / "d", 1, 1), "--fit", fit) as store:
        mask, known = store.masks(0)[1], store.geometry(0)
        row, column = (np.mean(places) for places in np.nonzero(mask))
        expected = AFFINE @ [17, 21.5, 6, 1]
        assert known.affine is not None
        np.testing.assert_allclose(known.affine @ [column, row, 0, 1], expected, atol=0.01 if fit == "crop" else 0.7)


def test_resizing_changes_the_spacing_and_cropping_does_not(tmp_path: Path) -> None:
    root = _write(tmp_path / "d", 1, 1)
    with _import(root, "--fit", "crop") as store:
        assert store.geometry(0).spacing == (1.0, 1.0)
    with _import(root, "--fit", "resize") as store:
        assert store.geometry(0).spacing == pytest.approx((43 / 24, 37 / 24))


def test_values_are_between_percentiles_of_each_volume(tmp_path: Path) -> None:
    with _import(_write(tmp_path / "d", 1, 1), "--fit", "crop", "--percentiles", "5:90") as store:
        volume = _volume(1, 1, 2)
        low, high = np.percentile(volume, [5, 90])
        known = store.geometry(3)
        assert known.affine is not None
        at = np.linalg.inv(AFFINE) @ known.affine @ [4, 7, 0, 1]
        value = volume[tuple(np.rint(at[:3]).astype(int))]
        assert store.image(3)[2, 7, 4] / 65535 == pytest.approx(np.clip((value - low) / (high - low), 0, 1), abs=1e-4)


def test_folds_never_divide_a_person(tmp_path: Path) -> None:
    with _import(_write(tmp_path / "d", 3, 2), "--fit", "crop", "--folds", "3") as store:
        for fold in range(3):
            train, val, held = (
                set(store.patients[store.rows(f"fold{fold}-{part}")].tolist()) for part in ("train", "val", "test")
            )
            assert not held & (train | val)
            assert len(held) == 1


def test_how_slices_are_fitted_must_be_said(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["import", "isbi-ms", str(tmp_path), "-o", str(tmp_path / "s.h5")])


def _drop(root: Path) -> None:
    next(root.rglob("training02_01_pd_pp.nii")).unlink()


def _drop_mask(root: Path) -> None:
    next(root.rglob("training02_01_mask2.nii")).unlink()


def _other_grid(root: Path) -> None:
    path = next(root.rglob("training02_01_mask2.nii"))
    moved = AFFINE.copy()
    moved[0, 3] += 5
    nib.save(nib.Nifti1Image(_mask(2, 2), moved), path)


def _other_values(root: Path) -> None:
    path = next(root.rglob("training02_01_mask2.nii"))
    nib.save(nib.Nifti1Image(_mask(2, 2) * 3, AFFINE), path)


@pytest.mark.parametrize(
    ("change", "words"),
    [(_drop, "pd_pp"), (_drop_mask, "mask2"), (_other_grid, "5 mm"), (_other_values, "mask values")],
)
def test_what_is_missing_or_does_not_fit_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: object, words: str
) -> None:
    root = _write(tmp_path / "d", 2, 1)
    change(root)  # type: ignore[operator]
    assert main(["import", "isbi-ms", str(root), "-o", str(tmp_path / "s.h5"), "--fit", "crop"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "training02" in error
    assert not (tmp_path / "s.h5").exists()
