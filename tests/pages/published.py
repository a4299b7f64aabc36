"""Archives as the authors publish them, of the few images of a page's world (writers of tests/published)."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

VIEWS, TOPK = 4, 5


def _images(folder: Path) -> list[Path]:
    """In torchvision's order of an ImageFolder."""
    return sorted(path for path in folder.rglob("*.JPEG"))


def archive(name: str, images: Path) -> None:
    """Writes ``name``, a published archive of ml-dr, for the images of a folder, into the working directory."""
    from published import archives, ml_dr_writer

    pictures = [Image.open(path).convert("RGB") for path in _images(images)]
    variant = {"randaug": "randaug", "rrc": "rrc", "mixing": "mixing"}[name.split(".")[0].split("_")[2]]
    config = ml_dr_writer.config(ml_dr_writer.augmentation(variant), VIEWS, TOPK)
    files = ml_dr_writer.Generation(pictures, config).files()
    archives.store(files, Path(name.removesuffix(".tar.gz")), "tar.gz", inner="reinforced_data")


def fkd(images: Path, out: Path) -> None:
    """FKD's folder of soft labels."""
    from published import fkd as form

    paths = _images(images)
    places = form.paths([(path.parent.name, path.name) for path in paths])
    for place, path in zip(places, paths, strict=True):
        target = out / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(form.label_file(Image.open(path).convert("RGB"), VIEWS, 1000, "k5"))


def relabel(images: Path, out: Path) -> None:
    """ReLabel's tar of label maps."""
    from published import archives
    from published import relabel as form

    paths = _images(images)
    files = {
        f"{path.parent.name}/{path.stem}.pt": form.label_map(1000, seed=number) for number, path in enumerate(paths)
    }
    archives.store(files, out.with_suffix(""), "tar", "relabel_imagenet")
