"""Sources in a store are what the same files on disk are: images, order, keys, classes, what is left out, and its faults."""

from __future__ import annotations

import csv
import io
import json
import pickle
import subprocess
import sys
import tarfile
import threading
import tracemalloc
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import encode_jpeg, picture, write_files
from stores import Server, s3_server
from test_reinforce import generation

from dali_dr.cli import main
from dali_dr.errors import ShardError
from dali_dr.pack import pack
from dali_dr.reinforce.run import reinforce
from dali_dr.sources import (
    FileList,
    ImageFolder,
    Reading,
    Source,
    WebDatasetTars,
    check_output,
    fetched,
    open_source,
    sizes,
)
from dali_dr.sources import remote as remote_module
from dali_dr.sources.entrance import Entrance
from dali_dr.sources.fetched import Remote
from dali_dr.sources.listing import Listing
from dali_dr.sources.remote import Gone, Unavailable
from dali_dr.sources.source import readers_of, sizes_of
from dali_dr.store.store import Entry

JPEG = encode_jpeg(picture(24, 32, 0))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with s3_server() as found:
        remote_module.store_of.cache_clear()
        yield found
    remote_module.store_of.cache_clear()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test alone."""
    monkeypatch.setenv("DALI_DR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DALI_DR_WORK", str(tmp_path / "work"))
    return tmp_path / "cache" / "sources"


@pytest.fixture
def bucket(server: Server, request: pytest.FixtureRequest) -> str:
    """The URL of an empty bucket."""
    letters = "".join(c if c.isascii() and c.isalnum() else "-" for c in request.node.name.lower())
    return server.bucket(f"b-{letters[-50:].strip('-')}")


def put(server: Server, url: str, data: bytes) -> str:
    name, _, key = url.removeprefix("s3://").partition("/")
    server.boto3().put_object(Bucket=name, Key=key, Body=data)
    return url


def upload(server: Server, folder: Path, url: str) -> str:
    """All files below ``folder``, and marks of its empty folders, as consoles make them."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() and not any(path.iterdir()):
            put(server, f"{url}/{name}/", b"")
        elif path.is_file():
            put(server, f"{url}/{name}", path.read_bytes())
    return url


def photos(folder: Path, count: int = 12, classes: int = 3) -> Path:
    files = {
        f"class{n % classes}/{n:03d}.jpg": encode_jpeg(picture(30 + n, 40, n), quality=80 + n % 9) for n in range(count)
    }
    return write_files(folder, files)


def tar_of(path: Path, count: int, first: int = 0, extra: dict[str, bytes] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        members = dict(extra or {})
        for n in range(first, first + count):
            members |= {f"s{n:04d}.jpg": encode_jpeg(picture(20, 20 + n, n)), f"s{n:04d}.cls": str(n % 3).encode()}
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def expect_same(remote: Source, local: Source, url: str, folder: Path) -> None:
    """Two sources are the same in all that a data set takes of them."""
    assert list(remote.keys) == list(local.keys)
    assert list(map(int, remote.labels)) == list(map(int, local.labels))
    assert list(remote.class_names) == list(local.class_names)
    assert list(remote.notes) == list(local.notes)
    assert sizes_of(remote) == sizes_of(local)
    for number in range(len(local)):
        assert remote.read(number) == local.read(number)
        assert remote.where(number) == local.where(number).replace(str(folder), url)


def test_a_folder_in_a_store_is_the_folder_on_disk(server: Server, bucket: str, tmp_path: Path) -> None:
    names = [
        "b/2.jpg", "b/10.jpg", "b/B.JPG", "b/sub/x.jpeg", "b/sub-1/y.png", "b/sub/deep/z.webp", "b/._hidden.jpg",
        "a b/100%.jpg", "a b/%41.jpg", "a b/plus+1.jpg", "a b/é ü.jpg", "a b/q'uote\".jpg", "a b/a.jpg", "a b/a.png",
        "a b/notes.txt", "a b/Thumbs.db", "a b/noext", "a b/x.bmp", "a b/.DS_Store",
        ".git/c.jpg", "__MACOSX/b/2.jpg", "b/@eaDir/2.jpg", "readme.md", "stray.jpg", "LICENSE", "Ä/one.jpg",
        "B/case.jpg", "called.jpg/inside.jpg", "c#hash/a&b=c.jpg", "c#hash/(1) [2].jpg",
    ]  # fmt: skip
    folder = write_files(tmp_path / "train", {name: JPEG + bytes([n]) for n, name in enumerate(names)})
    (folder / "empty").mkdir()
    (folder / "b" / "also empty").mkdir()
    (folder / "_SUCCESS").write_bytes(b"")  # an empty object without suffix is no folder
    url = upload(server, folder, f"{bucket}/train")
    put(server, f"{url}/", b"")
    put(server, f"{bucket}/train-other/x/not.jpg", JPEG)
    for reading in (Reading(), Reading("sorted", convert=True)):
        remote, local = ImageFolder.scan(f"{url}/", reading), ImageFolder.scan(folder, reading)
        assert len(local) > 15
        assert "empty" in local.class_names
        expect_same(remote, local, url, folder)
    assert readers_of(remote, 8) > readers_of(local, 8) == 8


def test_a_flat_folder_of_imagenets_names(server: Server, bucket: str, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "flat", {f"n0144076{n % 2}_{n}.JPEG": JPEG + bytes([n]) for n in range(5)})
    url = upload(server, folder, f"{bucket}/flat")
    expect_same(open_source(url), open_source(folder), url, folder)


def test_a_packed_set_has_the_bytes_of_one_packed_of_files(server: Server, bucket: str, tmp_path: Path) -> None:
    folder = photos(tmp_path / "images", 70)
    (folder / "class1" / "bad.jpg").write_bytes(b"no image")
    url = upload(server, folder, f"{bucket}/images")
    for name, where in (("local", str(folder)), ("remote", url)):
        words = [
            "pack",
            where,
            "--out",
            str(tmp_path / name),
            "--samples-per-shard",
            "16",
            "--on-error",
            "skip",
            "--quiet",
        ]
        assert main(words) == 0
    local = {path.name: path.read_bytes() for path in (tmp_path / "local").iterdir() if path.is_file()}
    remote = {path.name: path.read_bytes() for path in (tmp_path / "remote").iterdir() if path.is_file()}
    assert len([name for name in local if name.endswith(".tar")]) == 5
    assert remote == local
    skipped = json.loads((tmp_path / "remote" / "report" / "skipped.jsonl").read_text())
    assert skipped["path"] == f"{url}/class1/bad.jpg"
    # A second run compares: what was changed in the store since is told, as of files.
    put(server, f"{url}/class0/000.jpg", encode_jpeg(picture(50, 50, 99)))
    with pytest.raises(ShardError, match="class0/000"):
        pack(open_source(url), tmp_path / "remote", samples_per_shard=16, on_error="skip", progress=False)


def test_reinforcing_images_in_a_store_makes_the_set_of_files(server: Server, bucket: str, tmp_path: Path) -> None:
    folder = photos(tmp_path / "images", 7)
    url = upload(server, folder, f"{bucket}/images")
    for name, where in (("local", folder), ("remote", url)):
        made = generation(num_views=2, num_threads=1, batch_views=4)
        options: Any = {"num_classes": 6, "samples_per_shard": 3, "progress": False}
        reinforce(open_source(where), tmp_path / name, made, **options)
    local = {path.name: path.read_bytes() for path in (tmp_path / "local").iterdir() if path.is_file()}
    remote = {path.name: path.read_bytes() for path in (tmp_path / "remote").iterdir() if path.is_file()}
    assert len([name for name in local if name.endswith(".tar")]) == 3
    assert remote == local


class FakeStore:
    """A store of names and sizes alone."""

    def __init__(self, entries: list[Entry]) -> None:
        self.entries = entries

    def list(self, prefix: str = "") -> Iterator[Entry]:
        return (entry for entry in self.entries if entry.name.startswith(prefix))

    def head(self, name: str) -> Entry | None:
        return next((entry for entry in self.entries if entry.name == name and not name.endswith("/")), None)


def scan_fake(names: list[str], monkeypatch: pytest.MonkeyPatch) -> ImageFolder:
    from dali_dr.sources import folder

    store = FakeStore([Entry(name, 0 if name.endswith("/") else 7, "tag") for name in names])
    monkeypatch.setattr(folder, "store_of", lambda url: store)
    return ImageFolder.scan("s3://bucket/train")


def test_names_that_no_file_can_have_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = ["../up.jpg", "/abs/a.jpg", "a//b.jpg", "a/../b.jpg", "a/./c.jpg", "a/..", "a/n\0l.jpg", "//"]
    source = scan_fake(["", "a/", "a/1.jpg", "a/new\nline.jpg", "a/\x1b[31m.jpg", "b/", *hostile], monkeypatch)
    assert source.files == ["a/\x1b[31m.jpg", "a/1.jpg", "a/new\nline.jpg"]
    assert source.class_names == ["a", "b"]
    assert len(set(source.keys)) == 3
    assert all(key.isprintable() for key in source.keys)
    (note,) = [note for note in source.notes if "no file can have" in note]
    assert note.startswith(f"left out: {len(hostile)} objects")
    assert "\0" not in note


def test_a_listing_of_100_000_objects_takes_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    class Many(FakeStore):
        def list(self, prefix: str = "") -> Iterator[Entry]:
            return (Entry(f"n{n % 500:08d}/n{n % 500:08d}_{n}.JPEG", 110_000 + n, "0" * 34) for n in range(count))

    count = 20_000
    tracemalloc.start()
    try:
        listing = Listing("s3://bucket/train", Many([]))  # type: ignore[arg-type]
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert used < 150 * count, f"{used / count:.0f} bytes an object"
    count = 100_000
    from dali_dr.sources import folder

    monkeypatch.setattr(folder, "store_of", lambda url: Many([]))
    source = ImageFolder.scan("s3://bucket/train", Reading("sorted"))
    assert len(source) == 100_000
    assert source.size(0) == 110_000
    assert len(pickle.dumps(source)) < 9e6
    assert bool(listing)


def test_tars_in_a_store_are_the_tars_on_disk(server: Server, bucket: str, tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "tars"
    for n in range(3):
        tar_of(folder / f"t-{n:03d}.tar", 4, 4 * n, {"README": b"x", f"alone{n}.txt": b"y"})
    url = upload(server, folder, f"{bucket}/deep/tars")
    local = open_source(f"{folder}/t-*.tar")
    assert isinstance(local, WebDatasetTars)
    for pattern in ("t-{000..002}.tar", "t-*.tar", "t-00[0-2].tar", f"t-000.tar::{url}/t-001.tar::{url}/t-002.tar"):
        remote = open_source(f"{url}/{pattern}")
        assert isinstance(remote, WebDatasetTars)
        assert remote.members.tolist() == local.members.tolist()
        assert remote.keys == local.keys
    expect_same(remote, local, url, folder)
    mixed = open_source(f"{url}/t-000.tar::{folder}/t-001.tar")
    assert mixed.keys == [f"s{n:04d}" for n in range(8)]
    assert mixed.read(7) == local.read(7)
    assert open_source(f"{bucket}/**/t-000.tar").keys == [f"s{n:04d}" for n in range(4)]
    # Without what was fetched, an image is a request.
    for path in cache.rglob("t-*.tar"):
        path.unlink()
    assert [remote.read(n) for n in range(12)] == [local.read(n) for n in range(12)]
    assert not list(cache.rglob("t-*.tar"))
    with pytest.raises(ShardError, match=r"no object matches"):
        open_source(f"{url}/none-*.tar")
    with pytest.raises(ShardError, match=r"t-003\.tar: no such object"):
        open_source(f"{url}/t-{{000..003}}.tar")


def test_errors_in_what_was_fetched_name_the_url(server: Server, bucket: str, tmp_path: Path) -> None:
    bad = tar_of(tmp_path / "bad.tar", 2, extra={"nolabel.jpg": JPEG})
    url = put(server, f"{bucket}/bad.tar", bad.read_bytes())
    broken = put(server, f"{bucket}/broken.tar", b"x" * 2048)
    zipped = put(server, f"{bucket}/z.tar", b"\x1f\x8b" + bytes(600))
    rows = put(server, f"{bucket}/bad.csv", b"path,label\n,1\n")
    table = put(server, f"{bucket}/bad.parquet", b"PAR1 no table at all")
    for place, text in (
        (url, "nolabel"),
        (broken, "not a readable tar"),
        (zipped, "gzip"),
        (rows, "line 2"),
        (table, "table"),
    ):
        with pytest.raises(ShardError, match=text) as caught:
            open_source(place)
        assert place in str(caught.value)
        assert str(tmp_path) not in str(caught.value)


def test_a_tar_that_was_changed_is_told(server: Server, bucket: str, tmp_path: Path, cache: Path) -> None:
    url = put(server, f"{bucket}/t.tar", tar_of(tmp_path / "a.tar", 3).read_bytes())
    source = open_source(url)
    put(server, url, tar_of(tmp_path / "b.tar", 3, 5).read_bytes())
    assert source.read(0)  # of what was fetched
    for path in cache.rglob("t.tar"):
        path.unlink()
    with pytest.raises(ShardError, match=r"t\.tar: was changed"):
        source.read(0)
    assert open_source(url).keys == ["s0005", "s0006", "s0007"]


def test_lists_and_tables_in_stores(server: Server, bucket: str, tmp_path: Path) -> None:
    folder = photos(tmp_path / "images", 6)
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))
    rows = [{"path": f"images/{path}", "label": path.split("/")[0]} for path in paths]
    url = upload(server, folder, f"{bucket}/data/images").removesuffix("/images")
    for name, write in (("l.csv", _csv), ("l.jsonl", _jsonl), ("l.parquet", _parquet)):
        (tmp_path / name).write_bytes(write(rows))
        there = put(server, f"{url}/{name}", write(rows))
        expect_same(open_source(there), open_source(tmp_path / name), url, tmp_path)
        # A list here of images there.
        (tmp_path / f"far-{name}").write_bytes(write([row | {"path": f"{url}/{row['path']}"} for row in rows]))
        far = open_source(tmp_path / f"far-{name}")
        assert isinstance(far, FileList)
        assert far.read(3) == (folder / paths[3]).read_bytes()
        assert far.keys[0] == f"{url}/{rows[0]['path']}".removeprefix("s3://").removesuffix(".jpg")
        assert sizes_of(far) == [(folder / path).stat().st_size for path in paths]
    put(server, f"{url}/up.csv", _csv([{"path": "../../../../etc/passwd", "label": "1", "key": "k"}]))
    with pytest.raises(ShardError, match="leads out of the bucket"):
        open_source(f"{url}/up.csv")
    put(server, f"{url}/secret.csv", _csv([{"path": "https://user:hunter2@host/a.jpg", "label": "1"}]))
    with pytest.raises(ShardError, match="line 2") as caught:
        open_source(f"{url}/secret.csv")
    assert "hunter2" not in str(caught.value)
    images = [
        {"image": {"bytes": (folder / path).read_bytes(), "path": None}, "label": n % 2} for n, path in enumerate(paths)
    ]
    (tmp_path / "images.parquet").write_bytes(_parquet(images))
    there = put(server, f"{url}/images.parquet", _parquet(images))
    expect_same(open_source(there), open_source(tmp_path / "images.parquet"), url, tmp_path)
    put(server, f"{url}/classes.txt", b"class2\nclass1\nclass0\n")
    (tmp_path / "classes.txt").write_bytes(b"class2\nclass1\nclass0\n")
    remote = ImageFolder.scan(f"{url}/images", Reading(classes=f"{url}/classes.txt"))
    local = ImageFolder.scan(folder, Reading(classes=tmp_path / "classes.txt"))
    assert remote.labels == local.labels
    assert remote.notes == tuple(note.replace(str(tmp_path), url) for note in local.notes)


def test_sizes_of_a_list_take_few_requests(
    server: Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"many/{n:03d}.jpg": bytes(n + 1) for n in range(40)} | {"few/a.jpg": bytes(7), "few/b.jpg": bytes(9)}
    url = upload(server, write_files(tmp_path / "images", files), f"{bucket}/images")
    # Of a folder in which most are not wanted, the rest is asked for one by one; one is not there.
    monkeypatch.setattr(sizes, "_PAGE", -800)
    rows = [{"path": f"{url}/{name}", "label": "0"} for name in (*files, "many/none.jpg")]
    (tmp_path / "list.csv").write_bytes(_csv(rows))
    source = open_source(tmp_path / "list.csv")
    before = remote_module.store_of(bucket).traffic.requests
    assert sizes_of(source) == [*map(len, files.values()), -1]
    assert remote_module.store_of(bucket).traffic.requests - before < 30
    with pytest.raises(Gone):
        source.read(len(files))


def _csv(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()


def _jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def test_tars_and_lists_of_a_web_server(tmp_path: Path) -> None:
    web = tmp_path / "web"
    tar_of(web / "t 0.tar", 3)
    tar_of(web / "t-1.tar", 3, 3)
    photos(web / "images", 3)
    (web / "list.csv").write_bytes(_csv([{"path": f"images/class{n}/00{n}.jpg", "label": str(n)} for n in range(3)]))

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(web)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        tars = open_source(f"{url}/t-1.tar")
        assert [tars.read(n) for n in range(3)] == [open_source(web / "t-1.tar").read(n) for n in range(3)]
        listed = open_source(f"{url}/list.csv")
        assert listed.read(2) == (web / "images/class2/002.jpg").read_bytes()
        assert sizes_of(listed) == sizes_of(open_source(web / "list.csv"))
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


def test_sources_are_read_in_other_processes(server: Server, bucket: str, tmp_path: Path) -> None:
    """A pickle of each kind of source, here and there, read by another process, elsewhere."""
    pa = pytest.importorskip("pyarrow")
    folder = photos(tmp_path / "images", 6)
    tar_of(tmp_path / "t.tar", 4)
    rows = [{"path": f"class0/{n:03d}.jpg", "label": "0"} for n in (0, 3)]
    (folder / "list.csv").write_bytes(_csv(rows))
    table = [{"image": {"bytes": JPEG + bytes([n]), "path": None}, "label": n % 2} for n in range(5)]
    (tmp_path / "images.parquet").write_bytes(_parquet(table))
    saved = tmp_path / "saved"
    saved.mkdir()
    with pa.OSFile(str(saved / "data.arrow"), "wb") as sink:
        made = pa.Table.from_pylist(table)
        with pa.ipc.new_stream(sink, made.schema) as writer:
            writer.write_table(made)
    (saved / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}], "_split": "train"}))
    (saved / "dataset_info.json").write_text("{}")
    url = upload(server, folder, f"{bucket}/images")
    put(server, f"{bucket}/t.tar", (tmp_path / "t.tar").read_bytes())
    put(server, f"{bucket}/images.parquet", (tmp_path / "images.parquet").read_bytes())
    places = [folder, folder / "list.csv", tmp_path / "t.tar", tmp_path / "images.parquet", f"hf:{saved}:train"]
    places += [url, f"{url}/list.csv", f"{bucket}/t.tar", f"{bucket}/images.parquet"]
    sources = [open_source(str(place)) for place in places]
    for source in sources:
        source.read(0)  # what a source has open or keeps does not travel
    wanted = [
        [(source.read(n), source.keys[n], int(source.labels[n])) for n in range(len(source))] for source in sources
    ]
    data = [pickle.dumps(source) for source in sources]
    assert max(map(len, data)) < 10_000
    code = (
        "import os, pickle, sys\n"
        "sys.path.insert(0, sys.argv[1]); os.environ['DALI_DR_CACHE'] = sys.argv[2]\n"
        "found = [pickle.loads(one) for one in pickle.load(sys.stdin.buffer)]\n"
        "read = [[(s.read(n), s.keys[n], int(s.labels[n])) for n in range(len(s))] for s in found]\n"
        "sys.stdout.buffer.write(pickle.dumps(read))\n"
    )
    root = str(Path(__file__).resolve().parent.parent)
    ran = subprocess.run(
        [sys.executable, "-c", code, root, str(tmp_path / "cache of another")],
        input=pickle.dumps(data), stdout=subprocess.PIPE, check=True, timeout=60, cwd="/",
    )  # fmt: skip
    assert pickle.loads(ran.stdout) == wanted


def test_what_is_wrong_with_an_image_and_what_with_the_store(
    server: Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = upload(server, photos(tmp_path / "images", 6), f"{bucket}/images")
    source = ImageFolder.scan(url)
    gone, changed = source.files[1], source.files[2]
    server.boto3().delete_object(Bucket=bucket.removeprefix("s3://"), Key=f"images/{gone}")
    put(server, f"{url}/{changed}", JPEG)
    with pytest.raises(Gone, match="not there any more"):
        source.read(1)
    with pytest.raises(Gone, match="was changed"):
        source.read(2)
    words = ["pack", url, "--out", str(tmp_path / "out"), "--on-error", "skip", "--quiet"]
    packed = pack(source, tmp_path / "out", on_error="skip", progress=False)
    assert [one.key for one in packed.refused] == [source.keys[1], source.keys[2]]
    assert f"{url}/{gone}" in packed.refused[0].reason + packed.refused[0].path
    # A store that is not there is no fault of the images, none of which is left out for it.
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("DALI_DR_STORE_RETRY_S", "0.2")
    remote_module.store_of.cache_clear()
    try:
        with pytest.raises(Unavailable):
            source.read(0)
        with pytest.raises(Unavailable):
            Entrance(source, None).read(0)  # type: ignore[arg-type]
        with pytest.raises(Unavailable):
            pack(source, tmp_path / "other", on_error="skip", progress=False)
        assert not (tmp_path / "other" / "dataset.json").exists()
        assert main(words) != 0
    finally:
        remote_module.store_of.cache_clear()


def test_a_fetch_goes_on_where_it_stopped(
    server: Server, bucket: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytes(range(256)) * 4000
    url = put(server, f"{bucket}/big.bin", data)
    monkeypatch.setattr(fetched, "_RANGE", 100_000)
    monkeypatch.setattr(fetched, "_SYNCED", 200_000)
    asked: list[int] = []
    asleep = [True]
    real = fetched.read_part

    def broken(url: str, begin: int, size: int, *, length: int) -> bytes:
        asked.append(begin)
        if begin >= 700_000 and asleep:
            raise Unavailable("the store sleeps")
        return real(url, begin, size, length=length)

    monkeypatch.setattr(fetched, "read_part", broken)
    with pytest.raises(Unavailable):
        Remote.look(url).local()
    (part,) = cache.rglob(".part")
    asked.clear()
    asleep.clear()
    assert Remote.look(url).local().read_bytes() == data
    assert min(asked) >= 400_000
    assert not part.exists()
    asked.clear()
    assert Remote.look(url).local().read_bytes() == data
    assert not asked
    # A changed object is another, and what there was of the first does not get into it.
    put(server, url, data[::-1])
    assert Remote.look(url).local().read_bytes() == data[::-1]


def test_an_object_that_changes_while_it_is_fetched(
    server: Server, bucket: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = put(server, f"{bucket}/big.bin", bytes(500_000))
    monkeypatch.setattr(fetched, "_RANGE", 100_000)
    real = fetched.read_part

    def changing(url: str, begin: int, size: int, *, length: int) -> bytes:
        if begin == 300_000:
            put(server, url, b"\1" * 500_000)
        return real(url, begin, size, length=length)

    monkeypatch.setattr(fetched, "read_part", changing)
    with pytest.raises(ShardError, match=r"big\.bin: was changed while"):
        Remote.look(url).local()
    assert not [path for path in cache.rglob("*") if path.is_file() and path.name != ".lock"]


def test_the_cache_is_bounded_and_spares_what_is_in_use(
    server: Server, bucket: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DALI_DR_SOURCES_BYTES", "250000")
    files = [Remote.look(put(server, f"{bucket}/{n}.bin", bytes([n]) * 100_000)) for n in range(5)]
    assert files[0].local(keep=True).read_bytes() == bytes(100_000)
    for file in files[1:]:
        assert file.local(keep=False).stat().st_size == 100_000
        assert sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()) <= 250_000
    assert files[0].path.exists()
    assert not files[1].path.exists()
    assert files[4].path.exists()
    monkeypatch.setattr(fetched.shutil, "disk_usage", lambda _: fetched.shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]
    with pytest.raises(ShardError, match="free space, or set DALI_DR_CACHE"):
        files[1].local()


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("s3://b/a/b c%20#.tar".replace("#", "+"), "s3://b"),
        ("https://host:80/x.tar", "https://host:80"),
        ("hf://datasets/o/n/a/b", "hf://datasets/o/n"),
        ("hf://o/n@v1/a", "hf://o/n@v1"),
        ("hf://datasets/o/n@refs/pr/3/a/b", "hf://datasets/o/n@refs/pr/3"),
    ],
)
def test_buckets_and_names(url: str, root: str) -> None:
    assert remote_module.split(url) == (root, url.removeprefix(f"{root}/"))
    with pytest.raises(ShardError, match="names no object"):
        remote_module.split(root)


def test_a_tag_is_the_same_with_quotes_and_without() -> None:
    assert Remote("az://c/a.tar", 3, '"0x8D"') == Remote("az://c/a.tar", 3, "0x8D") != Remote("az://c/a.tar", 3, "0x8E")


def test_an_output_in_the_folder_of_images(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="lies in the folder of images"):
        check_output("s3://b/train/", "s3://b/train/out")
    with pytest.raises(ShardError, match="is the folder of images itself"):
        check_output("s3://b/train", "s3://b/train/")
    check_output("s3://b/train", "s3://b/train-2")
    check_output("s3://b/train", tmp_path)
    check_output(tmp_path, "s3://b/train")
    check_output("s3://b/t-*.tar", "s3://b/t")
    with pytest.raises(ShardError, match="lies in the folder of images"):
        check_output(tmp_path, tmp_path / "out")


_FETCHING = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from dali_dr.sources import fetched
fetched._RANGE, fetched._SYNCED = 50_000, 100_000
real = fetched.read_part
def slow(*arguments, **more):
    os.write(1, b"asked\\n")  # whole: several threads ask at once
    time.sleep(float(sys.argv[3]))
    return real(*arguments, **more)
fetched.read_part = slow
path = fetched.Remote.look(sys.argv[2]).local(progress=False)
print("bytes", path.stat().st_size, sum(path.read_bytes()), flush=True)
"""


def fetching(url: str, seconds: float) -> subprocess.Popen[str]:
    root = str(Path(__file__).resolve().parent.parent)
    words = [sys.executable, "-c", _FETCHING, root, url, str(seconds)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def test_processes_fetch_an_object_once_and_go_on_after_a_kill(server: Server, bucket: str, cache: Path) -> None:
    data = bytes(range(256)) * 8000
    url = put(server, f"{bucket}/big.bin", data)
    pieces = -(-len(data) // 50_000)
    told = f"bytes {len(data)} {sum(data)}"
    killed = fetching(url, 0.05)
    assert killed.stdout is not None
    for _ in range(pieces // 2):
        assert killed.stdout.readline() == "asked\n"
    killed.kill()
    killed.communicate(timeout=30)
    assert list(cache.rglob(".part"))
    both = [fetching(url, 0.01) for _ in range(2)]
    try:
        lines = [process.communicate(timeout=60)[0].splitlines() for process in both]
    finally:
        for process in both:
            process.kill()
    assert [line[-1] for line in lines] == [told, told]
    asked = sum(line.count("asked") for line in lines)
    assert min(line.count("asked") for line in lines) == 0
    assert pieces // 2 - 12 <= asked <= pieces // 2 + 12
    assert sorted(path.name for path in cache.rglob("*") if path.is_file()) == [".lock", "big.bin"]
