"""Writes the golden data sets of the format version that the dali_dr on the path writes, and what they hold.

    python tests/golden/sets/make.py v3

makes v3-plain, v3-rrc-ra-re, v3-mixed and v3-sidecar beside this file, each with a NAME.npz. What has been made for
a version is never made again: its bytes are what data sets of that version are. Since version 3 the JPEGs of the
reinforced sets are tiled, and pictures are large enough for that. Version 4 is that of data sets with label maps, which
are all that it has; version 5 that of data sets whose views are drawn as readers of version 3 do not know.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import dali_dr
from dali_dr.augment.draw import draw
from dali_dr.record.label_map import encode_label_map
from dali_dr.shards.manifest import ImageTar
from dali_dr.shards.sample import Place

IMAGES, VIEWS, TOPK, CLASSES, SIZE = 6, 4, 3, 7, 16
KEYS = ["a/first", "a/second", "b/größe", "b/x" + 40 * "y", "plain_0", "plain_1"]


def images() -> list[tuple[str, bytes]]:
    """(suffix, file) of small pictures of all shapes."""
    result = []
    for number in range(IMAGES):
        rng = np.random.default_rng(number)
        pixels = np.kron(rng.integers(0, 256, (5, 6, 3)), np.ones((12 + number, 23, 1))).astype(np.uint8)
        kind = ("JPEG", "PNG", "JPEG")[number % 3]
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind, **({"quality": 80} if kind == "JPEG" else {}))
        result.append(({"JPEG": "jpg", "PNG": "png"}[kind], buffer.getvalue()))
    return result


def label_of(number: int) -> int:
    """The class of an image."""
    return (3 * number + 1) % CLASSES


def reinforcements(number: int, data: list[tuple[str, bytes]], spec: dali_dr.AugmentationSpec) -> Any:
    """Drawn views and made-up predictions, in order of falling confidence."""
    sizes = [Image.open(io.BytesIO(image)).size[::-1] for _, image in data]
    height, width = sizes[number]
    mixing: dict[str, Any] = {"population": IMAGES, "partner_size": sizes.__getitem__} if spec.mixing else {}
    drawn = draw(spec, seed=5, key=KEYS[number], views=range(VIEWS), image_height=height, image_width=width, **mixing)
    rng = np.random.default_rng(100 + number)
    ids = np.stack([rng.permutation(CLASSES)[:TOPK] for _ in range(VIEWS)]).astype(np.int32)
    probs = -np.sort(-rng.dirichlet(np.ones(CLASSES), VIEWS), axis=1)[:, :TOPK].astype(np.float32)
    probs = probs[np.argsort(-probs[:, 0], kind="stable")]
    columns = {name: getattr(drawn, name) for name in ("crop", "flip", "ops", "magnitudes", "erase", "mix")}
    return dali_dr.Reinforcements(**columns, soft_ids=ids, soft_probs=probs)


def label_map(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Made-up scores and class ids (3, 15, 15) of an image, of some classes; every other one as float16 has them."""
    rng = np.random.default_rng(200 + number)
    some = rng.permutation(CLASSES)[: 3 + number % 4]
    ids = np.stack([rng.permutation(some)[:TOPK] for _ in range(225)], 1).reshape(TOPK, 15, 15).astype(np.int32)
    scores = rng.normal(3, 3, ids.shape).astype(np.float16 if number % 2 else np.float32)
    return scores.astype(np.float32), ids


def write(folder: Path, preset: str | None, sidecar: bool = False, **options: Any) -> dict[str, np.ndarray]:
    """Writes a data set; what it must hold, taken from what the writer was given."""
    data = images()
    spec = None if preset is None else dali_dr.AugmentationSpec.preset(preset, SIZE)
    folder.mkdir()
    places: list[Place | None] = [None] * IMAGES
    if sidecar:
        with tarfile.open(folder / "images.tar", "w") as archive:
            for number, (suffix, image) in enumerate(data):
                for name, content in ((suffix, image), ("cls", b"%d" % label_of(number))):
                    info = tarfile.TarInfo(f"{KEYS[number]}.{name}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
        with tarfile.open(folder / "images.tar") as archive:
            at = [info.offset_data for info in archive if not info.name.endswith(".cls")]
        places = [Place(0, offset) for offset in at]
        options["image_tars"] = [ImageTar("images.tar", (folder / "images.tar").stat().st_size)]
    views = [None if spec is None else reinforcements(number, data, spec) for number in range(IMAGES)]
    maps = [label_map(number) for number in range(IMAGES)] if "label_maps" in options else []
    records = [encode_label_map(*one, num_classes=CLASSES) for one in maps] or [None] * IMAGES
    samples = [
        dali_dr.Sample(KEYS[n], data[n][1], label_of(n), views[n], place=places[n], record=records[n])
        for n in range(IMAGES)
    ]
    dali_dr.write_shards(
        samples, folder, spec=spec, num_classes=CLASSES, samples_per_shard=4, progress=False, **options
    )
    expected: dict[str, Any] = {
        "keys": KEYS,
        "labels": [label_of(number) for number in range(IMAGES)],
        "sha256": [hashlib.sha256(image).hexdigest() for image in stored_images(folder, data)],
        "sizes": [Image.open(io.BytesIO(image)).size[::-1] for _, image in data],
        "spec": json.dumps(None if spec is None else spec.to_json()),
    }
    if maps:
        expected |= {"scores": [one[0] for one in maps], "ids": [one[1] for one in maps]}
    if spec is not None:
        stored = [dali_dr.Dataset(folder).reinforcements(number).soft_probs for number in range(IMAGES)]
        for given, got in zip(views, stored, strict=True):
            assert np.allclose(given.soft_probs, got, rtol=0.15)
        expected |= {
            "packed": [one.pack() for one in views],
            "soft_ids": [one.soft_ids for one in views],
            "soft_probs": stored,  # the encoding rounds
        }
    return {name: np.asarray(value) for name, value in expected.items()}


def stored_images(folder: Path, data: list[tuple[str, bytes]]) -> list[bytes]:
    """The image files as they are stored, which show what was given; of a sidecar data set, what was given."""
    found = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as archive:
            for info in archive:
                file = archive.extractfile(info)
                assert file is not None
                found[info.name] = file.read()
    result = []
    for key, (suffix, image) in zip(KEYS, data, strict=True):
        stored = found.get(f"{key}.{suffix}", image)
        pictures = [np.asarray(Image.open(io.BytesIO(one)).convert("RGB")) for one in (stored, image)]
        assert np.array_equal(*pictures)
        result.append(stored)
    return result


def main() -> None:
    here, version = Path(__file__).resolve().parent, sys.argv[1]
    kinds: dict[str, tuple[str | None, dict[str, Any]]] = {
        "plain": (None, {"class_names": [f"class {n}" for n in range(CLASSES)], "keep_bytes": True}),
        "rrc-ra-re": (
            "rrc+ra+re",
            {"seed": 5, "decoder": "libjpeg-turbo", "teacher": {"names": ["made up"], "input_size": SIZE}},
        ),
        "mixed": ("rrc+mixing+ra+re", {"probabilities": "float32"}),
        "sidecar": ("rrc", {"sidecar": True}),
    }
    if version == "v4":
        maps = dali_dr.LabelMaps(15, 15, TOPK, "transposed")
        kinds = {"label-maps": (None, {"label_maps": maps, "teacher": {"names": ["made up"]}})}
    if version == "v5":
        kinds = {kind: (kind, {"seed": 5, "teacher": {"names": ["made up"]}}) for kind in ("crop+flip", "moco-v2")}
    for kind, (preset, options) in kinds.items():
        folder = here / f"{version}-{kind.replace('+', '-')}"
        if folder.exists():
            raise SystemExit(f"{folder} is there: golden data sets are made once")
        try:
            expected = write(folder, preset, **options)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        np.savez_compressed(folder.with_suffix(".npz"), **expected)
        print(folder.name, sum(path.stat().st_size for path in folder.rglob("*")))


if __name__ == "__main__":
    main()
