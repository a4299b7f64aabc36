"""From published files to what training shows: `dali-dr convert`, then the loader, against replays as published.

The files are written by the code in tests/published as each format's authors write them, from torchvision's and NumPy's
draws, and replayed there as their training does it. Unmixed views are equal in every bit; of mixed ones those are whose
weights float32 holds alike (see `mixed_equal`). Targets are equal where they are stored as float32.
"""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import picture
from PIL import Image
from published import archives, ml_dr_replay, ml_dr_writer
from published.converting import CLASSES, IMAGES, SIZE, VIEWS, Photos, convert, photos_in, shown

import dali_dr
from dali_dr._torchvision import load_torchvision
from dali_dr.cli import main

load_torchvision()
from torchvision import transforms as T  # noqa: E402
from torchvision.datasets import ImageFolder  # noqa: E402
from torchvision.transforms import InterpolationMode  # noqa: E402
from torchvision.transforms import functional as F  # noqa: E402
from torchvision.transforms.autoaugment import _apply_op  # noqa: E402

NEAREST = InterpolationMode.NEAREST
BLOCKED = """
import sys
class Torch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError("torch is not needed here")
sys.meta_path.insert(0, Torch())
from dali_dr.cli import main
"""  # before a program that must not import torch
K = 5


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Photos:
    return photos_in(tmp_path_factory.mktemp("published") / "images")


def in_order_of_confidence(entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The order in which views are stored: of falling confidence, equals as they came."""
    return sorted(entries, key=lambda entry: -max(np.float32(p) for p in entry["prob"][0]))


def mixed_equal(got: torch.Tensor, want: torch.Tensor, lam: float | None) -> bool:
    """Whether a mixed view is the published one.

    ml-dr weighs with float32(lam) and float32(1 - lam) of a double lam, a record keeps float32(lam) and weighs with
    1 - float32(lam): where these are the same number every bit is equal, else values differ by their last bits.
    """
    if lam is None or np.float32(1 - lam) == np.float32(1) - np.float32(lam):
        return torch.equal(got, want)
    return bool((got - want).abs().max() <= 1e-6)


# variant, compressed, joblib, form of the archive, order in it, K
CASES = [
    ("rrc", True, False, "folder", None, K),
    ("rrc", False, True, "tar", 1, 10),
    ("mixing", True, True, "tar.gz", 2, K),
    ("mixing", False, False, "tar", 3, K),
    ("randaug", True, False, "tar.gz", 4, 10),
    ("randaug", False, False, "folder", None, K),
    ("randaug_mixing", True, False, "tar", 5, 10),
    ("randaug_mixing", False, True, "tar.gz", None, K),
]


@pytest.mark.parametrize(("variant", "compress", "use_joblib", "kind", "shuffle", "topk"), CASES)
def test_ml_dr(
    photos: Photos, tmp_path: Path, variant: str, compress: bool, use_joblib: bool, kind: Any, shuffle: Any, topk: int
) -> None:
    augmentation = ml_dr_writer.augmentation(variant, SIZE)
    config = ml_dr_writer.config(
        augmentation, VIEWS, topk, compress=compress, use_joblib=use_joblib, num_classes=CLASSES
    )
    written = ml_dr_writer.Generation(photos.images, config, seed=len(variant), confidence=6).files()
    place = archives.store(written, tmp_path / "published", kind, "reinforced_data", shuffle)
    data = convert("ml-dr", [place], photos, tmp_path / "out", "--probabilities", "float32")
    assert (len(data), data.num_views, data.manifest.topk) == (IMAGES, VIEWS, topk)
    assert [data.label(n) for n in range(IMAGES)] == [n * CLASSES // IMAGES for n in range(IMAGES)]
    exact, seen = compare_ml_dr(data, written, augmentation, photos.images)
    assert seen == IMAGES * VIEWS
    assert exact == seen if "mixing" not in variant else exact > seen / 2


def compare_ml_dr(
    data: dali_dr.Dataset,
    written: Mapping[str, bytes],
    augmentation: Any,
    images: Sequence[Image.Image],
    **options: Any,
) -> tuple[int, int]:
    """Compares everything that the loader shows of a set whose probabilities are float32; rows equal in every bit, and all."""
    stored = {n: in_order_of_confidence(ml_dr_replay.loaded(written[f"{n}.pth.tar"])[1]) for n in range(len(images))}
    views = data.num_views
    exact, seen = 0, set()
    for number, view, row in shown(data, views, **options):
        entry = stored[number][view]
        want = ml_dr_replay.replay(entry["params"], augmentation, images[number], lambda n: images[n])
        assert mixed_equal(row["data"], want, ml_dr_replay.plan(entry["params"], augmentation).mixup), entry
        exact += torch.equal(row["data"], want)
        order = sorted(range(len(entry["prob"][0])), key=lambda k: -entry["prob"][0][k])
        probs = np.array(entry["prob"][0], np.float32)[order]
        np.testing.assert_array_equal(row["soft_probs"].numpy(), probs)
        if len(set(probs.tolist())) == len(probs):
            assert row["soft_ids"].tolist() == [entry["prob"][1][k] for k in order]
        seen.add((number, view))
    return exact, len(seen)


def test_beside_a_packed_set(photos: Photos, tmp_path: Path) -> None:
    """The images of `dali-dr pack` stay where they are; what comes is verified whole, and shown."""
    assert main(["pack", str(photos.root), "--out", str(tmp_path / "packed"), "--quiet"]) == 0
    augmentation = ml_dr_writer.augmentation("randaug_mixing", SIZE)
    config = ml_dr_writer.config(augmentation, VIEWS, K, num_classes=CLASSES)
    written = ml_dr_writer.Generation(photos.images, config, seed=5).files()
    place = archives.store(written, tmp_path / "published", "tar.gz", "reinforced_data", 7)
    packed = dataclasses.replace(photos, root=tmp_path / "packed")
    data = convert("ml-dr", [place], packed, tmp_path / "out", "--probabilities", "float32")
    assert data.manifest.image_tars and main(["verify", str(data.path), "--images", "--quiet"]) == 0
    assert compare_ml_dr(data, written, augmentation, photos.images)[1] == IMAGES * VIEWS
    again, out = tmp_path / "again", tmp_path / "exported"
    script = (
        BLOCKED
        + f"""
assert main(["convert", "ml-dr", {str(place)!r}, "--images", {str(packed.root)!r}, "--out", {str(again)!r}, "--quiet"]) == 0
assert main(["export", "ml-dr", {str(again)!r}, {str(out)!r}, "--quiet"]) == 0
"""
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    published = data.manifest.extra["published"]
    assert published["format"] == "ml-dr" and published["config"]["reinforce"]["image_augmentation"] == augmentation
    assert published["archives"][0]["name"] == place.name and published["archives"][0]["bytes"] == place.stat().st_size
    assert published["archives"][0]["sha256"] == hashlib.sha256(place.read_bytes()).hexdigest()
    assert "PIL" in " ".join(published["reinterpreted"]) and published["licence"]


@pytest.mark.parametrize(("kind", "compress", "size"), [("tar.gz", True, (32, 32)), ("folder", False, (32, 45))])
def test_cifar_is_enlarged_padded_and_cropped(tmp_path: Path, kind: Any, compress: bool, size: tuple[int, int]) -> None:
    small = photos_in(tmp_path / "images", size)
    augmentation = ml_dr_writer.augmentation("cifar100", SIZE)
    config = ml_dr_writer.config(augmentation, VIEWS, K, compress=compress, num_classes=CLASSES, dataset="cifar100")
    written = ml_dr_writer.Generation(small.images, config, seed=1).files()
    place = archives.store(written, tmp_path / "published", kind, "reinforced_data")
    data = convert("ml-dr", [place], small, tmp_path / "out", "--probabilities", "float32")
    normalise = {"mean": ml_dr_writer.CIFAR_MEAN, "std": ml_dr_writer.CIFAR_STD}
    exact, seen = compare_ml_dr(data, written, augmentation, small.images, **normalise)
    assert exact == seen == IMAGES * VIEWS


@pytest.mark.parametrize("as_dict", [False, True])
def test_edges_of_what_can_be_stored(photos: Photos, tmp_path: Path, as_dict: bool) -> None:
    """Weights of 0 and 1, boxes that are empty or the whole view, an image that is its own partner, what was skipped."""
    augmentation = ml_dr_writer.augmentation("randaug_mixing", SIZE)
    config = ml_dr_writer.config(augmentation, VIEWS, K, num_classes=CLASSES)
    generation = ml_dr_writer.Generation(photos.images, config)
    mixes: list[tuple[Any, Any]] = [
        (0.0, None), (1.0, None), (1e-9, None), (0.5, None), (None, (0, 0, SIZE, SIZE)), (None, (7, 9, 7, 30)),
        (None, (SIZE - 1, SIZE - 1, SIZE, SIZE)), (0.25, (0, 0, 1, SIZE)), (1.0, (5, 6, 20, 21)), (0.3, (9, 9, 9, 9)),
    ]  # fmt: skip
    operations = [None, [("Identity", 0.0), ("Equalize", 0.0)], [("Posterize", 5.0), ("Rotate", -9.0)]]
    boxes = [None, (0, 0, SIZE, SIZE), (SIZE - 1, 0, 1, 1)]
    written = {"config.pth.tar": ml_dr_writer.dumped("config.pth.tar", config, protocol=2)}
    for number, image in enumerate(photos.images):
        entries = []
        for row, (mixup, cut) in enumerate(mixes):
            partner = [number, 0, IMAGES - 1][row % 3]
            whole = [(0, 0, i.height, i.width) for i in (image, photos.images[partner])]
            cutmix = None if cut is None else (0.5, tuple(np.int64(edge) for edge in cut))
            params: dict[str, Any] = dict.fromkeys(("uint8", "to_tensor", "normalize"), ((), ()))
            params |= {
                "random_resized_crop": (whole[0], (*whole[1][:2], 1, 1)),
                "random_horizontal_flip": (True, row % 2 == 0),
            }
            params |= {"rand_augment": (operations[row % 3], operations[(row + number) % 3])}
            params |= {"random_erase": (boxes[(row + 1) % 3], boxes[(row + number) % 3])}
            params |= {"mixup": mixup, "cutmix": cutmix, "id2": partner}
            stored = params if as_dict else generation.compressed(params)
            entries.append({"params": stored, "prob": generation.prediction(K)})
        name = f"{number}.pth.tar"
        written[name] = ml_dr_writer.dumped(name, (number, entries), as_joblib=as_dict)
    place = archives.store(written, tmp_path / "published", "tar", "reinforced_data")
    data = convert("ml-dr", [place], photos, tmp_path / "out", "--probabilities", "float32")
    _, seen = compare_ml_dr(data, written, augmentation, photos.images)
    assert seen == IMAGES * len(mixes)


def test_flowers_spelling_of_the_crop(photos: Photos, tmp_path: Path) -> None:
    augmentation = ml_dr_writer.augmentation("randaug", SIZE, crop_name="random_resize_crop")
    augmentation["rand_augment"]["p"] = 0.5  # where it was left out, files have None
    config = ml_dr_writer.config(augmentation, VIEWS, K, num_classes=CLASSES, dataset="flowers102")
    written = ml_dr_writer.Generation(photos.images, config).files()
    place = archives.store(written, tmp_path / "published", "tar", "reinforced_data")
    data = convert("ml-dr", [place], photos, tmp_path / "out", "--probabilities", "float32")
    assert compare_ml_dr(data, written, augmentation, photos.images) == (IMAGES * VIEWS, IMAGES * VIEWS)


def test_several_runs_become_one_set(photos: Photos, tmp_path: Path) -> None:
    augmentation = ml_dr_writer.augmentation("randaug_mixing", SIZE)
    config = ml_dr_writer.config(augmentation, VIEWS, K, num_classes=CLASSES)
    runs = [ml_dr_writer.Generation(photos.images, config, seed=seed).files() for seed in range(3)]
    kinds: list[Any] = ["folder", "tar", "tar.gz"]
    places = [archives.store(run, tmp_path / f"run{n}", kinds[n], "reinforced_data", n) for n, run in enumerate(runs)]
    data = convert("ml-dr", places, photos, tmp_path / "out", "--probabilities", "float32")
    assert data.num_views == 3 * VIEWS
    merged = {}
    for name in runs[0]:
        if name != "config.pth.tar":
            parts = [ml_dr_replay.loaded(run[name]) for run in runs]
            merged[name] = ml_dr_writer.dumped(name, (parts[0][0], [entry for part in parts for entry in part[1]]))
    _, seen = compare_ml_dr(data, merged, augmentation, photos.images)
    assert seen == IMAGES * 3 * VIEWS


def test_runs_of_several_lengths_are_told_of(photos: Photos, tmp_path: Path) -> None:
    augmentation, places = ml_dr_writer.augmentation("rrc", SIZE), []
    for seed, views in enumerate((2, 5)):
        config = ml_dr_writer.config(augmentation, views, K, num_classes=CLASSES)
        run = ml_dr_writer.Generation(photos.images, config, seed=seed).files()
        places.append(archives.store(run, tmp_path / f"run{seed}", "tar", "reinforced_data"))
    data = convert("ml-dr", places, photos, tmp_path / "out")
    assert data.num_views == 7 and "draws a run" in " ".join(data.manifest.extra["published"]["reinterpreted"])
    same = convert("ml-dr", places[:1], photos, tmp_path / "same")
    assert "draws a run" not in " ".join(same.manifest.extra["published"]["reinterpreted"])


@pytest.mark.parametrize("variant", ml_dr_writer.VARIANTS)
def test_out_again_and_back(photos: Photos, tmp_path: Path, variant: str) -> None:
    """A converted set as ml-dr reads it shows what the loader shows; converted anew, its records are the same."""
    augmentation = ml_dr_writer.augmentation(variant, SIZE)
    config = ml_dr_writer.config(augmentation, VIEWS, K, num_classes=CLASSES)
    written = ml_dr_writer.Generation(photos.images, config, seed=2, confidence=6).files()
    place = archives.store(written, tmp_path / "published", "tar", "reinforced_data")
    data = convert("ml-dr", [place], photos, tmp_path / "set")
    out, folder = tmp_path / "out", tmp_path / "folder"
    assert main(["export", "ml-dr", str(data.path), str(out), "--images", str(folder), "--quiet"]) == 0
    read = {n: ml_dr_replay.loaded((out / "reinforced_data" / f"{n}.pth.tar").read_bytes()) for n in range(IMAGES)}
    said = ml_dr_replay.loaded((out / "reinforced_data" / "config.pth.tar").read_bytes())["reinforce"]
    images = said["image_augmentation"]
    paths = ImageFolder(str(folder)).samples
    pictures = [Image.open(path).convert("RGB") for path, _ in paths]
    assert [label for _, label in paths] == [data.label(n) for n in range(IMAGES)]
    normalise = {name: images["normalize"][name] for name in ("mean", "std")}
    assert normalise == {name: augmentation["normalize"][name] for name in ("mean", "std")}
    for number, view, row in shown(data, targets="ml-dr", **normalise):
        entry = read[number][1][view]
        want = ml_dr_replay.replay(entry["params"], images, pictures[number], lambda n: pictures[n])
        assert torch.equal(row["data"], want), entry
        target = ml_dr_replay.densify(entry["prob"], CLASSES)
        torch.testing.assert_close(row["targets"], target, rtol=1e-6, atol=1e-8)
    back = convert("ml-dr", [out], dataclasses.replace(photos, root=folder), tmp_path / "back")
    for number in range(IMAGES):
        assert back.record_bytes(number) == data.record_bytes(number) and back.image(number) == data.image(number)


class Likely(ml_dr_writer.Generation):
    """Predictions as a teacher's are: of what is in the image mostly, more or less of it in each view."""

    def reinforcements(self, number: int) -> list[dict[str, Any]]:
        self.base = np.random.default_rng(number).normal(0, 2.5, self.config["num_classes"])
        return super().reinforcements(number)

    def prediction(self, topk: int) -> tuple[list[float], list[int]]:
        logits = self.base + self.numpy.normal(0, 0.6, len(self.base))
        probs = torch.softmax(torch.from_numpy(logits.astype(np.float32)), 0).numpy()
        ids = np.argpartition(probs, -topk)[-topk:]
        return probs[ids].tolist(), ids.tolist()


def test_bytes_of_a_view(tmp_path: Path) -> None:
    """RandAugment and erasing, 400 views, 10 of 1,000 classes, ImageNet's sizes: 22 bytes a view at most."""
    photos = photos_in(tmp_path / "images", (375, 500))
    config = ml_dr_writer.config(ml_dr_writer.augmentation("randaug"), 400, 10)
    written = Likely(photos.images, config, seed=3).files()
    place = archives.store(written, tmp_path / "published", "tar", "reinforced_data")
    data = convert("ml-dr", [place], photos, tmp_path / "out", "--keep-bytes")
    each = [len(data.record_bytes(number)) / 400 for number in range(IMAGES)]
    assert data.num_views == 400 and data.manifest.topk == 10
    assert 10 < max(each) <= 22, each


def test_replay_on_pillow_images_differs_from_generation_by_what_is_said() -> None:
    """docs/published.md, "What is reinterpreted": each operation on uint8 tensors, as generated, and on Pillow images."""
    images = [Image.fromarray(picture(SIZE * 2, SIZE * 2, seed)) for seed in range(4)]
    for name, (magnitudes, signed) in T.RandAugment()._augmentation_space(31, images[0].size).items():
        for sign in (1, -1) if signed else (1,):
            magnitude = sign * float(magnitudes[9]) if magnitudes.ndim else 0.0
            gaps = []
            for image in images:
                shown_ = F.pil_to_tensor(_apply_op(image, name, magnitude, NEAREST, None)).int()
                tensor = (F.to_tensor(image) * 255).to(torch.uint8)  # as ml-dr makes them again of floats
                gaps.append((shown_ - _apply_op(tensor, name, magnitude, NEAREST, None).int()).abs())
            gap = torch.stack(gaps)
            if name == "Rotate":
                assert 0 < float((gap > 0).any(1).float().mean()) < 2e-3
            elif name in ("Color", "Contrast", "Sharpness", "AutoContrast"):
                assert int(gap.max()) <= 1, name
            else:
                assert int(gap.max()) == 0, name


def test_targets(photos: Photos, tmp_path: Path) -> None:
    """Dense targets, with and without ml-dr's fault, and what the small encoding makes of them."""
    augmentation = ml_dr_writer.augmentation("rrc", SIZE)
    config = ml_dr_writer.config(augmentation, 16, 10, num_classes=CLASSES)
    written = ml_dr_writer.Generation(photos.images, config, confidence=11).files()
    place = archives.store(written, tmp_path / "published", "tar", "reinforced_data")
    stored = {n: in_order_of_confidence(ml_dr_replay.loaded(written[f"{n}.pth.tar"])[1]) for n in range(IMAGES)}
    exact = convert("ml-dr", [place], photos, tmp_path / "exact", "--probabilities", "float32")
    small = convert("ml-dr", [place], photos, tmp_path / "small")
    assert small.manifest.probabilities == "root8"
    faults = doubtful = 0
    for number, view, row in shown(exact, 16, targets="ml-dr"):
        probs, ids = stored[number][view]["prob"]
        want = ml_dr_replay.densify((probs, ids), CLASSES)
        faulty = bool((want[ids] != torch.tensor(probs)).any())
        falling = sorted(zip(probs, ids, strict=True), reverse=True)
        as_stored = ml_dr_replay.densify(([p for p, _ in falling], [i for _, i in falling]), CLASSES)
        if torch.allclose(as_stored, want, atol=1e-6):
            torch.testing.assert_close(row["targets"], want, rtol=1e-6, atol=1e-7)
            faults += faulty
        else:  # a sum of 1 to the last bit, which depends on the order of its terms
            doubtful += 1
            torch.testing.assert_close(row["targets"], as_stored, rtol=1e-6, atol=1e-7)
    assert faults > 5 and doubtful < 60, (faults, doubtful)
    divergences = []
    for number, view, row in shown(exact, 16, targets="dense"):
        probs, ids = stored[number][view]["prob"]
        clamped = max(0.0, 1.0 - sum(probs))
        want = torch.full((CLASSES,), clamped / (CLASSES - len(ids)))
        want[ids] = torch.tensor(probs)
        torch.testing.assert_close(row["targets"], want, rtol=0, atol=1e-6)
    for number, view, row in shown(small, 16, targets="dense"):
        probs, ids = stored[number][view]["prob"]
        want = torch.full((CLASSES,), max(0.0, 1.0 - sum(probs)) / (CLASSES - len(ids)), dtype=torch.float64)
        want[ids] = torch.tensor(probs, dtype=torch.float64)
        want /= want.sum()
        divergences.append(float((torch.xlogy(want, want) - torch.xlogy(want, row["targets"].double())).sum()))
    assert 0 < np.mean(divergences) < 2e-3
