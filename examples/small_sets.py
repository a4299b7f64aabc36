"""What reinforce_cifar100.py, reinforce_flowers102.py and reinforce_food101.py share: the steps from torchvision's download to
a reinforced data set, as arXiv 2303.08983 (section 2.3) and github.com/apple/ml-dr made CIFAR-100+, Flowers-102+ and Food-101+.

    download    torchvision's own files below --root, unless they are there; then nothing needs a network
    pack        OUT/train and OUT/val, plain data sets, and OUT/spec.json, what views are drawn from
    teachers    OUT/teachers/0 … 3: ResNet-152, pretrained on ImageNet+ (--init), fine-tuned by examples/train_timm.py
    reinforce   OUT/plus, by `dali-dr reinforce` with the mean of the four as the teacher
    verify      OUT/plus, the teacher asked again

Every step goes on where it was interrupted. --dry-run prints the commands, which can be run by hand, elsewhere and with other
options: on several GPUs or machines, see reinforce_folder.sh.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from dali_dr._torchvision import load_torchvision
from dali_dr.augment.spec import AugmentationSpec
from dali_dr.errors import DaliDrError
from dali_dr.pack import pack
from dali_dr.sources.source import Source, check_keys

EXAMPLES = Path(__file__).resolve().parent
RECIPES = EXAMPLES / "recipes" / "small-sets"
STEPS = ("download", "pack", "teachers", "reinforce", "verify")
TOPK = 10  # ml-dr, configs/*/reinforce.yaml
TEACHERS = 4
URLS = ("url", "_URL", "_download_url_prefix")  # what torchvision's data sets call the place of their files


@dataclasses.dataclass(frozen=True)
class SmallSet:
    """One of the three sets.

    Attributes:
      script: that makes it.
      download: the class of torchvision.datasets that downloads it.
      files: below the root, that are there when it is.
      split: (root, whether for training) -> its images.
      spec: what views are drawn from.
      views: per image.
      recipes: of the teachers, in RECIPES.
    """

    script: str
    download: str
    files: Sequence[str]
    split: Callable[[Path, bool], Source]
    spec: AugmentationSpec
    views: int
    recipes: Sequence[str]

    def missing(self, root: Path) -> list[str]:
        """Files that are not there."""
        return [file for file in self.files if not (root / file).exists()]


def parse(small: SmallSet, description: str | None, argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--root", type=Path, required=True, help="where torchvision's download is, or shall be")
    add("--out", type=Path, required=True, help="folder of all that is made")
    add(
        "--init",
        type=Path,
        help="weights of a ResNet-152 trained on ImageNet+, for the teachers: train_timm.py's, or a state dict",
    )
    add("--recipe", type=Path, nargs="+", default=[RECIPES / name for name in small.recipes], help="of the teachers")
    add("--model", default="resnet152", help="of the teachers (default %(default)s)")
    add("--teachers", type=int, default=TEACHERS, help="how many (default %(default)s)")
    add("--teacher", help="a teacher that is there, as `dali-dr reinforce` takes it, instead of training any")
    add("--views", type=int, default=small.views, help="per image (default %(default)s)")
    add("--step", choices=STEPS, nargs="+", default=STEPS, help="do these alone")
    add("--dry-run", action="store_true", help="print the commands, and do nothing")
    options = parser.parse_args(argv)
    if "teachers" in options.step and not options.teacher and options.init is None:
        parser.error(
            "the teachers are fine-tuned from weights of ImageNet+: give them by --init FILE (train --model resnet152 by a "
            "recipe of ImageNet+), or a teacher that is there by --teacher"
        )
    if "teachers" in options.step and not options.teacher:
        for option, path in (("--init", options.init), *(("--recipe", path) for path in options.recipe)):
            if not path.is_file():
                parser.error(f"{option} {path}: there is no such file")
    if options.teachers < 1 or options.views < 1:
        parser.error("--teachers and --views are 1 or more")
    return options


def commands(small: SmallSet, options: argparse.Namespace) -> list[tuple[str, list[str]]]:
    """The steps, and the command of each; those of this script itself are done in its process."""
    out, python = options.out, sys.executable
    own = [python, str(EXAMPLES / small.script), "--root", str(options.root), "--out", str(out)]
    made = [("download", [*own, "--step", "download"]), ("pack", [*own, "--step", "pack"])]
    folders = [out / "teachers" / str(number) for number in range(options.teachers)]
    # The last weights, which ml-dr takes, too. They say how they were trained: model, normalisation and size.
    teacher = options.teacher or ",".join(f"{options.model}@{folder / 'last.pt'}" for folder in folders)
    for seed, folder in enumerate(folders if not options.teacher else ()):
        train = [
            python,
            str(EXAMPLES / "train_timm.py"),
            "--recipe",
            *map(str, options.recipe),
            "--model",
            options.model,
        ]
        train += ["--data", str(out / "train"), "--val", str(out / "val"), "--out", str(folder), "--seed", str(seed)]
        made.append(("teachers", [*train, "--init", str(options.init)]))
    reinforce = [
        python,
        "-m",
        "dali_dr",
        "reinforce",
        "--input",
        str(out / "train" / "shard-*.tar"),
        "--out",
        str(out / "plus"),
    ]
    reinforce += ["--classes", str(out / "classes.txt"), "--spec", str(out / "spec.json"), "--teacher", teacher]
    made.append(("reinforce", [*reinforce, "--views", str(options.views), "--topk", str(TOPK)]))
    made.append(("verify", [python, "-m", "dali_dr", "verify", str(out / "plus"), "--teacher", teacher]))
    return [(step, command) for step, command in made if step in options.step]


def download(small: SmallSet, root: Path) -> None:
    """torchvision's download, unless it is there. torchvision checks what it gets by its MD5."""
    if small.missing(root):
        root.mkdir(parents=True, exist_ok=True)
        known = getattr(load_torchvision().datasets, small.download)
        try:
            known(root, download=True)
        except (OSError, RuntimeError) as error:  # no network, a server that refuses; a file of another MD5
            url = next((getattr(known, name) for name in URLS if hasattr(known, name)), "its server")
            told = str(error).split("\n")[0]
            raise DaliDrError(
                f"torchvision's {small.download} could not be downloaded from {url} ({told}): without network, fetch and unpack "
                f"it elsewhere and give the folder that holds {', '.join(small.files)} by --root"
            ) from error


def pack_both(small: SmallSet, root: Path, out: Path) -> None:
    """OUT/train, OUT/val, OUT/spec.json and OUT/classes.txt."""
    if missing := small.missing(root):
        raise DaliDrError(f"{root / missing[0]}: is not there; --step download gets it by torchvision")
    for name, train in (("train", True), ("val", False)):
        source = small.split(root, train)
        check_keys(source)
        packed = pack(source, out / name, on_error="skip")
        if packed.refused:
            print(
                f"{len(packed.refused)} images were left out: {out / name / 'report' / 'skipped.jsonl'}",
                file=sys.stderr,
            )
        if train:
            (out / "classes.txt").write_text("".join(f"{name}\n" for name in source.class_names))
    (out / "spec.json").write_text(json.dumps(small.spec.to_json(), indent=2) + "\n")


def main(small: SmallSet, description: str | None, argv: Sequence[str] | None = None) -> int:
    """The whole; returns the exit status, of the first command that fails."""
    options = parse(small, description, argv)
    for step, command in commands(small, options):
        print(shlex.join(command), flush=True)
        if options.dry_run:
            continue
        try:
            if step == "download":
                download(small, options.root)
            elif step == "pack":
                pack_both(small, options.root, options.out)
            elif status := subprocess.run(command).returncode:
                return status
        except DaliDrError as error:
            print(f"{small.script}: {error}", file=sys.stderr)
            return 1
    return 0
