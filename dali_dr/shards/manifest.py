"""dataset.json: what a folder of shards holds (schemas/dataset.schema.json), read, checked and written."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal, get_args

import jsonschema

from dali_dr.augment.spec import AugmentationSpec
from dali_dr.errors import RecordError, ShardError, SpecError
from dali_dr.record.label_map import LabelMaps
from dali_dr.record.labels import RowOrder
from dali_dr.record.layout import Probabilities
from dali_dr.shards import tar
from dali_dr.shards.absent import no_data_set
from dali_dr.shards.index_layout import INDEX_NAME, MAX_LABEL
from dali_dr.shards.strict_json import MAX_BYTES, canonical, load_json
from dali_dr.shards.tile_counts import TileCounts

MANIFEST_NAME: Final = "dataset.json"
STATE_NAME: Final = ".write_shards.json"  # the run's settings, while the data set is unfinished
WORK_NAME: Final = ".work"  # a folder of what else an unfinished generation keeps (`dali_dr.reinforce.kept`)
FORMAT_VERSION: Final = 3  # that is written, where nothing in the data set needs a newer one
READABLE: Final = (1, 2, 3, 4, 5)  # format versions
_CHECKSUM_SINCE: Final = 2  # format version
_TILES_SINCE: Final = 3
_MAPS_SINCE: Final = 4
_DRAWN_SINCE: Final = 5  # what `AugmentationSpec.later` names in the spec
_ORDERS_SINCE: Final = 5
# Members since then.
_NEW: Final = {
    "tiles": _TILES_SINCE,
    "decoder": _TILES_SINCE,
    "label_maps": _MAPS_SINCE,
    "row_order": _ORDERS_SINCE,
}
_SCHEMA: Final = "dataset.schema.json"
# What the run found out, as against what it was asked to write.
_FOUND: Final = ("images", "views", "topk", "record_bytes", "shards", "versions", "checksum", "tiles")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_SMALLEST: Final = 2 * tar.BLOCK  # bytes of a sample in a tar: a header and data
Decoder = Literal["libjpeg-turbo", "nvJPEG"]
DECODERS: Final[tuple[Decoder, ...]] = get_args(Decoder)


def half_written(name: str) -> re.Pattern[str]:
    """Of file names: what a killed run has left of the data set whose shards are called ``name``."""
    shard = rf"{re.escape(name)}-\d{{6,}}"
    whole = "|".join(map(re.escape, (INDEX_NAME, MANIFEST_NAME, STATE_NAME)))
    return re.compile(rf"\.({shard}\.(tar|idx)|\.{shard}\.tar(\.empty)?\.json|{whole})\.[0-9a-f]+\.tmp")


@dataclass(frozen=True)
class ShardInfo:
    """One shard.

    Attributes:
      name: of the file.
      samples: in it.
      bytes: length of the tar.
      sha256: of the tar, hex.
      index_crc32c: CRC-32C of what the index must say of it (schemas/sample-index.md), so that an index made anew from a
        tar that was changed is noticed; None in format version 1.
    """

    name: str
    samples: int
    bytes: int
    sha256: str
    index_crc32c: int | None = None


@dataclass(frozen=True)
class ImageTar:
    """A tar of images that nobody rewrites, beside which the shards hold records alone (a sidecar data set).

    Attributes:
      path: of the tar, relative to the data set's folder (or absolute).
      bytes: its length.
    """

    path: str
    bytes: int

    @classmethod
    def seen_from(cls, out: Path, path: Path, size: int) -> ImageTar:
        """The tar at ``path`` as a data set in the folder ``out``, which need not be there yet, names it.

        Links in both folders are resolved: ".." of a folder that a link leads to is not the folder that the link is in.
        The name of the tar itself stays, should it be a link.
        """
        place = os.path.join(os.path.realpath(path.parent), path.name)  # noqa: PTH118  (as realpath gives texts)
        return cls(os.path.relpath(place, os.path.realpath(out)), size)


def teacher_class(number: int) -> str:
    """The name of a class that the teacher alone knows."""
    return f"teacher class {number}"


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
      tiles: how many images are tiled JPEGs; None where images are stored as they were given, and before version 3.
      decoder: by which the JPEGs were decoded that the teacher saw: "libjpeg-turbo" (on the CPU) or "nvJPEG", whose
        pixels differ a little; None where that is not known, or there are no views.
      label_maps: what the samples' records are, where they are label maps, of which training draws its views and targets;
        else None. There are no stored views then, and no ``spec``.
      row_order: of the views of every image: by falling confidence of the teacher, or rising entropy; see
        `dali_dr.record.labels.order_rows`.
      shards: in order of the samples.
      views_min, views_max: views per image; 0 without reinforcements.
      topk: stored teacher classes per view; with label maps, the most classes that a map has.
      record_bytes: bytes of all records, compressed.
      versions: of the libraries that drew and replayed.
      format_version: that was read, or is written; version 1 has neither a checksum nor `ShardInfo.index_crc32c`,
        versions 1 and 2 have neither ``tiles`` nor ``decoder``. Version 4 is that of data sets with ``label_maps``,
        version 5 that of data sets whose ``spec`` says what readers of version 3 do not know, or with ``row_order``
        other than by confidence.
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
    tiles: TileCounts | None = None
    decoder: Decoder | None = None
    label_maps: LabelMaps | None = None
    row_order: RowOrder = "confidence"
    shards: tuple[ShardInfo, ...] = ()
    views_min: int = 0
    views_max: int = 0
    topk: int = 0
    record_bytes: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.format_version == FORMAT_VERSION:
            object.__setattr__(self, "format_version", self._needed())

    def _needed(self) -> int:
        """The format version that the data set must be written in, so that no reader takes it for what it is not."""
        if self.row_order != "confidence" or (self.spec is not None and self.spec.later()):
            return _DRAWN_SINCE
        return FORMAT_VERSION if self.label_maps is None else _MAPS_SINCE

    @property
    def images(self) -> int:
        """Samples in all shards."""
        return sum(shard.samples for shard in self.shards)

    @property
    def image_classes(self) -> int:
        """Classes of the images: `num_classes` without the last ones, where they are such as the teacher alone knows."""
        count, names = self.num_classes, self.class_names or ()
        while count and len(names) >= count and names[count - 1] == teacher_class(count - 1):
            count -= 1
        return count

    @property
    def num_outputs(self) -> int:
        """Length of the teacher's output, of which soft_ids are places: classes, or dimensions of an embedding."""
        return int((self.teacher or {}).get("outputs", self.num_classes))

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON-able dict, in the order of the schema, with its checksum."""
        encoding = None
        if self.probabilities is not None:
            encoding = {"encoding": self.probabilities}
            if self.log_step is not None:
                encoding |= {"log_step": self.log_step}  # type: ignore[dict-item]
        data = {
            "format_version": self.format_version,
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
            **(self._of_version_3() if self.format_version >= _TILES_SINCE else {}),
            **({"label_maps": self.label_maps.to_json()} if self.label_maps is not None else {}),
            **({"row_order": self.row_order} if self.row_order != "confidence" else {}),
            "shards": [
                {name: value for name, value in vars(shard).items() if value is not None} for shard in self.shards
            ],
        }
        return data if self.format_version < _CHECKSUM_SINCE else {**data, "checksum": checksum_of(data)}

    def _of_version_3(self) -> dict[str, Any]:
        return {"tiles": None if self.tiles is None else self.tiles.to_json(), "decoder": self.decoder}

    def settings(self) -> dict[str, Any]:
        """What the writer was asked for, as JSON: two runs may share a folder only if these are equal."""
        data = {name: value for name, value in self.to_json().items() if name not in _FOUND}
        if self.format_version >= _TILES_SINCE and not self.image_tars:
            data["keep_bytes"] = self.tiles is None
        result: dict[str, Any] = json.loads(json.dumps(data))
        return result

    @classmethod
    def from_json(cls, data: Any, where: str = MANIFEST_NAME, *, sealed: bool = True) -> Manifest:
        """The manifest in ``data``, checked against its checksum and the schema.

        Args:
          data: JSON.
          where: it is from, for messages.
          sealed: False: the checksum may be absent or another.

        Raises:
          ShardError: naming ``where`` and the member at fault, or the format versions that can be read.
        """
        version = data.get("format_version") if isinstance(data, dict) else None
        if type(version) is not int or version not in READABLE:  # True is 1
            raise ShardError(
                f"{where}: format_version is {version!r:.80}, this dali_dr reads {READABLE[0]} to {READABLE[-1]}; "
                "use the dali_dr that wrote the data set, or a newer one"
            )
        try:
            if version >= _CHECKSUM_SINCE:
                checksum = checksum_of(data)
                if sealed and data.get("checksum") != checksum:
                    raise ShardError(
                        f"{where}: its checksum is {data.get('checksum')!r:.80}, its contents have {checksum}: it was "
                        "changed or damaged; restore it from a copy, or, if you changed it on purpose, run `dali-dr "
                        "seal` on the folder"
                    )
                early = [name for name, since in _NEW.items() if name in data and version < since]
                if early:
                    since = max(_NEW[name] for name in early)
                    raise ShardError(
                        f"{where}: {' and '.join(early)}: of format version {since}, but format_version is {version}"
                    )
                data = {**data, "checksum": checksum}
            shards = data.get("shards")
            usual = isinstance(shards, list) and len(shards) > 1 and all(map(_is_usual, shards))
            checked = {**data, "shards": shards[:1]} if usual else data
            problem = jsonschema.exceptions.best_match(_validator().iter_errors(checked))
        except (RecursionError, ValueError) as error:
            if isinstance(error, ShardError):
                raise
            raise ShardError(f"{where}: not a manifest ({_short(str(error))}); restore it from a copy") from None
        if problem is not None:
            raise ShardError(f"{where}: {problem.json_path}: {_short(problem.message)}")
        encoding = data.get("probabilities") or {}
        try:
            spec = None if data.get("spec") is None else _spec_of(data["spec"], version)
            maps = None if data.get("label_maps") is None else LabelMaps(**data["label_maps"])
        except (SpecError, RecordError) as error:
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
            tiles=None if data.get("tiles") is None else TileCounts(**data["tiles"]),
            decoder=data.get("decoder"),
            label_maps=maps,
            row_order=data.get("row_order", "confidence"),
            shards=tuple(ShardInfo(**shard) for shard in data["shards"]),
            views_min=data["views"]["min"],
            views_max=data["views"]["max"],
            topk=data["topk"],
            record_bytes=data["record_bytes"],
            versions=data["versions"],
            format_version=version,
        )
        manifest._check(data, where)
        return manifest

    def _check(self, data: Any, where: str) -> None:
        """What the schema cannot say. ShardError if ``data``, whose manifest this is, breaks it."""
        names, outputs = self.class_names, (self.teacher or {}).get("outputs", 1)
        for bad, what in (
            (
                self.images != data["images"],
                f"images is {data['images']}, the shards hold {self.images}",
            ),
            (
                len({shard.name for shard in self.shards}) < len(self.shards),
                "a shard is listed twice",
            ),
            (
                names is not None and len(names) != self.num_classes,
                f"{len(names or ())} class_names for {self.num_classes} classes",
            ),
            (self.views_min > self.views_max, "views.min is above views.max"),
            (self.views_max > 0 and self.spec is None, "it has views but no spec"),
            (self.row_order != "confidence" and self.spec is None, "it has a row_order but no spec, hence no views"),
            (
                self.label_maps is not None and (self.spec, self.probabilities, self.views_max) != (None, None, 0),
                "it has label maps, and views or what they were drawn from",
            ),
            (
                self.label_maps is not None and not 1 <= self.topk <= self.num_outputs,
                f"topk is {self.topk}, want 1..{self.num_outputs}, the most classes that a label map has",
            ),
            (
                not isinstance(outputs, int) or isinstance(outputs, bool) or not 0 < outputs <= MAX_LABEL,
                f"teacher.outputs is {outputs!r:.80}, want 1..{MAX_LABEL}",
            ),
            (
                any(_CONTROL.search(shard.name) for shard in self.shards),
                "the name of a shard has control characters",
            ),
            (
                any(_CONTROL.search(image_tar.path) for image_tar in self.image_tars),
                "the path of an image tar has control characters",
            ),
            (
                any(shard.samples > shard.bytes // _SMALLEST for shard in self.shards),
                f"a shard has more samples than fit into it at {_SMALLEST} bytes each",
            ),
            (
                self.format_version >= _CHECKSUM_SINCE and any(shard.index_crc32c is None for shard in self.shards),
                "a shard has no index_crc32c",
            ),
            (
                self.tiles is not None and self.tiles.total != self.images,
                f"tiles tells of {self.tiles and self.tiles.total} images, the shards hold {self.images}",
            ),
            (
                self.tiles is not None and len(self.image_tars) > 0,
                "it has tiles, and images in tars that stay as they are",
            ),
        ):
            if bad:
                raise ShardError(f"{where}: {what}")

    @classmethod
    def load(cls, folder: str | Path, *, sealed: bool = True) -> Manifest:
        """The manifest of the data set in ``folder``. ShardError if it is missing or wrong.

        Args:
          folder: of the data set.
          sealed: False: its checksum may be absent or another (`dali-dr seal`).
        """
        path = Path(folder) / MANIFEST_NAME
        if not path.exists():
            raise no_data_set(Path(folder))
        return cls.from_json(load_json(path), str(path), sealed=sealed)

    def save(self, folder: str | Path) -> None:
        """Write the manifest into ``folder``, atomically and checked against the schema."""
        path = Path(folder) / MANIFEST_NAME
        try:
            text = (json.dumps(self.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
        except (ValueError, TypeError, RecursionError) as error:  # NaN, text that is not Unicode, other objects
            raise ShardError(f"{path}: cannot be written as JSON: {_short(str(error))}") from error
        if len(text) > MAX_BYTES:
            raise ShardError(f"{path}: would have {len(text)} bytes, at most {MAX_BYTES} are read; shorten `extra`")
        Manifest.from_json(json.loads(text), str(path))
        tar.write_atomically(path, text)


def _spec_of(data: Any, version: int) -> AugmentationSpec:
    """The spec of a manifest of this format version. SpecError where there is none, or none of that version."""
    spec = AugmentationSpec.from_json(data)
    if version < _DRAWN_SINCE and (later := spec.later()):
        raise SpecError(
            f"spec: {' and '.join(later)}: of format version {_DRAWN_SINCE}, but format_version is {version}"
        )
    return spec


def checksum_of(data: Mapping[str, Any]) -> str:
    """The checksum of a manifest: SHA-256 of the canonical JSON of all its other members."""
    rest = {name: value for name, value in data.items() if name != "checksum"}
    return "sha256:" + hashlib.sha256(canonical(rest)).hexdigest()


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


def _is_usual(shard: Any) -> bool:
    """Whether a shard has just what the schema wants of it, which jsonschema takes long to find out of thousands."""
    return (
        type(shard) is dict
        and shard.keys() == {"name", "samples", "bytes", "sha256", "index_crc32c"}
        and all(type(shard[name]) is int for name in ("samples", "bytes", "index_crc32c"))
        and type(shard["name"]) is str
        and type(shard["sha256"]) is str
        and re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*\.tar", shard["name"]) is not None
        and re.fullmatch(r"[0-9a-f]{64}", shard["sha256"]) is not None
        and shard["samples"] >= 1
        and shard["bytes"] >= 2 * tar.BLOCK
        and 0 <= shard["index_crc32c"] < 1 << 32
    )


def _short(message: str, limit: int = 300) -> str:
    return message if len(message) <= limit else message[:limit] + " …"
