"""The GPU path against the CPU path, byte for byte, from the same decoded pixels; all of it needs a CUDA device.

The CPU path is compared with Pillow in test_replay.py, and the GPU's algorithm with the CPU's, on host threads, in
csrc/tests/block_test.cc: what is left to be shown here is the device itself. DALI_DR_GPU_TESTS=cpu puts the CPU into the
GPU's place, which shows nothing but that these tests run: time on a GPU may be short.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from conftest import picture, visible_gpus, write_files
from PIL import Image

pytest.importorskip("nvidia.dali")
import nvidia.dali.types as types

from dali_dr import _plugin
from dali_dr.reinforce.run import reinforce
from dali_dr.sources import ImageFolder

GPU = os.environ.get("DALI_DR_GPU_TESTS", "gpu")
DEVICE_TYPE = "cuda" if GPU == "gpu" else "cpu"
ON_GPU: dict[str, Any] = {"device": GPU} | ({"device_id": 0} if GPU == "gpu" else {})
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        GPU == "gpu" and visible_gpus() == 0, reason="no CUDA device is visible (libcuda.so.1, cuDeviceGetCount)"
    ),
    pytest.mark.skipif(
        GPU == "gpu" and not _plugin.build_facts().get("cuda"), reason="the plugin was built without CUDA"
    ),
]

from test_iterator import loader, make_dataset  # noqa: E402
from test_mixing import generation  # noqa: E402
from test_mixing import make as make_mixed  # noqa: E402
from test_replay import (  # noqa: E402
    FILTERS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    NAMES,
    Pixels,
    Words,
    assert_same,
    grey_like,
    magnitudes,
    pack,
    random_view,
    run,
    several_views,
    test_images,
)

CHAINS = int(os.environ.get("DALI_DR_TEST_CHAINS", "10000"))


def both(images: Sequence[Pixels], params: Sequence[Words], labels: Sequence[Any], **arguments: Any) -> None:
    """Replays on both devices and compares."""
    want = run(images, params, **arguments)
    assert_same(run(images, params, device=GPU, **arguments), want, labels)


@pytest.mark.parametrize("index", range(16), ids=NAMES)
@pytest.mark.parametrize("size", [(224, 224), (45, 67), (7, 1), (3, 3)], ids=str)
def test_every_operation_over_its_whole_range(index: int, size: tuple[int, int]) -> None:
    cases = [(n, i, m) for n, i in test_images().items() for m in magnitudes(index, size)[:: 1 if index < 6 else 3]]
    params = [pack((0, 0, *image.shape[:2]), [(index, m)]) for _, image, m in cases]
    both([image for _, image, _ in cases], params, [(name, m) for name, _, m in cases], size=size)


OUTPUTS: list[dict[str, Any]] = [
    {"dtype": types.FLOAT16, "mean": IMAGENET_MEAN, "std": IMAGENET_STD},
    {"dtype": types.FLOAT, "mean": IMAGENET_MEAN, "std": IMAGENET_STD, "output_layout": "HWC"},
    {"dtype": types.UINT8},
    {"dtype": types.FLOAT16, "output_layout": "HWC", "mean": (0.0, 0.3, 2.0), "std": (1.0, 1e-3, 7.7)},
    {"dtype": types.FLOAT},
    {"dtype": types.UINT8, "output_layout": "HWC"},
    {"dtype": types.INT16, "mean": IMAGENET_MEAN, "std": IMAGENET_STD},
    {"dtype": types.INT16, "mean": IMAGENET_MEAN, "std": IMAGENET_STD, "output_layout": "HWC"},
]


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("size", [(32, 32), (48, 31), (17, 64), (96, 160), (224, 224)], ids=str)
def test_random_chains(size: tuple[int, int], interpolation: str) -> None:
    rng = np.random.default_rng([*size, len(interpolation)])
    pictures = [picture(int(h), int(w), i) for i, (h, w) in enumerate(rng.integers(1, 400, (60, 2)))]
    pictures += list(test_images().values())
    for output in OUTPUTS:
        count = CHAINS // (10 * len(OUTPUTS)) + 1
        images = [pictures[i] for i in rng.integers(0, len(pictures), count)]
        views = [random_view(rng, image, size) for image in images]
        both(images, [pack(**v) for v in views], views, size=size, interpolation=interpolation, **output)


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("side", [160, 224, 288, 384])
def test_sizes_and_extreme_crops(side: int, interpolation: str) -> None:
    rng = np.random.default_rng(side)
    large = picture(2000, 1999, 1)
    images = [
        large,
        large[:, :3].copy(),
        large[:2].copy(),
        grey_like(300, 500),
        picture(side, 700, 2),
        picture(700, side, 3),
    ]
    images += [picture(side, side, 4), rng.integers(0, 256, (3000, 40, 3)).astype(np.uint8)]
    crops = [(0, 0, *image.shape[:2]) for image in images]
    images += [large, large]
    crops += [(1999, 1998, 1, 1), (3, 5, 1, 900)]
    params = [pack(c, [(5, 33.0), (13, 0.0)], flip=i % 2 == 1) for i, c in enumerate(crops)]
    both(images, params, crops, size=side, interpolation=interpolation, **OUTPUTS[0])


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(("size", "shorter"), [((224, 224), 256), ((33, 31), 64), ((288, 161), 301)], ids=str)
def test_evaluation_shows_the_centre(size: tuple[int, int], shorter: int, interpolation: str) -> None:
    """Smaller, larger, wide, tall images, and some of which one axis or both keep their size."""
    shapes = [(375, 500), (501, 333), (1600, 1999), (97, 80), (shorter, 401), (400, shorter), (shorter, shorter)]
    shapes += [(2900, 301), (40, 2000), (1, 1), (7, 300)]
    images = [picture(*shape, i) for i, shape in enumerate(shapes)]
    params = [pack((0, 0, *shape)) for shape in shapes]
    both(images, params, shapes, size=size, resize_shorter=shorter, interpolation=interpolation, **OUTPUTS[0])


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(("size", "stored"), [(224, 224), (160, 224), (33, 32), ((288, 161), 224)], ids=str)
def test_parts_of_a_fixed_resize(size: Any, stored: int, interpolation: str) -> None:
    rng = np.random.default_rng(stored)
    shorter = stored * 8 // 7
    shapes = [(375, 500), (501, 333), (1600, 1999), (97, 80), (shorter, 401), (400, shorter), (32, 32), (40, 700)]
    images, params = [], []
    for i, shape in enumerate(shapes * 3):
        rows, columns = (shorter * side // min(shape) - stored for side in shape)
        corner = [(16, float(rng.integers(rows + 1))), (17, float(rng.integers(columns + 1)))]
        images.append(picture(*shape, i))
        params.append(pack((0, 0, *shape), [*corner, (14, 0.1), (15, 1.7)], flip=i % 2 == 1))
    given = {"size": size, "stored_size": stored, "resize_shorter": shorter, "interpolation": interpolation}
    both(images, params, shapes * 3, **given, **OUTPUTS[0])


def test_hue_of_every_colour() -> None:
    levels = np.arange(256, dtype=np.uint8)
    image = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(4096, 4096, 3)
    factors = [-0.5, -0.1, 0.0, 0.37]
    both([image] * 4, [pack((0, 0, 4096, 4096), [(14, f)]) for f in factors], factors, size=4096)


@pytest.mark.parametrize("batch", [1, 512])
def test_batches(batch: int) -> None:
    rng = np.random.default_rng(batch)
    pictures = [picture(300 + 10 * i, 500 - 20 * i, i) for i in range(8)]
    images = [pictures[i % 8] for i in range(batch)]
    views = [random_view(rng, image, (224, 224)) for image in images]
    params = [pack(**v) for v in views]
    both(images, params, views, size=224, **OUTPUTS[0])
    first = run(images, params, device=GPU, size=224, **OUTPUTS[0])
    for _ in range(5):
        assert_same(run(images, params, device=GPU, size=224, **OUTPUTS[0]), first, views)


def test_many_views_per_image_and_parts_with_an_origin() -> None:
    rng = np.random.default_rng(0)
    images = [picture(80, 90, 0), picture(140, 70, 1)]
    views = [several_views(rng, image, (32, 40)) for image in images]
    both(images, [np.stack([pack(**v) for v in rows]) for rows in views], views, size=(32, 40))
    view = {"crop": (30, 20, 40, 31), "ops": [(9, 0.3)], "flip": True}
    part = np.ascontiguousarray(images[0][25:75, 11:60])
    got = run([part], [pack(**view)], [(25, 11)], device=GPU, size=64)
    assert_same(got, run(images[:1], [pack(**view)], size=64), [view])


def mixed(rng: np.random.Generator, image: Pixels, partner: Pixels, size: tuple[int, int]) -> Words:
    """Packed words of a random view mixed with one of `partner`: MixUp, CutMix, both or neither."""
    own, other = (pack(**random_view(rng, pixels, size)) for pixels in (image, partner))
    own, other = (np.pad(words, (0, max(len(own), len(other)) - len(words))) for words in (own, other))
    lam = np.float32(rng.choice([1.0, 0.0, rng.random()])).view(np.int32)
    top, left = rng.integers(0, size)
    cut = [top, left, rng.integers(1, size[0] - top + 1), rng.integers(1, size[1] - left + 1)]
    if rng.random() < 0.4:
        cut = [0, 0, 0, 0]
    return np.concatenate([own, np.array([0, rng.integers(2), lam, *cut], np.int32), other])


@pytest.mark.parametrize("output", [output for output in OUTPUTS if output["dtype"] != types.UINT8], ids=str)
@pytest.mark.parametrize("size", [(224, 224), (31, 45), (300, 288)], ids=str)
def test_mixed_views(size: tuple[int, int], output: dict[str, Any]) -> None:
    """With another image, with the image itself, alone, and as pairs that differ in who comes first."""
    rng = np.random.default_rng([*size])
    pictures = [picture(int(h), int(w), i) for i, (h, w) in enumerate(rng.integers(1, 500, (24, 2)))]
    pictures.append(picture(1700, 1800, 99))
    images, partners = ([pictures[i] for i in rng.permutation(25)] for _ in range(2))
    params = [mixed(rng, image, partner, size) for image, partner in zip(images, partners, strict=True)]
    half = [(len(words) - 7) // 2 for words in params]
    for i in range(0, 25, 5):  # the image itself
        params[i] = mixed(rng, images[i], images[i], size)
        params[i][(len(params[i]) - 7) // 2] = -2
    for i in range(1, 25, 5):  # alone
        params[i][half[i] : half[i] + 7] = [-1, 0, np.float32(1).view(np.int32), 0, 0, 0, 0]
    both(images, params, range(25), partners=partners, size=size, **output)
    pairs = [np.stack([words, words]) for words in params]
    for words in pairs:
        middle = (words.shape[1] - 7) // 2
        if words[0, middle] != -1:
            words[1, middle + 1] ^= 1
    both(images, pairs, range(25), partners=partners, size=size, **output)


def test_bad_parameters_are_named_as_on_the_cpu() -> None:
    good = pack((0, 0, 20, 20), [(10, 4.0)])
    bad = good.copy()
    bad[2] = 21
    with pytest.raises(
        RuntimeError, match=r"(?s)Sample 2 of the batch, view 0: crop box .* not inside the given 20x30"
    ):
        run([picture(20, 30, 0)] * 3, [good, good, bad], device=GPU, size=16)


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("roi_decode", ["auto", "on", "off"])
def test_iterator_yields_the_cpus_batches(tmp_path: Path, roi_decode: str) -> None:
    """With PNG, which every decoder decodes alike, down to the last bit."""
    dataset = make_dataset(tmp_path / "set", [png(picture(90 + 7 * i, 130 - 3 * i, i)) for i in range(11)])
    several = {"dtype": "float32", "size": [(96, 2), (64, 5), (400, 1)], "views_per_image": 2, "batch_size": 4}
    for options in ({"dtype": "float16"}, {"dtype": "bfloat16"}, {"dtype": "uint8", "layout": "HWC"}, several):
        cpu = loader(dataset, **options)
        gpu = loader(dataset, **ON_GPU, roi_decode=roi_decode, **options)
        for _ in range(2):
            for (want,), (got,) in zip(cpu, gpu, strict=True):
                assert all(got[name].device.type == DEVICE_TYPE for name in got)
                for name in want:
                    assert (got[name].cpu() == want[name]).all(), name


def make_pngs(folder: Path) -> Path:
    return write_files(folder, {f"class{i % 3}/{i}.png": png(picture(90 + 7 * i, 130 - 3 * i, i)) for i in range(9)})


@pytest.mark.parametrize("variant", ["rrc+mixing+ra+re", "self-mix", "double-mix"])
def test_iterator_on_mixed_sets_yields_the_cpus_batches(tmp_path: Path, variant: str) -> None:
    dataset = make_mixed(make_pngs(tmp_path / "photos"), tmp_path / "set", variant)
    for options in ({"dtype": "float16"}, {"dtype": "float32", "layout": "HWC", "size": (300, 260)}):
        cpu = loader(dataset, **options)
        gpu = loader(dataset, **ON_GPU, **options)
        for (want,), (got,) in zip(cpu, gpu, strict=True):
            assert all((got[name].cpu() == want[name]).all() for name in want)


@pytest.mark.parametrize("variant", ["rrc+ra+re", "rrc+mixing+ra+re", "double-mix"])
def test_generation_writes_the_cpus_bytes(tmp_path: Path, variant: str) -> None:
    """Decoded and replayed on the GPU; the teacher stays on the CPU, so that nothing else differs."""
    source = ImageFolder.scan(make_pngs(tmp_path / "photos"))
    for place, device in (("want", "cpu"), ("got", GPU)):
        work = generation(variant, device=device)
        reinforce(source, tmp_path / place, work, num_classes=6, samples_per_shard=4, progress=False)
    shards = sorted(path.name for path in (tmp_path / "want").glob("*.tar"))
    assert len(shards) == 3
    for name in shards:
        assert (tmp_path / "got" / name).read_bytes() == (tmp_path / "want" / name).read_bytes(), name


@pytest.mark.parametrize("augment", ["rrc+ra+re", "eval"])
def test_iterator_on_plain_sets_yields_the_cpus_batches(tmp_path: Path, augment: str) -> None:
    dataset = make_dataset(tmp_path / "set", [png(picture(290 + 7 * i, 330 - 3 * i, i)) for i in range(7)])
    cpu = loader(dataset, augment=augment)
    gpu = loader(dataset, augment=augment, **ON_GPU)
    for (want,), (got,) in zip(cpu, gpu, strict=True):
        assert all((got[name].cpu() == want[name]).all() for name in want)


@pytest.mark.parametrize("load", [0.0, 0.65, 1.0])
def test_iterator_on_jpegs_is_near_the_cpus(tmp_path: Path, jpeg_bytes: list[bytes], load: float) -> None:
    """nvJPEG upsamples chroma and transforms otherwise than libjpeg-turbo: close, and nothing more is promised."""
    dataset = make_dataset(tmp_path / "set", jpeg_bytes, preset="rrc")
    cpu = loader(dataset, dtype="uint8")
    gpu = loader(dataset, **ON_GPU, dtype="uint8", hw_decoder_load=load)
    for (want,), (got,) in zip(cpu, gpu, strict=True):
        gap = (got["data"].cpu().int() - want["data"].int()).abs().float()
        assert gap.mean() < 4 and (got["soft_probs"].cpu() == want["soft_probs"]).all()


@pytest.mark.parametrize("roi_decode", ["on", "off"])
def test_iterator_on_jpegs_decoded_by_the_cpu_yields_the_cpus_batches(
    tmp_path: Path, jpeg_bytes: list[bytes], roi_decode: str
) -> None:
    dataset = make_dataset(tmp_path / "set", jpeg_bytes)
    cpu = loader(dataset, dtype="float16")
    gpu = loader(dataset, **ON_GPU, dtype="float16", decode_device="cpu", roi_decode=roi_decode)
    for (want,), (got,) in zip(cpu, gpu, strict=True):
        assert got["data"].device.type == DEVICE_TYPE and all((got[name].cpu() == want[name]).all() for name in want)


SANITIZED = """
import sys
sys.path.insert(0, {tests!r})
import numpy as np
from conftest import picture
from nvidia.dali import types
from test_gpu import mixed
from test_replay import pack, random_view, run
rng = np.random.default_rng(0)
for size in ((64, 64), (33, 31), (400, 400)):
    images = [picture(90, 120, i) for i in range(16)] + [picture(700, 20, 1)]
    views = [random_view(rng, image, size) for image in images]
    for op, view in enumerate(views[:16]):
        view["ops"] = [(op, 0.3 if op == 14 else 2.0)] + view["ops"][:1]
    run(images, [pack(**v) for v in views], device="gpu", size=size)
    words = [mixed(rng, a, b, size) for a, b in zip(images, images[::-1])]
    run(images, [np.stack([w, w]) for w in words], device="gpu", partners=images[::-1], size=size, dtype=types.FLOAT16)
"""


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_compute_sanitizer_finds_nothing(tool: str) -> None:
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not installed")
    command = [sanitizer, "--tool", tool, "--error-exitcode", "77", "--kernel-name", "kernel_substring=Replay"]
    script = SANITIZED.format(tests=str(Path(__file__).parent))
    done = subprocess.run([*command, sys.executable, "-c", script], capture_output=True, text=True)
    report = done.stdout + done.stderr
    if "not supported" in report:
        pytest.skip(f"compute-sanitizer does not run on this machine: {report.strip().splitlines()[-1]}")
    assert done.returncode == 0 and re.search(r"SUMMARY: 0 (errors|hazards)", report), report[-3000:]
