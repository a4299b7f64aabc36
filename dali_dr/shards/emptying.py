"""Emptying a folder of a data set of plain images, finished or not, so that another one can be written into it.

No half of two data sets is ever taken for one, whenever the process is killed or the power fails: first the state of the
folder says, durably, that it is being emptied and of what; then dataset.json is replaced, durably, by a text that is no
manifest; then all else goes; then that text. Only when its removal is durable does the next run (`folder.begin`) replace
the state. A run that finds a folder half emptied goes on with that.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from dali_dr.errors import ShardError, brief
from dali_dr.shards import files, tar
from dali_dr.shards.facts import ShardFacts, scan_shard
from dali_dr.shards.index_layout import INDEX_NAME
from dali_dr.shards.manifest import MANIFEST_NAME, STATE_NAME, WORK_NAME, Manifest, half_written
from dali_dr.shards.report import CHANGED_NAME, REPORT_NAME, SKIPPED_NAME, SUMMARY_NAME
from dali_dr.shards.source_table import SOURCES_NAME

_EMPTYING: Final = "emptying"  # in the state: names of the files that are to be removed
_TOMBSTONE: Final = (
    b'{"removed": "this folder was being emptied (--force) and is to be written anew: run that again"}\n'
)
_OF_GENERATION: Final = (WORK_NAME, ".claims")  # the second of earlier versions
_NAME: Final = re.compile(rf"(?:{REPORT_NAME}/)?[^/\0]+")


def empty(out: Path) -> None:
    """Remove the data set in ``out``, of plain images, or the unfinished run; nothing where there is none.

    Other files stay. Nothing is changed if this raises a ShardError that is no `files.WriteError`.

    Raises:
      ShardError: it holds reinforcements, or files that are named as shards and are none of it; or something cannot be
        removed.
    """
    if go_on(out):
        return
    settings = _settings(out)
    if settings is None:
        return
    views = any(settings.get(name) is not None for name in ("spec", "label_maps"))
    if views or any((out / name).exists() for name in _OF_GENERATION):
        raise ShardError(
            f"{out}: holds reinforcements, which a teacher has computed and which are not removed by force: remove the "
            "folder yourself, or choose another",
            kind="usage",
        )
    names = _names(out, settings)
    tar.write_atomically(out / STATE_NAME, json.dumps({**settings, _EMPTYING: names}).encode())
    go_on(out)


def go_on(out: Path) -> bool:
    """Remove what is left of a data set that is being removed; whether there is such a one, whose state then stays."""
    if not is_half_empty(out):
        return False
    names = json.loads((out / STATE_NAME).read_bytes())[_EMPTYING]
    if not isinstance(names, list) or not all(isinstance(n, str) and _NAME.fullmatch(n) for n in names):
        raise ShardError(f"{out / STATE_NAME}: is damaged ({brief(names)}): remove the files of the data set yourself")
    tar.write_atomically(out / MANIFEST_NAME, _TOMBSTONE)
    for name in names:
        files.remove(out / name)
    if (out / REPORT_NAME).is_dir():
        files.sync_folder(out / REPORT_NAME)
        files.remove_folder(out / REPORT_NAME)
    files.sync_folder(out)
    files.remove(out / MANIFEST_NAME)
    files.sync_folder(out)
    return True


def is_half_empty(out: Path) -> bool:
    """Whether the data set in ``out`` is being removed, or was, and no new run was begun since."""
    try:
        state = json.loads((out / STATE_NAME).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(state, dict) and _EMPTYING in state


def _settings(out: Path) -> dict[str, Any] | None:
    """`Manifest.settings` of what is in ``out``, None where there is nothing."""
    try:
        if (out / MANIFEST_NAME).exists():
            return Manifest.load(out).settings()
        if not (out / STATE_NAME).exists():
            return None
        settings = json.loads((out / STATE_NAME).read_bytes())
        if not isinstance(settings, dict) or not isinstance(settings.get("name"), str):
            raise ValueError("it does not name the shards")
    except (OSError, ValueError) as error:
        raise ShardError(
            f"{out}: cannot be emptied, as it is not known what is in it ({error}): do it yourself"
        ) from error
    return settings


def _names(out: Path, settings: dict[str, Any]) -> list[str]:
    """The data set's own files in ``out``, but for dataset.json and the state. ShardError: see `empty`."""
    name = re.escape(settings["name"])
    shard = re.compile(rf"{name}-\d{{6,}}\.tar")
    derived = re.compile(rf"\.?{name}-\d{{6,}}\.(idx|tar\.json|tar\.empty\.json)")
    partial = half_written(settings["name"])
    listed = None
    if (out / MANIFEST_NAME).exists():
        listed = {shard.name for shard in Manifest.load(out).shards}
    names = []
    for path in sorted(out.iterdir()):
        if shard.fullmatch(path.name):
            if not (_is_own(path) if listed is None else path.name in listed):
                raise ShardError(
                    f"{path}: is named as the shards of the data set there, and is none of it: move it away first, or "
                    "choose another folder"
                )
            names.append(path.name)
        elif path.name == INDEX_NAME or derived.fullmatch(path.name) or partial.fullmatch(path.name):
            names.append(path.name)
    report = out / REPORT_NAME
    kinds = (SKIPPED_NAME, CHANGED_NAME, SUMMARY_NAME, SOURCES_NAME)
    names += [f"{REPORT_NAME}/{kind}" for kind in kinds if (report / kind).is_file()]
    names += [f"{REPORT_NAME}/{path.name}" for path in sorted(report.glob(".*.tmp"))]
    return names


def _is_own(path: Path) -> bool:
    """Whether ``path`` is a shard of plain images, as an unfinished run leaves it."""
    try:
        facts = ShardFacts.saved(path) or scan_shard(path, full=False)
    except ShardError:
        return False
    return not facts.record_bytes
