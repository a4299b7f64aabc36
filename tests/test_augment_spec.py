"""AugmentationSpec: presets, JSON round trip, and errors that name the member at fault."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dali_dr.augment.spec import AugmentationSpec, RandAugment, RandomErasing, RandomResizedCrop
from dali_dr.errors import SpecError


def intervals(high: float) -> st.SearchStrategy[tuple[float, float]]:
    bound = st.floats(1e-6, high)
    return st.tuples(bound, bound).map(lambda pair: (min(pair), max(pair)))


probabilities = st.floats(0, 1)
rand_augments = st.integers(2, 300).flatmap(
    lambda bins: st.builds(RandAugment, st.integers(1, 8), st.integers(0, bins - 1), st.just(bins))
)
specs = st.builds(
    AugmentationSpec,
    size=st.integers(1, 4096),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
    crop=st.builds(RandomResizedCrop, intervals(1.0), intervals(1e6)),
    flip=probabilities,
    rand_augment=st.none() | rand_augments,
    random_erasing=st.none() | st.builds(RandomErasing, probabilities, intervals(1.0), intervals(1e6)),
)


@settings(max_examples=200, deadline=None)
@given(specs)
def test_json_round_trip_through_text(spec: AugmentationSpec) -> None:
    text = json.dumps(spec.to_json(), allow_nan=False)
    assert AugmentationSpec.from_json(json.loads(text)) == spec


def test_json_text_of_the_recommended_preset() -> None:
    assert AugmentationSpec.preset("rrc+ra+re").to_json() == {
        "size": 224,
        "interpolation": "bilinear",
        "flip": 0.5,
        "crop": {"scale": [0.08, 1.0], "ratio": [0.75, 4 / 3]},
        "rand_augment": {"num_ops": 2, "magnitude": 9, "num_bins": 31},
        "random_erasing": {"probability": 0.25, "scale": [0.02, 0.33], "ratio": [0.3, 3.3]},
    }


def test_preset_names() -> None:
    for name in ("rrc", "rrc+ra+re"):
        for size in (160, 224):
            spec = AugmentationSpec.preset(name, size)
            assert spec.size == size and spec.name == name
    assert AugmentationSpec.preset("rrc") == AugmentationSpec()
    assert AugmentationSpec(flip=0.0).name is None
    assert AugmentationSpec(interpolation="bicubic").name is None
    with pytest.raises(SpecError, match="rrc, rrc"):
        AugmentationSpec.preset("mixing")


def test_equal_whatever_number_type_is_given() -> None:
    assert RandomResizedCrop(scale=[0.08, 1]) == RandomResizedCrop()  # type: ignore[arg-type]
    assert hash(AugmentationSpec(flip=1)) == hash(AugmentationSpec(flip=1.0))


def test_optional_members_may_be_null_or_absent() -> None:
    data = AugmentationSpec.preset("rrc").to_json()
    assert "rand_augment" not in data and "random_erasing" not in data
    assert AugmentationSpec.from_json(data | {"rand_augment": None}) == AugmentationSpec()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("size", 0, "size"),
        ("size", 224.0, "size"),
        ("size", True, "size"),
        ("size", 4097, "size"),
        ("interpolation", "nearest", "interpolation"),
        ("flip", 1.5, "flip"),
        ("flip", math.nan, "flip"),
        ("flip", "0.5", "flip"),
        ("crop", None, "crop"),
        ("crop", [0.08, 1], "crop"),
        ("crop.scale", [0.0, 1.0], "crop.scale"),
        ("crop.scale", [0.5, 0.4], "crop.scale"),
        ("crop.scale", [0.5, 1.1], "crop.scale"),
        ("crop.scale", 0.5, "crop.scale"),
        ("crop.ratio", [1.0, math.inf], "crop.ratio"),
        ("crop.ratio", [1.0, 1.0, 1.0], "crop.ratio"),
        ("crop.area", 1, "crop: unknown field"),
        ("mixup", {"alpha": 1}, "unknown field.*mixup"),
        ("rand_augment.num_ops", 0, "rand_augment.num_ops"),
        ("rand_augment.num_ops", 9, "rand_augment.num_ops"),
        ("rand_augment.magnitude", 31, "rand_augment.magnitude"),
        ("rand_augment.magnitude", -1, "rand_augment.magnitude"),
        ("rand_augment.num_bins", 1, "rand_augment.num_bins"),
        ("random_erasing.probability", -0.1, "random_erasing.probability"),
        ("random_erasing.scale", [0.02, 1.01], "random_erasing.scale"),
        ("random_erasing.ratio", [0, 3.3], "random_erasing.ratio"),
    ],
)
def test_from_json_errors_name_the_member(path: str, value: Any, message: str) -> None:
    data = AugmentationSpec.preset("rrc+ra+re").to_json()
    *parents, last = path.split(".")
    target = data
    for parent in parents:
        target = target[parent]
    target[last] = value
    with pytest.raises(SpecError, match=f"augmentation .*{message}"):
        AugmentationSpec.from_json(data)


@pytest.mark.parametrize("path", ["size", "interpolation", "flip", "crop", "crop.ratio", "rand_augment.num_bins"])
def test_missing_fields_are_errors(path: str) -> None:
    data = AugmentationSpec.preset("rrc+ra+re").to_json()
    *parents, last = path.split(".")
    del (data[parents[0]] if parents else data)[last]
    with pytest.raises(SpecError, match=f"missing field.*{last}"):
        AugmentationSpec.from_json(data)


def test_not_an_object() -> None:
    with pytest.raises(SpecError, match="JSON object"):
        AugmentationSpec.from_json([])  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="crop: want a RandomResizedCrop"):
        AugmentationSpec(crop={})  # type: ignore[arg-type]
