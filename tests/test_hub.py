"""hf://: the real huggingface_hub against a server that speaks the Hub's API; data cards."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from copied_sets import NAMES, label_maps, plain, reinforced, tree
from fake_hub import READER, WRITER, FakeHub, fake_hub
from PIL import Image

import dali_dr
from dali_dr.cli import main
from dali_dr.copying import card as card_module
from dali_dr.copying import targets as copy_targets
from dali_dr.errors import ShardError
from dali_dr.shards.verify import verify
from dali_dr.store.hub import Hub, Repository
from dali_dr.store.opening import open_store
from dali_dr.store.url import MissingError, StoreError

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
CARD, SHEET = "README.md", "contact_sheet.png"
SECRET = "secretsignature"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    from huggingface_hub import constants

    monkeypatch.setenv("DALI_DR_STORE_RETRY_S", "5")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent/token")
    with fake_hub() as found:
        yield found


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reinforced(tmp_path_factory.mktemp("source") / "set")


def data_of(hub: FakeHub, name: str = "o/n") -> dict[str, bytes]:
    """The files of the newest commit without the card."""
    return {path: data for path, data in hub.files(name).items() if path not in (CARD, SHEET)}


def pushed(src: Path | str, dst: str = "hf://o/n", **options: Any) -> Any:
    return dali_dr.push(src, dst, progress=False, **{"pictures": False, **options})


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("hf://o/n", ("o/n", "main", "")),
        ("hf://datasets/o/n", ("o/n", "main", "")),
        ("hf://datasets/o/n@v1/a/b", ("o/n", "v1", "a/b")),
        ("hf://o/n@refs/pr/7/a", ("o/n", "refs/pr/7", "a")),
        ("hf://o/n@refs%2Fpr%2F7", ("o/n", "refs/pr/7", "")),
    ],
)
def test_urls(url: str, expected: tuple[str, str, str]) -> None:
    assert Repository.of(url) == Repository(*expected)
    assert isinstance(open_store(url), Hub)


@pytest.mark.parametrize(
    "url", ["hf://o", "hf://datasets/o", "hf://models/o/n", "hf://spaces/o/n", "hf://o/n@", "hf://o/../x"]
)
def test_urls_that_name_no_repository(url: str) -> None:
    with pytest.raises(StoreError, match="repositor"):
        Repository.of(url)


def test_a_store_as_any_other(hub: FakeHub, tmp_path: Path) -> None:
    hub.create("o/n")
    large, small = random.Random(0).randbytes(3 << 20), b"text"
    hub.commit("o/n", {"f/a.tar": large, "f/b.json": small, "f/g/c.bin": b"", "other.txt": b"x"}, [])
    store = pickle.loads(pickle.dumps(Hub("hf://o/n/f")))
    assert [(one.name, one.bytes) for one in store.list()] == [("a.tar", len(large)), ("b.json", 4), ("g/c.bin", 0)]
    assert [one.name for one in store.list("g/")] == ["g/c.bin"] and list(store.list("none/")) == []
    assert [len(list(Hub("hf://o/n").list())), store.head("none"), store.head("b.json").bytes] == [5, None, 4]
    assert store.read("a.tar") == large and store.read("a.tar", 100, 7) == large[100:107]
    assert store.read("b.json", 1) == b"ext" and store.read("g/c.bin") == b"" and store.read("b.json", 1, 0) == b""
    with pytest.raises(StoreError, match="ends at byte 4, before 9"):
        store.read("b.json", 0, 9)
    with pytest.raises(StoreError, match="more than the 1,000"):
        store.read("a.tar", limit=1000)
    with pytest.raises(MissingError):
        store.read("none")
    seen: list[int] = []
    assert store.download("a.tar", tmp_path / "a", expect=len(large), step=seen.append).bytes == len(large)
    assert (tmp_path / "a").read_bytes() == large and sum(seen) == len(large)
    with pytest.raises(StoreError, match="not 5"):
        store.download("b.json", tmp_path / "b", expect=5)
    assert store.put("b.json", b"new", create=True) is False and store.put("c.json", b"new", create=True) is True
    assert store.put("b.json", b"newer") is True and store.read("b.json") == b"newer"
    store.remove("b.json")
    store.remove("b.json")
    assert set(hub.files("o/n")) == {"f/a.tar", "f/g/c.bin", "f/c.json", "other.txt"}
    with pytest.raises(StoreError, match="no name"):
        store.put("../x", b"")


def test_a_reader_sees_one_commit(hub: FakeHub) -> None:
    hub.create("o/n")
    hub.commit("o/n", {"a": b"1", "b": b"1"}, [])
    store = Hub("hf://o/n")
    assert store.read("a") == b"1"
    hub.commit("o/n", {"a": b"22", "b": b"22"}, [])
    assert store.read("b") == b"1" and Hub("hf://o/n").read("b") == b"22"


def test_there_and_back(hub: FakeHub, source: Path, tmp_path: Path) -> None:
    first = pushed(source, private=True)
    assert data_of(hub) == tree(source) and hub.repos["o/n"].private
    commits = len(hub.repos["o/n"].commits)
    assert commits == 2  # the repository's own, and one
    again = pushed(source)
    assert (again.bytes, again.kept) == (0, first.objects) and len(hub.repos["o/n"].commits) == commits
    assert main(["copy", "hf://datasets/o/n", str(tmp_path / "back"), "--quiet"]) == 0
    assert tree(tmp_path / "back") == tree(source)
    assert verify(tmp_path / "back", progress=False).ok


def test_copy_to_the_hub_makes_a_private_repository_with_a_card(hub: FakeHub, source: Path) -> None:
    dali_dr.copy(source, "hf://o/n/folder", progress=False)
    assert hub.repos["o/n"].private
    assert {path for path in hub.files("o/n") if "/report/" not in path} == {
        f"folder/{name}" for name in [*tree(source), CARD, SHEET] if "report" not in name
    }


def test_many_files_are_a_few_commits_and_the_last_one_has_the_manifest(
    hub: FakeHub, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy_targets, "COMMIT_FILES", 4)
    pushed(source, jobs=1)
    states = [set(files) - {".gitattributes"} for _, files in hub.repos["o/n"].commits]
    assert 3 <= len(states) <= 5
    assert all("dataset.json" not in state for state in states[:-1]) and "dataset.json" in states[-1]
    assert ".copy.json" in states[1] and ".copy.json" not in states[-1]
    assert data_of(hub) == tree(source)


def test_kills_and_the_same_command_ends_it(hub: FakeHub, tmp_path: Path) -> None:
    source = reinforced(tmp_path / "set", images=12, per_shard=1)
    code = (
        "import sys; from dali_dr.copying import targets as copy_targets; copy_targets.COMMIT_FILES = 6\n"
        "from dali_dr.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "push", str(source), "hf://o/n", "--quiet", "--no-pictures", "--jobs", "2"]
    rng, kills, status = random.Random(2), 0, -1
    while status != 0 and kills < 12:
        until = len(hub.requests) + rng.randint(14, 30)
        child = subprocess.Popen(command, stderr=subprocess.PIPE)
        end = time.monotonic() + 60
        while child.poll() is None and time.monotonic() < end:
            if len(hub.requests) >= until:
                child.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        try:
            _, told = child.communicate(timeout=120)
        finally:
            child.kill()
        status = child.returncode
        assert status in (0, -signal.SIGKILL), told.decode()
        kills += status != 0
    assert kills >= 3 and status == 0
    assert data_of(hub) == tree(source)
    uploads = [path for method, path in hub.requests if method == "PUT"]
    assert len(uploads) <= len(set(uploads)) + 2 * kills  # what was there is not sent again


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_passes_is_tried_again(status: int, hub: FakeHub, source: Path, tmp_path: Path) -> None:
    left = {"/preupload/": 1, "/commit/": 1, "/lfs/": 1, "/tree/": 1, "/resolve/": 2, "/paths-info/": 1, "/cdn/": 1}

    def fault(method: str, path: str) -> int | None:
        for part in left:
            if part in path and left[part]:
                left[part] -= 1
                return status
        return None

    hub.headers, hub.fault = {"Retry-After": "0"}, fault
    pushed(source)
    dali_dr.copy("hf://o/n", tmp_path / "back", progress=False)
    assert not any(left.values())
    assert data_of(hub) == tree(source) == tree(tmp_path / "back")


def test_a_transfer_that_breaks_goes_on(hub: FakeHub, source: Path, tmp_path: Path) -> None:
    pushed(source)
    left = [5]

    def cut(method: str, path: str) -> str | None:
        if ("/cdn/" in path or path.endswith("dataset.json")) and method == "GET" and left[0]:
            left[0] -= 1
            return "cut"
        return None

    hub.fault = cut
    dali_dr.copy("hf://o/n", tmp_path / "back", progress=False)
    assert left == [0] and tree(tmp_path / "back") == tree(source)


def test_a_changed_byte_is_an_error(hub: FakeHub, source: Path, tmp_path: Path) -> None:
    pushed(source)
    name = "shard-000002.tar"
    data = bytearray(hub.files("o/n")[name])
    data[5000] ^= 1
    hub.commit("o/n", {name: bytes(data)}, [])
    with pytest.raises(ShardError, match=name):
        dali_dr.copy("hf://o/n", tmp_path / "back", progress=False)
    assert not (tmp_path / "back" / "dataset.json").exists() and not (tmp_path / "back" / name).exists()
    assert pushed(source, recheck=True).bytes > 0
    assert data_of(hub) == tree(source)


def test_others_that_commit_meanwhile(hub: FakeHub, source: Path) -> None:
    hub.create("o/n")
    others = iter(range(2))

    def meanwhile(method: str, path: str) -> None:
        if "/preupload/" in path and (number := next(others, None)) is not None:
            hub.commit("o/n", {f"other-{number}.txt": b"x"}, [])

    hub.fault = meanwhile
    pushed(source)
    assert tree(source).items() <= hub.files("o/n").items() and {"other-0.txt", "other-1.txt"} <= set(hub.files("o/n"))


def test_another_set_that_is_copied_to_the_same_place_is_refused(hub: FakeHub, source: Path, tmp_path: Path) -> None:
    other = reinforced(tmp_path / "other", seed=1)
    hub.create("o/n")
    theirs = {name: tree(other)[name] for name in ("shard-000000.tar", "shard-000000.idx")}
    done = [False]

    def meanwhile(method: str, path: str) -> None:
        if "/preupload/" in path and not done[0]:
            done[0] = True
            hub.commit("o/n", theirs | {".copy.json": b'{"copy_of": "sha256:00"}'}, [])

    hub.fault = meanwhile
    with pytest.raises(ShardError, match="is there with other bytes"):
        pushed(source)
    assert data_of(hub) == theirs | {".copy.json": b'{"copy_of": "sha256:00"}'}


@pytest.mark.parametrize(
    ("token", "words"),
    [("hf_wrongtoken000000000000000000000", "HF_TOKEN"), (READER, "may write"), (None, "HF_TOKEN")],
)
def test_tokens(token: str | None, words: str, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent/token")
    with fake_hub(token) as hub:
        for made in (False, True):
            if made:
                hub.create("o/n")
            with pytest.raises(StoreError, match=words) as error:
                pushed(source)
            assert "hf_" not in str(error.value) and error.value.__cause__ is None


def test_errors_are_one_line_without_secrets(
    hub: FakeHub, source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    os.environ["DALI_DR_STORE_RETRY_S"] = "0"
    logging.getLogger("huggingface_hub").addHandler(caplog.handler)
    assert main(["copy", "hf://o/none", str(tmp_path / "x"), "--quiet"]) == 2
    hub.fault = lambda method, path: 503 if method == "PUT" else None
    from huggingface_hub.utils import _http

    before, _http.time.sleep = _http.time.sleep, lambda seconds: None
    try:
        assert main(["push", str(source), "hf://o/n", "--quiet", "--no-pictures"]) == 1
    finally:
        _http.time.sleep = before
        logging.getLogger("huggingface_hub").removeHandler(caplog.handler)
    told = "".join(capfd.readouterr())
    assert "503 thrown while requesting PUT" in caplog.text  # by the library, of a signed URL
    for text in (told, caplog.text):
        assert WRITER not in text and SECRET not in text and "Traceback" not in text
    assert [line.startswith("dali-dr: hf://o/") for line in told.splitlines() if line.startswith("dali-dr")] == [
        True
    ] * 2


def front_of(text: bytes) -> Any:
    return yaml.safe_load(text.decode().split("---\n")[1])


def test_the_card(hub: FakeHub, source: Path) -> None:
    pushed(source, license="cc-by-4.0", name='A "set": of #1', pictures=True)
    text = hub.files("o/n")[CARD]
    assert front_of(text) == {
        "license": "cc-by-4.0",
        "pretty_name": 'A "set": of #1',
        "task_categories": ["image-classification"],
        "size_categories": ["n<1K"],
        "tags": ["dali_dr", "webdataset", "knowledge-distillation", "dataset-reinforcement"],
    }
    body = text.decode()
    for words in (
        "12 images of 5 classes",
        "each with 4 stored",
        "tiny\\_a",
        "tiny\\|b",
        "RandAugment: 2",
        "hf://datasets/o/n",
    ):
        assert words in body
    assert "<b>" not in body and NAMES[4] not in body  # classes' names do nothing
    sheet = Image.open(io.BytesIO(hub.files("o/n")[SHEET]))
    assert sheet.format == "PNG" and sheet.width > 1000 and "](./contact_sheet.png)" in body
    before = dict(hub.files("o/n"))
    hub.repos.clear()
    pushed(source, license="cc-by-4.0", name='A "set": of #1', pictures=True)
    assert hub.files("o/n") == before  # to the byte
    code = body.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")


def test_a_set_in_a_store_goes_to_the_hub_with_the_same_card(
    hub: FakeHub, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed(source, pictures=True)
    before = dict(hub.files("o/n"))
    monkeypatch.setenv("DALI_DR_CACHE", str(tmp_path / "cache"))
    dali_dr.copy("hf://o/n", "hf://o/n2", progress=False)
    after = {
        name: data.replace(b"hf://datasets/o/n2", b"hf://datasets/o/n") for name, data in hub.files("o/n2").items()
    }
    named = {name: data for name, data in after.items() if name != CARD}
    assert named == {name: data for name, data in before.items() if name != CARD}
    assert before[CARD].split(b"<!--")[0] == after[CARD].split(b"<!--")[0].replace(b'"n2"', b'"n"').replace(
        b"# n2", b"# n"
    )
    assert not (tmp_path / "cache").exists()  # of the user
    read = dali_dr.Dataset("hf://o/n2", cache=tmp_path / "mine")
    assert [read.image(n) for n in range(len(read))] == [dali_dr.Dataset(source).image(n) for n in range(len(read))]


@pytest.mark.parametrize("make", [plain, label_maps])
def test_cards_of_other_sets(make: Any, hub: FakeHub, tmp_path: Path) -> None:
    pushed(make(tmp_path / "set"), pictures=True)
    text = hub.files("o/n")[CARD].decode()
    assert ("label maps" in text) == (make is label_maps) and ('augment="rrc"' in text) == (make is plain)
    assert "## Views" not in text and Image.open(io.BytesIO(hub.files("o/n")[SHEET])).height > 200
    assert data_of(hub) == tree(tmp_path / "set")


def test_a_readme_of_the_user_stays(hub: FakeHub, source: Path, caplog: pytest.LogCaptureFixture) -> None:
    hub.create("o/n")
    hub.commit("o/n", {CARD: b"# mine\n"}, [])
    pushed(source, pictures=True)
    assert hub.files("o/n")[CARD] == b"# mine\n" and "--force-card" in caplog.text and SHEET not in hub.files("o/n")
    pushed(source, force_card=True)
    ours = hub.files("o/n")[CARD]
    assert card_module.is_ours(ours)
    pushed(source, license="mit")  # ours is replaced
    assert front_of(hub.files("o/n")[CARD])["license"] == "mit"
    edited = hub.files("o/n")[CARD].replace(b"# n", b"# N")
    hub.commit("o/n", {CARD: edited}, [])
    pushed(source)
    assert hub.files("o/n")[CARD] == edited


def test_push_goes_to_the_hub_alone(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="for other stores and folders there is copy"):
        pushed(source, str(tmp_path / "x"))


def test_a_set_that_is_not_finished_makes_no_repository(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    with pytest.raises(ShardError, match="holds no data set"):
        pushed(tmp_path / "set")
    assert hub.repos == {}


def test_without_huggingface_hub_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(StoreError, match=r"pip install 'dali_dr\[hub\]'"):
        list(Hub("hf://o/n").list())


def test_json_of_the_command(hub: FakeHub, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(source), "hf://o/n", "--quiet", "--no-pictures", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["bytes"] == figures["total_bytes"] > sum(len(data) for data in tree(source).values())
