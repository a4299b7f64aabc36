"""dali-dr convert of archives and images in stores: the data set of the same files on disk, wherever it is interrupted."""

from __future__ import annotations

import io
import json
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import write_files
from convert_inputs import CLASS_FOLDERS, ml_dr, photos, sizes_of, stored
from stores import Server, s3_server

from dali_dr.cli import main
from dali_dr.convert import fkd
from dali_dr.convert.archives import open_archive
from dali_dr.convert.names import Mirrored
from dali_dr.errors import ShardError
from dali_dr.shards.dataset import Dataset
from dali_dr.shards.verify import verify
from dali_dr.sources import fetched
from dali_dr.sources import remote as remote_module

IMAGES = 12


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with s3_server() as found:
        remote_module.store_of.cache_clear()
        yield found
    remote_module.store_of.cache_clear()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DALI_DR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DALI_DR_WORK", str(tmp_path / "work"))
    return tmp_path / "cache" / "sources"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos(tmp_path_factory.mktemp("images") / "images", IMAGES)


@pytest.fixture(scope="module")
def files(images: Path) -> dict[str, bytes]:
    return ml_dr(sizes_of(images), views=3)


@pytest.fixture(scope="module")
def published(server: Server, images: Path, files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Archives of each kind on disk, and the same in s3://published, with the images."""
    place = tmp_path_factory.mktemp("published")
    stored(files, place / "set", "folder")
    stored(files, place / "set", "tar")
    stored(files, place / "set", "tar.gz")
    client = server.boto3()
    client.create_bucket(Bucket="published")
    for path in (*place.rglob("*"), *images.rglob("*")):
        if path.is_file():
            name = path.relative_to(place if path.is_relative_to(place) else images.parent).as_posix()
            client.put_object(Bucket="published", Key=f"deep/{name}", Body=path.read_bytes())
    return place


def convert(*arguments: object, out: Path | str, status: int = 0) -> None:
    words = ["convert", "ml-dr", *map(str, arguments), "--out", str(out), "--quiet", "--samples-per-shard", "5"]
    assert main(words) == status


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def sha_and_name(folder: Path) -> tuple[str, str]:
    (archive,) = Dataset(folder).manifest.extra["published"]["archives"]
    return archive["sha256"], archive["name"]


@pytest.mark.parametrize("kind", ["set", "set.tar", "set.tar.gz"])
def test_an_archive_in_a_store_makes_the_set_of_one_on_disk(
    server: Server, published: Path, images: Path, tmp_path: Path, kind: str
) -> None:
    url = f"s3://published/deep/{kind}"
    convert(published / kind, "--images", images, out=tmp_path / "local")
    convert(url, "--images", "s3://published/deep/images", out=tmp_path / "remote")
    local, remote = contents(tmp_path / "local"), contents(tmp_path / "remote")
    assert {name for name in local if name.endswith(".tar")} == {f"shard-{n:06d}.tar" for n in range(3)}
    local.pop("dataset.json"), remote.pop("dataset.json")
    assert remote == local
    (local_sha, local_name), (sha, name) = sha_and_name(tmp_path / "local"), sha_and_name(tmp_path / "remote")
    assert (sha, name) == (local_sha, url)
    assert local_name == kind
    assert verify(tmp_path / "remote", progress=False).ok


def test_a_dry_run_says_the_same(
    server: Server, published: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for where, pictures in ((published, images), ("s3://published/deep", "s3://published/deep/images")):
        for kind in ("set", "set.tar.gz"):
            convert(f"{where}/{kind}", "--images", pictures, "--dry-run", "--json", out=tmp_path / "none")
            told = json.loads(capsys.readouterr().out)
            found.append({name: told[name] for name in ("images", "measured", "bytes_per_record", "archives_in_order")})
    assert found[:2] == found[2:]
    assert not (tmp_path / "none" / "dataset.json").exists()


def test_an_archive_of_a_web_server_is_fetched_once_and_goes_on(
    published: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fetched, "_RANGE", 1000)
    monkeypatch.setattr(fetched, "_SYNCED", 2000)
    sent: list[int] = []
    size = (published / "set.tar").stat().st_size

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(size))
            self.send_header("ETag", '"one"')
            self.send_header("Accept-Ranges", "bytes")
            self.end_headers()

        def do_GET(self) -> None:
            begin, end = (int(part) for part in self.headers["Range"].removeprefix("bytes=").split("-"))
            if len(sent) == 20 and not sent.count(-1):
                sent.append(-1)
                self.send_error(403)
                return
            sent.append(begin)
            with (published / "set.tar").open("rb") as file:
                file.seek(begin)
                data = file.read(end + 1 - begin)
            self.send_response(206)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Content-Range", f"bytes {begin}-{begin + len(data) - 1}/{size}")
            self.send_header("ETag", '"one"')
            self.end_headers()
            self.wfile.write(data)

    web = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(published)))
    thread = threading.Thread(target=web.serve_forever, daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{web.server_port}/set.tar"
        convert(url, "--images", images, out=tmp_path / "out", status=1)
        assert url in capsys.readouterr().err
        first = len(sent)
        convert(url, "--images", images, out=tmp_path / "out")
        again = sent[first:]
        assert min(again) >= 6000  # what had come and was noted did not come again
        assert len(set(sent)) <= size // 1000 + 2
        convert(url, "--images", images, out=tmp_path / "second")
        assert sent[first:] == again
    finally:
        web.shutdown()
        thread.join(10)
        web.server_close()
    convert(published / "set.tar", "--images", images, out=tmp_path / "local")
    assert sha_and_name(tmp_path / "out")[0] == sha_and_name(tmp_path / "local")[0]


def test_what_is_wrong_is_told_by_url(
    server: Server, published: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = server.boto3()
    with tarfile.open(tmp_path / "part.tar", "w") as archive:
        for path in sorted((published / "set" / "reinforced_data").iterdir())[:5]:
            archive.add(path, path.name)
    client.upload_file(str(tmp_path / "part.tar"), "published", "wrong/part.tar")
    client.put_object(Bucket="published", Key="wrong/cut.tar.gz", Body=(published / "set.tar.gz").read_bytes()[:-100])
    client.put_object(Bucket="published", Key="wrong/data/dataset.json", Body=b"{}")
    for words, text, status in (
        (("s3://published/wrong/part.tar", "--images", images), "s3://published/wrong/part.tar: ", 2),
        (("s3://published/wrong/cut.tar.gz", "--images", images), "s3://published/wrong/cut.tar.gz: ", 1),
        (("s3://published/nothing", "--images", images), "s3://published/nothing: no such object", 2),
        (("s3://published/deep/set", "--images", "s3://published/wrong/data"), "dali-dr copy", 2),
        (("s3://published/deep/set", "s3://published/deep/set/", "--images", images), "given twice", 2),
        (
            ("s3://published/deep/set", "--images", "s3://published/empty"),
            "s3://published/empty: there are no objects",
            2,
        ),
    ):
        convert(*words, out=tmp_path / "out", status=status)
        told = capsys.readouterr().err
        assert text in told
        assert str(tmp_path / "cache") not in told
    with pytest.raises(SystemExit):
        convert("https://user:hunter2@host/set.tar", "--images", images, out=tmp_path / "out")
    assert "hunter2" not in capsys.readouterr().err


def test_a_file_that_was_changed_stops_the_conversion(
    server: Server, published: Path, images: Path, tmp_path: Path, files: dict[str, bytes]
) -> None:
    from dali_dr.convert.images import Entering
    from dali_dr.convert.opening import Wanted, open_ml_dr

    client = server.boto3()
    for name, data in files.items():
        client.put_object(Bucket="published", Key=f"changing/{name}", Body=data)
    wanted = Wanted(["s3://published/changing"], str(images), tmp_path / "out", entering=Entering(), progress=False)
    conversion = open_ml_dr(wanted)
    client.put_object(Bucket="published", Key="changing/7.pth.tar", Body=files["7.pth.tar"] + b"more")
    with pytest.raises(ShardError, match=r"index 7 .*changing/7\.pth\.tar: cannot be read \(was changed"):
        conversion.write(tmp_path / "out")


def test_a_sidecar_set_beside_tars_that_stay_in_the_store(
    server: Server, published: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = server.boto3()
    local = tmp_path / "set"
    (local / "images").mkdir(parents=True)
    paths = sorted(images.rglob("*.JPEG"), key=lambda path: (path.parent.name, path.name))
    for number in range(2):
        with tarfile.open(local / "images" / f"t-{number}.tar", "w") as archive:
            for path in paths[6 * number : 6 * number + 6]:
                for suffix, data in (
                    ("jpg", path.read_bytes()),
                    ("cls", str(CLASS_FOLDERS.index(path.parent.name)).encode()),
                ):
                    info = tarfile.TarInfo(f"{path.stem}.{suffix}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
        name = f"images/t-{number}.tar"
        client.upload_file(str(local / name), "published", f"sidecar/set/{name}")
    convert(published / "set.tar", "--images", f"{local}/images/t-*.tar", "--sidecar", out=local)
    url = "s3://published/sidecar/set"
    convert("s3://published/deep/set.tar", "--images", f"{url}/images/t-*.tar", "--sidecar", out=url)
    there = {
        entry["Key"].removeprefix("sidecar/set/"): client.get_object(Bucket="published", Key=entry["Key"])[
            "Body"
        ].read()
        for entry in client.list_objects_v2(Bucket="published", Prefix="sidecar/set/")["Contents"]
    }
    here = {path.relative_to(local).as_posix(): path.read_bytes() for path in local.rglob("*") if path.is_file()}
    manifests = json.loads(here.pop("dataset.json")), json.loads(there.pop("dataset.json"))
    assert [manifest["image_tars"] for manifest in manifests] == [
        [{"path": f"images/t-{n}.tar", "bytes": len(here[f"images/t-{n}.tar"])} for n in range(2)]
    ] * 2
    assert there == here
    # Elsewhere no data set can name them.
    client.upload_file(str(local / "images" / "t-0.tar"), "published", "sidecar/beside/t-0.tar")
    client.upload_file(str(local / "images" / "t-1.tar"), "published", "sidecar/beside/t-1.tar")
    for where, out in (
        ("s3://published/sidecar/beside/t-*.tar", "s3://published/sidecar/other"),
        ("s3://published/sidecar/beside/t-*.tar", tmp_path / "other"),
        (f"{local}/images/t-*.tar", "s3://published/sidecar/other"),
    ):
        convert(published / "set.tar", "--images", where, "--sidecar", out=out, status=2)
        assert "cannot stay beside this tar" in capsys.readouterr().err
    assert not [key for key in server.keys("published") if key.startswith("sidecar/other")]


def test_a_folder_of_folders_in_a_store_is_surveyed_as_on_disk(server: Server, tmp_path: Path) -> None:
    """FKD's and ReLabel's files lie in class folders, in any order of names."""
    keys = [f"n{number % 3}/n{number % 3}_{number}" for number in range(9)]
    files = {f"deep/part/{key}.tar": key.encode() * (1 + number) for number, key in enumerate(keys)}
    files |= {"deep/.hidden/n0/n0_0.tar": b"x", "deep/part/.notes": b"y"}
    url, client = server.bucket("soft-labels"), server.boto3()
    write_files(tmp_path / "soft", files)
    for name, data in files.items():
        client.put_object(Bucket="soft-labels", Key=f"soft/{name}", Body=data)
    naming = Mirrored(keys, fkd.SUFFIX)
    here, there = (open_archive(place, naming, progress=False) for place in (tmp_path / "soft", f"{url}/soft"))
    assert there.survey.sha256 == here.survey.sha256
    assert there.survey.numbers.tolist() == here.survey.numbers.tolist()
    assert list(there.rows()) == list(here.rows())
    assert there.facts == here.facts | {"name": "s3://soft-labels/soft"}
