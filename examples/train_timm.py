"""Trains any timm model on a reinforced data set: on a CPU, a GPU, or any number of GPUs under torchrun.

    python examples/train_timm.py --recipe examples/recipes/imagenet-plus-resnet50.yaml \\
        --data imagenet-plus --val imagenet-val --out runs/resnet50
    torchrun --nproc-per-node 8 examples/train_timm.py --recipe …   # the batch size is that of all processes together

Values come from the defaults below, then from the recipes in their order, then from the command line; mappings are merged.

The same command goes on where a run was interrupted (SIGTERM and Ctrl-C write a checkpoint first): on exactly the next batch
and, on a CPU, to exactly the weights of an uninterrupted run, because everything random and the learning rate depend on the
place in the run alone, and that is `loader.state_dict()`. OUT/log.jsonl gets a line every --log-every steps and per evaluation.

Exit status: 0 when trained to the end, 75 when interrupted (run it again; torchrun turns it into 1), 2 for a wrong option.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml
from torch.nn.functional import cross_entropy
from tqdm import tqdm

import dali_dr
from dali_dr import losses
from dali_dr._plugin import build_facts
from dali_dr._torchvision import load_torchvision

load_torchvision()  # before timm imports it; matters only beside a CPU build of torch
import timm  # noqa: E402
import timm.optim  # noqa: E402
import timm.utils  # noqa: E402

INTERRUPTED = 75  # EX_TEMPFAIL
DTYPES = {"none": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, flag, mapping = parser.add_argument, argparse.BooleanOptionalAction, yaml.safe_load
    add("--recipe", type=Path, nargs="*", default=[], help="YAML files with values of the options below")
    add("--data", help="the data set to train on")
    add("--val", help="the data set to evaluate on; none: no evaluation")
    add("--out", type=Path, help="folder for last.pt, best.pt and log.jsonl")
    add("--model", default="resnet50", help="timm's name")
    add("--model-options", type=mapping, default={}, help="of timm.create_model, as YAML: '{drop_path_rate: 0.1}'")
    add("--init", type=Path, help="start from the weights of this checkpoint or state dict, but for another head")
    add("--loader", type=mapping, default={}, help="further options of ReinforcedIterator: '{augment: rrc}'")
    add("--size", type=int, help="of the views; default: as stored")
    add("--eval-size", type=int, help="default: that of the views")
    add("--eval-resize", type=int, default=0, help="of the shorter side, before the centre crop; default: size / 0.875")
    add("--batch-size", type=int, default=1024, help="views per step, of all processes together")
    add("--views-per-image", type=int, default=1)
    add("--epochs", type=int, default=150)
    add("--loss", choices=("kl", "soft-ce", "usi", "bake", "ce"), default="kl")
    add("--temperature", type=float, default=1.0, help="of kl and usi")
    add("--alpha", type=float, default=5.0, help="weight of the teacher in usi")
    add("--label-smoothing", type=float, default=0.0, help="of ce")
    add("--optimizer", default="sgd", help="timm's name: sgd is Nesterov's, momentum the plain one")
    add("--optimizer-options", type=mapping, default={}, help="as YAML: '{betas: [0.9, 0.95]}'")
    add("--lr", type=float, default=0.4)
    add("--min-lr", type=float, default=0.0)
    add("--warmup-epochs", type=float, default=5.0, help="linear, from --warmup-lr")
    add("--warmup-lr", type=float, default=0.0)
    add("--momentum", type=float, default=0.9)
    add("--weight-decay", type=float, default=1e-4)
    add("--decay-all", action=flag, default=True, help="weight decay on norms and biases too")
    add("--clip-grad", type=float, default=0.0, help="norm; 0: none")
    add("--ema", type=float, default=0.0, help="decay of averaged weights, which are then evaluated; 0: none")
    add("--amp", choices=DTYPES, default="none")
    add("--channels-last", action=flag, default=True)
    add("--compile", action=flag, default=False)
    add("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    add("--seed", type=int, default=0)
    add("--eval-every", type=int, default=1, help="epochs")
    add("--log-every", type=int, default=50, help="steps")
    add("--checkpoint-every", type=int, default=1000, help="steps; and after every epoch")
    add("--stop-after", type=int, default=0, help="interrupt the run after so many steps; 0: never")
    nested = "model_options", "optimizer_options", "loader"
    for path in parser.parse_known_args(argv)[0].recipe:
        values = {str(name).replace("-", "_"): value for name, value in yaml.safe_load(path.read_text()).items()}
        if unknown := values.keys() - {action.dest for action in parser._actions}:
            parser.error(f"{path}: no such option: {', '.join(sorted(unknown))}")
        values |= {name: parser.get_default(name) | values[name] for name in nested if name in values}
        # Numbers as strings, which argparse checks as it does those of the command line (YAML itself takes 1e-4 for one).
        parser.set_defaults(**{k: str(v) if type(v) in (int, float) else v for k, v in values.items()})
    options = parser.parse_args(argv)
    for name in nested:
        setattr(options, name, parser.get_default(name) | getattr(options, name))
    if not options.data or not options.out:
        parser.error("--data and --out are needed")
    options.ranks, options.rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    if options.batch_size < 1 or options.batch_size % (options.ranks * options.views_per_image):
        parser.error(f"--batch-size: want a multiple of {options.ranks} processes × {options.views_per_image} views")
    return options


class Run:
    """A model, its optimizer, its data, and how far training is."""

    def __init__(self, options: argparse.Namespace) -> None:
        o = self.options = options
        self.device = torch.device(o.device, int(os.environ.get("LOCAL_RANK", 0)) if o.device == "cuda" else None)
        memory = torch.channels_last if o.channels_last else torch.contiguous_format

        data: dict[str, Any] = {"batch_size": o.batch_size // o.ranks // o.views_per_image}
        data["device"] = "gpu" if o.device == "cuda" and build_facts().get("cuda") else "cpu"
        data["layout"] = "HWC" if o.channels_last else "CHW"  # HWC is channels-last without a copy
        data |= {name: o.loader[name] for name in ("mean", "std", "num_threads", "hw_decoder_load") if name in o.loader}
        own = {"size": o.size, "seed": o.seed, "views_per_image": o.views_per_image, "last_batch": "fill"}
        own["class_mates"] = int(o.loss == "bake")
        self.loader = dali_dr.ReinforcedIterator(o.data, **data | own | o.loader)
        spec = self.loader.dataset.manifest.spec
        evaluation = dali_dr.Evaluation(o.eval_size or o.size or (spec.size if spec else 224), o.eval_resize)
        self.val = dali_dr.ReinforcedIterator(o.val, **data, augment=evaluation) if o.val else None

        teacher = self.loader.dataset.manifest.teacher or {}
        embeds = teacher.get("target") == "embedding"  # of a self-supervised teacher: FKD, section 3.4
        self.stored_temperature = teacher.get("temperature", 1.0) if embeds else 1.0
        if embeds and (o.val or o.loss not in ("kl", "soft-ce")):
            raise SystemExit(f"{o.data}: holds embeddings, of no classes: want --loss kl or soft-ce, and no --val")

        torch.manual_seed(o.seed)
        arguments = {"num_classes": self.loader.dataset.num_outputs} | o.model_options
        self.model = timm.create_model(o.model, **arguments)
        if o.init:
            start_from(self.model, o.init)
        self.model.to(self.device, memory_format=memory)
        settings = {"lr": o.lr, "weight_decay": o.weight_decay, "momentum": o.momentum} | o.optimizer_options
        self.optimizer = timm.optim.create_optimizer_v2(
            self.model, opt=o.optimizer, filter_bias_and_bn=not o.decay_all, **settings
        )
        self.scaler = torch.amp.GradScaler(o.device, enabled=o.amp == "float16")
        self.ema = timm.utils.ModelEmaV3(self.model, decay=o.ema) if o.ema else None
        self.model.get_classifier().register_forward_pre_hook(self._keep_features)
        self.parts = {"model": self.model, "optimizer": self.optimizer, "scaler": self.scaler, "loader": self.loader}
        self.parts |= {"ema": self.ema.module} if self.ema else {}
        self.evaluated, self.best = 0, -1.0
        self.net = self.model if o.ranks == 1 else torch.nn.parallel.DistributedDataParallel(self.model)
        self.net = torch.compile(self.net) if o.compile else self.net
        self.interrupted = False

    def _keep_features(self, classifier: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.features = inputs[0]  # for BAKE

    def place(self) -> tuple[int, int, float]:
        """The loader's epoch, the samples consumed of it, and the epochs trained: views seen per image."""
        state = self.loader.state_dict()
        epochs = state["epoch"] + state["consumed"] / state["length"]
        return state["epoch"], state["consumed"], epochs * self.options.views_per_image

    def save(self) -> None:
        """Writes last.pt so that a kill leaves the old one or the new one."""
        state = {name: part.state_dict() for name, part in self.parts.items()}
        if self.options.rank == 0:
            kept = {k: v for k, v in vars(self.options).items() if not isinstance(v, (Path, list))}
            state |= {"evaluated": self.evaluated, "best": self.best, "options": kept}
            torch.save(state, self.options.out / "last.pt.tmp")
            (self.options.out / "last.pt.tmp").replace(self.options.out / "last.pt")

    def load(self) -> None:
        state = torch.load(self.options.out / "last.pt", map_location="cpu", weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.evaluated, self.best = state["evaluated"], state["best"]
        self.log(resumed=round(self.place()[2], 6))

    def log(self, **values: Any) -> None:
        if self.options.rank == 0:
            with (self.options.out / "log.jsonl").open("a") as file:
                file.write(json.dumps(values) + "\n")

    def learning_rate(self, epochs: float) -> float:
        o = self.options
        if epochs < o.warmup_epochs:
            return o.warmup_lr + (o.lr - o.warmup_lr) * epochs / o.warmup_epochs
        part = (epochs - o.warmup_epochs) / max(o.epochs - o.warmup_epochs, 1e-9)
        return o.min_lr + (o.lr - o.min_lr) * (1 + math.cos(math.pi * part)) / 2

    def forward(self, model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        images = batch["data"].permute(0, 3, 1, 2) if self.options.channels_last else batch["data"]
        with torch.autocast(self.device.type, DTYPES[self.options.amp], enabled=self.options.amp != "none"):
            logits: torch.Tensor = model(images)
        return logits.float()

    def loss(self, logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        o, labels, teacher = self.options, batch["label"], (batch["soft_ids"], batch["soft_probs"])
        logits = logits / self.stored_temperature  # embeddings are compared at the temperature that they are stored at
        if o.loss == "kl":
            return losses.kl_divergence(logits, *teacher, temperature=o.temperature)
        if o.loss == "soft-ce":
            return losses.soft_cross_entropy(logits, *teacher)
        if o.loss == "usi":
            return losses.usi_loss(logits, labels, *teacher, alpha=o.alpha, temperature=o.temperature)
        if o.loss == "bake":
            return losses.bake_loss(logits, self.features, labels)
        return cross_entropy(logits, labels, label_smoothing=o.label_smoothing)

    def step(self, batch: dict[str, torch.Tensor], place: tuple[int, int, float]) -> torch.Tensor:
        """One step of the optimizer; `place` is where the run stood before the batch."""
        o = self.options
        torch.manual_seed(hash((o.seed, o.rank, *place[:2])))  # dropout and drop path resume exactly, too
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(place[2])
        batch = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
        loss = self.loss(self.forward(self.net, batch), batch)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        if o.clip_grad:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), o.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema:
            self.ema.update(self.model)
        return loss.detach()

    def train(self) -> bool:
        """Trains to the end; False if interrupted before."""
        o, steps = self.options, 0
        while (place := self.place())[2] < o.epochs:
            self.evaluate()  # only where the run was interrupted before it could
            length, seen, views, since = len(self.loader), [], 0, time.perf_counter()
            done = round(length * place[1] / self.loader.state_dict()["length"])
            bar = tqdm(total=length, initial=done, desc=f"epoch {place[0]}", disable=o.rank > 0, leave=False)
            for (batch,) in self.loader:
                seen.append(self.step(batch, place))
                place, steps, views = self.place(), steps + 1, views + len(batch["label"])
                bar.update()
                logging = steps % o.log_every == 0 or place[1] == 0  # or at the end of an epoch
                if logging:
                    loss = torch.stack(seen).mean().item()
                    rate = views * o.ranks / (time.perf_counter() - since)
                    facts = {"views_per_second": round(rate, 1), "wait": round(self.loader.stats()["wait"], 5)}
                    self.log(epochs=round(place[2], 6), loss=loss, lr=self.learning_rate(place[2]), **facts)
                    bar.set_postfix(loss=f"{loss:.3f}", **facts)
                    seen, views, since = [], 0, time.perf_counter()
                if self._must_stop(steps, logging):
                    bar.close()
                    self.save()
                    return False
                if steps % o.checkpoint_every == 0:
                    self.save()
            bar.close()
            self.evaluate()
            self.save()
        self.evaluate()
        return True

    def _must_stop(self, steps: int, logging: bool) -> bool:
        """Whether to interrupt the run here; every rank gets the same answer (so only where all wait anyway)."""
        if self.options.ranks == 1 or steps == self.options.stop_after:
            return self.interrupted or steps == self.options.stop_after
        return logging and self._sum(torch.tensor([float(self.interrupted)], device=self.device))[0] > 0

    def _sum(self, values: torch.Tensor) -> list[float]:
        """The sum over all ranks."""
        if self.options.ranks > 1:
            dist.all_reduce(values)
        return values.tolist()

    @torch.no_grad()
    def evaluate(self) -> None:
        """Logs loss, top-1 and top-5 on --val when they are due, and keeps the weights of the best top-1."""
        epoch, _, epochs = self.place()
        due = epoch % self.options.eval_every == 0 or epochs >= self.options.epochs
        if self.val is None or epoch == self.evaluated or not due:
            return
        model = (self.ema.module if self.ema else self.model).eval()
        sums = torch.zeros(4, dtype=torch.float64, device=self.device)  # images, loss, top-1, top-5
        for (batch,) in self.val:
            batch = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
            logits, label = self.forward(model, batch), batch["label"]
            hits = logits.topk(min(5, logits.shape[1])).indices == label[:, None]
            counts = len(label), cross_entropy(logits, label, reduction="sum"), hits[:, 0].sum(), hits.sum()
            sums += torch.stack([torch.as_tensor(n, dtype=torch.float64, device=self.device) for n in counts])
        self.model.train()
        images, loss, top1, top5 = self._sum(sums)
        figures = {"eval_loss": loss / images, "top1": top1 / images, "top5": top5 / images}
        self.log(epochs=round(epochs, 6), **figures, images=int(images))
        if self.options.rank == 0 and figures["top1"] > self.best:
            torch.save({"model": model.state_dict(), **figures}, self.options.out / "best.pt")
        self.evaluated, self.best = epoch, max(self.best, figures["top1"])


def start_from(model: torch.nn.Module, path: Path) -> None:
    """Loads weights for fine-tuning; those of another shape, as the head for other classes, stay as they are."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = state.get("ema", state.get("model", state))
    own = model.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    if len(fitting) < len(own) / 2:
        raise SystemExit(f"{path}: only {len(fitting)} of the model's {len(own)} tensors are in there; another model?")
    model.load_state_dict(fitting, strict=False)
    print(f"{path}: {len(fitting)} tensors; from scratch: {', '.join(own.keys() - fitting.keys()) or 'none'}")


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    if options.device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        torch.backends.cudnn.benchmark = True
    if options.ranks > 1:
        dist.init_process_group("nccl" if options.device == "cuda" else "gloo")
    options.out.mkdir(parents=True, exist_ok=True)
    run = Run(options)
    if (options.out / "last.pt").exists():
        run.load()

    def interrupt(*_: object) -> None:
        run.interrupted = True

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return 0 if run.train() else INTERRUPTED
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if options.ranks > 1:
            dist.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
