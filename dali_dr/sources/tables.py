"""Tables of images as a source: rows of Parquet files, of Arrow files, of Hugging Face's data sets."""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, overload

import numpy as np
import numpy.typing as npt

from dali_dr.errors import ShardError
from dali_dr.regular import open_regular
from dali_dr.shards.sample import MAX_IMAGE_BYTES, safe_key
from dali_dr.sources.arrow import Columns, columns_of, columns_text, labels_of, pyarrow
from dali_dr.sources.fetched import File, by_url, local, told_by_url
from dali_dr.sources.remote import below, parent, read_place
from dali_dr.sources.source import READING, Reading

_CACHED_BYTES: Final = 256 << 20  # of row groups that are kept, but for the last two, which always are
_DIGITS: Final = 8  # of row numbers in keys


class RowKeys(Sequence[str]):
    """The keys "NAME-00000000", "NAME-00000001", …: row numbers, which stay what they are wherever the images came from.

    Args:
      name: what they begin with.
      count: how many.
    """

    def __init__(self, name: str, count: int) -> None:
        self._name, self._rows = safe_key(name), range(count)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, item: int) -> str: ...
    @overload
    def __getitem__(self, item: slice) -> list[str]: ...
    def __getitem__(self, item: int | slice) -> str | list[str]:
        if isinstance(item, slice):
            return [self._key(number) for number in self._rows[item]]
        return self._key(self._rows[item])

    def __iter__(self) -> Iterator[str]:
        return map(self._key, self._rows)

    def _key(self, number: int) -> str:
        return f"{self._name}-{number:0{_DIGITS}d}"


class Rows(Protocol):
    """Rows of a table by number."""

    def __len__(self) -> int: ...

    @property
    def schema(self) -> Any:
        """The Arrow schema."""

    def column(self, name: str) -> Any:
        """All of a small column, as a chunked array."""

    def value(self, name: str, number: int) -> Any:
        """What one row has in a column, as Python has it."""

    def place(self, number: int) -> tuple[Path | str, int]:
        """The file that a row is in, or its URL, and its number there."""


class ArrowRows:
    """Rows of Arrow tables, which may be mapped: what is not asked for is not read.

    Args:
      tables: their files and themselves, all of one schema.
      again: makes the same anew, in another process, which does not get the rows; None: they do.
    """

    def __init__(self, tables: Sequence[tuple[Path, Any]], again: Callable[[], ArrowRows] | None = None) -> None:
        self._tables, self._again = tables, again
        self._ends = list(itertools.accumulate(table.num_rows for _, table in tables))
        # And where their batches do: to find a row, a chunked array would go through them all.
        self._batches = [table.to_batches() for _, table in tables]
        self._batch_ends = [list(itertools.accumulate(batch.num_rows for batch in b)) for b in self._batches]

    def __reduce__(self) -> tuple[Any, ...]:
        if self._again is None:
            return ArrowRows, (self._tables,)
        return _again, (self._again, len(self))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def with_metadata(self, metadata: Mapping[bytes, bytes]) -> ArrowRows:
        """The same rows, whose schema says something else of them."""
        tables = [(path, table.replace_schema_metadata(metadata)) for path, table in self._tables]
        return ArrowRows(tables, self._again)

    @property
    def schema(self) -> Any:
        return self._tables[0][1].schema

    def column(self, name: str) -> Any:
        pa = pyarrow(self._tables[0][0])
        return pa.chunked_array(list(itertools.chain(*(table.column(name).chunks for _, table in self._tables))))

    def value(self, name: str, number: int) -> Any:
        file, row = self._find(number)
        batch = bisect.bisect_right(self._batch_ends[file], row)
        start = self._batch_ends[file][batch - 1] if batch else 0
        return self._batches[file][batch].column(name)[row - start].as_py()

    def place(self, number: int) -> tuple[Path, int]:
        file, row = self._find(number)
        return self._tables[file][0], row

    def _find(self, number: int) -> tuple[int, int]:
        file = bisect.bisect_right(self._ends, number)
        return file, number - (self._ends[file - 1] if file else 0)


def _again(make: Callable[[], ArrowRows], count: int) -> ArrowRows:
    """What ``make`` makes. ShardError if it has other rows than before."""
    rows = make()
    if len(rows) != count:
        path = rows.place(0)[0] if len(rows) else "the table"
        raise ShardError(f"{path}: has {len(rows)} rows here, and {count} where the work began: copy the same files")
    return rows


class ParquetRows:
    """Rows of Parquet files: a row group is read when a row of it is asked for, and the last few are kept.

    Args:
      files: of one schema.

    Raises:
      ShardError: one cannot be read, or has other columns than the first.
    """

    def __init__(self, files: Sequence[File]) -> None:
        self._files = list(files)
        self._forget()
        self._groups: list[tuple[int, int]] = []  # (number of the file, of the group in it)
        ends: list[int] = []
        self._file_ends: list[int] = []
        self._schema: Any = None
        for number, path in enumerate(self._files):
            with _reading(path), _open(path) as file:
                schema, meta = file.schema_arrow, file.metadata
                if self._schema is None:
                    self._schema = schema
                elif not schema.equals(self._schema):
                    raise ShardError(
                        f"{path}: its columns are not those of {self._files[0]} (they are {columns_text(schema)}): give files "
                        "of one table"
                    )
                for group in range(meta.num_row_groups):
                    self._groups.append((number, group))
                    ends.append((ends[-1] if ends else 0) + meta.row_group(group).num_rows)
            self._file_ends.append(ends[-1] if ends else 0)
        self._ends = ends

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, int], tuple[Any, int]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_lock", "_kept")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def schema(self) -> Any:
        return self._schema

    def column(self, name: str) -> Any:
        pa = pyarrow(self._files[0])
        chunks = []
        for path in self._files:
            with _reading(path), _open(path) as file:
                chunks += file.read(columns=[name]).column(name).chunks
        return pa.chunked_array(chunks, type=self._schema.field(name).type)

    def value(self, name: str, number: int) -> Any:
        position = bisect.bisect_right(self._ends, number)
        start = self._ends[position - 1] if position else 0
        return self._group(name, position)[number - start].as_py()

    def place(self, number: int) -> tuple[Path | str, int]:
        file = bisect.bisect_right(self._file_ends, number)
        there = self._files[file]
        return there if isinstance(there, Path) else str(there), number - (self._file_ends[file - 1] if file else 0)

    def _group(self, name: str, position: int) -> Any:
        """A column of a row group, as one array."""
        with self._lock:  # threads ask for neighbours: the first one reads for all
            kept = self._kept.get((name, position))
            if kept is None:
                kept = self._read(name, position)
                self._kept[name, position] = kept
                total = sum(size for _, size in self._kept.values())
                while len(self._kept) > 2 and total > _CACHED_BYTES:
                    _, (_, size) = self._kept.popitem(last=False)
                    total -= size
            self._kept.move_to_end((name, position))
            return kept[0]

    def _read(self, name: str, position: int) -> tuple[Any, int]:
        number, group = self._groups[position]
        path = self._files[number]
        rows = self._ends[position] - (self._ends[position - 1] if position else 0)
        with _reading(path), _open(path) as file:
            if group >= file.metadata.num_row_groups or file.metadata.row_group(group).num_rows != rows:
                raise ShardError(f"{path}: was changed while it was in use; run the command again")
            column = file.read_row_group(group, columns=[name]).column(name)
            return (column.chunk(0) if column.num_chunks == 1 else column), column.nbytes


@dataclasses.dataclass(frozen=True)
class ImageTable:
    """The rows of a table with encoded images.

    An image is bytes, or Hugging Face's struct of bytes and path, of which the path is read where there are no bytes; the
    path is relative to the folder of the file that the row is in.

    Attributes:
      rows: of the table.
      columns: which hold images and labels.
      keys: row numbers.
      labels: int32 (rows,).
      class_names: by number.
      notes: see `dali_dr.sources.source.Source`.
    """

    rows: Rows
    columns: Columns
    keys: Sequence[str]
    labels: npt.NDArray[np.int32]
    class_names: Sequence[str]
    notes: Sequence[str] = ()

    @classmethod
    def of(
        cls,
        path: Path | str,
        rows: Rows,
        name: str,
        reading: Reading = READING,
        image: str | None = None,
        label: str | None = None,
    ) -> ImageTable:
        """The table of ``rows``, whose keys begin with ``name``.

        Args:
          path: what was given, for messages.
          rows: of the table.
          name: of the split.
          reading: how classes are numbered.
          image, label: names of the columns; None: see `columns_of`.

        Raises:
          ShardError: there are no such columns, no rows, or a row without a class.
        """
        columns = columns_of(str(path), rows.schema, reading, image, label)
        if not len(rows):
            raise ShardError(f"{path}: holds no images: it has no rows", kind="usage")

        def where(number: int) -> str:
            file, row = rows.place(number)
            return f"{file}: row {row}"

        labels = labels_of(path, rows.column(columns.label), columns, reading, where)
        keys = RowKeys(name, len(rows))
        return cls(rows, columns, keys, labels.labels, labels.class_names, labels.notes)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, number: int) -> bytes:
        """The encoded image of a row, as it is stored.

        Raises:
          ShardError: there is none, or the table cannot be read.
          OSError: the file of its path cannot be read.
        """
        value = self.rows.value(self.columns.image, number)
        data, path = (value.get("bytes"), value.get("path")) if isinstance(value, Mapping) else (value, None)
        if isinstance(data, str):
            data, path = None, data
        if data is not None:
            return bytes(data)
        if not path:
            raise ShardError(f"{self.where(number)}: has neither bytes nor a path of an image")
        return read_place(below(parent(self.rows.place(number)[0]), path), MAX_IMAGE_BYTES)

    def where(self, number: int) -> str:
        """See `dali_dr.sources.source.Images`."""
        file, row = self.rows.place(number)
        return f"{file}: row {row}"


def mapped_arrow(path: Path) -> Any:
    """The Arrow table in the file at ``path``, as `datasets` writes it, mapped into memory.

    Raises:
      ShardError: it is no such file.
    """
    pa = pyarrow(path)
    _check_regular(path)
    with _reading(path):
        source = pa.memory_map(str(path))
        try:
            return pa.ipc.open_stream(source).read_all()
        except pa.ArrowInvalid:
            return pa.ipc.open_file(source).read_all()  # the other of Arrow's two formats


def parquet_rows(path: File) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a list in Parquet with their numbers from 1, for `dali_dr.sources.lists.checked_row`."""
    number = 0
    with _reading(path), _open(path) as file:
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield number, row


def parquet_schema(path: File) -> Any:
    """The Arrow schema of a Parquet file. ShardError if it is none."""
    with _reading(path), _open(path) as file:
        return file.schema_arrow


@contextlib.contextmanager
def _reading(path: File) -> Iterator[None]:
    """Turns what pyarrow raises on the file at ``path`` into a ShardError."""
    arrow = pyarrow(path).ArrowException
    try:
        with told_by_url():
            yield
    except (arrow, OSError, UnicodeDecodeError) as error:
        what = by_url(str(error).split("\n")[0])
        raise ShardError(
            f"{path}: cannot be read as a table ({what}); restore it from a copy, or fetch it again"
        ) from error


def _open(file: File) -> Any:
    pa = pyarrow(file)
    while True:
        path = local(file, keep=False)  # of many files, those that are open alone
        try:
            _check_regular(path)
            return pa.parquet.ParquetFile(pa.OSFile(str(path)))
        except (ShardError, FileNotFoundError):
            if isinstance(file, Path) or path.exists():  # else another process made room just now
                raise


def _check_regular(path: Path) -> None:
    """ShardError if it is missing, or a pipe or the like, which would be waited for."""
    try:
        os.close(open_regular(path))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ShardError(f"{path}: cannot be read ({why}); restore it from a copy, or fetch it again") from error
