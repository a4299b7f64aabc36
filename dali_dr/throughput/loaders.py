"""Loaders that are measured beside each other: ours, stock DALI, torchvision, and nothing but decoding.

Same photos, same threads, same output (float32 CHW, 224 pixels, normalised, as torch tensors) for all.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.auto_aug import rand_augment as stock_rand_augment
from nvidia.dali.plugin.pytorch import DALIGenericIterator
from PIL import Image

from dali_dr import _plugin
from dali_dr._torchvision import load_torchvision
from dali_dr.encoded import CONTAINERS
from dali_dr.loader.iterator import ReinforcedIterator
from dali_dr.loader.options import IMAGENET_MEAN, IMAGENET_STD
from dali_dr.sampling.choice import Choice
from dali_dr.sampling.order import Global
from dali_dr.shards.dataset import Dataset
from dali_dr.throughput.sets import ORIGINAL, SIZE


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all loaders have in common.

    Attributes:
      threads: of a pipeline; processes of a DataLoader.
      batch_size: images.
      device: where views are made.
      seconds: that a measurement takes, after WARM_UP.
      hw_decoder_load, decode_device: of the GPU's decoder, see `dali_dr.ReinforcedIterator`.
      roi_decode: "off" decodes whole images, then crops.
    """

    threads: int
    batch_size: int = 64
    device: Literal["cpu", "gpu"] = "cpu"
    seconds: float = 2.0
    hw_decoder_load: float = 0.65
    decode_device: Literal["auto", "cpu"] = "auto"
    roi_decode: Literal["on", "off"] = "on"


MEAN, STD = IMAGENET_MEAN, IMAGENET_STD
ERASE: Final = 0.25  # probability of RandomErasing, as in ImageNet+ (arXiv 2303.08983)
SCALE: Final = (0.08, 1.0)  # and RATIO: of RandomResizedCrop, torchvision's defaults
RATIO: Final = (3 / 4, 4 / 3)

Loader = Callable[[Path, Settings], tuple[Callable[[], int], Callable[[], None]]]
"""Of data sets' folder and options: a function that loads a batch and returns its number of images, and one that ends."""


def endless(loader: Any, first: Callable[[Any], Any], gpu: bool) -> tuple[Callable[[], int], Callable[[], None]]:
    """Counts images of a loader that is restarted at the end of each epoch; `first` picks the images of a batch."""
    state = {"iterator": iter(loader)}

    def run() -> int:
        try:
            batch = next(state["iterator"])
        except StopIteration:
            state["iterator"] = iter(loader)
            batch = next(state["iterator"])
        if gpu:
            torch.cuda.current_stream().synchronize()
        return len(first(batch))

    return run, lambda: state.clear()


def files_of(scratch: Path) -> list[bytes]:
    """The original files of ours."""
    dataset = Dataset(scratch / f"{ORIGINAL}rrc")
    return [dataset.image(number) for number in range(len(dataset))]


class Files(torch.utils.data.Dataset[Any]):
    """A map-style data set over such files: a decoder and a transform, as ImageFolder does it; the label is the number."""

    def __init__(self, files: list[bytes], decode: Callable[[bytes], Any], transform: Callable[[Any], Any]) -> None:
        self._files, self._decode, self._transform = files, decode, transform

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: int) -> Any:
        return self._transform(self._decode(self._files[number])), number


def data_loader(decode: Callable[[], Callable[[bytes], Any]], transform: Callable[[], Callable[[Any], Any]]) -> Loader:
    """A torch DataLoader; what imports a peer is called when it is built."""

    def build(scratch: Path, options: Settings) -> Any:
        gpu = options.device == "gpu"
        images = Files(files_of(scratch), decode(), transform())
        loader = torch.utils.data.DataLoader(
            images,
            batch_size=options.batch_size,
            sampler=torch.utils.data.RandomSampler(images, num_samples=10**9, replacement=True),
            num_workers=options.threads,
            pin_memory=gpu,
            persistent_workers=True,
        )
        return endless(loader, lambda batch: batch[0].cuda(non_blocking=True) if gpu else batch[0], gpu)

    return build


def by_pillow() -> Callable[[bytes], Any]:
    """Pillow's decoder, as ImageFolder uses it."""
    return lambda data: Image.open(io.BytesIO(data)).convert("RGB")


def v1(ra_re: bool) -> Any:
    """torchvision's transforms on Pillow's images: crop and flip; ra_re: and RandAugment and RandomErasing."""
    load_torchvision()
    from torchvision import transforms as T

    augment, erase = ([T.RandAugment(2, 9)], [T.RandomErasing(ERASE)]) if ra_re else ([], [])
    crop = [T.RandomResizedCrop(SIZE, SCALE, RATIO), T.RandomHorizontalFlip()]
    return T.Compose([*crop, *augment, T.ToTensor(), T.Normalize(MEAN, STD), *erase])


def our_iterator(variant: str, scratch: Path, options: Settings, **how: Any) -> Any:
    """ReinforcedIterator over the variant's data set, with the settings that all loaders have."""
    return ReinforcedIterator(
        scratch / variant,
        batch_size=options.batch_size // how.get("views_per_image", 1),
        device=options.device,
        num_threads=options.threads,
        hw_decoder_load=options.hw_decoder_load,
        decode_device=options.decode_device,
        roi_decode=options.roi_decode,
        size=SIZE,
        last_batch="fill",
        **how,
    )


def ours(variant: str, how: dict[str, Any]) -> Loader:
    """Our iterator over a variant, with more arguments."""

    def build(scratch: Path, options: Settings) -> Any:
        iterator = our_iterator(variant, scratch, options, **how)
        return endless(iterator, lambda batch: batch[0]["data"], options.device == "gpu")

    return build


def decoder(options: Settings) -> dict[str, Any]:
    """Where DALI decodes, as arguments of its operators."""
    if options.device == "gpu" and options.decode_device == "auto":
        return {"device": "mixed", "hw_decoder_load": options.hw_decoder_load}
    return {"device": "cpu"}


def stock_iterator(rand_augment: bool, scratch: Path, options: Settings) -> Any:
    """DALI's own pipeline over the same photos as a torch iterator; "label" is ASCII text, padded with spaces."""
    gpu = options.device == "gpu"
    tars = sorted(str(p) for p in (scratch / f"{ORIGINAL}rrc").glob("*.tar"))

    @pipeline_def(  # type: ignore[untyped-decorator]
        batch_size=options.batch_size,
        num_threads=options.threads,
        device_id=0 if gpu else None,
        enable_conditionals=True,
    )
    def graph() -> Any:
        encoded, label = fn.readers.webdataset(  # type: ignore[misc]
            paths=tars,
            index_paths=[t.removesuffix(".tar") + ".idx" for t in tars],
            ext=[";".join(container.suffixes[0] for container in CONTAINERS), "cls"],
            random_shuffle=True,
            initial_fill=256,
            name="reader",
            missing_component_behavior="error",
        )
        crop: dict[str, Any] = {"random_area": (0.08, 1), "random_aspect_ratio": (3 / 4, 4 / 3)}
        how = decoder(options) | {"output_type": types.RGB}
        if options.roi_decode == "on":
            images = fn.decoders.image_random_crop(encoded, **crop, **how)
            images = fn.resize(images.gpu() if gpu else images, size=(SIZE, SIZE))
        else:
            images = fn.decoders.image(encoded, **how)
            images = fn.random_resized_crop(images.gpu() if gpu else images, size=(SIZE, SIZE), **crop)
        flip = fn.random.coin_flip()
        if rand_augment:
            images = fn.flip(images, horizontal=flip)
            images = stock_rand_augment.rand_augment(images, n=2, m=9, shape=(SIZE, SIZE))
        images = fn.crop_mirror_normalize(
            images,
            mean=[255 * m for m in MEAN],
            std=[255 * s for s in STD],
            dtype=types.FLOAT,
            output_layout="CHW",
            **({} if rand_augment else {"mirror": flip}),
        )
        label = fn.pad(label, fill_value=32)  # class ids are ASCII text of different lengths; 32 is a space
        return images, label.gpu() if gpu else label

    return DALIGenericIterator([graph()], ["data", "label"], reader_name="reader", auto_reset=True)


def stock(rand_augment: bool) -> Loader:
    """`stock_iterator`."""

    def build(scratch: Path, options: Settings) -> Any:
        iterator = stock_iterator(rand_augment, scratch, options)
        return endless(iterator, lambda batch: batch[0]["data"], options.device == "gpu")

    return build


def decode_only(how_much: str, variant: str = f"{ORIGINAL}rrc+ra+re") -> Loader:
    """Decoding alone: "full" images or stored crops ("roi") by stock DALI, or stored crops by our operator ("ours")."""

    def build(scratch: Path, options: Settings) -> Any:
        _plugin.load()
        gpu = options.device == "gpu"
        dataset = Dataset(scratch / variant)
        order, choice = Global(len(dataset), seed=0), Choice(dataset.num_views)

        def source(info: Any) -> Any:
            first = info.iteration * options.batch_size
            epoch = first // order.length
            samples = order.at(epoch, np.arange(first, first + options.batch_size) % order.length).samples
            return samples, choice.views(samples, epoch, epoch).astype(np.int32)

        @pipeline_def(batch_size=options.batch_size, num_threads=options.threads, device_id=0 if gpu else None)  # type: ignore[untyped-decorator]
        def graph() -> Any:
            samples, views = fn.external_source(
                source, num_outputs=2, batch_info=True, dtype=[types.INT64, types.INT32]
            )
            encoded, _, start, shape, *_ = fn.dr.read(samples, views, index=str(dataset.index_path))  # type: ignore[attr-defined]
            how = decoder(options) | {"output_type": types.RGB, "adjust_orientation": False}
            if how_much == "ours":
                images = fn.dr.decode(encoded, start, shape)  # type: ignore[attr-defined]
            elif how_much == "roi":
                images = fn.decoders.image_slice(encoded, start=start, shape=shape, axis_names="HW", **how)
            else:
                images = fn.decoders.image(encoded, **how)
            return images.gpu() if gpu else images

        pipeline = graph()
        return (lambda: len(pipeline.run()[0])), (lambda: None)

    return build
