"""Our own decoder in the loader: the same views as by DALI's and Pillow's, whatever the files are, and what is said of them."""

from __future__ import annotations

import io
import logging
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_iterator import epoch_of, loader, make_dataset, reference
from writing import picture

import dali_dr
from dali_dr import _plugin
from dali_dr.loader.decoding import compare_decoders, route
from dali_dr.loader.options import Machine

Encode = Callable[[Image.Image], bytes]


def saved(format: str, mode: str = "RGB", **options: Any) -> Encode:
    def encode(image: Image.Image) -> bytes:
        file = io.BytesIO()
        image.convert(mode).save(file, format, **options)
        return file.getvalue()

    return encode


KINDS: dict[str, Encode] = {
    **{f"4:{s}": saved("JPEG", quality=90, subsampling=n) for n, s in enumerate(("4:4", "2:2", "2:0"))},
    "grey": saved("JPEG", "L", quality=85),
    "progressive": saved("JPEG", progressive=True),
    "restarts": saved("JPEG", restart_marker_blocks=3),  # which are no tiles
    "CMYK": saved("JPEG", "CMYK"),
    "PNG": saved("PNG"),
    "WebP": saved("WebP", lossless=True),
}


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    sizes = [(90 + 37 * i % 211, 70 + 53 * i % 251) for i in range(4 * len(KINDS))]
    kinds = list(KINDS.values()) * 4
    return [
        encode(Image.fromarray(picture(*size, n))) for n, (encode, size) in enumerate(zip(kinds, sizes, strict=True))
    ]


@pytest.fixture(scope="module", params=["tiled", "kept"])
def mixed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, images: list[bytes]
) -> dali_dr.Dataset:
    out = tmp_path_factory.mktemp(request.param) / "set"
    return make_dataset(out, images, keep_bytes=request.param == "kept")


def test_stored_views_are_pillows(mixed: dali_dr.Dataset) -> None:
    it = loader(mixed, dtype="uint8", layout="HWC")
    for _ in range(4):
        for batch in epoch_of(it):
            for row, (number, view) in enumerate(zip(batch["index"].tolist(), batch["view"].tolist(), strict=True)):
                assert np.array_equal(batch["data"][row].numpy(), reference(mixed, number, view)), (number, view)
    stats = it.stats()
    assert stats["misfit"] == 0 and stats["sliced"] + stats["whole"] >= 4 * 6 * 4
    least = 0 if mixed.manifest.tiles is None else 4 * mixed.manifest.tiles.images
    assert least <= stats["sliced"] <= least + 4 * 4  # one kind has restart markers by itself


@pytest.mark.parametrize(
    "options",
    [
        {"views_per_image": 3},
        {"augment": "eval", "size": 64},
        {"augment": "rrc+ra+re"},
        {"augment": "rrc", "size": (50, 120)},
        {"roi_decode": "off"},
    ],
    ids=str,
)
def test_dalis_decoder_gives_the_same_views(mixed: dali_dr.Dataset, options: dict[str, Any]) -> None:
    ours, theirs = loader(mixed, **options), loader(mixed, decoder="dali", **options)
    for (one,), (other,) in zip(ours, theirs, strict=True):
        assert one["index"].tolist() == other["index"].tolist()
        assert one["data"].numpy().tobytes() == other["data"].numpy().tobytes()
    assert sum(theirs.stats()[way] for way in ("sliced", "whole", "misfit")) == 0


def test_markers_that_do_not_fit_are_counted(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path / "set", [saved("JPEG", quality=90)(Image.fromarray(picture(160, 224, 3)))] * 3)
    assert dataset.manifest.tiles is not None and dataset.manifest.tiles.images == 3
    data = dataset.image(1)
    at = data.index(b"\xff\xd2")  # the third marker, which becomes the first again
    shard, offset = dataset.place_of(1, "image")
    with shard.open("r+b") as file:
        file.seek(offset + at)
        file.write(b"\xff\xd0")
    it = loader(dataset, batch_size=3)
    for _ in range(3):
        assert len(epoch_of(it)) == 1
    assert 1 <= it.stats()["misfit"] <= 3


def test_the_teachers_decoder_is_compared(caplog: pytest.LogCaptureFixture) -> None:
    def said(decoder: str | None, **machine: Any) -> str:
        caplog.clear()
        dataset: Any = types.SimpleNamespace(path="set", manifest=types.SimpleNamespace(decoder=decoder))
        with caplog.at_level(logging.WARNING):
            compare_decoders(dataset, Machine(**machine))
        return caplog.text

    assert "as nvJPEG decodes them; now libjpeg-turbo does" in said("nvJPEG", device="cpu")
    assert 'decode_device="cpu" takes that away' in said("libjpeg-turbo", device="gpu")
    assert not said("libjpeg-turbo", device="gpu", decode_device="cpu") and not said("nvJPEG", device="gpu")
    assert not said(None, device="gpu") and not said("libjpeg-turbo", device="cpu")


def test_routes() -> None:
    assert route("cpu", "auto", "auto", "auto") == route("cpu", "cpu", "auto", "on") == "replay"
    assert route("gpu", "cpu", "auto", "auto") == "decode"
    assert route("gpu", "auto", "auto", "on") == route("cpu", "auto", "dali", "auto") == "slices"
    assert route("cpu", "auto", "auto", "off") == route("gpu", "auto", "dali", "off") == "whole"


def decoded(images: list[bytes], regions: Any = None) -> list[np.ndarray[Any, Any]]:
    """By fn.dr.decode."""
    _plugin.load()
    from nvidia.dali import fn, pipeline_def

    @pipeline_def(batch_size=len(images), num_threads=2, device_id=None, prefetch_queue_depth=1)  # type: ignore[untyped-decorator]
    def graph() -> Any:
        given = [np.frombuffer(data, np.uint8) for data in images]
        encoded = fn.external_source(lambda: given, batch=True)
        inputs = (
            [] if regions is None else fn.external_source(lambda: tuple(map(list, regions)), num_outputs=2, batch=True)
        )
        return fn.dr.decode(encoded, *inputs), fn.dr.foreign(encoded)  # type: ignore[attr-defined]

    pipeline = graph()
    pipeline.build()
    pixels, foreign = pipeline.run()
    assert not np.array(foreign.as_array()).any()
    return [np.array(pixels[n]) for n in range(len(images))]


def test_decode_gives_pillows_pixels(images: list[bytes]) -> None:
    jpegs = [images[n] for n in range(len(images)) if list(KINDS)[n % len(KINDS)] not in ("CMYK", "PNG", "WebP")]
    whole = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in jpegs]
    for got, want in zip(decoded(jpegs), whole, strict=True):
        assert np.array_equal(got, want)
    rng = np.random.default_rng(3)
    for _ in range(8):
        ends = [[np.sort(rng.choice(axis + 1, 2, replace=False)) for axis in image.shape[:2]] for image in whole]
        starts = np.array([[a[0] for a in end] for end in ends], np.int32)
        shapes = np.array([[a[1] - a[0] for a in end] for end in ends], np.int32)
        for got, want, ((t, b), (left, right)) in zip(decoded(jpegs, (starts, shapes)), whole, ends, strict=True):
            assert np.array_equal(got, want[t:b, left:right])


def test_decode_refuses_what_it_cannot_decode(images: list[bytes]) -> None:
    jpeg, png = images[0], images[list(KINDS).index("PNG")]
    with pytest.raises(RuntimeError, match="the image cannot be decoded: the region is not inside the image"):
        decoded([jpeg], np.array([[[0, 0]], [[5000, 1]]], np.int32))
    with pytest.raises(RuntimeError, match="the image cannot be decoded: "):
        decoded([png])
    with pytest.raises(RuntimeError, match="the image cannot be decoded: Premature end of JPEG file"):
        decoded([jpeg[: len(jpeg) // 2]])
