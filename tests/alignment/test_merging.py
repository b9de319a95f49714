"""Joined chunks: runs of the shortest ones, within words or limits, never across a barrier."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.alignment.samples import known_texts
from tide.alignment import ByteTable, align_chunks

# Every byte, and a special token.
TABLE = ByteTable([bytes([byte]) for byte in range(256)] + [b""], special_ids=[256])
SPECIAL = 256


def aligned(text, *, special=(), **options):
    ids = list(text.encode())
    for place in sorted(special, reverse=True):
        ids.insert(place, SPECIAL)
    return align_chunks(ids, ids, TABLE, TABLE, **options)


def parts(text, alignment):
    data = text.encode()
    return [data[a:b].decode() for a, b in zip(alignment.starts, alignment.ends, strict=True)]


def test_words_begin_with_their_white_space():
    text = "  for x\u00a0in\u3000y:\n\treturn 1 "
    assert parts(text, aligned(text, merge="words")) == [
        "  for", " x", "\u00a0in", "\u3000y:", "\n\treturn", " 1", " "
    ]  # fmt: skip


def test_words_end_at_special_tokens():
    assert parts("one two", aligned("one two", special=[1], merge="words")) == ["o", "ne", " two"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"merge": "length", "max_bytes": 3}, ["abc", "de ", "fgh"]),
        ({"merge": "length", "max_tokens": 4}, ["abcd", "e fg", "h"]),
        ({"merge": "length", "max_bytes": 5, "max_tokens": 2}, ["ab", "cd", "e ", "fg", "h"]),
        ({"merge": "words", "max_bytes": 3}, ["abc", "de", " fg", "h"]),
        ({"merge": "length", "max_bytes": 100}, ["abcde fgh"]),
    ],
)
def test_limits(options, expected):
    assert parts("abcde fgh", aligned("abcde fgh", **options)) == expected


def test_a_chunk_that_is_longer_than_the_limit_stays_whole():
    student, teacher = ByteTable([b"abcdef", b"g", b"h"]), ByteTable([b"abc", b"def", b"g", b"h"])
    got = align_chunks([0, 1, 2], [0, 1, 2, 3], student, teacher, merge="length", max_bytes=2)
    assert (got.student_chunks.tolist(), got.teacher_chunks.tolist()) == ([0, 1, 1], [0, 0, 1, 1])
    # Tokens are counted on the side that has more.
    got = align_chunks([0, 1, 2], [0, 1, 2, 3], student, teacher, merge="length", max_tokens=3)
    assert got.student_chunks.tolist() == [0, 0, 1]


def test_what_is_in_no_chunk_keeps_its_neighbours_apart():
    """A span with a special token in its interior, and a special token between two chunks."""
    student, teacher = ByteTable([b"a", b"bc", b"d", b""], [3]), ByteTable([b"a", b"b", b"c", b"d", b""], [4])
    got = align_chunks([0, 1, 2], [0, 1, 4, 2, 3], student, teacher, merge="length", max_bytes=9)
    assert (got.student_chunks.tolist(), got.teacher_chunks.tolist()) == ([0, -1, 1], [0, -1, -1, -1, 1])
    got = align_chunks([0, 1, 3, 2], [0, 1, 2, 3], student, teacher, merge="length", max_bytes=9)
    assert got.student_chunks.tolist() == [0, 0, -1, 1]


@settings(deadline=None)
@given(
    text=known_texts,
    merge=st.sampled_from(["words", "length"]),
    max_bytes=st.none() | st.integers(1, 12),
    max_tokens=st.none() | st.integers(1, 12),
    special=st.sets(st.integers(0, 20), max_size=3),
)
def test_joined_chunks_are_runs_that_could_not_be_longer(text, merge, max_bytes, max_tokens, special):
    if merge == "length" and max_bytes is None and max_tokens is None:
        max_bytes = 5
    special = {place for place in special if place <= len(text.encode())}
    plain = aligned(text, special=special)
    got = aligned(text, special=special, merge=merge, max_bytes=max_bytes, max_tokens=max_tokens)
    limit = min(max_bytes or 10**9, max_tokens or 10**9)  # every token is a byte here
    assert set(got.starts.tolist()) <= set(plain.starts.tolist())
    assert (got.student_chunks >= 0).tolist() == (plain.student_chunks >= 0).tolist()
    assert (np.diff(got.student_chunks[got.student_chunks >= 0]) >= 0).all()
    sizes = (got.ends - got.starts).tolist()
    assert all(1 <= size <= max(limit, 1) for size in sizes)
    data, bars = text.encode(), set(special)
    for size, after, (_, end) in zip(sizes, sizes[1:], pairwise(got.ends.tolist()), strict=False):
        boundary = end - after
        ends_word = merge == "words" and begins_word(data, boundary)
        full = size + 1 > limit
        assert boundary in bars or ends_word or full, f"{data[:boundary]!r} | {data[boundary:]!r}"


def begins_word(data: bytes, place: int) -> bool:
    """Whether white space begins there that none stands before."""
    try:
        before, behind = data[:place].decode(), data[place:].decode()
    except UnicodeDecodeError:
        return False  # inside a character
    blanks = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
        map(chr, range(0x2000, 0x200B))
    )
    return behind[:1] in blanks and behind != "" and (before == "" or before[-1] not in blanks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"merge": "lines"}, "merge must be one of .*got 'lines'"),
        ({"merge": "length"}, "merge='length' needs one of them"),
        ({"max_bytes": 4}, "merge='none' takes none"),
        ({"merge": "words", "max_tokens": 0}, "max_tokens must be at least 1; got 0"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(ValueError, match=f"align_spans: .*{message}"):
        aligned("ab", **options)
