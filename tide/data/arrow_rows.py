"""Rows of Arrow tables: Arrow files, mapped into memory; Parquet files; data sets of the hub.

Parquet has no single rows to read: its columns of text are first written to a temporary Arrow file.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tide.config.rules import PARQUET_SUFFIXES
from tide.data.conversation import KEYS, Rejected
from tide.data.files import ScratchFile
from tide.data.gather import gather

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from jaxtyping import Int64

    from tide.data.conversation import Raw

_BATCH_ROWS = 1024
_FILE_MAGIC = b"ARROW1"  # of the file form; the stream form has none


class ArrowRows:
    """Rows of a table; columns that no form of rows has are left unread."""

    def __init__(self, name: str, table: Callable[[], pa.Table]) -> None:
        """Open the table; `table` opens it again in another process."""
        self.name = name
        self._open = table
        self._columns = _columns_of_rows(name, table().column_names)
        self._batches: list[Any] | None = None
        self._bounds = np.cumsum([0, *(batch.num_rows for batch in self._opened())], dtype=np.int64)

    def _opened(self) -> list[Any]:
        if self._batches is None:
            self._batches = self._open().select(self._columns).to_batches()
        return self._batches

    def __len__(self) -> int:
        return int(self._bounds[-1])

    def rows(self, indices: Sequence[int] | Int64[np.ndarray, " n"]) -> list[Raw | Rejected]:
        """Read rows by number, in this order."""
        batches, wanted = self._opened(), np.asarray(indices, dtype=np.int64)
        batch_of = np.searchsorted(self._bounds, wanted, side="right") - 1

        def read(number: int, rows: np.ndarray) -> list[Raw | Rejected]:
            return self._values(batches[number].take(pa.array(rows - self._bounds[number])), rows)

        return gather(batch_of, wanted, read)

    def where(self, index: int) -> str:
        """Name and number of a row, from 0."""
        return f"{self.name}:row {index}"

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_batches": None}

    def _values(self, batch: Any, indices: Int64[np.ndarray, " n"]) -> list[Raw | Rejected]:
        try:
            return batch.to_pylist()  # type: ignore[no-any-return]
        except UnicodeDecodeError as error:
            if len(indices) > 1:
                singles = (batch.slice(at, 1) for at in range(len(indices)))
                return [self._values(single, indices[at : at + 1])[0] for at, single in enumerate(singles)]
            return [Rejected("invalid UTF-8", f"{self.where(int(indices[0]))}: {error.reason}")]


def arrow_rows(path: Path) -> ArrowRows:
    """Open a Parquet file, or an Arrow file in its file or its stream form."""
    try:
        if path.name.lower().endswith(PARQUET_SUFFIXES):
            return ArrowRows(str(path), partial(_mapped_scratch, _converted(path)))
        return ArrowRows(str(path), partial(_mapped, path))
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"open_source: {str(path)!r} cannot be read ({error}). Is it whole?") from None


def _columns_of_rows(name: str, columns: Sequence[str]) -> list[str]:
    found = [key for key in KEYS if key in columns]
    if not found:
        raise ValueError(
            f"open_source: {name!r} has columns {columns}. Expected one or more of {', '.join(KEYS)}."
        )
    return found


def _converted(path: Path) -> ScratchFile:
    """Write the columns of text of a Parquet file to an Arrow file."""
    with pq.ParquetFile(path) as parquet:
        columns = _columns_of_rows(str(path), parquet.schema_arrow.names)
        schema = pa.schema([parquet.schema_arrow.field(name) for name in columns])
        scratch = ScratchFile(".arrow")
        # A stream: a file could not hold dictionaries that change on the way.
        with pa.OSFile(str(scratch.path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            for batch in parquet.iter_batches(_BATCH_ROWS, columns=columns):
                writer.write_batch(batch.select(columns))
    return scratch


def _mapped(path: Path) -> pa.Table:
    source = pa.memory_map(str(path))
    is_file = source.read(len(_FILE_MAGIC)) == _FILE_MAGIC
    source.seek(0)
    return (pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)).read_all()


def _mapped_scratch(scratch: ScratchFile) -> pa.Table:
    return _mapped(scratch.path)
