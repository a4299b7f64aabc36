"""What a conversion will take: some seconds of it, extrapolated; nothing is written."""

from __future__ import annotations

import contextlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from dali_dr.ahead import ahead
from dali_dr.convert import ml_dr
from dali_dr.convert.work import Conversion
from dali_dr.errors import ConvertError

SECONDS: Final = 5.0  # that are measured
_IMAGENET: Final = 1_281_167
_VIEWS: Final = 400
_FEWEST_VIEWS: Final = 50  # ImageNet+ Mini's: the time that records of fewer take is not that of their views
# ImageNet+'s sets with 400 views of each image, 10 classes of each: GB as published, and bytes of a view in records of ours,
# by bench/convert.py: views drawn as theirs, mixed within pools of 16 images, and predictions of a teacher's kind.
_PUBLISHED: Final = (("RRC", 33.4, 14.9), ("+M*", 46.3, 21.4), ("+RA/RE", 37.5, 17.5), ("+M*+R*", 53.3, 25.5))


@dataclass(frozen=True)
class Estimate:
    """What `estimate` came to.

    Attributes:
      images: of the whole set.
      measured: files that were converted.
      seconds_per_image: that reading, converting and taking its image take.
      record_bytes: of one record, mean.
      image_bytes: that are written of one image, mean; 0 where they stay where they are.
      in_order: whether all archives are in the order of the images.
      staged: files that come before their turn.
      staged_bytes: that they take on disk meanwhile, about.
      views: of an image, where the set is ml-dr's; 0 for others.
    """

    images: int
    measured: int
    seconds_per_image: float
    record_bytes: float
    image_bytes: float
    in_order: bool
    staged: int
    staged_bytes: float
    views: int = 0

    @property
    def rate(self) -> float:
        """Records per second."""
        return 1 / self.seconds_per_image

    def to_json(self) -> dict[str, Any]:
        """All figures, and what ImageNet's four sets would take at this rate."""
        return {
            "images": self.images,
            "measured": self.measured,
            "records_per_second": round(self.rate, 1),
            "bytes_per_record": round(self.record_bytes, 1),
            "hours": round(self.images / self.rate / 3600, 3),
            "record_gb": round(self.images * self.record_bytes / 1e9, 3),
            "image_gb": round(self.images * self.image_bytes / 1e9, 3),
            "archives_in_order": self.in_order,
            "staged_files": self.staged,
            "staged_gb": round(self.staged_bytes / 1e9, 3),
            "imagenet": self._imagenet() if self.views else [],
        }

    def _imagenet(self) -> list[dict[str, Any]]:
        """ImageNet's sets: a record takes time as it has views, so others than 400 say little, and some nothing."""
        hours = None
        if self.views >= _FEWEST_VIEWS:
            hours = round(_IMAGENET / self.rate * _VIEWS / self.views / 3600, 2)
        return [
            {
                "set": name,
                "published_gb": published,
                "gb": round(_IMAGENET * _VIEWS * each / 1e9, 1),
                "hours": hours,
            }
            for name, published, each in _PUBLISHED
        ]

    def __str__(self) -> str:
        """In words."""
        facts = self.to_json()
        waits = "none waits for its turn"
        if self.staged:
            waits = f"up to {self.staged} files wait for their turn, in {_bytes(self.staged_bytes)} of disk meanwhile"
        lines = [
            f"{facts['records_per_second']} records/s, by {self.measured} files; {self.images} images",
            f"records of {facts['bytes_per_record']} bytes: {_bytes(self.images * self.record_bytes)} in all"
            + (
                f", images {_bytes(self.images * self.image_bytes)}"
                if self.image_bytes
                else ", images stay where they are"
            ),
            f"about {_time(self.images / self.rate)}",
            f"archives {'are' if self.in_order else 'are not'} in the order of the images: {waits}",
        ]
        if not self.views:
            return "\n".join(lines)
        how = f"at this rate, {_VIEWS} / {self.views} times as long for a record"
        if self.views == _VIEWS:
            how = "at this rate"
        elif self.views < _FEWEST_VIEWS:
            how = "take longer than files of so few views can say"
        lines += [
            f"ImageNet (1,281,167 images, 400 views, 10 classes) {how}:",
            f"{'set':>10} {'published GB':>13} {'here GB':>8} {'hours':>6}",
        ]
        rows = [
            f"{one['set']:>10} {one['published_gb']:>13} {one['gb']:>8} {one['hours'] or '-':>6}"
            for one in facts["imagenet"]
        ]
        return "\n".join([*lines, *rows])


def _bytes(count: float) -> str:
    return next(
        f"{count / unit:.3g} {name}"
        for unit, name in ((1e9, "GB"), (1e6, "MB"), (1, "bytes"))
        if count >= unit or unit == 1
    )


def _time(seconds: float) -> str:
    return (
        f"{seconds / 3600:.1f} hours"
        if seconds > 3600
        else f"{seconds / 60:.0f} minutes"
        if seconds > 90
        else f"{seconds:.0f} seconds"
    )


def estimate(conversion: Conversion, seconds: float = SECONDS) -> Estimate:
    """Converts files as they come, then takes images, each for some ``seconds``, and forgets what came of it.

    Where images cannot be taken, or files not be converted, it is the error that the conversion would end with.
    """
    published, pictures = conversion.published, conversion.pictures
    files, size, converting = _converted(conversion, seconds)
    images, image_bytes, taking = _taken(conversion, seconds / 2)
    record_bytes = size / files * published.files
    staged = published.staged()
    waiting = record_bytes if published.alone else sum(a.survey.length for a in published.archives) / len(pictures)
    return Estimate(
        images=len(pictures),
        measured=files,
        seconds_per_image=converting / files * published.files + taking / images,
        record_bytes=record_bytes,
        image_bytes=image_bytes / images,
        in_order=all(archive.survey.in_order for archive in published.archives),
        staged=staged,
        staged_bytes=staged * waiting / published.files,
        views=conversion.usual.counts[0] if conversion.usual and conversion.meaning.format == ml_dr.FORMAT else 0,
    )


def _converted(conversion: Conversion, seconds: float) -> tuple[int, int, float]:
    """Files that were converted, bytes of their records, seconds."""
    pictures, threads = conversion.pictures, conversion.threads or len(os.sched_getaffinity(0))

    def converted(item: tuple[int, bytes]) -> int:
        number, file = item
        return len(conversion.converted(number, [file], pictures.size(number)).member)

    with (
        ThreadPoolExecutor(threads, "convert") as executor,
        contextlib.closing(conversion.published.coming()) as coming,
    ):
        sizes = ahead(executor, converted, coming, threads * 4)
        total, count, begun = next(sizes), 1, time.monotonic()
        for size in sizes:
            total, count = total + size, count + 1
            if time.monotonic() - begun > seconds:
                break
        taken = time.monotonic() - begun
        sizes.close()
    return count, total, max(taken, 1e-6) * count / max(1, count - 1)


def _taken(conversion: Conversion, seconds: float) -> tuple[int, int, float]:
    """Images that entered, bytes that are written of them, seconds."""
    samples = conversion.pictures.samples(0)
    first = next(samples)
    total, count, begun = len(first.image_bytes), 1, time.monotonic()
    for sample in samples:
        if sample.problem is not None and conversion.on_error == "raise":
            raise ConvertError(f"sample {sample.key}: {sample.problem}")
        total, count = total + len(sample.image_bytes), count + 1
        if time.monotonic() - begun > seconds:
            break
    taken = time.monotonic() - begun
    samples.close()
    return count, 0 if conversion.pictures.sidecar else total, max(taken, 1e-6) * count / max(1, count - 1)
