"""Multipack: whole examples into bins of one capacity, nearly full.

Best fit, longest first: an example goes where it leaves least room. Lengths are whole numbers, so bins with
the same room are alike, and examples of one length are placed many at a time: the work grows with the number
of different lengths, not of examples.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Int


def pack(lengths: Sequence[int] | Int[np.ndarray, " E"], capacity: int) -> list[list[int]]:
    """Bins of example indices, each with at most `capacity` tokens.

    Args:
        lengths: [E], tokens of every example, from 1 to capacity.
        capacity: tokens of a bin.
    Returns:
        Every index once. Indices in a bin ascend, and bins are in the order of their first index. A function
        of the arguments alone.
    Raises:
        ValueError: a length is below 1 or above the capacity.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    wrong = np.flatnonzero((sizes < 1) | (sizes > capacity))
    if len(wrong):
        raise ValueError(
            f"pack: example {wrong[0]} has {sizes[wrong[0]]} tokens; a bin takes 1 to {capacity}. Raise the "
            "capacity to the longest example, or cut or drop the example."
        )
    order = np.argsort(-sizes, kind="stable")
    bin_of = np.empty(len(sizes), dtype=np.int64)
    bin_of[order] = _best_fit(sizes[order], capacity)
    if not len(sizes):
        return []
    # Bins by their first index, and in them the indices in order.
    num_bins = int(bin_of.max()) + 1
    first = np.full(num_bins, len(sizes))
    np.minimum.at(first, bin_of, np.arange(len(sizes)))
    by_bin = np.argsort(first[bin_of], kind="stable")
    ends = np.cumsum(np.bincount(bin_of)[np.argsort(first)]).tolist()
    members = by_bin.tolist()
    return [members[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _best_fit(sizes: Int[np.ndarray, " E"], capacity: int) -> Int[np.ndarray, " E"]:
    """The bin of every example; `sizes` descend."""
    bin_of = np.empty(len(sizes), dtype=np.int64)
    rooms: list[int] = []  # that bins have, in order
    bins: dict[int, list[int]] = {}  # by room
    num_bins = 0

    def keep(room: int, numbers: list[int]) -> None:
        if numbers and room:
            if room not in bins:
                bins[room] = []
                insort(rooms, room)
            bins[room] += numbers

    at = 0
    for end in [*(np.flatnonzero(np.diff(sizes)) + 1).tolist(), len(sizes)]:
        while at < end:
            size = int(sizes[at])
            place = bisect_left(rooms, size)
            if place < len(rooms):
                room = rooms.pop(place)
                numbers = bins.pop(room)
            else:
                room = capacity
                needed = -(-(end - at) // (capacity // size))
                numbers = list(range(num_bins, num_bins + needed))
                num_bins += needed
            # The bin that was just given an example has least room: it is given more until no other fits.
            each = room // size
            placed = min(end - at, each * len(numbers))
            bin_of[at : at + placed] = np.repeat(numbers[: -(-placed // each)], each)[:placed]
            full, rest = divmod(placed, each)
            keep(room - each * size, numbers[:full])
            if rest:
                keep(room - rest * size, numbers[full : full + 1])
            keep(room, numbers[full + bool(rest) :])
            at += placed
    return bin_of
