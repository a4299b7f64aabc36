"""Files of published sets are read as pickle, torch and joblib read them, and nothing in a hostile one is executed."""

from __future__ import annotations

import gzip
import io
import itertools
import pickle
import resource
import struct
import sys
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from PIL import Image

from dali_dr.augment.operations import OPERATIONS
from dali_dr.augment.views import NO_PARTNER, Mix, Views
from dali_dr.convert import native
from dali_dr.convert.native import Fkd, MlDr
from dali_dr.errors import ConvertError
from dali_dr.record.decode import decode
from dali_dr.record.labels import Reinforcements, order_by_confidence

HEIGHT, WIDTH, NUMBER, CLASSES = 300, 400, 7, 1000
RRC, FLIP, RA, RE = "random_resized_crop", "random_horizontal_flip", "rand_augment", "random_erase"
ALL = (RRC, FLIP, RA, RE, "mixup", "cutmix")
VARIANTS = {"RRC": (RRC, FLIP), "M*": (RRC, FLIP, "mixup", "cutmix"), "RA/RE": (RRC, FLIP, RA, RE), "M*+R*": ALL}


def torch_file(value: object, protocol: int = 4, older: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, pickle_protocol=protocol, _use_new_zipfile_serialization=not older)
    return file.getvalue()


def joblib_file(value: object, compress: Any = True) -> bytes:
    file = io.BytesIO()
    joblib.dump(value, file, compress=compress)
    return file.getvalue()


def torch_value(file: bytes) -> Any:
    return torch.load(io.BytesIO(file), weights_only=False)


def joblib_value(file: bytes) -> Any:
    return joblib.load(io.BytesIO(file))


WRITERS: dict[str, tuple[Callable[[Any], bytes], Callable[[bytes], Any]]] = {
    **{f"torch, protocol {n}": (lambda value, n=n: torch_file(value, n), torch_value) for n in (2, 3, 4, 5)},
    **{f"older torch, protocol {n}": (lambda value, n=n: torch_file(value, n, True), torch_value) for n in (2, 4)},
    **{f"pickle, protocol {n}": (lambda value, n=n: pickle.dumps(value, n), pickle.loads) for n in (2, 3, 4, 5)},
    "joblib": (lambda value: joblib_file(value, False), joblib_value),
    "joblib, zlib": (joblib_file, joblib_value),
    "joblib, gzip": (lambda value: joblib_file(value, ("gzip", 3)), joblib_value),
    "gzip of a pickle": (lambda value: gzip.compress(pickle.dumps(value)), lambda f: pickle.loads(gzip.decompress(f))),
}


# What Python reads


class Values:
    """Random values of every kind that is read, in nests."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.made: list[Any] = [None]

    def number(self) -> Any:
        bits = int(self.rng.integers(1, 64))
        kind = self.rng.integers(7)
        whole = int(self.rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), dtype=np.int64)) if bits < 64 else 0
        if kind < 2:
            return whole
        if kind < 4:
            return float(self.rng.normal() * 10.0 ** self.rng.integers(-300, 300))
        dtype = self.rng.choice(["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "f2", "f4", "f8"])
        return np.dtype(dtype).type(abs(whole) % 100 / (4 if dtype[0] == "f" else 1))

    def value(self, depth: int = 0) -> Any:
        kind = self.rng.integers(10 if depth < 4 else 5)
        if kind == 0:
            return self.rng.choice([None, True, False])
        if kind == 1:
            return "".join(map(chr, self.rng.choice([9, 34, 65, 92, 228, 8364, 0x1F600], self.rng.integers(20))))
        if kind < 5:
            return self.number()
        if kind == 5:  # one object, seen twice
            return self.made[self.rng.integers(len(self.made))]
        items = [self.value(depth + 1) for _ in range(self.rng.choice([0, 1, 2, 3, 4, 12]))]
        made: Any = items if kind < 7 else tuple(items)
        if kind == 9:
            made = (OrderedDict if self.rng.integers(2) else dict)((f"k{i}", item) for i, item in enumerate(items))
        self.made.append(made)
        return made


def plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value.item() if isinstance(value, np.generic) else value


@pytest.mark.parametrize("writer", WRITERS)
def test_values_are_those_that_python_reads(writer: str) -> None:
    write, read = WRITERS[writer]
    for seed in range(60):
        file = write(Values(seed).value())
        assert repr(native.pickle_json(file)) == repr(plain(read(file))), seed
    long = [{"params": [i, i * 0.5], "text": "x" * (i % 300)} for i in range(3000)]  # appended in several parts
    assert native.pickle_json(write(long)) == long


def test_a_configuration() -> None:
    config = {
        "dataset": "imagenet", "seed": None, "batch_size": np.int64(12), "dist_url": "env://",
        "reinforce": {
            "num_samples": 400, "compress": True, "topk": 10, "joblib": False,
            "image_augmentation": {"mixup": {"enable": False, "alpha": 1.0}, RRC: {"size": 224, "enable": True}},
        },
        5: [1, (2, 3.5)],
    }  # fmt: skip
    read = native.pickle_json(torch_file(config))
    assert read.pop("5") == [1, [2, 3.5]] and config.pop(5)
    assert read == config


# ml-dr


class MlDrFiles:
    """Objects as ml-dr's reinforce.py makes them, and the same as views."""

    def __init__(self, transforms: tuple[str, ...], seed: int, compressed: bool = True) -> None:
        self.rng = np.random.default_rng(seed)
        self.transforms, self.compressed, self.topk = transforms, compressed, int(self.rng.choice([1, 5, 10]))

    def settings(self, **changes: Any) -> MlDr:
        ops = 2 if RA in self.transforms else 0
        return MlDr(self.transforms, 224, 0, ops, CLASSES, 50, **{"probabilities": "float32", **changes})

    def file(self, views: int) -> tuple[Any, list[dict[str, Any]]]:
        rows = [self._row() for _ in range(views)]
        return (NUMBER, [{"params": self._params(row), "prob": row["prob"]} for row in rows]), rows

    def _image(self, height: int, width: int) -> dict[str, Any]:
        rng, image = self.rng, {}
        h, w = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
        image[RRC] = (int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w)
        image[FLIP] = bool(rng.integers(2))
        image[RA] = (
            [(int(rng.integers(14)), float(np.float32(rng.normal()))) for _ in range(2)] if rng.integers(4) else None
        )
        h, w = (int(edge) for edge in rng.integers(0, 225, 2))
        erase = (int(rng.integers(225 - h)), int(rng.integers(225 - w)), h, w)
        image[RE] = [erase, None, (-1, 0, 0, 0)][rng.choice(3, p=[0.6, 0.3, 0.1])]
        return image

    def _row(self) -> dict[str, Any]:
        rng = self.rng
        row: dict[str, Any] = {
            "own": self._image(HEIGHT, WIDTH),
            "other": self._image(70, 2000),
            "mixup": None,
            "cutmix": None,
        }
        if "mixup" in self.transforms:
            row["id2"] = int(rng.integers(50))
            row["mixup"] = [None, float(rng.beta(1, 1)) / 2, 1.0][rng.choice(3, p=[0.5, 0.4, 0.1])]
            edges = np.sort(rng.integers(0, 225, (2, 2)), axis=0)
            edges[1, 0] = edges[0, 0] if rng.random() < 0.2 else edges[1, 0]
            row["cutmix"] = (
                (float(rng.beta(1, 1)), tuple(edges.ravel())) if rng.integers(2) else None
            )  # NumPy's integers
        probs = rng.dirichlet(np.full(self.topk + 1, 0.3))[: self.topk].astype(np.float32)
        row["prob"] = (probs.tolist(), rng.choice(CLASSES, self.topk, replace=False).tolist())
        return row

    def _params(self, row: dict[str, Any]) -> Any:
        mixing, mixed = "mixup" in self.transforms, (row["mixup"], row["cutmix"]) != (None, None)
        if not self.compressed:
            params = {"uint8": ((), ()), "normalize": ((), ())}
            for name in self.transforms[: -2 if mixing else None]:
                both = [row["own"][name], row["other"][name]]
                if name == RA:
                    both = [ops and [(OPERATIONS[op].name, magnitude) for op, magnitude in ops] for ops in both]
                params[name] = tuple(both)
            return params | ({name: row[name] for name in ("mixup", "cutmix", "id2")} if mixing else {})
        compressed: list[Any] = [row["id2"] if mixed else None] if mixing else []
        for name in self.transforms[: -2 if mixing else None]:
            compressed.append([row["own"][name], row["other"][name]] if mixed else row["own"][name])
        if mixing:
            cutmix = row["cutmix"]
            compressed += [row["mixup"], cutmix and [cutmix[0], *cutmix[1]]]
        return compressed

    def views(self, rows: list[dict[str, Any]]) -> Reinforcements:
        """What a record of the rows holds."""
        has_ra, has_re = RA in self.transforms, RE in self.transforms

        def columns(images: list[dict[str, Any]]) -> dict[str, Any]:
            none = [(0, 0.0)] * 2
            ops = np.array([image[RA] or none for image in images]).reshape(-1, 2, 2)[:, : 2 if has_ra else 0]
            erases = [image[RE] if has_re and image[RE] else (0, 0, 0, 0) for image in images]
            return {
                "crop": np.array([image[RRC] for image in images], np.int32),
                "flip": np.array([image[FLIP] for image in images]),
                "ops": ops[..., 0].astype(np.uint8),
                "magnitudes": ops[..., 1].astype(np.float32),
                "erase": np.array([e if e[0] >= 0 and e[2] * e[3] else (0, 0, 0, 0) for e in erases], np.int32),
            }

        mix = None
        if "mixup" in self.transforms:
            nothing = {RRC: (0, 0, 1, 1), FLIP: False, RA: None, RE: None}
            lam = np.array([1 if row["mixup"] is None else row["mixup"] for row in rows], np.float32)
            edges = np.array([row["cutmix"][1] if row["cutmix"] else (0, 0, 0, 0) for row in rows], np.int32)
            cut = np.concatenate([edges[:, :2], edges[:, 2:] - edges[:, :2]], axis=1)
            cut[(cut[:, 2:] == 0).any(axis=1)] = 0
            mixed = (lam != 1) | cut.any(axis=1)
            partner = np.where(mixed, [row["id2"] for row in rows], NO_PARTNER).astype(np.int32)
            others = columns([row["other"] if is_mixed else nothing for row, is_mixed in zip(rows, mixed, strict=True)])
            mix = Mix(partner, Views(**others), lam, cut, np.zeros(len(rows), bool))
        probs = np.array([row["prob"][0] for row in rows], np.float32)
        ids = np.array([row["prob"][1] for row in rows], np.int32)
        order = np.argsort(-probs, axis=1, kind="stable")
        made = Reinforcements.from_views(
            Views(**columns([row["own"] for row in rows]), mix=mix),
            np.take_along_axis(ids, order, 1),
            np.take_along_axis(probs, order, 1),
        )
        return made.take(order_by_confidence(made))


def record(files: list[bytes], settings: MlDr) -> Reinforcements:
    made = native.ml_dr_record(files, NUMBER, (HEIGHT, WIDTH), settings)
    read = decode(made.record)
    assert (made.views, made.topk) == read.reinforcements.soft_ids.shape
    assert (read.image_height, read.image_width, read.view_size) == (HEIGHT, WIDTH, (224, 224))
    return read.reinforcements


@pytest.mark.parametrize("compressed", [True, False], ids=["compressed", "uncompressed"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_records_of_ml_dr_hold_what_its_files_say(variant: str, compressed: bool) -> None:
    for seed, (write, _) in enumerate(WRITERS.values()):
        files = MlDrFiles(VARIANTS[variant], seed, compressed)
        value, rows = files.file(views=20)
        assert record([write(value)], files.settings()) == files.views(rows)


def test_a_file_in_which_no_view_is_mixed() -> None:
    files = MlDrFiles(VARIANTS["M*"], seed=2)
    rows = [files._row() | {"mixup": None, "cutmix": None} for _ in range(4)]
    value = (NUMBER, [{"params": files._params(row), "prob": row["prob"]} for row in rows])
    read = record([torch_file(value)], files.settings())
    assert read == files.views(rows) and read.mix is not None and (read.mix.partner == NO_PARTNER).all()


def test_a_view_that_is_mixed_with_its_own_image_names_it() -> None:
    files = MlDrFiles(VARIANTS["M*"], seed=2)
    rows = [files._row() | {"mixup": 0.25, "id2": number} for number in (NUMBER, 3)]
    value = (NUMBER, [{"params": files._params(row), "prob": row["prob"]} for row in rows])
    read = record([torch_file(value)], files.settings())
    assert read == files.views(rows) and read.mix is not None and sorted(read.mix.partner) == [3, NUMBER]


def test_folders_are_joined_view_after_view() -> None:
    files = MlDrFiles(ALL, seed=1)
    (first, rows), (second, more) = files.file(5), files.file(3)
    assert record([torch_file(first), joblib_file(second)], files.settings()) == files.views(rows + more)
    files.topk += 1
    other, _ = files.file(3)
    with pytest.raises(ConvertError, match=r"view 5: it has predictions of \d+ classes, views before have"):
        record([torch_file(first), torch_file(other)], files.settings())
    with pytest.raises(ConvertError, match="the file is of image 7, not of 8"):
        native.ml_dr_record([torch_file(first)], 8, (HEIGHT, WIDTH), files.settings())


def test_a_crop_of_fixed_size() -> None:
    settings = MlDr(("random_crop", FLIP), 32, 32, 0, 10, 10, probabilities="float32")
    value = (3, [{"params": [(4, 8), True], "prob": ([0.5], [1])}])
    made = decode(native.ml_dr_record([torch_file(value)], 3, (40, 40), settings).record)
    assert made.reinforcements.crop.tolist() == [[4, 8, 32, 32]] and made.view_size == (32, 32)
    with pytest.raises(ConvertError, match=r"random_crop .top 4, left 8, .* is empty or outside of 39x39"):
        native.ml_dr_record([torch_file(value)], 3, (39, 39), settings)


def test_settings_that_no_set_has() -> None:
    value, _ = MlDrFiles((RRC, FLIP), 0).file(1)
    for settings, message in (
        (MlDr(("solarize",), 224, 0, 0, 10, 10), "no transformation 'solarize'"),
        (MlDr((RRC, FLIP) * 5, 224, 0, 0, 10, 10), "some of them twice"),
        (MlDr((FLIP, RRC), 224, 0, 0, 10, 10), "not in the order"),
        (MlDr((RRC,), -1, 0, 0, 10, 10), "view is -1"),
        (MlDr((RRC,), 224, 0, 1 << 40, 10, 10), "num_ops is 1099511627776"),
    ):
        with pytest.raises(ConvertError, match=message):
            native.ml_dr_record([torch_file(value)], NUMBER, (HEIGHT, WIDTH), settings)


def test_many_threads_read_at_once() -> None:
    files = [MlDrFiles(ALL, seed) for seed in range(8)]
    made = [(f, torch_file(value), f.views(rows)) for f in files for value, rows in [f.file(50)]]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda each: record([each[1]], each[0].settings()) == each[2], made * 10))
    assert all(results)


# FKD and ReLabel


def pillow_box(y: float, x: float, h: float, w: float) -> list[int]:
    """The box that Pillow's crop takes of an image whose pixels are their places."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    image = Image.fromarray((rows * 1000 + columns).astype(np.int32))
    part = np.asarray(image.crop((x, y, x + w, y + h)))
    return [*map(int, divmod(int(part[0, 0]), 1000)), *part.shape]


@pytest.mark.parametrize("form", ["hard", "smoothing", "marginal", "full"])
def test_fkd(form: Any) -> None:
    rng = np.random.default_rng(0)
    classes = 40
    for index, (protocol, older, as_torch) in enumerate(itertools.product((2, 4), (False, True), (False, True))):
        size = rng.integers(1, (HEIGHT + 1, WIDTH + 1), (30, 2))
        corner = rng.integers(0, (HEIGHT + 1, WIDTH + 1) - size)
        boxes = np.concatenate([corner, size], axis=1) / np.array([HEIGHT, WIDTH] * 2)
        coords = torch.tensor(boxes, dtype=torch.float32)
        flips = torch.tensor(rng.integers(0, 2, 30).astype(bool))
        probs = torch.tensor(rng.dirichlet(np.ones(classes), 30).astype(np.float32))
        values, ids = probs.sort(descending=True)
        labels: torch.Tensor = {
            "hard": ids[:, 0],
            "smoothing": torch.stack([ids[:, 0], values[:, 0]], 1),
            "marginal": torch.stack([ids[:, :5], values[:, :5]], 1),
            "full": probs,
        }[form]
        parts: list[Any] = [coords, flips, labels]
        if not as_torch:  # strided, in Fortran's order and in C's
            parts = [np.asfortranarray(coords.numpy()), flips.repeat_interleave(2)[::2].numpy(), labels.numpy()]
        settings = Fkd(224, classes, "auto" if index % 2 else form, "float32")
        made = native.fkd_record(torch_file(parts, protocol, older), (HEIGHT, WIDTH), settings)
        read = decode(made.record).reinforcements
        soft = np.ones((30, 1), np.float32) if form == "hard" else values[:, : made.topk].numpy()
        order = np.argsort(-soft[:, 0], kind="stable")
        assert (read.soft_probs == soft[order]).all() and (read.soft_ids == ids[:, : made.topk].numpy()[order]).all()
        assert (read.flip == flips.numpy()[order]).all() and not read.erase.any()
        want = [pillow_box(*(coords[i].double().numpy() * [HEIGHT, WIDTH, HEIGHT, WIDTH]).tolist()) for i in order]
        assert read.crop.tolist() == want == np.concatenate([corner, size], 1)[order].tolist()


def test_boxes_of_fkd_are_rounded_as_pillow_rounds() -> None:
    rng = np.random.default_rng(1)
    coords = np.stack(
        [rng.integers(0, 64, 200) / 128, rng.integers(0, 128, 200) / 256], 1
    )  # halves of pixels among them
    coords = np.concatenate([coords, rng.uniform(0.05, 0.4, (200, 2))], 1).astype(np.float32)
    parts = [coords, np.zeros(200, bool), np.zeros(200, np.int64)]
    made = native.fkd_record(torch_file(parts), (HEIGHT, WIDTH), Fkd(224, 10))
    want = [pillow_box(*(c.astype(np.float64) * [HEIGHT, WIDTH, HEIGHT, WIDTH]).tolist()) for c in coords]
    assert decode(made.record).reinforcements.crop.tolist() == want
    with pytest.raises(ConvertError, match="float16"):
        native.fkd_record(torch_file([coords.astype(np.float16), *parts[1:]]), (HEIGHT, WIDTH), Fkd(224, 10))


@pytest.mark.parametrize("older", [False, True], ids=["zip", "older"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_label_maps(dtype: torch.dtype, older: bool) -> None:
    scores = torch.randn(5, 15, 15, generator=torch.Generator().manual_seed(0)).to(dtype)
    ids = torch.arange(5 * 15 * 15).reshape(5, 15, 15) % 1000
    whole = torch.stack([scores, ids.to(dtype)])
    for tensor in (whole, whole.transpose(2, 3), torch.cat([whole, whole])[1:3].flip(0), whole[:, :2]):
        read_scores, read_ids = native.label_map(torch_file(tensor, 2, older))
        assert read_scores.dtype == np.float32 and read_ids.dtype == np.int32
        assert (read_scores == tensor[0].float().numpy()).all() and (read_ids == tensor[1].numpy()).all()
    with pytest.raises(ConvertError, match="not a whole number from 0"):
        native.label_map(torch_file(whole + 0.5, 2, older))
    with pytest.raises(ConvertError, match=r"an array f\d of shape \(5, 15, 15\)"):
        native.label_map(torch_file(scores, 2, older))


# What nobody wrote


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def hostile(callee: tuple[str, str], argument: str) -> Iterator[tuple[str, bytes]]:
    """Pickles that call something with a text, in every way there is, and what messages must name, if anything."""
    module, name = callee
    named = f"{module}.{name}"
    found, args = f"c{module}\n{name}\n".encode(), text(argument) + b"\x85"
    by_stack = text(module) + text(name) + b"\x93"
    short = b"".join(b"\x8c" + bytes([len(t)]) + t.encode() for t in callee) + b"\x93"
    head, end = b"\x80\x04", b"."
    yield named, head + found + args + b"R" + end
    yield named, b"\x80\x02" + found + args + b"R" + end
    yield named, head + by_stack + args + b"R" + end
    yield named, head + short + args + b"R" + end
    yield named, head + found + b"(" + text(argument) + b"tR" + end
    yield named, head + b"(" + text(argument) + b"i" + found[1:] + end
    yield named, head + b"(" + found + text(argument) + b"o" + end
    yield named, head + found + args + b"\x81" + end  # NEWOBJ
    yield named, head + found + args + b"}\x92" + end  # NEWOBJ_EX
    yield named, head + text(module) + b"\x94" + text(name) + b"\x94\x93" + args + b"R" + end
    remembered = b"(" + text(module) + b"q\x00" + text(name) + b"q\x01t"
    yield named, head + remembered + b"h\x00h\x01\x93" + args + b"R\x86" + end
    yield named, head + b"](" + found + args + b"Re" + end  # inside of other values
    yield named, head + b"}" + text("params") + found + args + b"Rs" + end
    yield named, head + b"K\x07](}(" + text("params") + b"](" + found + args + b"Re" + text("prob") + b")ue\x86" + end
    yield named, head + b"\x95" + struct.pack("<Q", len(found + args) + 2) + found + args + b"R" + end
    # as an argument of a call, or as the state of a value that is known
    yield named, head + b"cnumpy\ndtype\n" + found + args + b"R\x85R" + end
    yield named, head + b"ccollections\nOrderedDict\n)R" + found + args + b"Rb" + end
    yield named, head + b"c_codecs\nencode\n" + found + args + b"R" + text("latin1") + b"\x86R" + end
    yield named, head + b"cnumpy.core.multiarray\n_reconstruct\n" + found + b"K\x00\x85C\x01b\x87R" + end
    yield named, head + b"ctorch._utils\n_rebuild_tensor_v2\n" + found + args + b"R\x85R" + end
    yield named, head + found + b"0N" + end  # found alone, then forgotten
    yield named, head + found + b"}" + text("__setstate__") + found + b"sb" + end


CALLEES = (
    ("os", "system"), ("posix", "system"), ("nt", "system"), ("os", "popen"), ("os", "execv"), ("os", "mkdir"),
    ("os", "spawnl"), ("subprocess", "Popen"), ("subprocess", "call"), ("subprocess", "run"),
    ("subprocess", "check_output"), ("subprocess", "getoutput"), ("builtins", "eval"), ("builtins", "exec"),
    ("builtins", "getattr"), ("builtins", "__import__"), ("builtins", "open"), ("builtins", "compile"),
    ("__builtin__", "eval"), ("__builtin__", "file"), ("__main__", "os"), ("runpy", "run_path"), ("pty", "spawn"),
    ("importlib", "import_module"), ("pickle", "loads"), ("_pickle", "loads"), ("torch", "load"),
    ("torch.storage", "_load_from_bytes"), ("torch.jit", "load"), ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_tensor_v3"), ("torch.hub", "load"), ("joblib", "load"), ("numpy", "load"),
    ("numpy.core.multiarray", "fromfile"), ("numpy.f2py.crackfortran", "myeval"), ("numpy.testing", "runstring"),
    ("numpy.f2py.diagnose", "run_command"), ("numpy._core.numeric", "_frombuffer"), ("numpy", "dtype.__class__"),
    ("collections", "OrderedDict.fromkeys"), ("_codecs", "lookup"), ("operator", "methodcaller"),
    ("functools", "partial"), ("types", "FunctionType"), ("code", "InteractiveInterpreter"), ("timeit", "timeit"),
    ("webbrowser", "open"), ("shutil", "rmtree"), ("socket", "create_connection"), ("ctypes", "CDLL"),
    ("numpy.core.multiarray ", "scalar"), ("", "eval"), ("Os", "System"),
)  # fmt: skip


def zipped(data: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def readers() -> Iterator[Callable[[bytes], object]]:
    settings = MlDr((RRC, FLIP), 224, 0, 0, 10, 10)
    return itertools.cycle(
        (
            native.pickle_json,
            native.label_map,
            lambda file: native.ml_dr_record([file], 0, (10, 10), settings),
            lambda file: native.fkd_record(file, (10, 10), Fkd(224, 10)),
        )
    )


WRAPS: tuple[Callable[[bytes], bytes], ...] = (bytes, zipped, zlib.compress, gzip.compress)


def test_nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "executed"
    monkeypatch.setattr(sys, "modules", dict(sys.modules))  # imports of a pickle that got through would be seen
    before, read, tried = set(sys.modules), readers(), 0
    arguments = {"eval": f"open({str(marker)!r}, 'w')", "exec": f"open({str(marker)!r}, 'w')"}
    for callee in CALLEES:
        argument = arguments.get(callee[1], str(marker) if callee[1] in ("mkdir", "open") else f"touch {marker}")
        for named, data in hostile(callee, argument):
            for wrap in WRAPS[tried % 2 :: 2]:
                tried += 1
                with pytest.raises(ConvertError) as caught:
                    next(read)(wrap(data))
                assert f"names {named}, which is never" in str(caught.value), data
                assert not marker.exists(), data
    assert tried >= 1000
    assert set(sys.modules) == before


def test_the_hostile_pickles_are_hostile(tmp_path: Path) -> None:
    """Python executes most of those above, so that refusing them is something."""
    executed = []
    for index, (_, data) in enumerate(hostile(("os", "system"), "")):
        marker = tmp_path / str(index)
        *_, again = itertools.islice(hostile(("os", "system"), f"touch {marker}"), index + 1)
        try:
            pickle.loads(again[1])
        except Exception:  # after the call, often
            assert data
        executed.append(marker.exists())
    assert sum(executed) >= 13, executed


@pytest.mark.parametrize(
    "opcode", [b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00", b"Pid\n", b"Q", b"\x97", b"\x98"]
)
def test_opcodes_that_reach_outside(opcode: bytes) -> None:
    for data in (b"\x80\x04K\x01" + opcode + b".", b"\x80\x04(K\x01" + opcode + b"t."):
        for wrap, read in zip(WRAPS, readers(), strict=False):
            with pytest.raises(ConvertError, match=r"the opcode (EXT|PERSID|NEXT|READ)|BINPERSID|torch storage"):
                read(wrap(data))


# Damage and bombs


def good_files() -> dict[str, bytes]:
    value, _ = MlDrFiles(ALL, seed=3).file(1)
    tensor = torch.arange(2.0 * 2 * 2 * 2).reshape(2, 2, 2, 2)
    return {
        "torch": torch_file(value), "pickle": pickle.dumps(value, 4), "joblib": joblib_file(value),
        "tensor": torch_file(tensor), "older": torch_file(tensor, 2, older=True),
        "fkd": torch_file([np.float32([[0, 0, 1, 1]]), np.array([True]), np.float32([[[1], [0.5]]])], 2),
    }  # fmt: skip


def outcome(name: str, file: bytes) -> Any:
    if name in ("tensor", "older"):
        return tuple(column.tolist() for column in native.label_map(file))
    if name == "fkd":
        return native.fkd_record(file, (HEIGHT, WIDTH), Fkd(224, 10))
    return native.ml_dr_record([file], NUMBER, (HEIGHT, WIDTH), MlDrFiles(ALL, 0).settings())


@pytest.mark.parametrize("name", good_files())
def test_a_file_that_was_cut_off_is_refused(name: str) -> None:
    file = good_files()[name]
    outcome(name, file)
    for length in range(len(file)):
        with pytest.raises(ConvertError):
            outcome(name, file[:length])


@pytest.mark.parametrize("name", good_files())
def test_a_file_with_a_wrong_bit_is_refused_or_says_the_same(name: str) -> None:
    """Of what has a checksum; the others are refused or read."""
    file = bytearray(good_files()[name])
    want, refused = outcome(name, bytes(file)), 0
    for bit in np.random.default_rng(0).permutation(8 * len(file))[:2500]:
        file[bit // 8] ^= 1 << bit % 8
        try:
            read = outcome(name, bytes(file))
            assert read == want or name in ("pickle", "older"), bit
        except ConvertError:
            refused += 1
        file[bit // 8] ^= 1 << bit % 8
    assert refused > 100


def test_bombs() -> None:
    zeros = bytes(65 << 20)
    for bomb in (zlib.compress(zeros, 1), gzip.compress(zeros, 1)):
        with pytest.raises(ConvertError, match="inflates to more than 64 MiB"):
            native.pickle_json(bomb)
    small = zlib.compress(pickle.dumps(list(range(100))))
    assert native.pickle_json(small) == list(range(100))
    with pytest.raises(ConvertError, match="cut off"):
        native.pickle_json(small[:-3])
    with pytest.raises(ConvertError, match="its compression is damaged"):
        native.pickle_json(small[:20] + b"\xff" * 30 + small[50:])
    with pytest.raises(ConvertError, match="3 bytes follow"):
        native.pickle_json(small + b"abc")
    with pytest.raises(ConvertError, match="is compressed"):
        native.pickle_json(zipped(zeros, zipfile.ZIP_DEFLATED))
    with pytest.raises(ConvertError, match="deeper than 64"):
        native.pickle_json(b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".")
    with pytest.raises(ConvertError, match="longer than"):
        doubled = b"".join(b"](h" + bytes([i]) + b"h" + bytes([i]) + b"e\x94" for i in range(60))
        native.pickle_json(b"\x80\x04(]\x94" + doubled + b"t.")
    itself: list[Any] = []
    itself.append(itself)
    with pytest.raises(ConvertError, match="deeper than 64"):
        native.pickle_json(pickle.dumps(itself))


@pytest.mark.parametrize(
    "repeated",
    [b"N", b"]", b"}", b")", b"(", b"K\0", b"G" + bytes(8), b"\x94", b"]\x94", b"(NNt", b"NN\x86", b"]Na", b"h\0"],
)
def test_values_have_a_limit_wherever_they_lie(repeated: bytes) -> None:
    """A few kB of zlib become millions of values: on the stack, remembered, marked, in tuples or lists."""
    bomb = zlib.compress(b"\x80\x04(N\x94" + repeated * ((48 << 20) // len(repeated)) + b"t.", 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConvertError, match="more than 2097152 values"):
        native.pickle_json(bomb)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << 10, "kB, of which 200 MB for its bytes"
    places = b"N" + b"".join(b"r" + (place << 20).to_bytes(4, "little") for place in range(1, 60))
    with pytest.raises(ConvertError, match="more than 2097152 values"):
        native.pickle_json(zlib.compress(b"\x80\x04" + places + bytes(60 << 20), 1))


@pytest.mark.parametrize(
    "numbered",
    [
        b"K\x01q\x00K\x02q\x02K\x03\x94h\x02",  # MEMOIZE counts what is remembered: this is number 2 again
        b"K\x01q\x05K\x02\x94K\x03\x94h\x02",
        b"K\x01q\x05K\x02q\x05K\x03\x94h\x01",
    ],
)
def test_what_is_remembered_has_pythons_numbers(numbered: bytes) -> None:
    whole = b"\x80\x04(" + numbered + b"t."
    assert native.pickle_json(whole) == list(pickle.loads(whole))


def test_zip_members_that_overlap_or_lie_outside() -> None:
    file = torch_file([1, 2])
    directory = file.rindex(b"PK\x01\x02")
    first = file.index(b"PK\x01\x02")
    for place, value in ((24, 41), (20, 1 << 20), (42, 1), (42, 1 << 31), (42, directory), (28, 9999), (10, 8), (8, 1)):
        for entry in (first, directory):
            changed = bytearray(file)
            struct.pack_into("<I" if place not in (28, 10, 8) else "<H", changed, entry + place, value)
            with pytest.raises(ConvertError):
                native.pickle_json(bytes(changed))


def test_names_are_shown_escaped() -> None:
    with pytest.raises(ConvertError) as caught:
        native.pickle_json(b"\x80\x04c\x1b[31mos\nsys\x07tem\n.")
    assert "\\x1b[31mos.sys\\x07tem" in str(caught.value) and "\x1b" not in str(caught.value)
    with pytest.raises(ConvertError, match=r"names \\xffos.system"):
        native.pickle_json(b"\x80\x04c\xffos\nsystem\n.")
    with pytest.raises(ConvertError, match="no UTF-8"):
        native.pickle_json(b"\x80\x04X\x01\x00\x00\x00\xff.")
