"""The C++ parser, through fn.dr.read, reads what the codec writes, to the last bit."""

from __future__ import annotations

import io
import struct
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_record_codec import SHAPES, random_reinforcements, record_of

from dali_dr._plugin import load
from dali_dr.errors import PluginError
from dali_dr.record.decode import decode
from dali_dr.record.encode import encode
from dali_dr.record.labels import Reinforcements

try:
    load()
except PluginError as error:
    pytest.skip(f"the plugin does not load: {error}", allow_module_level=True)

from nvidia.dali import Pipeline, fn


def write_shard(folder: Path, frames: list[bytes]) -> Path:
    """One tar of ``frames`` with empty images, and its index.bin, whose path is returned (schemas/sample-index.md)."""
    tar, keys = folder / "shard-000000.tar", [f"{number:04d}" for number in range(len(frames))]
    with tarfile.open(tar, "w") as archive:
        for key, frame in zip(keys, frames, strict=True):
            for name, data in ((f"{key}.jpg", b"no image"), (f"{key}.cls", b"3"), (f"{key}.dr.zst", frame)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    with tarfile.open(tar) as archive:
        place = {member.name: (0, member.offset_data // 512, member.size) for member in archive}
    entries = b"".join(struct.pack("<6Ii", *place[f"{key}.jpg"], *place[f"{key}.dr.zst"], 3) for key in keys)
    entries += bytes(-len(entries) % 8)
    offsets = struct.pack(f"<{len(keys) + 1}Q", *range(0, 4 * len(keys) + 1, 4))
    files = struct.pack("<QH", tar.stat().st_size, len(tar.name)) + tar.name.encode()
    header = (b"DDRINDEX", 1, 64, len(keys), 1000, 1, 0, len(files), 4 * len(keys))
    index = folder / "index.bin"
    index.write_bytes(struct.pack("<8sIIQQIIQQ8x", *header) + entries + offsets + "".join(keys).encode() + files)
    return index


def read_all(index: Path, views: list[int], mixing: bool) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """params, soft_ids and soft_probs of all views of every sample; ``views`` are their numbers.

    Without mixing all views of a sample at once, so from all groups of rows; with it one by one, as they have different
    partners.
    """
    samples = [np.array([number], np.int64) for number in range(len(views))]
    rows = [np.arange(count, dtype=np.int32)[None] for count in views]
    if mixing:
        samples = [np.full(count, number, np.int64) for number, count in enumerate(views)]
        rows = [np.arange(count, dtype=np.int32) for count in views]
    graph = Pipeline(batch_size=max(map(len, samples)), num_threads=1, device_id=None)
    with graph:
        feeds = (fn.external_source(source, cycle="raise", batch=True) for source in (samples, rows))
        graph.set_outputs(*fn.dr.read(*feeds, index=str(index), mixing=mixing)[4:7])  # type: ignore[attr-defined]
    graph.build()
    out = []
    for _ in views:
        batch = graph.run()
        if mixing:
            out.append(tuple(np.stack([np.array(o.at(i)) for i in range(len(o))]) for o in batch))
        else:
            out.append(tuple(np.array(o.at(0)) for o in batch))
    return out  # type: ignore[return-value]


def assert_agrees(folder: Path, frames: list[bytes]) -> None:
    loaded: list[Reinforcements] = [decode(frame).reinforcements for frame in frames]
    mixing = loaded[0].mix is not None
    outputs = read_all(write_shard(folder, frames), [len(one) for one in loaded], mixing)
    for one, (params, ids, probs) in zip(loaded, outputs, strict=True):
        assert np.array_equal(params, one.pack())
        assert np.array_equal(ids, one.soft_ids)
        assert probs.tobytes() == one.soft_probs.tobytes()


def among(count: int, name: str, encoding: str) -> bytes:
    """The record with its partners' numbers brought into 0 .. count - 1, so that the operator finds them."""
    record = decode(record_of(name, encoding)[1])
    views = record.reinforcements
    assert views.mix is not None
    partner = np.where(views.mix.partner >= 0, views.mix.partner % count, views.mix.partner)
    views = replace(views, mix=replace(views.mix, partner=partner))
    return encode(
        views,
        image_height=record.image_height,
        image_width=record.image_width,
        view_size=record.view_size,
        probabilities=encoding,  # type: ignore[arg-type]
        group_rows=SHAPES[name].get("group_rows"),
    )


@pytest.mark.parametrize("encoding", ["root8", "log8", "float16", "float32"])
def test_every_shape_of_record(tmp_path: Path, encoding: str) -> None:
    assert_agrees(tmp_path, [record_of(name, encoding)[1] for name in SHAPES if "mix" not in name])


@pytest.mark.parametrize("encoding", ["root8", "log8", "float16", "float32"])
def test_every_shape_of_mixed_record(tmp_path: Path, encoding: str) -> None:
    # Different numbers of operations and classes do not go into one batch, but each batch is one sample.
    names = [name for name in SHAPES if "mix" in name]
    assert_agrees(tmp_path, [among(len(names), name, encoding) for name in names])


def test_the_logarithmic_code_rounds_alike(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frames = [
        encode(
            random_reinforcements(rng, views=200, topk=int(rng.integers(1, 13)), sharpness=rng.uniform(0, 12)),
            image_height=375,
            image_width=500,
            view_size=(224, 224),
            probabilities="log8",
            log_step=rng.uniform(0.1, 1.0),
        )
        for _ in range(40)
    ]
    assert_agrees(tmp_path, frames)
