"""What the numbers of a mask mean: the same for any type, sign and scale; what cannot be decided is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from modiff.data.masks import Labels, two_valued, values, whole
from modiff.errors import ConfigError, DataError
from modiff.io.volume import Volume

MARKS = np.random.default_rng(0).random((1, 9, 8)) < 0.3
TYPES = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8")


def _volume(array: np.ndarray, **more: object) -> Volume:
    return Volume(np.asarray(array).reshape(1, *MARKS.shape), None, Path("m.png"), "PNG", **more)


def _judged(labels: Labels, array: np.ndarray, file: str = "m.png", **more: object) -> np.ndarray:
    wrong, classes = labels.judge(_volume(array, **more), file)
    if wrong is not None:
        raise wrong
    return classes


def _holds(dtype: str, value: float) -> bool:
    if dtype[0] == "f":
        return True
    return value % 1 == 0 and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max


VALUES = (1, 2, 100, 255, 32767, 65535, -1, -128, 0.5, 1e-4)


@pytest.mark.parametrize(("dtype", "value"), [(d, v) for d in TYPES for v in VALUES if _holds(d, v)])
def test_0_and_one_other_value_are_a_mask_of_any_type_and_sign(dtype: str, value: float) -> None:
    labels, plain = Labels(), value == 1 or (dtype[0] == "u" and value == np.iinfo(dtype).max)
    np.testing.assert_array_equal(_judged(labels, np.where(MARKS, value, 0).astype(dtype)), MARKS)
    assert labels.foreground.notes == (() if plain else (labels.foreground.guessed,))
    assert plain or f"{np.dtype(dtype).type(value):g} is read as foreground" in labels.foreground.notes[0]


def test_booleans_are_a_mask() -> None:
    np.testing.assert_array_equal(_judged(Labels(), MARKS), MARKS)


@pytest.mark.parametrize("slope", [0.1, 1 / 255, 0.003922, 1 / 3])
def test_a_scale_factors_rounding_does_not_show(slope: float) -> None:
    """NIfTI stores the slope in single precision, and people round it."""
    kinds = np.arange(72) % 3
    array = np.array([0, round(1 / slope), round(3 / slope)])[kinds] * np.float64(np.float32(slope))
    assert (array % 1 != 0).any()
    np.testing.assert_array_equal(_judged(Labels(["1=core", "3=rim"]), array).ravel(), kinds)


def test_small_values_are_not_rounded_to_nothing() -> None:
    array = np.where(MARKS, 4e-4, 0)
    np.testing.assert_array_equal(whole(array), array)
    np.testing.assert_array_equal(_judged(Labels(), array), MARKS)


def test_full_scales_stand_beside_each_other_with_a_note() -> None:
    labels = Labels()
    for dtype, value in (("u1", 1), ("u1", 255), ("u2", 65535)):
        np.testing.assert_array_equal(_judged(labels, MARKS.astype(dtype) * value), MARKS)
    assert labels.foreground.notes == (labels.foreground.mixed,)
    assert "0 and 1 in m.png; masks of 0 and 255 in m.png" in str(labels.foreground.mixed)


@pytest.mark.parametrize("first", [1, 2])
def test_two_foreground_values_may_be_two_classes_and_are_refused(first: int) -> None:
    labels = Labels()
    _judged(labels, MARKS * first, "one.png")
    with pytest.raises(DataError, match=f"0 and {3 - first}, but 0 and {first} in one.png.*--label"):
        _judged(labels, MARKS * (3 - first))


@pytest.mark.parametrize("pair", [(1, 2), (-1, 1), (7, 7), (0, 1, 2), (-1000, -999)])
def test_what_cannot_be_decided_is_refused(pair: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="mask values without a meaning"):
        _judged(Labels(), np.array(pair)[np.arange(72) % len(pair)])


@pytest.mark.parametrize("other", [1, 255, -7])
def test_beside_a_class_0_the_one_other_value_is_background(other: int) -> None:
    np.testing.assert_array_equal(_judged(Labels(["0=cell"]), np.where(MARKS, 0, other)), MARKS)


def test_beside_a_class_0_several_values_need_names() -> None:
    array = np.where(MARKS, 0, np.where(np.arange(72).reshape(MARKS.shape) % 2, 1, 255))
    with pytest.raises(DataError, match="found 1, 255, which no --label names"):
        _judged(Labels(["0=cell"]), array)
    np.testing.assert_array_equal(_judged(Labels(["0=cell", "1=", "255="]), array), MARKS)
    with pytest.raises(DataError, match="found 255, which no --label names"):
        _judged(Labels(["0=cell", "1="]), array)


@pytest.mark.parametrize("rules", [["x=a"], ["1=a", "1=b"], ["1="], ["0.5=a"]])
def test_rules_that_cannot_be_are_refused(rules: list[str]) -> None:
    with pytest.raises(ConfigError, match="--label"):
        Labels(rules)


def test_a_palettes_indices_are_classes_where_black_is_the_first() -> None:
    _judged(Labels(), MARKS.astype(np.uint8), palette={0: "#000000", 1: "#ff0000"})
    turned = {0: "#ff0000", 1: "#000000"}
    with pytest.raises(DataError, match="first colour is not black; found 0 #ff0000, 1 #000000"):
        _judged(Labels(), (~MARKS).astype(np.uint8), palette=turned)
    np.testing.assert_array_equal(_judged(Labels(["0=lesion"]), (~MARKS).astype(np.uint8), palette=turned), MARKS)


@pytest.mark.parametrize("dtype", TYPES)
def test_values_are_the_distinct_ones(dtype: str) -> None:
    array = np.array([3, 0, 3, 100], dtype)
    np.testing.assert_array_equal(values(array), [0, 3, 100])
    assert not two_valued(values(array))
