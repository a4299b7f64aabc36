"""Parquet and Hugging Face's data sets against pyarrow and `datasets` themselves: bytes, labels, names, what is refused."""

from __future__ import annotations

import builtins
import concurrent.futures
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import encode_jpeg, picture, write_files

import dali_dr
from dali_dr.cli import main
from dali_dr.sources import Reading, open_source
from dali_dr.sources.huggingface import Named
from dali_dr.sources.tables import ParquetRows, RowKeys

datasets = pytest.importorskip("datasets")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

IMAGES = [encode_jpeg(picture(30 + n, 40, n)) for n in range(7)]
NAMES = ["zebra", "ant", "cat"]  # not in sorted order
LABELS = [0, 1, 2, 2, 1, 0, 1]


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets.disable_progress_bars()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def made(images: list[bytes] = IMAGES, labels: list[int] = LABELS, **more: Any) -> Any:
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
    rows = {"image": [{"bytes": data, "path": None} for data in images], "label": labels}
    rows |= {name: values for name, (_, values) in more.items()}
    features |= {name: kind for name, (kind, _) in more.items()}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def expect(source: Any, data: Any, image: str = "image", label: str = "label") -> None:
    """The rows of ``source`` are those that `datasets` itself gives."""
    raw = data.cast_column(image, datasets.Image(decode=False))
    assert len(source) == len(raw)
    assert [source.read(n) for n in range(len(source))] == [row["bytes"] for row in raw[:][image]]
    assert list(source.class_names) == data.features[label].names
    assert list(map(int, source.labels)) == raw[:][label]
    assert len(set(source.keys)) == len(source)


def saved(folder: Path) -> tuple[str, str]:
    made().save_to_disk(str(folder), num_shards=3)
    return f"hf:{folder}", "row"


def saved_splits(folder: Path) -> tuple[str, str]:
    datasets.DatasetDict({"train": made(), "test": made(IMAGES[:2], [0, 0])}).save_to_disk(str(folder))
    return f"hf:{folder}:train", "train"


def parquet_shards(folder: Path) -> tuple[str, str]:
    for number in range(3):
        shard = made().shard(3, number, contiguous=True)
        write_files(folder / "data", {})
        (folder / "data").mkdir(parents=True, exist_ok=True)
        shard.to_parquet(folder / f"data/train-{number:05d}-of-00003.parquet", batch_size=2)
    made(IMAGES[:1], [0]).to_parquet(folder / "data/validation-00000-of-00001.parquet")
    return f"hf:{folder}:train", "train"


def parquet_split_folders(folder: Path) -> tuple[str, str]:
    for split, count in (("train", 7), ("test", 1)):
        (folder / split).mkdir(parents=True)
        made(IMAGES[:count], LABELS[:count]).to_parquet(folder / split / "0000.parquet")
    return f"hf:{folder}:train", "train"


def parquet_folder(folder: Path) -> tuple[str, str]:
    folder.mkdir()
    made().to_parquet(folder / "all.parquet")
    return f"hf:{folder}", "row"


def parquet_file(folder: Path) -> tuple[str, str]:
    folder.mkdir()
    made().to_parquet(folder / "all.parquet", batch_size=3)
    return f"{folder}/all.parquet", "row"


def parquet_pattern(folder: Path) -> tuple[str, str]:
    folder.mkdir()
    for number in range(2):
        made().shard(2, number, contiguous=True).to_parquet(folder / f"part{number}.parquet")
    return f"{folder}/*.parquet", "row"


def parquet_folder_called_so(folder: Path) -> tuple[str, str]:
    parquet_folder(folder.with_suffix(".parquet"))
    return f"{folder.with_suffix('.parquet')}", "row"


FORMS = (
    parquet_folder_called_so,
    saved, saved_splits, parquet_shards, parquet_split_folders, parquet_folder, parquet_file, parquet_pattern,
)  # fmt: skip


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_every_form_gives_what_datasets_gives(form: Callable[[Path], tuple[str, str]], tmp_path: Path) -> None:
    text, name = form(tmp_path / "a:b c")
    source = open_source(text)
    expect(source, made())
    assert list(source.keys) == [f"{name}-{n:08d}" for n in range(7)] and source.keys[-1] == f"{name}-00000006"
    assert source.keys[2:4] == [f"{name}-00000002", f"{name}-00000003"]
    assert "not those of sorted order" in str(source.notes)
    assert "row" in source.where(6) and str(tmp_path) in source.where(6)
    named = (
        text if text.startswith("hf:") and text.endswith(":train") else f"{text}:" if text.startswith("hf:") else None
    )
    if named is not None:
        expect(open_source(f"{named}:image:label"), made())


def test_a_name_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str, split: str) -> Any:
        asked.append((name, split))
        return made(other=(datasets.Value("string"), ["x"] * 7)).select([6, 0, 3]) if "some" in split else made()

    monkeypatch.setattr(datasets, "load_dataset", load)
    expect(open_source("hf:user/name:train"), made())
    chosen = open_source("hf:user/name:train[some]")
    assert [chosen.read(n) for n in range(3)] == [IMAGES[6], IMAGES[0], IMAGES[3]] and list(chosen.labels) == [1, 0, 2]
    assert chosen.keys[0] == "train[some]-00000000" and chosen.where(1) == "hf:user/name:train[some]: row 1"
    assert asked == [("user/name", "train"), ("user/name", "train[some]")]
    with pytest.raises(dali_dr.ShardError, match="say the split, too: hf:user/name:train"):
        open_source("hf:user/name")


@pytest.mark.parametrize(
    "error", [ConnectionError("no route"), ValueError('Unknown split "x"'), FileNotFoundError("gone")]
)
def test_what_the_hub_refuses_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load)
    status = 1 if isinstance(error, ConnectionError) else 2
    assert main(["pack", "--input", "hf:user/name:x", "--out", str(tmp_path / "o"), "--quiet"]) == status
    told = capsys.readouterr().err
    assert str(error) in told and "hf:user/name" in told and "Traceback" not in told and told.count("\n") == 1


@pytest.mark.parametrize(("package", "text"), [("datasets", "hf:user/name:train"), ("pyarrow", "SAVED")])
def test_a_package_that_is_missing(package: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = saved(tmp_path / "s")[0] if text == "SAVED" else text
    imported = builtins.__import__

    def refuse(name: str, *arguments: Any, **options: Any) -> Any:
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}")
        return imported(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(dali_dr.ShardError, match=f"pip install '{package}>="):
        open_source(text)


def test_columns_by_name(tmp_path: Path) -> None:
    fine = datasets.ClassLabel(names=["p", "q"])
    data = made(fine=(fine, [0, 1, 0, 1, 0, 1, 1]), thumb=(datasets.Image(), [{"bytes": IMAGES[0], "path": None}] * 7))
    data.to_parquet(tmp_path / "t.parquet")
    expect(open_source(tmp_path / "t.parquet"), data)
    expect(open_source(tmp_path / "t.parquet", Reading(label_field="fine")), data, label="fine")
    expect(open_source(f"hf:{tmp_path}/t.parquet::thumb:fine"), data, "thumb", "fine")
    renamed = data.rename_columns({"label": "coarse", "image": "photo"})
    renamed.to_parquet(tmp_path / "u.parquet")
    for text, match in (
        (
            f"{tmp_path}/u.parquet",
            r"2 columns that may hold images; its columns are photo \(struct.*hf:NAME:SPLIT:IMAGE",
        ),
        (f"hf:{tmp_path}/u.parquet::photo", "2 columns that may hold labels.*--label-field"),
        (f"hf:{tmp_path}/u.parquet::photo:nope", "no column 'nope' of labels; its columns are photo"),
        (f"hf:{tmp_path}/u.parquet::coarse:fine", "'coarse' is of int64, which holds no images"),
    ):
        with pytest.raises(dali_dr.ShardError, match=match):
            open_source(text)


def test_tables_of_others(tmp_path: Path) -> None:
    """Without features: bytes or structs, names or numbers of any type, dictionaries, row groups, large types."""
    kinds = {
        "names": (pa.array(["b", "a", "b"]), ["a", "b"], [1, 0, 1]),
        "large": (pa.array(["b", "a", "b"], pa.large_string()), ["a", "b"], [1, 0, 1]),
        "dictionary": (pa.array(["b", "a", "b"]).dictionary_encode(), ["a", "b"], [1, 0, 1]),
        "int": (pa.array([2, 0, 2], pa.uint8()), ["0", "1", "2"], [2, 0, 2]),
        "float": (pa.array([2.0, 0.0, 2.0]), ["0", "1", "2"], [2, 0, 2]),
        "bool": (pa.array([True, False, True]), ["False", "True"], [1, 0, 1]),
    }
    for name, (labels, class_names, numbers) in kinds.items():
        for kind in (pa.binary(), pa.large_binary()):
            table = pa.table({"jpg": pa.array(IMAGES[:3], kind), "label": labels, "n": pa.array([1, 2, 3])})
            pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=1)
            source = open_source(tmp_path / f"{name}.parquet")
            assert [source.read(n) for n in (2, 0, 1)] == [IMAGES[2], IMAGES[0], IMAGES[1]]
            assert list(source.class_names) == class_names and list(source.labels) == numbers


def test_classes_as_the_user_says(tmp_path: Path) -> None:
    made().to_parquet(tmp_path / "t.parquet")
    source = open_source(tmp_path / "t.parquet", Reading(numbering="sorted"))
    assert list(source.class_names) == sorted(NAMES)
    assert [source.class_names[n] for n in source.labels] == [NAMES[n] for n in LABELS]
    (tmp_path / "classes.txt").write_text("cat\nant\nzebra\ndog\n")
    source = open_source(tmp_path / "t.parquet", Reading(classes=tmp_path / "classes.txt"))
    assert list(source.class_names) == ["cat", "ant", "zebra", "dog"] and list(source.labels) == [2, 1, 0, 0, 1, 2, 1]


def test_rows_with_paths(tmp_path: Path) -> None:
    write_files(tmp_path, {"files/0.jpg": IMAGES[0], "elsewhere/1.jpg": IMAGES[1]})
    paths = ["files/0.jpg", str(tmp_path / "elsewhere/1.jpg"), "gone.jpg", None]
    rows = [{"bytes": None, "path": path} for path in paths] + [{"bytes": IMAGES[2], "path": "not/read.jpg"}, None]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table({"image": pa.array(rows, kind), "label": [0] * 6})
    pq.write_table(table, tmp_path / "t.parquet")
    source = open_source(tmp_path / "t.parquet")
    assert [source.read(n) for n in (0, 1, 4)] == IMAGES[:3]
    with pytest.raises(OSError, match=r"gone\.jpg"):
        source.read(2)
    for number in (3, 5):
        with pytest.raises(dali_dr.ShardError, match=rf"t\.parquet: row {number}: has neither"):
            source.read(number)


WRONG_LABELS: dict[str, tuple[Any, str]] = {
    "no class": (pa.array([0, 1, -1, -1]), "row 2: its label is -1, which is no class"),
    "null": (pa.array([0, None, 1, None]), "row 1: has no label"),
    "empty": (pa.array(["a", "b", "", "c"]), "row 2: has no label"),
    "fraction": (pa.array([0.0, 1.0, 2.0, 1.5]), "row 3, column 'label': the label '1.5'"),
    "huge": (pa.array([0, 2_000_000_000, 1, 1]), "row 1, column 'label': the label '2000000000'"),
    "lists": (pa.array([[0], [1], [2], [3]]), "'label' is of list<"),
}


@pytest.mark.parametrize("name", WRONG_LABELS)
def test_labels_that_are_none_are_refused_by_row(name: str, tmp_path: Path) -> None:
    labels, match = WRONG_LABELS[name]
    table = pa.table({"image": IMAGES[:4], "label": labels})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=3)
    with pytest.raises(dali_dr.ShardError, match=rf"t\.parquet: .*{match}"):
        open_source(f"hf:{tmp_path}/t.parquet::image:label")


def test_a_label_beyond_the_features(tmp_path: Path) -> None:
    table = pa.table({"image": IMAGES[:2], "label": [0, 3]})
    table = table.replace_schema_metadata(made().features.arrow_schema.metadata)
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(dali_dr.ShardError, match="row 1, column 'label': the label 3 is none of the 3 classes"):
        open_source(tmp_path / "t.parquet")


def test_a_test_split_is_refused(tmp_path: Path) -> None:
    made(labels=[-1] * 7).save_to_disk(str(tmp_path / "s"))
    with pytest.raises(dali_dr.ShardError, match=r"row 0: its label is -1.*test splits often have none"):
        open_source(f"hf:{tmp_path}/s")


def _without_split(folder: Path) -> str:
    saved_splits(folder)
    return f"hf:{folder}"


def _another_split(folder: Path) -> str:
    saved_splits(folder)
    return f"hf:{folder}:valid"


def _no_such_files(folder: Path) -> str:
    parquet_shards(folder)
    return f"hf:{folder}:test"


def _a_part_missing(folder: Path) -> str:
    parquet_shards(folder)
    (folder / "data/train-00001-of-00003.parquet").unlink()
    return f"hf:{folder}:train"


def _an_arrow_file_missing(folder: Path) -> str:
    saved(folder)
    (folder / "data-00001-of-00003.arrow").unlink()
    return f"hf:{folder}"


def _an_arrow_file_damaged(folder: Path) -> str:
    saved(folder)
    (folder / "data-00001-of-00003.arrow").write_bytes(b"x" * 500)
    return f"hf:{folder}"


def _state_damaged(folder: Path) -> str:
    saved(folder)
    (folder / "state.json").write_bytes(b'{"_data_files": 1}')
    return f"hf:{folder}"


def _state_no_json(folder: Path) -> str:
    saved(folder)
    (folder / "state.json").write_bytes(b"[" * 100_000)
    return f"hf:{folder}"


def _no_parquet(folder: Path) -> str:
    write_files(folder, {"a.txt": b"x"})
    return f"hf:{folder}:train"


def _not_parquet(folder: Path) -> str:
    write_files(folder, {"x.parquet": b"PAR1" + b"x" * 500})
    return f"{folder}/x.parquet"


def _empty_file(folder: Path) -> str:
    write_files(folder, {"x.parquet": b""})
    return f"{folder}/x.parquet"


def _no_rows(folder: Path) -> str:
    folder.mkdir()
    made([], []).to_parquet(folder / "x.parquet")
    return f"{folder}/x.parquet"


def _other_columns(folder: Path) -> str:
    folder.mkdir()
    made().to_parquet(folder / "a.parquet")
    made().rename_column("label", "other").to_parquet(folder / "b.parquet")
    return f"{folder}/*.parquet"


WRONG: dict[str, tuple[Callable[[Path], str], str]] = {
    "without split": (_without_split, "say which split: hf:.*:SPLIT with one of train, test"),
    "another split": (_another_split, "has no split 'valid': hf:.* with one of train, test"),
    "no such files": (_no_such_files, "no Parquet files of the split 'test'.*4 files such as data/train-00000"),
    "a part missing": (_a_part_missing, r"train-00001-of-00003\.parquet: is missing \(2 of 3"),
    "an Arrow file missing": (_an_arrow_file_missing, r"data-00001-of-00003\.arrow: cannot be read \(No such file"),
    "an Arrow file damaged": (_an_arrow_file_damaged, r"data-00001-of-00003\.arrow: cannot be read as a table"),
    "state damaged": (_state_damaged, r"state\.json: names no files"),
    "state no JSON": (_state_no_json, r"state\.json: cannot be read as JSON"),
    "no Parquet": (_no_parquet, "holds neither Parquet files nor"),
    "not Parquet": (_not_parquet, r"x\.parquet: cannot be read as a table"),
    "empty file": (_empty_file, r"x\.parquet: cannot be read as a table"),
    "no rows": (_no_rows, r"x\.parquet: holds no images: it has no rows"),
    "other columns": (_other_columns, r"b\.parquet: its columns are not those of .*a\.parquet"),
    "no folder": (lambda folder: f"hf:{folder}:train", "no such folder"),
    "no file": (lambda folder: f"{folder}/x*.parquet", "no such file"),
    "no name": (lambda folder: "hf::train", "not of the form hf:NAME:SPLIT"),
    "too much": (lambda folder: "hf:a:b:c:d:e", "not of the form hf:NAME:SPLIT"),
}

DAMAGED = (
    "a part missing", "an Arrow file missing", "an Arrow file damaged", "state damaged", "state no JSON", "not Parquet",
    "empty file", "other columns",
)  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_read_is_one_error(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, match = WRONG[name]
    text = make(tmp_path / "data")
    with pytest.raises(dali_dr.ShardError, match=match):
        open_source(text)
    status = 1 if name in DAMAGED else 2
    assert main(["pack", "--input", text, "--out", str(tmp_path / "out"), "--quiet"]) == status
    assert "Traceback" not in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_names_are_understood(tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    for text, want in (
        ("hf:user/name:train", ("user/name", "train", None, None)),
        ("hf:name:train:img:fine", ("name", "train", "img", "fine")),
        ("hf:name:train:img", ("name", "train", "img", None)),
        ("hf:name:train::y", ("name", "train", None, "y")),
        (f"hf:{tmp_path}/a:b:train", (f"{tmp_path}/a:b", "train", None, None)),
        (f"hf:{tmp_path}/a:b", (f"{tmp_path}/a:b", None, None, None)),
        ("hf:name", ("name", None, None, None)),
    ):
        assert tuple(Named.parse(text)) == want


def test_threads_and_memory_of_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row group is read once by all threads that want it, and not many are kept."""
    rng = np.random.default_rng(0)
    data = [rng.bytes(100_000) for _ in range(60)]
    pq.write_table(pa.table({"image": data, "label": [0] * 60}), tmp_path / "t.parquet", row_group_size=10)
    source: Any = open_source(tmp_path / "t.parquet")
    reads = []
    read = ParquetRows._read
    monkeypatch.setattr(ParquetRows, "_read", lambda self, *what: reads.append(what) or read(self, *what))
    monkeypatch.setattr("dali_dr.sources.tables._CACHED_BYTES", 2_500_000)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for start in range(0, 60, 10):
            assert list(pool.map(source.read, range(start, start + 10))) == data[start : start + 10]
    assert len(reads) == 6 and len(source.rows._kept) == 2
    assert [source.read(n) for n in (0, 59, 1, 58)] == [data[0], data[59], data[1], data[58]]


def test_a_file_replaced_in_use_is_an_error(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": IMAGES, "label": LABELS}), tmp_path / "t.parquet", row_group_size=2)
    source = open_source(tmp_path / "t.parquet")
    pq.write_table(pa.table({"image": IMAGES, "label": LABELS}), tmp_path / "t.parquet", row_group_size=3)
    with pytest.raises(dali_dr.ShardError, match="was changed while it was in use"):
        source.read(0)


def test_a_large_saved_set_is_mapped_not_read(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(1_000_000)
    made([data] * 300, [0] * 300).save_to_disk(str(tmp_path / "s"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    source = open_source(f"hf:{tmp_path}/s")
    assert source.read(299) == data and source.read(0) == data
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000  # KiB, of 300 MB


def test_keys_of_a_million_rows_take_no_memory() -> None:
    keys = RowKeys("train", 1_281_167)
    assert keys[1_281_166] == "train-01281166" and keys[-1] == keys[1_281_166] and len(keys[5:9]) == 4
    with pytest.raises(IndexError):
        keys[1_281_167]
    assert RowKeys("a.b c", 1)[0] == "a%2Eb%20c-00000000"


def test_a_list_in_parquet(tmp_path: Path) -> None:
    write_files(tmp_path, {f"images/{n}.jpg": data for n, data in enumerate(IMAGES[:3])})
    paths = [f"images/{n}.jpg" for n in range(3)]
    (tmp_path / "list.csv").write_text("path,label\n" + "".join(f"{p},{n % 2}\n" for n, p in enumerate(paths)))
    want = open_source(tmp_path / "list.csv")
    for labels in (pa.array([0, 1, 0]), pa.array(["0", "1", "0"]), pa.array([0.0, 1.0, 0.0])):
        pq.write_table(pa.table({"path": paths, "label": labels, "more": [[1]] * 3}), tmp_path / "list.parquet")
        source = open_source(tmp_path / "list.parquet")
        assert list(source.keys) == list(want.keys) and list(source.labels) == list(want.labels)
        assert [source.read(n) for n in range(3)] == IMAGES[:3] and list(source.class_names) == ["0", "1"]
    pq.write_table(pa.table({"path": paths, "y": ["b", "a", "b"], "key": list("xyz")}), tmp_path / "list.parquet")
    source = open_source(tmp_path / "list.parquet", Reading(label_field="y"))
    assert (
        list(source.keys) == list("xyz") and list(source.class_names) == ["a", "b"] and list(source.labels) == [1, 0, 1]
    )
    for columns, match in (
        ({"path": paths, "label": [0, None, 1]}, "row 2: has no label"),
        ({"path": paths, "label": [0, -1, 1]}, "row 2: the label '-1'"),
        ({"path": ["a", None, "b"], "label": [0, 0, 0]}, "row 2: has no path"),
        ({"path": ["a", "../b", "c"], "label": [0, 0, 0]}, "row 2: "),
        ({"path": paths, "klass": [0, 1, 2]}, "row 1: has no label.*--label-field"),
        ({"path": pa.array([], pa.string()), "label": pa.array([], pa.int64())}, "lists no images"),
    ):
        pq.write_table(pa.table(columns), tmp_path / "list.parquet")
        with pytest.raises(dali_dr.ShardError, match=match):
            open_source(tmp_path / "list.parquet")


def test_packed_from_hugging_face(tmp_path: Path) -> None:
    """From the command line to a data set, whose classes are the features'."""
    text, _ = parquet_shards(tmp_path / "in")
    assert main(["pack", "--input", text, "--out", str(tmp_path / "out"), "--quiet", "--keep-bytes"]) == 0
    data = dali_dr.Dataset(tmp_path / "out")
    assert [data.image(n) for n in range(7)] == IMAGES and data.class_names == tuple(NAMES)
    assert data.labels.tolist() == LABELS and data.keys[6] == "train-00000006"
