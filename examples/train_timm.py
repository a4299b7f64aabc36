"""Trains any timm model on a reinforced data set: on a CPU, a GPU, or any number of GPUs under torchrun.

    python examples/train_timm.py --recipe examples/recipes/imagenet-plus/cvnets/resnet.yaml \\
        --data imagenet-plus --val imagenet-val --out runs/resnet50
    torchrun --nproc-per-node 8 examples/train_timm.py --recipe …   # the batch size is that of all processes together

Values come from the defaults below, then from the recipes in their order, then from the command line; mappings are merged.

The same command goes on where a run was interrupted (SIGTERM and Ctrl-C write a checkpoint first): on exactly the next batch
and, on a CPU, to exactly the weights of an uninterrupted run, because everything random and the learning rate depend on the
place in the run alone, and that is `loader.state_dict()`. Another command, of another loss or rate, is refused there unless
--accept-changes says that it is meant. OUT/log.jsonl gets a line every --log-every steps and per evaluation.

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
from torch.nn.functional import cross_entropy
from tqdm import tqdm

import dali_dr
from dali_dr._plugin import build_facts
from dali_dr._torchvision import load_torchvision
from dali_dr.distributed import convert_sync_batchnorm
from dali_dr.reinforce.teacher_names import check_renamed

load_torchvision()  # before timm imports it; matters only beside a CPU build of torch
import timm  # noqa: E402
import timm.optim  # noqa: E402
import timm.utils  # noqa: E402

sys.path.insert(
    0, str(Path(__file__).resolve().parent)
)  # the files beside this one, also where it is loaded by its path
import train_timm_checkpoints as checkpoints  # noqa: E402
import train_timm_options  # noqa: E402
from train_timm_checks import check_sizes, check_targets, check_val  # noqa: E402
from train_timm_options import DTYPES, group_of, kept  # noqa: E402
from train_timm_schedules import batch_shapes, learning_rate  # noqa: E402
from train_timm_targets import Objective, augmentation, curriculum  # noqa: E402

INTERRUPTED = 75  # EX_TEMPFAIL
WRONG = 2  # as argparse says of a wrong option


def parse(argv: list[str] | None) -> argparse.Namespace:
    return train_timm_options.parse(argv, __doc__)


class Run:
    """A model, its optimizer, its data, and how far training is."""

    def __init__(self, options: argparse.Namespace) -> None:
        o = self.options = options
        self.goes_on = (o.out / "last.pt").exists()
        self.device = torch.device(o.device, int(os.environ.get("LOCAL_RANK", 0)) if o.device == "cuda" else None)
        self._load_data()
        self._make_model()
        stored = self._embeddings().get("temperature", 1.0)
        self.objective = Objective(o, self.model.num_classes, self.loader.show, self.device, stored)
        settings = {"lr": o.lr, "weight_decay": o.weight_decay, "momentum": o.momentum} | o.optimizer_options
        try:
            self.optimizer = timm.optim.create_optimizer_v2(
                self.model, opt=o.optimizer, filter_bias_and_bn=not o.decay_all, **settings
            )
        except (TypeError, ValueError, AssertionError, RuntimeError, ImportError) as error:
            raise ValueError(f"--optimizer {said(o.optimizer, o.optimizer_options)}: {error}") from error
        self.scaler = torch.amp.GradScaler(o.device, enabled=o.amp == "float16")
        self.ema = timm.utils.ModelEmaV3(self.model, decay=o.ema) if o.ema else None
        self.features: torch.Tensor | None = None
        if o.loss == "bake":
            self.model.get_classifier().register_forward_pre_hook(self._keep_features)
        self.parts = {"model": self.model, "optimizer": self.optimizer, "scaler": self.scaler, "loader": self.loader}
        self.parts |= {"ema": self.ema.module} if self.ema else {}
        self.evaluated, self.best = 0, -1.0
        self.net = self.model if o.ranks == 1 else torch.nn.parallel.DistributedDataParallel(self.model)
        self.net = torch.compile(self.net) if o.compile else self.net
        self.interrupted = False

    def _load_data(self) -> None:
        o = self.options
        batch = o.batch_size // o.ranks // o.views_per_image
        both: dict[str, Any] = {"batch_size": batch}
        both["device"] = "gpu" if o.device == "cuda" and build_facts().get("cuda") else "cpu"
        both["layout"] = "HWC" if o.channels_last else "CHW"  # HWC is channels-last without a copy
        both |= {name: o.loader[name] for name in ("mean", "std", "num_threads", "hw_decoder_load") if name in o.loader}
        data = dali_dr.Dataset(o.data, lossy=o.loader.get("on_error") == "skip")
        stored = data.manifest.spec.size if data.manifest.spec else None
        size = o.vbs[2] if o.vbs else o.size
        shapes = batch_shapes(o.vbs, batch, group_of(o)) if o.vbs else []
        own = {"seed": o.seed, "views_per_image": o.views_per_image, "class_mates": o.class_mates, "last_batch": "fill"}
        own["size"] = shapes or o.size
        given = dict(o.loader)
        if "augment" in given:
            given["augment"] = augmentation(given["augment"], size or stored)
        if "curriculum" in given:
            given["curriculum"] = curriculum(given["curriculum"], math.ceil(o.epochs / o.views_per_image))
        try:
            self.loader = dali_dr.ReinforcedIterator(data, **both | own | given)
        except TypeError as error:
            raise ValueError(f"--loader: {error}") from error
        drawn = getattr(given.get("augment"), "size", None) or stored or 224
        self.size = size or drawn
        edge = o.eval_size or self.size
        resize = o.eval_resize or math.floor(edge / o.eval_crop)
        self.evaluation = dali_dr.Evaluation(edge, resize, o.eval_interpolation)
        self.val = dali_dr.ReinforcedIterator(o.val, **both, augment=self.evaluation) if o.val else None
        self.sizes = [size for size, _ in shapes] or [self.size]
        self.sizes += [edge] if self.val else []
        self.step_epochs = o.batch_size / self.loader.state_dict()["length"]  # views of a step per image of an epoch

    def _embeddings(self) -> dict[str, Any]:
        """What the manifest says of a teacher whose stored outputs are no classes (FKD, section 3.4); else nothing."""
        teacher = self.loader.dataset.manifest.teacher or {}
        embeds = teacher.get("target") == "embedding" and self.loader.show.augment is None
        return dict(teacher) if embeds else {}

    def _make_model(self) -> None:
        """The student, with as many outputs as the targets have."""
        o, data = self.options, self.loader.dataset
        embeds = bool(self._embeddings()) and not o.teacher
        if embeds and (o.val or o.loss not in ("kl", "soft-ce")):
            raise ValueError(f"{o.data}: holds embeddings, of no classes: want --loss kl or soft-ce, and no --val")
        check_renamed(f"--model {o.model}", o.model)
        torch.manual_seed(o.seed)
        arguments = {"num_classes": data.num_outputs if embeds else data.num_classes} | o.model_options
        try:
            self.model = timm.create_model(o.model, pretrained=o.pretrained and not self.goes_on, **arguments)
        except Exception as error:  # timm, the hub and the models' own, of every kind
            weights = " with timm's weights (without network, take a file: --init)" if o.pretrained else ""
            raise ValueError(f"--model {said(o.model, o.model_options)}: cannot be made{weights}: {error}") from error
        config, show = self.model.pretrained_cfg, self.loader.show
        if o.pretrained and o.rank == 0 and (tuple(config["mean"]), tuple(config["std"])) != (show.mean, show.std):
            own = f"{{mean: {list(config['mean'])}, std: {list(config['std'])}}}"
            print(
                f"--pretrained: these weights were trained on images normalised otherwise; --loader '{own}' does that"
            )
        check_targets(o, self.model.num_classes, data, self.loader.show.augment is not None)
        if self.val:
            check_val(o, self.model.num_classes, data, self.val.dataset)
        check_sizes(o, self.model, self.sizes)
        if o.init and not self.goes_on:
            checkpoints.start_from(self.model, o.init)
        if o.sync_bn and o.ranks > 1:
            self.model = convert_sync_batchnorm(self.model, o.device)
        self.model.to(self.device, memory_format=torch.channels_last if o.channels_last else torch.contiguous_format)

    def _keep_features(self, classifier: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.features = inputs[0]  # for BAKE

    def described(self) -> dict[str, Any]:
        """What a checkpoint says of itself: enough to build the model and to evaluate it."""
        shown = {"mean": list(self.loader.show.mean), "std": list(self.loader.show.std)}
        sizes = {"size": self.size, "eval_size": self.evaluation.size, "eval_resize": self.evaluation.resize}
        known = {"num_classes": self.model.num_classes, "loader": self.options.loader | shown}
        known["val_data"] = self.val.state_dict()["data"] if self.val else None
        return kept(self.options) | sizes | known

    def place(self) -> tuple[int, int, float]:
        """The loader's epoch, the samples consumed of it, and the epochs trained: views seen per image."""
        state = self.loader.state_dict()
        epochs = state["epoch"] + state["consumed"] / state["length"]
        return state["epoch"], state["consumed"], epochs * self.options.views_per_image

    def save(self) -> None:
        """Writes last.pt."""
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"evaluated": self.evaluated, "best": self.best, "options": self.described()}
        self._write("last.pt", state)

    def _write(self, name: str, content: dict[str, Any]) -> None:
        """Writes a file so that a kill leaves the old one or the new one."""
        if self.options.rank == 0:
            torch.save(content, self.options.out / f"{name}.tmp")
            (self.options.out / f"{name}.tmp").replace(self.options.out / name)

    def load(self) -> None:
        """Goes on with last.pt.

        Raises:
          ValueError: it is of another run, or does not fit.
        """
        o, path = self.options, self.options.out / "last.pt"
        state = checkpoints.read(path, "")
        if missing := [part for part in ("model", "optimizer", "loader", "evaluated", "best") if part not in state]:
            raise ValueError(f"{path}: has no {missing[0]}: not a last.pt of this script; choose another --out")
        changes = self._changes(state)
        if changes and (any(change.final for change in changes) or not o.accept_changes):
            raise ValueError(checkpoints.refusal(o.out, changes))
        fresh = [dict(group) for group in self.optimizer.param_groups]
        for name, part in self.parts.items():
            try:
                if state[name] or name != "scaler":  # empty: that of a run without float16
                    part.load_state_dict(state[name])
            except (KeyError, RuntimeError, ValueError, TypeError) as error:
                raise ValueError(
                    f"{path}: its {name} does not fit ({type(error).__name__}); choose another --out"
                ) from error
        self.evaluated, self.best = state["evaluated"], state["best"]
        changed = {change.name.split(".")[0] for change in changes}
        if changed & checkpoints.EVALUATION:
            self.best = -1.0  # figures of another evaluation say nothing here
        if changed & {"weight_decay", "momentum", "optimizer_options"}:  # the optimizer's state brought the old ones
            then = state["options"].get("optimizer_options", {})
            for group, own in zip(self.optimizer.param_groups, fresh, strict=True):
                group |= {n: own[n] for n in own if n in {"weight_decay", "momentum", *then, *o.optimizer_options}}
        said_changes = {change.name: [change.then, change.now] for change in changes}
        self.log(resumed=round(self.place()[2], 6), **({"changed": said_changes} if changes else {}))

    def _changes(self, state: dict[str, Any]) -> list[checkpoints.Change]:
        """What differs from the run that a checkpoint is of."""
        final = {"optimizer", "decay_all"} | ({"ema"} if self.ema and "ema" not in state else set())
        if not checkpoints.fits(self.model, state["model"]):
            final |= {"model", "model_options"}
        here = self.described(), state["loader"], self.loader.state_dict(), final
        return checkpoints.what_changed(state.get("options", {}), *here)

    def log(self, **values: Any) -> None:
        if self.options.rank == 0:
            with (self.options.out / "log.jsonl").open("a") as file:
                file.write(json.dumps(values) + "\n")

    def learning_rate(self, epochs: float) -> float:
        return learning_rate(self.options, epochs, self.step_epochs)

    def forward(self, model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, C) float32 of images (B, 3, H, W)."""
        with torch.autocast(self.device.type, DTYPES[self.options.amp], enabled=self.options.amp != "none"):
            logits: torch.Tensor = model(images)
        return logits.float()

    def step(self, batch: dict[str, torch.Tensor], place: tuple[int, int, float]) -> torch.Tensor:
        """One step of the optimizer; `place` is where the run stood before the batch."""
        o = self.options
        torch.manual_seed(hash((o.seed, o.rank, *place[:2])))  # dropout and drop path resume exactly, too
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(place[2])
        batch = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
        images, targets = self.objective.prepare(batch, *place[:2])
        loss = self.objective.loss(self.forward(self.net, images), self.features, targets)
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
            images, label = batch["data"], batch["label"]
            logits = self.forward(model, images.permute(0, 3, 1, 2) if self.options.channels_last else images)
            hits = logits.topk(min(5, logits.shape[1])).indices == label[:, None]
            counts = len(label), cross_entropy(logits, label, reduction="sum"), hits[:, 0].sum(), hits.sum()
            sums += torch.stack([torch.as_tensor(n, dtype=torch.float64, device=self.device) for n in counts])
        self.model.train()
        images, loss, top1, top5 = self._sum(sums)
        figures = {"eval_loss": loss / images, "top1": top1 / images, "top5": top5 / images}
        self.log(epochs=round(epochs, 6), **figures, images=int(images))
        if figures["top1"] > self.best:
            self._write("best.pt", {"model": model.state_dict(), **figures, "options": self.described()})
        self.evaluated, self.best = epoch, max(self.best, figures["top1"])


def said(name: str, options: dict[str, Any]) -> str:
    """A name and the options that were given with it."""
    return f"{name} {options}" if options else name


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    if options.device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        torch.backends.cudnn.benchmark = True
    if options.ranks > 1:
        dist.init_process_group("nccl" if options.device == "cuda" else "gloo")
    try:
        try:
            make_folder(options.out)
            run = Run(options)
            if run.goes_on:
                run.load()
        except (dali_dr.DaliDrError, ValueError) as error:
            print(f"train_timm.py: error: {' '.join(str(error).split())}", file=sys.stderr)
            return WRONG
        return train(run)
    finally:
        if options.ranks > 1:
            dist.destroy_process_group()


def make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {out}: no such folder can be made: {error.strerror}") from error


def train(run: Run) -> int:
    """Trains from where the run stands; Ctrl-C and SIGTERM interrupt it."""

    def interrupt(*_: object) -> None:
        run.interrupted = True

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return 0 if run.train() else INTERRUPTED
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
