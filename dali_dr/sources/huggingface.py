"""Hugging Face data sets as a source: from the hub, saved by `save_to_disk`, or as files of Parquet in a folder.

What lies on this machine is read in place, by pyarrow alone; only a NAME of the hub needs the package `datasets`, which
fetches it into its own cache.
"""

from __future__ import annotations

import functools
import glob
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from dali_dr.errors import ShardError, brief
from dali_dr.regular import read_regular
from dali_dr.sources.arrow import columns_of, features_of
from dali_dr.sources.fetched import File
from dali_dr.sources.globs import matching
from dali_dr.sources.lists import LABEL, FileList, checked_row
from dali_dr.sources.source import READING, Reading, Source
from dali_dr.sources.tables import (
    ArrowRows,
    ImageTable,
    ParquetRows,
    Rows,
    mapped_arrow,
    parquet_rows,
    parquet_schema,
)
from dali_dr.store.url import is_url

PREFIX: Final = "hf:"
PARQUET: Final = ".parquet"
_FORM: Final = "hf:NAME:SPLIT, hf:NAME:SPLIT:IMAGE_COLUMN:LABEL_COLUMN, or a folder instead of NAME"
_MAX_JSON: Final = 64 << 20  # bytes of dataset_info.json, which has the names of all classes
_SAVED, _SPLITS, _INFO = "state.json", "dataset_dict.json", "dataset_info.json"
_PART: Final = re.compile(r"(.*)-(\d{5,})-of-(\d{5,})(-[0-9a-f]+)?")


class Named(NamedTuple):
    """What a user gives after "hf:".

    Attributes:
      name: of a data set on the hub, or a path.
      split: "train", …; None: there is only one.
      image, label: names of the columns; None: found by the features.
    """

    name: str
    split: str | None
    image: str | None
    label: str | None

    @classmethod
    def parse(cls, text: str) -> Named:
        """What ``text`` says. ShardError if it is of another form."""
        rest = text.removeprefix(PREFIX)
        parts = rest.split(":")
        # A path may hold colons: it is the longest beginning that there is.
        for count in range(len(parts), 0, -1):
            name = ":".join(parts[:count])
            if count > 1 and Path(name).exists():
                parts = [name, *parts[count:]]
                break
        if not parts[0] or len(parts) > 4:
            raise ShardError(f"{text}: not of the form {_FORM}", kind="usage")
        filled: list[str | None] = [part or None for part in parts[1:]]
        split, image, label = [*filled, None, None, None][:3]
        return cls(parts[0], split, image, label)


def open_huggingface(text: str, reading: Reading = READING) -> Source:
    """The data set that ``text`` ("hf:NAME:SPLIT", …) names.

    Raises:
      ShardError: it is not there, lacks such a split or column, or a row has no class.
    """
    named = Named.parse(text)
    path = Path(named.name)
    rows: Rows
    if path.is_dir():
        rows = _in_folder(path, named.split)
    elif path.exists():
        rows = ParquetRows([path])
    elif named.name.startswith(("/", "./", "../", "~")) or named.name.endswith(PARQUET):
        raise ShardError(f"{named.name}: no such folder; want {_FORM}", kind="usage")
    else:
        path, rows = Path(text), _on_hub(named)
    return ImageTable.of(path, rows, named.split or "row", reading, named.image, named.label)


def open_parquet(pattern: str, reading: Reading = READING) -> Source:
    """The Parquet files that ``pattern`` matches: a list (one file with a column "path"), or images themselves.

    Raises:
      ShardError: there are none, or they hold neither.
    """
    if is_url(pattern):
        return _of_parquet(pattern, list(matching(pattern)), reading)
    if Path(pattern).is_dir():  # as Spark writes tables
        return open_huggingface(f"{PREFIX}{pattern}", reading)
    found = [Path(pattern)] if Path(pattern).exists() else [Path(name) for name in _globbed(pattern)]
    return _of_parquet(Path(pattern), found, reading)


def _of_parquet(pattern: Path | str, found: Sequence[File], reading: Reading) -> Source:
    if len(found) == 1:
        schema = parquet_schema(found[0])
        if "path" in schema.names and not features_of(schema):
            label = reading.label_field or LABEL
            place = found[0] if isinstance(found[0], Path) else str(found[0])
            rows = [checked_row(place, n, row, label, "row") for n, row in parquet_rows(found[0])]
            if not rows:
                raise ShardError(f"{place}: lists no images: it has no rows")
            return FileList.of_rows(place, rows, reading, "row")
    rows_of = ParquetRows(_complete(found))
    return ImageTable.of(pattern, rows_of, "row", reading)


def _globbed(pattern: str) -> list[str]:
    found = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  (absolute patterns)
    if not found:
        raise ShardError(f"{pattern}: no such file: correct the name", kind="usage")
    return found


def _in_folder(folder: Path, split: str | None) -> Rows:
    """The rows of a split in a folder, whoever wrote it."""
    if (folder / _SAVED).exists():
        return _saved(folder, split)
    if (folder / _SPLITS).exists():
        splits = _json(folder / _SPLITS).get("splits")
        names = [str(name) for name in splits] if isinstance(splits, list) else []
        return _saved(folder / _one_split(folder, split, names), None)
    files = [path for path in sorted(folder.rglob(f"*{PARQUET}")) if not _hidden(path.relative_to(folder))]
    if not files:
        raise ShardError(
            f"{folder}: holds neither Parquet files nor what save_to_disk writes ({_SAVED} or {_SPLITS}): give the folder "
            "that does",
            kind="usage",
        )
    if split is None:
        return ParquetRows(_complete(files))
    of_split = [path for path in files if _is_of(split, path.relative_to(folder))]
    if not of_split:
        raise ShardError(
            f"{folder}: has no Parquet files of the split {brief(split)}, which are called as data/{split}-00000-of-00010"
            f"{PARQUET} or {split}/NAME{PARQUET}; it has {len(files)} files such as {files[0].relative_to(folder)}",
            kind="usage",
        )
    return ParquetRows(_complete(of_split))


def _one_split(folder: Path, split: str | None, names: list[str]) -> str:
    if split is None and len(names) == 1:
        return names[0]
    if split not in names or split is None:
        asked = "say which split" if split is None else f"has no split {brief(split)}"
        raise ShardError(
            f"{folder}: {asked}: hf:{folder}:SPLIT with one of {', '.join(names[:50]) or 'none'}", kind="usage"
        )
    return split


def _saved(folder: Path, split: str | None) -> ArrowRows:
    """What `Dataset.save_to_disk` wrote into a folder."""
    state = _json(folder / _SAVED)
    own = state.get("_split")
    if split is not None and own is not None and own != split:
        raise ShardError(f"{folder}: holds the split {brief(own)} alone, not {brief(split)}", kind="usage")
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise ShardError(
            f"{folder}: its rows are chosen by a table of indices, as old versions of datasets wrote it: save it again "
            "with load_from_disk and save_to_disk"
        )
    files = state.get("_data_files")
    names = [entry.get("filename") for entry in files if isinstance(entry, dict)] if isinstance(files, list) else []
    good = [name for name in names if isinstance(name, str) and name and "\0" not in name]
    if not good or len(good) < len(names):
        raise ShardError(f"{folder / _SAVED}: names no files; restore it from a copy, or save the data set again")
    tables = [(folder / name, mapped_arrow(folder / name)) for name in good]
    for path, table in tables:
        if table.schema.names != tables[0][1].schema.names or table.schema.types != tables[0][1].schema.types:
            raise ShardError(f"{path}: its columns are not those of {tables[0][0]}; save the data set again")
    return _with_info(folder, ArrowRows(tables, functools.partial(_saved, folder.absolute(), split)))


def _with_info(folder: Path, rows: ArrowRows) -> ArrowRows:
    """``rows`` with the features of dataset_info.json, where the schema has none."""
    if features_of(rows.schema) or not (folder / _INFO).exists():
        return rows
    features = _json(folder / _INFO).get("features")
    return rows.with_metadata({b"huggingface": json.dumps({"info": {"features": features}}).encode()})


def _on_hub(named: Named) -> ArrowRows:
    """The rows of a split that `datasets` fetches, or finds in its cache."""
    text = f"{PREFIX}{named.name}"
    if named.split is None:
        raise ShardError(
            f"{text}: no such folder; of a data set of the hub say the split, too: {text}:train", kind="usage"
        )
    try:
        import datasets
    except ImportError as error:
        raise ShardError(
            f"{text}: no such folder, and to fetch a data set of that name from the hub the package datasets is needed "
            f"({error}): pip install 'datasets>=3'"
        ) from error
    try:
        loaded = datasets.load_dataset(named.name, split=named.split)
        columns = columns_of(text, loaded.features.arrow_schema, READING, named.image, named.label)
        loaded = loaded.select_columns([columns.image, columns.label])
        if getattr(loaded, "_indices", None) is not None:  # rows were chosen ("train[:10%]" may): as they come
            loaded = loaded.flatten_indices()
        table = loaded.data.table
    except ShardError:
        raise
    except Exception as error:  # whatever scripts, networks and caches raise
        why = str(error).split("\n")[0] or type(error).__name__
        raise ShardError(
            f"{text}: datasets.load_dataset: {why}; correct the name or split, or give a folder",
            kind="usage" if isinstance(error, (ValueError, FileNotFoundError)) else None,
        ) from error
    schema = loaded.features.arrow_schema
    tables = [(Path(f"{text}:{named.split}"), table.replace_schema_metadata(schema.metadata))]
    return ArrowRows(tables, functools.partial(_on_hub, named))


def _complete(files: Sequence[File]) -> Sequence[File]:
    """``files``, of which those called NAME-00000-of-00010 must all be there, once.

    Raises:
      ShardError: naming one that is missing.
    """
    parts: dict[tuple[str, int], set[int]] = {}
    for path in files:
        folder, slash, name = str(path).rpartition("/")
        if match := _PART.fullmatch(name[: -len(PARQUET)]):
            parts.setdefault((f"{folder}{slash}{match[1]}", int(match[3])), set()).add(int(match[2]))
    for (name, count), there in parts.items():
        missing = next((number for number in range(count) if number not in there), None)
        if missing is not None:
            raise ShardError(
                f"{name}-{missing:05d}-of-{count:05d}{PARQUET}: is missing ({len(there)} of {count} are there): fetch it, "
                "or rename the others if that is meant"
            )
    return files


def _is_of(split: str, path: Path) -> bool:
    """Whether a file belongs to a split, by a part of its name or the name of a folder that it is in."""
    if split in path.parent.parts:
        return True
    return re.fullmatch(rf"(?:.*[-._ ])?{re.escape(split)}(?:[-._ ].*|\d*)", path.stem) is not None


def _hidden(path: Path) -> bool:
    return any(part.startswith((".", "__")) for part in path.parts)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_regular(path, _MAX_JSON))
    except (OSError, ValueError, RecursionError) as error:
        raise ShardError(
            f"{path}: cannot be read as JSON ({error}); restore it from a copy, or save it again"
        ) from error
    if not isinstance(value, dict):
        raise ShardError(f"{path}: holds {brief(value)}, want an object; restore it from a copy, or save it again")
    return value
