"""What is measured here: the loaders, ours and those that people use today, and the data sets that all of them read.

Same photos, same threads, same output (float32 CHW, 224 pixels, normalised, as torch tensors) for all; LOADERS has them by name:

  dali_plain          stock DALI: webdataset reader, ROI decode of a random resized crop, resize, flip, normalise
  dali_rand_augment   the same and DALI's own rand_augment(n=2, m=9)
  torchvision_plain   PIL DataLoader: RandomResizedCrop, flip, normalise
  torchvision_ra_re   the same and RandAugment, RandomErasing(0.25)
  ours_rrc            ReinforcedIterator on stored crops and flips, with the stored targets
  ours_rrc_ra_re      ReinforcedIterator on stored crops, flips, RandAugment and erasing, with the stored targets
  decode_roi          nothing but reading and decoding the stored crops: what no loader of these photos can beat
  decode_full         nothing but reading and decoding whole images

and, where --only asks for them, on mixed views and on plain shards without reinforcements:

  ours_rrc_mixing_ra_re  ReinforcedIterator on mixed views: a partner in three of four
  ours_double_mix     the same, both mixed views of a pair
  ours_plain          ReinforcedIterator(augment="rrc"): fresh crops and flips, hard targets
  ours_plain_ra_re    the same and RandAugment, RandomErasing(0.25)
  ours_eval           ReinforcedIterator(augment="eval"): Resize(256), CenterCrop(224), all images in order
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

NAMES = (
    "dali_plain",
    "dali_rand_augment",
    "torchvision_plain",
    "torchvision_ra_re",
    "ours_rrc",
    "ours_rrc_ra_re",
    "decode_roi",
    "decode_full",
)
# Measured only where --only asks for them; mixed views are drawn here.
MIXING_NAMES = ("ours_rrc_mixing_ra_re", "ours_double_mix")
PLAIN_NAMES = ("ours_plain", "ours_plain_ra_re", "ours_eval")
EXTRA_NAMES = MIXING_NAMES + PLAIN_NAMES
SIZE = 224
VIEWS = 400  # per image, where they are drawn here: as many as ImageNet+ has
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


# ---- the data: one folder of shards per variant, the same photos and crops in both


def prepare(data: Path | None, scratch: Path, names: Sequence[str] = (), views: int = VIEWS) -> dict[str, Any]:
    """Writes the data sets rrc, rrc+ra+re and plain, and those of mixed views in `names`, into `scratch`, with so many
    views per image where `data` has none; returns what they are made of."""
    from dali_dr import Dataset, Sample, write_shards

    source = "photos of the demo" if data is None else data.name
    if data is None:
        sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
        from demo import collect_photos

        data = scratch / "photos"
        collect_photos(data)
    if (data / "dataset.json").exists():
        dataset = Dataset(data)
        images = [(dataset.keys[i], dataset.image(i), dataset.label(i)) for i in range(len(dataset))]
        stored = [dataset.reinforcements(i) for i in range(len(dataset))] if dataset.spec else None
        classes = dataset.num_classes
        if dataset.spec and dataset.spec.rand_augment and dataset.spec.random_erasing and dataset.spec.size == SIZE:
            (scratch / "rrc+ra+re").symlink_to(data.resolve())
    else:
        images = folder_images(data)
        stored, classes = None, 1000
    mixing = [v for v, n in (("rrc+mixing+ra+re", MIXING_NAMES[0]), ("double-mix", MIXING_NAMES[1])) if n in names]
    for variant in ("rrc", "rrc+ra+re", *mixing):
        if not (scratch / variant).exists():
            write_variant(variant, images, stored, classes, scratch / variant, views)
    samples = (Sample(key, image, label) for key, image, label in images)
    write_shards(samples, scratch / "plain", spec=None, num_classes=classes, progress=False)
    return {"source": source, "images": len(images), "views": Dataset(scratch / "rrc").num_views}


def folder_images(folder: Path) -> list[tuple[str, bytes, int]]:
    """(key, bytes, label) of a folder in classes, or of one without any, whose labels are then all 0."""
    from dali_dr.errors import DaliDrError
    from dali_dr.sources import ImageFolder

    if not folder.is_dir():
        raise SystemExit(f"{folder} is no folder: name one of JPEG files")
    try:
        source = ImageFolder.scan(folder)
    except DaliDrError:
        paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".jpg", ".jpeg"))
        if not paths:
            raise
        return [(p.stem, p.read_bytes(), 0) for p in paths]
    return [(source.keys[i], source.read(i), source.labels[i]) for i in range(len(source))]


def write_variant(
    variant: str,
    images: list[Any],
    stored: list[Any] | None,
    classes: int,
    out: Path,
    number_of_views: int,
    size: int = SIZE,
    **writing: Any,
) -> None:
    import numpy as np

    from dali_dr import AugmentationSpec, Reinforcements, Sample, write_shards
    from dali_dr.augment.draw import draw
    from dali_dr.encoded import image_info

    spec = AugmentationSpec.preset(variant.replace("double-mix", "rrc+mixing+ra+re"), size=size)
    if variant == "double-mix":
        spec = dataclasses.replace(spec, mixing=dataclasses.replace(spec.mixing, double=True))
    sizes = [image_info(data)[1:] for _, data, _ in images]
    rng = np.random.default_rng(0)

    def samples() -> Iterator[Sample]:
        for number, (key, data, label) in enumerate(images):
            height, width = sizes[number]
            views = number_of_views if stored is None else len(stored[number])
            drawn = draw(
                spec,
                seed=0,
                key=key,
                views=range(views),
                image_height=height,
                image_width=width,
                population=len(images),
                partner_size=lambda partner: sizes[partner],
            )
            columns = {f.name: getattr(drawn, f.name) for f in dataclasses.fields(drawn)}
            if stored is not None:
                columns |= {"crop": stored[number].crop, "flip": stored[number].flip}
                ids, probs = stored[number].soft_ids, stored[number].soft_probs
            else:
                ids = np.stack([rng.permutation(classes)[:10] for _ in range(views)]).astype(np.int32)
                probs = -np.sort(-rng.dirichlet(np.full(12, 0.3), views), axis=1)[:, :10].astype(np.float32)
            yield Sample(key, data, label, Reinforcements(**columns, soft_ids=ids, soft_probs=probs))

    write_shards(samples(), out, spec=spec, num_classes=classes, progress=False, **writing)


# ---- the loaders

Loader = Callable[[Path, argparse.Namespace], tuple[Callable[[], int], Callable[[], None]]]


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
            import torch

            torch.cuda.current_stream().synchronize()
        return len(first(batch))

    return run, lambda: state.clear()


def our_iterator(variant: str, scratch: Path, options: argparse.Namespace, augment: str | None = None) -> Any:
    """ReinforcedIterator over the variant's data set, with the settings that all loaders have."""
    from dali_dr import ReinforcedIterator

    return ReinforcedIterator(
        scratch / variant,
        batch_size=options.batch_size,
        device=options.device,
        num_threads=options.threads,
        hw_decoder_load=options.hw_decoder_load,
        decode_device=options.decode_device,
        roi_decode=options.roi_decode,
        size=SIZE,
        last_batch="fill",
        augment=augment,
    )


def ours(variant: str, augment: str | None = None) -> Loader:
    def build(scratch: Path, options: argparse.Namespace) -> Any:
        iterator = our_iterator(variant, scratch, options, augment)
        return endless(iterator, lambda batch: batch[0]["data"], options.device == "gpu")

    return build


def decoder(options: argparse.Namespace) -> dict[str, Any]:
    """Where DALI decodes, as arguments of its operators."""
    if options.device == "gpu" and options.decode_device == "auto":
        return {"device": "mixed", "hw_decoder_load": options.hw_decoder_load}
    return {"device": "cpu"}


def stock_iterator(rand_augment: bool, scratch: Path, options: argparse.Namespace) -> Any:
    """DALI's own pipeline over the same photos as a torch iterator; "label" is ASCII text, padded with spaces."""
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.auto_aug import rand_augment as stock_rand_augment
    from nvidia.dali.plugin.pytorch import DALIGenericIterator

    gpu = options.device == "gpu"
    tars = sorted(str(p) for p in (scratch / "rrc").glob("*.tar"))

    @pipeline_def(  # type: ignore[untyped-decorator]
        batch_size=options.batch_size,
        num_threads=options.threads,
        device_id=0 if gpu else None,
        enable_conditionals=True,
    )
    def graph() -> Any:
        encoded, label = fn.readers.webdataset(
            paths=tars,
            index_paths=[t.removesuffix(".tar") + ".idx" for t in tars],
            ext=["jpg", "cls"],
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
    def build(scratch: Path, options: argparse.Namespace) -> Any:
        iterator = stock_iterator(rand_augment, scratch, options)
        return endless(iterator, lambda batch: batch[0]["data"], options.device == "gpu")

    return build


def decode_only(roi: bool) -> Loader:
    def build(scratch: Path, options: argparse.Namespace) -> Any:
        import numpy as np
        from nvidia.dali import fn, pipeline_def, types

        from dali_dr import Dataset, _plugin
        from dali_dr.sampling.choice import Choice
        from dali_dr.sampling.order import Global

        _plugin.load()
        gpu = options.device == "gpu"
        dataset = Dataset(scratch / "rrc+ra+re")
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
            if roi:
                images = fn.decoders.image_slice(encoded, start=start, shape=shape, axis_names="HW", **how)
            else:
                images = fn.decoders.image(encoded, **how)
            return images.gpu() if gpu else images

        pipeline = graph()
        return (lambda: len(pipeline.run()[0])), (lambda: None)

    return build


class JpegImages:
    """A torch map-style data set over the images of ours: PIL decode and a transform, as ImageFolder does it."""

    def __init__(self, folder: Path, transform: Any) -> None:
        from dali_dr import Dataset

        self._dataset = Dataset(folder)
        self._transform = transform

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, number: int) -> Any:
        import io

        from PIL import Image

        image = Image.open(io.BytesIO(self._dataset.image(number))).convert("RGB")
        return self._transform(image), self._dataset.label(number)


def torchvision(ra_re: bool) -> Loader:
    def build(scratch: Path, options: argparse.Namespace) -> Any:
        import torch

        from dali_dr._torchvision import load_torchvision

        load_torchvision()
        from torchvision import transforms as T

        transform = T.Compose(
            [
                T.RandomResizedCrop(SIZE),
                T.RandomHorizontalFlip(),
                *([T.RandAugment(2, 9)] if ra_re else []),
                T.ToTensor(),
                T.Normalize(MEAN, STD),
                *([T.RandomErasing(0.25)] if ra_re else []),
            ]
        )
        gpu = options.device == "gpu"
        loader = torch.utils.data.DataLoader(
            JpegImages(scratch / "rrc", transform),  # type: ignore[arg-type]
            batch_size=options.batch_size,
            sampler=torch.utils.data.RandomSampler(
                JpegImages(scratch / "rrc", None), num_samples=10**9, replacement=True
            ),  # type: ignore[arg-type]
            num_workers=options.threads,
            pin_memory=gpu,
            persistent_workers=True,
        )
        return endless(loader, lambda batch: batch[0].cuda(non_blocking=True) if gpu else batch[0], gpu)

    return build


LOADERS: dict[str, Loader] = {
    "dali_plain": stock(False),
    "dali_rand_augment": stock(True),
    "torchvision_plain": torchvision(False),
    "torchvision_ra_re": torchvision(True),
    "ours_rrc": ours("rrc"),
    "ours_rrc_ra_re": ours("rrc+ra+re"),
    "ours_rrc_mixing_ra_re": ours("rrc+mixing+ra+re"),
    "ours_double_mix": ours("double-mix"),
    "ours_plain": ours("plain", "rrc"),
    "ours_plain_ra_re": ours("plain", "rrc+ra+re"),
    "ours_eval": ours("plain", "eval"),
    "decode_roi": decode_only(True),
    "decode_full": decode_only(False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the data sets that the benchmarks read.")
    parser.add_argument("photos", type=Path, help="folder of JPEG files, or a data set with all of rrc+ra+re")
    parser.add_argument("out", type=Path)
    parser.add_argument("--views", type=int, default=VIEWS, help="per image (default %(default)s)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    print(prepare(options.photos, options.out, MIXING_NAMES, options.views))


if __name__ == "__main__":
    main()
