"""Every row of the one list of image containers is found, written, read and checked, from one end to the other."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from conftest import picture
from PIL import Image
from test_draw_cpp import sizes_read

import dali_dr
from dali_dr.encoded import CONTAINERS, NAMES, SUFFIXES, Container, image_info, written_suffix
from dali_dr.shards.verify import verify
from dali_dr.sources import open_source


def encoded(pixels: np.ndarray, container: Container) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, container.pillow)
    return buffer.getvalue()


def test_rows_do_not_overlap() -> None:
    assert len(set(SUFFIXES)) == len(SUFFIXES) and all(s == s.lower() and "." not in s for s in SUFFIXES)
    assert NAMES == "JPEG, PNG or WebP"  # as docs and messages have it
    assert [written_suffix(suffix) for suffix in ("jpg", "jpeg", "png", "webp")] == ["jpg", "jpg", "png", "webp"]
    with pytest.raises(KeyError):
        written_suffix("gif")


@pytest.mark.parametrize("container", CONTAINERS, ids=lambda c: c.name)
def test_a_container_passes_through_all_stages(container: Container, tmp_path: Path) -> None:
    pixels = picture(23, 31, 5)
    data = encoded(pixels, container)
    assert image_info(data, full=True) == (container.suffixes[0], 23, 31)
    assert sizes_read(tmp_path / "cpp", [data]) == [(23, 31)]  # the plugin's own reader of headers

    names = [name for suffix in container.suffixes for name in (suffix, suffix.upper())]
    (tmp_path / "images" / "c").mkdir(parents=True)
    for number, name in enumerate(names):
        (tmp_path / "images" / "c" / f"p{number}.{name}").write_bytes(data)
    (tmp_path / "images" / "c" / "notes.txt").write_text("no image")
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        for number, name in enumerate(names):
            for member, content in ((f"p{number}.{name}", data), (f"p{number}.cls", b"0")):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    for kind in ("images", "images.tar"):
        source = open_source(tmp_path / kind)
        assert [source.read(number) for number in range(len(source))] == [data] * len(names)
        out = tmp_path / f"set of {kind}"
        samples = [dali_dr.Sample(key, source.read(n), 0) for n, key in enumerate(source.keys)]
        dali_dr.write_shards(samples, out, spec=None, num_classes=1, keep_bytes=True, progress=False)
        with tarfile.open(out / "shard-000000.tar") as archive:
            members = [name for name in archive.getnames() if not name.endswith(".cls")]
        assert members == [f"{key}.{container.suffixes[0]}" for key in source.keys]
        assert verify(out, images=True, progress=False).problems == []

    dataset = dali_dr.Dataset(tmp_path / "set of images")
    assert [dataset.image(number) for number in range(len(dataset))] == [data] * len(names)


def test_a_jpeg_of_several_pictures_is_a_jpeg() -> None:
    """Cameras write such ("MPO"), and Pillow calls them by another name."""
    first, second = (Image.fromarray(picture(20, 30, seed)) for seed in (1, 2))
    buffer = io.BytesIO()
    first.save(buffer, "MPO", save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(buffer.getvalue())).format == "MPO"
    assert image_info(buffer.getvalue(), full=True) == ("jpg", 20, 30)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF"])
def test_what_is_not_in_the_list_is_refused(kind: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(picture(9, 9, 0)).save(buffer, kind)
    with pytest.raises(ValueError, match=r"cannot be read as JPEG, PNG or WebP: it is none"):
        image_info(buffer.getvalue())
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / f"a.{kind.lower()}").write_bytes(buffer.getvalue())
    with pytest.raises(dali_dr.ShardError, match=r"\.jpg, \.jpeg, \.png, \.webp"):
        open_source(tmp_path)
