"""AugmentationSpec: presets, JSON round trip, and errors that name the member at fault."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dali_dr.augment.spec import (
    AugmentationSpec,
    AutoAugment,
    ColourJitter,
    FixedResizeCrop,
    GaussianBlur,
    Mixing,
    RandAugment,
    RandomErasing,
    RandomResizedCrop,
    TrivialAugmentWide,
)
from dali_dr.errors import SpecError

PRESETS = (
    "rrc", "rrc+mixing", "rrc+ra+re", "rrc+mixing+ra+re", "crop+flip", "rrc+aa+re", "rrc+ta+re", "moco-v2", "swav", "fkd",
    "deit", "usi",
)  # fmt: skip
JITTER = {"brightness": 0.1, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "probability": 1.0}


def intervals(high: float) -> st.SearchStrategy[tuple[float, float]]:
    bound = st.floats(1e-6, high)
    return st.tuples(bound, bound).map(lambda pair: (min(pair), max(pair)))


probabilities = st.floats(0, 1)
rand_augments = st.integers(2, 300).flatmap(
    lambda bins: st.builds(
        RandAugment, st.integers(1, 8), st.integers(0, bins - 1), st.just(bins), st.floats(0, bins), probabilities
    )
)
automatic = (
    st.fixed_dictionaries({"rand_augment": st.none() | rand_augments})
    | st.just({"auto_augment": AutoAugment()})
    | st.builds(TrivialAugmentWide, st.integers(2, 256)).map(lambda member: {"trivial_augment": member})
)
jitters = st.builds(ColourJitter, *(st.floats(0, 10),) * 2, st.floats(1e-3, 10), st.floats(0, 0.5), probabilities)
specs = st.builds(
    lambda members, **others: AugmentationSpec(**members, **others),
    members=automatic,
    size=st.integers(1, 4096),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
    crop=st.builds(RandomResizedCrop, intervals(1.0), intervals(1e6))
    | st.builds(FixedResizeCrop, st.integers(4096, 16384), st.booleans()),
    flip=probabilities,
    random_erasing=st.none() | st.builds(RandomErasing, probabilities, intervals(1.0), intervals(1e6)),
    colour_jitter=st.none() | jitters,
    greyscale=probabilities,
    blur=st.none() | st.builds(GaussianBlur, probabilities, intervals(32.0)),
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
    for name in PRESETS:
        for size in (160, 224):
            spec = AugmentationSpec.preset(name, size)
            assert spec.size == size and spec.name == name
            assert AugmentationSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert AugmentationSpec.preset("rrc") == AugmentationSpec()
    assert AugmentationSpec(flip=0.0).name is None
    assert AugmentationSpec(interpolation="bicubic").name is None
    with pytest.raises(SpecError, match="rrc, rrc"):
        AugmentationSpec.preset("mixing")


def test_presets_are_the_papers() -> None:
    """By hand from the papers' and their code's values, see docs/augmentations.md."""
    shared = {"size": 224, "interpolation": "bilinear", "flip": 0.5}
    assert AugmentationSpec.preset("crop+flip").to_json() == shared | {"crop": {"resize": 256, "random": True}}
    assert AugmentationSpec.preset("crop+flip", 32).to_json()["crop"] == {"resize": 36, "random": True}
    moco = {
        "crop": {"scale": [0.2, 1.0], "ratio": [0.75, 4 / 3]},
        "colour_jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "probability": 0.8},
        "greyscale": 0.2,
        "blur": {"probability": 0.5, "radius": [0.1, 2.0]},
    }
    assert AugmentationSpec.preset("moco-v2").to_json() == shared | moco
    swav = moco | {"crop": {"scale": [0.14, 1.0], "ratio": [0.75, 4 / 3]}}
    swav["colour_jitter"] = {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2, "probability": 0.8}
    assert AugmentationSpec.preset("swav").to_json() == shared | swav
    usi = {"num_ops": 2, "magnitude": 7, "num_bins": 11, "magnitude_std": 0.5, "probability": 0.5}
    assert AugmentationSpec.preset("usi").to_json()["rand_augment"] == usi
    assert AugmentationSpec.preset("deit").to_json()["rand_augment"] == usi | {"magnitude": 9}
    assert AugmentationSpec.preset("rrc+aa+re").to_json()["auto_augment"] == {"policy": "imagenet"}
    assert AugmentationSpec.preset("rrc+ta+re").to_json()["trivial_augment"] == {"num_bins": 31}


def test_what_format_version_3_does_not_know() -> None:
    for name in ("rrc", "rrc+ra+re", "rrc+mixing", "rrc+mixing+ra+re"):
        assert AugmentationSpec.preset(name).later() == []
    assert AugmentationSpec(flip=0.0, greyscale=0.0, rand_augment=RandAugment(probability=1)).later() == []
    for spec, later in (
        (AugmentationSpec(crop=FixedResizeCrop()), ["crop.resize", "crop.random"]),
        (AugmentationSpec(greyscale=0.1), ["greyscale"]),
        (AugmentationSpec(blur=GaussianBlur()), ["blur"]),
        (AugmentationSpec(colour_jitter=ColourJitter()), ["colour_jitter"]),
        (AugmentationSpec(auto_augment=AutoAugment(), mixing=Mixing()), ["auto_augment"]),
        (AugmentationSpec(trivial_augment=TrivialAugmentWide()), ["trivial_augment"]),
        (AugmentationSpec(rand_augment=RandAugment(magnitude_std=0.5)), ["rand_augment.magnitude_std"]),
        (AugmentationSpec(rand_augment=RandAugment(probability=0.5)), ["rand_augment.probability"]),
    ):
        assert spec.later() == later


def test_one_automatic_augmentation_at_most() -> None:
    for members in (
        {"auto_augment": AutoAugment(), "rand_augment": RandAugment()},
        {"trivial_augment": TrivialAugmentWide(), "auto_augment": AutoAugment()},
    ):
        with pytest.raises(SpecError, match=r"auto_augment and .*: want one of them"):
            AugmentationSpec(**members)


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
        ("rand_augment.magnitude_std", -0.5, "rand_augment.magnitude_std"),
        ("rand_augment.magnitude_std", 32, "rand_augment.magnitude_std: want a number in 0..31"),
        ("rand_augment.magnitude_std", math.nan, "rand_augment.magnitude_std"),
        ("rand_augment.probability", 1.5, "rand_augment.probability"),
        ("rand_augment.probability", None, "rand_augment.probability"),
        ("crop", {"resize": 223, "random": True}, "crop.resize: want the view's size, 224, or more, got 223"),
        ("crop", {"resize": 16385, "random": True}, "crop.resize"),
        ("crop", {"resize": 256, "random": 1}, "crop.random: want true or false"),
        ("crop", {"resize": 256}, "crop: missing field.*random"),
        ("crop", {"resize": 256, "random": True, "scale": [0.1, 1]}, "crop: unknown field.*scale"),
        ("crop", {}, "crop: missing field.*ratio, scale"),
        ("greyscale", 1.5, "greyscale"),
        ("greyscale", None, "greyscale"),
        ("blur", {"probability": 0.5}, "blur: missing field.*radius"),
        ("blur", {"probability": 0.5, "radius": [0, 2]}, "blur.radius"),
        ("blur", {"probability": 0.5, "radius": [1, 33]}, "blur.radius"),
        ("blur", {"probability": 2, "radius": [1, 3]}, "blur.probability"),
        ("colour_jitter", {"brightness": 0.4}, "colour_jitter: missing field.*contrast"),
        ("colour_jitter", JITTER | {"hue": 0.6}, "colour_jitter.hue: want a number in 0..0.5"),
        ("colour_jitter", JITTER | {"contrast": -0.1}, "colour_jitter.contrast"),
        ("colour_jitter", JITTER | {"saturation": 11}, "colour_jitter.saturation"),
        ("colour_jitter", JITTER | {"probability": -1}, "colour_jitter.probability"),
        ("colour_jitter", JITTER | dict.fromkeys(("brightness", "hue"), 0), "colour_jitter: changes nothing"),
        ("auto_augment", {"policy": "cifar10"}, "auto_augment.policy"),
        ("auto_augment", {"policy": "imagenet"}, "auto_augment and rand_augment"),
        ("trivial_augment", {"num_bins": 1}, "trivial_augment.num_bins"),
        ("trivial_augment", {"num_bins": 257}, "trivial_augment.num_bins"),
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


def test_examples_of_the_documentation_are_the_presets() -> None:
    text = (Path(__file__).parent.parent / "docs" / "augmentations.md").read_text()
    examples = [
        AugmentationSpec.from_json(json.loads(part)) for part in re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    ]
    assert [spec.name for spec in examples] == ["fkd", "moco-v2", "swav", "deit"]
    assert all(f"`{name}`" in text for name in PRESETS)


def test_the_example_of_mixing_is_the_preset_with_a_library() -> None:
    text = (Path(__file__).parent.parent / "docs" / "mixing.md").read_text()
    (example,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    preset = AugmentationSpec.preset("rrc+mixing+ra+re")
    mixing = dataclasses.replace(preset.mixing, partners=1000)  # type: ignore[type-var]
    assert AugmentationSpec.from_json(json.loads(example)) == dataclasses.replace(preset, mixing=mixing)
