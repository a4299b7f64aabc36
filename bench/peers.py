"""Loaders that people use today beside DALI, each with the settings that were fastest here.

All take the photos' own files, from memory, so that reading costs them nothing, and give RandomResizedCrop(224) and flip,
normalised, as float32 CHW batches of torch:

  torchvision_plain   DataLoader: Pillow, transforms v1
  torchvision_ra_re   the same and RandAugment, RandomErasing(0.25)
  torchvision_io_v2   DataLoader: torchvision.io.decode_jpeg, transforms v2 on uint8 tensors
  torchvision_io_v2_ra_re  the same and RandAugment, RandomErasing(0.25)
  torchcodec_v2       DataLoader: torchcodec's decode_image, transforms v2
  simplejpeg_v2       DataLoader: simplejpeg (libjpeg-turbo), transforms v2
  simplejpeg_v2_ra_re the same and RandAugment, RandomErasing(0.25)
  simplejpeg_albumentations  DataLoader: simplejpeg, albumentations (OpenCV)
  spdl                SPDL: FFmpeg decodes, crops and resizes in one graph, on threads

DataLoaders have a process for each thread of the others, with one thread in it, and normalise each image there, while it is
in the cache: as whole batches that took three times the processor.
Transforms v2 resize as Pillow does (antialias); OpenCV and FFmpeg do not filter where they shrink as Pillow does, and
FFmpeg's decoder and conversion of colours are its own: their views are not those that a model sees elsewhere.
simplejpeg could decode at half the size where a crop is large enough, or with a faster transform; both are other pixels,
and hardly a crop of 500 pixels is large enough for the first, so neither is done.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import math
import random
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dali_dr.throughput.loaders import (
    ERASE,
    MEAN,
    RATIO,
    SCALE,
    STD,
    Loader,
    by_pillow,
    data_loader,
    endless,
    files_of,
    v1,
)
from dali_dr.throughput.sets import SIZE

# ---- decoders: bytes -> an image as the transforms want it


def by_torchvision() -> Callable[[bytes], Any]:
    import torch

    from dali_dr._torchvision import load_torchvision

    load_torchvision()
    from torchvision.io import ImageReadMode, decode_jpeg

    return lambda data: decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)


def by_torchcodec() -> Callable[[bytes], Any]:
    from torchcodec.decoders import decode_image

    return lambda data: decode_image(data, mode="RGB")


def by_simplejpeg() -> Callable[[bytes], Any]:
    import simplejpeg

    return lambda data: simplejpeg.decode_jpeg(data, "RGB")


def by_simplejpeg_to_torch() -> Callable[[bytes], Any]:
    import torch

    decode = by_simplejpeg()
    return lambda data: torch.from_numpy(decode(data)).permute(2, 0, 1)  # channels last, which v2 resizes fastest


# ---- transforms


def v2(ra_re: bool) -> Callable[[Any], Any]:
    import torch

    from dali_dr._torchvision import load_torchvision

    load_torchvision()
    from torchvision.transforms import v2 as T

    augment, erase = ([T.RandAugment(2, 9)], [T.RandomErasing(ERASE)]) if ra_re else ([], [])
    crop = [T.RandomResizedCrop(SIZE, SCALE, RATIO, antialias=True), T.RandomHorizontalFlip()]
    mean, deviation = ([255 * x for x in values] for values in (MEAN, STD))  # of 0 … 255: one pass less
    finish = [T.ToDtype(torch.float32), T.Normalize(mean, deviation, inplace=True)]
    return T.Compose([*crop, *augment, lambda image: image.contiguous(), *finish, *erase])


def albumentations() -> Callable[[Any], Any]:
    import albumentations as A
    import cv2
    from albumentations.pytorch import ToTensorV2

    cv2.setNumThreads(0)  # a process has one processor
    chain = A.Compose(
        [A.RandomResizedCrop((SIZE, SIZE), SCALE, RATIO), A.HorizontalFlip(), A.Normalize(MEAN, STD), ToTensorV2()]
    )
    return lambda image: chain(image=image)["image"]


# ---- SPDL


def spdl(scratch: Path, options: argparse.Namespace) -> Any:
    """FFmpeg's filters for the crop and the resize, so that no image of the full size leaves them; batches of uint8 NHWC,
    normalised whole by torch."""
    import spdl.io
    import torch
    from spdl.pipeline import PipelineBuilder

    from dali_dr.encoded import image_info

    images = [(data, *image_info(data)[1:]) for data in files_of(scratch)]
    draw = random.Random(0)
    gpu = options.device == "gpu"
    mean, deviation = (torch.tensor([255 * x for x in values]) for values in (MEAN, STD))

    def shuffled() -> Iterator[tuple[bytes, int, int]]:
        while True:
            yield draw.choice(images)

    def decode(image: tuple[bytes, int, int]) -> Any:
        data, height, width = image
        top, left, rows, columns = drawn_crop(draw, height, width)
        filters = f"crop=w={columns}:h={rows}:x={left}:y={top}:exact=1,scale={SIZE}:{SIZE}:flags=bilinear"
        filters += ",hflip" * (draw.random() < 0.5) + ",format=pix_fmts=rgb24"
        return spdl.io.decode_packets(spdl.io.demux_image(data), filter_desc=filters)

    def batch(frames: list[Any]) -> Any:
        pixels = spdl.io.to_torch(spdl.io.convert_frames(frames))
        return pixels.permute(0, 3, 1, 2).sub(mean[:, None, None]).div_(deviation[:, None, None]).contiguous()

    pipeline = (
        PipelineBuilder()
        .add_source(shuffled())
        .pipe(decode, concurrency=options.threads)
        .aggregate(options.batch_size)
        .pipe(batch)
        .add_sink(2)
        .build(num_threads=options.threads)
    )
    pipeline.start()
    run, _ = endless(pipeline, lambda images: images.cuda(non_blocking=True) if gpu else images, gpu)
    return run, pipeline.stop


def drawn_crop(draw: Any, height: int, width: int) -> tuple[int, int, int, int]:
    """Top, left, height, width as RandomResizedCrop draws them."""
    for _ in range(10):
        area = height * width * draw.uniform(*SCALE)
        ratio = math.exp(draw.uniform(*(math.log(x) for x in RATIO)))
        columns, rows = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < columns <= width and 0 < rows <= height:
            return draw.randint(0, height - rows), draw.randint(0, width - columns), rows, columns
    edge = min(height, width)
    return (height - edge) // 2, (width - edge) // 2, edge, edge


# ---- by name


@dataclasses.dataclass(frozen=True)
class Peer:
    """A loader, what raises where it cannot be used, and what to do then."""

    build: Loader
    use: Callable[[], Any]
    install: str


def use_spdl() -> Any:
    import spdl.io

    return spdl.io.decode_config()  # loads FFmpeg's libraries


def decoding(by: Callable[[], Callable[[bytes], Any]]) -> Callable[[], Any]:
    """Decodes one small JPEG: some libraries can be imported and not used."""

    def use() -> Any:
        from PIL import Image

        Image.new("RGB", (16, 16)).save(buffer := io.BytesIO(), "JPEG")
        return by()(buffer.getvalue())

    return use


def of_v2(by: Callable[[], Callable[[bytes], Any]], ra_re: bool, install: str) -> Peer:
    return Peer(data_loader(by, lambda: v2(ra_re)), decoding(by), install)


SETUP = "make setup"
BENCH = "pip install '.[bench]'"
FFMPEG = f"{BENCH} and FFmpeg's libraries (Debian: apt-get install ffmpeg)"
CUDA_TORCH = "the wheels of PyPI load beside PyPI's own torch, a CUDA build, which runs on a CPU, too: pip install "
PEERS: dict[str, Peer] = {
    "torchvision_plain": Peer(data_loader(by_pillow, lambda: v1(False)), decoding(by_pillow), SETUP),
    "torchvision_ra_re": Peer(data_loader(by_pillow, lambda: v1(True)), decoding(by_pillow), SETUP),
    "torchvision_io_v2": of_v2(by_torchvision, False, CUDA_TORCH + "torchvision"),
    "torchvision_io_v2_ra_re": of_v2(by_torchvision, True, CUDA_TORCH + "torchvision"),
    "torchcodec_v2": of_v2(by_torchcodec, False, CUDA_TORCH + "torchcodec"),
    "simplejpeg_v2": of_v2(by_simplejpeg_to_torch, False, BENCH),
    "simplejpeg_v2_ra_re": of_v2(by_simplejpeg_to_torch, True, BENCH),
    "simplejpeg_albumentations": Peer(data_loader(by_simplejpeg, albumentations), albumentations, BENCH),
    "spdl": Peer(spdl, use_spdl, FFMPEG),
}


def missing(name: str) -> str | None:
    """Why a peer cannot be measured here and what to do, in a line; None if it can, or is none."""
    try:
        _ = PEERS[name].use() if name in PEERS else None
    except Exception as error:  # whatever the import of somebody's package raises
        why = textwrap.shorten(str(error), 120, placeholder=" …")
        return f"{name} is left out ({type(error).__name__}: {why}): {PEERS[name].install}"
    return None
