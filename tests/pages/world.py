"""The folders that pages name, small: made once a session, each when a page first wants it, and copied for that page."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from conftest import REPOSITORY, encode_jpeg, picture
from fake_hub import FakeHub
from PIL import Image

from pages import commands, published
from pages.warm import CLIENT

WNIDS: Final = ("n01440764", "n01443537", "n01484850")
"""Tench, goldfish and great white shark: the first three of ImageNet's classes."""
IN_A: Final = ("n01498041", "n01531178", "n01534433")
"""Three of the 200 classes of ImageNet-A, and of ImageNet-R the first."""
START_SECONDS: Final = 120.0


def pictures(folder: Path, wnids: tuple[str, ...], each: int, seed: int = 0, suffix: str = "JPEG") -> None:
    """An ImageFolder of small photo-like JPEGs."""
    for number in range(each * len(wnids)):
        wnid = wnids[number // each]
        path = folder / wnid / f"{wnid}_{seed + number}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_jpeg(picture(70 + 7 * (number % 4), 96 + 9 * (number % 3), seed + number)))


class World:
    """Makes what pages name.

    Attributes:
      root: a folder of this session: `bin` (commands), `made` (what pages are given copies of).
      hub: the Hub's fake.
    """

    hub: FakeHub

    def __init__(self, root: Path) -> None:
        self.root, self.made, self.bin = root, root / "made", root / "bin"
        self.made.mkdir(parents=True)
        self.bin.mkdir()
        socket = root / "warm"
        for name in commands.NAMES:
            (self.bin / name).write_text(CLIENT.format(python=sys.executable, socket=str(socket)))
            (self.bin / name).chmod(0o755)
        self._server = subprocess.Popen(
            [sys.executable, REPOSITORY / "tests" / "pages" / "warm.py", socket],
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        end = time.monotonic() + START_SECONDS
        while not socket.exists():
            if self._server.poll() is not None or time.monotonic() > end:
                raise RuntimeError("the process that runs pages' commands did not start")
            time.sleep(0.05)

    def close(self) -> None:
        self._server.kill()
        self._server.wait()

    def environment(self, folder: Path) -> dict[str, str]:
        """Of a command in a page's folder."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("DALI_DR_", "SLURM_", "XDG_"))}
        return {
            **kept,
            "PATH": f"{self.bin}:{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(folder / ".home"),
            "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'tests'}",
            "OMP_NUM_THREADS": "1",
        }

    def command(self, *words: str, folder: Path | None = None) -> None:
        """Runs a command where things are made."""
        where = folder or self.made
        done = subprocess.run(words, cwd=where, env=self.environment(where), capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")

    def give(self, text: str, folder: Path) -> None:
        """Puts what a page's text names into its folder."""
        text = text.replace(commands.WEB, " ")
        named = [name for name in MAKERS if re.search(rf"(?<![\w/.-]){re.escape(name)}(?![\w-])", text)]
        beside = [other for one in named for other in BESIDE.get(one, ())]
        for name in sorted({*named, *beside}):
            _copy(self._thing(name), folder / name)
        (folder / ".venv").mkdir()
        (folder / ".venv" / "bin").symlink_to(self.bin)
        for name in ("examples", "bench", "csrc", "Makefile"):
            (folder / name).symlink_to(REPOSITORY / name)

    def _thing(self, name: str) -> Path:
        place = self.made / name
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            MAKERS[name](self, place)
        return place

    def upload(self, text: str) -> None:
        """Puts what a page names by s3://BUCKET/NAME into the bucket, under that name, where the world has NAME."""
        import boto3

        client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
        for bucket in sorted(set(re.findall(r"s3://([\w-]+)/", text))):
            if bucket not in {one["Name"] for one in client.list_buckets()["Buckets"]}:
                client.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
            self._empty(client, bucket)
            named = {word.rstrip("'\"/),.`") for word in re.findall(rf"s3://{bucket}/(\S+)", text)}
            for name in sorted(name for name in MAKERS if any(f"{one}/".startswith(f"{name}/") for one in named)):
                place = self._thing(name)
                for path in [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file()):
                    key = name if place.is_file() else f"{name}/{path.relative_to(place)}"
                    client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())

    @staticmethod
    def _empty(client: object, bucket: str) -> None:
        for entry in client.list_objects_v2(Bucket=bucket).get("Contents", []):  # type: ignore[attr-defined]
            client.delete_object(Bucket=bucket, Key=entry["Key"])  # type: ignore[attr-defined]


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)


def _packed(source: str, *options: str) -> Callable[[World, Path], None]:
    def make(world: World, place: Path) -> None:
        world._thing(source)
        world.command("dali-dr", "pack", source, "--out", str(place), *options)

    return make


def _reinforced(source: str, spec: str, *options: str) -> Callable[[World, Path], None]:
    def make(world: World, place: Path) -> None:
        world._thing(source)
        words = ["--teacher", "efficientnet-lite0", "--views", "4", "--topk", "5", "--spec", spec, *options]
        world.command("dali-dr", "reinforce", source, "--out", str(place), *words)

    return make


def _photos(world: World, place: Path) -> None:
    for kind in ("cats", "dogs"):
        for number in range(3):
            (place / kind).mkdir(parents=True, exist_ok=True)
            (place / kind / f"{number}.jpg").write_bytes(encode_jpeg(picture(80, 90, number)))
    image = Image.open(io.BytesIO(encode_jpeg(picture(60, 50, 9))))
    image.save(place / "dogs" / "scan.bmp")


def _tar(world: World, place: Path) -> None:
    _tar_of(place, range(6))


def _tar_of(place: Path, numbers: range) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(place, "w", format=tarfile.USTAR_FORMAT) as archive:
        for number in numbers:
            for suffix, data in (("jpg", encode_jpeg(picture(64, 80, number))), ("cls", str(number % 3).encode())):
                entry = tarfile.TarInfo(f"{number:06d}.{suffix}")
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))


def _tars(world: World, place: Path) -> None:
    """147 tars, as ImageNet's in webdataset form are called; an image each."""
    for number in range(147):
        _tar_of(place / f"t-{number:03d}.tar", range(number, number + 1))


def _archive(world: World, place: Path) -> None:
    world._thing("imagenet/train")
    world.command("curl", "-LO", f"https://host/{place.name}")


def _fkd(world: World, place: Path) -> None:
    published.fkd(world._thing("imagenet/train"), place)


def _relabel(world: World, place: Path) -> None:
    published.relabel(world._thing("imagenet/train"), place)


BESIDE: Final = {"list.csv": ("photos",)}
"""What a thing names, and is useless without."""


def _list(world: World, place: Path) -> None:
    world._thing("photos")
    with place.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label"])
        writer.writerows([f"photos/{kind}/{number}.jpg", kind] for kind in ("cats", "dogs") for number in range(3))


def _checkpoint(data: str) -> Callable[[World, Path], None]:
    def make(world: World, place: Path) -> None:
        world._thing(data)
        words = [
            "--data",
            data,
            "--val",
            data,
            "--out",
            str(place.parent),
            "--loss",
            "ce",
            "--loader",
            "{augment: rrc}",
        ]
        world.command("torchrun", str(REPOSITORY / "examples" / "train_timm.py"), *words)
        if not place.exists():
            raise RuntimeError(f"the trainer wrote {sorted(path.name for path in place.parent.iterdir())}")

    return make


def _weights(name: str, **options: int) -> Callable[[World, Path], None]:
    def make(world: World, place: Path) -> None:
        text = f"import timm, torch; torch.save(timm.create_model({name!r}, **{options}).state_dict(), {str(place)!r})"
        script = world.made / "weights.py"
        script.write_text(text)
        world.command("python", str(script))

    return make


def _flowers_plus(world: World, place: Path) -> None:
    """With a teacher of as many classes as there are."""
    if not (world.made / "two.pth").exists():
        _weights("test_resnet", num_classes=2)(world, world.made / "two.pth")
    options = ["--views", "4", "--topk", "2", "--spec", "rrc+ra+re", "--on-error", "skip"]
    words = [
        "reinforce",
        str(world._thing("photos")),
        "--teacher",
        "test_resnet@two.pth",
        "--out",
        str(place),
        *options,
    ]
    world.command("dali-dr", *words)


def _folder(wnids: tuple[str, ...], each: int, seed: int) -> Callable[[World, Path], None]:
    return lambda world, place: pictures(place, wnids, each, seed)


def _imagenet_v2(world: World, place: Path) -> None:
    pictures(place, ("0", "1", "2"), 2, 40, "jpeg")


def _imagenet_c(world: World, place: Path) -> None:
    for number, corruption in enumerate(("gaussian_noise", "fog")):
        for severity in range(1, 6):
            pictures(place / corruption / str(severity), WNIDS[:1], 1, 50 + number + severity)


MAKERS: Final[dict[str, Callable[[World, Path], None]]] = {
    "imagenet/train": _folder(WNIDS, 4, 0),
    "imagenet/val": _folder(WNIDS, 2, 20),
    "imagenet-a": _folder(IN_A, 1, 30),
    "imagenet-r": _folder(IN_A[:1], 2, 34),
    "imagenetv2": _imagenet_v2,
    "imagenet-c": _imagenet_c,
    "photos": _photos,
    "tars": _tars,
    "list.csv": _list,
    "imagenet-train": _packed("imagenet/train"),
    "imagenet-val": _packed("imagenet/val"),
    "flowers-train": _packed("photos", "--on-error", "skip"),
    "flowers-test": _packed("photos", "--on-error", "skip"),
    "imagenet-plus": _reinforced("imagenet/train", "rrc+ra+re"),
    "imagenet-mixed": _reinforced("imagenet/train", "rrc+mixing+ra+re"),
    "imagenet-plus-original": _reinforced("imagenet/train", "rrc+ra+re", "--keep-bytes"),
    "flowers-plus": _flowers_plus,
    "photos-plus": _reinforced("photos", "rrc+ra+re", "--on-error", "skip"),
    "imagenet_plus_randaug.tar.gz": _archive,
    "imagenet_plus_rrc.tar.gz": _archive,
    "w.pth": _weights("resnet18"),
    "v.pth": _weights("vit_tiny_patch16_224", img_size=384),
    "resnet152.pt": lambda world, place: place.touch(),
    "FKD_SOFT_LABELS": _fkd,
    "relabel_imagenet.tar": _relabel,
    "runs/resnet50/best.pt": _checkpoint("imagenet-val"),
    "runs/flowers/last.pt": _checkpoint("flowers-test"),
}
