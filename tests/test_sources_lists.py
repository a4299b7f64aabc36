"""Lists of images: labels as numbers and names, keys, columns; what cannot be stored is told by its line, at once."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import encode_jpeg, picture, write_files
from hypothesis import given
from hypothesis import strategies as st

import dali_dr
from dali_dr.cli import main
from dali_dr.shards.sample import key_fault
from dali_dr.sources import FileList, Reading, open_source
from dali_dr.sources.classes import MAX_CLASSES, numbered
from dali_dr.sources.lists import checked_row
from dali_dr.sources.source import keys_of

FORMS = (".csv", ".jsonl")


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A list of ``rows``, by the standard library's writers."""
    with path.open("w", newline="", encoding="utf-8") as file:
        if path.suffix == ".csv":
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def of_labels(path: Path, labels: list[Any]) -> Path:
    return write(path, [{"path": f"{number}.jpg", "label": label} for number, label in enumerate(labels)])


def loaded(path: Path, **reading: Any) -> FileList:
    source = open_source(path, Reading(**reading))
    assert isinstance(source, FileList)
    return source


@pytest.mark.parametrize("suffix", FORMS)
@pytest.mark.parametrize(
    ("labels", "numbers", "names"),
    [
        ([3, 0, 1], [3, 0, 1], ["0", "1", "2", "3"]),
        (["3", "00", "01"], [3, 0, 1], ["0", "1", "2", "3"]),
        ([3.0, 0.0, 1.0], [3, 0, 1], ["0", "1", "2", "3"]),
        (["3.0", "0", "1."], [3, 0, 1], ["0", "1", "2", "3"]),
        ([3, 3.0, "3"], [3, 3, 3], ["0", "1", "2", "3"]),
        (["dog", "ant", "dog"], [1, 0, 1], ["ant", "dog"]),
        (["a1", "2b", "7"], [2, 0, 1], ["2b", "7", "a1"]),
        (["Zoë", "zoo", "Abc"], [1, 2, 0], ["Abc", "Zoë", "zoo"]),
    ],
)
def test_labels(suffix: str, labels: list[Any], numbers: list[int], names: list[str], tmp_path: Path) -> None:
    source = loaded(of_labels(tmp_path / f"l{suffix}", labels))
    assert list(source.labels) == numbers and list(source.class_names) == names and list(source.notes) == []


@pytest.mark.parametrize("suffix", FORMS)
@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ([0, -1, 2], "is negative: leave out images without a class"),
        ([-1, -1, -1], "is negative"),
        (["cat", "-1"], "is negative"),
        ([0, -1.0], "is negative"),
        ([0, 1.5], "none of a class|want a text or a whole number"),
        ([0, "nan"], "none of a class"),
        (["0", "1e3"], "none of a class"),
        (["nan", "nan"], "none of a class"),
        ([0, MAX_CLASSES], "is too large"),
        ([0, float(MAX_CLASSES)], "is too large"),
        ([0, 2_000_000_000], "is too large"),
        ([0, "9" * 6000], "is too large"),
    ],
)
def test_labels_that_are_no_classes(suffix: str, labels: list[Any], why: str, tmp_path: Path) -> None:
    path = of_labels(tmp_path / f"l{suffix}", labels)
    first = next(n for n, label in enumerate(labels) if label not in (0, "0", "cat"))
    line = first + (2 if suffix == ".csv" else 1)
    with pytest.raises(dali_dr.ShardError, match=rf"l{re.escape(suffix)}: line {line}: .*({why})"):
        loaded(path)


@pytest.mark.parametrize("suffix", [".CSV", ".JsonL"])
def test_suffixes_in_any_letters(suffix: str, tmp_path: Path) -> None:
    rows = write(tmp_path / f"l{suffix.lower()}", [{"path": "a.jpg", "label": 1}])
    assert list(loaded(rows.rename(tmp_path / f"l{suffix}")).labels) == [1]


def test_the_largest_class_costs_little(tmp_path: Path) -> None:
    source = loaded(of_labels(tmp_path / "l.csv", [MAX_CLASSES - 1]))
    assert list(source.labels) == [MAX_CLASSES - 1] and len(source.class_names) == MAX_CLASSES


def test_a_column_of_paths_is_no_column_of_labels(tmp_path: Path) -> None:
    labels = [f"path/{number}.jpg" for number in range(MAX_CLASSES + 1)]
    with pytest.raises(dali_dr.ShardError, match=f"is one of {MAX_CLASSES + 1} distinct ones"):
        numbered(tmp_path / "l.csv", labels)


@given(st.lists(st.integers(0, MAX_CLASSES - 1) | st.sampled_from([0, 1]), min_size=1), st.data())
def test_whole_numbers_however_they_are_written(values: list[int], data: st.DataObject) -> None:
    forms = [
        data.draw(st.sampled_from([str(v), f"0{v}", f"{v}.0", f"{v}.", f"{v}.000", str(float(v))])) for v in values
    ]
    found = numbered(Path("l"), forms)
    assert found.labels == [int(float(form)) for form in forms] == values
    assert len(found.class_names) == max(values) + 1


@given(st.lists(st.text(min_size=1, max_size=5) | st.sampled_from(["1", "-1", "2.5", "nan", "1e1", "٣"]), min_size=1))
def test_labels_are_numbers_or_names_or_refused(labels: list[str]) -> None:
    """By float() and sorted() of Python: no number ever becomes a name among numbers, and no name a number."""

    def number(text: str) -> float | None:
        try:
            return float(text)
        except ValueError:
            return None

    numbers = [number(label) for label in labels]
    try:
        found = numbered(Path("l"), labels)
    except dali_dr.ShardError as error:
        at = int(re.findall(r"image (\d+)", str(error))[0]) - 1
        value = numbers[at]
        assert value is not None  # then it none of a class, or none that is written in ASCII digits
        assert not re.fullmatch(r"[0-9]+\.?0*", labels[at]) or value >= MAX_CLASSES
        return
    if all(value is not None for value in numbers):
        assert found.labels == numbers
    else:
        names = sorted(set(labels))
        assert list(found.class_names) == names and [names[n] for n in found.labels] == labels


@pytest.mark.parametrize("suffix", FORMS)
def test_numberings_and_files_of_classes(suffix: str, tmp_path: Path) -> None:
    path = of_labels(tmp_path / f"l{suffix}", ["n01443537", "n01440764", "n01443537"])
    source = loaded(path)
    assert list(source.labels) == [1, 0, 1] and len(source.class_names) == 1000 and source.class_names[1] == "goldfish"
    assert "there are 1000, of which 2 are here" in source.notes[0]
    assert list(loaded(path, numbering="sorted").class_names) == ["n01440764", "n01443537"]
    with pytest.raises(dali_dr.ShardError, match="the label 'n01443537' is no whole number"):
        loaded(path, numbering="numeric")
    (tmp_path / "c.txt").write_text("n01443537 goldfish\nn00000001\nn01440764\n")
    source = loaded(path, classes=tmp_path / "c.txt")
    assert list(source.labels) == [0, 2, 0] and list(source.class_names) == ["goldfish", "n00000001", "n01440764"]
    assert "'n01440764' is 2, and 0 by sorted order" in source.notes[0]
    (tmp_path / "c.txt").write_text("n01443537\n")
    line = 3 if suffix == ".csv" else 2
    with pytest.raises(dali_dr.ShardError, match=rf"line {line}: the label 'n01440764' is not in .*c\.txt"):
        loaded(path, classes=tmp_path / "c.txt")
    path = of_labels(tmp_path / f"l{suffix}", ["10", "9", "-1"])
    assert list(loaded(path, numbering="sorted").labels) == [1, 2, 0]
    path = of_labels(tmp_path / f"l{suffix}", ["1", "2.0"])
    (tmp_path / "c.txt").write_text("cat\ndog\nfox\n")
    source = loaded(path, classes=tmp_path / "c.txt")
    assert list(source.labels) == [1, 2] and list(source.class_names) == ["cat", "dog", "fox"] and source.notes == ()
    (tmp_path / "c.txt").write_text("cat\ndog\n")
    with pytest.raises(dali_dr.ShardError, match=r"the label '2\.0' is the number of no class"):
        loaded(path, classes=tmp_path / "c.txt")


@pytest.mark.parametrize("suffix", FORMS)
def test_another_column_of_labels(suffix: str, tmp_path: Path) -> None:
    rows = [{"path": "a.jpg", "fine": 4, "label": "x"}, {"path": "b.jpg", "fine": 2, "label": "y"}]
    path = write(tmp_path / f"l{suffix}", rows)
    assert list(loaded(path, label_field="fine").labels) == [4, 2]
    assert list(loaded(path).class_names) == ["x", "y"]
    with pytest.raises(dali_dr.ShardError, match=r"has no coarse: \{.*'fine'.*--label-field names another column"):
        loaded(path, label_field="coarse")


KEYS: dict[str, tuple[list[dict[str, Any]], int, str]] = {
    "upwards": ([{"path": "a.jpg"}, {"path": "../b.jpg"}], 2, "leads upwards: add a column key.*absolute"),
    "up and down": ([{"path": "c/../b.jpg"}], 1, "leads upwards"),
    "some have none": ([{"path": "a.jpg", "key": "a"}, {"path": "b.jpg", "key": ""}], 2, "has no key, as others have"),
    "space": ([{"path": "a.jpg", "key": "a b"}], 1, "'a b': the key has white space"),
    "dot": ([{"path": "a.jpg", "key": "a.b"}], 1, "'a.b': the key has a dot"),
    "no part": ([{"path": "a.jpg", "key": "/a"}], 1, "an empty"),
    "upwards key": ([{"path": "a.jpg", "key": "../a"}], 1, "'..' part"),
    "left out": ([{"path": "a.jpg", "key": "__a__/b"}], 1, "a first part __"),
    "long": ([{"path": "a.jpg", "key": "a" * 200}], 1, "does not fit a tar header"),
    "twice": (
        [{"path": "a.jpg", "key": "k"}, {"path": "b.jpg", "key": "k"}],
        2,
        "the key 'k' is that of line {} already",
    ),
    "path twice": (
        [{"path": "a.jpg"}, {"path": "b.jpg"}, {"path": "a.jpg"}],
        3,
        "the path 'a.jpg' is that of line {} already",
    ),
}


@pytest.mark.parametrize("suffix", FORMS)
@pytest.mark.parametrize("name", KEYS)
def test_keys_that_cannot_be_stored(name: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, number, why = KEYS[name]
    path = write(tmp_path / f"l{suffix}", [row | {"label": 0} for row in rows])
    header = 1 if suffix == ".csv" else 0
    with pytest.raises(dali_dr.ShardError, match=f"line {number + header}: .*{why.format(1 + header)}") as caught:
        loaded(path)
    arguments = ["reinforce", "--input", str(path), "--out", str(tmp_path / "o"), "--teacher", "no-such-teacher"]
    assert main(arguments) == 1 and str(caught.value) in capsys.readouterr().err  # before the teacher is looked for
    assert main(["pack", "--input", str(path), "--out", str(tmp_path / "o")]) == 1
    assert not (tmp_path / "o").exists()


def test_paths_upwards_with_keys_and_absolute_ones(tmp_path: Path) -> None:
    image = encode_jpeg(picture(16, 16, 0))
    write_files(tmp_path, {"images/a.jpg": image, "images/b.jpg": image, "lists/x": b""})
    rows = [
        {"path": "../images/a.jpg", "label": 0, "key": "one"},
        {"path": "../images/b.jpg", "label": 1, "key": "two"},
    ]
    path = write(tmp_path / "lists" / "l.jsonl", rows)
    assert main(["pack", "--input", str(path), "--out", str(tmp_path / "o"), "--quiet"]) == 0
    assert list(dali_dr.Dataset(tmp_path / "o").keys) == ["one", "two"]
    path = write(path, [{"path": str(tmp_path / "images" / name), "label": 0} for name in ("a.jpg", "b.jpg")])
    source = loaded(path)
    assert source.read(1) == image and not any(map(key_fault, source.keys))


def test_rows_of_others_are_checked_alike(tmp_path: Path) -> None:
    """As tables do, whose values have types of their own."""
    row = checked_row(tmp_path / "t", 7, {"path": "a.jpg", "c": 3.0, "key": None, "more": object()}, "c", "row")
    assert row == ("a.jpg", "3", "", 7)
    for value in (None, math.nan, math.inf, 1e300, True, b"3", [3]):
        with pytest.raises(dali_dr.ShardError, match=r"t: row 7: (label is|has no label)"):
            checked_row(tmp_path / "t", 7, {"path": "a.jpg", "label": value}, unit="row")
    with pytest.raises(dali_dr.ShardError, match="row 7: the label '-1' is negative"):
        FileList.of_rows(tmp_path / "t", [checked_row(tmp_path / "t", 7, {"path": "a", "label": -1})], unit="row")


@given(st.lists(st.text("ab.%_ é", min_size=1, max_size=6).filter(lambda t: t.strip(".")), min_size=1, unique=True))
def test_distinct_paths_give_distinct_keys_in_any_order(names: list[str]) -> None:
    keys = keys_of([f"c/{name}" for name in names] + [f"c/{name}.jpg" for name in names if f"{name}.jpg" not in names])
    assert len(set(keys)) == len(keys) and not any(map(key_fault, keys))
