"""What the columns of an Arrow table mean: which holds images, which labels, and what classes are called.

Hugging Face's `datasets` writes its features into the schema's metadata; other tables are understood by names and types.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from dali_dr.errors import ShardError, brief
from dali_dr.sources.classes import numbered
from dali_dr.sources.source import READING, Reading

IMAGE_NAMES: Final = ("image", "img", "picture", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes")
LABEL_NAMES: Final = ("label", "labels", "cls", "class", "target", "fine_label")
_MOST_TYPE: Final = 60  # characters of the name of a type that are shown
_METADATA: Final = b"huggingface"


class Columns(NamedTuple):
    """The columns that matter.

    Attributes:
      image: of encoded images: structs of bytes and path, bytes, or paths.
      label: of class numbers or names.
      names: of the classes by number, where the features say them.
    """

    image: str
    label: str
    names: Sequence[str] | None


class Labels(NamedTuple):
    """Class numbers of all rows.

    Attributes:
      labels: int32 (rows,).
      class_names: by number.
      notes: see `dali_dr.sources.source.Source`.
    """

    labels: npt.NDArray[np.int32]
    class_names: Sequence[str]
    notes: tuple[str, ...]


def pyarrow(what: object) -> Any:
    """The module, with its parts that are used here.

    Raises:
      ShardError: it is not installed; saying that ``what`` wants it.
    """
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise ShardError(f"{what}: reading it needs pyarrow ({error}): pip install 'pyarrow>=17'") from error
    return pyarrow


def features_of(schema: Any) -> dict[str, Any]:
    """Hugging Face's features by column, from the metadata of an Arrow schema; empty where there are none."""
    try:
        features = json.loads((schema.metadata or {}).get(_METADATA, b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def columns_of(
    where: str, schema: Any, reading: Reading = READING, image: str | None = None, label: str | None = None
) -> Columns:
    """The columns of images and labels.

    Args:
      where: for messages.
      schema: of the table.
      reading: its label_field is a name of the column of labels, too.
      image, label: their names; None: found by the features, else by names and types.

    Raises:
      ShardError: naming the columns that there are.
    """
    features = features_of(schema)
    label = label or reading.label_field
    image = image or _only(
        where, schema, "image", features, "Image", IMAGE_NAMES, lambda kind: _may_be_image(kind, strict=True)
    )
    label = label or _only(where, schema, "label", features, "ClassLabel", LABEL_NAMES, _may_be_label)
    for what, name, good in (("image", image, _may_be_image), ("label", label, _may_be_label)):
        if name not in schema.names:
            raise ShardError(
                f"{where}: has no column {brief(name)} of {what}s; its columns are {columns_text(schema)}", kind="usage"
            )
        if not good(schema.field(name).type):
            kind = _kind(schema.field(name).type)
            raise ShardError(
                f"{where}: the column {brief(name)} is of {kind}, which holds no {what}s; its columns are {columns_text(schema)}",
                kind="usage",
            )
    feature = features.get(label)
    names = feature.get("names") if isinstance(feature, Mapping) and feature.get("_type") == "ClassLabel" else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        names = None
    return Columns(image, label, names)


def labels_of(path: Path | str, column: Any, columns: Columns, reading: Reading, where: Callable[[int], str]) -> Labels:
    """Class numbers of the rows of a column of labels.

    Where the features name the classes, their numbers are those of the features, unless ``reading`` says otherwise.

    Args:
      path: what is read, for messages.
      column: a chunked array.
      columns: which it is.
      reading: how classes are numbered.
      where: where a row is, for messages.

    Raises:
      ShardError: naming the first row without a class.
    """
    codes, values = _distinct(path, column, columns.label, where)

    def place(value: int) -> str:
        return f"{where(int(np.argmax(codes == value)))}, column {brief(columns.label)}"

    names = columns.names
    if names is not None:
        for number, value in enumerate(values):
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < len(names):
                hint = ": the split has no labels (test splits often have none); give another" if value == -1 else ""
                raise ShardError(f"{place(number)}: the label {brief(value)} is none of the {len(names)} classes{hint}")
        if reading.numbering == "auto" and reading.classes is None:
            table = np.array(values, np.int32)
            notes: tuple[str, ...] = ()
            if list(names) != sorted(names):
                notes = ("classes have the numbers of the data set's features, which are not those of sorted order",)
            return Labels(table[codes], names, notes)
        values = [names[value] for value in values]
    found = numbered(path, [str(value) for value in values], reading, place)
    return Labels(np.array(found.labels, np.int32)[codes], found.class_names, found.notes)


def _distinct(
    path: Path | str, column: Any, name: str, where: Callable[[int], str]
) -> tuple[npt.NDArray[np.int32], list[Any]]:
    """Which of the distinct values each row has, and these values, none of which is missing or negative."""
    pa = pyarrow(path)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.null_count:
        row = int(np.argmax(pa.compute.is_null(column).to_numpy()))
        raise ShardError(f"{where(row)}: has no {name}: leave out rows without one")
    encoded = column.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):  # combine_chunks gives one where there are no or many rows
        encoded = encoded.unify_dictionaries()
        codes = np.concatenate([chunk.indices.to_numpy() for chunk in encoded.chunks] or [np.zeros(0, np.int32)])
        values = encoded.chunk(0).dictionary.to_pylist() if encoded.num_chunks else []
    else:
        codes, values = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
    if not len(codes):
        raise ShardError(f"{path}: holds no images: it has no rows", kind="usage")
    for number, value in enumerate(values):
        if isinstance(value, (int, float)) and value < 0:
            row = int(np.argmax(codes == number))
            raise ShardError(
                f"{where(row)}: its {name} is {value}, which is no class: the split has no labels (test splits often have "
                "none); give another split, or leave such rows out"
            )
        if value == "":
            raise ShardError(f"{where(int(np.argmax(codes == number)))}: has no {name}: leave out rows without one")
    return codes.astype(np.int32), values


def _only(
    where: str,
    schema: Any,
    what: str,
    features: Mapping[str, Any],
    feature: str,
    usual: Sequence[str],
    fits: Callable[[Any], bool],
) -> str:
    """The one column that is meant: of the feature, else of the kind; of several, the one with a usual name."""
    marked = [name for name, said in features.items() if isinstance(said, Mapping) and said.get("_type") == feature]
    marked = [name for name in marked if name in schema.names]
    fitting = marked or [name for name in schema.names if fits(schema.field(name).type)]
    called = [name for name in usual if name in fitting]
    if what == "image" and len(fitting) == 1:
        return fitting[0]
    if what == "label" and len(marked) == 1:
        return marked[0]
    if called and (not marked or called[0] == usual[0]):
        return called[0]
    several = (
        f"{len(fitting)} columns that may hold {what}s" if fitting else f"no column of {what}s that is known by itself"
    )
    how = (
        "name it: hf:NAME:SPLIT:IMAGE_COLUMN:LABEL_COLUMN"
        if what == "image"
        else "name it: --label-field COLUMN, or hf:NAME:SPLIT:IMAGE_COLUMN:LABEL_COLUMN"
    )
    raise ShardError(f"{where}: has {several}; its columns are {columns_text(schema)}; {how}", kind="usage")


def _may_be_image(kind: Any, strict: bool = False) -> bool:
    """Whether a type may be of images; ``strict``: not of paths alone."""
    types = pyarrow("a table").types
    if types.is_struct(kind):
        names = {kind.field(number).name for number in range(kind.num_fields)}
        return "bytes" in names
    binary = types.is_binary(kind) or types.is_large_binary(kind)
    return bool(binary or (not strict and (types.is_string(kind) or types.is_large_string(kind))))


def _may_be_label(kind: Any) -> bool:
    types = pyarrow("a table").types
    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
        or types.is_string(kind)
        or types.is_large_string(kind)
    )


def _kind(kind: Any) -> str:
    text = str(kind)
    return text if len(text) <= _MOST_TYPE else f"{text[:_MOST_TYPE]}…"


def columns_text(schema: Any) -> str:
    """The columns of a table with their types, for messages."""
    told = [f"{field.name} ({_kind(field.type)})" for field in schema]
    return ", ".join(told[:20]) + (", …" if len(told) > 20 else "")
