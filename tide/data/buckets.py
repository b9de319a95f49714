"""The order of training: shuffled batches of examples of like length, so that little is padding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch.utils.data import Sampler

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BATCHES_PER_BUCKET = 32


class LengthBuckets(Sampler[int]):
    """Indices in random order, sorted by length inside buckets of 32 batches, whose batches are shuffled.

    The order of an epoch is a function of (seed, epoch) alone: a resumed run goes on in the order it left.

    Args:
        lengths: of every example.
        batch_size: examples that are drawn together, over all devices.
        seed: of the order.
    """

    def __init__(self, lengths: Sequence[int], *, batch_size: int, seed: int) -> None:
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
