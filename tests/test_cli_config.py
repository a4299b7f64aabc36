"""--config: options in a YAML file are those of the command line, and those that made a data set make it again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import write_files
from test_reinforce import tiny_teacher

from dali_dr.augment.spec import AugmentationSpec
from dali_dr.cli import main, make_parser


@pytest.fixture
def here(tmp_path: Path, jpeg_bytes: list[bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with photos; the teacher is a tiny one whatever its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dali_dr.reinforce.blueprint.load_teacher", lambda *a, **k: tiny_teacher())
    write_files(tmp_path / "photos", {f"c{n % 2}/p{n}.jpg": data for n, data in enumerate(jpeg_bytes[:4])})
    return tmp_path


def parsed(text: str, *words: str, command: str = "reinforce") -> dict[str, Any]:
    """The options of ``command`` with a file of ``text`` and with words."""
    Path("c.yaml").write_text(text)
    return vars(make_parser().parse_args([command, "--config", "c.yaml", *words]))


GIVEN = "folder: photos\nout: o\nteacher: tiny\n"


def test_a_file_says_what_the_command_line_says(here: Path) -> None:
    text = (
        GIVEN
        + "views: 2\nrow-order: entropy\nsamples_per_shard: 3\nsidecar: true\ntemperature: 2\nsize: 64\nconvert: false\n"
    )
    words = ["--out", "o", "--teacher", "tiny", "--views", "2", "--row-order", "entropy", "--samples-per-shard", "3"]
    words += ["--sidecar", "--temperature", "2", "--size", "64"]
    by_words = vars(make_parser().parse_args(["reinforce", "photos", *words]))
    assert {**parsed(text), "config": None} == by_words


@pytest.mark.parametrize(
    ("words", "dest", "value"),
    [
        (["--views", "7"], "views", 7),
        (["--out", "other"], "out", Path("other")),
        (["--no-sidecar"], "sidecar", False),
        (["--verify"], "no_verify", False),
        (["elsewhere"], "folder", "elsewhere"),
        (["--temperature=3"], "temperature", 3.0),
        ([], "views", 2),
        ([], "sidecar", True),
        ([], "no_verify", True),
    ],
)
def test_the_command_line_wins(words: list[str], dest: str, value: Any, here: Path) -> None:
    text = GIVEN + "views: 2\nsidecar: true\nno_verify: true\ntemperature: 2.0\n"
    assert parsed(text, *words)[dest] == value


def test_what_excludes_another_wins_too(here: Path) -> None:
    found = parsed(GIVEN, "--input", "t.tar")
    assert found["input"] == "t.tar" and found["folder"] is None
    found = parsed("input: t.tar\nout: o\nteacher: tiny\n", "photos")
    assert found["input"] is None and found["folder"] == "photos"


def test_lists(here: Path) -> None:
    text = "model: [a, b]\nwhat: [s]\nas: imagenet-a\nmean: [0.5, 0.5, 0.5]\n"
    found = parsed(text, command="evaluate")
    assert (found["model"], found["what"], found["kinds"]) == (["a", "b"], ["s"], ["imagenet-a"])
    assert found["mean"] == [0.5, 0.5, 0.5]
    found = parsed(text, "t", "--model", "c", command="evaluate")
    assert (found["model"], found["what"], found["kinds"]) == (["c"], ["t"], ["imagenet-a"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("viws: 2", "there is no option viws: did you mean views?"),
        ("sample-per-shard: 2", "did you mean samples_per_shard?"),
        ("zzz: 2", "there is no option zzz, see --help"),
        ("config: x", "there is no option config"),
        ("views: two", "views: 'two': want a whole number of 1 or more"),
        ("views: 0", "want a whole number of 1 or more"),
        ("views: 2.5", "want a whole number of 1 or more"),
        ("views: [2]", "views is [2], want one value"),
        ("views:", "views is None, want one value"),
        ("spec: true", "spec is True, want a text"),
        ("sidecar: 1", "sidecar is 1, want true or false"),
        ("sidecar: 'yes'", "sidecar is 'yes', want true or false"),
        ("select: kmean", "there is no 'kmean': did you mean kmeans?"),
        ("views: 2\nviews: 3", "views is there twice"),
        ("row-order: entropy\nrow_order: entropy", "row_order is there twice, with - and with _"),
        ("input: x", "folder and input: give one of them"),
        ("views: {a: 1}", "want one value"),
        ("part: 5/4", "part '5/4': want K/N"),
        ("!!python/object/apply:os.system [x]", "is no YAML"),
        ("a: [", "is no YAML"),
    ],
)
def test_wrong_files_are_told_in_a_line(text: str, said: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.yaml").write_text(f"{GIVEN}{text}\n")
    with pytest.raises(SystemExit) as stop:
        main(["reinforce", "--config", "c.yaml"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and said in error and "c.yaml" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--config", "none.yaml"], "none.yaml"),
        (["--config", "photos"], "photos"),
        (["--config"], "--config"),
        (["--conf", "c.yaml"], "write --config in full"),
    ],
)
def test_wrong_places_of_files(words: list[str], said: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["reinforce", *words])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and said in error and error.count("\n") == 1


def digests(out: Path) -> dict[str, str]:
    """Of what a data set is, beside its report."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    "words",
    [
        [
            "--views",
            "3",
            "--size",
            "32",
            "--seed",
            "5",
            "--topk",
            "2",
            "--samples-per-shard",
            "3",
            "--row-order",
            "entropy",
        ],
        [
            "--views",
            "2",
            "--spec",
            "own.json",
            "--pool",
            "4",
            "--select",
            "max-entropy",
            "--keep",
            "full",
            "--batch",
            "5",
        ],
        ["--views", "2", "--size", "32", "--probabilities", "float16", "--keep-bytes", "--on-error", "skip"],
    ],
)
def test_the_config_in_a_set_makes_it_again(words: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = AugmentationSpec(size=48, greyscale=0.25)  # no preset
    Path("own.json").write_text(json.dumps(spec.to_json()))
    assert (
        main(["reinforce", "photos", "--out", "first", "--teacher", "tiny", "--quiet", "--device", "cpu", *words]) == 0
    )
    capsys.readouterr()
    assert main(["info", "first", "--config"]) == 0
    text = capsys.readouterr().out
    Path("again.yaml").write_text(text)
    Path("own.json").unlink()  # the config has it whole
    assert main(["reinforce", "--config", "again.yaml", "--out", "second", "--quiet"]) == 0
    assert digests(here / "first") == digests(here / "second") and len(digests(here / "first")) >= 3
    capsys.readouterr()
    assert main(["info", "second", "--config", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == yaml.safe_load(text)
    # Another seed on the command line makes another set.
    assert main(["reinforce", "--config", "again.yaml", "--out", "third", "--seed", "9", "--quiet"]) == 0
    assert digests(here / "first") != digests(here / "third")


def test_the_config_travels_with_the_set(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["reinforce", "photos", "--out", "a", "--teacher", "tiny", "--views", "1", "--size", "32", "--quiet"]) == 0
    )
    assert main(["copy", "a", "b", "--quiet"]) == 0
    assert (here / "a/report/config.yaml").read_bytes() == (here / "b/report/config.yaml").read_bytes()


def test_a_set_is_not_exported_into_itself_and_topk_of_more_than_all_is_told(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--out", "a", "--teacher", "tiny", "--views", "1", "--size", "32", "--topk", "9", "--quiet"]
    assert main(["reinforce", "photos", *words]) == 0
    assert "note: --topk is 9, and the teacher has 6 classes: all are kept\n" in capsys.readouterr().err
    before = digests(here / "a")
    for out in ("a", "a/b"):
        assert main(["export", "ml-dr", "a", out]) == 2
        assert "is the data set that is exported, or in it" in capsys.readouterr().err
    assert digests(here / "a") == before and not (here / "a" / "b").exists()
