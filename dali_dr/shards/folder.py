"""The folder of shards: whose it is, which shards are there, and the steps that begin and finish a data set in it.

The hidden `STATE_NAME` says what the data set will be while it is unfinished. `index.bin` and `dataset.json` come last,
from the facts of all shards, so that a folder with a dataset.json is a whole data set.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

from dali_dr.errors import ShardError
from dali_dr.shards import emptying, files, outbox, tar
from dali_dr.shards.facts import ImageTars, ShardFacts, describe_topk, facts_path, image_files, members_of
from dali_dr.shards.index_layout import INDEX_NAME, IndexedFile
from dali_dr.shards.keys import KeyTable, keys_of
from dali_dr.shards.manifest import MANIFEST_NAME, STATE_NAME, ImageTar, Manifest, half_written, library_versions
from dali_dr.shards.report import REPORT_NAME, Changed, Refused, remove_partial, write_lists
from dali_dr.shards.sample_table import SampleTable
from dali_dr.shards.source_table import write_sources
from dali_dr.shards.tile_counts import TileCounts

Report = Callable[[Manifest, list[Refused], list[Changed]], object]
_VERSION: Final = "format_version"
# Settings that are written only where they are other than this.
_UNWRITTEN: Final[dict[str, Any]] = {"image_tars": None, "label_maps": None, "row_order": "confidence"}
_WITHOUT_TILES: Final = 2  # format version
_SOURCE: Final = "source"  # in the state: `compare.fingerprint` of what is written


@contextlib.contextmanager
def lock(out: Path) -> Iterator[None]:
    """Hold ``out``, made if absent, for this process; the lock ends with the process, however that ends.

    Raises:
      ShardError: another process holds it, or it cannot be made.
    """
    files.make_folder(out)
    try:
        descriptor = files.open_locked(out)
    except BlockingIOError as error:
        raise ShardError(f"{out}: another process is writing there; wait for it or choose another folder") from error
    try:
        yield
    finally:
        files.close(descriptor)


def begin(
    out: Path,
    draft: Manifest,
    *,
    resume: bool = True,
    alone: bool = True,
    force: bool = False,
    source: dict[str, Any] | None = None,
) -> bool:
    """Prepare ``out`` for a run of the settings in ``draft`` and remove what a killed run left half done.

    Args:
      out: made if absent.
      draft: the settings; its shards and counts are not used.
      resume: False refuses a folder that already holds a run.
      alone: no other process is writing there. False removes nothing, and of several processes that begin at once
        with different settings, all but one fail.
      force: first remove what data set of plain images is there, see `emptying.empty`.
      source: what `source_of` gives of the run that is begun.

    Returns:
      Whether the data set is already finished.

    Raises:
      ShardError: the folder holds another run, or shards although ``resume`` is False.
    """
    files.make_folder(out)
    outbox.refuse_what_stores_cannot(out, force=force, sidecar=any(map(_leads_out, draft.image_tars)))
    if force:
        emptying.empty(out)
    emptied = _emptied(out, alone)
    before = None if emptied else settings_of(out)
    if before is None:
        if finished_shards(out, draft):
            raise ShardError(
                f"{out}: holds {draft.name} shards of unknown origin; choose an empty folder", kind="usage"
            )
        settings = draft.settings() | ({_SOURCE: source} if source else {})
        state = json.dumps(settings | outbox.identity(out)).encode()
        if emptied:
            tar.write_atomically(out / STATE_NAME, state)
        elif not outbox.create(out / STATE_NAME, state):
            before = settings_of(out)  # another process was first
    elif not resume:
        raise ShardError(
            f"{out}: already holds a run; choose an empty folder, or resume=True to continue it", kind="usage"
        )
    if before is not None:
        now = draft.settings()
        before = _upgraded(out, before, now)
        # Both ways: a member that is at its usual value is not written. The version of the format follows from the others.
        keys = {key: None for key in (*now, *_UNWRITTEN) if key != _VERSION} | {_VERSION: None}
        before, now = _UNWRITTEN | before, _UNWRITTEN | now
        found = [what for key in keys for what in _difference(key, before.get(key), now[key])]
        if differing := "; ".join(what for what in found if what is found[0] or not what.startswith(_VERSION)):
            raise ShardError(
                f"{out}: belongs to a run with other settings ({differing}); {remedy(draft, out)}", kind="usage"
            )
    finished = (out / MANIFEST_NAME).exists()
    if alone:
        _clean(out, draft, finished)
        remove_partial(out / REPORT_NAME)
    return finished


def _upgraded(out: Path, before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Settings of a run of format version 2, which had no tiles, as version 3 says them; others as they are.

    But for the decoder of a run with views that is unfinished, which that version did not note.
    """
    if before.get("format_version") != _WITHOUT_TILES:
        return before
    if before.get("spec") is not None and not (out / MANIFEST_NAME).exists():
        return before
    kept = {"format_version": now["format_version"], "keep_bytes": True, "decoder": now["decoder"]}
    return {**before, **kept}


def remedy(draft: Manifest, out: Path) -> str:
    """What to do where ``out`` holds something else than ``draft`` says."""
    if outbox.url_of(out) is not None:
        return "choose another URL, or remove what is there with the store's own tools"
    plain = draft.spec is None and draft.label_maps is None
    anew = ", or remove what is there and begin anew with --force (force=True)" if plain else ""
    return f"choose another folder{anew}"


def source_of(out: Path) -> dict[str, Any] | None:
    """What `begin` was told of the source when the unfinished run in ``out`` was begun; None if nothing."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        source = json.loads((out / STATE_NAME).read_bytes()).get(_SOURCE)
        return source if isinstance(source, dict) else None
    return None


def _difference(name: str, before: Any, now: Any) -> Iterator[str]:
    """How the setting ``name`` differs, in words; of a dict and of a list, what does in it."""
    if before == now:
        return
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            yield from _difference(f"{name}.{key}", before.get(key), now.get(key))
        return
    if isinstance(before, list) and isinstance(now, list):
        for what, some, others in (("without", before, now), ("with", now, before)):
            if only := [one for one in some if one not in others]:
                yield f"{name} is now {what} {', '.join(f'{one!r:.80}' for one in only[:3])}" + ", …" * (len(only) > 3)
                return
    yield f"{name} was {before!r:.80}, now {now!r:.80}"


def _emptied(out: Path, alone: bool) -> bool:
    """Whether a data set was removed from ``out`` and no other was begun since; the rest of it is removed, too."""
    if alone:
        return emptying.go_on(out)
    if emptying.is_half_empty(out):
        raise ShardError(f"{out}: is being emptied by a run with --force: wait for it or run it again")
    return False


def settings_of(out: Path) -> dict[str, Any] | None:
    """`Manifest.settings` of the run in ``out``, finished or not; None if there is none.

    Raises:
      ShardError: they cannot be read.
    """
    for _ in range(2):  # a run may be finished, and its state removed, in between
        try:
            if (out / MANIFEST_NAME).exists():
                return Manifest.load(out).settings()
            settings: dict[str, Any] = json.loads((out / STATE_NAME).read_bytes())
            return settings
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise ShardError(f"{out}: cannot be continued: {error}") from error
    return None


def finalise(out: Path, draft: Manifest, *, clean: bool = True, report: Report | None = None) -> Manifest:
    """Write index.bin, report/ and dataset.json for the finished shards in ``out``, and remove what was for resuming.

    Several processes may do it at once: both write the same, each file atomically, and dataset.json comes last.

    Args:
      out: the folder.
      draft: the settings; its shards and counts are not used.
      clean: False leaves that to a later `begin`.
      report: writes the report in place of the lists alone; called when all facts are read and nothing is written.

    Returns:
      The manifest of the data set.

    Raises:
      ShardError: a shard is missing, none exists, two hold the same key, or they differ in K.
    """
    numbers = _all_shards(out, draft)
    images, table = ImageTars.of(out, draft), SampleTable(image_files(draft))
    keys, shards, record_bytes = KeyTable(), [], 0
    topk: int | None = None
    map_classes = 0
    views: list[int] = []  # the extremes
    empty = empty_shards(out, draft)
    refused = {number: facts.refused for number, facts in empty.items()}
    changed: list[Changed] = []
    tiles, sources = TileCounts(), []
    for number in numbers:
        path = shard_path(out, draft, number)
        facts = ShardFacts.load(path, draft, images)
        _ensure_idx(path)
        for key in facts.keys:
            for other in keys.shards_of(key):
                if key in keys_of(shard_path(out, draft, other)):
                    raise ShardError(f"{path}: sample {key} is in {shard_path(out, draft, other).name} already")
        for key in facts.keys:
            keys.add(key, number)
        if topk is not None and facts.topk != topk:
            raise ShardError(
                f"{path}: has {describe_topk(facts.topk or 0)}, the shards before it {describe_topk(topk)}"
            )
        topk, map_classes = facts.topk, max(map_classes, facts.map_classes)
        views = [min(views + facts.views), max(views + facts.views)]
        shards.append(facts.info)
        record_bytes += facts.record_bytes
        refused[number] = facts.refused
        changed += facts.changed
        tiles += facts.tiles
        sources.append(facts.source_table)
        table.add_file(IndexedFile(path.name, facts.bytes), facts.keys, facts.entries())
    manifest = dataclasses.replace(
        draft,
        shards=tuple(shards),
        views_min=min(views),
        views_max=max(views),
        topk=max(topk or 0, map_classes, 0),
        record_bytes=record_bytes,
        tiles=None if draft.tiles is None else tiles,
        versions=library_versions(),
    )
    left_out = [one for number in sorted(refused) for one in refused[number]]
    if report is None:
        write_lists(out, left_out, changed)
    else:
        report(manifest, left_out, changed)
    table.write(out / INDEX_NAME, draft.num_classes, draft.num_outputs)
    write_sources(out, None if draft.tiles is None else sources)
    manifest.save(out)
    if clean:
        _clean(out, draft, finished=True)
    return manifest


def shard_path(out: Path, draft: Manifest, number: int) -> Path:
    """Where shard ``number`` lies."""
    return out / f"{draft.name}-{number:06d}.tar"


def shard_number(path: Path, draft: Manifest) -> int:
    """The number of the shard at ``path``, a `shard_path`.

    Raises:
      ShardError: it is no such name.
    """
    number = path.stem.removeprefix(f"{draft.name}-")
    if path.suffix != ".tar" or not number.isdigit() or path.name != shard_path(path.parent, draft, int(number)).name:
        raise ShardError(f"{path}: not the name of a shard; use shard_path(out, draft, number)")
    return int(number)


def finished_shards(out: Path, draft: Manifest) -> list[int]:
    """Numbers of the complete shards in ``out``, rising."""
    pattern = re.compile(re.escape(draft.name) + r"-(\d{6,})\.tar")
    return sorted(int(match[1]) for entry in _listed(out) if (match := pattern.fullmatch(entry.name)))


def _leads_out(image_tar: ImageTar) -> bool:
    """Whether a tar does not lie in the data set's folder, which is all that a store has."""
    path = PurePosixPath(image_tar.path)
    return path.is_absolute() or ".." in path.parts


def empty_shards(out: Path, draft: Manifest) -> dict[int, ShardFacts]:
    """Facts, by number, of the shards that were done but are not there, because every sample of theirs was refused."""
    pattern = re.compile(rf"\.{re.escape(draft.name)}-(\d{{6,}})\.tar\.empty\.json")
    found = {int(match[1]): entry for entry in _listed(out) if (match := pattern.fullmatch(entry.name))}
    return {number: ShardFacts.from_json(json.loads(Path(found[number]).read_bytes())) for number in sorted(found)}


def done_shards(out: Path, draft: Manifest) -> set[int]:
    """Numbers of the shards that are done: those that are there with their facts, and `empty_shards`."""
    name = re.escape(draft.name)
    facts = re.compile(rf"\.{name}-(\d{{6,}})\.tar\.(empty\.)?json")
    finished = {*finished_shards(out, draft)}
    found = [match for entry in _listed(out) if (match := facts.fullmatch(entry.name))]
    return {int(match[1]) for match in found if match[2] or int(match[1]) in finished}


def is_done(path: Path) -> bool:
    """Whether the shard ``path`` is one of `done_shards`."""
    return (path.exists() and facts_path(path).exists()) or _empty_note(path).exists()


def save_empty(path: Path, facts: ShardFacts) -> Path:
    """Note that the shard ``path`` is done and, as every sample was refused, will not be there; see `empty_shards`.

    Returns:
      The file that says so.
    """
    note = _empty_note(path)
    tar.write_atomically(note, json.dumps(facts.to_json()).encode())
    return note


def _empty_note(path: Path) -> Path:
    return path.with_name(f".{path.name}.empty.json")


def _all_shards(out: Path, draft: Manifest) -> list[int]:
    """Numbers of the finished shards, of which none may be missing."""
    numbers = finished_shards(out, draft)
    if not numbers:
        raise ShardError(f"{out}: no sample was written, so there is no data set")
    known = {*numbers, *empty_shards(out, draft)}
    if max(known) != len(known) - 1:
        missing = next(n for n in itertools.count() if n not in known)
        raise ShardError(f"{shard_path(out, draft, missing)}: not written yet, {len(numbers)} other shards are")
    return numbers


def _ensure_idx(path: Path) -> None:
    if not path.with_suffix(".idx").exists():
        tar.write_atomically(path.with_suffix(".idx"), tar.idx_text(list(members_of(path))).encode())


def _clean(out: Path, draft: Manifest, finished: bool) -> None:
    """Remove half-written files, files of shards that do not exist, and, once finished, what was for resuming."""
    shard = re.compile(rf"(\.?)({re.escape(draft.name)}-\d{{6,}})\.(tar\.json|idx)")
    empty = re.compile(rf"\.{re.escape(draft.name)}-\d{{6,}}\.tar\.empty\.json")
    ours = half_written(draft.name)
    superfluous = []
    for entry in _listed(out):
        match = shard.fullmatch(entry.name)
        orphan = match is not None and not (out / f"{match[2]}.tar").exists()
        spent = finished and (entry.name == STATE_NAME or (match is not None and match[1] == "."))
        if orphan or spent or empty.fullmatch(entry.name) or ours.fullmatch(entry.name):
            superfluous.append(Path(entry.path))
    if superfluous:
        # First what takes their place: a run that was killed may have named dataset.json and not come to the next line.
        files.sync_folder(out)
        for path in superfluous:
            files.remove(path)
        files.sync_folder(out)


def _listed(out: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(out) as entries:
            return list(entries)
    except OSError as error:
        raise ShardError(f"{out}: cannot be listed ({error.strerror}); run the same command again") from error
