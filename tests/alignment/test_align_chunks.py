"""Chunks are the minimal common byte spans: checked rule by rule, and against a two-pointer walk."""

from __future__ import annotations

import dataclasses
import doctest
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import tide.alignment.chunks
from tide.alignment import ByteTable, ChunkAlignment, align_chunks

SPECIAL = None  # a special token in the hand-written token lists below

SNIPPETS = (
    "def add(first, second):\n    return first + second\n",
    "for index in range(10):\n\tprint(values[index], 'x' * 12345)\n",
    "    def __init__(self, value):\n        self.value = value\n",
    "e\u0301e\u0301 naïve café",
    "👩\u200d💻👍🏽🎉",
    "漢字仮名交じり文",
    "שלום \u202eabc\u202c مرحبا",
    "\x00\x1b[0m\r\n\t\u2028\ufeff",
)
documents = st.lists(
    st.one_of(st.sampled_from(SNIPPETS), st.text(st.characters(exclude_categories=["Cs"]), max_size=12)),
    max_size=6,
).map("".join)


def align_tokens(student, teacher) -> ChunkAlignment:
    """Align lists of byte strings; every token is an entry of its side's own table."""
    tables = [
        ByteTable(
            [b"<s>" if token is SPECIAL else token for token in side],
            [i for i, token in enumerate(side) if token is SPECIAL],
        )
        for side in (student, teacher)
    ]
    return align_chunks(range(len(student)), range(len(teacher)), *tables)


def tokens_of(table, ids):
    return [SPECIAL if table.special[i] else table.tokens[i] for i in ids]


def ends_of(side):
    return np.cumsum([len(token or b"") for token in side]).tolist()


def walk(student, teacher):
    """The alignment token by token: move the side that lags, close a chunk where both offsets meet."""
    sides, chunks = (student, teacher), ([-1] * len(student), [-1] * len(teacher))
    position, offset, opened = [0, 0], [0, 0], ([], [])
    num_chunks, start, is_crossed = 0, 0, False
    while True:
        if offset[0] == offset[1] > start:
            for side in (0, 1):
                for i in opened[side]:
                    chunks[side][i] = -1 if is_crossed else num_chunks
                opened[side].clear()
            num_chunks += not is_crossed
            start, is_crossed = offset[0], False
        lagging = int(offset[1] < offset[0])
        if position[lagging] == len(sides[lagging]):
            return *chunks, num_chunks
        token = sides[lagging][position[lagging]]
        if token is SPECIAL:
            is_crossed |= offset[lagging] > start
        elif token:
            opened[lagging].append(position[lagging])
            offset[lagging] += len(token)
        position[lagging] += 1


def assert_aligned(alignment, student, teacher) -> None:
    """Every rule of a chunk, from the bytes up; completeness included."""
    sides = {"student": (alignment.student_chunks, student), "teacher": (alignment.teacher_chunks, teacher)}
    spans = {}
    for name, (chunks, tokens) in sides.items():
        assert chunks.shape == (len(tokens),), name
        assert chunks.dtype == np.int32, name
        assert all(chunk == -1 for chunk, token in zip(chunks, tokens, strict=True) if not token), name
        used = chunks[chunks >= 0]
        assert (np.diff(used) >= 0).all(), f"{name}: chunks must not run backward"
        assert set(used.tolist()) == set(range(alignment.num_chunks)), f"{name}: chunk ids"
        ends = ends_of(tokens)
        spans[name] = []
        for chunk in range(alignment.num_chunks):
            at = np.flatnonzero(chunks == chunk)
            inside = tokens[at[0] : at[-1] + 1]
            assert SPECIAL not in inside, f"{name}: chunk {chunk} crosses a special token"
            assert sum(1 for token in inside if token) == len(at), f"{name}: chunk {chunk} has a hole"
            text = b"".join(inside)
            spans[name].append((ends[at[-1]] - len(text), ends[at[-1]], text))
    assert spans["student"] == spans["teacher"], "the bytes of a chunk and where they lie"
    offsets = list(zip(alignment.starts.tolist(), alignment.ends.tolist(), strict=True))
    assert offsets[: len(spans["student"])] == [span[:2] for span in spans["student"]], "starts and ends"

    common = set(ends_of(student)) & set(ends_of(teacher))
    for start, end, _ in spans["student"]:
        assert not [edge for edge in common if start < edge < end], f"span {start}:{end} is not minimal"

    barriers = [
        end
        for side in (student, teacher)
        for token, end in zip(side, ends_of(side), strict=True)
        if token is SPECIAL
    ]
    covered = {(start, end) for start, end, _ in spans["student"]}
    edges = sorted(common | {0})
    for span in pairwise(edges):
        crossed = any(span[0] < barrier < span[1] for barrier in barriers)
        assert span in covered or crossed, f"span {span} is left out"


def assert_is(alignment, student_chunks, teacher_chunks) -> None:
    assert alignment.student_chunks.tolist() == student_chunks
    assert alignment.teacher_chunks.tolist() == teacher_chunks
    assert alignment.num_chunks == 1 + max([-1, *student_chunks])


@st.composite
def tokenizations(draw):
    """One byte stream over two letters; each side has cuts, specials, empty tokens and an end of its own."""
    content = bytes(draw(st.lists(st.sampled_from(b"ab"), max_size=24)))
    pair = []
    for _ in range(2):
        cuts = draw(st.sets(st.integers(1, max(1, len(content) - 1))))
        edges = [0, *sorted(cut for cut in cuts if cut < len(content)), len(content)]
        side = [content[a:b] for a, b in pairwise(edges) if a < b]
        for extra in draw(st.lists(st.sampled_from([SPECIAL, SPECIAL, b""]), max_size=3)):
            side.insert(draw(st.integers(0, len(side))), extra)
        pair.append(side[: draw(st.integers(0, len(side)))] if draw(st.booleans()) else side)
    return pair


@settings(deadline=None, max_examples=300)
@given(pair=tokenizations())
def test_any_pair_of_tokenizations_aligns_as_the_walk_does(pair):
    student, teacher = pair
    alignment = align_tokens(student, teacher)
    assert_is(alignment, *walk(student, teacher)[:2])
    assert_aligned(alignment, student, teacher)


@settings(deadline=None)
@given(text=documents)
@example(text="".join(SNIPPETS))
def test_real_text_is_covered_on_both_sides(student_table, teacher_table, encode, text):
    student_ids, teacher_ids = encode(text)
    alignment = align_chunks(student_ids, teacher_ids, student_table, teacher_table)
    student, teacher = tokens_of(student_table, student_ids), tokens_of(teacher_table, teacher_ids)
    assert_aligned(alignment, student, teacher)
    assert_is(alignment, *walk(student, teacher)[:2])
    assert -1 not in alignment.student_chunks
    assert -1 not in alignment.teacher_chunks


def test_the_fixtures_overlap_in_every_way(student_table, teacher_table, encode):
    """One to many, many to one and many to many occur, so that the tests on real text mean something."""
    student_ids, teacher_ids = encode("".join(SNIPPETS))
    alignment = align_chunks(student_ids, teacher_ids, student_table, teacher_table)
    sizes = zip(np.bincount(alignment.student_chunks), np.bincount(alignment.teacher_chunks), strict=True)
    kinds = {(bool(s > 1), bool(t > 1)) for s, t in sizes}
    assert kinds == {(False, False), (False, True), (True, False), (True, True)}


@settings(deadline=None)
@given(text=documents, copies=st.integers(2, 4), separated=st.booleans())
def test_every_copy_of_a_text_aligns_to_itself(student_table, teacher_table, encode, text, copies, separated):
    """A text that occurs twice must not align to its first occurrence."""
    student_ids, teacher_ids = encode(text)
    once = align_chunks(student_ids, teacher_ids, student_table, teacher_table)
    end = [1] * separated
    repeated = align_chunks(
        (student_ids + end) * copies, (teacher_ids + end) * copies, student_table, teacher_table
    )
    assert repeated.num_chunks == copies * once.num_chunks
    for chunks, expected in (
        (repeated.student_chunks, once.student_chunks),
        (repeated.teacher_chunks, once.teacher_chunks),
    ):
        rows = chunks.reshape(copies, -1)
        assert (rows[:, len(expected) :] == -1).all()
        for copy, row in enumerate(rows[:, : len(expected)]):
            assert row.tolist() == (expected + copy * once.num_chunks).tolist()


@settings(deadline=None)
@given(text=documents, keep=st.tuples(st.floats(0, 1), st.floats(0, 1)))
@example(text="".join(SNIPPETS), keep=(0.5, 1.0))
@example(text="".join(SNIPPETS), keep=(1.0, 0.7))
def test_truncation_keeps_exactly_the_chunks_that_are_whole(student_table, teacher_table, encode, text, keep):
    ids = encode(text)
    whole = align_chunks(*ids, student_table, teacher_table)
    kept = [round(len(side) * share) for side, share in zip(ids, keep, strict=True)]
    cut = align_chunks(ids[0][: kept[0]], ids[1][: kept[1]], student_table, teacher_table)
    # Chunks are numbered in order, so those whole before both cuts are the ones below the first lost token's.
    num_whole = min(
        [
            whole.num_chunks,
            *whole.student_chunks[kept[0] :].tolist(),
            *whole.teacher_chunks[kept[1] :].tolist(),
        ]
    )
    assert cut.num_chunks == num_whole
    for got, full, length in (
        (cut.student_chunks, whole.student_chunks, kept[0]),
        (cut.teacher_chunks, whole.teacher_chunks, kept[1]),
    ):
        assert got.tolist() == [chunk if chunk < num_whole else -1 for chunk in full[:length].tolist()]


@pytest.mark.parametrize(
    ("student", "teacher", "student_chunks", "teacher_chunks"),
    [
        pytest.param([b"un", b"happy"], [b"unh", b"appy"], [0, 0], [0, 0], id="many to many"),
        pytest.param([b"a", b"bc", b"d"], [b"ab", b"c", b"d"], [0, 0, 1], [0, 0, 1], id="next begins there"),
        pytest.param([b"aa", b"aa"], [b"a"] * 4, [0, 1], [0, 0, 1, 1], id="repeated bytes"),
        pytest.param(["é".encode()[:1], "é".encode()[1:]], ["é".encode()], [0, 0], [0], id="split character"),
        pytest.param([SPECIAL, b"ab", SPECIAL], [b"ab"], [-1, 0, -1], [0], id="specials on one side"),
        pytest.param(
            [b"ab", SPECIAL, b"cd"], [SPECIAL, b"a", b"b", b"cd"], [0, -1, 1], [-1, 0, 0, 1],
            id="specials apart",
        ),
        pytest.param(
            [b"x", b"a", SPECIAL, b"b", b"y"], [b"x", b"ab", b"y"], [0, -1, -1, -1, 1], [0, -1, 1],
            id="a teacher token across a student special",
        ),
        pytest.param(
            [b"abc", b"d"], [b"a", SPECIAL, b"b", SPECIAL, b"c", b"d"], [-1, 0], [-1, -1, -1, -1, -1, 0],
            id="a student token across two teacher specials",
        ),
        pytest.param([b"ab", b"", b"cd", b""], [b"abcd"], [0, -1, 0, -1], [0], id="empty tokens"),
        pytest.param([SPECIAL, SPECIAL], [b"", SPECIAL], [-1, -1], [-1, -1], id="no bytes at all"),
        pytest.param([], [], [], [], id="nothing"),
        pytest.param([], [b"a", SPECIAL], [], [-1, -1], id="one side empty"),
        pytest.param([b"ab", b"c"], [b"a", b"b", b"cd"], [0, -1], [0, 0, -1], id="cut in a token"),
        pytest.param([b"ab", b"c"], [b"a", b"b", b"c", b"d"], [0, 1], [0, 0, 1, -1], id="clean cut"),
        pytest.param([b"ab", b"cd", SPECIAL], [b"abc"], [-1, -1, -1], [-1], id="cut before the first chunk"),
    ],
)  # fmt: skip
def test_examples(student, teacher, student_chunks, teacher_chunks):
    assert_is(align_tokens(student, teacher), student_chunks, teacher_chunks)
    assert_is(align_tokens(teacher, student), teacher_chunks, student_chunks)


STUDENT = [SPECIAL, b"a", b"bc", b"d", b"e", SPECIAL, b"fg", b"h"]
TEACHER = [b"ab", b"c", SPECIAL, b"d", b"e", b"f", b"g", b"hi"]
ALIGNED = ([-1, 0, 0, 1, 2, -1, 3, -1], [0, 0, -1, 1, 2, 3, 3, -1])


def merged(student, teacher):
    for side in (student, teacher):
        side[side == 2] = 1
        side[side == 3] = 2
    return student, teacher, 3


def dropped(student, teacher):
    for side in (student, teacher):
        side[side == 3] = -1
    return student, teacher, 3


def changed(side, position, chunk, num_chunks=4):
    def plant(*pair):
        pair[side][position] = chunk
        return *pair, num_chunks

    return plant


MUTANTS = {
    "two chunks merged": merged,
    "the last chunk dropped": dropped,
    "student shifted by a token": lambda s, t: (np.roll(s, 1), t, 4),
    "a boundary token moved": changed(0, 3, 0),
    "a token left out": changed(1, 6, -1),
    "a special in a chunk": changed(0, 5, 2),
    "a cut chunk kept on both sides": lambda s, t: (*changed(1, 7, 4)(*changed(0, 7, 4)(s, t)[:2])[:2], 5),
    "a cut chunk kept on one side": changed(1, 7, 4, num_chunks=5),
    "chunks exchanged": lambda s, t: (np.where(s == 1, 2, np.where(s == 2, 1, s)).astype(s.dtype), t, 4),
    "wrong count": lambda s, t: (s, t, 5),
    "wide ids": lambda s, t: (s.astype(np.int64), t, 4),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_rules_reject_a_wrong_alignment(mutant):
    alignment = align_tokens(STUDENT, TEACHER)
    assert_is(alignment, *ALIGNED)
    assert_aligned(alignment, STUDENT, TEACHER)
    student, teacher, num_chunks = MUTANTS[mutant](
        alignment.student_chunks.copy(), alignment.teacher_chunks.copy()
    )
    planted = dataclasses.replace(
        alignment, student_chunks=student, teacher_chunks=teacher, num_chunks=num_chunks
    )
    with pytest.raises(AssertionError):
        assert_aligned(planted, STUDENT, TEACHER)


def test_different_texts_name_the_byte_the_tokens_and_both_contexts():
    student = [SPECIAL, b"0123456789", b"0123456789", b"0123456789", b"caf", "é".encode(), b" ", b"end"]
    teacher = [b"012345678901234567890123456789", b"cafe", SPECIAL, "\u0301".encode(), b" end"]
    with pytest.raises(ValueError, match=r"align_chunks: .* the same text") as caught:
        align_tokens(student, teacher)
    message = str(caught.value)
    assert "first differ at offset 33" in message
    assert r"student b'34567890123456789caf\xc3\xa9 end' (token 5)" in message
    assert r"teacher b'34567890123456789cafe\xcc\x81 end' (token 1)" in message


@settings(deadline=None)
@given(pair=tokenizations(), data=st.data())
def test_any_flipped_byte_is_found(pair, data):
    student, teacher = pair
    num_shared = min(ends_of(side)[-1] if side else 0 for side in pair)
    if num_shared == 0:
        return
    at = data.draw(st.integers(0, num_shared - 1))
    ends = ends_of(student)
    position = next(i for i, end in enumerate(ends) if end > at)
    token = bytearray(student[position])
    token[at - ends[position]] ^= 1
    flipped = [*student[:position], bytes(token), *student[position + 1 :]]
    with pytest.raises(ValueError, match=f"first differ at offset {at}: student .*token {position}"):
        align_tokens(flipped, teacher)


@pytest.mark.parametrize(
    ("student_ids", "teacher_ids", "message"),
    [
        ([0, 2], [0], r"student_ids must lie in \[0, 2\).* got 2 at position 1"),
        ([0], [0, 1, 3], r"teacher_ids must lie in \[0, 3\).* got 3 at position 2"),
        ([0], [-1], "teacher_ids must lie .* got -1 at position 0"),
        ([[0]], [0], r"student_ids must be one row .* shape \(1, 1\)"),
        ([0], [0.5], "teacher_ids must be one row of integer .* float64"),
    ],
)
def test_ids_outside_their_own_table_are_refused(student_ids, teacher_ids, message):
    student_table, teacher_table = ByteTable([b"a", b"b"]), ByteTable([b"a", b"b", b"c"])
    with pytest.raises(ValueError, match=f"align_chunks: {message}"):
        align_chunks(student_ids, teacher_ids, student_table, teacher_table)


def test_ids_are_read_from_arrays_and_left_as_they_are():
    table = ByteTable([b"a", b"bc"])
    ids = np.array([0, 1, 0], dtype=np.uint16)
    assert_is(align_chunks(ids, ids, table, table), [0, 1, 2], [0, 1, 2])
    assert ids.tolist() == [0, 1, 0]
    assert ids.dtype == np.uint16


def test_an_alignment_is_frozen():
    alignment = align_tokens([b"a"], [b"a"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        alignment.num_chunks = 2


def test_docstring_example():
    result = doctest.testmod(tide.alignment.chunks)
    assert (result.failed, result.attempted) == (0, 4)
