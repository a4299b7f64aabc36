"""What the papers say of their training, typed from their tables and not read from the recipes, and which recipes have to say it.

ImageNet+: arXiv 2303.08983; FKD: 2112.01528; BAKE: 2104.13298; USI: 2204.03475. `paper` is what a paper or its tables
say; `code` what only its authors' code says; `ours` what neither does. Together they are all that a recipe may say.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

PLAIN, FULL = "rrc", "rrc+ra+re"
RAND_AUGMENT = {"num_ops": 2, "magnitude": 9, "num_bins": 31}  # torchvision's defaults
PADDED_CROP = {"resize": 256, "random": True}  # 224 pixels and 16 at each side
SGD = {"momentum": 0.9}
ADAMW = {"optimizer_options": {"betas": [0.9, 0.999]}}
NOT_STORED = {"p_reinforced": 1.0}  # the loader refuses another one beside `augment`
ONE_OF_BOTH = {"mix_probability": 1.0, "mix_switch_probability": 0.5}
BFLOAT16 = {"amp": "bfloat16"}
FLAT = {"channels_last": False}  # transformers gain nothing by it


@dataclass(frozen=True)
class Case:
    """A recipe, layers and all, and what it has to say.

    Attributes:
      files: its layers, below examples/recipes.
      models: the names that its comments give; the first is its own.
      paper, code, ours: options and their values.
    """

    files: tuple[str, ...]
    models: tuple[str, ...]
    paper: dict[str, Any]
    code: dict[str, Any] = field(default_factory=dict)
    ours: dict[str, Any] = field(default_factory=dict)

    @property
    def expected(self) -> dict[str, Any]:
        """All options that the recipe may set; `loader` is the union of what is said of it."""
        loader = {**self.ours.get("loader", {}), **self.code.get("loader", {}), **self.paper.get("loader", {})}
        return self.ours | self.code | self.paper | ({"loader": loader} if loader else {})

    @property
    def name(self) -> str:
        return " + ".join(file.removesuffix(".yaml") for file in self.files)

    def on_top(
        self,
        *files: str,
        paper: dict[str, Any] | None = None,
        code: dict[str, Any] | None = None,
        ours: dict[str, Any] | None = None,
        models: tuple[str, ...] | None = None,
    ) -> Case:
        """This recipe with further layers, and what those have to say instead of what was said before, wherever that was from."""
        old = {"paper": self.paper, "code": self.code, "ours": self.ours}
        new = {"paper": paper or {}, "code": code or {}, "ours": ours or {}}
        later = {name for said in new.values() for name in said} - {"loader"}
        merged = {part: {k: v for k, v in old[part].items() if k not in later} | new[part] for part in old}
        for part in old:
            if "loader" in old[part] and "loader" in new[part]:
                merged[part]["loader"] = old[part]["loader"] | new[part]["loader"]
        return replace(self, files=self.files + files, models=models or self.models, **merged)


# ImageNet+, Table 20: file, models, optimizer, lr, warm-up, weight decay, that of online KD and its layer, augmentation on
# plain ImageNet.
MOBILE, VITS = "online-kd-mobilenet", ("vit_small_patch16_224", "vit_tiny_patch16_224", "vit_base_patch16_224")
SWINS = "swin_tiny_patch4_window7_224", "swin_small_patch4_window7_224", "swin_base_patch4_window7_224"
BS = "efficientnet_b2", "efficientnet_b3", "efficientnet_b4"
TABLE_20 = [
    ("mobilenetv1", ("mobilenetv1_100",), "sgd", 0.8, 3, 4e-5, 4e-6, MOBILE, "none"),
    ("mobilenetv2-v3", ("mobilenetv2_100", "mobilenetv3_large_100"), "sgd", 0.4, 3, 4e-5, 4e-6, MOBILE, "none"),
    ("resnet", ("resnet50d", "resnet18d", "resnet101d"), "sgd", 0.4, 5, 1e-4, 1e-5, "online-kd-resnet", "full"),
    ("efficientnet", BS, "sgd", 0.4, 5, 4e-5, 4e-6, "online-kd-efficientnet", "full"),
    ("vit-swin", VITS + SWINS, "adamw", 1e-3, 5, 0.05, 0.005, "online-kd-vit-swin", "full"),
]
IMAGENET_PLUS_TEACHERS = (
    "resnext101_32x8d.fb_wsl_ig1b_ft_in1k,resnext101_32x16d.fb_wsl_ig1b_ft_in1k,"
    "resnext101_32x32d.fb_wsl_ig1b_ft_in1k,resnext101_32x32d@ig_resnext101_32x48-3e41cc8a.pth{base_width: 48}"
)


def table_20() -> list[Case]:
    folder, cases = "imagenet-plus/ablation", []
    for file, models, optimizer, lr, warmup, decay, kd_decay, kd_file, augmentation in TABLE_20:
        paper = {"loss": "kl", "temperature": 1.0, "optimizer": optimizer, "batch_size": 1024, "lr": lr, "epochs": 300}
        paper |= {"warmup_epochs": warmup, "weight_decay": decay, **(ADAMW if optimizer == "adamw" else SGD)}
        code = {"decay_all": True, "loader": {"p_reinforced": 0.99}}
        ours = BFLOAT16 | (FLAT if optimizer == "adamw" else {})
        plus = Case((f"{folder}/{file}.yaml",), models, paper, code, ours)
        full = augmentation == "full"
        augment = {"loader": {"augment": FULL if full else PLAIN} | NOT_STORED}
        plain = {"loss": "ce", **augment} | ({"mixup": 0.2, "cutmix": 1.0} if full else {})
        kd = {"loss": "kd", "temperature": 1.0, "label_smoothing": 0.0, "mixup": 1.0, "cutmix": 1.0, **augment}
        kd |= {"teacher": IMAGENET_PLUS_TEACHERS, "weight_decay": kd_decay}
        smoothing = {"label_smoothing": 0.1} | (ONE_OF_BOTH if full else {})
        cases += [
            plus,
            plus.on_top(f"{folder}/plain{'-full' * full}.yaml", paper=plain, code=smoothing),
            plus.on_top(f"{folder}/{kd_file}.yaml", paper=kd, code=ONE_OF_BOTH),
        ]
    return cases


# ImageNet+, Table 21: file, models, optimizer, batch, lr, warm-up, weight decay, resolution (or VBS: min, max, base), clip,
# augmentation on plain ImageNet.
V3S, VIT = ("mobilenetv3_large_100", "mobilenetv3_small_100"), ("vit_base_patch16_224", "vit_small_patch16_224")
RESNETS = "resnet50", "resnet18", "resnet34", "resnet101", "resnet152"
MOBILEVITS = "mobilevit_s", "mobilevit_xs", "mobilevit_xxs"
TABLE_21 = [
    ("mobilenetv1", ("mobilenetv1_100",), "sgd", 1024, 0.8, 3, 4e-5, 224, None, "none"),
    ("mobilenetv2", ("mobilenetv2_100", "mobilenetv2_050"), "sgd", 1024, 0.4, 3, 4e-5, 224, None, "none"),
    ("mobilenetv3", V3S, "sgd", 2048, 0.4, 3, 4e-5, 224, None, "none"),
    ("mobilevit", MOBILEVITS, "adamw", 1024, 0.002, 20, 0.01, [160, 320, 256], None, "none"),
    ("resnet", RESNETS, "sgd", 1024, 0.4, 5, 1e-4, 224, None, "full"),
    ("efficientnet-b2", BS[:1], "sgd", 2048, 0.8, 3, 4e-5, [144, 432, 288], None, "full"),
    ("efficientnet-b3", BS[1:2], "sgd", 2048, 0.8, 3, 4e-5, [150, 450, 300], None, "full"),
    ("efficientnet-b4", BS[2:], "sgd", 2048, 0.8, 3, 4e-5, [190, 570, 380], None, "full"),
    ("vit-tiny", ("vit_tiny_patch16_224",), "adamw", 2048, 0.002, 10, 0.05, 224, 1, "full"),
    ("vit", VIT, "adamw", 2048, 0.002, 10, 0.2, 224, 1, "full"),
    ("vit-base-384", ("vit_base_patch16_384",), "adamw", 2048, 0.002, 20, 0.2, [192, 576, 384], 1, "full"),
    ("swin", SWINS, "adamw", 1024, 0.001, 20, 0.05, 224, 5, "full"),
    ("swin-base-384", ("swin_base_patch4_window12_384",), "adamw", 1024, 0.001, 20, 0.05, [192, 576, 384], 5, "full"),
]
ANY_SIZE = {"vit-base-384": {"dynamic_img_size": True}, "swin-base-384": {"strict_img_size": False}}


def table_21() -> list[Case]:
    folder, cases = "imagenet-plus/cvnets", []
    for file, models, optimizer, batch, lr, warmup, decay, size, clip, augmentation in TABLE_21:
        paper = {"loss": "kl", "temperature": 1.0, "optimizer": optimizer, "batch_size": batch, "lr": lr, "epochs": 300}
        paper |= {"warmup_epochs": warmup, "weight_decay": decay, **(ADAMW if optimizer == "adamw" else SGD)}
        paper |= {"vbs": size, "eval_size": size[2]} if isinstance(size, list) else {"size": size}
        paper |= {"clip_grad": clip} if clip else {}
        paper |= BFLOAT16  # that precision is mixed is said; the kind of it is not
        code = {"decay_all": file == "mobilevit", "ema": 0.9995}
        ours = {**FLAT} if clip else {}
        ours |= {"model_options": ANY_SIZE[file]} if file in ANY_SIZE else {}
        plus = Case((f"{folder}/{file}.yaml",), models, paper, code, ours)
        full = augmentation == "full"
        plain = {"loss": "ce", "label_smoothing": 0.1, "loader": {"augment": FULL if full else PLAIN}}
        plain |= {"mixup": 0.2, "cutmix": 0.1} if full else {}
        layer = f"{folder}/plain{'-full' * full}.yaml"
        cases += [plus, plus.on_top(layer, paper=plain, code=ONE_OF_BOTH if full else {})]
    return cases


def curricula() -> list[Case]:
    """Appendix C.4, on top of the ablation's ResNet."""
    (resnet,) = (case for case in table_20() if case.files == ("imagenet-plus/ablation/resnet.yaml",))
    kinds = [(start, end) for start in ("easy", "hard", "all") for end in ("easy", "hard", "all")]
    kinds.remove(("all", "all"))
    said = {"part": 0.1, "by": "confidence"}
    return [
        resnet.on_top(
            f"curricula/{start}-to-{end}.yaml",
            paper={"loader": {"curriculum": {"start": start, "end": end} | said}},
        )
        for start, end in kinds
    ]


# ImageNet+, Table 23: file, model, optimizer, lr from scratch, lr pretrained, warm-up, weight decay, augmentation on the
# plain set.
TABLE_23 = [
    ("mobilenetv3", "mobilenetv3_large_100", "momentum", 0.2, 0.002, 0, 5e-4, "none"),
    ("resnet50", "resnet50d", "momentum", 0.2, 0.002, 0, 5e-4, "full"),
    ("swin-tiny", "swin_tiny_patch4_window7_224", "adamw", 1e-4, 1e-5, 5, 0.05, "full"),
]
SMALL_EPOCHS = {"cifar100": 1000, "flowers102": 10_000, "food101": 1000}
CIFAR_COLOURS = {"mean": [0.507075, 0.486549, 0.440918], "std": [0.267334, 0.256438, 0.276150]}


def table_23() -> list[Case]:
    folder, cases = "small-sets", []
    for data, epochs in SMALL_EPOCHS.items():
        cifar = data == "cifar100"
        set_code = {"eval_resize": 224, "loader": CIFAR_COLOURS} if cifar else {}
        for file, model, optimizer, scratch, pretrained, warmup, decay, augmentation in TABLE_23:
            paper = {"loss": "kl", "temperature": 1.0, "optimizer": optimizer, "lr": scratch, "warmup_epochs": warmup}
            paper |= {"weight_decay": decay, "batch_size": 256, "size": 224}
            paper |= ADAMW if optimizer == "adamw" else SGD
            code = {"decay_all": True, "loader": {"p_reinforced": 0.99}}
            ours = BFLOAT16 | {"eval_every": 10} | (FLAT if optimizer == "adamw" else {})
            plus = Case((f"{folder}/{file}.yaml",), (model,), paper, code, ours)
            plus = plus.on_top(f"{folder}/{data}.yaml", paper={"epochs": epochs}, code=set_code)
            full = augmentation == "full"
            layer = f"{folder}/{'cifar100-' * cifar}plain{'-full' * full}.yaml"
            augment = {"crop": PADDED_CROP} if cifar else {}
            augment |= {"rand_augment": RAND_AUGMENT} if full else {}
            said = {"loss": "ce", "loader": {"augment": augment or PLAIN} | NOT_STORED}
            known = {"label_smoothing": 0.1} | ({"mixup": 0.2, "cutmix": 1.0} | ONE_OF_BOTH if full else {})
            tuned = f"{folder}/pretrained-{'adamw' if optimizer == 'adamw' else 'sgd'}.yaml"
            for case in (plus, plus.on_top(layer, paper=said, code=known)):
                cases += [case, case.on_top(tuned, paper={"lr": pretrained})]
        teacher = {"loss": "ce", "label_smoothing": 0.1, "lr": 0.002, "weight_decay": 5e-4, "mixup": 1.0, "cutmix": 1.0}
        teacher |= {"optimizer": "momentum", "warmup_epochs": 0, "batch_size": 256, "size": 224} | SGD
        teacher |= {"loader": {"augment": {"rand_augment": RAND_AUGMENT}}}
        code = {"decay_all": True} | ONE_OF_BOTH
        made = Case((f"{folder}/teacher.yaml",), ("resnet152",), teacher, code, BFLOAT16 | {"eval_every": 10})
        made = made.on_top(f"{folder}/{data}.yaml", paper={"epochs": epochs}, code=set_code)
        if cifar:
            padded = {"crop": PADDED_CROP, "rand_augment": RAND_AUGMENT}
            made = made.on_top(f"{folder}/cifar100-teacher.yaml", paper={"loader": {"augment": padded}})
        cases.append(made)
    return cases


def fkd() -> list[Case]:
    both = {"loss": "soft-ce", "epochs": 300, "batch_size": 1024, "warmup_epochs": 5, "schedule": "cosine"}
    table_12 = both | {"optimizer": "momentum", "lr": 0.1, "weight_decay": 1e-4, "views_per_image": 4} | SGD
    table_13 = both | {"optimizer": "adamw", "lr": 0.002, "weight_decay": 0.05, **ADAMW}
    table_13 |= {"model_options": {"drop_path_rate": 0.1}}
    students = "vit_tiny_patch16_224", "fbnetc_100", "tf_efficientnetv2_b0"
    code_13 = {"views_per_image": 4, "warmup_lr": 1e-5, "decay_all": False}
    cases = [
        Case(("fkd/resnet.yaml",), ("resnet50", "resnet101"), table_12, {"decay_all": True}, BFLOAT16),
        Case(("fkd/vit-tiny.yaml",), students, table_13, code_13, BFLOAT16 | FLAT),
    ]
    stepped = [case.on_top("fkd/serrated.yaml", code={"schedule": "serrated"}) for case in cases]
    rest = table_12 | {"decay_all": True} | BFLOAT16
    kept = {name: value for name, value in rest.items() if name not in ("loss", "epochs")}
    without_labels = [  # outputs and temperature are the data set's
        Case((f"fkd/{method}.yaml",), ("resnet50",), {"loss": "soft-ce", "epochs": epochs}, {}, kept)
        for method, epochs in (("moco-v2", 200), ("swav", 100))
    ]
    return cases + stepped + without_labels


# BAKE on ImageNet: layers, models, lr for a batch of 256; weight decay of ResNet-50 as said of its configuration, of the
# others in theirs.
BAKE_RESNETS = "resnet50", "resnet101", "resnet152", "resnest50d", "resnest101e", "resnext101_32x4d"
BAKE = [
    ((), BAKE_RESNETS, 0.2, 5e-5),
    (("bake/mobilenetv2.yaml",), ("mobilenetv2_100",), 0.05, 4e-5),
    (("bake/efficientnet-b0.yaml",), ("efficientnet_b0",), 0.4, 1e-5),
]
# Its small sets: layers, batch, M, omega (the sets of each: docs/recipes.md).
BAKE_SMALL = [
    ((), 128, 3, 0.5),
    (("bake/small-m1.yaml",), 128, 1, 0.9),
    (("bake/small-fine-grained.yaml",), 32, 3, 0.5),
    (("bake/small-m1.yaml", "bake/small-fine-grained.yaml"), 32, 1, 0.9),
]


def bake() -> list[Case]:
    loss = {"loss": "bake", "bake_weight": 1.0, "bake_temperature": 4.0, "sync_bn": True}
    imagenet = loss | {"bake_omega": 0.5, "class_mates": 1, "optimizer": "sgd", **SGD, "schedule": "cosine"}
    batch = 2 * 256  # the images of the paper's N, each with a mate
    imagenet |= {"batch_size": batch, "warmup_epochs": 5, "epochs": 100}
    cases = []
    for layers, models, base, decay in BAKE:
        lr = base * batch / 256
        paper = imagenet | {"lr": lr, "weight_decay": decay}
        code = {"warmup_lr": lr / 10, "decay_all": True, "loader": {"augment": PLAIN}}
        cases.append(Case(("bake/imagenet.yaml", *layers), models, paper, code, BFLOAT16))
    swin = loss | {"bake_omega": 0.5, "class_mates": 1, "batch_size": 2 * 512, "epochs": 300}
    swins = {"model_options": {"drop_path_rate": 0.2}, "optimizer": "adamw", **ADAMW, "lr": 1e-3, "warmup_lr": 1e-6}
    swins |= {"min_lr": 1e-5, "weight_decay": 0.05, "warmup_epochs": 20, "schedule": "cosine", "clip_grad": 5.0}
    swins |= {"decay_all": False, "label_smoothing": 0.1, "loader": {"augment": "deit"}}
    swins |= {"eval_interpolation": "bicubic"}
    cases.append(Case(("bake/swin.yaml",), SWINS, swin, swins, BFLOAT16 | FLAT))
    for layers, size, mates, omega in BAKE_SMALL:
        paper = loss | {"bake_omega": omega, "class_mates": mates, "batch_size": size, "lr": 0.1, **SGD}
        paper |= {"optimizer": "momentum", "schedule": "step", "milestones": [100, 150], "gamma": 0.1, "epochs": 200}
        code = {"weight_decay": 1e-4, "decay_all": True, "warmup_epochs": 0, "loader": {"augment": PLAIN}}
        cases.append(Case(("bake/small.yaml", *layers), ("resnet18", "densenet121"), paper, code))
    return cases


def usi() -> list[Case]:
    paper = {"loss": "usi", "epochs": 300, "optimizer": "adamw", "lr": 2e-3, "weight_decay": 2e-2, "mixup": 0.8}
    paper |= {"cutmix": 1.0, "temperature": 1.0, "alpha": 5.0, "schedule": "one-cycle", "eval_crop": 0.95}
    paper |= {"loader": {"repeats": 3, "augment": "usi"}, "teacher": "tresnet_v2_l.miil_in21k_ft_in1k"}
    code = ONE_OF_BOTH | {"label_smoothing": 0.0, "eval_interpolation": "bicubic", "decay_all": False}
    base = Case(("usi/usi.yaml",), ("resnet50",), paper, code, BFLOAT16 | {"batch_size": 1536})
    cosine = {"schedule": "cosine", "warmup_epochs": 5, "warmup_lr": 1e-4, "min_lr": 1e-6}
    stored = {"teacher": None, "mixup": 0.0, "cutmix": 0.0, "loader": {"augment": None}}
    return [base, base.on_top("usi/cosine.yaml", paper=cosine), base.on_top("usi/stored.yaml", paper=stored)]


def published() -> list[Case]:
    """Sets that others publish, with the configuration that their code has for them."""
    plus = {"loss": "kl", "optimizer": "sgd", "lr": 0.4, "weight_decay": 1e-4, "warmup_epochs": 5, "epochs": 150} | SGD
    plus |= {"batch_size": 1024}
    plus_code = {"decay_all": True, "loader": {"p_reinforced": 0.99}}
    relabel = {"loss": "soft-ce", "optimizer": "sgd", "lr": 0.1, "weight_decay": 1e-4, "warmup_epochs": 5} | SGD
    relabel |= {"batch_size": 1024, "epochs": 300}
    return [
        Case(("imagenet-plus/published.yaml",), ("resnet50d",), plus, plus_code, BFLOAT16),
        Case(("relabel/resnet50.yaml",), ("resnet50",), relabel, {"decay_all": True}, BFLOAT16),
    ]


CASES = [*table_20(), *table_21(), *curricula(), *table_23(), *fkd(), *bake(), *usi(), *published()]
