"""Teachers by name: options in braces, old names of timm's, projection heads built from checkpoints."""

from __future__ import annotations

import argparse
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, encode_jpeg, picture, write_files
from torch import nn
from torch.nn import functional as F

import dali_dr
from dali_dr._torchvision import load_torchvision
from dali_dr.cli import main
from dali_dr.reinforce.blueprint import Blueprint, Named
from dali_dr.reinforce.teacher_names import split
from dali_dr.reinforce.teachers import load_teacher

load_torchvision()
timm = pytest.importorskip("timm")
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet  # noqa: E402

IMAGENET = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
TINY = "resnet18"  # of one block a stage here, as torchvision's ResNet(BasicBlock, [1, 1, 1, 1])
LAYERS = "layers: [1, 1, 1, 1]"


def photos(count: int, size: int) -> torch.Tensor:
    return torch.from_numpy(np.stack([picture(size, size, s) for s in range(count)])).permute(0, 3, 1, 2)


def settled(model: nn.Module, seed: int = 0) -> nn.Module:
    """In eval mode, with weights and statistics of batch norm that are none of the usual ones."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
                nn.init.normal_(module.bias, 0, 0.1, generator=generator)
    return model.eval()


@torch.no_grad()
def seen(views: torch.Tensor, mean: Any = IMAGENET[0], std: Any = IMAGENET[1]) -> torch.Tensor:
    return (views / 255 - mean) / std


def test_options_make_the_network_and_are_in_the_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """32x48d in small: a ResNeXt of another base width than its name says, from torchvision's state dict."""
    torch.manual_seed(0)
    wide = settled(ResNet(Bottleneck, [2, 2, 2, 2], num_classes=7, groups=4, width_per_group=24))
    torch.save(wide.state_dict(), tmp_path / "wide.pth")
    options = "{cardinality: 4, base_width: 24, mean: [0.5, 0.4, 0.3], std: [0.2, 0.2, 0.1], input_size: 64}"
    name = f"resnet26@{tmp_path / 'wide.pth'}{options}"
    teacher = load_teacher(f"{name}, {name}")
    views = photos(3, 64)
    mean, std = torch.tensor([0.5, 0.4, 0.3])[:, None, None], torch.tensor([0.2, 0.2, 0.1])[:, None, None]
    with torch.no_grad():
        expected = wide((views / 255 - mean) / std).softmax(1)
    torch.testing.assert_close(teacher.predict(views), expected, rtol=1e-4, atol=1e-6)
    assert [m.name for m in teacher.members] == ["resnet26@wide.pth"] * 2

    images = write_files(tmp_path / "images", {f"c{n % 3}/{n}.jpg": encode_jpeg(picture(70, 80, n)) for n in range(6)})
    out = tmp_path / "out"
    made = ["reinforce", str(images), "--out", str(out), "--teacher", name, "--views", "4", "--size", "48", "--quiet"]
    assert main([*made, "--device", "cpu", "--threads", "1"]) == 0
    assert main(["verify", str(out), "--teacher", name, "--samples", "24", "--device", "cpu", "--quiet"]) == 0
    assert main(["verify", str(out), "--teacher", name.replace("0.3]", "0.4]"), "--device", "cpu", "--quiet"]) == 1
    capsys.readouterr()
    member = json.loads((out / "dataset.json").read_text())["teacher"]["members"][0]
    assert member["options"] == {
        "cardinality": 4, "base_width": 24, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1], "input_size": 64,
    }  # fmt: skip
    assert (member["mean"], member["input_size"], member["name"]) == ([0.5, 0.4, 0.3], 64, "resnet26@wide.pth")
    # As another process gets it, on Ray and elsewhere
    generation = {"spec": dali_dr.AugmentationSpec.preset("rrc", 48), "num_views": 2, "num_threads": 1}
    blueprint = pickle.loads(
        pickle.dumps(Blueprint(str(images), tmp_path / "other", Named(name), generation, keep=None))
    )
    assert torch.equal(blueprint.run("cpu").generation.teacher.predict(views), load_teacher(name).predict(views))


def test_32x48d_is_32x32d_of_another_base_width() -> None:
    """On the meta device, where its 828 million parameters take no memory; torch.hub's model is torchvision's class."""
    with torch.device("meta"):
        ours = timm.create_model("resnext101_32x32d", base_width=48)
        published = ResNet(Bottleneck, [3, 4, 23, 3], groups=32, width_per_group=48)  # WSL-Images, hubconf.py
    shapes = [{name: tuple(t.shape) for name, t in model.state_dict().items()} for model in (ours, published)]
    assert shapes[0] == shapes[1]
    assert sum(p.numel() for p in ours.parameters()) == 828_411_176
    script = (REPOSITORY / "examples" / "reinforce_imagenet_ensemble.sh").read_text()
    assert ",resnext101_32x32d@$weights{base_width: 48}" in script


def test_old_names_of_timm_are_refused_with_the_new_ones() -> None:
    renamed = timm.models.get_deprecated_models()
    assert len(renamed) > 100
    for old, now in renamed.items():
        with pytest.raises(dali_dr.DaliDrError) as caught:
            load_teacher(old)
        assert now in str(caught.value), old
    for old, instead in {
        "ig_resnext101_32x16d": "another model; write resnext101_32x16d.fb_wsl_ig1b_ft_in1k",
        "ig_resnext101_32x32d": "another model; write resnext101_32x32d.fb_wsl_ig1b_ft_in1k",
        "ig_resnext101_32x48d": "another model; write resnext101_32x32d@FILE{base_width: 48}",
        "ig_resnext101_32x8d": "old name; write resnext101_32x8d.fb_wsl_ig1b_ft_in1k",
        "tv_resnet50": "old name; write resnet50.tv_in1k",
    }.items():
        for name in (old, f"{old}@absent.pth", f"{old}.a_tag{{base_width: 8}}"):
            with pytest.raises(dali_dr.DaliDrError, match=instead.replace("{", r"\{")):
                load_teacher(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet18{base_width: 48", "brace"),
        ("resnet18}", "brace"),
        ("resnet18,,resnet34", "no name"),
        ("resnet18@", "want NAME"),
        ("{base_width: 48}", "want NAME"),
        ("resnet18{base_width:48}", "blank after the colon"),
        ("resnet18{a: 1, a: 2}", "twice"),
        ("resnet18{}{}", "no teacher is called"),
        ("resnet18@w.pth{[a]: 1}", "YAML mapping"),
        ("resnet18@w.pth{d: 2001-01-01}", "YAML mapping"),
        ("resnet18@w.pth{x: !!python/object/apply:os.getcwd []}", "YAML mapping"),
        ("resnet18@w.pth{num_classes: 10}", "num_classes is no option"),
        ("resnet18@w.pth{pretrained: true}", "pretrained is no option"),
        ("resnet18{head: fc}", "write NAME@FILE"),
        ("resnet18@w.pth{activation: gelu}", "about a head"),
        ("resnet18@w.pth{head: fc, activation: tanh}", "want relu or gelu"),
        ("resnet18@w.pth{head: [a, b, c]}", "and prototypes"),
        ("resnet18@w.pth{head: 3}", "a name, or a list"),
        ("resnet18@w.pth{mean: [124, 116, 104]}", "values in 0 … 1"),
        ("resnet18@w.pth{std: [0.2, 0.2, 0]}", "values in 0 … 1"),
        ("resnet18@w.pth{input_size: big}", "pixels"),
        ("resnet18@w.pth{entry: 3}", "entry is 3"),
        ("resnet18@w.pth{head: fc}", "--target embedding"),
        ("efficientnet-lite0{base_width: 3}", "takes no options"),
        ("resnet18{no_such_option: 1}", "no_such_option"),
    ],
)
def test_wrong_options_are_one_clear_error(name: str, said: str) -> None:
    with pytest.raises(dali_dr.DaliDrError, match=said):
        load_teacher(name)


def test_commas_in_braces_do_not_separate_members() -> None:
    assert split("a{x: [1, 2], y: {z: 1, w: 2}}, b@f.pth,c") == ["a{x: [1, 2], y: {z: 1, w: 2}}", "b@f.pth", "c"]


def test_a_checkpoint_of_train_timm_says_how_it_was_trained(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = settled(timm.create_model("resnet26", base_width=32, num_classes=5))
    averaged = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
    trained = {"model": "resnet26", "model_options": {"base_width": 32}, "size": 64, "eval_size": 96}
    trained["loader"] = {"mean": [0.5, 0.5, 0.5], "num_threads": 1}
    file = tmp_path / "last.pt"
    torch.save({"model": averaged, "ema": model.state_dict(), "options": trained, "loader": {"epoch": 1}}, file)
    views = photos(2, 96)
    with torch.no_grad():
        expected = model(seen(views, torch.tensor(0.5))).softmax(1)  # the loader's std, as no other is told
    teacher = load_teacher(f"resnet26@{file}")
    assert teacher.members[0].input_size == 96
    torch.testing.assert_close(teacher.predict(views), expected, rtol=1e-4, atol=1e-6)
    assert load_teacher(f"resnet26@{file}{{input_size: 64}}").members[0].input_size == 64
    with pytest.raises(dali_dr.DaliDrError, match="trained as resnet26, not as resnet18"):
        load_teacher(f"resnet18@{file}")


def moco() -> tuple[nn.Module, dict[str, Any], str, Callable[[nn.Module, torch.Tensor], torch.Tensor]]:
    """As facebookresearch/moco builds and saves it: two encoders, whose fc is an MLP, and a queue."""
    encoders = nn.ModuleDict()
    for name in ("encoder_q", "encoder_k"):
        encoder = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=128)
        encoder.fc = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), encoder.fc)
        encoders[name] = encoder
    state = {f"module.{name}": tensor for name, tensor in encoders.state_dict().items()}
    state |= {"module.queue": torch.randn(128, 4), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    file = {"epoch": 200, "arch": "resnet50", "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}
    return (
        encoders,
        file,
        f"{{{LAYERS}, prefix: encoder_q, head: fc}}",
        lambda m, x: F.normalize(m["encoder_q"](x), dim=1),  # type: ignore[index]
    )


def swav() -> tuple[nn.Module, dict[str, Any], str, Callable[[nn.Module, torch.Tensor], torch.Tensor]]:
    """As facebookresearch/swav: ones around the first convolution, a head with batch norm, prototypes on the sphere."""
    model = ResNet(BasicBlock, [1, 1, 1, 1])
    model.conv1.padding = (2, 2)
    model.fc = nn.Identity()
    model.projection_head = nn.Sequential(nn.Linear(512, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 128))
    model.prototypes = nn.Linear(128, 300, bias=False)

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        features = m(F.pad(x, (1, 1, 1, 1)))
        return m.prototypes(F.normalize(m.projection_head(features), dim=1, p=2))

    options = f"{{{LAYERS}, head: [projection_head, prototypes]}}"
    # settled() changes the model in place, so the file is made of its state afterwards.
    return model, {"prefix": "module."}, options, forward


def dino() -> tuple[nn.Module, dict[str, Any], str, Callable[[nn.Module, torch.Tensor], torch.Tensor]]:
    """As facebookresearch/dino: student and teacher, the head beside the backbone, GELU, a weight-normed last layer."""
    backbone = ResNet(BasicBlock, [1, 1, 1, 1])
    backbone.fc = nn.Identity()
    layers = [nn.Linear(512, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 32)]
    head = nn.ModuleDict({"mlp": nn.Sequential(*layers)})
    head["last_layer"] = nn.utils.weight_norm(nn.Linear(32, 200, bias=False))
    nn.init.uniform_(head["last_layer"].weight_g, 0.5, 2)
    model = nn.ModuleDict({"backbone": backbone, "head": head})

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m["head"]["last_layer"](F.normalize(m["head"]["mlp"](m["backbone"](x)), dim=-1, p=2))

    options = f"{{{LAYERS}, entry: teacher, prefix: backbone, head: [head.mlp, head.last_layer], activation: gelu}}"
    return model, {"entry": "teacher"}, options, forward


@pytest.mark.parametrize("method", [moco, swav, dino])
def test_a_projection_head_is_built_from_its_weights(method: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, file, options, forward = method()
    settled(model)
    if method is swav:
        file = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    elif method is dino:
        student = {f"module.{name}": torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
        file = {
            "teacher": model.state_dict(),
            "student": student,
            "args": argparse.Namespace(arch="vit_small"),
            "epoch": 1,
        }
    torch.save(file, tmp_path / "w.pth.tar")
    name = f"{TINY}@{tmp_path / 'w.pth.tar'}"
    teacher = load_teacher(f"{name}{options}", temperature=0.2, target="embedding")
    views = photos(4, 224)
    with torch.no_grad():
        expected = (forward(model, seen(views)) / 0.2).softmax(1)
    torch.testing.assert_close(teacher.predict(views), expected, rtol=1e-4, atol=1e-7)
    outputs = {moco: 128, swav: 300, dino: 200}[method]
    assert (teacher.num_outputs, teacher.num_classes) == (outputs, 0)
    facts = teacher.facts()
    assert facts["target"] == "embedding" and facts["outputs"] == outputs and facts["temperature"] == 0.2
    assert facts["members"][0]["options"]["head"] == {
        moco: "fc", swav: ["projection_head", "prototypes"], dino: ["head.mlp", "head.last_layer"],
    }[method]  # fmt: skip


def test_heads_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    model = swav()[0]
    settled(model)
    state = dict(model.state_dict())

    def error(options: str, file: dict[str, Any] = state) -> str:
        torch.save(file, tmp_path / "w.pth")
        with pytest.raises(dali_dr.DaliDrError) as caught:
            load_teacher(f"{TINY}@{tmp_path / 'w.pth'}{{{LAYERS}, {options}}}", target="embedding")
        return str(caught.value)

    assert "1 not in the model: prototypes.weight" in error("head: projection_head")
    teacher = load_teacher(
        f"{TINY}@{tmp_path / 'w.pth'}{{{LAYERS}, head: projection_head, ignore: prototypes, normalise: false}}",
        target="embedding",
    )
    with torch.no_grad():
        plain = model.projection_head(model(F.pad(seen(photos(2, 224)), (1, 1, 1, 1)))).softmax(1)
    torch.testing.assert_close(teacher.predict(photos(2, 224)), plain, rtol=1e-4, atol=1e-7)
    assert "projection: there are no weights" in error("head: projection")
    assert "ignore: it has no module fcc" in error("head: [projection_head, prototypes], ignore: fcc")
    assert "begins with encoder_q." in error("prefix: encoder_q, head: projection_head")
    assert "entry 'teacher' is no state dict in it; it has none" in error("entry: teacher, head: projection_head")
    assert "head prototypes takes 128 numbers, but what is before it gives 512" in error(
        "head: prototypes, ignore: projection_head"
    )
    conv = {**state, "projection_head.0.weight": torch.zeros(256, 512, 1, 1)}
    assert "projection_head.0: neither a linear layer nor batch norm" in error("head: projection_head", conv)
    extra = {**state, "projection_head.3.scale": torch.zeros(1)}
    assert "1 not in the model: scale" in error("head: projection_head", extra)
    apart = {name.replace("head.3", "head.5"): tensor for name, tensor in state.items()}
    assert "before layer 5 there are 3 without weights" in error("head: projection_head", apart)
    narrow = {**state, "projection_head.3.weight": torch.zeros(128, 99)}
    assert "projection_head.3: takes 99 numbers, but the layer before gives 256" in error(
        "head: projection_head", narrow
    )
    both = {"student": state, "teacher": state}
    assert "say which of student, teacher" in error("head: projection_head", both)


def test_a_head_in_the_classifiers_place_is_not_left_out_in_silence(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoders, file, _, _ = moco()
    settled(encoders)
    torch.save(file, tmp_path / "w.pth")
    name = f"{TINY}@{tmp_path / 'w.pth'}"
    with pytest.raises(dali_dr.DaliDrError, match=r"has fc\.0, fc\.2 in the place of .*head: fc .*ignore: fc"):
        load_teacher(f"{name}{{{LAYERS}, prefix: encoder_q}}", target="embedding")
    teacher = load_teacher(f"{name}{{{LAYERS}, prefix: encoder_q, ignore: fc}}", target="embedding")
    assert teacher.num_outputs == 512
    plain = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=9)  # a classifier is no projection head
    torch.save(plain.state_dict(), tmp_path / "plain.pth")
    assert load_teacher(f"{TINY}@{tmp_path / 'plain.pth'}{{{LAYERS}}}", target="embedding").num_outputs == 512
