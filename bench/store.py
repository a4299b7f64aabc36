"""What training from a store costs: warm against a folder, cold against the link, and how often each shard is fetched.

    python bench/store.py [--data PHOTOS] [--rounds 5] [--latency 0.05] [--bandwidth 200e6] [--dir DIR] [--json FILE]

The store is bench/store_server.py, a light S3 of a folder behind a link of that latency and bandwidth, on this machine, so its
processor time is taken from the loader's. Printed are

- warm: epochs of the folder and of the same set from a warm cache in turn; the median of the pairs' ratios;
- cold, asked: a windowed epoch into an empty cache, by a consumer that asks for batches as the loader does and decodes nothing:
  bytes of all shards / seconds / bandwidth;
- cold, trained: the same by the loader, whose views are decoded and replayed, over a link (--slow) that decoding outruns;
- shared: two processes, ranks 0 and 1 of 2, with one empty cache: requests per shard, counted by the server.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from store_server import running
from throughput import machine

BATCH, WINDOW, SIZE = 64, 2048, 224
BUCKET = "bench"

_RANK = """
import sys
import dali_dr
rank, url, cache = int(sys.argv[1]), sys.argv[2], sys.argv[3]
data = dali_dr.Dataset(url, cache=cache)
loader = dali_dr.ReinforcedIterator(data, batch_size=64, device="cpu", num_threads=1, order="windowed", rank=rank, world_size=2)
for _ in loader:
    pass
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of photos; default: the demo's")
    parser.add_argument("--images", type=int, default=3200, help="of the photos, repeated (default %(default)s)")
    parser.add_argument("--shard", type=int, default=200, help="images of a shard (default %(default)s)")
    parser.add_argument(
        "--gigabytes", type=float, default=2.0, help="of the set that is asked for (default %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds (default %(default)s)")
    parser.add_argument("--bandwidth", type=float, default=200e6, help="bytes a second (default %(default)s)")
    parser.add_argument("--slow", type=float, default=20e6, help="the same for what is trained (default %(default)s)")
    parser.add_argument("--dir", type=Path, help="where to write; default: a temporary folder")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dali-dr-store-", dir=options.dir) as folder:
        scratch = Path(folder)
        photos, large = photo_set(options, scratch), large_set(options, scratch)
        results = {
            "warm": warm(options, scratch, photos),
            "cold, asked": asked(options, scratch, large),
            "cold, trained": trained(options, scratch, photos),
            "shared": shared(options, scratch, photos),
        }
    settings = {k: v for k, v in vars(options).items() if k not in ("json", "dir", "data")}
    report = {"machine": machine(), "obstore": version("obstore"), "settings": settings, "results": results}
    print(f"{report['machine']['cpu']}, {report['machine']['cores']} cores; a store on the same machine")
    print(f"warm cache / folder          {results['warm']['ratio']:.3f}   {results['warm']['rounds']}")
    for name in ("cold, asked", "cold, trained"):
        print(f"{name:15} / bandwidth  {results[name]['ratio']:.3f}   {results[name]['rounds']}")
    print(f"requests per shard by two processes: {results['shared']['requests']}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def version(package: str) -> str:
    from importlib import metadata

    return metadata.version(package)


def photo_set(options: argparse.Namespace, scratch: Path) -> Path:
    """The photos with one drawn crop each, as often as it takes."""
    from data_sets import drawn, folder_images, write

    data = options.data
    if data is None:
        sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
        from demo import collect_photos

        data = scratch / "collected"
        collect_photos(data)
    spec, samples = drawn("rrc", folder_images(data), None, 1000, views=4)
    out = scratch / BUCKET / "photos"
    repeated = [
        dataclasses.replace(samples[i % len(samples)], key=f"{i:06d}") for i in range(options.images)
    ]  # as many of each
    write(spec, repeated, 1000, out, samples_per_shard=options.shard)
    return out


def large_set(options: argparse.Namespace, scratch: Path) -> Path:
    """Images without views whose bytes are random, in shards of 64 MB."""
    from orders import samples

    from dali_dr import write_shards

    out = scratch / BUCKET / "large"
    kilobytes = 100
    asked_for = argparse.Namespace(samples=int(options.gigabytes * 1e6 / kilobytes), kilobytes=kilobytes)
    write_shards(
        samples(asked_for), out, spec=None, num_classes=2, samples_per_shard=640, keep_bytes=True, progress=False
    )
    return out


def url_of(folder: Path) -> str:
    return f"s3://{BUCKET}/{folder.name}"


def loader(dataset: Any, **options: Any) -> Any:
    from dali_dr import ReinforcedIterator

    return ReinforcedIterator(
        dataset, batch_size=BATCH, device="cpu", size=SIZE, order="windowed", window=WINDOW, dtype="uint8", **options
    )


def epoch(iterator: Any) -> float:
    """Seconds of an epoch."""
    begin = time.perf_counter()
    for _ in iterator:
        pass
    return time.perf_counter() - begin


def warm(options: argparse.Namespace, scratch: Path, folder: Path) -> dict[str, Any]:
    """Images a second from a warm cache, divided by those from the folder."""
    from dali_dr import Dataset

    with running(scratch) as server:
        os.environ.update(server.environment)
        far, near = loader(Dataset(url_of(folder), cache=scratch / "warm")), loader(Dataset(folder))
        for iterator in (far, near, far, near):  # shards come, pages are read
            epoch(iterator)
        far.stats()
        pairs = []
        for number in range(options.rounds):
            order = (far, near) if number % 2 else (near, far)
            seconds = {id(iterator): epoch(iterator) for iterator in order}
            pairs.append(seconds[id(near)] / seconds[id(far)])
        stats = far.stats()["store"]
    assert stats["shards"] == 0, "the cache was not warm"
    return {"ratio": round(statistics.median(pairs), 4), "rounds": [round(p, 4) for p in pairs], "store": stats}


def asked(options: argparse.Namespace, scratch: Path, folder: Path) -> dict[str, Any]:
    """Of the bandwidth, by a consumer that decodes nothing."""
    from dali_dr import Dataset
    from dali_dr.loader.supply import Supply
    from dali_dr.sampling.choice import Choice
    from dali_dr.sampling.order import Windowed
    from dali_dr.sampling.sampler import Sampler, Shape

    def one(number: int) -> tuple[float, dict[str, Any]]:
        data = Dataset(url_of(folder), cache=scratch / f"asked-{number}")
        order = Windowed(tuple(shard.samples for shard in data.manifest.shards), 0, WINDOW)
        sampler = Sampler(order, Choice(0), lambda epoch, begin: Shape(BATCH, (SIZE, SIZE)))
        begin = time.perf_counter()
        supply = Supply(data, sampler, streams=True, mixing=False, ahead=2, skip=False, progress=False)
        for share in sampler.run():
            if share.epoch:
                break
            supply.need(share)
            supply.passed(share)
        seconds = time.perf_counter() - begin
        stats = supply.stats()
        supply.close()
        return stats["bytes"] / seconds / options.bandwidth, stats

    return rounds_of(options, scratch, one, options.bandwidth)


def trained(options: argparse.Namespace, scratch: Path, folder: Path) -> dict[str, Any]:
    """Of a slower link's bandwidth, by the loader."""
    from dali_dr import Dataset

    def one(number: int) -> tuple[float, dict[str, Any]]:
        iterator = loader(Dataset(url_of(folder), cache=scratch / f"trained-{number}"))
        seconds = epoch(iterator)
        stats = iterator.stats()["store"]
        return stats["bytes"] / seconds / options.slow, stats

    return rounds_of(options, scratch, one, options.slow)


def rounds_of(options: argparse.Namespace, scratch: Path, one: Any, bandwidth: float) -> dict[str, Any]:
    ratios = []
    with running(scratch, latency=options.latency, bandwidth=bandwidth) as server:
        os.environ.update(server.environment)
        for number in range(options.rounds):
            ratio, stats = one(number)
            ratios.append(round(ratio, 4))
    return {"ratio": statistics.median(ratios), "rounds": ratios, "bandwidth": bandwidth, "store": stats}


def shared(options: argparse.Namespace, scratch: Path, folder: Path) -> dict[str, Any]:
    """Requests for each shard, by two processes with one cache."""
    with running(scratch, latency=options.latency, bandwidth=options.bandwidth) as server:
        environment = {**os.environ, **server.environment}
        command = [sys.executable, "-c", _RANK]
        children = [
            subprocess.Popen([*command, str(rank), url_of(folder), str(scratch / "shared")], env=environment)
            for rank in (0, 1)
        ]
        failed = [child.wait(600) for child in children]
        if any(failed):
            raise SystemExit("a process failed")
        counts = {
            what.rpartition("/")[2]: count
            for what, count in server.counts().items()
            if what.startswith("GET") and ".tar" in what
        }
        sent = server.sent()
    total = sum(path.stat().st_size for path in folder.glob("*.tar"))
    return {"requests": counts, "sent_per_byte": round(sent / total, 4)}


if __name__ == "__main__":
    sys.exit(main())
