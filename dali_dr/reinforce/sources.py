"""Where images to be reinforced come from. A source knows keys, labels and bytes; it decodes nothing."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence
from pathlib import Path

from dali_dr.errors import ShardError
from dali_dr.shards.writer import safe_key

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_SYNSET = re.compile(r"n\d{8}")


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """A folder of class folders of images, as torchvision's ImageFolder: classes and files in sorted order.

    Also a flat folder of ImageNet's own file names (`n01440764_10026.JPEG`), whose class is the synset in front.
    Where every class is an ImageNet synset, labels are ImageNet's class numbers (0 … 999), also for a part of the
    classes; else they are the positions of the class folders.

    Attributes:
      root: the folder.
      files: image files relative to root, in order.
      keys: the sample keys: the files without extension, made safe by `dali_dr.shards.writer.safe_key`.
      labels: class numbers.
      class_names: names by class number: ImageNet's own for synsets, else those of the folders.
    """

    root: Path
    files: Sequence[Path]
    keys: Sequence[str]
    labels: Sequence[int]
    class_names: Sequence[str]

    @classmethod
    def scan(cls, root: Path) -> ImageFolder:
        """Lists the images under `root`.

        Raises:
          ShardError: no such folder, or no images in class folders.
        """
        if not root.is_dir():
            raise ShardError(f"{root} is not a folder: give a folder of class folders of images")
        files = sorted(p.relative_to(root) for p in root.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        classes = [_class_of(f) for f in files]
        if not files or None in classes:
            stray = f" ({root / files[classes.index(None)]} is in none)" if files else ""
            raise ShardError(
                f"{root} holds no images in class folders{stray}: expected {root}/CLASS/NAME.jpg "
                f"(or {', '.join(IMAGE_SUFFIXES)}), or ImageNet's file names such as n01440764_10026.JPEG"
            )
        names = sorted({c for c in classes if c is not None})
        synsets, descriptions = imagenet_classes() if all(_SYNSET.fullmatch(n) for n in names) else ((), ())
        if synsets and all(n in synsets for n in names):
            number = {synset: i for i, synset in enumerate(synsets)}
            class_names: Sequence[str] = descriptions
        else:
            number = {n: i for i, n in enumerate(names)}
            class_names = names
        keys = [safe_key(f.with_suffix("").as_posix()) for f in files]
        return cls(root, files, keys, [number[c] for c in classes if c is not None], class_names)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, number: int) -> bytes:
        return (self.root / self.files[number]).read_bytes()


def _class_of(file: Path) -> str | None:
    if len(file.parts) > 1:
        return file.parts[0]
    match = _SYNSET.match(file.name)
    return match.group() if match else None


@functools.cache
def imagenet_classes() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(synset ids, short names) of ImageNet's 1,000 classes in class order, from timm's tables."""
    from dali_dr._torchvision import load_torchvision

    load_torchvision()
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    synsets = tuple(info.label_names())
    return synsets, tuple(info.label_name_to_description(s).split(",")[0] for s in synsets)
