"""Data sets of every format version, kept in tests/golden/sets: they are read for ever, as what they were written from."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dali_dr
from dali_dr._plugin import load
from dali_dr.errors import PluginError
from dali_dr.shards.verify import verify

GOLDEN = Path(__file__).resolve().parent / "golden" / "sets"
SETS = sorted(path.stem for path in GOLDEN.glob("*.npz"))


@pytest.fixture(params=SETS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(name: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / name, tmp_path / name))


def wanted(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def digests(images: Sequence[bytes]) -> list[str]:
    return [hashlib.sha256(image).hexdigest() for image in images]


def test_all_kinds_are_there() -> None:
    kinds = {"plain", "rrc-ra-re", "mixed", "sidecar"}
    versions = {name.partition("-")[0] for name in SETS}
    assert versions == {"v1", "v2", "v3", "v4", "v5"} and set(SETS) == {
        "v4-label-maps",
        "v5-crop-flip",
        "v5-moco-v2",
        *(f"{version}-{kind}" for version in versions - {"v4", "v5"} for kind in kinds),
    }


def test_a_data_set_says_what_was_written(name: str) -> None:
    """In its own place, where nothing is written: each of its files stays as it is."""
    want, before = wanted(name), files(GOLDEN / name)
    dataset = dali_dr.Dataset(GOLDEN / name)
    numbers = range(len(want["keys"]))
    assert list(dataset.keys) == want["keys"].tolist() and np.array_equal(dataset.labels, want["labels"])
    assert [dataset.label(number) for number in numbers] == want["labels"].tolist()
    assert [dataset.find(key) for key in want["keys"]] == list(numbers)
    assert digests([dataset.image(number) for number in numbers]) == want["sha256"].tolist()
    assert dataset.num_views == (len(want["soft_ids"][0]) if "soft_ids" in want else 0)
    if "soft_ids" in want:
        assert dataset.spec.to_json() == json.loads(str(want["spec"]))
        for number in numbers:
            stored = dataset.reinforcements(number)
            for column, got in (
                ("packed", stored.pack()),
                *((c, getattr(stored, c)) for c in ("soft_ids", "soft_probs")),
            ):
                assert np.array_equal(got, want[column][number]), (number, column)
            assert dataset.image_size(number) == tuple(want["sizes"][number])
    for number in numbers if "scores" in want else ():
        for got, column in zip(dataset.label_map(number), ("scores", "ids"), strict=True):
            assert np.array_equal(got, want[column][number]), (number, column)
    assert verify(GOLDEN / name, images=True, progress=False).problems == []
    assert files(GOLDEN / name) == before


@pytest.mark.parametrize("kind", ["rrc-ra-re", "mixed"])
def test_tiles_since_version_3(kind: str) -> None:
    tiles = json.loads((GOLDEN / f"v3-{kind}" / "dataset.json").read_bytes())["tiles"]
    dataset = dali_dr.Dataset(GOLDEN / f"v3-{kind}")
    restarts = [b"\xff\xdd\x00\x04" in dataset.image(number) for number in range(len(dataset))]
    assert tiles["images"] == sum(restarts) == 4 and dataset.manifest.tiles is not None


def test_an_index_made_anew_says_the_same(name: str, folder: Path) -> None:
    (folder / "index.bin").unlink()
    want, dataset = wanted(name), dali_dr.Dataset(folder)
    assert list(dataset.keys) == want["keys"].tolist() and np.array_equal(dataset.labels, want["labels"])
    assert digests([dataset.image(number) for number in range(len(dataset))]) == want["sha256"].tolist()
    assert verify(folder, images=True, progress=False).problems == []


@pytest.fixture
def plugin() -> None:
    pytest.importorskip("nvidia.dali")
    try:
        load()
    except PluginError as error:
        pytest.skip(f"the plugin does not load: {error}")


def test_the_operator_reads_what_was_written(name: str, plugin: None) -> None:
    import nvidia.dali.fn as fn
    from nvidia.dali import Pipeline

    want, dataset = wanted(name), dali_dr.Dataset(GOLDEN / name)
    count, plain = len(dataset), "soft_ids" not in want
    inputs = [[np.array(number, np.int64) for number in range(count)]]
    if not plain:
        inputs.append([np.array(number % dataset.num_views, np.int32) for number in range(count)])
    graph = Pipeline(batch_size=count, num_threads=2, device_id=None)
    with graph:
        feeds = [fn.external_source([batch], cycle=True) for batch in inputs]
        options: dict[str, Any] = {"mixing": True} if name.endswith("mixed") else {}
        graph.set_outputs(*fn.dr.read(*feeds, index=str(dataset.index_path), **options))
    outputs = graph.run()
    images, labels = ([np.array(output.at(number)) for number in range(count)] for output in outputs[:2])
    assert digests([image.tobytes() for image in images]) == want["sha256"].tolist()
    assert [int(label.ravel()[0]) for label in labels] == want["labels"].tolist()
    if plain:
        return
    named = {"packed": outputs[4], "soft_ids": outputs[5], "soft_probs": outputs[6]}
    for column, output in named.items():
        for number in range(count):
            assert np.array_equal(np.array(output.at(number)), want[column][number][number % dataset.num_views])


def test_the_loader_shows_what_was_written(name: str, plugin: None) -> None:
    want = wanted(name)
    options: dict[str, Any] = {"batch_size": 3, "device": "cpu", "num_threads": 2, "with_index": True}
    if "soft_ids" not in want:
        options |= {"augment": "rrc", "size": 16}
    seen = []
    for (batch,) in dali_dr.ReinforcedIterator(GOLDEN / name, **options):
        assert torch.isfinite(batch["data"]).all()
        for row, (number, view) in enumerate(zip(batch["index"].tolist(), batch["view"].tolist(), strict=True)):
            seen.append(number)
            assert int(batch["label"][row]) == want["labels"][number]
            if "soft_ids" in want:
                assert np.array_equal(batch["soft_ids"][row].numpy(), want["soft_ids"][number][view])
                assert np.array_equal(batch["soft_probs"][row].numpy(), want["soft_probs"][number][view])
    assert sorted(seen) == list(range(len(want["keys"])))


def test_the_pictures_are_what_the_sizes_say(name: str) -> None:
    """The makers' own check: sizes that the tests above compare with are those that Pillow reads."""
    want, dataset = wanted(name), dali_dr.Dataset(GOLDEN / name)
    for number, size in enumerate(want["sizes"].tolist()):
        assert list(Image.open(io.BytesIO(dataset.image(number))).size[::-1]) == size
