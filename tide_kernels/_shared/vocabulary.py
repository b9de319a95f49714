"""The vocabulary axis of a process: all entries, a run of them, or one shard of a head.

Row formulas reduce over the vocabulary through these methods only. With shards each is one all-reduce of a
value per row, so every process gets the same numbers. Logits are exchanged only for `careful` rows, which the
definition evaluates.
Legend: n rows of a row block, v entries here, V entries in all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from tide_kernels._shared.agreement import process_group
from tide_kernels._shared.checks import VOCAB_REMEDY, check_integer

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Shaped
    from torch import Tensor


class Vocabulary:
    """All entries, on one process."""

    sharded = False
    start = 0

    def __init__(self, size: int) -> None:
        self.size = size
        self.largest_size = size  # over all processes, which must plan alike

    def sum(self, x: Float[Tensor, "n v"]) -> Float[Tensor, " n"]:
        """Over the vocabulary."""
        return x.sum(1)

    def max(self, x: Float[Tensor, "n v"]) -> Float[Tensor, " n"]:
        """Over the vocabulary."""
        return x.amax(1)

    def min(self, x: Float[Tensor, "n v"]) -> Float[Tensor, " n"]:
        """Over the vocabulary."""
        return x.amin(1)

    def any(self, x: Bool[Tensor, "n v"]) -> Bool[Tensor, " n"]:
        """Over the vocabulary."""
        return x.any(1)

    def at(self, x: Float[Tensor, "n v"], ids: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """x at one entry of the vocabulary per row."""
        return x.gather(1, ids[:, None]).squeeze(1)

    def put(
        self, x: Float[Tensor, "n v"], ids: Int[Tensor, "n 1"], values: float | Float[Tensor, "n 1"]
    ) -> Float[Tensor, "n v"]:
        """Set x at one entry of the vocabulary per row, in place."""
        return x.scatter_(1, ids, values)

    def whole(self, x: Shaped[Tensor, "n v"]) -> Shaped[Tensor, "n V"]:
        """Gather the rows over the whole vocabulary."""
        return x

    def own(self, x: Shaped[Tensor, "n V"]) -> Shaped[Tensor, "n v"]:
        """This process's entries of rows over the whole vocabulary."""
        return x

    def total(self, x: Tensor) -> Tensor:
        """Sum over processes, in place."""
        return x

    def largest(self, x: Tensor) -> Tensor:
        """Maximum over processes, in place."""
        return x


class VocabularyRun(Vocabulary):
    """Entries from `start` on. Sums and maxima cover the run only; a row's label may lie outside it."""

    def __init__(self, start: int, size: int) -> None:
        super().__init__(size)
        self.start = start

    def at(self, x: Float[Tensor, "n v"], ids: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """x at one entry per row; -inf if the entry is outside the run."""
        here, column = self._locate(ids[:, None])
        return torch.where(here, x.gather(1, column), -torch.inf).squeeze(1)

    def put(
        self, x: Float[Tensor, "n v"], ids: Int[Tensor, "n 1"], values: float | Float[Tensor, "n 1"]
    ) -> Float[Tensor, "n v"]:
        here, column = self._locate(ids)
        return x.scatter_(1, column, torch.where(here, values, x.gather(1, column)))

    def _locate(self, ids: Int[Tensor, "n 1"]) -> tuple[Bool[Tensor, "n 1"], Int[Tensor, "n 1"]]:
        column = ids - self.start
        return (column >= 0) & (column < self.size), column.clamp(0, self.size - 1)


class VocabularyShard(VocabularyRun):
    """This process's run of a vocabulary sharded in equal runs over a group, in rank order.

    Args:
        shard: entries per process; `vocab` may cut the last run.
        vocab: entries in use over all processes.
        group: torch.distributed group.
    """

    sharded = True

    def __init__(self, shard: int, vocab: int, group: Any) -> None:
        self.group, self.shard, self.vocab = group, shard, vocab
        start = dist.get_rank(group) * shard
        super().__init__(start, min(shard, vocab - start))
        self.largest_size = shard

    def sum(self, x: Float[Tensor, "n v"]) -> Float[Tensor, " n"]:
        return self.total(x.sum(1))

    def max(self, x: Float[Tensor, "n v"]) -> Float[Tensor, " n"]:
        return self.largest(x.amax(1))

    def min(self, x: Float[Tensor, "n v"]) -> Float[Tensor, " n"]:
        return self._reduced(x.amin(1), dist.ReduceOp.MIN)

    def any(self, x: Bool[Tensor, "n v"]) -> Bool[Tensor, " n"]:
        return self.total(x.any(1).int()) > 0

    def at(self, x: Float[Tensor, "n v"], ids: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        # A maximum, not a sum with zeros: the entry may be -inf.
        return self.largest(super().at(x, ids))

    def whole(self, x: Shaped[Tensor, "n v"]) -> Shaped[Tensor, "n V"]:
        part = torch.nn.functional.pad(x, (0, self.shard - self.size)).contiguous()
        parts = [torch.empty_like(part) for _ in range(dist.get_world_size(self.group))]
        dist.all_gather(parts, part, group=self.group)
        return torch.cat(parts, 1)[:, : self.vocab]

    def own(self, x: Shaped[Tensor, "n V"]) -> Shaped[Tensor, "n v"]:
        return x[:, self.start : self.start + self.size]

    def total(self, x: Tensor) -> Tensor:
        return self._reduced(x, dist.ReduceOp.SUM)

    def largest(self, x: Tensor) -> Tensor:
        return self._reduced(x, dist.ReduceOp.MAX)

    def _reduced(self, x: Tensor, operation: Any) -> Tensor:
        dist.all_reduce(x, op=operation, group=self.group)
        return x


def vocabulary_of(weight_rows: int, vocab: int, group_name: str) -> Vocabulary:
    """This process's part of `vocab` entries: all of them, or with a group a shard of `weight_rows`."""
    if not group_name:
        return Vocabulary(vocab)
    return VocabularyShard(weight_rows, vocab, process_group(group_name))


def shard_extent(function: str, weight_rows: int, vocab_size: int | None, group: Any) -> int:
    """Entries in use over all processes of a group whose heads are shards of `weight_rows` rows.

    `agreement.py` checks that the shards are equal.

    Raises:
        ValueError: vocab_size leaves a process without an entry, or exceeds the shards.
    """
    world = dist.get_world_size(group)
    if vocab_size is not None:
        check_integer(function, "vocab_size", vocab_size, VOCAB_REMEDY)
    vocab = weight_rows * world if vocab_size is None else vocab_size
    if not weight_rows * (world - 1) < vocab <= weight_rows * world:
        raise ValueError(
            f"{function}: {world} shards of {weight_rows} rows hold vocabularies of "
            f"{weight_rows * (world - 1) + 1} to {weight_rows * world} entries; got vocab_size {vocab_size}. "
            "Shard the head into equal runs, pad the last one, and pass the size of the whole vocabulary."
        )
    return vocab
