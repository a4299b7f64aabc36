"""What is measured here: the loaders, ours and those that people use today; LOADERS has them by name.

Same photos, same threads, same output (float32 CHW, 224 pixels, normalised, as torch tensors) for all. Ours read what dali_dr
writes, JPEGs in tiles; with "_original" behind the name, and everybody else, they read the files as they were (data_sets.py).

  dali_plain          stock DALI: webdataset reader, ROI decode of a random resized crop, resize, flip, normalise
  dali_rand_augment   the same and DALI's own rand_augment(n=2, m=9)
  ours_rrc            ReinforcedIterator on stored crops and flips, with the stored targets
  ours_rrc_ra_re      ReinforcedIterator on stored crops, flips, RandAugment and erasing, with the stored targets
  ours_rrc_mixing_ra_re  ReinforcedIterator on mixed views: a partner in three of four
  ours_4_views        ours_rrc_ra_re with four views of each decoded image; views are counted
  decode_roi          nothing but reading and decoding the stored crops by stock DALI: what no loader by it can beat
  decode_full         the same of whole images
  decode_tiles        nothing but reading and decoding the stored crops by our own operator

and peers.py has those of torchvision, torchcodec, simplejpeg, albumentations and SPDL. Where --only asks for them:

  ours_double_mix     both mixed views of a pair
  ours_plain          ReinforcedIterator(augment="rrc"): fresh crops and flips, hard targets
  ours_plain_ra_re    the same and RandAugment, RandomErasing(0.25)
  ours_eval           ReinforcedIterator(augment="eval"): Resize(256), CenterCrop(224), all images in order
  decode_tiles_original  decoding alone by our operator, of the files as they were
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import data_sets
from data_sets import ORIGINAL, SIZE, VIEWS
from peers import MEAN, PEERS, STD, Loader, endless

VIEWS_PER_IMAGE = 4  # of ours_4_views

# Of ours: name -> the data set's variant, and arguments of ReinforcedIterator.
TILED: dict[str, tuple[str, dict[str, Any]]] = {
    "ours_rrc": ("rrc", {}),
    "ours_rrc_ra_re": ("rrc+ra+re", {}),
    "ours_rrc_mixing_ra_re": ("rrc+mixing+ra+re", {}),
    "ours_4_views": ("rrc+ra+re", {"views_per_image": VIEWS_PER_IMAGE}),
    "ours_double_mix": ("double-mix", {}),
    "ours_plain": ("plain", {"augment": "rrc"}),
    "ours_plain_ra_re": ("plain", {"augment": "rrc+ra+re"}),
    "ours_eval": ("plain", {"augment": "eval"}),
}
OURS = TILED | {f"{name}_original": (ORIGINAL + variant, how) for name, (variant, how) in TILED.items()}
MIXING_NAMES = ("ours_rrc_mixing_ra_re", "ours_double_mix")


def prepare(data: Path | None, scratch: Path, names: Iterable[str] = (), views: int = VIEWS) -> dict[str, Any]:
    """Writes the data sets of the loaders `names`, beside those of most, into `scratch`; see `data_sets.prepare`."""
    return data_sets.prepare(data, scratch, [OURS[name][0] for name in names if name in OURS], views)


def our_iterator(variant: str, scratch: Path, options: argparse.Namespace, **how: Any) -> Any:
    """ReinforcedIterator over the variant's data set, with the settings that all loaders have."""
    from dali_dr import ReinforcedIterator

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
    def build(scratch: Path, options: argparse.Namespace) -> Any:
        iterator = our_iterator(variant, scratch, options, **how)
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
    tars = sorted(str(p) for p in (scratch / f"{ORIGINAL}rrc").glob("*.tar"))

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


def decode_only(how_much: str, variant: str = f"{ORIGINAL}rrc+ra+re") -> Loader:
    """Decoding alone: "full" images or stored crops ("roi") by stock DALI, or stored crops by our operator ("ours")."""

    def build(scratch: Path, options: argparse.Namespace) -> Any:
        import numpy as np
        from nvidia.dali import fn, pipeline_def, types

        from dali_dr import Dataset, _plugin
        from dali_dr.sampling.choice import Choice
        from dali_dr.sampling.order import Global

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


LOADERS: dict[str, Loader] = {
    "dali_plain": stock(False),
    "dali_rand_augment": stock(True),
    **{name: ours(variant, how) for name, (variant, how) in OURS.items()},
    "decode_roi": decode_only("roi"),
    "decode_full": decode_only("full"),
    "decode_tiles": decode_only("ours", "rrc+ra+re"),
    "decode_tiles_original": decode_only("ours"),
    **{name: peer.build for name, peer in PEERS.items()},
}
# What is measured where nobody says otherwise; peers only where they are installed.
NAMES = (
    *("dali_plain", "dali_rand_augment", *PEERS),
    *("ours_rrc", "ours_rrc_original", "ours_rrc_ra_re", "ours_rrc_ra_re_original", "ours_rrc_mixing_ra_re"),
    *("ours_4_views", "decode_roi", "decode_full", "decode_tiles"),
)


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
