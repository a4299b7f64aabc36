"""dataset.json: what a folder of shards holds (schemas/dataset.schema.json), read, checked and written."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import jsonschema

from dali_dr.augment.spec import AugmentationSpec
from dali_dr.errors import ShardError, SpecError
from dali_dr.record.layout import Probabilities
from dali_dr.shards import tar

MANIFEST_NAME: Final = "dataset.json"
FORMAT_VERSION: Final = 1
_SCHEMA: Final = "dataset.schema.json"
# What the run found out, as against what it was asked to write.
_FOUND: Final = ("images", "views", "topk", "record_bytes", "shards", "versions")


@dataclass(frozen=True)
class ShardInfo:
    """One shard: file name, samples, length in bytes and SHA-256 (hex) of the tar."""

    name: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ImageTar:
    """A tar of images that nobody rewrites, beside which the shards hold records alone (a sidecar data set).

    Attributes:
      path: of the tar, relative to the data set's folder (or absolute).
      bytes: its length.
    """

    path: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """A data set's manifest.

    Attributes:
      num_classes: labels and teacher ids are below it.
      class_names: one name per class, or None.
      name: shards are called NAME-000000.tar and on.
      samples_per_shard: of every shard but the last.
      spec: what the views were drawn from; None without reinforcements.
      teacher: names, weights_digest, input_size, normalisation {mean, std} and what else the writer said; or None.
      probabilities: encoding of the teacher's probabilities; None without reinforcements.
      log_step: nats per unit of the "log8" encoding, None for the others.
      seed: seed of the drawn views, where one was used.
      extra: free for the user; JSON-able.
      image_tars: where the images are, of a sidecar data set; empty where each shard holds its images.
      shards: in order of the samples.
      views_min, views_max: views per image; 0 without reinforcements.
      topk: stored teacher classes per view.
      record_bytes: bytes of all records, compressed.
      versions: of the libraries that drew and replayed.
    """

    num_classes: int
    class_names: tuple[str, ...] | None = None
    name: str = "shard"
    samples_per_shard: int = 1000
    spec: AugmentationSpec | None = None
    teacher: Mapping[str, Any] | None = None
    probabilities: Probabilities | None = None
    log_step: float | None = None
    seed: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    image_tars: tuple[ImageTar, ...] = ()
    shards: tuple[ShardInfo, ...] = ()
    views_min: int = 0
    views_max: int = 0
    topk: int = 0
    record_bytes: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """Samples in all shards."""
        return sum(shard.samples for shard in self.shards)

    @property
    def num_outputs(self) -> int:
        """Length of the teacher's output, of which soft_ids are places: classes, or dimensions of an embedding."""
        return int((self.teacher or {}).get("outputs", self.num_classes))

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON-able dict, in the order of the schema."""
        encoding = None
        if self.probabilities is not None:
            encoding = {"encoding": self.probabilities}
            if self.log_step is not None:
                encoding |= {"log_step": self.log_step}  # type: ignore[dict-item]
        return {
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "images": self.images,
            "classes": self.num_classes,
            "class_names": None if self.class_names is None else list(self.class_names),
            "samples_per_shard": self.samples_per_shard,
            "seed": self.seed,
            "spec": None if self.spec is None else self.spec.to_json(),
            "views": {"min": self.views_min, "max": self.views_max},
            "topk": self.topk,
            "probabilities": encoding,
            "teacher": None if self.teacher is None else dict(self.teacher),
            "record_bytes": self.record_bytes,
            "versions": dict(self.versions),
            "extra": dict(self.extra),
            **({"image_tars": [vars(image_tar) for image_tar in self.image_tars]} if self.image_tars else {}),
            "shards": [vars(shard) for shard in self.shards],
        }

    def settings(self) -> dict[str, Any]:
        """What the writer was asked for, as JSON: two runs may share a folder only if these are equal."""
        data = {name: value for name, value in self.to_json().items() if name not in _FOUND}
        result: dict[str, Any] = json.loads(json.dumps(data))
        return result

    @classmethod
    def from_json(cls, data: Any, where: str = MANIFEST_NAME) -> Manifest:
        """The manifest in ``data``, checked against the schema.

        Raises:
          ShardError: naming ``where`` and the member at fault, or the format versions that can be read.
        """
        version = data.get("format_version") if isinstance(data, dict) else None
        if version != FORMAT_VERSION:
            raise ShardError(
                f"{where}: format_version is {version!r}, this dali_dr reads {FORMAT_VERSION}; "
                "use the dali_dr that wrote the data set, or a newer one"
            )
        problem = jsonschema.exceptions.best_match(_validator().iter_errors(data))
        if problem is not None:
            raise ShardError(f"{where}: {problem.json_path}: {_short(problem.message)}")
        encoding = data.get("probabilities") or {}
        try:
            spec = None if data.get("spec") is None else AugmentationSpec.from_json(data["spec"])
        except SpecError as error:
            raise ShardError(f"{where}: {error}") from error
        names = data.get("class_names")
        manifest = cls(
            num_classes=data["classes"],
            class_names=None if names is None else tuple(names),
            name=data["name"],
            samples_per_shard=data["samples_per_shard"],
            spec=spec,
            teacher=data.get("teacher"),
            probabilities=encoding.get("encoding"),
            log_step=encoding.get("log_step"),
            seed=data.get("seed"),
            extra=data.get("extra", {}),
            image_tars=tuple(ImageTar(**image_tar) for image_tar in data.get("image_tars", ())),
            shards=tuple(ShardInfo(**shard) for shard in data["shards"]),
            views_min=data["views"]["min"],
            views_max=data["views"]["max"],
            topk=data["topk"],
            record_bytes=data["record_bytes"],
            versions=data["versions"],
        )
        for bad, what in (
            (
                manifest.images != data["images"],
                f"images is {data['images']}, the shards hold {manifest.images}",
            ),
            (
                len({shard.name for shard in manifest.shards}) < len(manifest.shards),
                "a shard is listed twice",
            ),
            (
                names is not None and len(names) != manifest.num_classes,
                f"{len(names or ())} class_names for {manifest.num_classes} classes",
            ),
            (manifest.views_min > manifest.views_max, "views.min is above views.max"),
            (manifest.views_max > 0 and spec is None, "it has views but no spec"),
        ):
            if bad:
                raise ShardError(f"{where}: {what}")
        return manifest

    @classmethod
    def load(cls, folder: str | Path) -> Manifest:
        """The manifest of the data set in ``folder``. ShardError if it is missing or wrong."""
        path = Path(folder) / MANIFEST_NAME
        try:
            text = path.read_bytes()
        except OSError as error:
            raise ShardError(
                f"{path}: cannot be read ({error.strerror}); a data set has this file once its writing is "
                "finished: run the writer again to finish it"
            ) from error
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ShardError(f"{path}: not JSON ({error}); restore it from a copy") from error
        return cls.from_json(data, str(path))

    def save(self, folder: str | Path) -> None:
        """Write the manifest into ``folder``, atomically and checked against the schema."""
        path = Path(folder) / MANIFEST_NAME
        data = self.to_json()
        Manifest.from_json(json.loads(json.dumps(data)), str(path))
        tar.write_atomically(path, (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode())


def library_versions() -> dict[str, str]:
    """Versions of the libraries that draw and replay views, of those that are installed."""
    packages = {
        "dali_dr": ("dali_dr",),
        "dali": ("nvidia-dali-cuda120", "nvidia-dali-cuda130"),
        "pillow": ("pillow",),
        "numpy": ("numpy",),
        "torch": ("torch",),
    }
    versions = {}
    for name, candidates in packages.items():
        for package in candidates:
            try:
                versions[name] = metadata.version(package)
                break
            except metadata.PackageNotFoundError:
                continue
    return versions


@functools.cache
def _validator() -> jsonschema.Draft202012Validator:
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "schemas", package.parent / "schemas"):  # a wheel, a checkout
        if (folder / _SCHEMA).is_file():
            return jsonschema.Draft202012Validator(json.loads((folder / _SCHEMA).read_bytes()))
    raise ShardError(f"{_SCHEMA} is neither in {package / 'schemas'} nor beside the package: reinstall dali_dr")


def _short(message: str, limit: int = 300) -> str:
    return message if len(message) <= limit else message[:limit] + " …"
