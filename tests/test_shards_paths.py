"""What was opened by a relative path stays open when the working directory changes."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import encode_jpeg, picture, write_files
from test_reinforce import generation

import dali_dr
from dali_dr.reinforce.run import Run
from dali_dr.shards.facts import ImageTars
from dali_dr.shards.index import SampleIndex
from dali_dr.shards.reshape import merge, subset
from dali_dr.shards.verify import verify
from dali_dr.sources import FileList, ImageFolder, WebDatasetTars, open_source

IMAGES = [encode_jpeg(picture(40 + number, 50, number)) for number in range(6)]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a folder, a list and tars of the same six images."""
    home = tmp_path / "home"
    write_files(home, {f"images/c{n % 2}/p{n}.jpg": data for n, data in enumerate(IMAGES)})
    lines = [f"images/c{n % 2}/p{n}.jpg,{n % 2}" for n in range(6)]
    (home / "list.csv").write_text("\n".join(["path,label", *lines]) + "\n")
    for part in range(2):
        with tarfile.open(home / f"t{part}.tar", "w") as archive:
            for number in range(3 * part, 3 * part + 3):
                for name, data in ((f"p{number}.jpg", IMAGES[number]), (f"p{number}.cls", b"%d" % (number % 2))):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(home)
    return home


def leave() -> None:
    os.chdir("../elsewhere")


def stray() -> list[str]:
    """What was written into the other directory by mistake."""
    return [path.name for path in Path().iterdir()]


@pytest.mark.parametrize(
    "opened",
    [
        lambda: open_source("images"),
        lambda: ImageFolder.scan(Path("images")),
        lambda: open_source("list.csv"),
        lambda: FileList([Path(f"images/c{n % 2}/p{n}.jpg") for n in range(6)], list("abcdef"), [0, 1] * 3, ["x", "y"]),
        lambda: open_source("t*.tar"),
        lambda: WebDatasetTars.scan([Path("t0.tar"), Path("t1.tar")]),
    ],
)
def test_sources(opened: Callable[[], Any], home: Path) -> None:
    source = opened()
    leave()
    assert sorted(source.read(number) for number in range(6)) == sorted(IMAGES)


def test_a_data_set(home: Path) -> None:
    samples = [dali_dr.Sample(f"k{n}", data, n % 2) for n, data in enumerate(IMAGES)]
    dali_dr.write_shards(samples, "set", spec=None, num_classes=2, keep_bytes=True, progress=False)
    dataset, index = dali_dr.Dataset("set"), SampleIndex("set/index.bin")
    options: Any = {"device": "cpu", "augment": "rrc", "size": 32, "dtype": "uint8", "num_threads": 1}
    before = dali_dr.ReinforcedIterator("set", batch_size=3, **options)
    leave()
    for one in (dataset, pickle.loads(pickle.dumps(dataset))):
        assert [one.image(number) for number in range(6)] == IMAGES
        assert one.path == home / "set" and one.index_path == index.path == home / "set" / "index.bin"
    for iterator in (before, dali_dr.ReinforcedIterator(dataset, batch_size=3, **options)):
        assert sorted(torch.cat([batch["label"] for (batch,) in iterator]).tolist()) == [0, 0, 0, 1, 1, 1]


def test_links_stay_links(home: Path) -> None:
    """A data set that is reached by a link, which may be turned to another place, is not pinned to where it is now."""
    samples = [dali_dr.Sample("k", IMAGES[0], 0)]
    dali_dr.write_shards(samples, "set", spec=None, num_classes=1, progress=False)
    Path("current").symlink_to("set")
    assert dali_dr.Dataset("current").path == home / "current"
    Path("linked").symlink_to("images")
    assert open_source("linked").root == home / "linked"  # type: ignore[attr-defined]


def test_the_samples_of_a_writer_may_change_the_directory(home: Path) -> None:
    def samples() -> Iterator[dali_dr.Sample]:
        for number, data in enumerate(IMAGES):
            if number == 3:
                leave()
            yield dali_dr.Sample(f"k{number}", data, 0)

    dali_dr.write_shards(samples(), "set", spec=None, num_classes=1, samples_per_shard=2, progress=False)
    assert stray() == [] and len(dali_dr.Dataset(home / "set")) == 6
    assert verify(home / "set", images=True, progress=False).problems == []


@pytest.mark.parametrize("sidecar", [False, True])
def test_a_run_and_what_is_made_of_it(sidecar: bool, home: Path) -> None:
    source = open_source("t*.tar")
    runs = [
        Run(
            source,
            Path(f"set{seed}"),
            generation(num_views=4, seed=seed, num_threads=1, keep_bytes=True),
            6,
            samples_per_shard=2,
            sidecar=sidecar,
            progress=False,
        )
        for seed in (0, 1)
    ]
    # The directory changes between two shards as well.
    runs[0].generation.teacher.members[0].model.register_forward_hook(lambda *_: os.chdir(home.parent / "elsewhere"))
    for run in runs:
        os.chdir(home)
        run.work()
    first, second = dali_dr.Dataset(home / "set0"), dali_dr.Dataset(home / "set1")
    os.chdir(home)
    made = [dali_dr.Dataset("set0"), dali_dr.Dataset("set1")]
    leave()
    assert stray() == []
    subset(made[0], "../home/fewer", views=2, sidecar=sidecar, progress=False)
    merge(*made, "../home/both", sidecar=sidecar, progress=False)
    for name, views in (("set0", 4), ("fewer", 2), ("both", 8)):
        dataset = dali_dr.Dataset(home / name)
        assert [dataset.image(number) for number in range(6)] == IMAGES and dataset.num_views == views
        assert bool(dataset.manifest.image_tars) == sidecar
        assert verify(home / name, images=True, progress=False).problems == []
    assert not np.array_equal(first.reinforcements(0).crop, second.reinforcements(0).crop)


def test_image_tars(home: Path) -> None:
    Run(open_source("t*.tar"), Path("set"), generation(num_views=4), 6, sidecar=True, progress=False).work()
    tars = ImageTars.of(Path("set"), dali_dr.Dataset("set").manifest)
    leave()
    assert tars is not None and tars.find("p4").image.size == len(IMAGES[4])
