"""`export_ml_dr`: a reinforced data set as ml-dr's training code reads it, so that both loaders can be compared on it.

What is written are facts of that format (github.com/apple/ml-dr, arXiv 2303.08983): a file per image with the parameters of
its views by their places in a list, and a configuration that says which places there are. A number in it is an image's
place in torchvision's ImageFolder, which goes by class: samples are numbered anew where they do not lie so, partners
with them.
"""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import re
import tarfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, NoReturn, cast

import numpy as np
import numpy.typing as npt

from dali_dr.ahead import ahead
from dali_dr.augment.spec import AugmentationSpec, RandAugment, RandomErasing, RandomResizedCrop
from dali_dr.augment.views import NO_PARTNER, SELF_PARTNER, Views
from dali_dr.encoded import ANY_PIXELS, image_info
from dali_dr.errors import ShardError, shown
from dali_dr.progress import bar as progress_bar
from dali_dr.record.labels import Reinforcements
from dali_dr.shards import files
from dali_dr.shards.dataset import Dataset
from dali_dr.shards.manifest import Manifest
from dali_dr.shards.report import remove_partial
from dali_dr.shards.strict_json import load_json
from dali_dr.shards.tar import write_atomically

FOLDER: Final = "reinforced_data"
CONFIG: Final = "config.pth.tar"
SETTINGS: Final = "export.json"
ORDER: Final = "order.txt"
_THREADS: Final = 4  # that wait for the disk and compress
_NUM_OPS: Final = 2  # of the one RandAugment that the published configurations and their readers know
_BICUBIC: Final = 3  # Pillow's number of the filter: the only way in which a configuration can say it
_MEAN: Final = (0.485, 0.456, 0.406)  # as the loader normalises, unless it is told otherwise
_STD: Final = (0.229, 0.224, 0.225)
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Exported:
    """What a call has done.

    Attributes:
      images: files of reinforcements that are there now.
      kept: how many of them an earlier call had written.
      bytes: of those that this call wrote.
    """

    images: int
    kept: int
    bytes: int


def export_ml_dr(
    dataset: Dataset | str | Path,
    out: str | Path,
    *,
    tar: bool = False,
    images: str | Path | None = None,
    progress: bool = True,
) -> Exported:
    """Write a data set's reinforcements as ml-dr's training code reads them.

    ``out`` gets a folder reinforced_data with {n}.pth.tar of every image and config.pth.tar, order.txt with the key of each
    number, and export.json, by which a call that goes on knows its own. A killed call is continued by the same one. What a
    view shows and its target stay the same, as far as that code goes: where the K probabilities sum to more than 1 it trains
    on other targets than ours (`dali_dr.record.labels.densify`).

    Args:
      dataset: with stored views.
      out: folder; made if absent.
      tar: write ``out``/reinforced_data.tar.gz in place of the folder; an interrupted call begins it anew.
      images: a folder for the images, as torchvision's ImageFolder whose order is that of the numbers.
      progress: show a progress bar.

    Raises:
      ShardError: what that format cannot say, by name; a folder that holds something else; a file that cannot be written.
    """
    data = dataset if isinstance(dataset, Dataset) else Dataset(dataset)
    check(data)
    order = np.argsort(data.labels, kind="stable")
    folders = None if images is None else _folders(data)
    out = Path(out).absolute()
    config = config_of(data.manifest)
    home = getattr(data, "path", None)
    if isinstance(home, Path) and out.resolve().is_relative_to(home.resolve()):
        raise ShardError(f"{out}: is the data set that is exported, or in it; choose another folder", kind="usage")
    _begin(data, out, config, order)
    work = _Export(data, order, out, config)
    with progress_bar(total=len(order), unit="img", disable=not progress, desc=shown(out.name)) as bar:
        done = work.to_tar(bar) if tar else work.to_folder(bar)
        if images is not None and folders is not None:
            bar.reset(len(order))
            bar.set_description("images")
            work.images_to(Path(images).absolute(), folders, bar)
    return done


def check(data: Dataset) -> None:
    """ShardError, by name, for a data set that the format cannot say."""
    manifest, spec = data.manifest, data.manifest.spec

    def refuse(what: str) -> NoReturn:
        raise ShardError(f"{data.path}: {what}", kind="usage")

    if getattr(manifest, "label_maps", None) is not None:
        refuse("holds label maps, which ml-dr does not know; it exports stored views")
    if spec is None or manifest.views_max == 0:
        refuse("holds plain images without reinforcements; there is nothing to export")
    if manifest.num_outputs != manifest.num_classes:
        refuse(
            f"its targets are embeddings of {manifest.num_outputs} dimensions; ml-dr trains on probabilities of the "
            f"{manifest.num_classes} classes"
        )
    if manifest.topk == 0:
        refuse("its views have no predictions of a teacher, without which ml-dr has no targets")
    if later := spec.later():
        refuse(f"its views were drawn with {', '.join(later)}, which ml-dr's configuration cannot say")
    if spec.mixing is not None and spec.mixing.double:
        refuse("its views are a double-mix: ml-dr stores one view of a pair; generate with mixing.double false")
    if spec.rand_augment is not None and spec.rand_augment.num_ops != _NUM_OPS:
        refuse(
            f"its views have {spec.rand_augment.num_ops} RandAugment operations, ml-dr's published sets and those who read "
            f"them have {_NUM_OPS}"
        )


def config_of(manifest: Manifest) -> dict[str, Any]:
    """What config.pth.tar says of a data set that `check` let pass."""
    spec = cast(AugmentationSpec, manifest.spec)
    ours = {"probabilities": manifest.probabilities, "log_step": manifest.log_step, "size": spec.size}
    names = list((manifest.teacher or {}).get("names", ()))
    return {
        "dataset": "imagenet",  # ml-dr's word for an ImageFolder
        "num_classes": manifest.num_classes,
        "teacher": {"timm_ensemble": len(names) > 1, "name": ",".join(names)},
        "seed": manifest.seed,
        "reinforce": {
            "num_samples": manifest.views_min,
            "num_candidates": None,
            "topk": manifest.topk,
            "compress": True,
            "joblib": False,
            "gzip": True,
            "image_augmentation": _augmentation(spec, manifest),
        },
        "dali_dr": {**ours, "spec": spec.to_json()},
    }


def _augmentation(spec: AugmentationSpec, manifest: Manifest) -> dict[str, Any]:
    """The transformations, with what differs from torchvision's own values."""
    on = {"enable": True}

    def unlike(values: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items() if v != usual[name]}

    box, drawn = RandomResizedCrop(), cast(RandomResizedCrop, spec.crop)
    crop = unlike({"scale": drawn.scale, "ratio": drawn.ratio}, {"scale": box.scale, "ratio": box.ratio})
    crop |= {"interpolation": _BICUBIC} if spec.interpolation == "bicubic" else {}
    out: dict[str, Any] = {
        "uint8": dict(on),
        "random_resized_crop": on | {"size": spec.size} | crop,
        "random_horizontal_flip": on | {"p": spec.flip},
    }
    if (ra := spec.rand_augment) is not None:
        values: dict[str, Any] = {"magnitude": ra.magnitude, "num_magnitude_bins": ra.num_bins}
        usual = RandAugment()
        out["rand_augment"] = on | {"p": 1.0}
        out["rand_augment"] |= unlike(values, {"magnitude": usual.magnitude, "num_magnitude_bins": usual.num_bins})
    mean, std = _normalisation(manifest)
    out |= {"to_tensor": dict(on), "normalize": {"mean": mean, "std": std}}
    if (re_ := spec.random_erasing) is not None:
        erasing = RandomErasing()
        values = {"scale": re_.scale, "ratio": re_.ratio}
        out["random_erase"] = on | {"p": re_.probability}
        out["random_erase"] |= unlike(values, {"scale": erasing.scale, "ratio": erasing.ratio})
    if (mixing := spec.mixing) is not None:
        high = mixing.lam[1]  # what is stored is replayed, whatever range this says
        mixup = {"alpha": mixing.mixup_alpha, "div_by": 1 / high if high > 0 else 1.0, "p": mixing.mixup_probability}
        out["mixup"] = on | mixup
        out["cutmix"] = on | {"alpha": mixing.cutmix_alpha, "p": mixing.cutmix_probability}
    return out


def _normalisation(manifest: Manifest) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of what ml-dr shows: those of the configuration that a set was converted from."""
    found: Any = manifest.extra
    for name in ("published", "config", "reinforce", "image_augmentation", "normalize"):
        found = found.get(name) if isinstance(found, dict) else None
    if isinstance(found, dict) and {"mean", "std"} <= found.keys():
        return list(found["mean"]), list(found["std"])
    return list(_MEAN), list(_STD)


def entries(
    views: Reinforcements, number: int, idx: npt.NDArray[np.int64], spec: AugmentationSpec
) -> list[dict[str, Any]]:
    """The reinforcements of one image: parameters by their places, probabilities and ids.

    Args:
      views: stored.
      number: which sample they are of.
      idx: number in the export of every sample.
      spec: what they were drawn from.
    """
    first, mix = _transformations(views, number, spec), views.mix
    predictions = zip(views.soft_probs.tolist(), views.soft_ids.tolist(), strict=True)
    if mix is None:
        return [{"params": list(p), "prob": prob} for p, prob in zip(first, predictions, strict=True)]
    second = _transformations(mix.views, number, spec)
    lams, cuts = mix.lam.tolist(), mix.cut.tolist()
    partners = [number if p == SELF_PARTNER else p for p in mix.partner.tolist()]
    out = []
    for row, prob in enumerate(predictions):
        mixup = None if lams[row] == 1 else lams[row]
        cutmix = _cutmix(cuts[row], spec.size)
        if partners[row] == NO_PARTNER or (mixup is None and cutmix is None):
            out.append({"params": [None, *first[row], None, None], "prob": prob})
            continue
        pairs = [[a, b] for a, b in zip(first[row], second[row], strict=True)]
        out.append({"params": [int(idx[partners[row]]), *pairs, mixup, cutmix], "prob": prob})
    return out


def _transformations(views: Views, number: int, spec: AugmentationSpec) -> list[list[Any]]:
    """Of each view: crop, flip, and the operations and erased box where the configuration has them."""
    columns: list[list[Any]] = [[tuple(box) for box in views.crop.tolist()], views.flip.tolist()]
    if spec.rand_augment is not None:
        ops, magnitudes = views.ops.tolist(), views.magnitudes.tolist()
        columns.append([list(zip(o, m, strict=True)) for o, m in zip(ops, magnitudes, strict=True)])
    if spec.random_erasing is not None:
        columns.append([tuple(box) if box[2] else None for box in views.erase.tolist()])
    elif views.erase.any():
        raise ShardError(f"sample {number}: a view has an erased box, and the data set's spec no random erasing")
    return [list(row) for row in zip(*columns, strict=True)]


def _cutmix(cut: list[int], size: int) -> list[Any] | None:
    """The share that stays, and rows and columns of the pasted box as the NumPy integers that ml-dr's code has there."""
    top, left, height, width = cut
    if height == 0:
        return None
    corners = np.array([top, left, top + height, left + width])
    return [1.0 - height * width / size**2, *corners]


def _folders(data: Dataset) -> list[str]:
    """The class folders' names, whose sorted order is that of the classes."""
    absent = np.flatnonzero(np.bincount(data.labels, minlength=data.num_classes) == 0)
    if len(absent):
        raise ShardError(
            f"{data.path}: class {absent[0]} has no images, and torchvision's ImageFolder, as ml-dr opens it, wants some in "
            f"every class ({len(absent)} have none): export without images, or a set whose classes are those that it has "
            "(--labels sorted)",
            kind="usage",
        )
    names = list(data.class_names or ())
    if names and names == sorted(set(names)) and all(_PLAIN_NAME.fullmatch(name) for name in names):
        return names
    width = len(str(data.num_classes - 1))
    return [f"{label:0{width}d}" for label in range(data.num_classes)]


def _begin(data: Dataset, out: Path, config: dict[str, Any], order: npt.NDArray[np.int64]) -> None:
    """Make ``out`` ready, or find it to be one that an equal call has begun."""
    checksums = [shard.sha256 for shard in data.manifest.shards]
    settings = json.loads(json.dumps({"format": "ml-dr", "config": config, "shards": checksums}))
    files.make_folder(out)
    if (out / SETTINGS).exists():
        if load_json(out / SETTINGS) != settings:
            raise ShardError(
                f"{out}: holds the export of another data set or of other settings; choose another folder", kind="usage"
            )
    elif (out / FOLDER).exists():
        raise ShardError(f"{out / FOLDER}: is there already and no export of ours; choose another folder", kind="usage")
    else:
        write_atomically(out / SETTINGS, json.dumps(settings, indent=1).encode() + b"\n")
    if not (out / ORDER).exists():
        write_atomically(out / ORDER, "".join(f"{data.keys[number]}\n" for number in order.tolist()).encode())


class _Export:
    """One call.

    Args:
      data: what is exported.
      order: sample of each number.
      out: the folder.
      config: see `config_of`.
    """

    def __init__(self, data: Dataset, order: npt.NDArray[np.int64], out: Path, config: dict[str, Any]) -> None:
        self._data, self._order, self._out, self._config = data, order, out, config
        self._idx = np.empty(len(order), np.int64)
        self._idx[order] = np.arange(len(order))

    def to_folder(self, bar: Any) -> Exported:
        """A file for each image that is not there yet."""
        folder, kept, size = self._out / FOLDER, 0, 0
        files.make_folder(folder)
        remove_partial(folder)
        write_atomically(folder / CONFIG, _saved(self._config))

        def put(idx: int) -> int | None:
            path = folder / _name(idx)
            if path.exists():
                return None
            contents = self._contents(idx)
            write_atomically(path, contents)
            return len(contents)

        with ThreadPoolExecutor(_THREADS) as pool:
            for written in ahead(pool, put, range(len(self._order)), 2 * _THREADS):
                kept += written is None
                size += written or 0
                bar.update()
        return Exported(len(self._order), kept, size)

    def to_tar(self, bar: Any) -> Exported:
        """All in one compressed archive, the configuration first."""
        path = self._out / f"{FOLDER}.tar.gz"
        if path.exists():
            bar.update(len(self._order))
            return Exported(len(self._order), len(self._order), 0)
        remove_partial(self._out)
        partial, size = files.temporary(path), 0
        with files.NewFile.open(partial) as file:
            stream = cast(IO[bytes], file)  # which is all of it that a stream of tarfile's uses
            with contextlib.closing(tarfile.open(fileobj=stream, mode="w|gz", format=tarfile.USTAR_FORMAT)) as archive:
                for name, contents in self._members(bar):
                    entry = tarfile.TarInfo(f"{FOLDER}/{name}")
                    entry.size = len(contents)
                    archive.addfile(entry, io.BytesIO(contents))
                    size += len(contents)
            file.sync()
        files.publish(partial, path)
        return Exported(len(self._order), 0, size)

    def images_to(self, root: Path, folders: list[str], bar: Any) -> None:
        """The images that are not there yet, by class and number."""
        labels = self._data.labels
        for folder in folders:
            files.make_folder(root / folder)
            remove_partial(root / folder)
        width = len(str(len(self._order) - 1))
        for idx, number in enumerate(self._order.tolist()):
            image = self._data.image(number)
            suffix = image_info(image, max_pixels=ANY_PIXELS)[0]
            path = root / folders[labels[number]] / f"{idx:0{width}d}.{suffix}"
            if not path.exists():
                write_atomically(path, image)
            bar.update()

    def _members(self, bar: Any) -> Iterator[tuple[str, bytes]]:
        yield CONFIG, _saved(self._config)
        with ThreadPoolExecutor(_THREADS) as pool:
            for idx, contents in enumerate(ahead(pool, self._contents, range(len(self._order)), 2 * _THREADS)):
                yield _name(idx), contents
                bar.update()

    def _contents(self, idx: int) -> bytes:
        number = int(self._order[idx])
        views = self._data.reinforcements(number)
        return _saved((idx, entries(views, number, self._idx, self._data.spec)), protocol=4)


def _name(idx: int) -> str:
    return f"{idx}.pth.tar"


def _saved(value: Any, protocol: int = 2) -> bytes:
    """A file that `torch.load` reads. `torch.save` asks in Python, of every number, whether it is a tensor: 50 ms a file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, contents in (
            ("data.pkl", pickle.dumps(value, protocol)),
            ("byteorder", b"little"),
            ("version", b"3\n"),
        ):
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), contents)
    return buffer.getvalue()
