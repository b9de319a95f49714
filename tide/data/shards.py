"""Prepared examples on disk: Arrow files that are mapped into memory, one record batch each.

A shard's bytes are a function of its examples alone: no time, no path, no number of workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Dataset

from tide.batch import Example, TokenSequence

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jaxtyping import Bool, Int64

SIDES = ("student", "teacher")
# One byte a flag: a bitmap would have to be unpacked whole.
_COLUMNS = {"token_ids": pa.int32(), "loss_mask": pa.uint8(), "chunks": pa.int32()}
SCHEMA = pa.schema(
    [pa.field(f"{side}_{name}", pa.list_(kind)) for side in SIDES for name, kind in _COLUMNS.items()]
    + [pa.field("num_chunks", pa.int32(), nullable=False)]
)


def write_shard(path: Path, examples: Sequence[Example]) -> None:
    """Writes examples as one Arrow file, whole or not at all.

    A side that an example has not, or shares with the student, is null; so are chunks where there are none.

    Args:
        path: of the file; one that is there is replaced.
        examples: token and chunk ids fit 32 bits.
    """
    columns: list[pa.Array] = []
    for side in SIDES:
        sequences: list[TokenSequence | None] = [getattr(example, side) for example in examples]
        if side == "teacher":
            sequences = [
                None if sequence is example.student else sequence
                for sequence, example in zip(sequences, examples, strict=True)
            ]
        for name, kind in _COLUMNS.items():
            rows = [None if sequence is None else getattr(sequence, name).numpy() for sequence in sequences]
            if name == "chunks":
                rows = [None if row is None or (row < 0).all() else row for row in rows]
            columns.append(_list_column(rows, kind))
    columns.append(pa.array([example.num_chunks for example in examples], pa.int32()))
    beside = path.with_name(path.name + ".new")
    with pa.OSFile(str(beside), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_batch(pa.record_batch(columns, schema=SCHEMA))
    beside.replace(path)


def _list_column(rows: list[np.ndarray | None], kind: pa.DataType) -> pa.Array:
    dtype = kind.to_pandas_dtype()
    given = [row.astype(dtype) for row in rows if row is not None]
    offsets = np.cumsum([0, *(0 if row is None else len(row) for row in rows)], dtype=np.int32)
    return pa.ListArray.from_arrays(
        pa.array(offsets),
        pa.array(np.concatenate([np.empty(0, dtype), *given])),
        type=pa.list_(kind),
        mask=pa.array([row is None for row in rows], pa.bool_()),
    )


@dataclass(frozen=True)
class _Column:
    """Lists of one column: flat values in the mapped file, and where each list begins in them."""

    offsets: Int64[np.ndarray, " E+1"]
    values: np.ndarray
    missing: Bool[np.ndarray, " E"]

    @classmethod
    def of(cls, lists: pa.ListArray) -> _Column:
        offsets = lists.offsets.to_numpy().astype(np.int64)
        return cls(offsets, lists.values.to_numpy(), lists.is_null().to_numpy(zero_copy_only=False))

    def row(self, index: int) -> np.ndarray | None:
        if self.missing[index]:
            return None
        return self.values[self.offsets[index] : self.offsets[index + 1]]


class ShardedExamples(Dataset[Example]):
    """Examples of shards in their order, read when they are asked for.

    Attributes:
        paths: of the shards.
        sizes: examples of every shard.
        lengths: [E] int64, student tokens of every example.
    """

    paths: tuple[Path, ...]
    sizes: tuple[int, ...]
    lengths: Int64[np.ndarray, " E"]

    def __init__(self, paths: Sequence[Path], *, shared: bool = False) -> None:
        """Opens the shards.

        Args:
            paths: of files that `write_shard` wrote.
            shared: the teacher reads the student's tokens.
        Raises:
            ValueError: a file is missing, or no such shard.
        """
        self.paths = tuple(paths)
        self.shared = shared
        self._shards = [_open(path) for path in self.paths]
        lengths = [np.diff(shard["student_token_ids"].offsets) for shard, _ in self._shards]
        self.sizes = tuple(len(of_shard) for of_shard in lengths)
        self._ends = np.cumsum(self.sizes, dtype=np.int64)
        self.lengths = np.concatenate([np.empty(0, np.int64), *lengths])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Example:
        if not -len(self) <= index < len(self):
            raise IndexError(f"ShardedExamples: no example {index} among {len(self)}")
        index %= len(self)
        shard = int(np.searchsorted(self._ends, index, side="right"))
        columns, num_chunks = self._shards[shard]
        at = index - (int(self._ends[shard - 1]) if shard else 0)
        student = _sequence(columns, "student", at)
        assert student is not None
        teacher = student if self.shared else _sequence(columns, "teacher", at)
        return Example(student, teacher, int(num_chunks[at]))

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    def __reduce__(self) -> tuple[object, ...]:
        # A data loader's process maps the files itself: pickling their contents would read all of them.
        return _reopened, (self.paths, self.shared)


def _reopened(paths: tuple[Path, ...], shared: bool) -> ShardedExamples:
    return ShardedExamples(paths, shared=shared)


def _sequence(columns: dict[str, _Column], side: str, index: int) -> TokenSequence | None:
    token_ids, loss_mask, chunks = (columns[f"{side}_{name}"].row(index) for name in _COLUMNS)
    if token_ids is None or loss_mask is None:
        return None
    return TokenSequence(
        torch.from_numpy(token_ids.astype(np.int64)),
        torch.from_numpy(loss_mask.astype(np.bool_)),
        torch.from_numpy(np.full(len(token_ids), -1) if chunks is None else chunks.astype(np.int64)),
    )


def _open(path: Path) -> tuple[dict[str, _Column], np.ndarray]:
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all().combine_chunks()
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(
            f"ShardedExamples: {str(path)!r} cannot be read as a shard ({error}). Prepare the data again."
        ) from None
    if table.schema != SCHEMA:
        raise ValueError(
            f"ShardedExamples: {str(path)!r} has columns {table.schema.names}, expected {SCHEMA.names}. "
            "Prepare the data again."
        )
    columns = {name: table.column(name).combine_chunks() for name in table.schema.names}
    num_chunks = columns.pop("num_chunks").to_numpy()
    return {name: _Column.of(lists) for name, lists in columns.items()}, num_chunks
