"""How a record is refused: one RecordError that names the field, its value, and what to do."""

from __future__ import annotations

from typing import Any, Final, NoReturn

import numpy as np
import numpy.typing as npt

from dali_dr.errors import RecordError

DAMAGED: Final = "the record is damaged: fetch or write its shard again"
UPDATE: Final = "the record was written by a newer dali_dr (update dali_dr) or is damaged"

_MAX_VALUE: Final = 200  # characters of a value that a message quotes


def refuse(field: str, value: object, advice: str) -> NoReturn:
    """Raises the RecordError."""
    raise RecordError(f"reinforcement record: {field} is {value}; {advice}")


def check_rows(bad: npt.NDArray[Any], field: str, values: npt.NDArray[Any], want: str) -> None:
    """RecordError for the first row (leading axis) where ``bad``, bool (rows, ...), holds anywhere."""
    if np.count_nonzero(bad):  # several times as fast as bad.any() on arrays of this size
        row = int(np.nonzero(bad)[0][0])
        value = str(values[row].tolist())
        short = value if len(value) < _MAX_VALUE else f"{value[:_MAX_VALUE]} ..."
        refuse(f"{field} of row {row}", short, f"{want}: {DAMAGED}")
