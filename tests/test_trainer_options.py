"""train_timm.py's options: schedules, variable batches, targets, teachers and mixing against their formulas; exact resumption."""

from __future__ import annotations

import math
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import test_examples_training as training
import torch
import torch.nn.functional as F
from test_examples_training import CLASSES, EXAMPLES, IMAGES, SIZE, arguments, environment, example, log, same

import dali_dr
from dali_dr._torchvision import load_torchvision
from dali_dr.loader.options import Show

dataset, one_thread = training.dataset, training.one_thread  # fixtures
FORMS = "sparse", "dense", "ml-dr", "top1", "hard", "smoothing", "marginal_smoothing", "marginal_renorm"
MEAN, STD = (0.3, 0.4, 0.5), (0.2, 0.25, 0.3)


@pytest.fixture(scope="module")
def train_timm() -> ModuleType:
    return example("train_timm")


@pytest.fixture(scope="module")
def schedules(train_timm: ModuleType) -> ModuleType:
    return sys.modules["train_timm_schedules"]


@pytest.fixture(scope="module")
def learning(train_timm: ModuleType) -> ModuleType:
    return sys.modules["train_timm_targets"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A teacher of six classes, which sees 160 pixels."""
    load_torchvision()
    import timm

    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("teacher") / "weights.pt"
    torch.save(timm.create_model("test_resnet", num_classes=CLASSES).state_dict(), path)
    return f"test_resnet@{path}"


def options(train_timm: ModuleType, words: str) -> Namespace:
    parsed: Namespace = train_timm.parse([w.replace("&", " ") for w in f"--data d --out o {words}".split()])
    return parsed


def rates(train_timm: ModuleType, schedules: ModuleType, words: str, steps: int, per_epoch: int) -> list[float]:
    o = options(train_timm, words)
    return [schedules.learning_rate(o, step / per_epoch, 1 / per_epoch) for step in range(steps)]


def torch_rates(make: Any, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.4)
    scheduler, seen = make(optimizer), []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_cosine_with_warm_up(train_timm: ModuleType, schedules: ModuleType) -> None:
    words = "--lr 0.4 --min-lr 0.1 --warmup-epochs 5 --warmup-lr 0.2 --epochs 25"
    got = rates(train_timm, schedules, words, 26, 1)
    assert [got[n] for n in (0, 5, 15, 25)] == pytest.approx([0.2, 0.4, 0.25, 0.1])  # halfway at the middle of 5 … 25
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR
    assert got[5:25] == pytest.approx(torch_rates(lambda o: cosine(o, 20, eta_min=0.1), 20))


def test_step_is_torchs(train_timm: ModuleType, schedules: ModuleType) -> None:
    words = "--lr 0.4 --warmup-epochs 0 --epochs 8 --schedule step --milestones [4,&6] --gamma 0.2"
    want = torch_rates(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [4 * 3, 6 * 3], 0.2), 24)
    assert rates(train_timm, schedules, words, 24, 3) == pytest.approx(want)


@pytest.mark.parametrize(("epochs", "per_epoch"), [(10, 7), (3, 5)])
def test_one_cycle_is_torchs(train_timm: ModuleType, schedules: ModuleType, epochs: int, per_epoch: int) -> None:
    steps = epochs * per_epoch
    want = torch_rates(
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.4, epochs=epochs, steps_per_epoch=per_epoch), steps - 1
    )
    got = rates(train_timm, schedules, f"--lr 0.4 --epochs {epochs} --schedule one-cycle", steps, per_epoch)
    assert got[:-1] == pytest.approx(want)
    assert got[-1] == pytest.approx(0.4 / 25 / 1e4)


def test_serrated_is_fkds(train_timm: ModuleType, schedules: ModuleType) -> None:
    """The loops of its train_FKD.py (no warm-up) and train_ViT_FKD.py (warm-up epoch by epoch, then every four)."""
    for warmup in (0, 5):
        want: dict[int, float] = {epoch: 0.02 + 0.38 * epoch / 5 for epoch in range(warmup)}
        for epoch in range(warmup, 30, 4):
            fine = epoch >= 30 - 4
            for further in range(epoch, min(epoch + 4, 30)):
                want[further] = 0.4 * 0.5 * (1 + math.cos(math.pi * (further if fine else epoch) / 30))
        words = (
            f"--lr 0.4 --warmup-epochs {warmup} --warmup-lr 0.02 --epochs 30 --schedule serrated --views-per-image 4"
        )
        got = rates(train_timm, schedules, words, 30 * 3, 3)
        assert got == pytest.approx([want[step // 3] for step in range(90)])


@pytest.mark.parametrize(
    ("vbs", "batch", "want"),
    [  # worked out by hand from CVNets' image_batch_pairs
        ([160, 320, 256], 128, [(160, 327), (192, 227), (256, 128), (288, 101), (320, 81)]),
        ([144, 432, 288], 64, [(160, 207), (224, 105), (288, 64), (352, 42), (448, 26)]),
    ],
)
def test_variable_batches_are_cvnets(
    schedules: ModuleType, vbs: list[int], batch: int, want: list[tuple[int, int]]
) -> None:
    assert schedules.batch_shapes(vbs, batch, 1) == want
    assert schedules.batch_shapes(vbs, batch, 2) == [(size, count // 2 * 2) for size, count in want]


def reference_targets(form: str, ids: torch.Tensor, probs: torch.Tensor) -> torch.Tensor:
    """Dense float64 targets of a form, row by row."""
    rows = []
    for row_ids, row_probs in zip(ids.tolist(), probs.double().tolist(), strict=True):
        kept = row_probs
        if form in ("hard", "top1"):
            kept = [1.0]
        elif form == "smoothing":
            kept = row_probs[:1]
        elif form == "marginal_renorm":
            kept = [p / sum(row_probs) for p in row_probs]
        rest = (1 - sum(kept)) / (CLASSES - len(kept)) if form != "marginal_renorm" else 0.0
        row = [max(rest, 0.0)] * CLASSES
        for c, p in zip(row_ids, kept, strict=False):
            row[c] = p
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


def loader(dataset: Path, **given: Any) -> dali_dr.ReinforcedIterator:
    return dali_dr.ReinforcedIterator(dataset, batch_size=8, device="cpu", num_threads=1, seed=3, layout="HWC", **given)


def objective(train_timm: ModuleType, learning: ModuleType, words: str) -> Any:
    o = options(train_timm, f"--device cpu --batch-size 8 {words}")
    return learning.Objective(o, CLASSES, Show(mean=MEAN, std=STD), torch.device("cpu"))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_targets(train_timm: ModuleType, learning: ModuleType, dataset: Path, form: str) -> None:
    """With every loss that takes them, plain and with MixUp of the batch, against the formula in float64."""
    ((sparse,),) = [batch for _, batch in zip(range(1), loader(dataset), strict=False)]
    ((batch,),) = [batch for _, batch in zip(range(1), loader(dataset, targets=form), strict=False)]
    logits = torch.randn(8, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    soft = reference_targets(form, sparse["soft_ids"], sparse["soft_probs"])
    hard = F.one_hot(sparse["label"], CLASSES).double()
    for words in ("", "--mixup 0.8", "--cutmix 1.0 --mix-mode elem"):
        flipped = {}
        for loss in ("kl", "soft-ce", "usi"):
            learn = objective(train_timm, learning, f"--loss {loss} {words} --loader {{targets:&{form}}}")
            images, targets = learn.prepare(batch, 2, 16)
            if words:  # the weights that BatchMixing itself draws there
                alone, weights = learn.mixing(batch["data"], torch.eye(8), num_classes=8, epoch=2, step=16)
                flipped = {"soft": weights.double() @ soft, "hard": weights.double() @ hard}
                assert torch.equal(images, alone.permute(0, 3, 1, 2))
                assert not torch.equal(alone, batch["data"])
            p, y = flipped.get("soft", soft), flipped.get("hard", hard)
            cross, entropy = -(p * logits.log_softmax(1)).sum(1).mean(), -torch.xlogy(p, p).sum(1).mean()
            ce = -(y * logits.log_softmax(1)).sum(1).mean()
            want = {"kl": cross - entropy, "soft-ce": cross, "usi": ce + 5 * (cross - entropy)}[loss]
            torch.testing.assert_close(learn.loss(logits, None, targets), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("loss", ["ce", "usi", "bake"])
@pytest.mark.parametrize("words", ["", "--mixup 0.8 --cutmix 1.0"])
def test_views_that_are_stored_mixed_have_two_labels(
    train_timm: ModuleType, learning: ModuleType, loss: str, words: str
) -> None:
    generator = torch.Generator().manual_seed(1)
    labels, others = (torch.randint(0, CLASSES, (8,), generator=generator) for _ in range(2))
    weight = torch.rand(8, generator=generator)
    probs, ids = torch.randn(8, CLASSES, generator=generator).softmax(1).sort(1, descending=True)
    batch = {"data": torch.randn(8, 4, 4, 3, generator=generator), "label": labels, "soft_ids": ids.int()}
    batch |= {"soft_probs": probs, "mix_label": others, "mix_weight": weight}
    logits, features = (torch.randn(8, n, dtype=torch.float64, generator=generator) for n in (CLASSES, 9))
    learn = objective(train_timm, learning, f"--loss {loss} --label-smoothing 0.1 {words}")
    _, targets = learn.prepare(batch, 0, 0)
    w = weight.double()[:, None]
    hard = w * F.one_hot(labels, CLASSES) + (1 - w) * F.one_hot(others, CLASSES)
    soft = torch.zeros(8, CLASSES, dtype=torch.float64).scatter_(1, ids, probs.double())
    if words:
        _, shares = learn.mixing(batch["data"], torch.eye(8), num_classes=8, epoch=0, step=0)
        hard, soft = shares.double() @ hard, shares.double() @ soft
    want = -((0.9 * hard + 0.1 / CLASSES) * logits.log_softmax(1)).sum(1).mean()
    if loss == "usi":
        want = want + 5 * (soft * (soft.log() - logits.log_softmax(1))).sum(1).mean()
    if loss == "bake":
        q = dali_dr.losses.bake_targets(features, logits)
        want = want + 16 * (q * (q.log() - (logits / 4).log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(learn.loss(logits, features, targets), want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layout", ["--channels-last", "--no-channels-last"])
def test_the_teacher_sees_what_is_shown(
    train_timm: ModuleType, learning: ModuleType, dataset: Path, teacher: str, layout: str
) -> None:
    """Its predictions are those on the views as bytes, whatever the student's normalisation; kd is KL to them at T."""
    from dali_dr.reinforce.teachers import load_teacher

    words = f"--loss kd --teacher {teacher} --temperature 2 {layout}"
    learn = objective(train_timm, learning, words)
    given = {"layout": "HWC" if layout == "--channels-last" else "CHW"}
    iterators = [
        dali_dr.ReinforcedIterator(dataset, batch_size=8, device="cpu", num_threads=1, seed=3, **given, **further)
        for further in ({"mean": MEAN, "std": STD}, {"dtype": "uint8"})
    ]
    (batch,), (bytes_,) = (next(iter(iterator)) for iterator in iterators)
    _, targets = learn.prepare(batch, 0, 0)
    pixels = bytes_["data"].permute(0, 3, 1, 2) if given["layout"] == "HWC" else bytes_["data"]
    p = load_teacher(teacher).predict(pixels).clone()
    torch.testing.assert_close(targets.soft[1], p, rtol=1e-4, atol=1e-5)
    logits = torch.randn(8, CLASSES, requires_grad=True)
    loss = learn.loss(logits, None, targets)
    loss.backward()
    want = 4 * F.kl_div((logits / 2).log_softmax(1), p.log().div(2).softmax(1), reduction="batchmean")
    torch.testing.assert_close(loss, want, rtol=1e-4, atol=1e-5)


RESUMED = {
    "mixed batches": "--epochs 2 --mixup 0.2 --cutmix 1.0",
    "mixed images, variable batches, augmentation": "--epochs 2 --loss ce --label-smoothing 0.1 --mixup 0.8 --mix-mode elem "
    "--model test_efficientnet --model-options {drop_rate:&0.2} --vbs [32,&96,&64] --loader "
    "{num_threads:&1,augment:&{rand_augment:&{magnitude:&5},interpolation:&bicubic,random_erasing:&{}}}",
    "bake": "--epochs 1 --loss bake --mixup 0.2 --bake-omega 1 --model test_efficientnet --model-options {}",
    "curriculum": "--epochs 2 --loader {num_threads:&1,curriculum:&{start:&easy,end:&hard,part:&0.5}}",
    "serrated, two views": "--epochs 4 --schedule serrated --views-per-image 2 --loss soft-ce",
    "one cycle, online teacher": "--epochs 2 --schedule one-cycle --loss kd --cutmix 1.0 --teacher TEACHER",
    "usi with a teacher": "--epochs 2 --loss usi --teacher TEACHER --mixup 0.8 --loader {num_threads:&1,augment:&rrc}",
}


@pytest.mark.parametrize("name", RESUMED)
def test_every_option_resumes_exactly(
    train_timm: ModuleType, dataset: Path, tmp_path: Path, teacher: str, name: str
) -> None:
    extra = RESUMED[name].replace("TEACHER", teacher)
    assert train_timm.main(arguments(dataset, tmp_path / "whole", extra)) == 0
    whole = torch.load(tmp_path / "whole" / "last.pt", weights_only=True)
    losses = [line["loss"] for line in log(tmp_path / "whole") if "loss" in line]
    assert len(set(losses)) == len(losses) > 3
    assert train_timm.main(arguments(dataset, tmp_path / "parts", f"{extra} --stop-after 2")) == train_timm.INTERRUPTED
    assert train_timm.main(arguments(dataset, tmp_path / "parts", extra)) == 0
    parts = torch.load(tmp_path / "parts" / "last.pt", weights_only=True)
    for part in whole.keys() - {"options"}:
        assert same(whole[part], parts[part]), part
    assert [line["loss"] for line in log(tmp_path / "parts") if "loss" in line] == losses


def test_checkpoints_say_what_they_are(train_timm: ModuleType, dataset: Path, tmp_path: Path) -> None:
    """From the file alone: the model, and the evaluation that the log has."""
    import timm

    extra = "--epochs 2 --optimizer adamw --lr 0.003 --eval-crop 0.8 --eval-interpolation bicubic --eval-size 48 "
    extra += (
        "--model test_efficientnet --model-options {drop_path_rate:&0.1} --loader {num_threads:&1,mean:&[0.4,0.4,0.4]}"
    )
    assert train_timm.main(arguments(dataset, tmp_path, extra)) == 0
    for name in ("last.pt", "best.pt"):
        state = torch.load(tmp_path / name, weights_only=True)
        said = state["options"]
        assert (said["size"], said["eval_size"], said["eval_resize"], said["eval_interpolation"]) == (
            SIZE,
            48,
            60,
            "bicubic",
        )
        assert said["loader"]["mean"] == [0.4, 0.4, 0.4] and len(said["loader"]["std"]) == 3
        model = timm.create_model(said["model"], num_classes=said["num_classes"], **said["model_options"]).eval()
        model.load_state_dict(state["model"])
    evaluation = dali_dr.Evaluation(said["eval_size"], said["eval_resize"], said["eval_interpolation"])
    views = dali_dr.ReinforcedIterator(
        dataset, batch_size=8, device="cpu", num_threads=1, augment=evaluation, mean=said["loader"]["mean"]
    )
    hits = sum(int((model(batch["data"]).argmax(1) == batch["label"]).sum()) for (batch,) in views)
    assert hits / IMAGES == state["top1"] == max(line["top1"] for line in log(tmp_path) if "top1" in line)


def test_bake_on_two_processes(train_timm: ModuleType, dataset: Path, tmp_path: Path) -> None:
    """The weights and running statistics are those of one process with the whole batch."""
    if not torch.distributed.is_available():
        pytest.skip("this torch has no torch.distributed")
    extra = "--epochs 1 --loss bake --model test_efficientnet --model-options {} --momentum 0.5 --lr 0.01"
    assert train_timm.main(arguments(dataset, tmp_path / "one", extra)) == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, str(EXAMPLES / "train_timm.py"), *arguments(dataset, tmp_path / "two", extra)]
    subprocess.run(command, env=environment(), check=True, timeout=240, stderr=subprocess.DEVNULL)
    one, two = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("one", "two"))
    assert two["options"]["sync_bn"] is True and one["loader"] == two["loader"]
    for name, value in one["model"].items():
        torch.testing.assert_close(two["model"][name], value, atol=2e-4, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--loss kd", "say which with --teacher"),
        ("--teacher resnet18", "kl does not ask it"),
        ("--loss bake --class-mates 0", "--class-mates is 0, but bake"),
        ("--label-smoothing 0.1", "kl takes no hard labels"),
        ("--loss ce --loader {targets:&dense}", "targets dense would go unused"),
        ("--loss usi --teacher t --loader {targets:&dense}", "learns from the predictions of t"),
        ("--loader {size:&64}", "size is not for it: say --size"),
        ("--loader {dtype:&uint8}", "not normalised"),
        ("--loader {augment:&3}", "augment is 3"),
        ("--schedule step", "needs them"),
        ("--milestones [3]", "no other does"),
        ("--schedule step --milestones [3,&2]", "rising order"),
        ("--vbs [160,&320]", "--vbs is"),
        ("--vbs [160,&320,&400]", "smallest <="),
        ("--vbs [160,&320,&256] --size 224", "leave one of them out"),
        ("--mix-probability 2", "--mix-probability is 2.0"),
        ("--mixup -1", "--mixup is -1.0"),
        ("--bake-omega 1.5", "--bake-omega is 1.5"),
        ("--temperature 0", "--temperature is 0.0"),
        ("--eval-crop 0", "--eval-crop is 0.0"),
        ("--pretrained --init f", "both say where"),
        ("--loss bake --batch-size 9", "2 images that stay together"),
        ("--loss nll", "--loss"),
    ],
)
def test_wrong_options_are_named(
    train_timm: ModuleType, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        options(train_timm, words)
    assert caught.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("loss: nll", "'nll' is none of kl"),
        ("pretrained: 'yes'", "--pretrained: want true or false, got 'yes'"),
        ("loader: rrc", "loader is 'rrc', want a mapping"),
        ("teacher: [a, b]", "--teacher: want a text"),
        ("model: 3.5\nlr: [1]", "--lr: want a number"),
        ("- lr", "want options and their values"),
        ("lr: {", "not YAML"),
        ("recipe: other.yaml", "no such option: recipe"),
    ],
)
def test_wrong_recipes_are_named(
    train_timm: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(SystemExit) as caught:
        options(train_timm, f"--recipe {tmp_path / 'r.yaml'}")
    assert caught.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("--loader {targets:&full}", "targets full want all 6 classes stored, here are 2"),
        (
            "--loader {targets:&dense} --model-options {img_size:&64,num_classes:&9}",
            "are of 6 classes, the model has 9",
        ),
        ("--loader {windows:&3}", "no argument 'windows'"),
        ("--loader {augment:&{colour:&1}}", "not colour"),
        ("--loader {augment:&{rand_augment:&{strength:&1}}}", "not strength"),
        ("--loader {augment:&{mixing:&{}}}", "BatchMixing"),
        ("--loader {curriculum:&{start:&easy}}", "a curriculum wants end"),
        ("--loader {curriculum:&{start:&easy,end:&harder}}", "not 'harder'"),
        ("--model nosuchmodel", "--model nosuchmodel"),
        ("--model-options {depht:&3}", "cannot be made"),
        (
            "--model ig_resnext101_32x48d",
            "gives resnext101_32x8d.fb_wsl_ig1b_ft_in1k for this old name, which is another",
        ),
        ("--optimizer nosuch", "nosuch"),
        ("--data /nowhere", "/nowhere"),
        ("--loss kd --teacher nosuch", "nosuch"),
    ],
)
def test_wrong_values_are_one_message(
    train_timm: ModuleType, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: str, message: str
) -> None:
    assert train_timm.main(arguments(dataset, tmp_path, extra)) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("train_timm.py: error: ") and message in error and "\n" not in error


def test_defaults_that_depend_on_others(train_timm: ModuleType) -> None:
    plain, bake = options(train_timm, ""), options(train_timm, "--loss bake --batch-size 8")
    assert (plain.class_mates, plain.sync_bn, bake.class_mates, bake.sync_bn) == (0, False, 1, True)
    assert options(train_timm, "--loss bake --no-sync-bn --class-mates 3 --batch-size 8").sync_bn is False


def test_augmentation_of_a_recipe(learning: ModuleType) -> None:
    from dali_dr.augment.spec import RandAugment, RandomErasing, RandomResizedCrop

    value = {
        "interpolation": "bicubic",
        "rand_augment": {"magnitude": 7},
        "random_erasing": {},
        "crop": {"scale": [0.2, 1]},
    }
    assert learning.augmentation(value, 128) == dali_dr.AugmentationSpec(
        size=128,
        interpolation="bicubic",
        rand_augment=RandAugment(magnitude=7),
        random_erasing=RandomErasing(),
        crop=RandomResizedCrop(scale=(0.2, 1.0)),
    )
    assert learning.augmentation("rrc", 128) == "rrc"


def test_pretrained_weights_are_asked_of_timm(
    train_timm: ModuleType,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With a head for the classes at hand; a normalisation that the weights do not have is told, and so is a failure."""
    create, asked = train_timm.timm.create_model, []

    def without_network(name: str, pretrained: bool, **given: Any) -> torch.nn.Module:
        asked.append((name, pretrained, given["num_classes"]))
        if name == "test_resnet":
            raise RuntimeError("no network")
        return create(name, **given)  # type: ignore[no-any-return]

    monkeypatch.setattr(train_timm.timm, "create_model", without_network)
    assert train_timm.main(arguments(dataset, tmp_path, "--epochs 1 --pretrained")) == 0
    assert asked == [("test_vit", True, CLASSES)]
    assert "'{mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}' does that" in capsys.readouterr().out
    assert train_timm.main(arguments(dataset, tmp_path, "--pretrained --model test_resnet --model-options {}")) == 2
    assert "cannot be made with timm's weights" in capsys.readouterr().err
