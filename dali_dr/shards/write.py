"""write_shards: samples to tar shards, so that a kill at any instant loses at most the shard in work.

A generator with several processes calls `folder.begin`, then `one_shard.write_one_shard` by number in each process,
then `folder.finalise` (`dali_dr.reinforce.run` does).
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import tqdm

from dali_dr.augment.spec import AugmentationSpec
from dali_dr.encoded import MAX_PIXELS
from dali_dr.errors import ShardError, shown
from dali_dr.record.layout import Probabilities
from dali_dr.record.logprobs import DEFAULT_LOG_STEP
from dali_dr.shards.dataset import Dataset
from dali_dr.shards.facts import ImageTars, ShardFacts
from dali_dr.shards.folder import begin, finalise, finished_shards, lock, shard_path
from dali_dr.shards.index_layout import MAX_LABEL
from dali_dr.shards.keys import KeyTable
from dali_dr.shards.manifest import ImageTar, Manifest
from dali_dr.shards.one_shard import OnError, write_one_shard
from dali_dr.shards.sample import Sample, Samples

# 1000 ImageNet photos with 400 views each are about 115 MB: large enough for sequential reads (webdataset advises
# 100 MB to 1 GB), small enough that a kill costs a minute or two of one GPU's teacher.
SAMPLES_PER_SHARD: Final = 1000


def write_shards(
    samples: Samples,
    out: str | Path,
    *,
    spec: AugmentationSpec | None,
    num_classes: int,
    class_names: Sequence[str] | None = None,
    teacher: Mapping[str, Any] | None = None,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    name: str = "shard",
    probabilities: Probabilities = "root8",
    log_step: float = DEFAULT_LOG_STEP,
    seed: int | None = None,
    extra: Mapping[str, Any] | None = None,
    image_tars: Sequence[ImageTar] = (),
    resume: bool = True,
    on_error: OnError = "raise",
    check_images: bool = False,
    max_pixels: int = MAX_PIXELS,
    total: int | None = None,
    progress: bool = True,
) -> Manifest:
    """Write ``samples`` as a data set into the folder ``out``.

    A run that was killed is continued by the same call: finished shards are kept once their keys are found to be
    those of ``samples`` (their contents are not compared), and the result is byte for byte that of an uninterrupted
    run. Views are stored in order of falling confidence. Equal samples and settings give equal files with the same
    library versions.

    Args:
      samples: an iterable, or a function START -> iterable that leaves out the first START samples (refused ones
        count), so that a continued run need not compute them again.
      out: made if absent; may hold an unfinished run of the same settings.
      spec: what the views were drawn from; None only if no sample has reinforcements.
      num_classes: labels and teacher ids are below it.
      class_names: one per class.
      teacher: JSON-able: names [str], weights_digest, input_size, normalisation {mean, std}, and what else is known.
      samples_per_shard: of every shard but the last.
      name: shards are called NAME-000000.tar and on.
      probabilities, log_step: encoding of the teacher's probabilities, see `dali_dr.record.encode.encode`.
      seed: of the drawn views; kept in the manifest.
      extra: JSON-able, kept in the manifest.
      image_tars: the tars that hold the images (`Sample.place`): a sidecar data set, whose shards are records alone.
      resume: False refuses a folder that already holds shards.
      on_error: "skip" leaves refused samples out and logs each; "raise" stops at the first. Finished shards stay.
      check_images: also decode every image in full, to refuse images that are cut off (about 1 ms each).
      max_pixels: that an image may have; larger ones are refused. The loader has a limit of its own.
      total: number of samples, for the progress bar, where ``samples`` has no length.
      progress: show a progress bar.

    Returns:
      The manifest that was written to ``out``/dataset.json.

    Raises:
      ShardError: naming the key of a sample that cannot be stored, or saying why the folder cannot be used.
    """
    draft = Manifest(
        num_classes=num_classes,
        class_names=None if class_names is None else tuple(class_names),
        name=name,
        samples_per_shard=samples_per_shard,
        spec=spec,
        teacher=teacher,
        probabilities=None if spec is None else probabilities,
        log_step=log_step if spec is not None and probabilities == "log8" else None,
        seed=seed,
        extra=extra or {},
        image_tars=tuple(image_tars),
    )
    _check(draft, samples, on_error)
    if total is None:
        with contextlib.suppress(TypeError):
            total = len(samples)  # type: ignore[arg-type]
    out = Path(out).absolute()  # the samples are someone else's code, which may change the working directory
    with lock(out), tqdm.tqdm(total=total, unit="img", disable=not progress, desc=shown(out.name)) as bar:
        if begin(out, draft, resume=resume):
            return _recheck(samples, out, on_error, bar)
        _write_missing(samples, out, draft, on_error, check_images, max_pixels, bar)
        return finalise(out, draft)


def _check(draft: Manifest, samples: Samples, on_error: OnError) -> None:
    """ShardError for an argument of write_shards that is out of range."""
    names, classes = draft.class_names, draft.num_classes
    for good, what in (
        (
            isinstance(samples, Iterable) or callable(samples),
            f"samples is a {type(samples).__name__}, want an iterable or a function of the number to leave out",
        ),
        (classes in range(1, MAX_LABEL + 1), f"num_classes is {classes}, want 1..{MAX_LABEL}"),
        (names is None or len(names) == classes, f"{len(names or ())} class_names for {classes} classes"),
        (draft.samples_per_shard >= 1, f"samples_per_shard is {draft.samples_per_shard}, want 1 or more"),
        (on_error in ("raise", "skip"), f"on_error is {on_error!r}, want 'raise' or 'skip'"),
        (
            re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}", draft.name) is not None,
            f"name is {draft.name!r}, want letters, digits, '_', '-' and '.'",
        ),
    ):
        if not good:
            raise ShardError(f"write_shards: {what}")


def _write_missing(
    samples: Samples,
    out: Path,
    draft: Manifest,
    on_error: OnError,
    check_images: bool,
    max_pixels: int,
    bar: Any,
) -> None:
    """Write every shard that ``out`` lacks, checking the others' keys against ``samples`` where those are at hand."""
    finished = set(finished_shards(out, draft))
    keys = KeyTable()
    topk: int | None = None
    start = 0
    if isinstance(samples, Iterable):
        stream = iter(samples)
    else:
        for start in itertools.count():
            if start not in finished:
                break
        images = ImageTars.of(out, draft)
        leading = [ShardFacts.load(shard_path(out, draft, number), images) for number in range(start)]
        consumed = sum(facts.consumed for facts in leading)
        bar.update(consumed)
        stream = iter(samples(consumed))
    for number in itertools.count():
        path = shard_path(out, draft, number)
        if number in finished:
            done = ShardFacts.load(path, ImageTars.of(out, draft))
            if number >= start:
                _follow(stream, done, path, bar)
            for key in done.keys:
                keys.add(key, number)
            facts: ShardFacts | None = done
        else:
            facts = write_one_shard(
                _counted(stream, bar),
                path,
                draft,
                limit=draft.samples_per_shard,
                on_error=on_error,
                check_images=check_images,
                max_pixels=max_pixels,
                topk=topk,
                keys=keys,
            )
        if facts is None:
            number -= 1
            break
        topk = facts.topk
        if len(facts.keys) < draft.samples_per_shard:  # the last one
            break
    surplus = next(stream, None)
    if surplus is not None:
        _other_run(out, f"{path.name} ended the run in it, but sample {surplus.key} follows now")
    if finished and max(finished) > number:
        _other_run(out, f"it holds {shard_path(out, draft, max(finished)).name}, but the samples end before that")


def _follow(stream: Iterator[Sample], facts: ShardFacts, path: Path, bar: Any) -> None:
    """Take the samples of a finished shard from ``stream`` and compare their keys."""
    skipped = list(facts.skipped)
    at = 0
    while at < len(facts.keys) or skipped:
        sample = next(stream, None)
        bar.update(sample is not None)
        if sample is not None and at < len(facts.keys) and sample.key == facts.keys[at]:
            at += 1
        elif sample is not None and str(getattr(sample, "key", sample)) in skipped:
            skipped.remove(str(getattr(sample, "key", sample)))
        else:
            want = facts.keys[at] if at < len(facts.keys) else skipped[0]
            got = "the samples end" if sample is None else f"{sample.key} comes"
            _other_run(path.parent, f"{path.name} has sample {want} where now {got}")


def _recheck(samples: Samples, out: Path, on_error: OnError, bar: Any) -> Manifest:
    """The manifest of a finished data set, after its keys were found to be those of ``samples``, if iterable."""
    dataset = Dataset(out)
    if isinstance(samples, Iterable):
        keys = iter(dataset.keys)
        want = next(keys, None)
        for sample in samples:
            bar.update()
            if sample.key == want:
                want = next(keys, None)
            elif on_error == "raise" or want is None or sample.key in dataset.keys:  # not one that was left out
                _other_run(out, f"sample {sample.key} comes where it has {want or 'no more'}")
        if want is not None:
            _other_run(out, f"it has sample {want}, the samples do not")
    return dataset.manifest


def _counted(stream: Iterator[Sample], bar: Any) -> Iterator[Sample]:
    for sample in stream:
        bar.update()
        yield sample


def _other_run(out: Path, what: str) -> NoReturn:
    raise ShardError(f"{out}: belongs to a run with other samples: {what}; choose another folder")
