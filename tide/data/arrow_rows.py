"""Rows of Arrow tables: Arrow files as they lie on disk, Parquet by way of one, data sets of the hub.

Arrow files are mapped into memory, and any row is read at once. Parquet has no single rows to read: its
columns of text are first written to a temporary Arrow file.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tide.data.conversation import KEYS, Rejected
from tide.data.scratch import ScratchFile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from jaxtyping import Int64

    from tide.data.conversation import Raw

_BATCH_ROWS = 1024
_FILE_MAGIC = b"ARROW1"  # of the file form; the stream form has none


class ArrowRows:
    """Rows of a table; columns that no form of rows has are left unread.

    Attributes:
        name: of the file or data set, for messages.
    """

    def __init__(self, name: str, table: Callable[[], pa.Table]) -> None:
        """Opens the table.

        Args:
            name: of the file or data set.
            table: opens it; pickled in its place, so that another process opens it again.
        Raises:
            ValueError: it has none of the columns of a row.
        """
        self.name = name
        self._open = table
        self._batches: list[Any] | None = None
        opened = self._table()
        if not opened.num_columns:
            raise ValueError(
                f"open_source: {name!r} has columns {table().column_names}. "
                f"Expected one or more of {', '.join(KEYS)}."
            )
        sizes = [batch.num_rows for batch in opened.to_batches()]
        self._ends = np.cumsum(sizes, dtype=np.int64)

    def _table(self) -> pa.Table:
        table = self._open()
        return table.select([name for name in KEYS if name in table.column_names])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def rows(self, indices: Sequence[int] | Int64[np.ndarray, " n"]) -> list[Raw | Rejected]:
        """The rows of these numbers, in this order."""
        if self._batches is None:
            self._batches = self._table().to_batches()
        wanted = np.asarray(indices, dtype=np.int64)
        batch_of = np.searchsorted(self._ends, wanted, side="right")
        rows: list[Raw | Rejected] = [{}] * len(wanted)
        for number in np.unique(batch_of).tolist():
            batch = self._batches[number]
            places = np.flatnonzero(batch_of == number)
            local = wanted[places] - (int(self._ends[number]) - batch.num_rows)
            for place, row in zip(
                places, self._values(batch.take(pa.array(local)), wanted[places]), strict=True
            ):
                rows[place] = row
        return rows

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
    """Rows of an Arrow file, in its file or its stream form.

    Raises:
        ValueError: it is no Arrow file, or has none of the columns of a row.
    """
    return _readable(path, lambda: ArrowRows(str(path), partial(_mapped, path)))


def parquet_rows(path: Path) -> ArrowRows:
    """Rows of a Parquet file.

    Raises:
        ValueError: it is no Parquet file, or has none of the columns of a row.
    """
    return _readable(path, lambda: ArrowRows(str(path), _Converted(path)))


class _Converted:
    """The columns of text of a Parquet file, in an Arrow file of their own."""

    def __init__(self, path: Path) -> None:
        with pq.ParquetFile(path) as parquet:
            self.all_columns = parquet.schema_arrow.names
            columns = [name for name in KEYS if name in self.all_columns]
            schema = pa.schema([parquet.schema_arrow.field(name) for name in columns])
            self.scratch = ScratchFile(".arrow")
            # A stream: a file could not hold dictionaries that change on the way.
            with pa.OSFile(str(self.scratch.path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
                if columns:
                    for batch in parquet.iter_batches(_BATCH_ROWS, columns=columns):
                        writer.write_batch(batch.select(columns))

    def __call__(self) -> pa.Table:
        table = _mapped(self.scratch.path)
        # For the message that none of them is a row's.
        return table if table.num_columns else pa.table({name: [] for name in self.all_columns})


def _mapped(path: Path) -> pa.Table:
    source = pa.memory_map(str(path))
    is_file = source.read(len(_FILE_MAGIC)) == _FILE_MAGIC
    source.seek(0)
    return (pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)).read_all()


def _readable(path: Path, opened: Callable[[], ArrowRows]) -> ArrowRows:
    try:
        return opened()
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"open_source: {str(path)!r} cannot be read ({error}). Is it whole?") from None
