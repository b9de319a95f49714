"""Joining neighbouring chunks: into words, or up to a length.

Legend: C chunks, B bytes of text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Int32, Int64

    from tide.alignment.chunk_alignment import ChunkAlignment

Merge = Literal["none", "words", "length"]
# Whitespace of more than one byte: Unicode's White_Space beyond ASCII.
WIDE_BLANKS = tuple(
    chr(point).encode()
    for point in (0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000)
)


def check_merging(function: str, merge: str, max_bytes: int | None, max_tokens: int | None) -> None:
    """Refuses options that contradict each other.

    Args:
        function: that they were given to, for the message.
        merge, max_bytes, max_tokens: as `align_spans` takes them.
    Raises:
        ValueError: no such way of merging, a limit below 1, or one that merging needs or does not take.
    """
    if merge not in get_args(Merge):
        raise ValueError(f"{function}: merge must be one of {get_args(Merge)}; got {merge!r}.")
    limits = {"max_bytes": max_bytes, "max_tokens": max_tokens}
    for name, limit in limits.items():
        if limit is not None and limit < 1:
            raise ValueError(f"{function}: {name} must be at least 1; got {limit}. None is no limit.")
    if (merge == "none") != (max_bytes is None and max_tokens is None) and merge != "words":
        raise ValueError(
            f"{function}: max_bytes and max_tokens limit merged chunks: merge='length' needs one of them, "
            f"merge='none' takes none; got merge={merge!r}, max_bytes={max_bytes}, max_tokens={max_tokens}."
        )


def merge_chunks(
    alignment: ChunkAlignment,
    text: bytes,
    may_join: Bool[np.ndarray, " C_minus_1"],
    merge: Merge,
    max_bytes: int | None,
    max_tokens: int | None,
) -> Int32[np.ndarray, " C"]:
    """The run of chunks that each chunk is joined into, numbered from 0.

    Args:
        alignment: C > 0 chunks.
        text: [B] bytes in which they lie.
        may_join: [C - 1], whether a chunk may be joined to the next at all.
        merge: "words" or "length".
        max_bytes, max_tokens: limits on a run of more than one chunk.
    """
    is_break = ~may_join
    if merge == "words":
        is_break = is_break | _word_begins(text, alignment.ends[:-1])
    breaks = np.concatenate([np.zeros(1, dtype=np.bool_), is_break])
    if max_bytes is None and max_tokens is None:
        return np.cumsum(breaks, dtype=np.int32)

    # For each chunk, the first that no longer fits into a run that begins with it.
    run_starts = np.flatnonzero(breaks)
    limits = np.append(run_starts, alignment.num_chunks)
    after = limits[np.searchsorted(run_starts, np.arange(alignment.num_chunks), side="right")]
    if max_bytes is not None:
        fits = np.searchsorted(alignment.ends, alignment.starts + max_bytes, side="right")
        after = np.minimum(after, fits)
    if max_tokens is not None:
        for chunks in (alignment.student_chunks, alignment.teacher_chunks):
            counts = np.bincount(chunks[chunks >= 0], minlength=alignment.num_chunks)
            token_ends = np.cumsum(counts)
            after = np.minimum(
                after, np.searchsorted(token_ends, token_ends - counts + max_tokens, side="right")
            )
    after = np.maximum(after, np.arange(alignment.num_chunks) + 1)
    is_start, chunk, jumps = np.zeros(alignment.num_chunks, dtype=np.int32), 0, after.tolist()
    while chunk < alignment.num_chunks:
        is_start[chunk] = 1
        chunk = jumps[chunk]
    return np.cumsum(is_start, dtype=np.int32) - np.int32(1)


def _word_begins(text: bytes, places: Int64[np.ndarray, " K"]) -> Bool[np.ndarray, " K"]:
    """Return True at places with whitespace behind and none before."""
    is_blank = np.append(_blank_bytes(text), False)
    begins: Bool[np.ndarray, " K"] = is_blank[places] & ~is_blank[places - 1]
    return begins


def _blank_bytes(data: bytes) -> Bool[np.ndarray, " B"]:
    """[B] bool, the bytes of whitespace."""
    codes = np.frombuffer(data, dtype=np.uint8)
    is_blank: Bool[np.ndarray, " B"] = (codes == 0x20) | ((codes >= 0x09) & (codes <= 0x0D))
    for blank in () if data.isascii() else WIDE_BLANKS:
        if blank in data:
            at = [codes[i : len(codes) - len(blank) + 1 + i] == byte for i, byte in enumerate(blank)]
            found = np.flatnonzero(np.logical_and.reduce(at))
            for offset in range(len(blank)):
                is_blank[found + offset] = True
    return is_blank
