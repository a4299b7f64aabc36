"""Writes the first inputs of every target into corpus/: small ones, made by the library itself, and known traps.

    python tests/fuzz/seeds.py

Run it again when a format gets a new version; inputs of older versions stay where they are.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent.parent), str(HERE)]

from targets import MEANING, pack_parts  # noqa: E402

from dali_dr.augment.draw import draw  # noqa: E402
from dali_dr.augment.spec import AugmentationSpec  # noqa: E402
from dali_dr.loader import state  # noqa: E402
from dali_dr.record.encode import encode  # noqa: E402
from dali_dr.record.frames import decompress, split  # noqa: E402
from dali_dr.record.label_map import encode_label_map  # noqa: E402
from dali_dr.record.labels import Reinforcements  # noqa: E402
from dali_dr.shards.sample import Sample  # noqa: E402
from dali_dr.shards.write import write_shards  # noqa: E402

PRESETS = ("rrc", "rrc+mixing", "rrc+ra+re", "rrc+mixing+ra+re")


def reinforcements(preset: str, views: int, topk: int) -> Reinforcements:
    """Drawn views of an image of 20 x 30 pixels, with made-up predictions."""
    spec = AugmentationSpec.preset(preset, 16)
    drawn = draw(
        spec, seed=1, key="a", views=range(views), image_height=20, image_width=30, population=2,
        partner_size=lambda number: (20, 30),
    )  # fmt: skip
    ids = np.tile(np.arange(topk, dtype=np.int32), (views, 1))
    probs = np.tile(0.5 ** np.arange(1, topk + 1, dtype=np.float32), (views, 1))
    return Reinforcements.from_views(drawn, ids, probs)


def label_maps() -> list[bytes]:
    """Small maps, of few and many classes, with scores of either kind."""
    rng = np.random.default_rng(1)
    return [
        encode_label_map(
            rng.normal(0, 3, (depth, side, side)).astype(form).astype(np.float32),
            rng.integers(0, classes, (depth, side, side)), num_classes=classes,
        )
        for depth, side, classes, form in (
            (1, 1, 3, np.float16), (2, 3, 9, np.float32), (3, 2, 70_000, np.float16), (2, 4, 500, np.float16)
        )
    ]  # fmt: skip


def records() -> list[bytes]:
    """A record of each preset and encoding."""
    made = []
    for preset in PRESETS:
        for probabilities, views in (("log8", 2), ("float16", 1), ("log8", 40)):
            made.append(
                encode(
                    reinforcements(preset, views, 2),
                    image_height=20,
                    image_width=30,
                    view_size=(16, 16),
                    probabilities=probabilities,
                )
            )
    return made


def images() -> list[bytes]:
    """An image of each container and a few kinds of it."""
    made = []
    for mode, kind, options in (
        ("RGB", "JPEG", {}), ("L", "JPEG", {"progressive": True}), ("CMYK", "JPEG", {}), ("RGB", "PNG", {}),
        ("P", "PNG", {}), ("LA", "PNG", {}), ("RGB", "WEBP", {}), ("RGB", "WEBP", {"lossless": True}),
        ("RGBA", "WEBP", {"save_all": True, "append_images": [Image.new("RGBA", (3, 2), "red")]}),
    ):  # fmt: skip
        buffer = io.BytesIO()
        Image.new(mode, (3, 2)).save(buffer, kind, **options)
        made.append(buffer.getvalue())
    return made


def data_set(folder: Path) -> dict[str, list[bytes]]:
    """index.bin, dataset.json and facts of small data sets."""
    found: dict[str, list[bytes]] = {"index": [], "manifest": [], "facts": []}
    picture = Image.new("RGB", (30, 20))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG")
    for number, preset in enumerate((None, "rrc", "rrc+mixing+ra+re")):
        out = folder / str(number)
        made = [
            Sample(key, buffer.getvalue(), label, None if preset is None else reinforcements(preset, 2, 2))
            for label, key in enumerate(("a/b", "c"))
        ]
        spec = None if preset is None else AugmentationSpec.preset(preset, 16)
        teacher = None if preset is None else {"names": ["t"], "weights_digest": "x", "outputs": 4}
        write_shards(made, out, spec=spec, num_classes=2, teacher=teacher, progress=False)
        found["index"].append((out / "index.bin").read_bytes())
        found["manifest"].append(json.dumps(json.loads((out / "dataset.json").read_bytes())).encode())
    found["facts"].append(
        json.dumps(
            {
                "name": "shard-000000.tar", "bytes": 10240, "sha256": "0" * 64, "keys": ["a"], "labels": [0],
                "images": [[1, 9]], "records": [[3, 9]], "views": [1], "topk": 2, "skipped": ["b"], "reasons": ["r"],
            }
        ).encode()
    )  # fmt: skip
    return found


def tars() -> list[bytes]:
    """Small tars: good, with extended headers, and with headers that claim more than there is."""

    def archive(format: int, names: dict[str, bytes]) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=format) as out:
            for name, data in names.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                out.addfile(info, io.BytesIO(data))
        return buffer.getvalue().rstrip(b"\0").ljust(2048, b"\0")

    good = {"a.jpg": b"x", "a.cls": b"1", "b.png": b"y", "b.json": b'{"label": 2}'}
    made = [archive(tarfile.USTAR_FORMAT, good)]
    made += [archive(kind, {"d" * 120 + ".jpg": b"x"}) for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)]
    made += [hostile_tar(kind, size) for kind in (b"x", b"L", b"0") for size in (1 << 40, 1 << 42)]
    made += [pax_tar(size) for size in (1 << 42, 1 << 64, -1)]
    return made


def header(name: str, size: int, kind: bytes) -> bytes:
    """A header block whose size is in base 256 where it does not fit octal digits."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT if size >= 8**11 else tarfile.USTAR_FORMAT)


def hostile_tar(kind: bytes, size: int) -> bytes:
    """A member, or an extension of one, that claims ``size`` bytes."""
    return header("a.jpg", size, kind) + b"x".ljust(1024, b"\0")


def pax_tar(size: int) -> bytes:
    """A member whose extended header claims ``size`` bytes for it."""
    body = f" size={size}\n"
    text = f"{len(body) + 2}{body}".encode()  # of 10 to 99 bytes, with the two digits of that
    block = text.ljust(512, b"\0")
    return header("p", len(text), b"x") + block + header("a.jpg", 1, b"0") + b"x".ljust(512, b"\0") + bytes(1024)


def all_seeds() -> dict[str, list[bytes]]:
    """Inputs by target."""
    members = records()
    deep = b"[" * 3000
    with tempfile.TemporaryDirectory() as folder:
        made = data_set(Path(folder))
    specs = [json.dumps(AugmentationSpec.preset(preset, 16).to_json()).encode() for preset in PRESETS]
    place: dict[str, Any] = state.save(state.Place(2, 8), MEANING)
    return {
        "record": members,
        "label_map": [decompress(*split(member)) for member in label_maps()],
        "record_content": [pack_parts([decompress(frame) for frame in split(member)]) for member in members],
        **made,
        "tar": tars(),
        "label": [
            b"\x003\n", b"\0tabby cat", b"\0007", b'\0"4"', b'\0{"label": 2}', b'a.b\0{"a": {"b": 1}}',
            b'a.0\0{"a": [true, "x"]}',
            b"\0" + deep, b"\0NaN", b"\0-1", b"\0" + b"9" * 30, b"\0\xff", b"\0\xef\xbb\xbf1.0", b"\0a\nb", b"\0[1]",
        ],
        "image": images(),
        "spec": [*specs, deep, b'{"size": NaN}', b'{"size": 1e999}'],
        "csv": [
            b"path,label\na.jpg,0\nb.jpg,1\n", b'path,label,key\n"a,b.jpg",cat,x\n', b"path,path,label\na,b,0\n",
            b"path,label\na.jpg,nan\nb.jpg,1\n", b"path,label\na\0.jpg,1\n", b"path,label\n\xff.jpg,1\n",
            b"\xef\xbb\xbfpath,label\na.jpg," + b"9" * 30 + b"\n",
        ],
        "jsonl": [
            b'{"path": "a.jpg", "label": 0}\n', b'{"path": "a.jpg", "label": "cat", "key": "k"}\n', deep,
            b'{"path": "a", "path": "b", "label": 1}\n', b'{"path": "a", "label": NaN}\n',
            b'{"path": "\\ud800\\u0000", "label": 1e30}\n', b"[1]\n",
        ],
        "state": [json.dumps(place).encode(), json.dumps({**place, "consumed": 9.5}).encode(), b"[]"],
    }  # fmt: skip


def main() -> None:
    """Writes them; names are digests, so that equal inputs are one."""
    for target, inputs in all_seeds().items():
        folder = HERE / "corpus" / target
        folder.mkdir(parents=True, exist_ok=True)
        for data in inputs:
            (folder / hashlib.sha1(data).hexdigest()[:16]).write_bytes(data)


if __name__ == "__main__":
    main()
