"""Every fenced block of the documentation is run, in a small world of the folders that pages name.

A page's Python and shell blocks run in their order, in one process and one folder that has copies of what the page
names; JSON and YAML are parsed, and augmentations in them made; a diff is applied to the Python block before it, and what
comes of it is run. What cannot be run is said in a comment before the block, with the reason, and there are few.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY
from fake_hub import fake_hub
from markdown_it import MarkdownIt
from pages.blocks import Block, blocks, diffed, well_formed
from pages.world import World
from stores import s3_server

PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", "bench/**/*.md", "schemas/**/*.md")
    for path in REPOSITORY.glob(pattern)
    if path.name != "CHANGELOG.md"
)
NAMES = [str(path.relative_to(REPOSITORY)) for path in PAGES]
ONLY_PARSED = {
    "README.md": "clones this repository, builds it and runs this very test",
    "docs/fuzzing.md": "takes minutes of two cores, a clang and instrumented libraries; test_fuzz_wiring.py holds its targets",
    "docs/gpu.md:make gpu-proof": "wants a GPU; test_gpu_proof.py runs its parts without",
    "docs/gpu.md:bench/gpu_pack.sh": "wants wheels of DALI for another machine, half a gigabyte of them, and nvcc",
    "docs/migration/ffcv.md": "imports FFCV, which is built from source with OpenCV and has no wheels for this Python",
}
"""Blocks that are parsed and not run, by page, and a word of the block where there are two; and why they cannot be run."""
SECONDS = 600


def with_code(path: Path) -> bool:
    return "```" in path.read_text() or "~~~" in path.read_text()


RUN = [name for name, path in zip(NAMES, PAGES, strict=True) if with_code(path)]
SLOW = [name for name in RUN if "page: slow" in (REPOSITORY / name).read_text()]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The folders that pages name, an S3 service and a Hub."""
    with s3_server(), fake_hub() as hub:
        made = World(tmp_path_factory.mktemp("world"))
        made.hub = hub
        try:
            yield made
        finally:
            made.close()


def run(world: World, name: str, folder: Path, slow: bool) -> list[dict[str, Any]]:
    """Runs a page in a folder; what came of each of its blocks."""
    page = REPOSITORY / name
    text = "\n".join(block.text for block in blocks(page))
    world.hub.repos.clear()
    world.give(text, folder)
    if "s3://" in text:
        world.upload(text)
    report = folder / ".report"
    done = subprocess.run(
        [world.bin / "page", page, report, "slow" if slow else "quick"],
        cwd=folder,
        env=world.environment(folder),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    lines = [json.loads(line) for line in report.read_text().splitlines()] if report.exists() else []
    assert done.returncode == 0 and len(lines) == len(blocks(page)), (
        f"{name}: the process ended after {len(lines)} blocks\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    )
    return lines


@pytest.mark.parametrize("name", RUN)
def test_a_page_runs(world: World, name: str, tmp_path: Path) -> None:
    check(name, run(world, name, tmp_path, slow=False))


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_a_page_runs_with_its_slow_blocks(world: World, name: str, tmp_path: Path) -> None:
    check(name, run(world, name, tmp_path, slow=True))


def check(name: str, lines: list[dict[str, Any]]) -> None:
    for line in lines:
        print(f"{name}:{line['line']}: {line['language']}: {line['how']} {line['seconds']} s {line['why'][:200]}")
    failed = [f"{name}:{line['line']}: {line['why']}" for line in lines if line["how"] == "failed"]
    assert not failed, "\n\n".join(failed)


def test_few_blocks_are_only_parsed(capsys: pytest.CaptureFixture[str]) -> None:
    """And those that another test runs are named there."""
    found = [block for path in PAGES for block in blocks(path) if block.language != "text"]
    parsed = [block for block in found if "compile" in block.orders]
    elsewhere = [block for block in found if "run by" in block.orders]
    with capsys.disabled():
        print(
            f"\n{len(found)} blocks: {len(found) - len(parsed) - len(elsewhere)} run here, {len(elsewhere)} by tests ",
            end="",
        )
        print(f"of their own, {len(parsed)} only parsed:")
        for block in parsed:
            print(f"  {block.page.relative_to(REPOSITORY)}:{block.line}: {block.orders['compile']}")
    for block in elsewhere:
        test = REPOSITORY / block.orders["run by"]
        text = test.read_text() if test.is_file() else ""
        named = block.page.name in text or f'diffs("{block.page.stem}")' in text
        assert named, f"{block.where}: {test} does not name the page"
    said = {name: name.partition(":") for name in ONLY_PARSED}
    for block in parsed:
        page = str(block.page.relative_to(REPOSITORY))
        assert [name for name, (of, _, word) in said.items() if of == page and word in block.text], block.where
    assert len(parsed) == len(ONLY_PARSED)


def in_prose() -> list[tuple[str, str]]:
    """Options in inline code, and where."""
    found = []
    for path, name in zip(PAGES, NAMES, strict=True):
        for token in MarkdownIt().parse(path.read_text()):
            for part in token.children or ():
                if part.type == "code_inline":
                    found += [(option, name) for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9_-]+", part.content)]
    return found


OF_OTHERS = frozenset(
    {
        *("--no-build-isolation", "--index-url"),  # pip
        *("--nproc-per-node", "--shm-size"),  # torchrun, docker
        *("--smoothing", "--use_fp16", "--soft_label_type"),  # timm's train.py, FKD's scripts
        "--data_loader",  # DALI's example
        *("--kd-model-name", "--model-dtype", "--torchcompile", "--sync-bn"),  # timm's and torchvision's train.py
    }
)
"""Options that prose names and that are not of this repository."""


def test_options_in_prose_exist() -> None:
    """In `dali-dr`, in a script of this repository, or in one of those that the integrations stand in for."""
    from dali_dr.cli import make_parser

    known = set(OF_OTHERS)
    parsers = [make_parser()]
    while parsers:
        parser = parsers.pop()
        known |= {option for action in parser._actions for option in action.option_strings}
        switches = {option[2:] for action in parser._actions if action.nargs == 0 for option in action.option_strings}
        known |= {f"--{name[3:] if name.startswith('no-') else f'no-{name}'}" for name in switches}  # beside --config
        if parser._subparsers:
            parsers += parser._subparsers._group_actions[0].choices.values()  # type: ignore[union-attr]
    for folder in ("examples", "bench", "csrc/fuzz", "tests/fuzz"):
        for script in (REPOSITORY / folder).rglob("*"):
            if script.suffix in (".py", ".sh"):
                known |= set(re.findall(r"(?<![\w-])--[a-z][a-z0-9_-]+", script.read_text()))
    stood_in = [
        *(REPOSITORY / "dali_dr" / "integrations").glob("*.py"),
        *(REPOSITORY / "tests" / "miniatures").glob("*.py"),
    ]
    known |= {f"--{name.replace('_', '-')}" for file in stood_in for name in re.findall(r"\w+", file.read_text())}
    unknown = sorted({(option, page) for option, page in in_prose() if option not in known})
    assert not unknown, unknown


def test_a_tree_of_files_names_those_that_are_there() -> None:
    """The map of the rooms in docs/design.md."""
    (tree,) = [block for block in blocks(REPOSITORY / "docs" / "design.md") if block.text.startswith("csrc/\n")]
    root, seen = REPOSITORY, 0
    for line in tree.text.splitlines():
        if not line.startswith(" "):
            root = REPOSITORY / line.strip()
        elif names := re.match(r"  ((?:[\w.]+(?:/|\.py|\.h):?\s+|[\w.]+(?:/|\.py|\.h):?$)+)", line + " "):
            for name in names[1].replace(":", "").split():
                assert (root / name).exists(), f"docs/design.md: {root.name}/{name} is not there"
                seen += 1
    assert seen > 30


def test_a_block_without_a_language_is_an_error(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    for text, said in (
        ("```\nx\n```\n", "a.md:1: a block of no language"),
        ("text\n\n    indented\n", "a.md:3: a block of no language"),
        ("<!-- page: compile -->\n```python\nx\n```\n", "a.md:2: compile: say why"),
        ("<!-- page: ignore: x -->\n```python\nx\n```\n", "no such order"),
        ("<!-- page: slow -->\n\ntext\n\n```python\nx\n```\n", "does not follow"),
    ):
        page.write_text(text)
        with pytest.raises(ValueError, match=re.escape(said)):
            blocks(page)


def test_a_diff_is_applied_as_patch_applies_it(tmp_path: Path) -> None:
    before = "".join(f"line {number}\n" for number in range(30))
    after = before.replace("line 3\n", "new 3\nnewer\n").replace("line 20\n", "")
    (tmp_path / "a").write_text(before)
    (tmp_path / "b").write_text(after)
    diff = subprocess.run(["diff", "-U1", "a", "b"], cwd=tmp_path, capture_output=True, text=True).stdout
    block = Block(tmp_path / "x.md", 1, "diff", diff, {})
    assert diffed(before, block) == after
    well_formed(block)
    with pytest.raises(ValueError, match="a hunk before"):
        well_formed(Block(tmp_path / "x.md", 1, "diff", diff + " one more\n", {}))
    with pytest.raises(ValueError, match="'line 3' where the block before it has 'line three'"):
        diffed(before.replace("line 3\n", "line three\n"), block)


def test_what_is_wrong_on_a_page_fails(world: World, tmp_path: Path) -> None:
    """A changed option, name of a function or member of a spec; by the page and the line."""
    page = tmp_path / "wrong.md"
    text = "```sh\ndali-dr pack photos --out p --oot x\n```\n\n```python\nx = 1\ndali_dr.ReinforcedIterater('photos')\n```\n"
    text += "\n<!-- page: compile: a reason -->\n```sh\ndali-dr pack … --views 3\n```\n"
    text += '\n```json\n{"size": 224, "crop": {"scale": [0, 1]}}\n```\n'
    text += "\n```yaml\nmodel: resnet50\nepoch: 3\n```\n\n```yaml\nteacher: resnet50\nview: 3\n```\n"
    text += "\n```console\n$ dali-dr pack nowhere --out p\nwhatever it says\n```\n"
    text += "\n```python\na = 1\n```\n\n```diff\n@@ -1,1 +1,1 @@\n-b = 1\n+b = 2\n```\n"
    page.write_text(text)
    folder = tmp_path / "folder"
    folder.mkdir()
    lines = run(world, str(page), folder, slow=False)
    assert [line["how"] for line in lines] == ["failed"] * 7 + ["run", "failed"]
    said = [line["why"] for line in lines]
    assert "there is no option --oot" in said[0]
    assert said[1].startswith("line 7 of the page: AttributeError") and "ReinforcedIterater" in said[1]
    assert "pack has no option --views" in said[2]
    assert "crop" in said[3] or "interpolation" in said[3]
    assert "train_timm.py has no option epoch" in said[4] and "reinforce has no option view" in said[5]
    assert "nowhere is not a folder" in said[6]
    assert "the diff has 'b = 1' where the block before it has 'a = 1'" in said[8]
