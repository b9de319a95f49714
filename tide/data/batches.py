"""Batches of examples: their order in training, so that little is padding, and the padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Sampler

from tide.batch import Batch, TokenBatch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tide.batch import Example, TokenSequence

BATCHES_PER_BUCKET = 32


class LengthBuckets(Sampler[int]):
    """Indices in random order, sorted by length inside buckets of 32 batches, whose batches are shuffled.

    The order of an epoch is a function of (seed, epoch) alone: a resumed run goes on in the order it left.

    Args:
        lengths: of every example.
        batch_size: examples that are drawn together, over all devices.
        seed: of the order.
    """

    def __init__(self, lengths: Sequence[int] | np.ndarray, *, batch_size: int, seed: int) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader at the start of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        draw = np.random.default_rng([self.seed, self.epoch])
        order = draw.permutation(len(self.lengths))
        bucket_size = self.batch_size * BATCHES_PER_BUCKET
        for start in range(0, len(order), bucket_size):
            bucket = order[start : start + bucket_size]
            bucket = bucket[np.argsort(self.lengths[bucket], kind="stable")]
            whole = len(bucket) // self.batch_size * self.batch_size
            batches = bucket[:whole].reshape(-1, self.batch_size)
            yield from batches[draw.permutation(len(batches))].ravel().tolist()
            yield from bucket[whole:].tolist()


@dataclass(frozen=True)
class Collator:
    """Pads the sequences of a batch at the end to the longest, rounded up to a multiple of
    `pad_to_multiple_of`.

    Attributes:
        student_pad_id, teacher_pad_id: what stands in padding; nothing reads it. Validity is kept apart from
            the ids.
        pad_to_multiple_of: the block size, so that blocks are whole.
    """

    student_pad_id: int
    teacher_pad_id: int | None = None
    pad_to_multiple_of: int = 1

    def __call__(self, examples: Sequence[Example]) -> Batch:
        """Batches `examples`; the teacher's side is present when every example has one."""
        student = self._pad([example.student for example in examples], self.student_pad_id)
        teachers = [example.teacher for example in examples if example.teacher is not None]
        teacher = None
        if self.teacher_pad_id is not None and len(teachers) == len(examples):
            teacher = self._pad(teachers, self.teacher_pad_id)
        num_chunks = torch.tensor([example.num_chunks for example in examples])
        chunk_exists = torch.arange(int(num_chunks.max()))[None, :] < num_chunks[:, None]
        return Batch(student, teacher, chunk_exists)

    def _pad(self, sequences: Sequence[TokenSequence], pad_id: int) -> TokenBatch:
        longest = max(len(sequence.token_ids) for sequence in sequences)
        # At least one block: models cannot run on no tokens, and truncation may leave a teacher none.
        length = -(-max(longest, 1) // self.pad_to_multiple_of) * self.pad_to_multiple_of
        lengths = torch.tensor([len(sequence.token_ids) for sequence in sequences])
        valid = torch.arange(length)[None, :] < lengths[:, None]

        def padded(name: str, value: float) -> torch.Tensor:
            rows = pad_sequence([getattr(s, name) for s in sequences], batch_first=True, padding_value=value)
            return torch.nn.functional.pad(rows, (0, length - rows.shape[1]), value=value)

        return TokenBatch(
            padded("token_ids", pad_id), valid, padded("loss_mask", False), padded("chunks", -1)
        )
