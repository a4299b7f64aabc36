"""Fixtures shared by all tests: small pictures made here, and real data where it lies beside the checkout."""

from __future__ import annotations

import ctypes
import io
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent


def _data(name: str) -> Path:
    root = Path(os.environ.get("DALI_DR_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    path = root / name
    if not path.exists():
        pytest.skip(
            f"{path} is absent: real test data is not part of the repository (set DALI_DR_TEST_DATA to its folder)"
        )
    return path


@pytest.fixture(scope="session")
def photos_dir() -> Path:
    """400 real ImageNet JPEGs, flat; the test skips where they are absent."""
    return _data("photos")


@pytest.fixture(scope="session")
def test_data() -> object:
    """A function NAME -> path under the real test data; the test skips where it is absent."""
    return _data


def visible_gpus() -> int:
    """CUDA devices that the driver shows, whatever build of torch is installed."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    return count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Writes files by their paths below the folder, which is returned."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """A photo-like uint8 RGB picture (height, width, 3): smooth gradients, edges and some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    channels = []
    for _ in range(3):
        fy, fx, phase = *rng.uniform(0.01, 0.15, 2), rng.uniform(0, 6)
        wave = 127 + 90 * np.sin(fy * y + fx * x + phase)
        wave += 60 * (
            (y - height * rng.uniform()) ** 2 + (x - width * rng.uniform()) ** 2 < (min(height, width) / 3) ** 2
        )
        channels.append(wave + rng.normal(0, 6, wave.shape))
    return np.clip(np.stack(channels, -1), 0, 255).astype(np.uint8)


def encode_jpeg(pixels: np.ndarray, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", **{"quality": 90, **options})
    return buffer.getvalue()


def encode_cmyk(seed: int) -> bytes:
    """A CMYK JPEG with black, which decoders turn into RGB each in its own way."""
    buffer = io.BytesIO()
    channels = np.dstack([picture(24, 32, seed), picture(24, 32, seed + 1)[:, :, :1]])
    Image.fromarray(channels, "CMYK").save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def jpeg_bytes() -> list[bytes]:
    """Eight JPEGs of different sizes, subsamplings and modes (RGB, grey, progressive, CMYK)."""
    return [
        encode_jpeg(picture(375, 500, 0)),
        encode_jpeg(picture(500, 333, 1), subsampling=0),
        encode_jpeg(picture(97, 131, 2), subsampling=1),
        encode_jpeg(picture(64, 64, 3), progressive=True),
        encode_jpeg(picture(240, 320, 4), mode="L"),
        encode_jpeg(picture(120, 90, 5), mode="CMYK"),
        encode_jpeg(picture(33, 201, 6)),
        encode_jpeg(picture(300, 300, 7), quality=60),
    ]
