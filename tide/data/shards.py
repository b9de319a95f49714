"""Prepared examples on disk: Arrow files that are mapped into memory, one record batch each.

A shard's bytes are a function of its examples alone: no time, no path, no number of workers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch.utils.data import Dataset

from tide.batch import Example, TokenSequence
from tide.data.files import replacing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jaxtyping import Int32

SIDES = ("student", "teacher")
# One byte a flag: a bitmap would have to be unpacked whole.
_COLUMNS = {"token_ids": pa.int32(), "loss_mask": pa.uint8(), "chunks": pa.int32()}
SCHEMA = pa.schema(
    [pa.field(f"{side}_{name}", pa.list_(kind)) for side in SIDES for name, kind in _COLUMNS.items()]
    + [pa.field("num_chunks", pa.int32(), nullable=False)]
)


def write_shard(path: Path, examples: Sequence[Example]) -> None:
    """Write examples, whose ids fit 32 bits, as one Arrow file, whole or not at all.

    The teacher's side is null where it is missing, or the student's; so are chunks where there are none.
    """
    columns: list[pa.Array] = []
    teachers = [None if example.teacher is example.student else example.teacher for example in examples]
    for sequences in ([example.student for example in examples], teachers):
        for name, kind in _COLUMNS.items():
            rows = [None if sequence is None else getattr(sequence, name).numpy() for sequence in sequences]
            if name == "chunks":
                rows = [None if row is None or (row < 0).all() else row for row in rows]
            dtype = kind.to_pandas_dtype()
            columns.append(
                pa.array([None if row is None else row.astype(dtype) for row in rows], pa.list_(kind))
            )
    columns.append(pa.array([example.num_chunks for example in examples], pa.int32()))
    with (
        replacing(path) as beside,
        pa.OSFile(str(beside), "wb") as sink,
        pa.ipc.new_file(sink, SCHEMA) as writer,
    ):
        writer.write_batch(pa.record_batch(columns, schema=SCHEMA))


class ShardedExamples(Dataset[Example]):
    """Examples of shards in their order, read on demand.

    Attributes:
        paths: of the shards.
        sizes: examples of every shard.
        lengths: [E] int32, student tokens of every example.
    """

    def __init__(self, paths: Sequence[Path], shared: bool = False) -> None:
        """Open the shards; with `shared`, the teacher reads the student's tokens.

        Raises:
            ValueError: a file is missing, or no shard.
        """
        self.paths = tuple(paths)
        self.shared = shared
        self._shards = [_open(path) for path in self.paths]
        lengths = [pc.list_value_length(batch["student_token_ids"]).to_numpy() for batch in self._shards]
        self.sizes = tuple(len(of_shard) for of_shard in lengths)
        self._ends = np.cumsum(self.sizes, dtype=np.int64)
        self.lengths: Int32[np.ndarray, " E"] = np.concatenate([np.empty(0, np.int32), *lengths])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Example:
        if not -len(self) <= index < len(self):
            raise IndexError(f"ShardedExamples: no example {index} among {len(self)}")
        index %= len(self)
        shard = int(np.searchsorted(self._ends, index, side="right"))
        batch, at = self._shards[shard], index - int(self._ends[shard]) + self.sizes[shard]
        student = _sequence(batch, "student", at)
        assert student is not None
        teacher = student if self.shared else _sequence(batch, "teacher", at)
        return Example(student, teacher, batch["num_chunks"][at].as_py())

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    def __reduce__(self) -> tuple[object, ...]:
        # A data loader's process maps the files itself: pickling their contents would read all of them.
        return ShardedExamples, (self.paths, self.shared)


def _sequence(batch: pa.RecordBatch, side: str, index: int) -> TokenSequence | None:
    lists = [batch[f"{side}_{name}"][index].values for name in _COLUMNS]
    token_ids, loss_mask, chunks = (None if values is None else values.to_numpy() for values in lists)
    if token_ids is None or loss_mask is None:
        return None
    return TokenSequence(
        torch.from_numpy(token_ids.astype(np.int64)),
        torch.from_numpy(loss_mask.astype(np.bool_)),
        torch.from_numpy(np.full(len(token_ids), -1) if chunks is None else chunks.astype(np.int64)),
    )


def _open(path: Path) -> pa.RecordBatch:
    """Map a shard's one batch into memory; its columns stay in the file."""
    try:
        shard = pa.ipc.open_file(pa.memory_map(str(path)))
        names, num_batches = shard.schema.names, shard.num_record_batches
        if shard.schema == SCHEMA and num_batches == 1:
            return shard.get_batch(0)
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(
            f"ShardedExamples: {str(path)!r} cannot be read as a shard ({error}). Prepare the data again."
        ) from None
    raise ValueError(
        f"ShardedExamples: {str(path)!r} has {num_batches} batches of the columns {names}, expected one of "
        f"{SCHEMA.names}. Prepare the data again."
    )
