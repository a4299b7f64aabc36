"""What type checkers, `help` and `dir` know of the public names: a user's script passes, and misspelt names are told."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import json
import os
import pydoc
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from conftest import REPOSITORY, encode_jpeg, picture
from test_iterator import make_dataset

import dali_dr
from dali_dr.integrations import DALIClassificationIterator
from dali_dr.integrations.dali import ClassificationBatch, MeasuredBatch
from dali_dr.loader.batches import Batch, DenseBatch, IndexedBatch
from dali_dr.loader.options import GROUPS, DenseTargets, Options

SCRIPTS = ("right.py", "wrong.py", "kinds.py")
SCRIPT = REPOSITORY / "tests" / "user_script.py"

# A line that is wrong -> the name that is in what each checker says of it (pyright does not always repeat it).
WRONG = {
    "dali_dr.nothing": "nothing",
    "from dali_dr import ReinforcedItrator": "ReinforcedItrator",
    "dali_dr.losses.kl_divergense": "kl_divergense",
    'dali_dr.ReinforcedIterator("x", batchsize=3)': "batchsize",
    'dali_dr.ReinforcedIterator("x", batch_size=3, ordr="global")': "ordr",
    'dali_dr.ReinforcedIterator("x", batch_size=3, order="globel")': "",
    'dali_dr.ReinforcedIterator("x", batch_size=3, targets="soft")': "",
    'dali_dr.ReinforcedIterator("x", batch_size="3")': "",
    "loader.set_epok(3)": "set_epok",
    'next(loader)[0]["soft_id"]': "soft_id",
    'next(dense)[0]["soft_ids"]': "soft_ids",
    "pairs.load_state(3)": "load_state",
    "next(pairs)[0].shap": "shap",
    'dali_dr.evaluate("x", ["y"], kind="own")': "kind",
    'dali_dr.reinforce("x", "y", generation, num_class=3)': "num_class",
    'dali_dr.reinforce("x", "y", generation, num_classes=3, topk=4)': "topk",
    'dali_dr.write_shards([], "x", spec=None, num_clases=3)': "num_clases",
    'dali_dr.Dataset("x", cash="y")': "cash",
    "dataset.reinforcement(0)": "reinforcement",
    'next(stock)[0]["targets"]': "targets",
    'next(both)[0]["target"]': "target",
    'DALI("x", batch_size=3, targets="bot")': "",
    "next(stock).data": "data",
    "next(named).pixel_values": "pixel_values",
}
BEFORE = """
import dali_dr
from dali_dr.integrations import DALIClassificationIterator as DALI
from dali_dr.integrations import hugging_face_loader
generation: dali_dr.Generation
dataset = dali_dr.Dataset("x")
loader = dali_dr.ReinforcedIterator(dataset, batch_size=3)
dense = dali_dr.ReinforcedIterator(dataset, batch_size=3, targets="dense")
pairs = dali_dr.ReinforcedIterator(dataset, batch_size=3, as_tuples=True)
stock = DALI("x", batch_size=3)
both = DALI("x", batch_size=3, targets="both")
named = hugging_face_loader("x", batch_size=3)
def f(generation: dali_dr.Generation) -> None:
"""


# What is iterated over -> what pyright says that it yields.
KINDS = {
    "batch_size=3": "list[Batch]",
    "batch_size=3, with_index=True": "list[IndexedBatch]",
    'batch_size=3, targets="top1"': "list[DenseBatch]",
    "batch_size=3, as_tuples=True": "tuple[Tensor, Tensor]",
    "batch_size=3, show=None, as_tuples=bool(input())": "Any",
}
# The same of what stands in for others' iterators.
STANDINS = {
    'integrations.DALIClassificationIterator("x", batch_size=3)': "list[ClassificationBatch]",
    'integrations.DALIClassificationIterator("x", batch_size=3, targets="label")': "list[ClassificationBatch]",
    'integrations.DALIClassificationIterator("x", batch_size=3, targets="both")': "list[MeasuredBatch]",
    'integrations.hugging_face_loader("x", batch_size=3)': "dict[str, Tensor]",
}
PARTS = """
import torch
it = dali_dr.ReinforcedIterator("x", batch_size=3)
torch.utils.data.DataLoader(it.dataset, batch_sampler=it.batch_sampler, collate_fn=it.collate_fn)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder elsewhere with the script, and one that is wrong in every line of WRONG."""
    folder = tmp_path_factory.mktemp("user")
    shutil.copy(SCRIPT, folder / "right.py")
    (folder / "wrong.py").write_text(BEFORE + "".join(f"    {line}\n" for line in WRONG))
    kinds = [f'reveal_type(next(dali_dr.ReinforcedIterator("x", {options})))\n' for options in KINDS]
    kinds += [f"reveal_type(next(dali_dr.{one}))\n" for one in STANDINS]
    (folder / "kinds.py").write_text("import dali_dr\n" + "".join(kinds) + PARTS)
    return folder


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run([sys.executable, "-m", *command], cwd=folder, env=env, capture_output=True, text=True)


def by_mypy(folder: Path) -> dict[str, dict[int, str]]:
    done = run(folder, "mypy", "--strict", "-O", "json", "--cache-dir", ".cache", "right.py", "wrong.py")
    found: dict[str, dict[int, str]] = {"right.py": {}, "wrong.py": {}}
    for line in done.stdout.splitlines():
        if line.startswith("{") and (said := json.loads(line))["severity"] == "error":
            found[said["file"]][said["line"]] = found[said["file"]].get(said["line"], "") + said["message"]
    assert done.returncode == 1, done.stdout[-2000:] + done.stderr
    return found


def by_pyright(folder: Path) -> dict[str, dict[int, str]]:
    if importlib.util.find_spec("pyright") is None:
        pytest.skip("pyright is not installed: pip install '.[test]'")
    done = run(folder, "pyright", "--pythonpath", sys.executable, "--outputjson", *SCRIPTS)
    try:
        report = json.loads(done.stdout[done.stdout.index("{") :])
    except ValueError:
        pytest.skip(f"pyright does not run here; it wants Node.js: {(done.stderr or done.stdout)[-300:]}")
    found: dict[str, dict[int, str]] = {name: {} for name in SCRIPTS}
    for one in report["generalDiagnostics"]:
        name, line = Path(one["file"]).name, one["range"]["start"]["line"] + 1
        if one["severity"] == "error" or name == "kinds.py":
            found[name][line] = found[name].get(line, "") + one["message"]
    return found


@pytest.mark.parametrize("checker", [by_mypy, by_pyright])
def test_a_users_script_is_clean_and_misspelt_names_are_told(folder: Path, checker: Any) -> None:
    found = checker(folder)
    assert found["right.py"] == {}
    assert 55 <= len((folder / "right.py").read_text().splitlines()) <= 70
    lines = (folder / "wrong.py").read_text().splitlines()
    first = len(lines) - len(WRONG) + 1
    told = {line: found["wrong.py"].get(first + n, "") for n, line in enumerate(WRONG)}
    assert [line for line, text in told.items() if not text] == []
    # Of a call with overloads pyright says only that none of them fits.
    assert [line for line, text in told.items() if WRONG[line] not in text and "No overloads for" not in text] == []
    assert set(found["wrong.py"]) <= set(range(first, len(lines) + 1))
    if checker is by_pyright:  # and nothing against a DataLoader of the iterator's parts
        shown = [re.findall('is "([^"]*)"$', text)[0] for text in found["kinds.py"].values()]
        assert shown == [*KINDS.values(), *STANDINS.values()]


@pytest.mark.parametrize(
    ("targets", "kind"),
    [
        (None, ClassificationBatch),
        ("teacher", ClassificationBatch),
        ("label", ClassificationBatch),
        ("both", MeasuredBatch),
    ],
)
def test_batches_of_dalis_kind_hold_what_their_types_say(tmp_path: Path, targets: Any, kind: Any) -> None:
    data = make_dataset(tmp_path / "set", [encode_jpeg(picture(40, 50, i)) for i in range(2)])
    (batch,) = next(DALIClassificationIterator(data, batch_size=2, device="cpu", num_threads=1, targets=targets))
    assert set(batch) == kind.__required_keys__ == set(get_type_hints(kind)) and type(batch) is dict
    assert all(isinstance(value, torch.Tensor) for value in batch.values())


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, Batch),
        ({"augment": "rrc"}, Batch),
        ({"with_index": True}, IndexedBatch),
        *(
            ({"targets": name}, DenseBatch) for name in get_args(DenseTargets) if name != "full"
        ),  # wants all classes stored
        ({"targets": "dense", "with_index": True}, DenseBatch),
    ],
)
def test_batches_hold_what_their_types_say(tmp_path: Path, options: dict[str, Any], kind: Any) -> None:
    data = make_dataset(tmp_path / "set", [encode_jpeg(picture(40, 50, i)) for i in range(2)])
    loader: Any = dali_dr.ReinforcedIterator(data, batch_size=2, device="cpu", num_threads=1, **options)
    (batch,) = next(loader)
    assert kind.__required_keys__ <= set(batch) <= kind.__required_keys__ | kind.__optional_keys__
    assert all(isinstance(batch[name], torch.Tensor) for name in batch)
    assert set(get_type_hints(kind)) == kind.__required_keys__ | kind.__optional_keys__
    assert type(batch) is dict


def test_dir_lists_the_public_names_and_imports_nothing() -> None:
    code = "import sys, dali_dr; print(*dir(dali_dr)); print(*sys.modules)"
    names, modules = (
        set(line.split())
        for line in subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY
        ).stdout.splitlines()
    )
    assert {name for name in names if not name.startswith("__")} == set(dali_dr.__all__)
    assert not modules & {"torch", "nvidia", "numpy", "timm", "torchvision"}


def test_every_public_name_is_there_documented_and_has_a_line_in_help() -> None:
    lines = dict(re.findall(r"^  (\w+): (.+)$", dali_dr.__doc__ or "", re.M))
    assert set(lines) == set(dali_dr.__all__)
    help_text = pydoc.render_doc(dali_dr, renderer=pydoc.plaintext)  # type: ignore[arg-type]
    for name, line in lines.items():
        assert f"{name}: {line}" in help_text
        assert inspect.getdoc(getattr(dali_dr, name)), name
    exported = re.findall(r" as (\w+)$", (REPOSITORY / "dali_dr" / "__init__.py").read_text(), re.M)
    assert sorted(exported) == dali_dr.__all__  # what checkers see


def test_a_misspelt_name_is_told_the_one_that_it_is_near_to() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'ReinforcedItrator': did you mean ReinforcedIterator\b"):
        _ = dali_dr.ReinforcedItrator  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match=r"no attribute 'zzz'$"):
        _ = dali_dr.zzz  # type: ignore[attr-defined]
    assert not hasattr(dali_dr, "__wrapped__")


def test_a_misspelt_argument_is_told_the_one_that_it_is_near_to(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "set", [encode_jpeg(picture(40, 50, 0))])
    make: Any = dali_dr.ReinforcedIterator
    for wrong, near in (("batchsize", "batch_size"), ("schedul", "schedule"), ("num_thread", "num_threads")):
        with pytest.raises(TypeError, match=rf"no argument '{wrong}'; did you mean {near}\?"):
            make(data, device="cpu", **{wrong: 2})
    with pytest.raises(TypeError, match="wants batch_size"):
        make(data, device="cpu")
    with pytest.raises(TypeError, match=r"reinforce has no argument 'on_eror': did you mean on_error\?"):
        dali_dr.reinforce("x", "y", None, num_classes=3, on_eror="skip")  # type: ignore[call-arg, arg-type]


def test_the_signature_names_every_argument_with_its_default() -> None:
    found = inspect.signature(dali_dr.ReinforcedIterator).parameters
    assert set(found) == {"dataset", "batch_size", "show", "schedule", "machine", *Options.__annotations__}
    for kind in GROUPS:
        for field in dataclasses.fields(kind):
            assert found[field.name].default == field.default and found[field.name].annotation
    assert found["batch_size"].default is found["dataset"].default is inspect.Parameter.empty
    assert list(inspect.signature(dali_dr.reinforce).parameters)[:3] == ["source", "out", "generation"]
    assert "kinds" in str(inspect.signature(importlib.import_module("dali_dr.evaluate.run").evaluations))


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("ReinforcedIterator", ("Args", "Show", "Schedule", "Machine", "Faults", "Words of DALI", "Raises")),
        ("Dataset", ("Args", "Stores", "Attributes", "Raises")),
        (
            "write_shards",
            ("Args", "What the manifest says", "How it is stored", "Images", "Going on", "Returns", "Raises"),
        ),
        ("reinforce", ("Args", "Machines", "Data set", "Returns", "Raises")),
    ],
)
def test_help_begins_with_an_example_and_groups_all_options(name: str, groups: tuple[str, ...]) -> None:
    thing = getattr(dali_dr, name)
    function = importlib.import_module("dali_dr.reinforce.engine").reinforce if name == "reinforce" else thing
    text = inspect.getdoc(function) or ""
    assert tuple(re.findall(r"^(\w[\w ]*):$", text, re.M)) == groups
    before, _, _ = text.partition("\nArgs:")
    code = "\n".join(line[4:] for line in before.split("\n") if line.startswith("    "))
    assert text.split("\n\n")[1].startswith("    "), "an example comes right after the first line"
    compile(code, name, "exec")
    said = {one for line in re.findall(r"^  ([\w, ]+):", text, re.M) for one in line.split(", ")}
    options = set(inspect.signature(function).parameters) - {"options"}
    assert options <= said, options - said
    assert code.splitlines()[0] in pydoc.render_doc(thing, renderer=pydoc.plaintext)


def test_types_are_shipped() -> None:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "py.typed" in settings["package-data"]["dali_dr"] and (REPOSITORY / "dali_dr" / "py.typed").is_file()
    # Else setuptools makes editable installs by an import hook, and neither checker finds the package (tried with 80).
    assert settings["package-dir"] == {"": "."}
