"""Examples -> Batch: padding, nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.utils.rnn import pad_sequence

from tide.batch import Batch, TokenBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tide.batch import Example, TokenSequence


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
