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
from data_sets import ORIGINAL, VIEWS
from peers import PEERS

from dali_dr.throughput.loaders import Loader, decode_only, ours, stock

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
