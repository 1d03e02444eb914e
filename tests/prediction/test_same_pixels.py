"""Training and prediction see the same pixels: a model of a store sees of a file what import stored of it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from local import Local
from PIL import Image
from series_files import write_series

from modiff.cli import main
from modiff.data.loading import load
from modiff.errors import DataError
from modiff.io.image import read_image
from modiff.methods.run_folder import describe_data
from modiff.prediction.predict import predict
from modiff.prediction.predictor import Predictor
from modiff.prediction.settings import Settings

SHAPE = (5, 24, 32)
LPS = np.array([[-0.5, 0, 0, 10], [0, -0.75, 0, 20], [0, 0, 3, -30], [0, 0, 0, 1.0]])
RULES = ("unit", "minmax-slice", "window:40:180", "percentiles:2:97")
SIDES = ("LPS", "LAS", "RAS", "PIL", "SLA")  # columns, rows, slices


def values(dtype: str, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Smooth and different everywhere: no flip or turn maps it onto itself."""
    grid = np.indices(shape).reshape(len(shape), -1).T @ np.array([17, 3, 1])[-len(shape) :]
    made = (grid / grid.max()).reshape(shape) ** 1.5
    return {"uint8": made * 200, "uint16": made * 50000, "int16": made * 300 - 50, "float32": made}[dtype].astype(dtype)


def stored_as(array: np.ndarray, sides: str) -> nib.Nifti1Image:
    """A volume that lies along LPS, stored with columns, rows and slices towards other sides."""
    image = nib.Nifti1Image(array.T, LPS)
    ornt = nib.orientations
    change = ornt.ornt_transform(nib.io_orientation(LPS), ornt.axcodes2ornt(sides))
    return image.as_reoriented(change)


def write(folder: Path, kind: str, dtype: str) -> tuple[Path, np.ndarray]:
    """A case's image and, as NPY or NIfTI beside it, two raters' masks; the image's path."""
    folder.mkdir(parents=True)
    flat = kind in ("png", "tif", "npy")
    array = values(dtype, SHAPE[1:] if flat else SHAPE)
    mask = np.zeros(array.shape, np.uint8)
    mask[..., 5:9, 8:20] = 1
    path = folder / f"image.{kind if flat else 'nii.gz'}"
    if flat:
        np.save(path, array) if kind == "npy" else Image.fromarray(array).save(path)
    elif kind == "dicom":
        path = write_series(folder / "image", array)
    else:
        nib.save(stored_as(array, kind), path)
    for rater in "ab":
        if flat or kind == "dicom":
            np.save(folder / f"rater-{rater}.npy", mask)
        else:
            nib.save(stored_as(mask, kind), folder / f"rater-{rater}.nii.gz")
    return path, mask


def trained_on(root: Path, *words: str) -> tuple[Any, Predictor, Local]:
    """The store of a folder in memory, and a model that says it was trained on it."""
    out = root.parent / "own.h5"
    assert main(["import", "folder", str(root), "-o", str(out), "--overwrite", "--all-slices", *words]) == 0
    images, model = load(out), Local(wiggle=0)
    return images, Predictor(model, data=describe_data(images, out)), model


def seen(predictor: Predictor, path: Path, **settings: Any) -> tuple[np.ndarray, Any]:
    """(Z,H,W) that the model was shown of a file, and the prediction."""
    model: Any = predictor.model
    model.shown.clear()
    prediction = predict(read_image(path), predictor, Settings(n=1, **settings))
    return np.concatenate([one.numpy() for one in model.shown])[:, 0], prediction


PICTURES = [(kind, dtype) for kind in ("png", "tif", "npy") for dtype in ("uint8", "uint16")]
PICTURES += [("tif", "float32"), ("npy", "float32"), ("npy", "int16")]
SCANS = [(sides, dtype) for sides in SIDES for dtype in ("uint8", "int16", "float32")] + [("dicom", "int16")]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("kind", "dtype"), PICTURES + SCANS)
def test_what_import_stored_is_what_the_model_sees(tmp_path: Path, kind: str, dtype: str, rule: str) -> None:
    if rule == "unit" and dtype == "int16":
        pytest.skip("refused by import")
    path, _ = write(tmp_path / "data" / "p1" / "a", kind, dtype)
    if rule.startswith("window") and dtype == "float32":
        rule = "window:0.2:0.7"
    plane = () if kind in ("png", "tif", "npy") else ("--plane", "axial")
    images, predictor, _ = trained_on(tmp_path / "data", "--intensity", rule, *plane)
    stored = images.batch(range(len(images))).image[:, 0].numpy()
    found, prediction = seen(predictor, path)
    assert prediction.notes == ()
    np.testing.assert_allclose(found, stored, atol=1.1e-5)
    assert np.corrcoef(found.ravel(), stored.ravel())[0, 1] > 0.99999


@pytest.mark.parametrize("kind", ["png", "npy", "LPS"])
def test_a_window_of_units_that_a_picture_has_not(tmp_path: Path, kind: str) -> None:
    path, _ = write(tmp_path / "data" / "p1" / "a", kind, "uint8")
    images, predictor, _ = trained_on(tmp_path / "data", "--intensity", "window:-1000:400")
    noted = f"uint8 of a picture has no units: taken as windowed already (p1/a/image.{kind})"
    assert images.info.notes == ((noted,) if kind != "LPS" else ())
    found, prediction = seen(predictor, path)
    np.testing.assert_allclose(found, images.batch(range(len(images))).image[:, 0].numpy(), atol=1.1e-5)
    assert any("windowed" in note for note in prediction.notes) == (kind != "LPS")


@pytest.mark.parametrize("size", ["16x20", "32x40", "24x20", "33x41"])
@pytest.mark.parametrize("prompt", ["none", "centre"])
@pytest.mark.parametrize("rule", ["unit", "minmax-slice"])
def test_cropped_or_padded_as_in_import(tmp_path: Path, size: str, prompt: str, rule: str) -> None:
    path, _ = write(tmp_path / "data" / "p1" / "a", "png", "uint8")
    words = ("--intensity", rule, "--size", size, "--prompt", prompt)
    images, predictor, _ = trained_on(tmp_path / "data", *words)
    high, wide = (int(side) for side in size.split("x"))
    place = {"at": (16, 12)} if high < 24 or wide < 32 else {}
    found, _ = seen(predictor, path, **place)
    np.testing.assert_allclose(found[0], images.batch([0]).image[0, 0].numpy(), atol=1.1e-5)


def test_resized_as_in_import_and_back_on_its_own_grid(tmp_path: Path) -> None:
    path, _ = write(tmp_path / "data" / "p1" / "a", "LAS", "float32")
    words = ("--intensity", "percentiles:1:99", "--resize", "48x40", "--plane", "axial")
    images, predictor, _ = trained_on(tmp_path / "data", *words)
    found, prediction = seen(predictor, path)
    np.testing.assert_allclose(found, images.batch(range(5)).image[:, 0].numpy(), atol=2e-5)
    scan = read_image(path)
    assert prediction.samples.maps.shape[-3:] == scan.shape
    flat = scan.array[0]
    low, high = np.percentile(flat, [1, 99])
    own = 1 / (1 + np.exp(-10 * (np.clip((flat - low) / (high - low), 0, 1) - 0.5)))
    assert np.abs(prediction.samples.maps[0, 0, 0].numpy() - own)[:, 2:-2, 2:-2].max() < 0.06
    assert prediction.to_dict()["model_sees"] == {"width": 40, "height": 48, "slices": 5, "orientation": "LPS"}


@pytest.fixture(scope="module")
def axial(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    root = tmp_path_factory.mktemp("axial")
    write(root / "data" / "p1" / "a", "LPS", "int16")
    return trained_on(root / "data", "--intensity", "percentiles:2:97", "--size", "16x16")[1]


ALL_SIDES = [a + b + c for a in "LR" for b in "AP" for c in "SI"]
ALL_SIDES += [c + a + b for a, b, c in ALL_SIDES] + [b + a + c for a, b, c in ALL_SIDES]


@pytest.mark.parametrize("sides", ALL_SIDES)
def test_however_it_is_stored_a_volume_gives_the_same_samples_on_its_own_grid(
    axial: Predictor, tmp_path: Path, sides: str
) -> None:
    reference = stored_as(values("int16"), "LPS")
    other = stored_as(values("int16"), sides)
    back = np.linalg.inv(other.affine) @ reference.affine

    def own(point: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(np.rint(back @ [*point, 1]).astype(int)[:3].tolist())

    corners = np.sort([own((4, 3, 1)), own((27, 19, 3))], axis=0)
    roi = ",".join(f"{low}:{high + 1}" for low, high in corners.T)
    asked = {
        "all": ({}, {}),
        "a place": ({"at": (20, 9, 2), "slices": 1}, {"at": own((20, 9, 2)), "slices": 1}),
        "a part": ({"roi": "4:28,3:20,1:4"}, {"roi": roi}),
    }
    for name, (there, here) in asked.items():
        found = []
        for image, settings in ((reference, there), (other, here)):
            nib.save(image, tmp_path / "scan.nii.gz")
            made = predict(read_image(tmp_path / "scan.nii.gz"), axial, Settings(n=2, **settings))
            whole = made.plan.box.put_back(made.samples.maps[0, :, 0].numpy())
            found.append([nib.Nifti1Image(sample.T, image.affine) for sample in whole])
        assert np.ptp(np.asarray(found[0][0].dataobj)) > 0, name
        for one, two in zip(*found, strict=True):
            change = nib.orientations.ornt_transform(nib.io_orientation(two.affine), nib.io_orientation(one.affine))
            np.testing.assert_array_equal(two.as_reoriented(change).dataobj, one.dataobj, err_msg=name)


class TestWhatIsSaid:
    def notes(self, predictor: Predictor, array: np.ndarray, **options: Any) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return "; ".join(predictor.set_image(array, **options).notes)

    def test_a_volume_without_geometry(self, axial: Predictor) -> None:
        said = self.notes(axial, values("int16")[None, :, :16, :16])
        assert "does not say how it lies" in said
        assert "towards L, P, S" in said

    def test_an_affine_that_cannot_be(self, axial: Predictor) -> None:
        with pytest.raises(DataError, match="no usable geometry"):
            axial.set_image(values("int16")[None, :, :16, :16], affine=np.zeros((4, 4)))

    def test_one_slice_of_another_plane(self, axial: Predictor) -> None:
        affine = stored_as(values("int16"), "PIL").affine
        said = self.notes(axial, values("int16")[None, :1, :16, :16], affine=affine)
        assert "the slice is sagittal, those of the training data are axial" in said

    @pytest.mark.parametrize(("factor", "told"), [(1.0, False), (1.08, False), (1.2, True), (0.8, True)])
    def test_other_pixels(self, axial: Predictor, factor: float, told: bool) -> None:
        affine = LPS @ np.diag([factor, factor, 1, 1])
        said = self.notes(axial, values("int16")[None, :, :16, :16], affine=affine)
        assert ("--resample-to-model" in said) == told

    def test_another_modality(self, tmp_path: Path) -> None:
        path, _ = write(tmp_path / "data" / "p1" / "a", "dicom", "int16")
        _, predictor, _ = trained_on(tmp_path / "data", "--intensity", "window:-50:250")
        assert predictor.data.modality == "CT"
        predictor.data = type(predictor.data)(**{**vars(predictor.data), "modality": "MR"})
        assert "modality is CT, that of the training data MR" in seen(predictor, path)[1].notes[0]


def test_resampled_to_the_models_pixels_and_back(axial: Predictor, tmp_path: Path) -> None:
    """Of pixels twice as large the model marks the same volume as of the fine scan, on each scan's own grid."""
    y, x = np.mgrid[:48, :64]
    fine = np.stack([1000 * np.exp(-((x - 40) ** 2 + (y - 20) ** 2) / 200)] * 2).astype(np.float32)
    coarse = fine.reshape(2, 24, 2, 32, 2).mean((2, 4))
    found = []
    for name, array, factor in (("fine", fine, 1), ("coarse", coarse, 2)):
        affine = LPS @ np.diag([factor, factor, 1, 1])
        nib.save(nib.Nifti1Image(array.T, affine), tmp_path / f"{name}.nii.gz")
        made = predict(read_image(tmp_path / f"{name}.nii.gz"), axial, Settings(n=1, resample_to_model=True))
        assert not any("larger or smaller" in note for note in made.notes)
        assert made.samples.maps.shape[-3:] == array.shape
        found.append(made.summary.consensus.sum() * made.scan.voxel_mm3)
    assert found[1] == pytest.approx(found[0], rel=0.05)


def test_what_is_larger_or_smaller_in_training_is_known(tmp_path: Path) -> None:
    for case, factor in (("a", 1.0), ("b", 1.0), ("c", 1.4)):
        folder = tmp_path / "data" / case / "x"
        folder.mkdir(parents=True)
        for name in ("image", "rater-a", "rater-b"):
            array = values("uint8") if name == "image" else (values("uint8") > 100).astype(np.uint8)
            nib.save(nib.Nifti1Image(array.T, LPS @ np.diag([factor, factor, 1, 1])), folder / f"{name}.nii.gz")
    _, predictor, _ = trained_on(tmp_path / "data")
    assert predictor.data.spacing == pytest.approx((0.75, 0.5))
    assert predictor.data.spacing_range == pytest.approx((0.5, 1.05))
    assert (predictor.data.orientation, predictor.data.fit) == ("LPS", "none")


def test_a_crop_of_another_shape_is_seen_once_about_its_middle(tmp_path: Path) -> None:
    for case in "ab":
        folder = tmp_path / "data" / case
        folder.mkdir(parents=True)
        Image.fromarray(values("uint8", (64, 64))).save(folder / "image.png")
        for rater in "ab":
            np.save(folder / f"rater-{rater}.npy", (values("uint8", (64, 64)) > 100).astype(np.uint8))
    _, predictor, _ = trained_on(tmp_path / "data", "--prompt", "centre")
    picture = values("uint8", (50, 70))
    Image.fromarray(picture).save(tmp_path / "other.png")
    found, prediction = seen(predictor, tmp_path / "other.png")
    assert len(found) == 1
    np.testing.assert_allclose(found[0, 7:57], picture[:, 3:67] / 255, atol=1e-6)
    assert ["judges crops" in note for note in prediction.notes] == [True]
    assert prediction.to_dict()["window"] == {
        "left": 3,
        "top": -7,
        "width": 64,
        "height": 64,
        "reaches_outside": True,
    }
